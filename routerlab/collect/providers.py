"""Paid calls over the network: OpenAI-compatible endpoints by aiohttp, any other provider by litellm.

A key is read from its environment variable when a call is sent, and put into that call's header only.
"""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from routerlab.collect.calls import BackendError, Call, CallError, Reply, Scope, from_exception, from_status

_LOCAL_PREFIXES = {"openai", "vllm", "hosted_vllm", "llamacpp", "ollama"}


def read_completion(body: Any, latency_s: float) -> Reply:
    """The reply in an OpenAI chat completion (a dict); a missing part raises a CallError of its class."""
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
    if tokens is None:
        raise CallError("no_usage", Scope.ROW, "the provider names no token counts, so the call has no price")
    kind = finish if finish in ("length", "refusal") else "stop"
    return Reply(text or "", kind, tokens[0], tokens[2], round(latency_s, 3), tokens[1])


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
    return tokens_in, cached, tokens_out


def _count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**31


class _PerCall:
    """What both backends share: a request of its own for each call."""

    base_url: str | None
    batch = 1

    def __repr__(self) -> str:  # without the path of a URL, which may hold a key
        return f"{type(self).__name__}({urlsplit(self.base_url or '').hostname or ''!r})"

    async def answer(self, calls: Sequence[Call]) -> list[Reply | CallError]:
        return list(await asyncio.gather(*map(self._answer, calls)))

    async def _answer(self, call: Call) -> Reply | CallError:
        raise NotImplementedError

    async def close(self) -> None: ...


@dataclass(repr=False)
class OpenAIBackend(_PerCall):
    """Any endpoint that speaks OpenAI's chat completions, such as vLLM and llama.cpp."""

    base_url: str  # http(s)://host/v1
    _: KW_ONLY
    key_env: str = "OPENAI_API_KEY"  # the environment variable that holds the key
    timeout_s: float = 120.0
    concurrency: int = 32
    limit_field: str = "max_tokens"  # the request's field for the most output tokens
    most_bytes: int = 2**25  # of an answer; a longer one is cut off, for it would fill the memory
    _session: Any = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        plain = parts.scheme in {"http", "https"} and parts.hostname
        if not plain or parts.username or parts.query:
            raise BackendError(
                "a base URL is http(s)://host/v1, without a user or a query; put the key into an environment variable "
                f"and name it in key_env ({self.key_env})"
            )
        self.base_url = self.base_url.rstrip("/")

    async def _answer(self, call: Call) -> Reply | CallError:
        import aiohttp
        import orjson

        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self.timeout_s)
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        prefix, _, rest = call.provider_id.partition("/")
        body = {
            "model": rest if prefix in _LOCAL_PREFIXES and rest else call.provider_id,
            "messages": [dict(m) for m in call.messages],
            "temperature": call.temperature,
            self.limit_field: call.max_tokens,
            **call.extra,
        }
        headers = {"Content-Type": "application/json", "Idempotency-Key": call.key}
        if key := os.environ.get(self.key_env):
            headers["Authorization"] = f"Bearer {key}"
        started = time.perf_counter()
        try:
            async with self._session.post(
                f"{self.base_url}/chat/completions",
                data=orjson.dumps(body),
                headers=headers,
                allow_redirects=False,  # a redirected POST arrives as a GET without its question
            ) as answer:
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
                    return from_status(answer.status, content.decode(errors="replace"), wait)
            return read_completion(orjson.loads(content), time.perf_counter() - started)
        except Exception as error:  # classified, or raised again
            return from_exception(error)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


@dataclass(repr=False)
class LiteLLMBackend(_PerCall):
    """Any provider that litellm knows, by its provider id; litellm neither retries nor prices here."""

    base_url: str | None = None
    _: KW_ONLY
    timeout_s: float = 120.0
    concurrency: int = 32

    async def _answer(self, call: Call) -> Reply | CallError:
        litellm = load_litellm()
        started = time.perf_counter()
        try:
            completion = await litellm.acompletion(
                model=call.provider_id,
                messages=[dict(m) for m in call.messages],
                temperature=call.temperature,
                max_tokens=call.max_tokens,
                num_retries=0,
                max_retries=0,
                timeout=self.timeout_s,
                extra_headers={"Idempotency-Key": call.key},
                **({"base_url": self.base_url} if self.base_url else {}),
                **call.extra,
            )
            return read_completion(completion.model_dump(), time.perf_counter() - started)
        except Exception as error:  # classified, or raised again
            status, known = getattr(error, "status_code", None), litellm.exceptions
            if isinstance(error, known.UnsupportedParamsError):
                # If litellm dropped it, the table would name a temperature that was never used.
                why = f"{call.model} does not take temperature {call.temperature:g} or a field of `extra`"
                return CallError("unsupported", Scope.RUN, f"{why}; choose another (mostly 1)")
            if isinstance(error, CallError | known.Timeout | known.APIConnectionError) or not isinstance(status, int):
                return from_exception(error)
            headers = getattr(getattr(error, "response", None), "headers", None) or {}
            return from_status(status, str(error), headers.get("retry-after"))


def load_litellm() -> Any:
    """litellm with its own price map (never fetched) and without its messages; takes seconds, once."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.suppress_debug_info = True
    return litellm


def missing_keys(provider_ids: Sequence[str]) -> dict[str, list[str]]:
    """The environment variables that each provider id needs and that are not set, by litellm's own account."""
    litellm = load_litellm()
    missing = {p: litellm.validate_environment(p)["missing_keys"] for p in provider_ids}
    return {p: sorted(keys) for p, keys in missing.items() if keys}
