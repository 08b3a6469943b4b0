"""Recipes and recorded rows of the embedded pool, by hand."""

from types import SimpleNamespace

import pytest

from routerlab import Pool
from routerlab.core.outcomes import Grade
from routerlab.pocket.families import FAMILIES
from routerlab.pocket.generate import Reply
from routerlab.pocket.make import record
from routerlab.pocket.make.train import Cycle, Recipe, recipes


def test_the_committed_models_were_trained_by_the_recipes(pocket):
    known = recipes()
    assert tuple(known) == pocket.pool.ids
    for name, recipe in known.items():
        kept = pocket.card["models"][name]["recipe"]
        assert (recipe.hidden, recipe.layers, recipe.heads) == (kept["hidden"], kept["layers"], kept["heads"])
        assert [c.examples for c in recipe.cycles] == [c["examples"] for c in kept["cycles"]]
        assert recipe.weights == kept["weights"]
        assert list(recipe.levels) == kept["levels"]


def test_counts_by_hand():
    plain = Recipe(64, 2, 4, (Cycle(10_250), Cycle(10_000, weights={"arithmetic": 1.0, "words": 0.0, "other": 0.0})))
    first, second = plain.counts(0), plain.counts(1)
    assert len(FAMILIES) == 11
    assert [first["chain_sum", level] for level in range(4)] == [350, 300, 200, 150]
    assert [first["count_primes", level] for level in range(4)] == [88, 75, 50, 38], "a quarter of a family's share"
    assert second["word_sorting", 0] == 0, "a cycle's own weights replace the recipe's"
    assert second["products", 0] == round(10_000 / 4.25 * 0.35)


def _reply(text, confidence, finish="stop"):
    return Reply(text, "", 100, 7, confidence, finish, 0.5)


def test_rows_by_hand(monkeypatch):
    monkeypatch.setattr(record, "right", lambda query, reply: reply.text == "yes")
    card = Pool.load("pocket")["pocket-think"]
    queries = [SimpleNamespace(id=name) for name in "abcd"]
    replies = [_reply("yes", 0.5), _reply("no", 0.9), _reply("yes", 0.49), _reply("yes", 0.9, "length")]
    rows = list(record.rows(card, queries, replies, 0.5, 2, 0.7))  # pyright: ignore
    assert [row["query"] for row in rows] == list("abcd")
    assert [row["grade"] for row in rows] == [Grade.CORRECT, Grade.INCORRECT, Grade.IDK, Grade.IDK]
    assert [row["quality"] for row in rows] == [1.0, 0.0, 0.0, 0.0]
    assert [row["answer"] for row in rows] == ["yes", "no", record.IDK, record.IDK]
    billed = (100 * card.usd_per_mtok_in + 7 * card.usd_per_mtok_out) / 1e6
    assert [row["usd"] for row in rows] == pytest.approx([billed] * 4), "an abstention is billed, too"
    assert {(row["model"], row["sample"], row["temperature"]) for row in rows} == {("pocket-think", 2, 0.7)}
