"""A router meets a new model by probes: what it then predicts, costs, refuses and keeps."""

import dataclasses

import numpy as np
import pytest
from test_learned import pool_of, table_of

from routerlab import Query, recorded
from routerlab.routers import newcomers
from routerlab.routers.features import Tfidf
from routerlab.routers.learned import Linear
from routerlab.routers.newcomers import choose_probes, groups_of, meet
from routerlab.routers.protocol import RouterError
from routerlab.routers.store import load, save

MODELS = ("sums", "words", "both", "weak")


@pytest.fixture(scope="module")
def world():
    """Three topics; the new model does what `both` does, on the same questions, at half the cost."""
    rng = np.random.default_rng(0)
    topic, filler = rng.integers(0, 3, 900), [f"thing{i}" for i in range(30)]
    names = np.array(["add", "spell", "draw"])[topic]
    texts = [f"{n} the {' '.join(rng.choice(filler, 4))} {i}" for i, n in enumerate(names)]
    queries = [Query.ask(t, meta={"category": n}) for t, n in zip(texts, names, strict=True)]
    chance = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.8, 0.9], [0.2, 0.2, 0.2]]).T[topic]
    quality = (rng.random((900, 4)) < chance).astype(float)
    usd = np.array([0.001, 0.001, 0.01, 0.002]) * rng.uniform(0.8, 1.2, (900, 4))
    new = np.where(rng.random(900) < 0.95, quality[:, 2], 1 - quality[:, 2])
    table = table_of(queries[:600], quality[:600], usd[:600], MODELS)
    router = Linear(Tfidf(width=24).fit(texts[:600])).fit(queries[:600], table)
    return queries, table, router, new, usd[:, 2] / 2


def _met(world, count=60, probes=None, **changed):
    queries, table, router, new, usd = world
    groups = groups_of(router, queries[:600], table)
    probes = probes or choose_probes(router, groups, queries[:600], count)
    place = [queries.index(q) for q in probes]
    outcomes = table_of(probes, changed.get("new", new)[place][:, None], usd[place][:, None], ("new",))
    return meet(router, groups, (queries[:600], table), "new", outcomes)


def test_sixty_probes_tell_what_the_new_model_can_do_and_costs(world):
    queries, _, router, _, usd = world
    met = _met(world)
    assert met.models == (*MODELS, "new")
    quality, cost = met.predict(queries[600:])
    before = router.predict(queries[600:])
    np.testing.assert_array_equal(quality[:, :4], before[0], err_msg="the known models' predictions stay")
    np.testing.assert_allclose(cost[:, :4], before[1])
    topic = np.array([q.meta["category"] for q in queries[600:]])
    for name, expected in {"add": 0.14, "spell": 0.77, "draw": 0.86}.items():
        assert abs(quality[topic == name, 4].mean() - expected) < 0.1
    assert abs(cost[:, 4].mean() / usd.mean() - 1) < 0.1
    both = met.at(20.0).route(queries[600:], pool_of((*MODELS, "new")))
    assert both.shares()["new"] > both.shares()["both"], "as good at half the cost"
    assert router.models == MODELS, "the router it was given stays as it is"


def test_probes_are_even_different_and_in_no_order(world):
    queries, table, router, *_ = world
    groups = groups_of(router, queries[:600], table)
    probes = choose_probes(router, groups, queries[:600], 40)
    assert len({q.id for q in probes}) == 40
    again = choose_probes(router, groups, queries[599::-1], 40)
    assert [q.id for q in probes] == [q.id for q in again]
    assert probes[:10] == choose_probes(router, groups, queries[:600], 10), "more probes extend fewer"
    assert {q.meta["category"] for q in probes[:6]} == {"add", "spell", "draw"}
    views = router.features.views([q.text for q in queries[:600]])
    level, group = router.estimate(views).mean(1), groups.probabilities(views).argmax(1)
    at = [queries.index(q) for q in probes]
    half = [queries.index(q) for q in choose_probes(router, groups, queries[:600], 300)]
    for g in np.unique(group):
        inside = group == g
        assert abs((group[at] == g).sum() - 40 * inside.mean()) <= 2, "each group has its share"
        assert abs((group[half] == g).sum() - 300 * inside.mean()) <= 2, "and not by chance, as by the level alone"
        ranks = np.searchsorted(np.sort(level[inside]), level[[i for i in at if group[i] == g]]) / inside.sum()
        assert abs(ranks.mean() - 0.5) < 0.1, "easy and hard questions alike"
        assert np.histogram(ranks, 4, (0, 1))[0].min() >= 2


def test_coefficients_are_the_ridge_with_its_prior_by_hand():
    rng = np.random.default_rng(0)
    known, actual, groups, dense = (rng.random((12, n)) for n in (3, 3, 2, 4))
    y, penalties = rng.random(12), np.array([1.0, 5.0, 2.0, 4.0, 3.0, 6.0, 7.0])
    mean = known.mean(1)[:, None]
    r = actual - known
    level = r.mean(1)[:, None]
    x = np.hstack([np.ones((12, 1)), mean, known - mean, level, known - mean + r - level, groups, dense])
    weight = np.repeat(penalties, [1, 1, 3, 1, 3, 2, 4])
    prior = np.zeros(15)
    prior[[1, 5]] = 1
    wanted = prior + np.linalg.solve(x.T @ x + np.diag(weight), x.T @ (y - x @ prior))
    np.testing.assert_allclose(newcomers._solve(known, actual, groups, dense, y, penalties), wanted, atol=1e-9)


def test_it_is_kept_met_again_and_told_what_it_cannot_do(world, tmp_path):
    queries, table, router, new, usd = world
    met = _met(world)
    again = load(save(met, tmp_path / "r", {"data": "x", "pool": "made"}))
    for one, other in zip(met.predict(queries[600:]), again.predict(queries[600:]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    smaller = met.route(queries[600:], pool_of(("sums", "new")))
    assert set(smaller.choice) <= {0, 1}
    groups = groups_of(router, queries[:600], table)
    outcomes = table_of(queries[:30], new[:30, None], usd[:30, None], ("new",))
    with pytest.raises(RouterError, match="knows 'sums' already; a new price or a smaller pool needs no probes"):
        meet(router, groups, (queries[:600], table), "sums", outcomes)
    with pytest.raises(RouterError, match="is not among the recorded questions; choose probes with choose_probes"):
        meet(router, groups, (queries[10:600], table), "new", outcomes)
    failed = np.where(np.arange(900) < 25, np.nan, new)
    with pytest.raises(RouterError, match="5 answered probes of new; ask at least 10"):
        _met(world, probes=queries[:30], new=failed)
    for bad in (0, 601):
        with pytest.raises(RouterError, match=f"{bad} probes of 600 recorded questions"):
            choose_probes(router, groups, queries[:600], bad)


def test_penalties_are_chosen_where_known_models_play_the_new_one(world):
    met = _met(world)
    penalties = np.array(met.values["penalties"])
    assert penalties.shape == (7,)
    assert (penalties != newcomers.START).any()
    assert (penalties[[0, 1, 3]] == newcomers.START[[0, 1, 3]]).all()


def test_probes_bring_most_of_what_all_labels_bring_on_the_embedded_table(pocket):
    """Each model in turn is new: the gain of 100 probes over doing without it, as a share of the gain of all labels."""
    from routerlab.evaluate.metrics import aiq

    train, test = pocket.split("train"), pocket.split("test")
    features = Tfidf(width=128).fit([q.text for q in train.queries])
    whole = Linear(features).fit(train.queries, train.table)
    quality, usd = test.table.matrix("quality"), test.table.matrix("usd")
    rows, ends = np.arange(len(usd)), (usd.mean(0).min(), usd.mean(0)[train.table.matrix().mean(0).argmax()])

    def area(router, pool):
        lams = [0.0, *np.geomspace(1e1, 1e7, 60)]
        calls = [
            [pocket.pool.ids.index(pool.ids[c]) for c in d.choice] for d in router.decisions(test.queries, pool, lams)
        ]
        points = [[m[rows, c].mean() for c in calls] + [m[:, usd.mean(0).argmin()].mean()] for m in (usd, quality)]
        return aiq((np.array(points[0]), np.array(points[1])), *ends)

    full, without, probed = area(whole, pocket.pool), [], []
    for model in pocket.pool.ids:
        rest = pocket.pool.subset([m for m in pocket.pool.ids if m != model])
        at = np.array(train.table.rows["model"].to_pylist(), object) != model
        known = type(train.table)(train.table.rows.filter(at), rest.ids)
        router = Linear(features).fit(train.queries, known)
        groups = groups_of(router, train.queries, known)
        probes = choose_probes(router, groups, train.queries, 100)
        outcomes = type(train.table)(
            train.table.select([q.id for q in probes]).rows.filter(
                np.array(train.table.select([q.id for q in probes]).rows["model"].to_pylist(), object) == model
            )
        )
        met = meet(router, groups, (train.queries, known), model, outcomes)
        without.append(area(router, rest))
        probed.append(area(met, pocket.pool))
    share = (np.mean(probed) - np.mean(without)) / (full - np.mean(without))
    print(f"100 probes bring {share:.0%} of what all labels bring")
    assert share > 0.75


def test_new_prices_and_a_smaller_pool_need_no_probes():
    """Doubling one model's prices doubles its predicted cost, lowers its share, and changes no predicted quality."""
    pocket = recorded("pocket")
    train, test = pocket.split("train"), pocket.split("test")
    router = Linear(Tfidf(width=64).fit([q.text for q in train.queries])).fit(train.queries, train.table)
    same = router.repriced(train.queries, train.table, pocket.pool)
    for before, after in zip(router.predict(test.queries), same.predict(test.queries), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, err_msg="at the old prices nothing changes")
    card = pocket.pool["pocket-max"]
    twice = dataclasses.replace(
        card, usd_per_mtok_in=2 * card.usd_per_mtok_in, usd_per_mtok_out=2 * card.usd_per_mtok_out
    )
    pool = type(pocket.pool)("dearer", [twice if c.id == card.id else c for c in pocket.pool])
    dearer, column = router.repriced(train.queries, train.table, pool), router.models.index(card.id)
    factor = dearer.predict(test.queries)[1] / router.predict(test.queries)[1]
    np.testing.assert_allclose(factor[:, column], 2, rtol=1e-5)
    np.testing.assert_allclose(np.delete(factor, column, 1), 1, rtol=1e-5)
    np.testing.assert_array_equal(dearer.predict(test.queries)[0], router.predict(test.queries)[0])
    shares = [r.at(1000.0).route(test.queries, pool).shares()[card.id] for r in (router, dearer)]
    assert shares[1] < shares[0]
    rest = pocket.pool.subset([m for m in pocket.pool.ids if m != card.id])
    left = router.at(1000.0).route(test.queries, rest)
    assert card.id not in left.models
    assert sum(left.shares().values()) == pytest.approx(1)
    kept = router.at(1000.0).route(test.queries, pocket.pool)
    stays = kept.choice != pocket.pool.ids.index(card.id)
    names = [np.array(d.models)[d.choice] for d in (kept, left)]
    assert (names[0] == names[1])[stays].all(), "only questions of the removed model move"
    cheap = type(pool)("other", [c for c in pool if c.id != card.id])
    with pytest.raises(RouterError, match="pocket-max needs a price in the pool"):
        router.repriced(train.queries, train.table, cheap)
