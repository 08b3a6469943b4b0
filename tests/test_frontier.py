"""Invariants of routing, on hand-made matrices and on the recorded pocket table."""

import numpy as np
import pytest

from routerlab.core.outcomes import OutcomeError
from routerlab.evaluate import frontier as fr
from routerlab.evaluate import metrics
from routerlab.evaluate.metrics import regret

Q = np.array([[1.0, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]])
C = np.array([[1.0, 2, 4]] * 4)


def test_decisions_by_hand():
    assert fr.decide(Q, C, 0.0).tolist() == [0, 1, 0, 2]
    assert fr.decide(Q, C, 0.3).tolist() == [0, 1, 0, 2], "for the last: 1 - 1.2 beats 0 - 0.3? no: -0.2 > -0.3"
    assert fr.decide(Q, C, 0.4).tolist() == [0, 1, 0, 0], "now -0.6 < -0.4"
    assert fr.decide(Q, C, 9.0).tolist() == [0, 0, 0, 0]
    assert fr.decide(np.array([[0.5, 0.5]]), np.array([[2.0, 1.0]]), 0.0).tolist() == [1], "ties: cheaper"
    assert fr.decide(np.array([[np.nan, 0.1]]), np.array([[0.0, 1.0]]), 0.0).tolist() == [1]


def test_free_models_and_an_infinite_cost_weight():
    quality, usd = np.array([[0.0, 0.0, 1.0]] * 2), np.array([[0.3, 0.0, 1.0], [0.3, 0.2, 1.0]])
    assert fr.decide(quality, usd, np.inf).tolist() == [1, 1]
    assert fr.decide(np.array([[0.0, 1.0]]), np.zeros((1, 2)), np.inf).tolist() == [1]
    free = np.array([[0.0, 0.0, 1e-3]] * 3)
    lams = fr.lam_grid(free, 5)
    # Four weights from a thousandth to a thousand times 1 / (the median of the paid calls, 0.001).
    assert lams == pytest.approx([0, 1, 1e2, 1e4, 1e6])
    assert fr.decide(np.array([[0.0, 0.5, 1.0]] * 3), free, lams[-1]).tolist() == [1, 1, 1]
    assert np.isfinite(fr.lam_grid(np.zeros((2, 2)))).all()


def test_a_model_without_a_cost_is_not_called():
    quality, usd = np.array([[1.0, 0.5]]), np.array([[np.nan, 1.0]])
    for lam in (0.0, 1.0, np.inf):
        assert fr.decide(quality, usd, lam).tolist() == [1]
        assert fr.decide(quality[:, ::-1], usd[:, ::-1], lam).tolist() == [0]


def test_missing_outcomes_are_not_scored():
    with pytest.raises(OutcomeError, match="1 of 2 chosen outcomes are missing"):
        fr.realised(np.array([0, 0]), np.array([[np.nan, 1], [1, 1]]), np.ones((2, 2)))


def test_hull_by_hand():
    x, y = fr.hull(np.array([1.0, 2, 3, 4, 5]), np.array([0.1, 0.15, 0.5, 0.4, 0.6]))
    assert x.tolist() == [1, 3, 5]
    assert y.tolist() == [0.1, 0.5, 0.6]
    x, y = fr.hull(np.array([1.0, 1.0]), np.array([0.2, 0.3]))
    assert (x.tolist(), y.tolist()) == ([1], [0.3])


@pytest.fixture(scope="module")
def matrices(pocket):
    test = pocket.split("test").table
    return test.matrix("quality"), test.matrix("usd"), test.matrix("quality", [1, 2, 3, 4])


@pytest.fixture(scope="module")
def lams(matrices):
    return fr.lam_grid(matrices[1])


def test_cost_and_quality_fall_as_money_gets_dearer(matrices, lams):
    quality, usd, _ = matrices
    found = fr.trace("oracle", (quality, usd), quality, usd, lams, rng=np.random.default_rng(0))
    assert (np.diff(found.usd) <= 1e-12).all()
    assert (np.diff(found.quality) <= 1e-12).all()
    assert found.quality[0] == pytest.approx((quality.max(1)).mean(), abs=1e-6)
    assert found.usd[-1] == pytest.approx(usd.min(1).mean(), rel=1e-6)


def test_the_naive_oracle_dominates_every_choice(matrices, lams):
    quality, usd, _ = matrices
    rng = np.random.default_rng(0)
    for lam in lams[::6]:
        best = (
            quality[np.arange(len(usd)), fr.decide(quality, usd, lam)]
            - lam * usd[np.arange(len(usd)), fr.decide(quality, usd, lam)]
        )
        for _ in range(5):
            other = rng.integers(0, usd.shape[1], len(usd))
            assert best.mean() >= (quality[np.arange(len(usd)), other] - lam * usd[np.arange(len(usd)), other]).mean()


def test_the_honest_oracle_chooses_on_the_other_tries_by_hand():
    # Query 0: the other tries favour model 1, which fails here. Query 1: they favour model 0, which is right here.
    quality, other, usd = np.array([[1.0, 0], [1, 0]]), np.array([[0.0, 1], [1, 0]]), np.array([[1.0, 2], [1, 2]])
    honest, naive = fr.oracle_bracket(quality, usd, other, np.zeros(1), rng=np.random.default_rng(0))
    assert (honest.name, naive.name) == ("oracle, split", "oracle, naive")
    assert (honest.quality.tolist(), honest.usd.tolist()) == ([0.5], [1.5])
    assert (naive.quality.tolist(), naive.usd.tolist()) == ([1.0], [1.0])
    # With the costs of other tries at lam 2 it calls the model that was cheap there, and pays what that costs here.
    turned = np.array([[9.0, 0], [9, 0]])
    dear, _ = fr.oracle_bracket(quality, usd, other, np.full(1, 2.0), rng=np.random.default_rng(0), other_usd=turned)
    assert (dear.quality.tolist(), dear.usd.tolist()) == ([0.0], [2.0])


def test_a_frontier_of_several_seeds_is_their_mean_and_its_interval_holds_them():
    quality = np.stack([np.full((30, 1), 0.2), np.full((30, 1), 0.6)], -1)
    f = fr.summarise("r", np.zeros(1), quality, 2 * quality, rng=np.random.default_rng(0))
    for found, ends in ((f.quality, (f.quality_low, f.quality_high)), (f.usd / 2, (f.usd_low / 2, f.usd_high / 2))):
        assert [found[0], ends[0][0], ends[1][0]] == pytest.approx([0.4, 0.2, 0.6])


def test_the_honest_oracle_lies_below_the_naive_one(matrices, lams):
    quality, usd, other = matrices
    honest, naive = fr.oracle_bracket(quality, usd, other, lams, rng=np.random.default_rng(0))
    for lam, a, b, c, d in zip(lams, honest.quality, honest.usd, naive.quality, naive.usd, strict=True):
        assert a - lam * b <= c - lam * d + 1e-9


def test_cheap_luck_does_not_reach_the_honest_oracle(rng):
    size, lams = (4000, 3), np.array([0.0, 0.3, 1.0])
    right, price = rng.random(size), np.array([1.0, 1.2, 1.4])
    paid = [price * rng.lognormal(-0.32, 0.8, size) for _ in range(5)]
    tries = [(rng.random(size) < right).astype(float) for _ in range(5)]
    other, other_usd = np.mean(tries[1:], 0), np.mean(paid[1:], 0)
    scored = tries[0], paid[0], other, lams
    honest, _ = fr.oracle_bracket(*scored, rng=rng, other_usd=other_usd)
    lucky, naive = fr.oracle_bracket(*scored, rng=rng)
    best = (right - lams[:, None, None] * price).max(2).mean(1)  # knowing all rates and prices
    assert (honest.quality - lams * honest.usd <= best + 0.01).all()
    assert (lucky.quality - lams * lucky.usd > best + 0.01)[1:].all()
    assert (naive.quality - lams * naive.usd > best + 0.01).all()
    for m in range(3):
        choice = np.full(len(other), m)
        same = regret(choice, *scored[:3], 0.3), regret(choice, *scored[:3], 0.3, other_usd)
        fixed = tries[0][:, m] - 0.3 * paid[0][:, m]
        for lost, oracle in zip(same, (lucky, honest), strict=True):
            reached = oracle.quality[1] - 0.3 * oracle.usd[1]
            assert lost.mean() == pytest.approx(reached - fixed.mean())


def test_a_dominated_model_changes_nothing(matrices, lams):
    quality, usd, _ = matrices
    worse = np.hstack([quality, quality[:, :1]]), np.hstack([usd, usd[:, :1] * 2])
    for lam in lams[::10]:
        assert (fr.decide(*worse, lam) == fr.decide(quality, usd, lam)).all()


def test_the_hull_contains_every_single_model(matrices):
    quality, usd, _ = matrices
    models = fr.singles(quality, usd, rng=np.random.default_rng(0))
    x, y = fr.hull(models.usd, models.quality)
    assert (np.interp(models.usd, x, y) >= models.quality - 1e-12).all()
    assert (np.diff(np.diff(y) / np.diff(x)) <= 0).all(), "concave"
    assert (models.quality_low <= models.quality).all()
    assert (models.quality <= models.quality_high).all()
    assert metrics.cost_at(models, y[-1]) == pytest.approx(x[-1])
    assert np.isnan(metrics.cost_at(models, 1.0))
    assert metrics.cost_at(models, 0.0) == pytest.approx(x[0])
    frame = models.frame()
    assert frame.usd_per_1000.tolist() == pytest.approx((models.usd * 1000).tolist())
