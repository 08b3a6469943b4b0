"""The command line: results on stdout, progress and errors on stderr, and an error's last line
names the cure.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import routerlab


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if not hasattr(given, "do"):
        parser.print_help()
        return 2
    from routerlab.book import BookError
    from routerlab.outcomes import OutcomeError
    from routerlab.pools import PoolError
    from routerlab.queries import QueryError
    from routerlab.runs import RunError

    try:
        return given.do(given)
    except (BookError, OutcomeError, PoolError, QueryError, RunError, FileNotFoundError) as error:
        print(f"routerlab: {error}", file=sys.stderr)
        return 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="routerlab", description="A workbench for cost-aware LLM routing."
    )
    parser.add_argument("--version", action="version", version=routerlab.__version__)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")

    run = verbs.add_parser(
        "run",
        help="run the notebooks headless, in order, in fresh kernels",
        description=_run.__doc__,
    )
    run.add_argument(
        "--only",
        metavar="00,03",
        default="",
        help="these notebooks, by number or name (default: all)",
    )
    run.add_argument(
        "--profile",
        choices=("pocket", "live", "gpu"),
        default="pocket",
        help="what the notebooks drive (default: pocket)",
    )
    run.add_argument(
        "-p",
        nargs=2,
        metavar=("NAME", "VALUE"),
        action="append",
        default=[],
        dest="values",
        help="set a parameter the notebook declares",
    )
    run.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        help="where executed notebooks go (default: data/runs/book)",
    )
    run.add_argument(
        "--update",
        action="store_true",
        help="also tidy the results and put them back into notebooks/",
    )
    run.set_defaults(do=_run)

    tidy = verbs.add_parser(
        "tidy", help="drop from notebooks what differs from run to run", description=_tidy.__doc__
    )
    tidy.add_argument(
        "paths", metavar="NOTEBOOK", type=Path, nargs="*", help="default: all in notebooks/"
    )
    tidy.add_argument(
        "--check", action="store_true", help="change nothing; fail if a notebook is not tidy"
    )
    tidy.set_defaults(do=_tidy)

    show = verbs.add_parser(
        "show", help="print what a recorded table holds, a line a model", description=_show.__doc__
    )
    show.add_argument(
        "table",
        nargs="?",
        default="pocket",
        help="pocket, a run in data/runs, or a folder (default: pocket)",
    )
    show.add_argument("--split", help="only this split of its queries")
    show.set_defaults(do=_show)

    pocket = verbs.add_parser(
        "pocket",
        help="train the embedded models from seeds and record their table",
        description=_pocket.__doc__,
    )
    pocket.add_argument(
        "--out", metavar="FOLDER", type=Path, help="where to put it (default: data/pocket)"
    )
    pocket.add_argument(
        "--quick",
        action="store_true",
        help="a small part of the training and of the questions, in minutes",
    )
    pocket.add_argument(
        "--again", action="store_true", help="train models whose weights are already there, too"
    )
    pocket.add_argument(
        "--threads", type=int, default=0, help="torch threads (default: its own choice)"
    )
    pocket.set_defaults(do=_pocket)
    return parser


def _run(given: argparse.Namespace) -> int:
    """Run the numbered notebooks with papermill and print a table of how they went. A parameter
    that no notebook
    declares is an error; the exit status is 1 if any notebook failed."""
    from routerlab import book

    paths = book.notebooks(given.only.split(","))
    values = {"profile": given.profile} | {
        name: book.literal(value) for name, value in given.values
    }
    folder = given.out.resolve() if given.out else book.root() / "data" / "runs" / "book"
    done = book.run(paths, values, folder=folder, say=_say)
    print(book.summary(done))
    failed = [d.error for d in done if d.error]
    if given.update and not failed:
        for path in paths:
            book.update(folder / path.name, path)
    if failed:
        _say(
            f"routerlab: {len(failed)} of {len(done)} notebooks failed: {'; '.join(failed)}. The "
            f"executed copies are in {folder}"
        )
    return 1 if failed else 0


def _tidy(given: argparse.Namespace) -> int:
    """Drop stderr, timings, widget state and injected cells from notebooks and renumber their
    cells.
    """
    from routerlab import book

    paths = given.paths or book.notebooks()
    changed = [path for path in paths if book.tidy(path, write=not given.check)]
    for path in changed:
        print(f"{path.name}: {'not tidy' if given.check else 'tidied'}")
    if given.check and changed:
        _say("routerlab: run `routerlab tidy` and commit the result")
    return 1 if given.check and changed else 0


def _show(given: argparse.Namespace) -> int:
    """Print a recorded table's size and, for each model, its grades, cost per 1,000 queries, tokens
    and latency.
    """
    found = routerlab.recorded(given.table)
    found = found.split(given.split) if given.split else found
    print(found.table)
    print(found.table.summary().to_string(float_format="{:.4g}".format))
    return 0


def _pocket(given: argparse.Namespace) -> int:
    """Train every embedded model that has no weights yet, then record what each does on the held-
    out questions.
    The committed files make this unnecessary; it is here so that they can be made again from seeds."""
    from routerlab.pocket.make import make

    folder = given.out.resolve() if given.out else routerlab.runs.root() / "data" / "pocket"
    make(folder, quick=given.quick, again=given.again, threads=given.threads, say=_say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
