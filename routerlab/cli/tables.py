"""Verbs on tables, questions and pools."""

import argparse
import datetime as dt
from pathlib import Path

import routerlab
from routerlab.cli.collect import add_backend, dollars
from routerlab.cli.ledger import answers, check_finished, ping
from routerlab.cli.shared import AddVerb, say


def add(verb: AddVerb) -> None:
    """Add these verbs to the command line."""
    parser = verb(show, "show", "print what a recorded table holds, a line a model")
    parser.add_argument(
        "table", nargs="?", default="pocket", help="pocket, a run in data/runs, or a folder (default: pocket)"
    )
    parser.add_argument("--split", help="only this split of its queries")
    parser.add_argument("--answers", action="store_true", help="also its questions, answers, grades and why")
    parser.add_argument("--grade", metavar="GRADE", choices=GRADES, help="with --answers: only these")

    parser = verb(import_, "import", "make a run of a table of outcomes: CSV, TSV, JSON, JSONL or Parquet")
    parser.add_argument("file", metavar="FILE", help="a row for each question, or for each question and model")
    parser.add_argument("--run", required=True, help="name of the run: a folder in data/runs")
    parser.add_argument("--layout", help="of a published table (default: found by its columns); see data/layouts")
    for name, metavar, what in FLAGS:
        parser.add_argument(f"--{name}", metavar=metavar, help=what)
    parser.add_argument("--models", metavar="A,B", help="of a wide table, where the pattern of --quality fits more")
    parser.add_argument("--keep", metavar="A,B", help="columns to keep with each question, such as its category")
    parser.add_argument("--bench", help="only the questions of this benchmark, of a layout that names one")
    parser.add_argument(
        "--questions", metavar="FILE", help="texts of the questions, where the table has only their ids"
    )
    parser.add_argument("--pool", help="cards of the models: a YAML file, or a name in data/pools")
    parser.add_argument("--prices", metavar="CSV", help="in place of a pool: model, usd_per_mtok_in, usd_per_mtok_out")
    parser.add_argument("--as-of", metavar="DATE", type=_day, help="the day of --prices, YYYY-MM-DD (default: today)")
    parser.add_argument(
        "--split", metavar="SHARES", type=_shares, help="split the questions: train,validation,test, such as 80,0,20"
    )

    parser = verb(data, "data", "list the benchmarks, or split questions leak-proof")
    parser.add_argument("what", choices=("list", "split"))
    parser.add_argument("source", nargs="?", default="pocket", help="as for collect")
    parser.add_argument("--folder", metavar="DIR", type=Path, help="where the raw files of benchmarks lie")
    parser.add_argument("--shares", type=_shares, default="70,10,20", help="train,validation,test (default: 70,10,20)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the split questions there")

    parser = verb(pools, "pools", "compare a pool's prices with public price maps, or ask its models for one token")
    parser.add_argument("what", choices=("check", "ping"))
    parser.add_argument("pool", help="a YAML file, or a name in data/pools")
    add_backend(parser, "litellm")
    parser.add_argument("--budget-usd", type=dollars, default=0.05, help="of a ping (default: 0.05)")


GRADES = ("CORRECT", "INCORRECT", "IDK", "truncated", "grading", "judge")  # the last three are errors


FLAGS = (
    ("question", "COL", "column of the question's text"),
    ("quality", "COL", "0 to 1, or true and false; of a wide table a pattern such as ok/{model}"),
    ("model", "COL", "column of the model's name, if each row is one question and one model"),
    ("answer", "COL", "column of the reference answer"),
    ("verifier", "NAME", "what can grade answers again (default: recorded, which cannot)"),
    ("usd", "COL", "column or pattern of what a call cost, in US dollars"),
    ("tokens-in", "HOW", "a column or pattern, a number, A=1,B=2 for models, or characters (estimates)"),
    ("tokens-out", "HOW", "a column or pattern, a number, or A=1,B=2 for models"),
    ("text", "COL", "column or pattern of the models' answers"),
)


def show(given: argparse.Namespace) -> int:
    """Print a recorded table's size and, for each model, its grades, cost per 1,000 queries, tokens and latency."""
    from routerlab.grade.verify import lenient_note

    check_finished(given.table)
    found = routerlab.recorded(given.table)
    found = found.split(given.split) if given.split else found
    print(found.table)
    print(found.table.summary().to_string(float_format="{:.4g}".format))
    if note := lenient_note(found):
        print(note)
    if given.answers:
        answers(found, given.grade)
    if stopped := found.card.get("stopped"):
        say(f"this run stopped before its end: {stopped}")
    return 0


def import_(given: argparse.Namespace) -> int:
    """Make a run of a table that others recorded. Which column holds what is said by flags, or by the layout of a
    published table; flags win. Costs come from the table (--usd), or from prices (--pool, --prices) and tokens."""
    from dataclasses import replace

    from routerlab.sources import tables

    run = routerlab.Run(given.run)
    if (run.folder / "ledger.jsonl").exists():
        raise tables.SourceError(f"{run.folder} holds what was collected; give the run another name")
    named = {name.replace("-", "_"): getattr(given, name.replace("-", "_")) for name, _, _ in FLAGS}
    named |= {n: [x for x in (getattr(given, n) or "").split(",") if x] for n in ("models", "keep")}
    named |= {n: _tokens(named[n]) for n in ("tokens_in", "tokens_out") if named[n]}
    named = {name: value for name, value in named.items() if value}
    if given.question and given.quality and not given.layout:
        layout = tables.Layout(**named)
    else:
        layout = tables.find(given.file) if not given.layout else tables.by_name(given.layout)
        layout = replace(layout, **{**(layout.estimates or {}), **named})
    pool = given.pool
    if given.prices:
        pool = tables.pool_of(Path(given.file).stem, given.prices, as_of=given.as_of or dt.date.today(), context=1)
    table = tables.import_table(given.file, layout, pool, bench=given.bench, questions=given.questions)
    table = tables.save(table, run, given.split)
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


def _day(text: str) -> dt.date:
    """A date, for argparse."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; give it as YYYY-MM-DD") from None


def _shares(text: str) -> dict[str, float]:
    """The shares of train, validation and test: three numbers with commas."""
    try:
        train, validation, test = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} are no shares; give train,validation,test, such as 80,0,20"
        ) from None
    return {"train": train, "validation": validation, "test": test}


def data(given: argparse.Namespace) -> int:
    """List the benchmarks by name, or put near-duplicate questions of a source into one split and print
    the leakage that its own splits had."""
    from routerlab.sources import benchmarks, split

    if given.what == "list":
        print(benchmarks.listing())
        return 0
    queries = benchmarks.load(given.source, folder=given.folder)
    print("before:", split.leakage(queries))
    queries = split.split(queries, given.shares)
    print("after:", split.leakage(queries))
    if given.out:
        from routerlab.core.queries import to_arrow

        routerlab.Run(given.out.parent).write_table(given.out.name, to_arrow(queries))
    return 0


def pools(given: argparse.Namespace) -> int:
    """Compare a pool's dated prices with those litellm and genai-prices carry, and print every
    disagreement, what they do not know, and how many prices agree; the exit status is 1 if there is a disagreement.
    With `ping` ask each model for one token under a budget, and print which answer, how fast and at what cost."""
    if given.what == "ping":
        return ping(given)
    from routerlab.sources import prices

    compared = prices.compare(routerlab.Pool.load(given.pool))
    print(prices.report(compared))
    return int(any(d.theirs is not None and not d.agrees for d in compared))
