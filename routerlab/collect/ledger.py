"""The append-only log of calls: the only truth about money spent.

An `intent` is on disk before a call leaves, a `result` after it came home; an intent without a result is a call
whose outcome nobody knows, and it stays charged at what was reserved for it. Every record also holds the sum charged
up to it, so a line that is lost later takes no money out of the account.
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

from routerlab.collect.budget import UNIT, units
from routerlab.collect.calls import UNSURE, Reply
from routerlab.collect.ledger_format import HEADER, LedgerError, Recovery, Scan, encode, scan
from routerlab.core.runs import write_atomic


@dataclass
class Row:
    """What the ledger knows about one key: the reply, or the last error, and what its attempts cost."""

    usd: float = 0.0  # of attempts that are known to have been billed
    reply: Reply | None = None
    error: str | None = None


class Ledger:
    """Every call of a run: `results` and `errors` by key, `unknown` intents, `spent_usd`.

    Open it with `Ledger.open` to write (one writer at a time) or `Ledger.read` to look. `write` and `sync` are what
    puts bytes on the disk (`os.write`, `os.fsync`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, Row] = {}  # an answer, or an error that is final for the row
        self.errors: dict[str, Row] = {}  # no answer so far, and a later session may try again
        self.recovery = Recovery(0, 0, 0)
        self._open: dict[tuple[str, int], dict[str, Any]] = {}
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
        """Look at a ledger, beside its writer if there is one; nothing is changed."""
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
        """Open to write, as the only writer; a torn end is cut off and damaged lines are set aside."""
        ledger = cls(Path(path))
        ledger._write, ledger._sync = write, sync
        try:
            ledger.path.parent.mkdir(parents=True, exist_ok=True)
            ledger._take_lock()
            ledger._repair()
            ledger._file = os.open(ledger.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            ledger._size = ledger.path.stat().st_size
            if ledger._size:
                sync(ledger._file)  # a killed writer may have left what it had not synced yet
            else:
                ledger._commit(HEADER)
                folder = os.open(ledger.path.parent, os.O_RDONLY)
                try:
                    sync(folder)  # or a power cut may take the whole new file
                finally:
                    os.close(folder)
        except OSError as error:
            ledger.close()
            raise ledger._disk(error) from error
        except BaseException:
            ledger.close()
            raise
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
        """Intents without a result: key, attempt, usd reserved, model, query, sample."""
        return [dict(about) for about in self._open.values()]

    @property
    def unknown_usd(self) -> float:
        """What is charged for calls whose outcome nobody knows."""
        return sum(about["usd"] for about in self._open.values())

    @property
    def spent_usd(self) -> float:
        """Charged so far: results, and reservations whose outcome nobody knows or whose line was lost."""
        return self._sum / UNIT

    @property
    def lost_usd(self) -> float:
        """Of it, what no line accounts for any more: the sums of later lines show that it was reserved."""
        held = sum(units(about["usd"]) for about in self._open.values())
        return (self._sum - self._settled - held) / UNIT

    async def intent(self, key: str, usd: float, about: Mapping[str, Any]) -> int:
        """Write down that a call is about to leave and may cost `usd`; returns the number of this try."""
        attempt = self._tries.get(key, 0) + 1
        record = {"t": "intent", "key": key, "n": attempt, "usd": usd, **about}
        self._tries[key] = attempt
        await self._append(record, units(usd))
        return attempt

    async def result(
        self,
        key: str,
        attempt: int,
        usd: float,
        outcome: Reply | str,
        final: bool = True,
        unsure: bool = False,
    ) -> None:
        """Write down how a call ended: its reply, or the class of its error, and what it is charged. What is `unsure`
        to have been billed is charged to the run and not to the row.
        """
        if (intent := self._open.get((key, attempt))) is None:
            raise LedgerError(f"no intent {attempt} of {key} is open; write it before the call")
        held = intent["usd"]
        record: dict[str, Any] = {"t": "result", "key": key, "n": attempt, "usd": usd, "held": held}
        if isinstance(outcome, Reply):
            # Half a surrogate pair, from an answer cut in the middle, is not Unicode: no file takes it.
            text = outcome.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            record |= {"reply": asdict(outcome) | {"text": text}}
        else:
            record |= {"error": outcome, "final": final} | ({"unsure": True} if unsure else {})
        await self._append(record, units(usd) - units(held))

    async def _append(self, record: dict[str, Any], change: int) -> None:
        """Return when the record is on the disk; whoever waits at the same time shares one fsync."""
        if self._failed:
            raise self._failed
        if self._file < 0:
            raise LedgerError(f"{self.path} is not open for writing; use Ledger.open")
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        record["sum"] = self._sum + change
        self._pending.append((encode(record), record, done))
        self._sum += change
        if self._flusher is None or self._flusher.done():
            self._flusher = loop.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            try:
                await asyncio.to_thread(self._commit, b"".join(line for line, _, _ in batch))
            except Exception as error:  # whatever it was, everyone who waits must hear of it
                self._failed = self._disk(error)
                batch, self._pending = batch + self._pending, []
            for _, record, done in batch:
                if not self._failed:
                    self._take(record)  # also where the one who waited was cancelled
                if not done.done():
                    done.set_exception(self._failed) if self._failed else done.set_result(None)

    def _commit(self, data: bytes) -> None:
        left = data
        try:
            while left:
                left = left[self._write(self._file, left) :]
            self._sync(self._file)
        except BaseException:
            # After a failed fsync the system may show bytes that the disk does not have: take them back.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)

    def _disk(self, error: Exception) -> LedgerError:
        code = getattr(error, "errno", None) or 0
        cure = "free some space" if code in (errno.ENOSPC, errno.EDQUOT) else "check the disk"
        return LedgerError(
            f"cannot write {self.path.name} ({errno.errorcode.get(code, repr(error))}); {cure} and "
            f"run the same command again: what was written before is kept"
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
        """Read the file and enter what is whole in it into the index."""
        found = scan(self.path)
        for record in found.records:
            self._replay(record)
        self.recovery = Recovery(max(0, len(found.records) - 1), len(found.torn), len(found.bad))
        return found

    def _repair(self) -> None:
        """Load; what cannot be believed goes to a side file, and out of the ledger."""
        if not self.path.is_file():
            return
        found = self._load()
        if found.bad or found.torn:
            with self.path.with_name(self.path.name + ".bad").open("ab") as aside:
                for offset, line in found.bad:
                    aside.write(b"offset %d: %s\n" % (offset, line.rstrip(b"\n")))
                if found.torn:
                    aside.write(b"torn end: %s\n" % found.torn)
                aside.flush()
                self._sync(aside.fileno())
            good = b"".join(found.good)
            if found.bad:
                write_atomic(self.path, lambda temporary: temporary.write_bytes(good))
            else:
                os.truncate(self.path, len(good))

    def _replay(self, record: dict[str, Any]) -> None:
        """Enter a record of the file; where its sum is more than the lines before it give, one is gone."""
        if record["t"] == "ledger":
            return
        change = units(record["usd"]) - units(record.get("held", 0.0))
        self._sum = max(self._sum, record.get("sum", 0) - change) + change
        self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        """Enter a record that is on the disk into the index."""
        key, attempt = record["key"], record["n"]
        self._tries[key] = max(attempt, self._tries.get(key, 0))
        if record["t"] == "intent":
            about = {k: v for k, v in record.items() if k not in {"t", "n", "sum"}}
            self._open[key, attempt] = about | {"attempt": attempt}
            return
        self._open.pop((key, attempt), None)
        self._settled += units(record["usd"])
        row = self.errors.pop(key, None) or self.results.get(key) or Row()
        error = record.get("error")
        if error not in UNSURE and not record.get("unsure"):
            row.usd += record["usd"]
        if "reply" in record:
            row.reply, row.error = Reply(**record["reply"]), None
        elif row.reply is None:
            row.error = error
        if row.reply or record.get("final"):
            self.results[key] = row
        else:
            self.errors[key] = row
