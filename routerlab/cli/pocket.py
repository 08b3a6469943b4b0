"""The verb that trains the embedded models and records their table."""

import argparse

from routerlab.cli.shared import AddVerb, add_flags, say


def add(verb: AddVerb) -> None:
    """Add this verb to the command line."""
    add_flags(verb(pocket, "pocket", "train the embedded models from seeds and record their table"), "pocket")


def pocket(args: argparse.Namespace) -> int:
    """Train every embedded model that has no weights yet, then record its answers to the held-out questions. You need
    this only to reproduce the committed files from seeds."""
    from routerlab.core.runs import root
    from routerlab.pocket.make.build import make

    folder = args.out.resolve() if args.out else root() / "data" / "pocket"
    make(folder, quick=args.quick, again=args.again, threads=args.threads, say=say)
    return 0
