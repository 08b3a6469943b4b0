"""Where a text states its answer: the part that the lenient readers share.

The last statement counts; what the text denies or takes back does not. The patterns are in phrases.yaml. They take time
linear in the length of the text, and no text is read beyond its last `LONGEST` characters.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import yaml

from routerlab.grade.contract import boxes

LONGEST = 50_000  # characters read, from the end: the answer stands there
SEVERAL = "several"  # the reading of a phrase that commits to no single value: alternatives, a range, a denial
V = TypeVar("V")

QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "−": "-", "–": "-", "—": "-", "：": ":", "。": "."})


def _patterns() -> dict[str, re.Pattern]:
    """The patterns of phrases.yaml by name."""
    texts: dict[str, str] = {}
    for key, value in yaml.safe_load(Path(__file__).with_name("phrases.yaml").read_text()).items():
        name, _, flags = key.partition(" ")
        alternatives = value if isinstance(value, str) else "|".join(value)
        texts[name] = f"(?{flags}:{re.sub(r'{([a-z_]+)}', lambda m: texts[m[1]], alternatives)})"
    return {name: re.compile(text) for name, text in texts.items()}


PHRASES = _patterns()
_DENIED, _CUE = PHRASES["denied"], PHRASES["cue"]


def tidy(text: str) -> str:
    """The end of a text, with plain quotes and dashes and without Markdown's bold and code marks."""
    text = text[-LONGEST:].translate(QUOTES).replace("\r", "")
    return PHRASES["closing"].sub("", re.sub(r"(?<![\d*])\*\*+|\*\*+(?![\d*])|__+|`+", "", text))


def statements(text: str) -> list[tuple[int, int, str]]:
    """(start, end, phrase) of every explicit statement of a tidied text: boxed, tagged, after #### or "answer is"."""
    marked, said = PHRASES["marked"], list(PHRASES["said"].finditer(text))
    out = [(start, end, text[start:end]) for start, end in boxes(text)]
    out += [(m.start(), m.end(), m[m.lastindex]) for m in marked.finditer(text) if m.lastindex]
    for mark, after in zip(said, [*(m.start() for m in said[1:]), len(text)], strict=False):
        line = text[mark.end() : min(after, mark.end() + 2000)].partition("\n")[0].strip()
        line = line[: cue.start()] if (cue := _CUE.search(line, 1)) else line
        if line and not marked.search(line) and not PHRASES["heading"].fullmatch(line):
            out.append((mark.start(), mark.end() + len(line), line))
    return sorted(out)


def affirmed(phrase: str) -> str | None:
    """A phrase without what it denies beside its value ("not 5 but 6", "6, not 5"); None if it only denies."""
    phrase = PHRASES["not_but"].sub(" ", phrase)
    if not _DENIED.match(phrase.strip()):
        phrase = phrase[:1] + PHRASES["beside"].sub("", phrase[1:])
    return None if _DENIED.search(phrase) else phrase


def last_stated(text: str, read: Callable[[str], V | None], weak: Callable[[str], V | None]) -> V | None:
    """The reading of the last statement of a text.

    Args:
        text: a tidied text.
        read: the value of a phrase, SEVERAL if it commits to no single one, None if it holds none.
        weak: the value of a text without an explicit statement.

    Returns:
        What `read` or `weak` gives. A statement corrected afterwards ("wait, no, it's 7") has the corrected value, and
        one taken back without another has none. Different statements in a row, nothing between them, are SEVERAL.
    """
    marks = [(mark, end - len(phrase), value) for mark, end, phrase in statements(text) if (value := read(phrase))]
    *before, (_, place, value) = marks or [(0, 0, None)]
    if before and before[-1][2] not in (value, SEVERAL):
        between = text[before[-1][1] : marks[-1][0]]
        if len(between.split()) <= 4 and not _CUE.search(between):
            return SEVERAL  # pyright: ignore[reportReturnType]
    for cue in reversed(list(_CUE.finditer(text, place + 1))[-9:]):
        ends = [m.end() for m in re.finditer(r"(?:[.!?;]|\n)\s{1,9}", text[: cue.end() + 2000])]
        for start in reversed([cue.end(), *(end for end in ends if end > cue.end())]):
            instead = PHRASES["instead"].match(text, start)
            clause = re.split(r"(?<!\d)[.!?]\s|[.!?]\s(?=[A-Z])", instead[3])[0] if instead else ""
            sure = (
                instead
                and not PHRASES["wrong"].match(text, start)
                and (instead[2] or (start == cue.end() and len(clause.split()) <= 2))
            )
            if sure and (new := read(clause)):
                return new
        if wrong := PHRASES["wrong"].match(text, cue.end()):
            return weak(text[wrong.end() :].lstrip(" .,;:!"))
        if cue[0].lower().startswith("no") and (new := weak(text[cue.end() :])) not in (None, SEVERAL):
            return new
    if value != SEVERAL:
        return weak(text) if value is None else value
    later = (read(text[m.end() : m.end() + 200].partition("\n")[0]) for m in PHRASES["it_is"].finditer(text, place))
    return next((new for new in later if new not in (None, SEVERAL)), value)
