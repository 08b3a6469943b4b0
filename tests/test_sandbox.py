"""The sandbox: it runs code, bounds it, lets nothing out, and refuses where it cannot box."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from probes import HEAD, OUT, PLAIN, PROBES, RAN
from test_learned import pool_of, table_of

from routerlab import Query, Run
from routerlab.collect.backends import backend
from routerlab.collect.run import collect
from routerlab.core.recorded import record
from routerlab.core.runs import root
from routerlab.grade import sandbox
from routerlab.grade.sandbox import LIMITS, Limits, SandboxError, run_code
from routerlab.grade.sandbox_fusion import Fusion, executor
from routerlab.grade.seccomp import seccomp_filter
from routerlab.grade.verify import grade_many

boxed = pytest.mark.skipif(
    shutil.which("bwrap") is None,
    reason="no bubblewrap here: `apt-get install bubblewrap` (0.8 or newer) to test the sandbox",
)

ENDS = {  # how a probe is ended where it does not end by itself
    "memory": ("memory",),
    "memory_of_many": ("memory",),
    "cpu": ("timeout",),
    "sleep": ("timeout",),
    "sleep_against_signals": ("timeout",),
    "closed_output": ("timeout",),
    "output": ("output",),
    "output_of_many": ("output",),
}
BRIEF = Limits(timeout_s=4, cpu_s=1)


def _running(word: str) -> list[int]:
    """Processes of this machine with a word in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def _gone(word: str, within_s: float = 5.0) -> bool:
    until = time.monotonic() + within_s
    while _running(word) and time.monotonic() < until:
        time.sleep(0.05)
    return not _running(word)


@pytest.fixture(scope="module")
def outside():
    """What a program that got out would find: listeners, a canary in the environment, a process."""
    folder = Path(tempfile.mkdtemp(prefix="routerlab-probe-"))
    folder.chmod(0o755)
    canary = "canary" + secrets.token_hex(8)
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        named, abstract = (stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) for _ in range(2))
        named.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o777)
        abstract.bind("\0" + canary)
        for one in (named, abstract):
            one.listen(8)
        os.environ["ROUTERLAB_PROBE"] = canary
        facts = {
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "unix": str(folder / "socket"),
            "abstract": canary,
            "canary": canary,
            "repo": str(root()),
            "host": os.uname().nodename,
            "pid": os.getpid(),
        }
        yield SimpleNamespace(facts=facts, udp=udp, canary=canary)
        del os.environ["ROUTERLAB_PROBE"]
    shutil.rmtree(folder)


def _source(name: str, facts: dict) -> str:
    return HEAD + PROBES[name].format(**facts)


@pytest.fixture(scope="module")
def runs(outside):
    """Every probe, run at once."""
    sandbox.check()

    def one(name: str):
        limits = BRIEF if "timeout" in ENDS.get(name, ()) else replace(LIMITS, timeout_s=60)
        stdin = "x" * (8 << 20) if name.startswith("stdin") else ""
        return run_code(_source(name, outside.facts), stdin, limits)

    with ThreadPoolExecutor(6) as pool:
        return dict(zip(PROBES, pool.map(one, PROBES), strict=True))


@boxed
@pytest.mark.parametrize("name", PROBES)
def test_nothing_gets_out(runs, name):
    ran = runs[name]
    assert RAN in ran.stdout or name == "output", f"the probe did not run: {ran}"
    assert OUT not in ran.stdout, ran.stdout[-500:]
    assert "SyntaxError" not in ran.stderr
    assert "NameError" not in ran.stderr
    if name in ENDS:
        assert ran.status in ENDS[name], ran.status
    else:
        assert ran.status in {"ok", "error"}, ran
    assert len(ran.stdout) + len(ran.stderr) <= LIMITS.output_kb * 1024


@boxed
def test_processor_time_ends_a_program_before_the_clock_does():
    ran = run_code("while True: pass", "", Limits(timeout_s=100, cpu_s=1))
    assert ran.status == "timeout"
    assert ran.seconds < 100


@boxed
def test_nothing_is_left_behind(runs, outside):
    assert runs["background"].status == runs["daemon"].status == "ok"
    assert _gone(outside.canary), "a process outlived its box"
    with pytest.raises(BlockingIOError):
        outside.udp.recv(1)
    assert "alive" in runs["kill_parent"].stdout
    assert runs["stdin_unread"].stdout.endswith("done\n")
    assert runs["sleep"].seconds < 15


@boxed
@pytest.mark.parametrize("name", PLAIN)
def test_the_probes_do_get_out_where_there_is_no_box(outside, name):
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (5, 5))\n"
    process = subprocess.Popen(
        [sys.executable, "-c", limit + _source(name, outside.facts)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tempfile.gettempdir(),
    )
    if name == "output":
        text = process.stdout.read(2 * LIMITS.output_kb * 1024)
        process.kill()
        assert len(text) > LIMITS.output_kb * 1024
    else:
        assert OUT.encode() in process.communicate(timeout=60)[0]
    process.stdout.close()
    process.wait()


@boxed
def test_normal_programs_run():
    ran = run_code("import sys\nprint(input().upper())\nprint('low', file=sys.stderr)", "grüß\n")
    assert (ran.stdout, ran.stderr, ran.status, ran.code) == ("GRÜSS\n", "low\n", "ok", 0)
    source = """
import asyncio, collections, concurrent.futures, dataclasses, decimal, fractions, heapq, itertools
import json, math, multiprocessing, random, re, statistics, string, tempfile, threading, typing, pickle
@dataclasses.dataclass
class P: x: int
async def main(): await asyncio.sleep(0.01); return 1
with tempfile.TemporaryFile() as f: f.write(b'x' * 1000)
with concurrent.futures.ThreadPoolExecutor(4) as pool: print(list(pool.map(abs, [-1, -2])))
with multiprocessing.Pool(2) as pool: print(pool.map(math.isqrt, [9, 16]))
print(asyncio.run(main()), pickle.loads(pickle.dumps(P(3))), __name__)
"""
    ran = run_code(source)
    assert ran.stdout == "[1, 2]\n[3, 4]\n1 P(x=3) __main__\n", ran.stderr
    failed = run_code("raise SystemExit(7)")
    assert (failed.status, failed.code) == ("error", 7)
    # What a program writes cannot pass for a failure of the box itself.
    forged = run_code("import os\nos.write(2, b'bwrap: no box')\nos._exit(1)")
    assert (forged.status, forged.code) == ("error", 1)


@boxed
def test_a_program_is_the_same_every_time():
    source = "print(hash('a'), list({'x', 'y', 'z'}))"
    assert run_code(source).stdout == run_code(source).stdout


@boxed
def test_a_box_dies_with_the_one_who_made_it():
    word = "orphan" + secrets.token_hex(8)
    sleeper = f"import time; time.sleep(120)  # {word}"
    program = f"import os, sys\nos.execv(sys.executable, [sys.executable, '-c', {sleeper!r}])"
    maker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from routerlab.grade.sandbox import Limits, run_code\nrun_code({program!r}, '', Limits(timeout_s=100))",
        ]
    )
    until = time.monotonic() + 30
    # The maker names the word as well; the box does when it is the only other one.
    while len(_running(word)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert len(_running(word)) >= 2, "the program did not start"
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    assert _gone(word)


@boxed
@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests already run without root")
def test_it_works_without_root_too():
    python = Path("/usr/bin/python3")
    version = subprocess.run(
        [python, "-c", "import sys; print(sys.version_info >= (3, 11))"],
        capture_output=True,
        text=True,
    )
    if version.stdout.strip() != "True":
        pytest.skip("no /usr/bin/python3 of 3.11 or newer that another user can start")
    code = (
        "from routerlab.grade.sandbox import run_code\n"
        "r = run_code('import os\\nprint(os.getuid())\\n' + 'n = 0\\ntry:\\n while n < 99:\\n  '\n"
        "  'if os.fork() == 0: import time; time.sleep(1); os._exit(0)\\n  n += 1\\n'\n"
        "  'except OSError: print(n < 40)')\n"
        "print(r.stdout, r.stderr, r.status)"
    )
    ran = subprocess.run(
        [python, "-B", "-c", code],
        user=54321,
        group=54321,
        extra_groups=[],
        env={"PYTHONPATH": str(root()), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "routerlab" in ran.stderr and "ModuleNotFoundError" in ran.stderr:
        pytest.skip("another user cannot read this clone")
    assert ran.stdout.split() == ["54321", "True", "ok"], ran


@pytest.fixture
def fresh():
    """The box looked for again, before and after."""
    sandbox._box.cache_clear()
    yield
    sandbox._box.cache_clear()


def test_without_bubblewrap_nothing_runs(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    mark = tmp_path / "ran"
    with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
        run_code(f"open({str(mark)!r}, 'w')")
    with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
        executor()
    assert not mark.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is for Linux")
def test_where_namespaces_are_forbidden_it_says_so_and_nothing_runs(fresh, monkeypatch):
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    false = folder / "bwrap"
    false.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    false.chmod(false.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: str(false))
    with pytest.raises(SandboxError, match=r"uid map: Permission denied.*apparmor"):
        run_code("print(1)")
    shutil.rmtree(folder)


def test_an_unknown_machine_is_refused(fresh, monkeypatch):
    assert seccomp_filter("riscv64") is None
    for machine in ("x86_64", "aarch64"):
        rules = seccomp_filter(machine)
        assert rules is not None
        assert len(rules) % 8 == 0
        assert len(rules) // 8 < 4096
    monkeypatch.setattr(sandbox, "seccomp_filter", lambda: None)
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: "/usr/bin/bwrap")
    with pytest.raises(SandboxError, match="SandboxFusion"):
        run_code("print(1)")


@pytest.fixture(scope="module")
def fusion():
    """A local server that speaks the API of SandboxFusion; what it runs, it runs in our own box."""
    web = pytest.importorskip("aiohttp.web", reason="aiohttp is not installed")
    import asyncio

    asked = []

    async def run(request):
        body = await request.json()
        asked.append(body)
        if "BREAK" in body["code"]:
            return web.json_response({"status": "SandboxError", "message": "pod lost"})
        if "CRASH" in body["code"]:
            return web.Response(status=500)
        if "BABBLE" in body["code"]:
            return web.Response(text="<html>")
        limits = Limits(timeout_s=body["run_timeout"], memory_mb=body["memory_limit_MB"])
        loop = asyncio.get_running_loop()
        ran = await loop.run_in_executor(None, run_code, body["code"], body["stdin"], limits)
        late = ran.status == "timeout"
        result = {
            "status": "TimeLimitExceeded" if late else "Finished",
            "execution_time": ran.seconds,
            "return_code": None if late else ran.code,
            "stdout": ran.stdout,
            "stderr": ran.stderr,
        }
        status = "Success" if ran.status == "ok" else "Failed"
        return web.json_response({"status": status, "message": "", "compile_result": None, "run_result": result})

    loop, ready, found = asyncio.new_event_loop(), threading.Event(), {}

    async def start():
        app = web.Application()
        app.router.add_post("/run_code", run)
        found["runner"] = web.AppRunner(app)
        await found["runner"].setup()
        site = web.TCPSite(found["runner"], "127.0.0.1", 0)
        await site.start()
        found["port"] = site._server.sockets[0].getsockname()[1]
        ready.set()

    def serve():
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(found["runner"].cleanup())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(20)
    yield SimpleNamespace(url=f"http://127.0.0.1:{found['port']}", asked=asked)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@boxed
def test_fusion_gives_what_bubblewrap_gives(fusion):
    run = executor(fusion.url + "/")
    assert isinstance(run, Fusion)
    for source, stdin in (
        ("print(input() * 2)", "ab"),
        ("raise SystemExit(3)", ""),
        ("x = bytearray(1 << 40)", ""),
    ):
        there, here = run(source, stdin, LIMITS), run_code(source, stdin)
        assert (there.stdout, there.status, there.code) == (here.stdout, here.status, here.code)
    late = run("while True: pass", "", replace(LIMITS, timeout_s=0.5))
    assert late.status == "timeout"
    assert fusion.asked[0] == {
        "code": "print(input() * 2)",
        "language": "python",
        "stdin": "ab",
        "run_timeout": 20.0,
        "compile_timeout": 20.0,
        "memory_limit_MB": 512,
    }


@boxed
def test_functions_are_graded_on_a_fusion_server_with_tests_and_answer_apart(fusion):
    tests = {"test_list": ["assert f(2) == 417", "assert f([1, 2]) == {1, 2}"]}
    query = Query.ask("q", verifier="code", meta={"tests": tests})
    programs = {
        "def f(x): return 417 if x == 2 else set(x)": "match",
        "def f(x): return 418 if x == 2 else set(x)": "mismatch",
        "class E:\n    __eq__ = lambda s, o: True\ndef f(x): return E()": "unproxied",
        "import sys, os\ndef f(x): os._exit(0)": "mismatch",
        "def f(x): return 1 / 0": "crash",
    }
    before = len(fusion.asked)
    verdicts = grade_many([query] * len(programs), [f"```python\n{p}\n```" for p in programs], sandbox=fusion.url)
    assert [v.why for v in verdicts] == list(programs.values())
    sent = [job["code"] + job["stdin"] for job in fusion.asked[before:]]
    answers = [job for job in fusion.asked[before:] if "serve(" in job["code"].rpartition("\n\n\n")[2]]
    assert len(answers) == len(programs)
    assert sum("417" in job["code"] + job["stdin"] for job in answers) == 1, "only the answer that says so itself"
    assert any("417" in text and "serve(" not in text.rpartition("\n\n\n")[2] for text in sent)


@pytest.mark.parametrize(("word", "says"), [("BREAK", "pod lost"), ("CRASH", "500"), ("BABBLE", "does not answer")])
def test_a_failing_fusion_server_is_an_error_and_no_result(fusion, word, says):
    with pytest.raises(SandboxError, match=says):
        Fusion(fusion.url)(f"# {word}")


@boxed
def test_collect_runs_code_on_the_server_it_is_given(fusion, tmp_path, monkeypatch, request):
    pool, tests = pool_of(("a", "b")), {"cases": [{"stdin": "3\n", "stdout": "6\n"}]}
    query = Query.ask("Print twice the number.", verifier="code", meta={"tests": tests})
    answers = ["```python\nprint(int(input()) * 2)\n```", "```python\nprint(3)\n```"]
    table = table_of([query], [[1, 1]], [[1e-6, 1e-6]], models=pool.ids, answer=answers)
    record(Run(tmp_path / "asked"), [query], pool, table, {"how": "made"})
    where = backend(f"replay:{tmp_path / 'asked'}")
    before = len(fusion.asked)
    made = collect([query], pool, where, Run(tmp_path / "out"), sandbox=fusion.url, show="none")
    assert made.table.matrix("quality").tolist() == [[1.0, 0.0]]
    assert len(fusion.asked) == before + 2
    request.getfixturevalue("fresh")
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    with pytest.raises(SandboxError, match="--sandbox"):
        collect([query], pool, where, Run(tmp_path / "none"), show="none")
    assert not (tmp_path / "none" / "ledger.jsonl").exists(), "nothing is asked that cannot be graded"


def test_a_fusion_server_that_is_not_there():
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with pytest.raises(SandboxError, match="start it"):
        Fusion(f"http://127.0.0.1:{port}")("print(1)")
    with pytest.raises(SandboxError, match="http://host:8080"):
        Fusion("localhost:8080")


@boxed
@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_a_program_cannot_fill_the_kernels_memory_with_empty_files(folder):
    source = f"""
import os
n = 0
while True:
    open({folder!r} + f'/{{n}}', 'w').close()
    n += 1
    if n % 1000 == 0: os.write(1, b'.')
"""
    ran = run_code(source)
    assert ran.status == "memory"
    assert len(ran.stdout) < 200, "200,000 files are 200 MB of kernel memory"
    few = run_code("for n in range(2000): open(f'/tmp/{n}', 'w').close()\nimport time; time.sleep(0.2)")
    assert few.status == "ok"
