"""The verb that measures how far a judge can be trusted."""

import argparse
import asyncio
import hashlib

import routerlab
from routerlab.cli.shared import AddVerb, add_flags, say


def add(verb: AddVerb) -> None:
    """Add this verb to the command line."""
    add_flags(verb(judge, "judge", "audit a judge: attacks, order of answers, agreement with gold grades"), "judge")


def judge(args: argparse.Namespace) -> int:
    """Ask a judge about attacked wrong answers, about pairs of answers in both orders, and about answers that a
    verifier has graded; print how often each goes wrong. Every call is in the run's ledger and none is paid twice. The
    exit status is 3 if it stopped before its end."""
    from routerlab.collect.ask import CollectError, Settings, ask
    from routerlab.collect.backends import backend
    from routerlab.collect.calls import Call
    from routerlab.collect.ledger import Ledger
    from routerlab.collect.settings import call_of
    from routerlab.core.recorded import recorded
    from routerlab.grade.judge import PROMPT
    from routerlab.grade.judge_audit import audit

    pool = routerlab.Pool.load(args.pool).subset([args.judge])
    card, where, data = pool.cards[0], backend(args.backend), recorded(args.table)
    settings = Settings(budget_usd=args.budget_usd, max_tokens=args.max_tokens, prompt=PROMPT)
    pairs, gold = _material(data, args.limit)
    calls: dict[str, Call] = {}

    def call(messages: list[dict[str, str]]) -> Call:
        name = hashlib.blake2b(messages[-1]["content"].encode(), digest_size=8).hexdigest()
        return call_of(card, name, messages, settings)

    async def note(messages: list[dict[str, str]]) -> str:  # first all prompts, to ask them side by side
        calls[call(messages).key] = call(messages)
        return ""

    async def look_up(messages: list[dict[str, str]]) -> str:
        row = ledger.results.get(call(messages).key)
        return row.reply.text if row and row.reply and row.reply.finish == "stop" else ""

    async def session() -> None:
        try:
            await audit(note, pairs, gold)
            await ask(list(calls.values()), pool, where, ledger, settings)
        finally:
            await where.close()

    with Ledger.open(routerlab.Run(args.run).folder / "ledger.jsonl") as ledger:
        try:
            asyncio.run(session())
        except CollectError as error:
            say(f"routerlab: {error}")
            return 3
        print(asyncio.run(audit(look_up, pairs, gold)))
        print(f"{len(calls)} calls; charged ${ledger.spent_usd:.6f} in all")
        missing = len(calls.keys() - ledger.results.keys())
    if missing:
        say(f"routerlab: {missing} of {len(calls)} calls gave no reply; run the same command again")
    return 3 if missing else 0


def _material(data, limit: int):
    """(pairs, gold): two different answers to each question, and every answer with its grade."""
    from routerlab.core.invariants import Grade
    from routerlab.core.runs import RunError

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
