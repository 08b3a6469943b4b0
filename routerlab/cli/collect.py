"""The verb that asks models and pays for it."""

import argparse

import routerlab
from routerlab.cli.shared import AddVerb, add_flags, read_env, say


def add(verb: AddVerb) -> None:
    """Add this verb to the command line."""
    parser = verb(collect, "collect", "ask every model of a pool every question, and grade the answers")
    add_flags(parser, "collect", "connection")


def backend_of(given: argparse.Namespace):
    """The backend that the flags name, with keys of a file .env in the environment."""
    from routerlab.collect.backends import backend

    read_env()
    paid = given.backend.partition(":")[0] in {"openai", "litellm"}
    return backend(given.backend, **({"key_env": given.key_env, "timeout_s": given.timeout} if paid else {}))


def collect(given: argparse.Namespace) -> int:
    """Fill an outcome table. Every answer is written down before anything else is done with it; started
    again, the same command goes on where it stopped and asks nothing twice. The exit status is 3 if the
    run stopped before its end."""
    from dataclasses import fields

    from routerlab.collect.run import collect
    from routerlab.collect.settings import Settings
    from routerlab.core.pools import PoolError
    from routerlab.sources.benchmarks import load

    pool = routerlab.Pool.load(given.pool)
    given.requests_per_minute, given.tokens_per_minute = given.rpm, given.tpm
    named = {field.name for field in fields(Settings)} & vars(given).keys()
    settings, chosen = Settings(**{name: getattr(given, name) for name in named}), pool
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
