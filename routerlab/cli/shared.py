"""Shared by the verbs: how their flags are read, how progress is printed, where keys come from."""

import argparse
import datetime as dt
import functools
import io
import logging
import math
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any


@functools.cache
def flags() -> dict[str, list[dict[str, Any]]]:
    """`flags.toml`: the verbs, and groups of flags."""
    return tomllib.loads(Path(__file__).with_name("flags.toml").read_text(encoding="utf-8"))


def add_flags(parser: argparse.ArgumentParser, *groups: str) -> None:
    """Add the flags of these groups of `flags.toml`."""
    for flag in (flag for group in groups for flag in flags()[group]):
        options: dict[str, Any] = flag | ({"type": TYPES[flag["type"]]} if "type" in flag else {})
        if isinstance(options.get("metavar"), list):
            options["metavar"] = tuple(options["metavar"])
        parser.add_argument(options.pop("name"), **options)


def flags_of(given: argparse.Namespace, group: str) -> dict[str, Any]:
    """The values of the flags of a group, those that were given."""
    names = (flag.get("dest") or flag["name"].lstrip("-").replace("-", "_") for flag in flags()[group])
    return {name: value for name in names if (value := getattr(given, name)) is not None}


def say(line: str) -> None:
    """Print progress and remarks to stderr; results alone go to stdout."""
    print(line, file=sys.stderr, flush=True)


def read_env() -> None:
    """Read keys from a file `.env` in this folder or the project's; what the environment holds already stays."""
    from dotenv import load_dotenv
    from dotenv.parser import parse_stream

    from routerlab.core.runs import RunError, read_text, root

    logging.getLogger("dotenv.main").setLevel(logging.ERROR)  # it warns of such lines without the file's name
    for path in dict.fromkeys((Path.cwd() / ".env", root() / ".env")):
        if path.is_dir():
            raise RunError(f"{path} is a folder; keys are read from a file of that name: rename one of them")
        if path.is_file():
            text = read_text(path)
            for line in (part.original.line for part in parse_stream(io.StringIO(text)) if part.error):
                say(f"{path}: line {line} is not NAME=VALUE, so it is left out; repair or drop it")
            load_dotenv(stream=io.StringIO(text))


def _reader(read: Callable[[str], Any], why: str) -> Callable[[str], Any]:
    """A reader of values for argparse, which says what is wrong with a text that it cannot read."""

    def reader(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:30]!r} {why}") from None

    return reader


def _number(low: float, high: float, what: str, read: type = float) -> Callable[[str], float]:
    """A reader of numbers of this range."""

    def number(text: str) -> float:
        value = read(text) if len(text) < 30 else math.nan
        if not low <= value <= high:
            raise ValueError
        return value

    bounds = f"{low:g} or larger" if high == math.inf else f"from {low:g} to {high:g}"
    return _reader(number, f"is not a {what}, {bounds}")


def _path(text: str) -> Path:
    if not text:  # it would be this folder
        raise ValueError
    return Path(text)


def _day(text: str) -> dt.date:
    if not 2000 <= (day := dt.date.fromisoformat(text)).year <= 2100:
        raise ValueError
    return day


def _shares(text: str) -> dict[str, float]:
    return dict(zip(("train", "validation", "test"), map(float, text.split(",")), strict=True))


def _names(text: str) -> list[str]:
    if not (names := [name for name in text.split(",") if name]):
        raise ValueError
    return names


def _tokens(text: str) -> str | float | dict[str, float]:
    """A number, numbers by model (A=1,B=2), or the name of a column."""
    try:
        if "=" in text:
            return {m: float(n) for m, _, n in (pair.rpartition("=") for pair in text.split(","))}
        return float(text)
    except ValueError:
        return text


def _two(text: str) -> list[str]:
    if len(set(models := [model.strip() for model in text.split(",")])) != 2 or len(models) != 2:
        raise ValueError
    return models


def _variable(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError
    return text


TYPES: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "from zero": _number(0, math.inf, "whole number", int),
    "whole": _number(1, 10**9, "whole number", int),
    "many": _number(1, 10**6, "whole number", int),
    "repeats": _number(1, 1000, "whole number", int),
    "machines": _number(1, 10_000, "number of machines or GPUs", int),
    "at once": _number(1, 1024, "number of calls in flight", int),
    "dollars": _number(1e-12, 1e6, "number of US dollars"),
    "share": _number(0, 1, "share"),
    "weight": _number(0, 1e15, "cost weight"),
    "port": _number(0, 65535, "port", int),
    "seconds": _number(0.001, 86400, "number of seconds"),
    "path": _reader(_path, "is no path; name a file or folder"),
    "day": _reader(_day, "is no day; give it as YYYY-MM-DD, from 2000 to 2100"),
    "names": _reader(_names, "names nothing; write names with commas between"),
    "tokens": _tokens,
    "shares": _reader(_shares, "are no shares; give train,validation,test, such as 80,0,20"),
    "two models": _reader(_two, "are not two models; name the medium and the large one with a comma between"),
    "variable": _reader(_variable, "is no name of an environment variable (letters, digits, _); put the key into one"),
}
