"""What goes between the box of the tests and that of the answer: plain data as JSON, and `Remote` for other objects.

Both boxes get this file as source, before `remote`. What is unpacked is untrusted; it is data of Python's own types, so
no answer decides what it is equal to, and it can be packed again.
"""

import builtins
import json
import sys
from collections import deque
from typing import Any

DEPTH = 100
_PLAIN = {int, str, bool, type(None)}
_GROUPS: dict = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
_SCALARS: dict = {"float": float, "bytes": bytes, "bytearray": bytearray}  # they have hex and fromhex
_TEXTS = {"Decimal": "decimal", "Fraction": "fractions"}  # and the modules that have them
_VIEWS = {"keys": type({}.keys()), "values": type({}.values()), "items": type({}.items())}


class Unproxied(BaseException):
    """The tests need an object of the answer itself, not plain data."""


class Unsendable(BaseException):
    """The tests pass the answer an object that is not plain data, so they can grade no answer."""


def pack(value: Any, depth=DEPTH) -> Any:
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
    if isinstance(value, Remote):
        return vars(value)["target"]
    for name, kind in (_SCALARS | _GROUPS).items():
        if isinstance(value, kind):
            items = kind.hex(value) if name in _SCALARS else [pack(x, depth - 1) for x in value]
            return {name: sorted(items, key=json.dumps) if name.endswith("set") else items}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    for name, kind in _VIEWS.items():
        if isinstance(value, kind):
            return {name: [pack(x, depth - 1) for x in value]}
    for name, module in _TEXTS.items():
        kind: Any = getattr(sys.modules.get(module), name, ())
        if isinstance(value, kind):
            return {name: kind.__str__(value)}
    if isinstance(value, type) and vars(builtins).get(value.__name__) is value:
        return {"type": value.__name__}
    if (numpy := sys.modules.get("numpy")) and isinstance(value, numpy.generic):
        return pack(value.item(), depth - 1)
    raise TypeError(f"{type(value).__name__} is not plain data")


def unpack(data, find=None, depth=DEPTH) -> Any:
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
    if kind == "range" and type(content) is list:
        return range(*content)
    if kind in _VIEWS:
        items = unpack(content, find, depth)
        pairs = items if kind == "items" else enumerate(items) if kind == "values" else ((x, None) for x in items)
        return getattr(dict(pairs), kind)()
    if kind in _TEXTS and type(content) is str:
        return getattr(__import__(_TEXTS[kind]), kind)(content)
    if kind == "type" and isinstance(getattr(builtins, content), type):
        return getattr(builtins, content)
    if find is None:
        raise ValueError("not packed data")
    return find(kind, content)


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


class RemoteItems(Remote):
    """A `Remote` whose items are known: the answer returned an iterator or an array."""

    def __iter__(self):
        return iter(vars(self)["items"])

    def __next__(self):
        return next(vars(self)["items"])
