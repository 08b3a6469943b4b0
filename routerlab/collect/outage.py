"""A circuit breaker: while a provider is down, calls wait for it and use up no attempts."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from routerlab.collect.calls import CallError, Reply

SIGNS = frozenset({"unreachable", "reset", "server_error", "overloaded"})  # kinds of error that an outage gives
MANY = 3  # such errors in a row, without an answer between them, are an outage
PATIENCE_S = 300.0  # how long to wait for a provider that has answered before
FIRST_S = 3.0  # and for one that never did: mostly a wrong address


@dataclass
class Outage:
    """Whether one provider is down. While it is, one call at a time is sent to see if it answers again: after 0.5 s, 1,
    2, 4, then every 5 s.
    """

    sleep: Callable[[float], Awaitable[None]]
    answered: bool = False  # whether the provider ever answered in this run
    clock: Callable[[], float] = time.monotonic
    began: float | None = None  # None: it is up
    given_up: bool = False  # patience ran out: calls use up their attempts again
    _row: int = 0  # errors in a row
    _next: float = 0.0  # when to send the next call
    _wait_s: float = 0.5
    _trying: bool = False

    async def ready(self) -> None:
        """Wait until a call may be sent."""
        while self.began is not None and not self.given_up:
            if not self._trying and self.clock() >= self._next:
                self._trying = True
                return
            await self.sleep(min(0.25, max(0.01, self._next - self.clock())))

    def note(self, outcomes: Sequence[Reply | CallError]) -> bool:
        """Note how calls ended. Returns whether they failed because of an outage, and are to be sent again."""
        errors = [o for o in outcomes if isinstance(o, CallError) and o.kind in SIGNS]
        self._trying = False
        if len(errors) < len(outcomes):
            self.answered, self.began, self.given_up = True, None, False
            self._row, self._wait_s = 0, 0.5
            return False
        self._row += len(errors)
        unsent = errors[-1].kind == "unreachable"
        if self.given_up or not (unsent or (self.answered and self._row >= MANY)):
            return False
        now = self.clock()
        if self.began is None:
            self.began = now
        elif now >= self._next:
            self._wait_s = min(5.0, 2 * self._wait_s)
        self._next = max(self._next, now + self._wait_s)
        self.given_up = now - self.began >= (PATIENCE_S if self.answered else FIRST_S)
        return not self.given_up
