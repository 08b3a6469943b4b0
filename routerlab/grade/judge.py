"""A model as a judge: it does not see who wrote an answer, and its verdict is read strictly.

All text it judges stands between marks that carry a nonce, and its verdict must repeat that nonce, so that an answer
can forge neither. The nonce is a hash of everything in the call: the same judgement is the same request, which is paid
once, and no answer can contain the hash of itself. A reply that is not exactly one verdict is a `JudgeError`, never a
grade. The wording is in data/judge/prompts.yaml.
"""

import asyncio
import enum
import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

import yaml

from routerlab.core.invariants import Grade
from routerlab.core.queries import Query
from routerlab.core.runs import root
from routerlab.grade.verify import Verdict, unread, visible

PROMPT = "judge/1"  # part of a call's key: raise it with every change of the wording

Ask = Callable[[list[dict[str, str]]], Awaitable[str]]


class JudgeError(ValueError):
    """A judge's reply that holds no verdict, or more than one."""


class Preference(enum.StrEnum):
    """Which of two answers a judge prefers, asked in both orders."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"
    DISAGREE = "disagree"  # the two orders gave different verdicts


class Comparison(NamedTuple):
    """The verdict on a pair, and what the judge said in each order; FIRST is the pair's first answer in all three."""

    verdict: Preference
    forward: Preference
    backward: Preference


_GRADES = {"CORRECT": "match", "INCORRECT": "mismatch", "NOT_ATTEMPTED": "idk"}
_PLACES = {"ANSWER_1": Preference.FIRST, "ANSWER_2": Preference.SECOND, "TIE": Preference.TIE}
_TURNED = _PLACES | {"ANSWER_1": Preference.SECOND, "ANSWER_2": Preference.FIRST}

# Marks of chat formats, which some servers would take for the end of our message; and invisible characters.
_MARKS = re.compile(r"<\|[^|<>\n]{0,40}\|>|\[/?(?:INST|SYS)\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>")
_SPELLING = "\n\t\u200c\u200d"  # joiners belong to the spelling of some languages


def harmless(text: str) -> str:
    """A text in which each mark of a chat format and each invisible character is replaced by a visible sign."""
    hidden = {c for c in set(text) if unicodedata.category(c).startswith("C") and c not in _SPELLING}
    return _MARKS.sub("�", text.replace("\r\n", "\n").translate({ord(c): "�" for c in hidden}))


@functools.cache
def _wording() -> dict[str, str]:
    return yaml.safe_load((root() / "data" / "judge" / "prompts.yaml").read_text("utf-8"))


def _prompt(kind: str, words: Iterable[str], sections: dict[str, str]) -> tuple[list[dict[str, str]], str]:
    """(messages, nonce); the nonce is a hash of the sections that occurs in none of them."""
    sections = {name: harmless(text) for name, text in sections.items()}
    material, wording = [kind, *sections.values()], _wording()
    for attempt in range(1000):
        content = json.dumps([PROMPT, attempt, *material]).encode("utf-8", "replace")
        nonce = hashlib.blake2b(content, digest_size=8).hexdigest()
        if not any(nonce in text for text in material):
            break
    else:
        raise JudgeError("1,000 nonces in turn occur in the answer; it was made to break the judge")
    shown = {name: text for name, text in sections.items() if text or name != "reference"}
    fenced = "\n\n".join(f"<{nonce}:{name}>\n{text}\n</{nonce}:{name}>" for name, text in shown.items())
    text = (wording[kind] + wording["verdict"]).format(n=nonce, words=", ".join(words), sections=fenced)
    return [{"role": "system", "content": wording["system"].format(n=nonce)}, {"role": "user", "content": text}], nonce


def asked(query: Query) -> str:
    """What a query asks: its text, or all its messages where there are several."""
    if len(query.messages) == 1:
        return query.text
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in query.messages)


def grade_prompt(question: str, reference: str, answer: str) -> tuple[list[dict[str, str]], str]:
    """(messages, nonce) that ask for the grade of an answer."""
    return _prompt("grade", _GRADES, {"question": question, "reference": reference, "answer": answer})


def pair_prompt(question: str, one: str, two: str, reference: str | None = None) -> tuple[list[dict[str, str]], str]:
    """(messages, nonce) that ask which of two answers is better, in this order."""
    sections = {"question": question, "reference": reference or "", "answer_1": one, "answer_2": two}
    return _prompt("pair", _PLACES, sections)


def read_verdict(reply: str, nonce: str, words: Iterable[str]) -> str:
    """The one verdict of a reply: its last line, `VERDICT nonce: WORD`, with the whole word and nothing else."""
    lines = [line.strip().strip("*`").strip() for line in visible(reply).splitlines() if line.strip(" \t*`")]
    verdicts = [line for line in lines if re.match(rf"VERDICT\W+{nonce}\b", line, re.I)]
    last = re.fullmatch(rf"VERDICT {nonce}: ([A-Z_0-9]+)\.?", lines[-1]) if lines else None
    if last is None or last[1] not in words or len(verdicts) != 1:
        raise JudgeError(
            f"the judge gave no single verdict of {', '.join(words)}: ...{' '.join(reply.split())[-80:]!r}"
        )
    return last[1]


def read_grade(reply: str, nonce: str) -> Verdict:
    """The verdict in a reply to `grade_prompt`; one without a verdict is the error "judge"."""
    try:
        word = read_verdict(reply, nonce, _GRADES)
    except JudgeError as error:
        return Verdict(None, None, str(error), "judge")
    return Verdict(Grade.IDK if word == "NOT_ATTEMPTED" else Grade(word), float(word == "CORRECT"), _GRADES[word])


async def grade_by(ask: Ask, query: Query, answer: str, finish: str = "stop") -> Verdict:
    """The judge's verdict on one answer, against the query's reference.

    `ask` sends messages to the judge and returns its text. An exception it raises is passed on: the caller decides
    whether to call again. A reply without a verdict is the error "judge".
    """
    answer = visible(answer)
    if (early := unread(answer, finish)) is not None:
        return early
    if query.reference is None:
        return Verdict(None, None, f"query {query.id} has no reference to judge by", "grading")
    if not answer.strip():
        return Verdict(Grade.INCORRECT, 0.0, "format")
    messages, nonce = grade_prompt(asked(query), query.reference, answer)
    return read_grade(await ask(messages), nonce)


async def compare_by(ask: Ask, question: str, first: str, second: str, reference: str | None = None) -> Comparison:
    """Which of two answers the judge prefers, asked in both orders.

    Args:
        ask: sends messages to the judge and returns its text.
        question, first, second: what was asked, and the two answers.
        reference: the right answer, where there is one.

    Returns:
        The verdict, and what the judge said in each order; `JudgeError` if either reply holds no verdict.
    """

    async def order(one: str, two: str, places: dict[str, Preference]) -> Preference:
        messages, nonce = pair_prompt(question, one, two, reference)
        return places[read_verdict(await ask(messages), nonce, tuple(places))]

    forward, backward = await asyncio.gather(order(first, second, _PLACES), order(second, first, _TURNED))
    return Comparison(forward if forward == backward else Preference.DISAGREE, forward, backward)
