"""Shared by the verbs: how a verb is added, how progress is printed, how numbers are read."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

AddVerb = Callable[[Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]


def say(line: str) -> None:
    """Print progress and remarks to stderr; results alone go to stdout."""
    print(line, file=sys.stderr, flush=True)


def from_zero(text: str) -> int:
    """A whole number, 0 or larger, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or larger")
    return int(text)


def read_env() -> None:
    """Read keys from a file `.env` in this folder or the project's; what the environment holds already stays."""
    from dotenv import load_dotenv

    from routerlab.core.runs import root

    for folder in (Path.cwd(), root()):
        if (folder / ".env").is_file():
            load_dotenv(folder / ".env")
