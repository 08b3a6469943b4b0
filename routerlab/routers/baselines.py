"""Routers that need no learning worth the name: one model always, or the mean of a query's family."""

from collections.abc import Sequence

import numpy as np

from routerlab.decisions import Decisions
from routerlab.pools import Pool
from routerlab.queries import Query
from routerlab.routers.protocol import ScoreRouter


class Always:
    """Every query to one model."""

    def __init__(self, model: str) -> None:
        self.model, self.name = model, f"always {model}"

    def route(self, queries: Sequence[Query], pool: Pool) -> Decisions:
        """`model` for every query; a pool without it is refused."""
        place = pool.ids.index(pool[self.model].id)
        return Decisions(
            tuple(q.id for q in queries), pool.ids, np.full(len(queries), place), self.name
        )


class FamilyLookup(ScoreRouter):
    """Predicts the mean outcome of a query's family (`meta[key]`); a family never seen gets the
    mean over all.

    It is told what kind of question it has and reads nothing of the text: whatever beats it has read the question.
    """

    name = "family lookup"

    def __init__(self, lam: float = 0.0, key: str = "family") -> None:
        super().__init__(lam)
        self.key = key

    def _fit(self, queries, quality, usd):
        families = np.array([str(q.meta.get(self.key)) for q in queries])
        self._means = {
            f: (_mean(quality[families == f]), _mean(usd[families == f]))
            for f in np.unique(families).tolist()
        }
        self._overall = _mean(quality), _mean(usd)

    def _predict(self, queries):
        found = [self._means.get(str(q.meta.get(self.key)), self._overall) for q in queries]
        shape = (len(queries), len(self.models))
        return tuple(np.array([f[i] for f in found], float).reshape(shape) for i in (0, 1))


def _mean(matrix: np.ndarray) -> np.ndarray:
    return np.nanmean(matrix, axis=0)
