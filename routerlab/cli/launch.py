"""Where a training runs: this process, several processes or machines; and what it will need, before it starts.

Every launcher runs the same command, `routerlab train ... --launch local`, in each of its processes; torch finds the
others by the variables that the launcher sets.
"""

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from routerlab.core.runs import root
from routerlab.train.recipes import Recipe, TrainError

LAUNCHERS = ("local", "torchrun", "accelerate", "ray", "modal", "slurm")
CARDS = {  # name: (memory in GiB, dense bfloat16 operations a second)
    "h100": (80, 989e12),
    "h200": (141, 989e12),
    "a100": (80, 312e12),
    "l4": (24, 121e12),
    "rtx4090": (24, 165e12),
}
_REACHED = 0.4  # share of a card's peak that training reaches when nothing is tuned


def command(launcher: str, arguments: Sequence[str], processes: int) -> list[str]:
    """The command that runs `routerlab ARGUMENTS` in that many processes of this machine, or on Modal."""
    module = ["-m", "routerlab.cli", *arguments]
    if launcher == "torchrun":
        here = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
        return [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *here, *module]
    if launcher == "accelerate":
        if processes > 1 and not torch.cuda.is_available():
            raise TrainError("accelerate starts one process on a CPU, whatever it is told; use --launch torchrun")
        plain = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", f"--num_processes={processes}"]
        where = ["--multi_gpu"] if processes > 1 else [] if torch.cuda.is_available() else ["--cpu"]
        return [sys.executable, "-m", "accelerate.commands.launch", *plain, *where, *module]
    if launcher == "modal":
        app = root() / "deploy" / "modal_app.py"
        return ["modal", "run", f"{app}::train", "--arguments", shlex.join(arguments), "--gpus", str(processes)]
    raise TrainError(f"no command for launcher {launcher!r}; choose one of {', '.join(LAUNCHERS)}")


def slurm_script(arguments: Sequence[str], gpus: int, nodes: int) -> str:
    """A batch script for `sbatch`: one torchrun a node, which meet at the first node."""
    return f"""#!/bin/bash
#SBATCH --job-name=routerlab
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --time=24:00:00
#SBATCH --requeue  # a training goes on from its last checkpoint
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes={nodes} --nproc-per-node={gpus} --rdzv-id="$SLURM_JOB_ID" \\
  --rdzv-backend=c10d --rdzv-endpoint="$first:29500" -m routerlab.cli {shlex.join(arguments)}
"""


def run_on_ray(work: Callable[[dict], None], arguments: Sequence[str], workers: int, out: Path) -> None:
    """Let Ray Train call `work({"arguments": ...})` in workers of the cluster at RAY_ADDRESS, or of this machine. The
    folder `out` must be one that all machines see."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
    local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
    ray.init(**local)
    scaling = ScalingConfig(num_workers=workers, use_gpu=torch.cuda.is_available())
    job = {"arguments": list(arguments)}
    try:
        TorchTrainer(
            work, train_loop_config=job, scaling_config=scaling, run_config=RunConfig(name="ray", storage_path=str(out))
        ).fit()
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Plan:
    """What a training needs on each device, in GiB, and how long it takes."""

    parameters: int
    trained: int
    weights_gib: float
    training_gib: float  # gradients and the two moments of AdamW
    activations_gib: float
    memory_gib: float  # of the device; 0 where unknown
    hours: float

    @property
    def needed_gib(self) -> float:
        return self.weights_gib + self.training_gib + self.activations_gib

    def __str__(self) -> str:
        fits = "" if not self.memory_gib else f" of {self.memory_gib:.0f}"
        return (
            f"{self.parameters / 1e6:,.1f} M parameters, {self.trained / 1e6:,.1f} M of them trained\n"
            f"memory a device: {self.needed_gib:.2f}{fits} GiB (weights {self.weights_gib:.2f}, "
            f"gradients and optimizer {self.training_gib:.2f}, activations {self.activations_gib:.2f})\n"
            f"time: about {self.hours:.2g} hours"
        )


def plan(recipe: Recipe, stage: str, examples: int, tokens: float, devices: int, shard: bool, card: str) -> Plan:
    """An estimate from the model's shape, the lengths and the hardware.

    Args:
        recipe: Of the model.
        stage: sft, dpo or rl.
        examples: Number of records.
        tokens: Mean length of a record, replies included.
        devices: Number of GPUs, or of processes on a CPU.
        shard: Whether they share the parameters (FSDP2).
        card: A name of CARDS, or "here" for this machine.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**recipe.shape))
        total = model.num_parameters()
        table = model.get_input_embeddings().weight.numel()
        trained = total
        if recipe.method != "full":
            trained = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **recipe.lora)).num_parameters(True)
    memory, peak = CARDS[card] if card in CARDS else _this_machine()
    arguments, size = recipe.arguments(stage), 2 if recipe.dtype == "bfloat16" or card in CARDS else 4
    stored = {"full": 4 * total, "lora": size * total, "qlora": 0.52 * (total - table) + size * table}[recipe.method]
    if recipe.method == "full" and stage == "dpo":
        stored *= 2  # the reference model
    split = devices if shard else 1
    batch = arguments.get("per_device_train_batch_size", 8)
    length = arguments.get("max_length", 1024) if arguments.get("packing") else tokens
    rows = batch * length * {"sft": 1, "dpo": 2, "rl": 1}[stage]
    shape = recipe.shape
    layer = rows * size * (16 * shape["hidden_size"] + 4 * shape["intermediate_size"])
    layers = shape["num_hidden_layers"]
    kept = (
        rows * size * shape["hidden_size"] * layers + layer
        if arguments.get("gradient_checkpointing")
        else layers * layer
    )
    passes = 6.0 if recipe.method == "full" else 4.0
    passes += 2.0 * bool(arguments.get("gradient_checkpointing")) + 2.0 * (stage == "dpo")
    operations = passes * (total - table + shape["vocab_size"] * shape["hidden_size"])
    operations += passes * layers * shape["hidden_size"] * tokens  # attention, half of it masked
    seen = examples * tokens * arguments.get("num_train_epochs", 3) * {"sft": 1, "dpo": 2, "rl": 1}[stage]
    if steps := arguments.get("max_steps"):
        seen = steps * rows * arguments.get("gradient_accumulation_steps", 1) * devices
    gib = 2.0**30
    return Plan(
        total,
        trained,
        stored / split / gib,
        12 * trained / split / gib,
        kept / gib,
        memory,
        seen * operations / peak / devices / 3600,
    )


def _this_machine() -> tuple[float, float]:
    """(GiB, operations a second): a known card's, or what a matrix product reaches here."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name().lower().replace(" ", "")
        for card, (memory, peak) in CARDS.items():
            if card in name:
                return memory, peak * _REACHED
    square = torch.rand(1024, 1024)
    begin = time.perf_counter()
    for _ in range(4):
        square @ square
    return 0.0, 4 * 2 * 1024**3 / (time.perf_counter() - begin) * _REACHED
