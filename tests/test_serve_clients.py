"""Real clients and whole processes: the openai client, a router that calls tools, policy maps, the command line."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import aiohttp
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerlab import Pool, Run, cli
from routerlab.cli import serve as serve_verbs
from routerlab.label.oracle import Policy
from routerlab.routers.baselines import Always
from routerlab.serve.agent import Agent, router_card
from routerlab.serve.log import Account, Log, LogError, served
from routerlab.serve.offline import evaluate_log, to_table
from routerlab.serve.policies import PolicyError, PolicyMap
from tests.fake_model import FakeModel
from tests.test_serve import HELLO, ask, pool_of, said, serving, stream

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def test_the_openai_client_whole_streamed_and_with_tools(tmp_path):
    async def scenario():
        async with FakeModel() as up, serving(tmp_path, pool_of(up, "a", "b")) as (url, _, _):
            client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
            hello = HELLO["messages"]
            whole = await client.chat.completions.create(model="router", messages=hello)
            assert whole.choices[0].message.content == "a heard: hello there"
            assert whole.router_metadata["model_used"] == "a"
            chunks = [c async for c in await client.chat.completions.create(model="b", messages=hello, stream=True)]
            assert "".join(c.choices[0].delta.content or "" for c in chunks) == "b heard: hello there"
            assert chunks[-1].router_metadata["total_cost"] > 0
            for streamed in (False, True):
                answer = await client.chat.completions.create(
                    model="router", messages=hello, tools=[WEATHER], stream=streamed
                )
                if streamed:
                    (call,) = [c.choices[0].delta.tool_calls[0] async for c in answer if c.choices[0].delta.tool_calls]
                else:
                    (call,) = answer.choices[0].message.tool_calls
                    assert answer.choices[0].finish_reason == "tool_calls"
                assert call.function.name == "weather"
                assert json.loads(call.function.arguments) == {"city": "Bern"}
            turn = [*hello, {"role": "assistant", "tool_calls": [call.model_dump(exclude={"index"})]}]
            turn += [{"role": "tool", "tool_call_id": call.id, "content": "rain"}]
            last = await client.chat.completions.create(model="router", messages=turn, tools=[WEATHER])
            assert last.choices[0].message.content == "a heard: rain"
            assert [m.id for m in (await client.models.list()).data] == ["router", "router-tool-rl", "a", "b"]
            with pytest.raises(openai.NotFoundError, match="router@LAMBDA"):
                await client.chat.completions.create(model="gpt-9", messages=hello)

            def in_a_thread():
                plain = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
                return plain.chat.completions.create(model="router", messages=hello, max_tokens=2)

            assert (await asyncio.to_thread(in_a_thread)).choices[0].finish_reason == "length"

    asyncio.run(scenario())


def call_of(name, **arguments):
    return {"id": name, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def router_that(*turns):
    """A router model that takes these turns, one after the other; each is a text or a list of tool calls."""

    def answer(body):
        taken = sum(m["role"] == "assistant" for m in body["messages"])
        turn = turns[min(taken, len(turns) - 1)]
        if isinstance(turn, str):
            return {"role": "assistant", "content": turn}
        return {"role": "assistant", "content": None, "tool_calls": turn}

    return FakeModel(answers=answer)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_router_that_calls_two_models_and_selects_one(tmp_path, streamed):
    both = [call_of("call_a", system_prompt="be brief", temperature=0.3), call_of("call_b"), call_of("call_c")]

    async def scenario():
        models, router = FakeModel(), router_that(both, [call_of("select_response", call=2)])
        async with models as up, router as url_of_router:
            pool = pool_of(up, "a", "b", "c~500")
            agent = Agent(router_card("actor", url_of_router, "1,1"), pool)
            async with serving(tmp_path, pool, agent=agent, debug=True) as (url, _server, client):
                if streamed:
                    events = await stream(client, url)
                    text, about = said(events), events[-2]["router_metadata"]
                else:
                    _, _, body = await ask(client, url)
                    text, about = body["choices"][0]["message"]["content"], body["router_metadata"]
                assert (text, about["model_used"], about["turns_used"]) == ("b heard: hello there", "b", 2)
                assert [c["model"] for c in about["call_history"]] == ["actor", "a", "b", "c", "actor"]
                assert [c["status"] for c in about["call_history"]] == ["ok", "ok", "ok", "server_error", "ok"]
                assert about["router_cost"] == pytest.approx(2 * 11e-6)
                assert about["total_cost"] == pytest.approx(sum(c["cost"] for c in about["call_history"]))
                assert about["call_history"][2]["answer"] == "b heard: hello there"
                to_a = next(s for s in models.seen if s["model"] == "a")
                assert to_a["messages"][0] == {"role": "system", "content": "be brief"}
                assert to_a["temperature"] == 0.3
                seen = router.seen[1]["messages"]
                assert '"error"' in seen[-1]["content"]
                assert "b heard" in seen[-2]["content"]
                async with client.get(f"{url}/debug/tools") as answer:
                    names = [t["function"]["name"] for t in (await answer.json())["tools"]]
                assert names == ["call_a", "call_b", "call_c", "select_response"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("turns", "mode", "answer", "used"),
    [
        (("four",), "agent", "four", "actor"),
        (([call_of("call_b")],), "simple", "b heard: hello there", "b"),
        (([call_of("call_nobody")], "so be it"), "agent", "so be it", "actor"),
        (([call_of("select_response", call=9)],), "agent", "a heard: hello there", "a"),  # the default model
        (([{"id": "1", "function": "?"}],), "agent", "a heard: hello there", "a"),
    ],
)
def test_other_ends_of_an_agent(tmp_path, turns, mode, answer, used):
    async def scenario():
        async with FakeModel() as up, router_that(*turns) as url_of_router:
            pool = pool_of(up, "b", "a")
            agent = Agent(router_card("actor", url_of_router, "0,0"), pool, mode)
            async with serving(tmp_path, pool, agent=agent) as (url, _, client):
                _, headers, body = await ask(client, url)
                assert body["choices"][0]["message"]["content"] == answer
                assert body["router_metadata"]["model_used"] == used
                assert ("x-router-fallback" in headers) == (used == "a")

    asyncio.run(scenario())


def test_a_dead_router_model_is_replaced_by_the_default(tmp_path):
    async def scenario():
        async with FakeModel() as up:
            pool = pool_of(up, "b", "a")
            agent = Agent(router_card("actor", "http://127.0.0.1:9/v1", "0,0"), pool)
            async with serving(tmp_path, pool, agent=agent) as (url, _, client):
                status, headers, body = await ask(client, url)
                assert (status, body["model"], headers["x-router-fallback"]) == (200, "a", "router: unreachable")

    asyncio.run(scenario())


def question(text):
    from routerlab import Query

    return Query.ask(text)


def test_policy_maps():
    pool = Pool.load("pocket")
    hybrid = PolicyMap.load("hybrid.yaml", pool)
    assert hybrid.choose(question("Sort these words"), pool) == ("pocket-words", "keywords")
    assert hybrid.choose(question("What is 3 + 4?"), pool) == ("pocket-think", "math")
    assert hybrid.choose(question("x " * 200), pool) == ("pocket-max", "longer")
    assert hybrid.choose(question("Hello"), pool) == ("pocket-mini", "else")
    assert hybrid.choose(question("What is 3 + 4?"), pool, 0.85) == ("pocket-mini", "downgrade at 0.8")
    assert hybrid.choose(question("Sort these words"), pool, 0.85) == ("pocket-words", "keywords"), "cheaper already"
    budget = PolicyMap.load("budget.yaml", pool)
    chosen = [budget.choose(question("x"), pool, share)[0] for share in (0, 0.49, 0.5, 0.89, 0.9, 1)]
    assert chosen == ["pocket-think"] * 2 + ["pocket-mini"] * 2 + ["pocket-nano"] * 2
    by_policy = replace(PolicyMap.load("policies.yaml", pool), policy=lambda query: Policy.COMPLEX)
    assert by_policy.choose(question("x"), pool) == ("pocket-think", "policy")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rules: []", "else"),
        ("else: gpt-9", "not in pool"),
        ("else: pocket-mini\nrules: [{math: {model: gpt-9}}]", "not in pool"),
        ("else: pocket-mini\nrules: [{shorter: {model: pocket-mini}}]", "shorter"),
        ("else: pocket-mini\ndowngrade: {2: pocket-nano}", "2"),
        ("else: [", "ScannerError|ParserError"),
        ("[" * 5000, "Error"),
    ],
)
def test_a_bad_policy_map_is_refused(tmp_path, text, why):
    file = tmp_path / "map.yaml"
    file.write_text(text)
    with pytest.raises(PolicyError, match=why):
        PolicyMap.load(file, Pool.load("pocket"))


class Process:
    """`routerlab` as a process: its first line is its URL."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "routerlab.cli", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out + err


def test_a_server_process_from_start_to_end(tmp_path):
    """One process: an answer, a new policy map, a bad one, a request that is answered while it stops, its table."""
    policy, run = tmp_path / "map.yaml", tmp_path / "run"
    policy.write_text("else: a")

    async def scenario():
        fake = FakeModel(wait_s=0.3)
        async with fake as up:
            (tmp_path / "pool.yaml").write_text(pool_of(up, "a", "b").to_yaml())
            arguments = ("serve", "--router", policy, "--pool", tmp_path / "pool.yaml", "--run", run, "--port", 0)
            server = await asyncio.to_thread(Process, *arguments)
            url = server.url.removesuffix("/v1")
            async with aiohttp.ClientSession() as client:

                async def used(**more):
                    return (await ask(client, url, HELLO | more))[2]["router_metadata"]["model_used"]

                about = {"reference": "a heard: hello there"}
                assert await used(metadata=about) == "a"
                assert "metadata" not in fake.seen[0], "the reference is not shown to the model"
                for text, wanted in (("else: b", "b"), ("else: nobody", "b")):
                    policy.write_text(text)
                    server.process.send_signal(signal.SIGHUP)
                    await asyncio.sleep(0.3)
                    assert await used() == wanted
                port = url.rpartition(":")[2]
                taken = await asyncio.to_thread(
                    subprocess.run,
                    [
                        sys.executable,
                        "-m",
                        "routerlab.cli",
                        "serve",
                        "--router",
                        "pocket-nano",
                        "--run",
                        run.parent / "2",
                        "--port",
                        port,
                    ],
                    capture_output=True,
                    text=True,
                )
                assert taken.returncode == 1
                assert f"kill {server.process.pid}" in taken.stderr
                last = asyncio.ensure_future(used())
                await asyncio.sleep(0.15)
                status, said_last = await asyncio.to_thread(server.end)
                assert await last == "b"
            assert status == 0
            assert "the present policy map stays" in said_last

    asyncio.run(scenario())
    table = cli.main(["show", str(run)])
    assert table == 0
    from routerlab import recorded

    data = recorded(run)
    assert len(data.table) == 4
    assert [*data.table.matrix("quality")[:, 0]].count(1.0) == 1, "graded by its reference"


def test_sigterm_lets_streams_end_and_waits_for_nothing_else(tmp_path):
    """One process at its end: a stream goes on to its last word, a hanging call and a body that never comes are given
    up at their limits, new requests are sent elsewhere, and all of it is in the books."""
    words, seconds = " ".join(["word"] * 40), {}

    async def scenario():
        async with FakeModel() as up:
            (tmp_path / "pool.yaml").write_text(pool_of(up, "a~slow", "b~hang").to_yaml())
            flags = ["--pool", tmp_path / "pool.yaml", "--run", tmp_path / "run", "--port", 0, "--timeout", 8]
            server = await asyncio.to_thread(Process, "serve", "--router", "a", *flags)
            url = server.url.removesuffix("/v1")
            port = int(url.rpartition(":")[2])
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
            async with aiohttp.ClientSession() as client, aiohttp.ClientSession() as other:
                hanging = asyncio.ensure_future(ask(other, url, HELLO | {"model": "b"}))
                body = {"model": "a", "messages": [{"role": "user", "content": words}], "stream": True}
                async with client.post(f"{url}/v1/chat/completions", json=body) as answer:
                    events = [await answer.content.readline() for _ in range(6)]
                    server.process.send_signal(signal.SIGTERM)
                    stopped = time.monotonic()
                    await asyncio.sleep(0.3)
                    with pytest.raises(aiohttp.ClientError):
                        async with aiohttp.ClientSession() as new:
                            await ask(new, url)
                    assert server.process.poll() is None
                    events += [line async for line in answer.content]
                seconds["stream"] = time.monotonic() - stopped
                status, _, refused = await hanging
                assert (status, refused["router_metadata"]["call_history"][0]["status"]) == (504, "timeout")
                code = await asyncio.to_thread(server.process.wait, 30)
                seconds["process"] = time.monotonic() - stopped
            writer.close()
            assert code == 0
            told = [json.loads(e[6:]) for e in events if e.startswith(b"data: {")]
            assert said(told) == "a heard: " + words
            assert told[-1]["router_metadata"]["model_used"] == "a"
            assert events[-2:] == [b"data: [DONE]\n", b"\n"]

    asyncio.run(scenario())
    assert seconds["stream"] < 7
    assert seconds["process"] < 15
    records = {r["asked"]: r for r in served(Run(tmp_path / "run"))}
    assert {m: r["status"] for m, r in records.items()} == {"a": 200, "b": 504}
    assert records["a"]["answer"] == "a heard: " + words
    log = Log(Run(tmp_path / "run"), [Account(usd=1.0)])
    charged = sum(call["cost"] for record in records.values() for call in record["calls"])
    assert log.accounts["anonymous"].charged == pytest.approx(charged * 1e12, abs=5)
    log.close()


def test_killed_and_started_again_the_budget_goes_on(tmp_path):
    async def scenario():
        async with FakeModel(wait_s=30) as up:
            pool = pool_of(up, "a")
            (tmp_path / "pool.yaml").write_text(pool.to_yaml())
            server = await asyncio.to_thread(
                Process,
                "serve",
                "--router",
                "a",
                "--pool",
                tmp_path / "pool.yaml",
                "--run",
                tmp_path / "r",
                "--port",
                0,
            )
            async with aiohttp.ClientSession() as client:
                asking = asyncio.ensure_future(ask(client, server.url.removesuffix("/v1")))
                end = time.monotonic() + 20
                while b'"call"' not in (tmp_path / "r" / "served.jsonl").read_bytes() and time.monotonic() < end:
                    await asyncio.sleep(0.05)
                await asyncio.to_thread(server.end, signal.SIGKILL)
                with pytest.raises(aiohttp.ClientError):
                    await asking
        log = Log(Run(tmp_path / "r"), [Account(usd=1.0)])
        assert log.accounts["anonymous"].charged > 8e9, "the call in flight stays charged at its reservation"
        log.close()

    asyncio.run(scenario())


def test_a_log_tells_what_another_router_would_have_reached(tmp_path):
    """Model b is right and a is wrong; half the requests explore."""

    async def scenario():
        def answers(body):
            return {"role": "assistant", "content": "7" if body["model"] == "b" else "8"}

        async with FakeModel(answers=answers) as up:
            pool = pool_of(up, "a", "b", "c")
            async with serving(tmp_path, pool, explore=0.5) as (url, server, client):
                for number in range(300):
                    about = {"reference": "7", "verifier": "numeric"}
                    body = {"messages": [{"role": "user", "content": f"question {number}"}], "metadata": about}
                    assert (await ask(client, url, body))[0] == 200
        data = to_table(server.log.run, pool)
        assert (~data.table.grades().astype(bool)).sum() == 600, "models that were not asked are missing"
        right, wrong = evaluate_log(server.log.run, data, [Always("b"), Always("a")])
        assert right[1].dr.low <= 1 <= right[1].dr.high
        assert right[2].dr.mean == pytest.approx((10 * 2 + 4) / 1e6)
        assert wrong[1].dr.mean == wrong[1].ips.mean == 0
        assert 30 < right[1].requests < wrong[1].requests

    asyncio.run(scenario())


def test_without_exploring_the_log_refuses_to_tell(tmp_path):
    async def scenario():
        async with FakeModel() as up:
            pool = pool_of(up, "a", "b")
            async with serving(tmp_path, pool) as (url, server, client):
                await ask(client, url, HELLO | {"metadata": {"reference": "x"}})
        data = to_table(server.log.run, pool)
        ((_, quality, _, why),) = evaluate_log(server.log.run, data, [Always("b")])
        assert quality is None
        assert "--explore" in why
        (tmp_path / "served" / "served.jsonl").write_bytes(b"")
        with pytest.raises(LogError, match="no answers yet"):
            to_table(server.log.run, pool)

    asyncio.run(scenario())


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ("model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "stop", "seed", "n", "tools")
FIELDS += ("tool_choice", "response_format", "metadata", "logprobs", "user")
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system"])}, optional={"content": ANY, "tool_calls": ANY}
)


def test_no_body_is_answered_with_status_500(tmp_path):
    """Bodies near valid ones and bodies far from it, against the embedded models and against a server."""
    bodies = st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=4).flatmap(
        lambda more: st.lists(MESSAGE | ANY, max_size=3).map(lambda messages: {"messages": messages} | more)
    )
    statuses = []

    async def scenario():
        async with FakeModel() as up:
            cards = [*Pool.load("pocket").subset(["pocket-nano"]).cards, *pool_of(up, "a").cards]
            async with serving(tmp_path, Pool("both", cards), timeout_s=20) as (url, _, client):
                loop = asyncio.get_running_loop()

                async def send(body):
                    data = json.dumps(body).encode("utf-8", "surrogatepass")
                    async with client.post(f"{url}/v1/chat/completions", data=data) as answer:
                        await answer.read()
                        statuses.append(answer.status)
                        assert answer.status != 500, body

                @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
                @given(bodies | ANY)
                def fuzz(body):
                    asyncio.run_coroutine_threadsafe(send(body), loop).result(30)

                await asyncio.to_thread(fuzz)

    asyncio.run(scenario())
    assert {200, 400} <= set(statuses)


def test_a_litellm_router_adopts_a_policy_map(tmp_path):
    from routerlab.collect.providers import load_litellm

    litellm = load_litellm()
    from routerlab.serve.litellm_plugin import RouterLabStrategy

    async def scenario():
        async with FakeModel() as up:
            pool = pool_of(up, "a", "b")
            (tmp_path / "map.yaml").write_text("rules:\n- keywords: {words: [hello], model: b}\nelse: a")
            models = [
                {
                    "model_name": "router",
                    "litellm_params": {"model": f"openai/{m}", "api_base": up, "api_key": "none"},
                    "model_info": {"id": m},
                }
                for m in pool.ids
            ]
            router = litellm.Router(model_list=models, num_retries=0)
            policy = PolicyMap.load(tmp_path / "map.yaml", pool)
            router.set_custom_routing_strategy(RouterLabStrategy(policy, pool, router))
            for text, wanted in (("hello there", "b"), ("good morning", "a")):
                answer = await router.acompletion(model="router", messages=[{"role": "user", "content": text}])
                assert answer.choices[0].message.content == f"{wanted} heard: {text}"

    asyncio.run(scenario())


def test_the_served_router_chooses_what_the_trained_actor_chooses(tmp_path, pocket):
    """200 test questions, all at once: those that arrive while the router decides are decided together."""
    from routerlab.core.runs import root
    from routerlab.serve.choose import open_router

    test = pocket.split("test")
    actor = open_router(str(root() / "data" / "pocket" / "actor" / "known"), test.pool, lam=2000.0)
    queries = test.queries[:200]

    async def scenario():
        async with FakeModel() as up:
            day = test.pool.cards[0].as_of
            cards = [replace(c, provider_id=c.id, base_url=up, as_of=day, context=4096) for c in test.pool]
            async with serving(tmp_path, Pool("pocket", cards), actor) as (url, _, client):
                bodies = [{"messages": [dict(m) for m in q.messages]} for q in queries]
                answers = await asyncio.gather(*(ask(client, url, body) for body in bodies))
        return [body["model"] for _, _, body in answers]

    here = actor.route(queries, test.pool)
    assert asyncio.run(scenario()) == [test.pool.ids[c] for c in here.choice]


def test_smoke_passes_against_the_default_server_and_fails_where_the_bill_is_wrong(tmp_path, capsys):
    """The trained actor over the embedded pool, whose own cost is billed: every scenario, whole and streamed."""
    server = Process("serve", "--run", tmp_path / "run", "--port", 0)
    try:
        assert cli.main(["smoke", "--url", server.url]) == 0
        assert capsys.readouterr().out.count("True") >= 16
        bill = {"total_cost": 3.0, "router_cost": 1.0, "target_models_cost": 2.0}
        calls = [{"role": "router", "cost": 1.0}, {"role": "target", "cost": 2.0}]
        assert serve_verbs._adds_up(bill | {"call_history": calls})
        assert not serve_verbs._adds_up(bill | {"call_history": calls[:1]})
        assert not serve_verbs._adds_up(bill | {"call_history": calls, "total_cost": 2.0})
    finally:
        server.process.terminate()
        server.process.wait(30)
