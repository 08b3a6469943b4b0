"""How an answer goes to the client: whole, or as server-sent events."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web

from routerlab.collect.calls import CallError
from routerlab.serve.calls import Ask
from routerlab.serve.upstream import said_in, text_of

DONE = b"data: [DONE]\n\n"
BEGUN = web.RequestKey("begun", web.StreamResponse)


async def send(
    request: web.Request, ask: Ask, early: Sequence[dict], parts: AsyncIterator[dict] | None
) -> web.StreamResponse:
    """Send the answer; of a stream, the last chunk holds `router_metadata`. When a stream breaks, the client gets an
    error event, never the end of another model's answer.

    Args:
        request: of the client. Once a stream has begun, `request[BEGUN]` is its response.
        ask: the same request while it is answered.
        early: what was read of the model's answer already.
        parts: the rest of it; None if `early` is a whole completion.
    """
    head = {"id": ask.id, "created": int(time.time()), "model": ask.used}
    headers = {"x-router-fallback": ascii(ask.fallback)[1:-1]} if ask.fallback else {}
    if not ask.fields.get("stream"):
        whole = [part async for part in _joined(early, parts)][-1]
        _keep(ask, whole)
        body = {**whole, **head, "object": "chat.completion", "router_metadata": ask.metadata()}
        return as_json(200, body, headers)
    headers |= {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    request[BEGUN] = response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    if parts is None:  # an agent's answer is whole
        early = [as_chunk(body) for body in early]
    last: dict[str, Any] = {}
    usage, head = None, {**head, "object": "chat.completion.chunk"}
    try:
        async with asyncio.timeout_at(ask.deadline - 0.05):
            async for part in _joined(early, parts):
                usage = part.get("usage") or usage
                if choices := part.get("choices"):
                    _keep(ask, part)
                    chunk = {**part, **head, "usage": None}
                    if choices[0].get("finish_reason"):
                        last = chunk
                    else:
                        await response.write(event(chunk))
    except (CallError, TimeoutError) as error:
        ask.cut()
        kind = error.kind if isinstance(error, CallError) else "timeout"
        message = f"{ask.used} stopped in the middle of its answer: {error or 'timeout'}"
        ask.finish = "error"
        broken = {"error": {"message": message, "code": kind}, "router_metadata": ask.metadata()}
        await response.write(event(broken))
    else:
        if (ask.given.get("stream_options") or {}).get("include_usage"):
            await response.write(event(last))
            last = {**head, "choices": [], "usage": usage}
        await response.write(event({**last, "router_metadata": ask.metadata()}) + DONE)
    await response.write_eof()
    return response


def _keep(ask: Ask, part: Mapping[str, Any]) -> None:
    """Add a part of the answer to what the log will hold."""
    choice = part["choices"][0]
    ask.answer += text_of(said_in(choice))
    ask.finish = choice.get("finish_reason") or ask.finish


async def _joined(early: Sequence[dict], parts: AsyncIterator[dict] | None) -> AsyncIterator[dict]:
    for part in early:
        yield part
    if parts is not None:
        async for part in parts:
            yield part


def as_chunk(body: Mapping[str, Any]) -> dict[str, Any]:
    """A completion as the one chunk of a stream."""
    choice = {k: v for k, v in body["choices"][0].items() if k != "message"}
    delta = dict(said_in(body["choices"][0]))
    if calls := delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls)]
    return {**body, "choices": [{**choice, "delta": delta}]}


def event(content: Mapping[str, Any]) -> bytes:
    """One chunk of a stream."""
    return b"data: " + orjson.dumps(content) + b"\n\n"


def as_json(status: int, content: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response with this content as JSON."""
    return web.Response(body=orjson.dumps(content), status=status, headers=headers, content_type="application/json")
