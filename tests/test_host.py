"""The small host: a transformers model behind OpenAI's chat completions, its tool calls held to their schemas."""

import asyncio
import json

import aiohttp
import pytest
import torch
from aiohttp import web

from routerlab.core.runs import root
from routerlab.serve.host import Host, HostError

TOOL = {
    "type": "function",
    "function": {
        "name": "call_small",
        "parameters": {"type": "object", "properties": {"heat": {"enum": [0, 1]}}, "required": ["heat"]},
    },
}


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    """A model with random weights and a token for each byte: what it writes is noise, unless a grammar holds it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("random") / "noise"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE({c: i for i, c in enumerate([*alphabet, "<eos>"])}, []))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=257, **shape, max_position_embeddings=2048, eos_token_id=256)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_tool_calls_follow_their_schema_whatever_the_model_would_write(random_model):
    host = Host(str(random_model))
    asked = {"messages": [{"role": "user", "content": "hi"}], "tools": [TOOL], "max_tokens": 200}
    for seed in range(3):
        answer = host.answer({**asked, "tool_choice": "required", "temperature": 1.0, "seed": seed})
        choice = answer["choices"][0]
        (call,) = choice["message"]["tool_calls"]
        assert call["function"]["name"] == "call_small"
        assert json.loads(call["function"]["arguments"])["heat"] in (0, 1)
        assert choice["finish_reason"] == "tool_calls"
    form = {"type": "json_schema", "json_schema": {"schema": {"enum": ["yes", "no"]}}}
    text = host.answer({"messages": asked["messages"], "response_format": form})["choices"][0]["message"]["content"]
    assert json.loads(text) in ("yes", "no")
    plain = host.answer({"messages": asked["messages"], "max_tokens": 5})
    assert plain["usage"]["completion_tokens"] == 5
    assert plain["choices"][0]["finish_reason"] == "length"
    with pytest.raises(ValueError, match="context length"):
        host.answer({"messages": [{"role": "user", "content": "x" * 5000}]})


def test_an_embedded_model_is_hosted_whole_and_streamed():
    async def scenario():
        host = Host(str(root() / "data" / "pocket" / "models" / "pocket-mini"))
        runner = web.AppRunner(host.app())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/chat/completions"
        body = {"messages": [{"role": "user", "content": "Spell this word backward (example: sun -> nus): suz"}]}
        async with aiohttp.ClientSession() as client:
            async with client.post(url, json=body) as answer:
                whole = (await answer.json())["choices"][0]
            async with client.post(url, json={**body, "stream": True}) as answer:
                events = (await answer.text()).split("\n\n")
            async with client.post(url, json={"messages": 5}) as answer:
                assert answer.status == 400
        await runner.cleanup()
        assert whole["finish_reason"] == "stop"
        assert "zus" in whole["message"]["content"]
        assert json.loads(events[0][6:])["choices"][0]["delta"]["content"] == whole["message"]["content"]

    asyncio.run(scenario())


def test_a_model_that_is_not_here_names_the_cure(tmp_path):
    with pytest.raises(HostError, match="hf download"):
        Host(str(tmp_path / "nothing"))
