"""From columns of a foreign table to a `Recorded`: its queries, its outcomes, and what calls cost."""

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from routerlab.core.invariants import Grade
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import ModelCard, Pool
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded
from routerlab.sources.files import SourceError, read_rows, readable, refuse_pickle
from routerlab.sources.rows import LETTERS, jsonable

Tokens = float | str | Mapping[str, float] | None
Prices = Mapping[str, tuple[float, float]] | str | Path
CHARACTERS = "characters"


def pool_of(name: str, prices: Prices, *, as_of: dt.date, context: int) -> Pool:
    """A pool of models of which only prices are known: a mapping of model to dollars a million tokens (in, out), or a
    CSV with the columns model, usd_per_mtok_in and usd_per_mtok_out.

    The tier follows the output price: premium from 5 dollars a million, standard from 1, else budget.
    """
    if isinstance(prices, str | Path):
        columns = ["model", "usd_per_mtok_in", "usd_per_mtok_out"]
        frame = read_frame(prices)
        need(frame, columns, prices)
        usd = zip(*(numbers(frame[c], prices) for c in columns[1:]), strict=True)
        prices = dict(zip(frame["model"], usd, strict=True))
    cards = []
    for model, both in prices.items():
        usd_in, usd_out = map(float, both)
        tier = "premium" if usd_out >= 5 else "standard" if usd_out >= 1 else "budget"
        cards.append(ModelCard(model, model, tier, usd_in, usd_out, context, as_of))
    return Pool(name, cards)


def read_frame(path: str | Path) -> Any:
    """A Parquet, CSV or JSONL table as a DataFrame; a pickle is refused."""
    import pandas as pd

    path = Path(path)
    refuse_pickle(path)
    if not path.is_file():
        raise SourceError(f"no file at {path}; give the path of a Parquet, CSV or JSONL table")
    with readable(path):
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if ".csv" in path.suffixes:
            # "None" and "NA" are answers and names as well as gaps: only an empty field is empty.
            return pd.read_csv(path, keep_default_na=False, na_values=[""])
    return pd.DataFrame(read_rows(path)).drop(columns="_file", errors="ignore")


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
        found: Any = pd.to_numeric(column)
        return found.astype("Float64").to_numpy(float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{path}: column {column.name!r} is not a number everywhere ({error}); clean it") from error


def cells_from(
    read: Callable[[str, type], np.ndarray],
    quality: str,
    usd: str | None,
    text: str | None,
    tokens_in: Tokens,
    tokens_out: Tokens,
) -> tuple[dict[str, np.ndarray], dict[str, Tokens]]:
    """(query x model cells of the columns that are named, how to count the tokens that have none)."""
    cells = {"quality": read(quality, float)}
    counts: dict[str, Tokens] = {"tokens_in": tokens_in, "tokens_out": tokens_out}
    if usd is not None:
        cells["usd"] = read(usd, float)
        counts = {k: 0 if v is None else v for k, v in counts.items()}
    if text is not None:
        cells["answer"] = read(text, object)
    for name, given in counts.items():
        if isinstance(given, str) and given != CHARACTERS:
            cells[name] = read(given, float)
    return cells, {k: v for k, v in counts.items() if k not in cells}


def queries_of(
    frame: Any,
    question: str,
    source: str,
    *,
    answer: str | None = None,
    verifier: str = "recorded",
    keep: Sequence[str] = (),
) -> list[Query]:
    """A query a row. `recorded` is no verifier: the answers were graded elsewhere and cannot be again."""
    out = []
    refuse_gaps(frame, question, source)
    told = None if answer is None else frame[answer].notna().to_numpy()
    rows = frame[[question, *([answer] if answer else []), *keep]].to_dict("records")
    for number, row in enumerate(rows):
        meta = {k: jsonable(row[k]) for k in keep}
        reference = str(row[answer]) if told is not None and told[number] else None
        text = str(row[question])
        if verifier == "multiple_choice" and "choices" not in meta:
            meta["choices"] = choices_in(text)
        out.append(Query.ask(text, reference, verifier=verifier, source=source, meta=meta))
    return out


def refuse_gaps(frame: Any, column: str, path: str | Path) -> None:
    """Refuse a table with a row that lacks this column, or has only blanks in it."""
    empty = frame[column].isna() | frame[column].astype(str).str.strip().eq("")
    if empty.any():
        raise SourceError(
            f"{path}: row {int(np.flatnonzero(empty)[0]) + 1} (and {int(empty.sum()) - 1} more) has nothing in column "
            f"{column}; fill it in, or drop the row"
        )


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


def build(
    how: str,
    queries: list[Query],
    models: Sequence[str],
    cells: dict[str, np.ndarray],
    counts: Mapping[str, Tokens],
    pool: Pool | str | Path,
) -> Recorded:
    """A table of query x model cells (quality, and usd, tokens_in, tokens_out, answer where known).

    A cell without quality has no row. Of a question that is there twice the first is kept, and one that no model
    answered is left out; the card counts both.
    """
    pool = pool if isinstance(pool, Pool) else Pool.load(pool)
    if absent := [m for m in models if m not in pool]:
        raise SourceError(
            f"{how}: pool {pool.name!r} has no card of {', '.join(absent)}; add them, or make a pool from prices with "
            f"pool_of"
        )
    pool = Pool(pool.name, [c for c in pool if c.id in models])
    ids = np.array([q.id for q in queries])
    first = np.sort(np.unique(ids, return_index=True)[1])
    repeated = len(ids) - len(first)
    answered = ~np.isnan(cells["quality"][first]).all(1)
    if not answered.any():
        raise SourceError(f"{how} holds no outcome; name the columns that hold the quality")
    first = first[answered]
    kept = [queries[i] for i in first]
    cells = {name: values[first] for name, values in cells.items()}
    there = ~np.isnan(cells["quality"])
    tokens = {
        name: _recorded(how, name, cells[name], there)
        if name in cells
        else _counted(how, name, counts.get(name), kept, models)
        for name in ("tokens_in", "tokens_out")
    }
    whole = {n: np.rint(np.broadcast_to(t, there.shape)[there]).astype(int) for n, t in tokens.items()}
    row, column = np.nonzero(there)
    usd = np.zeros(len(row))
    for i, m in enumerate(models):
        here = column == i
        usd[here] = pool[m].usd(whole["tokens_in"][here], whole["tokens_out"][here])
    if "usd" in cells:
        usd = _recorded(how, "usd", cells["usd"], there)[there]
    quality = cells["quality"][there]
    columns: dict[str, Any] = {
        "query": ids[first][row],
        "model": np.array(models)[column],
        "quality": quality,
        "grade": np.where(quality >= 0.5, Grade.CORRECT.value, Grade.INCORRECT.value),
        "usd": usd,
        **whole,
    }
    if "answer" in cells:
        columns["answer"] = [str(a) if isinstance(a, str) else None for a in cells["answer"][there]]
    card = {
        "how": f"imported from {how}",
        "imported": dt.date.today().isoformat(),
        "outcomes_missing": int((~there).sum()),
        "repeated_questions_dropped": repeated,
        "unanswered_questions_dropped": int((~answered).sum()),
        **{n: "recorded" if n in cells else jsonable(counts.get(n)) for n in tokens},
        "usd": "recorded" if "usd" in cells else "tokens x prices of the pool",
        "temperature": "not recorded; 0 stands for it",
    }
    return Recorded(kept, pool, OutcomeTable(columns, pool.ids), card, "")


def _recorded(how: str, name: str, values: np.ndarray, there: np.ndarray) -> np.ndarray:
    if lacking := int(np.isnan(values[there]).sum()):
        raise SourceError(f"{how}: {lacking} graded outcomes lack {name}; fill or drop those rows")
    return np.nan_to_num(values)


def _counted(how: str, name: str, given: Tokens, queries: list[Query], models: Sequence[str]) -> np.ndarray:
    """Tokens by the rule that was asked for: a number, one for each model, or four characters a token."""
    if given == CHARACTERS and name == "tokens_in":
        return np.array([[math.ceil(len(q.text) / 4)] for q in queries], float)
    if isinstance(given, Mapping):
        if absent := [m for m in models if m not in given]:
            raise SourceError(f"{name} has no number for {', '.join(absent)}; give one for each")
        return np.array([[given[m] for m in models]], float)
    if isinstance(given, int | float):
        return np.array([[given]], float)
    rule = f", or {CHARACTERS!r} for one every four characters" if name == "tokens_in" else ""
    raise SourceError(
        f"{how} records no {name}, and a call's cost is prices x tokens; give {name}= a number or a number for each "
        f"model{rule}"
    )
