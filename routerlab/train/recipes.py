"""Recipes: how one Hugging Face model is trained, as YAML in data/recipes, and how the model is opened."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerFast
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.sft_config import SFTConfig

from routerlab.core.runs import root
from routerlab.label.difficulty import NAMES
from routerlab.routers import prompts
from routerlab.train.settings import TrainError, parse, read_yaml, refuse_unknown

STAGES = {"sft": SFTConfig, "dpo": DPOConfig, "rl": GRPOConfig}
_TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
_MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
rendered = prompts.tokens  # one renderer for training and serving


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


SECTIONS = {"": Recipe, **STAGES, "lora": LoraConfig, "play": Play}


def read_recipe(name: str, stage: str, changes: list[str]) -> Recipe:
    """The recipe data/recipes/NAME.yaml (or a file), with changes `key=value` that belong to the stage unless the key
    names its section, as in `lora.r=8`. An unknown key is an error that names the nearest one."""
    data = read_yaml(root() / "data" / "recipes", name, "\nshape:")
    names = {section: {f.name for f in fields(kind)} for section, kind in SECTIONS.items()}
    names["common"] = set.intersection(*(names[s] for s in STAGES))
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise TrainError(f"{change!r} sets nothing; write key=value, for example learning_rate=1e-5")
        section, _, inner = key.rpartition(".")
        section = section if section or inner in names[""] else stage
        if isinstance(part := data.setdefault(section, {}) if section else data, dict):  # else it is refused below
            part[inner] = parse(text)
    for section, values in {"": data, **{k: v for k, v in data.items() if k in names}}.items():
        where = f"section {section!r} of recipe {name!r}" if section else f"recipe {name!r}"
        if not isinstance(values, dict):
            raise TrainError(f"{where} is {values!r}; give a mapping of keys to values")
        refuse_unknown(values, names[section], where)
    if missing := [key for key in ("model", "shape") if key not in data]:
        raise TrainError(f"recipe {name!r} lacks {missing[0]!r}; see data/recipes/smol.yaml")
    recipe = Recipe(**data)
    for key, known in {
        "method": ("full", "lora", "qlora"),
        "dtype": ("auto", "bfloat16", "float16", "float32"),
    }.items():
        if (value := getattr(recipe, key)) not in known:
            raise TrainError(f"{key} {value!r} is unknown; choose one of {', '.join(known)}")
    bands = recipe.play.get("curriculum", [])
    if not isinstance(bands, list | tuple) or any(band not in NAMES for band in bands):
        raise TrainError(f"play.curriculum is {bands!r}; give a list of {', '.join(NAMES)}, in the order of play")
    with refused(f"the shape of recipe {name!r}"):
        AutoConfig.for_model(**recipe.shape)
    return recipe


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn a library's refusal of settings into one line."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise TrainError(f"{what} cannot be used ({str(error).strip().splitlines()[0]}); change it") from error


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
        cure = "name its folder with --set model=FOLDER, or fetch it once with --online"
        raise TrainError(f"the model {str(folder)!r} is not here: {cure} ({str(error).splitlines()[0]})") from error
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
