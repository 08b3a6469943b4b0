"""The API: OpenAI's chat completions in front of a router and its pool."""

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import fastjsonschema
import orjson
import yaml
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from routerlab.collect.calls import CallError
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.core.runs import root
from routerlab.serve.agent import Agent
from routerlab.serve.calls import Ask, Caller, Settings
from routerlab.serve.choose import Chooser
from routerlab.serve.log import Account, Log, Refusal
from routerlab.serve.upstream import Upstream, limit_of, text_of

ROUTERS = ("router", "router-tool-rl")  # the second is the name that the published system uses
MOST_BYTES = 2**20  # of a request
_OURS = {"model", "stream", "stream_options", "metadata", "messages"}
log = logging.getLogger("routerlab.serve")


class Server:
    """Answers requests: `chooser` names the model, or `agent` calls models with tools; `default` answers when neither
    can. `explore` is the share of routed requests that go to a random model.
    """

    def __init__(
        self, pool: Pool, chooser: Chooser, upstream: Upstream, log: Log, settings: Settings, agent: Agent | None = None
    ) -> None:
        self.pool, self.chooser, self.log, self.settings = pool, chooser, log, settings
        self.caller = Caller(pool, upstream, log, settings)
        self.agent, self.flying, self.draining = agent, 0, False
        self.document = yaml.safe_load((root() / "data" / "openapi.yaml").read_text())
        self._check = fastjsonschema.compile(self.document["components"]["schemas"]["Request"])
        self.registry = CollectorRegistry()
        labels = {"registry": self.registry, "namespace": "routerlab"}
        self.requests = Counter("requests", "Requests by the status of their answer", ["status"], **labels)
        self.called = Counter("calls", "Calls of models by how they ended", ["model", "status"], **labels)
        self.usd = Counter("usd", "US dollars charged", ["model"], **labels)
        self.seconds = Histogram("request_seconds", "Seconds from request to answer", **labels)
        Gauge("requests_now", "Requests being answered", **labels).set_function(lambda: self.flying)

    def app(self) -> web.Application:
        """The application, with its routes."""
        app = web.Application(client_max_size=MOST_BYTES, middlewares=[self._errors])
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/openapi.json", self.openapi)
        app.router.add_get("/", self.about)
        if self.settings.debug:
            app.router.add_get("/debug/tools", self.tools)
        app.cleanup_ctx.append(self._lifetime)
        return app

    async def _lifetime(self, _: web.Application) -> AsyncIterator[None]:
        async def to_disk() -> None:
            while True:  # lines survive the process as soon as they are written, and a power cut after this
                await asyncio.sleep(1.0)
                await asyncio.to_thread(os.fsync, self.log.file)

        await self.caller.upstream.warm_up(self.pool)
        syncing = asyncio.create_task(to_disk())
        yield
        syncing.cancel()
        await self.caller.upstream.close()

    @web.middleware
    async def _errors(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response = await handler(request)
        except Refusal as refusal:
            response = _json(
                refusal.status, {"error": {"message": refusal.message, "code": refusal.code}} | refusal.more
            )
            if refusal.retry_after_s is not None:
                response.headers["Retry-After"] = f"{max(1, round(refusal.retry_after_s))}"
        except web.HTTPException as error:
            response = _json(error.status, {"error": {"message": error.reason, "code": "invalid_request"}})
        if request.method == "POST":
            self.requests.labels(response.status).inc()
        return response

    async def about(self, _: web.Request) -> web.Response:
        paths = ["POST /v1/chat/completions", "GET /v1/models", "GET /health", "GET /metrics"]
        return _json(200, {"name": "routerlab", "router": self.chooser.name, "pool": self.pool.ids, "endpoints": paths})

    async def openapi(self, _: web.Request) -> web.Response:
        return _json(200, self.document)

    async def health(self, _: web.Request) -> web.Response:
        return _json(503 if self.draining else 200, {"status": "draining" if self.draining else "ok"})

    async def models(self, _: web.Request) -> web.Response:
        rows = [{"id": m, "object": "model", "created": 0, "owned_by": "routerlab"} for m in (*ROUTERS, *self.pool.ids)]
        return _json(200, {"object": "list", "data": rows})

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.registry), content_type="text/plain")

    async def tools(self, _: web.Request) -> web.Response:
        return _json(200, {"tools": self.agent.tools if self.agent else []})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, and write down what it cost, however it ends."""
        account = self.log.account(request.headers.get("Authorization", ""))
        if self.draining:
            raise Refusal(503, "the server is stopping; ask again elsewhere", "draining", 5.0)
        if self.flying >= self.settings.most_at_once:
            raise Refusal(429, f"{self.flying} requests are being answered; ask again later", "overloaded", 1.0)
        self.flying += 1
        deadline = asyncio.get_running_loop().time() + self.settings.timeout_s
        ask, status = None, 499  # the client went away
        try:
            async with asyncio.timeout_at(deadline):
                account.count(1, 0)
                ask = self._read(await request.read(), account, deadline)
                response = await self._answer(request, ask)
                status = response.status
                return response
        except TimeoutError:
            status = 504
            self.caller.cut(ask)
            message = f"no answer within {self.settings.timeout_s:g} s; ask for less, or raise --timeout"
            raise Refusal(504, message, "timeout", more=_cost(ask)) from None
        except Refusal as refusal:
            status, refusal.more = refusal.status, _cost(ask)
            raise
        finally:
            self.flying -= 1
            if ask is not None:
                self._end(ask, status)

    def _read(self, content: bytes, account: Account, deadline: float) -> Ask:
        try:
            given = orjson.loads(content)
            fields = {k: v for k, v in given.items() if k not in _OURS and v is not None}
            messages, model, _about = given["messages"], given.get("model") or ROUTERS[0], given.get("metadata") or {}
            orjson.dumps([messages, fields])
        except (orjson.JSONDecodeError, orjson.JSONEncodeError, AttributeError, KeyError, TypeError, RecursionError):
            raise Refusal(400, "the body is no JSON object with 'messages', in UTF-8 and not nested deeply") from None
        try:
            self._check(given)
        except fastjsonschema.JsonSchemaValueException as error:
            raise Refusal(400, error.message.replace("data", "the body", 1)[:300]) from None
        if model not in self.pool and not re.fullmatch(r"(router|router-tool-rl)(@[0-9.e+-]{1,20})?", model):
            known = ", ".join([*ROUTERS, "router@LAMBDA", *self.pool.ids])
            raise Refusal(404, f"there is no model {model[:80]!r}; there are {known}", "model_not_found")
        last = next((m for m in reversed(messages) if m["role"] == "user"), messages[-1])
        fields["messages"] = messages
        if not limit_of(fields):
            fields["max_tokens"] = self.settings.max_tokens
        if given.get("stream"):
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        return Ask(account, model, fields, given, deadline, Query.ask(text_of(last) or " "))

    async def _answer(self, request: web.Request, ask: Ask) -> web.StreamResponse:
        if self.agent and ask.model.partition("@")[0] in ROUTERS:
            try:
                ask.used, body = await self.agent.answer(self.caller, ask)
                ask.strategy = f"{self.agent.mode}: {self.agent.card.provider_id}"
                return await self._send(request, ask, [body], None)
            except CallError as error:
                ask.fallback = f"router: {error.kind}"
        order = await self._choose(ask)
        ask.used, early, parts = await self.caller.begin(ask, order)
        async with aclosing(parts):
            return await self._send(request, ask, early, parts)

    async def _choose(self, ask: Ask) -> list[str]:
        """The models to ask, in order: the intended one, then those that answer should it fail."""
        if ask.model in self.pool:
            ask.strategy, ask.intended = "direct", ask.model
            return [ask.model]
        default = self.chooser.default
        if ask.fallback:
            ask.strategy, ask.intended = "default", default
        else:
            await self.chooser.choose(ask, self.log)
        order = self.caller.order(ask.intended, default)
        if order[0] != ask.intended:
            ask.fallback = f"{ask.intended} is failing"
        return order

    async def _send(
        self, request: web.Request, ask: Ask, early: Sequence[dict], parts: AsyncIterator[dict] | None
    ) -> web.StreamResponse:
        """Send the answer; of a stream, the last chunk holds `router_metadata`. When a stream breaks, the client gets
        an error event, never the end of another model's answer.
        """
        head = {"id": ask.id, "created": int(time.time()), "model": ask.used}
        headers = {"x-router-fallback": ascii(ask.fallback)[1:-1]} if ask.fallback else {}
        if not ask.fields.get("stream"):
            whole = [part async for part in _joined(early, parts)][-1]
            self._keep(ask, whole, "message")
            body = {**whole, **head, "object": "chat.completion", "router_metadata": ask.metadata()}
            return _json(200, body, headers)
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache", **headers}
        )
        await response.prepare(request)
        if parts is None:  # an agent's answer is whole
            early = [_as_chunk(body) for body in early]
        last: dict[str, Any] = {}
        usage, head = None, {**head, "object": "chat.completion.chunk"}
        try:
            async with asyncio.timeout_at(ask.deadline - 0.05):
                async for part in _joined(early, parts):
                    usage = part.get("usage") or usage
                    if choices := part.get("choices"):
                        self._keep(ask, part, "delta")
                        chunk = {**part, **head, "usage": None}
                        if choices[0].get("finish_reason"):
                            last = chunk
                        else:
                            await response.write(_event(chunk))
        except (CallError, TimeoutError) as error:
            self.caller.cut(ask)
            kind = error.kind if isinstance(error, CallError) else "timeout"
            message = f"{ask.used} stopped in the middle of its answer: {error or 'timeout'}"
            broken = {"error": {"message": message, "code": kind}, "router_metadata": ask.metadata()}
            await response.write(_event(broken))
            ask.finish = "error"
        else:
            if (ask.given.get("stream_options") or {}).get("include_usage"):
                await response.write(_event(last))
                last = {**head, "choices": [], "usage": usage}
            await response.write(_event({**last, "router_metadata": ask.metadata()}) + b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _keep(self, ask: Ask, part: Mapping[str, Any], name: str) -> None:
        choice = part["choices"][0]
        ask.answer += text_of(choice.get(name) or {})
        ask.finish = choice.get("finish_reason") or ask.finish

    def _end(self, ask: Ask, status: int) -> None:
        about = ask.metadata()
        self.seconds.observe(about["total_time"])
        for entry in ask.calls:
            self.called.labels(entry["model"], entry["status"]).inc()
            self.usd.labels(entry["model"]).inc(entry["cost"])
        calls = [{k: v for k, v in entry.items() if k not in ("prompt", "answer")} for entry in ask.calls]
        record = {"id": ask.id, "at": time.time(), "asked": ask.model, "messages": ask.fields["messages"]}
        record |= {n: getattr(ask, n) for n in ("intended", "propensity", "used", "answer", "finish", "strategy")}
        record |= {"status": status, "fallback": ask.fallback, "calls": calls, "about": ask.given.get("metadata") or {}}
        record |= {"temperature": ask.fields.get("temperature") or 0.0}
        try:
            self.log.served(ask.account, ask.held_usd, about["total_cost"], record)
        except Refusal as refusal:  # its reservations stay charged
            log.error("request %s is not in the log: %s", ask.id, refusal.message)


async def _joined(early: Sequence[dict], parts: AsyncIterator[dict] | None) -> AsyncIterator[dict]:
    for part in early:
        yield part
    if parts is not None:
        async for part in parts:
            yield part


def _as_chunk(body: Mapping[str, Any]) -> dict[str, Any]:
    """A completion as the one chunk of a stream."""
    choice = {k: v for k, v in body["choices"][0].items() if k != "message"}
    delta = dict(body["choices"][0].get("message") or {})
    if calls := delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls)]
    return {**body, "choices": [{**choice, "delta": delta}]}


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def _json(status: int, content: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(content), status=status, headers=headers, content_type="application/json")


def _cost(ask: Ask | None) -> dict[str, Any]:
    return {"router_metadata": ask.metadata()} if ask and ask.calls else {}
