"""The sandbox's filter of system calls, in the byte code that the kernel takes (seccomp-bpf).

Namespaces and limits confine a program already. The filter refuses the system calls that neither of them restricts:
memory that no process owns (System V shared memory, memfd), keyrings, tracing, and kernel code known for its bugs.
"""

import errno
import functools
import platform
import struct
from pathlib import Path

import yaml

_FAMILIES = (1, 2, 10)  # unix and internet sockets, which reach nothing in an empty network namespace
_TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: they put text into a terminal as if it had been typed
_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """One instruction; a comparison skips `yes` or `no` instructions after it."""
    return struct.pack("=HBBI", code, yes, no, value)


_ALLOW, _KILL = _op(_RETURN, 0x7FFF0000), _op(_RETURN, 0x80000000)
_REFUSE, _NO_SUCH_CALL = _op(_RETURN, 0x00050000 | errno.EPERM), _op(_RETURN, 0x00050000 | errno.ENOSYS)


def _if_call(number: int, *then: bytes) -> list[bytes]:
    return [_op(_EQUAL, number, no=len(then)), *then]


def _if_any(values: tuple[int, ...], yes: bytes, no: bytes) -> list[bytes]:
    return [*(_op(_EQUAL, value, yes=len(values) - i) for i, value in enumerate(values)), no, yes]


@functools.cache
def seccomp_filter(machine: str | None = None) -> bytes | None:
    """The filter for bubblewrap's --seccomp; None for a processor whose system call numbers are not listed here."""
    machine = machine or platform.machine()
    table = yaml.safe_load(Path(__file__).with_name("seccomp.yaml").read_text("utf-8"))
    if machine not in table["architectures"]:
        return None
    column = list(table["architectures"]).index(machine)
    clone3, clone, socket, ioctl = (numbers[column] for numbers in table["looked_into"].values())
    out = [_op(_LOAD, 4), _op(_EQUAL, table["architectures"][machine], yes=1), _KILL, _op(_LOAD, 0)]
    if machine == "x86_64":  # x32 system calls have other numbers, which no rule below names
        out += [_op(_AT_LEAST, 0x40000000, no=1), _KILL]
    refused = [numbers[column] for calls in table["refused"].values() for numbers in calls.values()]
    for number in filter(None, refused):
        out += _if_call(number, _REFUSE)
    # "No such call" makes the C library fall back to clone, whose flags a filter can read; it cannot read clone3's.
    out += _if_call(clone3, _NO_SUCH_CALL)
    out += _if_call(clone, _op(_LOAD, 16), _op(_ANY_BIT, _NEW_NAMESPACES, no=1), _REFUSE, _ALLOW)
    out += _if_call(socket, _op(_LOAD, 16), *_if_any(_FAMILIES, yes=_ALLOW, no=_REFUSE))
    out += _if_call(ioctl, _op(_LOAD, 24), *_if_any(_TERMINAL, yes=_REFUSE, no=_ALLOW))
    return b"".join([*out, _ALLOW])
