"""The small actor: what holds by construction, its training against hand computations, its bars on the test split."""

import datetime as dt
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import actor as bench
from routerlab import Pool
from routerlab.contest.run import contest
from routerlab.core.pools import ModelCard, Skill
from routerlab.core.runs import RunError, root
from routerlab.label.oracle import Pairs
from routerlab.routers import store
from routerlab.routers.actor import Actor, facts
from routerlab.routers.lm import LMRouter
from routerlab.routers.protocol import RouterError
from routerlab.train import actor as training

KEPT = root() / "data" / "pocket" / "actor"
DAY = dt.date(2026, 1, 1)


@pytest.fixture(scope="module")
def known():
    return LMRouter.load(KEPT / "known")


@pytest.fixture(scope="module")
def asked(pocket):
    return pocket.split("validation").queries[:300]


def test_the_order_of_the_pool_and_other_candidates_and_questions_change_nothing(known, asked):
    texts, cards = [q.text for q in asked], list(known.pool.cards)
    quality, usd = known.reader.read(texts, cards)
    order = [3, 0, 5, 1, 4, 2]
    turned = known.reader.read(texts, [cards[i] for i in order])
    np.testing.assert_allclose(turned[0], quality[:, order], atol=1e-5)
    np.testing.assert_allclose(turned[1], usd[:, order], rtol=1e-4)
    alone = known.reader.read(texts[:5], cards[2:3])
    np.testing.assert_allclose(alone[0], quality[:5, 2:3], atol=1e-5)
    permuted = known.at(1000.0).route(asked, Pool("p", [cards[i] for i in order]))
    straight = known.at(1000.0).route(asked, known.pool)
    same = np.mean(
        [permuted.models[a] == straight.models[b] for a, b in zip(permuted.choice, straight.choice, strict=True)]
    )
    assert same >= 0.98


def test_a_dearer_model_is_called_less_and_a_higher_cost_weight_costs_less(known, asked):
    shares = []
    for factor in (0.25, 0.5, 1, 2, 4):
        cards = [
            replace(c, usd_per_mtok_in=c.usd_per_mtok_in * factor, usd_per_mtok_out=c.usd_per_mtok_out * factor)
            if c.id == "pocket-max"
            else c
            for c in known.pool
        ]
        shares.append(known.at(2000.0).route(asked, Pool("p", cards)).shares()["pocket-max"])
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]
    _, usd = known.predict(asked)
    lams = [0, 100, 1000, 1e4, 1e6]
    costs = [usd[np.arange(len(asked)), d.choice].mean() for d in known.decisions(asked, known.pool, lams)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 2 * costs[-1]


def test_scores_have_gradients_and_equal_what_is_read(known, asked):
    texts, cards = [q.text for q in asked[:7]], known.pool.cards
    quality, usd = known.reader.scores(known.reader.encode(texts), cards)
    read = known.reader.read(texts, cards)
    np.testing.assert_allclose(quality.detach().numpy(), read[0], atol=1e-5)
    np.testing.assert_allclose(usd.detach().numpy(), read[1], rtol=1e-4)
    ((quality - 1000 * usd) / 0.1).softmax(1)[:, 0].sum().backward()
    moved = [n for n, p in known.reader.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert {"look.weight", "decoder.layers.0.self_attn.q_proj.weight", "length.weight"} <= set(moved)
    known.reader.zero_grad()


def test_reading_is_charged(known, asked):
    texts = [q.text for q in asked]
    tokens = np.array([len(row) for row in known.reader.encode(texts)]) + len(known.pool)
    made = known.route(asked, known.pool)
    np.testing.assert_allclose(made.own_usd, tokens * 0.05e-6)
    shape = len(asked), len(known.pool)
    assert np.allclose(made.realised(np.zeros(shape), np.zeros(shape))[1], tokens * 0.05e-6)


def test_another_pool_takes_its_own_prices_and_known_skills(known, asked):
    bare = Pool("bare", [replace(c, skills=(), usd_per_mtok_out=c.usd_per_mtok_out * 2) for c in known.pool])
    again = known.of(bare)
    quality, usd = again.predict(asked[:9])
    np.testing.assert_allclose(quality, known.predict(asked[:9])[0], atol=1e-6)
    assert (usd > known.predict(asked[:9])[1]).all()
    stranger = replace(known.pool.cards[0], id="new", skills=())
    with pytest.raises(RouterError, match="new's card has no skills.*ask it some probes"):
        known.route(asked, Pool("p", [stranger]))


def test_an_actor_comes_back_and_a_changed_one_is_refused(known, asked, tmp_path):
    run = known.reader.save(tmp_path / "a", {"data": "x"})
    run.write("pool.yaml", known.pool.to_yaml())
    again = store.load(tmp_path / "a")
    assert isinstance(again, LMRouter)
    np.testing.assert_allclose(again.predict(asked[:9])[0], known.predict(asked[:9])[0], atol=1e-6)
    (tmp_path / "a" / "actor.json").write_text("{}")
    with pytest.raises(RunError, match="was changed"):
        store.load(tmp_path / "a")
    with pytest.raises(RouterError, match="make one with `routerlab actor"):
        Actor.load(tmp_path)


def test_kept_actors_are_small_and_say_what_they_were_trained_on(pocket):
    assert sum(f.stat().st_size for f in KEPT.rglob("*") if f.is_file()) <= 3e6
    for name, held_out in (("known", ()), ("unseen", training.HELD_OUT)):
        about = json.loads((KEPT / name / "card.json").read_text())
        assert about["data"] == pocket.sha256
        assert set(about["held_out"]) == set(held_out)
        assert about["recipe"] == vars(training.recipe())


def test_the_facts_of_a_card_by_hand():
    card = ModelCard(
        "m", "m", "budget", 1, 2, 100, DAY, skills=(Skill("b", 0.75, 4, DAY, 20.0), Skill("z", 1.0, 9, DAY))
    )
    row = facts([card], ["a", "b"])[0].tolist()
    mean = (3 + 0.8) / 6  # 3 of 4 right, and two questions at 0.4
    length = (80 + 10) / 5

    def odds(p):
        return math.log(p / (1 - p))

    expected = [odds(mean), odds((3 + 2 * mean) / 6), math.log(length / 10), math.log((80 + length) / 5 / 10)]
    np.testing.assert_allclose(row, [*expected, 0, 4 / 9, odds(mean), 4 / 54], rtol=1e-5)


def test_losses_by_hand():
    right, quality = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.25, 1.0]])
    by_hand = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    assert training.sft_loss(right, quality).item() == pytest.approx(by_hand, rel=1e-6)
    assert training.length_loss(torch.tensor([0.5]), torch.tensor([2.0])).item() == pytest.approx(
        math.exp(0.5) - 2 - 2 * (0.5 - math.log(2)), abs=1e-6
    )
    policy, reference = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.5, 0.5, 0.0]])
    pairs = Pairs(np.array([0, 0]), np.array([0, 0]), np.array([1, 2]), np.array([0.3, 0.1]))
    by_hand = (0.3 * math.log(1 + math.exp(-2 * 1.0)) + 0.1 * math.log(1 + math.exp(-2 * 1.5))) / 0.4
    assert training.dpo_loss(policy, reference, pairs, 2.0).item() == pytest.approx(by_hand, rel=1e-6)
    shifted = training.dpo_loss(policy + 7, reference - 3, pairs, 2.0).item()
    assert shifted == pytest.approx(
        by_hand, rel=1e-5
    )  # a constant of a question, such as a normaliser, is no preference


def test_a_patchwork_model_has_the_outcomes_of_one_real_model_in_each_kind(pocket, rng):
    given = training.lessons(pocket, ("pocket-think",))
    assert "pocket-think" not in given.models
    assert [q.id for q in given.questions] == sorted(q.id for q in pocket.split("train").queries)
    quality, tokens = training.patchwork(given, training.recipe(mixed=0.0, by_length=0.0, wordy=0.0, patchwork=4), rng)
    sources = set()
    for model in range(4):
        for kind in range(len(given.kinds)):
            at = given.kind == kind
            same = [m for m in range(5) if (given.quality[at, m] == quality[at, model]).all()]
            assert any((given.tokens[at, m] == tokens[at, model]).all() for m in same)
            sources.add((model, same[0]))
    assert len(sources) > 8  # not one real model each
    short, _ = training.patchwork(given, training.recipe(mixed=0.0, by_length=1.0, patchwork=4), rng)
    for kind in range(len(given.kinds)):
        at = np.flatnonzero(given.kind == kind)
        along = at[np.argsort(given.length[at], kind="stable")]
        assert (np.diff(short[along], axis=0) <= 1e-12).all()


def test_cards_in_training_are_measured_outside_of_the_batch(pocket, rng):
    given, how = training.lessons(pocket), training.recipe(probes=[5000, 5000])
    batch, quality, tokens = np.arange(64), given.quality.copy(), given.tokens.copy()
    quality[batch] = tokens[batch] = np.nan
    drawn = training._random_cards(quality, tokens, given.kind, batch, how, rng)
    assert drawn.isfinite().all()
    others = [training.probed(pocket.pool[m], given.questions[64:], pocket.table) for m in given.models]
    np.testing.assert_allclose(drawn, facts(others, given.kinds), atol=0.02)  # probes of all others: the card of these


def test_skills_are_measured_on_the_probes_alone(pocket):
    train = pocket.split("train")
    probes = train.queries[:40]
    card = training.probed(pocket.pool["pocket-mini"], probes, train.table)
    table = train.table.select([q.id for q in probes])
    column = table.matrix("quality", None)[:, table.models.index("pocket-mini")]
    assert sum(s.n for s in card.skills) == 40
    for skill in card.skills:
        at = [q.meta["family"] == skill.kind for q in probes]
        assert skill.accuracy == pytest.approx(column[at].mean(), abs=1e-4)
        assert skill.n == sum(at)


def test_training_follows_from_the_seed_alone(pocket):
    fewer = pocket.split("train").queries[:256]
    small = pocket._replace(queries=fewer, table=pocket.table.select([q.id for q in fewer]))
    turned = small._replace(queries=fewer[::-1], table=pocket.table.select([q.id for q in fewer[::-1]]))
    how = training.recipe(epochs=1, patchwork=2)
    before, results = torch.get_num_threads(), []
    for threads, data in ((1, small), (2, turned)):
        torch.set_num_threads(threads)
        router, losses = training.train(data, ("pocket-max",), how)
        results.append((losses, router.predict(fewer[:20])))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert results[0][0] == results[1][0]
    assert len(results[0][0]["sft"]) == len(results[0][0]["dpo"]) == 4
    np.testing.assert_allclose(results[0][1][0], results[1][1][0], atol=1e-5)
    with pytest.raises(RouterError, match="the recipe has no 'epoch'; it has epochs"):
        training.recipe(epoch=1)


def test_the_section_unseen_of_the_recipe_holds_where_models_are_held_out(pocket, monkeypatch):
    few, used, drawn = pocket.split("train").queries[:128], [], training.patchwork
    small = pocket._replace(queries=few, table=pocket.table.select([q.id for q in few]))
    monkeypatch.setattr(
        training, "patchwork", lambda given, how, rng: used.append(how.patchwork) or drawn(given, how, rng)
    )
    for held_out, expected in (((), 2), (("pocket-max",), 3)):
        used.clear()
        how = training.recipe(epochs=1, dpo_epochs=0, patchwork=2, unseen={"patchwork": 3})
        _, losses = training.train(small, held_out, how)
        assert used == [expected] * len(losses["sft"])
        assert losses["dpo"] == []


@pytest.fixture(scope="module")
def judged(pocket):
    return contest(pocket, ["shuffled", "blend", str(KEPT / "known")])


def test_the_actor_is_not_below_the_blend_and_above_controls(judged):
    """Measured: area .682, as the blend's."""
    measures = judged.measures()
    gap = measures["actor"]["area"] - measures["blend"]["area"]
    assert gap[0] > -0.005
    assert np.quantile(gap[1:], 0.025) > -0.015
    for other in ("random mix", "shuffled labels"):  # the mix holds every single model, so also the majority's
        gap = measures["actor"]["area"] - measures[other]["area"]
        assert np.quantile(gap[1:], 0.025) > 0


@pytest.fixture(scope="module")
def unseen(pocket):
    return bench.shares(bench.unseen(pocket, training.HELD_OUT, LMRouter.load(KEPT / "unseen"), 100, seed=1))


def test_an_unseen_model_at_new_prices_keeps_most_of_the_gain(unseen):
    """Measured: 97 % of the gain of a blend fitted to that pool. Each model in turn: benchmarks/actor.py."""
    assert unseen["actor"][0] >= 0.92


def test_the_actor_reads_more_than_a_lookup_in_the_card(unseen):
    gap = unseen["actor"] - unseen["card lookup"]
    assert np.quantile(gap[1:], 0.025) > 0  # measured: 97 against 85 %


@pytest.fixture(scope="module")
def in_turn():
    """Each model unseen in turn, 100 probes, as `benchmarks/actor.py --out …actor.csv` measures it."""
    return pd.read_csv(root() / "benchmarks" / "results" / "actor.csv").set_index(["model", "way"])


def test_on_average_the_actor_keeps_92_percent_of_the_gain_in_unseen_pools(in_turn):
    kept = in_turn.loc["mean", "share"]
    assert kept["actor"] >= 0.92
    assert kept["actor"] > max(kept["newcomers"], kept["card lookup"])


BELOW = {"pocket-words": "91.6 %"}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(m, marks=pytest.mark.xfail(strict=True, reason=f"measured: {BELOW[m]}")) if m in BELOW else m
        for m in ("pocket-nano", "pocket-mini", "pocket-math", "pocket-words", "pocket-max", "pocket-think")
    ],
)
def test_of_each_unseen_model_the_actor_keeps_92_percent(model, in_turn):
    assert in_turn.loc[(model, "actor"), "share"] >= 0.92
