"""Where a training runs: this process, several processes or machines; and what it will need, before it starts.

Every launcher runs the same command, `routerlab train ... --launch local`, in each of its processes; torch finds the
others by the variables that the launcher sets.
"""

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from routerlab.core.runs import root
from routerlab.train.recipes import Recipe, TrainError

LAUNCHERS = ("local", "torchrun", "accelerate", "ray", "modal", "slurm")
GIB = 2.0**30
CARDS = {  # name: (memory in GiB, operations a second: 40 % of the dense bfloat16 peak)
    "h100": (80, 0.4 * 989e12),
    "h200": (141, 0.4 * 989e12),
    "a100": (80, 0.4 * 312e12),
    "l4": (24, 0.4 * 121e12),
    "rtx4090": (24, 0.4 * 165e12),
}


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


class Plan(NamedTuple):
    """What a training needs on each device, and how long it takes."""

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
        of = f" of {self.memory_gib:.0f}" if self.memory_gib else ""
        return (
            f"{self.parameters / 1e6:,.1f} M parameters, {self.trained / 1e6:,.1f} M of them trained\n"
            f"memory a device: {self.needed_gib:.2f}{of} GiB (weights {self.weights_gib:.2f}, "
            f"gradients and optimizer {self.training_gib:.2f}, activations {self.activations_gib:.2f})\n"
            f"time: about {self.hours:.2g} hours"
        )


def plan(recipe: Recipe, stage: str, examples: int, tokens: float, devices: int, shard: bool, card: str) -> Plan:
    """An estimate from the model's shape, the lengths and the hardware; of rl without its generation.

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
        total, trained, table = (
            model.num_parameters(),
            model.num_parameters(),
            model.get_input_embeddings().weight.numel(),
        )
        if recipe.method != "full":
            trained = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **recipe.lora)).num_parameters(True)
    memory, speed = CARDS[card] if card in CARDS else _this_machine()
    own, shape, dpo = recipe.arguments(stage), recipe.shape, stage == "dpo"
    size = 2 if recipe.dtype == "bfloat16" or memory else 4
    saves = bool(own.get("gradient_checkpointing", True))
    stored = {"full": 4 * total, "lora": size * total, "qlora": 0.52 * (total - table) + size * table}[recipe.method]
    stored *= 2 if dpo and recipe.method == "full" else 1  # the reference model
    length = own["max_length"] if own.get("packing") else tokens
    rows = own.get("per_device_train_batch_size", 8) * length * (2 if dpo else 1)
    layer, layers = (
        rows * size * (16 * shape["hidden_size"] + 4 * shape["intermediate_size"]),
        shape["num_hidden_layers"],
    )
    kept = rows * size * shape["hidden_size"] * layers + layer if saves else layers * layer
    # Operations of a token: 2 for each weight forward, as many to its inputs, and to trained weights; 2 to repeat.
    passes = (6 if recipe.method == "full" else 4) + 2 * saves + 2 * dpo
    each = passes * (
        total - table + shape["vocab_size"] * shape["hidden_size"] + layers * shape["hidden_size"] * tokens
    )
    seen = examples * tokens * own.get("num_train_epochs", 3) * (2 if dpo else own.get("num_generations", 1))
    if steps := own.get("max_steps"):
        seen = steps * rows * own.get("gradient_accumulation_steps", 1) * devices
    split = GIB * (devices if shard else 1)
    hours = seen * each / speed / devices / 3600
    return Plan(total, trained, stored / split, 12 * trained / split, kept / GIB, memory, hours)


def _this_machine() -> tuple[float, float]:
    """(GiB, operations a second) of a known card, or what a matrix product reaches on this CPU."""
    name = torch.cuda.get_device_name().lower().replace(" ", "") if torch.cuda.is_available() else ""
    for card, (memory, speed) in CARDS.items():
        if card in name:
            return memory, speed
    square, begin = torch.rand(1024, 1024), time.perf_counter()
    for _ in range(4):
        torch.mm(square, square)
    return 0, 4 * 2 * 1024**3 / (time.perf_counter() - begin) / 2
