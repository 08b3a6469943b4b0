"""What `routerlab run` does around the notebooks: parameters, what a profile needs, and the table of results."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from routerlab import Pool, Run, book, doctor
from routerlab.book import BookError, Done
from routerlab.cli.collect import chosen
from routerlab.cli.shared import read_env, say
from routerlab.collect.backends import backend, check_keys
from routerlab.collect.run import collect
from routerlab.collect.settings import Settings
from routerlab.sources.benchmarks import load
from routerlab.sources.split import split


def literal(text: str) -> Any:
    """The value of a parameter given as text: a YAML scalar (`3`, `0.5`, `true`) or the text itself."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, bool | int | float) else text


def refuse_other_kinds(paths: Sequence[Path], values: Mapping[str, Any]) -> None:
    """Stop at a value that is no number, or no truth value, where a notebook declares one."""
    import papermill

    for path in paths:
        for name, declared in papermill.inspect_notebook(str(path)).items():
            default, value = literal(declared["default"]), values.get(name)
            if isinstance(default, str) or value is None:
                continue
            kinds = (int, float) if isinstance(default, float) else type(default)
            if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
                raise BookError(f"-p {name} {value}: {path.stem} needs a value such as {default!r} there")


def summary(done: Sequence[Done]) -> str:
    """A table of notebooks, seconds and results."""
    width = max((len(d.name) for d in done), default=8)
    lines = [(d.name, f"{d.seconds:.1f}", d.error or "ok") for d in done]
    return "\n".join(
        f"{name:{width}}  {s:>7}  {result}" for name, s, result in [("notebook", "seconds", "result"), *lines]
    )


def jobs() -> int:
    """How many notebooks at once: each is given two cores and 4 GB of the memory that is free."""
    return max(1, min((os.cpu_count() or 1) // 2, psutil.virtual_memory().available // 2**32))


def refuse_without_gpu() -> None:
    """Name in one line what the profile `gpu` lacks on this machine."""
    needed = {"GPU", "flash-attn", "vLLM"}
    missing = [check for check in doctor.examine() if check.name in needed and not check.seen]
    if missing:
        cures = "; ".join(f"{check.name}: {check.cure}" for check in missing)
        raise BookError(f"--profile gpu lacks {', '.join(check.name for check in missing)} here ({cures})")


def live(paths: Sequence[Path], values: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Ask providers for the table that the notebooks of a live run read; return the parameters of single notebooks.

    Nine tenths of the budget are for the table, one for notebook 02, which asks 20 of the questions by itself. The
    questions keep their splits if they have all three, and are split anew if not. Notebook 01 needs a table with
    several tries of each question, and 08 serves: both use the embedded models, unless `url` names a server for 08.
    """
    own = {"01": {"profile": "pocket", "table": "pocket"}, "08": {} if "url" in values else {"profile": "pocket"}}
    if "table" in values and "pool_name" not in values:  # nothing is asked
        return own | {"02": {"profile": "pocket"}}
    book.declaring(paths, values.keys() - {"pool_name", "models", "source", "limit", "budget_usd"})
    if missing := [name for name in ("pool_name", "source", "limit", "budget_usd") if name not in values]:
        example = "-p pool_name xrouter -p models gpt-5-mini,gpt-5 -p source gsm8k -p limit 300 -p budget_usd 5"
        raise BookError(
            f"--profile live needs {', '.join(missing)}: routerlab run --profile live {example}; "
            f"or name a table that you recorded: -p table RUN"
        )
    read_env()
    pool = Pool.load(values["pool_name"])
    pool = chosen(pool, str(values.setdefault("models", ",".join(pool.ids))))
    check_keys(where := backend("litellm"), pool)  # before questions are fetched, which may take a while
    queries = load(values["source"], limit=values["limit"])
    if not {"train", "validation", "test"} <= {query.split for query in queries}:
        queries = split(queries, {"train": 0.5, "validation": 0.2, "test": 0.3})
    budget, run = float(values["budget_usd"]), Run(folder / "table")
    say(f"asking {len(pool)} models {len(queries)} questions for at most US$ {0.9 * budget:g}, into {run.folder}")
    done = collect(queries, pool, where, run, Settings(budget_usd=0.9 * budget), show="log")
    print(done)
    if done.stopped:
        raise BookError(f"the table is not complete: {done.stopped}")
    asking = {name: values.pop(name) for name in ("pool_name", "models", "source", "limit", "budget_usd")}
    values["table"] = str(run.folder)
    return own | {"02": asking | {"budget_usd": budget / 10, "limit": 20}}
