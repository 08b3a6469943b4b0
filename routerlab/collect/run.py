"""Fill an outcome table: ask, grade, and write a run that `recorded` opens."""

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from routerlab.collect.ask import ask
from routerlab.collect.backends import Backend, PocketBackend, check_keys
from routerlab.collect.calls import Call
from routerlab.collect.grades import grade_calls, judgements
from routerlab.collect.ledger import AGAIN, Ledger, Recovery
from routerlab.collect.ledger_format import is_empty
from routerlab.collect.progress import Progress
from routerlab.collect.settings import KEYED, CollectError, Settings, plan
from routerlab.collect.thread import in_thread
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded, record, recorded
from routerlab.core.runs import Run, read_text
from routerlab.grade import contract
from routerlab.grade.sandbox_fusion import executor
from routerlab.grade.verify import names, visible


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
    estimated: int = 0  # answers whose provider gave no usable token counts
    kept: int = 0  # outcomes of models, questions and tries that were not asked for now, which the table keeps
    lenient: float = float("nan")  # share of the answers under a contract that do not follow it
    messages: tuple[str, ...] = ()  # what providers said about errors, once for each text

    def __str__(self) -> str:
        lines = [
            str(self.table),
            f"asked {self.asked:,} in this session; charged ${self.usd:.6f} in all",
            f"{_counts(Counter(map(str, self.table.rows['grade'].drop_null().to_pylist())))} ({_counts(self.why)})",
        ]
        if self.kept:
            lines.append(f"{self.kept:,} of the outcomes are of models, questions or tries not asked for now, and kept")
        if self.lenient == self.lenient:
            lines.append(f"{self.lenient:.0%} of the answers do not follow the contract and were read leniently")
        if self.estimated:
            lines.append(
                f"{self.estimated} answers came without usable token counts: their tokens are estimated (4 bytes a "
                f"token) and their reservations are charged"
            )
        if self.recovery.torn_bytes or self.recovery.bad_lines:
            lines.append(f"ledger: {self.recovery}")
        if self.unknown:
            usd = sum(u["usd"] for u in self.unknown)
            lines.append(f"{len(self.unknown)} calls with an unknown outcome stay charged at ${usd:.6f}")
        return "\n".join(lines)


def _counts(counter: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items()))


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
    check(queries, pool, backend, judge, sandbox)
    path = run.folder / "ledger.jsonl"
    before = recorded(run.folder) if (run.folder / "outcomes.parquet").is_file() else None
    weights = {"weights": backend.weights} if isinstance(backend, PocketBackend) else {}
    if before and len(before.table) and is_empty(path):
        raise CollectError(
            f"{run.folder} holds a table ({before.card.get('how')}) whose answers are in no ledger, so this would "
            f"replace them: give the run another name; or, if they were collected here, restore ledger.jsonl"
        )
    with Ledger.open(path) as ledger:
        settings = replace(settings, contract=_contract(run, ledger, backend, settings))
        calls = plan(queries, pool, settings, **weights)
        keys, card = {c.key for c in calls}, judge[0].cards[0] if judge else None
        done = len(keys & ledger.results.keys())
        at_once = settings.concurrency or backend.concurrency
        progress = Progress(len(keys), done, ledger.spent_usd, at_once=at_once, where=show)

        async def session(stop: asyncio.Event) -> None:
            await ask(calls, pool, backend, ledger, settings, progress=progress, stop=stop)
            if judge is not None:
                grades = [c for c, _ in judgements(queries, calls, ledger, judge[0].cards[0]).values()]
                await ask(grades, judge[0], judge[1], ledger, settings, progress=progress.of_judge(), stop=stop)

        stopped = in_thread(session, [backend, *([judge[1]] if judge else [])], progress) if ask_new else None
        progress.close()
        new = len(keys & ledger.results.keys()) - done
        columns, why = grade_calls(queries, calls, ledger, card, sandbox)
        if ask_new and not stopped:
            stopped = _left(calls, ledger) or _without_verdict(columns.get("error", ()), judge)
    table = OutcomeTable(columns, pool.ids)
    about = {
        "recorded": dt.date.today().isoformat(),
        "how": "routerlab collect",
        "settings": {**asdict(settings), "extra": dict(settings.extra)},
        "usd": ledger.spent_usd,
        "stopped": stopped,
    }
    lenient, by_id = float("nan"), {q.id: q for q in queries}
    replied = [(by_id[c.query], row.reply) for c in calls if (row := ledger.results.get(c.key)) and row.reply]
    if settings.contract == contract.VERSION:
        lenient = contract.lenient_share([q for q, _ in replied], [visible(reply.text) for _, reply in replied])
    table, kept = _merge(run, queries, pool, table, about, before)
    return Collected(
        table=table,
        kept=kept,
        why=why,
        asked=new,
        usd=ledger.spent_usd,
        unknown=ledger.unknown,
        recovery=ledger.recovery,
        stopped=stopped,
        estimated=sum(reply.estimated for _, reply in replied),
        lenient=lenient,
        messages=tuple(progress.messages.values()),
    )


def check(
    queries: Sequence[Query],
    pool: Pool,
    backend: Backend,
    judge: tuple[Pool, Backend] | None = None,
    sandbox: str | None = None,
) -> None:
    """Raise an error for whatever would go wrong after the first paid call.

    Args:
        queries, pool, backend, judge, sandbox: as for `collect`.
    """
    if not queries:
        raise CollectError("there are no questions to ask; raise the limit, or name another source")
    if unknown := sorted({q.verifier for q in queries} - {*names()}):
        raise CollectError(f"no verifier {', '.join(unknown)}; there are {', '.join(names())}")
    if judge is None and (needs := [q for q in queries if q.verifier == "judge"]):
        raise CollectError(
            f"{len(needs)} of {len(queries)} questions are graded by a judge; name a model for it (judge=, or --judge)"
        )
    code = [q for q in queries if q.verifier == "code"]
    if bare := [q for q in code if not q.meta.get("tests")]:
        raise CollectError(f"{len(bare)} questions whose answers are code have no tests, like {bare[0].id}; add them")
    if code:
        executor(sandbox)  # raises if code cannot run
    for models, where in ((pool, backend), *([judge] if judge else [])):
        check_keys(where, models)


def _contract(run: Run, ledger: Ledger, backend: Backend, settings: Settings) -> str:
    """The contract a run began with; for a new run, that of the settings, or the one models of this backend get."""
    path = run.folder / "contract.txt"
    if not path.is_file():
        new = contract.VERSION if getattr(backend, "follows_instructions", False) else "none"
        path.write_text(("none" if ledger.results or ledger.errors else settings.contract or new) + "\n")
    if (began := read_text(path).strip()) not in ("none", contract.VERSION):
        raise CollectError(
            f"{path} says {began[:40]!r}, which is no contract of this version ({contract.VERSION} or none): restore "
            f"the file, or give the run another name"
        )
    if settings.contract not in (None, began):
        raise CollectError(
            f"the run {run.name} began with the contract {began!r} and keeps it: answers to {settings.contract!r} "
            f"would not compare; leave out --contract, or give the run another name"
        )
    return began


def _left(calls: Sequence[Call], ledger: Ledger) -> str | None:
    """How many calls ended in an error that is not final, and what to do about it; None if there are none."""
    errors = Counter(ledger.errors[k].error for k in {c.key for c in calls} & ledger.errors.keys())
    if not errors:
        return None
    some = f"{errors.total()} of {len(calls)} calls"
    if set(errors) <= AGAIN:
        return f"the provider refused {some} ({_counts(errors)}): change the setting it names"
    return f"{some} had errors that may pass ({_counts(errors)}): run the same command again"


def _without_verdict(errors: Sequence[str | None], judge: tuple[Pool, Backend] | None) -> str | None:
    if not judge or not (missing := sum(error == "judge" for error in errors)):
        return None
    name = judge[0].cards[0].id
    return f"the judge {name} gave no verdict on {missing} of {len(errors)} answers: name another judge, or run again"


def _merge(
    run: Run, queries: Sequence[Query], pool: Pool, table: OutcomeTable, about: dict, before: Recorded | None
) -> tuple[OutcomeTable, int]:
    """Write the run; returns its table, and how many of its outcomes are of the table that was there before: those of
    models, questions and tries that were not asked for now. A question that has now another reference or verifier
    replaces the one it was, and so do the answers of a model under other settings, such as another temperature.
    """
    answered, kept = set(table.queries), 0  # of a run that stopped early, these are a complete table
    texts, asked = {_text(q) for q in queries}, {q.id for q in queries}
    queries = [q for q in queries if q.id in answered]
    if before:
        replaced = {q.id for q in before.queries if q.id not in asked and _text(q) in texts}
        old, samples = before.table.rows, about["settings"]["samples"]
        query, model = (old[name].to_pylist() for name in ("query", "model"))
        rows = zip(query, model, old["sample"].to_pylist(), strict=True)
        now, earlier = about["settings"], before.card.get("settings") or {}
        alike = all(earlier.get(name) == now[name] for name in KEYED)
        other = [m not in pool or (alike and (q not in asked or s >= samples)) for q, m, s in rows]
        keep = [is_other and q not in replaced for is_other, q in zip(other, query, strict=True)]
        if kept := sum(keep):
            old, cards = old.filter(pa.array(keep, pa.bool_())), {c.id: c for c in (*before.pool, *pool)}
            pool = Pool(pool.name, cards.values(), before.pool.sets | pool.sets)
            table = OutcomeTable(pa.concat_tables([old, table.rows.cast(old.schema)]).unify_dictionaries(), pool.ids)
            left = set(table.queries)
            queries = list({q.id: q for q in (*before.queries, *queries) if q.id in left}.values())
    return record(run, queries, pool, table, about).table, kept


def _text(query: Query) -> tuple:
    return tuple((m["role"], m["content"]) for m in query.messages)
