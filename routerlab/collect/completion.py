"""How an answer of OpenAI's chat completions is read."""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from routerlab.collect.calls import Call, CallError, Reply, Scope, from_status


def read_completion(body: Any, latency_s: float, call: Call | None = None) -> Reply:
    """The reply in an OpenAI chat completion (a dict); a missing part raises a CallError of its class. Without usable
    token counts those of `call` and its answer are estimated.
    """
    if not isinstance(body, Mapping):
        raise CallError("truncated_json", Scope.RETRY, "the body is not a JSON object")
    if isinstance(error := body.get("error"), Mapping):  # some gateways answer so, with status 200
        code = error.get("code")
        code = code if isinstance(code, int) and 400 <= code < 600 else 502
        raise from_status(code, str(error.get("message")))
    tokens = _tokens(body.get("usage"))
    paid: Any = {"tokens": tokens, "unsure": True}  # an attempt without counts may still be billed
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping):
        raise CallError("empty_choices", Scope.RETRY, "the answer has no choices", **paid)
    message, finish = choice.get("message"), choice.get("finish_reason") or "stop"
    message = message if isinstance(message, Mapping) else {}
    text, refusal = _text(message.get("content")), _text(message.get("refusal"))
    if finish == "content_filter":
        raise CallError("content_filter", Scope.ROW, "the provider withheld it", **paid)
    if text is None and refusal:
        text, finish = refusal, "refusal"
    if text is None and finish != "length":
        raise CallError("empty_content", Scope.RETRY, "the message is empty", **paid)
    kind, text = finish if finish in ("length", "refusal") else "stop", text or ""
    metadata = body.get("router_metadata")
    usd = metadata.get("total_cost") if isinstance(metadata, Mapping) else None
    usd = float(usd) if isinstance(usd, int | float) and 0 <= usd < 1e9 else None
    if tokens is None:
        asked = sum(len(m["content"].encode()) for m in call.messages) if call else 0
        counts = math.ceil(asked / 4), 0, math.ceil(len(text.encode("utf-8", "replace")) / 4)  # 4 bytes a token
    else:
        counts = tokens
    times = round(latency_s, 3), counts[1]
    return Reply(text, kind, counts[0], counts[2], *times, estimated=tokens is None and usd is None, usd=usd)


def _text(content: Any) -> str | None:
    """The text of a message, which may come in several parts; None if there is none."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "".join(text for text in texts if isinstance(text, str)) or None
    return content if isinstance(content, str) else None


def _tokens(usage: Any) -> tuple[int, int, int] | None:
    """(in, cached, out) as the provider counted them; None if these cannot be counts."""
    if not isinstance(usage, Mapping):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    tokens_in, cached, tokens_out = usage.get("prompt_tokens"), cached or 0, usage.get("completion_tokens")
    if not (_count(tokens_in) and _count(cached) and _count(tokens_out)) or cached > tokens_in:
        return None
    total = usage.get("total_tokens")  # with some providers only this one counts reasoning
    return tokens_in, cached, max(tokens_out, total - tokens_in) if _count(total) else tokens_out


def _count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**31
