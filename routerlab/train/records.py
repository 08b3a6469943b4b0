"""Records that train a language-model router: each has a question and a pool of its own.

A record follows from its question, the number of its repetition, the recipe and its seed; no other question, order of
questions or number of processes changes it. Its prompt is made from the question, the cards and the cost weight alone.
Outcomes of other training questions reach a card as measured skills; those of the question itself reach only labels.
"""

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from routerlab.core.pools import ModelCard, Pool, Skill
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded
from routerlab.label.oracle import Policy, choose, label, utility
from routerlab.label.rationale import rationale
from routerlab.routers import prompts
from routerlab.sources.split import leakage
from routerlab.train.settings import TrainError as RecordError


def schema(kind: str) -> pa.Schema:
    """The columns of a file of records; messages, `pool` and `tools` are JSON.

    `pool` lists the models in the order shown: the `id` in the prompt, the recorded `model` whose outcomes it has on
    this question (null without a table), its prices. `lam` stands in the prompt, or is null. A prompt ends with the
    question, of `question_chars` characters. `choice` is the policy or the shown model that the reply names. `weight`
    of a pair is the gap in quality - lam * usd between what its two replies call.
    """
    known = {"sft": ["messages", "choice"], "dpo": ["prompt", "chosen", "rejected"], "rl": ["prompt"]}
    if kind not in known:
        raise RecordError(f"no records of kind {kind!r}; there are {', '.join(known)}")
    texts = ["kind", "id", "query", "style", "mode", "template", "set", "pool", "tools", *known[kind]]
    numbers = {"lam": pa.float64(), "question_chars": pa.int64()} | ({"weight": pa.float64()} if kind == "dpo" else {})
    return pa.schema(dict.fromkeys(texts, pa.string()) | numbers, {"schema": f"records-{kind}/1"})


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
    split: str = "train"  # of the questions; only rl records have another
    seed: int = 42


class Evidence:
    """Recorded outcomes of questions that have kinds. Skills are measured on those of the training split alone."""

    def __init__(self, data: Recorded, kinds: Sequence[str], as_of: dt.date) -> None:
        self.pool, self.as_of, table = data.pool, as_of, data.table  # as_of: of the skills measured on them
        self.rows = {query: row for row, query in enumerate(table.queries)}
        self.quality, self.tokens_in, self.tokens_out = map(table.matrix, ("quality", "tokens_in", "tokens_out"))
        self.grades, self.answers = table.grades(), table.text("answer")
        self.kinds, self.kind = np.unique(np.asarray(kinds), return_inverse=True)
        self.train = np.array([q.split == "train" for q in data.queries])
        member = (np.eye(len(self.kinds), dtype=np.int64)[self.kind] * self.train[:, None]).T
        self.right, self.count = member @ (self.quality >= 0.5), member @ ~np.isnan(self.quality)  # kinds x models

    def skills(self, sources: np.ndarray, probes: int, rng: np.random.Generator, row: int = -1) -> tuple[Skill, ...]:
        """Accuracy by kind on `probes` random recorded questions, as many of each kind, never on question `row`, of a
        model that has on each kind of question the outcomes of one column of the table (`sources`).
        """
        places = np.arange(len(self.kinds))
        right, count = self.right[places, sources], self.count[places, sources]
        if row >= 0 and self.train[row]:
            own = self.quality[row, sources[kind := self.kind[row]]]
            right[kind], count[kind] = right[kind] - (own >= 0.5), count[kind] - (not np.isnan(own))
        size = np.minimum(-(-probes // len(places)), count)
        measured = zip(self.kinds, rng.hypergeometric(right, count - right, size), size, strict=True)
        return tuple(Skill(str(k), round(int(hits) / int(n), 2), int(n), self.as_of) for k, hits, n in measured if n)

    def patchwork(self, columns: Sequence[int], rng: np.random.Generator) -> tuple[ModelCard, np.ndarray]:
        """The card of a patchwork model and, for each kind of question, the random one of these columns that it is. Its
        price lies between theirs, at one place for input and output; its tier is that of the model nearest in price.
        """
        cards = [self.pool.cards[c] for c in columns]
        prices = np.log([(max(c.usd_per_mtok_in, 1e-6), max(c.usd_per_mtok_out, 1e-6)) for c in cards])
        price = prices.min(0) + rng.random() * np.ptp(prices, axis=0)
        nearest, name = cards[int(np.abs(prices - price).sum(1).argmin())], _name("patchwork", rng)
        usd_in, usd_out = np.exp(price).round(4).tolist()
        card = ModelCard(name, name, nearest.tier, usd_in, usd_out, nearest.context, self.as_of)
        return card, rng.choice(columns, len(self.kinds))


def _prices(card: ModelCard) -> dict[str, float]:
    return {"usd_per_mtok_in": card.usd_per_mtok_in, "usd_per_mtok_out": card.usd_per_mtok_out}


def _name(kind: str, rng: np.random.Generator) -> str:
    return f"{kind}-{np.base_repr(int(rng.integers(36**7)), 36).lower()}"


def draw(
    pool: Pool, recipe: Recipe, rng: np.random.Generator, evidence: Evidence | None = None, row: int = -1, turn: int = 0
) -> tuple[str, list[ModelCard], list[int]]:
    """The pool of one record: the name of its fixed set (or `sampled`), its cards, and for each the column of the
    recorded model whose outcomes it has on this question.

    Args: the `pool` to draw from, by the `recipe` and the generator `rng`; the `evidence` for skills and patchworks,
    and the `row` of the question there; the number of the repetition, `turn`.
    """
    names, at = [*recipe.sets, "sampled"], rng.random()
    name = names[int((at >= np.cumsum([*recipe.sets.values()])).sum())]
    name = recipe.curriculum[turn] if recipe.curriculum else name
    chosen = pool if name == "sampled" else pool.subset(name)
    chosen = chosen.subset([i for i in chosen.ids if i not in recipe.held_out])
    chosen = chosen.sample(recipe.tiers, rng) if name == "sampled" and recipe.tiers else chosen
    columns = [evidence.pool.ids.index(c.id) for c in chosen] if evidence else [0] * len(chosen)
    models = []
    for card, column in zip(chosen, columns, strict=True):
        sources = np.full(len(evidence.kinds) if evidence else 1, column)
        if evidence and rng.random() < recipe.patchwork:
            card, sources = evidence.patchwork(columns, rng)
        changes: dict[str, Any] = {"id": _name("model", rng)} if recipe.names else {}
        if recipe.prices != 1:
            factor, changes["usd_per_mtok_cached_in"] = recipe.prices ** rng.uniform(-1, 1), None
            changes |= {name: float(f"{usd * factor:.4g}") for name, usd in _prices(card).items()}
        if rng.random() >= recipe.descriptions:
            changes |= {"description": "", "strengths": ()}
        if evidence and recipe.probes:
            changes["skills"] = evidence.skills(sources, recipe.probes, rng, row)
        models.append((replace(card, **changes), int(sources[evidence.kind[row] if evidence else 0])))
    order = rng.permutation(len(models)) if recipe.order else range(len(models))
    return name, [models[i][0] for i in order], [models[i][1] for i in order]


def records(
    kind: str,
    queries: Sequence[Query],
    pool: Pool,
    recipe: Recipe,
    evidence: Evidence | None = None,
    reasons: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """The records of a kind, one by one; for sft and dpo, questions of which an outcome is missing give none.

    Args:
        kind: sft, dpo or rl; the first two need `evidence`.
        queries: of split train, or of the recipe's split for rl; others are refused.
        pool, recipe: what pools are drawn from, and how.
        evidence: outcomes of at least these questions by the models of the pool.
        reasons: by query id, the rationale that stands before a policy; without one, `rationale` counts.
    """
    if strays := [q for q in queries if q.split != (recipe.split if kind == "rl" else "train")]:
        raise RecordError(f"{len(strays)} questions are of another split, such as {strays[0]!r}; train on train alone")
    pool.subset(recipe.held_out or pool.ids)  # stops at a name that is no model of the pool
    if kind != "rl" and evidence is None:
        raise RecordError(f"{kind} records need recorded outcomes of the pool's models; collect them first")
    says_lam, template = recipe.say_lam and max(recipe.lam) > 0, prompts.version(recipe.style, recipe.mode)
    for turn in range(len(recipe.curriculum) or recipe.repetitions):
        for query in queries:
            rng = np.random.default_rng([recipe.seed, int(query.id, 16), turn])
            lam = float(f"{np.exp(rng.uniform(*np.log(np.maximum(recipe.lam, 1e-9)))):.3g}") if max(recipe.lam) else 0.0
            row = evidence.rows[query.id] if evidence else -1
            name, cards, columns = draw(pool, recipe, rng, evidence, row, turn)
            read = prompts.prompt(recipe.style, query.text, cards, lam if says_lam else None, recipe.mode)
            parts: list[dict[str, Any]] = [{"prompt": read.messages}]
            if kind != "rl" and evidence:
                reason = (reasons or {}).get(query.id) or rationale(query.text)
                parts = _labelled(kind, read, recipe, cards, lam, reason, evidence, row, columns)
            real = [evidence.pool.ids[i] if evidence else None for i in columns]
            shown = [{"id": c.id, "model": m, **_prices(c)} for c, m in zip(cards, real, strict=True)]
            common = {"kind": kind, "query": query.id, "style": recipe.style, "mode": recipe.mode, "template": template}
            common |= {"set": name, "lam": lam if says_lam else None, "question_chars": len(query.text)}
            common |= {"tools": read.tools or None, "pool": shown}
            for number, part in enumerate(parts):
                record = {"id": f"{query.id}-{turn}-{number}", **common, **part}
                yield {k: json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for k, v in record.items()}


def _labelled(kind, read, recipe, cards, lam, reason, evidence, row, columns) -> list[dict[str, Any]]:
    """What the SFT record, or each DPO record, of one prompt adds to it; none if an outcome is missing."""
    value, *tokens = (m[row, columns] for m in (evidence.quality, evidence.tokens_in, evidence.tokens_out))
    usd = np.array([card.usd(*used) for card, *used in zip(cards, *tokens, strict=True)])
    if np.isnan(value + usd).any():
        return []
    calls = {c.id: place for place, c in enumerate(cards)}  # the model that each choice calls
    choice = cards[choose(value[None], usd[None], lam)[0]].id
    if recipe.style == "oracle":
        grades = evidence.grades[row, columns][None]
        value, cheapest = utility(grades)[0], int(usd.argmin())
        dearer = int(np.where(np.arange(len(usd)) == cheapest, -np.inf, value - lam * usd).argmax())
        calls = {p.value: dearer if p == Policy.COMPLEX else cheapest for p in Policy}
        choice = str(label(grades, usd[None], lam=lam).policy[0])
    replies = {c: prompts.reply(recipe.style, c, cards, reason) for c in calls}
    if kind == "dpo":
        net = value - lam * usd
        gaps = {c: float(net[calls[choice]] - net[place]) for c, place in calls.items()}
        pair = {"prompt": read.messages, "chosen": [replies[choice]]}
        return [pair | {"rejected": [replies[c]], "weight": gap} for c, gap in gaps.items() if gap > 1e-12]
    turns = [replies[choice]]
    if recipe.style == "tool" and recipe.mode == "agent":
        heard = {"call": 1, "model": choice, "response": evidence.answers[row, columns[calls[choice]]]}
        turns.append({"role": "tool", "content": json.dumps(heard, ensure_ascii=False)})
        turns.append(prompts.use(prompts.SELECT, call=1))
    return [{"messages": [*read.messages, *turns], "choice": choice}]


def refuse_leaks(used: Sequence[Query], everything: Sequence[Query]) -> None:
    """Stop if a question that records use has a near-duplicate outside the training split."""
    ids = {q.id for q in used}
    for group in leakage(everything).straddling:
        inside, outside = [q for q in group if q.id in ids], [q for q in group if q.split != "train"]
        if inside and outside:
            raise RecordError(f"{inside[0]!r} is a near-duplicate of {outside[0]!r}; split again: routerlab data split")
