"""Mixes of operating points that were chosen beforehand: what they reach at a cost, and the cheapest mix for a quality.

A path is a few points in order of cost. Between two neighbours a router sends a random share of the queries by one of
them and the rest by the other, so mean quality and cost are linear in the share. Which points are on the path is chosen
on validation (`corners`); their costs and qualities are then measured on the test, which chooses nothing.
All arrays have points along the last axis, and may have resamples before it.
"""

from typing import NamedTuple

import numpy as np

from routerlab.evaluate.frontier import corners


class Mix(NamedTuple):
    """A random `share` of the queries goes by point `dear`, the rest by point `cheap`."""

    cheap: int
    dear: int
    share: float

    def of(self, values: np.ndarray) -> np.ndarray:
        """The mix of these values, one a point along the last axis."""
        return (1 - self.share) * values[..., self.cheap] + self.share * values[..., self.dear]


def cheapest_mix(usd: np.ndarray, quality: np.ndarray, target: float) -> Mix | None:
    """The cheapest mix of at most two points whose mean quality is `target`; None if no point reaches it."""
    at = corners(usd, quality)
    reached = np.flatnonzero(np.asarray(quality, float)[at] >= target - 1e-12)
    if not len(reached):
        return None
    dear = reached[0]
    if dear == 0:
        return Mix(int(at[0]), int(at[0]), 1.0)
    below, above = quality[at[dear - 1]], quality[at[dear]]
    return Mix(int(at[dear - 1]), int(at[dear]), float(min((target - below) / (above - below), 1.0)))


def path_area(usd: np.ndarray, quality: np.ndarray, low_usd: float, high_usd: float, *, below: bool = True):
    """Mean quality of a path over costs from `low_usd` to `high_usd`: the integral of its quality, by its width.

    Beyond its dearest point a path keeps that point's quality. Below its cheapest point it has that point's quality, as
    nothing cheaper can be bought, or 0 without `below`.
    """
    x, y, slope = _pieces(usd, quality)
    inside = np.clip(x, low_usd, high_usd)
    start, end = inside[..., :-1], inside[..., 1:]
    height = y[..., :-1] + slope * ((start + end) / 2 - x[..., :-1])
    area = ((end - start) * height).sum(-1) + (high_usd - inside[..., -1]) * y[..., -1]
    return (area + below * (inside[..., 0] - low_usd) * y[..., 0]) / (high_usd - low_usd)


def path_quality(usd: np.ndarray, quality: np.ndarray, at_usd: float) -> np.ndarray:
    """Mean quality of a path at one cost; beyond its ends it keeps the quality of its end points."""
    x, y, slope = _pieces(usd, quality)
    start, end = x[..., :-1], x[..., 1:]
    rise = np.where(end > start, slope * (np.clip(at_usd, start, end) - start), np.diff(y) * (at_usd >= start))
    return y[..., 0] + rise.sum(-1)


def _pieces(usd: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Costs in rising order, their qualities, and the slopes between them (0 where costs are equal)."""
    order = np.argsort(usd, -1, kind="stable")
    x, y = (np.take_along_axis(np.asarray(a, float), order, -1) for a in (usd, quality))
    width = np.diff(x)
    return x, y, np.divide(np.diff(y), width, out=np.zeros_like(width), where=width > 0)
