"""Talking to peers: an environment of their own, a job in a folder, what they say read back; the features of all."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from routerlab.routers.features import Features, State, Tfidf, Views

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "data" / "runs"
WIDTH = 384


class Given:
    """Features that were made beforehand: a row for each text, looked up."""

    def __init__(self, name: str, texts: Sequence[str], rows: np.ndarray) -> None:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        self.name, self._rows = name, dict(zip(texts, rows.astype(np.float32), strict=True))

    def fit(self, texts: Sequence[str]) -> "Given":
        return self

    def views(self, texts: Sequence[str]) -> Views:
        rows = np.array([self._rows[t] for t in texts])
        return Views(rows, rows)

    def state(self) -> State:
        raise NotImplementedError("what was made beforehand is not saved with a router")


@dataclass
class Row:
    """A line of the printed table. `made` is what the router said of the test questions: a score for the strong model
    (two models), its choices (a peer on a pool) or its predictions of quality and cost (ours on a pool).
    """

    router: str
    features: str
    made: Any = None
    fit_s: float = float("nan")
    ms: float = float("nan")
    why: str = ""
    early: Any = None  # the same of the validation questions, by ours learned without them
    draws: np.ndarray | None = None  # the metric: of the test questions, then of each resample
    shown: str = ""

    @property
    def kind(self) -> str:
        return self.router.split(":")[0]


# --- the peers' environment ---


def environment(folder: Path) -> tuple[Path | None, str]:
    """(its Python, "") or (None, why not). It is made again when the list of requirements changes."""
    needs = HERE.parent / "peers-requirements.txt"
    python, mark = folder / "bin" / "python", folder / "ready"
    if mark.is_file() and mark.read_text() == needs.read_text():
        return python, ""
    print(f"making {folder} (some minutes, 2 GB)", file=sys.stderr, flush=True)
    steps = (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "-r", str(needs)],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            return None, f"no environment: {_last(done.stderr)}"
    mark.write_text(needs.read_text())
    return python, ""


def run_peer(python: Path, script: str, job: dict, arrays: dict[str, np.ndarray]) -> list[Row]:
    """Give a peer its job in a folder, run its script there, and read back what each of its routers says."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "job.json").write_text(json.dumps(job))
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        env = os.environ | {"HF_HOME": str(folder / "hub"), "PYTHONWARNINGS": "ignore"}
        env.setdefault("OMP_WAIT_POLICY", "passive")  # LLMRouter decides one by one: threads must not spin
        command = [str(python), str(HERE / f"run_{script}.py"), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        found = folder / "results.json"
        results = json.loads(found.read_text()) if found.is_file() else []
        rows = []
        for name in job["routers"]:
            result = next((r for r in results if r["router"] == name), {"error": _last(done.stderr)})
            row = Row(f"{script}: {name}", job["features"], why=result.get("error", ""))
            if not row.why:
                row.made = np.load(folder / f"{name}.npy")
                row.fit_s, row.ms = result["fit_s"], result["ms"]
            rows.append(row)
        return rows


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["nothing was said"])[-1][:160]


# --- features ---


def given_features(kind: str, python: Path | None, texts: Sequence[str], learn: Sequence[str]) -> Features:
    """MiniLM embeddings of the peers' environment (kept by the hash of their texts), or TF-IDF with a projection.
    `auto` takes embeddings that are kept and makes none.
    """
    key = hashlib.blake2b(json.dumps(["minilm-bf16", *texts]).encode(), digest_size=16).hexdigest()
    file = RUNS / "peers-features" / f"{key}.npy"
    if kind == "minilm" and not file.is_file() and python:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            asked, made = Path(temporary) / "texts.json", Path(temporary) / "rows.npy"
            asked.write_text(json.dumps(texts))
            print(f"embedding {len(texts)} texts", file=sys.stderr, flush=True)
            command = [str(python), str(HERE / "embed.py"), str(asked), str(made)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"no embeddings: {_last(done.stderr)}", file=sys.stderr)
            else:
                np.save(file, np.load(made))
    if kind != "tfidf" and file.is_file():
        return Given("MiniLM", texts, np.load(file))
    return Given(f"tfidf-{WIDTH}", texts, Tfidf(WIDTH - 8).fit(learn).views(texts).dense)
