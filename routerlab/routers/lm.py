"""Routers that are language models: one scores every candidate of a pool from its card, one writes a policy as text."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from routerlab.core.decisions import Decisions
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import ModelCard, Pool
from routerlab.core.queries import Query
from routerlab.evaluate.frontier import decide
from routerlab.label.oracle import Policy
from routerlab.label.rationale import prompt
from routerlab.routers.protocol import RouterError, ScoreRouter, as_queries

Write = Callable[[Sequence[list[dict[str, str]]]], Sequence[tuple[str, float]]]


class Reader(Protocol):
    """What scores candidates: a quality estimate and the cost (USD) of each for each question, and what that took."""

    def read(self, questions: Sequence[str], cards: Sequence[ModelCard]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(quality, usd), both questions x candidates, and what scoring each question cost (USD)."""
        ...


class LMRouter(ScoreRouter):
    """A router that reads the question and the cards of a pool, also of one it has never seen, and calls the model with
    the highest quality - lam * usd; reading is charged.

    `pool` has the cards with skills. Where another pool has a model of the same id without skills, these are taken;
    prices are always those of the pool that is routed among.
    """

    name = "actor"

    def __init__(self, reader: Reader, pool: Pool, lam: float = 0.0) -> None:
        super().__init__(lam)
        self.reader, self.pool, self.models = reader, pool, pool.ids

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The router of a kept actor."""
        from routerlab.routers.actor import Actor

        return cls(Actor.load(folder), Pool.load(Path(folder) / "pool.yaml"))

    def of(self, pool: Pool) -> Self:
        """This router for another pool."""
        cards = [
            replace(c, skills=self.pool[c.id].skills) if not c.skills and c.id in self.pool else c for c in pool.cards
        ]
        other = copy.copy(self)
        other.pool, other.models = Pool(pool.name, cards), pool.ids
        return other

    def decisions(self, queries, pool, lams, answers=None):
        asked = as_queries(queries)
        quality, usd, own = self.reader.read([q.text for q in asked], self.of(pool).pool.cards)
        ids = tuple(q.id for q in asked)
        return [Decisions(ids, pool.ids, decide(quality, usd, lam), self.name, own_usd=own) for lam in lams]

    def _predict(self, queries):
        return self.reader.read([q.text for q in queries], self.pool.cards)[:2]


class PolicyWriter:
    """A language model that writes a reason and a policy; a map from policies to models names the model.

    `write` takes the messages of every query and returns for each the generated text and what generating it cost
    (USD); it may be a model in this process or one at a URL. `models` maps every policy to a model, and can be changed
    without training.

    A text whose last line is no policy is sent to `fallback`, and `unread` counts those, so that a guess stays visible.
    """

    def __init__(self, write: Write, models: Mapping[Policy, str], fallback: str, name: str = "language model") -> None:
        if absent := [p.value for p in Policy if p not in models]:
            raise RouterError(f"no model for {', '.join(absent)}; map every policy to one")
        self.write, self.models, self.fallback, self.name = write, dict(models), fallback, name
        self.unread = 0

    def route(self, queries: Sequence[Query], pool: Pool, answers: OutcomeTable | None = None) -> Decisions:
        """For each query the model of `pool` that its policy is mapped to."""
        place = {m: pool.ids.index(pool[m].id) for m in {*self.models.values(), self.fallback}}
        texts = self.write([prompt(q.text) for q in queries])
        if len(texts) != len(queries):
            raise RouterError(f"{len(queries)} questions, {len(texts)} texts; write one for each")
        policies = [read_policy(text) for text, _ in texts]
        self.unread = sum(p is None for p in policies)
        choice = [place[self.fallback if p is None else self.models[p]] for p in policies]
        spent = np.array([usd for _, usd in texts])
        ids = tuple(q.id for q in queries)
        return Decisions(ids, pool.ids, np.array(choice, np.int64), self.name, own_usd=spent)


def read_policy(text: str) -> Policy | None:
    """The policy that stands alone on the last line; None if there is none."""
    lines = text.strip().splitlines()
    last = lines[-1].strip() if lines else ""
    return Policy(last) if last in set(Policy) else None
