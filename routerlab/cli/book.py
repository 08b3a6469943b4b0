"""Verbs on notebooks: execute them without a browser, tidy them, and say what this machine can do."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routerlab.cli.shared import AddVerb, add_flags, read_env, say

if TYPE_CHECKING:
    from routerlab.book import Done


def add(verb: AddVerb) -> None:
    """Add these verbs to the command line."""
    parser = verb(run, "run", "execute the notebooks in order, each in a fresh kernel")
    add_flags(parser, "run")
    pair = {"nargs": 2, "metavar": ("NAME", "VALUE"), "action": "append", "default": []}
    parser.add_argument("-p", dest="values", help="set a parameter the notebook declares", **pair)
    verb(doctor, "doctor", "list what is installed, what it makes possible, and what to try next")
    add_flags(verb(tidy, "tidy", "drop from notebooks what differs between runs"), "tidy")


def run(args: argparse.Namespace) -> int:
    """Execute the numbered notebooks with papermill; print a table of results, and write what the notebooks computed
    (result.json) and the notebooks as pages that need no network (html). What is finished and unchanged is not
    executed again. A parameter that no notebook declares is an error; the exit status is 1 if any notebook failed."""
    from routerlab import book
    from routerlab.cli import pages

    paths = book.notebooks(args.only.split(","))
    values = {"profile": args.profile} | {name: literal(value) for name, value in args.values}
    if values["profile"] == "gpu":
        _refuse_without_gpu()
    folder = args.out.resolve() if args.out else book.folder_of(values)
    own = _live(values, folder) if values["profile"] == "live" else {}
    jobs = args.jobs or _jobs()
    results = book.run(
        paths, values, own=own, folder=folder, say=say, fresh=args.fresh, jobs=jobs, timeout_s=args.timeout
    )
    print(summary(results))
    failed = [result.error for result in results if result.error]
    if args.update and not failed:
        for path in paths:
            book.update(folder / path.name, path)
    say(f"to read: {pages.write(folder, book.results(folder))}")
    if failed:
        say(
            f"routerlab: {len(failed)} of {len(results)} notebooks failed: {'; '.join(failed)}; "
            f"open the executed copies in {folder}"
        )
    return 1 if failed else 0


def literal(text: str) -> Any:
    """The value of a parameter given as text: a YAML scalar (`3`, `0.5`, `true`) or the text itself."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, bool | int | float) else text


def summary(done: Sequence["Done"]) -> str:
    """A table of notebooks, seconds and results."""
    width = max((len(d.name) for d in done), default=8)
    lines = [f"{'notebook':{width}}  {'seconds':>7}  result"]
    lines += [f"{d.name:{width}}  {d.seconds:7.1f}  {d.error or 'ok'}" for d in done]
    return "\n".join(lines)


def _jobs() -> int:
    """How many notebooks at once: each is given two cores and 4 GB of the memory that is free."""
    import psutil

    return max(1, min((os.cpu_count() or 1) // 2, psutil.virtual_memory().available // 2**32))


def _refuse_without_gpu() -> None:
    from routerlab import doctor
    from routerlab.book import BookError

    needed = {"GPU", "flash-attn", "vLLM"}
    missing = [check for check in doctor.examine() if check.name in needed and not check.seen]
    if missing:
        cures = "; ".join(f"{check.name}: {check.cure}" for check in missing)
        raise BookError(f"--profile gpu lacks {', '.join(check.name for check in missing)} here ({cures})")


def _live(values: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Ask providers for the table that all notebooks of a live run read, and return the parameters of single notebooks.

    Four fifths of the budget are for the table, a tenth each for the notebooks 01 and 02, which ask by themselves.
    The questions keep their splits if they have all three, and are split anew if not.
    """
    from routerlab import Pool, Run
    from routerlab.book import BookError
    from routerlab.collect.backends import backend
    from routerlab.collect.run import collect
    from routerlab.collect.settings import Settings
    from routerlab.sources.benchmarks import load
    from routerlab.sources.split import split

    if "table" in values and "pool_name" not in values:  # nothing is asked
        return {"01": {"profile": "pocket", "table": "pocket"}, "02": {"profile": "pocket"}, "08": _SERVED}
    if missing := [name for name in ("pool_name", "source", "limit", "budget_usd") if name not in values]:
        example = "-p pool_name xrouter -p models gpt-5-mini,gpt-5 -p source gsm8k -p limit 300 -p budget_usd 5"
        raise BookError(
            f"--profile live needs {', '.join(missing)}: routerlab run --profile live {example}; "
            f"or name a table that you recorded: -p table RUN"
        )
    read_env()
    pool = Pool.load(values["pool_name"])
    models = str(values.setdefault("models", ",".join(pool.ids)))
    pool = pool.subset(models if models in pool.sets else models.split(","))
    queries = load(values["source"], limit=values["limit"])
    if not {"train", "validation", "test"} <= {query.split for query in queries}:
        queries = split(queries, {"train": 0.5, "validation": 0.2, "test": 0.3})
    budget, run = float(values["budget_usd"]), Run(folder / "table")
    say(f"asking {len(pool)} models {len(queries)} questions for at most US$ {0.8 * budget:g}, into {run.folder}")
    done = collect(queries, pool, backend("litellm"), run, Settings(budget_usd=0.8 * budget), show="log")
    print(done)
    if done.stopped:
        raise BookError(f"the table is not complete: {done.stopped}")
    asking = {name: values.pop(name) for name in ("pool_name", "models", "source", "limit", "budget_usd")}
    asking["budget_usd"] = budget / 10
    values["table"] = str(run.folder)
    one = {"model": pool.ids[0], "probe": min(asking["limit"], 24)}
    return {"01": asking | one, "02": asking | {"limit": 20}, "08": {} if "url" in values else _SERVED}


_SERVED = {"profile": "pocket"}  # notebook 08 serves the embedded models, unless a server is named


def doctor(args: argparse.Namespace) -> int:
    """Look for the embedded models, provider keys (names only), a GPU, flash-attn, vLLM, bubblewrap, TeX and Chromium;
    print what each makes possible, how to get what is missing, and the command to try next."""
    from routerlab import doctor

    print(doctor.report(doctor.examine()))
    return 0


def tidy(args: argparse.Namespace) -> int:
    """Drop stderr, timings, widget state and injected cells from notebooks and renumber their cells."""
    from routerlab import book

    paths = args.paths or book.notebooks()
    changed = [path for path in paths if book.tidy(path, write=not args.check)]
    for path in changed:
        print(f"{path.name}: {'not tidy' if args.check else 'tidied'}")
    if args.check and changed:
        say("routerlab: run `routerlab tidy` and commit the result")
    return 1 if args.check and changed else 0
