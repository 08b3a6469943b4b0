"""`make pocket-quick`: the whole recipe, much reduced, really trains and records, and does not train twice."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from routerlab import Run, cli, recorded
from routerlab.core.runs import sha256


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick")
    assert cli.main(["pocket", "--quick", "--threads", "1", "--out", str(folder)]) == 0
    return folder


def test_it_trains_every_model_and_records_a_whole_table(quick):
    assert all(map(Run(quick).path, Run(quick).manifest()))
    made = recorded(quick)
    assert len(made.queries) == 120
    assert len(made.table) == 120 * 6 * 5
    assert {q.split for q in made.queries} == {"train", "validation", "test"}
    for name, card in made.card["models"].items():
        folder = quick / "models" / name
        assert card["weights_sha256"] == sha256(folder / "model.safetensors")
        weights = load_file(folder / "model.safetensors")
        assert all(w.dtype == np.float16 and np.isfinite(w).all() for w in weights.values())
        assert sum(w.size for w in weights.values()) == card["parameters"]
        assert 0 <= card["abstain_below"] <= 1


def test_a_second_run_trains_and_asks_nothing(quick, capsys, monkeypatch):
    from routerlab.pocket.make import record

    def refuse(*_, **__):
        raise AssertionError("a model was asked again")

    monkeypatch.setattr(record, "answer", refuse)
    before = {p: p.stat().st_mtime_ns for p in quick.rglob("model.safetensors")}
    table = sha256(quick / "outcomes.parquet")
    assert cli.main(["pocket", "--quick", "--threads", "1", "--out", str(quick)]) == 0
    assert {p: p.stat().st_mtime_ns for p in quick.rglob("model.safetensors")} == before
    assert capsys.readouterr().err.count("weights of this recipe are there") == 6
    assert sha256(quick / "outcomes.parquet") == table


def test_training_learns():
    """A tiny model on one-term questions: the loss falls far below that of a guess over the vocabulary."""
    import torch

    from routerlab.pocket.make import examples, train

    recipe = train.Recipe(hidden=32, layers=1, heads=2, cycles=())
    rows, heads, _ = examples.encode_cell("spell_backward", 0, 600, thinks=False)
    model = train.build(recipe)
    assert model.num_parameters() < 50_000
    losses = []
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for inputs, labels in examples.batches(rows * 3, np.array(heads * 3), np.random.default_rng(0), 1024):
        loss = model(input_ids=inputs, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_weights_of_another_recipe_are_not_taken_for_these(quick):
    from routerlab.pocket.make.build import _recipe

    folder = quick / "models" / "pocket-nano"
    assert _recipe(folder) == json.loads((folder / "recipe.json").read_text())["recipe"]
    assert _recipe(folder) != json.loads((quick / "models" / "pocket-mini" / "recipe.json").read_text())["recipe"]
    assert _recipe(quick) is None
