"""From an answer to a grade, by the verifier that the query names.

An answer that was cut off, a verifier that raised an exception and a missing judge are errors: the grade is missing,
not wrong. An answer in which the verifier finds nothing to compare is wrong with `why` "format". A refusal and a plain
"I don't know" are IDK.
"""

import functools
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from routerlab.core.invariants import Grade
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded
from routerlab.grade import answers as short
from routerlab.grade.answers import Result, Verifier, VerifyError
from routerlab.grade.choice import multiple_choice
from routerlab.grade.code import code
from routerlab.grade.contract import lenient_share
from routerlab.grade.deadline import grade_apart
from routerlab.grade.formulas import math
from routerlab.grade.instructions import instructions
from routerlab.grade.names import normal
from routerlab.grade.numeric import numeric
from routerlab.grade.sandbox_fusion import executor
from routerlab.grade.statements import PHRASES

__all__ = ["VERIFIERS", "Result", "Verdict", "VerifyError", "abstains", "grade", "grade_many"]

# Add your own function under a name, and queries can name it as their verifier; it runs in this process.
VERIFIERS: dict[str, Verifier] = {
    "exact": short.exact,
    "literal": short.literal,
    "numeric": numeric,
    "math": math,
    "multiple_choice": multiple_choice,
    "json": short.json_value,
    "regex": short.regex,
    "instructions": instructions,
    "reasoning_gym": short.reasoning_gym,
}


def names() -> list[str]:
    """The verifiers that a query can name."""
    return sorted({*VERIFIERS, "code", "judge"})


class Verdict(NamedTuple):
    """The grade of an answer. With an `error` there is no grade, and `why` says what went wrong.

    `why` of a grade is one word: match, mismatch, format, crash, timeout, memory or output (of code), refusal, idk.
    """

    grade: Grade | None
    quality: float | None
    why: str
    error: str | None = None


def grade(query: Query, answer: str, finish: str = "stop") -> Verdict:
    """The verdict on one answer; for many answers of math or code `grade_many` is faster."""
    return grade_many([query], [answer], [finish])[0]


def grade_many(
    queries: Sequence[Query],
    answers: Sequence[str],
    finishes: Sequence[str] | None = None,
    workers: int | None = None,
    *,
    sandbox: str | None = None,
) -> list[Verdict]:
    """The verdict on each answer, in order.

    Args:
        queries, answers: one answer to each query.
        finishes: how each answer ended: stop, length (cut off: error "truncated") or refusal. All stop by default.
        workers: processes for math, and sandboxes for code, at a time. At most 8 by default.
        sandbox: URL of a SandboxFusion server that runs code; bubblewrap on this machine by default.

    Returns:
        The verdicts. Queries whose verifier is `judge` get the error "judge"; `judge.grade_by` grades those.
    """
    finishes = ["stop"] * len(answers) if finishes is None else finishes
    if not len(queries) == len(answers) == len(finishes):
        raise VerifyError(
            f"{len(queries)} queries, {len(answers)} answers and {len(finishes)} finishes; give one of each an answer"
        )
    if strange := next((q for q in queries if q.verifier not in names()), None):
        raise VerifyError(
            f"query {strange.id} names the verifier {strange.verifier!r}; there are {', '.join(names())}, and "
            f"verify.VERIFIERS takes your own"
        )
    texts = [visible(a) for a in answers]
    no_judge = Verdict(None, None, "no judge is configured; name a model (judge=, or --judge)", "judge")
    asked = zip(queries, texts, finishes, strict=True)
    early = [unread(text, end) or (no_judge if q.verifier == "judge" else None) for q, text, end in asked]
    out = {i: verdict for i, verdict in enumerate(early) if verdict}
    for name in dict.fromkeys(q.verifier for q in queries):
        numbers = [i for i, q in enumerate(queries) if q.verifier == name and i not in out]
        jobs = [(queries[i], texts[i]) for i in numbers]
        results = _results(name, jobs, workers or min(8, os.cpu_count() or 1), sandbox) if jobs else []
        out |= {i: _verdict(result, texts[i]) for i, result in zip(numbers, results, strict=True)}
    return [out[i] for i in range(len(queries))]


def _results(name: str, jobs: list[tuple[Query, str]], workers: int, sandbox: str | None) -> list[Result | Exception]:
    if name == "code":
        verifier: Verifier = functools.partial(code, run=executor(sandbox))
        with ThreadPoolExecutor(min(workers, len(jobs))) as pool:
            return list(pool.map(lambda job: _try(verifier, *job), jobs))
    if VERIFIERS[name].__module__.startswith("routerlab.grade."):
        return grade_apart(VERIFIERS[name], jobs, workers)
    return [_try(VERIFIERS[name], query, answer) for query, answer in jobs]


def _try(verifier: Verifier, query: Query, answer: str) -> Result | Exception:
    try:
        return verifier(query, answer)
    except Exception as error:
        return error


def _verdict(result: Result | Exception, answer: str) -> Verdict:
    if isinstance(result, Exception):
        return Verdict(None, None, str(result) or type(result).__name__, "grading")
    if result.quality >= 0.5:
        return Verdict(Grade.CORRECT, result.quality, result.why)
    if kind := abstains(answer):
        return Verdict(Grade.IDK, 0.0, kind)
    return Verdict(Grade.INCORRECT, result.quality, result.why)


def unread(answer: str, finish: str) -> Verdict | None:
    """The verdict on an answer that was cut off or refused by the provider; None for one that a verifier reads."""
    if finish == "length":
        return Verdict(None, None, "the answer was cut off; raise max_tokens", "truncated")
    if finish in {"refusal", "content_filter"}:
        return Verdict(Grade.IDK, 0.0, "refusal")
    return None


def visible(answer: str) -> str:
    """An answer without the reasoning that some models write before it in <think> tags."""
    return answer.rpartition("</think>")[2] if "</think>" in answer else answer


def lenient_note(data: Recorded) -> str | None:
    """What to say of a recorded run that was asked with a contract: the share of answers that do not follow it."""
    if (data.card.get("settings") or {}).get("contract") in (None, "none"):
        return None
    queries, rows = {q.id: q for q in data.queries}, data.table.rows.select(["query", "answer"]).to_pylist()
    share = lenient_share((queries[r["query"]] for r in rows), (r["answer"] and visible(r["answer"]) for r in rows))
    return f"{share:.0%} of the answers do not follow the contract and were read leniently"


def abstains(answer: str) -> str | None:
    """ "idk" for an answer that only says "I don't know", "refusal" for one that only declines; else None.

    Only a short answer that begins so abstains; where the model goes on to guess, the guess is graded.
    """
    text = normal(answer).replace("i'm not", "i am not")
    words = len(text.split())
    if words <= 60 and PHRASES["refused"].match(text):
        return "refusal"
    unsure = re.sub(r"^(?:[^,.]*?)but (?=i )", "", text)
    knows = words > 30 or PHRASES["guesses"].search(unsure) or re.search(r"####|\\boxed|```", answer)
    return "idk" if PHRASES["idk"].fullmatch(text) and not knows else None
