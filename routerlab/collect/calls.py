"""`Call` (a question to a model), `Reply` (its answer), and `CallError` with its class."""

import contextlib
import enum
import json
import math
import time
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import mktime_tz, parsedate_tz

from blake3 import blake3

from routerlab.collect.scrub import scrub, words


class BackendError(ValueError):
    """A backend that does not exist or cannot be used as asked."""


class Scope(enum.StrEnum):
    """What a failed call means: try it again, give up this row, or stop the run."""

    RETRY = "retry"
    ROW = "row"
    RUN = "run"


# After these errors it is unknown whether the provider billed the attempt: it stays charged to the budget at its
# reservation, and is no part of its row's cost.
UNSURE = frozenset({"timeout", "reset", "truncated_json", "no_usage", "too_large"})


@dataclass(eq=False)
class CallError(RuntimeError):
    """A call without an answer."""

    kind: str  # the class of the error, as written to the ledger and the table
    scope: Scope
    message: str = ""
    said: str = ""  # the provider's own words, without secrets
    retry_after_s: float | None = None  # how long the provider asked to wait
    tokens: tuple[int, int, int] | None = None  # (in, cached, out) if the failed attempt was billed
    unsure: bool = False  # whether it is unknown if the attempt was billed

    def __post_init__(self) -> None:
        self.unsure = self.tokens is None and (self.unsure or self.kind in UNSURE)

    def __str__(self) -> str:
        return ": ".join(text for text in (self.kind, self.message, self.said) if text)


def most_bytes(text: str) -> int:
    """Bytes of a text, or of the normal form a tokenizer may bring it to, if that is longer."""
    if text.isascii():
        return len(text)
    return max(len(form.encode()) for form in (text, *(unicodedata.normalize(f, text) for f in ("NFC", "NFKC"))))


@dataclass(frozen=True)
class Call:
    """One question to one model, with everything that decides the answer."""

    query: str  # Query.id
    model: str  # ModelCard.id
    provider_id: str
    messages: tuple[Mapping[str, str], ...]
    sample: int = 0
    temperature: float = 0.0
    max_tokens: int = 512
    prompt: str = "plain/1"  # name and version of the prompt's wording
    prices: str = ""  # date of the card's prices
    extra: Mapping[str, object] = field(default_factory=dict)  # further request fields
    weights: str = ""  # hash of an embedded model's files; unknown for a provider's model
    base_url: str = ""  # of the model's own server, and the variable with its key: where a call goes is not in its key
    key_env: str = ""

    @property
    def key(self) -> str:
        """BLAKE3 of all that decides the answer (not of the query's id) and of the price date: one paid call.

        It is also sent as the Idempotency-Key header.
        """
        temperature = float(self.temperature)  # 1 and 1.0 are one temperature
        content = [self.model, self.provider_id, [dict(m) for m in self.messages], self.sample, temperature]
        content += [self.max_tokens, self.prompt, self.prices, dict(self.extra)]
        content += [self.weights] * bool(self.weights)
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return blake3(text.encode()).hexdigest(length=16)

    @property
    def tokens_in_at_most(self) -> int:
        """A bound on the input tokens: one a byte, and 16 a message for the chat format.

        No tokenizer splits a byte, but some first bring a text to a normal form, which may be longer: the longest form
        counts. `extra` counts too, for it may hold tools or a schema.
        """
        texts = sum(most_bytes(v) for m in self.messages for v in m.values())
        more = most_bytes(json.dumps(dict(self.extra), ensure_ascii=False)) if self.extra else 0
        return texts + more + 16 * (len(self.messages) + 1)


@dataclass(frozen=True)
class Reply:
    """An answer, its tokens and its time. `finish` is stop, length or refusal."""

    text: str
    finish: str
    tokens_in: int
    tokens_out: int
    latency_s: float
    tokens_cached: int = 0
    estimated: bool = False  # the provider gave no usable token counts: they are estimated from the text
    usd: float | None = None  # what the server says the call cost, or the estimate; None: by the card's prices
    temperature: float | None = None  # the one that was sent, if the model does not take the call's


PATIENCE_S = 900.0  # a provider that asks for a longer wait stops the run

_STATUS = {
    401: ("unauthorized", Scope.RUN),
    402: ("payment_required", Scope.RUN),
    403: ("forbidden", Scope.RUN),
    404: ("not_found", Scope.RUN),
    405: ("not_found", Scope.RUN),
    408: ("timeout", Scope.RETRY),
    409: ("conflict", Scope.RETRY),
    413: ("context_length", Scope.ROW),
    429: ("rate_limited", Scope.RETRY),
    529: ("overloaded", Scope.RETRY),
    3: ("not_found", Scope.RUN),  # a redirect: every call would be sent elsewhere
    4: ("bad_request", Scope.ROW),
    5: ("server_error", Scope.RETRY),
}
_WORDS = {  # in the body of a 400, 413 or 422; more exact than the status
    "context_length": ("context_length", "context length", "maximum context", "too many tokens"),
    "content_filter": ("content_filter", "content filter", "content management policy"),
}


def from_status(status: int, body: str = "", retry_after: str | None = None, secret: str = "") -> CallError:
    """The error of an HTTP answer that is not 200, with the provider's own words; `secret` is the key that was sent."""
    kind, scope = _STATUS.get(status) or _STATUS.get(status // 100, _STATUS[4])
    said, wait_s = scrub(words(body), secret), _seconds(retry_after)
    if status in (400, 413, 422):
        kind = next((k for k, signs in _WORDS.items() if any(sign in body.lower() for sign in signs)), kind)
    if status == 429 and "insufficient_quota" in body.lower():
        kind, scope = "payment_required", Scope.RUN
    if (wait_s or 0) > PATIENCE_S:  # a daily quota, not a rate limit
        return CallError(kind, Scope.RUN, f"HTTP {status}, which asks to wait {wait_s:.0f} s", said)
    return CallError(kind, scope, f"HTTP {status}", said, retry_after_s=wait_s)


# By name, so that none of these libraries is imported for it. aiohttp, httpx (below litellm) and the system:
_UNSENT = {"ClientConnectorError", "ConnectError", "ConnectTimeout", "ConnectionTimeoutError"}
_UNSENT |= {"gaierror", "ConnectionRefusedError"}
_SIGNS = {
    "timeout": {"TimeoutError"},
    "truncated_json": {"JSONDecodeError", "UnicodeDecodeError"},
    "reset": {"ClientError", "TransportError", "IncompleteRead", "OSError", "EOFError"},
}


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def from_exception(error: BaseException, where: str = "") -> CallError:
    """The class of an exception of the transport, by the first exception in its chain of causes that tells it. Its text
    is dropped, for it may hold a URL; `where` is host and port of the server. An exception of no such class is raised.
    """
    causes = list(chain(error))
    named = (f"{c.host}:{c.port}" for c in causes if hasattr(c, "host") and hasattr(c, "port"))  # type: ignore
    for cause in causes:
        name, names = type(cause).__name__, {c.__name__ for c in type(cause).__mro__}
        if isinstance(cause, CallError):
            return cause
        if names & _UNSENT:
            where = next(named, where or "the provider")
            return CallError("unreachable", Scope.RETRY, f"no connection to {where} ({name})")
        for kind, signs in _SIGNS.items():
            if names & signs or (kind == "timeout" and "timeout" in name.lower()):
                return CallError(kind, Scope.RETRY, name)
    if "APIConnectionError" in {c.__name__ for c in type(error).__mro__}:  # of litellm, without a cause
        return CallError("reset", Scope.RETRY, type(error).__name__)
    raise error


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds, from a number or an HTTP date; None if it is neither."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        date = parsedate_tz(text or "")
        wait_s = mktime_tz(date) - time.time() if date else float(text or "nan")
        return max(0.0, wait_s) if math.isfinite(wait_s) else None
