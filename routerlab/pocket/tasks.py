"""Questions of the embedded workload, how answers are scored, and which questions are held out from training.

A question is named by (family, level, index); its entry, which scores an answer, is generated again from these three.
"""

import functools
from collections.abc import Iterator

from routerlab.pocket.families import FAMILIES, LEVELS, PHRASE

Entry = dict


@functools.cache
def _dataset(family: str, level: int):
    import reasoning_gym

    fields = dict(FAMILIES[family].levels[level])
    return reasoning_gym.create_dataset(family, seed=0, size=2**31, **fields)


def entry(family: str, level: int, index: int) -> Entry:
    """The reasoning-gym entry named (family, level, index): question, answer and the metadata its scorer needs."""
    return _dataset(family, level)[index]


def score(family: str, level: int, index: int, answer: str) -> float:
    """Whether `answer` is right, by reasoning-gym's own scorer: 1.0, or 0.0 (partial credit, however near 1)."""
    question = entry(family, level, index)
    return float(_dataset(family, level).score_answer(answer, question) == 1.0)


def key(family: str, question: Entry) -> str:
    """What a question asks, whatever its wording: entries with the same key must not lie in different splits."""
    content = [x for x in PHRASE.sub(" ", question["question"]).split() if x != "="]
    return " ".join([family, *(sorted(content) if FAMILIES[family].commutes else content)])


# Each cell (family, level) has a range of indices; the first of them are held out from training.
_CELL, _HELD_OUT = 10**8, 10**6


def _first(family: str, level: int) -> int:
    return (list(FAMILIES).index(family) * LEVELS + level) * _CELL


@functools.cache
def held_out(per_cell: int = 160) -> dict[tuple[str, int], list[int]]:
    """Indices of `per_cell` questions of each cell, all with different keys; no model trains on any of them."""
    seen, cells = set(), {}
    for family in FAMILIES:
        for level in range(LEVELS):
            chosen, first = [], _first(family, level)
            for index in range(first, first + 50 * per_cell):
                if len(chosen) < per_cell and (name := key(family, entry(family, level, index))) not in seen:
                    seen.add(name)
                    chosen.append(index)
            if len(chosen) < per_cell:
                raise ValueError(f"{family} level {level} has fewer than {per_cell} different questions: ask less")
            cells[family, level] = chosen
    return cells


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


def further(per_cell: int = 500, asked: int = 20) -> Iterator[tuple[str, int, int]]:
    """Names of more questions, cell after cell in turn, so that any first part of them is balanced: up to `per_cell` of
    each cell, all with different keys, none of them held out. They lie beyond the indices that models trained on, but
    easy cells have few different questions, and models have seen most of these.

    Args: the number `per_cell`; how many indices may be tried for each of them (`asked`).
    """
    seen = set(_held_out_keys())
    cells = [(f, level) for f in FAMILIES if FAMILIES[f].asked for level in range(LEVELS)]
    tried = dict.fromkeys(cells, 0)
    for _ in range(per_cell):
        for family, level in cells:
            while tried[family, level] < asked * per_cell:
                index = _first(family, level) + _CELL // 2 + tried[family, level]
                tried[family, level] += 1
                if (name := key(family, entry(family, level, index))) not in seen:
                    seen.add(name)
                    yield family, level, index
                    break
