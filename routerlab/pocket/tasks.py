"""Questions of the embedded workload, how answers are scored, and which questions are held out from training.

A question is named by (family, level, index); its entry, which scores an answer, is generated again from these three.
"""

import functools
import itertools
from collections.abc import Iterator

from routerlab.pocket.families import FAMILIES, LEVELS, PHRASE

Entry = dict


@functools.cache
def _dataset(family: str, level: int):
    import reasoning_gym

    return reasoning_gym.create_dataset(family, seed=0, size=2**31, **FAMILIES[family].levels[level])


def entry(family: str, level: int, index: int) -> Entry:
    """The reasoning-gym entry named (family, level, index): question, answer and the metadata its scorer needs."""
    return _dataset(family, level)[index]


def score(family: str, level: int, index: int, answer: str) -> float:
    """Whether `answer` is right, by reasoning-gym's own scorer: 1.0, or 0.0 (partial credit, however near 1)."""
    return float(_dataset(family, level).score_answer(answer, entry(family, level, index)) == 1.0)


def key(family: str, question: Entry) -> str:
    """What a question asks, whatever its wording: entries with the same key must not lie in different splits."""
    content = [x for x in PHRASE.sub(" ", question["question"]).split() if x != "="]
    return " ".join([family, *(sorted(content) if FAMILIES[family].commutes else content)])


# Each cell (family, level) has a range of indices; the first of them are held out from training.
_CELL, _HELD_OUT = 10**8, 10**6
PER_CELL = 160  # questions held out of each


def _first(family: str, level: int) -> int:
    return (list(FAMILIES).index(family) * LEVELS + level) * _CELL


@functools.cache
def held_out() -> dict[tuple[str, int], list[int]]:
    """Indices of 160 questions of each cell, all with different keys; no model trains on any of them."""
    cells, seen = itertools.product(FAMILIES, range(LEVELS)), set()
    return {cell: [*itertools.islice(_new(*cell, _first(*cell), 50 * PER_CELL, seen), PER_CELL)] for cell in cells}


def _new(family: str, level: int, start: int, tried: int, seen: set[str]) -> Iterator[int]:
    """Of so many indices from `start`, those of questions whose key is not among those seen; it is then."""
    for index in range(start, start + tried):
        if (name := key(family, entry(family, level, index))) not in seen:
            seen.add(name)
            yield index


def training_entries(family: str, level: int, count: int, start: int = 0) -> Iterator[Entry | None]:
    """`count` entries to train on, from the `start`-th; None in place of one whose key is held out."""
    forbidden = _held_out_keys()
    first = _first(family, level) + _HELD_OUT + start
    for index in range(first, first + count):
        question = entry(family, level, index)
        yield None if key(family, question) in forbidden else question


@functools.cache
def _held_out_keys() -> frozenset[str]:
    return frozenset(key(f, entry(f, level, i)) for (f, level), cell in held_out().items() for i in cell)


def further() -> Iterator[tuple[str, int, int]]:
    """Names of more questions, cell after cell in turn, so that any first part of them is balanced: up to 500 of each
    cell among 10,000 that are tried, all with different keys, none of them held out. They lie beyond the indices that
    models trained on, but easy cells have few different questions, and models have seen most of these.
    """
    seen = set(_held_out_keys())
    cells = [cell for cell in itertools.product(FAMILIES, range(LEVELS)) if FAMILIES[cell[0]].asked]
    more = {cell: _new(*cell, _first(*cell) + _CELL // 2, 10_000, seen) for cell in cells}
    for _ in range(500):
        yield from ((*cell, index) for cell in cells for index in itertools.islice(more[cell], 1))
