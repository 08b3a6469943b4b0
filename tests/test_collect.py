"""Asking: the right class for every fault, no call twice, no dollar over, and no secret anywhere."""

import asyncio
import io
import json
import os
import re
import shutil
import traceback
from collections import Counter
from dataclasses import replace

import pytest
from faults import CALLS_A_KILL, calls_and_pool, kill_drill
from provider import FAULTS, Provider
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from routerlab import Pool, Query, Run, recorded
from routerlab.collect.ask import CollectError, Settings, ask, plan, worst_case_usd
from routerlab.collect.backends import BackendError, PocketBackend, backend
from routerlab.collect.calls import UNSURE, Call, CallError, Reply, Scope, from_status
from routerlab.collect.grades import grade_calls
from routerlab.collect.ledger import Ledger
from routerlab.collect.limits import Limiter
from routerlab.collect.progress import Progress
from routerlab.collect.providers import LiteLLMBackend, OpenAIBackend, read_completion
from routerlab.collect.run import collect
from routerlab.core.recorded import record
from routerlab.core.runs import root

RUN = {"payment_required", "unauthorized", "forbidden", "not_found"}
ROW = {"content_filter", "context_length", "bad_request", "too_large"}


@pytest.mark.parametrize("form", [None, normalizers.NFC(), normalizers.NFKC()])
def test_no_byte_tokenizer_makes_more_tokens_than_the_bound(form):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: n for n, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    if form is not None:
        tokenizer.normalizer = form
    for text in ("plain", "naïve", "\U0001d1c0" * 50, "\ufdfa" * 50, "\u0958" * 50):
        call = Call("q", "m", "p", ({"role": "user", "content": text},))
        assert len(tokenizer.encode(text).ids) <= call.tokens_in_at_most


def patience(model):
    """Seconds to wait for an answer: only a provider that never ends one is given up soon. Any other has as long as
    the slowest machine needs, or a pause of the machine would pass for a fault of the provider.
    """
    return 0.25 if model.split("~")[1:2] in (["hang"], ["drip"]) else 60.0


async def asked(folder, model, count, together=1, **settings):
    """(ledger, provider, what stopped it) after one session against a provider of this behaviour, which answers nobody
    before `together` calls have been with it at once.
    """
    calls, pool, plain = calls_and_pool(count, model)
    provider, stopped = Provider(together), None
    async with provider as url:
        backend = OpenAIBackend(url, timeout_s=patience(model))
        try:
            with Ledger.open(folder / "ledger.jsonl") as ledger:
                try:
                    await ask(calls, pool, backend, ledger, replace(plain, **settings))
                except CollectError as error:
                    stopped = str(error)
        finally:
            await backend.close()
    return Ledger.read(folder / "ledger.jsonl"), provider, stopped


def classes(tries):
    """For every fault: (class of each of `tries` attempts, the class it should have)."""
    from faults import CONCURRENCY

    async def one(fault):
        calls, _, _ = calls_and_pool(tries, f"m~{fault}")
        async with Provider() as url:
            backend = OpenAIBackend(url, timeout_s=patience(f"m~{fault}"))
            kinds = set()
            for start in range(0, len(calls), CONCURRENCY):
                for error in await backend.answer(calls[start : start + CONCURRENCY]):
                    kinds.add((error.kind, error.scope))
            await backend.close()
        return kinds

    out = {}
    for fault, (_, kind) in FAULTS.items():
        scope = Scope.RUN if kind in RUN else Scope.ROW if kind in ROW else Scope.RETRY
        out[fault] = asyncio.run(one(fault)), {(kind, scope)}
    return out


def test_every_fault_has_its_class():
    found = classes(10)
    assert len(found) >= 20
    for fault, (got, expected) in found.items():
        assert got == expected, fault


@pytest.mark.parametrize("fault", ["server", "rate_limited", "reset", "truncated", "no_choices"])
def test_a_passing_fault_is_tried_again_and_costs_what_was_billed(tmp_path, fault):
    ledger, provider, stopped = asyncio.run(asked(tmp_path, f"m~{fault}~2", 8))
    assert stopped is None
    assert len(ledger.results) == 8
    assert set(provider.tries.values()) == {3}
    for row in ledger.results.values():
        billed = row.reply.tokens_in * 1e-6 + row.reply.tokens_out * 2e-6
        assert row.usd == pytest.approx(billed * (3 if fault == "no_choices" else 1))
    kept = ledger.spent_usd - sum(row.usd for row in ledger.results.values())
    assert (kept > 0) == (FAULTS[fault][1] in UNSURE), "nobody knows whether those were billed"


@pytest.mark.parametrize("fault", ["nothing_said", "nothing_in_it"])
def test_an_empty_answer_without_a_count_may_have_been_billed(tmp_path, fault):
    calls, pool, _ = calls_and_pool(1, f"m~{fault}~1")
    ledger, provider, _ = asyncio.run(asked(tmp_path, f"m~{fault}~1", 1))
    ((key, row),) = ledger.results.items()
    assert provider.tries[key] == 2
    billed = row.reply.tokens_in * 1e-6 + row.reply.tokens_out * 2e-6
    assert row.usd == pytest.approx(billed), "the row does not pay for the weather"
    assert ledger.spent_usd == pytest.approx(billed + worst_case_usd(calls[0], pool["m"]))


def test_a_wait_beyond_patience_stops_the_run_instead_of_sleeping():
    error = from_status(429, "", "86400")
    assert (error.kind, error.scope) == ("rate_limited", Scope.RUN)
    assert "asks to wait 86400 s" in str(error)
    assert from_status(429, "", "30").retry_after_s == 30


def test_an_answer_that_never_ends_is_cut_off():
    async def session():
        calls, _, _ = calls_and_pool(1, "m~drip")
        async with Provider() as url:
            where = OpenAIBackend(url, timeout_s=60, most_bytes=3)
            got = await where.answer(calls)
            await where.close()
        return got[0].kind, got[0].scope

    assert asyncio.run(session()) == ("too_large", Scope.ROW)


def test_attempts_are_bounded_and_the_next_session_tries_again(tmp_path):
    ledger, provider, _ = asyncio.run(asked(tmp_path, "m~server", 4, attempts=3))
    assert set(provider.tries.values()) == {3}
    assert {row.error for row in ledger.errors.values()} == {"server_error"}
    ledger, provider, _ = asyncio.run(asked(tmp_path, "m~server", 4, attempts=1))
    assert set(provider.tries.values()) == {1}
    assert ledger.results == {}


def test_a_final_error_of_a_row_is_not_asked_again(tmp_path):
    for expected in (1, 0):
        ledger, provider, stopped = asyncio.run(asked(tmp_path, "m~context_400", 5))
        assert stopped is None
        assert sum(provider.tries.values()) == 5 * expected
    assert {row.error for row in ledger.results.values()} == {"context_length"}


@pytest.mark.parametrize("fault", ["key", "money", "no_model"])
def test_what_no_retry_can_mend_stops_the_run(tmp_path, fault):
    ledger, provider, stopped = asyncio.run(asked(tmp_path, f"m~{fault}", 200))
    assert "run the same command again" in stopped
    assert FAULTS[fault][1] in stopped
    assert sum(provider.tries.values()) <= 32, "only what was in flight"
    assert ledger.results == {}
    ledger, provider, stopped = asyncio.run(asked(tmp_path, f"m~{fault}~0", 200))
    assert stopped is None
    assert len(ledger.results) == 200


def test_ten_in_a_hundred_faults_cost_few_calls_more(tmp_path):
    for i, fault in enumerate(["server", "rate_limited", "reset", "truncated"]):
        ledger, provider, _ = asyncio.run(asked(tmp_path / str(i), f"m~{fault}~10%", 300))
        assert len(ledger.results) == 300
        assert 1.03 < sum(provider.tries.values()) / 300 <= 1.2, fault


def test_the_cap_holds_and_the_run_goes_on_with_more(tmp_path):
    calls, pool, _ = calls_and_pool(400)
    cap = 20 * worst_case_usd(calls[0], pool["m"])
    ledger, provider, stopped = asyncio.run(asked(tmp_path, "m", 400, budget_usd=cap))
    assert "Raise the budget" in stopped
    assert ledger.spent_usd <= cap
    assert len(ledger.results) > 20, "settled calls cost less than they reserved"
    first = len(ledger.results)
    ledger, provider, stopped = asyncio.run(asked(tmp_path, "m", 400, budget_usd=1.0))
    assert stopped is None
    assert sum(provider.tries.values()) == 400 - first, "nothing is asked twice"


@pytest.mark.parametrize(
    "bad",
    [
        {"samples": 0},
        {"max_tokens": 0},
        {"concurrency": -2},
        {"attempts": 0},
        {"budget_usd": 0.0},
        {"budget_usd": float("inf")},
        {"requests_per_minute": -1.0},
        {"tokens_per_minute": float("nan")},
        {"temperature": float("nan")},
        {"temperature": -0.5},
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_call(bad):
    ((name, value),) = bad.items()
    with pytest.raises(CollectError, match=rf"{name} is {value!r}; give"):
        Settings(**bad)


def test_a_run_of_nothing_leaves_the_table_that_is_there(tmp_path, pocket):
    queries, where = pocket.split("test").queries[:2], backend("replay:pocket")
    one = pocket.pool.subset(["pocket-nano"])
    collect(queries, one, where, Run(tmp_path), show="none")
    with pytest.raises(CollectError, match="no questions to ask"):
        collect([], one, where, Run(tmp_path), show="none")
    assert len(recorded(tmp_path).table) == 2


def test_a_base_url_without_a_host_is_a_fault_of_the_backend_named():
    for bad in ("openai:host/v1", "openai:http:///v1"):
        with pytest.raises(BackendError, match="a base URL is http"):
            backend(bad)


def test_a_run_whose_provider_never_answered_is_not_whole(tmp_path):
    _, pool, settings = calls_and_pool(3)
    queries = [Query.ask(f"{n}?", "1") for n in range(3)]
    where, settings = OpenAIBackend("http://127.0.0.1:9/v1"), replace(settings, attempts=1)
    made = collect(queries, pool, where, Run(tmp_path), settings, show="none")
    assert made.stopped is not None
    assert re.search(r"no connection to 127\.0\.0\.1:9 .*Correct the cause and run the same command", made.stopped)
    assert made.usd == 0, "what was never sent is not charged"
    line = made.table.summary().iloc[0]
    assert line["missing"] == 3
    assert line.drop("missing").isna().all(), "what did not happen is missing, never 0 % right"


def test_no_more_calls_fly_than_asked_for(tmp_path):
    _, provider, stopped = asyncio.run(asked(tmp_path, "m", 100, concurrency=7, together=7))
    assert stopped is None
    assert provider.most == 7


def test_a_changed_setting_is_another_call():
    calls, _, _ = calls_and_pool(1)
    changes = {"model": "n", "sample": 1, "temperature": 0.5, "max_tokens": 9, "prompt": "p/2"}
    changes |= {"prices": "2026-02-02", "extra": {"seed": 1}, "provider_id": "o"}
    changes |= {"messages": ({"role": "user", "content": "other"},)}
    keys = [calls[0].key] + [replace(calls[0], **{k: v}).key for k, v in changes.items()]
    assert len(set(keys)) == len(keys)
    assert replace(calls[0], query="another id").key == calls[0].key
    assert replace(calls[0], temperature=1).key == replace(calls[0], temperature=1.0).key


def test_secrets_appear_nowhere(tmp_path, monkeypatch, caplog, capfd):
    canary = "sk-canary-4711"
    monkeypatch.setenv("OPENAI_API_KEY", canary)

    async def session():
        calls, pool, settings = calls_and_pool(6, "m~html")
        provider, seen = Provider(), []
        async with provider as url:
            for bad in (url.replace("http://", f"http://user:{canary}@"), f"{url}?key={canary}"):
                with pytest.raises(ValueError, match="environment variable") as refused:
                    OpenAIBackend(bad)
                seen += [repr(refused.value)]
            for where in (url, f"http://127.0.0.1:9/{canary}/v1"):
                backend = OpenAIBackend(where, timeout_s=60)
                seen += [repr(backend)]
                seen += [repr(e) + str(e) for e in await backend.answer(calls)]
                await backend.close()
            backend = OpenAIBackend(url, timeout_s=60)
            with Ledger.open(tmp_path / "ledger.jsonl") as ledger:
                await ask(calls, pool, backend, ledger, replace(settings, attempts=1))
            await backend.close()
            calls, pool, settings = calls_and_pool(3, "openai/m~key")
            for i, where in enumerate((OpenAIBackend(url), LiteLLMBackend(base_url=url))):
                seen += [repr(where)]
                with Ledger.open(tmp_path / f"{i}.jsonl") as ledger:
                    with pytest.raises(CollectError, match="unauthorized") as stopped:
                        await ask(calls, pool, where, ledger, settings)
                    seen += traceback.format_exception(stopped.value)
                await where.close()
        return provider, seen

    provider, seen = asyncio.run(session())
    assert f"Bearer {canary}" in provider.headers, "the key does go out"
    text = "".join(seen) + caplog.text + "".join(capfd.readouterr())
    text += "".join(p.read_text() for p in tmp_path.iterdir())
    assert canary not in text


def test_a_run_killed_at_random_moments_loses_and_repeats_nothing(tmp_path):
    found = kill_drill(12, tmp_path)
    assert found.pop("kills") >= 8
    assert found.pop("in flight") >= 8
    assert found.pop("rows") == 12 * CALLS_A_KILL
    assert found.pop("unknown, still charged") > 0, "no kill found a call in flight"
    assert Counter(found.values()) == {0: len(found)}, found


@pytest.mark.parametrize("ends", ["told", "unauthorized", "budget"])
def test_nothing_leaves_after_the_end_of_a_run(tmp_path, ends):
    """Some calls wait long for their next try, for a provider's leave or for money when the run ends."""
    calls, pool, settings = calls_and_pool(12)
    most = worst_case_usd(calls[0], pool["m"])
    at_most = 9.5 if ends == "budget" else 13
    settings = replace(settings, concurrency=12, budget_usd=at_most * most)
    sent = []

    async def session():
        stop, done = asyncio.Event(), asyncio.Event()

        class Slow:
            batch, concurrency = 1, 12

            async def answer(self, part):
                sent.append(part[0].key)
                number = calls.index(part[0])
                if len(sent) == 9:
                    done.set()
                    if ends != "unauthorized":
                        asyncio.get_running_loop().call_later(0.2, stop.set)
                await done.wait()
                if number == 8 and ends == "unauthorized":
                    await asyncio.sleep(0.2)
                    return [CallError("unauthorized", Scope.RUN)]
                return [CallError("rate_limited", Scope.RETRY, retry_after_s=800.0)]

            async def close(self): ...

        with Ledger.open(tmp_path / "l") as ledger:
            asking = ask(calls, pool, Slow(), ledger, settings, stop=stop)
            with pytest.raises(CollectError) as stopped:
                await asyncio.wait_for(asking, 30)
            return str(stopped.value), ledger

    said, ledger = asyncio.run(session())
    assert "run the same command" in said
    assert ("unauthorized" in said) == (ends == "unauthorized")
    assert max(Counter(sent).values()) == 1, "nothing was tried again"
    assert ledger.unknown == []
    assert ledger.spent_usd == 0


def test_extra_fields_are_part_of_the_worst_case_and_cannot_pass_by_it():
    calls, pool, _ = calls_and_pool(1)
    tools = {"tools": [{"type": "function", "function": {"description": "x" * 5000}}]}
    more = worst_case_usd(replace(calls[0], extra=tools), pool["m"])
    assert more >= worst_case_usd(calls[0], pool["m"]) + 5000 * 1e-6
    dear = replace(pool["m"], usd_per_mtok_cached_in=3.0)
    most = calls[0].tokens_in_at_most
    assert worst_case_usd(calls[0], dear) == dear.usd(most, calls[0].max_tokens, most)
    for name in ("max_tokens", "max_completion_tokens", "n", "model", "messages", "api_key"):
        with pytest.raises(CollectError, match=f"extra names {name}"):
            Settings(extra={name: 9})


def test_a_cap_holds_for_batches_to_the_last_unit(tmp_path):
    """The ledger rounds every call up, so a batch must too; at these prices that is a third of its cost."""
    _, pool, _ = calls_and_pool(1)
    tiny = replace(pool["m"], usd_per_mtok_in=0.0, usd_per_mtok_out=1e-7)
    queries = [Query.ask(f"{i} + 1?", "1", verifier="numeric") for i in range(60)]
    where = Scripted(lambda call: Reply("1", "stop", 10, 7, 0.1))
    plain = Settings(max_tokens=7, budget_usd=30e-12)
    made = collect(queries, Pool("p", [tiny]), where, Run(tmp_path / "r"), plain, show="none")
    assert made.asked == 30
    assert made.usd == pytest.approx(30e-12)


class Scripted:
    """A backend that says what a function of the call says."""

    batch, concurrency = 4, 8

    def __init__(self, say):
        self.say, self.asked = say, []

    async def answer(self, calls):
        self.asked += calls
        return [self.say(call) for call in calls]

    async def close(self): ...


def two_models(tmp_path):
    card = "{{id: {0}, provider_id: x/{0}, tier: budget, usd_per_mtok_in: 1, usd_per_mtok_out: 2, context: 99}}"
    text = "name: two\nas_of: 2026-01-01\nmodels:\n" + "".join(f"  - {card.format(n)}\n" for n in "ab")
    (tmp_path / "two.yaml").write_text(text)
    return Pool.load(tmp_path / "two.yaml")


def test_collect_grades_writes_and_opens_again(tmp_path):
    queries = [Query.ask(f"{i} + 1?", str(i + 1), verifier="numeric") for i in range(5)]

    def say(call):
        number = int(call.messages[-1]["content"].split()[0])
        if number == 4:
            return CallError("content_filter", Scope.ROW, tokens=(10, 4, 1))
        text = str(number + 1) if call.model == "a" else "I don't know" if number % 2 else "9"
        return Reply(text, "length" if number == 3 else "stop", 10, 2, 0.1, 4)

    pool, run, where = two_models(tmp_path), Run(tmp_path / "run"), Scripted(say)
    made = collect(queries, pool, where, run, Settings(samples=2), show="none")
    assert made.stopped is None
    assert made.asked == len(where.asked) == 20
    grades = made.table.grades()
    assert grades[:, 0].tolist() == ["CORRECT"] * 3 + [None, None]
    assert grades[:, 1].tolist() == ["INCORRECT", "IDK", "INCORRECT", None, None]
    assert made.table.text("error")[3:].tolist() == [["truncated"] * 2, ["content_filter"] * 2]
    usd = made.table.matrix("usd")
    assert usd[0] == pytest.approx((10 + 2 * 2) * 1e-6)
    assert usd[4] == pytest.approx((10 + 2 * 1) * 1e-6), "a failed call that was billed"
    assert made.usd == pytest.approx(2 * usd.sum())
    assert made.why == {"match": 6, "mismatch": 4, "idk": 2, "truncated": 4, "content_filter": 4}
    assert "asked 20 in this session; charged $0.000272 in all" in str(made)
    assert "CORRECT 6, IDK 2, INCORRECT 4 (content_filter 4, idk 2, match 6, mismatch 4, truncated 4)" in str(made)
    again = collect(queries, pool, where, run, Settings(samples=2), show="none")
    assert (again.asked, len(where.asked)) == (0, 20)
    opened = recorded(run.folder)
    assert opened.pool.cards == pool.cards
    assert opened.table.rows.equals(again.table.select([q.id for q in opened.queries]).rows)


def test_the_same_question_with_another_reference_is_paid_once(tmp_path):
    queries = [Query.ask("1 + 1?", answer, verifier="numeric") for answer in ("2", "3")]
    where = Scripted(lambda call: Reply("2", "stop", 10, 2, 0.1))
    made = collect(queries, two_models(tmp_path), where, Run(tmp_path / "r"), show="none")
    assert len(where.asked) == 2
    assert made.table.grades().tolist() == [["CORRECT"] * 2, ["INCORRECT"] * 2]


@pytest.mark.parametrize("budget", [1e-9, 3e-4])
def test_a_run_that_stopped_early_is_a_table_of_what_it_has(tmp_path, budget):
    queries = [Query.ask(f"{i} + 1?", str(i + 1), verifier="numeric") for i in range(40)]
    where = Scripted(lambda call: Reply("1", "stop", 10, 2, 0.1))
    pool, run = two_models(tmp_path).subset(["a"]), Run(tmp_path / "r")
    plain = Settings(max_tokens=16, budget_usd=budget)
    made = collect(queries, pool, where, run, plain, show="none")
    opened = recorded(run.folder)
    assert "Raise the budget" in made.stopped
    assert len(opened.queries) == len(made.table) == len(where.asked) == made.asked
    assert (made.asked == 0) == (budget < 1e-6)
    assert made.asked < 40
    assert made.usd <= budget


def test_a_budget_holds_over_sessions(tmp_path):
    """Two sessions of one run under one cap: the second may not spend what the first one did."""
    queries = [Query.ask(f"{i} + 1?", str(i + 1), verifier="numeric") for i in range(40)]
    where = Scripted(lambda call: Reply("1", "stop", 10, 2, 0.1))
    pool, run = two_models(tmp_path).subset(["a"]), Run(tmp_path / "r")
    plain = Settings(max_tokens=16, budget_usd=3e-4)
    first = collect(queries, pool, where, run, plain, show="none")
    again = collect(queries, pool, where, run, plain, show="none")
    assert 0 < first.asked < 40
    assert (again.asked, again.usd) == (0, first.usd)
    assert "Raise the budget" in again.stopped


def test_the_key_is_the_same_for_fields_in_any_order():
    calls, _, _ = calls_and_pool(1)
    one, two = ({"seed": 1, "top_p": 0.5}, {"top_p": 0.5, "seed": 1})
    assert replace(calls[0], extra=one).key == replace(calls[0], extra=two).key
    assert Call("q", "m", "p", ({"role": "user", "content": "x"},)).key == "0c3e93b7a75d8a8c04139ffcc60bce77", (
        "keys of old ledgers stay valid"
    )


def test_the_bound_on_input_counts_the_chat_format():
    short = Call("q", "m", "p", ({"role": "user", "content": "x"},))
    assert short.tokens_in_at_most == len("user") + len("x") + 2 * 16
    assert replace(short, messages=short.messages * 2).tokens_in_at_most == 2 * 5 + 3 * 16


def test_a_date_that_already_passed_asks_for_no_wait():
    assert from_status(429, "", "Wed, 21 Oct 2015 07:28:00 GMT").retry_after_s == 0
    assert from_status(429, "", "-3").retry_after_s == 0


def test_the_pace_is_the_providers_and_not_the_models(tmp_path, monkeypatch):
    """Models of one provider share its limits; those of two providers do not."""
    limiters = []

    class Counted(Limiter):
        def __post_init__(self):
            super().__post_init__()
            limiters.append(self)

    monkeypatch.setattr("routerlab.collect.ask.Limiter", Counted)
    for number, providers in ((1, ["x/a", "x/b"]), (2, ["x/a", "y/b"])):
        cards = [replace(calls_and_pool(1)[1].cards[0], id=p, provider_id=p) for p in providers]
        settings = Settings(requests_per_minute=6000, max_tokens=16)
        calls = plan([Query.ask("?", "x")], Pool("p", cards), settings)
        where = Scripted(lambda call: Reply("1", "stop", 1, 1, 0.1))
        with Ledger.open(tmp_path / str(number)) as ledger:
            asyncio.run(ask(calls, Pool("p", cards), where, ledger, settings))
        assert len(limiters) == number
        assert limiters[0].requests_per_minute == 6000
        limiters.clear()


def test_a_refused_call_waits_as_long_as_asked(tmp_path, monkeypatch):
    calls, pool, settings = calls_and_pool(1)
    answers, asked_for = [Reply("1", "stop", 1, 1, 0.1), CallError("conflict", Scope.RETRY, retry_after_s=40.0)], []
    wait = lambda attempt, rng, retry_after_s: asked_for.append((attempt, retry_after_s)) or 0.0  # noqa: E731
    monkeypatch.setattr("routerlab.collect.ask.backoff_s", wait)
    with Ledger.open(tmp_path / "l") as ledger:
        asyncio.run(ask(calls, pool, Scripted(lambda call: answers.pop()), ledger, settings))
    assert asked_for == [(1, 40.0)]


def test_read_completion_keeps_how_an_answer_ended_and_its_cached_tokens():
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    for said, kept in (("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), (None, "stop")):
        body = {"choices": [{"message": {"content": "x"}, "finish_reason": said}], "usage": usage}
        assert read_completion(body, 0.25) == Reply("x", kept, 9, 2, 0.25, 4)
    body["choices"][0]["message"] = {"content": None, "refusal": "no"}
    assert read_completion(body, 0.25) == Reply("no", "refusal", 9, 2, 0.25, 4)


def test_the_class_of_a_redirect_is_not_the_class_of_where_it_leads():
    error = asyncio.run(one_answer("m~redirect"))
    assert (error.kind, error.message) == ("not_found", "HTTP 302")


async def one_answer(model):
    calls, _, _ = calls_and_pool(1, model)
    async with Provider() as url:
        where = OpenAIBackend(url, timeout_s=60)
        (answer,) = await where.answer(calls)
        await where.close()
    return answer


def test_a_cached_token_has_its_own_price(tmp_path):
    card = replace(two_models(tmp_path).cards[0], usd_per_mtok_cached_in=0.1)
    where = Scripted(lambda call: Reply("x", "stop", 10, 2, 0.1, 4))
    queries = [Query.ask("?", "x")]
    made = collect(queries, Pool("p", [card]), where, Run(tmp_path / "r"), show="none")
    assert made.usd == pytest.approx((6 * 1 + 4 * 0.1 + 2 * 2) * 1e-6)
    failed = Scripted(lambda call: CallError("content_filter", Scope.ROW, tokens=(10, 4, 2)))
    made = collect(queries, Pool("p", [card]), failed, Run(tmp_path / "s"), show="none")
    assert made.usd == pytest.approx((6 * 1 + 4 * 0.1 + 2 * 2) * 1e-6), "of a failed call that was billed too"


def test_a_judge_is_paid_once_from_the_same_budget(tmp_path):
    queries = [Query.ask(f"capital {i}?", "Rome", verifier="judge") for i in range(6)]
    answers = Scripted(lambda call: Reply("Rome" if call.model == "a" else "Paris", "stop", 9, 1, 0.1))

    def verdict(call):
        text = call.messages[-1]["content"]
        nonce = re.search(r"VERDICT ([0-9a-f]{16}):", text)[1]
        word = "CORRECT" if text.split(":answer>\n")[1].startswith("Rome") else "INCORRECT"
        return Reply("no verdict" if "capital 5" in text else f"VERDICT {nonce}: {word}", "stop", 99, 9, 0.1)

    pool, run, judge = two_models(tmp_path), Run(tmp_path / "run"), Scripted(verdict)
    panel = pool.subset(["b"]), judge
    with pytest.raises(CollectError, match="6 of 6 questions are graded by a judge"):
        collect(queries, pool, answers, run, show="none")
    made = collect(queries, pool, answers, run, judge=panel, show="none")
    assert len(judge.asked) == 12
    assert made.table.grades().tolist() == [["CORRECT", "INCORRECT"]] * 5 + [[None, None]]
    assert made.usd == pytest.approx(12 * 11e-6 + 12 * 117e-6)
    assert made.table.matrix("usd").sum() == pytest.approx(12 * 11e-6), "judging is no cost of an answer"
    text = "".join(str(c.messages) for c in judge.asked)
    assert "x/a" not in text
    assert "x/b" not in text
    again = collect(queries, pool, answers, run, judge=panel, show="none")
    assert len(judge.asked) == 12
    assert again.table.rows.equals(made.table.rows)


def test_a_verdict_that_was_cut_off_is_none(tmp_path):
    """ "CORRECT would be too kind a word" may be cut off where it reads as a verdict."""
    queries = [Query.ask("capital?", "Rome", verifier="judge")]
    answers = Scripted(lambda call: Reply("Paris", "stop", 9, 1, 0.1))

    def verdict(call):
        nonce = re.search(r"VERDICT ([0-9a-f]{16}):", call.messages[-1]["content"])[1]
        return Reply(f"VERDICT {nonce}: CORRECT", "length", 99, 512, 0.1)

    pool = two_models(tmp_path)
    panel = pool.subset(["b"]), Scripted(verdict)
    made = collect(queries, pool, answers, Run(tmp_path / "run"), judge=panel, show="none")
    assert made.table.grades().tolist() == [[None, None]]
    assert set(made.table.text("error")[0]) == {"judge"}


def test_the_embedded_models_say_now_what_was_recorded(tmp_path, pocket):
    queries = pocket.split("test").queries[:40]
    pool = pocket.pool.subset(["pocket-nano", "pocket-words"])
    for temperature, sample in ((0.0, 0), (0.7, 1)):
        settings = Settings(samples=sample + 1, temperature=temperature, max_tokens=160)
        run = Run(tmp_path / str(sample))
        made = collect(queries, pool, backend("pocket"), run, settings, show="none").table
        then = pocket.table.select([q.id for q in queries])
        columns = [then.models.index(m) for m in pool.ids]
        assert (made.text("answer", sample) == then.text("answer", sample)[:, columns]).all()
        assert (made.grades(sample) == then.grades(sample)[:, columns]).all()
        for name in ("usd", "tokens_in", "tokens_out"):
            assert made.matrix(name, sample) == pytest.approx(then.matrix(name, sample)[:, columns])


def test_a_question_that_embedded_models_cannot_read_is_a_missing_answer(tmp_path, pocket):
    queries = [pocket.split("test").queries[0], Query.ask("long " * 500, "1", verifier="numeric")]
    made = collect(queries, pocket.pool.subset(["pocket-nano"]), backend("pocket"), Run(tmp_path / "r"), show="none")
    assert made.stopped is None
    assert made.messages == ("context_length: pocket-nano does not read questions this long",)
    assert made.table.text("error")[:, 0].tolist() == [None, "context_length"]
    assert made.table.grades()[1, 0] is None


def test_a_replay_is_the_recorded_table_and_says_what_it_lacks(tmp_path, pocket):
    queries = [*pocket.split("test").queries[:30], Query.ask("never asked", "x")]
    where = backend("replay:pocket")
    made = collect(queries, pocket.pool, where, Run(tmp_path / "r"), show="none")
    then = pocket.table.select([q.id for q in queries[:-1]])
    assert (made.table.grades()[:-1] == then.grades()).all()
    assert made.table.matrix("usd")[:-1] == pytest.approx(then.matrix("usd"))
    assert set(made.table.text("error")[-1]) == {"not_recorded"}
    warm = collect(queries[:1], pocket.pool, where, Run(tmp_path / "s"), Settings(temperature=0.5), show="none")
    assert "was drawn at temperature 0" in warm.stopped
    with pytest.raises(ValueError, match="there are pocket, replay"):
        backend("openia:x")


def test_litellm_gives_the_same_through_its_own_client(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "local")

    async def both(model):
        provider, out = Provider(), []
        async with provider as url:
            for name, where in (
                (model, backend(f"openai:{url}")),
                (f"openai/{model}", backend("litellm", base_url=url)),
            ):
                out.append(await where.answer(calls_and_pool(3, name)[0]))
                await where.close()
        return out, provider

    (plain, other), provider = asyncio.run(both("m"))
    strip = [replace(r, latency_s=0) for r in plain]
    assert [(r.finish, r.tokens_in) for r in strip] == [(r.finish, r.tokens_in) for r in other]
    assert set(provider.tries.values()) == {1}, "one try each, and litellm does not retry"
    for fault in ("rate_limited", "server", "context_400", "key", "no_choices", "overloaded"):
        (plain, other), provider = asyncio.run(both(f"m~{fault}"))
        assert {(e.kind, e.scope) for e in other} == {(e.kind, e.scope) for e in plain}, fault
        assert set(provider.tries.values()) == {1}, fault


@pytest.fixture
def turn(monkeypatch):
    """A clock for tqdm that the test turns."""
    now = [100.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setenv("TQDM_DISABLE", "1")  # ours is shown all the same: it says what is spent

    def turn(seconds):
        now[0] += seconds

    return turn


def test_in_a_notebook_it_is_a_label(monkeypatch, turn):
    shown = []
    monkeypatch.setattr("tqdm.notebook.display", shown.append)
    progress = Progress(2, where="notebook")
    turn(3)
    progress.tell(0.5, None)
    progress.close()
    (box,) = shown
    assert box.children[2].value.replace("\u2007", " ") == "1 of 2 (50%)  $0.5000  3 s left"


def test_in_a_terminal_it_is_one_line(turn):
    file = io.StringIO()
    progress = Progress(3, where="terminal", file=file)
    turn(1)
    progress.tell(0.5, None)
    turn(0.1)
    progress.tell(0.5, None)
    turn(0.1)
    progress.tell(0.5, None)
    progress.close()
    lines = [line.rstrip(" ") for line in file.getvalue().split("\r")]
    assert lines == [
        "",
        "0 of 3 (0%)  $0.0000",
        "1 of 3 (33%)  $0.5000  2 s left",
        "3 of 3 (100%)  $1.5000         \n",
    ]


def test_what_the_ledger_had_to_mend_is_said(tmp_path):
    queries = [Query.ask(f"{i} + 1?", str(i + 1), verifier="numeric") for i in range(3)]
    where = Scripted(lambda call: Reply("1", "stop", 10, 2, 0.1))
    pool, run = two_models(tmp_path), Run(tmp_path / "run")
    assert "ledger" not in str(collect(queries, pool, where, run, show="none"))
    path = run.folder / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    made = collect(queries, pool, where, run, show="none")
    assert made.asked == 1
    assert [u["model"] for u in made.unknown] == ["b"]
    assert "a torn last line of" in str(made)
    assert "1 calls with an unknown outcome stay charged at $" in str(made)


def test_a_model_that_takes_temperature_1_only_gets_it_and_the_table_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "local")

    async def session():
        async with Provider() as url:
            return await backend("litellm", base_url=url).answer(calls_and_pool(1, "openai/gpt-5")[0])

    (answer,) = asyncio.run(session())
    assert answer.temperature == 1.0
    ledger, provider, stopped = asyncio.run(asked(tmp_path, "m~temperature_1", 40))
    assert stopped is None
    assert {row.reply.temperature for row in ledger.results.values()} == {1.0}
    assert sum(provider.tries.values()) <= 40 + 32, "learned once, by those that were in flight"
    calls, _, _ = calls_and_pool(40, "m~temperature_1")
    columns, _ = grade_calls([Query.ask(f"question {i}", "x") for i in range(40)], calls, ledger)
    assert set(columns["temperature"]) == {1.0}


def test_a_model_that_demands_max_completion_tokens_is_recognised(tmp_path):
    ledger, _, stopped = asyncio.run(asked(tmp_path, "m~completion_field", 40))
    assert (stopped, len(ledger.results)) == (None, 40)
    assert ledger.spent_usd == pytest.approx(sum(row.usd for row in ledger.results.values())), "a refusal is free"


def test_answers_of_other_weights_are_other_calls(tmp_path):
    pocket, model = root() / "data" / "pocket", "pocket-nano"
    shutil.copytree(pocket / "models" / model, tmp_path / "models" / model)
    shutil.copy(pocket / "card.json", tmp_path)
    query, pool = [Query.ask("2 + 2")], Pool.load("pocket").subset([model])
    key = lambda folder: plan(query, pool, Settings(), PocketBackend(folder).weights)[0].key  # noqa: E731
    assert key(None) == key(pocket) == key(tmp_path)
    (tmp_path / "models" / model / "recipe.json").write_text("{}")
    assert key(tmp_path) == key(pocket), "how it was trained does not answer"
    weights = tmp_path / "models" / model / "model.safetensors"
    held = weights.read_bytes()
    weights.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    assert key(tmp_path) != key(pocket)


def test_progress_in_a_log_is_a_line_every_10_s(turn):
    file = io.StringIO()
    progress = Progress(5000, 10, 1.0, where="log", file=file)
    for i in range(20):
        turn(1)
        progress.tell(0.01, CallError("timeout", Scope.RETRY) if i == 3 else None)
    assert file.getvalue().splitlines() == [
        "10 of 5,000 (0%)  $1.0000",
        "20 of 5,000 (0%)  $1.1000  83 min left  errors: timeout 1",
        "30 of 5,000 (1%)  $1.2000  83 min left  errors: timeout 1",
    ]
    turn(1)
    progress.tell(0.0, CallError("timeout", Scope.RETRY))
    progress.close()
    assert file.getvalue().splitlines()[3:] == ["31 of 5,000 (1%)  $1.2000  83 min left  errors: timeout 2"]


def test_a_line_appears_every_10_s_while_calls_hang(turn):
    file = io.StringIO()
    progress = Progress(3, where="log", file=file)
    for _ in range(25):
        turn(1)
        progress.tick()
    progress.retry(CallError("timeout", Scope.RETRY), False)
    turn(10)
    progress.tick()
    progress.close()
    assert file.getvalue().splitlines() == ["0 of 3 (0%)  $0.0000"] * 3 + ["0 of 3 (0%)  $0.0000  1 attempts repeated"]


def test_the_time_left_is_not_shown_before_as_many_calls_returned_as_are_in_flight(turn):
    """The first of 32 calls in flight needs as long as all of them: the rate would be 32 times too low."""
    file = io.StringIO()
    progress = Progress(64, where="terminal", file=file, at_once=32)
    turn(5)
    for _ in range(31):
        progress.tell(0.0, None)
    turn(1)
    progress.tell(0.0, None)
    shown = [line.strip() for line in file.getvalue().split("\r")]
    assert shown[-2:] == ["1 of 64 (2%)  $0.0000", "32 of 64 (50%)  $0.0000  6 s left"]
    assert sum("left" in line for line in shown) == 1


def test_what_is_loaded_before_the_first_call_is_not_in_the_time_left(turn, tmp_path):
    file, order = io.StringIO(), []
    calls, pool, settings = calls_and_pool(4)
    progress = Progress(4, where="terminal", file=file, at_once=2)

    def answer(call):
        order.append("answer")
        turn(1)
        return Reply("x", "stop", 10, 2, 0.1)

    where = Scripted(answer)
    where.warm_up = lambda: (order.append("warm up"), turn(600))
    with Ledger.open(tmp_path / "l") as ledger:
        asyncio.run(ask(calls, pool, where, ledger, replace(settings, concurrency=1), progress=progress))
        assert order == ["warm up", *["answer"] * 4]
        left = [line.split("  ")[-1].strip() for line in file.getvalue().split("\r") if "left" in line]
        assert left[0] == "2 s left"
        asyncio.run(ask(calls, pool, where, ledger, settings))
    assert order.count("warm up") == 1, "nothing is left to ask"


@pytest.mark.parametrize("name", ["openai", "litellm"])
@pytest.mark.parametrize("host", ["127.0.0.1:9", "nohost.invalid"])
def test_a_call_that_was_never_sent_is_free_and_stops_the_run_early(tmp_path, monkeypatch, name, host):
    monkeypatch.setenv("OPENAI_API_KEY", "local")
    _, pool, settings = calls_and_pool(40, "openai/m")
    where = (
        backend(f"openai:http://{host}/v1") if name == "openai" else backend("litellm", base_url=f"http://{host}/v1")
    )
    queries = [Query.ask(f"question {i}", "x") for i in range(40)]
    made = collect(queries, pool, where, Run(tmp_path / "r"), replace(settings, budget_usd=1.0), show="none")
    assert made.usd == 0
    assert f"no connection to {host}" in made.stopped
    assert made.unknown == []


@pytest.mark.parametrize("fault", ["reset", "short_body", "truncated", "garbage", "hang"])
def test_a_connection_that_broke_in_flight_stays_charged_with_litellm_too(tmp_path, monkeypatch, fault):
    monkeypatch.setenv("OPENAI_API_KEY", "local")
    calls, pool, settings = calls_and_pool(3, f"openai/m~{fault}")

    async def session():
        async with Provider() as url:
            where = backend("litellm", base_url=url, timeout_s=1.0 if fault == "hang" else 60.0)
            with Ledger.open(tmp_path / "l") as ledger:
                await ask(calls, pool, where, ledger, replace(settings, attempts=2))

    asyncio.run(session())
    ledger = Ledger.read(tmp_path / "l")
    assert ledger.spent_usd == pytest.approx(2 * sum(worst_case_usd(c, pool["m"]) for c in calls))
    assert {row.usd for row in ledger.errors.values()} == {0.0}


@pytest.mark.parametrize("down", ["refused", "server", "reset"])
def test_an_outage_uses_up_no_attempts(tmp_path, down):
    """The provider answers some calls, is down for longer than five attempts last, and answers again."""
    calls, pool, settings = calls_and_pool(30)
    settings, answered = replace(settings, concurrency=4, attempts=2), []
    kind = {"refused": "unreachable", "server": "server_error", "reset": "reset"}[down]

    async def session():
        began = []

        class Flaky:
            batch, concurrency = 1, 4

            async def answer(self, batch):
                await asyncio.sleep(0.01)
                now = asyncio.get_running_loop().time()
                if len(answered) >= 12:
                    began.append(now)
                    if now - began[0] < 5.0:
                        return [CallError(kind, Scope.RETRY, "x")]
                answered.append(batch[0].key)
                return [Reply("1", "stop", 1, 1, 0.1)]

            async def close(self): ...

        with Ledger.open(tmp_path / "l") as ledger:
            await ask(calls, pool, Flaky(), ledger, settings)
        return len(began) - 18

    tries_in_outage = asyncio.run(session())
    ledger = Ledger.read(tmp_path / "l")
    assert len(ledger.results) == len(answered) == 30
    assert ledger.errors == {}
    assert tries_in_outage <= 4 + 8, "what was in flight, and one try at a time"


def test_attempts_are_left_after_an_outage(tmp_path):
    """Two tries that were never sent use up none of the two attempts, so an empty answer may be asked again."""
    calls, pool, settings = calls_and_pool(1)
    refused = CallError("unreachable", Scope.RETRY, "no connection to h:1")
    answers = [Reply("1", "stop", 1, 1, 0.1), CallError("empty_content", Scope.RETRY, "empty"), refused, refused]
    where = Scripted(lambda call: answers.pop())
    where.batch = where.concurrency = 1
    with Ledger.open(tmp_path / "l") as ledger:
        asyncio.run(ask(calls, pool, where, ledger, replace(settings, attempts=2)))
    ledger = Ledger.read(tmp_path / "l")
    assert (len(ledger.results), ledger.errors, answers) == (1, {}, [])


def test_a_refusal_that_an_older_version_called_final_is_asked_again(tmp_path, monkeypatch):
    calls, pool, settings = calls_and_pool(1)
    where = Scripted(lambda call: CallError("bad_request", Scope.ROW, "no such field"))
    with Ledger.open(tmp_path / "l") as ledger, monkeypatch.context() as older:
        older.setattr("routerlab.collect.ledger.AGAIN", frozenset())
        asyncio.run(ask(calls, pool, where, ledger, settings))
    assert b'"final":true' in (tmp_path / "l").read_bytes()
    ledger = Ledger.read(tmp_path / "l")
    assert (ledger.results, [*ledger.errors]) == ({}, [calls[0].key])


def test_a_provider_that_never_comes_back_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("routerlab.collect.limits.PATIENCE_S", 1.0)
    calls, pool, settings = calls_and_pool(6)
    answers = [CallError("unreachable", Scope.RETRY, "no connection to h:1")] * 99 + [Reply("1", "stop", 1, 1, 0.1)]
    where = Scripted(lambda call: answers.pop())
    where.batch = where.concurrency = 1
    with Ledger.open(tmp_path / "l") as ledger, pytest.raises(CollectError, match="no connection to h:1"):
        asyncio.run(ask(calls, pool, where, ledger, settings))
    assert len(Ledger.read(tmp_path / "l").results) == 1


@pytest.mark.parametrize("form", ["no_usage", "usage_text", "usage_absurd", "count_text", "count_float", "count_null"])
def test_an_answer_without_usable_counts_is_kept_estimated_and_charged_at_its_bound(tmp_path, form):
    calls, pool, settings = calls_and_pool(2, f"m~{form}")
    queries = [Query.ask(f"question {i}", "x") for i in range(2)]

    async def session():
        async with Provider() as url:
            where = OpenAIBackend(url, timeout_s=60)
            with Ledger.open(tmp_path / "l") as ledger:
                await ask(calls, pool, where, ledger, settings)
            await where.close()

    asyncio.run(session())
    ledger = Ledger.read(tmp_path / "l")
    assert ledger.spent_usd == pytest.approx(sum(worst_case_usd(c, pool["m"]) for c in calls))
    for call in calls:
        row = ledger.results[call.key]
        assert row.reply.estimated
        assert (row.reply.tokens_in, row.reply.tokens_out) == (3, 4), "10 and 15 bytes, 4 a token"
        assert row.usd == pytest.approx(pool["m"].usd(3, 4)), "the row costs what its tokens cost"
    columns, _ = grade_calls(queries, calls, ledger)
    assert set(columns["tokens_out"]) == {4}


def test_half_a_surrogate_pair_is_kept_and_bought_once(tmp_path):
    ledger, provider, stopped = asyncio.run(asked(tmp_path, "m~half_pair", 3))
    assert stopped is None
    assert {row.reply.text for row in ledger.results.values()} == {"cut \ufffd"}
    assert set(provider.tries.values()) == {1}


def test_reasoning_that_only_the_total_counts_is_billed():
    assert asyncio.run(one_answer("m~hidden_reasoning")).tokens_out == 9


def test_a_server_that_reports_its_own_cost_is_believed(tmp_path):
    ledger, _, _ = asyncio.run(asked(tmp_path, "m~own_cost", 2))
    assert ledger.spent_usd == pytest.approx(2 * 0.000004)
    assert {row.usd for row in ledger.results.values()} == {0.000004}


def test_a_provider_that_reports_more_than_was_reserved_stops_the_run(tmp_path):
    ledger, provider, stopped = asyncio.run(asked(tmp_path, "m~ten_times", 200, budget_usd=1.0, concurrency=4))
    assert "over_reserved: m reports $" in stopped
    over = float(re.search(r"together cost \$([\d.]+) more than was reserved", stopped)[1])
    calls, pool, _ = calls_and_pool(1, "m~ten_times")
    cost, most = pool["m"].usd(900, 160), worst_case_usd(calls[0], pool["m"])
    assert over == pytest.approx(len(ledger.results) * (cost - most), rel=0.1), "of all that was in flight by then"
    assert ledger.spent_usd == pytest.approx(len(ledger.results) * cost)
    assert sum(provider.tries.values()) <= 8, "only what was in flight"


def test_a_cost_that_is_no_number_is_not_believed(tmp_path):
    ledger, _, stopped = asyncio.run(asked(tmp_path, "m~cost_true", 2))
    assert stopped is None
    assert all(
        row.usd == pytest.approx(row.reply.tokens_in * 1e-6 + row.reply.tokens_out * 2e-6)
        for row in ledger.results.values()
    )


def test_an_answer_that_is_a_number_is_kept_as_text(tmp_path):
    ledger, _, stopped = asyncio.run(asked(tmp_path, "m~number", 2))
    assert stopped is None
    assert {row.reply.text for row in ledger.results.values()} == {"7"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"error": "quota of this tenant"}, "server_error: HTTP 502: quota of this tenant"),
        ({"error": {"message": "slow down", "code": 429}}, "rate_limited: HTTP 429: slow down"),
        ({"error": ["slow down"]}, "server_error: HTTP 502: slow down"),
        ({"detail": [{"msg": "foo is required"}]}, "empty_choices: the answer has no choices: foo is required"),
        ([{"error": {"message": "a reason"}}], "truncated_json: the body is not a JSON object: a reason"),
        ({"choices": [{"message": {"content": {"a": 1}}}]}, "empty_content: the message is no text"),
        ({"choices": [{"message": {"content": True}}]}, "empty_content: the message is no text"),
    ],
)
def test_the_words_of_an_error_with_status_200_are_shown(body, says):
    with pytest.raises(CallError) as failed:
        read_completion(body, 0.1)
    assert str(failed.value) == says


def test_a_word_beside_a_whole_answer_loses_none():
    choice = {"message": {"content": "7"}, "finish_reason": "stop"}
    assert read_completion({"error": "none", "choices": [choice]}, 0.1).text == "7"


@pytest.mark.parametrize("key", ["canary\r\nX-Evil: 1", "canary\n2", "canary\0", "cänary"])
@pytest.mark.parametrize("kind", ["openai:https://api.example.org/v1", "litellm"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(monkeypatch, key, kind):
    monkeypatch.setattr("os.environ", {**os.environ, "OPENAI_API_KEY": key, "MY_KEY": key})
    for name, model in (("", "gpt-5-nano"), ("MY_KEY", "gpt-5")):
        with pytest.raises(BackendError, match=f"the key in {name or 'OPENAI_API_KEY'} has a line break") as refused:
            backend(kind, key_env=name).check(Pool.load("xrouter").subset([model]))
        assert "nary" not in str(refused.value)


def test_what_a_provider_says_is_shown_once_and_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "tops3cretvalue")
    calls, pool, settings = calls_and_pool(5)
    body = {"error": {"message": "model 'm' is unknown; your key tops3cretvalue, sk-abc123, Bearer xyz \x1b[31m"}}
    where = Scripted(lambda call: from_status(500, json.dumps(body), None, "other"))
    file = io.StringIO()
    progress = Progress(5, where="log", file=file)
    with Ledger.open(tmp_path / "l") as ledger:
        asyncio.run(ask(calls, pool, where, ledger, replace(settings, attempts=1), progress=progress))
    progress.close()
    assert file.getvalue().count("model 'm' is unknown") == 1
    for secret in ("tops3cret", "abc123", "xyz", "\x1b"):
        assert secret not in file.getvalue()


def test_a_refused_request_says_why_and_is_asked_again(tmp_path):
    _, pool, settings = calls_and_pool(3)
    queries = [Query.ask(f"question {i}", "x") for i in range(3)]
    made = []
    for _ in range(2):
        where = Scripted(lambda call: from_status(400, '{"error": {"message": "no field named top_q"}}'))
        made.append(collect(queries, pool, where, Run(tmp_path / "r"), settings, show="none"))
        assert len(where.asked) == 3
    assert "refused 3 of 3 calls (bad_request 3)" in made[0].stopped
    assert made[0].messages == ("bad_request: HTTP 400: no field named top_q",)


def test_what_can_be_wrong_is_found_before_the_first_call(tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "MY_OWN_KEY"):
        monkeypatch.delenv(name, raising=False)
    _, pool, settings = calls_and_pool(1)
    where = Scripted(lambda call: Reply("1", "stop", 1, 1, 0.1))
    cases = {
        "no verifier gues": [Query.ask("?", "1", verifier="gues")],
        "code have no tests": [Query.ask("?", "1", verifier="code")],
        "graded by a judge": [Query.ask("?", "1", verifier="judge")],
    }
    for message, queries in cases.items():
        with pytest.raises(CollectError, match=message):
            collect(queries, pool, where, Run(tmp_path / "r"), settings, show="none")
    keyed = Pool("p", [replace(pool["m"], key_env="MY_OWN_KEY", base_url="http://127.0.0.1:9/v1")])
    remote = backend("openai:https://api.example.com/v1")
    for panel, asker, name in ((keyed, backend("openai"), "MY_OWN_KEY"), (pool, remote, "OPENAI_API_KEY")):
        with pytest.raises(BackendError, match=f"set the environment variable {name}"):
            collect([Query.ask("?", "1")], panel, asker, Run(tmp_path / "r"), settings, show="none")
    with pytest.raises(BackendError, match="has no address"):
        collect([Query.ask("?", "1")], pool, backend("openai"), Run(tmp_path / "r"), settings, show="none")
    panel = keyed, backend("litellm")
    with pytest.raises(BackendError, match="MY_OWN_KEY"):
        collect([Query.ask("?", "1", verifier="judge")], pool, where, Run(tmp_path / "r"), judge=panel, show="none")
    assert where.asked == []
    assert not (tmp_path / "r").exists()


def test_a_model_has_its_own_server_and_key(tmp_path, monkeypatch):
    monkeypatch.setenv("FIRST_KEY", "one")
    monkeypatch.setenv("SECOND_KEY", "two")

    async def session():
        first, second = Provider(), Provider()
        async with first as one, second as two:
            card = calls_and_pool(1)[1].cards[0]
            cards = [replace(card, id="a", base_url=one, key_env="FIRST_KEY")]
            cards += [replace(card, id="b", base_url=two, key_env="SECOND_KEY", provider_id="openai/served")]
            calls = plan([Query.ask("?", "x")], Pool("p", cards), Settings())
            where = backend("openai")
            await where.answer(calls)
            await where.close()
        return first, second

    first, second = asyncio.run(session())
    assert (first.headers, second.headers) == (["Bearer one"], ["Bearer two"])
    assert [body["model"] for body in second.asked.values()] == ["openai/served"], "a served name is sent unchanged"


def test_the_contract_is_sent_kept_and_counted(tmp_path):
    queries = [Query.ask(f"{i} + 1?", str(i + 1), verifier="numeric") for i in range(4)]

    def say(call):
        number = int(call.messages[-1]["content"].split()[0])
        return Reply(f"ANSWER: {number + 1}" if number % 2 else f"It is {number + 1}.", "stop", 10, 2, 0.1)

    pool, run, where = two_models(tmp_path).subset(["a"]), Run(tmp_path / "r"), Scripted(say)
    where.follows_instructions = True
    made = collect(queries, pool, where, run, show="none")
    assert all("ANSWER: <number>" in c.messages[-1]["content"] for c in where.asked)
    assert {c.prompt for c in where.asked} == {"plain/1+contract/1"}
    assert made.lenient == 0.5
    assert "50% of the answers do not follow the contract" in str(made)
    again = collect(queries, pool, where, run, show="none")
    assert (again.asked, len(where.asked)) == (0, 4), "a run keeps the contract it began with"
    with pytest.raises(CollectError, match="began with the contract 'contract/1'.*leave out --contract"):
        collect(queries, pool, where, run, Settings(contract="none"), show="none")
    plain = Scripted(say)
    plain.follows_instructions = True
    off = collect(queries, pool, plain, Run(tmp_path / "s"), Settings(contract="none"), show="none")
    assert [c.messages for c in plain.asked] == [tuple(q.messages) for q in queries]
    assert "do not follow the contract" not in str(off)
    assert collect(queries, pool, plain, Run(tmp_path / "s"), show="none").asked == 0
    (tmp_path / "s" / "contract.txt").unlink()
    assert collect(queries, pool, plain, Run(tmp_path / "s"), show="none").asked == 0, "an older run began without one"


def test_a_rerun_with_fewer_models_keeps_the_others_rows(tmp_path):
    queries = [Query.ask(f"{i} + 1?", str(i + 1), verifier="numeric") for i in range(3)]
    where, pool, run = Scripted(lambda call: Reply("1", "stop", 10, 2, 0.1)), two_models(tmp_path), Run(tmp_path / "r")
    both = collect(queries, pool, where, run, show="none")
    one = collect(queries, pool.subset(["b"]), where, run, show="none")
    assert one.table.models == ("a", "b")
    assert one.table.matrix("usd").tolist() == both.table.matrix("usd").tolist()
    assert recorded(run.folder).pool.ids == ("a", "b")


def test_a_rerun_with_fewer_questions_or_tries_keeps_the_other_rows(tmp_path):
    queries = [Query.ask(f"{i} + 1?", str(i + 1), verifier="numeric") for i in range(3)]
    where, pool, run = Scripted(lambda call: Reply("1", "stop", 10, 2, 0.1)), two_models(tmp_path), Run(tmp_path / "r")
    every = collect(queries, pool, where, run, Settings(samples=2), show="none")
    assert (every.kept, len(every.table)) == (0, 12)
    fewer = collect(queries[:1], pool.subset(["a"]), where, run, show="none")
    assert (fewer.kept, len(fewer.table)) == (11, 12)
    assert "11 of the outcomes are of models, questions or tries not asked for now, and kept" in str(fewer)
    assert recorded(run.folder).table.rows.sort_by("usd").num_rows == 12
    mended = replace(queries[1], reference="7")  # the answers are the same, and the question is not there twice
    again = collect([mended], pool, where, run, show="none")
    assert {q.reference for q in recorded(run.folder).queries} == {"1", "7", "3"}
    assert (again.asked, again.kept, len(again.table)) == (0, 8, 10)


def test_a_table_without_its_ledger_is_not_replaced(tmp_path, pocket):
    part, run = pocket.split("validation"), Run(tmp_path / "r")
    record(run, part.queries, part.pool, part.table, {"how": "imported from log.csv"})
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    where = Scripted(lambda call: Reply("1", "stop", 10, 2, 0.1))
    with pytest.raises(CollectError, match="holds a table .imported from log.csv. .* give the run another name"):
        collect(part.queries[:1], pocket.pool, where, run, show="none")
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


def test_a_judge_without_a_verdict_is_said(tmp_path):
    queries = [Query.ask("capital?", "Rome", verifier="judge")]
    answers, judge = (Scripted(lambda call, t=t: Reply(t, "stop", 9, 1, 0.1)) for t in ("Paris", "hm"))
    pool = two_models(tmp_path)
    made = collect(queries, pool, answers, Run(tmp_path / "r"), judge=(pool.subset(["b"]), judge), show="none")
    assert "the judge b gave no verdict on 2 of 2 answers" in made.stopped
