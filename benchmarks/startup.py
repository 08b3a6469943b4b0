"""What starting costs: `import routerlab` and `routerlab --help`, each beside a bare interpreter, in pairs.

Prints a table, and as its last line one JSON object of named figures: seconds above the bare interpreter (medians).
"""

import json
import statistics
import subprocess
import sys
import time

PAIRS = int(sys.argv[1]) if len(sys.argv) > 1 else 15
BARE = ["-c", "pass"]
WHAT = {"import_seconds": ["-c", "import routerlab"], "help_seconds": ["-m", "routerlab.cli", "--help"]}


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    for arguments in (BARE, *WHAT.values()):  # the first run of each compiles and fills the disk cache
        seconds(arguments)
    print(f"{'what':44} {'bare':>7} {'seconds':>8} {'more':>7}")
    figures = {}
    for name, arguments in WHAT.items():
        pairs = [(seconds(BARE), seconds(arguments)) for _ in range(PAIRS)]
        bare, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        figures[name] = statistics.median(after - before for before, after in pairs)
        print(f"{' '.join(arguments):44} {bare:7.3f} {ours:8.3f} {figures[name]:7.3f}")
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
