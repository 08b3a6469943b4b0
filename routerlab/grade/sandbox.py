"""Run untrusted Python in bubblewrap, a sandbox; `sandbox_fusion` runs it on a SandboxFusion server instead.

A box has no network and none of our environment variables, sees read-only libraries, one Python and a small temporary
folder, and has limits on time, memory, processes, files and output. Untrusted code never runs outside a box: where no
box can be made, `SandboxError` says what to install.
"""

import fcntl
import functools
import importlib.util
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from routerlab.grade.seccomp import seccomp_filter


class SandboxError(RuntimeError):
    """No box could be made, or the sandbox itself failed; never the program's fault. The message names the cure."""


@dataclass(frozen=True)
class Limits:
    """What one program may use. A program that exceeds a limit is ended; the grading of other answers goes on."""

    timeout_s: float = 20.0  # of wall-clock time
    cpu_s: float = 10.0  # of processor time, for each process; decides on a busy machine
    memory_mb: int = 512  # address space of each process; all together may use twice as much memory
    processes: int = 16  # threads count too
    disk_mb: int = 16  # of /tmp, which is /dev/shm too
    inodes: int = 4096  # files, folders and links in /tmp: each takes about 1 KB of the kernel's memory
    output_kb: int = 256  # of stdout and stderr together
    files: int = 64  # open at once, for each process


LIMITS = Limits()


@dataclass(frozen=True)
class Ran:
    """What a program wrote and how it ended: `status` is ok, error (exit code not 0), timeout, memory or output."""

    stdout: str
    stderr: str
    status: str
    code: int
    seconds: float


Executor = Callable[[str, str, Limits], Ran]

INSTALL = "install it with `apt-get install bubblewrap` (0.8 or newer), or name a SandboxFusion server (--sandbox URL)"
_NOBODY, _PACKAGES = 65534, "/box/packages"
_MB = 2**20

# Limits are set inside the box: there the number of processes is counted for the box alone, not for the whole user,
# and the limit holds even if the caller is root.
_START = """
def start():
    import resource, sys
    for name, value in {limits}.items():
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    sys.argv[0], sys.path[0] = "/box/main.py", "/box"
    sys.path.append({packages!r})
    globals().update(__file__="/box/main.py")
    del globals()["start"]
    with open("/box/main.py", "rb") as file:
        return compile(file.read(), "/box/main.py", "exec")
exec(start())
"""


def run_code(source: str, stdin: str = "", limits: Limits = LIMITS) -> Ran:
    """Run a Python program in a new box and return what it wrote and how it ended."""
    return _run(*_box(), source, stdin, limits)


def check() -> str:
    """The path of the Python that runs in boxes; `SandboxError` if no box can be made."""
    return str(_box()[1])


@functools.cache
def _box() -> tuple[str, Path]:
    """(bubblewrap, interpreter): the first interpreter that runs a one-line program in a box."""
    bwrap = shutil.which("bwrap")
    if not bwrap:
        raise SandboxError(f"bubblewrap is not installed, and code is never run without: {INSTALL}")
    if seccomp_filter() is None:
        raise SandboxError(
            f"the sandbox has no system call filter for {os.uname().machine}; run code on a SandboxFusion "
            f"server (--sandbox URL), or on x86_64 or aarch64"
        )
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [Path(sys.executable), Path(sys.base_prefix, "bin", name), Path("/usr/bin/python3")]
    reasons = []
    for python in dict.fromkeys(p.resolve() for p in candidates):
        try:
            ran = _run(bwrap, python, "print('boxed')", "", LIMITS)
        except SandboxError as error:
            reasons.append(f"{python}: {error}")
            continue
        if ran.stdout == "boxed\n":
            return bwrap, python
        reasons.append(f"{python}: {ran.stderr.strip() or ran.status}")
    raise SandboxError(
        f"bubblewrap cannot run Python in a box on this machine: {'; '.join(reasons)}. If namespaces or uid maps are "
        "not permitted, permit them (Ubuntu: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`; Docker: "
        "`--security-opt seccomp=unconfined`); if Python is not readable, `apt-get install python3`; or name a "
        "SandboxFusion server (--sandbox URL)"
    )


def _mounts(python: Path) -> tuple[list[str], str]:
    """(bubblewrap's options, Python's path in the box): libraries and one interpreter, read-only; no shell."""
    out: list[str] = []
    for name in ("lib", "lib32", "lib64"):
        if Path("/usr", name).is_dir():
            out += ["--ro-bind", f"/usr/{name}", f"/usr/{name}"]
        top = Path("/", name)
        if top.is_symlink():
            out += ["--symlink", os.readlink(top), f"/{name}"]
        elif top.is_dir():
            out += ["--ro-bind", f"/{name}", f"/{name}"]
    if numpy := importlib.util.find_spec("numpy"):  # tests of some benchmarks compare with it
        for folder in Path(numpy.origin or "").parent.parent.glob("numpy*"):
            if folder.name in ("numpy", "numpy.libs"):
                out += ["--ro-bind", str(folder), f"{_PACKAGES}/{folder.name}"]
    if python.parent == Path("/usr/bin"):
        return [*out, "--ro-bind", str(python), str(python)], str(python)
    # Mounted at /python, so that the path in the box does not reveal a home folder.
    inside = f"/python/bin/{python.name}"
    out += ["--ro-bind", str(python), inside]
    out += ["--ro-bind", str(python.parent.parent / "lib"), "/python/lib"]
    return [*out, "--setenv", "LD_LIBRARY_PATH", "/python/lib"], inside


def _argv(bwrap: str, python: Path, source: int, rules: int, status: int, limits: Limits):
    mounts, inside = _mounts(python)
    devices = [f"/dev/{n}" for n in ("null", "zero", "full", "random", "urandom")]
    binds = [x for device in devices for x in ("--dev-bind", device, device)]
    bounds = {
        "CPU": math.ceil(limits.cpu_s),
        "AS": limits.memory_mb * _MB,
        "FSIZE": max(limits.disk_mb * _MB, 2 * limits.output_kb * 1024),
        "NOFILE": limits.files,
        "NPROC": limits.processes + 2,  # bubblewrap's two are counted
        **dict.fromkeys(("CORE", "MSGQUEUE", "MEMLOCK"), 0),
    }
    return [
        *(bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"),
        *("--new-session", "--die-with-parent", "--hostname", "box", "--clearenv"),
        *("--setenv", "LANG", "C.UTF-8", "--setenv", "PYTHONHASHSEED", "0"),
        *("--setenv", "OPENBLAS_NUM_THREADS", "1", "--setenv", "OMP_NUM_THREADS", "1"),
        *mounts,
        *("--size", str(limits.disk_mb * _MB), "--tmpfs", "/tmp", "--size", "65536", "--tmpfs", "/dev", *binds),
        *("--symlink", "/tmp", "/dev/shm", "--remount-ro", "/dev"),
        *("--ro-bind-data", str(source), "/box/main.py", "--remount-ro", "/", "--chdir", "/tmp"),
        *("--seccomp", str(rules), "--json-status-fd", str(status)),
        *(inside, "-s", "-B", "-c", _START.format(limits=bounds, packages=_PACKAGES)),
    ]


def _sealed(content: bytes) -> int:
    """A file in memory that cannot be changed any more, not even by the program that gets it."""
    fd = os.memfd_create("box", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as out:
        out.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def _run(bwrap: str, python: Path, source: str, stdin: str, limits: Limits) -> Ran:
    texts = [text.encode("utf-8", "replace") for text in (source, stdin)]
    files = [_sealed(content) for content in (*texts, seccomp_filter() or b"")]
    files += [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdout", "stderr", "status")]
    program, typed, rules, stdout, stderr, status = files
    user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            _argv(bwrap, python, program, rules, status, limits),
            stdin=typed,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(program, rules, status),
            env={},
            cwd="/",
            start_new_session=True,
            **user,
        )
        try:
            ended = _watch(process.pid, began + limits.timeout_s, (stdout, stderr), limits)
        finally:
            process.kill()  # when bubblewrap dies, the kernel ends the box's first process and with it all the others
            process.wait()
        seconds, room = time.monotonic() - began, limits.output_kb * 1024
        written = os.pread(stdout, room + 1, 0), os.pread(stderr, room + 1, 0)
        kept = written[0][:room], written[1][: max(0, room - len(written[0]))]
        out, errors = (text.decode("utf-8", "replace") for text in kept)
        exited = b'"exit-code"' in os.pread(status, 4096, 0)
    except OSError as error:
        raise SandboxError(f"bubblewrap could not be started: {error}; {INSTALL}") from error
    finally:
        for fd in files:
            os.close(fd)
    if ended is None and not exited:
        raise SandboxError(f"bubblewrap could not make a box: {errors.strip()[-300:] or 'no reason given'}")
    code = process.returncode
    if ended is None and code in (128 + signal.SIGXCPU, 128 + signal.SIGKILL) and seconds >= limits.cpu_s:
        ended = "timeout"
    return Ran(out, errors, ended or ended_by(code, errors, sum(map(len, written)) > room), code, seconds)


def ended_by(code: int, stderr: str, too_long: bool) -> str:
    """The status of a program that ended by itself with this exit code, and wrote more than it may or not."""
    memory = code != 0 and stderr.rstrip().rpartition("\n")[2].startswith("MemoryError")
    return "output" if too_long else "memory" if memory else "error" if code else "ok"


def _watch(pid: int, deadline: float, outputs: tuple[int, int], limits: Limits) -> str | None:
    """Wait for a box to end; why it must be stopped, if it must be."""
    done = os.pidfd_open(pid)
    try:
        while not select.select([done], [], [], 0.05)[0]:
            if time.monotonic() >= deadline:
                return "timeout"
            if sum(os.fstat(fd).st_size for fd in outputs) > limits.output_kb * 1024:
                return "output"
            if _resident(pid) > 2 * limits.memory_mb * _MB or _inodes(pid, limits) > limits.inodes:
                return "memory"
    finally:
        os.close(done)
    return None


def _resident(pid: int) -> int:
    """Bytes of memory in use by a process and all its descendants; one that has just ended counts as 0."""
    pages, pids = 0, [str(pid)]
    while pids:
        process = pids.pop()
        try:
            pages += int(Path("/proc", process, "statm").read_text().split()[1])
            for task in os.listdir(f"/proc/{process}/task"):
                pids += Path(f"/proc/{process}/task/{task}/children").read_text().split()
        except (OSError, IndexError):
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def _inodes(pid: int, limits: Limits) -> int:
    """Files in the box's /tmp, whose size tells it from the machine's own while the box is being made."""
    try:
        first = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
        disk = os.statvfs(Path("/proc", first, "root", "tmp"))
    except (OSError, IndexError):
        return 0
    return disk.f_files - disk.f_ffree if disk.f_blocks * disk.f_frsize == limits.disk_mb * _MB else 0
