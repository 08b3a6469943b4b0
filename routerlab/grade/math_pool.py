"""Run math-verify, and regular expressions of a data set, in processes of their own; one that is late is ended.

math-verify times itself by signals, which work in a main thread only, and its algebra can hang in spite of them. The
processes run `python -c`, so that notebooks and scripts without a main guard can use them. They do not get our
environment variables: a process that does algebra on a model's text needs no keys.
"""

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

from routerlab.core.queries import Query
from routerlab.grade.answers import Result

START_S = 120.0  # for an import of the algebra on a busy machine


class WorkerError(RuntimeError):
    """The verifier raised an exception, or its process took too long or ended."""


class _Worker:
    """One process; `ask` grades one answer, and ends the process if that takes too long."""

    def __init__(self, verifier: str) -> None:
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from routerlab.grade.math_pool import serve; serve({verifier!r})"
        )
        env = {k: os.environ[k] for k in ("PATH", "LD_LIBRARY_PATH") if k in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env | {"OMP_NUM_THREADS": "1"},
        )
        self._read("to start", START_S)

    def ask(self, query: Query, answer: str, timeout_s: float) -> Result:
        messages = [dict(m) for m in query.messages]
        job = json.dumps([messages, query.reference, query.verifier, query.source, query.meta.get("pattern"), answer])
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(job.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerError(f"the process of {query.verifier!r} has ended") from error
        reply = self._read(f"to grade {query.id}", timeout_s)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return Result(*reply["result"])

    def _read(self, what: str, timeout_s: float) -> dict:
        out = self._process.stdout
        assert out is not None
        if not select.select([out], [], [], timeout_s)[0]:
            self.close()
            raise WorkerError(f"more than {timeout_s:g} s {what}")
        line = out.readline()
        if not line:
            self.close()
            raise WorkerError(f"the process ended when it had {what}")
        return json.loads(line)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()


def grade_apart(jobs: Sequence[tuple[Query, str]], workers: int, timeout_s: float = 30.0) -> list[Result | Exception]:
    """A result, or the `WorkerError`, of each (query, answer), in order."""
    out: list[Result | Exception] = [WorkerError("not graded")] * len(jobs)
    waiting: SimpleQueue[int] = SimpleQueue()
    for number in range(len(jobs)):
        waiting.put(number)

    def work() -> None:
        worker = None
        try:
            while True:
                try:
                    number = waiting.get_nowait()
                except Empty:
                    return
                try:
                    if worker is None or not worker.alive:
                        worker = _Worker(jobs[number][0].verifier)
                    out[number] = worker.ask(*jobs[number], timeout_s)
                except WorkerError as error:
                    out[number] = error
        finally:
            if worker is not None:
                worker.close()

    threads = [threading.Thread(target=work) for _ in range(min(workers, len(jobs)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out


def serve(verifier: str = "math") -> None:
    """Grade the answers on standard input, one JSON line each; the body of a worker process."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that nothing a library prints gets among the replies
    if verifier == "math":
        from routerlab.grade.formulas import math as check

        # Import the algebra and build its grammar before the first deadline begins.
        check(Query.ask("1", r"\frac{4}{4}", verifier="math"), r"$\frac{2}{2}$")
    else:
        from routerlab.grade.answers import regex as check
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        messages, reference, verifier, source, pattern, answer = json.loads(line)
        query = Query(tuple(messages), reference, verifier, source, meta={"pattern": pattern})
        try:
            report = {"result": check(query, answer)}
        except Exception as error:
            report = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(report), file=replies, flush=True)
