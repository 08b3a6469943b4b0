"""What a router is: it reads queries and names a model for each; a tunable one does so at any price of money."""

import copy
from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

import numpy as np

from routerlab.core.decisions import Decisions
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import Pool, PoolError
from routerlab.core.queries import Query
from routerlab.evaluate.frontier import decide


@runtime_checkable
class Router(Protocol):
    """Anything with a name that can route."""

    name: str

    def route(self, queries: Sequence[Query], pool: Pool) -> Decisions: ...


class RouterError(ValueError):
    """A router used in a way it cannot be; the message says what to do first."""


class ScoreRouter:
    """A router that predicts each model's quality and cost and calls argmax(quality - lam * usd).

    A subclass learns in `_fit(queries, quality, usd)` and answers in `_predict(queries)`. `lam` is quality per US
    dollar; `at(lam)` is the same router at another operating point, without learning anything again.
    """

    name = "scores"

    def __init__(self, lam: float = 0.0) -> None:
        self.lam = lam
        self.models: tuple[str, ...] = ()

    def fit(self, queries: Sequence[Query], table: OutcomeTable, samples: Sequence[int] | None = None) -> Self:
        """Learn from the mean outcome over `samples` (None: all tries) of each of `queries`, whatever their order:
        folds, batches and ties go by place, so queries are taken in the order of their ids, which are hashes.
        """
        queries = sorted(queries, key=lambda q: q.id)
        part = table.select([q.id for q in queries])
        self.models = part.models
        self._fit(queries, part.matrix("quality", samples), part.matrix("usd", samples, graded=True))
        return self

    def predict(self, queries: Sequence[Query]) -> tuple[np.ndarray, np.ndarray]:
        """(quality, usd) predicted for each query and model, in the order of `models`."""
        if not self.models:
            raise RouterError(f"{self.name} has learned nothing yet; call fit(queries, table) first")
        return self._predict(queries)

    def route(self, queries: Sequence[Query], pool: Pool) -> Decisions:
        """The model of `pool` for each query."""
        quality, usd = self.predict(queries)
        for model in pool.ids:
            if model not in self.models:
                raise PoolError(f"{self.name} has learned nothing about {model!r}; it knows {', '.join(self.models)}")
        columns = [self.models.index(model) for model in pool.ids]
        choice = decide(quality[:, columns], usd[:, columns], self.lam)
        return Decisions(tuple(q.id for q in queries), pool.ids, choice, self.name)

    def at(self, lam: float) -> Self:
        """This router at another price of money."""
        if not lam >= 0:
            raise RouterError(f"lam is {lam!r}; give quality per US dollar, 0 or more")
        other = copy.copy(self)
        other.lam = lam
        return other

    def _fit(self, queries: Sequence[Query], quality: np.ndarray, usd: np.ndarray) -> None:
        raise NotImplementedError

    def _predict(self, queries: Sequence[Query]) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}(lam={self.lam:g}, {len(self.models)} models)"
