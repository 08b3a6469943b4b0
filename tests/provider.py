"""A provider that runs here, speaks OpenAI's chat completions, bills each idempotency key once, and fails on demand.

    python -m tests.provider    serves on a free port of 127.0.0.1 and prints it

A model named `m` answers; `m~rate_limited~3` fails that way the first 3 tries of each key and then answers;
`m~reset~10%` fails that way in 10 % of the tries, drawn by key and try.
"""

import asyncio
import contextlib
import hashlib
import json
import sys
from collections import Counter
from email.utils import formatdate
from time import time

from aiohttp import web


def words(request: dict) -> tuple[str, dict]:
    """The answer to a request and its usage: functions of the request alone."""
    text = request["messages"][-1]["content"]
    seed = hashlib.blake2b(json.dumps(request, sort_keys=True).encode(), digest_size=4).hexdigest()
    usage = {"prompt_tokens": len(text.split()), "completion_tokens": 1 + int(seed, 16) % 7}
    return f"answer {seed}", usage


def status(code: int, message: str = "no", **headers: str):
    async def fail(request, body):
        error = {"error": {"message": message, "code": message}}
        return web.json_response(error, status=code, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return fail


def reply(changed=None, **changes):
    async def answer(request, body):
        text, usage = words(body)
        choice = {"message": {"content": text}, "finish_reason": "stop"} | (changed or {})
        made = {"choices": [choice], "usage": usage} | changes
        return web.json_response({k: v for k, v in made.items() if v is not None})

    return answer


async def echo_key(request, body):
    """Some providers repeat the key they refuse."""
    return await status(401, "bad key " + request.headers.get("Authorization", ""))(request, body)


async def reset(request, body):
    request.transport.abort()
    return web.Response()


async def hang(request, body):
    await asyncio.sleep(3600)
    return web.Response()


async def cut(request, body):
    text = json.dumps({"choices": [{"message": {"content": words(body)[0]}}]})
    return web.Response(text=text[: len(text) // 2], content_type="application/json")


async def short(request, body):
    """Promises more bytes than it sends."""
    response = web.StreamResponse(headers={"Content-Length": "500", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    request.transport.close()
    return response


async def garbage(request, body):
    """What some other service says on this port."""
    request.transport.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    request.transport.close()
    return web.Response()


async def chunk(request, body):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    request.transport.write(head + b"zz\r\nabc\r\n")
    request.transport.close()
    return web.Response()


async def redirect(request, body):
    raise web.HTTPFound("/v1/chat/completions")


async def large(request, body):
    response = web.StreamResponse(headers={"Content-Length": str(2**26)})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        await response.write(b" " * 2**16)
    request.transport.close()
    return response


async def page(request, body):
    return web.Response(text="<html>gateway</html>", content_type="text/html")


async def drip(request, body):
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)
    return response


async def binary(request, body):
    return web.Response(body=b"\xff\xfe\x00" * 50, content_type="application/json")


def soon():
    async def fail(request, body):
        return await status(429, "slow down", Retry_After=formatdate(time() + 1, usegmt=True))(request, body)

    return fail


# How it can fail: what it does, the class that must come out, and whether that attempt was billed.
FAULTS = {
    "retry_seconds": (status(429, "slow down", Retry_After="0.01"), "rate_limited"),
    "retry_date": (soon(), "rate_limited"),
    "rate_limited": (status(429, "slow down"), "rate_limited"),
    "quota": (status(429, "insufficient_quota"), "payment_required"),
    "server": (status(500), "server_error"),
    "gateway": (status(502), "server_error"),
    "unavailable": (status(503), "server_error"),
    "gateway_timeout": (status(504), "server_error"),
    "overloaded": (status(529), "overloaded"),
    "request_timeout": (status(408), "timeout"),
    "reset": (reset, "reset"),
    "short_body": (short, "reset"),
    "hang": (hang, "timeout"),
    "drip": (drip, "timeout"),
    "truncated": (cut, "truncated_json"),
    "html": (page, "truncated_json"),
    "binary": (binary, "truncated_json"),
    "list": (lambda r, b: _json([]), "truncated_json"),
    "no_choices": (reply(choices=[]), "empty_choices"),
    "null_content": (reply({"message": {"content": None}}), "empty_content"),
    "filtered": (reply({"finish_reason": "content_filter"}), "content_filter"),
    "filter_400": (status(400, "content_filter"), "content_filter"),
    "context_400": (status(400, "context_length_exceeded"), "context_length"),
    "too_large": (status(413, "too many tokens"), "context_length"),
    "bad_request": (status(400, "unknown field"), "bad_request"),
    "unprocessable": (status(422), "bad_request"),
    "choice_text": (reply(choices=["x"]), "empty_choices"),
    "choices_map": (reply(choices={"a": 1}), "empty_choices"),
    "error_in_200": (reply(error={"code": 429, "message": "slow down"}), "rate_limited"),
    "date_nowhere": (
        status(429, "slow down", Retry_After="Wed, 21 Oct 2015 07:28:00 -0000"),
        "rate_limited",
    ),
    "retry_never": (status(429, "slow down", Retry_After="inf"), "rate_limited"),
    "garbage": (garbage, "reset"),
    "bad_chunk": (chunk, "reset"),
    "redirect": (redirect, "not_found"),
    "no_method": (status(405), "not_found"),
    "date_beyond": (
        status(429, "slow down", Retry_After="Wed, 21 Oct 99999999999 07:28:00 GMT"),
        "rate_limited",
    ),
    "nothing_said": (reply(choices=[], usage=None), "empty_choices"),
    "nothing_in_it": (reply({"message": {"content": None}}, usage=None), "empty_content"),
    "too_long": (large, "too_large"),
    "key": (echo_key, "unauthorized"),
    "money": (status(402), "payment_required"),
    "forbidden": (status(403), "forbidden"),
    "no_model": (status(404), "not_found"),
}


# Odd answers that are answers all the same.
KEPT = {
    "no_usage": reply(usage=None),
    "usage_text": reply(usage="3"),
    "usage_negative": reply(usage={"prompt_tokens": -9, "completion_tokens": 1}),
    "usage_absurd": reply(usage={"prompt_tokens": 2**40, "completion_tokens": 1}),
    "count_text": reply(usage={"prompt_tokens": "10", "completion_tokens": 1}),
    "count_float": reply(usage={"prompt_tokens": 10.0, "completion_tokens": 1}),
    "count_null": reply(usage={"prompt_tokens": None, "completion_tokens": None}),
    "half_pair": reply({"message": {"content": "cut \ud83d"}}),
    "hidden_reasoning": reply(usage={"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 12}),
    "own_cost": reply(router_metadata={"total_cost": 0.000004}),
    "cost_true": reply(router_metadata={"total_cost": True}),
    "cost_absurd": reply(router_metadata={"total_cost": 1e8}),
    "number": reply({"message": {"content": 7}}),
    "ten_times": reply(usage={"prompt_tokens": 900, "completion_tokens": 160}),
}


def wants(message: str, ok):
    """A model that refuses a request with this message until it is sent as `ok` wants it."""

    async def answer(request, body):
        return await (reply() if ok(body) else status(400, message))(request, body)

    return answer


# Requests that are refused until they are sent otherwise.
WANTS = {
    "completion_field": wants(
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        lambda body: "max_completion_tokens" in body and "max_tokens" not in body,
    ),
    "temperature_1": wants(
        "Unsupported value: 'temperature' does not support 0.0 here. Only the default (1) value is supported.",
        lambda body: body["temperature"] == 1,
    ),
}


async def _json(value):
    return web.json_response(value)


class Provider:
    """`async with Provider() as url`: the server and its books: `tries` and `billed` by key, `headers` seen."""

    def __init__(self, together: int = 1) -> None:
        self.together, self._met = together, asyncio.Event()
        self.tries: Counter[str] = Counter()
        self.billed: dict[str, int] = {}
        self.asked: dict[str, dict] = {}
        self.answers: dict[str, web.Response] = {}
        self.headers: list[str] = []
        self.flying = self.most = 0

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        key = request.headers.get("Idempotency-Key", "")
        self.headers.append(request.headers.get("Authorization", ""))
        self.tries[key] += 1
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            if self.flying >= self.together:
                self._met.set()
            await self._met.wait()
            _, fault, when = [*body["model"].split("~"), "", ""][:3]
            if fault in KEPT | WANTS:
                self.billed[key] = self.billed.get(key, 0) + 1
                return await (KEPT | WANTS)[fault](request, body)
            if fault and self._fails(key, when):
                return await FAULTS[fault][0](request, body)
            await asyncio.sleep(0.001)
            if self.asked.setdefault(key, body) != body:
                return await status(422, "this key came with another request")(request, body)
            if key not in self.answers:  # a key is worked on and billed once, however often it is asked
                self.answers[key] = await reply()(request, body)
                self.billed[key] = self.billed.get(key, 0) + 1
            return web.Response(body=self.answers[key].body, content_type="application/json")
        finally:
            self.flying -= 1

    def _fails(self, key: str, when: str) -> bool:
        if when.endswith("%"):
            drawn = hashlib.blake2b(f"{key}{self.tries[key]}".encode(), digest_size=4).digest()
            return int.from_bytes(drawn) / 2**32 < float(when[:-1]) / 100
        return self.tries[key] <= int(when or 10**9)

    async def _bill(self, _: web.Request) -> web.Response:
        return web.json_response({"tries": self.tries, "billed": self.billed})

    async def __aenter__(self) -> str:
        return await self.serve(0)

    async def serve(self, port: int) -> str:
        """Serve on this port, with the same books as before."""
        self.app = web.Application()
        self.app.router.add_post("/v1/chat/completions", self._answer)
        self.app.router.add_get("/bill", self._bill)
        self._runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


async def main() -> None:
    async with Provider() as url:
        print(url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
