"""Routers that sort questions into groups and predict the mean outcomes of a question's likely groups."""

import warnings
from collections.abc import Sequence

import numpy as np

from routerlab.routers.learned import Learned, filled, sparse_ridge, unit
from routerlab.routers.protocol import RouterError


class Grouped(Learned):
    """Predicts the mean outcomes of groups, `means` (groups x models), mixed by how likely a question is of each."""

    def estimate(self, views):
        return self.probabilities(views) @ self.arrays["means"]

    def probabilities(self, views) -> np.ndarray:
        """How likely each question (rows) is of each group (columns)."""
        raise NotImplementedError


class PredictedCategory(Grouped):
    """The category is predicted from the text, and the mean outcomes of all categories are mixed by its probabilities:
    sum over categories g of p(g | text) * mean_g, with mean_g = (sum of outcomes in g + 5 * mean) / (number in g + 5).
    p is a ridge regression of the categories' indicators on the wide view, cut at 0 and scaled to 1.

    The training categories are `meta[category]`; without a name, the first of `learned.CATEGORIES` that all training
    queries have. The text alone is read when it routes.
    """

    name, alpha = "predicted category", 1.0

    def learn(self, views, quality):
        if views.category is None:
            raise RouterError("no column of meta has a category for every training query; leave this router out")
        names, code = np.unique(views.category, return_inverse=True)
        member = np.eye(len(names))[code]
        self.arrays["w"], self.arrays["b"] = sparse_ridge(views.wide, member, self.alpha)
        self.arrays["means"] = group_means(member, quality)

    def probabilities(self, views):
        scores = np.maximum(views.wide @ self.arrays["w"] + self.arrays["b"], 1e-6)
        return scores / scores.sum(1, keepdims=True)


class KMeans(Grouped):
    """Questions are clustered by their direction in the dense view (k-means); the prediction in a cluster is the mean
    outcome of each model there, shrunk as in `PredictedCategory`. k is the one of `ks` with the least error on a
    held-out fifth of the questions. The method of Avengers (Zhang et al. 2025).
    """

    name, seed = "k-means", 0
    ks: Sequence[int] = (8, 16, 32, 64)

    def learn(self, views, quality):
        x, fit = unit(views.dense), np.arange(len(quality)) % 5 != 0
        ks = [k for k in self.ks if k <= len(x) // 10] or [1]

        def error(k: int) -> float:
            self._cluster(x[fit], quality[fit], k)
            return float(np.nanmean((self.arrays["means"][self._nearest(x[~fit])] - quality[~fit]) ** 2))

        self.values["k"] = min(ks, key=error) if len(ks) > 1 else ks[0]
        self._cluster(x, quality, self.values["k"])

    def _cluster(self, x: np.ndarray, quality: np.ndarray, k: int) -> None:
        from scipy.cluster.vq import kmeans2

        rng = np.random.default_rng(self.seed)
        start = x[rng.choice(len(x), k, replace=False)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty cluster predicts the overall mean
            centres, cluster = kmeans2(x, start, minit="matrix", iter=30)
        self.arrays |= {"centres": centres, "means": group_means(np.eye(k)[cluster], quality)}

    def probabilities(self, views):
        return np.eye(len(self.arrays["centres"]))[self._nearest(unit(views.dense))]

    def _nearest(self, x: np.ndarray) -> np.ndarray:
        centres = self.arrays["centres"]
        return ((centres**2).sum(1) - 2 * x @ centres.T).argmin(1)


def group_means(member: np.ndarray, quality: np.ndarray, shrink: float = 5.0) -> np.ndarray:
    """Mean quality of each group (rows) and model (columns): (sum of outcomes + shrink * mean) / (number + shrink).
    `member` (queries x groups) says how much of each query is in each group; missing outcomes count for nothing.
    """
    mean, known = filled(quality).mean(0), ~np.isnan(quality)
    return (member.T @ np.where(known, quality, 0) + shrink * mean) / (member.T @ known + shrink)
