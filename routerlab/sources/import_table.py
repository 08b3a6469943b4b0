"""From the columns of a foreign table to queries and outcomes, one outcome a row, and what calls cost."""

import ast
import datetime as dt
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from routerlab.core.invariants import Grade
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded
from routerlab.sources.files import SourceError, read_rows, readable, refuse_pickle
from routerlab.sources.rows import LETTERS, jsonable

if TYPE_CHECKING:
    from routerlab.sources.tables import Layout

Tokens = float | str | Mapping[str, float] | None
CHARACTERS = "characters"


def read_frame(path: str | Path) -> Any:
    """The rows of a table (see `read_rows`) as a DataFrame. A field of a CSV that is written as Python writes a number
    is that number. "None" and "NA" may be answers and names, so only an empty field is missing.
    """
    import pandas as pd

    path = Path(path)
    if path.suffix == ".parquet" and path.is_file():
        refuse_pickle(path)
        with readable(path):
            return pd.read_parquet(path)
    if not (rows := read_rows(path)):
        raise SourceError(f"{path} has no rows, so it holds no outcome; is it whole, and what its name says?")
    if {".csv", ".tsv"} & {*path.suffixes}:
        rows = [{name: _field(text) for name, text in row.items()} for row in rows]
    return pd.DataFrame(rows, dtype=object).drop(columns="_file")


def _field(text: str) -> Any:
    if not text:
        return None
    if re.fullmatch(r"-?\d{1,18}(\.\d{1,18})?", text):
        number = float(text) if "." in text else int(text)
        return number if str(number) == text else text
    return text


def need(frame: Any, columns: Sequence[str], path: str | Path) -> None:
    """Refuse a table that lacks one of the columns."""
    if absent := [c for c in columns if c not in frame]:
        have = ", ".join(map(str, list(frame)[:20])) + " …" * (len(frame.columns) > 20)
        raise SourceError(f"{path} has no column {', '.join(absent[:5])}; it has {have}: name the columns")


def numbers(column: Any, path: str | Path) -> np.ndarray:
    """A column as floats, empty (also NA, null, none) as NaN; true and false, also as words, are 1 and 0."""
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column):
        words = {"true": 1, "false": 0} | dict.fromkeys(("", "na", "n/a", "null", "none"), np.nan)
        column = column.map(lambda v: words.get(v.strip().lower(), v) if isinstance(v, str) else v)
    try:
        values: Any = pd.to_numeric(column)
        return values.astype("Float64").to_numpy(float, na_value=np.nan)
    except (TypeError, ValueError, OverflowError) as error:
        raise SourceError(f"{path}: column {column.name!r} is not a number everywhere ({error}); clean it") from error


def refuse_gaps(frame: Any, column: str, path: str | Path) -> None:
    """Refuse a table with a row that lacks this column, or has only blanks in it."""
    try:
        empty = frame[column].isna() | frame[column].astype(str).str.strip().eq("")
    except UnicodeEncodeError as error:
        raise SourceError(f"{path}: half a surrogate pair in column {column}; replace or drop that row") from error
    if empty.any():
        raise SourceError(
            f"{path}: row {int(np.flatnonzero(empty)[0]) + 1} (and {int(empty.sum()) - 1} more) has nothing in column "
            f"{column}; fill it in, or drop the row"
        )


def questions_of(
    frame: Any, layout: "Layout", path: str | Path, texts: str | Path | None
) -> tuple[np.ndarray, list[Query]]:
    """(for each row of the table the place of its question, or -1; the questions, in order of appearance).

    Args:
        frame: the table.
        layout: which columns hold what.
        path: the table's file, for messages and the name of the source.
        texts: the file of the questions' texts, where the table has only their ids.
    """
    import pandas as pd

    asked = [layout.question, *([layout.answer] if layout.answer else []), *layout.keep]
    need(frame, [*asked, *([layout.model] if layout.model else [])], path)
    source = layout.source or Path(path).stem
    if layout.questions is not None:
        return _questions_elsewhere(frame, layout, source, path, texts)
    for column in (layout.question, layout.model):
        if column is not None:
            refuse_gaps(frame, column, path)
    text = frame[layout.question].astype(str).str.removesuffix(layout.suffix)
    text = text.map(_joined) if layout.listed else text
    row, first = np.arange(len(frame)), frame
    if layout.model is not None:
        row = pd.factorize(text)[0]
        begins = np.unique(row, return_index=True)[1]
        first, text = frame.iloc[begins], text.iloc[begins]
    known = first[layout.answer].notna() if layout.answer else [False] * len(first)
    queries = []
    rows = zip(text, known, first[asked].to_dict("records"), strict=True)
    for question, has_answer, values in rows:
        meta = {k: jsonable(values[k]) for k in layout.keep}
        if layout.verifier == "multiple_choice" and "choices" not in meta:
            meta["choices"] = choices_in(question)
        reference = str(values[layout.answer]) if has_answer else None
        queries.append(Query.ask(question, reference, verifier=layout.verifier, source=source, meta=meta))
    return row, queries


def _questions_elsewhere(frame: Any, layout: "Layout", source: str, path: str | Path, texts: str | Path | None):
    import pandas as pd

    from routerlab.sources.benchmark_specs import benchmarks
    from routerlab.sources.benchmarks import to_queries

    if texts is None:
        raise SourceError(f"{path} has only the ids of its questions: give the file of their texts (--questions)")
    spec = benchmarks()[layout.questions or ""]
    scored = set(frame[layout.question].astype(str))
    rows = [r for r in read_rows(texts) if str(r.get(layout.question)) in scored]
    queries = to_queries(rows, spec.asked("test"), source=source, split="test", verifiers=spec.verifiers)
    ids = pd.Index([str(r[layout.question]) for r in rows])
    return ids.get_indexer(frame[layout.question].astype(str)), queries


def _joined(question: str) -> str:
    """A question that is written as a Python list of strings, as lines."""
    if not question.startswith(("['", '["')):
        return question
    try:
        return "\n".join(map(str, ast.literal_eval(question)))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return question


def choices_in(text: str) -> list[str]:
    """The options of a question that lists them as lines `A. …`, `B. …`."""
    starts: list[int] = []
    for letter in LETTERS:
        at = text.find(f"\n{letter}. ", starts[-1] if starts else 0)
        if at < 0:
            break
        starts.append(at)
    ends = [*starts[1:], len(text)]
    return [text[s + 4 : e].strip() for s, e in zip(starts, ends, strict=True)]


class Outcomes(NamedTuple):
    """Outcomes as columns, sorted by question and model: places of both, and what was recorded or is to be counted."""

    models: list[str]
    question: np.ndarray
    model: np.ndarray
    columns: dict[str, np.ndarray]
    counts: dict[str, Tokens]  # tokens that are in no column


def outcomes(frame: Any, layout: "Layout", models: list[str], question: np.ndarray, path: str | Path) -> Outcomes:
    """What the table says of each question and model that has a quality; a wide table is melted into rows first.

    Args:
        frame: the table.
        layout: which columns hold what.
        models: the models that are meant.
        question: for each row of the table the place of its question, or -1.
        path: the table's file, for messages.
    """
    wide, number_of = layout.model is None, {m: i for i, m in enumerate(models)}
    if wide:
        model = np.tile(np.arange(len(models)), len(frame))
        question = np.repeat(question, len(models))
    else:
        model = np.array([number_of.get(m, -1) for m in frame[layout.model].astype(str)], int)

    def read(name: str, text: bool = False) -> np.ndarray:
        names = [name.replace("{model}", m) for m in models] if wide else [name]
        need(frame, names, path)
        each = {n: frame[n].to_numpy(object) if text else numbers(frame[n], path) for n in dict.fromkeys(names)}
        return np.stack([each[n] for n in names], axis=1).ravel()

    low, high = layout.scale
    quality = read(layout.quality)
    if layout.scale != (0.0, 1.0):
        quality = np.where(quality < low, np.nan, (quality - low) / (high - low))
    kept = np.flatnonzero(~np.isnan(quality) & (question >= 0) & (model >= 0))
    place = question[kept] * len(models) + model[kept]
    cells, first, inverse, times = np.unique(place, return_index=True, return_inverse=True, return_counts=True)
    if len(cells) < len(kept) and not layout.average:
        again = kept[np.setdiff1d(np.arange(len(kept)), first)[0]]
        raise SourceError(f"{path}: row {again + 1} is a second outcome of one question and model; keep one of them")
    if layout.models == "pool" and (absent := [m for m, i in number_of.items() if i not in model[kept]]):
        raise SourceError(f"no outcomes of {', '.join(sorted(absent))} in {path}; leave them out of the pool")

    def values(column: np.ndarray) -> np.ndarray:
        if column.dtype == object or len(cells) == len(kept):
            return column[kept][first]
        return np.bincount(inverse, column[kept], len(cells)) / times

    columns = {"quality": values(quality)}
    counts: dict[str, Tokens] = {"tokens_in": layout.tokens_in, "tokens_out": layout.tokens_out}
    if layout.usd is not None:
        columns["usd"] = values(read(layout.usd))
        counts = {k: 0 if v is None else v for k, v in counts.items()}
    if layout.text is not None:
        columns["answer"] = values(read(layout.text, text=True))
    for name, given in counts.items():
        if isinstance(given, str) and given != CHARACTERS:
            columns[name] = values(read(given))
    counts = {k: v for k, v in counts.items() if k not in columns}
    return Outcomes(models, cells // len(models), cells % len(models), columns, counts)


def build(how: str, queries: list[Query], found: Outcomes, pool: Pool) -> Recorded:
    """The outcomes of the questions that are kept, with what is counted, and a card that says how."""
    ids = np.array([q.id for q in queries])
    first = np.zeros(len(ids), bool)
    first[np.unique(ids, return_index=True)[1]] = True
    kept = first & (np.bincount(found.question, minlength=len(ids)) > 0)
    if not kept.any():
        raise SourceError(f"{how} holds no outcome; name the columns that hold the quality")
    here = kept[found.question]
    question, model = found.question[here], found.model[here]
    columns: dict[str, Any] = {name: values[here] for name, values in found.columns.items()}
    for name in ("usd", "tokens_in", "tokens_out"):
        if name in columns and (lacking := int(np.isnan(columns[name]).sum())):
            raise SourceError(f"{how}: {lacking} graded outcomes lack {name}; fill or drop those rows")
    low, high = columns["quality"].min(), columns["quality"].max()
    if low < 0 or high > 1:
        raise SourceError(f"{how}: quality runs from {low:g} to {high:g}, and must lie in 0..1; scale the column")
    for name in ("tokens_in", "tokens_out"):
        counted = columns[name] if name in columns else _counted(how, name, found)(queries, question, model)
        if not np.all((counted >= 0) & (counted < 2**31)):
            raise SourceError(f"{how}: {name} is not a number of tokens everywhere, from 0 to 2 ** 31; repair it")
        columns[name] = np.rint(counted).astype(int)
    if "usd" not in columns:
        columns["usd"] = np.zeros(len(question))
        for number, name in enumerate(found.models):
            of = model == number
            columns["usd"][of] = pool[name].usd(columns["tokens_in"][of], columns["tokens_out"][of])
    if "answer" in columns:
        there = columns["answer"]
        columns["answer"] = [None if a is None or a != a else str(a) for a in there]
    columns["grade"] = np.where(columns["quality"] >= 0.5, Grade.CORRECT.value, Grade.INCORRECT.value)
    columns["query"], columns["model"] = ids[question], np.array(found.models)[model]
    card = {
        "how": f"imported from {how}",
        "imported": dt.date.today().isoformat(),
        "outcomes_missing": int(kept.sum()) * len(found.models) - len(question),
        "repeated_questions_dropped": int((~first).sum()),
        "unanswered_questions_dropped": int((first & ~kept).sum()),
        **{n: "recorded" if n in found.columns else jsonable(found.counts[n]) for n in ("tokens_in", "tokens_out")},
        "usd": "recorded" if "usd" in found.columns else "tokens x prices of the pool",
        "temperature": "not recorded; 0 stands for it",
    }
    return Recorded(
        [q for q, k in zip(queries, kept, strict=True) if k], pool, OutcomeTable(columns, pool.ids), card, ""
    )


def _counted(how: str, name: str, found: Outcomes):
    """Tokens by the rule that was asked for: a number, one for each model, or four characters a token."""
    rule = found.counts[name]
    if rule == CHARACTERS and name == "tokens_in":
        return lambda queries, question, _: np.array([math.ceil(len(q.text) / 4) for q in queries])[question]
    if isinstance(rule, Mapping):
        if absent := [m for m in found.models if m not in rule]:
            raise SourceError(f"{name} has no number for {', '.join(absent)}; give one for each")
        return lambda _, __, model: np.array([rule[m] for m in found.models])[model]
    if isinstance(rule, int | float):
        return lambda _, question, __: np.full(len(question), rule)
    more = f", or {CHARACTERS!r} for one every four characters" if name == "tokens_in" else ""
    raise SourceError(
        f"{how} records no {name}, and a call's cost is prices x tokens; give {name} (--{name.replace('_', '-')}), a "
        f"column, a number, or a number for each model{more}; or the column of costs, usd (--usd)"
    )
