"""Shared by the verbs: how a verb is added, how progress is printed, how numbers are read."""

import argparse
import sys
from collections.abc import Callable

AddVerb = Callable[[Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]


def say(line: str) -> None:
    """Print progress and remarks to stderr; results alone go to stdout."""
    print(line, file=sys.stderr, flush=True)


def from_zero(text: str) -> int:
    """A whole number, 0 or larger, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or larger")
    return int(text)
