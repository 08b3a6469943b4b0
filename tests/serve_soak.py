"""A bounded soak of the server: many requests with faults injected, then its books are checked; `make soak`.

python tests/serve_soak.py [REQUESTS] [SECONDS]    default: 100,000 requests, at most 300 s

The server runs as its own process. A twentieth of the calls fail in one of five ways, and a twentieth of the clients
leave early. Prints a table; the exit status is 1 if a check failed.
"""

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

from routerlab import Run  # noqa: E402
from routerlab.collect.ledger_format import decode  # noqa: E402
from routerlab.serve.log import FILE  # noqa: E402
from tests.fake_model import FakeModel  # noqa: E402

CLIENTS = 32


def state(pid: int) -> tuple[int, int]:
    """(resident memory in KiB, open descriptors) of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    memory = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return memory, len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def soak(requests: int, seconds: float, folder: Path) -> dict:
    """Ask until the requests or the seconds are used up; returns what clients saw and how the process grew."""
    fake, told, seen, marks = FakeModel(seed=1), [], Counter(), []
    async with fake as up:
        cards = [
            f"{{id: {name}, provider_id: '{name}~{share}%', tier: budget, usd_per_mtok_in: {usd}, usd_per_mtok_out: "
            f"{usd}, context: 4096, base_url: '{up}'}}"
            for name, share, usd in (("a", 5, 1), ("b", 5, 2), ("c", 0, 3))
        ]
        text = "name: fake\nas_of: 2026-01-01\nmodels:\n" + "".join(f"  - {card}\n" for card in cards)
        (folder / "pool.yaml").write_text(text)
        flags = [
            "--router",
            "a",
            "--default",
            "b",
            "--pool",
            folder / "pool.yaml",
            "--run",
            folder / "run",
            "--port",
            0,
        ]
        command = [sys.executable, "-m", "routerlab.cli", "serve", *map(str, flags), "--log-level", "error"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        url = server.stdout.readline().strip() + "/chat/completions"
        left, rng, started = iter(range(requests)), random.Random(0), time.monotonic()

        async def client(session: aiohttp.ClientSession) -> None:
            for number in left:
                if time.monotonic() - started > seconds:
                    return
                streamed, leaves = rng.random() < 0.5, rng.random() < 0.05
                body = {"messages": [{"role": "user", "content": f"question {number}"}], "stream": streamed}
                if number % max(1, requests // 20) == 0:
                    marks.append(state(server.pid))
                try:
                    async with session.post(url, json=body | {"max_tokens": 64}) as answer:
                        if leaves:
                            seen["left"] += 1
                            answer.close()
                            continue
                        content = await answer.text()
                        seen[f"status {answer.status}"] += 1
                        if streamed and answer.status == 200:
                            last = [line for line in content.split("\n") if line.startswith("data: {")][-1][6:]
                            content = last
                            seen["broken streams"] += '"error"' in last[:20]
                        told.append(json.loads(content).get("router_metadata", {}).get("total_cost", 0.0))
                except aiohttp.ClientError as error:
                    seen[type(error).__name__] += 1

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
        await asyncio.sleep(1.0)
        marks.append(state(server.pid))
        took = time.monotonic() - started
        server.terminate()
        await asyncio.to_thread(server.wait, 120)
    return {"told": told, "seen": seen, "marks": marks, "seconds": took, "status": server.returncode}


def books(folder: Path) -> dict:
    """The log by itself: requests, calls without an end, the total by its lines, and the total it carries."""
    calls, ended, usd, total = Counter(), Counter(), 0.0, 0
    with (Run(folder / "run").folder / FILE).open("rb") as lines:
        for line in lines:
            record = decode(line)
            (calls if record["t"] == "call" else ended)[record["id"]] += 1
            usd += record["usd"] if record["t"] == "served" else 0.0
            total = record["sum"]
    twice = sum(count > 1 for count in ended.values())
    return {
        "requests": len(ended),
        "open": len(set(calls) - set(ended)),
        "twice": twice,
        "usd": usd,
        "carried": total / 1e12,
    }


def main() -> int:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 300.0
    folder = Path(tempfile.mkdtemp())
    result = asyncio.run(soak(requests, seconds, folder))
    log = books(folder)
    seen, marks = result["seen"], result["marks"]
    asked = sum(count for name, count in seen.items() if name != "broken streams")
    warm = marks[max(1, len(marks) // 5)]
    checks = {
        "every request is in the log once": log["requests"] == asked and not log["twice"],
        "no call without an end": log["open"] == 0,
        "the total is that of the lines": abs(log["usd"] - log["carried"]) < 1e-9 + 1e-12 * log["requests"],
        "clients were told no more than the log has": sum(result["told"]) <= log["usd"] + 1e-9,
        "no status 500": seen["status 500"] == 0,
        "memory flat within 10 %": marks[-1][0] <= 1.1 * warm[0],
        "no descriptor leak": marks[-1][1] <= warm[1] + 8,
        "ended by SIGTERM with status 0": result["status"] == 0,
    }
    print(f"{asked} requests in {result['seconds']:.0f} s ({asked / result['seconds']:.0f} a second): {dict(seen)}")
    print(f"memory {warm[0] / 1024:.0f} to {marks[-1][0] / 1024:.0f} MiB, descriptors {warm[1]} to {marks[-1][1]}")
    print(f"log: {log}")
    for what, passed in checks.items():
        print(f"{'ok    ' if passed else 'FAILED'} {what}")
    return int(not all(checks.values()))


if __name__ == "__main__":
    sys.exit(main())
