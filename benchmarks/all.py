"""Run every benchmark in this folder and rewrite RESULTS.md: the machine, the date, what each
printed.
"""

import datetime as dt
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """Run them in order; a failed one leaves RESULTS.md as it was and its error on the screen."""
    about = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    machine = f"{os.cpu_count()} cores ({about[0] if about else platform.machine()}), no GPU"
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers", "numpy", "pyarrow"))
    parts = [
        "# Results\n",
        f"Written by `make bench` on {dt.date.today()}: {machine}; Python {platform.python_version()}, {versions}.",
        "Timings on a shared machine are noisy: read ratios within one table, not single figures.\n",
    ]
    for path in sorted(HERE.glob("*.py")):
        if path.name == "all.py":
            continue
        print(path.name, file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, path], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{path.name} failed; RESULTS.md is as it was", file=sys.stderr)
            return 1
        print(done.stdout)
        title = " ".join(path.read_text().split('"""')[1].split("\n\n")[0].split())
        parts.append(f"## {path.name}\n\n{title}\n\n```\n{done.stdout.rstrip()}\n```\n")
    (HERE / "RESULTS.md").write_text("\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
