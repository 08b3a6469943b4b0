"""Tests that call an answer in another box. Both boxes get this file as source text: one runs `serve`, the other `test`.

The tests run and list the calls they make; a result that is not known yet is a `Remote`. The answer's box makes these
calls and writes one reply a line. The tests run again with the replies, until they make no other calls than were
answered. So only calls enter the answer's box and only plain data leaves it: expected values, comparison and verdict
stay with the tests. Replies are untrusted: one that breaks the format fails the answer.
"""

import ast
import builtins
import json
import os
import random
import sys
import types

DEPTH, CALLS = 100, 20_000
_BYTES, _GROUPS = (bytes, bytearray), (tuple, set, frozenset)


class Unproxied(BaseException):
    """The tests need an object of the answer itself, not plain data."""


class Unsendable(Unproxied):
    """The tests pass the answer an object that is not plain data, so they can grade no answer."""


def pack(value, depth=DEPTH):
    """Plain data as JSON, where {type: content} stands for types that JSON lacks; TypeError for any other object.

    A subclass is sent as its base: the methods that it overrides, such as __eq__, stay behind.
    """
    if depth == 0:
        raise TypeError("data nested too deeply")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else {"int": format(value, "x")}
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, complex):
        return {"complex": [pack(value.real), pack(value.imag)]}
    if isinstance(value, list):
        return [pack(x, depth - 1) for x in value]
    if isinstance(value, dict):
        return {"dict": [[pack(k, depth - 1), pack(v, depth - 1)] for k, v in value.items()]}
    if type(value) is Remote:
        return vars(value)["target"]
    for kind in (*_BYTES, *_GROUPS):
        if isinstance(value, kind):
            items = value.hex() if kind in _BYTES else [pack(x, depth - 1) for x in value]
            return {kind.__name__: sorted(items, key=json.dumps) if "set" in kind.__name__ else items}
    raise TypeError(f"{type(value).__name__} is not plain data")


def unpack(data, find=None, depth=DEPTH):
    """The value of what `pack` made; `find(kind, content)` gives the answer's own objects. ValueError for other data."""
    if data is None or type(data) in (bool, int, str):
        return data
    if depth == 0 or type(data) not in (list, dict) or (len(data) != 1 and type(data) is dict):
        raise ValueError("not packed, or nested too deeply")
    if type(data) is list:
        return [unpack(x, find, depth - 1) for x in data]
    [(kind, content)] = data.items()
    if kind == "int":
        return int(content, 16)
    if kind == "float":
        return float.fromhex(content)
    if kind == "complex":
        return complex(*(unpack(x, None, 2) for x in content))
    if kind == "dict":
        return {unpack(k, find, depth - 1): unpack(v, find, depth - 1) for k, v in content}
    if kind in [k.__name__ for k in _BYTES]:
        return getattr(builtins, kind).fromhex(content)
    if kind in [k.__name__ for k in _GROUPS] and type(content) is list:
        return getattr(builtins, kind)(unpack(content, find, depth))
    if find is None:
        raise ValueError("not packed")
    return find(kind, content)


def _packed(value, otherwise):
    try:
        return ["value", pack(value)]
    except Exception:
        return ["object", otherwise]


def serve(source):
    """In the answer's box: define the answer, make the calls on stdin, write the reply to each on stdout."""
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
        function, *given = json.loads(text)
        args, kwargs = unpack(given, find)
        result = error = None
        try:
            result = unpack(function, find)(*args, **kwargs)
        except BaseException as raised:
            error = ["error", [type(raised).__name__, str(raised)]]
        results.append(result)
        # Arguments that hold the answer's own objects stay in this box; others return as the call has left them.
        after = [] if b'{"ref":' in text else _packed([args, kwargs], "")
        reply = error or _packed(result, type(result).__name__)
        out.write(json.dumps([*reply, [] if after == ["value", given] else after]).encode() + b"\n")
        out.flush()
    os._exit(0)


class Remote:
    """A function or object of the answer, or a result not known yet: tests may call it, and get and set attributes.

    All else raises `Unproxied`, comparison above all: no answer decides what its result is equal to.
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


for _name in ["eq", "ne", "lt", "le", "gt", "ge", "hash", "bool", "iter", "next", "reversed", "len", "contains", "getitem", "setitem", "delitem", "enter", "exit", "str", "repr", "format", "int", "float", "complex", "index", "abs", "neg", "pos", "invert", "round", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv", "mod", "rmod", "divmod", "pow", "rpow", "and", "rand", "or", "ror", "xor", "rxor", "reduce_ex"]:
    setattr(Remote, f"__{_name}__", _refuse)


def _mirror(old, new):
    """Change `old` in place into `new`: what a call did to its argument shows in the tests' own variable."""
    if type(old) is type(new) and isinstance(old, list | tuple) and len(old) == len(new):
        for a, b in zip(old, new, strict=True):
            _mirror(a, b)
    if type(old) is type(new) and type(old) in (list, bytearray):
        old[:] = [a if pack(a) == pack(b) else b for a, b in zip(old, new)] + list(new[len(old) :])
    elif type(old) is type(new) and type(old) in (dict, set):
        old.clear()
        old.update(new)


class _Names(dict):
    """The tests' builtins, whose `find` looks up every name that nothing else defines."""

    def __missing__(self, name):
        return self["__find__"](name)


class _Guard(ast.NodeTransformer):
    """Puts each statement of the tests in a `try`, so that one that needs an unknown result does not hide later calls."""

    def generic_visit(self, node):
        super().generic_visit(node)
        if not isinstance(node, ast.stmt) or isinstance(node, ast.ImportFrom):
            return node
        [wrapped] = ast.parse("try: pass\nexcept: __unknown__()").body
        wrapped.body = [node]
        return wrapped


class Tests:
    """One run of the tests: `made` lists the calls they make, `guessing` says that a result was not known."""

    def __init__(self, calls, replies):
        self.made, self.guessing, self.raised, self.replies = [], False, None, {}
        for call, reply in zip(calls, replies, strict=True):
            self.replies.setdefault(call, []).append(reply)

    def ask(self, function, args, kwargs):
        """The result of a call, from its reply; a `Remote` if there is none yet."""
        try:
            call = json.dumps([pack(function), pack(list(args)), pack(kwargs)])
        except TypeError as error:
            raise Unsendable(f"unproxied: the tests pass an object to the answer: {error}") from None
        self.made.append(call)
        result = Remote(self.ask, ref=len(self.made) - 1)
        if len(self.made) > CALLS or not self.replies.get(call):
            self.guessing = True
            return result
        kind, content, after = json.loads(self.replies[call].pop(0))
        value = unpack(content)
        if after:
            _mirror([list(args), kwargs], unpack(after[1]))
        if kind == "error":
            name, text = value
            known = getattr(builtins, name, None)
            fits = isinstance(known, type) and issubclass(known, Exception)
            self.raised = (known if fits else type(name, (Exception,), {}))(text)
            raise self.raised
        return value if kind == "value" else result

    def unknown(self):
        """A statement of the tests has raised: go on with the next one if that may be for lack of a result."""
        if not self.guessing or len(self.made) > CALLS:
            raise

    def run(self, source, prelude, entry):
        """Run the tests, which raise unless the answer passes; `entry` is the name of the function under test or None."""
        random.seed(0)
        tree = ast.parse(source)
        nodes = list(ast.walk(tree))
        modules = {n.value.id for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
        called = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}

        def find(name):
            if name in modules & sys.stdlib_module_names:
                return __import__(name)
            if entry or name.startswith("_"):
                raise KeyError(name)
            return Remote(self.ask, name=name)

        names = {**vars(builtins), "__find__": find, "__unknown__": self.unknown, "alike": alike}
        space = {"__name__": "tests", "__builtins__": _Names(names)}
        exec(prelude, space)
        # Tests that call nothing but one builtin mean the answer's function of that name.
        for name in [entry] if entry else called if len(called) == 1 and called <= set(dir(builtins)) else ():
            space[name] = Remote(self.ask, name=name)
        exec(compile(ast.fix_missing_locations(_Guard().visit(tree)), "tests.py", "exec"), space)


def test(source, prelude, entry):
    """In the tests' box: run the tests on the calls and replies on stdin; print {calls, why, detail}."""
    request = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    why, detail, replies = "mismatch", "it ended before the last call", request["replies"].splitlines()
    tests = Tests([], [])
    if len(replies) == len(request["calls"]):
        tests = Tests(request["calls"], replies)
        try:
            tests.run(source, prelude, entry)
            why, detail = "match", ""
        except BaseException as error:
            names = {
                "AssertionError": "mismatch",
                "MemoryError": "memory",
                "Unproxied": "unproxied",
                "Unsendable": "tests",
            }
            why, detail = names.get(type(error).__name__, "crash"), f"{type(error).__name__}: {error}"
            if error is not tests.raised and isinstance(error, NameError | ImportError | SyntaxError):
                why = "tests"
    json.dump({"calls": tests.made, "why": why, "detail": detail}, out)


def alike(a, b):
    """Equality of JSON values: lists in depth, 1 is 1.0, and True is not 1."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b and isinstance(a, bool) is isinstance(b, bool)
