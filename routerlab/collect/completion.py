"""How an answer of OpenAI's chat completions is read."""

import json
import math
from collections.abc import Mapping
from typing import Any

from routerlab.collect.calls import Call, CallError, Reply, Scope, from_status
from routerlab.collect.scrub import message, scrub


def read_completion(body: Any, latency_s: float, call: Call | None = None) -> Reply:
    """The reply in an OpenAI chat completion (a dict); a missing part raises a CallError of its class. Without usable
    token counts those of `call` and its answer are estimated, at 4 bytes a token.
    """
    if not isinstance(body, Mapping):
        raise CallError("truncated_json", Scope.RETRY, "the body is not a JSON object", scrub(message(body) or ""))
    error, choice = _at(body, Mapping | list | str, "error"), _at(body, Mapping, "choices", 0)
    if isinstance(error, Mapping) or (error and choice is None):  # some gateways answer so, with status 200
        code = _at(error, int, "code") or 0
        raise from_status(code if 400 <= code < 600 else 502, message(body) or "")
    tokens = _tokens(body)
    billed: Any = {"tokens": tokens, "unsure": True}  # an attempt without counts may still be billed
    if choice is None:
        raise CallError("empty_choices", Scope.RETRY, "the answer has no choices", scrub(message(body) or ""), **billed)
    text, refusal, finish = _text(choice, "content"), _text(choice, "refusal"), choice.get("finish_reason")
    if finish == "content_filter":
        raise CallError("content_filter", Scope.ROW, "the provider withheld it", **billed)
    if text is None and refusal:
        text, finish = refusal, "refusal"
    if text is None and finish != "length":
        why = "no text" if _at(choice, object, "message", "content") else "empty"
        raise CallError("empty_content", Scope.RETRY, f"the message is {why}", **billed)
    kind, text = finish if finish in ("length", "refusal") else "stop", text or ""
    usd = _at(body, int | float, "router_metadata", "total_cost")
    usd = float(usd) if usd is not None and not isinstance(usd, bool) and 0 <= usd < 1e9 else None
    asked = sum(len(m["content"].encode()) for m in call.messages) if call else 0
    estimate = math.ceil(asked / 4), 0, math.ceil(len(text.encode("utf-8", "replace")) / 4)
    tokens_in, cached, tokens_out = tokens or estimate
    times = round(latency_s, 3), cached
    return Reply(text, kind, tokens_in, tokens_out, *times, estimated=tokens is None and usd is None, usd=usd)


def _at(value: Any, kind: Any, *path: str | int) -> Any:
    """What lies at this path of nested objects and lists; None if nothing of this kind does."""
    try:
        for step in path:
            value = value[step]
    except (TypeError, KeyError, IndexError):
        return None
    return value if isinstance(value, kind) else None


def _text(choice: Mapping, name: str) -> str | None:
    """A text of the message, which may come in several parts; None if there is none."""
    content = _at(choice, str | list | int | float, "message", name)
    if isinstance(content, int | float) and not isinstance(content, bool):  # a model that answers in JSON
        return json.dumps(content)
    if isinstance(content, list):
        return "".join(_at(part, str, "text") or "" for part in content) or None
    return content if isinstance(content, str) else None


def _tokens(body: Mapping) -> tuple[int, int, int] | None:
    """(in, cached, out) as the provider counted them; None if these cannot be counts."""
    counts = (_at(body, int, "usage", name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    tokens_in, tokens_out, total = counts
    cached = _at(body, object, "usage", "prompt_tokens_details", "cached_tokens") or 0
    if not (_count(tokens_in) and _count(cached) and _count(tokens_out)) or cached > tokens_in:
        return None
    # With some providers only the total counts reasoning.
    return tokens_in, cached, max(tokens_out, total - tokens_in) if _count(total) else tokens_out


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31
