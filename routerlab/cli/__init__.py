"""The command line: results on stdout, progress and errors on stderr, and an error's last line names the cure."""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence

import routerlab
from routerlab.cli import book, collect, evaluate, pocket, route, tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if not hasattr(given, "do"):
        parser.error("name a verb; `routerlab --help` lists them")
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"  # for who runs it, not who wrote it
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode still gets its table
    try:
        status = given.do(given)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        said, status = "interrupted; run the same command again", 130
    except BrokenPipeError:  # as in `| head -1`: who reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        said, status = f"{error}; mend that, or name another file or folder", 1
    except (ValueError, RuntimeError) as error:
        # Our own errors say in one line what to do; any other is a fault of ours and keeps its trace.
        if not type(error).__module__.startswith("routerlab."):
            raise
        said, status = str(error), 1
    print(f"routerlab: {said}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="routerlab", description="A workbench for cost-aware LLM routing.")
    parser.add_argument("--version", action="version", version=routerlab.__version__)
    parsers = parser.add_subparsers(title="verbs", metavar="VERB")

    def verb(do: Callable[[argparse.Namespace], int], name: str, what: str):
        made = parsers.add_parser(name, help=what, description=do.__doc__)
        made.set_defaults(do=do)
        return made

    for module in (book, tables, collect, evaluate, route, pocket):
        module.add(verb)
    return parser
