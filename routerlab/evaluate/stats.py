"""How sure are we: bootstrap intervals over queries, with the resampling shared by everything that
is compared.
"""

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean with the ends of its interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def bootstrap_means(
    values: np.ndarray, resamples: int = 2000, *, rng: np.random.Generator
) -> np.ndarray:
    """Means of the columns of `values` (queries x things) over resampled queries: (resamples x
    things).

    A resample is a vector of multinomial weights, so all of them are one matrix product, and every column sees the
    same resampled queries: the difference of two columns is a paired comparison (Efron and Tibshirani 1993, ch. 6).
    """
    values = np.atleast_2d(np.asarray(values, np.float64).T).T
    size = len(values)
    if not size:
        raise ValueError("cannot resample 0 queries; give at least one row")
    out = np.empty((resamples, values.shape[1]))
    step = max(1, 20_000_000 // size)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = rng.integers(0, size, (count, size)) + np.arange(count)[:, None] * size
        weights = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)
        out[start : start + count] = weights @ values / size
    return out


def intervals(
    values: np.ndarray, *, rng: np.random.Generator, level: float = 0.95, resamples: int = 2000
) -> list[Interval]:
    """Percentile bootstrap intervals of the column means of `values` (queries x things)."""
    values = np.atleast_2d(np.asarray(values, np.float64).T).T
    means = bootstrap_means(values, resamples, rng=rng)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [Interval(*map(float, row)) for row in zip(values.mean(0), low, high, strict=True)]


def paired_difference(
    a: np.ndarray, b: np.ndarray, *, rng: np.random.Generator, level: float = 0.95
) -> Interval:
    """Mean of `a - b` over the same queries, with its interval."""
    if np.shape(a) != np.shape(b):
        raise ValueError(
            f"a paired comparison needs the same queries on both sides, not {np.shape(a)} and "
            f"{np.shape(b)}"
        )
    return intervals(np.asarray(a, float) - np.asarray(b, float), rng=rng, level=level)[0]
