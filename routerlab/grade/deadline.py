"""Run the verifiers in processes of their own; one that takes too much processor time on an answer is ended.

A pattern or a scorer can take time exponential in the length of an answer, and algebra can hang in spite of
math-verify's own timeout, whose signals work in a main thread only. Processor time is counted, so that a busy machine
changes no grade. The processes are kept for later answers and end with ours. They run `python -c`, so that notebooks
and scripts without a main guard can use them, and get no environment variables: grading a text needs no keys.
"""

import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from routerlab.core.queries import Query
from routerlab.grade.answers import Result, Verifier, VerifyError

DEADLINE_S = 30.0
_MEMORY = 4 * 2**30  # bytes of address space of a process


class WorkerError(RuntimeError):
    """The verifier raised an exception, or its process took too long or ended."""


class _Worker:
    """A process that grades one answer at a time."""

    def __init__(self) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from routerlab.grade.deadline import serve; serve()"
        env = {k: os.environ[k] for k in ("PATH", "LD_LIBRARY_PATH") if k in os.environ} | {"OMP_NUM_THREADS": "1"}
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        argv = [sys.executable, "-c", code]
        # In a session of its own: Ctrl-C is for us, who may still have answers to grade.
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=null, env=env, start_new_session=True)
        self.loaded: set[str] = set()

    def ask(self, verifier: str, timeout_s: float, query: Query, answer: str) -> Result:
        """`verifier` is "module:function"; loading it does not count against the deadline of the answer."""
        if verifier not in self.loaded:
            self._send([verifier], f"when it loaded {verifier}")
            self.loaded.add(verifier)
        about = [query.reference, query.verifier, query.source, query.split, dict(query.meta)]
        job = [verifier, timeout_s, [dict(m) for m in query.messages], about, answer]
        reply = self._send(job, f"more than {timeout_s:g} s to grade {query.id}")
        if "error" in reply:
            raise WorkerError(reply["error"])
        return Result(*reply["result"])

    def _send(self, job: list, late: str) -> dict:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(job).encode() + b"\n")
            stdin.flush()
            if line := stdout.readline():
                return json.loads(line)
        except OSError:
            pass  # it has ended, which the next line finds out
        code = self.close()
        raise WorkerError(late if code == -signal.SIGPROF else f"the process ended ({code}); {late}")

    def close(self) -> int:
        """End the process; its exit code."""
        self.process.terminate()
        self.process.communicate()
        return self.process.returncode


_idle: list[_Worker] = []
os.register_at_fork(after_in_child=_idle.clear)  # two processes that write into one pipe would mix up their answers


def grade_apart(
    verifier: Verifier, jobs: Sequence[tuple[Query, str]], workers: int, timeout_s: float = DEADLINE_S
) -> list[Result | Exception]:
    """The result, or the error, of each (query, answer), in order, by `workers` processes at a time."""
    name = f"{verifier.__module__}:{verifier.__qualname__}"

    def work(job: tuple[Query, str]) -> Result | Exception:
        try:
            worker = _idle.pop()
        except IndexError:
            worker = _Worker()
        try:
            return worker.ask(name, timeout_s, *job)
        except (WorkerError, TypeError) as error:  # TypeError: meta that is not JSON
            return error
        finally:
            if worker.process.poll() is None:
                _idle.append(worker)

    with ThreadPoolExecutor(min(workers, len(jobs))) as pool:
        return list(pool.map(work, jobs))


def serve() -> None:
    """Grade the answers on standard input, one JSON line each; the body of a worker process."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that nothing a library prints gets among the replies
    for line in sys.stdin:
        name, *job = json.loads(line)
        verifier, reply = pkgutil.resolve_name(name), {}
        if not job and name.endswith(":math"):  # import the algebra and build its grammar
            verifier(Query.ask("1", r"\frac{4}{4}", verifier="math"), r"$\frac{2}{2}$")
        if job:
            seconds, messages, about, answer = job
            query = Query(tuple(messages), *about)
            signal.setitimer(signal.ITIMER_PROF, max(seconds, 1e-6))  # the system ends the process when it is over
            try:
                reply = {"result": verifier(query, answer)}
            except Exception as error:
                kind = "" if isinstance(error, VerifyError) else f"{type(error).__name__}: "
                reply = {"error": f"{kind}{error}"}
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(reply), file=replies, flush=True)
