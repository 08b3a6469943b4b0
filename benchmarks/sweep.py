"""The exact sweep over every cost weight at 1,000,000 queries x 30 models, beside a plain NumPy loop over 100 of them.

Prints a table, and as its last line one JSON object of named figures.
"""

import json
import resource
import time
from statistics import median

import numpy as np

from routerlab.evaluate.sweep import sweep

QUERIES, MODELS, LAMS = 1_000_000, 30, 100


def plain(quality: np.ndarray, usd: np.ndarray, lams: np.ndarray) -> np.ndarray:
    """Mean quality and cost at each lam: the argmax of quality - lam * usd, one lam after another."""
    rows, out = np.arange(len(quality)), []
    for lam in lams:
        choice = (quality - np.float32(lam) * usd).argmax(1)
        out.append((quality[rows, choice].mean(dtype=float), usd[rows, choice].mean(dtype=float)))
    return np.array(out).T


def main() -> None:
    rng = np.random.default_rng(0)
    sweep(*(rng.random((10, MODELS), np.float32) for _ in range(2)))  # compile
    price = np.geomspace(0.05, 10, MODELS).astype(np.float32)
    kinds = {
        "graded": rng.random((QUERIES, MODELS), np.float32),
        "right or wrong": (rng.random((QUERIES, MODELS)) < np.linspace(0.2, 0.8, MODELS)).astype(np.float32),
    }
    usd = price * rng.gamma(4, 0.25, (QUERIES, MODELS)).astype(np.float32)
    lams = np.geomspace(1e-3, 1e2, LAMS)
    figures = {}
    print(f"{'quality':15} {'sweep s':>8} {'loop of 100 s':>14} {'ratio':>6} {'breakpoints':>12}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, quality in kinds.items():
        times = []
        for _ in range(3):
            started = time.perf_counter()
            curve = sweep(quality, usd)
            times.append(time.perf_counter() - started)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        figures.setdefault("extra_memory_vs_inputs", round((peak - before) * 1024 / (2 * usd.nbytes), 2))
        started = time.perf_counter()
        points = plain(quality, usd, lams)
        loop = time.perf_counter() - started
        assert np.allclose(curve.at(lams), points, atol=1e-6)
        took = median(times)
        print(f"{name:15} {took:8.2f} {loop:14.1f} {loop / took:6.0f} {len(curve.lam):12,}")
        key = "sweep" if name == "graded" else "sweep_binary"
        figures |= {f"{key}_seconds": round(took, 2), f"{key}_vs_numpy": round(loop / took, 1)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
