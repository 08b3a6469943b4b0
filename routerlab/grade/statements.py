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
    for key, value in yaml.safe_load(Path(__file__).with_name("phrases.yaml").read_text("utf-8")).items():
        name, _, flags = key.partition(" ")
        alternatives = value if isinstance(value, str) else "|".join(value)
        texts[name] = f"(?{flags}:{re.sub(r'{([a-z_]+)}', lambda m: texts[m[1]], alternatives)})"
    return {name: re.compile(text) for name, text in texts.items()}


PHRASES = _patterns()
_DENIED, _CUE = PHRASES["denied"], PHRASES["cue"]


def tidy(text: str) -> str:
    """The end of a text, with plain quotes and dashes and without Markdown's bold and code marks."""
    text = re.sub("[\U0001f300-\U0001faff\u2600-\u26ff\ufe0f\u00ad\u200b-\u200f\u2060\ufeff]", "", text)
    text = re.sub(r"~~[^~\n]{1,200}~~", "", text)
    text = PHRASES["checked"].sub("", text[-LONGEST:].translate(QUOTES).replace("\r", ""))
    if (other := PHRASES["goes_on"].search(text)) and PHRASES["said"].search(text[: other.start()]):
        text = text[: other.start()]  # the model went on with a question of its own
    text = PHRASES["all_but"].sub("not ", text)
    return PHRASES["closing"].sub("", re.sub(r"(?<![\d*])\*\*+|\*\*+(?![\d*])|__+|`+", "", text))


def statements(text: str) -> list[tuple[int, int, str]]:
    """(start, end, phrase) of every explicit statement of a tidied text: boxed, tagged, after #### or "answer is"."""
    marked, said = PHRASES["marked"], list(PHRASES["said"].finditer(text))
    out = [(start, end, text[start:end]) for start, end in boxes(text)]
    out += [(m.start(), m.end(), m[m.lastindex]) for m in marked.finditer(text) if m.lastindex]
    for mark, after in zip(said, [*(m.start() for m in said[1:]), len(text)], strict=False):
        line = text[mark.end() : min(after, mark.end() + 2000)].partition("\n")[0].strip()
        line = line[: cue.start()] if (cue := _CUE.search(line, 1)) else line
        supposed = PHRASES["supposed"].search(mark[0] + line)
        if line and not supposed and not marked.search(line) and not PHRASES["heading"].fullmatch(line):
            out.append((mark.start(), mark.end() + len(line), line))
    out = [x for x in out if not PHRASES["conditional"].match(text, x[1])]
    return sorted(x for x in out if not PHRASES["reported"].search(text[max(0, x[0] - 60) : x[0]]))


def affirmed(phrase: str) -> str | None:
    """A phrase without what it denies beside its value ("not 5 but 6", "6, not 5"); None if it only denies.

    A reason denies nothing, and what follows a clause that denies counts ("It is not 5; it is 6"), but not what comes
    before it ("5; that is not right") and nothing after a refusal.
    """
    phrase = re.sub(r"\(([^()]*)\)", lambda m: "" if _DENIED.search(m[1]) and m.start() else m[0], phrase)
    phrase = PHRASES["not_but"].sub(" ", PHRASES["because"].sub("", phrase))
    if not _DENIED.match(phrase.strip()):
        phrase = phrase[:1] + PHRASES["beside"].sub("", phrase[1:])
    if PHRASES["torn"].search(phrase):
        return None
    if not _DENIED.search(phrase):
        return phrase
    clauses = PHRASES["clauses"].split(phrase)
    last = max(i for i, clause in enumerate(clauses) if _DENIED.search(clause) or i == 0)
    kept = PHRASES["conjunction"].sub("", "; ".join(clauses[last + 1 :]))
    return None if not kept.strip() or PHRASES["declined"].search(phrase) else kept


def _denied_at_end(text: str, place: int) -> bool:
    """Whether a text ends with "not" and what it states at a place."""
    stated = re.match(r"[^\s.;,]{1,40}(?:[.,]\d{1,20})?", text[place : place + 80])
    denied = r"(?:\bnot|n't)(?: be| equal)?(?: to)? \W{0,3}"
    return bool(stated and re.search(rf"{denied}{re.escape(stated[0])}\W{{0,9}}$", text[-150:]))


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
    if not marks and len(text.split()) > 3 and PHRASES["dangling"].search(text.rstrip()[-40:]):
        return None  # cut off before it came to an answer
    if before and before[-1][2] not in (value, SEVERAL):
        between = text[before[-1][1] : marks[-1][0]]
        cue = _CUE.search(text, before[-1][1])
        if len(re.findall(r"\w+", between)) <= 4 and not (cue and cue.start() < marks[-1][0]):
            return SEVERAL  # pyright: ignore[reportReturnType]
    for cue in reversed(list(_CUE.finditer(text, place + 1))[-9:]):
        if not marks and (new := weak(text[cue.end() :].partition("\n")[2])) not in (None, SEVERAL):
            return new  # concluded in a later paragraph
        end = PHRASES["sentence_end"].split(text[cue.end() :].rstrip(" \n.!"))[-1]
        if not marks and PHRASES["concludes"].match(end) and (new := weak(end)) not in (None, SEVERAL):
            return new
        ends = [m.end() for m in re.finditer(r"(?:[.!?;]|\n)\s{1,9}", text[: cue.end() + 2000])]
        for start in reversed([cue.end(), *(end for end in ends if end > cue.end())]):
            instead = PHRASES["instead"].match(text, start)
            clause = re.split(r"(?<!\d)[.!?]\s|[.!?]\s(?=[A-Z])", instead[3])[0] if instead else ""
            clause = clause if "(" in clause else clause.rstrip(" )")
            sure = (
                instead
                and not PHRASES["wrong"].match(text, start)
                and (instead[2] or (start == cue.end() and len(clause.split()) <= 2))
            )
            if sure and (new := read(clause)):
                return new
        if wrong := PHRASES["wrong"].match(text, cue.end()) or PHRASES["wrong"].match(text, cue.start()):
            rest = re.sub(r"^[\s.,;:!]*(?:(?:since|because|as)\b[^.;\n]*)?", "", text[wrong.end() :])
            return weak(rest.lstrip(" .,;:!")) or SEVERAL  # pyright: ignore[reportReturnType]
        if PHRASES["own_error"].match(cue[0]) and (new := weak(text[cue.end() :])) not in (None, SEVERAL):
            return new
    if marks and text[:place].rstrip().endswith("{"):  # a box is passed over by a conclusion after it
        ends = PHRASES["sentence_end"].split(text[place:])[1:][-8:]
        values = (weak(end) for end in reversed(ends) if PHRASES["concluding"].search(end))
        if (new := next(values, None)) not in (None, SEVERAL):
            return new
    if value != SEVERAL:
        if value is None:
            return weak(text)
        return SEVERAL if _denied_at_end(text, place) else value  # pyright: ignore[reportReturnType]
    later = (read(text[m.end() : m.end() + 200].partition("\n")[0]) for m in PHRASES["it_is"].finditer(text, place))
    return next((new for new in later if new not in (None, SEVERAL)), value)
