"""The verbs that train the embedded models, record their table, and train the small actors on it."""

import argparse
from pathlib import Path

from routerlab.cli.shared import AddVerb, from_zero, say


def add(verb: AddVerb) -> None:
    """Add these verbs to the command line."""
    parser = verb(pocket, "pocket", "train the embedded models from seeds and record their table")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="where to put it (default: data/pocket)")
    parser.add_argument(
        "--quick", action="store_true", help="a small part of the training and of the questions, in minutes"
    )
    parser.add_argument("--again", action="store_true", help="also train models that have weights already")
    parser.add_argument("--threads", type=from_zero, default=0, help="torch threads (default: its own choice)")
    parser = verb(actor, "actor", "train the small actors, routers that read a question and the cards of a pool")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="where to put them (default: data/pocket/actor)")


def actor(args: argparse.Namespace) -> int:
    """Train the actors `known` (on all embedded models) and `unseen` (without some) from seeds, on one thread."""
    from routerlab.core.runs import root
    from routerlab.train.actor import make

    make(args.out.resolve() if args.out else root() / "data" / "pocket" / "actor", say)
    return 0


def pocket(args: argparse.Namespace) -> int:
    """Train every embedded model that has no weights yet, then record its answers to the held-out questions. You need
    this only to reproduce the committed files from seeds."""
    from routerlab.core.runs import root
    from routerlab.pocket.make.build import make

    folder = args.out.resolve() if args.out else root() / "data" / "pocket"
    make(folder, quick=args.quick, again=args.again, threads=args.threads, say=say)
    return 0
