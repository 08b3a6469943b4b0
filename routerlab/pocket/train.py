"""Train the embedded models from seeds: one recipe a model, one tokenizer for all, weights as
safetensors.

Every model is a `LlamaForCausalLM` of transformers with a small configuration. A model sees a question, then
`<answer>` and its answer; the thinking model writes `<think>` and the steps first. Only what it must write counts in
the loss. Hidden matrices learn by Muon, the rest by AdamW, at a rate that falls linearly to zero.
"""

import json
import string
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from routerlab.pocket import tasks
from routerlab.pocket.families import FAMILIES, PHRASES, Family

SPECIALS = ("<pad>", "<eos>", "<unk>", "<answer>", "<think>")
PAD, EOS = 0, 1
CHARACTERS = (
    string.digits + string.ascii_letters + " +-*/=().,:;'\"[]<>_?!&#%$\n×÷àâçèéêëîïôöùûüœæ’“”—"
)
MAX_TOKENS = 256
LEVEL_WEIGHTS = (
    0.35,
    0.3,
    0.2,
    0.15,
)  # share of the training questions by level: the easy ones teach most


@dataclass(frozen=True)
class Cycle:
    """One pass over questions not seen before, at a learning rate that falls from `lr` to zero."""

    examples: int  # all families together
    batch_tokens: int = 2048
    lr: float = 4e-3


@dataclass(frozen=True)
class Recipe:
    """How one embedded model is built and trained."""

    hidden: int
    layers: int
    heads: int
    cycles: tuple[Cycle, ...]
    groups: dict[str, float] = field(default_factory=dict)  # weight of a group; 1 where absent
    thinks: bool = False
    seed: int = 0

    def counts(self, cycle: int) -> dict[tuple[str, int], int]:
        """Questions of each (family, level) in one cycle."""
        weights = {name: self.groups.get(f.group, 1.0) for name, f in FAMILIES.items()}
        weights["count_primes"] *= 0.25  # enough to learn that it does not know
        total = sum(weights.values())
        examples = self.cycles[cycle].examples
        return {
            (name, level): round(examples * weight / total * share)
            for name, weight in weights.items()
            for level, share in enumerate(LEVEL_WEIGHTS)
        }


RECIPES = {
    "pocket-nano": Recipe(64, 2, 4, (Cycle(200_000),)),
    "pocket-mini": Recipe(112, 3, 4, (Cycle(700_000),)),
    "pocket-math": Recipe(128, 4, 4, (Cycle(500_000),), {"words": 0.05, "other": 0.05}),
    "pocket-words": Recipe(96, 4, 4, (Cycle(450_000),), {"arithmetic": 0.05, "other": 0.05}),
    "pocket-max": Recipe(192, 5, 6, (Cycle(900_000, 3072), Cycle(180_000, 1024, 2e-3))),
    "pocket-think": Recipe(160, 4, 4, (Cycle(260_000),), {"words": 0.5}, thinks=True),
}


def tokenizer(thinks: bool = False) -> PreTrainedTokenizerFast:
    """Single characters plus one token for each fixed wording; the chat template ends where the
    model must go on.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models

    vocabulary = {piece: i for i, piece in enumerate([*SPECIALS, *CHARACTERS])}
    core = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    core.decoder = decoders.Fuse()
    core.add_tokens(
        [AddedToken(p, normalized=False) for p in sorted(PHRASES, key=len, reverse=True)]
    )
    core.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template="{{ messages[-1]['content'] }}" + ("<think>" if thinks else "<answer>"),
    )


def example(family: Family, made: tasks.Entry, thinks: bool) -> tuple[str, str]:
    """The text a model reads and the text it must write for one question."""
    if not thinks:
        return made["question"] + "<answer>", made["answer"] + "<eos>"
    steps = family.scratch(made["metadata"]) if family.scratch else ""
    return made["question"] + "<think>", f"{steps}<answer>{made['answer']}<eos>"


def encode_cell(
    name: str, level: int, count: int, thinks: bool, start: int = 0
) -> tuple[list[np.ndarray], list[int], int]:
    """Token ids of training examples of one cell, the length of each prompt, and how many were held
    out.
    """
    words, family = tokenizer(), FAMILIES[name]
    kept = [e for e in tasks.training_entries(name, level, count, start) if e is not None]
    prompts, targets = zip(*(example(family, e, thinks) for e in kept), strict=True)
    heads = words(list(prompts), add_special_tokens=False)["input_ids"]
    tails = words(list(targets), add_special_tokens=False)["input_ids"]
    unknown = words.unk_token_id
    rows, lengths = [], []
    for head, tail in zip(heads, tails, strict=True):
        if unknown in head or unknown in tail:
            raise ValueError(
                f"{name}: a character is missing from CHARACTERS in {words.decode(head)!r}"
            )
        if len(head) + len(tail) <= MAX_TOKENS:
            rows.append(np.array(head + tail, np.uint8))
            lengths.append(len(head))
    return rows, lengths, count - len(kept)


def _examples(
    recipe: Recipe, cycle: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray, dict]:
    """All examples of one cycle of a recipe, shuffled; each cycle goes on where the last one ended."""
    earlier = [recipe.counts(before) for before in range(cycle)]
    rows, lengths, dropped = [], [], {}
    for (name, level), count in recipe.counts(cycle).items():
        start = sum(counts[name, level] for counts in earlier)
        some, heads, lost = encode_cell(name, level, count, recipe.thinks, start)
        rows += some
        lengths += heads
        dropped[f"{name}/{level}"] = lost
    order = rng.permutation(len(rows))
    return [rows[i] for i in order], np.array(lengths)[order], dropped


def batches(rows: list[np.ndarray], heads: np.ndarray, rng: np.random.Generator, size: int):
    """(inputs, labels) of at most `size` tokens each: a window of examples is cut by length, then
    shuffled.
    """
    window = 16_384
    for start in range(0, len(rows), window):
        part = np.arange(start, min(start + window, len(rows)))
        part = part[np.argsort([len(rows[i]) for i in part], kind="stable")]
        cuts, first = [], 0
        for position in range(1, len(part) + 1):
            longest = len(rows[part[min(position, len(part) - 1)]])
            if position == len(part) or (position + 1 - first) * longest > size:
                cuts.append(part[first:position])
                first = position
        for i in rng.permutation(len(cuts)):
            width = len(rows[cuts[i][-1]])
            inputs = np.full((len(cuts[i]), width), PAD, np.int64)
            labels = np.full_like(inputs, -100)
            for line, row in enumerate(cuts[i]):
                inputs[line, : len(rows[row])] = rows[row]
                labels[line, heads[row] : len(rows[row])] = rows[row][heads[row] :]
            yield torch.from_numpy(inputs), torch.from_numpy(labels)


def build(recipe: Recipe) -> LlamaForCausalLM:
    """A freshly initialised model of this recipe."""
    words = tokenizer()
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.hidden * 8 // 3 // 16 * 16,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=MAX_TOKENS,
            tie_word_embeddings=True,
            initializer_range=0.03,
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=EOS,
        )
    )


def train(name: str, recipe: Recipe, folder: Path, say: Callable[[str], None] = print) -> dict:
    """Train `recipe` and write weights (fp16), configuration and tokenizer to `folder`; returns
    what happened.
    """
    started = time.monotonic()
    model = build(recipe)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # pyright: ignore
    held_out, loss = Counter(), float("nan")
    for number, cycle in enumerate(recipe.cycles):
        rng = np.random.default_rng(recipe.seed + number)
        rows, heads, dropped = _examples(recipe, number, rng)
        held_out.update(dropped)
        say(f"{name}: {len(rows)} questions, {sum(dropped.values())} held out")
        loss = _cycle(name, model, cycle, rows, heads, rng, say)
    report = _save(name, model.cpu(), recipe, folder, dict(held_out))
    return report | {"loss": loss, "seconds": time.monotonic() - started}


def _cycle(name, model, cycle, rows, heads, rng, say) -> float:
    """One pass over the examples with a rate that falls to zero; returns the running mean loss."""
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(hidden, lr=cycle.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=cycle.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    model.train()
    total, seen, mean = sum(map(len, rows)), 0, None
    started = told = time.monotonic()
    for step, (inputs, labels) in enumerate(batches(rows, heads, rng, cycle.batch_tokens)):
        share = seen / total
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = (
                cycle.lr * min(1.0, (step + 1) / 100) * max(1 - share, 0.01)
            )
        # Right padding under a causal mask needs no attention mask: what counts sees no pad.
        loss = model(
            input_ids=inputs.to(model.device), labels=labels.to(model.device), use_cache=False
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen += int((inputs != PAD).sum())
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if time.monotonic() - told > 20:
            told = time.monotonic()
            rate = seen / (told - started)
            left = (total - seen) / rate / 60
            say(f"{name}: {share:5.1%}  loss {mean:.3f}  {rate:,.0f} tokens/s  {left:.0f} min left")
    return float("nan") if mean is None else mean


def _save(name, model, recipe, folder, dropped):
    disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder, safe_serialization=True)
    tokenizer(recipe.thinks).save_pretrained(folder)
    report = {
        "name": name,
        "recipe": asdict(recipe),
        "parameters": model.num_parameters(),
        "held_out": dropped,
    }
    (folder / "recipe.json").write_text(json.dumps(report, indent=1) + "\n")
    return report
