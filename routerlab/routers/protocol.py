"""What a router is: it names a model for each query, a tunable one at any cost weight λ (`lam`, quality per US$)."""

import copy
from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

import numpy as np

from routerlab.core.decisions import Decisions
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import Pool, PoolError
from routerlab.core.queries import Query
from routerlab.core.threads import one_thread
from routerlab.evaluate.frontier import decide


def as_queries(queries: Sequence[Query | str]) -> list[Query]:
    """These queries, where a plain text is a question of a user."""
    return [Query.ask(q) if isinstance(q, str) else q for q in queries]


@runtime_checkable
class Router(Protocol):
    """Anything with a name that can route. `answers` is a table of what the models of the pool answer to these queries:
    routers that read only the question ignore it; a cascade looks answers up there, and is charged for each.
    """

    name: str

    def route(self, queries: Sequence[Query], pool: Pool, answers: OutcomeTable | None = None) -> Decisions: ...


class RouterError(ValueError):
    """A router that cannot do what was asked; the message says what to do first."""


class Tunable:
    """A router that is fitted once for all cost weights. A subclass writes `fit`, `decisions`, `operating_points`."""

    name, lam = "", 0.0
    models: tuple[str, ...] = ()

    def at(self, lam: float) -> Self:
        """This router at another cost weight, without fitting it again."""
        if not lam >= 0:
            raise RouterError(f"lam is {lam!r}; give quality per US dollar, 0 or more")
        other = copy.copy(self)
        other.lam = lam
        return other

    def route(self, queries: Sequence[Query | str], pool: Pool, answers: OutcomeTable | None = None) -> Decisions:
        """The model of `pool` for each query; a plain text is a question."""
        return self.decisions(as_queries(queries), pool, [self.lam], answers)[0]

    def fit(self, queries: Sequence[Query], table: OutcomeTable) -> Self:
        raise NotImplementedError

    def decisions(
        self, queries: Sequence[Query], pool: Pool, lams: Sequence[float], answers: OutcomeTable | None = None
    ) -> list[Decisions]:
        """What `at(lam).route(…)` gives for each of `lams`; predictions are made once."""
        raise NotImplementedError

    def operating_points(self, queries: Sequence[Query], table: OutcomeTable, count: int) -> np.ndarray:
        """At most `count` rising cost weights, 0 first, that cover the router's costs on these (validation) queries."""
        raise NotImplementedError

    def _known(self) -> tuple[str, ...]:
        if not self.models:
            raise RouterError(f"{self.name} has learned nothing yet; call fit(queries, table) first")
        return self.models

    def __repr__(self) -> str:
        return f"{type(self).__name__}(lam={self.lam:g}, {len(self.models)} models)"


class ScoreRouter(Tunable):
    """A router that predicts each model's quality and cost (USD) and calls the model with the highest
    quality - lam * usd. A subclass learns in `_fit(queries, quality, usd)` and answers in `_predict(queries)`.
    """

    name = "scores"

    @one_thread("scipy.linalg")
    def fit(self, queries: Sequence[Query], table: OutcomeTable, samples: Sequence[int] | None = None) -> Self:
        """Learn from the mean outcome over `samples` (None: all tries) of each of `queries`.

        Queries are sorted by id first, because folds, batches and ties depend on the position of a row: so the given
        order changes nothing.
        """
        queries = sorted(queries, key=lambda q: q.id)
        outcomes = table.select([q.id for q in queries])
        self.models = outcomes.models
        self._fit(queries, outcomes.matrix("quality", samples), outcomes.matrix("usd", samples, graded=True))
        return self

    @one_thread()
    def predict(self, queries: Sequence[Query | str]) -> tuple[np.ndarray, np.ndarray]:
        """(quality, usd) predicted for each query and model, in the order of `models`."""
        self._known()
        return self._predict(as_queries(queries))

    def frame(self, queries: Sequence[Query | str]):
        """The predictions with labels (pandas), a line for each query and model: the predicted `quality`, `usd`, and
        `value` = quality - lam * usd; and whether the router `calls` this model.
        """
        import pandas as pd

        (quality, usd), asked = self.predict(queries), as_queries(queries)
        columns = {"query": np.repeat([q.id for q in asked], len(self.models)), "model": [*self.models] * len(asked)}
        calls = decide(quality, usd, self.lam)[:, None] == np.arange(len(self.models))
        numbers = {"quality": quality, "usd": usd, "value": quality - self.lam * usd, "calls": calls}
        return pd.DataFrame({**columns, **{n: m.ravel() for n, m in numbers.items()}})

    def decisions(self, queries, pool, lams, answers=None):
        quality, usd = self.predict(queries)
        for model in pool.ids:
            if model not in self.models:
                raise PoolError(f"{self.name} has learned nothing about {model!r}; it knows {', '.join(self.models)}")
        columns = [self.models.index(model) for model in pool.ids]
        quality, usd, ids = quality[:, columns], usd[:, columns], tuple(q.id for q in queries)
        own = self.own_usd(as_queries(queries))
        return [Decisions(ids, pool.ids, decide(quality, usd, lam), self.name, own_usd=own) for lam in lams]

    def own_usd(self, queries: Sequence[Query]) -> float | np.ndarray:
        """What routing itself costs a query (USD); reading features is free."""
        return 0.0

    def operating_points(self, queries, table, count):
        """Cost weights whose mean costs on these queries are evenly spread on a log scale."""
        from routerlab.evaluate.sweep import sweep

        quality, usd = self.predict(queries)
        outcomes = table.select([q.id for q in queries])
        scores = np.asarray(quality, np.float32), np.asarray(usd, np.float32)
        curve = sweep(outcomes.matrix("quality"), outcomes.matrix("usd"), scores)
        rising = np.maximum.accumulate(curve.usd)  # the cost paid may fall where the predicted cost rises
        start = max(rising[0], rising[-1] / 1000, 1e-12)  # a model may be free
        costs = np.geomspace(start, max(rising[-1], start), count - 1)
        places = np.append(0, np.searchsorted(rising, costs))
        at = np.unique(np.clip(places, 0, len(curve.lam) - 1))
        finite = np.where(np.isfinite(curve.lam), curve.lam, 2 * curve.collapse_lam + 1)
        after = np.append(curve.lam[1:], 0.0)
        return np.append(0.0, ((finite + after) / 2)[at][::-1])

    def _fit(self, queries: Sequence[Query], quality: np.ndarray, usd: np.ndarray) -> None:
        raise NotImplementedError

    def _predict(self, queries: Sequence[Query]) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError
