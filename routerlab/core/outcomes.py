"""The one table: what each model of a pool did on each query.

Long in Parquet (a row a query x model x sample), dense query x model matrices in memory. An outcome that did not
happen, an error or an answer cut off, has no grade: it is missing, never wrong.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from routerlab.core.invariants import (
    SCHEMA,
    SCHEMA_VERSION,
    Grade,
    OutcomeError,
    check,
    codes,
    from_columns,
    objects,
)

__all__ = ["SCHEMA", "Grade", "OutcomeError", "OutcomeTable", "check"]

NUMERIC = [f.name for f in SCHEMA if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]


def _mean(matrix: np.ndarray) -> np.ndarray:
    held = (~np.isnan(matrix)).sum(0)
    return np.where(held, np.nansum(matrix, 0) / np.maximum(held, 1), np.nan)


def _axis(column: pa.ChunkedArray) -> tuple[tuple[str, ...], np.ndarray]:
    """The different values of a dictionary column in order of appearance, and the place of each row's value."""
    names, code = column.combine_chunks().dictionary.to_pylist() if len(column) else [], codes(column)
    first = np.full(len(names), len(code))
    first[code[::-1]] = np.arange(len(code))[::-1]  # of several rows with one value, the first is written last
    order = np.argsort(first)[: np.count_nonzero(first < len(code))]
    rank = np.zeros(len(names), np.int64)
    rank[order] = np.arange(len(order))
    return tuple(names[i] for i in order), rank[code]


class OutcomeTable:
    """Outcomes of a set of queries under a set of models; `matrix` gives what analysis needs."""

    def __init__(self, rows: pa.Table | Mapping[str, Sequence], models: Sequence[str] | None = None) -> None:
        self.rows = check(rows if isinstance(rows, pa.Table) else from_columns(rows))
        self.queries, query = _axis(self.rows["query"])
        found, model = _axis(self.rows["model"])
        if models is not None and (absent := [m for m in found if m not in models]):
            raise OutcomeError(
                f"the table has outcomes of {', '.join(absent)}, which the pool lacks "
                f"({', '.join(models)}); add cards or drop those rows"
            )
        self.models = tuple(models or found)
        column = np.array([self.models.index(m) for m in found], np.int64)
        # Of each row the place of its query and of its model, and the number of the try.
        self.places = query, column[model] if len(found) else model, self.rows["sample"].to_numpy()

    @classmethod
    def read(cls, path: str | Path, models: Sequence[str] | None = None) -> "OutcomeTable":
        """Read and check a Parquet file; `models` fixes the order of columns (a pool's `ids`)."""
        rows = pq.read_table(path)
        version = (rows.schema.metadata or {}).get(b"schema", b"").decode()
        if version != SCHEMA_VERSION:
            raise OutcomeError(
                f"{path} has schema {version!r}, this version reads {SCHEMA_VERSION!r}; write it "
                f"with OutcomeTable.write"
            )
        return cls(rows, models)

    def write(self, run, name: str = "outcomes.parquet") -> Path:
        """Write to a `Run`, sorted by model, query and sample (a model's column compresses best)."""
        query, model, sample = self.places
        order = np.lexsort((query, sample, model))
        return run.write_table(name, self.rows.take(order).replace_schema_metadata(SCHEMA.metadata))

    def __len__(self) -> int:
        return self.rows.num_rows

    @property
    def samples(self) -> tuple[int, ...]:
        """The numbers of the tries it holds: 0 is the greedy one."""
        return tuple(np.unique(self.places[2]).tolist())

    def matrix(
        self,
        column: str = "quality",
        samples: int | Sequence[int] | None = 0,
        *,
        graded: bool = False,
    ) -> np.ndarray:
        """Query x model matrix (float32) of a numeric column, NaN where there is no outcome.

        `samples` is one try (0: the greedy one), several to average over those that exist, or None for all. With
        `graded` only tries that have a grade: a call that failed was free and says nothing of what an answer costs.
        """
        query, model, sample = self.places
        if column not in NUMERIC:
            raise OutcomeError(f"{column!r} is no column of numbers; those are {', '.join(NUMERIC)}")
        wanted = np.unique(sample) if samples is None else np.atleast_1d(samples)
        values = self.rows[column].to_numpy().astype(np.float32)
        if graded:
            values = np.where(self.rows["grade"].is_null().to_numpy(), np.nan, values)
        total, count = np.zeros((2, len(self.queries), len(self.models)), np.float32)
        for k in wanted:
            here = (sample == k) & ~np.isnan(values)
            total[query[here], model[here]] += values[here]
            count[query[here], model[here]] += 1
        with np.errstate(invalid="ignore"):
            return np.where(count > 0, total / count, np.nan).astype(np.float32)

    def text(self, column: str = "answer", sample: int = 0) -> np.ndarray:
        """Query x model matrix of a text column (objects; None where there is no outcome)."""
        out = np.full((len(self.queries), len(self.models)), None, dtype=object)
        query, model, which = self.places
        here = which == sample
        values = self.rows[column]
        if not pa.types.is_dictionary(values.type):
            values = values.dictionary_encode()
        out[query[here], model[here]] = objects(values)[here]
        return out

    def grades(self, sample: int = 0) -> np.ndarray:
        """Query x model matrix of grades (objects; None where there is no outcome)."""
        return self.text("grade", sample)

    def select(self, queries: Sequence[str]) -> "OutcomeTable":
        """The table of these queries, in this order; a query that is not there, or named twice, is refused."""
        known = {q: i for i, q in enumerate(self.queries)}
        if absent := [q for q in queries if q not in known]:
            raise OutcomeError(f"query {absent[0]} is not in this table of {len(known)}; collect it first")
        if len(set(queries)) < len(queries):
            again = next(q for i, q in enumerate(queries) if q in queries[:i])
            raise OutcomeError(f"query {again} is asked for twice; name each query once")
        rank = np.full(len(known), -1)
        rank[[known[q] for q in queries]] = np.arange(len(queries))
        rows = np.flatnonzero(rank[self.places[0]] >= 0)
        rows = rows[np.argsort(rank[self.places[0][rows]], kind="stable")]
        return OutcomeTable(self.rows.take(rows), self.models)

    def summary(self):
        """One line a model (pandas): of its greedy answers the shares of grades, and the means of the cost in USD per
        1,000, tokens and latency; how many are missing, which count for none of these.
        """
        import pandas as pd

        grades = self.grades()
        held = grades != None  # noqa: E711 (elementwise)
        shares = {g.lower(): _mean(np.where(held, grades == g, np.nan)) for g in Grade}
        told = ("usd", "tokens_in", "tokens_out", "latency_s")
        mean = {n: _mean(np.where(held, self.matrix(n), np.nan)) for n in told}
        frame = pd.DataFrame(
            {**shares, "usd_per_1000": mean.pop("usd") * 1000, **mean},
            index=pd.Index(self.models, name="model"),
        )
        frame["missing"] = (~held).sum(0)
        return frame

    def __repr__(self) -> str:
        samples = len(np.unique(self.places[2]))
        shape = f"{len(self.queries)} queries x {len(self.models)} models x {samples} samples"
        return f"OutcomeTable({shape}, {len(self)} rows)"

    def _repr_html_(self) -> str:
        head = f"<b>{html.escape(repr(self))}</b>"
        return head + self.summary().to_html(float_format="{:.4g}".format, escape=True)
