"""Records that train a language-model router: each has a question and a pool of its own.

A record follows from its question, the number of its repetition, the recipe and its seed; no other question, order of
questions or number of processes changes it. Its prompt is made from the question, the cards and the cost weight alone.
Outcomes of other training questions reach a card as measured skills; those of the question itself reach only labels.
"""

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from routerlab.core.pools import ModelCard, Pool, Skill
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded
from routerlab.label.oracle import Policy, choose, label, utility
from routerlab.label.rationale import rationale
from routerlab.routers import prompts
from routerlab.sources.split import leakage

Kind = Literal["sft", "dpo", "rl"]


class RecordError(ValueError):
    """Records that cannot be made, or must not be trained on; the message says what to change."""


def schema(kind: Kind) -> pa.Schema:
    """The columns of a file of records; messages, `pool` and `tools` are JSON.

    `pool` lists the models in the order shown: the `id` in the prompt, the recorded `model` whose outcomes it has on
    this question (null without a table), its prices. `lam` is in the prompt or null. With the last `question_chars` of
    its last message a prompt ends in the question. `choice` is the policy or the shown model of the reply. `weight` of
    a pair is the gap in value - lam * usd between what its replies call.
    """
    own = {"sft": ["messages", "choice"], "dpo": ["prompt", "chosen", "rejected"], "rl": ["prompt"]}[kind]
    texts = ["kind", "id", "query", "style", "mode", "template", "set", "pool", "tools", *own]
    numbers = [("lam", pa.float64()), ("question_chars", pa.int64()), ("weight", pa.float64())]
    columns = [*((name, pa.string()) for name in texts), *numbers[: 3 if kind == "dpo" else 2]]
    return pa.schema(columns, {"schema": f"records-{kind}/1"})


@dataclass(frozen=True)
class Recipe:
    """How records are made: the fields of the files in `data/recipes/data`."""

    style: prompts.Style = "tool"
    mode: prompts.Mode = "simple"
    repetitions: int = 1  # pools for each question
    sets: Mapping[str, float] = field(default_factory=dict)  # fixed sets, each with its share of the records
    tiers: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # least and most models in other pools; {}: all
    curriculum: Sequence[str] = ()  # instead of both: every question with each of these fixed sets, set by set
    bands: Sequence[str] = ()  # only questions in these bands of difficulty
    most: int | None = None  # questions, chosen by their id
    lam: tuple[float, float] = (0.0, 0.0)  # least and most cost weight; its logarithm is drawn evenly
    say_lam: bool = True  # whether the prompt says it
    prices: float = 1.0  # the largest factor by which prices are multiplied or divided
    names: bool = False  # whether models get random names
    order: bool = False  # whether the order of the pool is random
    descriptions: float = 1.0  # the share of cards that keep their description and strengths
    probes: int = 0  # questions that the skills of a card are measured on; 0: cards without skills
    patchwork: float = 0.0  # the share of models replaced by a patchwork
    held_out: Sequence[str] = ()  # models that no record shows
    seed: int = 42


class Shown(NamedTuple):
    """A model as a record shows it. `sources` holds, for each kind of question, the column of the recorded model whose
    outcomes it has: the same for all kinds, unless the model is a patchwork.
    """

    card: ModelCard
    sources: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """Recorded outcomes of training questions, and the kind of each question."""

    data: Recorded
    kinds: Sequence[str]
    as_of: dt.date

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Quality and tokens (questions x models), grades, names of kinds, each question's kind, right answers and
        answers by kind and model.
        """
        arrays = {name: self.data.table.matrix(name) for name in ("quality", "tokens_in", "tokens_out")}
        names, kind = np.unique(np.asarray(self.kinds), return_inverse=True)
        member = np.eye(len(names), dtype=np.int64)[kind].T
        right, count = member @ (arrays["quality"] >= 0.5), member @ ~np.isnan(arrays["quality"])
        texts = {"grades": self.data.table.grades(), "answers": self.data.table.text("answer")}
        return arrays | texts | {"names": names, "kind": kind, "right": right, "count": count}

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each question by its id."""
        return {query: row for row, query in enumerate(self.data.table.queries)}

    def skills(self, sources: np.ndarray, probes: int, rng: np.random.Generator, row: int = -1) -> tuple[Skill, ...]:
        """Accuracy by kind on `probes` random recorded questions, as many of each kind, never on question `row`."""
        arrays, kinds = self.arrays, np.arange(len(self.arrays["names"]))
        right, count = arrays["right"][kinds, sources], arrays["count"][kinds, sources]
        if row >= 0:
            own = arrays["quality"][row, sources[kind := arrays["kind"][row]]]
            right[kind], count[kind] = right[kind] - (own >= 0.5), count[kind] - (not np.isnan(own))
        size = np.minimum(-(-probes // len(kinds)), count)
        measured = zip(arrays["names"], rng.hypergeometric(right, count - right, size), size, strict=True)
        return tuple(Skill(str(k), round(int(hits) / int(n), 2), int(n), self.as_of) for k, hits, n in measured if n)

    def patchwork(self, name: str, columns: Sequence[int], rng: np.random.Generator) -> Shown:
        """A model that is, on each kind of question, a random one of these columns; its price lies between theirs."""
        sources = rng.choice(columns, len(self.arrays["names"]))
        cards = [self.data.pool.cards[c] for c in columns]
        prices = np.array([(c.usd_per_mtok_in, c.usd_per_mtok_out) for c in cards])
        low, high = np.log(np.maximum([prices.min(0), prices.max(0)], 1e-6))
        price_in, price_out = np.exp(low + rng.random() * (high - low)).round(4).tolist()
        tier = cards[int(np.abs(np.log(np.maximum(prices[:, 1], 1e-6) / max(price_out, 1e-6))).argmin())].tier
        card = ModelCard(name, name, tier, price_in, price_out, max(c.context for c in cards), self.as_of)
        return Shown(card, sources)


def draw(pool: Pool, recipe: Recipe, rng: np.random.Generator, repetition: int = 0) -> tuple[str, Pool]:
    """A random pool by the recipe, without held-out models, and the name of its fixed set (or `sampled`)."""
    name, at = "sampled", rng.random()
    shares = np.cumsum([*recipe.sets.values(), 0.0])
    if recipe.curriculum:
        name = recipe.curriculum[repetition]
    elif at < shares[-1]:
        name = list(recipe.sets)[int(np.searchsorted(shares, at, side="right"))]
    chosen = pool.subset(name) if name != "sampled" else pool
    kept = chosen.subset([i for i in chosen.ids if i not in recipe.held_out])
    if name == "sampled" and recipe.tiers:
        kept = kept.sample({t: (low, high) for t, (low, high) in recipe.tiers.items()}, rng)
    return name, kept


def show(chosen: Pool, recipe: Recipe, rng: np.random.Generator, evidence: Evidence | None, row: int) -> list[Shown]:
    """The pool's models as a record shows them: some replaced by patchworks, then prices, skills, descriptions, names
    and order drawn by the recipe.
    """
    columns = [evidence.data.pool.ids.index(c.id) for c in chosen] if evidence else [0] * len(chosen)
    models, kinds = [], len(evidence.arrays["names"]) if evidence else 1
    for place, (card, column) in enumerate(zip(chosen, columns, strict=True)):
        one = Shown(card, np.full(kinds, column))
        if evidence and rng.random() < recipe.patchwork:
            one = evidence.patchwork(f"patchwork-{place}", columns, rng)
        factor = recipe.prices ** rng.uniform(-1, 1)
        price_in, price_out = (
            float(f"{p * factor:.4g}") for p in (one.card.usd_per_mtok_in, one.card.usd_per_mtok_out)
        )
        changes: dict[str, Any] = {"usd_per_mtok_in": price_in, "usd_per_mtok_out": price_out}
        if recipe.prices != 1:
            changes["usd_per_mtok_cached_in"] = None
        if rng.random() >= recipe.descriptions:
            changes |= {"description": "", "strengths": ()}
        if evidence and recipe.probes:
            changes["skills"] = evidence.skills(one.sources, recipe.probes, rng, row)
        if recipe.names:
            changes["id"] = f"model-{rng.integers(10**6):06d}"
        models.append(Shown(replace(one.card, **changes), one.sources))
    return [models[i] for i in rng.permutation(len(models))] if recipe.order else models


def records(
    kind: Kind,
    queries: Sequence[Query],
    pool: Pool,
    recipe: Recipe,
    evidence: Evidence | None = None,
    reasons: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """The records of a kind, one by one; for sft and dpo, questions of which an outcome is missing give none.

    Args:
        kind: sft, dpo or rl; the first two need `evidence`.
        queries: training questions; of another split they are refused.
        pool, recipe: what pools are drawn from, and how.
        evidence: outcomes of at least these questions by the models of the pool.
        reasons: by query id, the rationale that stands before a policy; without one, `rationale` counts.
    """
    if strays := [q for q in queries if q.split != "train"]:
        raise RecordError(f"{len(strays)} questions are not of split train, such as {strays[0]!r}; train on no others")
    if kind != "rl" and evidence is None:
        raise RecordError(
            f"{kind} records need recorded outcomes of the pool's models; collect them, or make rl records"
        )
    log_lam = np.log(recipe.lam) if min(recipe.lam) > 0 else None
    for repetition in range(len(recipe.curriculum) or recipe.repetitions):
        for query in queries:
            rng = np.random.default_rng([recipe.seed, int(query.id, 16), repetition])
            name, chosen = draw(pool, recipe, rng, repetition)
            row = evidence.rows[query.id] if evidence else -1
            models = show(chosen, recipe, rng, evidence, row)
            lam = 0.0 if log_lam is None else float(f"{np.exp(rng.uniform(*log_lam)):.3g}")
            said = lam if log_lam is not None and recipe.say_lam else None
            cards = [m.card for m in models]
            read = prompts.prompt(recipe.style, query.text, cards, said, recipe.mode)
            columns = [int(m.sources[evidence.arrays["kind"][row]]) for m in models] if evidence else []
            real = [evidence.data.pool.ids[c] for c in columns] if evidence else [None] * len(models)
            about = {
                "kind": kind,
                "query": query.id,
                "set": name,
                "style": recipe.style,
                "mode": recipe.mode,
                "lam": said,
            }
            about |= {"template": prompts.version(recipe.style, recipe.mode), "question_chars": len(query.text)}
            about["tools"] = json.dumps(read.tools) if read.tools else None
            about["pool"] = json.dumps(
                [
                    {
                        "id": c.id,
                        "model": m,
                        "usd_per_mtok_in": c.usd_per_mtok_in,
                        "usd_per_mtok_out": c.usd_per_mtok_out,
                    }
                    for c, m in zip(cards, real, strict=True)
                ]
            )
            parts: list[dict[str, Any]] = [{"prompt": read.messages}]
            if kind != "rl" and evidence:
                reason = (reasons or {}).get(query.id) or rationale(query.text)
                parts = _labelled(kind, read, recipe, cards, lam, reason, evidence, row, columns)
            for number, part in enumerate(parts):
                texts = {k: json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for k, v in part.items()}
                yield {"id": f"{query.id}-{repetition}-{number}", **about, **texts}


def _labelled(kind, read, recipe, cards, lam, reason, evidence, row, columns) -> list[dict[str, Any]]:
    """What the SFT record, or each DPO record, of one prompt adds to it; none if an outcome is missing."""
    quality, tokens_in, tokens_out = (evidence.arrays[n][row, columns] for n in ("quality", "tokens_in", "tokens_out"))
    usd = np.array([c.usd(i, o) for c, i, o in zip(cards, tokens_in, tokens_out, strict=True)])
    if np.isnan(quality + usd).any():
        return []
    calls = {c.id: place for place, c in enumerate(cards)}  # the model that each choice calls
    net = quality - lam * usd
    choice = cards[choose(quality[None], usd[None], lam)[0]].id
    if recipe.style == "oracle":
        grades = evidence.arrays["grades"][row, columns][None]
        net, cheapest = utility(grades)[0] - lam * usd, int(usd.argmin())
        dearer = int(np.where(np.arange(len(usd)) == cheapest, -np.inf, net).argmax())
        calls = {p.value: dearer if p == Policy.COMPLEX else cheapest for p in Policy}
        choice = str(label(grades, usd[None], lam=lam).policy[0])
    replies = {c: prompts.reply(recipe.style, c, cards, reason) for c in calls}
    if kind == "dpo":
        gaps = {c: float(net[calls[choice]] - net[place]) for c, place in calls.items()}
        common = {"prompt": read.messages, "chosen": [replies[choice]]}
        return [common | {"rejected": [replies[c]], "weight": gap} for c, gap in gaps.items() if gap > 1e-12]
    turns = [replies[choice]]
    if recipe.style == "tool" and recipe.mode == "agent":
        answer = evidence.arrays["answers"][row, columns[calls[choice]]]
        heard = json.dumps({"call": 1, "model": choice, "response": answer}, ensure_ascii=False)
        turns += [{"role": "tool", "content": heard}, prompts.use(prompts.SELECT, call=1)]
    return [{"messages": [*read.messages, *turns], "choice": choice}]


def refuse_leaks(used: Sequence[Query], everything: Sequence[Query]) -> None:
    """Stop if a question that records use has a near-duplicate outside the training split."""
    ids = {q.id for q in used}
    for group in leakage(everything).straddling:
        inside, outside = [q for q in group if q.id in ids], [q for q in group if q.split != "train"]
        if inside and outside:
            raise RecordError(f"{inside[0]!r} is a near-duplicate of {outside[0]!r}; split again: routerlab data split")


def tells_answer(reason: str, query: Query, answers: Sequence[str | None]) -> bool:
    """Whether a written rationale holds, as words of its own, the reference or a model's answer that the question does
    not.
    """
    return any(
        re.search(rf"(?<!\w){re.escape(a)}(?!\w)", reason, re.I) and a.casefold() not in query.text.casefold()
        for a in {(x or "").strip() for x in (query.reference, *answers)}
        if a
    )
