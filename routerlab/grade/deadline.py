"""Run the verifiers in processes of their own; one that takes too long on an answer is ended.

A pattern or a scorer can take time exponential in the length of an answer, and algebra can hang in spite of
math-verify's own timeout, whose signals work in a main thread only. Processor time is counted, so that a busy machine
changes no grade; a much longer limit on the time of day ends a verifier that only waits. The processes are kept for
later answers and end with ours. They run `python -c`, so that notebooks and scripts without a main guard can use them,
and get no environment variables: grading a text needs no keys.
"""

import functools
import itertools
import json
import os
import pkgutil
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from routerlab.core.queries import Query
from routerlab.grade.answers import Result, Verifier, VerifyError

DEADLINE_S = 30.0  # of processor time, for an answer
WAITING = 10  # an answer may take this many times the deadline by the clock
_BATCH = 1000  # answers sent at once, so that a short verifier does not wait for the pipe after each
_FLUSH_S = 0.01  # results are sent together that were worked out within this time
_MEMORY = 4 * 2**30  # bytes of address space of a process


class WorkerError(RuntimeError):
    """The verifier raised an exception, or its process took too long or ended."""


class _Worker:
    """A process that grades answers, many to a message."""

    def __init__(self) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from routerlab.grade.deadline import serve; serve()"
        env = {k: os.environ[k] for k in ("PATH", "LD_LIBRARY_PATH") if k in os.environ} | {"OMP_NUM_THREADS": "1"}
        pipe, null, argv = subprocess.PIPE, subprocess.DEVNULL, [sys.executable, "-c", code]
        # In a session of its own: Ctrl-C is for us, who may still have answers to grade.
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=null, env=env, start_new_session=True)

    def ask(
        self, verifier: str, timeout_s: float, jobs: Sequence[tuple[str, str]], at_once: bool = True
    ) -> list[Result | Exception]:
        """The results of the first jobs; an error after them if the process ended before the others.

        Args:
            verifier: as "module:function"; loading it does not count against the deadline of the first answer.
            timeout_s: processor time for each answer.
            jobs: (query as `about` writes it, answer) of each answer to grade.
            at_once: send each result by itself: then an error belongs to the first job without a result.
        """
        pipes: Any = self.process
        numbers: dict[str, int] = {}  # a query is sent once, with the number that its answers name
        which = [numbers.setdefault(query, len(numbers)) for query, _ in jobs]
        request = [verifier, timeout_s, at_once, list(numbers), which, [answer for _, answer in jobs]]
        with suppress(OSError):  # it has ended, which the next lines find out
            pipes.stdin.write(json.dumps(request).encode() + b"\n")
            pipes.stdin.flush()
        results: list[Result | Exception] = []
        rest, poll = b"", select.poll()
        poll.register(pipes.stdout, select.POLLIN)
        while len(results) < len(jobs):
            waits = not poll.poll(1000 * max(WAITING * timeout_s, 1))
            if waits or not (received := os.read(pipes.stdout.fileno(), 2**16)):
                code, late = self.close(), f"more than {timeout_s:g} s"
                if waits:
                    late = f"more than {WAITING * timeout_s:g} s by the clock"
                elif code != -signal.SIGPROF:
                    late = f"the process ended ({code})"
                return [*results, WorkerError(f"{late} to grade an answer")]
            *replies, rest = (rest + received).split(b"\n")
            results += [_result(value) for reply in replies for value in json.loads(reply)]
        return results

    def close(self) -> int:
        """End the process; its exit code."""
        self.process.kill()
        self.process.communicate()
        return self.process.returncode


def _result(value: list | str) -> Result | Exception:
    return WorkerError(value) if isinstance(value, str) else Result(*value)


def about(query: Query) -> str:
    """What a process needs of a query, as JSON; TypeError for meta that is none."""
    return json.dumps([query.messages, query.reference, query.verifier, query.source, query.split, query.meta])


_idle: list[_Worker] = []
os.register_at_fork(after_in_child=_idle.clear)  # two processes that write into one pipe would mix up their answers


def grade_apart(
    verifier: Verifier, jobs: Sequence[tuple[Query, str]], workers: int, timeout_s: float = DEADLINE_S
) -> list[Result | Exception]:
    """The result, or the error, of each (query, answer), in order, by `workers` processes at a time."""
    name = f"{verifier.__module__}:{verifier.__qualname__}"

    def work(batch: Sequence[tuple[Query, str]]) -> list[Result | Exception]:
        out, lines, written, at_once = {}, {}, {}, len(batch) == 1
        for i, (query, answer) in enumerate(batch):
            try:
                if id(query) not in written:
                    written[id(query)] = about(query)
                lines[i] = written[id(query)], answer
            except TypeError as error:
                out[i] = error
        while left := [i for i in lines if i not in out]:
            try:
                worker = _idle.pop()
            except IndexError:
                worker = _Worker()
            results = worker.ask(name, timeout_s, [lines[i] for i in left], at_once)
            if worker.process.returncode is None:
                _idle.append(worker)
            elif not at_once:  # graded again one by one, which shows the answer at which it ends
                at_once = bool(results.pop())
            out.update(zip(left, results, strict=False))
        return [out[i] for i in range(len(batch))]

    size = max(1, min(_BATCH, len(jobs) // (4 * workers)))
    with ThreadPoolExecutor(workers) as pool:
        batches = [jobs[i : i + size] for i in range(0, len(jobs), size)]
        return list(itertools.chain(*pool.map(work, batches)))


@functools.lru_cache(_BATCH)
def _query(text: str) -> Query:
    messages, *rest = json.loads(text)
    return Query(tuple(messages), *rest)


# What a verifier imports when it grades.
_LATER = {"json_value": ("jsonschema.validators", "referencing"), "reasoning_gym": ("reasoning_gym.factory",)}


def serve() -> None:
    """Grade the answers on standard input; the body of a worker process."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing a library prints gets among the replies
    loaded = set()

    def send(results: list) -> None:
        replies.write(json.dumps(results).encode() + b"\n")
        replies.flush()

    for line in sys.stdin:
        name, seconds, at_once, queries, which, answers = json.loads(line)
        verifier = pkgutil.resolve_name(name)
        if name not in loaded:
            kind = name.partition(":")[2]
            for module in _LATER.get(kind, ()):
                pkgutil.resolve_name(module)
            if kind == "math":  # import the algebra and build its grammar
                verifier(Query.ask("1", r"\frac{4}{4}", verifier="math"), r"$\frac{2}{2}$")
            loaded.add(name)
            send([])  # the clock of the first answer begins here
        queries, done = [*map(_query, queries)], []
        sent = time.monotonic()
        for number, answer in zip(which, answers, strict=True):
            signal.setitimer(signal.ITIMER_PROF, max(seconds, 1e-6))  # the system ends the process when it is over
            try:
                done.append(verifier(queries[number], answer))
            except Exception as error:
                kind = "" if isinstance(error, VerifyError) else f"{type(error).__name__}: "
                done.append(f"{kind}{error}")
            if at_once or time.monotonic() > sent + _FLUSH_S:
                signal.setitimer(signal.ITIMER_PROF, 0)
                send(done)
                done, sent = [], time.monotonic()
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(done)
