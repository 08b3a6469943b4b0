"""Routers that read the question: each predicts every model's quality and cost from features, so one fit gives the
whole frontier. A missing training outcome counts as the mean of its model, never as wrong.
"""

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.routers.features import Features, Tfidf, Views
from routerlab.routers.protocol import RouterError, ScoreRouter

CATEGORIES = ("family", "domain", "category", "eval_name", "topic")


class Learned(ScoreRouter):
    """The base of learned routers: their features, and their prediction of costs.

    Without `features` it fits its own TF-IDF; with them, they must be fitted on the training texts already, and several
    routers may share them. The cost of a call is predicted by `linear` on the dense view, relative to the model's mean
    cost, and is at least half of the lowest cost seen. A subclass writes `learn`, which fits `arrays` and `values` to
    quality (queries x models, NaN where missing), and `estimate`, which predicts it; a random fit has a `seed`.
    """

    seed: int | None = None
    category: str | None = None  # the column of meta with the category of a question; None: the first of CATEGORIES

    def __init__(self, features: Features | None = None, **settings: Any) -> None:
        """`settings` take the place of those of the class, such as the `alphas` of `Ridge`."""
        known = {name for name in dir(type(self)) if name[0] != "_" and not callable(getattr(type(self), name))}
        if unknown := sorted(settings.keys() - known):
            raise TypeError(f"{type(self).__name__} has no setting {unknown[0]!r}")
        vars(self).update(settings)
        self.features: Features = features if features is not None else Tfidf()
        self._own = features is None
        self.arrays: dict[str, np.ndarray] = {}
        self.values: dict[str, Any] = {}

    def _fit(self, queries: Sequence[Query], quality: np.ndarray, usd: np.ndarray) -> None:
        if bad := [m for m, c in zip(self.models, quality.T, strict=True) if np.isnan(c).all()]:
            raise RouterError(f"no outcome of {bad[0]} on these queries; collect it, or leave it out")
        texts = [q.text for q in queries]
        if self._own:
            self.features.fit(texts)
        views = self.features.views(texts)._replace(category=self._categories(queries))
        if views.known is not None:  # a lower share of known n-grams is rarer than 1 in 100 training questions
            self.values["known"] = float(np.quantile(views.known, 0.01))
        self.learn(views, np.asarray(quality, np.float64))
        self._learn_cost(views, usd)

    def _learn_cost(self, views: Views, usd: np.ndarray) -> None:
        mean = np.nanmean(usd, 0)
        scale = np.where(mean > 0, mean, 1.0)
        weights, base = linear(views.dense, usd / scale)
        self._cost = weights * scale, base * scale, np.nanmin(usd, 0) / 2

    def repriced(self, queries: Sequence[Query], table: OutcomeTable, pool: Pool) -> Self:
        """This router at the prices of `pool`: costs are predicted anew from the tokens recorded in `table` for these
        (training) queries; predicted qualities, which prices do not change, stay. Nobody is asked anything.
        """
        outcomes = table.select([q.id for q in sorted(queries, key=lambda q: q.id)])
        if absent := [m for m in self._known() if m not in outcomes.models or m not in pool]:
            raise RouterError(f"{absent[0]} needs a price in the pool and recorded tokens in the table")
        counts = (outcomes.matrix(n, None, graded=True) for n in ("tokens_in", "tokens_out", "tokens_cached"))
        tokens_in, tokens_out, cached = (n[:, [outcomes.models.index(m) for m in self.models]].T for n in counts)
        usd = [pool[m].usd(*tokens) for m, *tokens in zip(self.models, tokens_in, tokens_out, cached, strict=True)]
        other, texts = copy.copy(self), {q.id: q.text for q in queries}
        other._learn_cost(self.features.views([texts[q] for q in outcomes.queries]), np.array(usd).T)
        return other

    def _categories(self, queries: Sequence[Query]) -> np.ndarray | None:
        for name in (self.category,) if self.category else CATEGORIES:
            if all(name in q.meta for q in queries):
                return np.array([str(q.meta[name]) for q in queries])
        return None

    def _predict(self, queries: Sequence[Query]) -> tuple[np.ndarray, np.ndarray]:
        views = self.features.views([q.text for q in queries])
        weights, base, least = self._cost
        usd = np.maximum(views.dense @ weights + base, least)
        return np.asarray(self.estimate(views), float), usd

    def learn(self, views: Views, quality: np.ndarray) -> None:
        raise NotImplementedError

    def estimate(self, views: Views) -> np.ndarray:
        raise NotImplementedError


def filled(quality: np.ndarray) -> np.ndarray:
    """Missing entries replaced by the mean of their column."""
    return np.where(np.isnan(quality), np.nanmean(quality, 0), quality)


def linear(
    x: np.ndarray, y: np.ndarray, alphas: Sequence[float] = tuple(np.geomspace(0.1, 1000, 9))
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression (weights, intercepts) of the columns of y on x; a missing y counts as its column's mean. Each
    column takes the penalty with the least leave-one-out error, in closed form residual / (1 - leverage) (Allen 1974).
    """
    y = filled(np.asarray(y, np.float64))
    mean, centre = y.mean(0), x.mean(0, dtype=np.float64)
    y, x = y - mean, np.asarray(x, np.float64) - centre
    values, vectors = np.linalg.eigh(x.T @ x)
    rotated = x @ vectors
    projected, squared = rotated.T @ y, rotated**2
    best, weights = np.full(y.shape[1], np.inf), np.zeros((x.shape[1], y.shape[1]))
    for alpha in alphas:
        shrunk = 1 / (np.maximum(values, 0) + alpha)
        coefficients = shrunk[:, None] * projected
        leverage = squared @ shrunk + 1 / len(x)
        left_out = (y - rotated @ coefficients) / np.maximum(1 - leverage, 1e-6)[:, None]
        error = (left_out**2).mean(0)
        weights[:, error < best] = (vectors @ coefficients)[:, error < best]
        best = np.minimum(best, error)
    return weights, mean - centre @ weights


class Linear(Learned):
    """Ridge regression on the dense view, the penalty of each model by leave-one-out. Hoerl and Kennard (1970)."""

    name = "linear"

    def learn(self, views, quality):
        self.arrays["w"], self.arrays["b"] = linear(views.dense, quality)

    def estimate(self, views):
        return views.dense @ self.arrays["w"] + self.arrays["b"]


class Ridge(Learned):
    """Ridge regression on the wide view. The penalty is the one of `alphas` with the least error on a held-out fifth of
    the rows (every fifth by id, a hash); the final fit uses all rows.
    """

    name = "ridge"
    alphas: Sequence[float] = (1.0, 3.0, 10.0, 30.0)

    def learn(self, views, quality):
        y, fit = filled(quality), np.arange(len(quality)) % 5 != 0

        def error(alpha: float) -> float:
            w, b = sparse_ridge(views.wide[fit], y[fit], alpha)
            return ((views.wide[~fit] @ w + b - y[~fit]) ** 2).mean()

        enough = len(self.alphas) > 1 and len(y) >= 50
        self.values["alpha"] = float(min(self.alphas, key=error) if enough else max(self.alphas))
        self.arrays["w"], self.arrays["b"] = sparse_ridge(views.wide, y, self.values["alpha"])

    def estimate(self, views):
        return views.wide @ self.arrays["w"] + self.arrays["b"]


def sparse_ridge(x, y: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.linear_model import Ridge as Solver

    solver = Solver(alpha, solver="sparse_cg" if hasattr(x, "tocsr") else "cholesky", tol=1e-3)
    solver.fit(x, y)
    weights = np.asarray(solver.coef_, np.float32).reshape(y.shape[1], x.shape[1])
    return np.ascontiguousarray(weights.T), np.atleast_1d(solver.intercept_)


class KNN(Learned):
    """The mean outcome of the k training questions with the highest cosine similarity, shrunk toward the model's mean:
    (sum of known outcomes + 5 * mean) / (number known + 5). k is the one of `ks` with the least leave-one-out error.
    Cover and Hart (1967).
    """

    name, _shrink = "kNN", 5.0
    ks: Sequence[int] = (10, 20, 40, 80, 160)

    def learn(self, views, quality):
        self.arrays |= {"x": unit(views.dense), "y": quality.astype(np.float32)}
        self.arrays["mean"] = np.nanmean(quality, 0).astype(np.float32)
        guesses = self._means(self.arrays["x"], self.ks, leave_out=True)
        errors = [np.nanmean((guess - quality) ** 2) for guess in guesses]
        self.values["k"] = int(self.ks[int(np.argmin(errors))])

    def estimate(self, views):
        return self._means(unit(views.dense), [self.values["k"]])[0]

    def _means(self, x: np.ndarray, ks: Sequence[int], leave_out: bool = False) -> list[np.ndarray]:
        x0, y, mean = (self.arrays[n] for n in ("x", "y", "mean"))
        known = ~np.isnan(y)
        value = np.where(known, y, 0)
        most = max(1, min(max(ks), len(x0) - leave_out))
        out = [np.empty((len(x), y.shape[1]), np.float32) for _ in ks]
        for start in range(0, len(x), 1000):
            near = x[start : start + 1000] @ x0.T
            if leave_out:
                near[np.arange(len(near)), start + np.arange(len(near))] = -2
            at = np.argpartition(-near, most - 1, axis=1)[:, :most]
            nearest = np.take_along_axis(at, np.argsort(-np.take_along_axis(near, at, 1), 1), 1)
            total, count = value[nearest].cumsum(1), known[nearest].cumsum(1)
            for means, k in zip(out, ks, strict=True):
                last = min(k, most) - 1
                weight = count[:, last] + self._shrink
                means[start : start + 1000] = (total[:, last] + self._shrink * mean) / weight
        return out


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)).astype(np.float32)


class Logistic(Learned):
    """Logistic regression on the dense view for all models at once, with L2 penalty `alpha`. The loss is cross entropy,
    so a quality between 0 and 1 needs no rounding. Cox (1958).
    """

    name, alpha = "logistic", 3.0

    def learn(self, views, quality):
        from scipy.optimize import minimize

        known = ~np.isnan(quality)
        y = np.where(known, quality, 0)
        x = np.hstack([views.dense, np.ones((len(y), 1))]).astype(np.float64)
        shape = x.shape[1], y.shape[1]
        penalised = np.ones((shape[0], 1))
        penalised[-1] = 0

        def loss(flat):
            w = flat.reshape(shape)
            z = x @ w
            slope = x.T @ (known * (sigmoid(z) - y))
            pull = w * penalised
            value = (known * (np.logaddexp(0, z) - y * z)).sum() + self.alpha / 2 * (pull**2).sum()
            return value, (slope + self.alpha * pull).ravel()

        fit = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
        self.arrays["w"] = fit.x.reshape(shape)

    def estimate(self, views):
        return sigmoid(views.dense @ self.arrays["w"][:-1] + self.arrays["w"][-1])


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * z))
