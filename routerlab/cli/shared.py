"""Shared by the verbs: how a verb is added and its flags are read, how progress is printed, where keys come from."""

import argparse
import datetime as dt
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

AddVerb = Callable[[Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]


@functools.cache
def flags() -> dict[str, list[dict[str, Any]]]:
    """`flags.toml`: the verbs, and groups of flags."""
    import tomllib

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
    names = (flag["name"].lstrip("-").replace("-", "_") for flag in flags()[group])
    return {name: value for name in names if (value := getattr(given, name))}


def say(line: str) -> None:
    """Print progress and remarks to stderr; results alone go to stdout."""
    print(line, file=sys.stderr, flush=True)


def read_env() -> None:
    """Read keys from a file `.env` in this folder or the project's; what the environment holds already stays."""
    from dotenv import load_dotenv

    from routerlab.core.runs import root

    for folder in (Path.cwd(), root()):
        if (folder / ".env").is_file():
            load_dotenv(folder / ".env")


def _number(low: float, high: float, what: str, read: type = float) -> Callable[[str], float]:
    """A reader of numbers of this range, for argparse."""

    def reader(text: str) -> float:
        try:
            value = read(text) if len(text) < 30 else math.nan
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            bounds = f"{low:g} or larger" if high == math.inf else f"from {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"{text[:30]!r} is not a {what}, {bounds}")
        return value

    return reader


def _day(text: str) -> dt.date:
    """A date, for argparse."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; give it as YYYY-MM-DD") from None


def _shares(text: str) -> dict[str, float]:
    """The shares of train, validation and test: three numbers with commas."""
    try:
        train, validation, test = map(float, text.split(","))
    except ValueError:
        message = f"{text!r} are no shares; give train,validation,test, such as 80,0,20"
        raise argparse.ArgumentTypeError(message) from None
    return {"train": train, "validation": validation, "test": test}


TYPES: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "path": Path,
    "from zero": _number(0, math.inf, "whole number", int),
    "whole": _number(1, 10**9, "whole number", int),
    "at once": _number(1, 1024, "number of calls in flight", int),
    "dollars": _number(1e-12, 1e6, "number of US dollars"),
    "share": _number(0, 1, "share"),
    "weight": _number(0, 1e15, "cost weight"),
    "port": _number(0, 65535, "port", int),
    "seconds": _number(0.001, 86400, "number of seconds"),
    "day": _day,
    "shares": _shares,
}
