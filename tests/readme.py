"""Run every command of the README's code blocks that is not marked with what it needs, in a clone of this project.

    python tests/readme.py [WORD]    only commands with this word; prints a line for each, exits with 1 if one failed

A server runs until the next command that does not ask it. The quick commands are also run by tests/test_readme.py.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
MINUTES = 10  # the most for a command


def commands() -> list[tuple[str, str]]:
    """Every command of the code blocks in bash, and its remark."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    lines = [line.partition("#") for block in blocks for line in block.splitlines() if line.strip()]
    return [(command.strip(), remark.strip()) for command, _, remark in lines]


def free() -> list[str]:
    """The verbs of routerlab that need nothing else: no key, GPU, server or file of the user."""
    return [command for command, remark in commands() if command.startswith("routerlab ") and "needs" not in remark]


def environment(clone: Path) -> dict[str, str]:
    """That of a user who installed the clone: no keys, and no network but this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    return kept | {"PYTHONPATH": str(clone), "ROUTERLAB_HOME": str(clone), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}


def words(command: str) -> list[str]:
    return [sys.executable, "-m", "routerlab.cli", *shlex.split(command)[1:]]


def stop(server: subprocess.Popen | None) -> int:
    """End a server as Ctrl-C does; its exit status."""
    if server is None:
        return 0
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=60)
    return server.returncode


def main(word: str = "") -> int:
    failed, server = [], None
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "routerlab"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        about = {"cwd": clone, "env": environment(clone), "text": True}
        for command in (c for c in free() if word in c):
            started = time.monotonic()
            if not command.startswith("routerlab smoke"):
                status, server = stop(server), None
                failed += ["a server did not end as it should"] * (status != 0)
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            if command.startswith("routerlab serve"):
                server = subprocess.Popen(words(command), **about, **pipes)
                lines = []  # what it says before its address
                while (line := server.stdout.readline()) and "http://" not in line:
                    lines.append(line)
                status, said = (0 if line else 1), "".join(lines)
            else:
                try:
                    done = subprocess.run(words(command), **about, **pipes, timeout=60 * MINUTES)
                    status, said = done.returncode, done.stdout
                except subprocess.TimeoutExpired:
                    status, said = 1, f"not finished within {MINUTES} minutes\n"
            print(f"{'ok' if status == 0 else 'FAILED':7}{time.monotonic() - started:6.1f} s  {command}", flush=True)
            if status:
                failed.append(command)
                print(said[-2000:], flush=True)
        stop(server)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
