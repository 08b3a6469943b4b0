"""Make the embedded pool again: train each model that has no weights of this recipe yet, then record the table."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from routerlab.core.pools import Pool
from routerlab.core.runs import Run
from routerlab.pocket.make.train import recipes, train

QUICK_SHARE = 0.002  # of the training questions
QUICK_RECORD = {"limit": 120, "max_tokens": 24}  # barely trained models never stop by themselves


def make(folder: Path, quick: bool, again: bool, threads: int, say: Callable[[str], None]) -> dict:
    """Train and record the embedded pool.

    Args:
        folder: where models, queries, outcomes and the card go.
        quick: a small part of the training and of the questions.
        again: train models whose weights were made by this recipe, too.
        threads: of torch; 0 leaves the choice to torch.
        say: takes progress lines.

    Returns:
        The card's entry of each model.
    """
    from routerlab.pocket.make.record import record

    if threads:
        torch.set_num_threads(threads)
    pool, known = Pool.load("pocket"), recipes()
    for number, model in enumerate(pool.ids, 1):
        recipe = known[model]
        if quick:
            few = (replace(c, examples=round(c.examples * QUICK_SHARE)) for c in recipe.cycles)
            recipe = replace(recipe, cycles=tuple(few))
        which = f"[{number}/{len(pool)}] {model}"
        if not again and _recipe(folder / "models" / model) == json.loads(json.dumps(asdict(recipe))):
            say(f"{which}: weights of this recipe are there")
            continue
        say(f"{which}: training")
        report = train(model, recipe, folder / "models" / model, say)
        say("{}: {parameters:,} parameters, loss {loss:.3f}, {seconds:.0f} s".format(which, **report))
    return record(folder / "models", Run(folder), pool, say, **(QUICK_RECORD if quick else {}))


def _recipe(folder: Path) -> dict | None:
    """The recipe that the weights in `folder` were trained with; None where a file is missing."""
    report = folder / "recipe.json"
    if not (report.is_file() and (folder / "model.safetensors").is_file()):
        return None
    return json.loads(report.read_text("utf-8"))["recipe"]
