"""What was served and what it cost: an append-only file of JSON lines with checksums, and an outcome table made of it.

A `call` line is in the file before a model is asked, with the most the call can cost; a `served` line ends the request
and replaces these reservations by what was charged. Each line also holds the key's total, so neither a restart nor a
damaged line takes money out of an account.
"""

import fcntl
import hmac
import math
import os
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson

from routerlab.collect.ledger_format import decode
from routerlab.collect.limits import UNIT, units
from routerlab.core.runs import Run

FILE = "served.jsonl"


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818 (an answer of the server, no fault of it)
    """A request that gets no answer: the HTTP status, and a message that says what to do."""

    status: int
    message: str
    code: str = "invalid_request"
    retry_after_s: float | None = None
    more: dict[str, Any] = field(default_factory=dict)  # further fields of the answer


class LogError(RuntimeError):
    """A log that cannot be opened, or cannot tell what was asked of it; the message says what to do."""


@dataclass
class Account:
    """One API key (its name, and the hash of the key itself), its limits, and what it used: `charged` is in units of
    1e-12 US dollars and includes the reservations of calls in flight.
    """

    name: str = "anonymous"
    digest: bytes = b""
    usd: float | None = None  # in all, restarts included
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    charged: int = 0
    minute: int = 0
    requests: int = 0  # of this minute, as are tokens
    tokens: int = 0

    @property
    def share_spent(self) -> float:
        """The share of the budget that is charged or reserved; 0 without a budget."""
        return self.charged / UNIT / self.usd if self.usd else 0.0

    def count(self, requests: int, tokens: int) -> int:
        """Count against the limits of this minute, which is returned, or refuse with the seconds until the next."""
        now = time.time()
        if self.minute != int(now // 60):
            self.minute, self.requests, self.tokens = int(now // 60), 0, 0
        for what, used, most in (
            ("requests", self.requests + requests, self.requests_per_minute),
            ("tokens", self.tokens + tokens, self.tokens_per_minute),
        ):
            if used > (most or math.inf):
                raise Refusal(429, f"key {self.name} has used its {what} of this minute", "rate_limit", 60 - now % 60)
        self.requests, self.tokens = self.requests + requests, self.tokens + tokens
        return self.minute

    def refund(self, minute: int, tokens: int) -> None:
        """Tokens counted in a minute that were not used; those of an earlier minute free none of this one."""
        if minute == self.minute:
            self.tokens -= tokens


def digest(key: str) -> bytes:
    """The hash of a key, of which only this is kept."""
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


class Log:
    """The log of one run, written by one process; accounts continue with what earlier processes charged them. Without
    accounts anybody may ask.
    """

    def __init__(self, run: Run, accounts: Iterable[Account] | None = None) -> None:
        self.accounts = {a.name: a for a in ([Account()] if accounts is None else accounts)}
        self.run, self.path = run, run.folder / FILE
        ours = self.path.exists() or "serve.json" in run.manifest()
        other = ["ledger.jsonl"] if ours else ["ledger.jsonl", "manifest.json", "pool.yaml"]
        if found := [name for name in other if (run.folder / name).exists()]:
            raise LogError(f"{run.folder} holds {found[0]} of something else; give the run another name (--run)")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.file)
            raise LogError(f"{self.path} is being written by another server; stop it, or name another run") from None
        with self.path.open("rb") as lines:
            for line in lines:
                if record := decode(line):
                    account = self.accounts.setdefault(record["by"], Account(record["by"], usd=0.0))
                    account.charged = record["sum"]
            if lines.tell() and not line.endswith(b"\n"):  # the end of a line that a killed process was writing
                os.ftruncate(self.file, lines.tell() - len(line))
        self._size = os.fstat(self.file).st_size

    def account(self, authorization: str) -> Account:
        """The account of a request, by its Authorization header; all keys are compared, each in constant time."""
        key = authorization.removeprefix("Bearer ").strip()
        sent = digest(key)
        matching = [a for a in self.accounts.values() if not a.digest or (key and hmac.compare_digest(a.digest, sent))]
        usable = [a for a in matching if a.usd != 0.0]
        if not usable:
            raise Refusal(401, "send a known API key: Authorization: Bearer KEY", "invalid_api_key")
        return max(usable, key=lambda a: len(a.digest))

    def reserve(self, account: Account, request: str, model: str, usd: float) -> None:
        """Write down that a call of at most this cost is about to be sent; refused if the budget does not hold it."""
        amount = units(usd)
        if account.usd and account.charged + amount > account.usd * UNIT:
            left = max(0.0, account.usd - account.charged / UNIT)
            message = (
                f"key {account.name} has US$ {left:.6f} left of {account.usd:g} and this call may cost {usd:.6f}; "
            )
            raise Refusal(429, message + "ask for fewer max_tokens, or raise the budget", "insufficient_quota")
        self._append(account, amount, {"t": "call", "id": request, "model": model, "usd": usd})

    def served(self, account: Account, held_usd: float, usd: float, record: Mapping[str, Any]) -> None:
        """End a request: its reservations become what it was charged."""
        self._append(account, units(usd) - units(held_usd), {"t": "served", "usd": usd, **record})

    def _append(self, account: Account, change: int, record: dict[str, Any]) -> None:
        total = account.charged + change
        body = orjson.dumps({**record, "by": account.name, "sum": total})
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        try:
            if os.write(self.file, line) != len(line):
                raise OSError("the disk is full")
        except OSError as error:
            os.ftruncate(self.file, self._size)
            raise Refusal(503, f"cannot write {FILE} ({error}); free some space", "log_unavailable", 5.0) from error
        self._size, account.charged = self._size + len(line), total

    def close(self) -> None:
        """Bring the file to the disk and let another process write it."""
        os.fsync(self.file)
        os.close(self.file)


def served(run: Run, last_bytes: int | None = None) -> list[dict[str, Any]]:
    """The requests of a log that got an answer or an error, oldest first; only those in its last bytes, if given."""
    with (run.folder / FILE).open("rb") as lines:
        lines.seek(max(0, lines.seek(0, os.SEEK_END) - last_bytes) if last_bytes else 0)
        return [r for line in lines if (r := decode(line)) and r["t"] == "served"]
