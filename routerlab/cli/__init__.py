"""The command line: results on stdout, progress and errors on stderr, and an error's last line names the cure."""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence

import routerlab
from routerlab.cli import book, collect, data, evaluate, grade, judge, ledger, pocket, route, serve, tables, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    args = parser().parse_args(arguments)
    if not hasattr(args, "do"):
        parser().error("name a verb; `routerlab --help` lists them")
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"  # no file name and line of ours
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode still gets its table
    try:
        status = args.do(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        message, status = "interrupted; run the same command again", 130
    except BrokenPipeError:  # as in `| head -1`: the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        message, status = f"{error}; fix the path or its permissions, or name another file or folder", 1
    except (ValueError, RuntimeError) as error:
        # Our own errors say in one line what to do; any other is a bug and keeps its trace.
        if not type(error).__module__.startswith("routerlab."):
            raise
        message, status = str(error), 1
    print(f"routerlab: {message}", file=sys.stderr)
    return status


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each verb sets `do`, the function that runs it."""
    whole = argparse.ArgumentParser(prog="routerlab", description="A workbench for cost-aware LLM routing.")
    whole.add_argument("--version", action="version", version=routerlab.__version__)
    verbs = whole.add_subparsers(title="verbs", metavar="VERB")

    def verb(do: Callable[[argparse.Namespace], int], name: str, what: str):
        one = verbs.add_parser(name, help=what, description=do.__doc__)
        one.set_defaults(do=do)
        return one

    verbs_of = book, tables, data, collect, ledger, grade, judge, evaluate, route, serve, pocket, train
    for module in verbs_of:
        module.add(verb)
    return whole
