"""Limits of a run: a hard cap on money, the pace a provider allows, and waiting while a provider is down."""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, dataclass

from routerlab.collect.calls import CallError, Reply

UNIT = 10**12  # money is counted in whole 1e-12 dollars, so that no rounding can overspend
SIGNS = frozenset({"unreachable", "reset", "server_error", "overloaded"})  # kinds of error that an outage gives
MANY = 3  # such errors in a row, without an answer between them, are an outage
PATIENCE_S = 300.0  # how long to wait for a provider that has answered before
FIRST_S = 3.0  # and for one that never did: mostly a wrong address


class BudgetError(RuntimeError):
    """The next call may cost more than is left of the budget."""


class Budget:
    """A cap on the spending of a run. A call's worst case is reserved before it is sent and settled after, so that
    `spent_usd + reserved_usd <= cap_usd` at every moment. `spent_usd` begins with the charges of earlier sessions.
    """

    def __init__(self, cap_usd: float | None, spent_usd: float = 0.0) -> None:
        if cap_usd is not None and not 0 < cap_usd < math.inf:
            raise ValueError(f"a budget is a positive number of dollars, not {cap_usd!r}")
        self.cap_usd = cap_usd
        self._cap = None if cap_usd is None else math.floor(cap_usd * UNIT)
        self._spent, self._reserved = math.ceil(spent_usd * UNIT), 0
        self.over_usd = 0.0  # charged beyond reservations, by a provider that ignored the limits
        self._changed = asyncio.Event()

    @property
    def spent_usd(self) -> float:
        return self._spent / UNIT

    @property
    def reserved_usd(self) -> float:
        return self._reserved / UNIT

    async def reserve(self, usd: float) -> None:
        """Reserve `usd`; while it does not fit, wait for calls in flight to settle, or raise BudgetError if none is."""
        amount = units(usd)
        while self._cap is not None and self._spent + self._reserved + amount > self._cap:
            if not self._reserved:
                raise BudgetError(
                    f"the budget of ${self.cap_usd:g} is used up: ${self.spent_usd:.6f} are spent and the next call "
                    f"may cost ${usd:.6f}. Raise the budget and run the same command again; it goes on from here"
                )
            self._changed.clear()
            await self._changed.wait()
        self._reserved += amount

    def settle(self, reserved_usd: float, usd: float) -> None:
        """Replace a reservation by the actual charge."""
        reserved, actual = units(reserved_usd), units(usd)
        self._reserved -= reserved
        self._spent += actual
        self.over_usd += max(0, actual - reserved) / UNIT
        self._changed.set()


def units(usd: float) -> int:
    """Dollars in whole units, rounded up."""
    if not 0 <= usd < math.inf:
        raise ValueError(f"a charge is 0 or more dollars, not {usd!r}; check the call's token counts")
    return math.ceil(usd * UNIT)


def sum_usd(charges: Sequence[float]) -> float:
    """The sum of charges as the ledger counts it: each rounded up."""
    return sum(map(units, charges)) / UNIT


@dataclass
class Limiter:
    """The pace of calls to one provider: requests and tokens a minute (None: no limit), and how many at once.

    How many at once begins at `concurrency`, halves when the provider says "too many", and grows by one for every
    window of calls that succeeded. As refusals return at once, fewer at once do not slow a refused caller; so there is
    also a pause between calls, which begins at 0.1 s, doubles with every refusal up to 60 s, and shrinks by a tenth
    with every success. Refusals at the same moment count once. No 60 s see more than `requests_per_minute` calls.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    _: KW_ONLY
    concurrency: int = 32
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def __post_init__(self) -> None:
        limits = (self.requests_per_minute, self.tokens_per_minute)
        # A bucket holds a second's worth: enough to keep going, too little for a burst to be refused. It is filled
        # so slowly that a full bucket and a minute's filling together keep the limit.
        self._room = [max(1.0, r / 60) if r else math.inf for r in limits]
        self._rates = [(r - room + 1) / 60 if r else None for r, room in zip(limits, self._room, strict=True)]
        self._level = list(self._room)
        self._at, self._not_before, self._slowed_at = self.clock(), -math.inf, -math.inf
        self._next, self.pause_s = -math.inf, 0.0
        self.window, self.flying = float(self.concurrency), 0
        self._gate = asyncio.Condition()
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[None]:
        """Wait until one request of at most `tokens` tokens may be sent."""
        async with self._gate:
            await self._gate.wait_for(lambda: self.flying < max(1, int(self.window)))
            self.flying += 1
        try:
            async with self._turn:
                while (wait := self._wait(tokens)) > 0:
                    await self.sleep(wait)
                self._level = [
                    self._level[0] - 1,
                    self._level[1] - tokens,
                ]  # a call larger than the bucket leaves a debt
                self._next = self.clock() + self.pause_s
            yield
        finally:
            self.flying -= 1
            async with self._gate:
                self._gate.notify_all()

    def note(self, outcome: Reply | CallError) -> None:
        """Adapt to how a call ended."""
        if isinstance(outcome, Reply):
            self.succeeded()
        elif outcome.kind in {"rate_limited", "overloaded"}:
            self.slowed(outcome.retry_after_s)

    def succeeded(self) -> None:
        """A call succeeded: one more at once after a whole window of them, and a shorter pause."""
        self.window = min(self.concurrency, self.window + 1 / max(self.window, 1))
        self.pause_s = self.pause_s * 0.9 if self.pause_s > 0.005 else 0.0

    def slowed(self, retry_after_s: float | None = None) -> None:
        """The provider said "too many": half as many at once, and none before `retry_after_s`."""
        now = self.clock()
        if retry_after_s:
            self._not_before = max(self._not_before, now + retry_after_s)
        if now - self._slowed_at >= max(1.0, self.pause_s):
            self._slowed_at, self.window = now, max(1.0, self.window / 2)
            self.pause_s = min(60.0, max(0.1, 2 * self.pause_s))
            self._next = max(self._next, now + self.pause_s)

    def _wait(self, tokens: int) -> float:
        """Seconds until both buckets hold enough; a call larger than a bucket waits for a full one."""
        now = self.clock()
        wait = max(self._not_before, self._next) - now
        for i, (rate, used) in enumerate(zip(self._rates, (1, tokens), strict=True)):
            if rate:
                self._level[i] = min(self._room[i], self._level[i] + (now - self._at) * rate)
                wait = max(wait, (min(used, self._room[i]) - self._level[i]) / rate)
        self._at = now
        return wait if wait > 1e-9 else 0.0


def backoff_s(attempt: int, rng: random.Random, retry_after_s: float | None = None) -> float:
    """Seconds to wait after attempt 1, 2, 3, ...: what the provider asked for, and up to 0.5, 1, 2, ... 30 drawn."""
    return (retry_after_s or 0.0) + rng.uniform(0, min(30.0, 0.5 * 2 ** (attempt - 1)))


@dataclass
class Outage:
    """Whether one provider is down. Meanwhile one call at a time is tried: after 0.5 s, 1, 2, 4, then every 5 s."""

    sleep: Callable[[float], Awaitable[None]]
    answered: bool = False  # whether the provider ever answered in this run
    began: float | None = None  # None: it is up
    given_up: bool = False  # patience ran out: calls use up their attempts again
    _row: int = 0  # errors in a row
    _next: float = 0.0  # when to send the next call
    _wait_s: float = 0.5
    _trying: bool = False

    async def ready(self) -> None:
        """Wait until a call may be sent."""
        while self.began is not None and not self.given_up:
            if not self._trying and time.monotonic() >= self._next:
                self._trying = True
                return
            await self.sleep(min(0.25, max(0.01, self._next - time.monotonic())))

    def note(self, outcomes: Sequence[Reply | CallError]) -> bool:
        """Note how calls ended. Returns whether they failed because of an outage, and are to be sent again."""
        errors = [o for o in outcomes if isinstance(o, CallError) and o.kind in SIGNS]
        self._trying = False
        if len(errors) < len(outcomes):
            self.answered, self.began, self.given_up, self._row, self._wait_s = True, None, False, 0, 0.5
            return False
        self._row, now = self._row + len(errors), time.monotonic()
        if self.given_up or not (errors[-1].kind == "unreachable" or (self.answered and self._row >= MANY)):
            return False
        if self.began is None:
            self.began = now
        elif now >= self._next:
            self._wait_s = min(5.0, 2 * self._wait_s)
        self._next = max(self._next, now + self._wait_s)
        self.given_up = now - self.began >= (PATIENCE_S if self.answered else FIRST_S)
        return not self.given_up
