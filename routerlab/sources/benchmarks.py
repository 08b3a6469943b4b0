"""Queries by name: of a declared benchmark, of the embedded questions, or of a file of your own."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from routerlab.core.queries import Query, QueryError, read_queries
from routerlab.sources.benchmark_specs import benchmarks, raw_rows
from routerlab.sources.files import Row, SourceError, read_rows, readable
from routerlab.sources.rows import Asked, plain


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
        f"{'pocket[:split]':<24}{'reasoning_gym':<18}{'train, validation, test':<34}{'Apache-2.0':<14}embedded",
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
    question: str | None = None,
    answer: str | None = None,
    verifier: str | None = None,
    keep: Sequence[str] = (),
) -> list[Query]:
    """Queries of a benchmark (`gsm8k`, `gsm8k:train`), of the embedded questions (`pocket`, `pocket:test`) or of a file
    of yours (`file:questions.csv`).

    `split` is ours (train, validation, test), the first declared one by default. `folder` holds raw files that are
    already on disk; without it the data comes from the hub or the web at its pinned revision, or at `revision`. `limit`
    keeps a sample that does not depend on the order of the file: the queries with the smallest ids.

    For a file, `question`, `answer`, `verifier` (default exact) and `keep` name its columns; they may also stand in the
    name: `file:q.csv?question=q&answer=a&verifier=numeric&keep=topic,level`. A Parquet file of queries needs none.
    """
    if name.startswith("file:"):
        found = _own(name[5:], split, question, answer, verifier, keep)
    elif any(x is not None for x in (question, answer, verifier)) or keep:
        raise SourceError(f"question, answer, verifier and keep are for file:, and {name!r} declares its own")
    else:
        base, _, part = name.partition(":")
        split = split or part or None
        found = _pocket(split) if base == "pocket" else _declared(base, split, folder, revision)
    unique = list({q.id: q for q in found}.values())
    if len(unique) < len(found):
        warnings.warn(
            f"{name}: {len(found) - len(unique)} of {len(found)} rows repeat a question and its "
            f"answer; one of each is kept",
            stacklevel=2,
        )
    if limit is not None and limit < len(unique):
        kept = set(sorted(q.id for q in unique)[: max(limit, 0)])
        unique = [q for q in unique if q.id in kept]
    return unique


def _declared(name: str, split: str | None, folder: str | Path | None, revision: str | None) -> list[Query]:
    known = benchmarks()
    if name not in known:
        raise SourceError(f"no benchmark {name!r}; there are {', '.join(known)}, pocket, and file:PATH for your own")
    b = known[name]
    split = split or b.known_splits[0]
    if split not in b.known_splits:
        raise SourceError(f"{name} has no split {split!r}; it has {', '.join(b.known_splits)}")
    found = raw_rows(b, split, folder, revision)
    return to_queries(found, b.asked(split), source=name, split=split, verifiers=b.verifiers)


def to_queries(
    found: Iterable[Row],
    asked: Callable[[Row], Asked | None],
    *,
    source: str,
    split: str,
    verifiers: Sequence[str],
) -> list[Query]:
    """Rows through a row function; a row it cannot use is named with its number."""
    out = []
    for number, row in enumerate(found, 1):
        try:
            got = asked(row)
        except SourceError as error:
            raise SourceError(f"{source}: row {number}: {error}") from error
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise SourceError(
                f"{source}: row {number} does not have the columns it should ({type(error).__name__}: {error}); it has "
                f"{', '.join(map(str, row))}"
            ) from error
        if got is None:
            continue
        if (verifier := got.verifier or verifiers[0]) not in verifiers:
            raise SourceError(
                f"{source}: row {number} wants {verifier!r}, which is not declared ({', '.join(verifiers)})"
            )
        about: dict[str, Any] = {
            "verifier": verifier,
            "source": source,
            "split": split,
            "meta": got.meta,
        }
        try:
            out.append(Query.ask(got.text, got.reference, **about))
        except QueryError as error:
            raise SourceError(f"{source}: row {number}: {error}") from error
    if not out:
        raise SourceError(f"{source}: no questions in split {split!r}; is the file of another split or benchmark?")
    return out


def _pocket(split: str | None) -> list[Query]:
    from routerlab.core.recorded import recorded

    pocket = recorded("pocket")
    return pocket.split(split).queries if split else pocket.queries


def _own(name: str, split: str | None, question, answer, verifier, keep: Sequence[str]) -> list[Query]:
    path, _, options = name.partition("?")
    named = dict(parse_qsl(options, keep_blank_values=True))
    if unknown := set(named) - {"question", "answer", "verifier", "keep", "split"}:
        raise SourceError(
            f"unknown {', '.join(sorted(unknown))} in {name!r}; known: question, answer, verifier, keep, split"
        )
    question, answer = question or named.get("question"), answer or named.get("answer")
    keep = keep or [k for k in named.get("keep", "").split(",") if k]
    split = split or named.get("split")
    if question is None and path.endswith(".parquet"):
        if not Path(path).is_file():
            raise SourceError(f"no file at {path}; give the path of a Parquet file of queries")
        with readable(path):
            found = read_queries(path)
        return [q for q in found if split is None or q.split == split]
    if question is None:
        have = ", ".join(c for c in (read_rows(path) or [{}])[0] if c != "_file")
        raise SourceError(
            f"say which column of {path} is the question: file:{path}?question=NAME&answer=NAME; it has {have}"
        )
    by = verifier or named.get("verifier") or ("exact" if answer else "judge")
    asked = partial(plain, question=question, answer=answer, keep=keep)
    return to_queries(read_rows(path), asked, source=Path(path).stem, split=split or "test", verifiers=[by])
