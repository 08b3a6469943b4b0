"""What every router has to beat: one model always, random mixes of models, rules, group means, and routers that are
fitted on nothing (negative controls).
"""

import re
from collections.abc import Sequence

import numpy as np

from routerlab.core.decisions import Decisions
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.evaluate.frontier import hull
from routerlab.routers.features import LengthFeatures, RandomFeatures
from routerlab.routers.learned import Linear
from routerlab.routers.protocol import ScoreRouter


class Always:
    """Every query to one model."""

    def __init__(self, model: str, name: str = "") -> None:
        self.model, self.name = model, name or f"always {model}"

    def route(self, queries: Sequence[Query], pool: Pool, answers: OutcomeTable | None = None) -> Decisions:
        """`model` for every query; a pool without it is refused."""
        place = pool.ids.index(pool[self.model].id)
        return Decisions(tuple(q.id for q in queries), pool.ids, np.full(len(queries), place), self.name)


def best_single(queries: Sequence[Query], table: OutcomeTable) -> Always:
    """The model with the best mean quality on these (training) queries; of equals the cheaper."""
    outcomes = table.select([q.id for q in queries])
    quality, usd = (np.nanmean(outcomes.matrix(c, None, graded=True), 0) for c in ("quality", "usd"))
    return Always(outcomes.models[int(np.lexsort((usd, -quality))[0])], "best single")


class Lookup(ScoreRouter):
    """Predicts the mean outcome of the query's group, shrunk toward the mean over all queries:
    (sum over the group + 5 * overall mean) / (size of the group + 5). An unseen group gets the overall mean. A subclass
    says which `group` a query is in.
    """

    _shrink = 5.0

    def group(self, query: Query) -> str:
        raise NotImplementedError

    def _fit(self, queries, quality, usd):
        groups = np.array([self.group(q) for q in queries])
        self.overall = np.stack([np.nanmean(m, 0) for m in (quality, usd)])
        both = np.stack([quality, usd], 1)
        self.means = {g: self._mean(both[groups == g]) for g in np.unique(groups).tolist()}

    def _mean(self, outcomes: np.ndarray) -> np.ndarray:
        known = (~np.isnan(outcomes)).sum(0)
        shrunk = np.nansum(outcomes, 0) + self._shrink * self.overall
        return np.where(known, shrunk / np.maximum(known + self._shrink, 1), self.overall)

    def _predict(self, queries):
        means = np.array([self.means.get(self.group(q), self.overall) for q in queries], float)
        means = means.reshape(len(queries), 2, len(self.models))
        return means[:, 0], means[:, 1]


class RandomMix(Lookup):
    """Predicts each model's training means for every query, so at each cost weight it calls one single model. Its
    operating points are the vertices of the hull of single models in training; mixing two of them at random gives every
    point between: what is reached without reading the question.
    """

    name = "random mix"

    def group(self, query: Query) -> str:
        return ""

    def operating_points(self, queries, table, count):
        """One cost weight for each vertex of the training hull, from the best model (0) to the cheapest."""
        quality, usd = self.predict(queries[:1])
        x, y = hull(usd[0], quality[0])
        steps = (np.diff(y) / np.diff(x))[::-1]  # λ at which two neighbouring vertices are equally good
        return np.concatenate([[0.0], (steps[:-1] + steps[1:]) / 2, 2 * steps[-1:]])


class FamilyLookup(Lookup):
    """The mean of a query's family, `meta[key]`. The family is given with the query, not read from its text: a router
    that beats this one gets something out of the text.
    """

    _shrink = 0.0

    def __init__(self, key: str = "family", name: str = "family lookup") -> None:
        self.key, self.name = key, name

    def group(self, query: Query) -> str:
        return str(query.meta.get(self.key))


_KINDS = {
    "code": r"```|\b(def|class|import|function|code|python|javascript|sql|compile|bug)\b",
    "proof": r"\b(prove|proof|theorem|lemma|integral|derivative|equation|matrix)\b",
    "reckoning": r"\d\s*[-+*/×÷^=]\s*\d|\b(calculate|compute|how (many|much)|sum|product|percent)\b",
    "writing": r"\b(write|essay|poem|story|letter|summari[sz]e|translate|rewrite)\b",
    "reasoning": r"\b(why|explain|reason|because|step by step|compare|best describes)\b",
}


class KeywordRule(Lookup):
    """The mean of the kind of question that keywords indicate: code, proof, reckoning, writing, reasoning or none."""

    name = "keyword rule"

    def group(self, query: Query) -> str:
        return next((k for k, p in _KINDS.items() if re.search(p, query.text, re.I)), "none")


class LengthRule(Linear):
    """Quality and cost are linear in log(1 + characters of the question). Of two models the stronger one gets the
    longest questions, which alone beats several published routers.
    """

    name = "length rule"

    def __init__(self) -> None:
        super().__init__(LengthFeatures())


def random_features() -> Linear:
    """Negative control: a linear router on features that are unrelated to the question. Any gain is luck."""
    return Linear(RandomFeatures(), name="random features")


class ShuffledLabels(Linear):
    """Negative control: a linear router fitted on the outcomes of other questions. Any gain means leakage."""

    name, seed = "shuffled labels", 0
    trainings = 10  # one shuffle varies much: on the embedded table their areas range from .50 to .55

    def _fit(self, queries, quality, usd):
        order = np.random.default_rng(self.seed).permutation(len(queries))
        super()._fit(queries, quality[order], usd[order])
