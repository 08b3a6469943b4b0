"""The verifier of code: take the program out of an answer, put the tests behind it, and run it in a box.

The tests are meta["tests"], in the shapes data sets publish:
    {"test", "entry_point", "prompt"}      a check(candidate) function, as HumanEval has it
    {"test_list", "test_setup_code"}       assert lines, as MBPP has them
    {"entry_point", "calls": [{"args", "expect"}]}     a function, or a method of class Solution
    {"cases": [{"stdin", "stdout"}]}       a whole program (also {"inputs": [...], "outputs": [...]})
Any of them may give "timeout_s" of processor time, and the "start" of a program that the answer goes on with.
"""

import json
import re
import secrets
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any

from routerlab.core.queries import Query
from routerlab.grade.answers import FORMAT, MATCH, MISMATCH, Result, VerifyError
from routerlab.grade.sandbox import LIMITS, Executor, Limits, Ran

_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1|\Z)", re.S | re.M)
_SHAPES = "test + entry_point, test_list, entry_point + calls, or cases of stdin and stdout"


def code(query: Query, answer: str, run: Executor) -> Result:
    """Whether the program in the answer passes every test: match, mismatch, crash, timeout, memory or format."""
    tests: Any = query.meta.get("tests")
    if isinstance(tests, list | tuple):
        tests = {"cases": tests}
    if not isinstance(tests, Mapping):
        raise VerifyError(f"query {query.id} has no tests; give meta['tests'] with {_SHAPES}")
    limits = LIMITS
    if "timeout_s" in tests:
        seconds = float(tests["timeout_s"])
        limits = replace(limits, cpu_s=seconds, timeout_s=2 * seconds)
    if start := tests.get("start"):
        answer = _after(start, answer)
    if cases := _cases(tests):
        program = extract(answer)
        return FORMAT if program is None else _by_output(program, cases, run, limits)
    checks = _checks(query, tests)
    program = _with_prompt(answer, tests.get("prompt") or "", tests.get("entry_point"))
    if program is None:
        return FORMAT
    # Leaving before the last test, with whatever exit code, is not passing them: only the last line says so.
    token = secrets.token_hex(16)
    source = f"{program}\n\n{checks}\n__import__('os').write(1, b'\\n{token}\\n')\n"
    ran = run(source, "", limits)
    if ran.status != "ok":
        return _failed(ran)
    return MATCH if token in ran.stdout.splitlines() else MISMATCH


def _failed(ran: Ran) -> Result:
    if ran.status != "error":
        return Result(0.0, ran.status)
    last = ran.stderr.rstrip().rpartition("\n")[2]
    return MISMATCH if last.startswith("AssertionError") else Result(0.0, "crash")


def _cases(tests: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(stdin, stdout) of each case, however the data set names them."""
    names = ("stdin", "stdout"), ("input", "output"), ("inputs", "outputs")
    for given, wanted in names:
        if given in tests and wanted in tests:
            return [(_text(a), _text(b)) for a, b in zip(tests[given], tests[wanted], strict=True)]
    out = []
    for case in tests.get("cases", ()):
        pair = next(((case[a], case[b]) for a, b in names if a in case and b in case), None)
        if pair is None:
            raise VerifyError(f"a case of code has 'stdin' and 'stdout', not {', '.join(case)}")
        out.append((_text(pair[0]), _text(pair[1])))
    return out


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "\n".join(map(str, value))


def _checks(query: Query, tests: Mapping[str, Any]) -> str:
    """The lines that raise unless the program is right."""
    name = tests.get("entry_point")
    if "test" in tests and name:
        return f"{tests['test']}\n\ncheck({name})"
    if tests.get("test_list"):
        setup = [*tests.get("test_imports", ()), tests.get("test_setup_code") or ""]
        return "\n".join([*setup, *tests["test_list"]])
    if tests.get("calls") and name:
        calls = json.dumps([[c["args"], c["expect"]] for c in tests["calls"]])
        return (
            f"import json as _json\n"
            f"_f = {name} if {name!r} in globals() else getattr(Solution(), {name!r})\n"
            f"for _args, _expect in _json.loads({calls!r}):\n"
            f"    _got = _f(*_args)\n"
            f"    _got = list(_got) if isinstance(_got, tuple) else _got\n"
            f"    assert _got == _expect, (_args, _got, _expect)"
        )
    raise VerifyError(f"query {query.id}: tests of an unknown shape; give {_SHAPES}")


def extract(answer: str, name: str | None = None) -> str | None:
    """The program in an answer: the last fenced block that defines `name`, else the longest, else all if it is code."""
    blocks = [textwrap.dedent(m[2]) for m in _FENCE.findall(answer) if m[1].lower() in _PYTHON]
    if blocks:
        defining = [b for b in blocks if name and _defines(b, name)]
        return defining[-1] if defining else max(blocks, key=len)
    return answer if answer.strip() and _parses(answer) else None


_PYTHON = {"", "python", "py", "python3"}


def _after(start: str, answer: str) -> str:
    """An answer with a whole program: its longest block behind the start, unless the block repeats it."""
    blocks = [m[2] for m in _FENCE.findall(answer) if m[1].lower() in _PYTHON]
    rest = max(blocks, key=len) if blocks else answer
    whole = rest if rest.strip().startswith(start.strip()) else f"{start.rstrip()}\n{rest}"
    return f"```python\n{whole}\n```"


def _with_prompt(answer: str, prompt: str, name: str | None) -> str | None:
    """A program of prompt and answer; an answer may hold the whole function or only go on where the prompt ended."""
    block = extract(answer, name)
    if block is not None and (not prompt or not name or _defines(block, name)):
        # A prompt that ends in a docstring is whole code: its imports and helpers count, and
        # its empty function is replaced.
        return f"{prompt}\n\n{block}" if prompt and _parses(prompt) else block
    body = answer if block is None or "```" not in answer else block
    # Its indentation may be whole, lost with the fence, or lost in the first line only.
    inner = textwrap.indent(textwrap.dedent(body), "    ")
    ways = (inner, "    " + body.lstrip(), body)
    return next((prompt + way for way in ways if prompt and _parses(prompt + way)), block)


def _parses(source: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "answer", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    return True


def _defines(source: str, name: str) -> bool:
    return re.search(rf"^[ \t]*(?:async\s+def|def|class)\s+{re.escape(name)}\b", source, re.M) is not None


def _by_output(program: str, cases: list[tuple[str, str]], run: Executor, limits: Limits) -> Result:
    for stdin, wanted in cases:
        ran = run(program, stdin, limits)
        if ran.status != "ok":
            return _failed(ran)
        if not _same_output(ran.stdout, wanted):
            return MISMATCH
    return MATCH


def _same_output(got: str, wanted: str) -> bool:
    """Line by line and word by word; space at the ends does not count, and 1.0 is 1."""
    a, b = ([line.split() for line in text.strip().splitlines()] for text in (got, wanted))
    return len(a) == len(b) and all(len(x) == len(y) and all(map(_same_word, x, y)) for x, y in zip(a, b, strict=True))


def _same_word(a: str, b: str) -> bool:
    if a == b:
        return True
    try:
        return Decimal(a) == Decimal(b)
    except InvalidOperation:
        return False
