"""Training of the small actor on a recorded table: supervised on soft labels, then on preferences (DPO).

Six models are few to learn reading cards from. So most candidates in training are *patchwork models*: for each kind of
question they have the outcomes of a randomly chosen real model, or a mixture of two, and the card that follows.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
import yaml

from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import ModelCard, Pool, Skill
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded, recorded
from routerlab.core.runs import root
from routerlab.label.oracle import Pairs, preference_pairs
from routerlab.pocket.generate import load
from routerlab.routers.actor import TYPICAL_TOKENS, Actor, measured, pad
from routerlab.routers.lm import LMRouter
from routerlab.routers.protocol import RouterError

HELD_OUT = ("pocket-max",)  # never seen by the actor `unseen`


def recipe(**changes) -> SimpleNamespace:
    """The settings of `data/recipes/actor.yaml`, where each is explained, with these changes."""
    settings = yaml.safe_load((root() / "data" / "recipes" / "actor.yaml").read_text(encoding="utf-8"))
    if unknown := sorted(set(changes) - set(settings)):
        raise RouterError(f"the recipe has no {unknown[0]!r}; it has {', '.join(settings)}")
    return SimpleNamespace(**settings | changes)


class Lessons(NamedTuple):
    """What the models did on the training questions, in the order of the questions' ids."""

    questions: list[Query]
    quality: np.ndarray  # questions x models, mean over tries
    tokens: np.ndarray  # of the answers
    kind: np.ndarray  # place of each question's kind in `kinds`
    length: np.ndarray  # characters of each question, standardised within its kind
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
    complete = np.asarray(~np.isnan(quality).any(1))
    questions = [q for q, whole in zip(questions, complete.tolist(), strict=True) if whole]
    names = [str(q.meta[kind]) for q in questions]
    kinds = tuple(sorted(set(names)))
    place, length = np.array([*map(kinds.index, names)]), np.log([len(q.text) for q in questions])
    for k in range(len(kinds)):
        length[place == k] -= length[place == k].mean()
        length[place == k] /= length[place == k].std() or 1.0
    return Lessons(questions, quality[complete], tokens[complete], place, length, kinds, models)


def patchwork(given: Lessons, how: SimpleNamespace, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(quality, tokens) of `how.patchwork` new models on every question. For each kind of question a model has the
    outcomes of a real one, or a mixture of two. So that candidates may also be better, worse or wordier than any real
    one, it answers questions of some kinds up to a random length (softly), and writes a random multiple of the tokens.
    """
    rows, kinds = np.arange(len(given.kind)), len(given.kinds)
    quality, tokens = np.empty((2, len(rows), how.patchwork))
    for place in range(how.patchwork):
        one, other = rng.integers(len(given.models), size=(2, kinds))[:, given.kind]
        part = np.where(rng.random(kinds) < how.mixed, rng.random(kinds), 1.0)[given.kind]
        quality[:, place], tokens[:, place] = (
            part * m[rows, one] + (1 - part) * m[rows, other] for m in (given.quality, given.tokens)
        )
        by_length, wordy = ((rng.random(kinds) < share)[given.kind] for share in (how.by_length, how.wordy))
        limit, more, slope = (rng.normal(size=(3, kinds)) * [[1.5], [1.0], [0.3]])[:, given.kind]
        quality[by_length, place] = 1 / (1 + np.exp(3 * (given.length - limit)[by_length]))
        tokens[wordy, place] *= np.exp(more + slope * given.length)[wordy]
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


def sft(actor: Actor, given: Lessons, how: SimpleNamespace) -> Iterator[float]:
    """Cross entropy of "right" with the share of tries that were right, and of the length with tokens out (the
    deviance of a Poisson variable); the loss after each step.
    """

    def loss(rows, facts, quality, tokens):
        right, longer = actor(rows, facts)
        return sft_loss(right, quality) + how.length_weight * length_loss(longer, tokens / TYPICAL_TOKENS)

    fresh = [p for n, p in actor.named_parameters() if not n.startswith("decoder")]
    groups = [{"params": [*actor.decoder.parameters()], "lr": how.lr}, {"params": fresh, "lr": 2 * how.lr}]
    yield from _steps(actor, given, how, groups, how.epochs, loss)


def sft_loss(right: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Mean of -quality log p - (1 - quality) log (1 - p), where p = sigmoid(right) is the probability of "right"."""
    return torch.nn.functional.binary_cross_entropy_with_logits(right, quality)


def length_loss(longer: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mean deviance exp(longer) - tokens - tokens * (longer - log tokens): its minimum is the mean of tokens."""
    return (longer.exp() - tokens - tokens * (longer - tokens.log())).mean()


def dpo(actor: Actor, given: Lessons, pool: Pool, how: SimpleNamespace) -> Iterator[float]:
    """Direct preference optimisation (Rafailov et al. 2023) of the policy softmax((quality - lam * usd) / temperature):
    the model to call against every other, weighted by the gap of their actual utilities, at random cost weights and
    prices; the loss after each step.
    """
    reference, rng = copy.deepcopy(actor).eval(), np.random.default_rng([how.seed, 1])
    prices = np.array([[pool[m].usd_per_mtok_in, pool[m].usd_per_mtok_out] for m in given.models]) / 1e6

    def loss(rows, facts, quality, tokens):
        drawn = prices[np.append(np.arange(len(prices)), rng.integers(len(prices), size=len(facts) - len(prices)))]
        drawn = torch.tensor(drawn * 3 ** rng.uniform(-1, 1, (len(drawn), 1)), dtype=torch.float32)
        lam, width = float(np.exp(rng.uniform(*np.log(how.lams)))), (rows != 0).sum(1, keepdim=True)

        def utility(right, longer):
            usd = width * drawn[:, 0] + TYPICAL_TOKENS * longer.exp() * drawn[:, 1]
            return (right.sigmoid() - lam * usd) / how.temperature

        with torch.no_grad():
            before = utility(*reference(rows, facts))
        usd = (width * drawn[:, 0] + tokens * drawn[:, 1]).numpy()
        return dpo_loss(utility(*actor(rows, facts)), before, preference_pairs(quality.numpy(), usd, lam), how.beta)

    yield from _steps(actor, given, how, [{"params": [*actor.parameters()], "lr": how.dpo_lr}], how.dpo_epochs, loss)


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


def _steps(actor: Actor, given: Lessons, how: SimpleNamespace, groups, epochs: int, loss: Callable) -> Iterator[float]:
    """AdamW with a rate that falls linearly, over batches of questions of similar length; every batch has all models
    and new patchwork models, each with the card of a random set of other questions.

    Args: the `actor`, trained in place; the lessons; the recipe; parameter `groups` with their rates; the number of
    `epochs`; the `loss` of (token ids, facts, quality, tokens).
    """
    rng, rows = np.random.default_rng(how.seed), actor.encode([q.text for q in given.questions])
    length, count = np.array([len(r) for r in rows]), len(rows)
    per_epoch = -(-count // how.batch)
    optimizer = torch.optim.AdamW(groups, weight_decay=how.decay, betas=(0.9, 0.98))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 30) * max(1 - step / max(1, epochs * per_epoch), 0.0)
    )
    actor.train()
    torch.manual_seed(how.seed)
    for _ in range(epochs):
        parts = np.array_split(rng.permutation(count), max(1, count // (8 * how.batch)))
        near = np.concatenate([part[np.argsort(length[part], kind="stable")] for part in parts])
        batches = np.array_split(near, per_epoch)
        for number in rng.permutation(len(batches)):
            at = batches[number]
            more = patchwork(given, how, rng)
            quality, tokens = (np.hstack(pair) for pair in zip((given.quality, given.tokens), more, strict=True))
            facts = _random_cards(quality, tokens, given.kind, at, how, rng)
            targets = (torch.tensor(m[at], dtype=torch.float32) for m in (quality, tokens))
            value = loss(pad([rows[i] for i in at]), facts, *targets)
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(actor.parameters(), 1.0)
            optimizer.step()
            rate.step()
            yield value.item()
    actor.eval()


def _random_cards(quality, tokens, kind, batch, how: SimpleNamespace, rng: np.random.Generator) -> torch.Tensor:
    """Facts of each model, measured on its own random set of questions outside of the batch."""
    others = np.setdiff1d(np.arange(len(kind)), batch)
    low, high = np.log(how.probes)
    counts = np.zeros((3, quality.shape[1], kind.max() + 1))
    for place in range(quality.shape[1]):
        asked = rng.choice(others, min(round(np.exp(rng.uniform(low, high))), len(others)), replace=False)
        for into, weights in zip(counts, (quality[asked, place], tokens[asked, place], None), strict=True):
            into[place] = np.bincount(kind[asked], weights, minlength=counts.shape[2])
    return measured(*torch.tensor(counts, dtype=torch.float32))


def train(
    data: Recorded, held_out: Collection[str] = (), how: SimpleNamespace | None = None, kind: str = "family"
) -> tuple[LMRouter, dict[str, list[float]]]:
    """An actor trained on the training split without the models that are held out, as a router for the others; and the
    losses of SFT and DPO at each step. One thread, so that the result depends on the seed alone.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        how, given = how or recipe(), lessons(data, held_out, kind)
        how = SimpleNamespace(**vars(how) | how.unseen) if held_out else how
        actor = start(given.kinds, how.seed)
        losses = {"sft": [*sft(actor, given, how)], "dpo": [*dpo(actor, given, data.pool, how)]}
    finally:
        torch.set_num_threads(threads)
    cards = [probed(data.pool[m], given.questions, data.table, kind) for m in given.models]
    return LMRouter(actor, Pool(data.pool.name, cards)), losses


def keep(router: LMRouter, folder: Path, data: Recorded, how: SimpleNamespace, losses: Mapping[str, Sequence[float]]):
    """Write an actor, the cards of the models that it learned from, and a card that says how it was trained."""
    last = {stage: round(float(np.mean(values[-50:])), 4) for stage, values in losses.items() if values}
    known = [m for m in data.pool.ids if m in router.models]
    about = {"what": "actor: reads a question and a pool's cards", "data": data.sha256, "pool": data.pool.name}
    about |= {"models": known, "held_out": [m for m in data.pool.ids if m not in known], "recipe": vars(how)}
    about |= {"mean loss of the last 50 steps": last, "made by": "routerlab actor", "license": "Apache-2.0"}
    router.reader.save(folder, about).write("pool.yaml", router.pool.to_yaml())


def make(folder: Path, say: Callable[[str], None] = print) -> None:
    """Train the actors of `data/pocket/actor` from seeds: `known` on all models, `unseen` on all but HELD_OUT."""
    data, how = recorded("pocket"), recipe()
    for name, held_out in (("known", ()), ("unseen", HELD_OUT)):
        router, losses = train(data, held_out, how)
        keep(router, folder / name, data, how, losses)
        say(f"{name}: loss {np.mean(losses['sft'][-50:]):.3f} after SFT, {np.mean(losses['dpo'][-50:]):.3f} after DPO")
