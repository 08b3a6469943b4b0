"""What `eval` and `leaderboard` print is what an independent computation finds: one table, its splits, many tables."""

import dataclasses
import math

import numpy as np
import pytest
from test_contest import _made, _queries, _run, _two
from test_setup import _three

from routerlab import Run
from routerlab.contest import breakdown, leaderboard, setup, verdict
from routerlab.contest.run import contest
from routerlab.core.recorded import record
from routerlab.evaluate.mixes import Mix, cheapest_mix, path_area, path_quality
from routerlab.routers.features import Tfidf
from routerlab.routers.protocol import RouterError


@pytest.fixture(scope="module")
def three():
    queries, quality, usd, models = _three(400)
    return contest(_made(queries, quality, usd, models), ["length", "linear", "random"], features=Tfidf(width=16))


def test_areas_and_mixes_by_hand():
    usd, quality = np.array([1.0, 3.0, 2.0]), np.array([0.0, 1.0, 0.8])
    # From 1 to 2 it rises to 0.8 (area 0.4), from 2 to 3 to 1 (0.9); flat before and after.
    assert path_area(usd, quality, 1, 3) == pytest.approx(0.65)
    assert path_area(usd, quality, 0, 5) == pytest.approx((0 + 1.3 + 2) / 5)
    assert path_area(usd, quality + 1, 0, 3, below=False) == pytest.approx((1.3 + 2) / 3)
    assert path_area(usd, quality + 1, 0, 3) == pytest.approx((1 + 1.3 + 2) / 3)
    assert path_area(usd, quality, 1.5, 2.5) == pytest.approx(((0.4 + 0.8) / 4 + (0.8 + 0.9) / 4) / 1)
    assert path_area(usd, quality, 4, 6) == pytest.approx(1)
    for at, value in ((0.5, 0), (1.5, 0.4), (2, 0.8), (2.5, 0.9), (9, 1)):
        assert path_quality(usd, quality, at) == pytest.approx(value)
    assert path_quality(np.array([1.0, 1, 2]), np.array([0.2, 0.5, 0.7]), 1) == pytest.approx(0.5), "equal costs"
    assert path_area(np.array([1.0, 1, 2]), np.array([0.2, 0.5, 0.7]), 1, 2) == pytest.approx(0.6)
    many = np.stack([usd, usd[::-1]]), np.stack([quality, quality[::-1]])
    assert path_area(*many, 1, 3) == pytest.approx([0.65, 0.65])
    assert cheapest_mix(usd, quality, 0.9) == pytest.approx(Mix(2, 1, 0.5))
    assert cheapest_mix(usd, quality, 0.8) == pytest.approx(Mix(0, 2, 1))
    assert cheapest_mix(usd, quality, -1) == (0, 0, 1)
    assert cheapest_mix(usd, quality, 1.01) is None
    assert Mix(2, 1, 0.25).of(usd) == pytest.approx(2.25)
    dent = np.array([1.0, 2, 3]), np.array([0.0, 0.1, 1.0])
    assert cheapest_mix(*dent, 0.1) == pytest.approx(Mix(0, 2, 0.1)), "cheaper than the point itself"


def test_the_random_mix_has_the_vertices_of_training_mixed_and_scored_on_the_test(three):
    training = np.split(three.training, 2)
    x, y = [np.asarray(v, float) for v in (training[1], training[0])]
    assert three.mix.choice[:, 0].tolist() == [int(m) for m in np.argsort(-y) if _on_hull(m, x, y)]
    vertex = sorted(three.mix.choice[:, 0], key=lambda m: x[m])
    usd, quality = (m.mean(0, dtype=float)[vertex] for m in (three.usd, three.quality))
    grid = np.linspace(*three.ends, 20001)
    area = np.trapezoid(np.interp(grid, usd, quality), grid) / (grid[-1] - grid[0])
    table = three.table(50)
    assert table.loc["random mix", "area"].mean == pytest.approx(area, abs=1e-5)
    assert table.loc["random mix", "gain"] == (0, 0, 0)
    for name in table.index:
        gain = table.loc[name, "area"].mean - table.loc["random mix", "area"].mean
        assert table.loc[name, "gain"].mean == pytest.approx(gain)


def _on_hull(m, x, y):
    if any(x[k] <= x[m] and y[k] >= y[m] and k != m for k in range(len(x))):
        return False
    pairs = [(a, b) for a in range(len(x)) for b in range(len(x)) if x[a] < x[m] < x[b]]
    return all(y[a] + (y[b] - y[a]) * (x[m] - x[a]) / (x[b] - x[a]) < y[m] for a, b in pairs)


def test_the_best_fixed_model_is_chosen_on_validation_and_scored_on_the_test(three):
    quality, usd = np.split(three.before, 2)
    best = max(range(len(quality)), key=lambda m: (quality[m], -usd[m]))
    row = three.table(50).loc["best fixed model"]
    assert set(three.fixed.choice.ravel()) == {best}
    gap = three.quality[:, best] - three.quality[:, three.single]
    assert row["best quality"].mean == pytest.approx(gap.mean(), abs=1e-6)
    low, high = three.ends
    paid, cheap = three.usd[:, best].mean(), three.cheapest
    start, height = three.usd[:, cheap].mean(), (three.quality[:, cheap].mean(), three.quality[:, best].mean())
    at = np.linspace(low, high, 20_001)
    area = np.interp(at, [start, paid], height).mean()
    assert row["area"].mean == pytest.approx(area, abs=1e-4)


def test_sentences_follow_from_the_paired_tables(three):
    table = verdict.differences(three, "linear", 400)
    assert list(table.index) == ["length rule", "random features", "random mix", "best fixed model"]
    assert list(table.columns[:3]) == ["area", "area: p (Holm)", "area: detectable"]
    above, versus = verdict.sentences(three, "linear", 400)
    gains = {c.name: c for c in three.against("random mix", "area", 400, [e.name for e in three.entries])}
    assert gains["linear"].difference.mean == three.table(400).loc["linear", "gain"].mean
    for name, words in (("linear", "above it "), ("random features", "not told from it ")):
        assert words in above
        assert name in above.split(words)[1].split(";")[0]
    assert gains["linear"].p_holm <= 0.05 < gains["random features"].p_holm
    smaller = versus.split("smaller ")[1].split(";")[0].split(", ")
    assert smaller == [
        n for n in table.index if table.loc[n, "area: p (Holm)"] <= 0.05 and table.loc[n, "area"].mean < 0
    ]
    assert "random mix" in smaller
    with pytest.raises(RouterError, match="no router 'knn' in this contest; it has length rule, l"):
        verdict.differences(three, "knn", 50)


def test_equal_cost_is_the_leaders_frugal_cost_on_validation(three):
    leader = three.chosen()[0]
    plan = three.plan(leader)
    seen = np.append(leader.validation[1], np.split(three.before, 2)[1][[three.cheapest, three.single]])
    assert three.equal_usd == pytest.approx(plan.frugal.of(seen))
    for e in three.entries:
        at = three.plan(e).path
        usd, quality = np.append(e.usd.mean(1), 0), np.append(e.quality.mean(1), 0)
        for values, side in ((usd, three.usd), (quality, three.quality)):
            values[-1] = side[:, three.cheapest].mean(dtype=float)
        order = np.argsort(usd[at])
        expected = np.interp(three.equal_usd, usd[at][order], quality[at][order])
        assert three.measures(50)[e.name]["at cost"][0] == pytest.approx(expected)


def test_chosen_cost_weights_are_named(three):
    named = three.operating_points()
    for e in three.entries:
        plan = three.plan(e)
        lam = np.append(e.lam, [np.nan, np.nan])
        row = [lam[plan.frugal.cheap], lam[plan.frugal.dear], plan.frugal.share, e.lam[plan.best]]
        np.testing.assert_array_equal(named.loc[e.name], row)


def test_calibration_is_of_one_model_at_a_time():
    rng = np.random.default_rng(0)
    queries = _queries(2000)
    quality = (rng.random((2000, 3)) < [0.1, 0.5, 0.9]).astype(float)
    data = _made(queries, quality, [0.001, 0.002, 0.01], ("a", "b", "c"))
    results = contest(data, ["shuffled", "linear"], features=Tfidf(width=16))
    for e in results.entries:
        lines = breakdown.calibration_by_model(results, e)
        assert list(lines.index) == ["a", "b", "c", "mean"]
        assert lines.loc["mean", "resolution"] < 0.01, "nothing tells these questions apart; pooled it is 0.1"
        parts = lines["reliability"] - lines["resolution"] + lines["uncertainty"]
        np.testing.assert_allclose(lines["score"], parts, atol=0.01)
        assert lines.loc["mean", "uncertainty"] == pytest.approx(results.quality.var(0).mean(), abs=1e-6)


def test_over_splits_is_the_mean_and_a_corrected_t_interval_by_hand():
    queries, quality, usd, models = _three(300)
    data = _made(queries, quality, usd, models)
    contests = [
        contest(setup.with_splits(data, print, salt=f"split {k}"), ["length"], features=Tfidf(width=8))
        for k in range(3)
    ]
    assert len({tuple(q.id for q in c.test.queries) for c in contests}) == 3
    values = np.array([c.table(20).loc["length rule", "gain"].mean for c in contests])
    shares = np.mean([len(c.test.queries) / c.trained_on for c in contests])
    half = 4.302653 * math.sqrt((1 / 3 + shares) * values.var(ddof=1))
    table = verdict.over_splits(contests, 20)
    mean = values.mean()
    assert table.loc["length rule", "gain"] == pytest.approx((mean, mean - half, mean + half), rel=1e-5)
    assert table.loc["length rule", "splits"] == 3
    assert np.isnan(verdict.over_splits(contests[:1], 20).loc["length rule", "gain"].low), "one split has no spread"


def test_the_leaderboard_by_hand(three):
    queries, quality, usd, models = _two(400)
    quality[::7, 1] = 1
    other = contest(_made(queries, quality, usd, models), ["length", "linear", "random"], features=Tfidf(width=16))
    contests = {"three": three, "two": other}
    board = leaderboard.leaderboard(contests, 50)
    gains = {t: {e.name: c.table(50).loc[e.name, "gain"].mean for e in c.entries} for t, c in contests.items()}
    for name in board.index:
        ranks = [1 + sum(v > g[name] for v in g.values()) for g in gains.values()]
        assert board.loc[name, "mean rank"] == np.mean(ranks)
        assert board.loc[name, "wins"] == ranks.count(1)
        assert board.loc[name, "two"].mean == gains["two"][name]
    assert board.index[0] == "linear"
    assert board["dominated"].tolist() == [sum(bool(c.dominated()[n]) for c in contests.values()) for n in board.index]
    assert leaderboard.all_dominated(contests) == {}
    worse = dataclasses.replace(
        other, entries=tuple(dataclasses.replace(e, usd=e.usd + 1, quality=0 * e.quality) for e in other.entries)
    )
    assert leaderboard.all_dominated({"two": worse}) == {"two": list(models)}


def test_a_saved_router_enters_by_its_folder_at_the_point_that_was_chosen(three, tmp_path, capsys):
    data = _made(*_three(400))
    breakdown.keep(three, Run(tmp_path / "kept"), three.table(20))
    folder = tmp_path / "kept" / "routers" / "linear"
    again = contest(data, ["length", str(folder)], features=Tfidf(width=16))
    (fitted,), (opened,) = three.chosen("linear"), again.chosen("linear")
    np.testing.assert_array_equal(opened.choice, fitted.choice)
    assert opened.router.lam == fitted.lam[fitted.at_least(three.single_validation)]
    card = (folder / "card.json").read_text()
    assert '"chosen"' in card
    assert '"frugal"' in card
    fewer = setup.of_models(data.table, ["a", "c"])
    part = contest(data._replace(table=fewer, pool=data.pool.subset(["a", "c"])), [str(folder), "length"])
    assert set(np.unique(part.entries[0].choice)) <= {0, 1}
    with pytest.raises(
        RouterError, match="no router 'nowhere'; there are length, .* or give the folder of a saved router"
    ):
        contest(data, ["nowhere"])
    record(Run(tmp_path / "run"), data.queries, data.pool, data.table, {"how": "made"})
    code, said, err = _run(capsys, "eval", "--table", str(tmp_path / "run"), "--routers", f"length,{folder}")
    assert code == 0, err
    assert "linear" in said


def test_eval_over_splits_and_without_a_kind(tmp_path, capsys):
    queries, quality, usd, models = _two(200)
    quality[::7, 1] = 1  # the dearer model is the better one
    queries = [dataclasses.replace(q, meta={"kind": q.text.split()[0]}) for q in queries]
    data = _made(queries, quality, usd, models)
    record(Run(tmp_path / "run"), data.queries, data.pool, data.table, {"how": "made"})
    asked = ("eval", "--routers", "length,linear", "--table", str(tmp_path / "run"), "--resamples", "50")
    code, said, err = _run(capsys, *asked, "--splits", "2")
    assert code == 0, err
    assert "2 splits; means over splits" in said
    code, said, err = _run(capsys, *asked, "--hold-out", "kind=spell", "--category", "kind")
    assert code == 0, err
    assert "100 questions with kind=spell are the test" in err
    for wrong in ("--splits", "--resamples"):
        code, _, err = _run(capsys, *asked, wrong, "0")
        assert code == 2
        assert f"{wrong}: '0' is not a whole number, from 1 to" in err.splitlines()[-1]
    code, said, err = _run(capsys, "leaderboard", str(tmp_path), "--routers", "length,linear", "--resamples", "50")
    assert code == 0, err
    assert {line.split()[0] for line in said.splitlines()[1:3]} == {"linear", "kind"}
    assert said.splitlines()[3].startswith("length rule ")
    code, _, err = _run(capsys, "leaderboard", str(tmp_path / "run" / "nothing"), "--routers", "length")
    assert code == 1


@pytest.mark.parametrize("bench", ["mmlu", "gsm8k"])
def test_verdicts_on_real_tables_are_those_of_an_independent_computation(datasets, bench):
    """Gains over the random mix and their intervals again, in NumPy alone, from what each router decided."""
    from routerlab.sources.tables import known

    file = datasets / "routellm_15361x2.parquet"
    if not file.is_file():
        pytest.skip("no routellm_15361x2.parquet in ../shared/datasets")
    results = contest(known(file, bench), ["length", "linear", "random"], features=Tfidf(width=64))
    table, rng = results.table(2000), np.random.default_rng(99)
    cheap, dear = 1 - results.single, results.single
    train = [np.split(results.training.astype(float), 2)[1][m] for m in (cheap, dear)]
    labels = np.unique(results.clusters)
    member = (results.clusters[:, None] == labels).astype(float)
    weights = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), 2000) @ member.T
    weights /= weights.sum(1, keepdims=True)

    def area(usd, quality, order):
        grid = np.linspace(*train, 501)
        return np.trapezoid(np.interp(grid, usd[order], quality[order]), grid) / (grid[-1] - grid[0])

    for e in results.entries:
        q = np.hstack([e.quality.T, results.quality[:, [cheap, dear]]]).astype(float)
        c = np.hstack([e.usd.T, results.usd[:, [cheap, dear]]]).astype(float)
        before = np.split(results.before.astype(float), 2)
        seen = np.append(e.validation[0], before[0][cheap]), np.append(e.validation[1], before[1][cheap])
        path = _corners(*seen[::-1])
        gain, *drawn = (
            area(mc[path], mq[path], np.argsort(mc[path])) - area(mc[-2:], mq[-2:], [0, 1])
            for mq, mc in zip(*(np.vstack([m.mean(0), weights @ m]) for m in (q, c)), strict=True)
        )
        printed, (low, high) = table.loc[e.name, "gain"], np.quantile(drawn, [0.025, 0.975])
        blur = 0.25 * np.std(drawn)  # of two bootstraps of 2,000 draws
        assert printed.mean == pytest.approx(gain, abs=2e-4)
        assert printed.low == pytest.approx(low, abs=blur)
        assert printed.high == pytest.approx(high, abs=blur)
        if min(abs(low), abs(high)) > blur:
            assert (printed.low > 0, printed.high < 0) == (low > 0, high < 0)


def _corners(usd, quality):
    """Places of points that no mix of two others reaches or passes, from cheap to dear."""
    order = [int(i) for i in np.lexsort((-quality, usd))]
    kept = []
    for i in order:
        if kept and quality[i] <= quality[kept[-1]]:
            continue
        while len(kept) > 1:
            a, b = kept[-2:]
            if (quality[b] - quality[a]) / (usd[b] - usd[a]) > (quality[i] - quality[b]) / (usd[i] - usd[b]):
                break
            kept.pop()
        kept.append(i)
    return kept


def test_intervals_are_over_clusters_p_values_are_of_differences_to_the_best(three):
    twice = dataclasses.replace(
        three,
        entries=tuple(
            dataclasses.replace(e, quality=e.quality.repeat(9, 1), usd=e.usd.repeat(9, 1)) for e in three.entries
        ),
        mix=dataclasses.replace(three.mix, quality=three.mix.quality.repeat(9, 1), usd=three.mix.usd.repeat(9, 1)),
        quality=three.quality.repeat(9, 0),
        usd=three.usd.repeat(9, 0),
        clusters=np.arange(len(three.usd)).repeat(9),
    )
    for one, nine in zip(three.table(500)["area"], twice.table(500)["area"], strict=True):
        assert nine == pytest.approx(one, abs=0.2 * (one.high - one.low))
    p = three.p_values(500)
    measured = three.measures(500)
    assert p["area"].idxmax() == "linear"
    assert p.loc["linear", "area"] == 1
    gap = measured["linear"]["area"] - measured["length rule"]["area"]
    far = (np.abs(gap[1:] - gap[0]) >= abs(gap[0])).sum()
    assert p.loc["length rule", "area"] == pytest.approx((1 + far) / 501, abs=2 / 501)
    assert p.loc["random features", "area"] < 0.05


def test_verdicts_use_holm_and_not_single_intervals():
    from routerlab.evaluate.stats import Comparison, Interval

    lines = [
        Comparison(n, Interval(d, d - 1, d + 1), 0.04, p, 1.0)
        for n, d, p in (("a", 2, 0.04), ("b", 2, 0.06), ("c", -2, 0.01))
    ]
    above, same, below = verdict._sorted(lines)
    assert [[c.name for c in part] for part in (above, same, below)] == [["a"], ["b"], ["c"]]


def test_the_ends_are_costs_in_training_and_other_tries_leave_out_the_first(pocket):
    part = pocket._replace(queries=pocket.queries[::12])
    part = part._replace(table=pocket.table.select([q.id for q in part.queries]))
    results = contest(part, ["length"])
    train = part.split("train").table.matrix("usd", None, graded=True).mean(0, dtype=float)
    assert results.ends == pytest.approx((train.min(), train[results.single]))
    tried = results.test.table.matrix("quality", [1, 2, 3, 4])
    np.testing.assert_array_equal(results.other, tried)
    np.testing.assert_array_equal(results.other_usd, results.test.table.matrix("usd", [1, 2, 3, 4], graded=True))


def test_a_router_is_dominated_at_its_frugal_mix_not_at_its_best_point(three):
    """At its best point this router is worse than the single model, at its frugal point it is cheaper and as good."""
    e = three.entries[0]
    n = len(three.usd)
    single_quality, single_usd = three.quality[:, three.single], three.usd[:, three.single]
    quality = np.stack([single_quality * 0, single_quality]).astype(float)
    usd = np.stack([single_usd * 2, single_usd / 2]).astype(float)
    seen = np.array([three.single_validation + 0.1, three.single_validation]), np.array([2, 0.5]) * single_usd.mean()
    choice, lam = np.full((2, n), three.single), np.array([0.0, 1.0])
    two = dataclasses.replace(e, lam=lam, quality=quality, usd=usd, choice=choice, validation=seen, others=())
    assert dataclasses.replace(three, entries=(two,)).dominated()[e.name] == []
    worse = dataclasses.replace(two, quality=quality[::-1], usd=usd * 2)
    assert three.test.table.models[three.single] in dataclasses.replace(three, entries=(worse,)).dominated()[e.name]
