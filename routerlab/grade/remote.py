"""Tests that call an answer in another box. Both boxes get this file as source, after `packed`: one calls `serve`, the
other `test`.

The tests run and list the calls they make; a result that is not known yet is a `Remote`. The answer's box makes these
calls and writes one reply a line. The tests run again with the replies, until they make no other calls than were
answered. So only calls enter the answer's box and only plain data leaves it: expected values, comparison and verdict
stay with the tests. Replies are untrusted: one that breaks the format is an exception of the answer.
"""

import ast
import builtins
import json
import os
import sys
from collections import deque
from contextlib import suppress
from itertools import chain, islice
from types import ModuleType
from typing import Any

from routerlab.grade.packed import Remote, RemoteItems, Unproxied, Unsendable, pack, unpack

CALLS, ITEMS = 20_000, 10_000  # ITEMS of an iterator: one that has more, as one without end has, stays an object


def _packed(value):
    try:
        return ["value", pack(value)]
    except Exception:
        return ["object", None]


def _reply(result):
    """(reply, result): one of Python's iterators, or an array, is sent as its items."""
    if hasattr(type(result), "__next__") and type(result).__module__ in ("builtins", "itertools"):
        items = list(islice(result, ITEMS + 1))
        if len(items) > ITEMS:
            return ["object", None], chain(items, result)
        kind, content = _packed(items)
        return [kind if content is None else "iterator", content], iter(items)
    if type(result).__name__ in ("array", "ndarray") and getattr(result, "ndim", 1) == 1:
        kind, content = _packed(result.tolist())
        return [kind if content is None else "array", content], result
    return _packed(result), result


def _raised(error):
    """An exception as plain data: the names of its classes, its text and its arguments."""
    text = ""
    with suppress(Exception):
        text = str(error)
    return ["error", [[c.__name__ for c in type(error).__mro__], text, _packed(list(error.args))]]


def _exception(classes, text, args):
    """The exception that `_raised` was given, as one of Python's own or a subclass of them.

    It is no StopIteration, with which an answer could end a loop of the tests over map(f, ...).
    """
    known = [getattr(builtins, name, None) for name in classes]
    bases = tuple(x for x in known if isinstance(x, type) and issubclass(x, Exception) and x is not StopIteration)
    args = unpack(args[1]) if args[0] == "value" else [text]
    if bases and bases[0].__name__ == classes[0]:
        return bases[0](*args)
    return type(classes[0], bases or (Exception,), {"__str__": lambda _: text})(*args)


def serve(source):
    """In the answer's box: define the answer, make the calls on stdin, write the reply to each on stdout."""
    sys.set_int_max_str_digits(0)
    calls = sys.stdin.buffer.read().splitlines()
    out, null = os.fdopen(os.dup(1), "wb"), os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    module = sys.modules["answer"] = ModuleType("answer")
    with suppress(EOFError):  # what stands below the functions may ask for input
        exec(compile(source, "answer.py", "exec", dont_inherit=True), vars(module))
    results, solution = [], []

    def find(kind, content):
        if kind == "ref":
            return results[content]
        if kind == "operation":
            return {"getattr": getattr, "setattr": setattr}[content]
        if hasattr(module, content) or not hasattr(module, "Solution"):
            return getattr(module, content)
        solution[:] = solution or [module.Solution()]
        return getattr(solution[0], content)

    for text in calls:
        function, *arguments = json.loads(text)
        args, kwargs = unpack(arguments, find)
        result = None
        try:
            content, result = _reply(unpack(function, find)(*args, **kwargs))
        except BaseException as raised:
            content = _raised(raised)
        results.append(result)
        # Arguments that hold the answer's own objects stay in this box; others return as the call left them.
        after = [] if b'{"ref":' in text else _packed([args, kwargs])
        reply = [*content, [] if after == ["value", arguments] else after]
        out.write(json.dumps(reply).encode() + b"\n")
        out.flush()
    os._exit(0)


def _mirror(old, new):
    """`old`, changed in place into `new`, so that what a call did to its argument shows in the tests' own variable."""
    if not isinstance(old, type(new)):
        return new
    if isinstance(new, list | tuple | deque):
        new = type(new)([*map(_mirror, old, new), *islice(new, len(old), None)])
    if isinstance(new, dict):
        new = {k: _mirror(old.get(k), v) for k, v in new.items()}
    if isinstance(new, list | bytearray):
        old[:] = new
    elif isinstance(new, dict | set | deque):
        old.clear()
        old.extend(new) if isinstance(new, deque) else old.update(new)
    else:
        return new
    return old


class _Names(dict):
    """The tests' builtins; `__find__` looks up every name that nothing else defines."""

    def __missing__(self, name):
        return self["__find__"](name)


def _guarded(source):
    """The tests with each statement in a `try`: one that needs an unknown result must not hide later calls."""
    handlers = vars(ast.parse("try: pass\nexcept: __raised__()").body[0])["handlers"]

    class Guard(ast.NodeTransformer):
        def generic_visit(self, node):
            super().generic_visit(node)
            if isinstance(node, ast.ImportFrom) or not isinstance(node, ast.stmt):
                return node
            return ast.Try([node], handlers, [], [])

    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    modules = {n.value.id for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
    called = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return ast.fix_missing_locations(Guard().visit(tree)), modules, called


class Tests:
    """One run of the tests: `calls` lists the calls they make, `guessing` says that a result was not known."""

    def __init__(self, calls, replies):
        self.calls, self.guessing, self.raised, self.replies = [], False, [], {}
        for call, reply in zip(calls, replies, strict=True):
            self.replies.setdefault(call, []).append(reply)

    def ask(self, function, args, kwargs):
        """The result of a call, from its reply; a `Remote` if there is none yet."""
        try:
            call = json.dumps([pack(function), pack(list(args)), pack(kwargs)])
        except TypeError as error:
            if self.replies and "deeply" in str(error):
                raise Unproxied(f"the answer's {error}") from None
            raise Unsendable(f"unproxied: they pass it an object: {error}") from None
        self.calls.append(call)
        result = Remote(self.ask, ref=len(self.calls) - 1)
        if len(self.calls) > CALLS or not self.replies.get(call):
            self.guessing = True
            return result
        try:
            kind, content, after = json.loads(self.replies[call].pop(0))
            value: Any = unpack(content) if kind != "error" else _exception(*content)
            if after and after[0] == "object":
                raise Unproxied("the answer put an object into an argument")
            if after:
                _mirror([list(args), kwargs], unpack(after[1]))
            if kind == "error":
                raise value
            if kind in ("iterator", "array"):
                result = RemoteItems(self.ask, ref=len(self.calls) - 1)
                vars(result)["items"] = iter(value) if kind == "iterator" else value
                return result
        except Exception as error:
            self.raised.append(error)
            raise
        return result if kind == "object" else value

    def on_error(self):
        """Called when a statement of the tests raised: go on with the next one if this may be for lack of a result."""
        if not self.guessing or len(self.calls) > CALLS:
            raise

    def run(self, source, helpers, entry):
        """Run the tests, which raise unless the answer passes; `entry` names the function under test, if not None."""
        if "random" in source + helpers:
            __import__("random").seed(0)
        tree, modules, called = _guarded(source)

        def find(name):
            if name in modules & sys.stdlib_module_names:
                return __import__(name)
            if entry or name.startswith("__") or name in ("eval", "exec"):
                raise KeyError(name)
            return Remote(self.ask, name=name)

        # Tests that call nothing but one builtin mean the answer's function of that name.
        entry = entry or (min(called) if len(called) == 1 and called <= set(dir(builtins)) else None)
        # Without eval and exec, which would run text of the answer among the tests.
        names = _Names({name: value for name, value in vars(builtins).items() if name not in ("eval", "exec")})
        names |= {"__find__": find, "__raised__": self.on_error, "alike": alike}
        space = {"__name__": "tests", "__builtins__": names}
        exec(helpers, space)
        if entry:
            space[entry] = Remote(self.ask, name=entry)
        exec(compile(tree, "tests.py", "exec"), space)

    def verdict(self, *tests):
        """(why, detail) of a run: match, mismatch, crash, memory, unproxied, or "tests" if the tests are at fault."""
        try:
            self.run(*tests)
        except BaseException as error:
            # A SyntaxError after a call may be of text that the answer returned.
            faults = Unsendable | NameError | ImportError
            name, answers = type(error).__name__, any(error is x for x in self.raised)
            why = {"AssertionError": "mismatch", "MemoryError": "memory"}.get(name, "crash")
            if isinstance(error, Unproxied) or (isinstance(error, TypeError) and "'Remote" in str(error)):
                why = "unproxied"
            elif not answers and isinstance(error, faults if self.calls else faults | SyntaxError):
                why = "tests"
            return why, f"{name}: {error}"
        return "match", ""


def test(source, helpers, entry):
    """In the tests' box: run the tests with the calls and replies on stdin; print their verdict and calls."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # on a server: the order of sets must be the same in each run
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.set_int_max_str_digits(0)
    request, report = json.load(sys.stdin), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    calls, replies = request["calls"], request["replies"].splitlines()
    verdict, called = ("mismatch", "the answer ended before the last call"), []
    if len(calls) == len(replies):
        tests = Tests(calls, replies)
        verdict, called = tests.verdict(source, helpers, entry), tests.calls
    with os.fdopen(report, "w") as out:
        json.dump([*verdict, called], out)


def alike(a, b):
    """Equality of JSON values: 1 is 1.0, and True is not 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b and isinstance(a, bool) is isinstance(b, bool)
