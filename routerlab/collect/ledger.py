"""The append-only log of calls, from which all spending is computed.

An `intent` is on the disk before a call is sent, a `result` once it returned. An intent without a result is a call
whose outcome is unknown: it stays charged at its reservation. Every record also holds the total charged so far, so a
line that is lost later takes no money out of the account.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from routerlab.collect.calls import UNSURE, CallError, Reply, Scope
from routerlab.collect.ledger_format import HEADER, LedgerError, Recovery, Scan, encode, scan
from routerlab.collect.limits import UNIT, units
from routerlab.core.runs import write_atomic

AGAIN = frozenset({"bad_request"})  # errors of a row that another setting may avoid: the next session tries again


@dataclass
class Row:
    """What the ledger knows about one key: its reply, or its last error, and the cost of its attempts."""

    usd: float = 0.0  # of the attempts that certainly were billed
    reply: Reply | None = None
    error: str | None = None


class Ledger:
    """Every call of a run: `results` and `errors` by key, `unknown` intents, charges `over` what was reserved,
    `spent_usd`.

    `Ledger.open` opens it to write (one writer at a time), `Ledger.read` to look. Tests replace `write` and `sync`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, Row] = {}  # with an answer, or an error that is final
        self.errors: dict[str, Row] = {}  # without an answer so far: a later session tries again
        self.recovery = Recovery(0, 0, 0)
        self._open: dict[tuple[str, int], dict[str, Any]] = {}
        self._over: dict[tuple[str, int], dict[str, Any]] = {}
        self._tries: dict[str, int] = {}
        self._sum = self._settled = 0
        self._pending: list[tuple[bytes, dict[str, Any], asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._file = self._lock = -1
        self._failed: LedgerError | None = None
        self._size = 0  # of what is known to be on the disk
        self._write: Callable[[int, bytes], int] = os.write
        self._sync: Callable[[int], None] = os.fsync

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a ledger and change nothing; another process may be writing it."""
        ledger = cls(Path(path))
        if not ledger.path.is_file():
            raise LedgerError(f"no ledger at {path}; collect into that run first")
        ledger._load()
        return ledger

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        write: Callable[[int, bytes], int] = os.write,
        sync: Callable[[int], None] = os.fsync,
    ) -> Self:
        """Open to write, as the only writer. A torn end is cut off; damaged lines are moved to a `.bad` file."""
        ledger = cls(Path(path))
        ledger._write, ledger._sync = write, sync
        try:
            ledger.path.parent.mkdir(parents=True, exist_ok=True)
            ledger._take_lock()
            ledger._repair()
            ledger._file = os.open(ledger.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            ledger._size = ledger.path.stat().st_size
            if ledger._size:
                sync(ledger._file)  # a killed writer may have left bytes that it had not synced
            else:
                ledger._commit(HEADER)
                folder = os.open(ledger.path.parent, os.O_RDONLY)
                try:
                    sync(folder)  # or a power cut may remove the new file
                finally:
                    os.close(folder)
        except BaseException as error:
            ledger.close()
            raise (ledger._disk(error) if isinstance(error, OSError) else error) from error
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the file and the lock."""
        for handle in (self._file, self._lock):
            if handle >= 0:
                os.close(handle)
        self._file = self._lock = -1

    @property
    def unknown(self) -> list[dict[str, Any]]:
        """Intents without a result, each with key, attempt, usd (reserved), model, query and sample."""
        return [dict(about) for about in self._open.values()]

    @property
    def over(self) -> list[dict[str, Any]]:
        """Calls whose provider reported more than was reserved, as `unknown`, and with the `charged` dollars."""
        return [{n: value for n, value in about.items() if n != "record"} for about in self._over.values()]

    @property
    def unknown_usd(self) -> float:
        """The reservations of `unknown`, which stay charged."""
        return sum(about["usd"] for about in self._open.values())

    @property
    def spent_usd(self) -> float:
        """Charged so far: results, and reservations of calls whose outcome is unknown or whose line was lost."""
        return self._sum / UNIT

    @property
    def lost_usd(self) -> float:
        """The part of `spent_usd` whose line was lost; the totals in later lines show that it was charged."""
        return (self._sum - self._settled - sum(units(about["usd"]) for about in self._open.values())) / UNIT

    async def intent(self, key: str, usd: float, about: Mapping[str, Any]) -> int:
        """Write down that a call is about to be sent and may cost `usd`; returns the number of this attempt."""
        attempt = self._tries[key] = self._tries.get(key, 0) + 1
        await self._append({"t": "intent", "key": key, "n": attempt, "usd": usd, **about}, units(usd))
        return attempt

    async def result(self, key: str, attempt: int, usd: float, outcome: Reply | CallError) -> None:
        """Write down how an attempt ended, and the charge that replaces its reservation. If it is unknown whether the
        attempt was billed, the charge is the run's and not its row's.
        """
        if (intent := self._open.get((key, attempt))) is None:
            raise LedgerError(f"no intent {attempt} of {key} is open; write it before the call")
        reserved = intent["usd"]
        record: dict[str, Any] = {"t": "result", "key": key, "n": attempt, "usd": usd, "held": reserved}
        if isinstance(outcome, Reply):
            # A surrogate without its partner, from an answer cut in the middle, cannot be written to a file.
            text = outcome.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            fields = {n: value for n, value in asdict(outcome).items() if value is not None and value is not False}
            record |= {"reply": fields | {"text": text}}
        else:
            record |= {"error": outcome.kind, "final": outcome.scope is Scope.ROW and outcome.kind not in AGAIN}
            record |= {"unsure": True} if outcome.unsure else {}
        await self._append(record, units(usd) - units(reserved))

    async def correct(self, key: str, attempt: int) -> None:
        """Charge a call of `over` its reservation in place of what its provider reported; its answer stays."""
        about = self._over[key, attempt]
        record = {n: value for n, value in about["record"].items() if n != "sum"}
        record |= {"usd": about["usd"], "held": about["charged"]}
        if "usd" in record.get("reply", {}):
            record["reply"] = record["reply"] | {"usd": about["usd"]}
        await self._append(record, units(about["usd"]) - units(about["charged"]))

    async def _append(self, record: dict[str, Any], change: int) -> None:
        """Return once the record is on the disk; records that wait at the same time share one fsync."""
        if self._failed:
            raise self._failed
        if self._file < 0:
            raise LedgerError(f"{self.path} is not open for writing; use Ledger.open")
        done = asyncio.get_running_loop().create_future()
        record["sum"] = self._sum + change
        self._pending.append((encode(record), record, done))
        self._sum = record["sum"]
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            try:
                await asyncio.to_thread(self._commit, b"".join(line for line, _, _ in batch))
            except Exception as error:  # of any kind: every waiting task must get it
                self._failed = self._disk(error)
                batch, self._pending = batch + self._pending, []
            for _, record, done in batch:
                if not self._failed:
                    self._take(record)  # also if the waiting task was cancelled
                if not done.done():
                    done.set_exception(self._failed) if self._failed else done.set_result(None)

    def _commit(self, data: bytes) -> None:
        size = self._size + len(data)
        try:
            while data:
                data = data[self._write(self._file, data) :]
            self._sync(self._file)
        except BaseException:
            # After a failed fsync the system may show bytes that are not on the disk: remove them.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size = size

    def _disk(self, error: Exception) -> LedgerError:
        code = getattr(error, "errno", None) or 0
        cure = "free some space" if code in (errno.ENOSPC, errno.EDQUOT) else "check the disk"
        return LedgerError(
            f"cannot write {self.path.name} ({errno.errorcode.get(code, repr(error))}); {cure} and run the same "
            f"command again: all earlier records are kept"
        )

    def _take_lock(self) -> None:
        name = self.path.with_name(self.path.name + ".lock")
        self._lock = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._lock, 200).decode(errors="replace").strip() or "another process"
            self.close()
            raise LedgerError(
                f"{self.path} is being written by {holder}; wait until it ends, or use another run"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _load(self) -> Scan:
        """Read the file and index its intact records."""
        lines = scan(self.path)
        try:
            for record in lines.records:
                self._replay(record)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise LedgerError(
                f"{self.path} has a record of an unknown shape ({type(error).__name__}): it was written by another "
                f"version, or by hand; open it with that version, or use another run"
            ) from error
        self.recovery = Recovery(max(0, len(lines.records) - 1), len(lines.torn), len(lines.bad))
        return lines

    def _repair(self) -> None:
        """Load; move damaged lines and a torn end to a `.bad` file beside the ledger."""
        if not self.path.is_file():
            return
        lines = self._load()
        if lines.bad or lines.torn:
            with self.path.with_name(self.path.name + ".bad").open("ab") as aside:
                aside.writelines(b"offset %d: %s\n" % (offset, line.rstrip(b"\n")) for offset, line in lines.bad)
                aside.write(b"torn end: %s\n" % lines.torn if lines.torn else b"")
                aside.flush()
                self._sync(aside.fileno())
            good = b"".join(lines.good)
            if lines.bad:
                write_atomic(self.path, lambda temporary: temporary.write_bytes(good))
            else:
                os.truncate(self.path, len(good))  # in place: a full disk has no room for a copy

    def _replay(self, record: dict[str, Any]) -> None:
        """Index a record of the file. If its total exceeds that of the lines before it, a line between was lost."""
        if record["t"] == "ledger":
            return
        change = units(record["usd"]) - units(record.get("held", 0.0))
        self._sum = max(self._sum, record.get("sum", 0) - change) + change
        self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        """Index a record that is on the disk."""
        key, attempt = record["key"], record["n"]
        self._tries[key] = max(attempt, self._tries.get(key, 0))
        if record["t"] == "intent":
            about = {k: v for k, v in record.items() if k not in {"t", "n", "sum"}}
            self._open[key, attempt] = about | {"attempt": attempt}
            return
        intent, earlier = self._open.pop((key, attempt), None), self._over.pop((key, attempt), None)
        self._settled += units(record["usd"]) - (units(earlier["charged"]) if earlier else 0)
        row = self.errors.pop(key, None) or self.results.get(key) or Row()
        if earlier:  # this corrects its charge
            row.usd = earlier["before"] + (row.usd - earlier["after"])
        error, before = record.get("error"), row.usd
        if "reply" in record:
            row.reply = Reply(**record["reply"])
            row.usd += record["usd"] if row.reply.usd is None else row.reply.usd
        else:
            row.usd += 0.0 if error in UNSURE or record.get("unsure") else record["usd"]
        if units(record["usd"]) > units(record.get("held", record["usd"])):
            about = {"key": key, "attempt": attempt, **(intent or {}), "usd": record["held"], "charged": record["usd"]}
            self._over[key, attempt] = about | {"record": record, "before": before, "after": row.usd}
        row.error = None if row.reply else error
        final = row.reply or (record.get("final") and error not in AGAIN)
        (self.results if final else self.errors)[key] = row
