"""Verifiers of numbers and formulas: numeric (exact fractions, no library) and math (math-verify)."""

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from routerlab.core.queries import Query
from routerlab.grade.answers import (
    FORMAT,
    MATCH,
    QUOTES,
    Result,
    VerifyError,
    boxed,
    reference,
    stated,
    verdict,
)

_SCALE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_ONE = re.compile(
    rf"(?<![\w.^])(?<!\^[{{+-])(?<!\^\{{[+-])(?P<sign>(?<![\w)])[-+])?\s*[$€£¥]?\s*(?P<minus>(?<=[$€£¥])-)?"
    rf"(?:(?P<whole>\d+)[ \u00a0]+(?P<top>\d+)\s*/\s*(?P<low>\d+)(?![\d.])"
    rf"|(?P<a>{_PLAIN})(?:[eE](?P<power>[-+]?\d{{1,3}})(?!\d)|\^\{{?(?P<raised>[-+]?\d{{1,3}})(?!\d))?(?:\s*/\s*(?P<b>{_PLAIN}))?)"
    rf"\s*(?:(?P<percent>%|percent\b)|(?P<scale>{'|'.join(_SCALE)})\b)?",
    re.I,
)


class Number(NamedTuple):
    """A number as written; `percent` where a percent sign follows."""

    value: Fraction
    percent: bool

    def readings(self) -> tuple[Fraction, ...]:
        return (self.value, self.value / 100) if self.percent else (self.value,)


def numbers(text: str) -> list[Number]:
    """All numbers of a text in order: commas, currency, fractions, mixed numbers, powers of ten, percent, LaTeX."""
    text = re.sub(r"(\s)\s+|_+", r"\1 ", text)  # runs of nothing would take their length squared
    text = re.sub(r"(?<=\d)[⁰¹²³⁴-⁹]+", r"^\g<0>", re.sub(r"[½¼¾⅓⅔]", r" \g<0>", text))
    text = re.sub(r"(?<=\d)[\u00a0\u2009\u202f'’](?=\d{3}(?!\d))", "", text)  # thousands
    text = unicodedata.normalize("NFKC", text).replace("⁄", "/").translate(QUOTES)
    text = re.sub(r"\\(?:text|mathrm|mbox|operatorname)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\\[!,;: ]|\{,\}(?=\d{3})", lambda m: "," if "{" in m[0] else "", text)
    text = re.sub(r"\\[dt]?frac\s*\{\s*([^{}]+?)\s*\}\s*\{\s*([^{}]+?)\s*\}", r" \1/\2", text)
    text = re.sub(r"\\[dt]?frac\s*(\d)\s*(\d)", r" \1/\2", text).replace("\\", "")
    text = re.sub(r"\s*(?:times|cdot|[x×*·])\s*10\s*\^\s*\{?\s*([-+]?\d{1,3})\s*\}?", r"e\1", text)
    text = re.sub(r"(?<=\d)\s*\*\*\s*(?=\d)", "^", text)
    text = re.sub(r"(?<=\d)\*(?=\d)", "×", text)  # 3*4 is not 34
    out = []
    for found in _ONE.finditer(text.replace("*", "").replace("_", " ")):
        part = found.groupdict()
        digits = max(len(part[k] or "") for k in ("a", "b", "whole", "top", "low"))
        if digits > 400:
            continue
        if part["whole"]:
            pieces = part["whole"], part["top"], part["low"]
            whole, top, low = (int(x) for x in pieces)
            value = whole + Fraction(top, low) if low else None
        else:
            low = Fraction((part["b"] or "1").replace(",", ""))
            value = Fraction(part["a"].replace(",", "")) / low if low else None
            if value is not None and part["power"]:
                value *= Fraction(10) ** int(part["power"])
            if value and part["raised"]:
                value **= int(part["raised"])
        if value is not None:
            value *= -1 if part["sign"] == "-" or part["minus"] else 1
            value *= _SCALE.get((part["scale"] or "").lower(), 1)
            out.append(Number(value, bool(part["percent"])))
    return out


def _number(text: str) -> Number | None:
    """The number a text states: the first of what it calls its answer (after the last =), else its last."""
    for said in stated(text):
        said = re.sub(r"^not\b[^,;]*[,;]", "", said)  # "not 4, it is 5"
        if found := numbers(re.split(r"(?<!\d)\.\s|\.\s(?=[A-Z])", said)[0].rpartition("=")[2]):
            return found[0]
    found = numbers(text)
    return found[-1] if found else None


def numeric(query: Query, answer: str) -> Result:
    """The stated number is the reference's within a relative meta["tolerance"] (default 1e-6).

    A percentage equals its number and its hundredth, because references are written both ways.
    """
    wanted = _number(reference(query))
    if wanted is None:
        raise VerifyError(f"query {query.id}: no number in the reference {query.reference!r}; use 'exact'")
    found = _number(answer)
    if found is None:
        return FORMAT
    tolerance = Fraction(str(query.meta.get("tolerance", 1e-6)))
    same = (
        [(found.value, wanted.value)]
        if found.percent == wanted.percent
        else [(a, b) for a in found.readings() for b in wanted.readings()]
    )
    return verdict(any(abs(a - b) <= tolerance * abs(b) for a, b in same))


def math(query: Query, answer: str) -> Result:
    """Equal to the reference by math-verify, LaTeX or plain; it uses signals: call it in a main thread.

    math-verify calls what it cannot compare in time different; here that is an error and not a wrong answer.
    """
    from math_verify import parse, verify
    from math_verify.errors import TimeoutException

    gold = boxed(reference(query)) or reference(query)
    said = next(iter(stated(answer)), None)
    if said is not None and _latex(said) == _latex(gold):
        return MATCH
    try:
        wanted = parse(f"\\boxed{{{gold.strip().strip('$')}}}", raise_on_error=True)
        box = boxed(answer)
        found = parse(answer if box is None else f"\\boxed{{{box}}}", raise_on_error=True)
        if not wanted:
            raise VerifyError(f"query {query.id}: math-verify cannot read {gold!r}; use 'exact'")
        return verdict(verify(wanted, found, raise_on_error=True)) if found else FORMAT
    except TimeoutException as error:
        raise TimeoutError(f"math-verify took too long on query {query.id}") from error


def _latex(text: str) -> str:
    text = re.sub(r"\\(?:left|right|!|,|;|:|displaystyle)|[\s$]", "", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    return re.sub(r"\\(?:text|mathrm|textbf)\{([^{}]*)\}", r"\1", text).rstrip(".")
