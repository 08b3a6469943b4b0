"""A line of the ledger, and what can be believed of a file of them.

A line is the CRC-32 of a JSON record as 8 hex digits, a space, the record, a newline.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = "ledger/1"


class LedgerError(RuntimeError):
    """A ledger that cannot be opened or written; the message says what to do."""


@dataclass(frozen=True)
class Recovery:
    """What opening a ledger found."""

    records: int
    torn_bytes: int  # cut from the end: a line that was being written when the process died
    bad_lines: int  # set aside: lines whose checksum does not match

    def __str__(self) -> str:
        parts = [f"{self.records} records"]
        if self.torn_bytes:
            parts.append(f"a torn last line of {self.torn_bytes} bytes was cut off")
        if self.bad_lines:
            parts.append(f"{self.bad_lines} damaged lines were set aside in the .bad file")
        return "; ".join(parts)


def encode(record: Mapping[str, Any]) -> bytes:
    """One line of the file."""
    body = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


HEADER = encode({"t": "ledger", "v": VERSION})


def decode(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or None if any byte of it is not what was written."""
    body = line[9:-1]
    if line[-1:] != b"\n" or line[8:9] != b" " or line[:8] != b"%08x" % zlib.crc32(body):
        return None
    return json.loads(body)


@dataclass
class Scan:
    """A ledger's file, taken apart: whole lines and their records, the header first, and the rest."""

    good: list[bytes] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    bad: list[tuple[int, bytes]] = field(default_factory=list)  # damaged lines and their offsets
    torn: bytes = b""  # an end without a newline


def scan(path: Path) -> Scan:
    """Take a file apart; one that is no ledger of this version is refused and left alone."""
    out, offset = Scan(), 0
    with path.open("rb") as file:
        for line in file:
            record = decode(line)
            if record is not None:
                if not out.good and (record.get("t"), record.get("v")) != ("ledger", VERSION):
                    if not out.bad:
                        raise LedgerError(f"{path} is not a ledger of version {VERSION}; use another run")
                    out.good.append(HEADER)  # its own was damaged
                    out.records.append({"t": "ledger", "v": VERSION})
                out.good.append(line)
                out.records.append(record)
            elif line.endswith(b"\n"):
                out.bad.append((offset, line))
            else:
                out.torn = line
            offset += len(line)
    if not out.good and (out.bad or not HEADER.startswith(out.torn)):
        raise LedgerError(f"{path} is not a ledger: move it away, or use another run")
    return out
