"""The verbs that serve: `serve` starts the API, `host` a router model, `smoke` asks a deployment a few questions."""

import argparse
import asyncio
import logging
import signal
from pathlib import Path
from typing import Any

import routerlab
from routerlab.cli.shared import AddVerb, read_env, say


def add(verb: AddVerb) -> None:
    """Add these verbs to the command line."""
    parser = verb(serve, "serve", "serve a router and its pool as OpenAI's chat completions")
    parser.add_argument(
        "--router",
        default="",
        help="a router's name, a saved router's folder, a policy map (.yaml), a model of the pool, or the URL of a "
        "language model that calls tools (default: the trained actor of the embedded pool)",
    )
    parser.add_argument("--router-model", metavar="NAME", default="router", help="the served name of a model at a URL")
    parser.add_argument(
        "--router-prices", metavar="IN,OUT", default="0,0", help="of that model, US$ per million tokens"
    )
    parser.add_argument("--mode", choices=("agent", "simple"), default="agent", help="of a model at a URL")
    parser.add_argument("--max-turns", type=int, default=3, help="of a model at a URL, at most (default: 3)")
    parser.add_argument("--lam", type=float, help="cost weight, quality per US$ (default: 2000, or the saved router's)")
    parser.add_argument("--table", default="pocket", help="recorded table a named router is fitted on")
    parser.add_argument("--pool", default="pocket", help="a YAML file, or a name in data/pools (default: pocket)")
    parser.add_argument("--models", metavar="A,B", help="only these of the pool")
    parser.add_argument("--backend", default="", metavar="URL", help="an OpenAI-compatible server for all models")
    parser.add_argument("--key-env", metavar="NAME", default="", help="the environment variable with its key")
    parser.add_argument("--default", metavar="MODEL", help="answers when the router fails (default: the cheapest)")
    parser.add_argument("--explore", type=float, default=0.0, help="share of requests to a random model, such as 0.02")
    parser.add_argument("--run", default="served", help="the run that keeps the log (default: served)")
    parser.add_argument("--budget-usd", type=float, help="of all requests, restarts included")
    parser.add_argument(
        "--keys", metavar="FILE", type=Path, help="API keys and their limits, see data/keys-example.yaml"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; others than loopback need API keys")
    parser.add_argument("--port", type=int, default=8800)
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="of a request (default: 60)")
    parser.add_argument("--concurrency", type=int, default=256, help="requests at once; more get 429 (default: 256)")
    parser.add_argument("--log-level", default="warning", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--debug", action="store_true", help="prompts and answers in router_metadata, /debug/tools")


def serve(given: argparse.Namespace) -> int:
    """Start the API and print its URL. SIGHUP reads a policy map again; SIGTERM answers what has begun, then ends."""
    logging.basicConfig(level=given.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    read_env()
    asyncio.run(_serve(_server(given), given.host, given.port))
    return 0


def _server(given: argparse.Namespace) -> Any:
    from routerlab.core.runs import root
    from routerlab.serve.agent import Agent, router_card
    from routerlab.serve.app import Server, Settings
    from routerlab.serve.choose import Chooser, open_router
    from routerlab.serve.log import Log, accounts
    from routerlab.serve.upstream import Upstream

    pool = routerlab.Pool.load(given.pool)
    pool = pool.subset(given.models.split(",")) if given.models else pool
    default = given.default or min(pool, key=lambda c: c.usd(1, 1)).id
    keys = accounts(given.keys, given.budget_usd, given.host)
    agent, spec = None, given.router
    if spec.startswith(("http://", "https://")):
        card = router_card(given.router_model, spec, given.router_prices)
        agent, spec = Agent(card, pool, given.mode, given.max_turns), default
    actor = root() / "data" / "pocket" / "actor"
    fallback = str(actor) if actor.is_dir() else "ridge"
    lam = 2000.0 if given.lam is None and not Path(spec or fallback).is_dir() else given.lam
    router = open_router(spec or fallback, pool, given.table, lam)
    chooser = Chooser(router, pool, default, given.explore)
    chooser.policy_file = spec if spec.endswith((".yaml", ".yml")) else ""
    settings = Settings(given.timeout, given.concurrency, debug=given.debug)
    log = Log(routerlab.Run(given.run), keys)
    return Server(pool, chooser, Upstream(given.backend, given.key_env), log, settings, agent)


async def _serve(server: Any, host: str, port: int) -> None:
    from aiohttp import web

    wait_s = server.settings.timeout_s
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=wait_s)
    await runner.setup()
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    try:
        await web.TCPSite(runner, host, port).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, server.chooser.reload)
        print(f"http://{host}:{runner.addresses[0][1]}/v1", flush=True)
        await stop.wait()
        server.draining = True
        say(f"stopping: {server.flying} requests are still answered")
    except OSError as error:
        from routerlab.serve.log import LogError

        raise LogError(f"cannot listen on {host}:{port} ({error.strerror}); {_holder(port)}") from error
    finally:
        await runner.cleanup()
        server.log.close()


def _holder(port: int) -> str:
    """What to do about a taken port: the process that listens there, where it can be seen."""
    import psutil

    for other in psutil.net_connections("tcp"):
        if other.status == "LISTEN" and other.laddr and other.laddr.port == port and other.pid:
            command = " ".join(psutil.Process(other.pid).cmdline())[:100]
            return f"process {other.pid} listens there ({command}): stop it with `kill {other.pid}`, or give --port"
    return "give another --host or --port"
