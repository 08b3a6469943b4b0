"""When two short answers name the same thing: spelling, titles, initials, dates and number do not tell them apart."""

import re
import unicodedata
from functools import lru_cache

from routerlab.grade.statements import PHRASES, QUOTES

_MONTHS = ["january", "february", "march", "april", "may", "june", "july", "august"]
_MONTHS += ["september", "october", "november", "december"]
_MONTH = "|".join([*_MONTHS, *(month[:3] for month in _MONTHS)])
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_DATE = re.compile(rf"{_DAY} (?:of )?({_MONTH})\b\.?|({_MONTH})\b\.? {_DAY}(?![\d:])")
_ISO = re.compile(r"^(\d{4})-(0[1-9]|1[0-2])-([0-3]\d)$")
_PLAIN = str.maketrans({"ł": "l", "ø": "o", "ß": "ss", "æ": "ae", "œ": "oe", "đ": "d"})
_TENS = "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
_NUMBERS = {w: i for i, w in enumerate(f"one two three four five six seven eight nine ten {_TENS}".split(), 1)}
_NTHS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth"
_NTHS = f"{_NTHS} fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
_ORDINALS = {word: i for i, word in enumerate(_NTHS.split(), 1)}
_ROMAN = {"x": 10, "l": 50, "v": 5, "i": 1}
# Words that are spelt in two ways, British and American, in the form in which they are compared.
_SPELLINGS = [
    (r"(?<=[a-z]{3})our(?=s?\b|ed\b|ing\b|able\b|ite|ful|al\b|ist\b|hood\b)", "or"),
    (r"(?<=[a-z][tb])re(?=s?\b)", "er"),
    (r"(?<=[a-z]{3})is(?=e\b|e[drs]\b|ing\b|ation)", "iz"),
    (r"(?<=[a-z]{3})yse(?=\b|[drs]\b)", "yze"),
    (r"(?<=[a-z]{3})ogue(?=s?\b)", "og"),
    (r"\b(def|off|lic|pret)ence\b", r"\1ense"),
    (r"(?<=[a-z]{2}[aeiou])ll(?=ed\b|ing\b|ers?\b)", "l"),
    (r"\b(an|leuk|h)aem", r"\1em"),
    (r"\b(p|encyclop|orthop)aed", r"\1ed"),
    (r"\b(foe|oe)(?=t|str|soph)", lambda m: m[0].replace("oe", "e")),
    (r"\bsulph", "sulf"),
    (r"\b(alumin)ium\b", r"\1um"),
    (r"\bgrey", "gray"),
    (r"\bplough", "plow"),
    (r"\b(m)ou(?=ld|lt\b|stache)", r"\1o"),
]
_SPELLINGS = [(re.compile(pattern), form) for pattern, form in _SPELLINGS]
_HIDDEN = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")  # soft hyphens and what has no width


def normal(text: str) -> str:
    """A text in the form in which answers are compared.

    Case, width, quotes, spaces, a first article and punctuation at the ends do not count. Inner punctuation and signs
    do: "1.5" is not "15" and "-5" is not "5".
    """
    text = unicodedata.normalize("NFKC", _HIDDEN.sub("", text)).casefold().translate(QUOTES)
    text = " ".join(text.replace("**", "").split()).strip("\"'`_ ").rstrip(".,;:!?\"'`_ ")
    bare = re.sub(r"^(?:the|an?) (?=\S)", "", text)
    return bare or text


@lru_cache(1000)
def key(text: str) -> str:
    """The normal form without what spelling leaves open: accents, titles, points of initials, numerals, dates."""
    text = re.sub(r"(?<=[^\W\d]),(?= )", "", normal(text))  # "Hello, world" is "hello world"
    text = "".join(c for c in unicodedata.normalize("NFD", text.translate(_PLAIN)) if not "\u0300" <= c <= "\u036f")
    text = re.sub(r"\b([a-z])\. ?(?=[a-z]\b)", r"\1", text)  # "J. K." is "jk"
    text = re.sub(r"\b([a-z]{1,3})\. ?(?=[a-z]{2})", r"\1 ", text)
    text = _ISO.sub(lambda m: f"{_MONTHS[int(m[2]) - 1]} {int(m[3])} {m[1]}", text)
    text = _numbered(re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text.replace(" & ", " and ")))
    text = _DATE.sub(lambda m: f"{_MONTHS[_month(m[2] or m[3])]} {m[1] or m[4]}", text)
    text = re.sub(rf"^(?:on (?:the )?|the )(?={'|'.join(_MONTHS)})", "", text)
    text = re.sub(r"(?<=\d)(?:,| in)? (?=\d{4}$)", " ", text) if text.startswith(tuple(_MONTHS)) else text
    text = re.sub(r"^12(?::00)?[ -](?=(?:midnight|noon)$)|(?<=\d) (?:ad|ce)$|(?<=\d(?:st|nd|rd|th)) place$", "", text)
    text = re.sub(r"^st (?=[a-z])", "saint ", re.sub(r"(?<= )(?:jr|junior)$", "", text).strip())
    for pattern, form in _SPELLINGS:
        text = pattern.sub(form, text)
    for name in ("united_states", "united_kingdom", "honorific"):
        text = PHRASES[name].sub("" if name == "honorific" else name, text)
    return re.sub(r"^([a-z][a-z ]* \d{1,2}) of (?:the )?[a-z]+(?: [a-z]+)?$", r"\1", text)  # "Henry VIII of England"


def _numbered(text: str) -> str:
    """Numbers in figures: "louis the fourteenth" and "louis xiv" are "louis 14", "wwii" is "world war 2"."""
    text = re.sub(r"\bww ?(?=(?:i{1,3}|[123])\b)", "world war ", text)
    text = re.sub(r"\b[a-z]+th\b|\b(?:first|second|third)\b", lambda m: _nth(_ORDINALS.get(m[0]), m[0]), text)
    text = re.sub(r"(?<=[a-z] )[ivxl]{1,7}\b", lambda m: _arabic(m[0]), text)
    text = re.sub(r"(?<=[a-z] )[a-z]{3,9}\b", lambda m: str(_NUMBERS.get(m[0], m[0])), text)
    text = re.sub(r"(?<=[a-z] )the (\d{1,2})(?:st|nd|rd|th)$", r"\1", text)
    return re.sub(r"^(\d)(?:st|nd|rd|th) world war$", r"world war \1", text)


def _nth(number: int | None, word: str) -> str:
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number, 'th') }" if number else word


def _arabic(numeral: str) -> str:
    """A Roman numeral below 90 in figures, and any other word as it is."""
    if not re.fullmatch("(?:xl|l?x{0,3})(?:ix|iv|v?i{0,3})", numeral):
        return numeral
    values = [_ROMAN[c] for c in numeral]
    return str(sum(-x if x < after else x for x, after in zip(values, [*values[1:], 0], strict=True)))


def _month(name: str) -> int:
    return next(i for i, month in enumerate(_MONTHS) if month.startswith(name[:3]))


def same(phrase: str, wanted: str) -> bool:
    """Whether a phrase is the wanted answer, whose own spelling says whether it is a name."""
    if len(phrase) > 200 + 3 * len(wanted):
        return False
    said, asked = key(phrase), key(wanted)
    if said == asked:
        return True
    if len(phrase) > 200:
        return False
    if re.fullmatch(r"(?!near|part|hard|bare|most|rare|scarce|false|wrong)[a-z]+ly [a-z]+", said) and said.endswith(
        " " + asked
    ):
        return True  # "logically valid"
    if (bare := _plain_formula(phrase)) != phrase:
        return same(bare, wanted)
    if any(same(name, wanted) for name in _beside(phrase)):
        return True
    kind = PHRASES["kind_of_place"]
    if kind.sub("", said) == asked or kind.sub("", asked) == said:
        return True
    kinds = ([m.strip() for m in kind.findall(name)] for name in (said, asked))
    if kind.sub("", said) == kind.sub("", asked) and next(kinds) == next(kinds):
        return True  # "the River Amazon"
    if _initials(phrase, wanted) or _initials(wanted, phrase):
        return True
    if turned := re.fullmatch(r"([A-Z][\w'-]+), ([A-Z][\w.' -]+)", phrase.strip(" .*\"'")):
        return key(f"{turned[2]} {turned[1]}") == asked  # "Einstein, Albert"
    if re.fullmatch("[A-Z][a-z]{3,}", wanted) and PHRASES["person"].fullmatch(phrase.strip(" .*\"'")):
        # "Albert Einstein" for Einstein, but not "Equatorial Guinea" for Guinea
        return said.split()[-1] == asked and not PHRASES["other_name_before"].search(said)
    return _one_person(_words(said, phrase), _words(asked, wanted), wanted, phrase)


def _plain_formula(phrase: str) -> str:
    """A name or a formula of chemistry without LaTeX: CO2 for $\\mathrm{CO_2}$."""
    if not re.search(r"[$\\]", phrase):
        return phrase
    bare = re.sub(r"\\(?:text|mathrm|textbf|mathbf|ce|rm)\s?(?=\{)|\\[()]|\$", "", phrase).strip()
    return re.sub(r"_(?=\d)", "", re.sub(r"_?\{([^{}]*)\}", r"\1", re.sub(r"_\{(\d+)\}", r"\1", bare))).strip()


def _beside(phrase: str) -> list[str]:
    """The names that a phrase gives beside another for the same thing, or a title beside its author."""
    out = []
    if match := PHRASES["title_and_author"].fullmatch(phrase.strip(" .")):
        out += [next(filter(None, match.groups()))]
    if match := PHRASES["also_called"].fullmatch(phrase.strip(" .")):
        out += list(filter(None, match.groups()))
    elif match := re.fullmatch(r"([^()]+) \(([^()]+)\)", phrase.strip(" .")):
        stems = [{word[:4].lower() for word in re.findall(r"[^\W\d_]{4,}", part)} for part in match.groups()]
        foreign = re.search(r"[\u0370-\u1cff\u2e80-\ud7ff]", match[1])
        formula = re.fullmatch(r"(?:[A-Z][a-z]?[\d\u2080-\u2089]*)+", match[1])
        out += [match[2]] if foreign or formula or stems[0] & stems[1] else []
    return out


_SHORT = {"un": "united nations", "eu": "european union", "ai": "artificial intelligence"}


def _initials(short: str, long: str) -> bool:
    """Whether the first is made of the initials of the second: "NYC" of New York City."""
    short = re.sub(r"^the |[. *]", "", short.strip())
    words = [x for x in re.split(r"[\s-]+", long.strip(" .*\"'")) if x.lower() not in ("of", "and", "the", "for", "de")]
    if re.fullmatch("[IVXL]+", words[-1] if words else "I") or not re.fullmatch("[A-Z]{2,6}", short):
        return False
    if not all(x[1:] and x[0].isalpha() for x in words):
        return False
    if len(short) == 2:
        return key(long) == _SHORT.get(short.lower())
    return len(words) == len(short) and "".join(x[0] for x in words).upper() == short


def _words(said: str, name: str) -> list[str]:
    """The words of a name's key, initials one by one: of "J.S. Bach" j, s, bach."""
    first, *rest = said.split() or [""]
    apart = rest and 1 < len(first) < 4 and re.match(r"\W*(?:(?:[A-Z]\. ?){2}|[A-Z]{2,3} )", name)
    return [*first, *rest] if apart else [first, *rest]


def _one_person(said: list[str], asked: list[str], wanted: str, phrase: str) -> bool:
    """Names of a person: a first name may be an initial, a middle initial may lack, and the surname may stand alone."""
    if not 2 <= len(asked) <= 4 or not PHRASES["person"].fullmatch(wanted.strip(" .")) or not said:
        return False
    if {"new", "north", "south", "east", "west"} & {*asked} or len(said) > 4 or said[-1] != asked[-1]:
        return False
    particle = said[0] in {"van", "von", "de", "da", "di", "del"}
    if not (phrase.strip(" *\"'")[:1].isupper() or particle):
        return False
    if len(said) == 1 or (said == asked[-2:] and particle):
        return len(asked[-1]) > 3
    (first, *middle, _), (other, *between, _) = said, asked
    if first != other and not (min(len(first), len(other)) <= 2 and first[0] == other[0]):
        return False
    extra = middle or between
    if middle and len(middle) == len(between):
        return all(x == y or (x[0] == y[0] and 1 in (len(x), len(y))) for x, y in zip(middle, between, strict=True))
    return not (middle and between) and all(len(name) <= 2 for name in extra)
