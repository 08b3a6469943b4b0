"""The verifier of numbers, in exact fractions and without a library."""

import itertools
import re
import unicodedata
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import yaml

from routerlab.core.queries import Query
from routerlab.grade import contract
from routerlab.grade.answers import FORMAT, Result, VerifyError, reference, verdict
from routerlab.grade.assertions import asserted, sentences
from routerlab.grade.clauses import clauses
from routerlab.grade.statements import LONGEST, PHRASES, QUOTES, SEVERAL, affirmed, last_stated, tidy

_RULES = yaml.safe_load(Path(__file__).with_name("numbers.yaml").read_text("utf-8"))
WORDS = {word: value for value, words in _RULES["words"].items() for word in words.split()}
SHARES = {word: int(value) for value, words in _RULES["shares"].items() for word in words.split()}
_SCALE = {"dozen": 12, "k": 10**3, "m": 10**6, "bn": 10**9}
_SCALE |= {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


class Number(NamedTuple):
    """A number as written; `percent` where a percent sign follows; where it stands in the cleaned text."""

    value: Fraction
    percent: bool
    start: int = 0
    end: int = 0

    def readings(self) -> tuple[Fraction, ...]:
        return (self.value, self.value / 100) if self.percent else (self.value,)


def clean(text: str) -> str:
    """A text with its numbers in plain form: no LaTeX, thousands by commas, a decimal point."""
    text = unicodedata.normalize("NFKC", _rewritten(text, "early")).replace("⁄", "/").translate(QUOTES)
    return _rewritten(text, "late")


def _rewritten(text: str, rules: str) -> str:
    for pattern, becomes, *dropped in _RULES[rules]:
        text = re.sub(pattern, becomes if not dropped else lambda m, c=dropped[0]: m[0].replace(c, ""), text)
    return text


def numbers(text: str) -> list[Number]:
    """All numbers of a cleaned text: commas, currency, fractions, mixed numbers, powers of ten, percent."""
    out = []
    for match in PHRASES["number"].finditer(text):
        group = {name: (text or "").replace(",", "") for name, text in match.groupdict().items()}
        if max(map(len, group.values())) <= 400 and (low := Fraction(group["low"] or 1)):
            value = Fraction(group["top"]) * Fraction(10) ** int(group["power"] or 0)
            value = value ** int(group["raised"] or 1) if value else value
            value = (int(group["whole"] or 0) + value / low) * _SCALE.get(group["scale"].lower(), 1)
            value *= -1 if "-" in (group["sign"], group["minus"]) else 1
            out.append(Number(value, bool(group["percent"]), *match.span()))
    return out


def read_number(phrase: str, last: bool = False) -> Number | str | None:
    """The number a phrase commits to, its first or its last; SEVERAL for a range, a bound, alternatives, a denial."""
    phrase = phrase.strip()[-1000:] if last else phrase.strip()[:1000]
    kept = affirmed(re.split(r";\s(?=[^;.]{0,40}\bwould\b)|(?<!\d)(?<!i\.e)\.\s|\.\s(?=[A-Z])|\n", phrase)[0])
    if kept is None or re.search(r"\b\w+'s not \W*\d[\d.,]*\W*$", phrase):
        return SEVERAL if re.search(r"\d", phrase) else None
    text = clean(kept)
    if last and PHRASES["parallel"].search(text):
        return SEVERAL
    if last:
        shorter = PHRASES["supplement"].sub("", text)
        text = shorter if numbers(shorter) else text
    text = PHRASES["since"].sub(" : ", text) if last else text
    end = PHRASES["conclusion"].split(text)[-1]
    text = PHRASES["exactly"].split(end if last and numbers(end) else text)[-1]
    before, _, after = text.partition(": ")
    parts = numbers(after)
    if len(parts) > 1 and [number.value for number in numbers(before)] == [sum(number.value for number in parts)]:
        text = before  # "88 keys: 52 white and 36 black"
    alone = len(numbers(before)) < 2 or not parts
    text = before if alone and re.match(r"\W{0,3}\d[^:\n]{0,40}[a-z]: ", text) else text
    text = re.sub(r"\((?=[=≈]|i\.e\.|that is)([^()]{1,200})\)", r" \1 ", text)
    text = re.sub(r", (?:which|who|where)\b[^,;:]{1,80},(?=.*\d)", "", text) if last else text
    for shorter in (lambda t: re.sub(r"\([^()]{0,200}\)", " ", t), lambda t: PHRASES["reason"].split(t)[0]):
        text = shorter(text) if numbers(shorter(text)) else text
    if total := re.search(r"\S+ (?:[^\W\d]+ ){0,2}(?:in total|altogether|in all)\W*$", text):
        text = total[0]
    if PHRASES["several_values"].search(text):
        return SEVERAL
    readings = [value for side in PHRASES["equals"].split(text) if (value := _single(side, last))]
    # Of "3 * 4 = 12", the last side that is a number; a side that is several, if there is no other.
    return next((v for v in reversed(readings) if isinstance(v, Number)), readings[0] if readings else None)


def _single(text: str, last: bool) -> Number | str | None:
    """The first or the last number of one side of an equation; SEVERAL if it is part of something else."""
    every = numbers(text)
    if not every:
        return None
    place = len(every) - 1 if last else 0
    phrase, verb = PHRASES["number_phrase"], PHRASES["number_verb"]
    while last and place and phrase.search(_head(text, every[place])):
        place -= 1
    place = place if verb.search(_head(text, every[place])) else len(every) - 1 if last else 0
    number = every[place]
    beside = list(itertools.pairwise(every))[max(0, place - 1) : place + 1]
    gaps = [text[a.end : b.start] for a, b in beside if a.value != b.value or not text[a.end : b.start].strip()]
    compound = PHRASES["not_after"].search(_head(text, number)) or PHRASES["not_before"].match(text, number.end)
    return SEVERAL if compound or any(map(PHRASES["between"].search, gaps)) else number


def _head(text: str, number: Number) -> str:
    return text[max(0, number.start - 40) : number.start].rstrip() + " "


def _weak(text: str) -> Number | str | None:
    """The number of a text without an explicit statement: the last of the last sentence with one."""
    lines = [x for x in text.split("\n") if re.search(r"\d", x)]
    sentences = (re.split(r"(?<!\d)(?<!i\.e)[.!?]\s|[.!?]\s(?=[A-Z])", line) for line in lines[-3:])
    values = (read_number(_sure(x), last=True) for x in reversed(list(itertools.chain(*sentences))))
    return next(filter(None, values), None)


def _sure(sentence: str) -> str:
    """A sentence without the clauses with a number that only suppose or report, if another clause has one."""
    if PHRASES["several_values"].search(sentence):
        return sentence
    amounts = [clause.text for clause in clauses(sentence[-2000:]) if re.search(r"\d", clause.text)]
    supposed = [text for text in amounts if PHRASES["supposed_number"].search(text)]
    for text in supposed if len(supposed) < len(amounts) else ():
        sentence = sentence.replace(text, " ")
    return sentence


def _valued(sentence: str) -> bool:
    return re.search(r"\d|[½¼¾⅓⅔]", sentence) is not None


def in_digits(text: str) -> str:
    """A text with the numbers that stand in words written in digits: all if it has no digit, else those it concludes.

    A sentence or its last clause concludes if no digit stands in it and its verb, or nothing, is before the number.
    """
    if not re.search(r"\d", text):
        return _digits(text)
    cut = ((sentence, _last_clause(sentence)) for sentence in sentences(text))
    return "".join(sentence[:start] + _concluded(sentence[start:]) for sentence, start in cut)


def _last_clause(sentence: str) -> int:
    """Where the last clause of a sentence begins; one without a digit is a clause."""
    digits = re.search(r"\d(?=\D*$)", sentence)
    joints = [m.end() for m in PHRASES["last_clause"].finditer(sentence)] if digits else []
    return max([digits.end() if digits else 0, *joints[-1:]])


def _concluded(clause: str) -> str:
    if re.search(r"\d", clause) or not (found := numbers(clean(plain := _digits(clause)))):
        return clause
    head = clean(plain)[: found[-1].start]
    return plain if PHRASES["worded_after"].search(head.rstrip() + " ") else clause


def _digits(text: str) -> str:
    """A text without a digit, its numbers in words written in digits."""
    text = PHRASES["none_left"].sub("0", text)
    text = re.sub(r"(?i)\bhalf a (?=dozen|thousand|million|billion|trillion)", "0.5 ", text)
    text = re.sub(r"(?i)\bone(?= and (?:a|one|three) (?:half|quarter|fourth))", "1", text)
    text = PHRASES["just_one"].sub("1", text)
    text = PHRASES["ordinal"].sub(lambda match: str(WORDS[match[1].lower()]), text)
    text = PHRASES["worded"].sub(lambda match: str(_worded(match[0])), text)
    text = PHRASES["share_of_one"].sub(lambda m: f"{m[1] if m[1].isdigit() else 1}/{SHARES[m[2].lower()]}", text)
    text = re.sub(r"(?i)^\W*(?:(?:a|one|exactly|just) )*half\b(?! an? | past)", "0.5", text)
    return re.sub(r"(?i)(?<=\d) point (?=\d)", ".", text)


def _worded(words: str) -> int:
    """The value of "three hundred and five"."""
    if year := PHRASES["year_in_words"].fullmatch(words):
        return 100 * _worded(year[1]) + _worded(year[2])
    total = below = 0
    for word in re.findall("[a-z]+", words.lower()):
        value = WORDS.get(word, 0) or _SCALE.get(word, 0)
        below = max(below, 1) * value if value >= 100 or word == "dozen" else below + value
        total, below = (total + below, 0) if value >= 1000 else (total, below)
    return total + below


def stated_number(answer: str) -> Number | str | None:
    """The number a text states; SEVERAL if it commits to no single one, None if it holds none."""
    work, *last = answer[-LONGEST:].rstrip().rsplit("\n", 2)
    bold = re.compile(r"\*\*([^*\n]{1,60}?)([.!?:]{0,3})\*\*")
    marked = "\n".join([work, *last][:-2] + [bold.sub("\ue000\\1\ue001\\2", x) for x in [work, *last][-2:]])
    text = PHRASES["item"].sub("", asserted(in_digits(tidy(PHRASES["closing"].sub("", marked))), _valued))
    marks = re.findall("\ue000([^\ue000\ue001]{1,60})\ue001", text)
    value = read_number(marks[-1]) if marks else None
    return last_stated(re.sub("[\ue000\ue001]", "", text), read_number, lambda text: value or _weak(text))


def numeric(query: Query, answer: str) -> Result:
    """The stated number is the reference's. A percentage equals its number and its hundredth, as references differ.

    Integers are compared exactly; two non-integers within a relative 1e-6. meta["tolerance"] sets another relative
    tolerance, which then holds unless both numbers are integers.
    """
    wanted = stated_number(reference(query))
    if not isinstance(wanted, Number):
        raise VerifyError(f"query {query.id}: no single number in the reference {query.reference!r}; use 'exact'")
    strict = contract.read(query, answer)
    number = read_number(strict) if strict and re.fullmatch(r"[-+$€£\d.,/ eE%]*", strict) else None
    by = " by contract" if isinstance(number, Number) else ""
    number = number if by else stated_number(answer)
    if not isinstance(number, Number):
        return verdict(False) if number else FORMAT
    pairs = [(number.value, wanted.value)]
    if number.percent != wanted.percent:
        pairs = [(a, b) for a in number.readings() for b in wanted.readings()]
    return verdict(any(_equal(a, b, query.meta.get("tolerance")) for a, b in pairs), by)


def _equal(a: Fraction, b: Fraction, tolerance: float | None) -> bool:
    integers = (a.denominator == 1) + (b.denominator == 1)
    if integers == 2 or (integers and tolerance is None):
        return a == b
    return abs(a - b) <= Fraction(str(1e-6 if tolerance is None else tolerance)) * abs(b)
