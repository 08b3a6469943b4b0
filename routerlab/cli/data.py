"""The verb `data`: from public benchmarks to records that train a router."""

import argparse

from routerlab.cli.shared import AddVerb, add_flags

WHATS = {  # name: (what it does, its flags)
    "list": ("List the benchmarks by name.", []),
    "download": (
        "Fetch all splits of a benchmark into a run. Its questions are `file:data/runs/NAME/queries.parquet` then.",
        ["data download"],
    ),
    "split": (
        "Put near-duplicate questions of a source into one split. Prints the leakage that its own splits had.",
        ["data split"],
    ),
    "filter": (
        "Write the questions of some bands of difficulty. The band is that of the reference model's pass rate.",
        ["bands", "data filter"],
    ),
    "records": (
        "Write records, each with a pool of its own. They come from training questions alone; the leakage check stops "
        "the command if one of them has a near-duplicate outside the training split. Columns: "
        "`routerlab.train.records.schema`.",
        ["data records", "bands", "recipe"],
    ),
    "tokens": (
        "Print how many tokens records have, their functions included. Leaves out those that are too long.",
        ["data tokens"],
    ),
}


def add(verb: AddVerb) -> None:
    """Add this verb to the command line."""
    parser = verb(data, "data", f"questions and records: {', '.join(WHATS)}")
    whats = parser.add_subparsers(title="what", metavar="WHAT", required=True, dest="what")
    for name, (about, groups) in WHATS.items():
        add_flags(whats.add_parser(name, help=about.split(".")[0].lower(), description=about), *groups)


def data(given: argparse.Namespace) -> int:
    """Fetch, split and filter questions, and make records of them that train a router."""
    from routerlab.cli import records

    return records.WHATS[given.what](given)
