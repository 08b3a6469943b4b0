"""The verb that asks models and pays for it."""

import argparse
import math
from pathlib import Path

import routerlab
from routerlab.cli.shared import AddVerb, read_env, say

MOST_AT_ONCE, MOST_USD = 1024, 1e6


def add(verb: AddVerb) -> None:
    """Add these verbs to the command line."""
    parser = verb(collect, "collect", "ask every model of a pool every question, and grade the answers")
    parser.add_argument("--pool", default="pocket", help="a YAML file, or a name in data/pools (default: pocket)")
    parser.add_argument("--models", metavar="A,B", help="only these, or a named set of the pool")
    parser.add_argument(
        "--source",
        default="pocket:test",
        help="a benchmark and its split, or file:PATH; several with commas (default: pocket:test; see `data list`)",
    )
    parser.add_argument("--folder", metavar="DIR", type=Path, help="where the raw files of benchmarks lie")
    parser.add_argument(
        "--sandbox",
        metavar="URL",
        help="a SandboxFusion server that runs answers which are code (default: bubblewrap, here)",
    )
    parser.add_argument("--limit", type=_whole, help="only the first so many questions of each source")
    parser.add_argument("--run", required=True, help="name of the run: a folder in data/runs")
    add_backend(parser, "pocket")
    parser.add_argument("--samples", type=_whole, default=1, help="tries of each question")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=_whole, default=512, help="of each answer")
    parser.add_argument("--system", default="", metavar="TEXT", help="a system message before every question")
    parser.add_argument(
        "--contract",
        choices=("none",),
        help="none: send questions without the instruction on how to answer, which providers' models get",
    )
    parser.add_argument("--budget-usd", type=dollars, help="never spend more than this, in all")
    parser.add_argument("--concurrency", type=_at_once, help=f"calls in flight, at most {MOST_AT_ONCE}")
    parser.add_argument("--attempts", type=_whole, default=5, help="of a call, before it is left to the next session")
    parser.add_argument("--rpm", type=float, help="requests a minute to each provider")
    parser.add_argument("--tpm", type=float, help="tokens a minute to each provider")
    parser.add_argument("--judge", metavar="MODEL", help="of the pool: grades what needs a judge")


def add_backend(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the flags that say where calls are sent."""
    parser.add_argument(
        "--backend",
        default=default,
        help=f"pocket, replay:TABLE, litellm, openai:URL, or openai with addresses in the pool (default: {default})",
    )
    parser.add_argument("--key-env", metavar="NAME", default="", help="the environment variable that holds the key")
    parser.add_argument("--timeout", type=_seconds, default=120.0, metavar="S", help="of a call (default: 120)")
    parser.add_argument(
        "--limit-field",
        choices=("max_tokens", "max_completion_tokens"),
        default="max_tokens",
        help="the request's field for the most output tokens (found by itself from a refusal)",
    )


def backend_of(given: argparse.Namespace):
    """The backend that the flags name, with keys of a file .env in the environment."""
    from routerlab.collect.backends import backend

    read_env()
    kind = given.backend.partition(":")[0]
    if kind not in {"openai", "litellm"}:
        return backend(given.backend)
    options = {"key_env": given.key_env, "timeout_s": given.timeout, "limit_field": given.limit_field}
    return backend(given.backend, **options)


def collect(given: argparse.Namespace) -> int:
    """Fill an outcome table. Every answer is written down before anything else is done with it; started
    again, the same command goes on where it stopped and asks nothing twice. The exit status is 3 if the
    run stopped before its end."""
    from routerlab.collect.run import collect
    from routerlab.collect.settings import Settings
    from routerlab.core.pools import PoolError
    from routerlab.sources.benchmarks import load

    pool = routerlab.Pool.load(given.pool)
    settings = Settings(
        samples=given.samples,
        temperature=given.temperature,
        max_tokens=given.max_tokens,
        system=given.system,
        contract=given.contract,
        budget_usd=given.budget_usd,
        concurrency=given.concurrency,
        attempts=given.attempts,
        requests_per_minute=given.rpm,
        tokens_per_minute=given.tpm,
    )
    chosen = pool
    if given.models is not None:
        names = [name for name in given.models.split(",") if name]
        if not names:
            raise PoolError(f"--models names no model; leave it out, or name some of {', '.join(pool.ids)}")
        chosen = pool.subset(given.models if given.models in pool.sets else names)
    run, where = routerlab.Run(given.run), backend_of(given)
    judge = (pool.subset([given.judge]), backend_of(given)) if given.judge else None
    queries = load(given.source, limit=given.limit, folder=given.folder)
    done = collect(queries, chosen, where, run, settings, judge=judge, sandbox=given.sandbox)
    print(done)
    if done.stopped:
        say(f"routerlab: {done.stopped}")
    return 3 if done.stopped else 0


def _number(text: str, low: float, high: float, what: str, whole: bool = False) -> float:
    try:
        value = (int if whole else float)(text) if len(text) < 30 else math.inf
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text[:30]!r} is no {what} from {low:g} to {high:g}")
    return value


def _whole(text: str) -> int:
    return int(_number(text, 1, 10**9, "whole number", whole=True))


def _at_once(text: str) -> int:
    return int(_number(text, 1, MOST_AT_ONCE, "number of calls in flight", whole=True))


def dollars(text: str) -> float:
    return _number(text, 1e-12, MOST_USD, "number of US dollars")


def _seconds(text: str) -> float:
    return _number(text, 0.001, 86400, "number of seconds")
