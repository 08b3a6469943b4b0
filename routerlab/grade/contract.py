"""The contract: how a model is told to give its answer, and the strict reader of answers that follow it.

`instruction(query)` is sent with a question to models that follow instructions (not to the embedded models, which were
trained without it). `read(query, text)` returns the answer of a text that follows the contract, and None of any other
text, which the verifier's lenient reader then reads. A changed wording is a new `VERSION`.
"""

import re
from collections.abc import Iterable

from routerlab.core.queries import Query

VERSION = "contract/1"  # part of a call's key

_LINE = "Write your final answer alone on the last line, as `ANSWER: {}`."
_INSTRUCTIONS = {
    "exact": _LINE.format("<answer>"),
    "numeric": _LINE.format("<number>"),
    "multiple_choice": _LINE.format("<letter>"),
    "literal": _LINE.format("<Python literal>"),
    "math": r"Put your final answer, and nothing else, in one \boxed{}.",
    "json": "Reply with the JSON in one fenced block that begins with ```json.",
    "code": "Reply with the whole program in one fenced block that begins with ```python.",
    "reasoning_gym": "Write your final answer between <answer> and </answer>.",
}
_TAG = re.compile(r"<answer>((?:(?!</?answer>)[\s\S])*)</answer>")
_BLOCK = re.compile(r"^```(?:json|python)[^\S\n]*\n([\s\S]*?)^```[^\S\n]*$", re.M)

_RETRACTED = re.compile(  # after a box: the lenient readers tell whether the box is meant
    r"\b(?:wait|hmm+|oops|actually|sorry|correct(?:ion)?|edit|on (?:second thought|reflection)|wrong|incorrect|mis\w+"
    r"|error|not|no|but|if|instead|should|so|hence|thus|therefore|final)\b|n't\b",
    re.I,
)


def instruction(query: Query) -> str | None:
    """What to send after the question; None where the whole text is graded (regex, instructions, judge)."""
    return _INSTRUCTIONS.get(query.verifier)


def read(query: Query, text: str) -> str | None:
    """The answer of a text that follows the contract of the query's verifier to the letter; else None."""
    if query.verifier == "math":
        spans = boxes(text)
        answers = [] if len(spans) == 1 and _RETRACTED.search(text, spans[0][1]) else [text[a:b] for a, b in spans]
    elif query.verifier == "reasoning_gym":
        answers = _TAG.findall(text)
    elif query.verifier in {"json", "code"}:
        answers = _BLOCK.findall(text)
    elif query.verifier in _INSTRUCTIONS:
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        answers = [line.removeprefix("ANSWER:") for line in lines if line.startswith("ANSWER:")]
        answers = answers if lines and lines[-1].startswith("ANSWER:") else []
    else:
        return None
    return answers[0].strip() or None if len(answers) == 1 else None


def boxes(text: str) -> list[tuple[int, int]]:
    r"""(start, end) of the content of every \boxed{...} and \fbox{...} that holds no other, braces balanced."""
    starts = {m.end() for m in re.finditer(r"\\(?:boxed|fbox)\s{0,9}\{", text)}
    opened, out, last = [], [], -1
    for brace in re.finditer(r"(?<!\\)[{}]", text) if starts else ():
        if brace[0] == "{":
            opened.append(brace.end())
        elif opened and (start := opened.pop()) in starts and start > last:
            last = start
            out.append((start, brace.start()))
    return out


def boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...}; None where there is none."""
    spans = boxes(text)
    return text[slice(*spans[-1])] if spans else None


def lenient_share(queries: Iterable[Query], texts: Iterable[str | None]) -> float:
    """The share of answers, of those whose verifier has a contract, that do not follow it; NaN where there is none."""
    read_so = [read(q, t) is None for q, t in zip(queries, texts, strict=True) if t and instruction(q)]
    return sum(read_so) / len(read_so) if read_so else float("nan")
