"""Crash and fault drills at full length: `make faults` prints a table of them; the tests run a tenth.

python tests/faults.py                 all of them
python tests/faults.py client URL FOLDER CALLS    one session of the run that is killed
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve()
CONCURRENCY = 32


def calls_and_pool(count: int, model: str = "m"):
    from routerlab.collect.ask import Settings, plan
    from routerlab.core.pools import Pool
    from routerlab.core.queries import Query

    card = f"{{id: m, provider_id: '{model}', tier: budget, usd_per_mtok_in: 1, usd_per_mtok_out: 2, context: 99}}"
    text = f"name: fake\nas_of: 2026-01-01\nmodels:\n  - {card}\n"
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        pool = Pool.load(file.name)
    queries = [Query.ask(f"question {i}", "x") for i in range(count)]
    settings = Settings(max_tokens=16, concurrency=CONCURRENCY, attempts=5)
    return plan(queries, pool, settings), pool, settings


async def session(url: str, folder: Path, count: int) -> int:
    """Ask what is missing; returns how many answers the ledger then holds."""
    from routerlab.collect.ask import ask
    from routerlab.collect.ledger import Ledger
    from routerlab.collect.providers import OpenAIBackend

    calls, pool, settings = calls_and_pool(count)
    backend = OpenAIBackend(url)
    try:
        with Ledger.open(folder / "ledger.jsonl") as ledger:
            print("open", flush=True)
            await ask(calls, pool, backend, ledger, settings)
            return len(ledger.results)
    finally:
        await backend.close()


def kill_drill(kills: int, folder: Path, seed: int = 0) -> dict:
    """SIGKILL a run at random moments, `kills` times, then let it end, and compare with one never killed."""
    from routerlab.collect.ledger import Ledger

    rng = random.Random(seed)
    count = 600 * kills
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.provider"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE.parents[1],
    )
    try:
        url = server.stdout.readline().strip()
        done, hit, unknown, recorded = 0, 0, [], set()
        while done < kills:
            command = [sys.executable, str(HERE), "client", url, str(folder / "killed"), str(count)]
            client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            ledger = folder / "killed" / "ledger.jsonl"
            if client.stdout.readline() == "open\n":
                # From then on it plans and imports; a kill says something only once answers come in.
                # The moment is a number of answers, not a time: a fast machine must not outrun the kills.
                at = ledger.stat().st_size + 300 * (CONCURRENCY + rng.randrange(200))
                while client.poll() is None and ledger.stat().st_size < at:
                    time.sleep(0.001)
                time.sleep(rng.uniform(0, 0.01))
                client.send_signal(signal.SIGKILL)
                done += 1
            if client.wait() == 0:
                break
            known, now = len(unknown), Ledger.read(ledger)
            unknown, hit = now.unknown, hit + (len(now.unknown) > known)
            assert len(unknown) - known <= CONCURRENCY, "more calls unknown than were in flight"
            assert recorded <= set(now.results), "an answer that was recorded is gone"
            recorded = set(now.results)
        held = asyncio.run(session(url, folder / "killed", count))
        books = json.load(urllib.request.urlopen(url.replace("/v1", "/bill")))
        asyncio.run(session(url, folder / "whole", count))
        killed, whole = (Ledger.read(folder / n / "ledger.jsonl") for n in ("killed", "whole"))
        plain = {k: (r.reply.text, r.reply.tokens_out, r.usd) for k, r in whole.results.items()}
        same = {k: (r.reply.text, r.reply.tokens_out, r.usd) for k, r in killed.results.items()}
        asked_again = Counter(u["key"] for u in killed.unknown)
        return {
            "kills": done,
            "in flight": hit,
            "rows": held,
            "lost": count - len(same),
            "rows that differ": sum(same.get(k) != v for k, v in plain.items()),
            # A key may be asked once, and once more for every try of it whose end nobody knows.
            "recorded and asked again": sum(max(0, n - 1 - asked_again[k]) for k, n in books["tries"].items()),
            "double charges": sum(n != 1 for n in books["billed"].values()),
            "unknown, still charged": len(killed.unknown),
        }
    finally:
        server.communicate("")


def flip_drill(flips: int, folder: Path) -> dict:
    from test_ledger import count_unseen, filled

    whole = filled(folder / "l", 60)
    return {
        "flips": flips,
        "undetected": count_unseen(whole, flips, folder / "f", random.Random(0)),
    }


def budget_drill(runs: int) -> dict:
    from test_budget import overspent

    return {"runs": runs, "at concurrency": 256, "overspent": overspent(range(runs))}


def fault_drill(tries: int) -> dict:
    from test_collect import classes

    wrong = {f: got for f, got in classes(tries).items() if got[0] != got[1]}
    return {"faults": len(classes(1)), "tries each": tries, "wrong class": wrong or 0}


def main() -> None:
    if sys.argv[1:2] == ["client"]:
        asyncio.run(session(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
        return
    drills = {
        "SIGKILL": lambda folder: kill_drill(200, folder),
        "bit flips": lambda folder: flip_drill(20_000, folder),
        "budget": lambda _: budget_drill(1000),
        "provider faults": lambda _: fault_drill(100),
    }
    for name, drill in drills.items():
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            found = drill(Path(folder))
            shown = ", ".join(f"{k} {v}" for k, v in found.items())
            print(f"{name:16} {shown}  ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
