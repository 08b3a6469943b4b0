"""Fill an outcome table: ask, grade, and write a run that `recorded` opens."""

import asyncio
import concurrent.futures
import contextlib
import datetime as dt
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass

from routerlab.collect.ask import CollectError, Settings, ask, plan
from routerlab.collect.backends import Backend, PocketBackend
from routerlab.collect.calls import Call
from routerlab.collect.ledger import Ledger, Recovery
from routerlab.collect.progress import Progress
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import ModelCard, Pool
from routerlab.core.queries import Query
from routerlab.core.recorded import record
from routerlab.core.runs import Run
from routerlab.grade.judge import PROMPT, asked, grade_prompt, read_grade
from routerlab.grade.sandbox_fusion import executor
from routerlab.grade.verify import Verdict, grade_many, unread, visible


@dataclass(frozen=True)
class Collected:
    """What a run holds now. `stopped` says why it ended early and how to go on; None if it is complete."""

    table: OutcomeTable
    why: Counter[str]  # how answers were graded: match, mismatch, format, idk, refusal, ...
    asked: int  # calls answered in this session
    usd: float  # charged to the run in all its sessions
    unknown: list[dict]  # calls whose outcome is unknown, charged at their reservations
    recovery: Recovery  # what was repaired when the ledger was opened
    stopped: str | None

    def __str__(self) -> str:
        lines = [
            str(self.table),
            f"asked {self.asked:,} in this session; charged ${self.usd:.6f} in all",
            ", ".join(f"{name} {count:,}" for name, count in sorted(self.why.items())),
        ]
        if self.recovery.torn_bytes or self.recovery.bad_lines:
            lines.append(f"ledger: {self.recovery}")
        if self.unknown:
            usd = sum(u["usd"] for u in self.unknown)
            lines.append(f"{len(self.unknown)} calls with an unknown outcome stay charged at ${usd:.6f}")
        return "\n".join(lines)


def collect(
    queries: Sequence[Query],
    pool: Pool,
    backend: Backend,
    run: Run,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    *,
    judge: tuple[Pool, Backend] | None = None,
    sandbox: str | None = None,
    ask_new: bool = True,
    show: str | None = None,
) -> Collected:
    """Ask every model of the pool every question, grade the answers and write the run.

    Whatever stops it, every paid answer is in the run's `ledger.jsonl`, and the same call goes on from there.

    Args:
        queries: the questions.
        pool: the models.
        backend: where calls are sent.
        run: the folder that is written.
        settings: how questions are asked, and the limits.
        judge: a pool, whose first model grades the questions with the verifier `judge`, and its backend. Its calls are
            in the same ledger and under the same budget, and their cost is no part of a row's cost.
        sandbox: the URL of a SandboxFusion server that runs answers which are code; None: bubblewrap, here.
        ask_new: False asks nothing: what the ledger holds is graded and written again.
        show: where progress is shown: terminal, log, notebook or none; None finds out.
    """
    weights = {"weights": backend.weights} if isinstance(backend, PocketBackend) else {}
    calls = plan(queries, pool, settings, **weights)
    if not calls:
        raise CollectError("there are no questions to ask; raise the limit, or name another source")
    if judge is None and (needs := [q for q in queries if q.verifier == "judge"]):
        raise CollectError(
            f"{len(needs)} of {len(queries)} questions are graded by a judge; name a model for it (judge=, or --judge)"
        )
    if any(q.verifier == "code" for q in queries):
        executor(sandbox)  # raises before anything is paid for
    keys, card = {c.key for c in calls}, judge[0].cards[0] if judge else None
    with Ledger.open(run.folder / "ledger.jsonl") as ledger:
        before = sum(c.key in ledger.results for c in calls)
        at_once = settings.concurrency or backend.concurrency
        progress = Progress(len(calls), before, ledger.spent_usd, at_once=at_once, where=show)

        async def session(stop: asyncio.Event) -> None:
            await ask(calls, pool, backend, ledger, settings, tell=progress.tell, stop=stop)
            if judge is not None:
                grades = [c for c, _ in judgements(queries, calls, ledger, judge[0].cards[0]).values()]
                await ask(grades, judge[0], judge[1], ledger, settings, stop=stop)

        stopped = None
        if ask_new:
            stopped = _in_thread(session, [backend, *([judge[1]] if judge else [])])
            if not stopped and (errors := Counter(ledger.errors[k].error for k in keys & ledger.errors.keys())):
                stopped = (
                    f"{errors.total()} of {len(calls)} calls ended in an error that may pass "
                    f"({', '.join(f'{kind} {n}' for kind, n in sorted(errors.items()))}): run the same command again"
                )
        progress.close()
        new = sum(c.key in ledger.results for c in calls) - before
        columns, why = grade_calls(queries, calls, ledger, card, sandbox)
        spent, unknown, recovery = ledger.spent_usd, ledger.unknown, ledger.recovery
    table = OutcomeTable(columns, pool.ids)
    answered = set(table.queries)  # of a run that stopped early, these are a complete table
    about = {
        "recorded": dt.date.today().isoformat(),
        "how": "routerlab collect",
        "settings": {**asdict(settings), "extra": dict(settings.extra)},
        "usd": spent,
    }
    record(run, [q for q in queries if q.id in answered], pool, table, about)
    return Collected(table, why, new, spent, unknown, recovery, stopped)


def _in_thread(session: Callable[[asyncio.Event], Coroutine], backends: Sequence[Backend]) -> str | None:
    """Run the session in its own thread, as a notebook's thread already runs an event loop. Returns why it stopped.

    After the first Ctrl-C calls in flight are awaited; after a second one they are listed as unknown.
    """
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    done: concurrent.futures.Future[str | None] = concurrent.futures.Future()

    async def whole() -> str | None:
        async with contextlib.AsyncExitStack() as closing:
            for backend in backends:
                closing.push_async_callback(backend.close)
            try:
                await session(stop)
            except CollectError as error:
                return str(error)

    def body() -> None:
        try:
            asyncio.set_event_loop(loop)
            done.set_result(loop.run_until_complete(whole()))
        except BaseException as error:
            done.set_exception(error)
        finally:
            loop.close()

    threading.Thread(target=body, name="collect", daemon=True).start()
    try:
        return done.result()
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(stop.set)
        return done.result()


def judgements(
    queries: Sequence[Query], calls: Sequence[Call], ledger: Ledger, judge: ModelCard
) -> dict[tuple[str, str], tuple[Call, str]]:
    """For each answer (by key and query) that a judge must grade: the call to the judge, and its nonce."""
    by_id = {q.id: q for q in queries if q.verifier == "judge" and q.reference is not None}
    judged = {}
    for call in calls:
        query, row = by_id.get(call.query), ledger.results.get(call.key)
        if query and row and row.reply and unread(row.reply.text, row.reply.finish) is None:
            messages, nonce = grade_prompt(asked(query), query.reference or "", visible(row.reply.text))
            model, date = (judge.id, judge.provider_id), judge.as_of.isoformat()
            judged[call.key, call.query] = Call(call.query, *model, tuple(messages), prompt=PROMPT, prices=date), nonce
    return judged


def grade_calls(
    queries: Sequence[Query],
    calls: Sequence[Call],
    ledger: Ledger,
    judge: ModelCard | None = None,
    sandbox: str | None = None,
) -> tuple[dict[str, list], Counter[str]]:
    """The rows of a table, from every call that the ledger has a record of.

    A call whose last record is an error is a row with that error and no grade; one that was not asked has no row.

    Args:
        queries: of the calls.
        calls: of the run.
        ledger: what came of them.
        judge: the card of the model that graded.
        sandbox: where code runs, as for `collect`.

    Returns:
        (outcome columns, how answers were graded)
    """
    by_id = {q.id: q for q in queries}
    rows = [(c, row) for c in calls if (row := ledger.results.get(c.key) or ledger.errors.get(c.key))]
    replied = [(c, row.reply) for c, row in rows if row.reply]
    graded = grade_many(
        [by_id[c.query] for c, _ in replied],
        [reply.text for _, reply in replied],
        [reply.finish for _, reply in replied],
        sandbox=sandbox,
    )
    verdicts = dict(zip(((c.key, c.query) for c, _ in replied), graded, strict=True))
    for key, (call, nonce) in (judgements(queries, calls, ledger, judge) if judge else {}).items():
        row = ledger.results.get(call.key)
        if row and row.reply:
            # A reply that was cut off is no verdict: its last line may be the middle of a sentence.
            verdicts[key] = read_grade(row.reply.text if row.reply.finish == "stop" else "", nonce)
    columns: dict[str, list] = defaultdict(list)
    for call, row in rows:
        reply = row.reply
        verdict = verdicts.get((call.key, call.query)) or Verdict(None, None, "error", row.error)
        line = {"query": call.query, "model": call.model, "sample": call.sample, "temperature": call.temperature}
        line |= {"grade": verdict.grade, "quality": verdict.quality, "error": verdict.error, "usd": row.usd}
        for name in ("tokens_in", "tokens_cached", "tokens_out"):
            line[name] = getattr(reply, name) if reply else 0
        for name, field in (("answer", "text"), ("finish", "finish"), ("latency_s", "latency_s")):
            line[name] = getattr(reply, field) if reply else None
        for name, value in line.items():
            columns[name].append(value)
    why = Counter(v.error or v.why for v in verdicts.values())
    why.update(row.error for _, row in rows if not row.reply and row.error)
    return columns, why
