"""The verifier of code: extract the program from an answer, and run it and the tests in boxes of their own.

The tests are meta["tests"], in one of the forms in which data sets publish them:
    {"test", "entry_point", "prompt"}      a check(candidate) function, as HumanEval has it
    {"test_list", "test_setup_code"}       assert lines, as MBPP has them
    {"entry_point", "calls": [{"args", "expect"}]}     a function, or a method of class Solution
    {"cases": [{"stdin", "stdout"}]}       a whole program (also {"inputs": [...], "outputs": [...]})
Each may also hold "timeout_s" (processor time), "start" (the beginning of a program that the answer continues) and
"unproxied" (true: what cannot be tested from outside the answer's box is tested inside it, and said to be `unproxied`).
"""

import functools
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from itertools import takewhile
from operator import eq
from pathlib import Path
from typing import Any

from routerlab.core.queries import Query
from routerlab.grade.answers import FORMAT, MATCH, MISMATCH, Result, VerifyError
from routerlab.grade.program import after, called, extract, opening, with_prompt
from routerlab.grade.remote import CALLS
from routerlab.grade.sandbox import LIMITS, Executor, Limits, Ran

_LINES = [
    x for name in ("packed.py", "remote.py") for x in Path(__file__).with_name(name).read_text("utf-8").split("\n")
]
_REMOTE = "\n".join(line for line in _LINES if not line.startswith("from routerlab"))  # one file in the box
_ROUNDS, _MOST_ROUNDS, _OUTPUT_KB = 8, 50, 32_768
_REF = re.compile(r'\{"ref": (\d+)\}')
# Numbers as programs print them; 007, 1e2, +5, 1_000, inf and digits of other scripts are words, equal to themselves.
_NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|[1-9](?:\.[0-9]+)?e[-+][0-9]{2,3})")
_SHAPES = "test + entry_point, test_list, entry_point + calls, or cases of stdin and stdout"


def code(query: Query, answer: str, run: Executor) -> Result:
    """Whether the program in the answer passes all tests: match, mismatch, crash, timeout, memory, output or format.

    Tests of functions run in a box of their own and call the answer in another (see `remote`). `unproxied` means that
    they need plain data and the answer returned another object: wrong. Tests that pass such objects give no grade. With
    tests["unproxied"] true, either is graded with tests and answer in one box, where an answer can cheat.
    """
    tests: Any = query.meta.get("tests")
    tests = {"cases": tests} if isinstance(tests, list | tuple) else tests
    if not isinstance(tests, Mapping):
        raise VerifyError(f"query {query.id} has no tests; give meta['tests'] with {_SHAPES}")
    seconds = float(tests.get("timeout_s", LIMITS.cpu_s))
    limits = replace(LIMITS, cpu_s=seconds, timeout_s=2 * seconds)
    answer = after(tests["start"], answer) if tests.get("start") else answer
    if cases := _cases(tests):
        program = extract(answer)
        return FORMAT if program is None else _by_output(program, cases, run, limits)
    source, name, prompt = _source(query, tests), tests.get("entry_point"), tests.get("prompt") or ""
    program = with_prompt(answer, prompt, {name} if name else called(source))
    if program is None:
        return FORMAT
    limits = replace(limits, output_kb=_OUTPUT_KB)
    why, detail = _by_calls(program, f"{_REMOTE}\ntest({source!r}, {opening(prompt)!r}, {name!r})\n", run, limits)
    if tests.get("unproxied") and (why == "unproxied" or (why == "tests" and "unproxied" in detail)):
        return _in_one_box(program, f"{_REMOTE}\n{source}", run, limits)
    if why == "tests":
        raise VerifyError(f"query {query.id}: its tests cannot grade any answer: {detail}")
    return Result(1.0 if why == "match" else 0.0, why)


def _by_calls(program: str, tester: str, run: Executor, limits: Limits) -> tuple[str, str]:
    """(why, detail): the calls of the tests are made in the answer's box, until the tests make no others."""
    _, detail, first = _first_calls(tester, run, limits)
    calls = first
    if not calls:
        return "tests", detail or "they never call it"
    if len(calls) > CALLS:
        return "tests", f"unproxied: they make more than {CALLS:,} calls; give fewer"
    agreed = 0
    for rounds in range(1, _MOST_ROUNDS + 1):
        ran = run(f"{_REMOTE}\nserve({program!r})\n", "\n".join(calls), limits)
        if ran.status != "ok":
            return _failed(ran).why, ""
        answered = calls
        why, detail, calls = _test(tester, run, limits, answered, ran.stdout)
        if calls == answered[: len(calls)]:
            return why, detail
        # Each round settles one more call of a chain, unless the answer or the tests are not the same in each run.
        before, agreed = agreed, sum(takewhile(bool, map(eq, calls, answered)))
        if rounds >= _ROUNDS and agreed <= before:
            break
    if (again := _test(tester, run, limits, answered, ran.stdout)[2]) and again != calls:
        return "tests", "unproxied: they make other calls in each run, whatever the replies; use no clock and no uuid"
    if _chain(first) > _MOST_ROUNDS:
        return "tests", f"unproxied: they make a chain of more than {_MOST_ROUNDS} calls; give a shorter one"
    return "unproxied", "the answer returns something else each time, or the tests call it without end"


def _chain(calls: list[str]) -> int:
    """The length of the longest chain of calls that each take the result of another."""
    lengths: list[int] = []
    for call in calls:
        lengths.append(1 + max((lengths[int(ref)] for ref in _REF.findall(call)), default=0))
    return max(lengths)


def _test(tester: str, run: Executor, limits: Limits, calls: list[str], replies: str) -> tuple[str, str, list[str]]:
    """(why, detail, calls) of one run of the tests with these replies."""
    ran = run(tester, json.dumps({"calls": calls, "replies": replies}), limits)
    if ran.status != "ok":
        return _failed(ran).why, ran.stderr.rstrip().rpartition("\n")[2] or ran.status, []
    why, detail, calls = json.loads(ran.stdout)
    return why, detail, calls


@functools.lru_cache(1024)
def _first_calls(tester: str, run: Executor, limits: Limits) -> tuple[str, str, list[str]]:
    """The same before any call is answered; results that calls depend on may change later ones."""
    return _test(tester, run, limits, [], "")


def _in_one_box(program: str, tests: str, run: Executor, limits: Limits) -> Result:
    # A program that exits before the last test has not passed, whatever its exit code: only this last line says so.
    token = secrets.token_hex(16)
    ran = run(f"{program}\n\n{tests}\n__import__('os').write(1, b'\\n{token}\\n')\n", "", limits)
    if ran.status != "ok":
        return _failed(ran)
    return Result(1.0, "unproxied") if token in ran.stdout.splitlines() else MISMATCH


def _failed(ran: Ran) -> Result:
    asserted = ran.stderr.rstrip().rpartition("\n")[2].startswith("AssertionError")
    return Result(0.0, ran.status if ran.status != "error" else "mismatch" if asserted else "crash")


def _cases(tests: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(stdin, expected stdout) of each case, under any of the names that data sets use."""
    names = ("stdin", "stdout"), ("input", "output"), ("inputs", "outputs")
    columns = next(((tests[a], tests[b]) for a, b in names if a in tests and b in tests), None)
    if columns is None:
        columns = [], []
        for case in tests.get("cases", ()):
            pair = next(((case[a], case[b]) for a, b in names if a in case and b in case), None)
            if pair is None:
                raise VerifyError(f"a test case needs 'stdin' and 'stdout'; this one has {', '.join(case)}")
            columns[0].append(pair[0])
            columns[1].append(pair[1])
    return list(zip(map(_text, columns[0]), map(_text, columns[1]), strict=True))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "\n".join(map(str, value))


def _source(query: Query, tests: Mapping[str, Any]) -> str:
    """Tests as Python source that raises an exception unless the program is right."""
    name = tests.get("entry_point")
    if "test" in tests and name:
        return f"{tests['test']}\n\ncheck({name})"
    if tests.get("test_list"):
        return "\n".join([*tests.get("test_imports", ()), tests.get("test_setup_code") or "", *tests["test_list"]])
    if tests.get("calls") and name:
        calls = json.dumps([[c["args"], c["expect"]] for c in tests["calls"]])
        return (
            f"for _args, _expect in __import__('json').loads({calls!r}):\n"
            f"    _got = {name}(*_args)\n"
            f"    assert alike(list(_got) if isinstance(_got, tuple) else _got, _expect), (_args, _got, _expect)"
        )
    raise VerifyError(f"query {query.id}: the form of its tests is not known; give {_SHAPES}")


def _by_output(program: str, cases: list[tuple[str, str]], run: Executor, limits: Limits) -> Result:
    for stdin, wanted in cases:
        ran = run(program, stdin, limits)
        if ran.status != "ok":
            return _failed(ran)
        if not _same_output(ran.stdout, wanted):
            return MISMATCH
    return MATCH


def _same_output(got: str, wanted: str) -> bool:
    """Compare line by line and word by word; spaces at the ends are ignored, and 1.0 equals 1."""
    a, b = ([line.split() for line in text.strip().splitlines()] for text in (got, wanted))
    return len(a) == len(b) and all(len(x) == len(y) and all(map(_same_word, x, y)) for x, y in zip(a, b, strict=True))


def _same_word(a: str, b: str) -> bool:
    return a == b or bool(_NUMBER.fullmatch(a) and _NUMBER.fullmatch(b) and Decimal(a) == Decimal(b))
