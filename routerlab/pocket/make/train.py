"""Train the embedded models from seeds: one recipe a model, weights as safetensors.

Every model is a `LlamaForCausalLM` of transformers with a small configuration. A model sees a question, then
`<answer>` and its answer; the thinking model writes `<think>` and the steps first. Only what it must write counts in
the loss. Hidden matrices learn by Muon, the rest by AdamW, at a rate that falls linearly to zero.
"""

import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils.logging import disable_progress_bar

from routerlab.core.runs import root
from routerlab.pocket.families import FAMILIES
from routerlab.pocket.make.examples import EOS, MAX_TOKENS, PAD, batches, encode_cell, tokenizer


@dataclass(frozen=True)
class Cycle:
    """One pass over questions not seen before, at a learning rate that falls from `lr` to zero."""

    examples: int  # all families together
    batch_tokens: int = 2048
    lr: float = 4e-3
    weights: dict[str, float] | None = None  # in place of the recipe's


@dataclass(frozen=True)
class Recipe:
    """How one embedded model is built and trained."""

    hidden: int
    layers: int
    heads: int
    cycles: tuple[Cycle, ...]
    weights: dict[str, float] = field(default_factory=dict)  # of a family or a group of families; 1 where absent
    levels: tuple[float, ...] = (0.35, 0.3, 0.2, 0.15)  # shares of the levels: easy questions teach most
    thinks: bool = False
    half: bool = False  # matrix products in bfloat16: twice as fast where the CPU has AMX
    seed: int = 0

    def counts(self, cycle: int) -> dict[tuple[str, int], int]:
        """Questions of each (family, level) in one cycle."""
        shares = self.weights if (own := self.cycles[cycle].weights) is None else own
        weights = {n: shares.get(n, shares.get(f.group, 1.0)) for n, f in FAMILIES.items()}
        weights["count_primes"] *= 0.25  # enough to learn that no answer comes out right
        total = sum(weights.values())
        examples = self.cycles[cycle].examples
        return {
            (name, level): round(examples * weight / total * share)
            for name, weight in weights.items()
            for level, share in enumerate(self.levels)
        }


def recipes() -> dict[str, Recipe]:
    """The recipe of each embedded model, from data/recipes/pocket.yaml."""
    data = yaml.safe_load((root() / "data" / "recipes" / "pocket.yaml").read_text(encoding="utf-8"))
    return {
        name: Recipe(**fields | {"cycles": tuple(Cycle(**cycle) for cycle in fields["cycles"])})
        for name, fields in data.items()
    }


def _examples(recipe: Recipe, cycle: int, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray, dict]:
    """All examples of one cycle of a recipe, shuffled, with the length of each prompt and how many of each cell were
    dropped because they are held out. No two cycles share a question.
    """
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
    """Train `recipe` and write weights (fp16), configuration and tokenizer to `folder`.

    Returns:
        What `recipe.json` says, and the last loss and the seconds it took.
    """
    started = time.monotonic()
    model = build(recipe)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # pyright: ignore
    held_out, loss = Counter(), math.nan
    for number, cycle in enumerate(recipe.cycles):
        rng = np.random.default_rng(recipe.seed + number)
        rows, heads, dropped = _examples(recipe, number, rng)
        held_out.update(dropped)
        say(f"{name}: {len(rows)} questions, {sum(dropped.values())} held out")
        loss = _cycle(name, model, cycle, rows, heads, rng, recipe.half, say)
    report = _save(name, model.cpu(), recipe, folder, dict(held_out))
    return report | {"loss": loss, "seconds": time.monotonic() - started}


def _float_attention(module, query, key, value, mask, **options):
    """Attention in float32: in bfloat16 its backward pass on a CPU takes ten times as long."""
    with torch.autocast(query.device.type, enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)


def _cycle(name, model, cycle, rows, heads, rng, half, say) -> float:
    """One pass over the examples with a rate that falls to zero.

    Args:
        name: of the model, for progress lines.
        model: trained in place.
        cycle: the learning rate and the batch size.
        rows: token ids of the examples.
        heads: the length of each prompt, which counts for nothing in the loss.
        rng: shuffles batches.
        half: multiply matrices in bfloat16.
        say: takes a progress line every 20 s.

    Returns:
        The running mean of the loss at the end.
    """
    forward = model
    if half:
        AttentionInterface.register("float_attention", _float_attention)
        model.config._attn_implementation = "float_attention"
        forward = torch.compile(model, dynamic=True) if shutil.which("g++") else model
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(hidden, lr=cycle.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=cycle.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    model.train()
    total, seen, mean = sum(map(len, rows)), 0, math.nan
    started = reported = time.monotonic()
    for step, (inputs, labels) in enumerate(batches(rows, heads, rng, cycle.batch_tokens)):
        share = seen / total
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = cycle.lr * min(1.0, (step + 1) / 100) * max(1 - share, 0.01)
        # Right padding under a causal mask needs no attention mask: no token that counts attends to padding.
        with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
            loss = forward(input_ids=inputs.to(model.device), labels=labels.to(model.device), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen += int((inputs != PAD).sum())
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if time.monotonic() - reported > 20:
            reported = time.monotonic()
            rate = seen / (reported - started)
            left = f"{(total - seen) / rate / 60:.0f} min left"
            say(f"{name}: {share:5.1%}  loss {mean:.3f}  {rate:,.0f} tokens/s  {left}")
    return mean


def _save(name, model, recipe, folder, dropped):
    disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder, safe_serialization=True)
    tokenizer(recipe.thinks).save_pretrained(folder)
    report = {"name": name, "recipe": asdict(recipe), "parameters": model.num_parameters(), "held_out": dropped}
    (folder / "recipe.json").write_text(json.dumps(report, indent=1) + "\n")
    return report
