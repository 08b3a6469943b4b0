"""Every metric against a table small enough to do by hand, against the code of the paper it comes from, and against
what must hold on any table.

The table: six queries, three models at 1, 2 and 4 USD a query that get 2, 3 and 4 of them right. Their hull has the
corners (1, 1/3), (2, 1/2), (4, 2/3). The router's two points are (1, 1/3) and, with `CHOICE`, (11/6, 5/6).
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerlab.evaluate import calibration, metrics, routellm_metrics
from routerlab.evaluate.frontier import decide, hull, lam_grid, realised, singles, trace
from routerlab.evaluate.sweep import sweep

QUALITY = np.array([[1.0, 1, 1], [0, 1, 1], [0, 0, 1], [0, 1, 0], [1, 0, 1], [0, 0, 0]])
OTHER = np.array([[1.0, 1, 1], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]])
USD = np.tile([1.0, 2, 4], (6, 1))
CHOICE = np.array([0, 1, 2, 1, 0, 0])
MODELS = USD.mean(0), QUALITY.mean(0)
ROUTER = np.array([1, 11 / 6]), np.array([1 / 3, 5 / 6])


def test_costs_of_a_quality_by_hand():
    # The best model's 2/3 costs 4; the router reaches it at 1 + (1/3) / 0.6 = 14/9, 1/2 at 23/18.
    assert metrics.cost_at(ROUTER, [1 / 2, 2 / 3]) == pytest.approx([23 / 18, 14 / 9])
    assert metrics.cost_at(MODELS, [1 / 2, 2 / 3]) == pytest.approx([2, 4])
    assert np.isnan(metrics.cost_at(ROUTER, 0.9))
    assert np.isnan(metrics.cost_at(MODELS, 5 / 6))
    assert metrics.cost_at(ROUTER, 0.1) == 1


def test_areas_by_hand():
    assert metrics.aiq(ROUTER, 1, 4) == pytest.approx(55 / 72)
    assert metrics.aiq(ROUTER, 0, 4) == pytest.approx(165 / 288), "below 1 nothing can be bought"
    assert metrics.aiq(ROUTER, 0, 0.5) == 0
    # From 1 to 4: 35/72 + 130/72 of the router, 30/72 + 84/72 of the models; over a width of 3.
    assert metrics.aiq(ROUTER, 1, 4) - metrics.aiq(MODELS, 1, 4) == pytest.approx(17 / 72)


def test_dominance_by_hand():
    router = np.array([1, 4, 11 / 6]), np.array([1 / 3, 1 / 2, 5 / 6])
    beaten = metrics.dominance(router, MODELS)
    # The first point is the first model; the second has half right for 4, which two models do better.
    assert beaten.tolist() == [[False] * 3, [False, True, True], [False] * 3]


def test_regret_by_hand():
    # On the other tries the oracle calls 0 2 1 1 0 0, which gets 1 1 0 1 1 0 here and costs 11 in all.
    assert metrics.regret(CHOICE, QUALITY, USD, OTHER).tolist() == [0, 0, -1, 0, 0, 0]
    at = metrics.regret(CHOICE, QUALITY, USD, OTHER, 0.1)
    assert at == pytest.approx([0, -0.2, -0.8, 0, 0, 0])
    # At lam 0.1 utilities are 39 for CHOICE, 29 for the oracle, 14, 18 and 16 for the models, over 60.
    assert metrics.gap_closed(CHOICE, QUALITY, USD, OTHER, 0.1) == pytest.approx(21 / 11)
    assert np.isnan(metrics.gap_closed(CHOICE, QUALITY, USD, OTHER)), "the best model is as good"


def test_domains_by_hand():
    domains, cheapest = np.array(list("xxxxyy")), np.zeros(6, int)
    regrets = metrics.regret(cheapest, QUALITY, USD, OTHER)
    assert regrets.tolist() == [0, 1, 0, 1, 0, 0]
    table = metrics.domain_table(domains, cheapest, QUALITY, USD, regrets)
    assert table.values.tolist() == [["x", 4, 0.25, 1000, 0.75, 0.5], ["y", 2, 0.5, 1000, 0.5, 0]]


def test_collapse_by_hand():
    shares = metrics.call_shares(np.stack([CHOICE, np.full(6, 2)]), 3)
    assert shares == pytest.approx(np.array([[3, 2, 1], [0, 0, 6]]) / 6)
    assert metrics.call_entropy(shares) == pytest.approx([1 / 2 + np.log2(3) / 3 + np.log2(6) / 6, 0])


def test_calibration_by_hand():
    predicted, happened = np.array([0.1, 0.1, 0.2, 0.8, 0.9, 0.9]), np.array([0, 1, 0, 1, 1, 0])
    for equal_mass in (True, False):
        curve = calibration.reliability(predicted, happened, 2, equal_mass=equal_mass)
        assert curve.predicted == pytest.approx([0.4 / 3, 2.6 / 3])
        assert curve.happened == pytest.approx([1 / 3, 2 / 3])
        assert curve.count.tolist() == [3, 3]
        assert curve.ece == pytest.approx(0.2)
    assert calibration.reliability(np.full(9, 0.3), np.ones(9)).count.tolist() == [9]
    ends = calibration.reliability(np.array([0.0, 1.0]), np.array([0, 1]), equal_mass=False)
    assert (ends.count.tolist(), ends.ece) == ([1, 1], 0)
    # Groups 0.1 (half right), 0.2 (none), 0.8 (all), 0.9 (half right).
    found = calibration.brier(predicted, happened)
    assert found == pytest.approx((1.72 / 6, 0.12, 1 / 12, 0.25))
    assert found.score == pytest.approx(found.reliability - found.resolution + found.uncertainty)


def test_the_gap_by_hand():
    gaps = [routellm_metrics.apgr([0, 1], [q, q], 1 / 3, 2 / 3) for q in (1 / 3, 1 / 2, 5 / 6)]
    assert gaps == pytest.approx([0, 0.5, 1.5])
    assert np.isnan(routellm_metrics.apgr([0, 1], [0.5, 0.5], 0.5, 0.5))
    # Two bins over scores 0 to 5: all strong 4/6; strong on the last three 2/6; none 2/6.
    share, quality = routellm_metrics.routellm_points(np.arange(6), QUALITY[:, 0], QUALITY[:, 2], bins=2)
    assert share.tolist() == [0, 0.5, 1]
    assert quality == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert routellm_metrics.apgr(share, quality, 1 / 3, 2 / 3) == pytest.approx(0.25)
    assert routellm_metrics.cpt(share, quality, 0.5, 1 / 3, 2 / 3) == pytest.approx(0.75)


N = np.arange(60)
ROUTELLM = {
    # What RouteLLM 0.2.0's own evaluation gives: scores, weak, strong; APGR, CPT at 20, 50 and 80 %.
    "ties": (
        np.round((N * 37 % 60 + N % 7 * 4) / 2),
        (N % 3 == 0, N % 5 != 1),
        (0.49315476190476193, 0.22, 0.5166666666666667, 0.785),
    ),
    "negative": (
        N % 11 - N * 0.5,
        (N % 3 == 0, N % 5 != 1),
        (0.46785714285714286, 0.2533333333333333, 0.5333333333333332, 0.8466666666666666),
    ),
    "scores on thresholds": (
        N[:51] * 5 % 51,
        (N[:51] % 3 > 1, N[:51] ** 2 % 4 != 1),
        (0.6002178649237475, 0.07058823529411758, 0.2810457516339869, 0.8104575163398693),
    ),
    "a point on the target": (
        N[:31] * 3 % 31,
        (N[:31] % 3 > 1, N[:31] ** 2 % 4 != 1),
        (0.5403225806451613, 0.0774193548387096, 0.5161290322580645, 0.8451612903225807),
    ),
    "falling": (
        N * 37 % 60,
        (N % 3 != 0, N * N % 7 != 1),
        (0.1166666666666679, 0.58, 0.85, 0.94),
    ),
}


def routellm(score, weak, strong):
    share, quality = routellm_metrics.routellm_points(score, weak, strong)
    ends = weak.mean(), strong.mean()
    return [routellm_metrics.apgr(share, quality, *ends)] + [
        routellm_metrics.cpt(share, quality, x, *ends) for x in (0.2, 0.5, 0.8)
    ]


@pytest.mark.parametrize("name", ROUTELLM)
def test_it_is_what_routellm_computes(name):
    score, pair, expected = ROUTELLM[name]
    assert routellm(score, *pair) == pytest.approx(expected, abs=1e-9)


def test_it_is_what_routellm_computes_on_its_own_answers(datasets):
    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(datasets / "routellm_15361x2.parquet")
    expected = {  # by prompt length, from RouteLLM 0.2.0's own evaluation, without its decontamination
        ("mmlu", 1): (
            0.583573942397472,
            0.15387193596144763,
            0.3671640981522486,
            0.6918422403856873,
        ),
        ("mmlu", -1): (
            0.4172855061190048,
            0.3046008494662528,
            0.6324730747676864,
            0.8462256417055619,
        ),
        ("gsm8k", 1): (
            0.6005272828742316,
            0.10490160530045786,
            0.36194086429112976,
            0.6624322578833579,
        ),
        ("gsm8k", -1): (
            0.399716220200488,
            0.34021111564705175,
            0.6327710386656561,
            0.8867207091619528,
        ),
    }
    for (bench, sign), figures in expected.items():
        part = table[table.bench == bench]
        pair = (part[m].to_numpy() for m in ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"))
        assert routellm(sign * part.prompt.str.len(), *pair) == pytest.approx(figures, abs=1e-6)


tables = st.tuples(st.integers(2, 20), st.integers(2, 5), st.integers(0, 10_000))


def draw(table):
    rows, models, seed = table
    rng = np.random.default_rng(seed)
    quality, usd = rng.integers(0, 3, (rows, models)) / 2, rng.integers(1, 9, (rows, models)) / 8
    return rng, quality, usd


@settings(max_examples=60, deadline=None)
@given(tables)
def test_the_oracle_is_above_every_router_at_every_cost(table):
    rng, quality, usd = draw(table)
    oracle = sweep(quality, usd)
    router = sweep(quality, usd, (rng.random(quality.shape), usd))
    cost, reached = realised(rng.integers(0, usd.shape[1], len(usd)), usd, quality)
    for points in (router, (np.array([cost.mean()]), np.array([reached.mean()]))):
        cost, reached = metrics.points(points)
        assert (np.interp(cost + 1e-9, *hull(oracle.usd, oracle.quality)) >= reached - 1e-8).all()
        high = float(usd.max()) + 1
        assert metrics.aiq(oracle, 0, high) >= metrics.aiq(points, 0, high) - 1e-9
    assert np.interp(9, *hull(oracle.usd, oracle.quality)) == pytest.approx(quality.max(1).mean())
    assert realised(decide(quality, usd, 0), quality)[0].mean() == pytest.approx(quality.max(1).mean())


@settings(max_examples=60, deadline=None)
@given(tables)
def test_a_dominated_model_changes_no_metric(table):
    rng, quality, usd = draw(table)
    scores, other = rng.random(quality.shape), rng.integers(0, 3, quality.shape) / 2

    def every(*columns):
        q, c, s, o = columns
        models, router = (c.mean(0), q.mean(0)), sweep(q, c, (s, c))
        choice = decide(s, c, 0.5)
        low, high = float(models[0].min()), 5.0
        return [
            *np.interp([low, 1.0, 2.0], *hull(router.usd, router.quality)),
            float(metrics.cost_at(router, models[1].max())),
            metrics.aiq(router, low, high),
            metrics.aiq(models, low, high),
            metrics.regret(choice, q, c, o, 0.5).mean(),
            metrics.gap_closed(choice, q, c, o, 0.5),
        ]

    worse = (
        np.hstack([a, a[:, :1] + more]) for a, more in zip((quality, usd, scores, other), (0, 1, 0, 0), strict=True)
    )
    assert every(*worse) == pytest.approx(every(quality, usd, scores, other), nan_ok=True, abs=1e-12)


def test_a_frontier_will_do_for_points(pocket):
    test = pocket.split("test").table
    quality, usd = test.matrix("quality"), test.matrix("usd")
    rng = np.random.default_rng(0)
    oracle = trace("oracle", (quality, usd), quality, usd, lam_grid(usd), rng=rng)
    models = singles(quality, usd, rng=rng)
    best = models.quality.max()
    assert 0 < metrics.cost_at(oracle, best) < metrics.cost_at(models, best)
    ends = models.usd.min(), models.usd.max()
    assert metrics.aiq(oracle, *ends) > metrics.aiq(models, *ends)
    assert not metrics.dominance(oracle, models).any()
