"""The verbs that serve: `serve` starts the API, `host` a router model, `smoke` asks a deployment a few questions."""

import argparse
import asyncio
import itertools
import json
import logging
import math
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml
from aiohttp import web

import routerlab
from routerlab.cli.collect import chosen
from routerlab.cli.shared import read_env, say
from routerlab.collect.keys import secret
from routerlab.collect.providers import checked_url
from routerlab.core.runs import root
from routerlab.serve import offline
from routerlab.serve.agent import Agent, router_card
from routerlab.serve.app import Server, Settings
from routerlab.serve.choose import Chooser, open_router
from routerlab.serve.host import Host, vllm_command, watch
from routerlab.serve.keys import accounts
from routerlab.serve.log import Log, LogError
from routerlab.serve.offline import refresh
from routerlab.serve.upstream import Upstream


def serve(given: argparse.Namespace) -> int:
    """Start the API and print its URL. SIGHUP reads a policy map again; SIGTERM answers what has begun, then ends."""
    logging.basicConfig(level=given.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    read_env()
    asyncio.run(_serve(_server(given), given))
    return 0


def _server(given: argparse.Namespace) -> Any:
    pool = chosen(routerlab.Pool.load(given.pool), given.models)
    default = given.default or min(pool, key=lambda c: c.usd(1, 1)).id
    keys = accounts(given.keys, given.budget_usd, given.host)
    agent, spec = None, given.router or str(root() / "data" / "pocket" / "actor" / "known")
    if spec.startswith(("http://", "https://")):
        card = router_card(given.router_model, checked_url(spec), given.router_prices)
        agent, spec = Agent(card, pool, given.mode, given.max_turns), default
    lam = 2000.0 if given.lam is None and (not given.router or not Path(spec).is_dir()) else given.lam
    chooser = Chooser(open_router(spec, pool, given.table, lam), pool, default, given.explore)
    chooser.policy_file = spec if spec.endswith((".yaml", ".yml")) else ""
    settings = Settings(given.timeout, given.concurrency, debug=given.debug)
    upstream = Upstream(given.backend, given.key_env)
    upstream.check([*pool, *([agent.card] if agent else [])])
    log = Log(routerlab.Run(given.run), keys)
    log.run.write("pool.yaml", pool.to_yaml())
    spec = str(Path(spec).resolve()) if Path(spec).is_dir() else spec
    log.run.write("serve.json", json.dumps({"router": spec, "table": given.table}))
    server = Server(pool, chooser, upstream, log, settings, agent)
    server.drift = lambda: offline.watch(log.run, pool, spec, given.table)
    return server


async def _serve(server: Any, given: argparse.Namespace) -> None:
    try:
        await _until_stopped(server.app(), given.host, given.port, server.settings.timeout_s, server)
    finally:
        server.log.close()
    if (data := refresh(server.log.run)) is not None:
        say(f"{data.table} in {server.log.run.folder}")


async def _until_stopped(app: Any, host: str, port: int, wait_s: float, server: Any = None) -> None:
    """Serve an application until SIGTERM or Ctrl-C; requests that have begun are answered first."""
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=wait_s)
    await runner.setup()
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    try:
        await web.TCPSite(runner, host, port, backlog=2048).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if server is not None:
            loop.add_signal_handler(signal.SIGHUP, server.chooser.reload)
        print(f"http://{host}:{runner.addresses[0][1]}/v1", flush=True)
        await stop.wait()
        if server is not None:
            server.draining = True
            say(f"stopping: {server.flying} requests are still answered")
    except OSError as error:
        raise LogError(f"cannot listen on {host}:{port} ({error.strerror}); {_holder(port)}") from error
    finally:
        await runner.cleanup()


def _holder(port: int) -> str:
    """What to do about a taken port: the process that listens there, where it can be seen."""
    for other in psutil.net_connections("tcp"):
        if other.status == "LISTEN" and other.laddr and other.laddr.port == port and other.pid:
            command = " ".join(psutil.Process(other.pid).cmdline())[:100]
            return f"process {other.pid} listens there ({command}): stop it with `kill {other.pid}`, or give --port"
    return "give another --host or --port"


def host(given: argparse.Namespace) -> int:
    """Start the router model and print its URL when it answers: with vLLM and tool calling where it is installed, else
    with transformers here."""
    names = ("max-model-len", "tensor-parallel-size", "gpu-memory-utilization", "chat-template", "dtype")
    options = {name: getattr(given, name.replace("-", "_")) for name in names}
    if command := vllm_command(given.model, given.port, options):
        return watch(command, f"http://127.0.0.1:{given.port}", given.wait)
    if unused := [n for n in names[1:] if options[n] is not None]:
        say(f"without vLLM --{unused[0]} has no effect")
    asyncio.run(_until_stopped(Host(given.model, given.max_model_len).app(), "127.0.0.1", given.port, given.wait))
    return 0


def smoke(given: argparse.Namespace) -> int:
    """Ask a deployment the questions of data/smoke.yaml by OpenAI's client, whole and streamed, check the answers and
    print a line for each. The exit status is 1 if any check failed."""
    import openai
    import pandas as pd

    read_env()
    scenarios = yaml.safe_load((root() / "data" / "smoke.yaml").read_text("utf-8"))
    if given.test not in ("all", *scenarios):
        raise LogError(f"no scenario {given.test!r}; there are all, {', '.join(scenarios)}")
    client = openai.OpenAI(base_url=checked_url(given.url), api_key=secret(given.key_env) or "none", max_retries=0)
    names, rows = scenarios if given.test == "all" else [given.test], []
    for name, streamed in itertools.product(names, (False, True)):
        row = {"scenario": name, "stream": streamed}
        try:
            row |= _asked(client, given.model, scenarios[name], streamed)
        except openai.OpenAIError as error:
            row |= {"passed": False, "why": f"{type(error).__name__}: {error}"[:120]}
        rows.append(row)
    table = pd.DataFrame(rows).fillna("")
    print(table.to_string(index=False, float_format="{:.3g}".format))
    if failed := [row["why"] for row in rows if not row["passed"]]:
        silent = all(why.startswith("APIConnectionError") for why in failed)
        cure = (
            "start a server (`routerlab serve`), or give its --url" if silent else "the column `why` says what to mend"
        )
        say(f"routerlab: {len(failed)} of {len(rows)} checks failed at {given.url} ({failed[0]}); {cure}")
    return int(bool(failed))


def _asked(client: Any, model: str, scenario: dict, streamed: bool) -> dict[str, Any]:
    """One scenario: what was answered, what it cost, and the first check that failed."""
    fields = {"model": model, "messages": scenario["messages"], **scenario.get("fields", {})}
    started = time.perf_counter()
    if streamed:
        chunks = list(client.chat.completions.create(**fields, stream=True))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        finish, about = chunks[-1].choices[0].finish_reason, getattr(chunks[-1], "router_metadata", None)
    else:
        answer = client.chat.completions.create(**fields)
        text, finish = answer.choices[0].message.content or "", answer.choices[0].finish_reason
        about = getattr(answer, "router_metadata", None)
    seconds = time.perf_counter() - started
    checks = {
        "the answer is empty": bool(text.strip()),
        f"the answer is not {scenario.get('expect')!r}": re.search(scenario.get("expect", ""), text, re.S) is not None,
        "no finish_reason": finish in ("stop", "length"),
        "no router_metadata": about is not None,
        "the parts of the cost do not add up": about is None or _adds_up(about),
    }
    failed = [why for why, passed in checks.items() if not passed]
    told = {"model": about["model_used"], "usd": about["total_cost"]} if about else {}
    shown = " ".join(text.split())[:40]
    return {"passed": not failed, **told, "seconds": seconds, "answer": shown, "why": "".join(failed[:1])}


def _adds_up(bill: Mapping[str, Any]) -> bool:
    """Is the total the router's own cost and that of the models, and the latter the sum of their calls?"""
    calls = sum(call["cost"] for call in bill["call_history"] if call.get("role", "target") == "target")
    total = bill["router_cost"] + bill["target_models_cost"]
    pairs = (bill["total_cost"], total), (bill["target_models_cost"], calls)
    return all(math.isclose(*pair, abs_tol=1e-12) for pair in pairs)
