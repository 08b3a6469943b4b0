"""Training and inference on Modal. `routerlab train ... --launch modal --gpus N` runs `train`; to serve the result,

    ROUTERLAB_MODEL=my-run/model modal deploy deploy/modal_app.py

with an API token of Modal on this machine. Results stay on the volume `routerlab`: `modal volume get routerlab my-run`.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path, PurePosixPath

import modal

HERE = Path(__file__).resolve().parents[1]
RUNS = PurePosixPath("/runs")
MODEL = os.environ.get("ROUTERLAB_MODEL", "run/model")  # a folder on the volume, or a hub id
IGNORED = [".git", ".venv", "data/runs", "figures"]

app = modal.App("routerlab")
volume = modal.Volume.from_name("routerlab", create_if_missing=True)
image = (
    modal.Image.debian_slim(python_version="3.11")
    .pip_install("torch")
    .add_local_dir(HERE, "/routerlab", copy=True, ignore=IGNORED)
    .run_commands("pip install -e /routerlab bitsandbytes liger-kernel vllm")
    .env({"HF_HOME": str(RUNS / "huggingface"), "ROUTERLAB_HOME": "/routerlab", "ROUTERLAB_MODEL": MODEL})
)


@app.function(image=image, gpu="H100", volumes={str(RUNS): volume}, timeout=24 * 3600, retries=2)
def run(arguments: list[str], gpus: int) -> None:
    """Run `routerlab ARGUMENTS` in one process for each GPU; a retry goes on from the last checkpoint."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}", "-m", "routerlab.cli"]
    try:
        subprocess.run([sys.executable, *launch, *arguments], check=True)
    finally:
        volume.commit()


def on_volume(arguments: list[str]) -> tuple[list[str], list[tuple[Path, PurePosixPath]]]:
    """Arguments whose paths are on the volume, and what must be uploaded: (file or folder here, its place there)."""
    moved, uploads = list(arguments), []
    for place, flag in enumerate(arguments):
        if flag in {"--data", "--out", "--from"}:
            here = Path(arguments[place + 1])
            moved[place + 1] = str(RUNS / here.name)
            if flag != "--out" and here.exists():
                uploads.append((here, PurePosixPath("/") / here.name))
    return moved, uploads


@app.local_entrypoint()
def train(arguments: str, gpus: int = 1) -> None:
    """Upload the records, then train there."""
    moved, uploads = on_volume(shlex.split(arguments))
    with volume.batch_upload(force=True) as batch:
        for here, there in uploads:
            (batch.put_directory if here.is_dir() else batch.put_file)(str(here), str(there))
    run.with_options(gpu=f"H100:{gpus}").remote([*moved, "--online"], gpus)


@app.function(image=image, gpu="H100", volumes={str(RUNS): volume}, timeout=24 * 3600)
@modal.web_server(8000, startup_timeout=900, requires_proxy_auth=True)
def serve() -> None:
    """The trained router behind an OpenAI-compatible server with tool calls; `routerlab serve --router URL` uses it."""
    folder = Path(RUNS) / MODEL
    tools = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    where = ["--model", str(folder if folder.is_dir() else MODEL), "--host", "0.0.0.0", "--port", "8000"]
    subprocess.Popen([sys.executable, "-m", "vllm.entrypoints.openai.api_server", *where, *tools])
