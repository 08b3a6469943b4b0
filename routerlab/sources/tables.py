"""Outcome tables that others recorded become a `Recorded`, by a `Layout` that says which column holds what.

The layouts of published tables are data (`data/layouts/*.yaml`); a table of your own needs a layout of a few names.
`save` writes what was imported as a run that `recorded(name)` opens. A missing outcome has no row. A table without
costs needs tokens, and tokens that it does not record must be given: nothing is guessed.
"""

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from routerlab.core.pools import ModelCard, Pool
from routerlab.core.recorded import Recorded, record
from routerlab.core.runs import Run, root
from routerlab.sources.files import SourceError
from routerlab.sources.import_table import Tokens, build, need, numbers, outcomes, questions_of, read_frame
from routerlab.sources.split import split

__all__ = ["Layout", "by_name", "find", "import_table", "known", "layouts", "pool_of", "save"]


@dataclass(frozen=True)
class Layout:
    """Which columns of a table hold what.

    A wide table has one row for a question, and columns for each model: their names are patterns such as `ok/{model}`.
    A long one has one row for a question and a model; `model` names the column that says which.
    """

    question: str  # text of the question
    quality: str  # in [0, 1] (CORRECT from 0.5), or true and false; empty is missing
    model: str | None = None  # long tables: the model's name
    models: str | Sequence[str] | None = None  # names; a pattern; "boolean": columns of true and false; "pool"
    answer: str | None = None  # reference answer
    verifier: str = "recorded"  # "recorded" is none: the answers were graded elsewhere and cannot be graded again
    usd: str | None = None  # what a call cost; without it the cost is the pool's prices times tokens
    tokens_in: Tokens = None  # a column, a number, a number a model, or "characters": one for every four
    tokens_out: Tokens = None  # a column, a number, or a number for each model
    text: str | None = None  # the models' answers
    keep: Sequence[str] = ()  # columns for the queries' meta
    source: str | None = None  # the queries' source; by default the name of the file
    optional: Sequence[str] = ()  # fields of the layout whose columns a table may lack
    scale: tuple[float, float] = (0.0, 1.0)  # the worst and the best quality; what lies below the worst is missing
    average: bool = False  # several rows of one question and model are averaged; else they are refused
    suffix: str = ""  # cut off the end of a question
    listed: bool = False  # a question may be written as a Python list of strings
    questions: str | None = None  # questions are ids, and their texts rows of this benchmark in another file
    bench: str | None = None  # the column that names the benchmark of a question, to take one of them
    columns: Sequence[str] = ()  # columns by which `known` recognises the layout
    pool: str | None = None  # the pool to use if none is given
    as_of: dt.date | None = None  # the day of the table's costs
    estimates: Mapping[str, Any] | None = None  # fields that `known` fills in, which the table does not record


@cache
def layouts() -> dict[str, Layout]:
    """The layouts of published tables by name."""
    paths = sorted((root() / "data" / "layouts").glob("*.yaml"))
    return {p.stem: Layout(**{"source": p.stem} | yaml.safe_load(p.read_text(encoding="utf-8"))) for p in paths}


def save(table: Recorded, run: Run | str | Path, shares: Mapping[str, float] | None = None) -> Recorded:
    """Write an imported table as a run; `shares` first splits its queries, near-duplicates together."""
    return record(run, split(table.queries, shares) if shares else table.queries, *table[1:4])


def by_name(name: str) -> Layout:
    """The layout of this name."""
    if name not in layouts():
        raise SourceError(f"no layout {name!r}; there are {', '.join(layouts())}")
    return layouts()[name]


def find(path: str | Path) -> Layout:
    """The layout whose columns a table has."""
    columns = list(map(str, read_frame(path)))
    for candidate in layouts().values():
        if all(models_in(columns, c) if "{model}" in c else c in columns for c in candidate.columns):
            return candidate
    raise SourceError(
        f"{path} has the columns of no known layout ({', '.join(layouts())}); make a run of it with `routerlab import "
        f"{path} --run NAME --question COLUMN --quality COLUMN`, and give the run's name"
    )


def known(path: str | Path, bench: str | None = None) -> Recorded:
    """A table whose columns are those of one of `layouts()`. What it does not record and its layout can estimate is
    estimated, which its card says.
    """
    layout = find(path)
    return import_table(path, replace(layout, **layout.estimates or {}), bench=bench)


def import_table(
    path: str | Path,
    layout: Layout | str,
    pool: Pool | str | Path | None = None,
    *,
    bench: str | None = None,
    questions: str | Path | None = None,
) -> Recorded:
    """Read an outcome table from a CSV, TSV, JSON, JSONL or Parquet file.

    Args:
        path: the file.
        layout: which columns hold what, or the name of one of `layouts()`.
        pool: cards of the models; by default the layout's pool, or, where costs are recorded, cards without prices.
        bench: take the questions of this benchmark only.
        questions: the file of the questions' texts, where the table has only their ids.

    Returns:
        queries, pool and outcomes. Of a question that is there twice the first is kept, and one that no model answered
        is left out; the card counts both.
    """
    layout = by_name(layout) if isinstance(layout, str) else layout
    frame, how = read_frame(path), Path(path).name
    columns = list(map(str, frame))
    if bench is not None:
        if layout.bench is None or layout.bench not in columns:
            raise SourceError(f"{path} does not say of which benchmark a question is, so it has no bench {bench!r}")
        if bench not in (have := list(map(str, frame[layout.bench].unique()))):
            raise SourceError(f"no bench {bench!r} in {path}; it has {', '.join(have)}")
        frame = frame[frame[layout.bench].astype(str) == bench]
    if layout.optional:
        fields = {name: getattr(layout, name) for name in layout.optional}
        there = {n: f if "{model}" not in f or models_in(columns, f) else None for n, f in fields.items()}
        layout = replace(layout, **there)
    if questions is not None and layout.questions is None:
        raise SourceError(f"the questions' texts are in {path} itself; leave out the file of others (--questions)")
    pool = layout.pool if pool is None else pool
    pool = pool if isinstance(pool, Pool | None) else Pool.load(pool)
    models = _models(frame, layout, pool, path)
    if pool is None:
        if layout.usd is None:
            raise SourceError(
                f"{path}: no column of costs is named and no prices are known; name it, usd (--usd), or give a pool "
                f"(--pool) or prices (--prices) of {', '.join(models[:5])}, and tokens (--tokens-in, --tokens-out)"
            )
        pool = pool_of(Path(path).stem, dict.fromkeys(models, (0, 0)), as_of=layout.as_of or dt.date.today(), context=1)
    if absent := [m for m in models if m not in pool]:
        raise SourceError(
            f"{how}: pool {pool.name!r} has no card of {', '.join(absent)}; add them, or make a pool of prices with "
            f"pool_of (--prices)"
        )
    row, queries = questions_of(frame, layout, path, questions)
    rows, pool = outcomes(frame, layout, models, row, path), pool.subset(m for m in pool.ids if m in models)
    return build(how, queries, rows, models, layout, pool)


def models_in(columns: Sequence[str], pattern: str) -> list[str]:
    """The models whose columns fit a pattern, in the order of the columns."""
    match = re.compile(re.escape(pattern).replace(re.escape("{model}"), "(.+)"))
    return list(dict.fromkeys(m[1] for c in columns if (m := match.fullmatch(c))))


def _models(frame: Any, layout: Layout, pool: Pool | None, path: str | Path) -> list[str]:
    columns, wanted = list(map(str, frame)), layout.models
    if not isinstance(wanted, str | None):
        return list(map(str, wanted))
    if wanted == "pool":
        if pool is None:
            raise SourceError(f"{path}: give the pool (--pool) of the models that are meant")
        return list(pool.ids)
    if wanted == "boolean":
        words = {"True", "False", "true", "false"}
        return [c for c in columns if len(frame) and {*map(str, frame[c].unique())} <= words]
    if layout.model is not None:
        need(frame, [layout.model], path)
        return list(dict.fromkeys(frame[layout.model].dropna().astype(str)))
    pattern = wanted or layout.quality
    if pattern.strip() == "{model}":
        raise SourceError("say which models (--models): with the pattern '{model}' any column could be one")
    if "{model}" not in pattern:
        raise SourceError(
            f"{pattern!r} is one column for all models: give a pattern such as 'ok/{{model}}', or, if each row is one "
            f"question and one model, the column of the model's name (model)"
        )
    if not (models := models_in(columns, pattern)):
        raise SourceError(f"no column fits {pattern!r}; the columns are {', '.join(columns)[:300]}")
    return models


def pool_of(name: str, prices: Mapping[str, Any] | str | Path, *, as_of: dt.date, context: int) -> Pool:
    """A pool of models of which only prices are known: a mapping of model to dollars a million tokens (in, out), or a
    CSV with the columns model, usd_per_mtok_in and usd_per_mtok_out.

    The tier follows the output price: premium from 5 dollars a million, standard from 1, else budget.
    """
    if isinstance(prices, str | Path):
        columns = ["model", "usd_per_mtok_in", "usd_per_mtok_out"]
        frame = read_frame(prices)
        need(frame, columns, prices)
        usd = zip(*(numbers(frame[c], prices) for c in columns[1:]), strict=True)
        prices = dict(zip(frame["model"].astype(str), usd, strict=True))

    def card(model: str, usd_in: float, usd_out: float) -> ModelCard:
        tier = "premium" if usd_out >= 5 else "standard" if usd_out >= 1 else "budget"
        return ModelCard(model, model, tier, usd_in, usd_out, context, as_of)

    return Pool(name, [card(model, *map(float, both)) for model, both in prices.items()])
