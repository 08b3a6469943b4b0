"""Quality against cost: what routers, single models, random mixes and the oracle reach on a table.

Everything here takes query x model matrices of what happened (`quality`, `usd`) and, for a router, of what it
predicts. An operating point is a price of money, lam, in quality per US dollar: a router with scores q and c calls
argmax(q - lam * c), the cheaper of two equals.
"""

from dataclasses import dataclass

import numpy as np

from routerlab.core.outcomes import OutcomeError
from routerlab.evaluate.stats import bootstrap_means


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
    # A free model stays free at any price of money: inf * 0 is no number.
    utility = quality - (lam * usd if np.isfinite(lam) else np.where(usd > 0, np.inf, usd))
    known = ~np.isnan(utility)
    utility = np.where(known, utility, -np.inf)
    best = known & (utility >= utility.max(1, keepdims=True) - 1e-12)
    return np.where(best, usd, np.inf).argmin(1)


def realised(choice: np.ndarray, *matrices: np.ndarray) -> list[np.ndarray]:
    """What happened on each query under the chosen models; a chosen outcome that is missing is refused."""
    rows = np.arange(len(choice))
    found = [m[rows, choice] for m in matrices]
    if bad := int(np.isnan(found).any(0).sum()):
        raise OutcomeError(
            f"{bad} of {len(choice)} chosen outcomes are missing: collect them, or keep the "
            f"queries every model answered"
        )
    return found


def lam_grid(usd: np.ndarray, points: int = 120) -> np.ndarray:
    """Operating points from 'money is no object' (0) to 'always the cheapest', evenly spaced on a log scale around what
    is typically paid; free calls do not count there.
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
    """The frontier of a router with these (quality, usd) scores on what really happened; intervals over `clusters` of
    queries as in `bootstrap_means`.
    """
    values = [realised(decide(*scores, lam), quality, usd) for lam in lams]
    values = np.array(values, np.float64).transpose(1, 2, 0)
    how = {"rng": rng, "resamples": resamples, "clusters": clusters}
    return summarise(name, np.asarray(lams, float), *values, **how)


def summarise(name, lams, quality, usd, *, rng, resamples=1000, clusters=None) -> Frontier:
    """A frontier from realised (queries x points) quality and cost."""
    points = quality.shape[1]
    means = bootstrap_means(np.hstack([quality, usd]), resamples, rng=rng, clusters=clusters)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    ends = low[:points], high[:points], low[points:], high[points:]
    return Frontier(name, lams, quality.mean(0), ends[0], ends[1], usd.mean(0), ends[2], ends[3])


def singles(
    quality: np.ndarray,
    usd: np.ndarray,
    *,
    rng: np.random.Generator,
    clusters: np.ndarray | None = None,
) -> Frontier:
    """Each single model as one point, in the order of the columns; missing outcomes are refused."""
    every = [realised(np.full(len(quality), m), quality, usd) for m in range(quality.shape[1])]
    values = np.array(every, np.float64).transpose(1, 2, 0)
    lams = np.full(quality.shape[1], np.nan)
    return summarise("single models", lams, *values, rng=rng, clusters=clusters)


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
    """(honest, naive): the best that routing could reach, from below and from above.

    The naive oracle chooses on the very answers it is scored on, so it also collects lucky ones. The honest one
    chooses on other tries of the same models (`other` and `other_usd`: their mean quality and cost) and is scored on
    these. Without `other_usd` it chooses on the costs it is charged, and collects those that happened to be low.
    """
    split = other, usd if other_usd is None else other_usd
    honest, naive = (
        trace(f"oracle, {name}", scores, quality, usd, lams, rng=rng, clusters=clusters)
        for name, scores in {"split": split, "naive": (quality, usd)}.items()
    )
    return honest, naive


def hull(usd: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(usd, quality) corners of the upper concave hull of these points: all that random mixing of them can reach."""
    order = np.lexsort((-np.asarray(quality), usd))
    corners: list[tuple[float, float]] = []
    for x, y in zip(np.asarray(usd, float)[order], np.asarray(quality, float)[order], strict=True):
        if corners and y <= corners[-1][1]:
            continue
        while len(corners) > 1:
            (x0, y0), (x1, y1) = corners[-2:]
            if (y1 - y0) * (x - x0) > (y - y0) * (x1 - x0):
                break
            corners.pop()
        corners.append((float(x), float(y)))
    return tuple(np.array(corners).T)
