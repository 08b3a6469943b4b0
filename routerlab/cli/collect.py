"""The verb that asks models and pays for it."""

import argparse

import routerlab
from routerlab.cli.shared import AddVerb, say


def add(verb: AddVerb) -> None:
    """Add these verbs to the command line."""
    parser = verb(collect, "collect", "ask every model of a pool every question, and grade the answers")
    parser.add_argument("--pool", default="pocket", help="a YAML file, or a name in data/pools (default: pocket)")
    parser.add_argument("--models", metavar="A,B", help="only these, or a named set of the pool")
    parser.add_argument(
        "--source",
        default="pocket:test",
        help="a benchmark and its split, or file:PATH (default: pocket:test; see `data list`)",
    )
    parser.add_argument(
        "--sandbox",
        metavar="URL",
        help="a SandboxFusion server that runs answers which are code (default: bubblewrap, here)",
    )
    parser.add_argument("--limit", type=int, help="only the first so many questions")
    parser.add_argument("--run", required=True, help="name of the run: a folder in data/runs")
    parser.add_argument(
        "--backend", default="pocket", help="pocket, replay:TABLE, litellm, or openai:URL (default: pocket)"
    )
    parser.add_argument("--samples", type=int, default=1, help="tries of each question")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=512, help="of each answer")
    parser.add_argument("--budget-usd", type=float, help="never spend more than this, in all")
    parser.add_argument("--concurrency", type=int, help="calls in flight")
    parser.add_argument("--rpm", type=float, help="requests a minute to each provider")
    parser.add_argument("--tpm", type=float, help="tokens a minute to each provider")
    parser.add_argument("--judge", metavar="MODEL", help="of the pool: grades what needs a judge")


def collect(given: argparse.Namespace) -> int:
    """Fill an outcome table. Every answer is written down before anything else is done with it; started
    again, the same command goes on where it stopped and asks nothing twice. The exit status is 3 if the
    run stopped before its end."""
    from routerlab.collect.ask import Settings
    from routerlab.collect.backends import backend
    from routerlab.collect.run import collect
    from routerlab.sources.benchmarks import load

    pool = routerlab.Pool.load(given.pool)
    settings = Settings(
        samples=given.samples,
        temperature=given.temperature,
        max_tokens=given.max_tokens,
        budget_usd=given.budget_usd,
        concurrency=given.concurrency,
        requests_per_minute=given.rpm,
        tokens_per_minute=given.tpm,
    )
    chosen = pool
    if given.models:
        chosen = pool.subset(given.models if given.models in pool.sets else given.models.split(","))
    where = backend(given.backend)
    judge = (pool.subset([given.judge]), backend(given.backend)) if given.judge else None
    queries = load(given.source, limit=given.limit)
    run = routerlab.Run(given.run)
    done = collect(queries, chosen, where, run, settings, judge=judge, sandbox=given.sandbox)
    print(done)
    if done.stopped:
        say(f"routerlab: {done.stopped}")
    return 3 if done.stopped else 0
