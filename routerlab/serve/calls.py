"""Calls of models for a request: reserved before, charged after, and another model asked when one fails."""

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson

from routerlab.collect.calls import CallError, Scope, most_bytes
from routerlab.collect.completion import read_completion
from routerlab.core.pools import ModelCard, Pool
from routerlab.core.queries import Query
from routerlab.serve.log import Account, Log, Refusal
from routerlab.serve.upstream import Upstream, limit_of, said_in, text_of

_PATIENCE = 3, 5.0  # after so many failures in a row a model is passed over for so many seconds
_STATUS = {"bad_request": 400, "context_length": 400, "content_filter": 400, "unsupported": 400}
_STATUS |= {"rate_limited": 429, "timeout": 504}


@dataclass(frozen=True)
class Settings:
    """How the server treats a request."""

    timeout_s: float = 60.0  # from the first byte of a request to the last byte of its answer
    most_at_once: int = 256  # requests; further ones are refused at once, with Retry-After
    fallbacks: int = 2  # other models that are asked when one fails before its first byte
    max_tokens: int = 4096  # of an answer, where the request names no limit: the cost of a call must be bounded
    debug: bool = False  # prompts and answers in router_metadata, and /debug/tools
    body_s: float = 10.0  # within which the body of a request must arrive


@dataclass
class Ask:
    """One request while it is answered."""

    account: Account
    model: str  # as asked for
    fields: dict[str, Any]  # what is sent on
    given: Mapping[str, Any]  # the whole request
    deadline: float
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    started: float = field(default_factory=time.perf_counter)
    strategy: str = ""
    fallback: str = ""  # why the router or the model it chose did not decide the answer
    intended: str = ""
    propensity: dict[str, float] | None = None  # of each model to be the intended one
    used: str = ""
    answer: str = ""
    finish: str = ""
    turns: int = 1
    held_usd: float = 0.0
    router_usd: float = 0.0
    calls: list[dict[str, Any]] = field(default_factory=list)

    @functools.cached_property
    def query(self) -> Query:
        """What a router reads: the last message of the user."""
        messages = self.fields["messages"]
        return Query.ask(text_of(next((m for m in reversed(messages) if m["role"] == "user"), messages[-1])) or " ")

    def metadata(self) -> dict[str, Any]:
        """The `router_metadata` of the answer."""
        targets = sum(c["cost"] for c in self.calls if c["role"] == "target")
        own = self.router_usd + sum(c["cost"] for c in self.calls if c["role"] == "router")
        return {
            "model_used": self.used,
            "total_cost": targets + own,
            "router_cost": own,
            "target_models_cost": targets,
            "total_time": round(time.perf_counter() - self.started, 4),
            "routing_strategy": self.strategy,
            "turns_used": self.turns,
            "call_history": self.calls,
        }

    def reserve(self, log: Log, model: str, usd: float) -> None:
        """Set aside what a call may cost; refused if the account's budget does not hold it."""
        log.reserve(self.account, self.id, model, usd)
        self.held_usd += usd

    def cut(self) -> None:
        """Calls that the deadline cut off: whether they were billed is unknown, so they stay charged as reserved."""
        for entry in self.calls:
            if entry["status"] == "cancelled":
                entry |= {"status": "timeout", "cost": entry["reserved"]}


class Caller:
    """Calls models of the pool, and writes down what each call may cost and did cost."""

    def __init__(self, pool: Pool, upstream: Upstream, log: Log, settings: Settings) -> None:
        self.pool, self.upstream, self.log, self.settings = pool, upstream, log, settings
        self._failures: dict[str, tuple[int, float]] = {}  # of each model: how many in a row, when the last

    def order(self, intended: str, default: str) -> list[str]:
        """The models to ask: the intended one, then those that answer should it fail; failing models come last."""
        cheap_first = sorted(self.pool, key=lambda c: c.usd(1, 1))
        order = list(dict.fromkeys([intended, default, *(c.id for c in cheap_first)]))
        now, (most, pause) = time.monotonic(), _PATIENCE
        failing = {m for m, (count, last) in self._failures.items() if count >= most and now - last < pause}
        return sorted(order, key=failing.__contains__)[: 1 + self.settings.fallbacks]

    async def begin(self, ask: Ask, order: Sequence[str]) -> tuple[str, list[dict], AsyncGenerator[dict]]:
        """The first of these models that says something, what it said, and the rest of its answer."""
        failure, clock = CallError("timeout", Scope.RETRY), asyncio.get_running_loop().time
        for place, model in enumerate(order):
            parts, early = self.call(ask, self.pool[model], ask.fields), []
            left_s = (ask.deadline - clock()) / 2 if place < len(order) - 1 else None  # the last has until the deadline
            try:
                async with asyncio.timeout(left_s):
                    async for part in parts:
                        early.append(part)
                        if _speaks(part):
                            return model, early, parts
            except TimeoutError:
                await parts.aclose()
                ask.cut()
                failure = CallError("timeout", Scope.RETRY, f"{model} said nothing")
            except CallError as error:
                failure = error
            if failure.kind in ("bad_request", "unsupported"):
                break
            ask.fallback = f"{model}: {failure.kind}"
        wait_s = (failure.retry_after_s or 1.0) if failure.kind == "rate_limited" else None
        raise Refusal(_STATUS.get(failure.kind, 502), f"{order[-1]}: {failure}", failure.kind, wait_s)

    async def call(self, ask: Ask, card: ModelCard, fields: dict, role: str = "target") -> AsyncGenerator[dict]:
        """The parts of a model's answer. The most it can cost is reserved before; what it did cost is charged after,
        however it ends. An answer that is cut off, or comes without token counts, costs at most a token for each byte.
        """
        messages = fields["messages"]
        sent = orjson.dumps([messages, fields.get("tools"), fields.get("response_format")]).decode()
        pictures = sum(isinstance(m.get("content"), list) and len(m["content"]) for m in messages)
        tokens_in = most_bytes(sent) + 16 * (len(messages) + 2) + 4096 * pictures
        limit = min(limit_of(fields) or self.settings.max_tokens, card.context)
        most = max(card.usd(tokens_in, limit, cached) for cached in (0, tokens_in))
        minute = ask.account.count(0, tokens_in + limit)
        ask.reserve(self.log, card.id, most)
        entry: dict[str, Any] = {
            "call_id": f"{ask.id}-{len(ask.calls) + 1}",
            "model": card.id,
            "role": role,
            "cost": most,
            "reserved": most,
            "latency": 0.0,
            "status": "cancelled",
            "estimated": True,
            **dict.fromkeys(("tokens_in", "tokens_cached", "tokens_out"), 0),
        }
        ask.calls.append(entry)
        started, said, whole = time.perf_counter(), [], {}
        try:
            async with aclosing(self.upstream.send(card, fields)) as answer:
                async for part in answer:
                    whole = part if part.get("usage") else whole
                    said += [text_of(said_in(choice)) for choice in part.get("choices") or ()]
                    yield part
            entry["status"], self._failures[card.id] = "ok", (0, 0.0)
        except CallError as error:
            entry["status"] = error.kind
            if not error.unsure:
                entry |= {"cost": 0.0, "estimated": False}
            if error.scope is not Scope.ROW:
                self._failures[card.id] = self._failures.get(card.id, (0, 0.0))[0] + 1, time.monotonic()
            raise
        finally:
            entry["latency"], text = round(time.perf_counter() - started, 4), "".join(said)
            if entry["status"] in ("ok", "cancelled"):
                choice, names = {"message": {"content": text or "-"}}, ("usage", "router_metadata")
                reply = read_completion({"choices": [choice], **{n: whole.get(n) for n in names}}, 0.0)
                counts = reply.tokens_in, reply.tokens_out, reply.tokens_cached
                if estimated := reply.estimated or entry["status"] != "ok":
                    counts = tokens_in, len(text.encode()), 0
                entry |= dict(zip(("tokens_in", "tokens_out", "tokens_cached"), counts, strict=True))
                entry["cost"] = reply.usd if reply.usd is not None and not estimated else card.usd(*counts)
                entry["estimated"] = estimated
            ask.account.refund(minute, tokens_in + limit - entry["tokens_in"] - entry["tokens_out"])
            if self.settings.debug:
                entry |= {"prompt": messages, "answer": text}

    async def complete(self, ask: Ask, card: ModelCard, fields: dict, role: str = "target") -> dict[str, Any]:
        """A whole answer."""
        fields = {k: v for k, v in fields.items() if k not in ("stream", "stream_options")}
        (body,) = [part async for part in self.call(ask, card, fields, role)]
        return body


def _speaks(part: Mapping[str, Any]) -> bool:
    """Whether a part of an answer holds something to show, or its end."""
    choice = (part.get("choices") or [{}])[0]
    said = said_in(choice)
    return bool(said.get("content") or said.get("tool_calls") or choice.get("finish_reason"))
