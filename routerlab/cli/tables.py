"""Verbs on tables, questions and pools."""

import argparse
from pathlib import Path

import routerlab
from routerlab.cli.shared import AddVerb


def add(verb: AddVerb) -> None:
    """Add these verbs to the command line."""
    parser = verb(show, "show", "print what a recorded table holds, a line a model")
    parser.add_argument(
        "table", nargs="?", default="pocket", help="pocket, a run in data/runs, or a folder (default: pocket)"
    )
    parser.add_argument("--split", help="only this split of its queries")

    parser = verb(data, "data", "list the benchmarks, or split questions leak-proof")
    parser.add_argument("what", choices=("list", "split"))
    parser.add_argument("source", nargs="?", default="pocket", help="as for collect")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the split questions there")

    parser = verb(pools, "pools", "compare a pool's prices with public price maps")
    parser.add_argument("what", choices=("check",))
    parser.add_argument("pool", help="a YAML file, or a name in data/pools")


def show(given: argparse.Namespace) -> int:
    """Print a recorded table's size and, for each model, its grades, cost per 1,000 queries, tokens and latency."""
    found = routerlab.recorded(given.table)
    found = found.split(given.split) if given.split else found
    print(found.table)
    print(found.table.summary().to_string(float_format="{:.4g}".format))
    return 0


def data(given: argparse.Namespace) -> int:
    """List the benchmarks by name, or put near-duplicate questions of a source into one split and print
    the leakage that its own splits had."""
    from routerlab.sources import benchmarks, split

    if given.what == "list":
        print(benchmarks.listing())
        return 0
    queries = benchmarks.load(given.source)
    print(split.leakage(queries))
    made = split.split(queries)
    print(split.leakage(made))
    if given.out:
        from routerlab.core.queries import to_arrow

        routerlab.Run(given.out.parent).write_table(given.out.name, to_arrow(made))
    return 0


def pools(given: argparse.Namespace) -> int:
    """Compare a pool's dated prices with those litellm and genai-prices carry, and print every
    disagreement and what they do not know; the exit status is 1 if there is a disagreement."""
    from routerlab.sources import prices

    found = prices.check(routerlab.Pool.load(given.pool))
    print(prices.report(found))
    return int(any(d.theirs is not None for d in found))
