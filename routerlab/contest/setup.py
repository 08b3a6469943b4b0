"""The table a contest is run on: its splits, its kinds of question, its missing answers, the models worth fitting."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from routerlab.core.outcomes import OutcomeTable
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded
from routerlab.routers import learned
from routerlab.routers.protocol import RouterError
from routerlab.sources.split import clusters, split

Say = Callable[[str], None]
Missing = Literal["available", "drop-questions", "drop-models"]
SPLITS = ("train", "validation", "test")
SHARES = {"train": 6, "validation": 1, "test": 3}
FEW = 100  # questions of validation below which what is chosen there is chosen by chance
# Columns of meta that usually name a kind of question, the first that is there is taken; else any column with 2 to 100
# values, most of which come more than once.
CATEGORIES = (*learned.CATEGORIES, "subject", "task", "dataset", "bench")


def with_splits(data: Recorded, say: Say, *, salt: str | None = None, hold_out: str | None = None) -> Recorded:
    """The table with train, validation and test splits; near-duplicates are never in two of them.

    Args: the recorded table; where to `say` what is done; a `salt`, which splits anew (another salt, another split);
    `hold_out`, COLUMN=VALUE: the queries whose meta has this value are the test, and all others train and validate.
    """
    queries = sorted(data.queries, key=lambda q: q.id)  # no result depends on the order of rows
    if hold_out is not None:
        queries = _held_out(queries, hold_out, say, salt or "routerlab")
    elif salt is not None or not set(SPLITS) <= {q.split for q in queries}:
        there = {q.split for q in queries}
        has = f"only {', '.join(sorted(there))} and is split anew" if len(there) > 1 else "no splits"
        if salt is None:
            say(f"the table has {has}: 60 % train, 10 % validation, 30 % test, near-duplicates together")
        queries = split(queries, SHARES, salt=salt or "routerlab")
    if not set(SPLITS) <= (there := {q.split for q in queries}):
        raise RouterError(
            f"{len(queries)} questions, near-duplicates together, do not fill three splits; record more ("
            f"{', '.join(s for s in SPLITS if s not in there)} would be empty)"
        )
    few = sum(q.split == "validation" for q in queries)
    if few < FEW:
        say(
            f"only {few} validation questions: operating points chosen on fewer than {FEW} are chosen largely by chance"
        )
    return data._replace(queries=queries)


def _held_out(queries: list[Query], wanted: str, say: Say, salt: str) -> list[Query]:
    column, _, value = wanted.partition("=")
    if not value:
        raise RouterError(f"--hold-out {wanted!r}: give COLUMN=VALUE; columns are {_columns(queries)}")
    held = np.array([str(q.meta.get(column)) == value for q in queries])
    if not held.any() or held.all():
        values = sorted({str(q.meta[column]) for q in queries if column in q.meta})
        known = f"{column} has {', '.join(values[:20])}" if values else f"columns are {_columns(queries)}"
        which = "every" if held.all() else "no"
        raise RouterError(f"--hold-out {wanted}: {which} question has that value; {known}")
    label = clusters(queries)
    alike = ~held & np.isin(label, label[held])
    rest = split([q for q, out in zip(queries, held | alike, strict=True) if not out], SHARES | {"test": 0}, salt=salt)
    test = [replace(q, split="test") for q, out in zip(queries, held, strict=True) if out]
    say(f"{len(test)} questions with {wanted} are the test; {int(alike.sum())} near-duplicates of them are left out")
    return sorted([*rest, *test], key=lambda q: q.id)


def category_of(queries: Sequence[Query], wanted: str | None, say: Say) -> str | None:
    """The column of meta that names the kind of a question: the one that is `wanted`, or one that is found."""
    if wanted is not None:
        if not any(wanted in q.meta for q in queries):
            raise RouterError(f"no column {wanted!r} in this table; it keeps {_columns(queries)}")
        return wanted
    values = {c: [str(q.meta[c]) for q in queries if c in q.meta] for c in sorted({c for q in queries for c in q.meta})}
    kinds = {c: len(set(v)) for c, v in values.items()}
    able = [
        c for c, n in kinds.items() if 2 <= n <= 100 and 2 * n <= len(values[c]) and 2 * len(values[c]) > len(queries)
    ]
    able.sort(key=lambda c: (CATEGORIES.index(c) if c in CATEGORIES else len(CATEGORIES), kinds[c]))
    if able:
        others = f"; {', '.join(able[1:])} would do, too" if len(able) > 1 else ""
        say(f"kinds of question: column {able[0]} ({kinds[able[0]]} values{others}); --category COLUMN takes another")
    return able[0] if able else None


def _columns(queries: Sequence[Query]) -> str:
    return ", ".join(sorted({c for q in queries for c in q.meta})) or "no columns"


def answered(data: Recorded, missing: Missing, say: Say) -> Recorded:
    """The table with its missing first answers in validation and test dealt with.

    available: every question with an answer stays; routers choose among the models that answered it, and a fixed model
    is scored on what it answered. drop-questions: only questions that every model answered. drop-models: only models
    that answered every question. What each would drop is said.
    """
    if missing not in get_args(Missing):
        raise RouterError(f"no way {missing!r} to treat missing answers; there are {', '.join(get_args(Missing))}")
    scored = [q for q in data.queries if q.split in SPLITS[1:]]
    holes: np.ndarray = np.isnan(data.table.select([q.id for q in scored]).matrix("quality"))
    names, split_of = np.array(data.table.models), np.array([q.split for q in scored])
    without, lacking, touched = (np.asarray(m) for m in (holes.all(1), holes.any(0), holes.any(1)))
    if not holes.any():
        return data
    place = int(holes.sum(0).argmax())
    worst = f"{names[place]} lacks {holes[:, place].sum()} of {len(holes)}"
    out = [f"{touched[split_of == s].sum()} of {(split_of == s).sum()} {s}" for s in ("test", "validation")]
    say(
        f"missing answers ({worst}): drop-questions leaves out {' and '.join(out)} questions, drop-models leaves out "
        f"{', '.join(names[lacking])}, available lets routers call the models that answered (--missing {missing})"
    )
    table = data.table
    if missing == "drop-models":
        if lacking.all():
            raise RouterError(f"every model lacks an answer; {worst}: use --missing available")
        table, without = of_models(table, names[~lacking].tolist()), np.zeros_like(without)
    elif missing == "drop-questions":
        without = touched
    for name in SPLITS[1:]:
        if without[split_of == name].all():
            cure = "choose fewer models" if missing == "drop-questions" else "collect answers"
            raise RouterError(f"no query of the {name} split was answered by every model; {cure}: {worst}")
    gone = {scored[i].id for i in np.flatnonzero(without)}
    queries = [q for q in data.queries if q.id not in gone]
    return data._replace(queries=queries, table=table)


def restricted(data: Recorded, models: Sequence[str]) -> Recorded:
    """The same queries with these models only, in this order."""
    return data._replace(pool=data.pool.subset(models), table=of_models(data.table, models))


def of_models(table: OutcomeTable, models: Sequence[str]) -> OutcomeTable:
    """The table of these models only, in this order."""
    kept = pc.is_in(table.rows["model"].cast(pa.string()), value_set=pa.array(list(models)))  # pyright: ignore
    return OutcomeTable(table.rows.filter(kept), tuple(models))


def worth_fitting(train: Recorded) -> list[str]:
    """The models routers are fitted on, in the order of their ids: all but those that one other model dominates on
    every training question it answered (at least the quality for at most the cost; of models that are alike the first
    id stays). So a dominated or repeated model, or another order of models, changes no other number.
    """
    names, order = train.table.models, np.argsort(np.array(train.table.models)).tolist()
    quality, usd = (train.table.matrix(c, None, graded=True) for c in ("quality", "usd"))

    def as_good(k: int, m: int) -> bool:
        at = ~np.isnan(quality[:, m])  # a missing answer of k is not as good
        return bool(((quality[at, k] >= quality[at, m]) & (usd[at, k] <= usd[at, m])).all())

    def dominated(m: int) -> bool:
        return any(as_good(k, m) and (names[k] < names[m] or not as_good(m, k)) for k in order if k != m)

    return [names[m] for m in order if not dominated(m)]
