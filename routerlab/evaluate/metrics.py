"""One number of a router: what its operating points reach, and what its choices cost in regret and spread.

Operating points are anything with `usd` and `quality` (a `Frontier`, a `Curve`) or a pair of arrays (usd, quality), the
mean cost and quality a query. Between its points a router is taken to mix them at random, which reaches the upper
concave hull; choosing corners of a hull on test data flatters, so choose operating points on validation.
"""

from typing import Any

import numpy as np

from routerlab.core.decisions import call_shares as call_shares
from routerlab.evaluate.frontier import decide, hull, realised
from routerlab.evaluate.mixes import path_area

Points = Any  # a Frontier, a Curve, or (usd, quality)


def points(router: Points) -> tuple[np.ndarray, np.ndarray]:
    """(usd, quality) of operating points, as float64."""
    usd, quality = (router.usd, router.quality) if hasattr(router, "usd") else router
    return np.asarray(usd, float), np.asarray(quality, float)


def cost_at(router: Points, quality) -> np.ndarray:
    """The least mean cost a query at which these points, mixed, reach `quality`; NaN if they never do."""
    x, y = hull(*points(router))
    quality = np.asarray(quality, float)
    return np.where(quality > y[-1] + 1e-12, np.nan, np.interp(quality, y, x))


def aiq(router: Points, low_usd: float, high_usd: float) -> float:
    """Average improvement in quality: the area under the non-decreasing concave hull of the points from `low_usd` to
    `high_usd`, over the width of that interval (Hu et al. 2024, RouterBench).

    Below the cheapest point quality counts 0, beyond the last it stays. RouterBench's code takes low_usd = 0 and for
    high_usd the highest cost of all routers compared, so adding a router changes the others' figures: state the
    interval, and compare only within one.
    """
    return float(path_area(*hull(*points(router)), low_usd, high_usd, below=False))


def dominance(router: Points, singles: Points) -> np.ndarray:
    """Which single models dominate which operating points (points x models): at least the quality for at most the cost,
    and one of the two strictly better.

    On means, without intervals: near ties flip with the sample.
    """
    (usd, quality), (cost, reached) = points(router), points(singles)
    usd, quality = usd[:, None], quality[:, None]
    return (reached >= quality) & (cost <= usd) & ((reached > quality) | (cost < usd))


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
