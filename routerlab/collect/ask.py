"""Ask every model every question through a backend: reserve, write down, call, write down, settle.

A run that was broken off, by a crash, a budget or Ctrl-C, goes on where it stopped when it is started again: what
the ledger holds is not asked twice.
"""

import asyncio
import contextlib
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from routerlab.collect.backends import Backend
from routerlab.collect.budget import Budget, BudgetError, Limiter, backoff_s, sum_usd
from routerlab.collect.calls import Call, CallError, Reply, Scope
from routerlab.collect.ledger import Ledger
from routerlab.core.pools import ModelCard, Pool
from routerlab.core.queries import Query


class CollectError(RuntimeError):
    """A run that had to stop before its end; what it has is in its ledger, and the message says how to go on."""


class _StoppedError(Exception):
    """The run ended while a call waited for leave; it never left."""


# What decides on the size and the place of a call comes from elsewhere: here it would pass by the budget.
_OURS = {
    *("model", "messages", "temperature", "max_tokens", "max_completion_tokens", "n", "best_of"),
    *("stream", "api_key", "base_url", "api_base", "extra_headers", "headers"),
}


@dataclass(frozen=True)
class Settings:
    """How questions are asked. All but `budget_usd` and what follows it are part of a call's key."""

    samples: int = 1  # tries of each question; try 0 is greedy where `temperature` is 0
    temperature: float = 0.0
    max_tokens: int = 512
    system: str = ""  # a system message put before every question
    prompt: str = "plain/1"  # name and version of that wording
    extra: Mapping[str, object] = field(default_factory=dict)  # further fields of the request
    budget_usd: float | None = None  # hard cap for the whole run, earlier sessions included
    concurrency: int | None = None  # calls in flight; None: what the backend likes
    attempts: int = 5  # of one call, before its row is left to the next session
    requests_per_minute: float | None = None  # per provider
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        if taken := sorted(_OURS & set(self.extra)):
            raise CollectError(
                f"extra names {', '.join(taken)}, which budget, key and backend have to know: give it by its own "
                f"argument (a key in the environment)"
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
    queries: Iterable[Query],
    pool: Pool,
    settings: Settings,
    weights: Callable[[str], str] = lambda model: "",
) -> list[Call]:
    """Every call a run needs: model by model, so that one model's batches stay together. `weights` gives a hash of what
    answers besides the model's name, where that is known.
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
    """What a call can cost at most: its input at one token a byte, cached or not, and all the output it may write."""
    given, written = call.tokens_in_at_most, call.max_tokens
    return max(card.usd(given, written), card.usd(given, written, given))


async def ask(
    calls: Sequence[Call],
    pool: Pool,
    backend: Backend,
    ledger: Ledger,
    settings: Settings,
    *,
    tell: Callable[[Call, float, str | None], None] = lambda call, usd, error: None,
    stop: asyncio.Event | None = None,
    rng: random.Random | None = None,
) -> None:
    """Ask what the ledger does not hold yet. Returns when all is asked; raises CollectError when the
    budget, a fault of the run or `stop` ended it earlier, after every call in flight was written down. What ends it
    also sets `stop`: what then waits, for its next try or for leave, is not asked any more.
    """
    rng, stop = rng or random.Random(0), stop or asyncio.Event()
    todo = list({c.key: c for c in calls if c.key not in ledger.results}.values())
    size = settings.concurrency or backend.concurrency
    batch = min(backend.batch, size)
    batches = iter(_batches(todo, batch))
    budget = Budget(settings.budget_usd, ledger.spent_usd)
    rates = settings.requests_per_minute, settings.tokens_per_minute
    limiters = defaultdict(lambda: Limiter(*rates, concurrency=size, sleep=pause))
    why: list[BaseException] = []

    async def pause(seconds: float) -> None:
        if await _stopped(stop, seconds):
            raise _StoppedError

    async def work() -> None:
        while not stop.is_set() and (part := next(batches, None)):
            limiter = limiters[part[0].provider_id.partition("/")[0]]
            try:
                await _settle(part, pool, backend, ledger, budget, limiter, settings, tell, stop, rng)
            except _StoppedError:
                return
            except Exception as error:
                why.append(error)
                stop.set()

    await asyncio.gather(*(work() for _ in range(max(1, size // batch))))
    if why:
        first = why[0]
        if isinstance(first, BudgetError):
            raise CollectError(str(first)) from first
        if isinstance(first, CallError):
            raise CollectError(
                f"the run stopped at {first}: every further call would fail the same way. Mend that "
                f"and run the same command again; {len(ledger.results)} answers are kept"
            ) from first
        raise first
    if stop.is_set():
        raise CollectError(
            f"stopped; {len(ledger.results)} of {len(calls)} answers are kept: run the same command again to go on"
        )


def _batches(calls: Sequence[Call], size: int) -> Iterable[list[Call]]:
    """Runs of calls to one model, at most `size` long."""
    part: list[Call] = []
    for call in calls:
        if part and (len(part) == size or call.model != part[0].model):
            yield part
            part = []
        part.append(call)
    if part:
        yield part


async def _settle(part, pool, backend, ledger, budget, limiter, settings, tell, stop, rng) -> None:
    """Ask one batch until every call has its final record or has used up its attempts."""
    for attempt in range(1, settings.attempts + 1):
        again, waits, fatal = [], [0.0], None
        for call, usd, outcome in await _attempt(part, pool, backend, ledger, budget, limiter, stop):
            error = outcome if isinstance(outcome, CallError) else None
            if error and error.scope is Scope.RUN:
                fatal = fatal or error
            elif error and error.scope is Scope.RETRY and attempt < settings.attempts:
                again.append(call)
                waits.append(error.retry_after_s or 0.0)
            else:
                tell(call, usd, error.kind if error else None)
        if fatal:
            raise fatal
        if not again or await _stopped(stop, backoff_s(attempt, rng, max(waits))):
            return
        part = again


async def _stopped(stop: asyncio.Event, within_s: float) -> bool:
    """Wait, and say whether the run was stopped meanwhile."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), within_s)
    return stop.is_set()


async def _attempt(part, pool, backend, ledger, budget, limiter, stop):
    """One try of a batch: (call, usd charged, reply or error) of each of its calls."""
    most = [worst_case_usd(c, pool[c.model]) for c in part]
    held = sum_usd(most)
    try:
        await budget.reserve(held)
    except BudgetError:
        if len(part) == 1:
            raise
        half = len(part) // 2  # what is left of the budget may still be enough for a part of them
        first = await _attempt(part[:half], pool, backend, ledger, budget, limiter, stop)
        return first + await _attempt(part[half:], pool, backend, ledger, budget, limiter, stop)
    charged = 0.0
    try:
        async with limiter.slot(sum(c.tokens_in_at_most + c.max_tokens for c in part)):
            if stop.is_set():
                raise _StoppedError
            charged = held  # whatever happens below: until it is written down, nobody knows
            tries = await asyncio.gather(
                *(ledger.intent(c.key, usd, _about(c)) for c, usd in zip(part, most, strict=True))
            )
            outcomes = await backend.answer(part)
        usd = [_usd(pool[c.model], o, m) for c, o, m in zip(part, outcomes, most, strict=True)]
        _pace(limiter, outcomes)
        written = []
        for c, n, u, o in zip(part, tries, usd, outcomes, strict=True):
            failed = isinstance(o, CallError)
            final = not failed or o.scope is Scope.ROW
            unsure = failed and o.unsure
            written.append(ledger.result(c.key, n, u, o.kind if failed else o, final, unsure))
        await asyncio.gather(*written)
        charged = sum_usd(usd)
        return list(zip(part, usd, outcomes, strict=True))
    finally:
        budget.settle(held, charged)


def _about(call: Call) -> dict[str, object]:
    return {"model": call.model, "query": call.query, "sample": call.sample}


def _pace(limiter: Limiter, outcomes: Sequence[Reply | CallError]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, CallError) and outcome.kind in {"rate_limited", "overloaded"}:
            limiter.slowed(outcome.retry_after_s)
        elif isinstance(outcome, Reply):
            limiter.succeeded()


def _usd(card: ModelCard, outcome: Reply | CallError, reserved: float) -> float:
    """What a try is charged: its tokens at the card's prices; all that was reserved when nobody knows."""
    if isinstance(outcome, Reply):
        return card.usd(outcome.tokens_in, outcome.tokens_out, outcome.tokens_cached)
    if outcome.tokens is not None:
        tokens_in, cached, tokens_out = outcome.tokens
        return card.usd(tokens_in, tokens_out, cached)
    return reserved if outcome.unsure else 0.0
