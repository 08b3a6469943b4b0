"""Recipes: how one Hugging Face model is trained, as YAML in data/recipes, and how the model is opened."""

import difflib
import os
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, PeftModel
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerFast
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.sft_config import SFTConfig

from routerlab.core.runs import root

STAGES = {"sft": SFTConfig, "dpo": DPOConfig, "rl": GRPOConfig}
_TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
_MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


class TrainError(ValueError):
    """A recipe, a record or a run that cannot be trained from; the message says what to do."""


@dataclass(frozen=True)
class Play:
    """How questions are played in reinforcement learning; the algorithm's own settings are TRL's."""

    max_turns: int = 3
    lam: float = 0.0  # cost weight (quality per US$) where a record has none
    refills: int = 10  # how often groups whose rewards are all the same are replaced
    std_floor: float = 1e-4
    curriculum: tuple[str, ...] = ()  # bands of difficulty (simple, medium, hard) in their order; none: all, shuffled
    overlong: int = 0  # tokens before the greatest length over which the penalty grows to 1; 0: none


@dataclass(frozen=True)
class Recipe:
    """`common` and the stages' sections hold arguments of TRL's configurations, `lora` those of peft's LoraConfig."""

    model: str | None  # hub id or folder; null: random weights of `shape` and a tokenizer trained on the records
    shape: dict[str, Any]  # model_type and sizes, as in the model's config.json
    method: str = "lora"  # full, lora or qlora (4-bit NF4 weights, trained through LoRA)
    dtype: str = "auto"  # of the weights; auto: bfloat16 where the hardware computes in it
    chat_template: str | None = None  # a template of TRL for models that have none, or none with tools
    share_prompts: bool = False  # compute prompts that rows of a batch share once (dpo and rl; see shared_prefix)
    lora: dict[str, Any] = field(default_factory=dict)
    common: dict[str, Any] = field(default_factory=dict)
    sft: dict[str, Any] = field(default_factory=dict)
    dpo: dict[str, Any] = field(default_factory=dict)
    rl: dict[str, Any] = field(default_factory=dict)
    play: dict[str, Any] = field(default_factory=dict)

    def arguments(self, stage: str) -> dict[str, Any]:
        """The stage's arguments; what holds for all stages first."""
        return self.common | getattr(self, stage)

    def tiny(self) -> "Recipe":
        """The same recipe on random weights of a very small model of the same architecture, for two steps; rollouts by
        transformers and short."""
        shape = self.shape | {k: v for k, v in _TINY.items() if k in self.shape}
        if groups := self.shape.get("num_key_value_heads"):
            shape["num_key_value_heads"] = max(1, 4 * groups // self.shape["num_attention_heads"])
        own = {name: getattr(self, name) | {"max_steps": 2} for name in STAGES}
        own["rl"] |= {"use_vllm": False, "max_completion_length": 48}
        return replace(self, model=None, shape=shape, **own)


def read_recipe(name: str, stage: str, changes: list[str]) -> Recipe:
    """The recipe data/recipes/NAME.yaml (or a file), with changes `key=value` that belong to the stage unless the key
    names its section, as in `lora.r=8`. An unknown key is an error that names the nearest one."""
    folder = root() / "data" / "recipes"
    path = Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml") if "\nshape:" in p.read_text(encoding="utf-8"))
        raise TrainError(f"no recipe {name!r}; there are {', '.join(known)}, or name a .yaml file")
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    classes = {"": Recipe, **STAGES, "lora": LoraConfig, "play": Play}
    names = {section: {f.name for f in fields(kind)} for section, kind in classes.items()}
    names["common"] = set.intersection(*(names[s] for s in STAGES))
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise TrainError(f"{change!r} sets nothing; write key=value, for example learning_rate=1e-5")
        section, _, inner = key.rpartition(".")
        section = section if section or inner in names[""] else stage
        (data.setdefault(section, {}) if section else data)[inner] = _value(text)
    for section, values in {"": data, **{k: v for k, v in data.items() if k in names}}.items():
        for key in values:
            if key not in names[section]:
                nearest = difflib.get_close_matches(key, names[section], 1, 0)[0]
                where = f"section {section!r} of recipe" if section else "recipe"
                raise TrainError(f"{where} {name!r} has no key {key!r}; the nearest is {nearest!r}")
    if data.get("method", "lora") not in {"full", "lora", "qlora"}:
        raise TrainError(f"method {data['method']!r} is unknown; choose full, lora or qlora")
    return Recipe(**data)


def _value(text: str) -> Any:
    value = yaml.safe_load(text)
    try:  # YAML takes 1e-5 for a text
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def real_bf16() -> bool:
    """Whether this machine's GPU computes in bfloat16 instead of emulating it."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def open_tokenizer(recipe: Recipe, folder: Path | str) -> PreTrainedTokenizerFast:
    """The tokenizer of a model, with the recipe's chat template where it names one."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if recipe.chat_template:
        tokenizer.chat_template = _template(recipe.chat_template, tokenizer)
    if tokenizer.chat_template is None:
        raise TrainError(f"{folder} has no chat template; set one of TRL's, for example chat_template=qwen2_5")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def _template(name: str, tokenizer: PreTrainedTokenizerFast) -> str:
    """A chat template that TRL brings along, ending each turn with a token that the tokenizer has."""
    path = files("trl") / "chat_templates" / f"{name}.jinja"
    if not path.is_file():
        raise TrainError(f"TRL has no chat template {name!r}; its templates are in {files('trl') / 'chat_templates'}")
    text = path.read_text(encoding="utf-8")
    return text if _MARKS[2] in tokenizer.get_vocab() else text.replace(_MARKS[2], str(tokenizer.eos_token))


def rendered(tokenizer: Any, messages: list[dict], tools: list[dict] | None, reply_follows: bool) -> list[int]:
    """Messages as tokens by the tokenizer's chat template."""
    text = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=reply_follows, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def open_model(recipe: Recipe, folder: Path | str, adapter: Path | None = None):
    """The model to train, in the recipe's precision and attention; an earlier adapter is loaded to be trained on."""
    dtype = recipe.dtype if recipe.dtype != "auto" else "bfloat16" if real_bf16() else "float32"
    flash = torch.cuda.is_available() and find_spec("flash_attn") is not None
    attention = "flash_attention_2" if flash else "sdpa"  # both keep packed records apart
    quantized = None
    if recipe.method == "qlora":
        kind = getattr(torch, dtype)
        quantized = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=kind,
            bnb_4bit_quant_storage=kind,  # so that FSDP can shard the 4-bit weights too
        )
    device = {"": int(os.environ.get("LOCAL_RANK", 0))} if quantized and torch.cuda.is_available() else None
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, quantization_config=quantized, device_map=device
        )
    except OSError as error:
        raise TrainError(
            f"the model {str(folder)!r} is not on this machine; name its folder with --set model=FOLDER, or fetch it "
            f"once with --online ({str(error).splitlines()[0]})"
        ) from error
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # pyright: ignore  # else evaluation repacks the weights and gradients are lost
    return PeftModel.from_pretrained(model, adapter, is_trainable=True) if adapter else model


def make_fresh(recipe: Recipe, texts: list[str], folder: Path) -> None:
    """Write random weights of the recipe's shape and a byte-level tokenizer trained on these texts."""
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(texts, vocab_size=2048, special_tokens=_MARKS, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, pad_token=_MARKS[0], eos_token=_MARKS[2])
    tokenizer.chat_template = _template("qwen2_5", tokenizer)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(**{**recipe.shape, "vocab_size": len(tokenizer), **ends})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.common.get("seed", 0))
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
