"""One number of a router: what its operating points gain over the single models, and what its choices cost in regret
and spread.

Operating points are anything with `usd` and `quality` (a `Frontier`, a `Curve`) or a pair of arrays (usd, quality), the
mean cost and quality a query. Between its points a router is taken to mix them at random, which reaches the upper
concave hull; choosing corners of a hull on test data flatters, so choose operating points on validation.
"""

from typing import Protocol

import numpy as np

from routerlab.core.decisions import call_shares as call_shares
from routerlab.evaluate.frontier import decide, hull, realised


class _HasPoints(Protocol):
    @property
    def usd(self) -> np.ndarray: ...
    @property
    def quality(self) -> np.ndarray: ...


Points = _HasPoints | tuple[np.ndarray, np.ndarray]


def points(router: Points) -> tuple[np.ndarray, np.ndarray]:
    """(usd, quality) of operating points, as float64."""
    usd = getattr(router, "usd", None)  # a Curve is a tuple, too
    usd, quality = router if usd is None else (usd, router.quality)  # pyright: ignore
    return np.asarray(usd, float), np.asarray(quality, float)


def quality_at(router: Points, usd) -> np.ndarray:
    """The best mean quality these points reach, mixed, for at most `usd` a query; NaN below the cheapest point."""
    x, y = hull(*points(router))
    return np.interp(usd, x, y, left=np.nan)


def cost_at(router: Points, quality) -> np.ndarray:
    """The least mean cost a query at which these points, mixed, reach `quality`; NaN if they never do."""
    x, y = hull(*points(router))
    quality = np.asarray(quality, float)
    return np.where(quality > y[-1] + 1e-12, np.nan, np.interp(quality, y, x))


def gain(router: Points, singles: Points, usd) -> np.ndarray:
    """Quality over the hull of the single models at equal cost, `quality_at(router) - quality_at(singles)`.

    The hull of the single models is what choosing among them at random reaches. NaN where either buys nothing.
    """
    return quality_at(router, usd) - quality_at(singles, usd)


def mean_gain(router: Points, singles: Points, low_usd: float, high_usd: float) -> float:
    """Mean of `gain` over costs from `low_usd` to `high_usd`, exact; NaN where either starts above `low_usd`."""
    ends = low_usd, high_usd
    if np.isnan(gain(router, singles, ends)).any():
        return float("nan")
    return aiq(router, *ends) - aiq(singles, *ends)


def saving(router: Points, singles: Points, quality=None) -> np.ndarray:
    """Share of the cost saved at equal quality, 1 - cost_at(router) / cost_at(singles); without `quality`, at the best
    single model's.

    NaN where either never reaches it. Small differences of quality near the top of a flat hull are large savings: read
    it with its interval.
    """
    target = points(singles)[1].max() if quality is None else quality
    return 1 - cost_at(router, target) / cost_at(singles, target)


def aiq(router: Points, low_usd: float, high_usd: float, *, log: bool = False) -> float:
    """Average improvement in quality: the area under the non-decreasing concave hull of the points from `low_usd` to
    `high_usd`, over the width of that interval (Hu et al. 2024, RouterBench). With `log` cost is on a log axis.

    Below the cheapest point quality counts 0, beyond the last it stays. RouterBench's code takes low_usd = 0 and for
    high_usd the highest cost of all routers compared, so adding a router changes the others' figures: state the
    interval, and compare only within one.
    """
    if not low_usd < high_usd or low_usd < 0 or (log and low_usd == 0):
        raise ValueError(
            f"costs from {low_usd} to {high_usd} are no interval; on a log axis low_usd is above 0, and "
            f"low_usd < high_usd"
        )
    x, y = hull(*points(router))
    inside = (x > low_usd) & (x < high_usd)
    start = max(low_usd, x[0])
    if start >= high_usd:
        return 0.0
    at = np.unique(np.concatenate([[start], x[inside], [high_usd]]))
    height = np.interp(at, x, y)
    if not log:
        return float(np.trapezoid(height, at) / (high_usd - low_usd))
    # Mixing is linear in dollars, so on the log axis each piece a + b usd has area a log(u1 / u0) + b (u1 - u0).
    wide = np.diff(at)
    slope = np.diff(height) / wide
    area = (height[:-1] - slope * at[:-1]) * np.diff(np.log(at)) + slope * wide
    return float(area.sum() / np.log(high_usd / low_usd))


def hypervolume(router: Points, reference: tuple[float, float]) -> float:
    """Area dominated by the points, without mixing, up to the reference point (usd, quality), worse on both axes
    (Zitzler and Thiele 1999): the union of the rectangles [usd, reference usd] x [reference quality, quality].

    It is in USD x quality and grows with the reference: state it, and keep it for all that is compared.
    """
    usd, quality = points(router)
    order = np.argsort(usd)
    usd, quality = np.minimum(usd[order], reference[0]), quality[order]
    best = np.maximum(np.maximum.accumulate(quality) - reference[1], 0)
    return float((np.diff(usd, append=reference[0]) * best).sum())


def dominance(router: Points, singles: Points) -> np.ndarray:
    """Which single models dominate which operating points (points x models): at least the quality for at most the cost,
    and one of the two strictly better.

    On means, without intervals: near ties flip with the sample.
    """
    (usd, quality), (cost, reached) = points(router), points(singles)
    usd, quality = usd[:, None], quality[:, None]
    return (reached >= quality) & (cost <= usd) & ((reached > quality) | (cost < usd))


def arena_score(accuracy, usd_per_1000) -> np.ndarray:
    """RouterArena's score S = (1 + β) A C / (β A + C) with C = log(200 / cost) / log(200 / 0.0044), β = 0.1 and cost in
    USD per 1,000 queries (Lu et al. 2025, arXiv:2510.00202).

    Formula and constants are verified against RouterArena's evaluation code and rows of its leaderboard, not against
    the paper's text. Costs are not clipped: above 200 the score is negative. As β is small, cost weighs little
    where it is low: at an accuracy of 0.7, going from 10 to 1 dollars is worth as much as 9 points of accuracy, from 1
    to 0.1 as much as 3, from 0.1 to 0.01 fewer than 2.
    """
    beta, low, high = 0.1, 0.0044, 200.0
    cost = np.log(high / np.asarray(usd_per_1000, float)) / np.log(high / low)
    accuracy = np.asarray(accuracy, float)
    return (1 + beta) * accuracy * cost / (beta * accuracy + cost)


def arena_score_of_all(quality: np.ndarray, usd: np.ndarray) -> float:
    """`arena_score` of per-query quality and cost (USD a query) where a missing row (quality NaN) is wrong, and charged
    at the mean cost of the rows that are there, whatever the failed call itself was charged.

    RouterArena's code leaves rows without a score out of the accuracy but divides the cost by all rows, so failed calls
    raise the score there; here they cannot.
    """
    paid = np.where(np.isnan(quality), np.nan, usd)
    return float(arena_score(np.nan_to_num(quality).mean(), np.nanmean(paid) * 1000))


def regret(
    choice: np.ndarray, quality: np.ndarray, usd: np.ndarray, other: np.ndarray, lam: float = 0.0, other_usd=None
) -> np.ndarray:
    """Utility lost to the honest oracle on each query, in quality: quality - lam * usd under argmax(other - lam *
    other_usd) less that under `choice`.

    The oracle chooses on other tries and is scored on these, so that answers which happened to be right are no regret.
    It is not a bound: single queries, and with few other tries means, can be negative.

    Args: the `choice` of a router; the `quality` and `usd` that are scored; the mean quality of the `other` tries; the
    cost weight `lam`; the mean cost `other_usd` of those tries (without it the oracle chooses on `usd`).
    """
    best = decide(other, usd if other_usd is None else other_usd, lam)
    (q, c), (top_q, top_c) = realised(choice, quality, usd), realised(best, quality, usd)
    return (top_q - lam * top_c) - (q - lam * c)


def gap_closed(
    choice: np.ndarray, quality: np.ndarray, usd: np.ndarray, other: np.ndarray, lam: float = 0.0, other_usd=None
) -> float:
    """Share of the gap in mean utility, quality - lam * usd, between the best single model and the honest oracle that
    `choice` closes; NaN where there is no gap. The best single model is chosen on the scored data, which makes this
    cautious. Args: as of `regret`.
    """
    every = [choice, *(np.full(len(usd), m) for m in range(usd.shape[1]))]
    lost = [regret(c, quality, usd, other, lam, other_usd).mean() for c in every]
    gap = min(lost[1:])
    return float(1 - lost[0] / gap) if gap > 1e-12 else float("nan")


def domain_table(domains: np.ndarray, choice: np.ndarray, quality: np.ndarray, usd: np.ndarray, regrets: np.ndarray):
    """A data frame (pandas) with one row a domain, the worst regret first: queries, quality, USD per 1,000 queries, the
    best single model's quality in that domain, and mean regret.

    The worst of many small domains is bad by chance alone: read `queries` beside it.

    Args: the domain of each query, the `choice` of a router, the `quality` and `usd` that happened, and the `regrets`
    of the queries, as `regret` gives them.
    """
    import pandas as pd

    reached, paid = realised(choice, quality, usd)
    rows = []
    for d in np.unique(domains):
        at = np.asarray(domains) == d
        means = reached[at].mean(), paid[at].mean() * 1000, quality[at].mean(0).max()
        rows.append((d, at.sum(), *means, regrets[at].mean()))
    names = ["domain", "queries", "quality", "usd_per_1000", "best_single", "regret"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.sort_values("regret", ascending=False, kind="stable", ignore_index=True)


def call_entropy(shares: np.ndarray) -> np.ndarray:
    """Entropy of the call shares in bits, -Σ s log2 s, of each operating point: 0 is collapse onto one model,
    log2(models) an even spread.

    High entropy is no merit: choosing at random has it. Low entropy at every point says that the router calls one model
    whatever the cost weight.
    """
    shares = np.asarray(shares, float)
    return -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(-1) + 0.0
