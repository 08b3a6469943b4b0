"""A router that looks at answers: a cheap model first, a dearer one only if the answer does not convince."""

from collections.abc import Sequence

import numpy as np

from routerlab.core.decisions import Decisions
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.queries import Query
from routerlab.core.threads import one_thread
from routerlab.evaluate.frontier import hull
from routerlab.grade.verify import abstains
from routerlab.routers.features import Features, Views
from routerlab.routers.learned import Linear, Logistic
from routerlab.routers.protocol import RouterError, Tunable


class Cascade(Tunable):
    """Calls the cheapest model of its chain and predicts from the question and the answer (its length, whether it
    abstains) how likely that answer is right. If a later model of the chain has a predicted quality - lam * usd above
    this confidence, it calls the one where that is highest, and so on. The last answer counts; every call is charged.
    Chen, Zaharia and Zou (2023).

    The chain is the models on the hull of quality against cost in training. It learns from the greedy try and reads the
    greedy answers.
    """

    name = "cascade"

    def __init__(self, features: Features | None = None) -> None:
        self._scores = Linear(features)
        self._confidence: dict[int, Logistic] = {}

    @one_thread()
    def fit(self, queries, table):
        queries = sorted(queries, key=lambda q: q.id)  # as ScoreRouter.fit does
        outcomes = table.select([q.id for q in queries])
        self._scores.fit(queries, outcomes, [0])
        quality, usd = outcomes.matrix("quality"), outcomes.matrix("usd", graded=True)
        cost, reached = np.nanmean(usd, 0, dtype=float), np.nanmean(quality, 0, dtype=float)
        x, y = hull(cost, reached)
        on_hull = (cost <= x[-1]) & (reached >= np.interp(cost, x, y) - 1e-12)
        self.chain = sorted(np.flatnonzero(on_hull).tolist(), key=lambda m: cost[m])
        views, signs = self._views(queries), signs_of(outcomes)
        if not np.ptp(signs.reshape(-1, signs.shape[-1]), axis=0).any():
            nothing = "this table keeps neither answers nor the length of them, so a cascade has nothing to look at"
            raise RouterError(f"{nothing}; leave it out")
        self.typical_usd = float(np.nanmean(usd, dtype=float)) or 1.0  # all models may be free
        self._confidence = {m: Logistic() for m in self.chain[:-1]}
        for m, confidence in self._confidence.items():
            answered = ~np.isnan(quality[:, m])
            confidence.learn(_with(views, signs[:, m]).rows(answered), quality[answered, m : m + 1])
        self.models = outcomes.models
        return self

    def operating_points(self, queries, table, count):
        """Cost weights around one over the mean cost of a call in training, evenly spread on a log scale."""
        return np.append(0.0, np.geomspace(1e-2, 1e2, count - 1) / self.typical_usd)

    @one_thread()
    def decisions(self, queries, pool, lams, answers=None):
        known = self._known()
        if answers is None:
            raise RouterError("a cascade looks at answers; give the table that has them: route(queries, pool, table)")
        for models in (pool.ids, answers.models):
            if models != known:
                raise RouterError(f"cascade learned about {', '.join(known)}, not {', '.join(models)}")
        quality, usd = self._scores.predict(queries)
        views, signs = self._views(queries), signs_of(answers.select([q.id for q in queries]))
        sure = {m: c.estimate(_with(views, signs[:, m]))[:, 0] for m, c in self._confidence.items()}
        ids = tuple(q.id for q in queries)
        return [Decisions(ids, known, *self._walk(quality - lam * usd, sure)) for lam in lams]

    def _walk(self, net: np.ndarray, sure: dict[int, np.ndarray]) -> tuple[np.ndarray, str, np.ndarray]:
        """(choice, name, calls), given quality - lam * usd (`net`) and the confidence in each model's answer."""
        rows = np.arange(len(net))
        choice, called = np.full(len(net), self.chain[0]), np.zeros(net.shape, bool)
        called[rows, choice] = True
        for place, m in enumerate(self.chain[:-1]):
            later = np.array(self.chain[place + 1 :])
            best = later[net[:, later].argmax(1)]
            goes_on = (choice == m) & (net[rows, best] > sure[m])
            choice = np.where(goes_on, best, choice)
            called[rows[goes_on], best[goes_on]] = True
        return choice, self.name, called

    def _views(self, queries: Sequence[Query]) -> Views:
        return self._scores.features.views([q.text for q in queries])


def signs_of(table: OutcomeTable) -> np.ndarray:
    """What is seen of an answer (queries x models x 3): log tokens, log characters, whether it abstains."""
    answers, tokens = table.text("answer"), np.nan_to_num(table.matrix("tokens_out"))
    length = np.array([[len(a or "") for a in row] for row in answers], np.float32).reshape(tokens.shape)
    abstained = np.array([[abstains(a or "") is not None for a in row] for row in answers], bool).reshape(tokens.shape)
    return np.stack([np.log1p(tokens), np.log1p(length), abstained], -1).astype(np.float32)


def answer_codes(table: OutcomeTable) -> np.ndarray:
    """A number for the text of each greedy answer (queries x models): equal for equal answers (but for case and outer
    spaces), -1 for none and for an abstention.
    """
    answers = table.text("answer")
    plain = np.array([[(a or "").strip().lower() for a in row] for row in answers], object).reshape(answers.shape)
    codes = np.unique(plain.astype(str), return_inverse=True)[1].reshape(answers.shape)
    return np.where((plain == "") | (signs_of(table)[..., 2] > 0), -1, codes)


def _with(views: Views, signs: np.ndarray) -> Views:
    dense = np.hstack([views.dense, signs])
    return Views(dense, dense)
