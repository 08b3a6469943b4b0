"""What a row of outcomes is, and what must hold of every table of them."""

import enum
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

SCHEMA_VERSION = "outcomes/1"
_NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("query", _NAME, nullable=False),
        pa.field("model", _NAME, nullable=False),
        pa.field("sample", pa.int16(), nullable=False),  # which try; 0 is the greedy one, if any
        pa.field("temperature", pa.float32(), nullable=False),
        pa.field("grade", _NAME),
        pa.field("quality", pa.float32()),
        pa.field("usd", pa.float64(), nullable=False),
        pa.field("tokens_in", pa.int32(), nullable=False),
        pa.field("tokens_cached", pa.int32(), nullable=False),
        pa.field("tokens_out", pa.int32(), nullable=False),
        pa.field("latency_s", pa.float32()),
        pa.field("answer", pa.string()),
        pa.field("finish", _NAME),
        pa.field("error", _NAME),
    ],
    metadata={"schema": SCHEMA_VERSION},
)


class Grade(enum.StrEnum):
    """What an answer was judged to be."""

    CORRECT = "CORRECT"
    INCORRECT = "INCORRECT"
    IDK = "IDK"


class OutcomeError(ValueError):
    """A row or a table that breaks an invariant; the message names the row and the cure."""


def check(rows: pa.Table) -> pa.Table:
    """Cast to `SCHEMA` and check every invariant; returns the table, or names the first row that breaks one."""
    missing = [f.name for f in SCHEMA if f.name not in rows.column_names]
    extra = [name for name in rows.column_names if name not in SCHEMA.names]
    if missing or extra:
        wrong = {"lacks": missing, "has unknown": extra}
        parts = [f"{verb} {', '.join(columns)}" for verb, columns in wrong.items() if columns]
        raise OutcomeError(f"an outcome table has the columns of outcomes.SCHEMA; this one {' and '.join(parts)}")
    loose = pa.schema([f.with_nullable(True) for f in SCHEMA])
    try:
        rows = rows.select(SCHEMA.names).cast(loose).unify_dictionaries().combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise OutcomeError(f"the columns do not fit outcomes.SCHEMA: {error}; cast them first") from error
    for f in SCHEMA:
        if not f.nullable and rows[f.name].null_count:
            _refuse(rows, rows[f.name].is_null().to_numpy(), f"has no {f.name}: every outcome needs one")
    null = {name: rows[name].is_null().to_numpy() for name in ("grade", "error", "quality")}
    rows = rows.cast(SCHEMA)
    integers = ("sample", "tokens_in", "tokens_cached", "tokens_out")
    numbers = {n: rows[n].to_numpy() for n in (*integers, "usd", "quality")}
    names, grade = rows["grade"].combine_chunks().dictionary.to_pylist() if len(rows) else [], codes(rows["grade"])
    correct, idk = (grade == (names.index(g) if g in names else -2) for g in (Grade.CORRECT, Grade.IDK))
    unknown = [i for i, name in enumerate(names) if name not in [*Grade]]
    usd, quality, tokens_in, cached = (numbers[n] for n in ("usd", "quality", "tokens_in", "tokens_cached"))
    graded, failed = ~null["grade"], ~null["error"]
    both, neither, uneven = failed & graded, ~(failed | graded), graded == null["quality"]
    again, wrong = _again(rows), correct != (quality >= 0.5)
    refused = {
        f"has an unknown grade: grades are {', '.join(Grade)}": np.isin(grade, unknown),
        "has a cost that is not 0 or more: usd is tokens x price": ~(usd >= 0) | np.isinf(usd),
        **{f"has a negative {n}: count from 0": numbers[n] < 0 for n in integers},
        "has more cached than input tokens: cached are part of tokens_in": cached > tokens_in,
        "has both an error and a grade: an outcome that did not happen is missing: drop the grade": both,
        "has neither a grade nor an error: grade the answer, or name the class of the error": neither,
        "has a grade without a quality or the reverse: give both or neither": uneven,
        "has a quality outside 0..1: scale it": graded & ~((quality >= 0) & (quality <= 1)),
        "has a grade that its quality contradicts: CORRECT means quality >= 0.5": graded & wrong,
        "is IDK with a quality: an abstention has quality 0": idk & (quality != 0),
        "is a second outcome of the same query, model and sample: number tries by 'sample'": again,
    }
    for what, bad in refused.items():
        _refuse(rows, bad, what)
    return rows


def _again(rows: pa.Table) -> np.ndarray:
    """Which rows have the query, model and sample of a row before them."""
    query, model = (codes(rows[n]).astype(np.int64) for n in ("query", "model"))
    sample = rows["sample"].to_numpy()
    place = query * (model.max(initial=0) + 1) + model
    place = place * (int(sample.max(initial=0)) + 1) + sample
    order = np.argsort(place, kind="stable")
    again = np.zeros(len(place), bool)
    again[order[1:]] = place[order[1:]] == place[order[:-1]]
    return again


def codes(column: pa.ChunkedArray) -> np.ndarray:
    """The dictionary index of each row's value; -1 where it is null."""
    if not len(column):
        return np.zeros(0, np.int32)
    return column.combine_chunks().indices.fill_null(-1).to_numpy()


def objects(column: pa.ChunkedArray) -> np.ndarray:
    """A dictionary column as an array of str, None where it is null."""
    names = column.combine_chunks().dictionary.to_pylist() if len(column) else []
    return np.array([*names, None], dtype=object)[codes(column)]


def _refuse(rows: pa.Table, bad: np.ndarray, what: str) -> None:
    if bad.any():
        number = int(np.flatnonzero(bad)[0])
        row = rows.slice(number, 1).to_pylist()[0]
        more = f" (and {int(bad.sum()) - 1} more)" if bad.sum() > 1 else ""
        names = ("query", "model", "sample", "grade", "quality", "usd", "error")
        raise OutcomeError(f"row {number}{more} {what}. { {k: row[k] for k in names} }")


def from_columns(columns: Mapping[str, Sequence]) -> pa.Table:
    unknown = [name for name in columns if name not in SCHEMA.names]
    if unknown:
        raise OutcomeError(f"unknown column {', '.join(unknown)}; the columns are {', '.join(SCHEMA.names)}")
    length = max((len(v) for v in columns.values()), default=0)
    default = {"sample": 0, "temperature": 0.0, "tokens_in": 0, "tokens_cached": 0, "tokens_out": 0}
    made = {f.name: columns.get(f.name, [default.get(f.name)] * length) for f in SCHEMA}
    plain = {f.name: pa.string() if f.type == _NAME else f.type for f in SCHEMA}
    try:
        return pa.table({n: pa.array(v, plain[n], from_pandas=True) for n, v in made.items()})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise OutcomeError(f"a column does not fit outcomes.SCHEMA: {error}") from error
