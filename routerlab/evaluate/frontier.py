"""Quality against cost: what routers, single models, random mixes and the oracle reach on a table.

Everything here takes query x model matrices of what happened (`quality`, `usd`) and, for a router, of what it
predicts. An operating point is a cost weight λ (`lam`, quality per US dollar): a router with scores q and c calls
argmax(q - lam * c), the cheaper of two equals. Intervals are drawn as in `bootstrap_means`, over `clusters` of queries.
"""

from dataclasses import dataclass

import numpy as np

from routerlab.core.decisions import realised as realised
from routerlab.evaluate.stats import bootstrap_means, column_means


@dataclass(frozen=True)
class Frontier:
    """Mean quality and cost a query (USD) of one router at each operating point, with 95 % intervals."""

    name: str
    lam: np.ndarray
    quality: np.ndarray
    quality_low: np.ndarray
    quality_high: np.ndarray
    usd: np.ndarray
    usd_low: np.ndarray
    usd_high: np.ndarray

    def frame(self):
        """The points as a data frame (pandas), costs in USD per 1,000 queries."""
        import pandas as pd

        columns = {n: getattr(self, n) for n in ("lam", "quality", "quality_low", "quality_high")}
        columns |= {f"{n}_per_1000": getattr(self, n) * 1000 for n in ("usd", "usd_low", "usd_high")}
        return pd.DataFrame({"name": self.name, **columns})


def decide(quality: np.ndarray, usd: np.ndarray, lam: float) -> np.ndarray:
    """argmax over models of quality - lam * usd; of equals, the cheaper, and of those the first.

    A model whose quality or cost is NaN is not called; lam may be inf, where every query goes to its cheapest model.
    """
    # A free model stays free at any cost weight: inf * 0 is not a number.
    utility = quality - (lam * usd if np.isfinite(lam) else np.where(usd > 0, np.inf, usd))
    known = ~np.isnan(utility)
    utility = np.where(known, utility, -np.inf)
    best = known & (utility >= utility.max(1, keepdims=True) - 1e-12)
    return np.where(best, usd, np.inf).argmin(1)


def lam_grid(usd: np.ndarray, points: int = 120) -> np.ndarray:
    """Cost weights from 0 (cost does not count) to where every query goes to the cheapest model, evenly spaced on a log
    scale around 1 / (median cost of the calls that are not free).
    """
    paid = usd[usd > 0]
    typical = float(np.median(paid)) if paid.size else 1.0
    return np.concatenate([[0.0], np.geomspace(1e-3, 1e3, points - 1) / typical])


def trace(
    name: str,
    scores: tuple[np.ndarray, np.ndarray],
    quality: np.ndarray,
    usd: np.ndarray,
    lams: np.ndarray,
    *,
    rng: np.random.Generator,
    resamples: int = 1000,
    clusters: np.ndarray | None = None,
) -> Frontier:
    """The frontier of a router.

    Args: its `name`; its (quality, usd) `scores`; the `quality` and `usd` that happened; its cost weights `lams`; the
    random generator, the number of resamples and the clusters of the intervals.
    """
    values = np.array([realised(decide(*scores, lam), quality, usd) for lam in lams], np.float64)
    how = {"rng": rng, "resamples": resamples, "clusters": clusters}
    return summarise(name, np.asarray(lams, float), *values.transpose(1, 2, 0), **how)


def summarise(name, lams, quality, usd, *, rng, resamples: int = 1000, clusters=None) -> Frontier:
    """The frontier of measured values.

    Args: its `name`; the cost weights of its points; `quality` and `usd` (queries x points, or queries x points x
    seeds); the random generator, the number of resamples and the clusters of the intervals.
    """
    values = np.concatenate([quality, usd], 1)
    mean = column_means(values)
    low, high = np.quantile(bootstrap_means(values, resamples, rng=rng, clusters=clusters), [0.025, 0.975], axis=0)
    columns = [half for part in zip(*(np.split(x, 2) for x in (mean, low, high)), strict=True) for half in part]
    return Frontier(name, lams, *columns)


def singles(quality, usd, *, rng: np.random.Generator, clusters: np.ndarray | None = None) -> Frontier:
    """Each single model as one point, in the order of the columns; missing outcomes are refused."""
    every = [realised(np.full(len(quality), m), quality, usd) for m in range(quality.shape[1])]
    values = np.array(every, np.float64).transpose(1, 2, 0)
    return summarise("single models", np.full(quality.shape[1], np.nan), *values, rng=rng, clusters=clusters)


def oracle_bracket(
    quality: np.ndarray,
    usd: np.ndarray,
    other: np.ndarray,
    lams: np.ndarray,
    *,
    rng: np.random.Generator,
    clusters: np.ndarray | None = None,
    other_usd: np.ndarray | None = None,
) -> tuple[Frontier, Frontier]:
    """The best that routing could reach, from below and from above.

    The naive oracle chooses on the very answers it is scored on, so it also collects lucky ones. The honest one
    chooses on other tries of the same models and is scored on these.

    Args: the `quality` and `usd` that are scored; `other` and `other_usd`, the mean quality and cost of other tries
    (without `other_usd` the honest oracle sees the costs it is charged, and collects those that happened to be low);
    the cost weights `lams`; the random generator and the clusters of the intervals.
    Returns: (honest, naive).
    """
    seen = other, usd if other_usd is None else other_usd
    honest = trace("oracle, split", seen, quality, usd, lams, rng=rng, clusters=clusters)
    return honest, trace("oracle, naive", (quality, usd), quality, usd, lams, rng=rng, clusters=clusters)


def hull(usd: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(usd, quality) corners of the upper concave hull of these points: all that random mixing of them can reach."""
    at = corners(usd, quality)
    return np.asarray(usd, float)[at], np.asarray(quality, float)[at]


def corners(usd: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """The places of the corners of the upper concave hull, from the cheapest point to the best; cost rises strictly."""
    x, y = np.asarray(usd, float), np.asarray(quality, float)
    kept: list[int] = []
    for new in np.lexsort((-y, x)).tolist():
        if kept and y[new] <= y[kept[-1]]:
            continue
        while len(kept) > 1:
            a, b = kept[-2:]
            if (y[b] - y[a]) * (x[new] - x[a]) > (y[new] - y[a]) * (x[b] - x[a]):
                break
            kept.pop()
        kept.append(new)
    return np.array(kept, int)
