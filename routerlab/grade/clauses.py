"""What a free text commits to, clause by clause: the closed-world reading of answers that no statement introduces.

Every clause either says something of its own, or is void: it denies, supposes, asks, compares, or tells what somebody
else or the writer once thought. A value counts where a clause that is not void has its place for one, and only if what
the rest of the text says cannot be another value.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from routerlab.grade.statements import PHRASES

MOST = 60  # words of a text that is read so; of a longer one its last sentences
_BOTH = re.compile("yes|no|nope", re.I)


class Clause(NamedTuple):
    """A clause: the sentence it is of, what joins it to the clause before, and its text."""

    sentence: int
    join: str
    text: str


def sentences(text: str) -> list[str]:
    """The sentences of a text; questions are left out if something else is said."""
    parts = [part.strip() for part in PHRASES["sentence_end"].sub("\\g<0>\x00", text).split("\x00")]
    parts = [part for part in parts if re.search(r"\w", part)]
    return [part for part in parts if not part.rstrip("\"')* ").endswith("?")] or parts


def clauses(text: str) -> list[Clause]:
    out = []
    for number, sentence in enumerate(sentences(text)[-12:]):
        place, join = 0, "\n"
        for mark in [*PHRASES["clause_joint"].finditer(sentence), None]:
            part = sentence[place : mark.start() if mark else len(sentence)].strip(" .,!?;:*")
            if PHRASES["filler"].sub("", part + " "):
                out.append(Clause(number, join.lower().strip(), part))
            place, join = (mark.end(), mark[0]) if mark else (0, "")
    return out


def _bare(clause: str) -> str:
    return PHRASES["filler"].sub("", clause + " ", count=1).strip()


def places(clause: str) -> Iterator[str]:
    """Where a clause can have its answer: all of it, after what introduces it, the complement of its verb."""
    yield clause
    yield (bare := _bare(clause))
    for place in ("complement", "result", "quoted"):
        if match := PHRASES[place].search(bare):
            yield match[match.lastindex or 0]


def void(clause: Clause, value: str = "") -> bool:
    """Whether a clause says nothing of its own, the value apart."""
    before, _, after = clause.text.rpartition(value) if value else (clause.text, "", "")
    return bool(PHRASES["void"].search(f"{before}_{after}") or PHRASES["void_join"].search(clause.join))


def commits(text: str, is_it: Callable[[str], bool]) -> bool:
    """Whether the last thing that a text commits to is the value sought, and nothing beside it is another."""
    every = clauses(text)
    if "?" not in text and _BOTH.fullmatch(every[0].text if every else "") and not is_it("yes") and not is_it("no"):
        return False  # "No, that's a myth."
    for i in reversed(range(len(every))):
        clause = every[i]
        if PHRASES["taken_back"].match(clause.text):
            return False
        value = next((p for p in places(clause.text) if is_it(p)), None)
        if value is None or void(clause, value):
            if not void(clause) and (_short(clause, is_it) or PHRASES["states"].match(clause.text)):
                return False
            continue
        strong = PHRASES["strong_join"].fullmatch(clause.join) is not None
        if PHRASES["states"].match(clause.text):
            other = [c for c in every[:i] if PHRASES["states"].match(c.text) and not void(c)]
            return all(any(map(is_it, places(c.text))) for c in other)
        beside = [c for c in every[:i] if (c.sentence != clause.sentence or not strong) and not void(c)]
        beside = [c for c in beside if not PHRASES["led_in"].match(c.text)]
        if is_it(_bare(clause.text)) and not strong and any(len(c.text.split()) <= 5 for c in beside):
            return False
        return not any(_short(c, is_it) for c in beside)
    return False


def _short(clause: Clause, is_it: Callable[[str], bool]) -> bool:
    """Whether a clause is a few words that may be another value."""
    words = _bare(clause.text).split()
    if not 1 <= len(words) <= 3 or PHRASES["led_in"].match(clause.text):
        return False
    if _BOTH.fullmatch(words[0]) and not is_it("yes") and not is_it("no"):
        return False
    return not any(is_it(" ".join(words[i:j])) for i in range(len(words)) for j in range(i + 1, len(words) + 1))
