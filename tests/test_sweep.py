"""The exact sweep is what deciding at each lam one by one gives, and its breakpoints are where the algebra says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerlab.core.outcomes import OutcomeError
from routerlab.evaluate import frontier as fr
from routerlab.evaluate.sweep import _compiled, sweep


def one_by_one(scores, quality, usd, lams):
    points = [fr.realised(fr.decide(*scores, lam), quality, usd) for lam in lams]
    return np.array([[q.mean(), c.mean()] for q, c in points]).T


def test_by_hand():
    quality = np.array([[0.0, 1.0, 1.0], [0.5, 0.6, 1.0]])
    usd = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    curve = sweep(quality, usd)
    # Query 0 goes from model 0 to 1 below lam 1; query 1 from 0 straight to 2 below 0.25 (1 lies under that edge).
    assert curve.lam.tolist() == [np.inf, 1.0, 0.25]
    assert curve.quality.tolist() == [0.25, 0.75, 1.0]
    assert curve.usd.tolist() == [1.0, 1.5, 2.5]
    assert curve.collapse_lam == 1.0
    quality_at, usd_at = curve.at([2.0, 1.0, 0.99, 0.25, 0.2, 0.0])
    assert quality_at.tolist() == [0.25, 0.25, 0.75, 0.75, 1.0, 1.0], "at a breakpoint the cheaper"
    assert usd_at.tolist() == [1.0, 1.0, 1.5, 1.5, 2.5, 2.5]


grids = st.tuples(st.integers(1, 12), st.integers(1, 6), st.integers(0, 10_000))


@settings(max_examples=100, deadline=None)
@given(grids)
def test_it_is_deciding_at_every_lam(grid):
    rows, models, seed = grid
    rng = np.random.default_rng(seed)
    # Coarse values make ties and equal costs, where of equals the cheaper must win.
    quality, usd = rng.integers(0, 4, (rows, models)) / 4, rng.integers(1, 6, (rows, models)) / 8
    scores = rng.integers(0, 4, (rows, models)) / 4, rng.integers(1, 6, (rows, models)) / 8
    for given_scores in (None, scores):
        curve = sweep(quality, usd, given_scores)
        middle = (curve.lam[1:-1] + curve.lam[2:]) / 2 if len(curve.lam) > 2 else []
        lams = np.concatenate([[0.0, 1e-6, 1e3], middle])
        plain = one_by_one(given_scores or (quality, usd), quality, usd, lams)
        assert np.array(curve.at(lams)) == pytest.approx(plain, abs=1e-9)
        assert (np.diff(curve.lam) < 0).all()
        assert (curve.lam[1:] > 0).all()
    oracle = sweep(quality, usd)
    assert (np.diff(oracle.quality) > -1e-12).all()
    assert (np.diff(oracle.usd) > -1e-12).all()


def test_the_oracle_dominates_and_beyond_collapse_all_is_cheapest(pocket):
    test = pocket.split("test")
    quality, usd = test.table.matrix("quality"), test.table.matrix("usd")
    rng = np.random.default_rng(0)
    oracle = sweep(quality, usd)
    router = sweep(quality, usd, (quality + rng.normal(0, 0.5, quality.shape), usd))
    lams = np.geomspace(1, 1e5, 50)
    (best_q, best_c), (some_q, some_c) = oracle.at(lams), router.at(lams)
    assert (best_q - lams * best_c >= some_q - lams * some_c - 1e-9).all()
    choice = fr.decide(quality, usd, oracle.collapse_lam * 1.0001)
    assert (usd[np.arange(len(usd)), choice] == usd.min(1)).all()
    before = fr.decide(quality, usd, oracle.collapse_lam * 0.999)
    assert (usd[np.arange(len(usd)), before] > usd.min(1)).any()


def test_a_dominated_model_and_the_order_of_models_change_nothing():
    rng = np.random.default_rng(1)
    quality, usd = rng.random((50, 4)), rng.random((50, 4))
    curve = sweep(quality, usd)
    more = sweep(np.hstack([quality, quality[:, :1]]), np.hstack([usd, usd[:, :1] + 1]))
    turned = sweep(quality[:, ::-1], usd[:, ::-1])
    for other in (more, turned):
        assert other.lam == pytest.approx(curve.lam)
        assert other.quality == pytest.approx(curve.quality)


def test_what_is_missing_is_not_called_or_refused():
    quality, usd = np.array([[0.0, np.nan, 1.0]]), np.array([[1.0, 2.0, 3.0]])
    assert sweep(quality, usd).quality.tolist() == [0.0, 1.0]
    gap = np.array([[1.0, np.nan, 3.0]])
    assert sweep(np.array([[0.9, 0.0, 1.0]]), gap[:, [1, 0, 2]]).usd.tolist() == [1.0, 3.0]
    assert sweep(np.array([[0.0, 0.9, 1.0]]), gap).usd.tolist() == [1.0, 3.0], "a model without a cost is not called"
    assert sweep(np.array([[0.0, 0.9, 1.0]]), usd, (np.array([[0.0, 0.9, 1.0]]), gap)).usd.tolist() == [1.0, 3.0]
    with pytest.raises(OutcomeError, match="called is missing"):
        sweep(np.array([[0.0, 0.9, 1.0]]), gap, (np.array([[0.0, 0.9, 1.0]]), usd))
    with pytest.raises(OutcomeError, match="called is missing"):
        sweep(quality, usd, (np.array([[0.0, 1.0, 0.0]]), usd))
    with pytest.raises(OutcomeError, match="query 0 has no model"):
        sweep(np.full((1, 2), np.nan), np.ones((1, 2)))
    with pytest.raises(OutcomeError, match="one shape"):
        sweep(np.ones((2, 2)), np.ones((2, 3)))


def test_the_sort_is_stable_and_knows_all_magnitudes():
    rng = np.random.default_rng(0)
    wide = np.concatenate([10.0 ** rng.uniform(-300, 300, 5000), [5e-324, 1.7e308, np.inf], np.ones(99)])
    lam = rng.choice(wide, 20_000)  # with ties
    descending = _compiled()[2]
    np.testing.assert_array_equal(descending(lam), np.argsort(-lam, kind="stable"))
    assert len(descending(lam[:0])) == 0
