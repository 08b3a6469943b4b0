"""Tests that call an answer in another box. Both boxes get this file as source: one calls `serve`, the other `test`.

The tests run and list the calls they make; a result that is not known yet is a `Remote`. The answer's box makes these
calls and writes one reply a line. The tests run again with the replies, until they make no other calls than were
answered. So only calls enter the answer's box and only plain data leaves it: expected values, comparison and verdict
stay with the tests. Replies are untrusted: one that breaks the format is an exception of the answer.
"""

import ast
import builtins
import json
import os
import random
import sys
import types
from typing import Any

DEPTH, CALLS = 100, 20_000
_PLAIN = {int, str, bool, type(None)}
_GROUPS: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}
_SCALARS: dict[str, Any] = {"float": float, "bytes": bytes, "bytearray": bytearray}  # they have hex and fromhex


class Unproxied(BaseException):
    """The tests need an object of the answer itself, not plain data."""


class Unsendable(BaseException):
    """The tests pass the answer an object that is not plain data, so they can grade no answer."""


def pack(value: Any, depth: int = DEPTH) -> Any:
    """Plain data as JSON, where {type: content} stands for types that JSON lacks; TypeError for any other object.

    A subclass is sent as its base: the methods that it overrides, such as __eq__, stay behind.
    """
    if depth == 0:
        raise TypeError("data nested too deeply")
    if value is None or isinstance(value, int | str):
        return value
    if isinstance(value, complex):
        return {"complex": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, list):
        return value if set(map(type, value)) <= _PLAIN else [pack(x, depth - 1) for x in value]
    if isinstance(value, dict):
        return {"dict": [[pack(k, depth - 1), pack(v, depth - 1)] for k, v in value.items()]}
    if type(value) is Remote:
        return vars(value)["target"]
    for name, kind in (_SCALARS | _GROUPS).items():
        if isinstance(value, kind):
            items = kind.hex(value) if name in _SCALARS else [pack(x, depth - 1) for x in value]
            return {name: sorted(items, key=json.dumps) if name.endswith("set") else items}
    if isinstance(value, type) and vars(builtins).get(value.__name__) is value:
        return {"type": value.__name__}
    numpy: Any = sys.modules.get("numpy")
    if numpy and isinstance(value, numpy.generic):
        return pack(value.item(), depth - 1)
    raise TypeError(f"{type(value).__name__} is not plain data")


def unpack(data: Any, find: Any = None, depth: int = DEPTH) -> Any:
    """The value that `pack` was given; `find(kind, content)` returns an object of the answer. Any other data raises."""
    if type(data) in _PLAIN:
        return data
    if depth == 0:
        raise ValueError("data nested too deeply")
    if type(data) is list:
        return list(data) if set(map(type, data)) <= _PLAIN else [unpack(x, find, depth - 1) for x in data]
    [(kind, content)] = data.items()
    if kind in _SCALARS:
        return _SCALARS[kind].fromhex(content)
    if kind in _GROUPS and type(content) is list:
        return _GROUPS[kind](unpack(content, find, depth))
    if kind == "complex":
        real, imaginary = map(float.fromhex, content)
        return complex(real, imaginary)
    if kind == "dict":
        return {unpack(k, find, depth - 1): unpack(v, find, depth - 1) for k, v in content}
    if kind == "type" and isinstance(getattr(builtins, content), type):
        return getattr(builtins, content)
    if find is None:
        raise ValueError("not packed data")
    return find(kind, content)


def _packed(value):
    try:
        return ["value", pack(value)]
    except Exception:
        return ["object", None]


def serve(source):
    """In the answer's box: define the answer, make the calls on stdin, write the reply to each on stdout."""
    sys.set_int_max_str_digits(0)
    calls = sys.stdin.buffer.read().splitlines()
    out, null = os.fdopen(os.dup(1), "wb"), os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    module = sys.modules["answer"] = types.ModuleType("answer")
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
        result = error = None
        try:
            result = unpack(function, find)(*args, **kwargs)
        except BaseException as raised:
            error = ["error", [type(raised).__name__, str(raised)]]
        results.append(result)
        # Arguments that hold the answer's own objects stay in this box; others return as the call has left them.
        after = [] if b'{"ref":' in text else _packed([args, kwargs])
        reply = [*(error or _packed(result)), [] if after == ["value", arguments] else after]
        out.write(json.dumps(reply).encode() + b"\n")
        out.flush()
    os._exit(0)


class Remote:
    """A function or object of the answer, or a result not known yet: tests may call it, and get and set attributes.

    Other uses raise, comparison above all: no answer decides what its result is equal to.
    """

    def __init__(self, ask, **target):
        vars(self).update(ask=ask, target=target)

    def __call__(self, *args, **kwargs):
        return vars(self)["ask"](self, args, kwargs)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return vars(self)["ask"](Remote(None, operation="getattr"), (self, name), {})

    def __setattr__(self, name, value):
        vars(self)["ask"](Remote(None, operation="setattr"), (self, name, value), {})

    def _refuse(self, *_):
        raise Unproxied("the tests need plain data, and the answer returned another object")

    __eq__ = __ne__ = __bool__ = __hash__ = __str__ = __repr__ = __format__ = __reduce_ex__ = _refuse


def _mirror(old, new):
    """`old`, changed in place into `new`, so that what a call did to its argument shows in the tests' own variable."""
    if not isinstance(old, type(new)):
        return new
    if isinstance(new, list | tuple):
        new = type(new)([*map(_mirror, old, new), *new[len(old) :]])
    if isinstance(new, dict):
        new = {k: _mirror(old.get(k), v) for k, v in new.items()}
    if isinstance(new, list | bytearray):
        old[:] = new
    elif isinstance(new, dict | set):
        old.clear()
        old.update(new)
    else:
        return new
    return old


class _Names(dict):
    """The tests' builtins; `__find__` looks up every name that nothing else defines."""

    def __missing__(self, name):
        return self["__find__"](name)


class _Guard(ast.NodeTransformer):
    """Puts each statement of the tests in a `try`: one that needs an unknown result must not hide later calls."""

    def generic_visit(self, node):
        super().generic_visit(node)
        if not isinstance(node, ast.stmt) or isinstance(node, ast.ImportFrom):
            return node
        guard: Any
        [guard] = ast.parse("try: pass\nexcept: __raised__()").body
        guard.body = [node]
        return guard


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
            raise Unsendable(f"unproxied: they pass it an object: {error}") from None
        self.calls.append(call)
        result = Remote(self.ask, ref=len(self.calls) - 1)
        if len(self.calls) > CALLS or not self.replies.get(call):
            self.guessing = True
            return result
        try:
            kind, content, after = json.loads(self.replies[call].pop(0))
            value = unpack(content)
            if after and after[0] == "object":
                raise Unproxied("the answer put an object into an argument")
            if after:
                _mirror([list(args), kwargs], unpack(after[1]))
            if kind == "error":
                known: Any = getattr(builtins, value[0], None)
                builtin = isinstance(known, type) and issubclass(known, Exception)
                raise (known if builtin else type(value[0], (Exception,), {}))(value[1])
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
        random.seed(0)
        tree = ast.parse(source)
        nodes = list(ast.walk(tree))
        modules = {n.value.id for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
        called = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}

        def find(name):
            if name in modules & sys.stdlib_module_names:
                return __import__(name)
            if entry or name.startswith("__") or name in ("eval", "exec"):
                raise KeyError(name)
            return Remote(self.ask, name=name)

        # Tests that call nothing but one builtin mean the answer's function of that name.
        entry = entry or (min(called) if len(called) == 1 and called <= set(dir(builtins)) else None)
        names = _Names(vars(builtins), __find__=find, __raised__=self.on_error, alike=alike)
        for name in ("eval", "exec"):  # would run text of the answer among the tests
            del names[name]
        space = {"__name__": "tests", "__builtins__": names}
        exec(helpers, space)
        if entry:
            space[entry] = Remote(self.ask, name=entry)
        exec(compile(ast.fix_missing_locations(_Guard().visit(tree)), "tests.py", "exec"), space)

    def verdict(self, *tests):
        """(why, detail) of a run: match, mismatch, crash, memory, unproxied, or "tests" if the tests are at fault."""
        try:
            self.run(*tests)
        except BaseException as error:
            name, answers = type(error).__name__, any(error is x for x in self.raised)
            why = {"AssertionError": "mismatch", "MemoryError": "memory"}.get(name, "crash")
            if isinstance(error, Unproxied) or (isinstance(error, TypeError) and "'Remote'" in str(error)):
                why = "unproxied"
            elif not answers and isinstance(error, Unsendable | NameError | ImportError | SyntaxError):
                why = "tests"
            return why, f"{name}: {error}"
        return "match", ""


def test(source, helpers, entry):
    """In the tests' box: run the tests with the calls and replies on stdin; print their verdict and calls."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # on a server: the order of sets must be the same in each run
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.set_int_max_str_digits(0)
    request = json.load(sys.stdin)
    report = os.dup(1)
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
