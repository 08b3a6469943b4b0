"""What the verbs share: how a verb is added, how progress is said, how numbers are read."""

import argparse
import sys
from collections.abc import Callable

AddVerb = Callable[[Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]


def say(line: str) -> None:
    """Print progress and remarks to stderr; stdout holds results only."""
    print(line, file=sys.stderr, flush=True)


def from_zero(text: str) -> int:
    """A whole number from 0, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)
