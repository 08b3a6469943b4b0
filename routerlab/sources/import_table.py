"""From the columns of a foreign table to queries and outcomes, one outcome a row, and what calls cost."""

import datetime as dt
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from routerlab.core.invariants import Grade
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded
from routerlab.sources.benchmark_specs import benchmarks
from routerlab.sources.files import SourceError, read_rows, readable
from routerlab.sources.rows import LETTERS, jsonable, loads

if TYPE_CHECKING:
    from routerlab.sources.tables import Layout

Tokens = float | str | Mapping[str, float] | None
CHARACTERS = "characters"
TOKENS = ("tokens_in", "tokens_out")
CELL = ["question", "model"]  # what an outcome is of


def read_frame(path: str | Path) -> Any:
    """The rows of a table (see `read_rows`) as a DataFrame. A field of a CSV that is written as Python writes a number
    is that number. "None" and "NA" may be answers and names, so only an empty field is missing.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        with readable(path):
            return pd.read_parquet(path)
    if not (rows := read_rows(path)):
        raise SourceError(f"{path} has no rows, so it holds no outcome; is it whole, and what its name says?")
    if {".csv", ".tsv"} & {*path.suffixes}:
        rows = [{name: _field(text) for name, text in row.items()} for row in rows]
    return pd.DataFrame(rows, dtype=object).drop(columns="_file")


def _field(text: str) -> Any:
    if not re.fullmatch(r"-?\d{1,18}(\.\d{1,18})?", text):
        return text or None
    number = float(text) if "." in text else int(text)
    return number if str(number) == text else text


def need(frame: Any, columns: Sequence[str], path: str | Path) -> None:
    """Refuse a table that lacks one of the columns."""
    if absent := [c for c in columns if c not in frame]:
        have = ", ".join(map(str, list(frame)[:20])) + " …" * (len(frame.columns) > 20)
        raise SourceError(f"{path} has no column {', '.join(absent[:5])}; it has {have}: name the columns")


def numbers(column: Any, path: str | Path) -> np.ndarray:
    """A column as floats, empty (also NA, null, none) as NaN; true and false, also as words, are 1 and 0."""
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
    """(for each row of the table the place of its question, or -1; the questions, in order of appearance). `texts` is
    the file of the questions' texts, where the table has only their ids.
    """
    asked = list(filter(None, (layout.question, layout.answer, *layout.keep)))
    need(frame, [*asked, layout.model] if layout.model else asked, path)
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
    for question, has_answer, values in zip(text, known, first[asked].to_dict("records"), strict=True):
        meta = {k: jsonable(values[k]) for k in layout.keep}
        if layout.verifier == "multiple_choice" and "choices" not in meta:
            meta["choices"] = choices_in(question)
        reference = str(values[layout.answer]) if has_answer else None
        queries.append(Query.ask(question, reference, verifier=layout.verifier, source=source, meta=meta))
    return row, queries


def _questions_elsewhere(frame: Any, layout: "Layout", source: str, path: str | Path, texts: str | Path | None):
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
    lines = loads(question) if question.startswith(("['", '["')) else question
    return "\n".join(map(str, lines)) if isinstance(lines, list) else question


def choices_in(text: str) -> list[str]:
    """The options of a question that lists them as lines `A. …`, `B. …`."""
    options = []
    for letter in LETTERS:
        before, mark, text = text.partition(f"\n{letter}. ")
        options.append(before.strip())
        if not mark:
            break
    return options[1:]


def outcomes(frame: Any, layout: "Layout", models: list[str], question: np.ndarray, path: str | Path) -> Any:
    """What the table says of each question and model that has a quality, a row each, sorted by the two; of a wide table
    the columns of each model become rows first.

    Args:
        frame: the table.
        layout: which columns hold what.
        models: the models that are meant.
        question: for each row of the table the place of its question, or -1.
        path: the table's file, for messages.

    Returns:
        a DataFrame with the places of question and model, and a column of each thing that is recorded.
    """
    known = {"quality": layout.quality, "usd": layout.usd, "answer": layout.text}
    known |= {name: rule for name in TOKENS if (rule := getattr(layout, name)) != CHARACTERS}
    known = {what: column for what, column in known.items() if isinstance(column, str)}
    for column in known.values():
        need(frame, [column] if layout.model else [column.replace("{model}", name) for name in models], path)

    def read(model: str) -> Any:
        names = {what: column.replace("{model}", model) for what, column in known.items()}
        columns = {w: frame[c].to_numpy(object) if w == "answer" else numbers(frame[c], path) for w, c in names.items()}
        return pd.DataFrame({"question": question, **columns})

    rows: Any
    if layout.model:
        rows = read("{model}").assign(model=pd.Index(models).get_indexer(frame[layout.model].astype(str)))
    else:
        rows = pd.concat([read(name).assign(model=number) for number, name in enumerate(models)])
    low, high = layout.scale
    if layout.scale != (0.0, 1.0):
        rows["quality"] = ((rows["quality"] - low) / (high - low)).where(rows["quality"] >= low)
    rows = rows[rows["quality"].notna() & (rows["question"] >= 0) & (rows["model"] >= 0)]
    if layout.models == "pool" and (absent := [m for n, m in enumerate(models) if not (rows["model"] == n).any()]):
        raise SourceError(f"no outcomes of {', '.join(sorted(absent))} in {path}; leave them out of the pool")
    repeated = rows.duplicated(CELL)
    if repeated.any() and not layout.average:
        again = rows.index[repeated][0] + 1
        raise SourceError(f"{path}: row {again} is a second outcome of one question and model; keep one of them")
    single = rows[~repeated].sort_values(CELL, ignore_index=True)
    if repeated.any():
        means = rows.drop(columns="answer", errors="ignore").groupby(CELL).mean(skipna=False).reset_index()
        single = single.assign(**{name: means[name] for name in means})
    return single


def build(how: str, queries: list[Query], rows: Any, models: list[str], layout: "Layout", pool: Pool) -> Recorded:
    """The outcomes of the questions that are kept, with what is counted, and a card that says how.

    Args:
        how: the table's file, for messages and the card.
        queries: what the places of the rows' questions mean.
        rows: outcomes, from `outcomes`.
        models: what the places of the rows' models mean.
        layout: how tokens are counted that the table does not record.
        pool: cards of the models.
    """
    ids = pd.Series([q.id for q in queries], dtype=object)
    first, answered = ~ids.duplicated(), ids.index.isin(rows["question"])
    kept = (first & answered).to_numpy()
    if not kept.any():
        raise SourceError(f"{how} holds no outcome; name the columns that hold the quality")
    rows = rows[kept[rows["question"]]]
    columns = {name: rows[name].to_numpy() for name in rows}
    question, model = columns.pop("question"), columns.pop("model")
    for name in columns.keys() & {"usd", *TOKENS}:
        if lacking := int(np.isnan(columns[name]).sum()):
            raise SourceError(f"{how}: {lacking} graded outcomes lack {name}; fill or drop those rows")
    counted: dict[str, Any] = {}
    for name in TOKENS:
        rule = "recorded" if name in columns else getattr(layout, name)
        counted[name] = rule = 0 if rule is None and "usd" in columns else rule
        if rule == CHARACTERS and name == "tokens_in":
            columns[name] = np.array([math.ceil(len(q.text) / 4) for q in queries])[question]
        elif name not in columns:
            columns[name] = _each(rule, models, name, how)[model]
        if not np.all((columns[name] >= 0) & (columns[name] < 2**31)):
            raise SourceError(f"{how}: {name} is not a number of tokens everywhere, from 0 to 2 ** 31; repair it")
        columns[name] = np.rint(columns[name]).astype(int)
    card = {
        "how": f"imported from {how}",
        "imported": dt.date.today().isoformat(),
        "outcomes_missing": int(kept.sum()) * len(models) - len(question),
        "repeated_questions_dropped": int((~first).sum()),
        "unanswered_questions_dropped": int((first & ~answered).sum()),
        **jsonable(counted),
        "usd": "recorded" if "usd" in columns else "tokens x prices of the pool",
        "temperature": "not recorded; 0 stands for it",
    }
    if "usd" not in columns:
        usd = [pool[name].usd(columns["tokens_in"], columns["tokens_out"]) for name in models]
        columns["usd"] = np.array(usd)[model, np.arange(len(model))]
    if "answer" in columns:
        columns["answer"] = [None if a is None or a != a else str(a) for a in columns["answer"]]
    columns["grade"] = np.where(columns["quality"] >= 0.5, Grade.CORRECT.value, Grade.INCORRECT.value)
    columns["query"], columns["model"] = ids.to_numpy()[question], np.array(models)[model]
    queries = [q for q, keep in zip(queries, kept, strict=True) if keep]
    return Recorded(queries, pool, OutcomeTable(columns, pool.ids), card, "")


def _each(rule: Tokens, models: list[str], name: str, how: str) -> np.ndarray:
    """The number of tokens for each model: the same number for all, or one for each."""
    rule = dict.fromkeys(models, rule) if isinstance(rule, int | float) else rule
    if isinstance(rule, Mapping):
        if absent := [m for m in models if m not in rule]:
            raise SourceError(f"{name} has no number for {', '.join(absent)}; give one for each")
        return np.array([rule[m] for m in models])
    more = f", or {CHARACTERS!r} for one every four characters" if name == "tokens_in" else ""
    raise SourceError(
        f"{how} records no {name}, and a call's cost is prices x tokens; give {name} (--{name.replace('_', '-')}), a "
        f"column, a number, or a number for each model{more}; or the column of costs, usd (--usd)"
    )
