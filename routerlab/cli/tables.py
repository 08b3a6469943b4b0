"""Verbs on tables and pools."""

import argparse
import datetime as dt
from pathlib import Path

import routerlab
from routerlab.cli.ledger import answers, check_finished, ping
from routerlab.cli.serve import served
from routerlab.cli.shared import flags_of, say


def show(args: argparse.Namespace) -> int:
    """Print a recorded table's size and, for each model, its grades, cost per 1,000 queries, tokens and latency."""
    from routerlab.grade.verify import lenient_note

    served(args.table)
    check_finished(args.table)
    recorded = routerlab.recorded(args.table)
    recorded = recorded.split(args.split) if args.split else recorded
    print(recorded.table)
    print(recorded.table.summary().to_string(float_format="{:.4g}".format))
    if note := lenient_note(recorded):
        print(note)
    if args.answers:
        answers(recorded, args.grade)
    if stopped := recorded.card.get("stopped"):
        say(f"this run stopped before its end: {stopped}")
    return 0


def data(args: argparse.Namespace) -> int:
    """Fetch, split and filter questions, and make records of them that train a router."""
    from routerlab.cli import records

    return getattr(records, args.what)(args)


def import_(args: argparse.Namespace) -> int:
    """Make a run of a table that others recorded. Which column holds what is said by flags, or by the layout of a
    published table; flags win. Costs come from the table (--usd), or from prices (--pool, --prices) and tokens."""
    from dataclasses import replace

    from routerlab.sources import tables

    run = routerlab.Run(args.run)
    if (run.folder / "ledger.jsonl").exists():
        raise tables.SourceError(f"{run.folder} holds what was collected; give the run another name")
    named = flags_of(args, "columns")
    named |= {n: [x for x in named[n].split(",") if x] for n in ("models", "keep") if n in named}
    named |= {n: _tokens(named[n]) for n in ("tokens_in", "tokens_out") if n in named}
    named = {name: value for name, value in named.items() if value}
    if args.question and args.quality and not args.layout:
        layout = tables.Layout(**named)
    else:
        layout = tables.find(args.file) if not args.layout else tables.by_name(args.layout)
        layout = replace(layout, **{**(layout.estimates or {}), **named})
    pool = args.pool
    if args.prices:
        pool = tables.pool_of(Path(args.file).stem, args.prices, as_of=args.as_of or dt.date.today(), context=1)
    table = tables.import_table(args.file, layout, pool, bench=args.bench, questions=args.questions)
    table = tables.save(table, run, args.split)
    print(table)
    for why in ("repeated", "unanswered"):
        print(f"{table.card[f'{why}_questions_dropped']} {why} questions dropped")
    print(f"tokens in: {table.card['tokens_in']}; tokens out: {table.card['tokens_out']}; cost: {table.card['usd']}")
    return 0


def _tokens(text: str) -> str | float | dict[str, float]:
    """A number, numbers by model (A=1,B=2), or the name of a column."""
    try:
        if "=" in text:
            return {m: float(n) for m, _, n in (pair.rpartition("=") for pair in text.split(","))}
        return float(text)
    except ValueError:
        return text


def pools(args: argparse.Namespace) -> int:
    """Compare a pool's dated prices with those litellm and genai-prices carry, and print every
    disagreement, what they do not know, and how many prices agree; the exit status is 1 if there is a disagreement.
    With `ping` ask each model for one token under a budget, and print which answer, how fast and at what cost."""
    if args.what == "ping":
        return ping(args)
    from routerlab.sources import prices

    compared = prices.compare(routerlab.Pool.load(args.pool))
    print(prices.report(compared))
    return int(any(d.theirs is not None and not d.agrees for d in compared))
