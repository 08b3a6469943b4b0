"""A router that looks at answers: cheap models first, the next one only if the answer does not convince."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from routerlab.core.decisions import Decisions
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.queries import Query
from routerlab.evaluate.frontier import hull
from routerlab.grade.verify import abstains
from routerlab.routers.features import Features, Views
from routerlab.routers.learned import Linear, Logistic
from routerlab.routers.protocol import RouterError


class Cascade:
    """Calls the cheapest model of the chain, then asks how likely its answer is right, from the question and the answer
    (how long it is, whether it abstains). It goes on to the later model with the best predicted quality - lam * usd if
    that is above this confidence. The last answer counts, and every call is charged. Chen, Zaharia and Zou (2023).

    The chain is the models on the hull of quality against cost in training. Two answers of one model to one question
    are two tries; it learns from and plays with the greedy one.
    """

    name = "cascade"

    def __init__(self, features: Features | None = None, lam: float = 0.0) -> None:
        self.lam, self._guess = lam, Linear(features)
        self._sure: dict[int, Logistic] = {}

    def fit(self, queries: Sequence[Query], table: OutcomeTable) -> Self:
        queries = sorted(queries, key=lambda q: q.id)  # as the routers it is made of
        part = table.select([q.id for q in queries])
        self._guess.fit(queries, part, [0])
        quality, usd = part.matrix("quality"), part.matrix("usd", graded=True)
        cost, reached = np.nanmean(usd, 0, dtype=float), np.nanmean(quality, 0, dtype=float)
        x, y = hull(cost, reached)
        on = (cost <= x[-1]) & (reached >= np.interp(cost, x, y) - 1e-12)
        self.chain = sorted(np.flatnonzero(on).tolist(), key=lambda m: cost[m])
        views, seen = self._views(queries), _seen(part)
        if not np.ptp(seen.reshape(-1, seen.shape[-1]), axis=0).any():
            raise RouterError(
                "this table keeps neither answers nor the length of them, so a cascade has nothing to look at; leave "
                "it out"
            )
        self._sure = {}
        for m in self.chain[:-1]:
            held = ~np.isnan(quality[:, m])
            self._sure[m] = Logistic()
            self._sure[m].learn(_with(views, seen[:, m]).rows(held), quality[held, m : m + 1])
        return self

    def at(self, lam: float) -> "Cascade":
        """This cascade at another price of money."""
        made = Cascade(None, lam)
        made._guess, made._sure, made.chain = self._guess, self._sure, self.chain
        return made

    def play(self, queries: Sequence[Query], table: OutcomeTable) -> Decisions:
        """What is called and which answer counts when the models answer as the table says."""
        if not self._sure and not hasattr(self, "chain"):
            raise RouterError("cascade has learned nothing yet; call fit(queries, table) first")
        part = table.select([q.id for q in queries])
        if part.models != self._guess.models:
            raise RouterError(f"cascade learned about {', '.join(self._guess.models)}, not {', '.join(part.models)}")
        quality, usd = self._guess.predict(queries)
        net, views, seen = quality - self.lam * usd, self._views(queries), _seen(part)
        rows = np.arange(len(queries))
        choice, called = np.full(len(queries), self.chain[0]), np.zeros(net.shape, bool)
        called[rows, choice] = True
        for place, m in enumerate(self.chain[:-1]):
            later = np.array(self.chain[place + 1 :])
            sure = self._sure[m].estimate(_with(views, seen[:, m]))[:, 0]
            best = later[net[:, later].argmax(1)]
            on = (choice == m) & (net[rows, best] > sure)
            choice = np.where(on, best, choice)
            called[rows[on], best[on]] = True
        return Decisions(tuple(q.id for q in queries), part.models, choice, self.name, called)

    def _views(self, queries: Sequence[Query]) -> Views:
        return self._guess.features.views([q.text for q in queries])


def _seen(table: OutcomeTable) -> np.ndarray:
    """What an answer shows without knowing the truth (queries x models x 3): its tokens, its length, its silence."""
    answers, tokens = table.text("answer"), np.nan_to_num(table.matrix("tokens_out"))
    length = np.array([[len(a or "") for a in row] for row in answers], np.float32)
    silent = np.array([[abstains(a or "") is not None for a in row] for row in answers])
    return np.stack([np.log1p(tokens), np.log1p(length), silent], -1).astype(np.float32)


def _with(views: Views, seen: np.ndarray) -> Views:
    dense = np.hstack([views.dense, seen])
    return Views(dense, dense)
