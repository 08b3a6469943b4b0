"""When two short answers name the same thing: spelling, titles, initials, dates and number do not tell them apart."""

import re
import unicodedata

from routerlab.grade.statements import PHRASES, QUOTES

_MONTHS = ["january", "february", "march", "april", "may", "june", "july", "august"]
_MONTHS += ["september", "october", "november", "december"]
_MONTH = "|".join([*_MONTHS, *(month[:3] for month in _MONTHS)])
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_DATE = re.compile(rf"{_DAY} (?:of )?({_MONTH})\b\.?|({_MONTH})\b\.? {_DAY}(?![\d:])")
_ISO = re.compile(r"^(\d{4})-(0[1-9]|1[0-2])-([0-3]\d)$")
_PLAIN = str.maketrans({"ł": "l", "ø": "o", "ß": "ss", "æ": "ae", "œ": "oe", "đ": "d"})


def normal(text: str) -> str:
    """A text in the form in which answers are compared.

    Case, width, quotes, spaces, a first article and punctuation at the ends do not count. Inner punctuation and signs
    do: "1.5" is not "15" and "-5" is not "5".
    """
    text = unicodedata.normalize("NFKC", text).casefold().translate(QUOTES)
    text = " ".join(text.replace("**", "").split()).strip("\"'`_ ").rstrip(".,;:!?\"'`_ ")
    bare = re.sub(r"^(?:the|an?) (?=\S)", "", text)
    return bare or text


def key(text: str) -> str:
    """The normal form without what spelling leaves open: accents, titles, points of initials, the order of a date."""
    text = re.sub(r"(?<=[^\W\d]),(?= )", "", normal(text))  # "Hello, world" is "hello world"
    text = "".join(c for c in unicodedata.normalize("NFD", text.translate(_PLAIN)) if not "\u0300" <= c <= "\u036f")
    text = re.sub(r"\b([a-z])\. ?(?=[a-z]\.)", r"\1", text)  # "J. K." is "jk"
    text = re.sub(r"\b([a-z]{1,3})\. ?(?=[a-z]{2})", r"\1 ", text)
    text = _ISO.sub(lambda m: f"{_MONTHS[int(m[2]) - 1]} {int(m[3])} {m[1]}", text)
    text = _DATE.sub(lambda m: f"{_MONTHS[_month(m[2] or m[3])]} {m[1] or m[4]}", text)
    text = re.sub(r"(?<=\d),? (?=\d{4}$)", " ", text) if text.startswith(tuple(_MONTHS)) else text
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text.replace(" & ", " and "))
    text = re.sub(r",? (?:jr|sr)$|(?<=\d) (?:ad|ce)$", "", text)
    for name in ("united_states", "united_kingdom", "honorific"):
        text = PHRASES[name].sub("" if name == "honorific" else name, text)
    return text


def _month(name: str) -> int:
    return next(i for i, month in enumerate(_MONTHS) if month.startswith(name[:3]))


def same(phrase: str, wanted: str) -> bool:
    """Whether a phrase is the wanted answer, whose own spelling says whether it is a name."""
    said, asked = key(phrase), key(wanted)
    if said == asked:
        return True
    if PHRASES["kind_of_place"].sub("", said) == asked or PHRASES["kind_of_place"].sub("", asked) == said:
        return True
    if re.fullmatch("[A-Z][a-z]{3,}", wanted) and PHRASES["person"].fullmatch(phrase.strip(" .*\"'")):
        # "Albert Einstein" for Einstein, but not "Equatorial Guinea" for Guinea
        return said.split()[-1] == asked and not re.match(r"\w+(?:ial|ern|ese|ish|tic|land)\b", said)
    return _one_person(said.split(), asked.split(), wanted, phrase)


def _one_person(said: list[str], asked: list[str], wanted: str, phrase: str) -> bool:
    """Names of a person: a first name may be an initial, a middle initial may lack, and the surname may stand alone."""
    if not 2 <= len(asked) <= 4 or not PHRASES["person"].fullmatch(wanted.strip(" .")) or not said:
        return False
    if {"new", "north", "south", "east", "west"} & {*asked} or len(said) > 4 or said[-1] != asked[-1]:
        return False
    if not phrase.strip(" *\"'")[:1].isupper():
        return False
    if len(said) == 1 or (said == asked[-2:] and said[0] in {"van", "von", "de", "da", "di", "del"}):
        return len(asked[-1]) > 3
    (first, *middle, _), (other, *between, _) = said, asked
    if first != other and not (min(len(first), len(other)) <= 2 and first[0] == other[0]):
        return False
    extra = middle or between
    return middle == between or (not (middle and between) and all(len(name) <= 2 for name in extra))
