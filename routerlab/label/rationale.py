"""Rationales, made from the question's text alone, and the check that no prompt tells an answer.

A label comes from what models answered. If a trace of an answer, a grade or a reference reached the prompt, a router
would learn to read it there and fail on the first new question.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:[.,]\d+)*")
_ASKS = re.compile(
    r"\b(who|what|when|where|which|why|how|calculate|compute|count|find|prove|write|sort|list|convert|spell)\b",
    re.I,
)


class Analysis(NamedTuple):
    """What can be counted in a question: its words and the longest of them, its sentences, its numbers and the digits
    of the longest, its signs of arithmetic, its lines of options or code, and the word that says what is asked.
    """

    words: int
    longest_word: int
    sentences: int
    numbers: int
    digits: int
    operators: int
    options: int
    code: bool
    asks: str


def analyse(text: str) -> Analysis:
    """Count what there is in the text of a question."""
    words, numbers = re.findall(r"[^\W\d_]+", text), _NUMBER.findall(text)
    asked = _ASKS.search(text)
    return Analysis(
        words=len(words),
        longest_word=max(map(len, words), default=0),
        sentences=len(re.findall(r"[.!?](?:\s|$)", text)) or int(bool(text.strip())),
        numbers=len(numbers),
        digits=max((sum(c.isdigit() for c in n) for n in numbers), default=0),
        operators=len(re.findall(r"(?<=[\w)\s])[-+*/^=×÷](?=[\s\w(-])", text)),
        options=len(re.findall(r"^\s*\(?[A-J][.):]\s", text, re.M)),
        code="```" in text or bool(re.search(r"^\s*(def|class|import|for|return)\b", text, re.M)),
        asks=asked[1].lower() if asked else "",
    )


def rationale(text: str) -> str:
    """One sentence on what the question asks of a model: only what `analyse` counts, so it can be written for a
    question nobody has answered.
    """
    counts = analyse(text)
    traits = {
        f"{_count(counts.numbers, 'number')} of up to {_count(counts.digits, 'digit')}": counts.numbers,
        f"{_count(counts.operators, 'sign')} of arithmetic": counts.operators,
        f"{_count(counts.options, 'option')} to choose from": counts.options,
        "program text": counts.code,
    }
    present = [trait for trait, count in traits.items() if count]
    asks = f', asking "{counts.asks}"' if counts.asks else ""
    has = f", with {', '.join(present)}" if present else ""
    size = f"{_count(counts.words, 'word')} in {_count(counts.sentences, 'sentence')}"
    return f"A question of {size}{asks}{has}."


def leaks(prompts: Sequence[str], blank: str, texts: Sequence[str], secrets: Sequence[str]) -> list[int]:
    """The places of the prompts that contain their secret (an answer, a grade, a reference) more often than the
    question's own text and the prompt of an empty question (`blank`) do. Check before training that there are none.
    """
    rows = enumerate(zip(prompts, texts, secrets, strict=True))
    return [i for i, (read, text, s) in rows if s and read.count(s) > blank.count(s) + text.count(s)]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
