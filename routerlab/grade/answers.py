"""Verifiers of short answers: exact, literal, json, regex and reasoning_gym, and what an answer calls its answer.

A verifier is a plain function of a query and an answer that gives a `Result`; it raises `VerifyError` where the query
lacks what it needs. An answer that nothing can be read from is wrong for its `format`, which is told apart.
"""

import ast
import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from routerlab.core.queries import Query
from routerlab.grade import contract
from routerlab.grade.clauses import commits, contradicted
from routerlab.grade.conclusion import concluded, ends_with
from routerlab.grade.names import key, same
from routerlab.grade.remote import alike
from routerlab.grade.statements import PHRASES, SEVERAL, affirmed, last_stated, statements, tidy


class VerifyError(ValueError):
    """A query that cannot be graded as it stands; the message says what to give it."""


class Result(NamedTuple):
    """Quality in [0, 1] (0.5 and above is correct) and why, in one word."""

    quality: float
    why: str


Verifier = Callable[[Query, str], Result]

MATCH, MISMATCH, FORMAT = Result(1.0, "match"), Result(0.0, "mismatch"), Result(0.0, "format")


def verdict(same: bool, by: str = "") -> Result:
    """`by` says which reader read the answer: "" the lenient one."""
    result = MATCH if same else MISMATCH
    return result._replace(why=result.why + by)


def reference(query: Query) -> str:
    """The reference answer; a query without one is refused."""
    if query.reference is None or not query.reference.strip():
        raise VerifyError(
            f"query {query.id} has no reference answer, which {query.verifier!r} needs; give one or another verifier"
        )
    return query.reference


# Where a sentence has its answer.
_FOCUS = ["subject", "cleft", "doer", "agent", "word", "place", "moment", "born", "year", "tail", "title"]
_BOTH = {"yes", "no", "true", "false"}


def _is(phrase: str, wanted: set[str]) -> bool:
    return any(same(phrase, name) for name in wanted)


def exact(query: Query, answer: str) -> Result:
    """What the answer states is the reference or one of meta["aliases"]."""
    wanted = {reference(query), *query.meta.get("aliases", ())}
    if not answer.strip():
        return FORMAT
    if _is(answer, wanted):
        return verdict(True)
    if (strict := contract.read(query, answer)) is not None:
        return verdict(key(strict) in map(key, wanted), " by contract")
    whole = tidy(answer)
    text = PHRASES["asked"].sub("", whole.lstrip(), count=1)
    value = last_stated(text, partial(_short, wanted), partial(_short, wanted))
    last = concluded(whole, wanted)
    if stated := statements(text):
        named = value != SEVERAL and ends_with(stated[-1][2], wanted)
        last = True if named else False if last is False and value != "wanted" else None
    if last is not None:
        return verdict(last)
    return verdict((value == "wanted" and not contradicted(text, wanted)) or commits(text, wanted))


def _named(wanted: set[str], phrase: str) -> str | None:
    """ "wanted" for a phrase that names a wanted answer, whole or before a remark; the phrase if it names another."""
    phrase = re.sub(r"(?<=[A-Za-z)])_\{?(?=\d)|(?<=\d)\}(?=[A-Z(]|\$)", "", phrase) if "$" in phrase else phrase
    phrase = re.sub(r"\\(?:text|mathrm|textbf)\s?\{([^{}]{0,500})\}|\$|(?<!\w)\*|\*(?!\w)", r"\1", phrase)
    first, _, rest = phrase.partition(",")
    if _is(phrase, wanted) or (_is(first, wanted & _BOTH) and not set(key(rest).split()) & _BOTH):
        return "wanted"
    phrase = PHRASES["bullet"].sub("", phrase.strip())
    kept = affirmed(phrase)
    if kept is not None and PHRASES["listed"].fullmatch(kept.strip(" .")) and not _is(kept, wanted):
        return SEVERAL
    if kept is None or not key(kept):
        return SEVERAL if key(phrase) else None
    for end in (len(kept), *(m.start() for m in PHRASES["remark"].finditer(kept[:400]))):
        rest = kept[end:]
        open_ = PHRASES["alternative"].search(rest[:12]) or _BOTH & set(
            re.findall(r"\w+", re.split(r"\b(?:because|since|as)\b", rest[:400])[0].lower())
        )
        if _is(kept[:end], wanted) and not open_:
            return "wanted"
    return key(kept)


def _short(wanted: set[str], text: str) -> str | None:
    """The same of a text without a statement: all of it, or the subject or the object of its only sentence."""
    if truth := PHRASES["truth"].match(text) or re.match(r"(?P<it>yes|no)[,.!;] (?:all|that)", text, re.I):
        return "wanted" if _is(truth["it"], wanted) else truth["it"]
    value = _named(wanted, text)
    if value == "wanted" or (value == SEVERAL and "; " not in text) or len(text.split()) > 25:
        return value
    _, listed, last = text.strip().rpartition(":\n")
    text = text[opening.end() :] if (opening := PHRASES["opening"].match(text)) else text
    sentence = PHRASES["clause"].split(affirmed(text) or affirmed(text.partition("; ")[0]) or "")[0]
    sentence = (
        PHRASES["relative"].split(re.split(", namely |" + PHRASES["conclusion"].pattern, sentence)[-1])[0].strip()
    )
    before, _, after = sentence.rpartition(" but ")
    sentence = after if PHRASES["copula_split"].search(before) and PHRASES["copula_split"].search(after) else sentence
    ends = [sentence, PHRASES["copula_split"].split(sentence)[-1]]
    ends += [m[1] for name in _FOCUS[("; " in text) :] if (m := PHRASES[name].match(sentence))]
    if len(both := set(re.findall(r"\w+", text.lower()))) > 1 and both <= _BOTH:
        ends = []  # "Yes. No."
    ends += [last] if listed and "\n" not in last.strip() else []
    return "wanted" if "wanted" in [_named(wanted, end) for end in ends] else value


def literal(query: Query, answer: str) -> Result:
    """The Python value the answer states equals the reference's: type, case and order count, spelling does not."""
    try:
        wanted = ast.literal_eval(reference(query).strip())
    except (ValueError, SyntaxError) as error:
        raise VerifyError(
            f"query {query.id}: the reference {query.reference!r} is no Python literal; use 'exact'"
        ) from error
    stated, last = (phrase for *_, phrase in reversed(statements(answer))), answer.strip().splitlines()[-1:]
    for text in (answer, *_fenced(answer, "python"), *stated, *last):
        for form in (text.strip(), text.strip().rstrip(".").strip("`*")):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                return verdict(_alike(ast.literal_eval(form), wanted))
    return FORMAT


def _fenced(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks of a language, or of none, last first."""
    return re.findall(rf"```(?:{language})?\s*\n(.*?)```", text, re.S | re.I)[::-1]


def _alike(a: Any, b: Any) -> bool:
    """Equality of Python values of one type, inside as well: [1] is not [True]."""
    if type(a) is not type(b) or a != b:
        return False
    if isinstance(a, list | tuple):
        return all(map(_alike, a, b))
    return not isinstance(a, dict) or all(_alike(a[k], b[k]) for k in a)


def find_json(text: str) -> Any:
    """The value of a JSON answer: all of it, a fenced block, or the first object or array; ValueError if none."""
    decoder, starts = json.JSONDecoder(), islice(re.finditer(r"[{\[]", text), 200)  # each failure reads all of the text
    tries = (lambda x=x: json.loads(x) for x in (text, *_fenced(text, "json")))
    for read in (*tries, *(lambda m=m: decoder.raw_decode(text, m.start())[0] for m in starts)):
        with suppress(ValueError):
            return read()
    raise ValueError("no JSON in the answer")


def json_value(query: Query, answer: str) -> Result:
    """The JSON in the answer obeys meta["schema"], or equals the reference; both where both are given."""
    schema = query.meta.get("schema")
    if schema is None and query.reference is None:
        raise VerifyError(f"query {query.id}: 'json' needs meta['schema'] or a reference")
    try:
        value = find_json(answer)
    except (ValueError, RecursionError):
        return FORMAT
    if schema is not None:
        from jsonschema import validators
        from referencing import Registry

        # An empty registry: a reference to another address is an error, never a download.
        if not validators.validator_for(schema)(schema, registry=Registry()).is_valid(value):
            return MISMATCH
    if query.reference is None:
        return MATCH
    try:
        return verdict(alike(value, json.loads(query.reference)))
    except ValueError as error:
        raise VerifyError(f"query {query.id}: the reference is not JSON: {error}") from error


def regex(query: Query, answer: str) -> Result:
    """meta["pattern"], or else the reference, is found in the answer (re.search; anchor it as you need)."""
    pattern = query.meta.get("pattern") or reference(query)
    try:
        return verdict(re.search(pattern, answer) is not None)
    except re.error as error:
        raise VerifyError(f"query {query.id}: the pattern {pattern!r} is not one: {error}") from error


def reasoning_gym(query: Query, answer: str) -> Result:
    """reasoning-gym's own scorer; its partial credit counts as wrong.

    meta names an embedded question (family, level, index) or carries {"dataset": name, "entry": entry}.
    """
    tagged = re.findall(r"<answer>(.*?)</answer>", answer, re.S | re.I)
    said = tagged[-1].strip() if tagged else answer.strip()
    if not said:
        return FORMAT
    meta = query.meta
    if {"family", "level", "index"} <= set(meta):
        from routerlab.pocket import tasks

        return verdict(tasks.score(meta["family"], meta["level"], meta["index"], said) == 1.0)
    if not {"dataset", "entry"} <= set(meta):
        raise VerifyError(
            f"query {query.id}: 'reasoning_gym' needs meta of family, level and index, or of dataset and entry"
        )
    from reasoning_gym.factory import get_score_answer_fn

    if meta["dataset"] in EVALUATE and not _harmless(said):
        # Such a scorer would run it as Python, here; of these only the very words can be right.
        return verdict(said == str(meta["entry"]["answer"]).strip())
    score: Callable[..., float] = get_score_answer_fn(meta["dataset"])
    # Exactly 1: sums of partial credit reach 0.9999999999999999 where letters follow the right answer.
    return verdict(score(said, meta["entry"]) == 1.0)


# Data sets whose scorers hand the answer to eval, some by way of sympy.
EVALUATE = {"binary_matrix", "n_queens", "spiral_matrix", "string_insertion", "countdown", "puzzle24"}
EVALUATE |= {"polynomial_multiplication", "intermediate_integration", "simple_integration"}
_FUNCTIONS = {"exp", "log", "ln", "sqrt", "Abs", "sin", "cos", "tan", "asin", "acos", "atan"}
_DIGITS = 10**6  # of a number that is quickly worked out


def _harmless(said: str) -> bool:
    """Whether an answer is words alone, or a formula of plain numbers, letters and known functions, of bounded size."""
    try:
        return len(said) <= 1000 and _size(ast.parse(said, mode="eval").body) <= _DIGITS
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return re.fullmatch(r"[\w\s]*", said) is not None


def _size(node: ast.expr) -> float:
    """A bound on the digits of a formula's value; infinity for what is no formula."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return len(str(value))
        case ast.Name(id=name) if len(name) == 1:
            return 1
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=inner):
            return _size(inner)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _size(left) * 10 ** min(_size(right), 9)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), right=right):
            return _size(left) + _size(right) + 1
        case ast.Call(func=ast.Name(id=name), args=[inner], keywords=[]) if name in _FUNCTIONS:
            return _size(inner) + 1
    return math.inf
