"""What goes to a backend and what comes back: `Call`, `Reply`, and `CallError` with its class."""

import asyncio
import datetime as dt
import enum
import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from blake3 import blake3


class BackendError(ValueError):
    """A backend that does not exist or cannot be used as asked."""


class Scope(enum.StrEnum):
    """What a failed call means: try it again, give up this row, or stop the run."""

    RETRY = "retry"
    ROW = "row"
    RUN = "run"


class CallError(RuntimeError):
    """A call that gave no answer. `kind` is the error class written to ledger and table.

    `tokens` are (in, cached, out) when the provider billed the failed attempt; `unsure` where nobody knows whether it
    did; `retry_after_s` is what it asked for.
    """

    def __init__(
        self,
        kind: str,
        scope: Scope,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        tokens: tuple[int, int, int] | None = None,
        unsure: bool = False,
    ) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind, self.scope = kind, scope
        self.retry_after_s, self.tokens = retry_after_s, tokens
        self.unsure = tokens is None and (unsure or kind in UNSURE)


def _most_bytes(text: str) -> int:
    """Bytes of a text, or of the normal form a tokenizer may bring it to, if that is longer."""
    if text.isascii():
        return len(text)
    forms = (unicodedata.normalize(form, text) for form in ("NFC", "NFKC"))
    return max(len(t.encode()) for t in (text, *forms))


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
    prompt: str = "plain/1"  # name and version of how the question was put
    prices: str = ""  # date of the card's prices
    extra: Mapping[str, object] = field(default_factory=dict)  # further request fields
    weights: str = ""  # hash of an embedded model's files; of a provider's model nobody knows it

    @property
    def key(self) -> str:
        """BLAKE3 of model (and its weights, if known), canonical request, sample, prompt version and price date: one
        paid call.

        It also goes out as the Idempotency-Key header.
        """
        content = [
            self.model,
            self.provider_id,
            [dict(m) for m in self.messages],
            self.sample,
            float(self.temperature),  # 1 and 1.0 are one temperature
            self.max_tokens,
            self.prompt,
            self.prices,
            dict(self.extra),
            *([self.weights] if self.weights else []),
        ]
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return blake3(text.encode()).hexdigest(length=16)

    @property
    def tokens_in_at_most(self) -> int:
        """A bound on the input tokens: one a byte, and what a chat format adds. A field of `extra`, such as tools or a
        schema, may be part of the input.

        No tokenizer splits a byte, but some bring a text to a normal form first, in which a rare character can be
        longer: the longest of the text and those forms counts.
        """
        texts = sum(_most_bytes(v) for m in self.messages for v in m.values())
        more = _most_bytes(json.dumps(dict(self.extra), ensure_ascii=False)) if self.extra else 0
        return texts + more + 16 * (len(self.messages) + 1)


@dataclass(frozen=True)
class Reply:
    """An answer and what it took. `finish` is stop, length or refusal."""

    text: str
    finish: str
    tokens_in: int
    tokens_out: int
    latency_s: float
    tokens_cached: int = 0


# After these nobody knows whether the provider billed the attempt: it stays charged to the budget at
# its reservation, and is left out of the cost of its row.
UNSURE = frozenset({"timeout", "reset", "truncated_json", "no_usage", "too_large"})

PATIENCE_S = 900.0  # a provider that asks for a longer wait stops the run

_STATUS = {
    400: ("bad_request", Scope.ROW),
    401: ("unauthorized", Scope.RUN),
    402: ("payment_required", Scope.RUN),
    403: ("forbidden", Scope.RUN),
    404: ("not_found", Scope.RUN),
    405: ("not_found", Scope.RUN),
    408: ("timeout", Scope.RETRY),
    409: ("conflict", Scope.RETRY),
    413: ("context_length", Scope.ROW),
    422: ("bad_request", Scope.ROW),
    429: ("rate_limited", Scope.RETRY),
    529: ("overloaded", Scope.RETRY),
}
_WORDS = (  # in the body, whatever the status: more telling than it
    ("context_length", ("context_length", "context length", "maximum context", "too many tokens")),
    ("content_filter", ("content_filter", "content filter", "content management policy")),
)


def from_status(status: int, body: str = "", retry_after: str | None = None) -> CallError:
    """The error of an HTTP answer that is not 200. The body is read for its class, never repeated."""
    low = body.lower()
    kind, scope = _STATUS.get(status, ("server_error" if status >= 500 else "bad_request", None))
    if 300 <= status < 400:  # every call would be sent elsewhere: no fault of this row
        kind, scope = "not_found", Scope.RUN
    if scope is None:
        scope = Scope.RETRY if status >= 500 else Scope.ROW
    if status in (400, 413, 422):
        kind = next((k for k, words in _WORDS if any(w in low for w in words)), kind)
    if status == 429 and "insufficient_quota" in low:
        kind, scope = "payment_required", Scope.RUN
    wait_s = _seconds(retry_after)
    if (wait_s or 0) > PATIENCE_S:  # a quota of a day, not a pace
        return CallError(kind, Scope.RUN, f"HTTP {status}, which asks to wait {wait_s:.0f} s")
    return CallError(kind, scope, f"HTTP {status}", retry_after_s=wait_s)


def from_exception(error: BaseException) -> CallError:
    """The class of an exception of the transport; its text, which may hold a URL, is dropped."""
    if isinstance(error, CallError):
        return error
    name = type(error).__name__
    if isinstance(error, asyncio.TimeoutError | TimeoutError) or "timeout" in name.lower():
        return CallError("timeout", Scope.RETRY, name)
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return CallError("truncated_json", Scope.RETRY, name)
    # aiohttp and litellm have one base class each; by name, so that neither is imported for it
    names = {c.__name__ for c in type(error).__mro__}
    if isinstance(error, OSError | EOFError) or names & {"ClientError", "APIConnectionError"}:
        return CallError("reset", Scope.RETRY, name)
    raise error


def _seconds(text: str | None) -> float | None:
    """Retry-After as seconds: a number, or an HTTP date."""
    if not text:
        return None
    try:
        wait_s = max(0.0, float(text))
        return wait_s if math.isfinite(wait_s) else None
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if then.tzinfo is None:  # "-0000": UTC, from nowhere in particular
        then = then.replace(tzinfo=dt.UTC)
    return max(0.0, (then - dt.datetime.now(dt.UTC)).total_seconds())
