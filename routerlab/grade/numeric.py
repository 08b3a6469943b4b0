"""The verifier of numbers, in exact fractions and without a library."""

import itertools
import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from routerlab.core.queries import Query
from routerlab.grade import contract
from routerlab.grade.answers import FORMAT, Result, VerifyError, reference, verdict
from routerlab.grade.statements import QUOTES, SEVERAL, affirmed, last_stated, tidy

_SCALE = {
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "k": 10**3,
    "m": 10**6,
    "bn": 10**9,
}
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_ONE = re.compile(
    rf"(?<![\w.^])(?<!\^[{{+-])(?<!\^\{{[+-])(?P<sign>(?<![\w)])[-+])?\s*[$€£¥]?\s*(?P<minus>(?<=[$€£¥])-)?"
    rf"(?:(?P<whole>\d+)[ \u00a0]+(?P<top>\d+)\s*/\s*(?P<low>\d+)(?![\d.])"
    rf"|(?P<a>{_PLAIN})(?:[eE](?P<power>[-+]?\d{{1,3}})(?!\d)"
    rf"|\^\{{?(?P<raised>[-+]?\d{{1,3}})(?!\d)\}}?)?(?:\s*/\s*(?P<b>{_PLAIN}))?)"
    rf"\s*(?:(?P<percent>%|per ?cent\b)|(?P<scale>thousand|million|billion|trillion|(?<=\d)(?:k|(?-i:M)|bn))\b)?",
    re.I,
)


class Number(NamedTuple):
    """A number as written; `percent` where a percent sign follows; where it stands in the cleaned text."""

    value: Fraction
    percent: bool
    start: int = 0
    end: int = 0

    def readings(self) -> tuple[Fraction, ...]:
        return (self.value, self.value / 100) if self.percent else (self.value,)


_REWRITES = [
    (r"<<[^<>\n]{0,200}>>", ""),  # GSM8K's own notes
    (r"(\s)\s+|_+", r"\1 "),  # first of all: runs of spaces would take the square of their length below
    (r"[½¼¾⅓⅔]", r" \g<0>"),
    (r"(?<=\d)[⁰¹²³⁴-⁹⁻]+", r"^\g<0>"),
    (r"(?<=\d)[\u00a0\u2009\u202f'’](?=\d{3}(?!\d))", ""),  # thousands
    (r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d ])", lambda m: m[0].replace(" ", "")),
    (r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+),(\d{1,2})(?![\d,])", lambda m: m[1].replace(".", "") + "." + m[2]),
    (r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,}(?![\d,.]\d)", lambda m: m[0].replace(".", "")),
    (r"(?<![\d.,])(0(?=,\d)|\d{1,15}(?=,\d\d?(?!\d))),(\d{1,15})(?![\d,]|\.\d)", r"\1.\2"),  # a decimal comma
    (r"\\(?:text|mathrm|mbox|operatorname)\s?\{([^{}]{0,200})\}", r" \1 "),
    (r"\\[!,;: ]|\{,\}(?=\d{3})", lambda m: "," if "{" in m[0] else ""),
    (r"\\[dt]?frac\s?\{\s?([^{}]{1,200}?)\s?\}\s?\{\s?([^{}]{1,200}?)\s?\}", r" \1/\2"),
    (r"\\[dt]?frac\s?(\d)\s?(\d)", r" \1/\2"),
    (r"\\(?:geq?|gt)\b", "≥"),
    (r"\\(?:leq?|lt)\b", "≤"),
    (r"\\(?:approx|simeq)\b", "≈"),
    (r"\\pm\b", "±"),
    (r"\\sqrt\b", "√"),
    (r"\\", ""),
    (r"\s?(?:times|cdot|[x×*·])\s?10\s?\^\s?\{?\s?([-+]?\d{1,3})\s?\}?", r"e\1"),
    (r"(?<=\d)\s?\*\*\s?(?=\d)", "^"),
    (r"(?<=\d)\*(?=\d)", "×"),  # 3*4 is not 34
    (r"\*", ""),
    (r"(?<![\d)])(?<![\d)] )\b(?:minus|negative) (?=[\d.$])", "-"),
]


def clean(text: str) -> str:
    """A text with its numbers in plain form: no LaTeX, thousands by commas, a decimal point."""
    for number, (pattern, replacement) in enumerate(_REWRITES):
        text = re.sub(pattern, replacement, text)
        if number == 4:  # before, as powers and no-break spaces would be lost; after, other digits become ours
            text = unicodedata.normalize("NFKC", text).replace("⁄", "/").translate(QUOTES)
    return text


def numbers(text: str) -> list[Number]:
    """All numbers of a text in order: commas, currency, fractions, mixed numbers, powers of ten, percent, LaTeX."""
    return _numbers(clean(text))


def _numbers(text: str) -> list[Number]:
    out = []
    for match in _ONE.finditer(text):
        group = match.groupdict()
        if max(len(group[k] or "") for k in ("a", "b", "whole", "top", "low")) > 400:
            continue
        if group["whole"]:
            whole, top, low = (int(group[k]) for k in ("whole", "top", "low"))
            value = whole + Fraction(top, low) if low else None
        else:
            low = Fraction((group["b"] or "1").replace(",", ""))
            value = Fraction(group["a"].replace(",", "")) if low else None
            if value is not None and group["power"]:
                value *= Fraction(10) ** int(group["power"])
            if value and group["raised"]:
                value **= int(group["raised"])
            value = value / low if value is not None else None
        if value is not None:
            value *= -1 if group["sign"] == "-" or group["minus"] else 1
            value *= _SCALE.get((group["scale"] or "").lower(), 1)
            out.append(Number(value, bool(group["percent"]), *match.span()))
    return out


# What makes a number no answer: before it, after it, and between it and the next one.
_BEFORE = re.compile(
    r"(?:[<>≤≥±√]|\b(?:(?:more|less|greater|fewer|larger|smaller|higher|lower|bigger"
    r"|other) than(?: or equal to)?|at (?:least|"
    r"most)|no (?:more|less|fewer)|up to|over|under|above|below|nearly|almost|between|exceeds|minimum of"
    r"|maximum of|roots? of"
    r"|log|ln|sin|cos|tan|sqrt|exp|[a-z]\()|\d:|[\d)] ?[-+*/×÷·^])[\s({$]{0,4}(?:of )?$",
    re.I,
)
_AFTER = re.compile(
    r"\s?(?:[<>≤≥±√π]|:\d|!\s?[=)]|\+(?!\w)|(?:[xyznkijB]|pi|i)\b|squared|cubed|factorial|or (?:so )?(?:more"
    r"|less|fewer|higher|"
    r"lower|above|below|greater)\b|and (?:up|above|over|more)\b|at (?:least|most)\b|[-+*/×÷·^] ?[\d(√π]"
    r"|[-+*×·^] ?[a-z]\b)"
)
_MAYBE = r"(?:\s?(?:maybe|perhaps|possibly|even|else|approximately|about))?[\s$€£¥(]{0,4}$"
_BETWEEN = re.compile(
    rf"^\s?(?:[^\W\d]{{1,15}}\s?)?(?:, ?or|\bor|or else|vs\.?|versus){_MAYBE}|^\s?(?:[,;/&]|(?:, ?)?and|to"
    rf"|through|-){_MAYBE}|^\s?$"
    r"|^\s?(?:days?|weeks?|hours?|hrs?|h|minutes?|min|feet|ft|pounds|dollars|years?|months?|degrees|°)(?:,? and"
    r"|,)?\s?$",
    re.I,
)
_REASON = re.compile(r",? (?:because|since|as|which|given|where|due to|so that|assuming)\b", re.I)
_EQUALS = re.compile(r"=|≈|≃|→|->|\bequals\b|\bi\.?e\.?,?|\bthat is,")
_VERB = re.compile(
    r"(?:^|\b(?:is|are|was|were|be|pays?|needs?|makes?|made|earns?|has|have|gets?|got|costs?|spends?|takes?|of))\s$",
    re.I,
)
_PHRASE = re.compile(
    r"\b(?:for|after|in|over|per|within|across|by|from|during|on|at|to)(?! (?:total|all|the end|make|get"
    r"|give))(?: [^\W\d]+){0,2}\s$"
)


def read_number(phrase: str, last: bool = False) -> Number | str | None:
    """The number a phrase commits to, its first or its last; SEVERAL for a range, a bound, alternatives, a denial."""
    kept = affirmed(
        re.split(r"(?<!\d)(?<!i\.e)\.\s|\.\s(?=[A-Z])|\n", phrase.strip()[-1000:] if last else phrase.strip()[:1000])[0]
    )
    if kept is None:
        return SEVERAL if re.search(r"\d", phrase) else None
    text = clean(kept)
    for cut in (lambda t: re.sub(r"\([^()]{0,200}\)", " ", t), lambda t: _REASON.split(t)[0]):
        text = cut(text) if _numbers(cut(text)) else text
    if re.search(r"\b[a-z] ?= ?[^=,;]{1,40}(?:[,;]|\band\b|\bor\b) ?\$?[a-z] ?= ?", text):
        return SEVERAL
    result = None
    for part in reversed(_EQUALS.split(text)):
        if (value := _single(part, last)) is not None:
            result = value if result is None or not isinstance(value, str) else result
            if not isinstance(result, str):
                break
    return result


def _single(text: str, last: bool) -> Number | str | None:
    found = _numbers(text)
    if not found:
        return None
    place = len(found) - 1 if last else 0
    if last and place and _PHRASE.search(_head(text, found[place])) and _VERB.search(_head(text, found[place - 1])):
        place -= 1
    number = found[place]
    gaps = [text[a.end : b.start] for a, b in itertools.pairwise(found)]
    beside = [gaps[i] for i in (place - 1, place) if 0 <= i < len(gaps)]
    if any(map(_BETWEEN.search, beside)) or _BEFORE.search(_head(text, number)) or _AFTER.match(text, number.end):
        return SEVERAL
    return number


def _head(text: str, number: Number) -> str:
    return text[max(0, number.start - 40) : number.start].rstrip() + " "


def _weak(text: str) -> Number | str | None:
    """The number of a text without an explicit statement: the last of the last sentence with one, notes left out."""
    lines = [
        x
        for x in text.split("\n")
        if re.search(r"\d", x)
        and not re.match(r"\W*(?:note|explanation|check|assum|let me know|hope|feel free|if you)", x, re.I)
    ]
    for line in reversed(lines[-3:]):
        for sentence in reversed(re.split(r"(?<!\d)(?<!i\.e)[.!?]\s|[.!?]\s(?=[A-Z])", line)):
            if (value := read_number(sentence, last=True)) is not None:
                return value
    return None


def stated_number(answer: str) -> Number | str | None:
    """The number a text states; SEVERAL if it commits to no single one, None if it holds none."""
    bold = re.findall(r"\*\*([^*\n]{1,60})\*\*", "\n".join(answer[-5000:].strip().split("\n")[-2:]))
    values = [v for b in bold[-1:] if (v := read_number(b)) is not None]
    return last_stated(tidy(answer), read_number, lambda text: values[-1] if values else _weak(text))


def numeric(query: Query, answer: str) -> Result:
    """The stated number is the reference's. A percentage equals its number and its hundredth, as references differ.

    Integers are compared exactly; two non-integers within a relative 1e-6. meta["tolerance"] sets another relative
    tolerance, which then holds unless both numbers are integers.
    """
    wanted = stated_number(reference(query))
    if wanted is None or isinstance(wanted, str):
        raise VerifyError(f"query {query.id}: no single number in the reference {query.reference!r}; use 'exact'")
    strict = contract.read(query, answer)
    number = read_number(strict) if strict and re.fullmatch(r"[-+$€£\d.,/ eE%]*", strict) else None
    by = " by contract" if isinstance(number, Number) else ""
    number = number if by else stated_number(answer)
    if number is None:
        return FORMAT
    same = not isinstance(number, str) and any(
        _equal(a, b, query.meta.get("tolerance"))
        for a, b in (
            [(number.value, wanted.value)]
            if number.percent == wanted.percent
            else [(a, b) for a in number.readings() for b in wanted.readings()]
        )
    )
    return verdict(same, by)


def _equal(a: Fraction, b: Fraction, tolerance: float | None) -> bool:
    integers = (a.denominator == 1) + (b.denominator == 1)
    if integers == 2 or (integers and tolerance is None):
        return a == b
    return abs(a - b) <= Fraction(str(1e-6 if tolerance is None else tolerance)) * abs(b)
