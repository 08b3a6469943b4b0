"""What every router has to beat: one model always, a coin, rules, tables of means, and learning from nothing."""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from routerlab.core.decisions import Decisions
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.routers.features import RandomFeatures
from routerlab.routers.learned import Linear, linear
from routerlab.routers.protocol import RouterError, ScoreRouter


class Always:
    """Every query to one model."""

    def __init__(self, model: str, name: str = "") -> None:
        self.model, self.name = model, name or f"always {model}"

    def route(self, queries: Sequence[Query], pool: Pool) -> Decisions:
        """`model` for every query; a pool without it is refused."""
        place = pool.ids.index(pool[self.model].id)
        return Decisions(tuple(q.id for q in queries), pool.ids, np.full(len(queries), place), self.name)


def best_single(queries: Sequence[Query], table: OutcomeTable) -> Always:
    """The model that was right most often on these (training) queries; of equals the cheaper."""
    part = table.select([q.id for q in queries])
    quality, usd = (np.nanmean(part.matrix(c, None, graded=True), 0) for c in ("quality", "usd"))
    return Always(part.models[int(np.lexsort((usd, -quality))[0])], "best single")


def cheapest(queries: Sequence[Query], table: OutcomeTable) -> Always:
    """The model that cost least on these (training) queries."""
    part = table.select([q.id for q in queries])
    usd = np.nanmean(part.matrix("usd", None, graded=True), 0)
    return Always(part.models[int(np.nanargmin(usd))], "cheapest")


class RandomMix:
    """A share of the queries to one model and the rest to another, by a hash of the query: all that mixing without
    reading can do. The hull of single models is what such mixes reach on average.
    """

    def __init__(self, dear: str, cheap: str, share: float) -> None:
        if not 0 <= share <= 1:
            raise RouterError(f"the share of {dear} lies between 0 and 1, not {share}")
        self.dear, self.cheap, self.share = dear, cheap, share
        self.name = f"{share:.0%} {dear}"

    def route(self, queries: Sequence[Query], pool: Pool) -> Decisions:
        ids = pool.ids.index(pool[self.dear].id), pool.ids.index(pool[self.cheap].id)
        drawn = [int(hashlib.blake2b(q.id.encode(), digest_size=6).hexdigest(), 16) for q in queries]
        choice = np.where(np.array(drawn) / 2**48 < self.share, *ids)
        return Decisions(tuple(q.id for q in queries), pool.ids, choice, self.name)


class Lookup(ScoreRouter):
    """Predicts the mean outcome of the group a query is in (`group`), shrunk toward the mean over all by as much as
    five queries weigh; a group never seen gets the mean over all.
    """

    _shrink = 5.0

    def group(self, query: Query) -> str:
        raise NotImplementedError

    def _fit(self, queries, quality, usd):
        groups = np.array([self.group(q) for q in queries])
        self.overall = np.stack([np.nanmean(m, 0) for m in (quality, usd)])
        self.means = {}
        for g in np.unique(groups).tolist():
            pairs = zip((quality, usd), self.overall, strict=True)
            self.means[g] = np.stack([self._mean(m[groups == g], o) for m, o in pairs])

    def _mean(self, matrix: np.ndarray, overall: np.ndarray) -> np.ndarray:
        held = (~np.isnan(matrix)).sum(0)
        shrunk = np.nansum(matrix, 0) + self._shrink * overall
        return np.where(held, shrunk / np.maximum(held + self._shrink, 1), overall)

    def _predict(self, queries):
        found = np.array([self.means.get(self.group(q), self.overall) for q in queries], float)
        found = found.reshape(len(queries), 2, len(self.models))
        return found[:, 0], found[:, 1]


class FamilyLookup(Lookup):
    """The mean of a query's family, `meta[key]`. It is told what kind of question it has and reads nothing of the text:
    whatever beats it has read the question.
    """

    name, _shrink = "family lookup", 0.0

    def __init__(self, lam: float = 0.0, key: str = "family") -> None:
        super().__init__(lam)
        self.key = key

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
    """The mean of the kind of question its words give away: code, proof, reckoning, writing, reasoning or none."""

    name = "keyword rule"

    def group(self, query: Query) -> str:
        return next((k for k, p in _KINDS.items() if re.search(p, query.text, re.I)), "none")


class LengthRule(ScoreRouter):
    """Quality and cost as a straight line in the logarithm of the question's length. For two models this sends the
    longest questions to the stronger one, which alone beats several published routers.
    """

    name = "length rule"

    def _fit(self, queries, quality, usd):
        scale = np.nanmean(usd, 0)
        scale = np.where(scale > 0, scale, 1.0)
        x = self._length(queries)
        self.quality, cost = linear(x, quality), linear(x, usd / scale)
        self.cost = tuple(part * scale for part in cost)
        self.least = np.nanmin(usd, 0) / 2

    def _predict(self, queries):
        x = self._length(queries)
        usd = np.maximum(x @ self.cost[0] + self.cost[1], self.least)
        return x @ self.quality[0] + self.quality[1], usd

    @staticmethod
    def _length(queries: Sequence[Query]) -> np.ndarray:
        return np.log1p(np.array([[len(q.text)] for q in queries], float))


def random_features(lam: float = 0.0) -> Linear:
    """A linear router on features that say nothing: what it gains is luck."""
    made = Linear(RandomFeatures(), lam)
    made.name = "random features"
    return made


class ShuffledLabels(Linear):
    """A linear router on real features and the outcomes (and costs) of other questions: what it gains, the evaluation
    leaks.
    """

    name, seed = "shuffled labels", 0
    trainings = 10  # one shuffle may be lucky: on the embedded table areas of single ones went from .50 to .55

    def _fit(self, queries, quality, usd):
        order = np.random.default_rng(self.seed).permutation(len(queries))
        super()._fit(queries, quality[order], usd[order])
