"""The verb that looks after a run's ledger, and what other verbs print of answers and models."""

import argparse
import asyncio
import tempfile
from pathlib import Path

import routerlab
from routerlab.cli.collect import backend_of
from routerlab.cli.shared import say
from routerlab.collect.ask import CollectError, Settings, ask, plan
from routerlab.collect.backends import check_keys
from routerlab.collect.calls import BackendError, CallError, Scope
from routerlab.collect.ledger import Ledger
from routerlab.collect.ledger_format import LedgerError, is_empty
from routerlab.core.runs import RunError
from routerlab.grade.verify import grade_many


def ledger(args: argparse.Namespace) -> int:
    """List the calls of a run whose outcome is unknown, which stay charged at their reservations, and those whose
    provider reported more than was reserved. If the provider's bill says otherwise they can be released: the former are
    charged no more, and the latter their reservation."""
    run = routerlab.Run(args.run)
    path = run.folder / "ledger.jsonl"
    log = Ledger.read(path)
    if is_empty(path) and "outcomes.parquet" in run.manifest() and len(routerlab.recorded(run.folder).table):
        raise LedgerError(
            f"{path} is empty though the run's table has answers; restore it, for nothing else knows them"
        )
    if args.release:
        chosen, over = ([c for c in calls if args.release in ("all", c["key"])] for calls in (log.unknown, log.over))
        if not chosen and not over:
            raise LedgerError(f"no call to release has the key {args.release!r}; list them without --release")
        released = CallError("released", Scope.RETRY)
        with Ledger.open(path) as log:

            async def release() -> None:
                await asyncio.gather(
                    *(log.result(c["key"], c["attempt"], 0.0, released) for c in chosen),
                    *(log.correct(c["key"], c["attempt"]) for c in over),
                )

            asyncio.run(release())
        usd = sum(call["usd"] for call in chosen) + sum(call["charged"] - call["usd"] for call in over)
        print(f"released {len(chosen) + len(over)} calls, ${usd:.6f}")
    print(f"{len(log.results)} answers and final errors; charged ${log.spent_usd:.6f} in all; {log.recovery}")
    if log.lost_usd > 0:
        print(f"${log.lost_usd:.6f} of it was charged in lines that are lost")
    for call in (*log.unknown, *log.over):
        about = f"query {call.get('query')}  try {call.get('sample')}  ${call['usd']:.6f} reserved"
        charged = f", ${call['charged']:.6f} reported and charged" if "charged" in call else ""
        print(f"{call['key']}  {call.get('model')}  {about}{charged}")
    if log.unknown:
        print(f"{len(log.unknown)} calls with an unknown outcome; ${log.unknown_usd:.6f} stay charged for them")
    return 0


def answers(data, grade: str | None, limit: int = 50) -> None:
    """Print questions with their references, answers, grades and why, of a recorded table."""
    queries, rows = {q.id: q for q in data.queries}, data.table.rows.to_pylist()
    rows = [r for r in rows if grade is None or (r["grade"] or r["error"] or "").upper() == grade.upper()]
    for row in rows[:limit]:
        query, why = queries[row["query"]], row["error"] or "by a judge"
        if row["error"] is None and query.verifier not in ("judge", "code", "recorded"):
            why = grade_many([query], [row["answer"] or ""], [row["finish"] or "stop"])[0].why
        print(f"{row['grade'] or 'no grade'} ({why})  {row['model']}, try {row['sample']}, query {query.id}")
        for name, text in (("question", query.text), ("reference", query.reference), ("answer", row["answer"])):
            print(f"  {name}: {text if text is None else text.strip()}")
    if len(rows) > limit:
        say(f"{len(rows) - limit:,} more; choose with --grade, --split")


def check_finished(name: str) -> None:
    """Raise an error for a run that was killed before its table was written: it says how to go on."""
    run = routerlab.Run(name) if name != "pocket" else None
    if run and (run.folder / "ledger.jsonl").is_file() and "outcomes.parquet" not in run.manifest():
        answered = len(Ledger.read(run.folder / "ledger.jsonl").results)
        raise RunError(
            f"the run {run.name} was interrupted before its table was written; {answered} answers are in its ledger: "
            f"run the same collect command again to go on"
        )


def ping(args: argparse.Namespace) -> int:
    """Ask each model of a pool for one token; the exit status is 1 if one does not answer."""
    pool, where = routerlab.Pool.load(args.pool), backend_of(args)
    settings = Settings(max_tokens=1, attempts=1, budget_usd=args.budget_usd, concurrency=1)
    query = routerlab.Query.ask("Reply with the word OK.", "OK")

    async def one(card: routerlab.ModelCard) -> bool:
        calls = plan([query], pool.subset([card.id]), settings)
        try:
            check_keys(where, pool.subset([card.id]))
            await ask(calls, pool, where, ledger, settings)
            row = ledger.results.get(calls[0].key) or ledger.errors[calls[0].key]
            said = f"{row.reply.latency_s:7.2f} s  ${row.usd:.6f}" if row.reply else f"no answer: {row.error}"
        except (BackendError, CollectError) as error:
            said = f"no answer: {error}"
        print(f"{card.id:24} {said}")
        return not said.startswith("no answer")

    async def session() -> int:
        try:
            return sum([await one(card) for card in pool])
        finally:
            await where.close()

    with tempfile.TemporaryDirectory() as folder, Ledger.open(Path(folder) / "ledger.jsonl") as ledger:
        answering = asyncio.run(session())
        print(f"{answering} of {len(pool)} models answer; charged ${ledger.spent_usd:.6f}")
    return int(answering < len(pool))
