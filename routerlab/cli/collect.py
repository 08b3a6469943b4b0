"""The verb that asks models and pays for it."""

import argparse
from dataclasses import fields

import routerlab
from routerlab.cli.shared import flags_of, read_env, say
from routerlab.collect import run as collecting
from routerlab.collect.backends import backend, check_keys
from routerlab.collect.providers import checked_url
from routerlab.collect.settings import Settings
from routerlab.core.pools import PoolError
from routerlab.sources.benchmarks import load


def backend_of(args: argparse.Namespace):
    """The backend that the flags name, with keys of a file .env in the environment."""
    read_env()
    paid = args.backend.partition(":")[0] in {"openai", "litellm"}
    return backend(args.backend, **(flags_of(args, "connection") if paid else {}))


def chosen(pool: routerlab.Pool, models: str | None) -> routerlab.Pool:
    """The models of a pool that a flag names, with commas between them or as a set; all without the flag."""
    if models is None or models in pool.sets:
        return pool if models is None else pool.subset(models)
    if names := [name for name in models.split(",") if name]:
        return pool.subset(names)
    raise PoolError(f"{models!r} names no model; leave --models out, or name some of {', '.join(pool.ids)}")


def collect(args: argparse.Namespace) -> int:
    """Fill an outcome table. Every answer is written down before anything else is done with it; started
    again, the same command goes on where it stopped and asks nothing twice. The exit status is 3 if the
    run stopped before its end."""
    pool = routerlab.Pool.load(args.pool)
    args.sandbox = args.sandbox and checked_url(args.sandbox)
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings) if field.name in args})
    run, where = routerlab.Run(args.run), backend_of(args)
    judge = (pool.subset([args.judge]), backend_of(args)) if args.judge else None
    pool = chosen(pool, args.models)
    for models, there in ((pool, where), *([judge] if judge else [])):
        check_keys(there, models)  # before questions are fetched, which may take a while
    queries = load(args.source, limit=args.limit, folder=args.folder)
    done = collecting.collect(queries, pool, where, run, settings, judge=judge, sandbox=args.sandbox)
    print(done)
    return ended(done)


def ended(done: collecting.Collected) -> int:
    """The exit status of a verb that asked models: 3 if they were not asked everything, and then say why."""
    if done.stopped:
        say(f"routerlab: {done.stopped}")
    return 3 if done.stopped else 0
