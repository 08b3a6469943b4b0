"""Paid calls over the network: OpenAI-compatible endpoints by aiohttp, any other provider by litellm.

A key is read from its environment variable when a call is sent, and put into that call's header only.
"""

import asyncio
import functools
import ipaddress
import json
import re
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
from aiohttp.http_exceptions import LineTooLong

from routerlab.collect.calls import (
    BackendError,
    Call,
    CallError,
    Reply,
    Scope,
    chain,
    from_exception,
    from_status,
)
from routerlab.collect.completion import read_completion
from routerlab.collect.keys import load_litellm, missing_keys, secret
from routerlab.collect.scrub import scrub
from routerlab.core.pools import ModelCard

_LOCAL_PREFIXES = {"vllm", "hosted_vllm", "llamacpp", "ollama"}
_COMPLETION = "max_completion_tokens"  # some models take the limit of their output in this field only
_To = Call | ModelCard  # where a request goes, and under which name
_FIXED_TEMPERATURE = re.compile(r"temperature.*(only|default|support|allow|must be|fixed)")


@dataclass
class _Provider:
    """What both backends share: how a call becomes a request, and which fields each model was found to need."""

    base_url: str = ""  # http(s)://host/v1; if empty, each model's card has its own
    _: KW_ONLY
    key_env: str = ""  # the environment variable that holds the key
    timeout_s: float = 120.0  # of a call; 0: the caller has a limit of its own
    concurrency: int = 32
    limit_field: str = "max_tokens"  # the request's field for the most output tokens
    batch = 1
    follows_instructions = True
    _learned: defaultdict[str, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict), repr=False)

    def __repr__(self) -> str:  # without the path of a URL, which may hold a key
        return f"{type(self).__name__}({_host(self.base_url)!r})"

    async def answer(self, calls: Sequence[Call]) -> list[Reply | CallError]:
        return list(await asyncio.gather(*map(self._answer, calls)))

    async def _answer(self, call: Call) -> Reply | CallError:
        """Send a call, and again if the provider refused a field of the request that can be sent otherwise."""
        while True:
            learned = dict(self._learned[call.model])
            fields = {
                "model": learned.get("name", self._name(call)),
                "messages": [dict(m) for m in call.messages],
                "temperature": learned.get("temperature", call.temperature),
                learned.get("limit_field", self.limit_field): call.max_tokens,
                **call.extra,
            }
            # Another request needs another key, or a provider may refuse it as a changed one.
            outcome = await self._send(call, fields, f"{call.key}-{len(learned)}" if learned else call.key)
            if not (lesson := _lesson(outcome, fields) if isinstance(outcome, CallError) else {}):
                break
            self._learned[call.model] |= lesson
        if isinstance(outcome, Reply) and fields["temperature"] != call.temperature:
            return replace(outcome, temperature=fields["temperature"])
        return outcome

    def _name(self, to: _To) -> str:
        return to.provider_id

    async def _send(self, call: Call, fields: dict[str, Any], key: str) -> Reply | CallError:
        started = time.perf_counter()
        try:
            (body,) = [part async for part in self.parts(call, fields, {"Idempotency-Key": key})]
            return read_completion(body, time.perf_counter() - started, call)
        except CallError as error:
            return replace(error, said=scrub(error.said, secret(call.key_env or self.key_env)))

    def parts(self, to: _To, fields: Mapping[str, Any], headers: Mapping[str, str]) -> AsyncGenerator[Any]:
        """Send a request to a model once: gives the body of the answer, or each event if `fields` ask for a stream.
        Whatever fails is raised as a CallError. `fields` name the model, or its card does.
        """
        raise NotImplementedError

    async def close(self) -> None: ...


def _lesson(error: CallError, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What to send otherwise, by a provider's words on a request it refused, and so did not bill."""
    said, refused = error.said.lower(), error.kind in {"bad_request", "unsupported"}
    if error.kind == "not_found" and fields["model"].startswith("openai/"):  # a name for litellm, not the server's
        return {"name": fields["model"].removeprefix("openai/")}
    if refused and _COMPLETION in said and _COMPLETION not in fields:
        return {"limit_field": _COMPLETION}
    if refused and _FIXED_TEMPERATURE.search(said) and fields["temperature"] != 1.0:
        return {"temperature": 1.0}
    return {}


@dataclass(repr=False)
class OpenAIBackend(_Provider):
    """Any server of OpenAI's chat completions (vLLM, llama.cpp …); without `key_env` OPENAI_API_KEY holds the key."""

    _: KW_ONLY
    most_bytes: int = 2**25  # of an answer; a longer one is cut off, for it would fill the memory
    _session: Any = None

    def __post_init__(self) -> None:
        self.base_url = checked_url(self.base_url) if self.base_url else ""

    def check(self, cards: Iterable[ModelCard]) -> None:
        """Raise BackendError for a model without an address, or whose key is in no environment variable."""
        for card in cards:
            if not (card.base_url or self.base_url):
                raise BackendError(f"{card.id!r} has no address: give base_url in its pool, or --backend openai:URL")
            url, name = checked_url(card.base_url or self.base_url), card.key_env or self.key_env
            local = urlsplit(url).scheme == "http" or _is_local(_host(url))
            if not secret(name or "OPENAI_API_KEY") and (name or not local):
                raise BackendError(
                    f"model {card.id!r} needs a key: set the environment variable {name or 'OPENAI_API_KEY'}, here or "
                    f"in a file .env, or name another one (key_env in its pool, or --key-env)"
                )

    def _name(self, to: _To) -> str:
        prefix, _, rest = to.provider_id.partition("/")
        own = _host(to.base_url or self.base_url) == "api.openai.com" and prefix == "openai"
        return rest if rest and (own or prefix in _LOCAL_PREFIXES) else to.provider_id

    async def parts(self, to: _To, fields: Mapping[str, Any], headers: Mapping[str, str]) -> AsyncGenerator[Any]:
        if self._session is None:
            most = self.timeout_s or None
            timeout = aiohttp.ClientTimeout(total=most, sock_connect=min(30.0, most or 30.0))
            own: dict[str, Any] = {"connector": aiohttp.TCPConnector(limit=0), "cookie_jar": aiohttp.DummyCookieJar()}
            self._session = aiohttp.ClientSession(timeout=timeout, read_bufsize=2**20, **own)
        url = _checked_once(to.base_url) if to.base_url else self.base_url
        headers = {"Content-Type": "application/json", **headers}
        if key := secret(to.key_env or self.key_env or "OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        try:
            async with self._session.post(
                f"{url}/chat/completions",
                data=orjson.dumps({"model": self._name(to), **fields}),
                headers=headers,
                allow_redirects=False,  # a redirected POST arrives as a GET without its question
            ) as answer:
                if answer.status == 200 and fields.get("stream"):
                    async for line in answer.content:
                        if line.startswith(b"data:") and (event := line[5:].strip()) != b"[DONE]":
                            yield orjson.loads(event)
                    return
                content = bytearray()
                while (answer.content_length or 0) <= self.most_bytes >= len(content):
                    if not (chunk := await answer.content.readany()):
                        break
                    content += chunk
                else:
                    answer.close()
                    raise CallError("too_large", Scope.ROW, f"more than {self.most_bytes} bytes")
                if answer.status != 200:
                    wait = answer.headers.get("Retry-After")
                    raise from_status(answer.status, content.decode(errors="replace"), wait, key)
            try:
                body = orjson.loads(content)
            except orjson.JSONDecodeError:
                body = json.loads(content)  # which takes half a surrogate pair
            yield body
        except CallError:
            raise
        except RecursionError:
            raise CallError("truncated_json", Scope.RETRY, "the body is nested too deeply") from None
        except Exception as error:  # classified, or raised again
            if isinstance(error, LineTooLong):
                raise CallError("too_large", Scope.ROW, "an event is longer than the buffer") from None
            raise from_exception(error, _host(url, port=True)) from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


@dataclass(repr=False)
class LiteLLMBackend(_Provider):
    """Any provider that litellm knows, by its provider id; litellm neither retries nor prices here."""

    def check(self, cards: Iterable[ModelCard]) -> None:
        """Raise BackendError for a model that litellm does not know, or whose key is in no environment variable."""
        keys = [(card.provider_id, card.key_env or self.key_env) for card in cards]
        missing = missing_keys([model for model, name in keys if not name])
        missing |= {model: [name] for model, name in keys if name and not secret(name)}
        if missing:
            needed = sorted({name for names in missing.values() for name in names})
            models = f"{', '.join([*missing][:3])}{' …' if len(missing) > 3 else ''}"
            raise BackendError(
                f"set {', '.join(needed)}, here or in a file .env, or choose others (--models): {len(missing)} of "
                f"{len(keys)} models lack a key ({models})"
            )

    async def parts(self, to: _To, fields: Mapping[str, Any], headers: Mapping[str, str]) -> AsyncGenerator[Any]:
        litellm, key = load_litellm(), secret(to.key_env or self.key_env)
        own = {"base_url": to.base_url or self.base_url, "api_key": key, "extra_headers": dict(headers)}
        try:
            answer: Any = await litellm.acompletion(
                **{"model": self._name(to), **fields},
                **{name: value for name, value in own.items() if value},
                num_retries=0,
                max_retries=0,
                timeout=self.timeout_s,
            )
            if not fields.get("stream"):
                yield answer.model_dump()
                return
            async for chunk in answer:
                yield chunk.model_dump(exclude_none=True)
        except Exception as error:  # classified, or raised again; its text may hold the key
            raise _litellm_error(litellm.exceptions, error, scrub(str(error), key)) from None


def _litellm_error(known: Any, error: Exception, said: str) -> CallError:
    """The class of what litellm raised. It raises InternalServerError also for a connection that failed or broke, for
    half an answer and for a missing key, which the chain of causes tells apart.
    """
    status, headers = getattr(error, "status_code", None), getattr(getattr(error, "response", None), "headers", None)
    if isinstance(error, known.UnsupportedParamsError):
        return CallError("unsupported", Scope.RUN, "litellm does not send such a request", said)
    if isinstance(error, CallError | known.Timeout | known.APIConnectionError) or not isinstance(status, int):
        return from_exception(error)
    if status >= 500 and "HTTPStatusError" not in {type(cause).__name__ for cause in chain(error)}:
        try:
            return from_exception(error)
        except Exception:
            if re.search(r"credentials|api.?key", said, re.I):
                return CallError("unauthorized", Scope.RUN, "", said)
            return CallError("server_error", Scope.RETRY, "", said, unsure=True)  # it may have been billed
    return replace(from_status(status, str(error), (headers or {}).get("retry-after")), said=said)


def checked_url(url: str) -> str:
    """A base URL without its last slash; one that no call can be sent to, or that holds a secret, is refused."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1)
        usable = usable and not (parts.username or parts.query)
    except ValueError:
        usable = False
    if not usable:
        raise BackendError(
            "a base URL is http(s)://host/v1, without a user or a query; put the key into an environment variable and "
            "name it in key_env (OPENAI_API_KEY)"
        )
    return url.rstrip("/")


_checked_once = functools.cache(checked_url)


def _host(url: str, port: bool = False) -> str:
    parts = urlsplit(url)
    number = f":{parts.port or (443 if parts.scheme == 'https' else 80)}" if port else ""
    return f"{parts.hostname or ''}{number}"


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or "." not in host
