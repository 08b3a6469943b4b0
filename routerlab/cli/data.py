"""The verb `data`: from public benchmarks to records that train a router."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import routerlab
from routerlab.cli.shared import AddVerb, add_flags


def add(verb: AddVerb) -> None:
    """Add this verb to the command line."""
    parser = verb(listing, "data", "questions and records: list, download, split, filter, records, tokens")
    whats = parser.add_subparsers(title="what", metavar="WHAT", required=True)
    for name, do, groups in (
        ("list", listing, []),
        ("download", download, ["data download"]),
        ("split", split, ["data split"]),
        ("filter", keep_bands, ["bands", "data filter"]),
        ("records", records, ["data records", "bands", "recipe"]),
        ("tokens", tokens, ["data tokens"]),
    ):
        one = whats.add_parser(name, help=(do.__doc__ or "").split(".")[0].lower(), description=do.__doc__)
        one.set_defaults(do=do)
        add_flags(one, *groups)


def listing(_: argparse.Namespace) -> int:
    """List the benchmarks by name."""
    from routerlab.sources import benchmarks

    print(benchmarks.listing())
    return 0


def download(given: argparse.Namespace) -> int:
    """Fetch all splits of a benchmark into a run. Its questions are `file:data/runs/NAME/queries.parquet` then."""
    from routerlab.sources.benchmark_specs import benchmarks
    from routerlab.sources.benchmarks import load

    splits = benchmarks()[given.benchmark].known_splits if given.benchmark in benchmarks() else [""]
    names = ",".join(f"{given.benchmark}:{split}".rstrip(":") for split in splits)
    _write(given.out or given.benchmark, load(names, folder=given.folder))
    return 0


def split(given: argparse.Namespace) -> int:
    """Put near-duplicate questions of a source into one split. Prints the leakage that its own splits had."""
    from routerlab.sources import benchmarks, split

    queries = benchmarks.load(given.source, folder=given.folder)
    print("before:", split.leakage(queries))
    queries = split.split(queries, given.shares)
    print("after:", split.leakage(queries))
    if given.out:
        _write(given.out.parent, queries, given.out.name)
    return 0


def keep_bands(given: argparse.Namespace) -> int:
    """Write the questions of some bands of difficulty. The band is that of the reference model's pass rate."""
    from routerlab.cli.records import bands_of
    from routerlab.core.runs import RunError

    band, wanted = bands_of(given), given.band.split(",")
    queries = [q for q in routerlab.recorded(given.reference).queries if band[q.id] in wanted]
    if not queries:
        raise RunError(f"no question is in band {given.band}; there are {', '.join(sorted(set(band.values())))}")
    _write(given.out, queries)
    return 0


def records(given: argparse.Namespace) -> int:
    """Write records, each with a pool of its own. They come from training questions alone; the leakage check stops the
    command if one of them has a near-duplicate outside the training split. Columns: `routerlab.train.records.schema`.
    """
    from routerlab.cli import records

    return records.records(given)


def tokens(given: argparse.Namespace) -> int:
    """Print how many tokens records have, their functions included. Leaves out those that are too long."""
    from routerlab.cli import records

    return records.tokens(given)


def _write(run: str | Path, queries: Sequence[Any], name: str = "queries.parquet") -> None:
    from routerlab.core.queries import by_split, to_arrow

    path = routerlab.Run(run).write_table(name, to_arrow(queries))
    print(f"{path}: {', '.join(f'{s} {len(qs)}' for s, qs in by_split(queries).items())}")
