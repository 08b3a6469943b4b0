"""Where a text states its answer: the part that the lenient readers share.

The last statement counts; what the text denies or takes back does not. All patterns take time linear in the length of
the text: gaps are bounded, and no text is read beyond its last `LONGEST` characters.
"""

import re
from collections.abc import Callable
from typing import TypeVar

from routerlab.grade.contract import boxes

LONGEST = 50_000  # characters read, from the end: the answer stands there
SEVERAL = "several"  # the reading of a phrase that commits to no single value: alternatives, a range, a denial
V = TypeVar("V")

QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "−": "-", "–": "-", "—": "-", "：": ":", "。": "."})
_IS = (
    r"(?: (?:is|are|was|would be|should be|must be|has to be|will be|comes (?:out )?to|equals|es|ist|lautet|est"
    r"|é|è)\b"
    r"(?: therefore| thus| then| hence| clearly| definitely| simply| just)?:?|'s(?= )|[ *]{0,3}(?:[:=]| -(?= ))|是|为)"
)
_SAID = re.compile(
    r"(?:\b(?:answer|result|solution|(?:correct|right|best|selected|final|my|your) (?:option|choice|letter"
    r"|pick)|respuesta|antwort|l[öo]sung|r[ée]ponse|resposta|risposta)(?: (?:correct[ae]|here|choice|"
    rf"option|(?:to|for) (?:the|this) (?:question|problem)))?|答案|^A(?=:)){_IS}\s{{0,4}}"
    r"|^[#\s]{0,9}(?:the )?(?:final |correct )?(?:answer|result|solution):?[ \t]{0,3}\n{1,3}",
    re.I | re.M,
)
_MARKED = re.compile(r"<answer>([^<]{0,2000})</answer>|####[ \t]{0,3}([^\n]{1,2000})|\\(?:boxed|fbox)\s{0,9}\{", re.I)
_CUE = re.compile(
    r"\b(?:wait|hmm+|oops|actually|sorry|scratch that|correction|on (?:second thought|reflection)"
    r"|(?<!yes, )(?<!no, )no(?= ?[,:;.!-])(?!, (?:yes|no)\b)"
    r"|i (?:made|make) an? (?:mistake|error))\b(?:[\s,.:;!?]|-(?=\s)){0,9}",
    re.I,
)
_INSTEAD = re.compile(
    r"((?:(?:no|so|but|wait|hmm|rather|then|thus|therefore)\b[\s,.:;]{0,5}){0,4})"
    r"((?:it|this|that|the (?:\w{1,9} )?(?:answer|value|result|total|option))(?:'s| is| should be| must be| would be)"
    r"(?: actually| really| in fact)?\b|i (?:meant?|pick|choose)\b|make (?:that|it)\b)?[\s:]{0,5}([^\n]{0,200})",
    re.I,
)
_WRONG = re.compile(
    r"(?:(?:no|but|so)\b[\s,]{0,3}){0,2}(?:that|this|it)(?:'s| is| was|)(?: not (?:right|correct)|n't (?:right"
    r"|correct)"
    r"|(?: all)? (?:wrong|incorrect|mistaken)| an? (?:mistake|error))",
    re.I,
)
_DENIED = re.compile(
    r"\b(?:not|never|cannot|neither|nor|(?:any|every)thing (?:but|except)|ruled? out|unable to"
    r"|more (?:information|context)"
    r"|(?:is|was|are) (?:wrong|incorrect|false))\b|n't\b",
    re.I,
)
_NOT_BUT = re.compile(
    r"(?:\b(?:is |was )?not|n't) (?:[^,;.\n]|\.(?=\d)){1,40}?(?:,? but(?: rather)?|[,;] (?:it(?:'s| is)|but"
    r"|rather))\s",
    re.I,
)
_BESIDE = re.compile(
    r"(?<!\bis)(?<!\bwas)(?<!\bare)(?<!\bbe)(?<!\b[cd]o)(?<!\bdoes)(?<!\bdid)(?<!\bcan)(?<!ould)(?<!\bthink)"
    r"[,;(\s]\s?(?:and |but )?(?:not|rather than|instead of|as opposed to) (?:[^,;.)\n]|\.(?=\d)){1,60}\)?",
    re.I,
)


def tidy(text: str) -> str:
    """The end of a text, with plain quotes and dashes and without Markdown's bold and code marks."""
    text = text[-LONGEST:].translate(QUOTES).replace("\r", "")
    return re.sub(r"(?<![\d*])\*\*+|\*\*+(?![\d*])|__+|`+", "", text)


def statements(text: str) -> list[tuple[int, int, str]]:
    """(start, end, phrase) of every explicit statement of a tidied text: boxed, tagged, after #### or "answer is"."""
    out = [(start, end, text[start:end]) for start, end in boxes(text)]
    out += [(m.start(), m.end(), m[1] or m[2]) for m in _MARKED.finditer(text) if m[1] or m[2]]
    marks = list(_SAID.finditer(text))
    for number, mark in enumerate(marks, 1):
        after = marks[number].start() if number < len(marks) else len(text)
        line = text[mark.end() : min(after, mark.end() + 2000)].partition("\n")[0].strip()
        line = line[: cue.start()] if (cue := _CUE.search(line, 1)) else line
        if line and not _MARKED.search(line):
            out.append((mark.start(), mark.end() + len(line), line))
    return sorted(out)


def affirmed(phrase: str) -> str | None:
    """A phrase without what it denies beside its value ("not 5 but 6", "6, not 5"); None if it only denies."""
    phrase = _NOT_BUT.sub(" ", phrase)
    if not _DENIED.match(phrase.strip()):
        phrase = phrase[:1] + _BESIDE.sub("", phrase[1:])
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
    marks = [
        (start, end, phrase, value) for start, end, phrase in statements(text) if (value := read(phrase)) is not None
    ]
    value, place = (marks[-1][3], marks[-1][1] - len(marks[-1][2])) if marks else (None, 0)
    if len(marks) > 1 and marks[-2][3] not in (value, SEVERAL):
        between = text[marks[-2][1] - len(marks[-2][2]) : marks[-1][0]]
        if len(between.split()) <= 4 and not _CUE.search(between):
            return SEVERAL  # pyright: ignore[reportReturnType]
    for cue in reversed(list(_CUE.finditer(text, place + 1))[-9:]):
        starts = [
            cue.end(),
            *(m.end() for m in re.finditer(r"(?:[.!?;]|\n)\s{1,9}", text[: cue.end() + 2000]) if m.end() > cue.end()),
        ]
        for start in reversed(starts):
            instead = _INSTEAD.match(text, start)
            clause = re.split(r"(?<!\d)[.!?]\s|[.!?]\s(?=[A-Z])", instead[3])[0] if instead else ""
            sure = instead and (instead[2] or (start == cue.end() and len(clause.split()) <= 2))
            if sure and (new := read(clause)) is not None:
                return new
        if _WRONG.match(text, cue.end()):
            return weak(text[cue.end() :])
    return weak(text) if value is None else value
