"""Learned routers that are not linear in their features: trees and small networks."""

from typing import Any

import numpy as np

from routerlab.routers.learned import Learned, filled


class Forest(Learned):
    """Extremely randomised trees on the dense view, one forest for all models. Geurts, Ernst and Wehenkel (2006)."""

    name, seed = "forest", 0

    def __init__(self, features=None, lam=0.0, trees: int = 60, least: int = 5) -> None:
        super().__init__(features, lam)
        self.trees, self.least = trees, least

    def learn(self, views, quality):
        from sklearn.ensemble import ExtraTreesRegressor

        made = ExtraTreesRegressor(
            self.trees,
            min_samples_leaf=self.least,
            max_features=0.3,
            n_jobs=-1,
            random_state=self.seed,
        )
        y = filled(quality)
        made.fit(views.dense, y[:, 0] if y.shape[1] == 1 else y)
        grown = [t.tree_ for t in made.estimators_]
        # Kept as arrays, the trees one after another: a forest of the library's own can only be pickled.
        size = np.cumsum([0, *(t.node_count for t in grown)])

        def after(side: str) -> np.ndarray:
            """Where each node leads on this side; a leaf leads to itself."""
            steps = [
                np.where(t.children_left < 0, np.arange(t.node_count), getattr(t, side)) + at
                for t, at in zip(grown, size, strict=False)
            ]
            return np.concatenate(steps).astype(np.int32)

        self.arrays = {
            "root": size[:-1],
            "left": after("children_left"),
            "right": after("children_right"),
            "feature": np.maximum(np.concatenate([t.feature for t in grown]), 0).astype(np.int16),
            "threshold": np.concatenate([t.threshold for t in grown]),
            "value": np.concatenate([t.value[..., 0] for t in grown]).astype(np.float32),
        }
        self.values["depth"] = int(max(t.max_depth for t in grown))

    def estimate(self, views):
        a, x = self.arrays, views.dense
        rows, total = np.arange(len(x)), np.zeros((len(x), a["value"].shape[1]))
        for root in a["root"]:
            node = np.full(len(x), root)
            for _ in range(self.values["depth"]):
                low = x[rows, a["feature"][node]] <= a["threshold"][node]
                node = np.where(low, a["left"][node], a["right"][node])
            total += a["value"][node]
        return total / len(a["root"])


class Boosting(Learned):
    """Gradient-boosted trees on the dense view, one ensemble a model. Friedman (2001), Ke et al. (2017)."""

    name, seed = "boosting", 0

    def __init__(self, features=None, lam=0.0, rounds: int = 120) -> None:
        super().__init__(features, lam)
        self.rounds = rounds
        self._trees: list[Any] = []

    def learn(self, views, quality):
        import lightgbm

        settings = {
            "objective": "cross_entropy",
            "learning_rate": 0.03,
            "num_leaves": 8,
            "min_data_in_leaf": max(2, min(50, len(quality) // 20)),
            "feature_fraction": 0.1,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
            "lambda_l2": 20.0,
            "deterministic": True,
            "num_threads": 1,  # on busy cores its waiting threads cost more than they do
            "force_col_wise": True,
            "seed": self.seed,
            "verbose": -1,
        }
        texts, whole = [], lightgbm.Dataset(views.dense, params=settings, free_raw_data=False)
        for column in quality.T:
            known = np.flatnonzero(~np.isnan(column))
            if len(known) == len(column) > 1:
                data = whole.set_label(column)  # binned once for all models
            else:
                # It draws rows, and needs one.
                known = np.tile(known, 2) if len(known) == 1 else known
                data = lightgbm.Dataset(views.dense[known], column[known])
            texts.append(lightgbm.train(settings, data, self.rounds).model_to_string())
        self.values["trees"], self._trees = texts, []

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
    hidden, rank, epochs, decay = 0, 16, 20, 0.1

    def learn(self, views, quality):
        self.arrays["scale"] = np.array(views.dense.std(0).mean() or 1.0, np.float32)
        x, width = views.dense / self.arrays["scale"], self.hidden or self.rank
        how: dict[str, Any] = {"epochs": self.epochs, "decay": self.decay, "seed": self.seed or 0}
        self.arrays |= _train(x, quality, width, curved=bool(self.hidden), **how)

    def estimate(self, views):
        a = self.arrays
        inner = views.dense / a["scale"] @ a["u"].T + a["a"]
        return 0.5 * (1 + np.tanh(0.5 * (self._bend(inner) @ a["v"].T + a["b"])))

    def _bend(self, inner: np.ndarray) -> np.ndarray:
        return inner


class MLP(Factorisation):
    """A network with one hidden layer of 128 rectified units, shared by all models, half of them dropped in training.
    Srivastava et al. (2014).
    """

    name = "MLP"
    hidden, epochs, decay = 128, 12, 1.0

    def _bend(self, inner):
        return np.maximum(inner, 0)


def _train(x: np.ndarray, y: np.ndarray, width: int, *, curved: bool, epochs: int, decay: float, seed: int) -> dict:
    """Weights of x -> width -> models by AdamW on cross entropy; missing outcomes have no weight."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    known = torch.tensor(~np.isnan(y), dtype=torch.float32)
    given = torch.tensor(x, dtype=torch.float32)
    wanted = torch.tensor(np.nan_to_num(y), dtype=torch.float32)

    def drawn(rows: int, columns: int) -> torch.Tensor:
        weight = torch.empty(rows, columns).uniform_(-1, 1, generator=generator) / columns**0.5
        return weight.requires_grad_()

    u, v = drawn(width, x.shape[1]), drawn(y.shape[1], width)
    base = torch.logit(torch.tensor(np.nanmean(y, 0), dtype=torch.float32).clamp(0.01, 0.99))
    a, b = torch.zeros(width, requires_grad=True), base.requires_grad_()
    groups = [{"params": [u, v], "weight_decay": decay}, {"params": [a, b], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=3e-3)
    size = min(256, max(16, len(x) // 8), len(x))  # few queries still get a few hundred steps
    steps = epochs * (len(x) // size)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    drop = 0.5 if curved else 0.3
    for _ in range(epochs):
        for at in torch.randperm(len(x), generator=generator)[: len(x) // size * size].split(size):
            inner = given[at] @ u.T + a
            inner = inner.relu() if curved else inner
            kept = (torch.rand(inner.shape, generator=generator) >= drop) / (1 - drop)
            loss = torch.nn.functional.binary_cross_entropy_with_logits((inner * kept) @ v.T + b, wanted[at], known[at])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
    return {n: w.detach().numpy() for n, w in zip("uvab", (u, v, a, b), strict=True)}
