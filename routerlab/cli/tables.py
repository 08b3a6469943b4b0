"""Verbs on tables and pools."""

import argparse
import datetime as dt
from dataclasses import replace
from pathlib import Path

import routerlab
from routerlab.cli.ledger import answers, check_finished, ping
from routerlab.cli.shared import flags_of, say
from routerlab.core.recorded import refuse_recorded
from routerlab.core.runs import read_json
from routerlab.grade.verify import lenient_note, names
from routerlab.serve.offline import drift, refresh, trained
from routerlab.sources import prices, tables


def show(args: argparse.Namespace) -> int:
    """Print a recorded table's size and, for each model, its grades, cost per 1,000 queries, tokens and latency."""
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


def served(name: str) -> None:
    """Bring the table of a served run up to date, and warn where its requests differ from what its router learned."""
    if name == "pocket" or not (routerlab.Run(name).folder / "served.jsonl").is_file():
        return
    run = routerlab.Run(name)
    if (data := refresh(run)) and "serve.json" in run.manifest():
        spec = read_json(run.path("serve.json"))
        for warning in drift(data.queries, data.table, data.pool, trained(spec["router"], spec["table"])):
            say(f"drift: {warning}")


def import_(args: argparse.Namespace) -> int:
    """Make a run of a table that others recorded. Which column holds what is said by flags, or by the layout of a
    published table; flags win. Costs come from the table (--usd), or from prices (--pool, --prices) and tokens."""
    run = refuse_recorded(routerlab.Run(args.run), but="imported")
    named, verifiers = flags_of(args, "columns"), ["recorded", *names()]
    if named.get("verifier", "recorded") not in verifiers:
        raise tables.SourceError(f"no verifier {named['verifier']!r}; there are {', '.join(verifiers)}")
    if args.question and args.quality and not args.layout:
        layout = tables.Layout(**named)
    else:
        layout = tables.by_name(args.layout) if args.layout else tables.find(args.file)
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


def pools(args: argparse.Namespace) -> int:
    """Compare a pool's dated prices with those litellm and genai-prices carry, and print every
    disagreement, what they do not know, and how many prices agree; the exit status is 1 if there is a disagreement.
    With `ping` ask each model for one token under a budget, and print which answer, how fast and at what cost."""
    if args.what == "ping":
        return ping(args)

    compared = prices.compare(routerlab.Pool.load(args.pool))
    print(prices.report(compared))
    return int(any(d.theirs is not None and not d.agrees for d in compared))
