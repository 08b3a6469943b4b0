"""What a router would gain if it had seen answers of some models before it decides. A cascade or an agent pays for
those answers, so this tells whether one can pay on a pool before anybody builds it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from routerlab.core.outcomes import OutcomeError
from routerlab.evaluate.frontier import decide
from routerlab.evaluate.mixes import path_area
from routerlab.evaluate.stats import Interval, bootstrap_means

Fit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Look(NamedTuple):
    """Areas of routers that see the answers of `models` (columns): `without` seeing them the area itself, `free` and
    `paid` the gain over that when they cost nothing and when they are charged.
    """

    models: tuple[int, ...]
    without: Interval
    free: Interval
    paid: Interval


def looking(
    x: np.ndarray,
    signs: np.ndarray,
    said: np.ndarray,
    outcomes: tuple[np.ndarray, np.ndarray],
    sets: Sequence[Sequence[int]],
    *,
    fit: Fit,
    lams: np.ndarray,
    rng: np.random.Generator,
    clusters: np.ndarray | None = None,
    folds: int = 5,
) -> list[Look]:
    """One line for each of `sets` of models that are seen. Every question is decided by predictions that were fitted
    without it and its near-duplicates. A router that pays looks where the gain it expects from looking, predicted from
    the question, is above what the answers cost. The area is the mean quality over costs from the cheapest to the best
    model's, of all operating points `lams`; none is selected.

    Args: features `x` of the questions; what an answer shows (`signs`, questions x models x any number); a number for
    its text (`said`, questions x models: equal for equal answers, negative for none); (quality, usd) `outcomes`; the
    `sets` of columns; `fit`, which returns (weights, intercepts) of y on x; the cost weights `lams`; the random
    generator, the clusters of near-duplicates, the number of folds.
    """
    quality, usd = (np.asarray(m, float) for m in outcomes)
    group = np.arange(len(x)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    fold = rng.permutation(group.max() + 1)[group] % folds

    def unseen(features: np.ndarray, y: np.ndarray) -> np.ndarray:
        out = np.empty(y.shape)
        for k in range(folds):
            weights, base = fit(features[fold != k], y[fold != k])
            out[fold == k] = features[fold == k] @ weights + base
        return out

    plain, cost, rows = unseen(x, quality), np.maximum(unseen(x, usd), usd.min(0) / 2), np.arange(len(x))[:, None]
    alone = np.stack([decide(plain, cost, lam) for lam in lams], 1)
    mean = usd.mean(0)
    ends = mean.min(), mean[np.lexsort((mean, -quality.mean(0)))[0]]
    if not ends[0] < ends[1]:
        raise OutcomeError("the cheapest model is the best one, so no router can gain; choose other models")
    lines = []
    for models in (list(m) for m in sets):
        agree = (said[:, models, None] == said[:, None, models]) & (said[:, models] >= 0)[:, :, None]
        shown = np.hstack([x, signs[:, models].reshape(len(x), -1), agree.sum(2) - 1.0])
        knowing = unseen(shown, quality)
        rest = cost.copy()
        rest[:, models] = 0  # once seen, an answer costs nothing more
        free, after = (np.stack([decide(knowing, c, lam) for lam in lams], 1) for c in (cost, rest))
        gain = [
            (knowing - lam * rest)[rows[:, 0], a] - (knowing - lam * cost)[rows[:, 0], b]
            for lam, a, b in zip(lams, after.T, alone.T, strict=True)
        ]
        looks = unseen(x, np.stack(gain, 1)) > lams * cost[:, models].sum(1, keepdims=True)
        chosen = np.where(looks, after, alone)
        extra = np.where(np.isin(chosen, models), 0, usd[rows, chosen]) + usd[:, models].sum(1, keepdims=True)
        paid = np.where(looks, extra, usd[rows, chosen])
        values = [quality[rows, c] for c in (alone, free, chosen)] + [usd[rows, alone], usd[rows, free], paid]
        drawn = bootstrap_means(np.hstack(values), 2000, rng=np.random.default_rng(0), clusters=clusters)
        both = np.vstack([np.hstack(values).mean(0), drawn]).reshape(len(drawn) + 1, 2, 3, -1)
        area = path_area(both[:, 1], both[:, 0], *ends)
        first, *others = (Interval.of(a[0], a[1:]) for a in (area[:, 0], *(area[:, 1:] - area[:, :1]).T))
        lines.append(Look(tuple(models), first, *others))
    return lines
