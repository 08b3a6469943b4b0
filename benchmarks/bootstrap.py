"""2,000 paired bootstrap resamples of 100 operating points over 20,000 queries, beside a plain loop that indexes the
table anew for each.

Prints a table, and as its last line one JSON object of named figures. `sd_ratio` is the bootstrap's spread of a rate
over sqrt(p (1 - p) / n), averaged over the columns; 1 is right.
"""

import json
import time
from statistics import median

import numpy as np

from routerlab.evaluate.stats import bootstrap_means

QUERIES, POINTS, RESAMPLES, LOOPED = 20_000, 100, 2_000, 50


def plain(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means over resampled queries, one resample after another."""
    size = len(values)
    return np.array([values[rng.integers(0, size, size)].mean(0) for _ in range(resamples)])


def main() -> None:
    rng = np.random.default_rng(0)
    rate = np.linspace(0.2, 0.8, POINTS)
    values = (rng.random((QUERIES, POINTS)) < rate).astype(float)
    rate = values.mean(0)
    passages = np.arange(QUERIES) // 4
    bootstrap_means(values[:10], 10, rng=rng)  # compile
    started = time.perf_counter()
    plain(values, LOOPED, rng)
    loop = (time.perf_counter() - started) * RESAMPLES / LOOPED  # every resample costs the same
    figures = {}
    print(f"{'resampled':32} {'s':>6} {'loop s':>7} {'ratio':>6} {'sd ratio':>9}")
    for name, key, labels in (
        ("queries", "", {}),
        ("5,000 clusters", "_clusters", {"clusters": passages}),
    ):
        times = []
        for _ in range(3):
            started = time.perf_counter()
            means = bootstrap_means(values, RESAMPLES, rng=rng, **labels)
            times.append(time.perf_counter() - started)
        took = median(times)
        ratio = float((means.std(0) / np.sqrt(rate * (1 - rate) / QUERIES)).mean())
        print(f"{name:32} {took:6.2f} {loop:7.1f} {loop / took:6.0f} {ratio:9.4f}")
        figures[f"bootstrap{key}_seconds"] = round(took, 3)
        if not key:
            figures |= {"sd_ratio": round(ratio, 4), "bootstrap_vs_loop": round(loop / took, 1)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
