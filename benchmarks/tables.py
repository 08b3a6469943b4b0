"""Dense matrices from a Parquet table of 1,000,000 queries x 30 models, beside pandas' pivot on a
tenth of it.

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

from routerlab.core.dense import build_dense
from routerlab.core.outcomes import SCHEMA

QUERIES, MODELS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, 30


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
        folder = Path(temporary)
        write(folder / "all.parquet", QUERIES)
        started = time.perf_counter()
        dense = build_dense(folder / "all.parquet", folder / "dense")
        build = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        assert dense.arrays["quality"].shape == (QUERIES, MODELS)
        assert not np.isnan(dense.arrays["quality"]).any()

        tenth = QUERIES // 10
        write(folder / "tenth.parquet", tenth)
        started = time.perf_counter()
        small = build_dense(folder / "tenth.parquet", folder / "small")
        ours = time.perf_counter() - started
        started = time.perf_counter()
        frame = pd.read_parquet(folder / "tenth.parquet", columns=["query", "model", "quality", "usd"])
        pivot = frame.pivot(index="query", columns="model", values=["quality", "usd"])
        plain = time.perf_counter() - started
        np.testing.assert_array_equal(pivot["quality"].loc[list(small.queries)], small.arrays["quality"])
    print(f"{'what':44} {'seconds':>8}")
    print(f"{f'{QUERIES:,} x {MODELS}: quality and usd, mapped':44} {build:8.2f}")
    print(f"{f'{tenth:,} x {MODELS}: ours':44} {ours:8.2f}")
    print(f"{f'{tenth:,} x {MODELS}: pandas read and pivot':44} {plain:8.2f}")
    figures = {"build_seconds": build, "build_vs_pandas": plain / ours, "build_peak_gib": peak}
    print(json.dumps({k: round(v, 3) for k, v in figures.items()}))


if __name__ == "__main__":
    main()
