"""Money is never overspent, and a provider's pace is kept, on a clock that the test turns."""

import asyncio
import bisect
import random
import selectors

import pytest

from routerlab.collect.limits import Budget, BudgetError, Limiter, backoff_s


async def spend(seed, concurrency=256):
    """Random calls against a random cap: (spent, cap, highest spent + reserved, stopped)."""
    rng = random.Random(seed)
    cap, highest, stopped = rng.uniform(1e-4, 3.0), 0.0, False
    budget = Budget(cap, spent_usd=cap * rng.choice([0, 0.3]))
    calls = iter([rng.uniform(1e-6, 4e-3) for _ in range(600)])

    async def work():
        nonlocal highest, stopped
        for most in calls:
            try:
                await budget.reserve(most)
            except BudgetError:
                stopped = True
                return
            highest = max(highest, budget.spent_usd + budget.reserved_usd)
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            budget.settle(most, most * rng.random())

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return budget.spent_usd, cap, highest, stopped


def overspent(runs):
    found = [asyncio.run(spend(seed)) for seed in runs]
    assert any(stopped for *_, stopped in found)
    assert any(not stopped for *_, stopped in found)
    return sum(spent > cap or highest > cap for spent, cap, highest, _ in found)


def test_a_cap_is_never_passed_at_concurrency_256():
    assert overspent(range(100)) == 0


def test_a_call_waits_for_money_that_may_come_back():
    async def session():
        budget = Budget(1.0)
        await budget.reserve(0.9)
        waiting = asyncio.ensure_future(budget.reserve(0.5))
        await asyncio.sleep(0)
        assert not waiting.done()
        budget.settle(0.9, 0.1)
        await waiting
        assert (budget.spent_usd, budget.reserved_usd) == (0.1, 0.5)
        budget.settle(0.5, 0.5)
        with pytest.raises(BudgetError, match=r"budget of \$1 is used up.*Raise the budget"):
            await budget.reserve(0.5)
        await budget.reserve(0.4)

    asyncio.run(session())


def test_a_provider_that_passes_its_limit_is_charged_and_seen():
    async def session():
        budget = Budget(1.0)
        await budget.reserve(0.2)
        budget.settle(0.2, 0.5)
        assert budget.spent_usd == 0.5
        await budget.reserve(0.4)
        budget.settle(0.4, 0.1)
        assert budget.spent_usd == 0.6
        assert budget.over_usd == pytest.approx(0.3)

    asyncio.run(session())
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive number of dollars"):
            Budget(bad)
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="0 or more dollars"):
            Budget(1.0).settle(0.0, bad)


def test_a_budget_counts_earlier_sessions_and_whole_units():
    async def reserve(cap, spent, usd):
        budget = Budget(cap, spent)
        await budget.reserve(usd)
        return budget.spent_usd, budget.reserved_usd

    assert asyncio.run(reserve(1.0, 0.75, 0.25)) == (0.75, 0.25)
    with pytest.raises(BudgetError, match=r"\$0.750000 are spent and the next call may cost \$0.260000"):
        asyncio.run(reserve(1.0, 0.75, 0.26))
    assert asyncio.run(reserve(1.0, 0.0, 1.2e-12)) == (0.0, 2e-12), "a charge is rounded up"
    with pytest.raises(BudgetError):
        asyncio.run(reserve(2.9e-12, 0.0, 2.1e-12))  # a cap is rounded down


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds
        await asyncio.sleep(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer instead of waiting for it."""

    def __init__(self):
        super().__init__(Turning())

    def time(self):
        return self._selector.now


class Turning(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits for something that never comes"
            self.now += timeout
        return ready


def times(limiter, clock, calls, tokens):
    async def session():
        out = []
        for _ in range(calls):
            async with limiter.slot(tokens):
                out.append(clock.now)
        return out

    return asyncio.run(session())


def test_requests_and_tokens_a_minute():
    clock = Clock()
    at = times(Limiter(60, clock=clock, sleep=clock.sleep), clock, 65, 10)
    assert at == pytest.approx(range(65)), "a bucket holds one second's worth"
    clock = Clock()
    at = times(Limiter(None, 6000, clock=clock, sleep=clock.sleep), clock, 25, 100)
    assert at[24] == pytest.approx(24 * 100 / (5901 / 60))
    clock = Clock()
    at = times(Limiter(None, 6000, clock=clock, sleep=clock.sleep), clock, 3, 10_000)
    rate = 5901 / 60
    assert at == pytest.approx([0, 10_000 / rate, 20_000 / rate]), "a large call leaves a debt"


@pytest.mark.parametrize("limit", [1, 7, 60, 600, 6000])
def test_no_minute_sees_more_requests_than_the_limit(limit):
    clock = Clock()
    at = times(Limiter(limit, clock=clock, sleep=clock.sleep), clock, 2 * limit + 5, 1)
    for i, start in enumerate(at):
        assert bisect.bisect_left(at, start + 60 - 1e-6) - i <= limit
    assert at[-1] < 60 * (2 * limit + 5) / (0.98 * limit)


def test_retry_after_is_kept_and_the_window_halves_and_grows():
    clock = Clock()
    limiter = Limiter(concurrency=32, clock=clock, sleep=clock.sleep)
    clock.now = 10
    limiter.slowed(7)
    limiter.slowed(3)
    assert limiter.window == 16, "refusals of one moment are one sign"
    assert times(limiter, clock, 1, 1) == [17]
    limiter.slowed()
    assert limiter.window == 8
    for _ in range(9):
        limiter.succeeded()
    assert 9 <= limiter.window < 9.2
    for _ in range(5000):
        limiter.succeeded()
    assert limiter.window == 32
    for _ in range(20):
        clock.now += 2
        limiter.slowed()
    assert limiter.window == 1


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("rpm", [3, 20, 60, 600, 3000])
def test_the_pace_of_a_provider_is_found(rpm, told):
    """32 at once against a provider that refuses at once what is over its rate: rows are not given up."""

    async def session():
        loop, rng, rows = asyncio.get_running_loop(), random.Random(0), max(60, min(600, rpm))
        limiter = Limiter(concurrency=32, clock=loop.time)
        most = level = max(1.0, rpm / 60)
        at, sent, given_up, todo = 0.0, 0, 0, iter(range(rows))

        async def call():
            nonlocal level, at, sent
            sent, now = sent + 1, loop.time()
            level, at = min(most, level + (now - at) * rpm / 60), now
            if level >= 1 - 1e-9:
                level -= 1
                return await asyncio.sleep(1.0)
            await asyncio.sleep(0.05)
            return (1 - level) * 60 / rpm if told else 0.0

        async def work():
            nonlocal given_up
            for _ in todo:
                for attempt in range(1, 6):
                    async with limiter.slot(1):
                        refused = await call()
                    if refused is None:
                        limiter.succeeded()
                        break
                    limiter.slowed(refused or None)
                    await asyncio.sleep(backoff_s(attempt, rng, refused))
                else:
                    given_up += 1

        await asyncio.gather(*(work() for _ in range(32)))
        return given_up / rows, sent / rows, loop.time() * rpm / 60 / rows

    loop = VirtualLoop()
    try:
        given_up, calls, times_ideal = loop.run_until_complete(session())
    finally:
        loop.close()
    assert given_up <= 0.02
    assert calls <= 2.3, "of it half a call is the first 32 at once, before anything was learned"
    assert times_ideal <= 1.6


def test_no_more_fly_than_the_window():
    limiter, seen = Limiter(concurrency=4), []

    async def call():
        async with limiter.slot(1):
            seen.append(limiter.flying)
            await asyncio.sleep(0)

    async def session():
        await asyncio.gather(*(call() for _ in range(50)))

    asyncio.run(session())
    assert len(seen) == 50
    assert max(seen) == 4
    assert limiter.flying == 0


def test_backoff_grows_to_a_bound_and_never_cuts_short_what_was_asked_for():
    rng = random.Random(0)
    for attempt in range(1, 12):
        waits = [backoff_s(attempt, rng) for _ in range(500)]
        bound = min(30, 0.5 * 2 ** (attempt - 1))
        assert 0 <= min(waits) < 0.1 * bound
        assert 0.9 * bound < max(waits) <= bound
        assert min(backoff_s(attempt, rng, 4) for _ in range(50)) >= 4
