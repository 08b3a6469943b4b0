"""Attempts to get out of the sandbox, each a program that says so when it succeeds.

`RAN` is printed before the attempt and `OUT` only if it worked. `{tcp}` and the like are filled in by the test, which
listens on the other side. Those in `PLAIN` do no harm unboxed: there they must succeed, or they would prove nothing.
"""

RAN, OUT = "the probe ran", "the probe got out"

HEAD = f"""
import ctypes, errno, os, resource, signal, socket, struct, sys, time
def out(what=""):
    os.write(1, ("{OUT} " + str(what) + "\\n").encode())
def attempt(action, *args, **options):
    try:
        return action(*args, **options)
    except (Exception, SystemExit):
        return None
def reads(*paths):
    for path in paths:
        try:
            with open(path, "rb") as f:
                if f.read(1):
                    out(path)
        except OSError:
            pass
def writes(*paths):
    for path in paths:
        try:
            with open(path, "w") as f:
                f.write("0")
                f.flush()
            out(path)
        except OSError:
            pass
libc = ctypes.CDLL(None, use_errno=True)
ARM = os.uname().machine == "aarch64"
def call(name, x86, arm, *args):
    if libc.syscall(arm if ARM else x86, *args) != -1:
        out(name)
os.write(1, b"{RAN}\\n")
"""

PROBES = {
    "tcp": "s = socket.create_connection(('127.0.0.1', {tcp}), 2); out(s)",
    "udp": "s = socket.socket(2, 2); s.sendto(b'x', ('127.0.0.1', {udp}))",
    "route": "s = socket.socket(2, 2); s.connect(('192.0.2.1', 53)); out(s.getsockname())",
    "dns": """
out(socket.getaddrinfo('localhost.localdomain', 80) or 1)
out(socket.getaddrinfo('example.com', 80))
""",
    "unix_socket": "s = socket.socket(socket.AF_UNIX); s.connect({unix!r}); out()",
    "abstract_socket": "s = socket.socket(socket.AF_UNIX); s.connect('\\0' + {abstract!r}); out()",
    "raw_sockets": """
for family, kind in ((16, 3), (17, 3), (38, 5), (40, 1), (2, 3)):
    s = attempt(socket.socket, family, kind)
    if s: out(family)
""",
    "proc_of_others": """
reads('/proc/1/environ', '/proc/self/environ', '/proc/{pid}/cmdline', '/proc/kcore', '/proc/kallsyms')
if attempt(os.listdir, '/proc'): out('listed')
""",
    "proc_sys_write": """
writes('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/hostname', '/proc/sysrq-trigger', '/proc/self/oom_score_adj')
""",
    "sys": "writes('/sys/power/state', '/sys/kernel/uevent_helper'); attempt(os.listdir, '/sys') and out()",
    "mount_proc": """
os.mkdir('/tmp/p')
if libc.mount(b'proc', b'/tmp/p', b'proc', 0, None) == 0: out()
if libc.mount(b'none', b'/tmp/p', b'tmpfs', 0, None) == 0: out()
if libc.mount(b'/usr', b'/tmp/p', None, 4096, None) == 0: out()
""",
    "remount": "[out(p) for p in (b'/', b'/usr/lib', b'/dev') if libc.mount(None, p, None, 32 | 4096, None) == 0]",
    "fork_bomb": """
made = 0
try:
    for _ in range(200):
        if os.fork() == 0:
            time.sleep(2); os._exit(0)
        made += 1
except OSError: pass
if made > 40: out(made)
""",
    "thread_bomb": """
import threading
made = 0
try:
    for _ in range(200):
        threading.Thread(target=time.sleep, args=(1,), daemon=True).start(); made += 1
except RuntimeError: pass
if made > 40: out(made)
os._exit(0)
""",
    "memory": "x = bytearray(2 << 30); x[::4096] = b'x' * len(x[::4096]); out()",
    "memory_of_many": """
for _ in range(9):
    if os.fork() == 0: break
x = bytearray(b'x') * (300 << 20)
time.sleep(8)
out()
""",
    "memory_nobody_owns": """
for _ in range(3):
    call('shmget', 29, 194, 0, 1 << 26, 0o1600)
    call('memfd', 319, 279, b'x', 0)
""",
    "cpu": "while True: pass",
    "sleep": "time.sleep(300); out()",
    "sleep_against_signals": """
for n in range(1, 65): attempt(signal.signal, n, signal.SIG_IGN)
time.sleep(300); out()
""",
    "closed_output": "os.close(1); os.close(2); time.sleep(300)",
    "output": "while True: os.write(1, b'x' * 65536)",
    "output_of_many": "[os.fork() for _ in range(3)]\nwhile True: os.write(2, b'x' * 65536)",
    "disk": """
held = 0
try:
    for n in range(200):
        with open(f'/tmp/{{n}}', 'wb') as f: held += f.write(bytes(1 << 20)); f.flush()
except OSError: pass
if held > 40 << 20: out(held)
""",
    "shared_memory_disk": """
held = 0
try:
    for n in range(200):
        with open(f'/dev/shm/{{n}}', 'wb') as f: held += f.write(bytes(1 << 20)); f.flush()
except OSError: pass
if held > 40 << 20: out(held)
""",
    "many_files": """
made = 0
try:
    for n in range(10**6): open(f'/dev/{{n}}', 'w').close(); made += 1
except OSError: pass
if made: out(made)
""",
    "big_file": """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
f = open('/tmp/big', 'wb')
f.truncate(1 << 32); out()
""",
    "symlinks": """
os.symlink('/etc/passwd', '/tmp/a'); os.symlink('../../../../../../etc/passwd', '/tmp/b')
os.symlink({repo!r} + '/pyproject.toml', '/tmp/c'); os.symlink('/proc/1/root', '/tmp/d')
reads('/tmp/a', '/tmp/b', '/tmp/c', '/tmp/d/etc/passwd')
""",
    "passwords": "reads('/etc/shadow', '/etc/passwd', '/etc/hostname', '/run/secrets/x')",
    "homes": "[out(p) for p in ('/root', '/home', '/work', '/var', '/etc', '/mnt') if attempt(os.listdir, p)]",
    "repository": """
reads({repo!r} + '/pyproject.toml')
sys.path.insert(0, {repo!r})
import routerlab; out()
""",
    "write_system": """
writes('/usr/lib/x', '/usr/x', '/lib/x', '/x', '/box/main.py', '/box/x', '/dev/x', '/etc/x', sys.executable)
attempt(os.chmod, '/usr/lib', 0o777); attempt(os.rename, '/box', '/box2') or os.path.exists('/box2') and out()
""",
    "environment": """
if any({canary!r} in k + v for k, v in os.environ.items()): out()
reads('/proc/self/environ')
""",
    "open_files": """
for fd in range(3, 256):
    if attempt(os.fstat, fd): out(fd)
""",
    "ptrace": """
call('traceme', 101, 117, 0, 0, 0, 0); call('attach', 101, 117, 16, 1, 0, 0); call('seize', 101, 117, 0x4206, 1, 0, 0)
b = ctypes.create_string_buffer(8)
call('readv', 310, 270, 1, ctypes.byref(b), 1, ctypes.byref(b), 1, 0)
""",
    "user_namespace": """
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x8000000, 0x4000000, 0x2000000):
    if libc.unshare(flag) == 0: out(hex(flag))
    r = libc.syscall(220 if ARM else 56, flag | 17, 0, 0, 0, 0)
    if r == 0: os._exit(0)
    if r > 0: out(hex(flag))
""",
    "clone3": "b = struct.pack('8Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0); call('clone3', 435, 435, b, 64)",
    "setns": "call('pidfd_open_setns', 308, 268, libc.syscall(434, 1, 0), 0x10000000)",
    "chroot": "call('chroot', 161, 51, b'/tmp'); call('pivot_root', 155, 41, b'/tmp', b'/tmp')",
    "become_root": """
for f in (os.setuid, os.setgid): attempt(f, 0)
attempt(os.setgroups, [0])
if 0 in (os.getuid(), os.geteuid(), os.getgid(), *os.getgroups()): out()
""",
    "capabilities": """
if libc.prctl(47, 2, 21, 0, 0) == 0: out('ambient')
if libc.prctl(24, 21, 0, 0, 0) == 0: out('bounding')
if libc.prctl(39, 0, 0, 0, 0) != 1: out('new privileges')
head, data = struct.pack('Ii', 0x20080522, 0), ctypes.create_string_buffer(24)
libc.syscall(90 if ARM else 125, head, data)
if any(data.raw): out('capabilities')
""",
    "kill_parent": """
attempt(os.kill, 1, 9)
attempt(os.kill, os.getppid(), 9)
time.sleep(.1)
os.write(1, b'alive\\n')
""",
    "signal_others": """
mine = {{0, 1, os.getpid(), os.getppid()}}
for pid in {{*range(1, 3000), {pid}}} - mine:
    try: os.kill(pid, 0); out(pid)
    except ProcessLookupError: pass
    except PermissionError: out(pid)
""",
    "devices": """
reads('/dev/mem', '/dev/kmsg', '/dev/vda', '/dev/sda', '/dev/nvme0n1', '/dev/port', '/dev/input/event0')
for path in ('/dev/kvm', '/dev/fuse', '/dev/net/tun', '/dev/ptmx', '/dev/tty', '/dev/nvidia0'):
    if os.path.exists(path): out(path)
attempt(os.mknod, '/tmp/disk', 0o60666, os.makedev(8, 0)); reads('/tmp/disk')
if attempt(os.mknod, '/tmp/null', 0o20666, os.makedev(1, 1)) is None and os.path.exists('/tmp/null'): out()
""",
    "kernel_log": """
b = ctypes.create_string_buffer(4096)
call('syslog', 103, 116, 3, b, 4096)
reads('/dev/kmsg', '/proc/kmsg')
""",
    "background": """
if os.fork() == 0:
    os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(120)  # {canary}'])
""",
    "daemon": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3): os.close(fd)
        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(120)  # {canary}'])
    os._exit(0)
time.sleep(.2)
""",
    "many_fds": """
made = []
try:
    for _ in range(1000): made.append(os.open('/dev/null', 0))
except OSError: pass
if len(made) > 200: out(len(made))
""",
    "core_dump": """
if resource.getrlimit(resource.RLIMIT_CORE) != (0, 0): out()
if os.fork() == 0: os.abort()
os.wait()
if [f for f in os.listdir('/tmp') if 'core' in f]: out()
""",
    "raise_limits": """
for name in ('CPU', 'AS', 'FSIZE', 'NOFILE', 'NPROC', 'CORE', 'MEMLOCK'):
    which = getattr(resource, 'RLIMIT_' + name)
    try: resource.setrlimit(which, (resource.RLIM_INFINITY,) * 2); out(name)
    except (ValueError, OSError): pass
""",
    "stdin_write": """
attempt(os.write, 0, b'changed') and out()
attempt(os.ftruncate, 0, 1 << 30)
attempt(os.pwrite, 0, b'x', 0) and out()
""",
    "stdin_unread": "os.write(1, b'done\\n')",
    "programs": """
import subprocess
for program in ('/bin/sh', 'bash', 'bwrap', 'su', 'sudo', 'mount', 'ls', 'perl', '/usr/bin/env'):
    if attempt(subprocess.run, [program, '--version'], capture_output=True): out(program)
""",
    "kernel_corners": """
call('keyctl', 250, 219, 0, -3, 0); call('add_key', 248, 217, b'user', b'x', b'y', 1, -3)
call('bpf', 321, 280, 0, b'x' * 128, 128); call('perf_event_open', 298, 241, b'x' * 128, 0, -1, -1, 0)
call('userfaultfd', 323, 282, 0); call('io_uring_setup', 425, 425, 4, ctypes.create_string_buffer(256))
call('personality', 135, 92, 0x0400000); call('fanotify', 300, 262, 0, 0); call('quotactl', 168, 225, b'/x')
""",
    "file_handles": """
b = ctypes.create_string_buffer(struct.pack('Ii', 128, 0) + bytes(128)); m = ctypes.c_int()
call('name', 303, 264, -100, b'/usr/lib', b, ctypes.byref(m), 0); call('open', 304, 265, -100, b, 0)
""",
    "system_v": """
call('sem', 64, 190, 0, 1, 0o1600)
call('msg', 68, 186, 0, 0o1600)
call('mq', 240, 180, b'x', 66, 0o600, 0)
""",
    "type_into_terminal": """
import fcntl
for fd in (0, 1, 2):
    for request in (0x5412, 0x541C):
        if attempt(fcntl.ioctl, fd, request, b'x') is not None: out(fd)
attempt(os.open, '/dev/tty', os.O_RDWR) and out('tty')
""",
    "host_name": """
if os.uname().nodename == {host!r}: out()
attempt(socket.sethostname, 'x')
if os.uname().nodename == 'x': out()
""",
    "clock": "attempt(time.clock_settime, time.CLOCK_REALTIME, 0); time.time() < 10**6 and out()",
}

PLAIN = (
    *("tcp", "unix_socket", "abstract_socket", "passwords", "homes", "repository", "environment"),
    *(
        "signal_others",
        "programs",
        "host_name",
        "proc_of_others",
        "thread_bomb",
        "many_fds",
        "output",
    ),
)
