"""Bootstrap intervals over queries, p-values and power; everything that is compared shares its resamples."""

import functools
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean with the ends of its interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, mean: float, drawn: np.ndarray) -> "Interval":
        """The 95 % percentile interval of a mean that came out as `drawn` on resamples."""
        low, high = np.quantile(drawn, [0.025, 0.975])
        return cls(float(mean), float(low), float(high))

    def __str__(self) -> str:
        mean, low, high = (round(x, 4) + 0.0 for x in self)  # no -0.0000
        return f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def bootstrap_means(
    values: np.ndarray,
    resamples: int = 2000,
    *,
    rng: np.random.Generator,
    clusters: np.ndarray | None = None,
) -> np.ndarray:
    """Means of the columns of `values` (queries x things, or queries x things x seeds) over resampled queries:
    (resamples x things).

    A resample is a vector of multinomial weights w, so all of them are one matrix product, and every column sees the
    same resampled queries: the difference of two columns is a paired comparison (Efron and Tibshirani 1993, ch. 6).

    `clusters` (a label a query, such as the passage it asks about) draws whole clusters, and the mean is the ratio
    sum(w * cluster sum) / sum(w * cluster size); below some 30 clusters the intervals are too narrow. With a
    seed axis (training seeds of a router) seeds are resampled too, the same for all columns: of S seeds the spread
    comes out sqrt((S - 1) / S) of what it is. A value that is NaN is left out of its column's mean.

    """
    values = np.asarray(values, np.float64)
    values = values[:, None] if values.ndim < 2 else values
    if not len(values):
        raise ValueError("cannot resample 0 queries; give at least one row")
    centre = column_means(values)
    # Centred, so that single precision is enough: it then errs relative to the spread, not to the mean.
    rows = (values - (centre[:, None] if values.ndim == 3 else centre)).reshape(len(values), -1)
    missing = np.isnan(rows)
    holes, width = missing.any(), rows.shape[1]
    rows = np.hstack([np.where(missing, 0, rows), ~missing]) if holes else rows
    sizes, rows = (np.ones(len(rows), np.float32), rows) if clusters is None else _cluster_sums(rows, clusters)
    rows = rows.astype(np.float32)
    out = np.empty((resamples, width))
    step = max(1, 10_000_000 // len(sizes))
    for start in range(0, resamples, step):
        weights = np.zeros((min(step, resamples - start), len(sizes)), np.float32)
        _compiled()(rng.integers(0, 1 << 64, len(weights), np.uint64), weights)
        drawn = np.reshape(weights @ sizes if clusters is not None else len(values), (-1, 1))
        if holes:
            drawn = np.maximum(weights @ rows[:, width:], 1)
        out[start : start + step] = (weights @ rows[:, :width]) / drawn
    if values.ndim == 3:
        seeds = values.shape[2]
        chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
        out = np.einsum("bks,bs->bk", out.reshape(resamples, -1, seeds), chosen)
    return out + centre


def column_means(values: np.ndarray) -> np.ndarray:
    """Means of the columns of `values` (queries x things, or queries x things x seeds) over what is not NaN."""
    known = ~np.isnan(values)
    if known.all():
        return values.mean((0, 2) if values.ndim == 3 else 0, dtype=float)
    with np.errstate(invalid="ignore"):
        means = np.where(known, values, 0).sum(0, dtype=float) / known.sum(0)
    return means.mean(-1) if values.ndim == 3 else means


@functools.cache
def _compiled():
    """The loop that draws (drawing dominates everything else), compiled on first use (half a second, once a process).

    Each row is a SplitMix64 stream (Steele et al. 2014) from a seed of its own; a word gives two indexes, and what
    would favour some of them is drawn again (Lemire 2019), so the counts are exactly multinomial.
    """
    import numba

    @numba.njit
    def count_draws(seeds, out):
        low, half, size = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(out.shape[1])
        unfair = np.uint64(1 << 32) % size
        for row in range(len(seeds)):
            state, left = seeds[row], size
            while left > 0:
                state += np.uint64(0x9E3779B97F4A7C15)
                word = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                word ^= word >> np.uint64(31)
                for index in (word & low, word >> half):
                    scaled = index * size
                    if left > 0 and scaled & low >= unfair:
                        out[row, scaled >> half] += np.float32(1)
                        left -= np.uint64(1)

    return count_draws


def _cluster_sums(rows: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(queries a cluster, row sums of each cluster)."""
    if len(clusters) != len(rows):
        raise ValueError(f"{len(clusters)} labels for {len(rows)} queries; give one a query")
    of = np.unique(clusters, return_inverse=True)[1]
    order = np.argsort(of, kind="stable")
    first = np.flatnonzero(np.diff(of[order], prepend=-1))
    return np.diff(first, append=len(rows)).astype(np.float32), np.add.reduceat(rows[order], first)


def paired_difference(a: np.ndarray, b: np.ndarray, *, rng: np.random.Generator) -> Interval:
    """Mean of `a - b` over the same queries, with its 95 % interval."""
    if np.shape(a) != np.shape(b):
        raise ValueError(
            f"a paired comparison needs the same queries on both sides, not {np.shape(a)} and {np.shape(b)}"
        )
    difference = np.asarray(a, float) - np.asarray(b, float)
    return Interval.of(difference.mean(), bootstrap_means(difference, rng=rng)[:, 0])


def wilson(passed, tries, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the score interval of a rate (Wilson 1927): good for few tries, and inside [0, 1].

    With p = passed / tries and z the normal quantile: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n). Without
    tries the interval is (0, 1).
    """
    passed, tries = np.asarray(passed, float), np.asarray(tries, float)
    if np.any((passed < 0) | (passed > tries)):
        raise ValueError("passed lies between 0 and tries; count passes out of tries")
    n = np.maximum(tries, 1)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate, bend = passed / n, z * z / n
    half = z * np.sqrt(rate * (1 - rate) / n + bend / (4 * n))
    low, high = ((rate + bend / 2 + sign * half) / (1 + bend) for sign in (-1, 1))
    low = np.where((tries == 0) | (passed == 0), 0.0, low)
    return low, np.where((tries == 0) | (passed == tries), 1.0, high)


class Comparison(NamedTuple):
    """A router against a baseline: the mean paired difference, its p-value before and after Holm's correction, and the
    minimum detectable difference (80 % power).
    """

    name: str
    difference: Interval
    p: float
    p_holm: float
    detectable: float


def compared(names: Sequence[str], differences: np.ndarray, means: np.ndarray) -> list[Comparison]:
    """Comparisons of these differences, from what they are on resamples (`means`: resamples x names).

    The 95 % interval and the p-value come from one bootstrap, `p_value` and `holm` say how; the minimum detectable
    difference is `minimum_detectable` at the bootstrap's spread, before Holm's correction.
    """
    p = np.array([p_value(*pair) for pair in zip(differences, means.T, strict=True)])
    parts = zip(names, differences, means.T, p, holm(p), means.std(0), strict=True)
    return [
        Comparison(name, Interval.of(value, drawn), float(one), float(all_), float(minimum_detectable(sd)))
        for name, value, drawn, one, all_, sd in parts
    ]


def p_value(difference: float, resampled: np.ndarray) -> float:
    """Two-sided bootstrap p-value of a mean difference: how often resampled means, moved to a true difference of 0, lie
    as far out; (1 + #{|d* - d| >= |d|}) / (1 + B) (Davison and Hinkley 1997, 4.4).

    It is never below 1 / (1 + B): with m routers to correct for, take B well above m / level.
    """
    # Grades move a mean in steps, so many resamples lie exactly as far out; single precision blurs these ties.
    blur = 1e-4 * np.std(resampled) + 1e-12
    far = np.abs(resampled - difference) >= abs(difference) - blur
    return float((1 + far.sum()) / (1 + len(resampled)))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Step-down adjusted p-values (Holm 1979): the k-th smallest of m times m - k + 1, made non-decreasing, at most 1.

    Rejecting where these are <= level errs on any of the m with probability <= level, dependent or not.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(stepped, 1)
    return out


def minimum_detectable(error: float) -> float:
    """The smallest true difference that a two-sided test at 5 % sees with a power of 80 %, given the standard error of
    its estimate: (z of 0.975 + z of 0.8) * error.

    It scales with 1 / sqrt(queries) (of clusters, if clustered): half of it needs four times as many.
    """
    return error * (NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8))
