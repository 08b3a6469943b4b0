import numpy as np
import pytest
from test_learned import pool_of, table_of

from routerlab import OutcomeTable, Pool, Query
from routerlab.core.pools import PoolError
from routerlab.label.oracle import Policy
from routerlab.routers.baselines import (
    Always,
    FamilyLookup,
    KeywordRule,
    LengthRule,
    RandomMix,
    ShuffledLabels,
    best_single,
    random_features,
)
from routerlab.routers.cascade import Cascade
from routerlab.routers.features import LengthFeatures, RandomFeatures
from routerlab.routers.learned import Linear, Ridge
from routerlab.routers.lm import PolicyWriter
from routerlab.routers.protocol import Router, RouterError

POOL = pool_of(("small", "middle", "large"))


@pytest.fixture(scope="module")
def fitted(pocket):
    train = pocket.split("train")
    return {c: c().fit(train.queries, train.table) for c in (FamilyLookup, Ridge)}


def test_the_lookup_is_the_mean_of_the_family(pocket, fitted):
    train, lookup = pocket.split("train"), fitted[FamilyLookup]
    quality, usd = lookup.predict(train.queries[:1])
    same = [q.meta["family"] == train.queries[0].meta["family"] for q in train.queries]
    np.testing.assert_allclose(quality[0], train.table.matrix(samples=None)[same].mean(0), rtol=1e-5)
    np.testing.assert_allclose(usd[0], train.table.matrix("usd", None)[same].mean(0), rtol=1e-5)
    stranger = Query.ask("never seen")
    np.testing.assert_allclose(lookup.predict([stranger])[0][0], train.table.matrix(samples=None).mean(0), rtol=1e-4)


@pytest.mark.parametrize("kind", [FamilyLookup, Ridge])
def test_routers_follow_the_protocol_and_the_price_of_money(pocket, fitted, kind):
    test, router = pocket.split("test"), fitted[kind]
    assert isinstance(router, Router)
    cost = test.table.matrix("usd")
    rows = np.arange(len(cost))
    spent = []
    for lam in (0.0, 1e3, 1e4, 1e5, 1e9):
        made = router.at(lam).route(test.queries, pocket.pool)
        assert made.queries == tuple(q.id for q in test.queries)
        spent.append(cost[rows, made.choice].mean())
    assert spent[0] > spent[2] > spent[-1]
    assert router.lam == 0.0, "at() leaves the router as it was"
    quality, _ = router.predict(test.queries)
    best = np.take_along_axis(quality, router.route(test.queries, pocket.pool).choice[:, None], 1)[:, 0]
    np.testing.assert_allclose(best, quality.max(1), err_msg="lam 0 takes the best quality")


def test_a_price_of_money_is_a_number_from_0(fitted):
    for bad in (-1.0, float("nan")):
        with pytest.raises(RouterError, match=f"lam is {bad}; give quality per US dollar, 0 or more"):
            fitted[Ridge].at(bad)


def test_a_smaller_pool_is_respected_and_an_unknown_model_refused(pocket, fitted):
    router, queries = fitted[Ridge], pocket.queries[:50]
    part = router.route(queries, pocket.pool.subset("duo"))
    assert part.models == ("pocket-mini", "pocket-max")
    stranger = Pool("s", [*pocket.pool, *[_renamed(pocket.pool.cards[0], "new")]])
    with pytest.raises(PoolError, match="learned nothing about 'new'; it knows pocket-nano"):
        router.route(queries, stranger)
    with pytest.raises(RouterError, match=r"call fit\(queries, table\) first"):
        Ridge().predict(queries)


def _renamed(card, name):
    import dataclasses

    return dataclasses.replace(card, id=name)


def test_reading_the_text_finds_what_the_text_decides():
    rng = np.random.default_rng(0)
    queries = [Query.ask(f"{'add' if i % 2 else 'spell'} item {rng.integers(1e6)}") for i in range(400)]
    right = np.array([[i % 2, 1 - i % 2] for i in range(400)])
    table = OutcomeTable(
        {
            "query": [q.id for q in queries for _ in range(2)],
            "model": ["m", "w"] * 400,
            "grade": np.where(right.ravel(), "CORRECT", "INCORRECT").tolist(),
            "quality": right.ravel().astype(float).tolist(),
            "usd": [0.1, 0.2] * 400,
        }
    )
    router = Ridge().fit(queries[:200], table)
    quality, usd = router.predict(queries[200:])
    assert (quality.argmax(1) == right[200:].argmax(1)).all()
    np.testing.assert_allclose(usd.mean(0), [0.1, 0.2], rtol=0.02)
    assert repr(router) == "Ridge(lam=0, 2 models)"


def test_always(pocket):
    made = Always("pocket-max").route(pocket.queries[:3], pocket.pool)
    assert made.shares()["pocket-max"] == 1.0
    with pytest.raises(PoolError, match="'gpt-9' is not in pool 'pocket'"):
        Always("gpt-9").route(pocket.queries, pocket.pool)


def _asked(count, text="question"):
    return [Query.ask(f"{text} {i}") for i in range(count)]


def test_single_models_are_chosen_on_the_given_queries_and_ties_go_to_the_cheaper():
    queries, models = _asked(4), ("dear", "fair", "cheap")
    quality = [[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 1]]
    table = table_of(queries, quality, [3.0, 2.0, 1.0], models)
    assert best_single(queries[:2], table).model == "fair"
    assert best_single(queries, table).model == "cheap"
    assert best_single(queries, table).name == "best single"


def test_a_model_that_failed_is_neither_cheap_nor_best():
    queries, models = _asked(4), ("failing", "poor", "good")
    nan = np.nan
    quality = [[nan, 0, 1], [nan, 0, 1], [nan, 1, 1], [0, 0, 0]]
    table = table_of(queries, quality, [5.0, 1.0, 2.0], models)
    assert best_single(queries, table).model == "good"
    mix = RandomMix().fit(queries, table)
    assert {*mix.at(1e9).route(queries, pool_of(models)).choice} == {1}, "poor is the cheapest: failing costs 5"
    assert {*mix.route(queries, pool_of(models)).choice} == {2}


def test_tries_that_failed_make_no_model_cheaper():
    import pyarrow as pa

    queries, models = _asked(6), ("often down", "steady")
    tries = [table_of(queries, [[1, 1]] * 6, [3.0, 2.0], models).rows] * 2
    failed = table_of(queries, [[np.nan, 1]] * 6, [0.0, 2.0], models).rows
    rows = [t.set_column(2, "sample", pa.array([k] * len(t), pa.int16())) for k, t in enumerate([*tries, failed])]
    table = OutcomeTable(pa.concat_tables(rows), models)
    assert best_single(queries, table).model == "steady"
    np.testing.assert_allclose(RandomMix().fit(queries, table).predict(queries[:1])[1], [[3.0, 2.0]])
    usd = LengthRule().fit(queries, table).predict(queries)[1]
    np.testing.assert_allclose(usd, [[3.0, 2.0]] * 6)


def test_a_model_that_often_fails_stands_in_the_chain_by_what_its_answers_cost(giveaway):
    queries, quality, usd, *_ = giveaway
    failing = quality.copy()
    failing[:380, 1] = np.nan  # 20 answers at a hundredth of a dollar, and 380 free failures
    tokens = np.arange(1200).reshape(400, 3)
    paid = np.where(np.isnan(failing), 0, usd)
    table = table_of(queries, failing, paid, ("a", "b", "c"), tokens_out=tokens)
    assert Cascade(RandomFeatures(4)).fit(queries, table).chain[0] == 0


def test_the_order_of_rows_changes_no_cascade(giveaway):
    queries, table = giveaway[0], _played(giveaway)
    turned = [queries[i] for i in np.random.default_rng(0).permutation(200)]
    one, other = (Cascade(RandomFeatures(4)).fit(q, table) for q in (queries[:200], turned))
    for m in one.chain[:-1]:
        np.testing.assert_array_equal(one._confidence[m].arrays["w"], other._confidence[m].arrays["w"])


def test_the_random_mix_has_the_vertices_of_the_training_hull():
    queries, models = _asked(40), ("dominated", "cheap", "best", "below the hull", "middle")
    means, usd = [0.3, 0.2, 0.8, 0.3, 0.6], [3.0, 1.0, 9.0, 2.0, 4.0]
    quality = np.arange(40)[:, None] < 40 * np.array(means)
    mix = RandomMix().fit(queries, table_of(queries, quality, usd, models))
    test = [Query.ask(f"new {i}") for i in range(3)]
    np.testing.assert_allclose(mix.predict(test), [[means] * 3, [usd] * 3], rtol=1e-6)
    lams = mix.operating_points(test, table_of(test, np.zeros((3, 5)), 1.0, models), 40)
    called = [d.choice.tolist() for d in mix.decisions(test, pool_of(models), lams)]
    assert called == [[2] * 3, [4] * 3, [1] * 3], "best, middle, cheap: the others are never worth a call"
    # best to middle pays 0.2 / 5 a dollar, middle to cheap 0.4 / 3: the points lie between and beyond
    np.testing.assert_allclose(lams, [0, (0.04 + 0.4 / 3) / 2, 0.8 / 3], rtol=1e-6)
    one = RandomMix().fit(queries, table_of(queries, quality[:, :1], usd[:1], models[:1]))
    np.testing.assert_array_equal(one.operating_points(test, None, 40), [0.0])


def test_keywords_and_shrinkage_by_hand():
    texts = ["def f(x)", "fix this python bug", "prove the lemma", "how many apples", "2 + 2"]
    texts += ["Translate this", "explain the sky", "hello there"]
    kinds = ["code", "code", "proof", "reckoning", "reckoning", "writing", "reasoning", "none"]
    queries, rule = [Query.ask(t) for t in texts], KeywordRule()
    assert [rule.group(q) for q in queries] == kinds
    nan = np.nan
    quality = [[1, 0], [1, nan], [0, 0], [0, 1], [0, 1], [0, 0], [0, 0], [0, 0]]
    rule.fit(queries, table_of(queries, quality, [1.0, 2.0], ("a", "b")))
    found, usd = rule.predict(queries)
    over = 2 / 8, 2 / 7
    np.testing.assert_allclose(found[0], [(2 + 5 * over[0]) / 7, (0 + 5 * over[1]) / 6], rtol=1e-5)
    np.testing.assert_allclose(found[3], [(0 + 5 * over[0]) / 7, (2 + 5 * over[1]) / 7], rtol=1e-5)
    np.testing.assert_allclose(usd, np.tile([1.0, 2.0], (8, 1)), rtol=1e-6)
    none = KeywordRule().fit(queries[:3], table_of(queries, quality, 1.0, ("a", "b")))
    np.testing.assert_allclose(none.predict(queries[7:])[0][0], [2 / 3, 0], rtol=1e-5)


def test_a_family_in_which_a_model_has_no_outcome_gets_its_mean():
    queries = [Query.ask(f"q {i}", meta={"family": "ab"[i % 2]}) for i in range(4)]
    quality = [[1, np.nan], [1, 1], [0, np.nan], [1, 0]]
    lookup = FamilyLookup().fit(queries, table_of(queries, quality, [1.0, 2.0], ("x", "y")))
    np.testing.assert_allclose(lookup.predict(queries[:2])[0], [[0.5, 0.5], [1, 0.5]])
    assert np.isfinite(lookup.predict(queries)[1]).all()


def test_the_length_rule_sends_the_longest_to_the_stronger_of_two():
    rng = np.random.default_rng(0)
    length = rng.integers(3, 200, 300)
    queries = [Query.ask("w " * n + str(i)) for i, n in enumerate(length)]
    quality = np.stack([rng.random(300) < 1.3 - 0.22 * np.log(length), rng.random(300) < 0.85], 1)
    usd = np.stack([length * 1e-6, length * 1e-5], 1)
    table = table_of(queries, quality, usd, ("weak", "strong"))
    rule = LengthRule().fit(queries[:200], table)
    score = np.diff(rule.predict(queries)[0])[:, 0]
    by_length = np.argsort([len(q.text) for q in queries])
    assert (np.diff(score[by_length]) >= -1e-12).all()
    assert score[by_length[-1]] > score[by_length[0]] + 0.2
    assert (rule.predict(queries)[1] >= usd[:200].min(0) / 2 - 1e-12).all()
    one, many = Query.ask("x" * 40), Query.ask("x " * 20)
    np.testing.assert_array_equal(rule.predict([one])[0], rule.predict([many])[0], err_msg="characters, not words")
    np.testing.assert_allclose(rule.features.views(["", "abc"]).dense, [[0], [np.log(4)]])


def test_costs_on_validation_are_evenly_spread_over_the_operating_points():
    rng = np.random.default_rng(0)
    length = rng.integers(3, 200, 900)
    queries = [Query.ask("w" * n + str(i)) for i, n in enumerate(length)]
    quality = np.stack([rng.random(900) < 1.2 - 0.2 * np.log(length), np.ones(900)], 1)
    usd = np.stack([length * 1e-6, length * rng.uniform(0.5, 1.5, 900) * 1e-4], 1)
    table = table_of(queries, quality, usd, ("weak", "strong"))
    rule, rest, pool = LengthRule().fit(queries[:300], table), queries[300:], pool_of(("weak", "strong"))
    cost = usd[300:] * 3  # a split on which calls cost more than was learned
    lams = rule.operating_points(rest, table_of(rest, quality[300:], cost, pool.ids), 12)
    choices = [d.choice for d in rule.decisions(rest, pool, lams)]
    paid = np.array([cost[np.arange(600), c].mean() for c in choices])
    wanted = np.geomspace(cost[:, 0].mean(), cost[:, 1].mean(), 11)[::-1]
    assert len(lams) == 12
    np.testing.assert_allclose(paid[1:], wanted, rtol=0.15)


def test_shuffled_labels_lose_both_the_quality_and_the_cost_of_a_question():
    length = np.arange(1, 401)
    queries = sorted((Query.ask("w" * n) for n in length), key=lambda q: q.id)
    size = np.array([len(q.text) for q in queries])
    table = table_of(queries, (size > 200)[:, None], size[:, None] * 1e-3, ("m",))
    kinds = {Linear(LengthFeatures()): 0.7, ShuffledLabels(LengthFeatures()): 0.15}
    for router, expected in kinds.items():
        for predicted, truth in zip(
            router.fit(queries, table).predict(queries), (size > 200, size * 1e-3), strict=True
        ):
            related = np.corrcoef(predicted[:, 0], truth)[0, 1] if np.ptp(predicted) else 0.0
            assert related > expected if expected > 0.5 else predicted.std() < expected * truth.std()


@pytest.mark.parametrize("kind", ["random", "shuffled"])
def test_learning_from_nothing_gains_nothing(pocket, kind):
    from routerlab.evaluate.metrics import aiq
    from routerlab.evaluate.stats import bootstrap_means

    train, test = pocket.split("train"), pocket.split("test")
    router = random_features() if kind == "random" else ShuffledLabels()
    router.fit(train.queries[::2], train.table)
    quality, usd = test.table.matrix("quality"), test.table.matrix("usd")
    rows, lams = np.arange(len(quality)), [0.0, *np.geomspace(1e2, 1e7, 25)]
    chosen = [router.at(lam).route(test.queries, test.pool).choice for lam in lams]
    columns = [quality, usd, *(m[rows, c][:, None] for m in (quality, usd) for c in chosen)]
    models, points = quality.shape[1], len(lams)
    drawn = bootstrap_means(np.hstack(columns).astype(float), 200, rng=np.random.default_rng(0))
    gains = []
    for means in drawn:
        q, c = means[:models], means[models : 2 * models]
        reached, paid = means[2 * models : 2 * models + points], means[2 * models + points :]
        # Free points: a router may stay with the cheapest and with the best model.
        mine = np.append(paid, c.min()), np.append(reached, q[c.argmin()])
        ends = float(c.min()), float(c.max())
        gains.append(aiq(mine, *ends) - aiq((c, q), *ends))
    low, high = np.quantile(gains, [0.025, 0.975])
    assert low < 0 < 0.05 + high, "no better than mixing single models, and not much worse"
    assert np.median(gains) < 0.005


@pytest.fixture(scope="module")
def giveaway():
    """Three models; a small or middle answer of two tokens is wrong, a longer one right; the question says nothing."""
    rng = np.random.default_rng(0)
    queries, models = _asked(400), ("small", "middle", "large")
    right = rng.random((400, 3)) < [0.4, 0.7, 0.95]
    tokens = np.where(right, rng.integers(8, 12, (400, 3)), 2)
    answer = [["a fine answer" if r else "I don't know" for r in row] for row in right]
    usd = np.array([0.001, 0.01, 0.1])
    return queries, right.astype(float), usd, models, tokens, answer


def _played(giveaway, **changed):
    queries, quality, usd, models, tokens, answer = giveaway
    quality = changed.get("quality", quality)
    return table_of(queries, quality, usd, models, tokens_out=tokens, answer=answer)


@pytest.fixture(scope="module")
def cascade(giveaway):
    return Cascade(RandomFeatures(4)).fit(giveaway[0][:200], _played(giveaway))


def test_a_cascade_learns_from_the_greedy_try_and_sees_abstentions(giveaway):
    import pyarrow as pa

    queries, quality, usd, models, *_ = giveaway
    greedy = _played(giveaway).rows
    other = greedy.set_column(2, "sample", pa.array([1] * len(greedy), pa.int16()))
    other = other.set_column(4, "grade", pa.array(["INCORRECT"] * len(greedy)).dictionary_encode())
    other = other.set_column(5, "quality", pa.array([0.0] * len(greedy), pa.float32()))
    both = OutcomeTable(pa.concat_tables([greedy.cast(other.schema), other]), models)
    one, two = (Cascade(RandomFeatures(4)).fit(queries[:200], t) for t in (_played(giveaway), both))
    for a, b in zip(one._scores.predict(queries), two._scores.predict(queries), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    # Answers of one length and one number of tokens: only the words tell.
    same = [["I know it now" if r else "I don't know!" for r in row] for row in quality]
    table = table_of(queries, quality, usd, models, tokens_out=np.full(quality.shape, 4), answer=same)
    choice = Cascade(RandomFeatures(4)).fit(queries[:200], table).at(4.0).route(queries[200:], POOL, table).choice
    right = quality[200:, 0] == 1
    assert (choice[right] == 0).mean() > 0.95
    assert (choice[~right] > 0).mean() > 0.95


def test_every_router_satisfies_the_one_protocol(giveaway, cascade):
    queries, table = giveaway[0], _played(giveaway)
    by_score = (KeywordRule, LengthRule, RandomMix, FamilyLookup)
    routers = [*(k().fit(queries[:200], table) for k in by_score), cascade, Always("large"), _language_model()]
    for router in routers:
        assert isinstance(router, Router)
        decisions = router.route(queries[200:], POOL, table)
        assert decisions.queries == tuple(q.id for q in queries[200:])
        assert decisions.models == POOL.ids
        if router is not cascade:
            again = router.route(queries[200:], POOL)
            np.testing.assert_array_equal(decisions.choice, again.choice, err_msg="it does not read answers")
    for router in routers[:5]:
        points = router.operating_points(queries[200:], table, 12)
        assert points[0] == 0
        assert (np.diff(points) > 0).all()
        assert 2 <= len(points) <= 12
        for lam, decisions in zip(points, router.decisions(queries[200:], POOL, points, table), strict=True):
            alone = router.at(lam).route(queries[200:], POOL, table)
            np.testing.assert_array_equal(decisions.choice, alone.choice)
            assert np.array_equal(decisions.also, alone.also) or decisions.also is alone.also is None


def _language_model():
    policies = dict.fromkeys(Policy, "small")
    return PolicyWriter(lambda messages: [("Standard_Query", 0.0)] * len(messages), policies, Policy.COMPLEX)


def test_a_cascade_goes_on_where_the_answer_gives_itself_away(giveaway, cascade):
    queries, quality, usd, models, *_ = giveaway
    test = queries[200:]
    assert cascade.chain == [0, 1, 2]
    made = cascade.at(1.0).route(test, POOL, _played(giveaway))
    first = quality[200:, 0] == 1
    assert (made.choice[first] == 0).mean() > 0.95
    assert (made.choice[~first] > 0).mean() > 0.95
    reached, paid = made.realised(quality[200:], np.tile(usd, (200, 1)))
    assert reached.mean() > quality[200:, 2].mean() - 0.05
    assert paid.mean() < 0.8 * usd[2]
    assert made.models == models


def test_every_call_of_a_cascade_is_charged(giveaway, cascade):
    queries, _, usd, *_ = giveaway
    for lam in (0.0, 1.0, 4.0, 20.0):
        made = cascade.at(lam).route(queries[200:], POOL, _played(giveaway))
        rows = np.arange(200)
        assert made.also[:, 0].all(), "the cheapest is always called"
        assert made.also[rows, made.choice].all()
        assert not (made.also & (np.arange(3) > made.choice[:, None])).any()
        paid = made.realised(np.ones((200, 3)), np.tile(usd, (200, 1)))[1]
        np.testing.assert_allclose(paid, (made.also * usd).sum(1))
    skipped = ~made.also[:, 1] & (made.choice == 2)
    dear = np.tile([0.0, 1e6, 0.0], (200, 1))
    assert (made.realised(np.ones((200, 3)), dear)[1][skipped] == 0).all()


def test_the_price_of_money_stops_a_cascade(giveaway, cascade):
    queries, table = giveaway[0][200:], _played(giveaway)
    assert set(cascade.at(1e12).route(queries, POOL, table).choice) == {0}
    assert cascade.at(1e12).route(queries, POOL, table).also.sum() == len(queries)
    means = [
        cascade.at(lam).route(queries, POOL, table).also.mean(0) @ giveaway[2] for lam in (0, 1, 2, 5, 10, 100, 1e4)
    ]
    assert (np.diff(means) <= 1e-12).all()
    # Money no object: it ends at the model whose answer it trusts most, or the last.
    free = cascade.at(0.0).route(queries, POOL, table)
    unsure = giveaway[1][200:, 0] == 0
    assert (free.choice[unsure] == 2).all()


def test_a_cascade_never_sees_grades_and_does_not_learn_at_another_price(giveaway, cascade, monkeypatch):
    queries, quality = giveaway[0][200:], giveaway[1].copy()
    before = cascade.at(1.0).route(queries, POOL, _played(giveaway))
    quality[200:] = np.random.default_rng(3).permutation(quality[200:])
    after = cascade.at(1.0).route(queries, POOL, _played(giveaway, quality=1 - quality))
    np.testing.assert_array_equal(before.choice, after.choice)
    np.testing.assert_array_equal(before.also, after.also)

    def never(*_):
        raise AssertionError("it learned again")

    monkeypatch.setattr("routerlab.routers.learned.Logistic.learn", never)
    monkeypatch.setattr("routerlab.routers.learned.Linear.learn", never)
    other = cascade.at(2.0)
    assert (other.lam, cascade.lam) == (2.0, 0.0)
    assert other.chain is cascade.chain
    other.route(queries, POOL, _played(giveaway))


def test_a_dominated_model_is_not_in_the_chain(giveaway):
    queries, quality, usd, *_ = giveaway
    worse = quality.copy()
    worse[:, 1] = 0
    tokens = np.arange(1200).reshape(400, 3)
    table = table_of(queries, worse, usd, ("a", "b", "c"), tokens_out=tokens)
    made = Cascade(RandomFeatures(4)).fit(queries, table)
    assert made.chain == [0, 2]
    alone = table_of(queries, quality[:, :1], usd[:1], ("a",), tokens_out=tokens[:, :1])
    single = Cascade(RandomFeatures(4)).fit(queries, alone)
    assert set(single.route(queries[:9], pool_of(("a",)), alone).choice) == {0}


def test_a_cascade_refuses_what_it_cannot_play(giveaway, cascade):
    queries, quality, usd, models, *_ = giveaway
    for tokens in (0, 1):
        blind = table_of(queries, quality, usd, models, tokens_out=np.full(quality.shape, tokens))
        with pytest.raises(RouterError, match="keeps neither answers nor the length of them"):
            Cascade(RandomFeatures(4)).fit(queries, blind)
    with pytest.raises(RouterError, match=r"cascade has learned nothing yet; call fit\("):
        Cascade().route(queries, POOL, _played(giveaway))
    with pytest.raises(RouterError, match=r"looks at answers; give the table that has them: route\("):
        cascade.route(queries, POOL)
    with pytest.raises(RouterError, match="learned about small, middle, large, not small, large"):
        cascade.route(queries, pool_of(("small", "large")), _played(giveaway))
    other = table_of(queries, quality, usd, ("x", "y", "z"), tokens_out=quality + 1)
    with pytest.raises(RouterError, match="learned about small, middle, large, not x, y, z"):
        cascade.route(queries, pool_of(models), other)


MAP = {Policy.STANDARD: "cheap", Policy.COMPLEX: "dear", Policy.AMBIGUOUS: "cheap"}


def test_a_language_model_routes_is_charged_and_guesses_are_counted():
    asked = []
    written = [("easy\nStandard_Query", 0.01), ("hard\nComplex_Query", 0.02), ("??", 0.03)]

    def write(messages):
        asked.extend(messages)
        return written[: len(messages)]

    queries, pool = _asked(3), pool_of(("dear", "cheap"))
    router = PolicyWriter(write, MAP, default=Policy.COMPLEX)
    assert isinstance(router, Router)
    made = router.route(queries, pool)
    assert made.choice.tolist() == [1, 0, 0]
    assert router.unread == 1
    assert all(q.text in str(m) for q, m in zip(queries, asked, strict=True))
    quality, usd = made.realised(np.array([[1.0, 0.0]] * 3), np.array([[0.5, 0.1]] * 3))
    np.testing.assert_allclose(quality, [0, 1, 1])
    np.testing.assert_allclose(usd, [0.11, 0.52, 0.53])
    router.route(queries[:2], pool)
    assert router.unread == 0
    assert len(router.route([], pool).choice) == 0


def test_a_language_model_router_refuses_what_does_not_fit():
    queries, pool = _asked(2), pool_of(("dear", "cheap"))
    with pytest.raises(RouterError, match="2 questions, 1 texts; write one for each"):
        PolicyWriter(lambda m: [("Standard_Query", 0.0)], MAP, Policy.COMPLEX).route(queries, pool)
    with pytest.raises(RouterError, match="no model for Ambiguous_Query; map every policy to one"):
        PolicyWriter(lambda m: [], {p: MAP[p] for p in list(Policy)[:2]}, Policy.COMPLEX)
    with pytest.raises(PoolError, match="'gone' is not in pool"):
        PolicyWriter(lambda m: [], MAP | {Policy.COMPLEX: "gone"}, Policy.COMPLEX).route(queries, pool)
