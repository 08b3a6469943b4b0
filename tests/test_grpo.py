"""GRPO of a Hugging Face model on our environment: exact tokens, masks, refilled groups, the floor of the std."""

import functools
import json
import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl")

import torch
from datasets import Dataset

from routerlab import recorded
from routerlab.train.checkpoints import read_metrics
from routerlab.train.grpo import Replayed, by_band
from routerlab.train.recipes import TrainError, make_fresh, open_model, open_tokenizer, read_recipe
from routerlab.train.records import Evidence, Recipe, records
from routerlab.train.supervised import configure, make_trainer, train


@pytest.fixture(scope="module")
def data():
    return recorded("pocket").split("train")


@pytest.fixture(scope="module")
def plays(data):
    """RL records of two models in agent mode, decoded."""
    two = data.pool.subset(list(data.pool.ids[:2]))
    evidence = Evidence(data, ["all"] * len(data.queries), next(iter(data.pool)).as_of)
    made = records("rl", data.queries[:12], two, Recipe(mode="agent", lam=(1.0, 100.0)), evidence)
    return [{k: json.loads(v) if k in {"prompt", "tools", "pool"} else v for k, v in r.items()} for r in made]


CHANGES = ["per_device_train_batch_size=4", "num_generations=2", "max_completion_length=24", "play.refills=2"]


@pytest.fixture(scope="module")
def trainer(data, plays, tmp_path_factory):
    out = tmp_path_factory.mktemp("grpo")
    torch.set_num_threads(1)
    recipe = read_recipe("pocket-cpu", "rl", [*CHANGES, "play.std_floor=0.5"]).tiny()
    make_fresh(recipe, [json.dumps(plays)], base := out / "base")
    config = configure("rl", recipe, out, False)
    opened = open_model(recipe, base), open_tokenizer(recipe, base)
    return make_trainer("rl", opened, recipe, config, plays, data, print)


def test_rollouts_of_vllm_are_refused_on_a_cpu(tmp_path, monkeypatch):
    """Before any model is opened: vLLM would start, compile for minutes, and fail at the first weights it is sent."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe = read_recipe("pocket-cpu", "rl", [*CHANGES, "use_vllm=true", "vllm_mode=colocate"])
    with pytest.raises(TrainError, match="weight_loader.*use_vllm=false"):
        configure("rl", recipe, tmp_path, False)


def script(trainer, monkeypatch, turns):
    """Let the model write these texts, turn by turn, whatever it is asked."""
    tokenizer, given = trainer.processing_class, [list(t) for t in turns]

    def say(prompts, *_):
        texts = [given[i % len(given)].pop(0) for i in range(len(prompts))]
        return [tokenizer(f"{t}<|im_end|>")["input_ids"] for t in texts], None

    monkeypatch.setattr(trainer, "_generate_single_turn", say)
    monkeypatch.setattr(trainer, "max_completion_length", 10_000)


def use(name, **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_tool_answers_are_masked_and_sampled_tokens_stay_as_they_are(trainer, plays, data, monkeypatch):
    first, second = (tool["function"]["name"] for tool in plays[0]["tools"][:2])
    turns = [f"Let me see. {use(first)}{use(second)}", use("select_response", call=2)]
    script(trainer, monkeypatch, [turns])
    record = trainer.train_dataset[0]
    game = trainer._play([record])[0]
    own = [t for t, mask in zip(game["completion_ids"], game["env_mask"], strict=True) if mask]
    assert trainer.processing_class.decode(own) == "".join(f"{t}<|im_end|>" for t in turns)
    heard = trainer.processing_class.decode(
        [t for t, m in zip(game["completion_ids"], game["env_mask"], strict=True) if not m]
    )
    row, shown = data.table.queries.index(record["query"]), plays[0]["pool"]
    answers = data.table.text("answer")[row, [data.table.models.index(s["model"]) for s in shown]]
    assert all(json.dumps(a or "")[1:-1] in heard for a in answers if a is not None)
    replayed = game["replayed"]
    usd = sum(
        (
            data.table.matrix("tokens_in")[row, c] * s["usd_per_mtok_in"]
            + data.table.matrix("tokens_out")[row, c] * s["usd_per_mtok_out"]
        )
        / 1e6
        for s in shown
        for c in [data.table.models.index(s["model"])]
    )
    quality = data.table.matrix("quality")[row, data.table.models.index(shown[1]["model"])]
    assert replayed.episode.outcome().usd == pytest.approx(usd)
    assert replayed.quality() == quality
    assert replayed.reward() == pytest.approx(quality - record["lam"] * usd)


def test_a_malformed_call_ends_nothing(trainer, monkeypatch):
    script(trainer, monkeypatch, [["<tool_call>{not json</tool_call>", use("call_nobody"), "I give up."]])
    game = trainer._play([trainer.train_dataset[0]])[0]["replayed"]
    assert game.episode.turns == 3
    assert game.quality() == 0.0


def test_flat_groups_are_refilled_and_small_differences_are_not_blown_up(trainer, plays, data, monkeypatch):
    """Two questions, two plays each: the first group differs, the second only after it was replaced."""
    record = plays[0]["tools"][0]["function"]["name"]
    costs = iter([0.0, 0.1, 0.3, 0.3, 0.7, 0.9])
    seen = []

    def play(records):
        seen.append(len(records))
        games = []
        for one in records:
            game = {"prompt_ids": [5, 6], "completion_ids": [7, 8], "env_mask": [1, 1], "logprobs": None}
            replayed = Replayed(one, trainer.outcomes, trainer.play)
            replayed.take(use(record))
            replayed.take("done")
            monkeypatch.setattr(replayed, "quality", functools.partial(float, next(costs)))
            replayed.lam = 0.0
            games.append(game | {"replayed": replayed})
        return games

    monkeypatch.setattr(trainer, "_play", play)
    rows = [trainer.train_dataset[i] for i in (0, 0, 1, 1)]
    trainer.model.train()
    output = trainer._generate_and_score_completions(rows)
    assert seen == [4, 2]
    half = np.array([0.05, 0.1]) / 0.5  # deviations from the mean over the floor of 0.5
    assert output["advantages"].tolist() == pytest.approx([-half[0], half[0], -half[1], half[1]], rel=1e-4)
    assert trainer._metrics["train"]["refills"][-1] == 1
    assert trainer._metrics["train"]["quality"][-1] == pytest.approx((0.0 + 0.1 + 0.7 + 0.9) / 4)
    assert trainer._metrics["train"]["calls"][-1] == 1


@pytest.mark.parametrize("name", ["pocket-cpu", "qwen2.5-7b-8gpu"])
def test_two_steps_on_a_random_model_log_their_streams(name, data, plays, tmp_path, capsys):
    recipe = read_recipe(
        name,
        "rl",
        [*CHANGES, "gradient_accumulation_steps=1", "steps_per_generation=1", f"share_prompts={name == 'pocket-cpu'}"],
    ).tiny()
    train("rl", recipe, plays, tmp_path, table=data)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert {"reward", "quality", "usd", "turns", "calls", "valid", "refills", "sampled/quality"} <= {*line}
        assert math.isfinite(line["loss"])
        assert line["refills"] == 2  # a random model calls no tool: all groups are flat, and the run goes on
    assert "reward hacking: none of 8 trajectories" in capsys.readouterr().err
    assert (tmp_path / "suspicious.csv").is_file()


def test_a_curriculum_plays_band_by_band_and_refills_within_the_band(data, plays):
    rate = np.nanmean(data.table.matrix("quality", None, graded=True), 1)
    of = dict(zip(data.table.queries, rate, strict=True))
    rows = Dataset.from_list([{"query": p["query"]} for p in plays])
    ordered: Any = by_band(rows, of, ["simple", "hard"], seed=0)
    first = [r for r in ordered if of[r["query"]] >= 0.65]
    assert 0 < len(first) < len(ordered)
    assert [r["band"] for r in ordered] == ["simple"] * len(first) + ["hard"] * (len(ordered) - len(first))
    assert all(of[r["query"]] < 0.15 for r in ordered if r["band"] == "hard")
    assert list(ordered) == list(by_band(rows, of, ["simple", "hard"], seed=0))
    with pytest.raises(
        TrainError, match="no band of difficulty 'easy'; a curriculum lists some of hard, medium, simple"
    ):
        by_band(rows, of, ["easy"], seed=0)


def test_a_recipe_names_the_curriculum(data, plays, tmp_path):
    recipe = read_recipe("pocket-cpu", "rl", [*CHANGES, "play.curriculum=[simple, hard]"]).tiny()
    make_fresh(recipe, [json.dumps(plays)], base := tmp_path / "base")
    config = configure("rl", recipe, tmp_path, False)
    opened = open_model(recipe, base), open_tokenizer(recipe, base)
    trainer = make_trainer("rl", opened, recipe, config, plays, data, print)
    bands = list(trainer.train_dataset["band"])
    assert set(bands) == {"simple", "hard"}
    assert bands == sorted(bands, reverse=True)
    shown = [row for batch in trainer.get_train_dataloader() for row in batch]
    assert [row["band"] for row in shown[::2]] == bands[: len(shown) // 2], "in order, each question twice"
