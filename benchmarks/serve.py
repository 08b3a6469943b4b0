"""What serving adds: a local fake model asked directly, through `routerlab serve` and through the litellm proxy, in
turns. Prints latency at one client (medians), requests a second at 32, and the server's own CPU time a request. Then
overload: a model that takes 0.25 s, a server that takes 32 requests at once, and ten times as many requests as it can
answer.

python benchmarks/serve.py [REQUESTS] [--proxy FOLDER]    a virtual environment with litellm[proxy]; else it is left out

The last line is one JSON object of named figures.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp
import numpy as np

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))
BODY = json.dumps({"model": "a", "messages": [{"role": "user", "content": "hello there " * 20}], "max_tokens": 64})
PROXY = """
model_list:
  - model_name: a
    litellm_params: {{model: openai/a, api_base: {url}, api_key: none}}
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def process(*command: str, first_line: bool = True):
    environment = os.environ | {"PYTHONPATH": str(HERE), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environment["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"
    pipe = subprocess.PIPE if first_line else subprocess.DEVNULL
    one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=pipe, stderr=subprocess.DEVNULL, env=environment)
    try:
        yield one, one.stdout.readline().decode().strip() if one.stdout else ""
    finally:
        one.terminate()
        one.wait(30)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(url: str, requests: int, clients: int) -> tuple[list[float], float]:
    """(seconds of each request, requests a second)."""
    left, taken = iter(range(requests)), []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client() -> None:
            for _ in left:
                started = time.perf_counter()
                async with session.post(f"{url}/chat/completions", data=BODY, headers=JSON) as answer:
                    content = await answer.read()
                    assert answer.status == 200, content[:300]
                taken.append(time.perf_counter() - started)

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return taken, requests / (time.perf_counter() - started)


async def overload(url: str, rate: float, seconds: float) -> tuple[list[float], float, Counter]:
    """Requests that arrive at this rate whatever becomes of them: (seconds of each that was answered, answers a second,
    how many had each status).
    """
    taken, statuses, asked = [], Counter(), []

    async def one() -> None:
        started = time.perf_counter()
        try:
            async with session.post(f"{url}/chat/completions", data=BODY, headers=JSON) as answer:
                await answer.read()
                statuses[answer.status] += 1
        except aiohttp.ClientError as error:
            statuses[type(error).__name__] += 1
            return
        if answer.status == 200:
            taken.append(time.perf_counter() - started)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        started = time.perf_counter()
        while (now := time.perf_counter() - started) < seconds:
            asked += [asyncio.ensure_future(one()) for _ in range(int(now * rate) - len(asked))]
            await asyncio.sleep(0.005)
        await asyncio.gather(*asked)
        return taken, len(taken) / (time.perf_counter() - started), statuses


def overloaded(url: str) -> dict[str, float]:
    """Ten times the most that a server can answer, beside the server alone and just full."""
    alone, _ = asyncio.run(load(url, 40, 1))
    full, peak = asyncio.run(load(url, 640, 32))
    taken, rate, statuses = asyncio.run(overload(url, 10 * peak, 6.0))
    p99 = [float(np.quantile(one, 0.99)) for one in (alone, full, taken)]
    print(f"\n{'':14} {'p99 ms':>10} {'answers/s':>10}")
    for name, one, answers in zip(("alone", "full", "10x overload"), p99, (1 / p99[0], peak, rate), strict=True):
        print(f"{name:14} {1000 * one:10.0f} {answers:10.0f}")
    print(f"statuses under overload: {dict(statuses)}")
    return {"overload_p99_vs_alone": round(p99[2] / p99[0], 2), "overload_goodput": round(rate / peak, 3)}


JSON = {"Content-Type": "application/json", "Authorization": "Bearer none"}


async def ready(url: str, seconds: float = 400.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(aiohttp.ClientError, AssertionError):
            await load(url, 1, 1)
            return
        await asyncio.sleep(0.5)
    raise SystemExit(f"{url} did not answer within {seconds:g} s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("requests", nargs="?", type=int, default=4000)
    parser.add_argument("--proxy", type=Path, default=HERE / "data" / "runs" / "litellm-proxy")
    given = parser.parse_args()
    python, folder = sys.executable, Path(tempfile.mkdtemp())
    with contextlib.ExitStack() as stack:
        start = stack.enter_context
        _, upstream = start(process(python, "-m", "tests.fake_model"))
        card = f"id: a, provider_id: a, base_url: '{upstream}', usd_per_mtok_in: 1, usd_per_mtok_out: 2"
        card += ", tier: budget, context: 4096"
        (folder / "pool.yaml").write_text(f"name: fake\nas_of: 2026-01-01\nmodels:\n  - {{{card}}}\n")
        flags = ["--router", "a", "--pool", str(folder / "pool.yaml"), "--run", str(folder / "run"), "--port", "0"]
        ours, url = start(process(python, "-m", "routerlab.cli", "serve", *flags))
        _, slow = start(process(python, "-m", "tests.fake_model", "0.25"))
        (folder / "slow.yaml").write_text((folder / "pool.yaml").read_text().replace(upstream, slow))
        flags = ["--router", "a", "--pool", str(folder / "slow.yaml"), "--run", str(folder / "slow"), "--port", "0"]
        _, full_url = start(process(python, "-m", "routerlab.cli", "serve", *flags, "--concurrency", "32"))
        ways = {"direct": (None, upstream), "routerlab": (ours, url)}
        litellm = given.proxy / "bin" / "litellm"
        if litellm.exists():
            (folder / "proxy.yaml").write_text(PROXY.format(url=upstream))
            port = str(free_port())
            flags = f"--config {folder / 'proxy.yaml'} --host 127.0.0.1 --port {port} --num_workers 1".split()
            proxy, _ = start(process(str(litellm), *flags, first_line=False))
            ways["litellm proxy"] = proxy, f"http://127.0.0.1:{port}/v1"
        figures = {way: {"ms": [], "rps": [], "cpu": []} for way in ways}
        for _, address in ways.values():
            asyncio.run(ready(address))
            asyncio.run(load(address, 50, 4))
        for _ in range(5):
            for way, (server, address) in ways.items():
                share = 10 if way == "litellm proxy" else 1  # it is slower
                taken, _ = asyncio.run(load(address, given.requests // 20 // share + 5, 1))
                figures[way]["ms"].append(1000 * statistics.median(taken))
                count, before = given.requests // 5 // share + 32, cpu_s(server.pid) if server else 0.0
                _, rate = asyncio.run(load(address, count, 32))
                figures[way]["rps"].append(rate)
                figures[way]["cpu"].append(1000 * (cpu_s(server.pid) - before) / count if server else 0.0)
        under_load = overloaded(full_url)
    print(f"{'':14} {'ms at c=1':>10} {'requests/s at c=32':>20} {'CPU ms a request':>18}")
    for way, of in figures.items():
        print(
            f"{way:14} {statistics.median(of['ms']):10.2f} {max(of['rps']):20.0f} {statistics.median(of['cpu']):18.3f}"
        )
    added = [ours - direct for ours, direct in zip(figures["routerlab"]["ms"], figures["direct"]["ms"], strict=True)]
    best = {way: max(of["rps"]) for way, of in figures.items()}
    named = {"added_p50_ms": round(statistics.median(added), 3), "rps_c32": round(best["routerlab"])}
    if "litellm proxy" in best:
        named["vs_litellm_proxy"] = round(best["routerlab"] / best["litellm proxy"], 1)
    else:
        print(f"no litellm proxy in {given.proxy}: python -m venv there, then pip install 'litellm[proxy]'")
    named |= under_load
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(json.dumps(named))


if __name__ == "__main__":
    main()
