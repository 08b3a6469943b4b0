"""Fitting every learned router on 15,000 queries x 384 features x 30 models, and predicting as many, beside
scikit-learn fitted model by model; then the time of one decision from the text, features included.

Prints a table, and as its last line one JSON object of named figures.
"""

import json
import time
from statistics import median

import numpy as np

from routerlab import recorded
from routerlab.contest.run import KINDS
from routerlab.routers.blend import Blend
from routerlab.routers.features import Tfidf, Views
from routerlab.routers.learned import KNN, Learned, Linear, Logistic, Ridge
from routerlab.routers.nonlinear import MLP, Boosting, Factorisation, Forest

QUERIES, WIDTH, MODELS = 15_000, 384, 30


def timed(do) -> tuple[float, object]:
    started = time.perf_counter()
    made = do()
    return time.perf_counter() - started, made


def plain(x: np.ndarray, y: np.ndarray) -> dict[str, tuple[float, float]]:
    """(fit, predict) seconds of scikit-learn's own, a model at a time where it takes one target."""
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.neighbors import KNeighborsRegressor

    alphas = np.geomspace(0.1, 1000, 9)
    columns = range(MODELS)
    fit, made = timed(lambda: [RidgeCV(alphas).fit(x, y[:, m]) for m in columns])
    out = {"linear": (fit, timed(lambda: [r.predict(x) for r in made])[0])}
    # One k, where ours tries five: scikit-learn has no leave-one-out for it.
    fit, made = timed(lambda: KNeighborsRegressor(80, algorithm="brute", metric="cosine").fit(x, y))
    out["kNN"] = fit, timed(lambda: made.predict(x))[0]
    fit, made = timed(lambda: [LogisticRegression(C=1 / 3, max_iter=200).fit(x, y[:, m] > 0.5) for m in columns])
    out["logistic"] = fit, timed(lambda: [r.predict_proba(x) for r in made])[0]
    return out


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((QUERIES, WIDTH)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    signal = 8 * x @ rng.standard_normal((WIDTH, MODELS)) + np.linspace(-1, 1, MODELS)
    y = (rng.random((QUERIES, MODELS)) < 1 / (1 + np.exp(-signal))).astype(float)
    views = Views(x, x)
    kinds: list[type[Learned]] = [
        Linear, Ridge, KNN, Logistic, Factorisation, MLP, Forest, Boosting, Blend,
    ]  # fmt: skip
    theirs, figures = plain(x, y), {}
    print(f"{'router':15} {'fit s':>7} {'predict s':>10} {'scikit-learn fit s':>19} {'predict s':>10}")
    for kind in kinds:
        router = kind()
        fit, _ = timed(lambda r=router: r.learn(views, y))
        predict, found = timed(lambda r=router: r.estimate(views))
        assert np.shape(found) == y.shape
        beside = theirs.get(router.name)
        print(
            f"{router.name:15} {fit:7.2f} {predict:10.2f}" + (f" {beside[0]:19.2f} {beside[1]:10.2f}" if beside else "")
        )
        figures |= {
            f"fit_seconds_{router.name}": round(fit, 2),
            f"predict_seconds_{router.name}": round(predict, 2),
        }
    figures["fit_seconds"] = max(v for k, v in figures.items() if k.startswith("fit_") and "blend" not in k)
    figures["linear_vs_sklearn"] = round(theirs["linear"][0] / max(figures["fit_seconds_linear"], 1e-3), 1)

    data = recorded()
    train, test = data.split("train"), data.split("test")
    features = Tfidf().fit([q.text for q in train.queries])
    print(f"\n{'router':15} {'ms a decision, alone':>21} {'in a batch of ' + str(len(test.queries)):>22}")
    for name in ("length", "linear", "ridge", "knn", "mlp", "forest", "blend"):
        router = KINDS[name](features).fit(train.queries, train.table)
        alone = [timed(lambda q=q, r=router: r.route([q], data.pool))[0] * 1000 for q in test.queries[:60]]
        features._cache.clear()
        batch = timed(lambda r=router: r.route(test.queries, data.pool))[0] / len(test.queries) * 1000
        print(f"{router.name:15} {median(alone):21.2f} {batch:22.3f}")
        figures |= {f"ms_per_decision_{name}": round(median(alone), 2)}
    figures["ms_per_decision"] = figures["ms_per_decision_blend"]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
