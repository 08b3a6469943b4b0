"""Ask every model every question through a backend: reserve, write down, call, write down, settle.

A run that was interrupted, by a crash, a budget or Ctrl-C, goes on where it stopped when it is started again: no call
that the ledger holds an answer to is sent twice.
"""

import asyncio
import contextlib
import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from routerlab.collect.backends import Backend
from routerlab.collect.budget import Budget, BudgetError, Limiter, backoff_s, sum_usd
from routerlab.collect.calls import Call, CallError, Reply, Scope
from routerlab.collect.ledger import Ledger
from routerlab.core.pools import ModelCard, Pool
from routerlab.core.queries import Query


class CollectError(RuntimeError):
    """A run that stopped before its end. Its answers are in its ledger; the message says how to go on."""


class _StoppedError(Exception):
    """The run was stopped before this call was sent."""


# Fields that decide the size and the destination of a call: in `extra` they would bypass the budget.
_OURS = {
    *("model", "messages", "temperature", "max_tokens", "max_completion_tokens", "n", "best_of"),
    *("stream", "api_key", "base_url", "api_base", "extra_headers", "headers"),
}


@dataclass(frozen=True)
class Settings:
    """How questions are asked. All fields before `budget_usd` are part of a call's key."""

    samples: int = 1  # tries of each question; try 0 is greedy if `temperature` is 0
    temperature: float = 0.0
    max_tokens: int = 512
    system: str = ""  # a system message before every question
    prompt: str = "plain/1"  # name and version of the prompt's wording
    extra: Mapping[str, object] = field(default_factory=dict)  # further fields of the request
    budget_usd: float | None = None  # hard cap for the whole run, earlier sessions included
    concurrency: int | None = None  # calls in flight; None: the backend's default
    attempts: int = 5  # of one call, before it is left to the next session
    requests_per_minute: float | None = None  # per provider
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        if taken := sorted(_OURS & set(self.extra)):
            raise CollectError(
                f"extra names {', '.join(taken)}, which budget, key and backend need: use the argument of that name "
                f"(a key in the environment)"
            )
        for name in ("samples", "max_tokens", "attempts", "concurrency"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CollectError(f"{name} is {value!r}; give a whole number from 1")
        for name in ("budget_usd", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise CollectError(f"{name} is {value!r}; give a number above 0, or leave it out")
        if not 0 <= self.temperature < math.inf:
            raise CollectError(f"temperature is {self.temperature!r}; give a number from 0")


def plan(
    queries: Iterable[Query], pool: Pool, settings: Settings, weights: Callable[[str], str] = lambda model: ""
) -> list[Call]:
    """Every call a run needs, model by model, so that one model's batches stay together. `weights` maps a model to a
    hash of its weights, where they are known.
    """
    head = ({"role": "system", "content": settings.system},) if settings.system else ()
    queries = list(queries)
    return [
        Call(
            query=q.id,
            model=card.id,
            provider_id=card.provider_id,
            messages=(*head, *q.messages),
            sample=sample,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            prompt=settings.prompt,
            prices=card.as_of.isoformat(),
            extra=settings.extra,
            weights=weights(card.id),
        )
        for card in pool
        for sample in range(settings.samples)
        for q in queries
    ]


def worst_case_usd(call: Call, card: ModelCard) -> float:
    """The most a call can cost: its input at one token a byte, cached or not, and `max_tokens` of output."""
    tokens_in = call.tokens_in_at_most
    return max(card.usd(tokens_in, call.max_tokens, cached) for cached in (0, tokens_in))


async def ask(
    calls: Sequence[Call],
    pool: Pool,
    backend: Backend,
    ledger: Ledger,
    settings: Settings,
    *,
    tell: Callable[[float, str | None], None] = lambda usd, error: None,
    stop: asyncio.Event | None = None,
    rng: random.Random | None = None,
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
        tell: called with the charge and the error class (or None) of each settled call.
        stop: set it to stop the run.
        rng: draws the waits between attempts.
    """
    todo = list({c.key: c for c in calls if c.key not in ledger.results}.values())
    session = _Session(pool, backend, ledger, settings, tell, stop or asyncio.Event(), rng or random.Random(0))
    size = min(backend.batch, session.at_once)
    batches = iter(_batches(todo, size))
    await asyncio.gather(*(session.work(batches) for _ in range(max(1, session.at_once // size))))
    if (error := session.error) is not None:
        if isinstance(error, BudgetError):
            raise CollectError(str(error)) from error
        if isinstance(error, CallError):
            raise CollectError(
                f"the run stopped at {error}: every further call would fail the same way. Correct the cause and run "
                f"the same command again; {len(ledger.results)} answers are kept"
            ) from error
        raise error
    if session.stop.is_set():
        raise CollectError(
            f"stopped; {len(ledger.results)} of {len(calls)} answers are kept: run the same command again to go on"
        )


def _batches(calls: Sequence[Call], size: int) -> Iterator[list[Call]]:
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
    tell: Callable[[float, str | None], None]
    stop: asyncio.Event
    rng: random.Random
    error: BaseException | None = None  # the first that ended the session

    def __post_init__(self) -> None:
        settings = self.settings
        self.at_once = settings.concurrency or self.backend.concurrency
        self.budget = Budget(settings.budget_usd, self.ledger.spent_usd)
        rates = settings.requests_per_minute, settings.tokens_per_minute
        self.limiters = defaultdict(lambda: Limiter(*rates, concurrency=self.at_once, sleep=self.pause))

    async def stopped(self, within_s: float) -> bool:
        """Wait, and return whether the run was stopped meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), within_s)
        return self.stop.is_set()

    async def pause(self, seconds: float) -> None:
        if await self.stopped(seconds):
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
        for attempt in range(1, self.settings.attempts + 1):
            again, waits_s, fatal = [], [0.0], None
            for call, usd, outcome in await self.attempt(batch):
                error = outcome if isinstance(outcome, CallError) else None
                if error and error.scope is Scope.RUN:
                    fatal = fatal or error
                elif error and error.scope is Scope.RETRY and attempt < self.settings.attempts:
                    again.append(call)
                    waits_s.append(error.retry_after_s or 0.0)
                else:
                    self.tell(usd, error.kind if error else None)
            if fatal:
                raise fatal
            if not again or await self.stopped(backoff_s(attempt, self.rng, max(waits_s))):
                return
            batch = again

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
        limiter = self.limiters[batch[0].provider_id.partition("/")[0]]
        try:
            async with limiter.slot(sum(c.tokens_in_at_most + c.max_tokens for c in batch)):
                if self.stop.is_set():
                    raise _StoppedError
                charged = reserved  # until the outcome is written down, it is unknown
                keys = [c.key for c in batch]
                about = [{"model": c.model, "query": c.query, "sample": c.sample} for c in batch]
                numbers = await asyncio.gather(*map(self.ledger.intent, keys, most, about))
                outcomes = await self.backend.answer(batch)
            _pace(limiter, outcomes)
            usd = [_usd(self.pool[c.model], o, m) for c, o, m in zip(batch, outcomes, most, strict=True)]
            await asyncio.gather(*map(self.ledger.result, keys, numbers, usd, outcomes))
            charged = sum_usd(usd)
            return list(zip(batch, usd, outcomes, strict=True))
        finally:
            self.budget.settle(reserved, charged)


def _pace(limiter: Limiter, outcomes: Sequence[Reply | CallError]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, Reply):
            limiter.succeeded()
        elif outcome.kind in {"rate_limited", "overloaded"}:
            limiter.slowed(outcome.retry_after_s)


def _usd(card: ModelCard, outcome: Reply | CallError, reserved: float) -> float:
    """The charge for an attempt: its tokens at the card's prices, or its reservation if they are unknown."""
    if isinstance(outcome, Reply):
        return card.usd(outcome.tokens_in, outcome.tokens_out, outcome.tokens_cached)
    if outcome.tokens is not None:
        tokens_in, cached, tokens_out = outcome.tokens
        return card.usd(tokens_in, tokens_out, cached)
    return reserved if outcome.unsure else 0.0
