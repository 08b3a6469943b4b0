"""Every operating point at once: the exact cost/quality curve of an oracle or a router over all cost weights λ.

For one query the utility of a model is the line quality - lam * usd, and what is called at each lam is the upper
envelope of these lines: the upper concave hull of the points (usd, quality), walked from the cheapest model up. Each
edge of it is a breakpoint lam = (gain in quality) / (extra usd). All breakpoints of all queries, sorted once, give the
curve; a grid of lam is then a look-up.
"""

import functools
from typing import NamedTuple

import numpy as np

from routerlab.core.outcomes import OutcomeError


class Curve(NamedTuple):
    """Mean quality and cost (USD) a query for every lam, as steps.

    `lam` falls. Entry 0 holds for lam >= lam[1], where every query goes to its cheapest model, and has lam inf; entry k
    holds for lam[k+1] <= lam < lam[k]; the last one down to lam 0.
    """

    lam: np.ndarray
    quality: np.ndarray
    usd: np.ndarray

    def at(self, lam) -> tuple[np.ndarray, np.ndarray]:
        """(quality, usd) at these cost weights."""
        place = np.searchsorted(-self.lam, -np.asarray(lam, float), side="left") - 1
        place = np.maximum(place, 0)
        return self.quality[place], self.usd[place]

    @property
    def collapse_lam(self) -> float:
        """The cost weight from which on every query goes to its cheapest model: the steepest first edge of all,
        max over queries and models of (quality - quality of the cheapest) / (usd - usd of the cheapest).
        """
        return float(self.lam[1]) if len(self.lam) > 1 else 0.0


def sweep(quality: np.ndarray, usd: np.ndarray, scores: tuple[np.ndarray, np.ndarray] | None = None) -> Curve:
    """The whole curve of a router with these (quality, usd) scores on what really happened; without scores, of the
    oracle, which sees what happened (queries x models, float32 or float64).

    At each lam it calls argmax(score - lam * usd score), of equals the cheaper, as `frontier.decide` does. A model
    whose score is NaN is not called; an outcome that is called and missing is refused.
    """
    q, c = (np.ascontiguousarray(a) for a in (quality, usd))
    sq, sc = (q, c) if scores is None else (np.ascontiguousarray(a) for a in scores)
    if not q.shape == c.shape == sq.shape == sc.shape or q.ndim != 2 or 0 in q.shape:
        raise OutcomeError(
            f"quality, usd and scores are matrices of one shape, queries x models, not "
            f"{', '.join(str(a.shape) for a in (q, c, sq, sc))}"
        )
    if q.shape[1] > 255:
        raise OutcomeError(f"{q.shape[1]} models; this takes up to 255")
    walk, fill, descending, add_up = _compiled()
    order, length = walk(sq, sc)
    if (length == 0).any():
        bad = int(np.flatnonzero(length == 0)[0])
        raise OutcomeError(f"query {bad} has no model with a score; drop it, or score it")
    start = np.concatenate([[0], np.cumsum(length.astype(np.int64) - 1)])
    edges, first = fill(sq, sc, q, c, order, length, start)
    first_q, first_c = first.sum(1)  # not in the loop, where the sum would depend on the number of threads
    if not np.isfinite(edges[:, 1:].sum() + first_q + first_c):
        raise OutcomeError("an outcome that is called is missing: collect it, or keep the queries every model answered")
    falling = descending(edges[:, 0].copy())
    return Curve(*add_up(edges, falling, first_q, first_c, len(q)))


@functools.cache
def _compiled():
    """The two loops over queries and a sort, compiled on first use (a few seconds, once a process)."""
    import numba

    @numba.njit(parallel=True)
    def walk(quality, usd):
        """The models on the hull of each query, cheapest first, and how many they are."""
        rows, models = quality.shape
        order = np.zeros((rows, models), np.uint8)
        length = np.zeros(rows, np.uint8)
        for row in numba.prange(rows):
            now = -1
            for m in range(models):  # the cheapest; of equals the best
                if np.isnan(quality[row, m]) or np.isnan(usd[row, m]):
                    continue
                if (
                    now < 0
                    or usd[row, m] < usd[row, now]
                    or (usd[row, m] == usd[row, now] and quality[row, m] > quality[row, now])
                ):
                    now = m
            count = 0
            while now >= 0:
                order[row, count] = now
                count += 1
                best, steepest = -1, 0.0
                for m in range(models):
                    more = np.float64(quality[row, m]) - quality[row, now]
                    dearer = np.float64(usd[row, m]) - usd[row, now]
                    if more > 0 and dearer > 0:
                        slope = more / dearer
                        if slope > steepest or (slope == steepest and usd[row, m] > usd[row, best]):
                            best, steepest = m, slope
                now = best
            length[row] = count
        return order, length

    @numba.njit(parallel=True)
    def fill(score, price, quality, usd, order, length, start):
        """Every edge of every hull: its lam, and what it changes in quality and cost that really happened."""
        rows = len(length)
        edges, first = np.empty((start[-1], 3)), np.empty((2, rows))
        for row in numba.prange(rows):
            now = order[row, 0]
            first[0, row], first[1, row] = quality[row, now], usd[row, now]
            for k in range(1, length[row]):
                to, at = order[row, k], start[row] + k - 1
                more = np.float64(score[row, to]) - score[row, now]
                edges[at, 0] = more / (np.float64(price[row, to]) - price[row, now])
                edges[at, 1] = np.float64(quality[row, to]) - quality[row, now]
                edges[at, 2] = np.float64(usd[row, to]) - usd[row, now]
                now = to
        return edges, first

    @numba.njit
    def descending(lam):
        """The order that sorts positive numbers, the largest first, equals as they come: by radix, 11 bits at a time.
        The bits of positive floats rise as they do. NumPy's sort takes half of the whole sweep where there is no
        AVX-512.
        """
        size, digit = len(lam), np.uint64(2047)
        keys, order = ~lam.view(np.uint64), np.arange(size).astype(np.uint32)
        other_keys, other_order = np.empty_like(keys), np.empty_like(order)
        for low in range(0, 64, 11):
            shift, count = np.uint64(low), np.zeros(2049, np.int64)
            for key in keys:
                count[((key >> shift) & digit) + np.uint64(1)] += 1
            if count.max() == size:
                continue
            place = np.cumsum(count)
            for i in range(size):
                bucket = (keys[i] >> shift) & digit
                at = place[bucket]
                place[bucket] += 1
                other_keys[at], other_order[at] = keys[i], order[i]
            keys, other_keys, order, other_order = other_keys, keys, other_order, order
        return order

    @numba.njit
    def add_up(edges, order, first_q, first_c, queries):
        """(lam, mean quality, mean cost) after all edges of each lam, from an infinite cost weight down."""
        lam, quality, usd = np.empty(len(order) + 1), np.empty(len(order) + 1), np.empty(len(order) + 1)
        lam[0], at, more_q, more_c = np.inf, 0, 0.0, 0.0
        quality[0], usd[0] = first_q / queries, first_c / queries
        for edge in order:
            if edges[edge, 0] != lam[at]:
                at += 1
                lam[at] = edges[edge, 0]
            more_q += edges[edge, 1]
            more_c += edges[edge, 2]
            quality[at], usd[at] = (first_q + more_q) / queries, (first_c + more_c) / queries
        return lam[: at + 1], quality[: at + 1], usd[: at + 1]

    return walk, fill, descending, add_up
