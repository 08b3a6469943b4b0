import numpy as np
import pytest

from routerlab.evaluate.stats import bootstrap_means, intervals, paired_difference


def test_the_spread_of_resampled_rates_is_binomial(rng):
    values = (np.arange(2000) < 600).astype(float)
    spread = bootstrap_means(values, 4000, rng=rng).std()
    assert spread == pytest.approx(np.sqrt(0.3 * 0.7 / 2000), rel=0.05)


def test_intervals_cover_the_truth_as_often_as_they_say(rng):
    covered = 0
    for _ in range(200):
        (found,) = intervals(rng.random(150) < 0.4, rng=rng, resamples=400)
        covered += found.low <= 0.4 <= found.high
    assert 180 <= covered <= 198


def test_columns_share_their_resamples(rng):
    a = rng.random(500)
    means = bootstrap_means(np.stack([a, a + 0.5], 1), 50, rng=rng)
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 0.5)


def test_pairing_sees_what_separate_intervals_cannot(rng):
    hard = rng.random(800) < 0.5
    a, b = hard.astype(float), hard.astype(float)
    b[:20] = 0
    a[:20] = 1
    found = paired_difference(a, b, rng=rng)
    assert found.low > 0
    assert found.mean == pytest.approx(20 / 800)
    one, two = intervals(np.stack([a, b], 1), rng=rng)
    assert one.low < two.high, "unpaired they overlap"


def test_bad_input_is_refused(rng):
    with pytest.raises(ValueError, match="same queries on both sides"):
        paired_difference(np.zeros(3), np.zeros(4), rng=rng)
    with pytest.raises(ValueError, match="at least one row"):
        bootstrap_means(np.zeros((0, 2)), rng=rng)


def test_same_seed_same_interval():
    values = np.linspace(0, 1, 300)
    one, two = (intervals(values, rng=np.random.default_rng(3)) for _ in range(2))
    assert one == two
    assert str(one[0]).startswith("0.5000 [0.4")
