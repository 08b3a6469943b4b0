"""Supervised training of Hugging Face models on router records: SFT, then DPO whose pairs weigh by their utility gap.

The libraries do the work: TRL's trainers, peft's adapters, bitsandbytes' 4-bit weights. Added here: records are never
truncated, DPO pairs have weights, checkpoints are whole or absent, and FSDP2 also shards on CPUs.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.sft_trainer import SFTTrainer

from routerlab.core.recorded import Recorded
from routerlab.core.runs import read_json, write_atomic
from routerlab.routers import prompts
from routerlab.train import recipes
from routerlab.train.checkpoints import UNFINISHED, Metrics, WholeCheckpoints, naming_the_cure, put_in_place
from routerlab.train.grpo import GRPO
from routerlab.train.recipes import Play, Recipe
from routerlab.train.settings import TrainError
from routerlab.train.shared_prefix import share_prefixes

_NEEDED = {"sft": {"messages"}, "dpo": {"prompt", "chosen", "rejected", "weight"}, "rl": {"prompt", "pool", "query"}}
_JSON = {"messages", "prompt", "chosen", "rejected", "tools", "pool"}


def read_records(path: Path, kind: str) -> list[dict[str, Any]]:
    """The records of a Parquet or JSONL file (see `records.schema`), messages and tools decoded from JSON."""
    try:
        lines = [] if path.suffix == ".parquet" else path.read_text(encoding="utf-8").splitlines()
        rows = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else [*map(json.loads, lines)]
        if not rows or any(row.get("kind") != kind or not _NEEDED[kind] <= {*row} for row in rows):
            raise TrainError(f"it holds no {kind} records, or others too")
        return [{k: json.loads(v) if k in _JSON and isinstance(v, str) else v for k, v in row.items()} for row in rows]
    except (ValueError, AttributeError) as error:
        cure = f"write records with `routerlab data records --kind {kind}`"
        raise TrainError(f"{path} cannot be used ({str(error).splitlines()[0]}); {cure}") from error


def encode(tokenizer: Any, messages: list[dict], reply: dict, tools: list[dict] | None) -> tuple[list, list]:
    """(prompt, reply) as tokens: the reply is what follows the prompt as it is rendered at inference, up to the token
    that ends a turn."""
    prompt, both = (
        prompts.tokens(tokenizer, m, tools, ask) for m, ask in ((messages, True), ([*messages, reply], False))
    )
    if both[: len(prompt)] != prompt:
        raise TrainError("the chat template renders a prompt differently with its reply; set chat_template=qwen2_5")
    answer = both[len(prompt) :]
    ends = [i for i, token in enumerate(answer, 1) if token == tokenizer.eos_token_id]
    return prompt, answer[: ends[-1]] if ends else [*answer, tokenizer.eos_token_id]


def _examples(stage: str, record: dict[str, Any], tokenizer: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """(length, example) of a record: for SFT one for each turn, so that what tools answered is never learned."""
    if stage == "sft":
        for place, message in enumerate(record["messages"]):
            if message["role"] == "assistant":
                prompt, reply = encode(tokenizer, record["messages"][:place], message, record.get("tools"))
                ids = prompt + reply
                yield len(ids), {"input_ids": ids, "labels": [-100] * len(prompt) + reply}
        return
    both = [
        encode(tokenizer, record["prompt"], record[reply][0], record.get("tools")) for reply in ("chosen", "rejected")
    ]
    (prompt, chosen), (_, rejected) = both
    pair = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected, "weight": record["weight"]}
    yield len(prompt) + max(len(chosen), len(rejected)), pair


def dataset(stage: str, records: Iterable[dict], tokenizer: Any, longest: int, say: Callable[[str], object]) -> Dataset:
    """Records as tokens. Those longer than `longest` are left out and counted, never cut: half a pool of models is
    another question. Weights of DPO pairs are divided by their mean, so that they leave the learning rate as it is."""
    made = [example for record in records for example in _examples(stage, record, tokenizer)]
    rows = [row for size, row in made if size <= longest]
    if len(rows) < len(made):
        say(f"{len(made) - len(rows)} of {len(made)} examples are longer than max_length={longest} and left out")
    if not rows:
        raise TrainError(f"every example is longer than max_length={longest}; raise it or make smaller pools")
    if stage == "dpo":
        mean = sum(r["weight"] for r in rows) / len(rows)
        if mean <= 0 or min(r["weight"] for r in rows) < 0:
            raise TrainError("weights of DPO pairs must not be negative, nor all 0; they are utility gaps")
        rows = [r | {"weight": r["weight"] / mean} for r in rows]
    return Dataset.from_list(rows)


class SFT(WholeCheckpoints, SFTTrainer):
    """TRL's SFT with whole checkpoints. The loss is the mean over tokens of -log p(token of the reply)."""


@dataclass
class WeighedPairs(DataCollatorForPreference):
    """TRL's batch of pairs with their weights."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        return super().torch_call(examples) | {"weight": torch.tensor([e["weight"] for e in examples])}


class DPO(WholeCheckpoints, DPOTrainer):
    """DPO whose pairs have weights: the mean of -w log sigmoid(beta (chosen - rejected)), where each stands for
    log p(reply) - log p_reference(reply).

    With all weights 1 this is TRL's loss. Rafailov et al. 2023 (arXiv:2305.18290); the weight is the utility gap.
    """

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset  # has tokens already

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["prompt_ids", "chosen_ids", "rejected_ids", "weight"]

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        weight = inputs.pop("weight")
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        tokens = {k: inputs[k] for k in ("input_ids", "attention_mask")}
        logps = model(**tokens, labels=labels, use_cache=False, fused_lm_head=True).log_probs.sum(1)
        reference = torch.cat(self.compute_ref_log_probs(self.ref_model or self.model, inputs))
        chosen, rejected = (self.beta * (logps - reference)).chunk(2)
        loss = -(weight * torch.nn.functional.logsigmoid(chosen - rejected)).mean()
        logged = self._metrics["train" if model.training else "eval"]
        for name, value in {
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "logps/chosen": logps.chunk(2)[0],
        }.items():
            logged[name].append(self.accelerator.reduce(value.detach().mean(), "mean").item())  # pyright: ignore
        return loss


def train(
    stage: str,
    recipe: Recipe,
    records: list[dict[str, Any]],
    out: Path,
    start: Path | None = None,
    shard: bool = False,
    table: Recorded | None = None,
    say: Callable[[str], object] = print,
) -> Path:
    """Train one stage and return the folder of the result, OUT/model; started again, it goes on where it was stopped.

    Args:
        stage: sft, dpo or rl.
        recipe: Of the model.
        records: Of that kind, see `read_records`.
        out: Folder of the run: checkpoints, metrics.jsonl, settings.json, and at the end model/.
        start: The run whose model or adapter is trained further, as SFT's by DPO.
        shard: Whether the processes share the parameters by FSDP2 instead of each holding all (DDP).
        table: For rl, the recorded questions and outcomes that answer the router's calls.
        say: Is told of progress.
    """
    config = configure(stage, recipe, out, shard)
    state = PartialState()
    with state.main_process_first():
        base, adapter = _weights(recipe, out, start)
        settings = {"stage": stage, "start": start and str(start), "base": str(base), **asdict(recipe)}
        _same_settings(out, settings, state.is_main_process)
        if base == out / "base" and not (out / "base").is_dir():
            recipes.make_fresh(recipe, [json.dumps(r, ensure_ascii=False) for r in records], out / UNFINISHED)
            put_in_place(out / UNFINISHED, out / "base")
    opened = recipes.open_model(recipe, base, adapter), recipes.open_tokenizer(recipe, base)
    trainer = make_trainer(stage, opened, recipe, config, records, table, say)
    trainer.add_callback(Metrics(out / "metrics.jsonl", say))
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(out)))
    with naming_the_cure(out):
        trainer.save_model(str(out / UNFINISHED))
        if state.is_main_process:
            put_in_place(out / UNFINISHED, out / "model")
    state.wait_for_everyone()
    return out / "model"


def configure(stage: str, recipe: Recipe, out: Path, shard: bool) -> Any:
    """TRL's configuration of a stage: the recipe's arguments and what follows from the machine."""
    cuda = torch.cuda.is_available()
    if shard and int(os.environ.get("WORLD_SIZE", 1)) < 2:
        raise TrainError("one process has nobody to share the parameters with; add --launch torchrun --gpus N")
    given = {
        "bf16": recipes.real_bf16(),
        "use_cpu": not cuda,
        "use_liger_kernel": cuda and find_spec("liger_kernel") is not None,
        "report_to": [name for name in ("trackio", "wandb") if find_spec(name)] or "none",
        "logging_steps": 1,
        "save_total_limit": 2,
        "disable_tqdm": True,
        "fsdp": shard,
    }
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("WANDB_MODE", "online" if os.environ.get("WANDB_API_KEY") else "offline")
    with recipes.refused(f"a setting of {stage}"):
        config = recipes.STAGES[stage](output_dir=str(out), **given | recipe.arguments(stage))
    if getattr(config, "use_vllm", False) and not cuda:
        raise TrainError(
            "vLLM's CPU build packs its weights and cannot take those of a training ('Parameter' object has no "
            "attribute 'weight_loader'); add --set use_vllm=false"
        )
    if shard and not cuda:
        # accelerate shards on GPUs only and runs DDP on CPUs without a word; under this name it shards there as well.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return config


def make_trainer(stage: str, opened: tuple, recipe: Recipe, config: Any, records: list, table: Any, say: Any) -> Any:
    """The trainer of a stage; an adapter is added unless the model has one already or is trained whole. Arguments as of
    `train`, and `opened`, the model and its tokenizer."""
    model, tokenizer = opened
    whole = recipe.method == "full" or isinstance(model, PeftModel)
    with recipes.refused("section 'lora' of the recipe"):
        lora = None if whole else LoraConfig(task_type="CAUSAL_LM", **recipe.lora)
    shared = {"args": config, "processing_class": tokenizer, "peft_config": lora}
    if stage == "sft":
        return SFT(model, train_dataset=dataset(stage, records, tokenizer, config.max_length, say), **shared)
    if stage == "rl":
        texts = [{k: json.dumps(v) if k in {"tools", "pool"} else v for k, v in r.items()} for r in records]
        return GRPO(model, table, Play(**recipe.play), rows=Dataset.from_list(texts), **shared)
    rows = dataset(stage, records, tokenizer, config.max_length, say)
    trainer = DPO(model, train_dataset=rows, data_collator=WeighedPairs(tokenizer.pad_token_id), **shared)
    if recipe.share_prompts:
        share_prefixes(trainer.model, trainer.ref_model)
    return trainer


def _weights(recipe: Recipe, out: Path, start: Path | None) -> tuple[Path | str, Path | None]:
    """(folder or hub id of the base model, folder of the adapter to train on)."""
    if start is None:
        return (out / "base" if recipe.model is None else recipe.model), None
    if not (start / "model").is_dir():
        raise TrainError(f"{start} has no finished model; run its training again until it ends")
    if not (start / "model" / "adapter_config.json").is_file():
        return start / "model", None
    if (start / "base").is_dir():
        return start / "base", start / "model"
    return read_json(start / "settings.json")["base"], start / "model"


def _same_settings(out: Path, settings: dict[str, Any], first: bool) -> None:
    """Keep the settings of a run, and refuse to go on with others."""
    path, text = out / "settings.json", json.dumps(settings, indent=1)
    if path.is_file():
        before, now = (pd.json_normalize(t).iloc[0] for t in (read_json(path), json.loads(text)))
        if changed := [k for k in {**before, **now} if str(before.get(k)) != str(now.get(k))]:
            raise TrainError(f"{out} was begun with another {', '.join(changed)}; write to a new folder with --out")
    elif first:
        write_atomic(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
