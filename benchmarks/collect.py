"""Calls a second and CPU milliseconds a call of each backend, 32 in flight, against a local provider in a
process of its own; and what the ledger adds.

Prints a table, and as its last line one JSON object of named figures.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from routerlab import Pool, recorded
from routerlab.collect.ask import Settings, ask, plan
from routerlab.collect.backends import backend
from routerlab.collect.ledger import Ledger
from routerlab.core.runs import root

REPEATS, CONCURRENCY = 3, 32
CARD = """
name: local
as_of: 2026-01-01
models:
  - {id: m, provider_id: openai/m, tier: budget, usd_per_mtok_in: 1, usd_per_mtok_out: 2, context: 99}
"""


def timed(work, calls: int) -> tuple[float, float]:
    """(calls a second, CPU ms a call), medians of a few runs; `work` is a function that makes a coroutine."""
    rates, cpu = [], []
    for _ in range(REPEATS):
        wall, used = time.perf_counter(), time.process_time()
        asyncio.run(work())
        rates.append(calls / (time.perf_counter() - wall))
        cpu.append((time.process_time() - used) * 1000 / calls)
    return median(rates), median(cpu)


async def bare(where, calls) -> None:
    """The backend alone: no ledger, no budget."""
    todo = iter(calls)

    async def work():
        for call in todo:
            await where.answer([call])

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    await where.close()


async def written(make, calls, pool, settings) -> None:
    """The whole path: reserved, written down, called, written down, settled."""
    where = make()
    with (
        tempfile.TemporaryDirectory(dir=root() / "data" / "runs") as folder,
        Ledger.open(Path(folder) / "ledger.jsonl") as ledger,
    ):
        await ask(calls, pool, where, ledger, settings)
        assert len(ledger.results) == len(calls)
    await where.close()


def main() -> None:
    (root() / "data" / "runs").mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OPENAI_API_KEY", "local")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(CARD)
        file.flush()
        local = Pool.load(file.name)
    data = recorded("pocket").split("test")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.provider"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root(),
    )
    try:
        url = server.stdout.readline().strip() if server.stdout else ""
        settings = Settings(max_tokens=16, concurrency=CONCURRENCY)
        calls = plan(data.queries, local, settings)
        pocket = data.pool.subset(["pocket-nano"])
        tiny = plan(data.queries, pocket, Settings(max_tokens=160))
        wide = replace(settings, concurrency=None)
        cases = {
            "openai": (lambda: bare(backend(f"openai:{url}"), calls), len(calls)),
            "litellm": (lambda: bare(backend("litellm", base_url=url), calls[:400]), 400),
            "openai + ledger": (
                lambda: written(lambda: backend(f"openai:{url}"), calls, local, settings),
                len(calls),
            ),
            "replay + ledger": (
                lambda: written(lambda: backend("replay:pocket"), tiny, pocket, wide),
                len(tiny),
            ),
            "pocket + ledger": (
                lambda: written(lambda: backend("pocket"), tiny, pocket, wide),
                len(tiny),
            ),
        }
        found = {}
        print(f"{'path':16} {'calls/s':>9} {'CPU ms/call':>12}")
        for name, (work, count) in cases.items():
            asyncio.run(work())  # warm: imports, connections, weights
            found[name] = timed(work, count)
            print(f"{name:16} {found[name][0]:9.0f} {found[name][1]:12.2f}")
    finally:
        server.communicate("")
    overhead = found["openai + ledger"][1] - found["openai"][1]
    print(f"the ledger and the limits add {overhead:.2f} ms of CPU a call")
    figures = {
        "openai_vs_litellm": round(found["openai"][0] / found["litellm"][0], 1),
        "ledger_ms_cpu_per_call": round(overhead, 2),
        "calls_per_s": {n: round(r) for n, (r, _) in found.items()},
        "ms_cpu_per_call": {n: round(c, 2) for n, (_, c) in found.items()},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
