"""The sandbox's filter of system calls, in the byte code that the kernel takes (seccomp-bpf).

Namespaces and limits confine a program already. The filter refuses the system calls that neither of them restricts:
memory that no process owns (System V shared memory, memfd), keyrings, tracing, and kernel code known for its bugs.
"""

import errno
import platform
import re
import struct

# Refused system calls by what they would allow, each as name, number on x86_64, number on aarch64 ("-": none there).
_REFUSED = """
memory that no process owns: shmget 29 194, semget 64 190, msgget 68 186, mq_open 240 180
memory files: memfd_create 319 279, memfd_secret 447 447
keyrings: add_key 248 217, request_key 249 218, keyctl 250 219
other processes: ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, kcmp 312 272, pidfd_getfd 438 438
kernel programs and tracing: bpf 321 280, perf_event_open 298 241, userfaultfd 323 282
asynchronous calls that no filter sees: io_uring_setup 425 425, io_uring_enter 426 426, io_uring_register 427 427
mounts: mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, open_tree 428 428, move_mount 429 429
mounts by the newer calls: fsopen 430 430, fsconfig 431 431, fsmount 432 432, fspick 433 433, mount_setattr 442 442
namespaces: unshare 272 97, setns 308 268
files past their folders: name_to_handle_at 303 264, open_by_handle_at 304 265, fanotify_init 300 262
rarely used kernel code: personality 135 92, syslog 103 116, acct 163 89, quotactl 179 60, modify_ldt 154 -
the whole machine: swapon 167 224, swapoff 168 225, reboot 169 142, iopl 172 -, ioperm 173 -
kernel modules: init_module 175 105, finit_module 313 273, delete_module 176 106
another kernel: kexec_load 246 104, kexec_file_load 320 294
"""
_ENTRY = r"\w+ (\d+|-) (\d+|-)(?=,|\n)"
_CLONE3 = (435, 435)
_CLONE = (56, 220)
_SOCKET = (41, 198)
_IOCTL = (16, 29)
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_FAMILIES = (1, 2, 10)  # unix and internet sockets, which reach nothing in an empty network namespace
_TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: they put text into a terminal as if it had been typed
_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000


def _op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, k)


def _load(offset: int) -> bytes:
    return _op(0x20, offset)


def _return(value: int) -> bytes:
    return _op(0x06, value)


def _equal(value: int, yes: int = 0, no: int = 0) -> bytes:
    return _op(0x15, value, yes, no)


def seccomp_filter(machine: str | None = None) -> bytes | None:
    """The filter for bubblewrap's --seccomp; None for a processor whose system call numbers are not listed here."""
    machine = machine or platform.machine()
    if machine not in _ARCH:
        return None
    column = list(_ARCH).index(machine)
    refuse = _return(_REFUSE | errno.EPERM)
    out = [_load(4), _equal(_ARCH[machine], yes=1), _return(_KILL), _load(0)]
    if machine == "x86_64":  # x32 system calls have other numbers, which no rule below names
        out += [_op(0x35, 0x40000000, no=1), _return(_KILL)]
    for number in re.findall(_ENTRY, _REFUSED):
        if number[column] != "-":
            out += [_equal(int(number[column]), no=1), refuse]
    # ENOSYS makes the C library fall back to clone, whose flags a filter can read; it cannot read those of clone3.
    out += [_equal(_CLONE3[column], no=1), _return(_REFUSE | errno.ENOSYS)]
    out += [_equal(_CLONE[column], no=4), _load(16), _op(0x45, _NEW_NAMESPACES, no=1), refuse]
    out += [_return(_ALLOW)]
    out += [_equal(_SOCKET[column], no=2 + len(_FAMILIES) + 1), _load(16)]
    left = len(_FAMILIES)
    for place, family in enumerate(_FAMILIES):
        out.append(_equal(family, yes=left - place))
    out += [refuse, _return(_ALLOW)]
    out += [_equal(_IOCTL[column], no=2 + len(_TERMINAL) + 1), _load(24)]
    for place, request in enumerate(_TERMINAL):
        out.append(_equal(request, yes=len(_TERMINAL) - place))
    out += [_return(_ALLOW), refuse]
    return b"".join([*out, _return(_ALLOW)])
