import numpy as np
import pyarrow.parquet as pq
import pytest

from routerlab import OutcomeTable, Run
from routerlab.core.dense import Dense, build_dense
from routerlab.core.outcomes import OutcomeError


def test_dense_equals_the_table_and_is_mapped(tmp_path, rng):
    queries, models, samples = (f"q{i}" for i in range(50)), ("x", "y", "z"), 2
    cells = [(q, m, s) for q in queries for m in models for s in range(samples)]
    cells = [cells[i] for i in rng.permutation(len(cells))[:250]]
    quality = rng.integers(0, 2, len(cells)).astype(float)
    query, model, sample = map(list, zip(*cells, strict=True))
    grade = ["CORRECT" if q else "INCORRECT" for q in quality]
    columns = {
        "query": query,
        "model": model,
        "sample": sample,
        "grade": grade,
        "quality": quality.tolist(),
    }
    table = OutcomeTable(columns | {"usd": rng.random(len(cells)).tolist()})
    run = Run(tmp_path)
    table.write(run)
    for sample in (0, 1):
        dense = build_dense(run.path("outcomes.parquet"), tmp_path / f"dense{sample}", sample=sample)
        assert isinstance(dense.arrays["quality"], np.memmap)
        assert not dense.arrays["quality"].flags.writeable
        rows = [dense.queries.index(q) for q in table.queries]
        columns = [dense.models.index(m) for m in table.models]
        for name in ("quality", "usd"):
            np.testing.assert_array_equal(dense.arrays[name][np.ix_(rows, columns)], table.matrix(name, sample))
    again = Dense.open(tmp_path / "dense1")
    assert again.queries == dense.queries


def test_a_part_of_a_table_has_the_queries_of_its_rows(pocket, tmp_path):
    chosen = [q.id for q in pocket.queries[9:2:-1]]
    part = pocket.table.select(chosen)
    pq.write_table(part.rows, tmp_path / "part.parquet", row_group_size=25)
    dense = build_dense(tmp_path / "part.parquet", tmp_path / "dense")
    assert (dense.queries, set(dense.models)) == (tuple(chosen), set(part.models))
    columns = [dense.models.index(m) for m in part.models]
    np.testing.assert_array_equal(dense.arrays["usd"][:, columns], part.matrix("usd"))


def test_a_folder_without_matrices_says_how_to_make_them(tmp_path):
    with pytest.raises(OutcomeError, match=r"make them with build_dense"):
        Dense.open(tmp_path)
