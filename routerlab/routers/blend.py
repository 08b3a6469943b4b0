"""Several routers as one: their predictions, weighted by how well each does on questions it was not fitted on."""

import copy
from collections.abc import Sequence

import numpy as np

from routerlab.routers.groups import PredictedCategory
from routerlab.routers.learned import KNN, Learned, Linear, Ridge
from routerlab.routers.nonlinear import Forest


class Blend(Learned):
    """The mean of each model plus a weighted sum of what each member predicts above that mean. The weights, 0 or more,
    minimise the squared error of out-of-fold predictions, so a member that does not help gets weight 0 and predictions
    shrink toward the mean. A table without categories has no member that predicts them. Wolpert (1992), Breiman (1996).
    """

    name, seed, folds = "blend", 0, 4
    members: Sequence[Learned] = Linear(), Ridge(alphas=(30,)), KNN(), Forest(), PredictedCategory()

    def __init__(self, features=None, **settings) -> None:
        super().__init__(features, **settings)
        self.members = copy.deepcopy(self.members)

    def learn(self, views, quality):
        from scipy.optimize import nnls

        if views.category is None:
            self.members = [m for m in self.members if not isinstance(m, PredictedCategory)]
        self.arrays["mean"], known = np.nanmean(quality, 0), ~np.isnan(quality)
        fold = np.random.default_rng(self.seed).permutation(len(quality)) % self.folds
        unseen = np.tile(self.arrays["mean"], (len(self.members), len(quality), 1))
        for number, member in enumerate(self.members):
            if member.seed is not None:
                member.seed = self.seed
            for k in range(self.folds if len(quality) > 1 else 0):
                without_fold, shown = copy.deepcopy(member), quality[fold != k]
                # A model with no outcome outside this fold is predicted as its mean.
                shown[:, np.isnan(shown).all(0)] = self.arrays["mean"][np.isnan(shown).all(0)]
                without_fold.learn(views.rows(fold != k), shown)
                unseen[number, fold == k] = without_fold.estimate(views.rows(fold == k))
            member.learn(views, quality)
        above_mean = (unseen - self.arrays["mean"])[:, known].T
        self.arrays["weights"] = nnls(above_mean, (quality - self.arrays["mean"])[known])[0]

    def estimate(self, views):
        mean = self.arrays["mean"]
        start = np.tile(mean, (len(views.dense), 1))
        weighted = zip(self.arrays["weights"], self.members, strict=True)
        return start + sum(w * (m.estimate(views) - mean) for w, m in weighted if w > 0)
