"""The verbs that train the embedded models, record their table, and train the small actors on it."""

import argparse

from routerlab.cli.shared import AddVerb, add_flags, say


def add(verb: AddVerb) -> None:
    """Add these verbs to the command line."""
    add_flags(verb(pocket, "pocket", "train the embedded models from seeds and record their table"), "pocket")
    add_flags(verb(actor, "actor", "train the small actors, routers that read a question and a pool's cards"), "actor")


def actor(args: argparse.Namespace) -> int:
    """Train the actors `known`, on all embedded models, and `unseen`, without the best of them, from seeds."""
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
