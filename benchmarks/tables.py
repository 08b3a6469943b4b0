"""From a Parquet table of 100,000 queries x 30 models to matrices, beside pandas' read and pivot.

Prints a table, and as its last line one JSON object of named figures.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from routerlab.core.outcomes import SCHEMA, OutcomeTable

QUERIES, MODELS = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, 30


def write(path: Path, queries: int) -> None:
    """A table of random outcomes, a row group a model, as `OutcomeTable.write` sorts them."""
    rng = np.random.default_rng(0)
    names = pa.array([f"{i:016x}" for i in range(queries)])
    grades = pa.array(["INCORRECT", "CORRECT"])
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for model in range(MODELS):
            right = rng.random(queries) < 0.3 + 0.02 * model
            tokens = pa.array(rng.integers(1, 500, queries), pa.int32())
            made = {f.name: pa.nulls(queries, f.type) for f in SCHEMA}
            made |= {
                "query": pa.DictionaryArray.from_arrays(pa.array(np.arange(queries, dtype=np.int32)), names),
                "model": pa.DictionaryArray.from_arrays(
                    pa.array(np.zeros(queries, np.int32)), pa.array([f"model-{model:02d}"])
                ),
                "sample": pa.array(np.zeros(queries, np.int16)),
                "temperature": pa.array(np.zeros(queries, np.float32)),
                "grade": pa.DictionaryArray.from_arrays(pa.array(right.astype(np.int32)), grades),
                "quality": pa.array(right.astype(np.float32)),
                "usd": pa.array(rng.random(queries) * 1e-3),
                "tokens_in": tokens,
                "tokens_out": tokens,
                "tokens_cached": pa.array(np.zeros(queries, np.int32)),
            }
            writer.write_table(pa.table([made[f.name] for f in SCHEMA], schema=SCHEMA))


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "outcomes.parquet"
        write(path, QUERIES)
        started = time.perf_counter()
        table = OutcomeTable.read(path)
        read = time.perf_counter() - started
        ours = {name: table.matrix(name) for name in ("quality", "usd")}
        build = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        started = time.perf_counter()
        frame = pd.read_parquet(path, columns=["query", "model", "quality", "usd"])
        pivot = frame.pivot(index="query", columns="model", values=["quality", "usd"])
        plain = time.perf_counter() - started
        for name, matrix in ours.items():
            np.testing.assert_array_equal(pivot[name].loc[list(table.queries)].astype(np.float32), matrix)
    print(f"{f'{QUERIES:,} x {MODELS}: quality and usd':44} {'seconds':>8}")
    print(f"{'ours: read, every invariant checked, matrices':44} {build:8.2f}")
    print(f"{'  of it, the two matrices':44} {build - read:8.2f}")
    print(f"{'pandas: read four columns, pivot':44} {plain:8.2f}")
    figures = {"build_seconds": build, "matrices_seconds": build - read, "build_vs_pandas": plain / build}
    figures |= {"build_peak_gib": peak}
    print(json.dumps({k: round(v, 3) for k, v in figures.items()}))


if __name__ == "__main__":
    main()
