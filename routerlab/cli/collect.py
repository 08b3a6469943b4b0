"""The verb that asks models and pays for it."""

import argparse

import routerlab
from routerlab.cli.shared import read_env, say


def backend_of(args: argparse.Namespace):
    """The backend that the flags name, with keys of a file .env in the environment."""
    from routerlab.collect.backends import backend

    read_env()
    options = {"key_env": args.key_env, "timeout_s": args.timeout, "limit_field": args.limit_field}
    return backend(args.backend, **(options if args.backend.partition(":")[0] in {"openai", "litellm"} else {}))


def collect(args: argparse.Namespace) -> int:
    """Fill an outcome table. Every answer is written down before anything else is done with it; started
    again, the same command goes on where it stopped and asks nothing twice. The exit status is 3 if the
    run stopped before its end."""
    from dataclasses import fields

    from routerlab.collect.providers import checked_url
    from routerlab.collect.run import collect
    from routerlab.collect.settings import Settings
    from routerlab.core.pools import PoolError
    from routerlab.sources.benchmarks import load

    pool = routerlab.Pool.load(args.pool)
    args.sandbox = args.sandbox and checked_url(args.sandbox)
    args.requests_per_minute, args.tokens_per_minute = args.rpm, args.tpm
    named = {field.name for field in fields(Settings)} & vars(args).keys()
    settings, chosen = Settings(**{name: getattr(args, name) for name in named}), pool
    if args.models is not None:
        names = [name for name in args.models.split(",") if name]
        if not names:
            raise PoolError(f"--models names no model; leave it out, or name some of {', '.join(pool.ids)}")
        chosen = pool.subset(args.models if args.models in pool.sets else names)
    run, where = routerlab.Run(args.run), backend_of(args)
    judge = (pool.subset([args.judge]), backend_of(args)) if args.judge else None
    queries = load(args.source, limit=args.limit, folder=args.folder)
    done = collect(queries, chosen, where, run, settings, judge=judge, sandbox=args.sandbox)
    print(done)
    if done.stopped:
        say(f"routerlab: {done.stopped}")
    return 3 if done.stopped else 0
