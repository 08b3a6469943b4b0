"""What a text of several sentences asserts: what only asks, supposes, quotes, reports or checks is left out of it.

It is left out before the text is read, so that no reader has to tell such a sentence from a conclusion.
"""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise

from routerlab.grade.statements import PHRASES, QUOTES

Valued = Callable[[str], bool]  # whether a sentence has a value that could be an answer


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with the space after it, so that they join to the text."""
    found = (match for name in ("sentence_end", "after_a_letter") for match in PHRASES[name].finditer(text))
    ends = [0, *sorted({match.end() for match in found}), len(text)]
    return [text[a:b] for a, b in pairwise(ends) if a < b]


def asserted(text: str, valued: Valued) -> str:
    """A text without the sentences that assert nothing; empty if all its values stood in such sentences.

    A question that is not answered with yes, a supposition and a report of somebody else's answer assert nothing; a
    refusal leaves only what follows it and is not supposed. A remark, a check and a first guess are left out if a value
    remains.
    """
    parts = _without_refused(sentences(_without_quotes(text.translate(QUOTES), valued)))
    rests = dict(_void(parts))
    kept = [_without_supposition(rests.get(i, part), valued) for i, part in enumerate(parts)]
    remarks = set(_remarks(kept, valued))
    for left_out in ("early", None):
        early = {i for i, part in enumerate(parts) if left_out and PHRASES[left_out].match(part)}
        rest = ["" if i in remarks | early else part for i, part in enumerate(kept)]
        if any(map(valued, rest)):
            return "".join(rest)
    if any(map(valued, kept)):
        return "".join(kept)
    return "" if valued(text) else text


def _without_quotes(text: str, valued: Valued) -> str:
    """A text without quotations of three words and more that somebody else said, or that another value follows."""

    def shorter(quote: re.Match) -> str:
        if not valued(quote[1]):
            return quote[0]
        before, after = text[max(0, quote.start() - 60) : quote.start()], text[quote.end() : quote.end() + 40]
        others = PHRASES["quoted_after"].search(before) or PHRASES["quoted_before"].match(after)
        others = others or (len(quote[1].split()) > 2 and valued(text[quote.end() :]))
        return " that " if others else quote[0]

    return PHRASES["quotation"].sub(shorter, text)


def _without_refused(parts: list[str]) -> list[str]:
    """Sentences without what stands before the last one that refuses to answer, and what is only supposed after it."""
    refusal = max((i for i, part in enumerate(parts) if PHRASES["declines"].search(part)), default=None)
    if refusal is None:
        return parts
    rest = PHRASES["declines"].split(parts[refusal])[-1]
    _, _, however = rest.partition(joint[0]) if (joint := PHRASES["however"].search(rest)) else ("", "", "")
    return [part for part in (however, *parts[refusal + 1 :]) if not PHRASES["not_given"].search(part)]


def _void(parts: list[str]) -> Iterator[tuple[int, str]]:
    """(place, what is left) of questions with an answer and of what somebody else is said to have answered."""
    said = [i for i, part in enumerate(parts) if re.search(r"\w", part)]
    for i, after in zip(said, [*said[1:], None], strict=False):
        then = "" if after is None else parts[after]
        if parts[i].rstrip("\"')*_ \n").endswith("?"):
            if PHRASES["request"].match(parts[i]) or (then and not PHRASES["agreed"].match(then)):
                yield i, ". "
        elif report := PHRASES["reported_answer"].match(parts[i]):
            yield i, parts[i] if PHRASES["confirmed"].search(parts[i] + then) else parts[i][report.end() :]


def _without_supposition(part: str, valued: Valued) -> str:
    """A sentence without a supposition at its start; without its condition, if a value remains."""
    part = PHRASES["supposition"].sub("", part)
    return short if valued(short := PHRASES["condition"].sub("", part)) else part


def _remarks(parts: list[str], valued: Valued) -> Iterator[int]:
    """Places of remarks and checks after a value: to the end of the line if they begin one, up to a conclusion."""
    before, checking, new_line = False, False, True
    for i, part in enumerate(parts):
        if before and PHRASES["cue"].search(part):
            checking = False
        elif before and PHRASES["note"].match(part):
            checking = new_line
            yield i
        elif (checking and not new_line and not PHRASES["concludes"].match(part)) or (before and _beside(part, valued)):
            yield i
        else:
            checking = False
            before = before or valued(part)
        new_line = "\n" in part or (new_line and not part)


def _beside(part: str, valued: Valued) -> bool:
    """Whether a sentence after a value tells what might be, what somebody else has, or has its own only in a reason."""
    beside = PHRASES["contrary"].search(part) or PHRASES["reported_number"].match(part)
    return bool(beside) or (valued(part) and not valued(PHRASES["reason_end"].sub("", part)))
