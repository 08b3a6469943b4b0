"""The verb that makes the embedded models and their table again."""

import argparse
from pathlib import Path

from routerlab.cli.shared import AddVerb, from_zero, say
from routerlab.core.runs import root


def add(verb: AddVerb) -> None:
    """Add these verbs to the command line."""
    parser = verb(pocket, "pocket", "train the embedded models from seeds and record their table")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="where to put it (default: data/pocket)")
    parser.add_argument(
        "--quick", action="store_true", help="a small part of the training and of the questions, in minutes"
    )
    parser.add_argument("--again", action="store_true", help="train models whose weights are already there, too")
    parser.add_argument("--threads", type=from_zero, default=0, help="torch threads (default: its own choice)")


def pocket(given: argparse.Namespace) -> int:
    """Train every embedded model that has no weights yet, then record what each does on the held-out questions.
    The committed files make this unnecessary; it is here so that they can be made again from seeds."""
    from routerlab.pocket.make.build import make

    folder = given.out.resolve() if given.out else root() / "data" / "pocket"
    make(folder, quick=given.quick, again=given.again, threads=given.threads, say=say)
    return 0
