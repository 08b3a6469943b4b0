"""A filter of system calls for the sandbox, written as the kernel's own byte code (seccomp-bpf).

Namespaces and limits already hold a program in; the filter takes away what neither of them bounds: memory that no
process owns (System V shared memory, memfd), keyrings, tracing, and corners of the kernel where bugs were found.
"""

import errno
import platform
import struct

# x86_64 and aarch64 number of each call that is refused; None where the machine lacks it.
_REFUSED = {
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
}
_CLONE3 = (435, 435)
_CLONE = (56, 220)
_SOCKET = (41, 198)
_IOCTL = (16, 29)
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_FAMILIES = (1, 2, 10)  # unix and internet sockets: the empty network namespace holds those in
_TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: type into a terminal as if a person did
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
    """The program for bubblewrap's --seccomp; None for a machine whose call numbers are not known."""
    machine = machine or platform.machine()
    if machine not in _ARCH:
        return None
    column = list(_ARCH).index(machine)
    refuse = _return(_REFUSE | errno.EPERM)
    out = [_load(4), _equal(_ARCH[machine], yes=1), _return(_KILL), _load(0)]
    if machine == "x86_64":  # the x32 numbers would pass by every rule below
        out += [_op(0x35, 0x40000000, no=1), _return(_KILL)]
    for numbers in _REFUSED.values():
        if (number := numbers[column]) is not None:
            out += [_equal(number, no=1), refuse]
    # "Not there" sends the C library to clone, whose flags a filter can read; those of clone3 it cannot.
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
