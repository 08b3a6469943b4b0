"""Sending a chat request on to a model: an embedded one here, or a provider of `collect`."""

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Any

import orjson

from routerlab.collect.backends import PocketBackend
from routerlab.collect.calls import Call, CallError, Scope, from_status
from routerlab.collect.providers import LiteLLMBackend, OpenAIBackend
from routerlab.core.pools import ModelCard, Pool
from routerlab.core.runs import root

_NEVER_S = 86400.0  # the server ends a request at its own deadline; litellm needs a number


class Upstream:
    """`base_url` is for models whose card has no address of its own; without either, litellm sends the request.
    `key_env` names the environment variable with the key, unless a card names one.
    """

    def __init__(self, base_url: str = "", key_env: str = "") -> None:
        self.http = OpenAIBackend(base_url, key_env=key_env, timeout_s=0.0)
        self.litellm = LiteLLMBackend(key_env=key_env, timeout_s=_NEVER_S)
        self.pocket = PocketBackend()

    def check(self, cards: Iterable[ModelCard]) -> None:
        """Raise BackendError, which names what is missing, for models that no call could be sent to."""
        paid = [card for card in cards if not card.provider_id.startswith("pocket/")]
        direct = [card for card in paid if card.base_url or self.http.base_url]
        self.http.check(direct)
        if rest := [card for card in paid if card not in direct]:
            self.litellm.check(rest)

    async def warm_up(self, pool: Pool) -> None:
        """Ask each embedded model once, which reads it from the disk."""
        for card in pool:
            if card.provider_id.startswith("pocket/"):
                await self.pocket.answer([Call("", card.id, card.provider_id, ({"content": "1"},), max_tokens=1)])

    async def send(self, card: ModelCard, fields: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """A whole completion, or its chunks if the request says `stream`. Whatever fails is raised as a CallError."""
        if card.provider_id.startswith("pocket/"):
            source = self._pocket(card, fields)
        else:
            provider = self.http if card.base_url or self.http.base_url else self.litellm
            source = provider.parts(card, fields, {})
        async with aclosing(source):
            ended, size = False, 0
            async for part in source:
                size += _size(part)
                if size > self.http.most_bytes:
                    raise CallError("too_large", Scope.ROW, f"more than {self.http.most_bytes} bytes")
                ended |= any(choice.get("finish_reason") for choice in part.get("choices") or ())
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
        ends = [reply.text.find(s) for s in ([stops] if isinstance(stops, str) else stops) if s in reply.text]
        message = {"role": "assistant", "content": reply.text[: min(ends, default=None)]}
        counts = reply.tokens_in, reply.tokens_out, reply.tokens_in + reply.tokens_out
        usage = dict(zip(("prompt_tokens", "completion_tokens", "total_tokens"), counts, strict=True))
        part = "delta" if fields.get("stream") else "message"
        yield {"choices": [{"index": 0, part: message, "finish_reason": "stop"}], "usage": usage}

    async def close(self) -> None:
        """Close connections."""
        await self.http.close()


def _size(part: Any) -> int:
    """The bytes of a part of an answer. A CallError if it lacks the form that the API promises, or cannot be sent on as
    JSON in UTF-8.
    """
    if isinstance(part, Mapping) and (error := part.get("error")):
        raise from_status(502, str(error.get("message", error) if isinstance(error, Mapping) else error))
    try:
        for choice in part.get("choices") or ():
            said = said_in(choice)
            sound = all(isinstance(call, Mapping) for call in said.get("tool_calls") or ())
            if not sound or not isinstance(choice.get("finish_reason") or "", str):
                raise TypeError
        return len(orjson.dumps(part))
    except (AttributeError, TypeError):  # of orjson too
        raise CallError("truncated_json", Scope.RETRY, "an answer of another form") from None


def said_in(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message of a completion's choice, or what a chunk adds to it."""
    return choice.get("message") or choice.get("delta") or {}


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
