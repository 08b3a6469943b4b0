"""Fill an outcome table: ask, grade, and write a run that `recorded` opens."""

import asyncio
import concurrent.futures
import datetime as dt
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from routerlab.collect.ask import CollectError, Settings, ask, plan
from routerlab.collect.backends import Backend, PocketBackend
from routerlab.collect.calls import Call, Reply
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
    """What a run holds now. `stopped` says why it ended early and how to go on; None when it is whole."""

    table: OutcomeTable
    why: Counter[str]  # how answers were graded: match, mismatch, format, idk, refusal, ...
    asked: int  # rows asked in this session
    usd: float  # charged to the run in all its sessions
    unknown: list[dict]  # calls whose end nobody knows, charged at what was reserved for them
    recovery: Recovery  # what the ledger had to mend when it was opened
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
            lines.append(f"{len(self.unknown)} calls whose end nobody knows stay charged with ${usd:.6f}")
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

    Whatever stops it, every answer paid for is in `ledger.jsonl` of the run, and the same call goes on from there.
    With `ask_new=False` nothing is asked: what the ledger holds is graded and written again.
    Questions whose verifier is `judge` are graded by the first model of the pool given as `judge`; its calls are in the
    same ledger and under the same budget, and their cost is no part of a row's. Answers that are code run in bubblewrap
    here, or on the SandboxFusion server whose URL is `sandbox`; without either nothing is asked.
    """
    known = {"weights": backend.weights} if isinstance(backend, PocketBackend) else {}
    calls = plan(queries, pool, settings, **known)
    if not calls:
        raise CollectError("there are no questions to ask; raise the limit, or name another source")
    if judge is None and (needs := [q for q in queries if q.verifier == "judge"]):
        raise CollectError(
            f"{len(needs)} of {len(queries)} questions are graded by a judge; name a model for it (judge=, or --judge)"
        )
    if any(q.verifier == "code" for q in queries):
        executor(sandbox)  # refuses before anything is paid for
    with Ledger.open(run.folder / "ledger.jsonl") as ledger:
        held = sum(c.key in ledger.results for c in calls)
        progress = Progress(len(calls), held, ledger.spent_usd, where=show)

        async def session(stop: asyncio.Event) -> None:
            await ask(calls, pool, backend, ledger, settings, tell=progress.tell, stop=stop)
            if judge is not None:
                grades = list(judgements(queries, calls, ledger, judge[0].cards[0]).values())
                await ask([c for c, _ in grades], judge[0], judge[1], ledger, settings, stop=stop)

        backends = [backend, *([judge[1]] if judge else [])]
        stopped = _in_thread(session, backends) if ask_new else None
        progress.show(end=True)
        if ask_new and not stopped and (left := {c.key for c in calls} & ledger.errors.keys()):
            kinds = Counter(ledger.errors[key].error for key in left)
            stopped = (
                f"{len(left)} of {len(calls)} calls ended in an error that may pass "
                f"({', '.join(f'{kind} {n}' for kind, n in sorted(kinds.items()))}): run the same command again"
            )
        new = sum(c.key in ledger.results for c in calls) - held
        card = judge[0].cards[0] if judge else None
        columns, why = grade_calls(queries, calls, ledger, card, sandbox)
        spent, unknown, mended = ledger.spent_usd, ledger.unknown, ledger.recovery
    table = OutcomeTable(columns, pool.ids)
    there = set(table.queries)  # of a run that stopped early, what it has is a whole table
    made = {
        "recorded": dt.date.today().isoformat(),
        "how": "routerlab collect",
        "settings": {**asdict(settings), "extra": dict(settings.extra)},
        "usd": spent,
    }
    record(run, [q for q in queries if q.id in there], pool, table, made)
    return Collected(table, why, new, spent, unknown, mended, stopped)


def _in_thread(start, backends: Sequence[Backend]) -> str | None:
    """Run the session in a thread of its own, so that it works in a notebook, whose loop is taken.

    The first Ctrl-C lets calls in flight come home; a second one leaves them to be listed as unknown.
    """
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def session() -> str | None:
        try:
            await start(stop)
        except CollectError as error:
            return str(error)
        finally:
            for backend in backends:
                await backend.close()
        return None

    def body() -> None:
        try:
            asyncio.set_event_loop(loop)
            done.set_result(loop.run_until_complete(session()))
        except BaseException as error:
            done.set_exception(error)
        finally:
            loop.close()

    done: concurrent.futures.Future[str | None] = concurrent.futures.Future()
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
    by_id = {q.id: q for q in queries if q.verifier == "judge"}
    out = {}
    for call in calls:
        query, row = by_id.get(call.query), ledger.results.get(call.key)
        if query is None or row is None or row.reply is None or query.reference is None:
            continue
        if unread(row.reply.text, row.reply.finish) is None:
            messages, nonce = grade_prompt(asked(query), query.reference, visible(row.reply.text))
            paid = Call(
                query=call.query,
                model=judge.id,
                provider_id=judge.provider_id,
                messages=tuple(messages),
                max_tokens=512,
                prompt=PROMPT,
                prices=judge.as_of.isoformat(),
            )
            out[call.key, call.query] = paid, nonce
    return out


def grade_calls(
    queries: Sequence[Query],
    calls: Sequence[Call],
    ledger: Ledger,
    judge: ModelCard | None = None,
    sandbox: str | None = None,
) -> tuple[dict[str, list], Counter[str]]:
    """(outcome columns, how answers were graded) of every call the ledger has a record of.

    A call whose last record is an error is a row with that error and no grade; one that was not asked has no row.
    """
    by_id = {q.id: q for q in queries}
    rows = {c.key: ledger.results.get(c.key) or ledger.errors.get(c.key) for c in calls}
    there = [(c, row) for c in calls if (row := rows[c.key])]
    replied = [(c, row.reply) for c, row in there if row.reply]
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
            # One that was cut off is no verdict: its last line may be the middle of a sentence.
            verdicts[key] = read_grade(row.reply.text if row.reply.finish == "stop" else "", nonce)
    nothing = Reply("", "", 0, 0, float("nan"))
    columns: dict[str, list] = {}
    for call, row in there:
        reply = row.reply or nothing
        verdict = verdicts.get((call.key, call.query)) or Verdict(None, None, "error", row.error)
        line = {
            "query": call.query,
            "model": call.model,
            "sample": call.sample,
            "temperature": call.temperature,
            "grade": verdict.grade,
            "quality": verdict.quality,
            "usd": row.usd,
            "tokens_in": reply.tokens_in,
            "tokens_cached": reply.tokens_cached,
            "tokens_out": reply.tokens_out,
            "latency_s": reply.latency_s if row.reply else None,
            "answer": reply.text if row.reply else None,
            "finish": reply.finish if row.reply else None,
            "error": verdict.error,
        }
        for name, value in line.items():
            columns.setdefault(name, []).append(value)
    why = Counter(v.error or v.why for v in verdicts.values())
    why.update(row.error for _, row in there if not row.reply and row.error)
    return columns, why
