"""Estimates from a log of one answer a request: by hand, and on logs simulated from a complete table."""

import numpy as np
import pytest

from routerlab.routers.baselines import FamilyLookup
from routerlab.routers.learned import Ridge
from routerlab.serve.log import LogError
from routerlab.serve.offline import drift, off_policy


def test_estimates_by_hand():
    """40 requests, two models; model 1 was asked in a quarter of them, as its chance was, and was right in half."""
    asked = np.tile([0, 0, 0, 1], 10)
    outcome = np.where(asked == 1, np.arange(40) % 8 > 3, 1.0).astype(float)
    chances = np.tile([0.75, 0.25], (40, 1))
    guess, cluster = np.tile([0.9, 0.2], (40, 1)), np.arange(40)
    with pytest.raises(LogError, match="10 effective requests of 40"):
        off_policy(np.ones(40, int), asked, chances, outcome, guess, cluster)
    some = off_policy(np.zeros(40, int), asked, chances, outcome, guess, cluster)
    assert some.requests == pytest.approx(30)
    assert some.ips.mean == pytest.approx(30 / 0.75 / 40)
    assert some.dr.mean == pytest.approx(0.9 + 30 * 0.1 / 0.75 / 40)
    with pytest.raises(LogError, match="no chance of being asked"):
        off_policy(np.ones(40, int), asked, np.tile([1.0, 0.0], (40, 1)), outcome, guess, cluster)


@pytest.mark.parametrize(("explore", "requests"), [(0.1, 6000), (0.3, 2000)])
def test_intervals_cover_the_truth_on_simulated_logs(pocket, explore, requests):
    """Logs drawn from the embedded table; the truth is the target's mean over all of its questions."""
    test, train = pocket.split("test"), pocket.split("train")
    target = FamilyLookup().fit(train.queries, train.table).at(500.0)
    wanted = target.route(test.queries, test.pool).choice
    guess, _ = target.predict(test.queries)
    quality, rng = test.table.matrix("quality").astype(float), np.random.default_rng(1)
    base = np.full(len(wanted), test.pool.ids.index("pocket-mini"))
    chances = np.full((len(wanted), 6), explore / 6)
    chances[np.arange(len(wanted)), base] += 1 - explore
    truth = quality[np.arange(len(wanted)), wanted].mean()
    simulations, covered, errors, widths = 500, np.zeros(2), np.zeros(2), np.zeros(2)
    for _ in range(simulations):
        rows = rng.integers(0, len(wanted), requests)
        drawn = rng.random(requests)
        asked = np.where(drawn < explore, rng.integers(0, 6, requests), base[rows])
        got = off_policy(wanted[rows], asked, chances[rows], quality[rows, asked], guess[rows], np.arange(requests))
        for place, one in enumerate((got.ips, got.dr)):
            covered[place] += one.low <= truth <= one.high
            errors[place] += (one.mean - truth) / simulations
            widths[place] += (one.high - one.low) / simulations
    assert (covered / simulations >= 0.92).all()
    assert (covered / simulations <= 0.98).all()
    assert (np.abs(errors) < 4 * widths / 3.92 / np.sqrt(simulations)).all(), "unbiased"
    assert widths[1] < widths[0], "a good guess narrows the interval"


def test_drift_is_told_from_a_sample_of_the_same(pocket, tmp_path):
    """The first test questions are no drift, nor are those of them that the router would send to each model. Made-up
    questions are, and so are a model that has become worse and other prices. The router is a saved one.
    """
    from routerlab import OutcomeTable, Query
    from routerlab.routers import store
    from routerlab.serve.offline import trained

    def table_of(rows, models):
        return OutcomeTable({name: [row[name] for row in rows] for name in rows[0]}, models)

    test, train = pocket.split("test"), pocket.split("train")
    store.save(Ridge().fit(train.queries, train.table), tmp_path / "ridge", {"data": pocket.sha256, "pool": "pocket"})
    router = trained(str(tmp_path / "ridge"), "pocket")
    queries, pool = test.queries[:300], test.pool
    same = test.table.select([q.id for q in queries])
    assert drift(queries, same, pool, router) == []
    chosen = router.at(2000.0).route(queries, pool).choice
    rows = same.rows.to_pylist()
    place = {q.id: row for row, q in enumerate(queries)}
    sent = [r for r in rows if pool.ids[chosen[place[r["query"]]]] == r["model"]]
    assert drift(queries, table_of(sent, pool.ids), pool, router) == [], "a router's own choice is no drift"
    others = [Query.ask(f"Quel temps fait-il à Berne le {day} mai ?") for day in range(50)]
    unlike = "15% of the questions are unlike the training questions"
    assert drift([*queries, *others], same, pool, router) == [unlike]
    worse = [r | ({"grade": "INCORRECT", "quality": 0.0} if r["model"] == "pocket-max" else {}) for r in rows]
    (warning,) = drift(queries, table_of(worse, pool.ids), pool, router)
    assert warning.startswith("pocket-max is right on 0.00 of 300 questions, where 0.")
    dearer = [r | {"usd": r["usd"] * (1.02 if r["model"] == "pocket-nano" else 1.0)} for r in rows]
    (warning,) = drift(queries, table_of(dearer, pool.ids), pool, router)
    assert warning.startswith("pocket-nano was charged US$ ")
    assert drift(queries, table_of(dearer, pool.ids), pool, None) == [warning], "prices need no router"
