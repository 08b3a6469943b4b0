"""Crash and fault drills at full length: `make faults` prints a table of them; the tests run a tenth.

python tests/faults.py                 all of them
python tests/faults.py outage          one of them
python tests/faults.py client URL FOLDER CALLS    for each line it reads, one session of the run that is killed
"""

import asyncio
import contextlib
import functools
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
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve()
CONCURRENCY = 32
CALLS_A_KILL = 80  # about half of them are answered before the kill


@functools.cache
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


async def session(url: str, folder: Path, count: int, opened=lambda: None) -> int:
    """Ask what is missing; returns how many answers the ledger then holds."""
    from routerlab.collect.ask import ask
    from routerlab.collect.ledger import Ledger
    from routerlab.collect.providers import OpenAIBackend

    calls, pool, settings = calls_and_pool(count)
    backend = OpenAIBackend(url)
    try:
        with Ledger.open(folder / "ledger.jsonl") as ledger:
            opened()
            await ask(calls, pool, backend, ledger, settings)
            return len(ledger.results)
    finally:
        await backend.close()


def client(url: str, folder: Path, count: int) -> None:
    """Plan once; then, for each line of stdin, fork a session, which prints its process, and print how it ended.

    A fresh interpreter for each of 200 kills would import and plan for many minutes, which no kill is about.
    """
    import routerlab.collect.ask
    import routerlab.collect.providers  # noqa: F401

    calls_and_pool(count)
    for _ in sys.stdin:
        if not (process := os.fork()):
            asyncio.run(session(url, folder, count, lambda: print("open", os.getpid(), flush=True)))
            os._exit(0)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def kill_drill(kills: int, folder: Path, seed: int = 0) -> dict:
    """SIGKILL a run at random moments, `kills` times, then let it end, and compare with one never killed."""
    from routerlab.collect.ledger import Ledger

    rng, root = random.Random(seed), HERE.parents[1]
    count, ledger = CALLS_A_KILL * kills, folder / "killed" / "ledger.jsonl"
    piped = functools.partial(
        subprocess.Popen,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    server = piped([sys.executable, "-m", "tests.provider"])
    url = server.stdout.readline().strip()
    runs = piped([sys.executable, str(HERE), "client", url, str(folder / "killed"), str(count)])
    try:
        done, hit, unknown, recorded = 0, 0, [], set()
        while done < kills:
            runs.stdin.write("\n")
            runs.stdin.flush()
            process = int(runs.stdout.readline().removeprefix("open "))
            # A kill says something only once answers come in. The moment is a number of answers, not a time: a fast
            # machine must not outrun the kills.
            at = ledger.stat().st_size + 200 * (CONCURRENCY + rng.randrange(100))
            with contextlib.suppress(ProcessLookupError):  # it came to its end
                while ledger.stat().st_size < at:
                    os.kill(process, 0)
                    time.sleep(0.001)
                time.sleep(rng.uniform(0, 0.01))
                os.kill(process, signal.SIGKILL)
            if runs.stdout.readline() == "ended 0\n":
                break
            done += 1
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
        runs.communicate("")
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


def money_drill() -> dict:
    """What each odd ending of a call costs, how often it is asked and what is kept; 32 calls each."""
    import test_collect as t

    from routerlab.collect.ask import worst_case_usd

    calls, pool, _ = calls_and_pool(32)
    most, out = sum(worst_case_usd(c, pool["m"]) for c in calls), {}
    forms = ("half_pair", "no_usage", "count_text", "hidden_reasoning", "own_cost", "bad_request", "ten_times")
    for form in (*forms, "completion_field", "temperature_1", "server~2", "reset~2"):
        with tempfile.TemporaryDirectory() as folder:
            ledger, provider, stopped = asyncio.run(t.asked(Path(folder), f"m~{form}", 32))
            kept = sum(row.reply is not None for row in ledger.results.values())
            tries = sum(provider.tries.values()) / 32
            share = ledger.spent_usd / (most * tries)
            out[form] = f"{kept} kept, {tries:.2g} requests a call, {share:.0%} of what these may cost charged"
            out[form] += f", stopped: {stopped.split(':')[0]}" if stopped else ""
    return {"": "".join(f"\n    {form:18} {line}" for form, line in out.items())}


def connection_drill() -> dict:
    """A refused connection and an unknown host, through both backends: charged, and how long until it stops."""
    from routerlab.collect.ask import CollectError, ask
    from routerlab.collect.backends import backend
    from routerlab.collect.ledger import Ledger

    os.environ.setdefault("OPENAI_API_KEY", "local")
    out = {}
    for host in ("127.0.0.1:9", "nohost.invalid"):
        for name, options in ((f"openai:http://{host}/v1", {}), ("litellm", {"base_url": f"http://{host}/v1"})):
            calls, pool, settings = calls_and_pool(40, "openai/m")
            with tempfile.TemporaryDirectory() as folder, Ledger.open(Path(folder) / "l") as ledger:
                started, said = time.monotonic(), "never stopped"
                where = backend(name, **options)

                async def session(where=where, calls=calls, pool=pool, ledger=ledger, settings=settings) -> None:
                    try:
                        await ask(calls, pool, where, ledger, settings)
                    finally:
                        await where.close()

                try:
                    asyncio.run(session())
                except CollectError as error:
                    said = str(error).split(" (")[0].removeprefix("the run stopped at ")
                kind = f"{name.partition(':')[0]} {host}"
                out[kind] = f"charged ${ledger.spent_usd:g}, stopped after {time.monotonic() - started:.1f} s: {said}"
    return {"": "".join(f"\n    {kind:24} {line}" for kind, line in out.items())}


def outage_drill(seconds: float = 12.0) -> dict:
    """A provider that is gone for 12 s in the middle of 30 calls: none may be given up."""
    from provider import Provider

    from routerlab.collect.ask import ask
    from routerlab.collect.ledger import Ledger
    from routerlab.collect.providers import OpenAIBackend

    async def session(folder: Path) -> dict:
        calls, pool, settings = calls_and_pool(30)
        settings = replace(settings, concurrency=4, requests_per_minute=600)
        provider = Provider()
        url = await provider.__aenter__()
        port = int(url.split(":")[2].split("/")[0])
        where = OpenAIBackend(url, timeout_s=60)

        async def break_down() -> None:
            while len(provider.billed) < 12:
                await asyncio.sleep(0.01)
            await provider.__aexit__()
            await asyncio.sleep(seconds)
            await provider.serve(port)

        with Ledger.open(folder / "l") as ledger:
            await asyncio.gather(ask(calls, pool, where, ledger, settings), break_down())
            await where.close()
            await provider.__aexit__()
            return {
                "down": f"{seconds:g} s",
                "calls": 30,
                "answered": len(ledger.results),
                "given up": len(ledger.errors),
            }

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(session(Path(folder)))


def training_drill(kills: int, folder: Path) -> dict:
    """SIGKILL a training at random steps, then let it end, and compare its losses with one never killed."""
    import numpy as np
    from test_supervised import child, curve, killed, write_records

    files = write_records(folder)
    child(files, folder / "whole", "save_steps=2").join()
    (folder / "killed").mkdir()
    losses = np.array([curve(folder / "whole"), killed(files, folder / "killed", np.random.default_rng(0), kills)])
    return {"kills": kills, "steps": losses.shape[1], "largest difference of a loss": float(np.ptp(losses, 0).max())}


def main() -> None:
    if sys.argv[1:2] == ["client"]:
        return client(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    drills = {
        "SIGKILL": lambda folder: kill_drill(200, folder),
        "bit flips": lambda folder: flip_drill(20_000, folder),
        "budget": lambda _: budget_drill(1000),
        "provider faults": lambda _: fault_drill(100),
        "odd endings": lambda _: money_drill(),
        "no connection": lambda _: connection_drill(),
        "outage": lambda _: outage_drill(),
        "training": lambda folder: training_drill(10, folder),
    }
    for name in sys.argv[1:] or drills:
        drill = drills[name]
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            found = drill(Path(folder))
            shown = ", ".join(f"{k} {v}" for k, v in found.items())
            print(f"{name:16} {shown}  ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
