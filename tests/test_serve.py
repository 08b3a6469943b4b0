"""The served router on loopback sockets: what is forwarded, what it costs, and what happens under faults."""

import asyncio
import contextlib
import datetime as dt
import socket
import time

import aiohttp
import orjson
import pytest
from aiohttp import web

from routerlab import ModelCard, Pool, Run
from routerlab.routers.baselines import Always
from routerlab.serve.app import Server
from routerlab.serve.calls import Settings
from routerlab.serve.choose import Chooser
from routerlab.serve.keys import accounts
from routerlab.serve.log import Account, Log, LogError, Refusal, served
from routerlab.serve.upstream import Upstream
from tests.fake_model import FakeModel

HELLO = {"messages": [{"role": "user", "content": "hello there"}]}


def pool_of(url: str, *names: str) -> Pool:
    """One model for each name, each dearer than the one before."""
    day = dt.date(2026, 1, 1)
    cards = [
        ModelCard(n.partition("~")[0], n, "budget", i + 1, 2 * i + 2, 4096, day, base_url=url)
        for i, n in enumerate(names)
    ]
    return Pool("fake", cards)


@contextlib.asynccontextmanager
async def serving(folder, pool, router=None, *, keys=None, explore=0.0, agent=None, upstream=None, **settings):
    """A server on a free port; gives (its URL, itself, a client)."""
    chooser = Chooser(router or Always(pool.ids[0]), pool, pool.ids[-1], explore, seed=0)
    log = Log(Run(folder / "served"), keys)
    server = Server(pool, chooser, upstream or Upstream(), log, Settings(**settings), agent)
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
            yield url, server, client
    finally:
        await runner.cleanup()
        log.close()


async def ask(client, url, body=HELLO, **headers):
    """(status, headers, body) of a request that is not streamed."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    async with client.post(f"{url}/v1/chat/completions", data=data, headers=headers) as answer:
        return answer.status, answer.headers, orjson.loads(await answer.read())


async def stream(client, url, body=HELLO):
    """The events of a streamed answer."""
    async with client.post(f"{url}/v1/chat/completions", json={**body, "stream": True}) as answer:
        assert answer.status == 200, await answer.text()
        lines = [line[6:].strip() async for line in answer.content if line.startswith(b"data: ")]
    return [line.decode() if line == b"[DONE]" else orjson.loads(line) for line in lines]


def said(events):
    return "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e != "[DONE]" and e.get("choices"))


def test_an_answer_carries_its_cost_and_fields_reach_the_model(tmp_path):
    async def scenario():
        fake = FakeModel()
        async with fake as up, serving(tmp_path, pool_of(up, "a", "b")) as (url, _, client):
            sent = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stop": ["x"], "seed": 3}
            sent["response_format"] = {"type": "text"}
            history = [
                {"role": "system", "content": "be short"},
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            ]
            status, headers, body = await ask(client, url, {"model": "router", "messages": history, **sent})
            assert status == 200
            assert "x-router-fallback" not in headers
            seen = fake.seen[0]
            assert {k: seen[k] for k in sent} == sent
            assert seen["messages"] == history
            assert seen["model"] == "a"
            assert body["choices"][0]["message"]["content"] == "a heard: hi"
            assert body["choices"][0]["finish_reason"] == "stop"
            assert body["usage"]["prompt_tokens"] == 10
            assert body["model"] == "a"
            about = body["router_metadata"]
            cost = (10 * 1 + 3 * 2) / 1e6  # by the card: 1 and 2 dollars a million tokens
            assert about["total_cost"] == about["target_models_cost"] == pytest.approx(cost)
            assert about["router_cost"] == 0
            assert about["model_used"] == "a"
            assert about["turns_used"] == 1
            assert about["routing_strategy"] == "always a"
            (call,) = about["call_history"]
            assert (call["tokens_in"], call["tokens_out"], call["status"]) == (10, 3, "ok")
            assert "answer" not in call
            _, _, direct = await ask(client, url, {**HELLO, "model": "b", "max_tokens": 2})
            assert direct["model"] == "b"
            assert direct["choices"][0]["finish_reason"] == "length"
            status, _, unknown = await ask(client, url, {**HELLO, "model": "gpt-9"})
            assert status == 404
            assert "router@LAMBDA" in unknown["error"]["message"]

    asyncio.run(scenario())


def test_a_stream_ends_with_its_cost(tmp_path):
    async def scenario():
        async with FakeModel() as up, serving(tmp_path, pool_of(up, "a~no_usage", "b")) as (url, _, client):
            events = await stream(client, url, {**HELLO, "model": "b"})
            assert said(events) == "b heard: hello there"
            assert events[-1] == "[DONE]"
            last = events[-2]
            assert last["choices"][0]["finish_reason"] == "stop"
            assert len({e["id"] for e in events[:-1]}) == 1
            assert last["router_metadata"]["total_cost"] == pytest.approx((10 * 2 + 4 * 4) / 1e6)
            wanted = {**HELLO, "model": "b", "stream_options": {"include_usage": True}}
            events = await stream(client, url, wanted)
            assert events[-2]["usage"]["completion_tokens"] == 4
            assert events[-2]["choices"] == []
            assert "router_metadata" in events[-2]
            assert events[-3]["choices"][0]["finish_reason"] == "stop"
            (call,) = (await stream(client, url))[-2]["router_metadata"]["call_history"]
            assert call["estimated"]
            assert call["tokens_out"] == len("a heard: hello there"), "a bound: a token a byte"

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", ["429", "500", "reset", "hang", "silent", "partial"])
@pytest.mark.parametrize("streamed", [False, True])
def test_another_model_answers_if_one_fails_before_its_first_byte(tmp_path, fault, streamed):
    async def scenario():
        async with contextlib.AsyncExitStack() as stack:
            up = await stack.enter_async_context(FakeModel())
            pool = pool_of(up, f"a~{fault}", "b")
            url, _, client = await stack.enter_async_context(serving(tmp_path, pool, timeout_s=1.0))
            if streamed and fault == "partial":
                events = await stream(client, url)
                assert events[-1]["error"]["code"] == "reset"
                assert said(events[:-1]) == "a heard: "
                assert events[-1]["router_metadata"]["call_history"][0]["status"] == "reset"
                return
            if streamed:
                events = await stream(client, url)
                text, about = said(events), events[-2]["router_metadata"]
            else:
                status, headers, body = await ask(client, url)
                assert status == 200
                assert headers["x-router-fallback"].startswith("a: ")
                text, about = body["choices"][0]["message"]["content"], body["router_metadata"]
            assert text == "b heard: hello there"
            assert about["model_used"] == "b"
            first, second = about["call_history"]
            kinds = {"429": "rate_limited", "500": "server_error", "hang": "timeout"}
            assert first["status"] == kinds.get(fault, "reset")
            assert second["status"] == "ok"
            free = fault in ("429", "500")  # after the others it is unknown whether they were billed
            assert first["cost"] == (0.0 if free else first["reserved"])

    asyncio.run(scenario())


def test_a_model_asked_for_by_name_is_never_replaced(tmp_path):
    async def scenario():
        with socket.socket() as free:  # nobody listens there
            free.bind(("127.0.0.1", 0))
            dead = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        async with FakeModel() as up:
            cards = [*pool_of(dead, "dead").cards, *pool_of(up, "m~429", "b").cards]
            async with serving(tmp_path, Pool("fake", cards)) as (url, _, client):
                status, _, body = await ask(client, url, {**HELLO, "model": "dead"})
                assert status == 502
                assert body["error"]["code"] == "unreachable"
                assert body["router_metadata"]["total_cost"] == 0
                status, headers, _ = await ask(client, url, {**HELLO, "model": "m"})
                assert status == 429
                assert headers["Retry-After"] == "7"
                status, headers, body = await ask(client, url)
                assert status == 200
                assert body["model"] == "b"
                assert headers["x-router-fallback"] == "dead: unreachable"

    asyncio.run(scenario())


class Broken:
    name = "broken"

    def route(self, queries, pool, answers=None):
        raise RuntimeError("the router's process is gone")


def test_the_default_model_answers_if_the_router_fails(tmp_path):
    async def scenario():
        async with FakeModel() as up, serving(tmp_path, pool_of(up, "a", "b"), Broken()) as (url, _, client):
            status, headers, body = await ask(client, url)
            assert (status, body["model"], headers["x-router-fallback"]) == (200, "b", "router: RuntimeError")

    asyncio.run(scenario())


async def until(condition, seconds=1.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        await asyncio.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_leaves_stops_the_model_and_frees_its_budget(tmp_path, streamed):
    async def scenario():
        fake, keys = FakeModel(), [Account(usd=1.0)]
        async with fake as up, serving(tmp_path, pool_of(up, "a~slow" if streamed else "a~hang"), keys=keys) as held:
            url, server, client = held
            body = {"messages": [{"role": "user", "content": "word " * 200}], "stream": streamed}
            async with asyncio.timeout(10):
                request = asyncio.ensure_future(client.post(f"{url}/v1/chat/completions", json=body))
                await until(lambda: fake.flying == 1, 5)
                if streamed:
                    answer = await request
                    await answer.content.readline()
                    answer.close()
                else:
                    assert server.log.accounts["anonymous"].charged > 8e9, "reserved: 4096 tokens out"
                    request.cancel()
                await until(lambda: fake.flying == 0 and server.flying == 0)
            assert server.log.accounts["anonymous"].charged < 2e9
            (record,) = served(server.log.run)
            assert record["status"] == 499
            assert record["calls"][0]["status"] == "cancelled"

    asyncio.run(scenario())


def test_a_deadline_is_a_504_with_the_cost_so_far(tmp_path):
    async def scenario():
        async with FakeModel() as up, serving(tmp_path, pool_of(up, "a~hang"), timeout_s=0.3) as (url, server, client):
            status, _, body = await ask(client, url)
            (call,) = body["router_metadata"]["call_history"]
            assert status == 504
            assert call["status"] == "timeout"
            assert body["router_metadata"]["total_cost"] == call["reserved"]
            assert server.log.accounts["anonymous"].charged == pytest.approx(call["reserved"] * 1e12, abs=1)
        async with FakeModel() as up, serving(tmp_path / "b", pool_of(up, "a~slow"), timeout_s=0.5) as (url, _, client):
            events = await stream(client, url, {"messages": [{"role": "user", "content": "word " * 200}]})
            assert events[-1]["error"]["code"] == "timeout"
            assert said(events[:-1]).startswith("a heard: word")

    asyncio.run(scenario())


def test_too_many_requests_are_refused_at_once(tmp_path):
    async def scenario():
        async with FakeModel(wait_s=0.3) as up, serving(tmp_path, pool_of(up, "a"), most_at_once=4) as (url, _, client):
            answers = await asyncio.gather(*(ask(client, url) for _ in range(40)))
            statuses = [status for status, _, _ in answers]
            assert statuses.count(200) == 4
            assert statuses.count(429) == 36
            assert all(headers["Retry-After"] == "1" for status, headers, _ in answers if status == 429)

    asyncio.run(scenario())


BAD = {
    "not JSON": (b"{", 400),
    "no object": (b"[]", 400),
    "bad UTF-8": (b'{"messages": [{"role": "user", "content": "\xff"}]}', 400),
    "half a surrogate pair": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
    "nested deeply": (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "nested to the parser's limit": (
        b'{"messages": [{"role": "user", "content": "x"}], "y": ' + b"[" * 900 + b"]" * 900 + b"}",
        400,
    ),
    "too large": (b" " * (2**20 + 1), 413),
    "no messages": (b"{}", 400),
    "empty messages": (b'{"messages": []}', 400),
    "a role of its own": (b'{"messages": [{"role": "king", "content": "x"}]}', 400),
    "a number for content": (b'{"messages": [{"role": "user", "content": 5}]}', 400),
    "negative limit": (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": -1}', 400),
    "two answers": (b'{"messages": [{"role": "user", "content": "x"}], "n": 2}', 400),
    "lam no number": (b'{"messages": [{"role": "user", "content": "x"}], "model": "router@1e"}', 400),
    "lam of a fixed model": (b'{"messages": [{"role": "user", "content": "x"}], "model": "router@5"}', 400),
    "stream no bool": (b'{"messages": [{"role": "user", "content": "x"}], "stream": "yes", "stream_options": 4}', 400),
}


def test_bad_bodies_get_a_message_and_no_call(tmp_path):
    async def scenario():
        fake = FakeModel()
        async with fake as up, serving(tmp_path, pool_of(up, "a")) as (url, _, client):
            for name, (content, wanted) in BAD.items():
                status, _, body = await ask(client, url, content)
                assert status == wanted, name
                assert body["error"]["message"], name
            async with client.get(f"{url}/health", headers={f"x-{i}": "y" * 8000 for i in range(200)}) as answer:
                assert answer.status in (400, 431)
            async with client.get(f"{url}/nowhere") as answer:
                assert answer.status == 404
                assert (await answer.json())["error"]
            assert not fake.seen

    asyncio.run(scenario())


def test_keys_and_their_limits(tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret-a")
    monkeypatch.setenv("B_KEY", "secret-b")
    file = tmp_path / "keys.yaml"
    file.write_text(
        "keys:\n- {name: a, key_env: A_KEY, requests_per_minute: 2}\n"
        "- {name: b, key_env: B_KEY, usd: 0.01, tokens_per_minute: 9000}"
    )

    async def scenario():
        keys = accounts(file, None, "0.0.0.0")
        async with FakeModel() as up, serving(tmp_path, pool_of(up, "a"), keys=keys) as (url, server, client):
            assert (await ask(client, url))[0] == 401
            assert (await ask(client, url, Authorization="Bearer secret-c"))[0] == 401
            statuses = [(await ask(client, url, Authorization="Bearer secret-a"))[0] for _ in range(3)]
            server.log.accounts["a"].minute = 0  # another minute
            assert statuses == [200, 200, 429]
            assert (await ask(client, url, Authorization="Bearer secret-a"))[0] == 200
            status, _, body = await ask(client, url, {**HELLO, "max_tokens": 4096}, Authorization="Bearer secret-b")
            assert status == 200
            server.log.accounts["b"].tokens = 5000
            status, headers, _ = await ask(client, url, {**HELLO, "max_tokens": 4096}, Authorization="Bearer secret-b")
            assert status == 429
            assert 1 <= int(headers["Retry-After"]) <= 60
            server.log.accounts["b"].charged = int(0.0099e12)
            status, _, body = await ask(client, url, {**HELLO, "max_tokens": 300}, Authorization="Bearer secret-b")
            assert status == 429
            assert body["error"]["code"] == "insufficient_quota"
        again = Log(Run(tmp_path / "served"), accounts(file, None, "0.0.0.0"))
        assert again.accounts["a"].charged == pytest.approx(3 * (10 + 4 * 2) * 1e6), "spending survives a restart"
        again.close()

    asyncio.run(scenario())
    with pytest.raises(LogError, match="ROUTERLAB_API_KEY"):
        accounts(None, None, "0.0.0.0")


def test_a_budget_holds_with_256_requests_in_flight(tmp_path):
    async def scenario():
        fake = FakeModel(wait_s=0.05)
        keys = [Account(usd=0.002)]  # an answer costs 18e-6 dollars and at most about 300e-6
        async with fake as up, serving(tmp_path, pool_of(up, "a"), keys=keys) as (url, server, client):
            account, most = server.log.accounts["anonymous"], 0
            for _ in range(6):
                answers = [asyncio.ensure_future(ask(client, url, {**HELLO, "max_tokens": 60})) for _ in range(256)]
                while not all(a.done() for a in answers):
                    most = max(most, account.charged)
                    await asyncio.sleep(0.002)
            assert 0.001e12 < most <= 0.002e12
            assert account.charged == fake.billed * 18_000_000

    asyncio.run(scenario())


def test_a_killed_server_keeps_open_calls_charged_and_drops_half_a_line(tmp_path):
    log = Log(Run(tmp_path / "served"), [Account(usd=1.0)])
    account = log.accounts["anonymous"]
    log.reserve(account, "one", "a", 0.25)
    log.served(account, 0.25, 0.125, {"id": "one"})
    log.reserve(account, "two", "a", 0.5)
    with pytest.raises(Refusal, match=r"0\.375"):
        log.reserve(account, "three", "a", 0.5)
    with pytest.raises(LogError, match="another server"):
        Log(Run(tmp_path / "served"))
    log.close()
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(lines[0] + lines[2] + lines[2][:30])  # a line was lost, another is half written
    again = Log(Run(tmp_path / "served"), [Account(usd=1.0)])
    assert again.accounts["anonymous"].charged == 0.625e12, "by the totals in later lines"
    again.served(again.accounts["anonymous"], 0.0, 0.0, {"id": "four"})
    again.close()
    assert [r["id"] for r in served(log.run)] == ["four"]


def test_exploring_notes_the_chances_of_every_model(tmp_path):
    async def scenario():
        async with FakeModel() as up, serving(tmp_path, pool_of(up, "a", "b"), explore=0.5) as (url, server, client):
            for _ in range(60):
                await ask(client, url)
            records = served(server.log.run)
            assert all(r["propensity"] == {"a": 0.75, "b": 0.25} for r in records)
            assert 5 <= sum(r["used"] == "b" for r in records) <= 27

    asyncio.run(scenario())
