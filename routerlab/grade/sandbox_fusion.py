"""Run untrusted code on a SandboxFusion server, by its HTTP API, where this machine has no bubblewrap."""

import json
import urllib.request
from dataclasses import dataclass

from routerlab.grade.sandbox import LIMITS, Executor, Limits, Ran, SandboxError, check, ended_by, run_code


@dataclass(frozen=True)
class Fusion:
    """A SandboxFusion server as an executor: `Fusion("http://host:8080")(source, stdin, limits)`.

    The server isolates the code. It enforces our limits on time and memory; the limit on output is enforced here.
    """

    url: str

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise SandboxError(f"{self.url!r} is not the address of a SandboxFusion server; write 'http://host:8080'")

    def __call__(self, source: str, stdin: str = "", limits: Limits = LIMITS) -> Ran:
        times = {"run_timeout": limits.timeout_s, "compile_timeout": limits.timeout_s}
        job = {"code": source, "language": "python", "stdin": stdin, "memory_limit_MB": limits.memory_mb, **times}
        where = self.url.rstrip("/") + "/run_code"
        request = urllib.request.Request(where, json.dumps(job).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=limits.timeout_s + 30) as reply:
                answer = json.load(reply)
        except (OSError, ValueError) as error:
            raise SandboxError(
                f"the SandboxFusion server at {self.url} does not answer: {error}; start it, or leave out --sandbox "
                f"to use bubblewrap on this machine"
            ) from error
        answer = answer if isinstance(answer, dict) else {"message": answer}
        run, known = answer.get("run_result") or {}, {"Finished", "Error", "TimeLimitExceeded"}
        if answer.get("status") not in {"Success", "Failed"} or run.get("status") not in known:
            raise SandboxError(f"the SandboxFusion server at {self.url} failed: {answer.get('message') or answer}")
        late, code = run["status"] == "TimeLimitExceeded", -1 if run.get("return_code") is None else run["return_code"]
        stdout, stderr, room = run.get("stdout") or "", run.get("stderr") or "", limits.output_kb * 1024
        status = "timeout" if late else ended_by(code, stderr, len(stdout) + len(stderr) > room)
        return Ran(stdout[:room], stderr[: max(0, room - len(stdout))], status, code, run.get("execution_time") or 0.0)


def executor(url: str | None = None) -> Executor:
    """What runs code: the SandboxFusion server at `url`, or bubblewrap on this machine, which is checked now."""
    if url:
        return Fusion(url)
    check()
    return run_code
