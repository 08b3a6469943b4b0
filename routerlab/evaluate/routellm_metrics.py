"""How much of the gap between a weak and a strong model a router recovers, by the share of calls to the strong one:
RouteLLM's measures.
"""

import numpy as np


def routellm_points(
    score: np.ndarray, weak: np.ndarray, strong: np.ndarray, bins: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """(share of strong calls, quality) of the thresholds RouteLLM tries, the share rising from 0 to 1.

    `score` says how much a query wants the strong model; `weak` and `strong` are what the two models reached on it.
    Thresholds are the bins + 1 quantiles of the scores; a query at or above one goes to the strong model, and at the
    last one none does. Where tied scores make quantiles equal RouteLLM's code stops with an error; here the point
    comes twice, which changes no area. Few bins flatter: where half the queries tie, one straight line is left.
    """
    score = np.asarray(score, float)
    steps = np.linspace(0, 1, bins + 1)
    # As pandas.qcut rounds them, which RouteLLM calls: it decides whether a score on a threshold is above it.
    steps = np.where(steps * bins == np.arange(bins + 1), steps, np.nextafter(steps, 1))
    called = score >= np.percentile(score, steps * 100)[:, None]
    called[-1] = False
    share, quality = called.mean(1), np.where(called, strong, weak).mean(1)
    order = np.argsort(share, kind="stable")
    return share[order], quality[order]


def apgr(share: np.ndarray, quality: np.ndarray, weak: float, strong: float) -> float:
    """Average performance gap recovered, (quality - weak) / (strong - weak), over the share of strong calls: the
    trapezoid area under quality, less the weak model's, over the strong model's less the weak model's; NaN where the
    two are equal (Ong et al. 2024, as RouteLLM's evaluation computes it; the paper takes the mean at ten equally
    spaced shares). 0 is the weak model, 1 the strong one.

    `share` rises, as `routellm_points` gives it. Random calls score 0.5. The points are joined as they are, without a
    hull. A call's price is not in it: a long prompt costs what a short one does.
    """
    share = np.asarray(share, float)
    gained = np.trapezoid(np.asarray(quality, float) - weak, share)
    return float(gained / (share[-1] - share[0]) / (strong - weak or np.nan))


def cpt(share: np.ndarray, quality: np.ndarray, x: float, weak: float, strong: float) -> float:
    """Call-performance threshold CPT(x): the share of strong calls that recovers the share `x` of the gap.

    As RouteLLM's evaluation does it: quality interpolated as if it never fell while the share rises, clamped at the
    ends. Where quality does fall that is a look-up in an unsorted table and can be far off.

    Args: the `share` and `quality` of the points, the share `x`, and the quality of the `weak` and the `strong` model.
    """
    share, quality = np.asarray(share, float), np.asarray(quality, float)
    # In percent, as RouteLLM does it: a target that is exactly one point's quality is then rounded alike.
    weak, strong = weak * 100, strong * 100
    return float(np.interp(x * (strong - weak) + weak, quality * 100, share))
