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
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from routerlab.core.runs import root
from routerlab.train.recipes import Recipe, TrainError

GIB, USED = 2.0**30, 0.4  # the share of a card's peak that a training is taken to reach
_FACTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
CARDS = {name: (memory, USED * peak * 1e12) for name, (memory, peak) in _FACTS["cards"].items()}


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
        total, table = model.num_parameters(), model.get_input_embeddings().weight.numel()
        if recipe.method != "full":
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **recipe.lora))
        trained = model.num_parameters(True)
    memory, speed = CARDS[card] if card in CARDS else _this_machine()
    own, dpo = recipe.arguments(stage), stage == "dpo"
    width, inner, layers, words = (
        recipe.shape[n] for n in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
    )
    size = 2 if recipe.dtype == "bfloat16" or memory else 4
    saves = bool(own.get("gradient_checkpointing", True))
    stored = {"full": 4 * total, "lora": size * total, "qlora": 0.52 * (total - table) + size * table}[recipe.method]
    stored *= 2 if dpo and recipe.method == "full" else 1  # the reference model
    rows = own.get("per_device_train_batch_size", 8) * (own["max_length"] if own.get("packing") else tokens) * (1 + dpo)
    layer = rows * size * (16 * width + 4 * inner)
    kept = rows * size * width * layers + layer if saves else layers * layer
    # Operations of a token: 2 for each weight forward, as many to its inputs, and to trained weights; 2 to repeat.
    passes = (6 if recipe.method == "full" else 4) + 2 * saves + 2 * dpo
    each = passes * (total - table + words * width + layers * width * tokens)
    seen = examples * tokens * own.get("num_train_epochs", 3) * (2 if dpo else own.get("num_generations", 1))
    if steps := own.get("max_steps"):
        seen = steps * rows * own.get("gradient_accumulation_steps", 1) * devices
    split = GIB * (devices if shard else 1)
    return Plan(
        total, trained, stored / split, 12 * trained / split, kept / GIB, memory, seen * each / speed / devices / 3600
    )


def _this_machine() -> tuple[float, float]:
    """(GiB, operations a second) of a known card, or what a matrix product reaches on this CPU."""
    name = torch.cuda.get_device_name().lower().replace(" ", "") if torch.cuda.is_available() else ""
    if here := next((facts for card, facts in CARDS.items() if card in name), None):
        return here
    square, begin = torch.rand(1024, 1024), time.process_time()  # other programs do not count
    for _ in range(4):
        torch.mm(square, square)
    return 0, 0.5 * 4 * 2 * 1024**3 / (time.process_time() - begin) * torch.get_num_threads()
