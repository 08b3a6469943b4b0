"""Checkpoints that are whole or absent, and the log of a training that goes on after it was killed."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

UNFINISHED = ".unfinished"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the message says what is left and what to do."""


class WholeCheckpoints(Trainer):
    """A trainer of transformers that writes each checkpoint beside its place, flushes it to the disk and renames it."""

    unfinished: Path | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.unfinished or super()._get_output_dir(trial=trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        out = Path(str(self.args.output_dir))
        name = f"checkpoint-{self.state.global_step}"
        self.unfinished = out / UNFINISHED
        try:
            with naming_the_cure(out):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()  # each process has written its part
                if self.args.should_save:
                    put_in_place(self.unfinished / name, out / name)
                    rotate_checkpoints(str(out), save_total_limit=self.args.save_total_limit)
        finally:
            self.unfinished = None
        self.accelerator.wait_for_everyone()


@contextmanager
def naming_the_cure(out: Path) -> Iterator[None]:
    """Turn a failed write, whichever library it comes from, into one line; an unfinished checkpoint is removed."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)
        last = get_last_checkpoint(str(out))
        left = f"{Path(last).name} is intact" if last else "there was no checkpoint yet"
        raise CheckpointError(
            f"cannot write to {out} ({str(error).splitlines()[0]}); {left}; free some space and run the same command"
        ) from error


def put_in_place(written: Path, final: Path) -> None:
    """Flush a folder to the disk and let it replace `final`."""
    (written / "training_args.bin").unlink(missing_ok=True)  # a pickle, and never read
    for path in [*written.rglob("*"), written]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    if final.is_dir():
        shutil.rmtree(final)
    written.rename(final)


class Metrics(TrainerCallback):
    """Append what the trainer logs to metrics.jsonl. A resumed training first drops the lines of steps it repeats."""

    def __init__(self, path: Path, say: Callable[[str], object]) -> None:
        self.path, self.say = path, say

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if args.fsdp and not any(isinstance(p, DTensor) for p in model.parameters()):
            raise CheckpointError("the parameters were not divided among the processes; leave --shard out")
        if state.is_world_process_zero and self.path.is_file():
            kept = [f"{json.dumps(m)}\n" for m in read_metrics(self.path) if m["step"] <= state.global_step]
            self.path.write_text("".join(kept), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        if state.is_world_process_zero and "train_runtime" not in (logs or {}):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")
            self.say(f"step {state.global_step} of {state.max_steps}: loss {(logs or {}).get('loss', 0.0):.4g}")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line.endswith("}")]
