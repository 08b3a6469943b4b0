"""Learned routers that are not linear in their features: trees and small networks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from routerlab.core.threads import one_thread
from routerlab.routers.learned import Learned, filled, sigmoid


class Forest(Learned):
    """Extremely randomised trees on the dense view, one forest for all models. Geurts, Ernst and Wehenkel (2006)."""

    name, seed, trees, least = "forest", 0, 60, 5

    def learn(self, views, quality):
        from sklearn.ensemble import ExtraTreesRegressor

        how: dict[str, Any] = {"min_samples_leaf": self.least, "max_features": 0.3, "random_state": self.seed}
        forest, y = ExtraTreesRegressor(self.trees, n_jobs=-1, **how), filled(quality)
        forest.fit(views.dense, y[:, 0] if y.shape[1] == 1 else y)
        grown = [t.tree_ for t in forest.estimators_]
        # The nodes of all trees one after another, as arrays: scikit-learn can only pickle a forest.
        size = np.cumsum([0, *(t.node_count for t in grown)])

        def child(side: str) -> np.ndarray:
            """The child of each node on this side; a leaf is its own child."""
            own = [np.where(t.children_left < 0, np.arange(t.node_count), getattr(t, side)) for t in grown]
            return np.concatenate([c + at for c, at in zip(own, size, strict=False)]).astype(np.int32)

        self.arrays = {
            "root": size[:-1],
            "left": child("children_left"),
            "right": child("children_right"),
            "feature": np.maximum(np.concatenate([t.feature for t in grown]), 0).astype(np.int16),
            "threshold": np.concatenate([t.threshold for t in grown]),
            "value": np.concatenate([t.value[..., 0] for t in grown]).astype(np.float32),
        }
        self.values["depth"] = int(max(t.max_depth for t in grown))

    def estimate(self, views):
        a, x = self.arrays, views.dense
        rows, total = np.arange(len(x)), np.zeros((len(x), a["value"].shape[1]))
        node = np.tile(a["root"][:, None], len(x))  # trees x questions
        for _ in range(self.values["depth"]):
            low = x[rows, a["feature"][node]] <= a["threshold"][node]
            node = np.where(low, a["left"][node], a["right"][node])
        for leaves in node:
            total += a["value"][leaves]
        return total / len(node)


class Boosting(Learned):
    """Gradient-boosted trees on the dense view, one ensemble a model. Friedman (2001), Ke et al. (2017)."""

    name, seed, rounds = "boosting", 0, 120
    _trees: Sequence[Any] = ()

    def learn(self, views, quality):
        import lightgbm

        least = max(2, min(50, len(quality) // 20))
        settings = {"objective": "cross_entropy", "learning_rate": 0.03, "num_leaves": 8, "min_data_in_leaf": least}
        settings |= {"feature_fraction": 0.1, "bagging_fraction": 0.7, "bagging_freq": 1, "lambda_l2": 20.0}
        # On busy cores several threads are slower than one.
        settings |= {"deterministic": True, "num_threads": 1, "force_col_wise": True, "seed": self.seed, "verbose": -1}
        texts, whole = [], lightgbm.Dataset(views.dense, params=settings, free_raw_data=False)
        for column in quality.T:
            known = np.flatnonzero(~np.isnan(column))
            if len(known) == len(column) > 1:
                data = whole.set_label(column)  # binned once for all models
            else:
                # Bagging fails on a single row.
                known = np.tile(known, 2) if len(known) == 1 else known
                data = lightgbm.Dataset(views.dense[known], column[known])
            texts.append(lightgbm.train(settings, data, self.rounds).model_to_string())
        self.values["trees"], self._trees = texts, ()

    def estimate(self, views):
        import lightgbm

        if not self._trees:
            self._trees = [lightgbm.Booster(model_str=text) for text in self.values["trees"]]
        return np.stack([np.asarray(t.predict(views.dense)) for t in self._trees], 1)


class Factorisation(Learned):
    """Matrix factorisation with side information: sigmoid(V U x), where U x is a vector of the question and the rows of
    V are vectors of the models, `rank` long. Koren, Bell and Volinsky (2009); RouteLLM's router is of this kind.
    """

    name, seed = "factorisation", 0
    rectified, rank, epochs, decay, dropout = False, 16, 20, 0.1, 0.3

    @one_thread("torch")
    def learn(self, views, quality):
        """AdamW on cross entropy with dropout; a missing outcome has no weight in the loss."""
        import torch

        self.arrays["scale"] = np.array(views.dense.std(0).mean() or 1.0, np.float32)
        generator = torch.Generator().manual_seed(self.seed or 0)
        known = torch.tensor(~np.isnan(quality), dtype=torch.float32)
        x = torch.tensor(views.dense / self.arrays["scale"], dtype=torch.float32)
        targets = torch.tensor(np.nan_to_num(quality), dtype=torch.float32)

        def random_weight(rows: int, columns: int) -> torch.Tensor:
            weight = torch.empty(rows, columns).uniform_(-1, 1, generator=generator) / columns**0.5
            return weight.requires_grad_()

        u, v = random_weight(self.rank, x.shape[1]), random_weight(quality.shape[1], self.rank)
        base = torch.logit(torch.tensor(np.nanmean(quality, 0), dtype=torch.float32).clamp(0.01, 0.99))
        a, b = torch.zeros(self.rank, requires_grad=True), base.requires_grad_()
        groups = [{"params": [u, v], "weight_decay": self.decay}, {"params": [a, b], "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=3e-3)
        size = min(256, max(16, len(x) // 8), len(x))  # few queries: smaller batches, or there are too few steps
        steps = self.epochs * (len(x) // size)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
        for _ in range(self.epochs):
            for at in torch.randperm(len(x), generator=generator)[: len(x) // size * size].split(size):
                inner = x[at] @ u.T + a
                inner = inner.relu() if self.rectified else inner
                mask = (torch.rand(inner.shape, generator=generator) >= self.dropout) / (1 - self.dropout)
                logits = (inner * mask) @ v.T + b
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets[at], known[at])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                rate.step()
        self.arrays |= {n: w.detach().numpy() for n, w in zip("uvab", (u, v, a, b), strict=True)}

    def estimate(self, views):
        a = self.arrays
        inner = views.dense / a["scale"] @ a["u"].T + a["a"]
        inner = np.maximum(inner, 0) if self.rectified else inner
        return sigmoid(inner @ a["v"].T + a["b"])


class MLP(Factorisation):
    """A network with one hidden layer of 128 rectified units, shared by all models, half of them dropped in training.
    Srivastava et al. (2014).
    """

    name = "MLP"
    rectified, rank, epochs, decay, dropout = True, 128, 12, 1.0, 0.5
