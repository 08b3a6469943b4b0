"""Limits of a run: a hard cap on money, and the pace a provider allows."""

import asyncio
import contextlib
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

UNIT = 10**12  # money is counted in whole 1e-12 dollars, so that no rounding can overspend


class BudgetError(RuntimeError):
    """What is left of the budget is less than the next call may cost."""


class Budget:
    """A cap on what a run may spend. The worst case of a call is reserved before it leaves and settled
    after, so `spent_usd + reserved_usd <= cap_usd` at every moment.

    `spent_usd` is what earlier sessions of the run were charged.
    """

    def __init__(self, cap_usd: float | None, spent_usd: float = 0.0) -> None:
        if cap_usd is not None and not 0 < cap_usd < math.inf:
            raise ValueError(f"a budget is a positive number of dollars, not {cap_usd!r}")
        self.cap_usd = cap_usd
        self._cap = None if cap_usd is None else math.floor(cap_usd * UNIT)
        self._spent, self._reserved = math.ceil(spent_usd * UNIT), 0
        self.over_usd = 0.0  # charged beyond what was reserved: a provider that ignored the limits
        self._changed: deque[asyncio.Future[None]] = deque()

    @property
    def spent_usd(self) -> float:
        return self._spent / UNIT

    @property
    def reserved_usd(self) -> float:
        return self._reserved / UNIT

    async def reserve(self, usd: float) -> None:
        """Set `usd` aside. Where it does not fit, wait for calls in flight to settle for less; where
        nothing is in flight, raise BudgetError.
        """
        amount = units(usd)
        while self._cap is not None and self._spent + self._reserved + amount > self._cap:
            if not self._reserved:
                raise BudgetError(
                    f"the budget of ${self.cap_usd:g} is used up: ${self.spent_usd:.6f} are spent and the next call "
                    f"may cost ${usd:.6f}. Raise the budget and run the same command again; it goes on from here"
                )
            change = asyncio.get_running_loop().create_future()
            self._changed.append(change)
            await change
        self._reserved += amount

    def settle(self, reserved_usd: float, usd: float) -> None:
        """Turn a reservation into what it really cost."""
        reserved, actual = units(reserved_usd), units(usd)
        self._reserved -= reserved
        self._spent += actual
        self.over_usd += max(0, actual - reserved) / UNIT
        while self._changed:
            change = self._changed.popleft()
            if not change.done():
                change.set_result(None)


def units(usd: float) -> int:
    """Dollars in whole units, rounded up."""
    if not 0 <= usd < math.inf:
        raise ValueError(f"a charge is 0 or more dollars, not {usd!r}; check the call's token counts")
    return math.ceil(usd * UNIT)


def sum_usd(parts: Sequence[float]) -> float:
    """The sum of charges as the ledger counts it: each rounded up by itself."""
    return sum(map(units, parts)) / UNIT


class Limiter:
    """The pace of calls to one provider: requests and tokens a minute, and how many at once.

    How many at once starts at `concurrency`, halves when the provider says it is too much, and grows by one for
    every window of calls that went well. A refusal comes back at once, so fewer at once does not slow a caller that
    is refused: the pause between two calls starts at 0.1 s, doubles with every such sign up to 60 s, and shrinks
    by a tenth with every call that went well. Refusals of one moment are one sign. In any 60 s no more than
    `requests_per_minute` calls leave. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        concurrency: int = 32,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        limits = (requests_per_minute, tokens_per_minute)
        # A bucket holds a second's worth: enough to keep going, too little for a burst to be refused. It is filled
        # so much slower that a full bucket and a minute's filling together keep the limit.
        self._room = [max(1.0, r / 60) if r else math.inf for r in limits]
        self._rates = [(r - room + 1) / 60 if r else None for r, room in zip(limits, self._room, strict=True)]
        self._level = list(self._room)
        self._clock, self._sleep = clock, sleep
        self._at, self._not_before, self._slowed_at = clock(), -math.inf, -math.inf
        self._next, self.pause_s = -math.inf, 0.0
        self.most, self.window, self.flying = concurrency, float(concurrency), 0
        self._gate = asyncio.Condition()
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[None]:
        """Wait for leave to make one request of `tokens` tokens at most."""
        async with self._gate:
            await self._gate.wait_for(lambda: self.flying < max(1, int(self.window)))
            self.flying += 1
        try:
            async with self._turn:
                while (wait := self._wait(tokens)) > 0:
                    await self._sleep(wait)
                for i, used in enumerate((1, tokens)):
                    self._level[i] -= used  # a call larger than the bucket leaves a debt
                self._next = self._clock() + self.pause_s
            yield
        finally:
            self.flying -= 1
            async with self._gate:
                self._gate.notify_all()

    def succeeded(self) -> None:
        """A call went well: one more at a time, after a whole window of them, and a shorter pause."""
        self.window = min(self.most, self.window + 1 / max(self.window, 1))
        self.pause_s = self.pause_s * 0.9 if self.pause_s > 0.005 else 0.0

    def slowed(self, retry_after_s: float | None = None) -> None:
        """The provider said it is too much: half as many at once, and none before `retry_after_s`."""
        now = self._clock()
        if retry_after_s:
            self._not_before = max(self._not_before, now + retry_after_s)
        if now - self._slowed_at >= max(1.0, self.pause_s):
            self._slowed_at, self.window = now, max(1.0, self.window / 2)
            self.pause_s = min(60.0, max(0.1, 2 * self.pause_s))
            self._next = max(self._next, now + self.pause_s)

    def _wait(self, tokens: int) -> float:
        """Seconds until both buckets hold enough; a call larger than a bucket waits for a full one."""
        now = self._clock()
        wait = max(self._not_before, self._next) - now
        for i, (rate, used) in enumerate(zip(self._rates, (1, tokens), strict=True)):
            if rate:
                self._level[i] = min(self._room[i], self._level[i] + (now - self._at) * rate)
                wait = max(wait, (min(used, self._room[i]) - self._level[i]) / rate)
        self._at = now
        return wait if wait > 1e-9 else 0.0


def backoff_s(attempt: int, rng: random.Random, retry_after_s: float | None = None) -> float:
    """How long to wait after try `attempt` (1, 2, ...) failed: drawn between 0 and 0.5, 1, 2, ... at most
    30 s, and never less than what the provider asked for.
    """
    return (retry_after_s or 0.0) + rng.uniform(0, min(30.0, 0.5 * 2 ** (attempt - 1)))
