"""The verbs that grade recorded answers again, and that measure how far a judge can be trusted."""

import argparse
import asyncio
import hashlib

import routerlab
from routerlab.cli.shared import say
from routerlab.collect.ask import CollectError, Settings, ask
from routerlab.collect.backends import backend
from routerlab.collect.calls import Call
from routerlab.collect.ledger import Ledger
from routerlab.collect.settings import call_of
from routerlab.core.invariants import Grade
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.recorded import record, recorded
from routerlab.core.runs import Run, RunError
from routerlab.grade.contract import lenient_share
from routerlab.grade.judge import PROMPT
from routerlab.grade.judge_audit import audit
from routerlab.grade.verify import grade_many, visible


def grade(args: argparse.Namespace) -> int:
    """Grade what a run recorded with the verifiers as they are now, and write its table again. No model is asked;
    grades given by a judge stay as they are."""
    run, data = Run(args.run), recorded(args.run)
    queries, rows = {q.id: q for q in data.queries}, data.table.rows.to_pylist()
    again = [row for row in rows if row["answer"] is not None and queries[row["query"]].verifier != "judge"]
    asked, answers = [queries[row["query"]] for row in again], [row["answer"] for row in again]
    verdicts = grade_many(asked, answers, [row["finish"] or "stop" for row in again], sandbox=args.sandbox)
    changed = sum(row["grade"] != verdict.grade for row, verdict in zip(again, verdicts, strict=True))
    for row, verdict in zip(again, verdicts, strict=True):
        row |= {name: getattr(verdict, name) for name in ("grade", "quality", "error")}
    columns = {name: [row[name] for row in rows] for name in data.table.rows.column_names}
    record(run, data.queries, data.pool, OutcomeTable(columns, data.pool.ids), data.card)
    share = lenient_share(asked, map(visible, answers))
    print(f"{len(again)} answers graded again, {changed} grades changed; {share:.1%} read by the lenient reader")
    if failed := sum(v.error == "grading" for v in verdicts):
        say(f"routerlab: {failed} answers could not be graded; `routerlab show` says why")
    return 0


def judge(args: argparse.Namespace) -> int:
    """Ask a judge about attacked wrong answers, about pairs of answers in both orders, and about answers that a
    verifier has graded; print how often each goes wrong. Every call is in the run's ledger and none is paid twice. The
    exit status is 3 if it stopped before its end."""
    pool = routerlab.Pool.load(args.pool).subset([args.judge])
    where, (pairs, gold) = backend(args.backend), _material(recorded(args.table), args.limit)
    settings = Settings(budget_usd=args.budget_usd, max_tokens=args.max_tokens, prompt=PROMPT)
    calls: dict[str, Call] = {}

    async def reply(messages: list[dict[str, str]]) -> str:
        name = hashlib.blake2b(messages[-1]["content"].encode(), digest_size=8).hexdigest()
        call = call_of(pool.cards[0], name, messages, settings)
        row = ledger.results.get(calls.setdefault(call.key, call).key)
        return row.reply.text if row and row.reply and row.reply.finish == "stop" else ""

    async def session():
        await audit(reply, pairs, gold)  # a first time to know all prompts, which are then asked side by side
        try:
            await ask(list(calls.values()), pool, where, ledger, settings)
        finally:
            await where.close()
        return await audit(reply, pairs, gold)

    with Ledger.open(routerlab.Run(args.run).folder / "ledger.jsonl") as ledger:
        try:
            print(asyncio.run(session()))
        except CollectError as error:
            say(f"routerlab: {error}")
            return 3
        print(f"{len(calls)} calls; charged ${ledger.spent_usd:.6f} in all")
        missing = len(calls.keys() - ledger.results.keys())
    if missing:
        say(f"routerlab: {missing} of {len(calls)} calls gave no reply; run the same command again")
    return 3 if missing else 0


def _material(data, limit: int):
    """(pairs, gold): two different answers to each question, and every answer with its grade."""
    questions = [q for q in data.queries if q.reference is not None][:limit]
    if not questions:
        raise RunError("no question of this table has a reference; choose another --table")
    table = data.table.select([q.id for q in questions])
    answers, grades = table.text("answer"), table.grades()
    gold = [
        (q, answer, Grade(grade))
        for q, row, marks in zip(questions, answers, grades, strict=True)
        for answer, grade in zip(row, marks, strict=True)
        if answer and grade is not None
    ]
    different = [(q, sorted({a for a in row if a})) for q, row in zip(questions, answers, strict=True)]
    return [(q, texts[0], texts[-1]) for q, texts in different if len(texts) > 1], gold
