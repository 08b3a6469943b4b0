"""The command line: results on stdout, progress and errors on stderr, and an error's last line names the cure."""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import routerlab
from routerlab import verbs


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

    run = verb(verbs.run, "run", "run the notebooks headless, in order, in fresh kernels")
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

    tidy = verb(verbs.tidy, "tidy", "drop from notebooks what differs from run to run")
    tidy.add_argument("paths", metavar="NOTEBOOK", type=Path, nargs="*", help="default: all in notebooks/")
    tidy.add_argument("--check", action="store_true", help="change nothing; fail if a notebook is not tidy")

    show = verb(verbs.show, "show", "print what a recorded table holds, a line a model")
    show.add_argument(
        "table",
        nargs="?",
        default="pocket",
        help="pocket, a run in data/runs, or a folder (default: pocket)",
    )
    show.add_argument("--split", help="only this split of its queries")

    collect = verb(verbs.collect, "collect", "ask every model of a pool every question, and grade the answers")
    collect.add_argument("--pool", default="pocket", help="a YAML file, or a name in data/pools (default: pocket)")
    collect.add_argument("--models", metavar="A,B", help="only these, or a named set of the pool")
    collect.add_argument(
        "--source",
        default="pocket:test",
        help="a benchmark and its split, or file:PATH (default: pocket:test; see `data list`)",
    )
    collect.add_argument(
        "--sandbox",
        metavar="URL",
        help="a SandboxFusion server that runs answers which are code (default: bubblewrap, here)",
    )
    collect.add_argument("--limit", type=int, help="only the first so many questions")
    collect.add_argument("--run", required=True, help="name of the run: a folder in data/runs")
    collect.add_argument(
        "--backend",
        default="pocket",
        help="pocket, replay:TABLE, litellm, or openai:URL (default: pocket)",
    )
    collect.add_argument("--samples", type=int, default=1, help="tries of each question")
    collect.add_argument("--temperature", type=float, default=0.0)
    collect.add_argument("--max-tokens", type=int, default=512, help="of each answer")
    collect.add_argument("--budget-usd", type=float, help="never spend more than this, in all")
    collect.add_argument("--concurrency", type=int, help="calls in flight")
    collect.add_argument("--rpm", type=float, help="requests a minute to each provider")
    collect.add_argument("--tpm", type=float, help="tokens a minute to each provider")
    collect.add_argument("--judge", metavar="MODEL", help="of the pool: grades what needs a judge")

    data = verb(verbs.data, "data", "list the benchmarks, or split questions leak-proof")
    data.add_argument("what", choices=("list", "split"))
    data.add_argument("source", nargs="?", default="pocket", help="as for collect")
    data.add_argument("--out", metavar="FILE", type=Path, help="write the split questions there")

    evaluate = verb(
        verbs.evaluate,
        "eval",
        "fit routers on a table's training split and score them on its test split",
    )
    evaluate.add_argument(
        "--table",
        default="pocket",
        help="pocket, a run, a folder, or a file of RouteLLM, MMLU-Pro or RouterBench (default: pocket)",
    )
    evaluate.add_argument("--routers", default="all", help="names, with commas; `list` prints them (default: all)")
    evaluate.add_argument("--bench", help="only this benchmark of a RouteLLM file: mmlu, gsm8k")
    evaluate.add_argument(
        "--encoder",
        metavar="WHERE",
        help="a sentence encoder for the features: a folder or a package",
    )
    evaluate.add_argument("--against", metavar="ROUTER", help="compare the others with this one")
    evaluate.add_argument("--out", metavar="RUN", help="keep points, summary and routers in this run")
    evaluate.add_argument("--seed", type=_from_zero, default=0, help="of the resampling (default: 0)")
    evaluate.add_argument(
        "--trainings",
        type=int,
        default=1,
        metavar="N",
        help="fit routers that draw lots N times; above 1 the intervals hold that luck too (default: 1)",
    )

    pools = verb(verbs.pools, "pools", "compare a pool's prices with public price maps")
    pools.add_argument("what", choices=("check",))
    pools.add_argument("pool", help="a YAML file, or a name in data/pools")

    pocket = verb(verbs.pocket, "pocket", "train the embedded models from seeds and record their table")
    pocket.add_argument("--out", metavar="FOLDER", type=Path, help="where to put it (default: data/pocket)")
    pocket.add_argument(
        "--quick",
        action="store_true",
        help="a small part of the training and of the questions, in minutes",
    )
    pocket.add_argument("--again", action="store_true", help="train models whose weights are already there, too")
    pocket.add_argument("--threads", type=_from_zero, default=0, help="torch threads (default: its own choice)")
    return parser


def _from_zero(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
