"""What hostile or broken models and clients do to the server: it never answers 500, and its books stay right."""

import asyncio
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading

import aiohttp
import pytest
from aiohttp import web

from routerlab import Pool
from routerlab.routers.baselines import Always
from routerlab.serve import app, choose, offline
from routerlab.serve.agent import Agent, router_card
from routerlab.serve.log import Account, served
from routerlab.serve.policies import PolicyError, PolicyMap
from tests.fake_model import FakeModel
from tests.test_serve import HELLO, ask, pool_of, said, serving, stream, until


@contextlib.asynccontextmanager
async def raw(content: bytes, kind: str = "application/json"):
    """A model server that answers every request with these bytes; gives its URL."""

    async def answer(request):
        return web.Response(body=content, content_type=kind)

    server = web.Application()
    server.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(server, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def whole(message: str, more: str = '"finish_reason": "stop"') -> bytes:
    return f'{{"choices": [{{"index": 0, "message": {message}, {more}}}]}}'.encode()


BROKEN = {
    "a list": b"[]",
    "a number": b"5",
    "choices are a number": b'{"choices": 5}',
    "choices are texts": b'{"choices": ["stop"]}',
    "no choices": b'{"choices": []}',
    "the message is a text": whole('"yes"'),
    "tool calls are a number": whole('{"tool_calls": 5}'),
    "tool calls are texts": whole('{"tool_calls": ["call_a"]}'),
    "finish_reason is an object": whole('{"content": "x"}', '"finish_reason": {"a": 1}'),
    "half a surrogate pair": whole('{"content": "\\ud800"}'),
    "nested to the parser's limit": whole('{"content": "x"}', '"finish_reason": "stop", "y": ' + "[" * 600 + "]" * 600),
    "nested deeply": whole('{"content": "x"}', '"finish_reason": "stop", "y": ' + "[" * 100_000 + "]" * 100_000),
    "an error with status 200": b'{"error": "no capacity"}',
    "bad UTF-8": whole('{"content": "x"}').replace(b"x", b"\xff"),
    "not JSON": b"<html>busy</html>",
    "nothing": b"",
}


@pytest.mark.parametrize("streamed", [False, True])
def test_another_model_answers_if_one_sends_nonsense(tmp_path, streamed):
    async def scenario(name, content):
        kind = "text/event-stream" if streamed else "application/json"
        content = b"data: " + content + b"\n\n" if streamed else content
        async with FakeModel() as up, raw(content, kind) as strange:
            cards = [*pool_of(strange, "a").cards, *pool_of(up, "b").cards]
            async with serving(tmp_path / name, Pool("two", cards), timeout_s=10) as (url, _, client):
                if streamed:
                    assert said(await stream(client, url)) == "b heard: hello there", name
                else:
                    status, headers, body = await ask(client, url)
                    assert (status, body["model"]) == (200, "b"), name
                    assert headers["x-router-fallback"].startswith("a: "), name

    async def every():
        for name, content in BROKEN.items():
            await scenario(name, content)
        if streamed:
            await scenario("a line of 5 MB", whole('{"content": "' + "x" * 5_000_000 + '"}'))

    asyncio.run(every())


def test_a_stream_without_end_is_cut_off(tmp_path):
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "' + b"x" * 100_000 + b'"}}]}\n\n'

    async def scenario():
        async with raw(event * 400, "text/event-stream") as up, serving(tmp_path, pool_of(up, "a")) as (url, _, client):
            events = await stream(client, url)
            assert events[-1]["error"]["code"] == "too_large"
            assert 300 < len(events) < 340, "32 MiB"

    asyncio.run(scenario())


def test_a_router_model_that_sends_nonsense_is_replaced_by_the_default(tmp_path):
    texts_in_parts = whole('{"content": [{"type": "text", "text": "four"}]}')

    async def scenario(name, content, used):
        async with FakeModel() as up, raw(content) as strange:
            agent = Agent(router_card("actor", strange, "0,0"), pool_of(up, "b", "a"))
            async with serving(tmp_path / name, agent.pool, agent=agent) as (url, _, client):
                status, _, body = await ask(client, url)
                assert (status, body["model"]) == (200, used), name

    async def every():
        for name, content in BROKEN.items():
            await scenario(name, content, "a")
        await scenario("text in parts", texts_in_parts, "actor")

    asyncio.run(every())


def test_a_request_that_cannot_be_logged_is_refused_before_any_call(tmp_path):
    """orjson reads deeper objects than it writes: such metadata would have been lost from the log after a paid call."""

    async def scenario():
        fake = FakeModel()
        async with fake as up, serving(tmp_path, pool_of(up, "a")) as (url, server, client):
            nested = "[" * 300 + "]" * 300
            body = f'{{"messages": {json.dumps(HELLO["messages"])}, "metadata": {{"x": {nested}}}}}'
            assert (await ask(client, url, body.encode()))[0] == 400
            body = {**HELLO, "metadata": {"reference": "x", "verifier": "no such verifier"}}
            assert (await ask(client, url, body))[0] == 200
            assert len(fake.seen) == 1
        data = offline.to_table(server.log.run, server.pool)
        assert [*data.table.rows["error"].to_pylist()] == ["ungraded"]

    asyncio.run(scenario())


def test_a_client_that_stops_reading_is_cut_off_at_the_deadline(tmp_path):
    async def scenario():
        long = {"role": "assistant", "content": " ".join(["x" * 50_000] * 800)}  # more than sockets hold
        fake = FakeModel(answers=lambda body: long)
        async with fake as up, serving(tmp_path, pool_of(up, "a"), timeout_s=1.5) as (url, server, client):
            answer = await client.post(f"{url}/v1/chat/completions", json={**HELLO, "stream": True})
            await answer.content.readline()  # and no more
            await until(lambda: server.flying == 0 and fake.flying == 0, 20)
            (record,) = served(server.log.run)
            assert record["calls"][0]["status"] == "timeout"
            rest = b""
            with contextlib.suppress(aiohttp.ClientError):  # cut off, or ended by an error: nothing of another answer
                async for chunk in answer.content.iter_any():
                    rest += chunk
            assert b"HTTP/1.1" not in rest
            assert b"[DONE]" not in rest
            assert len(rest) < 30_000_000, "not the whole answer"
            async with aiohttp.ClientSession() as another:
                assert (await ask(another, url, {**HELLO, "max_tokens": 2}))[0] == 200

    asyncio.run(scenario())


async def trickling(url: str, body: bytes, pause_s: float) -> bytes:
    """Send a request whose body comes a byte at a time over a socket of its own; what the server answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode())
    received = bytearray()

    async def read():
        with contextlib.suppress(ConnectionError):  # it may close while we still send
            while part := await reader.read(2**16):
                received.extend(part)

    answer = asyncio.ensure_future(read())
    with contextlib.suppress(ConnectionError):
        for place in range(len(body)):
            if answer.done():
                break
            writer.write(body[place : place + 1])
            await writer.drain()
            await asyncio.sleep(pause_s)
    try:
        await asyncio.wait_for(answer, 30)
        return bytes(received)
    finally:
        writer.close()


def test_bodies_that_trickle_in_take_no_place_from_others(tmp_path):
    """Thirty slow clients of a server with four places: they get 408, everybody else an answer meanwhile."""
    body = json.dumps(HELLO).encode()

    async def scenario():
        limits = {"most_at_once": 4, "body_s": 1.0}
        async with FakeModel() as up, serving(tmp_path, pool_of(up, "a"), **limits) as (url, server, client):
            slow = [asyncio.ensure_future(trickling(url, body * 100, 0.05)) for _ in range(30)]
            await asyncio.sleep(0.3)
            for _ in range(10):
                assert (await ask(client, url))[0] == 200
                assert server.flying == 0
            assert not any(task.done() for task in slow), "they were still sending"
            for answer in await asyncio.wait_for(asyncio.gather(*slow), 30):
                assert answer.startswith(b"HTTP/1.1 408 ")
                assert b"did not arrive within 1 s" in answer
            assert b" 200 OK" in await trickling(url, body, 0.002), "slow, but in time"
            await until(lambda: server.flying == 0, 5)
            assert len(served(server.log.run)) == 11

    asyncio.run(scenario())


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing_behind(tmp_path):
    async def scenario():
        async with FakeModel() as up, serving(tmp_path, pool_of(up, "a"), most_at_once=1) as (url, server, client):
            for _ in range(5):
                _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
                writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
                await writer.drain()
                writer.transport.abort()
            assert (await ask(client, url))[0] == 200
            assert len(served(server.log.run)) == 1
            assert server.flying == 0

    asyncio.run(scenario())


class Stuck:
    name = "stuck"

    def __init__(self) -> None:
        self.go, self.asked = threading.Event(), 0

    def route(self, queries, pool, answers=None):
        self.asked += 1
        self.go.wait(30)
        return Always("a").route(queries, pool)


def test_a_router_that_hangs_is_waited_for_once(tmp_path, monkeypatch):
    monkeypatch.setattr(choose, "_LONGEST_S", 0.2)
    stuck = Stuck()

    async def scenario():
        async with FakeModel() as up, serving(tmp_path, pool_of(up, "a", "b"), stuck) as (url, server, client):
            for _ in range(5):
                status, headers, body = await ask(client, url)
                assert (status, body["model"], headers["x-router-fallback"]) == (200, "b", "router: TimeoutError")
            assert stuck.asked == 1
            assert not server.chooser._next, "no question waits for it"
            stuck.go.set()
            await until(lambda: not server.chooser._one_batch.locked(), 5)
            assert (await ask(client, url))[2]["model"] == "a"

    try:
        asyncio.run(scenario())
    finally:
        stuck.go.set()


def test_the_books_balance_when_clients_leave_256_streams(tmp_path):
    async def scenario():
        fake, keys = FakeModel(wait_s=0.02), [Account(usd=0.02)]
        async with fake as up, serving(tmp_path, pool_of(up, "a~5%", "b"), keys=keys) as (url, server, client):
            account, most = server.log.accounts["anonymous"], 0

            async def one(number):
                body = {**HELLO, "stream": number % 2 == 0, "max_tokens": 60}
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with client.post(f"{url}/v1/chat/completions", json=body) as answer:
                        if number % 3:
                            await answer.read()

            asked = [asyncio.ensure_future(one(number)) for number in range(256)]
            while not all(task.done() for task in asked):
                most = max(most, account.charged)
                await asyncio.sleep(0.002)
            await until(lambda: server.flying == 0, 5)
            assert most <= 0.02e12
            records = served(server.log.run)
            assert len({r["id"] for r in records}) == len(records)
            charged = sum(c["cost"] for r in records for c in r["calls"])
            assert account.charged == pytest.approx(charged * 1e12, abs=len(records) * 3)

    asyncio.run(scenario())


def test_tokens_of_the_last_minute_free_none_of_this_one():
    account = Account(tokens_per_minute=100)
    before = account.count(0, 90)
    account.minute -= 1  # a minute passes
    now = account.count(0, 60)
    account.refund(before - 1, 80)
    assert account.tokens == 60
    account.refund(now, 50)
    assert account.tokens == 10


def test_a_policy_file_that_is_gone_is_not_replaced_by_a_shipped_one(tmp_path):
    pool = Pool.load("pocket")
    with pytest.raises(PolicyError, match="cannot be read"):
        PolicyMap.load(tmp_path / "hybrid.yaml", pool)
    assert PolicyMap.load("hybrid", pool).name == "hybrid"
    (tmp_path / "map.yaml").write_text("else: pocket-mini\n1: pocket-mini\n")
    with pytest.raises(PolicyError, match="'1' was unexpected"):
        PolicyMap.load(tmp_path / "map.yaml", pool)
    (tmp_path / "map.yaml").write_text("else: 2026-01-01\n")
    with pytest.raises(PolicyError, match="TypeError"):
        PolicyMap.load(tmp_path / "map.yaml", pool)


def test_metrics_warn_where_a_provider_charges_other_than_its_card_says(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "DRIFT_S", 0.0)
    usage = b', "usage": {"prompt_tokens": 10, "completion_tokens": 2}, "router_metadata": {"total_cost": 0.5}}'
    body = whole('{"content": "dear"}')[:-1] + usage

    async def scenario():
        async with raw(body) as up, serving(tmp_path, pool_of(up, "a")) as (url, server, client):

            async def metrics():
                async with client.get(f"{url}/metrics") as answer:
                    return await answer.text()

            server.drift = lambda: offline.watch(server.log.run, server.pool, "a", "pocket")
            assert "# drift" not in await metrics()
            await until(lambda: server._looking is None, 10)
            assert (await ask(client, url))[2]["router_metadata"]["total_cost"] == 0.5
            await metrics()
            await until(lambda: server._looking is None, 10)
            text = await metrics()
            assert "# drift: a was charged US$ 0.5 where its card says 1.4e-05\n" in text
            assert "routerlab_drift_warnings 1.0" in text

    asyncio.run(scenario())


def test_the_served_document_holds_by_schemathesis(tmp_path):
    """Requests made from the OpenAPI document, valid and not: no status 500, and answers of the documented form."""
    if importlib.util.find_spec("schemathesis") is None:
        pytest.skip("schemathesis is not installed: pip install schemathesis")
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    flags = ["--checks", checks, "--max-examples", "40", "--seed", "1", "--no-color", "--generation-database", "none"]

    async def scenario():
        async with FakeModel() as up, serving(tmp_path, pool_of(up, "a", "b")) as (url, _, _):
            command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", *flags]
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, cwd=tmp_path, env=os.environ, timeout=240
            )
            assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]

    asyncio.run(scenario())
