"""Make the embedded pool again: train each model that has no weights of this recipe yet, then record the table."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from routerlab.core.pools import Pool
from routerlab.core.runs import Run

QUICK_SHARE = 0.002  # of the training questions
QUICK_RECORD = {"limit": 120, "max_tokens": 24}  # barely trained models never stop by themselves


def make(
    folder: Path,
    *,
    quick: bool = False,
    again: bool = False,
    threads: int = 0,
    say: Callable[[str], None] = print,
) -> dict:
    """Train and record into `folder`; returns the card. A model whose weights carry this recipe is not trained."""
    import torch

    from routerlab.pocket.make.record import record
    from routerlab.pocket.make.train import RECIPES, train

    if threads:
        torch.set_num_threads(threads)
    pool = Pool.load("pocket")
    for number, model in enumerate(pool.ids, 1):
        recipe = RECIPES[model]
        if quick:
            few = [replace(c, examples=round(c.examples * QUICK_SHARE)) for c in recipe.cycles]
            recipe = replace(recipe, cycles=tuple(few))
        wanted = json.loads(json.dumps(asdict(recipe)))
        if not again and _recipe(folder / "models" / model) == wanted:
            say(f"[{number}/{len(pool)}] {model}: weights of this recipe are there")
            continue
        say(f"[{number}/{len(pool)}] {model}: training")
        made = train(model, recipe, folder / "models" / model, say)
        say(
            f"[{number}/{len(pool)}] {model}: {made['parameters']:,} parameters, loss "
            f"{made['loss']:.3f}, {made['seconds']:.0f} s"
        )
    return record(folder / "models", Run(folder), pool, say, **(QUICK_RECORD if quick else {}))


def _recipe(folder: Path) -> dict | None:
    """The recipe the weights in `folder` were trained by, if they are whole."""
    about = folder / "recipe.json"
    if not (about.is_file() and (folder / "model.safetensors").is_file()):
        return None
    return json.loads(about.read_text())["recipe"]
