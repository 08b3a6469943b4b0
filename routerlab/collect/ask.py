"""Ask every model every question through a backend: reserve, write down, call, write down, settle.

A run that was interrupted, by a crash, a budget or Ctrl-C, goes on where it stopped when it is started again: no call
that the ledger holds an answer to is sent twice.
"""

import asyncio
import contextlib
import itertools
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from routerlab.collect.backends import Backend
from routerlab.collect.calls import Call, CallError, Reply, Scope
from routerlab.collect.ledger import Ledger
from routerlab.collect.limits import Budget, BudgetError, Limiter, Outage, backoff_s, sum_usd
from routerlab.collect.progress import Progress
from routerlab.collect.settings import CollectError, Settings, plan, worst_case_usd
from routerlab.core.pools import ModelCard, Pool

__all__ = ["CollectError", "Settings", "ask", "plan", "worst_case_usd"]


class _StoppedError(Exception):
    """The run was stopped before this call was sent."""


async def ask(
    calls: Sequence[Call],
    pool: Pool,
    backend: Backend,
    ledger: Ledger,
    settings: Settings,
    *,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Ask what the ledger does not hold yet. Returns when all calls are settled. If the budget, an error of the run or
    `stop` ends it earlier, it sets `stop`, so that no waiting call is sent any more, lets calls in flight be written
    down, and raises CollectError.

    Args:
        calls: what to ask; one key is asked once.
        pool: the cards of the calls' models.
        backend: where calls are sent.
        ledger: open for writing.
        settings: budget, pace and attempts.
        progress: counts what happens, and shows what the provider says.
        stop: set it to stop the run.
    """
    progress = progress or Progress(len(calls), where="none")
    session = _Session(pool, backend, ledger, settings, progress, stop or asyncio.Event())
    size, warm_up = min(backend.batch, session.at_once), getattr(backend, "warm_up", None)
    batches = _batches({c.key: c for c in calls if c.key not in ledger.results}.values(), size)
    if warm_up and any(call.key not in ledger.results for call in calls):
        await asyncio.to_thread(warm_up)
    progress.start()
    await asyncio.gather(*(session.work(batches) for _ in range(max(1, session.at_once // size))))
    kept = len(ledger.results)
    cure = (
        f"`routerlab ledger {ledger.path.parent.name} --release all` charges what was reserved, if the bill says less"
    )
    match session.error:
        case BudgetError() as error:
            more = f"; {len(ledger.over)} calls are charged above their reservations: {cure}" if ledger.over else ""
            raise CollectError(f"{error}{more}") from error
        case CallError() as error:
            over = session.budget.over_usd
            more = f"; all calls together cost ${over:.6f} more than was reserved for them ({cure})" if over else ""
            raise CollectError(
                f"the run stopped at {error}{more}: every further call would fail the same way. Correct the cause and "
                f"run the same command again; {kept} answers are kept"
            ) from error
        case BaseException() as error:
            raise error
    if session.stop.is_set():
        raise CollectError(f"stopped; {kept} of {len(calls)} answers are kept: run the same command again to go on")


def _batches(calls: Iterable[Call], size: int) -> Iterator[list[Call]]:
    """Runs of calls to one model, at most `size` long."""
    for _, group in itertools.groupby(calls, lambda call: call.model):
        while batch := list(itertools.islice(group, size)):
            yield batch


@dataclass
class _Session:
    """What the tasks of one session share."""

    pool: Pool
    backend: Backend
    ledger: Ledger
    settings: Settings
    progress: Progress
    stop: asyncio.Event
    error: BaseException | None = None  # the first that ended the session

    def __post_init__(self) -> None:
        settings = self.settings
        self.at_once = settings.concurrency or self.backend.concurrency
        self.budget = Budget(settings.budget_usd, self.ledger.spent_usd)
        rates = settings.requests_per_minute, settings.tokens_per_minute
        self.limiters = defaultdict(lambda: Limiter(*rates, concurrency=self.at_once, sleep=self.pause))
        self.outages = defaultdict(lambda: Outage(self.pause))
        self.rng = random.Random(0)  # of the waits between attempts

    async def pause(self, seconds: float) -> None:
        """Wait; raises _StoppedError if the run was stopped meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)
        if self.stop.is_set():
            raise _StoppedError

    async def work(self, batches: Iterator[list[Call]]) -> None:
        """One of the tasks that take batches and settle them, until none is left or the run ends."""
        while not self.stop.is_set() and (batch := next(batches, None)):
            try:
                await self.settle(batch)
            except _StoppedError:
                return
            except Exception as error:
                self.error = self.error or error
                self.stop.set()

    async def settle(self, batch: list[Call]) -> None:
        """Ask one batch until every call has its final record or has used up its attempts."""
        attempt, outage = 1, self.outages[_server(batch[0])]
        while batch:
            await outage.ready()
            outcomes = await self.attempt(batch)
            down = outage.note([outcome for _, _, outcome in outcomes])
            batch, waits_s = [], [0.0]
            for call, usd, outcome in outcomes:
                error = outcome if isinstance(outcome, CallError) else None
                if error and (error.scope is Scope.RUN or (error.kind == "unreachable" and not down)):
                    raise error
                if error and error.scope is Scope.RETRY and (down or attempt < self.settings.attempts):
                    batch.append(call)
                    waits_s.append(error.retry_after_s or 0.0)
                    self.progress.retry(error, down)
                else:
                    self.progress.tell(usd, error)
            if self.budget.over_usd:  # a provider that reports more than was reserved: the budget cannot be kept
                call, usd, _ = max(outcomes, key=lambda outcome: outcome[1])
                about = f"{call.model} reports ${usd:.6f} for a call of at most {call.max_tokens} output tokens"
                raise CallError("over_reserved", Scope.RUN, about)
            await self.pause(0.0 if down or not batch else backoff_s(attempt, self.rng, max(waits_s)))
            attempt += not down

    async def attempt(self, batch: list[Call]) -> list[tuple[Call, float, Reply | CallError]]:
        """Send a batch once: (call, usd charged, reply or error) for each of its calls."""
        most = [worst_case_usd(c, self.pool[c.model]) for c in batch]
        reserved, charged = sum_usd(most), 0.0
        try:
            await self.budget.reserve(reserved)
        except BudgetError:
            if len(batch) == 1:
                raise
            half = len(batch) // 2  # the rest of the budget may be enough for some of them
            return await self.attempt(batch[:half]) + await self.attempt(batch[half:])
        limiter = self.limiters[_server(batch[0])]
        try:
            async with limiter.slot(sum(c.tokens_in_at_most + c.max_tokens for c in batch)):
                if self.stop.is_set():
                    raise _StoppedError
                charged = reserved  # until the outcome is written down, it is unknown
                keys = [c.key for c in batch]
                about = [{"model": c.model, "query": c.query, "sample": c.sample} for c in batch]
                numbers = await asyncio.gather(*map(self.ledger.intent, keys, most, about))
                with self.progress.flying(len(batch)):
                    outcomes = await self.backend.answer(batch)
            for outcome in outcomes:
                limiter.note(outcome)
            priced = [_priced(self.pool[c.model], o, m) for c, o, m in zip(batch, outcomes, most, strict=True)]
            usd, outcomes = [usd for usd, _ in priced], [outcome for _, outcome in priced]
            await asyncio.gather(*map(self.ledger.result, keys, numbers, usd, outcomes))
            charged = sum_usd(usd)
            return list(zip(batch, usd, outcomes, strict=True))
        finally:
            self.budget.settle(reserved, charged)


def _server(call: Call) -> str:
    """Calls with the same limits: those to one server, or to one provider."""
    return call.base_url or call.provider_id.partition("/")[0]


def _priced(card: ModelCard, outcome: Reply | CallError, reserved: float) -> tuple[float, Reply | CallError]:
    """(the charge for an attempt, its outcome). The charge is what the server says the call cost, its tokens at the
    card's prices, or its reservation. An answer with estimated tokens gets their price, which is its row's cost.
    """
    match outcome:
        case Reply(estimated=True):
            return reserved, replace(outcome, usd=card.usd(outcome.tokens_in, outcome.tokens_out))
        case Reply(usd=float(usd)):
            return usd, outcome
        case Reply():
            return card.usd(outcome.tokens_in, outcome.tokens_out, outcome.tokens_cached), outcome
        case CallError(tokens=(tokens_in, cached, tokens_out)):
            return card.usd(tokens_in, tokens_out, cached), outcome
        case _:
            return reserved if outcome.unsure else 0.0, outcome
