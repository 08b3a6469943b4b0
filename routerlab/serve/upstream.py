"""Sending a chat request on to a model: an embedded one here, a server that speaks OpenAI's API, or litellm."""

import functools
import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

from routerlab.collect.backends import PocketBackend
from routerlab.collect.calls import Call, CallError, Reply, Scope, from_exception, from_status
from routerlab.collect.completion import read_completion
from routerlab.collect.providers import checked_url, load_litellm
from routerlab.core.pools import ModelCard, Pool
from routerlab.core.runs import root

_address = functools.cache(checked_url)
MOST_BYTES = 2**25  # of an answer; a longer one is cut off, for it would fill the memory


class Upstream:
    """`base_url` is for models whose card has no address of its own; without either, litellm sends the request.
    `key_env` names the environment variable with the key, unless a card names one.
    """

    def __init__(self, base_url: str = "", key_env: str = "") -> None:
        self.base_url, self.key_env = checked_url(base_url) if base_url else "", key_env
        self.pocket = PocketBackend()
        self._session: Any = None

    async def warm_up(self, pool: Pool) -> None:
        """Ask each embedded model once, which reads it from the disk."""
        for card in pool:
            if card.provider_id.startswith("pocket/"):
                await self.pocket.answer([Call("", card.id, card.provider_id, ({"content": "1"},), max_tokens=1)])

    async def send(self, card: ModelCard, fields: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """A whole completion, or its chunks if the request says `stream`. Whatever fails is raised as a CallError."""
        if card.provider_id.startswith("pocket/"):
            source = self._pocket(card, fields)
        elif card.base_url or self.base_url:
            source = self._http(card, fields)
        else:
            source = self._litellm(card, fields)
        async with aclosing(source):
            ended = False
            async for part in source:
                if isinstance(error := part.get("error"), Mapping) and error:
                    raise from_status(502, str(error.get("message", error)))
                ended |= any(c.get("finish_reason") for c in part.get("choices") or () if isinstance(c, Mapping))
                yield part
            if not ended:
                raise CallError("reset", Scope.RETRY, "the answer ended before its end")

    async def _pocket(self, card: ModelCard, fields: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        from routerlab.pocket.generate import load, prompt

        text = text_of(fields["messages"][-1])
        asks_for = {"response_format": fields.get("response_format"), "tool_choice": fields.get("tool_choice")}
        if cannot := [n for n, v in asks_for.items() if v not in (None, "auto", "none", {"type": "text"})]:
            raise CallError("bad_request", Scope.ROW, f"embedded models know no {cannot[0]}; ask another model")
        words = load((self.pocket.folder or root() / "data" / "pocket") / "models" / card.id)[1]
        if len(words(prompt(words, text), add_special_tokens=False)["input_ids"]) >= card.context:
            raise CallError("context_length", Scope.ROW, f"{card.id} reads at most {card.context} tokens")
        heat, limit = float(fields.get("temperature") or 0.0), limit_of(fields) or 160
        asked = ({"role": "user", "content": text},)
        call = Call("", card.id, card.provider_id, asked, int(fields.get("seed") or 0) % 2**31, heat, limit)
        (reply,) = await self.pocket.answer([call])
        if isinstance(reply, CallError):
            raise reply
        stops = fields.get("stop") or []
        cut = min(
            (reply.text.find(s) for s in ([stops] if isinstance(stops, str) else stops) if s in reply.text),
            default=None,
        )
        message = {"role": "assistant", "content": reply.text[:cut]}
        usage = {"prompt_tokens": reply.tokens_in, "completion_tokens": reply.tokens_out}
        usage["total_tokens"] = reply.tokens_in + reply.tokens_out
        part = "delta" if fields.get("stream") else "message"
        yield {"choices": [{"index": 0, part: message, "finish_reason": "stop"}], "usage": usage}

    async def _http(self, card: ModelCard, fields: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        import aiohttp
        import orjson

        if self._session is None:
            wait = aiohttp.ClientTimeout(total=None, sock_connect=30)
            pipes = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(timeout=wait, connector=pipes, read_bufsize=2**20)
        url, headers = _address(card.base_url or self.base_url), {"Content-Type": "application/json"}
        secret = os.environ.get(card.key_env or self.key_env or "OPENAI_API_KEY", "").strip()
        if secret:
            headers["Authorization"] = f"Bearer {secret}"
        name = card.provider_id
        if name.startswith("openai/") and urlsplit(url).hostname == "api.openai.com":
            name = name.removeprefix("openai/")
        body = orjson.dumps({**fields, "model": name})
        try:
            async with self._session.post(
                f"{url}/chat/completions", data=body, headers=headers, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    said = (await answer.content.read(2**16)).decode(errors="replace")
                    raise from_status(answer.status, said, answer.headers.get("Retry-After"), secret)
                if not fields.get("stream"):
                    content = bytearray()
                    while chunk := await answer.content.readany():
                        content += chunk
                        if len(content) > MOST_BYTES:
                            raise CallError("too_large", Scope.ROW, f"more than {MOST_BYTES} bytes")
                    whole = orjson.loads(content)
                    if not isinstance(whole, dict):
                        raise CallError("truncated_json", Scope.RETRY, "the body is not a JSON object")
                    yield whole
                    return
                async for line in answer.content:
                    if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                        yield orjson.loads(data)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise from_exception(error, urlsplit(url).netloc) from error

    async def _litellm(self, card: ModelCard, fields: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        litellm = load_litellm()
        own = {"api_key": key} if (key := os.environ.get(card.key_env or self.key_env, "")) else {}
        try:
            answer = await litellm.acompletion(
                **{**fields, "model": card.provider_id}, num_retries=0, max_retries=0, **own
            )
            if not fields.get("stream"):
                yield answer.model_dump()
                return
            async for chunk in answer:
                yield chunk.model_dump(exclude_none=True)
        except Exception as error:
            status = getattr(error, "status_code", None)
            if isinstance(status, int) and status < 500:
                raise from_status(status, str(error)) from error
            raise from_exception(error) from error

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content may come in parts; of an answer that calls tools, these calls."""
    content = message.get("content")
    if isinstance(content, list):
        parts = (p.get("text") for p in content if isinstance(p, Mapping))
        content = "\n".join(t for t in parts if isinstance(t, str))
    return content if isinstance(content, str) and content else str(message.get("tool_calls") or "")


def limit_of(fields: Mapping[str, Any]) -> int | None:
    """The most output tokens that a request asks for."""
    return fields.get("max_completion_tokens") or fields.get("max_tokens")


def counted(text: str, whole: Mapping[str, Any], started: float) -> Reply:
    """Tokens, own cost and time of an answer. Without usable counts of the server, `estimated` is set."""
    choice = {"message": {"content": text or "-"}}
    about = {"usage": whole.get("usage"), "router_metadata": whole.get("router_metadata")}
    return read_completion({"choices": [choice], **about}, time.perf_counter() - started)
