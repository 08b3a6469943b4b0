"""Run untrusted code on a SandboxFusion server, by its HTTP API, where this machine has no bubblewrap."""

import json
import urllib.request
from dataclasses import dataclass

from routerlab.grade.sandbox import LIMITS, Executor, Limits, Ran, SandboxError, check, run_code


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
        request = {
            "code": source,
            "language": "python",
            "stdin": stdin,
            "run_timeout": limits.timeout_s,
            "compile_timeout": limits.timeout_s,
            "memory_limit_MB": limits.memory_mb,
        }
        answer = self._post(request, limits.timeout_s + 30)
        run = answer.get("run_result") or {}
        status, code = run.get("status"), run.get("return_code")
        known = {"Finished", "Error", "TimeLimitExceeded"}
        if answer.get("status") not in {"Success", "Failed"} or status not in known:
            raise SandboxError(f"the SandboxFusion server at {self.url} failed: {answer.get('message') or answer}")
        ended = "ok" if status == "Finished" and code == 0 else "error"
        if status == "TimeLimitExceeded":
            ended = "timeout"
        texts = [(run.get(k) or "") for k in ("stdout", "stderr")]
        if sum(map(len, texts)) > limits.output_kb * 1024:
            ended, texts = "output", [t[: limits.output_kb * 512] for t in texts]
        elif ended == "error" and texts[1].rstrip().rpartition("\n")[2].startswith("MemoryError"):
            ended = "memory"
        code = -1 if code is None else int(code)
        return Ran(texts[0], texts[1], ended, code, float(run.get("execution_time") or 0.0))

    def _post(self, content: dict, timeout_s: float) -> dict:
        request = urllib.request.Request(
            self.url.rstrip("/") + "/run_code",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as reply:
                answer = json.load(reply)
        except (OSError, ValueError) as error:
            raise SandboxError(
                f"the SandboxFusion server at {self.url} does not answer: {error}; start it, or "
                f"leave out --sandbox to use bubblewrap on this machine"
            ) from error
        if not isinstance(answer, dict):
            raise SandboxError(f"{self.url} answered something that is not the API of SandboxFusion: {answer!r}")
        return answer


def executor(url: str | None = None) -> Executor:
    """What runs code: the SandboxFusion server at `url`, or bubblewrap on this machine, which is checked now."""
    if url:
        return Fusion(url)
    check()
    return run_code
