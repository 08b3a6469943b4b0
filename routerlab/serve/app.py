"""The API: OpenAI's chat completions in front of a router and its pool."""

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import fastjsonschema
import orjson
import yaml
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from routerlab.collect.calls import CallError
from routerlab.core.pools import Pool
from routerlab.core.runs import root
from routerlab.serve.agent import Agent
from routerlab.serve.answer import BEGUN, as_json, send
from routerlab.serve.calls import Ask, Caller, Settings
from routerlab.serve.choose import Chooser
from routerlab.serve.log import Account, Log, Refusal
from routerlab.serve.upstream import Upstream, limit_of

ROUTERS = ("router", "router-tool-rl")  # the second is the name that the published system uses
MOST_BYTES = 2**20  # of a request
DRIFT_S = 60.0  # between two looks at the log for drift; a look happens when /metrics is read
_OURS = {"model", "stream", "stream_options", "metadata", "messages"}
log = logging.getLogger("routerlab.serve")


class Server:
    """Answers requests: `chooser` names the model, or `agent` calls models with tools; `default` answers when neither
    can. `drift` gives the warnings of drift in the log so far.
    """

    drift: Callable[[], list[str]] | None = None

    def __init__(
        self, pool: Pool, chooser: Chooser, upstream: Upstream, log: Log, settings: Settings, agent: Agent | None = None
    ) -> None:
        self.pool, self.chooser, self.log, self.settings = pool, chooser, log, settings
        self.caller = Caller(pool, upstream, log, settings)
        self.agent, self.flying, self.draining = agent, 0, False
        self.document = yaml.safe_load((root() / "data" / "openapi.yaml").read_text("utf-8"))
        self._check = fastjsonschema.compile(self.document["components"]["schemas"]["Request"])
        self.warnings, self._looking, self._looked = [], None, -DRIFT_S
        self.registry = CollectorRegistry()
        labels = {"registry": self.registry, "namespace": "routerlab"}
        self.requests = Counter("requests", "Requests by the status of their answer", ["status"], **labels)
        self.called = Counter("calls", "Calls of models by how they ended", ["model", "status"], **labels)
        self.usd = Counter("usd", "US dollars charged", ["model"], **labels)
        self.seconds = Histogram("request_seconds", "Seconds from request to answer", **labels)
        Gauge("requests_now", "Requests being answered", **labels).set_function(lambda: self.flying)
        Gauge("drift_warnings", "Warnings of drift", **labels).set_function(lambda: len(self.warnings))

    def app(self) -> web.Application:
        """The application, with its routes."""
        app = web.Application(client_max_size=MOST_BYTES, middlewares=[self._errors])
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/metrics", self.metrics)
        for path in ("/", "/health", "/openapi.json", "/v1/models", *["/debug/tools"] * self.settings.debug):
            app.router.add_get(path, self.page)
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
            response = as_json(
                refusal.status, {"error": {"message": refusal.message, "code": refusal.code}, **refusal.more}
            )
            if refusal.retry_after_s is not None:
                response.headers["Retry-After"] = f"{max(1, round(refusal.retry_after_s))}"
        except web.HTTPException as error:
            allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            response = as_json(error.status, {"error": {"message": error.reason, "code": "invalid_request"}}, allowed)
        if request.method == "POST":
            self.requests.labels(response.status).inc()
        if (begun := request.get(BEGUN)) not in (None, response):  # another answer cannot follow half a stream
            if request.transport:
                request.transport.abort()
            return begun
        return response

    async def page(self, request: web.Request) -> web.Response:
        """The pages that are read only."""
        about = {"name": "routerlab", "endpoints": [*self.document["paths"]]}
        card = {"object": "model", "created": 0, "owned_by": "routerlab"}
        pages = {
            "/": about | {"router": self.chooser.name, "pool": self.pool.ids},
            "/health": {"status": "draining" if self.draining else "ok"},
            "/v1/models": {"object": "list", "data": [{"id": model, **card} for model in (*ROUTERS, *self.pool.ids)]},
            "/openapi.json": self.document,
            "/debug/tools": {"tools": self.agent.tools if self.agent else []},
        }
        return as_json(503 if self.draining and request.path == "/health" else 200, pages[request.path])

    async def metrics(self, _: web.Request) -> web.Response:
        if self.drift and not self._looking and time.monotonic() - self._looked >= DRIFT_S:
            self._looking = asyncio.create_task(self._look(self.drift))
        lines = "".join(f"# drift: {warning}\n" for warning in self.warnings)
        return web.Response(body=generate_latest(self.registry) + lines.encode(), content_type="text/plain")

    async def _look(self, drift: Callable[[], list[str]]) -> None:
        try:
            before, self.warnings = self.warnings, await asyncio.to_thread(drift)
            for warning in set(self.warnings) - set(before):
                log.warning("drift: %s", warning)
        except Exception:  # of any kind: a look at the log must not end the server
            log.exception("the log cannot be searched for drift")
        finally:
            self._looking, self._looked = None, time.monotonic()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, and write down what it cost, however it ends."""
        account, loop = self.log.account(request.headers.get("Authorization", "")), asyncio.get_running_loop()
        if self.draining:
            raise Refusal(503, "the server is stopping; ask again elsewhere", "draining", 5.0)
        self._admit()
        account.count(1, 0)
        deadline, patience_s = loop.time() + self.settings.timeout_s, self.settings.body_s
        try:  # a body that trickles in takes no place from others
            async with asyncio.timeout(None if request.content.is_eof() else patience_s):
                content = await request.read()
        except TimeoutError:
            raise Refusal(408, f"the body did not arrive within {patience_s:g} s; send it at once", "timeout") from None
        except ConnectionError:
            raise asyncio.CancelledError from None
        self._admit()
        self.flying += 1
        ask, status = None, 499  # the client went away
        try:
            async with asyncio.timeout_at(deadline):
                ask = self._read(content, account, deadline)
                response = await self._answer(request, ask)
                status = response.status
                return response
        except TimeoutError:
            status = 504
            if ask:
                ask.cut()
            raise Refusal(
                504,
                f"no answer within {self.settings.timeout_s:g} s; ask for less, or raise --timeout",
                "timeout",
                more=_cost(ask),
            ) from None
        except ConnectionError:  # the client left while it was written to
            raise asyncio.CancelledError from None
        except Refusal as refusal:
            status, refusal.more = refusal.status, _cost(ask)
            raise
        finally:
            self.flying -= 1
            if ask is not None:
                self._end(ask, status)

    def _admit(self) -> None:
        """Refuse a request beyond the most that are answered at once."""
        if self.flying >= self.settings.most_at_once:
            raise Refusal(429, f"{self.flying} requests are being answered; ask again later", "overloaded", 1.0)

    def _read(self, content: bytes, account: Account, deadline: float) -> Ask:
        try:
            given = orjson.loads(content)
            orjson.dumps([[given]])  # it will be written to the log, two levels deeper
            fields = {k: v for k, v in given.items() if k not in _OURS and v is not None}
        except (orjson.JSONDecodeError, orjson.JSONEncodeError, AttributeError, RecursionError):
            raise Refusal(400, "the body is no JSON object with 'messages', in UTF-8 and not nested deeply") from None
        try:
            self._check(given)
        except fastjsonschema.JsonSchemaValueException as error:
            raise Refusal(400, error.message.replace("data", "the body", 1)[:300]) from None
        model = given.get("model") or ROUTERS[0]
        if model not in self.pool and not re.fullmatch(r"(router|router-tool-rl)(@.{1,30})?", model):
            known = ", ".join([*ROUTERS, "router@LAMBDA", *self.pool.ids])
            raise Refusal(404, f"there is no model {model[:80]!r}; there are {known}", "model_not_found")
        fields["messages"] = given["messages"]
        if not limit_of(fields):
            fields["max_tokens"] = self.settings.max_tokens
        if given.get("stream"):
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        return Ask(account, model, fields, given, deadline)

    async def _answer(self, request: web.Request, ask: Ask) -> web.StreamResponse:
        if self.agent and ask.model not in self.pool:
            try:
                ask.used, body = await self.agent.answer(self.caller, ask)
                ask.strategy = f"{self.agent.mode}: {self.agent.card.provider_id}"
                return await send(request, ask, [body], None)
            except CallError as error:
                ask.fallback = f"router: {error.kind}"
        order = [ask.model]
        if ask.model in self.pool:
            ask.strategy, ask.intended = "direct", ask.model
        else:
            await self.chooser.choose(ask, self.log)
            order = self.caller.order(ask.intended, self.chooser.default)
            if order[0] != ask.intended:
                ask.fallback = f"{ask.intended} is failing"
        ask.used, early, parts = await self.caller.begin(ask, order)
        async with aclosing(parts):
            return await send(request, ask, early, parts)

    def _end(self, ask: Ask, status: int) -> None:
        about = ask.metadata()
        self.seconds.observe(about["total_time"])
        for entry in ask.calls:
            self.called.labels(entry["model"], entry["status"]).inc()
            self.usd.labels(entry["model"]).inc(entry["cost"])
        calls = [{k: v for k, v in entry.items() if k not in ("prompt", "answer")} for entry in ask.calls]
        names = ("intended", "propensity", "used", "answer", "finish", "strategy", "fallback", "id")
        record = {
            "at": time.time(),
            "asked": ask.model,
            "messages": ask.fields["messages"],
            "status": status,
            "calls": calls,
            "about": ask.given.get("metadata") or {},
            "temperature": ask.fields.get("temperature") or 0.0,
            **{name: getattr(ask, name) for name in names},
        }
        try:
            self.log.served(ask.account, ask.held_usd, about["total_cost"], record)
        except Refusal as refusal:  # its reservations stay charged
            log.error("request %s is not in the log: %s", ask.id, refusal.message)


def _cost(ask: Ask | None) -> dict[str, Any]:
    return {"router_metadata": ask.metadata()} if ask and ask.calls else {}
