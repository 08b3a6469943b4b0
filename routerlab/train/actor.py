"""Training of the small actor on a recorded table: supervised on soft labels, then on preferences (DPO).

Six models are few to learn reading cards from. So most candidates in training are *patchwork models*: for each kind of
question they have the outcomes of a randomly chosen real model, or a mixture of two, and the card that follows.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import ModelCard, Pool, Skill
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded
from routerlab.core.runs import root
from routerlab.label.oracle import Pairs, preference_pairs
from routerlab.pocket.generate import load
from routerlab.routers.actor import TYPICAL_TOKENS, Actor, measured, pad
from routerlab.routers.lm import LMRouter


@dataclass(frozen=True)
class Recipe:
    """How an actor is trained."""

    epochs: int = 8  # supervised
    batch: int = 64  # questions; each with all known models and the patchwork models
    lr: float = 2e-3  # of the decoder, which knows its embedded model's task; new layers learn twice as fast
    decay: float = 0.05
    length_weight: float = 0.3  # of the loss of tokens out, beside that of quality
    patchwork: int = 6  # models a batch
    mixed: float = 0.5  # share of a patchwork model's kinds that are a mixture of two real models
    extreme: float = 0.2  # share of patchwork models that are the better, or the worse, of two real ones everywhere
    probes: tuple[int, int] = (60, 400)  # questions that a card in training was measured on, evenly on a log scale
    dpo_epochs: int = 1
    dpo_lr: float = 2e-4
    beta: float = 1.0  # of DPO: how much a preference weighs against staying at the supervised actor
    temperature: float = 0.1  # of the policy softmax((quality - lam * usd) / temperature)
    lams: tuple[float, float] = (100.0, 30_000.0)  # cost weights of preferences, evenly on a log scale
    seed: int = 0


class Lessons(NamedTuple):
    """What the models did on the training questions, in the order of the questions' ids."""

    questions: list[Query]
    quality: np.ndarray  # questions x models, mean over tries
    tokens: np.ndarray  # of the answers
    kind: np.ndarray  # place of each question's kind in `kinds`
    kinds: tuple[str, ...]
    models: tuple[str, ...]


def lessons(data: Recorded, held_out: Collection[str] = (), kind: str = "family") -> Lessons:
    """The training split of a table, without the models that are held out; `kind` is a column of meta."""
    part = data.split("train")
    questions = sorted(part.queries, key=lambda q: q.id)
    table = part.table.select([q.id for q in questions])
    models = tuple(m for m in data.pool.ids if m not in held_out)
    at = [table.models.index(m) for m in models]
    quality, tokens = (table.matrix(c, None, graded=True)[:, at].astype(float) for c in ("quality", "tokens_out"))
    complete = ~np.isnan(quality).any(1)
    questions = [q for q, whole in zip(questions, complete.tolist(), strict=True) if whole]
    names = [str(q.meta[kind]) for q in questions]
    kinds = tuple(sorted(set(names)))
    return Lessons(questions, quality[complete], tokens[complete], np.array([*map(kinds.index, names)]), kinds, models)


def patchwork(given: Lessons, count: int, recipe: Recipe, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(quality, tokens) of so many patchwork models on every question."""
    rows, kinds = np.arange(len(given.kind)), len(given.kinds)
    quality, tokens = np.empty((2, len(rows), count))
    for place in range(count):
        first, second = rng.integers(len(given.models), size=(2, kinds))[:, given.kind]
        share = np.where(rng.random(kinds) < recipe.mixed, rng.random(kinds), 1.0)[given.kind]
        one, other = given.quality[rows, first], given.quality[rows, second]
        draw = rng.random()
        better, worse = draw < recipe.extreme / 2, draw < recipe.extreme
        quality[:, place] = (
            np.maximum(one, other) if better else np.minimum(one, other) if worse else share * one + (1 - share) * other
        )
        tokens[:, place] = share * given.tokens[rows, first] + (1 - share) * given.tokens[rows, second]
    return quality, tokens


def probed(card: ModelCard, given: Sequence[Query], table: OutcomeTable, kind: str = "family") -> ModelCard:
    """The card with skills measured on these questions: accuracy, tokens out and how many were asked, by kind."""
    outcomes = table.select([q.id for q in given])
    at, asked = outcomes.models.index(card.id), np.array([str(q.meta[kind]) for q in given])
    quality, tokens = (outcomes.matrix(c, None, graded=True)[:, at] for c in ("quality", "tokens_out"))
    known, skills = ~np.isnan(quality), []
    for name in np.unique(asked[known]).tolist():
        here = known & (asked == name)
        right, length = (round(float(m[here].mean()), 4) for m in (quality, tokens))
        skills.append(Skill(name, right, int(here.sum()), card.as_of, length))
    return replace(card, skills=tuple(skills))


def start(kinds: Sequence[str], seed: int = 0) -> Actor:
    """An actor before training: the decoder has the weights of pocket-nano."""
    torch.manual_seed(seed)
    model, words = load(root() / "data" / "pocket" / "models" / "pocket-nano")
    actor = Actor(model.config, kinds, words)  # pyright: ignore
    actor.decoder.load_state_dict(model.model.state_dict())
    return actor


def sft(actor: Actor, given: Lessons, recipe: Recipe = Recipe()) -> Iterator[float]:
    """Cross entropy of "right" with the share of tries that were right, and of the length with tokens out (the
    deviance of a Poisson variable); the loss after each step.
    """

    def loss(rows, facts, quality, tokens):
        right, longer = actor(rows, facts)
        return sft_loss(right, quality) + recipe.length_weight * length_loss(longer, tokens / TYPICAL_TOKENS)

    fresh = [p for n, p in actor.named_parameters() if not n.startswith("decoder")]
    groups = [{"params": [*actor.decoder.parameters()], "lr": recipe.lr}, {"params": fresh, "lr": 2 * recipe.lr}]
    yield from _steps(actor, given, recipe, groups, recipe.epochs, loss)


def sft_loss(right: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Mean of -quality log p - (1 - quality) log (1 - p), where p = sigmoid(right) is the probability of "right"."""
    return torch.nn.functional.binary_cross_entropy_with_logits(right, quality)


def length_loss(longer: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mean deviance exp(longer) - tokens - tokens * (longer - log tokens): its minimum is the mean of tokens."""
    return (longer.exp() - tokens - tokens * (longer - tokens.log())).mean()


def dpo(actor: Actor, given: Lessons, pool: Pool, recipe: Recipe = Recipe()) -> Iterator[float]:
    """Direct preference optimisation (Rafailov et al. 2023) of the policy softmax((quality - lam * usd) / temperature):
    the model to call against every other, weighted by the gap of their actual utilities, at random cost weights and
    prices; the loss after each step.
    """
    reference, rng = copy.deepcopy(actor).eval(), np.random.default_rng([recipe.seed, 1])
    prices = np.array([[pool[m].usd_per_mtok_in, pool[m].usd_per_mtok_out] for m in given.models]) / 1e6

    def loss(rows, facts, quality, tokens):
        drawn = prices[np.append(np.arange(len(prices)), rng.integers(len(prices), size=len(facts) - len(prices)))]
        drawn = torch.tensor(drawn * 3 ** rng.uniform(-1, 1, (len(drawn), 1)), dtype=torch.float32)
        lam, width = float(np.exp(rng.uniform(*np.log(recipe.lams)))), (rows != 0).sum(1, keepdim=True)

        def utility(right, longer):
            usd = width * drawn[:, 0] + TYPICAL_TOKENS * longer.exp() * drawn[:, 1]
            return (right.sigmoid() - lam * usd) / recipe.temperature

        with torch.no_grad():
            before = utility(*reference(rows, facts))
        usd = (width * drawn[:, 0] + tokens * drawn[:, 1]).numpy()
        return dpo_loss(utility(*actor(rows, facts)), before, preference_pairs(quality.numpy(), usd, lam), recipe.beta)

    yield from _steps(
        actor, given, recipe, [{"params": [*actor.parameters()], "lr": recipe.dpo_lr}], recipe.dpo_epochs, loss
    )


def dpo_loss(policy: torch.Tensor, reference: torch.Tensor, pairs: Pairs, beta: float) -> torch.Tensor:
    """Weighted mean of -log sigmoid(beta * (margin - margin of the reference)) over pairs, where a margin is the
    log-probability of the chosen candidate less that of the rejected one. Both matrices (questions x candidates) are
    log-probabilities up to a constant for each question.
    """
    query, chosen, rejected = (torch.as_tensor(a) for a in pairs[:3])
    weight = torch.as_tensor(pairs.weight, dtype=policy.dtype)
    moved = policy - reference
    margin = moved[query, chosen] - moved[query, rejected]
    return (weight * torch.nn.functional.softplus(-beta * margin)).sum() / weight.sum().clamp(min=1e-9)


def _steps(actor: Actor, given: Lessons, recipe: Recipe, groups: list, epochs: int, loss: Callable) -> Iterator[float]:
    """AdamW with a rate that falls linearly, over batches of questions of similar length; every batch has all models
    and new patchwork models, each with the card of a random set of other questions.

    Args: the `actor`, trained in place; the lessons; the recipe; parameter `groups` with their rates; the number of
    `epochs`; the `loss` of (token ids, facts, quality, tokens).
    """
    rng, rows = np.random.default_rng(recipe.seed), actor.encode([q.text for q in given.questions])
    length, count = np.array([len(r) for r in rows]), len(rows)
    per_epoch = -(-count // recipe.batch)
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.decay, betas=(0.9, 0.98))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 30) * max(1 - step / (epochs * per_epoch), 0.0)
    )
    actor.train()
    torch.manual_seed(recipe.seed)
    for _ in range(epochs):
        near = rng.permutation(count)
        near = np.concatenate(
            [
                part[np.argsort(length[part], kind="stable")]
                for part in np.array_split(near, max(1, count // (8 * recipe.batch)))
            ]
        )
        batches = np.array_split(near, per_epoch)
        for number in rng.permutation(len(batches)):
            at = batches[number]
            more = patchwork(given, recipe.patchwork, recipe, rng)
            quality, tokens = (np.hstack(pair) for pair in zip((given.quality, given.tokens), more, strict=True))
            facts = _random_cards(quality, tokens, given.kind, at, recipe, rng)
            targets = (torch.tensor(m[at], dtype=torch.float32) for m in (quality, tokens))
            value = loss(pad([rows[i] for i in at]), facts, *targets)
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(actor.parameters(), 1.0)
            optimizer.step()
            rate.step()
            yield value.item()
    actor.eval()


def _random_cards(quality, tokens, kind, batch, recipe: Recipe, rng: np.random.Generator) -> torch.Tensor:
    """Facts of each model, measured on its own random set of questions outside of the batch."""
    others = np.setdiff1d(np.arange(len(kind)), batch)
    low, high = np.log(recipe.probes)
    counts = np.zeros((3, quality.shape[1], kind.max() + 1))
    for place in range(quality.shape[1]):
        asked = rng.choice(others, min(round(np.exp(rng.uniform(low, high))), len(others)), replace=False)
        for into, weights in zip(counts, (quality[asked, place], tokens[asked, place], None), strict=True):
            into[place] = np.bincount(kind[asked], weights, minlength=counts.shape[2])
    return measured(*torch.tensor(counts, dtype=torch.float32))


def train(
    data: Recorded, held_out: Collection[str] = (), recipe: Recipe = Recipe(), kind: str = "family"
) -> tuple[LMRouter, dict[str, list[float]]]:
    """An actor trained on the training split without the models that are held out, as a router for the others; and the
    losses of SFT and DPO at each step. One thread, so that the result depends on the seed alone.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        given = lessons(data, held_out, kind)
        actor = start(given.kinds, recipe.seed)
        losses = {"sft": [*sft(actor, given, recipe)], "dpo": [*dpo(actor, given, data.pool, recipe)]}
    finally:
        torch.set_num_threads(threads)
    cards = [probed(data.pool[m], given.questions, data.table, kind) for m in given.models]
    return LMRouter(actor, Pool(data.pool.name, cards)), losses
