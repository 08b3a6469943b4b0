"""The ledger's file format: a line is the CRC-32 of a JSON record as 8 hex digits, a space, the record, a newline."""

import contextlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = "ledger/1"


class LedgerError(RuntimeError):
    """A ledger that cannot be opened or written; the message names the cure."""


@dataclass(frozen=True)
class Recovery:
    """The state of a ledger's file when it was opened."""

    records: int
    torn_bytes: int  # cut off: a last line without its end, as when the process died while writing
    bad_lines: int  # set aside: lines whose checksum does not match

    def __str__(self) -> str:
        torn = f"; a torn last line of {self.torn_bytes} bytes was cut off" if self.torn_bytes else ""
        bad = f"; {self.bad_lines} damaged lines were set aside in the .bad file" if self.bad_lines else ""
        return f"{self.records} records{torn}{bad}"


def encode(record: Mapping[str, Any]) -> bytes:
    """One line of the file."""
    body = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


_HEAD = {"t": "ledger", "v": VERSION}
HEADER = encode(_HEAD)


def is_empty(path: Path) -> bool:
    """Whether there is no ledger, or one without a record."""
    return not path.is_file() or path.stat().st_size <= len(HEADER)


def decode(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or None if any byte differs from what was written; {} for what is no record."""
    body = line[9:-1]
    if line[-1:] != b"\n" or line[8:9] != b" " or line[:8] != b"%08x" % zlib.crc32(body):
        return None
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(record := json.loads(body), dict):
            return record
    return {}


@dataclass
class Scan:
    """A ledger's file by lines: the intact ones and their records (the header first), and the rest."""

    good: list[bytes] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    bad: list[tuple[int, bytes]] = field(default_factory=list)  # damaged lines and their offsets
    torn: bytes = b""  # a last line without a newline


def scan(path: Path) -> Scan:
    """Sort the lines of a ledger's file; any other file, or another version, is refused and left unchanged."""
    lines, offset = Scan(), 0
    with path.open("rb") as file:
        for line in file:
            record = decode(line)
            if record is not None:
                if not lines.good and (record.get("t"), record.get("v")) != ("ledger", VERSION):
                    if not lines.bad:
                        raise LedgerError(f"{path} is not a ledger of version {VERSION}; use another run")
                    lines.good, lines.records = [HEADER], [_HEAD]  # the file's own header was damaged
                lines.good.append(line)
                lines.records.append(record)
            elif line.endswith(b"\n"):
                lines.bad.append((offset, line))
            else:
                lines.torn = line
            offset += len(line)
    if not lines.good and (lines.bad or not HEADER.startswith(lines.torn)):
        raise LedgerError(f"{path} is not a ledger: move it away, or use another run")
    return lines
