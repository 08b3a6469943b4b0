"""Queries by name: of a declared benchmark, of the embedded questions, or of a file of your own."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from routerlab.core.queries import Query, QueryError, read_queries
from routerlab.core.recorded import recorded
from routerlab.sources.benchmark_specs import benchmarks, raw_rows
from routerlab.sources.files import Row, SourceError, read_rows, readable
from routerlab.sources.rows import Asked, plain
from routerlab.sources.split import clusters


def listing() -> str:
    """A table of what can be loaded by name: verifier, splits, licence, where it lives and whether it is pinned."""
    lines = [f"{'name':<24}{'verifier':<18}{'splits':<34}{'licence':<14}where"]
    for b in benchmarks().values():
        short = (b.revision or "")[:7]
        pin = "" if short or b.sha256 else " (not pinned)"
        if b.hub:
            where = f"{b.hub} ({b.config})" if b.config else b.hub
            pin = f"@{short}" if short else pin
        else:
            where = next(iter(b.urls.values()))[0].replace("{revision}", short)
        verifier = b.verifiers[0] + (" …" if len(b.verifiers) > 1 else "")
        splits = ", ".join(b.known_splits)
        lines.append(f"{b.name:<24}{verifier:<18}{splits:<34}{b.licence:<14}{where}{pin}")
    lines += [
        f"{'pocket[:split]':<24}{'reasoning_gym':<18}{'train, validation, test, more':<34}{'Apache-2.0':<14}embedded",
        f"{'file:PATH?question=…':<24}yours",
    ]
    return "\n".join(lines)


def load(
    name: str,
    *,
    split: str | None = None,
    limit: int | None = None,
    folder: str | Path | None = None,
    revision: str | None = None,
) -> list[Query]:
    """Queries of a benchmark (`gsm8k`, `gsm8k:train`), of the embedded questions (`pocket:test`), of a file of yours
    (`file:questions.csv`), or of several of these with commas between them (`gsm8k,mmlu:validation`).

    Args:
        name: what to load. A file's columns stand in it: `file:q.csv?question=q&answer=a&verifier=numeric&keep=b,c`; a
            Parquet file of queries needs none, and without a verifier it is exact, or judge if there is no answer.
        split: train, validation or test; by default the first that a benchmark declares.
        limit: only so many questions of each source, the first in its order.
        folder: where raw files of benchmarks lie; without it they come from the hub or the web.
        revision: the commit to fetch, in place of the pinned one.

    Returns:
        the queries in the order of the sources; of a question that is there twice the first.
    """
    queries: list[Query] = []
    for source in _sources(name):
        if source.startswith("file:"):
            rows = _own(source[5:], split)
        else:
            base, _, its = source.partition(":")
            its = split or its or None
            rows = _pocket(its) if base == "pocket" else _declared(base, its, folder, revision)
        unique = _first_of_each(rows)
        if len(unique) < len(rows):
            warnings.warn(
                f"{source}: {len(rows) - len(unique)} of {len(rows)} rows repeat a question and its answer; the first "
                f"of each is kept",
                stacklevel=2,
            )
        queries += unique[: None if limit is None else max(limit, 0)]
    return _first_of_each(queries)


def _first_of_each(queries: Iterable[Query]) -> list[Query]:
    by_id: dict[str, Query] = {}
    for query in queries:
        by_id.setdefault(query.id, query)
    return list(by_id.values())


def _sources(name: str) -> list[str]:
    """The sources in a list with commas. The columns to keep of a file have commas, too, which end at a known name."""
    sources: list[str] = []
    known = {*benchmarks(), "pocket", "file"}
    for piece in name.split(","):
        if sources and sources[-1].startswith("file:") and piece.partition(":")[0] not in known:
            sources[-1] += f",{piece}"
        else:
            sources.append(piece)
    return sources


def _declared(name: str, split: str | None, folder: str | Path | None, revision: str | None) -> list[Query]:
    known = benchmarks()
    if name not in known:
        raise SourceError(f"no benchmark {name!r}; there are {', '.join(known)}, pocket, and file:PATH for your own")
    b = known[name]
    split = split or b.known_splits[0]
    if split not in b.known_splits:
        raise SourceError(f"{name} has no split {split!r}; it has {', '.join(b.known_splits)}")
    rows = raw_rows(b, split, folder, revision)
    return to_queries(rows, b.asked(split), source=name, split=split, verifiers=b.verifiers)


def to_queries(
    rows: Iterable[Row],
    asked: Callable[[Row], Asked | None],
    *,
    source: str,
    split: str,
    verifiers: Sequence[str],
) -> list[Query]:
    """Rows through a row function; a row it cannot use is named with its number.

    Args:
        rows: as published.
        asked: from a row to what it asks; None for a row that is left out.
        source, split: of the queries.
        verifiers: those that a row may name, the default first.
    """
    queries = []
    for number, row in enumerate(rows, 1):
        try:
            if (question := asked(row)) is None:
                continue
            if (verifier := question.verifier or verifiers[0]) not in verifiers:
                raise SourceError(f"wants {verifier!r}, which is not declared ({', '.join(verifiers)})")
            about: dict[str, Any] = {"verifier": verifier, "source": source, "split": split, "meta": question.meta}
            queries.append(Query.ask(question.text, question.reference, **about))
        except QueryError as error:
            raise SourceError(f"{source}: row {number}: {error}") from error
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise SourceError(
                f"{source}: row {number} does not have the columns it should ({type(error).__name__}: {error}); it has "
                f"{', '.join(map(str, row))}"
            ) from error
    if not queries:
        raise SourceError(f"{source}: no questions in split {split!r}; is the file of another split or benchmark?")
    return queries


def _pocket(split: str | None) -> list[Query]:
    pocket = recorded("pocket")
    if split != "more":
        return pocket.split(split).queries if split else pocket.queries
    from routerlab.pocket.make.record import more

    further = more()
    label = clusters([*pocket.queries, *further]).tolist()
    taken = set(label[: len(pocket.queries)])
    return [q for q, c in zip(further, label[len(pocket.queries) :], strict=True) if c not in taken]


def _own(name: str, split: str | None) -> list[Query]:
    path, _, options = name.partition("?")
    named = dict(parse_qsl(options, keep_blank_values=True))
    if unknown := set(named) - {*(known := ("question", "answer", "verifier", "keep", "split"))}:
        raise SourceError(f"unknown {', '.join(sorted(unknown))} in {name!r}; known: {', '.join(sorted(known))}")
    question, answer, split = named.get("question"), named.get("answer"), split or named.get("split")
    if question is None and path.endswith(".parquet"):
        with readable(path):
            return [q for q in read_queries(path) if split is None or q.split == split]
    rows = read_rows(path)
    if question is None:
        have = ", ".join(c for c in (rows or [{}])[0] if c != "_file")
        raise SourceError(
            f"say which column of {path} is the question: file:{path}?question=NAME&answer=NAME; it has {have}"
        )
    by, keep = named.get("verifier") or ("exact" if answer else "judge"), named.get("keep", "").split(",")
    asked = partial(plain, question=question, answer=answer, keep=[k for k in keep if k])
    return to_queries(rows, asked, source=Path(path).stem, split=split or "test", verifiers=[by])
