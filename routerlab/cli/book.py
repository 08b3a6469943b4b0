"""Verbs on notebooks: run them headless, tidy them."""

import argparse
from pathlib import Path

from routerlab.cli.shared import AddVerb, say


def add(verb: AddVerb) -> None:
    """Add these verbs to the command line."""
    parser = verb(run, "run", "run the notebooks headless, in order, in fresh kernels")
    parser.add_argument("--only", metavar="00,03", default="", help="these notebooks, by number or name (default: all)")
    parser.add_argument(
        "--profile",
        choices=("pocket", "live", "gpu"),
        default="pocket",
        help="what the notebooks drive (default: pocket)",
    )
    parser.add_argument(
        "-p",
        nargs=2,
        metavar=("NAME", "VALUE"),
        action="append",
        default=[],
        dest="values",
        help="set a parameter the notebook declares",
    )
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, help="where executed notebooks go (default: data/runs/book)"
    )
    parser.add_argument("--update", action="store_true", help="also tidy the results and put them back into notebooks/")

    parser = verb(tidy, "tidy", "drop from notebooks what differs from run to run")
    parser.add_argument("paths", metavar="NOTEBOOK", type=Path, nargs="*", help="default: all in notebooks/")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a notebook is not tidy")


def run(given: argparse.Namespace) -> int:
    """Run the numbered notebooks with papermill and print a table of how they went. A parameter that no notebook
    declares is an error; the exit status is 1 if any notebook failed."""
    from routerlab import book

    paths = book.notebooks(given.only.split(","))
    values = {name: book.literal(value) for name, value in given.values}
    values = {"profile": given.profile, **values}
    folder = given.out.resolve() if given.out else book.root() / "data" / "runs" / "book"
    done = book.run(paths, values, folder=folder, say=say)
    print(book.summary(done))
    failed = [d.error for d in done if d.error]
    if given.update and not failed:
        for path in paths:
            book.update(folder / path.name, path)
    if failed:
        say(
            f"routerlab: {len(failed)} of {len(done)} notebooks failed: {'; '.join(failed)}. The "
            f"executed copies are in {folder}"
        )
    return 1 if failed else 0


def tidy(given: argparse.Namespace) -> int:
    """Drop stderr, timings, widget state and injected cells from notebooks and renumber their cells."""
    from routerlab import book

    paths = given.paths or book.notebooks()
    changed = [path for path in paths if book.tidy(path, write=not given.check)]
    for path in changed:
        print(f"{path.name}: {'not tidy' if given.check else 'tidied'}")
    if given.check and changed:
        say("routerlab: run `routerlab tidy` and commit the result")
    return 1 if given.check and changed else 0
