import numpy as np
import pytest

from routerlab.evaluate.stats import (
    Interval,
    bootstrap_means,
    column_means,
    compared,
    holm,
    minimum_detectable,
    p_value,
    paired_difference,
)


def intervals(values, rng, resamples=2000):
    means = bootstrap_means(values, resamples, rng=rng)
    return [Interval.of(*pair) for pair in zip(column_means(np.atleast_2d(values.T).T), means.T, strict=True)]


def test_the_spread_of_resampled_rates_is_binomial(rng):
    values = (np.arange(2000) < 600).astype(float)
    spread = bootstrap_means(values, 4000, rng=rng).std()
    assert spread == pytest.approx(np.sqrt(0.3 * 0.7 / 2000), rel=0.05)


def test_intervals_cover_the_truth_as_often_as_they_say(rng):
    covered = 0
    for _ in range(200):
        (found,) = intervals(1.0 * (rng.random(150) < 0.4), rng, 400)
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


def test_the_spread_is_binomial_to_a_percent(rng):
    # Averaged over columns that share no rows' values, as one spread of 4,000 resamples is itself 1 % off.
    rate = np.linspace(0.1, 0.9, 40)
    values = (rng.random((5000, 40)) < rate).astype(float)
    p = values.mean(0)
    spread = bootstrap_means(values, 4000, rng=rng).std(0)
    assert (spread / np.sqrt(p * (1 - p) / 5000)).mean() == pytest.approx(1, abs=0.01)


def test_weights_are_multinomial(rng):
    drawn = bootstrap_means(np.eye(7) * 7, 50_000, rng=rng)  # the weights themselves
    np.testing.assert_allclose(drawn.sum(1), 7, atol=1e-5)
    np.testing.assert_allclose(drawn.mean(0), 1, atol=0.02)
    np.testing.assert_allclose(np.cov(drawn.T), np.eye(7) - 1 / 7, atol=0.03)
    counts = np.bincount(np.rint(drawn).astype(int).ravel(), minlength=8) / drawn.size
    binomial = [0.3399, 0.3965, 0.1983, 0.0551, 0.0092]  # 7 tries at 1/7
    np.testing.assert_allclose(counts[:5], binomial, atol=0.003)


def test_single_precision_does_not_show(rng):
    values = 1e6 + rng.random((400, 3))
    means = bootstrap_means(values, 500, rng=np.random.default_rng(1))
    small = bootstrap_means(values - 1e6, 500, rng=np.random.default_rng(1))
    np.testing.assert_allclose(means - 1e6, small, atol=1e-7)


def test_a_cluster_of_equal_rows_counts_once(rng):
    once = (np.arange(200) < 60).astype(float)
    values, clusters = np.repeat(once, 10), np.repeat(np.arange(200), 10)
    spread = bootstrap_means(values, 4000, rng=rng, clusters=clusters).std()
    assert spread == pytest.approx(np.sqrt(0.3 * 0.7 / 200), rel=0.04)


def test_clusters_give_the_ratio_of_sums(rng):
    # Three clusters of 1, 2 and 3 rows with sums 1, 0 and 3: only these means can come up.
    values, clusters = np.array([3.0, 0, 0, 0, 0, 1]), np.array([7, 7, 7, 2, 2, 5])
    means = bootstrap_means(values, 3000, rng=rng, clusters=clusters)[:, 0]
    sums, sizes = np.array([1, 0, 3]), np.array([1, 2, 3])
    triples = np.stack(np.meshgrid(*[range(3)] * 3), -1).reshape(-1, 3)
    possible = np.unique(np.round(sums[triples].sum(1) / sizes[triples].sum(1), 6))
    assert set(np.round(np.unique(np.round(means, 6)), 6)) == set(possible)


def test_training_seeds_are_a_second_level(rng):
    seeds = rng.normal(0, 1, 20)
    values = np.stack([np.zeros((50, 20)), np.broadcast_to(seeds, (50, 20))], 1)
    means = bootstrap_means(values, 4000, rng=rng)
    assert means.shape == (4000, 2)
    np.testing.assert_allclose(means[:, 0], 0, atol=1e-9)
    assert means[:, 1].std() == pytest.approx(seeds.std() / np.sqrt(20), rel=0.05)
    assert means[:, 1].mean() == pytest.approx(seeds.mean(), abs=0.02)


def test_labels_that_do_not_fit_are_refused(rng):
    with pytest.raises(ValueError, match="3 labels for 4 queries"):
        bootstrap_means(np.zeros(4), rng=rng, clusters=np.zeros(3))


def test_holm_by_hand():
    # Sorted 0.01 0.02 0.03 0.04 times 4 3 2 1: 0.04 0.06 0.06 0.04, made non-decreasing.
    assert holm(np.array([0.03, 0.01, 0.04, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]


def test_p_values_by_hand():
    resampled = np.array([0.5, 1.0, 1.5, 2.5])
    assert p_value(1.0, resampled) == pytest.approx(2 / 5), "only 2.5 lies 1 or more from 1"
    assert p_value(0.0, resampled - 1) == 1


@pytest.mark.parametrize(("better", "worse", "same"), [(8, 3, 89), (10, 3, 187), (12, 3, 985)])
def test_resamples_exactly_as_far_out_count(better, worse, same, rng):
    gaps = np.repeat([1.0, -1.0, 0.0], [better, worse, same])
    resampled = bootstrap_means(gaps, 20_000, rng=rng)[:, 0]
    exact = np.rint(resampled * len(gaps))  # sums of grades are whole numbers
    far = (np.abs(exact - gaps.sum()) >= gaps.sum()).sum()
    assert p_value(gaps.mean(), resampled) == pytest.approx((1 + far) / 20_001)


def test_p_values_are_even_where_nothing_differs(rng):
    found = []
    for _ in range(300):
        a = rng.normal(0, 1, 100)
        found.append(p_value(a.mean(), bootstrap_means(a, 400, rng=rng)[:, 0]))
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_the_minimum_detectable_difference_is_seen_in_eight_of_ten(rng):
    assert minimum_detectable(0.01) == pytest.approx((1.959964 + 0.841621) * 0.01)
    a = rng.normal(minimum_detectable(1 / np.sqrt(800)), 1, (2000, 800))
    seen = np.abs(a.mean(1)) / a.std(1) * np.sqrt(800) > 1.96
    assert seen.mean() == pytest.approx(0.8, abs=0.03)


def compare(values, base, names, rng, clusters=None):
    gaps = values - base.reshape(-1, *[1] * (values.ndim - 1))
    mean = gaps.mean((0, 2) if gaps.ndim == 3 else 0)
    return compared(names, mean, bootstrap_means(gaps, rng=rng, clusters=clusters))


def test_compare_many_with_one(rng):
    base = (rng.random(2000) < 0.5).astype(float)
    better = np.where(rng.random(2000) < 0.1, 1.0, base)
    values = np.stack([better, base, 1 - base], 1)
    found = compare(values, base, ("better", "same", "other"), rng=rng)
    assert [f.name for f in found] == ["better", "same", "other"]
    assert found[0].difference.mean == pytest.approx((better - base).mean())
    assert found[0].difference.low > 0
    assert found[0].p == pytest.approx(1 / 2001)
    assert found[0].p_holm == pytest.approx(3 / 2001)
    assert (found[1].p, found[1].p_holm, found[1].detectable) == (1, 1, 0)
    least = minimum_detectable((better - base).std(ddof=1) / np.sqrt(len(base)))
    assert found[0].detectable == pytest.approx(least, rel=0.06)
    seeds = np.stack([values] * 3, -1)
    again = compare(seeds, base, "abc", rng=rng, clusters=np.arange(2000) // 2)
    assert again[0].difference.mean == pytest.approx(found[0].difference.mean)
    with pytest.raises(ValueError, match="longer"):
        compare(values, base, "ab", rng=rng)


def test_an_interval_has_no_negative_zero():
    assert str(Interval(-1e-9, -0.25, -0.0)) == "0.0000 [-0.2500, 0.0000]"


def test_missing_values_are_left_out_of_their_column(rng):
    values = np.stack([np.arange(400) % 2, np.full(400, 0.7), np.arange(400) % 2], 1).astype(float)
    values[:100, 1] = np.nan
    values[::4, 2] = np.nan  # a quarter of the zeros and ones
    means = bootstrap_means(values, 2000, rng=np.random.default_rng(1))
    assert column_means(values) == pytest.approx([0.5, 0.7, 2 / 3])
    np.testing.assert_allclose(means[:, 1], 0.7, atol=1e-6)
    assert means[:, 2].mean() == pytest.approx(2 / 3, abs=0.01)
    assert means[:, 2].std() == pytest.approx(np.sqrt(2 / 9 / 300), rel=0.06)
    plain = bootstrap_means(values[:, :1], 2000, rng=np.random.default_rng(1))
    np.testing.assert_allclose(means[:, 0], plain[:, 0], atol=1e-6, err_msg="the others do not notice")
    twice = bootstrap_means(np.stack([values, values], -1), 50, rng=rng, clusters=np.arange(400) // 2)
    np.testing.assert_allclose(twice[:, 1], 0.7, atol=1e-6)
    assert column_means(np.stack([values, values + 1], -1)) == pytest.approx([1.0, 1.2, 2 / 3 + 0.5])
