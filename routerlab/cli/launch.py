"""Where a training runs: this process, several processes or machines; and what it will need, before it starts.

Every launcher runs the same command, `routerlab train ... --launch local`, in each of its processes; torch finds the
others by the variables that the launcher sets.
"""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from routerlab.core.runs import root
from routerlab.train.recipes import Recipe, TrainError, real_bf16

GIB = 2.0**30
_FACTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def command(launcher: str, arguments: Sequence[str], processes: int) -> list[str]:
    """The command that runs `routerlab ARGUMENTS` in that many processes of this machine, or on Modal."""
    if launcher == "modal":
        app = root() / "deploy" / "modal_app.py"
        return ["modal", "run", f"{app}::train", "--arguments", shlex.join(arguments), "--gpus", str(processes)]
    count = [f"--nproc-per-node={processes}"]
    if launcher == "accelerate":
        if processes > 1 and not torch.cuda.is_available():
            raise TrainError("accelerate starts one process on a CPU, whatever it is told; use --launch torchrun")
        where = ["--multi_gpu"] if processes > 1 else [] if torch.cuda.is_available() else ["--cpu"]
        count = [f"--num_processes={processes}", *where]
    return [sys.executable, *_FACTS[launcher], *count, "-m", "routerlab.cli", *arguments]


def slurm_script(arguments: Sequence[str], gpus: int, nodes: int) -> str:
    """A batch script for `sbatch`: one torchrun a node, which meet at the first node."""
    return _FACTS["slurm"].format(nodes=nodes, gpus=gpus, command=shlex.join(arguments))


def run_on_ray(work: Callable[[dict], None], arguments: Sequence[str], workers: int, out: Path) -> None:
    """Let Ray Train call `work({"arguments": ...})` in workers of the cluster at RAY_ADDRESS, or of this machine. The
    folder `out` must be one that all machines see."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    os.environ.update(_FACTS["ray"] | os.environ)
    ray.init(**({} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}))
    scaling = ScalingConfig(num_workers=workers, use_gpu=torch.cuda.is_available())
    run, job = RunConfig(name="ray", storage_path=str(out)), {"arguments": list(arguments)}
    try:
        TorchTrainer(work, train_loop_config=job, scaling_config=scaling, run_config=run).fit()
    finally:
        ray.shutdown()


class Plan(NamedTuple):
    """The memory that a training needs on each device (GiB)."""

    parameters: int
    trained: int
    weights: float
    training: float  # gradients and the two moments of AdamW
    activations: float

    @property
    def needed(self) -> float:
        return self.weights + self.training + self.activations

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:,.1f} M parameters, {self.trained / 1e6:,.1f} M of them trained\n"
            f"memory of each device: {self.needed:.2f} GiB (weights {self.weights:.2f}, gradients and optimizer "
            f"{self.training:.2f}, activations {self.activations:.2f})"
        )


def plan(recipe: Recipe, stage: str, tokens: float, devices: int) -> Plan:
    """An estimate from the model's shape and the mean length `tokens` of a record; of rl without its generation. The
    `devices` share the parameters (FSDP2); 1 if each has all of them.
    """
    shape: Any = AutoConfig.for_model(**recipe.shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
        total, table = model.num_parameters(), model.get_input_embeddings().weight.numel()
        if recipe.method != "full":
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **recipe.lora))
        trained = model.num_parameters(True)
    own, dpo, half = recipe.arguments(stage), stage == "dpo", recipe.dtype == "bfloat16" or real_bf16()
    size = 2 if half else 4
    stored = {"full": 4 * total, "lora": size * total, "qlora": 0.52 * (total - table) + size * table}[recipe.method]
    stored *= 2 if dpo and recipe.method == "full" else 1  # the reference model
    length = own.get("max_length", 1024) if own.get("packing") else tokens
    rows = size * own.get("per_device_train_batch_size", 8) * length * (2 if dpo else 1)
    layer, layers = rows * (16 * shape.hidden_size + 4 * shape.intermediate_size), shape.num_hidden_layers
    kept = rows * shape.hidden_size * layers + layer if own.get("gradient_checkpointing", True) else layers * layer
    return Plan(total, trained, stored / devices / GIB, 12 * trained / devices / GIB, kept / GIB)
