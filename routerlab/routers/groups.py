"""Routers that sort questions into groups and predict the mean outcomes of a question's likely groups."""

import warnings

import numpy as np

from routerlab.routers.learned import Learned, filled, sparse_ridge, unit
from routerlab.routers.protocol import RouterError


class PredictedCategory(Learned):
    """The category is predicted from the text, and the mean outcomes of all categories are mixed by its probabilities:
    sum over categories g of p(g | text) * mean_g, with mean_g = (sum of outcomes in g + 5 * mean) / (number in g + 5).
    p is a ridge regression of the categories' indicators on the wide view, cut at 0 and scaled to 1.

    The training categories are `meta[category]`; without a name, the first of `learned.CATEGORIES` that all training
    queries have. The text alone is read when it routes.
    """

    name = "predicted category"

    def __init__(self, features=None, lam=0.0, alpha: float = 1.0) -> None:
        super().__init__(features, lam)
        self.alpha = alpha

    def learn(self, views, quality):
        if views.category is None:
            raise RouterError("no column of meta has a category for every training query; leave this router out")
        names, code = np.unique(views.category, return_inverse=True)
        member = np.eye(len(names))[code]
        self.arrays["w"], self.arrays["b"] = sparse_ridge(views.wide, member, self.alpha)
        self.arrays["means"] = group_means(member, quality)

    def estimate(self, views):
        return self.probabilities(views) @ self.arrays["means"]

    def probabilities(self, views) -> np.ndarray:
        """How likely each question (rows) is of each category (columns)."""
        scores = np.maximum(views.wide @ self.arrays["w"] + self.arrays["b"], 1e-6)
        return scores / scores.sum(1, keepdims=True)


class KMeans(Learned):
    """Questions are clustered by their direction in the dense view (k-means); the prediction in a cluster is the mean
    outcome of each model there, shrunk as in `PredictedCategory`. k is the one of `ks` with the least error on a
    held-out fifth of the questions. The method of Avengers (Zhang et al. 2025).
    """

    name, seed = "k-means", 0

    def __init__(self, features=None, lam=0.0, ks=(8, 16, 32, 64)) -> None:
        super().__init__(features, lam)
        self.ks: tuple[int, ...] = tuple(ks)

    def learn(self, views, quality):
        x, fit = unit(views.dense), np.arange(len(quality)) % 5 != 0
        ks = [k for k in self.ks if k <= len(x) // 10] or [1]
        errors = []
        for k in ks if len(ks) > 1 else ():
            self._cluster(x[fit], quality[fit], k)
            errors.append(np.nanmean((self._predicted(x[~fit]) - quality[~fit]) ** 2))
        self.values["k"] = ks[int(np.argmin(errors))] if errors else ks[0]
        self._cluster(x, quality, self.values["k"])

    def estimate(self, views):
        return self._predicted(unit(views.dense))

    def _cluster(self, x: np.ndarray, quality: np.ndarray, k: int) -> None:
        from scipy.cluster.vq import kmeans2

        rng = np.random.default_rng(self.seed)
        start = x[rng.choice(len(x), k, replace=False)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty cluster predicts the overall mean
            centres, cluster = kmeans2(x, start, minit="matrix", iter=30)
        self.arrays |= {"centres": centres, "means": group_means(np.eye(k)[cluster], quality)}

    def probabilities(self, views) -> np.ndarray:
        """1 for the cluster of each question (rows), 0 for the others (columns)."""
        return np.eye(len(self.arrays["centres"]))[self._nearest(unit(views.dense))]

    def _predicted(self, x: np.ndarray) -> np.ndarray:
        return self.arrays["means"][self._nearest(x)]

    def _nearest(self, x: np.ndarray) -> np.ndarray:
        centres = self.arrays["centres"]
        return ((centres**2).sum(1) - 2 * x @ centres.T).argmin(1)


def group_means(member: np.ndarray, quality: np.ndarray, shrink: float = 5.0) -> np.ndarray:
    """Mean quality of each group (rows) and model (columns): (sum of outcomes + shrink * mean) / (number + shrink).
    `member` (queries x groups) says how much of each query is in each group; missing outcomes count for nothing.
    """
    mean, known = filled(quality).mean(0), ~np.isnan(quality)
    return (member.T @ np.where(known, quality, 0) + shrink * mean) / (member.T @ known + shrink)
