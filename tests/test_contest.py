import dataclasses
import re

import numpy as np
import pytest
from test_learned import pool_of, table_of

from routerlab import Query, cli
from routerlab.contest.results import MEASURES, Contest, Entry
from routerlab.contest.run import KINDS, contest
from routerlab.core.recorded import Recorded
from routerlab.core.runs import Run
from routerlab.evaluate import routellm_metrics
from routerlab.evaluate.frontier import hull
from routerlab.evaluate.metrics import aiq
from routerlab.routers.features import Tfidf
from routerlab.routers.protocol import RouterError
from routerlab.routers.store import load
from routerlab.sources.split import clusters

NAMES = ("length", "linear", "cascade")


@pytest.fixture(scope="module")
def part(pocket):
    """A sixth of the committed table."""
    kept = pocket.queries[::6]
    return pocket._replace(queries=kept, table=pocket.table.select([q.id for q in kept]))


@pytest.fixture(scope="module")
def held(part):
    return contest(part, NAMES, features=Tfidf(width=48))


@pytest.fixture(scope="module")
def standings(held):
    return held.table(resamples=100)


def _made(queries, quality, usd, models, **more):
    table = table_of(queries, quality, usd, models, **more)
    return Recorded(list(queries), pool_of(models), table, {"how": "made"}, "")


def _queries(count, *, splits=True):
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(60)]
    made = []
    for i in range(count):
        split = ("train", "train", "validation", "test")[i % 4] if splits else "test"
        text = f"{('add', 'spell')[i % 8 // 4]} {' '.join(rng.choice(words, 8))} {i}"
        made.append(Query.ask(text, split=split))
    return made


def _two(count=200, *, splits=True):
    """Two models, each right where the other is wrong; the first word tells."""
    queries = _queries(count, splits=splits)
    adds = np.array([q.text.startswith("add") for q in queries], float)
    return queries, np.stack([adds, 1 - adds], 1), np.array([0.001, 0.01]), ("m", "w")


def test_every_router_enters_with_its_points(held, part):
    names = [e.name for e in held.entries]
    assert names == ["length rule", "linear", "cascade", "family lookup (told)"]
    assert not held.left_out
    test = part.split("test")
    assert held.quality.shape == (len(test.queries), 6)
    for e in held.entries:
        assert e.lam[0] == 0
        assert (np.diff(e.lam) > 0).all()
        points = len(e.lam)
        assert e.quality.shape == e.usd.shape == e.choice.shape == (points, len(test.queries))
        assert e.validation[0].shape == e.validation[1].shape == (points,)
        right = np.take_along_axis(held.quality, e.choice.T, 1).T
        np.testing.assert_array_equal(e.quality, right)
        paid = np.take_along_axis(held.usd, e.choice.T, 1).T
        assert (e.usd >= paid - 1e-12).all()
        assert (e.usd > paid + 1e-12).any() == (e.name == "cascade")
    linear = held.entries[1]
    assert (np.diff(linear.validation[1]) <= 1e-5).mean() > 0.7
    assert np.isclose(linear.usd[-1].mean(), held.usd.mean(0).min(), rtol=0.2)


def test_operating_points_come_from_validation_alone(part, held):
    import pyarrow as pa

    rng, rows = np.random.default_rng(0), part.table.rows
    ids = {q.id for q in part.queries if q.split == "test"}
    at = np.flatnonzero([q in ids for q in rows["query"].to_pylist()])
    moved = np.arange(len(rows))
    moved[at] = rng.permutation(at)
    swapped = rows
    for name in ("grade", "quality", "usd"):
        column = rows[name].combine_chunks().take(pa.array(moved))
        swapped = swapped.set_column(rows.column_names.index(name), name, column)
    other = contest(
        part._replace(table=type(part.table)(swapped, part.table.models)),
        NAMES,
        features=Tfidf(width=48),
    )
    assert (other.quality != held.quality).any()
    assert (other.usd != held.usd).any()
    assert (other.single, other.single_validation) == (held.single, held.single_validation)
    for before, after in zip(held.entries, other.entries, strict=True):
        np.testing.assert_array_equal(before.lam, after.lam)
        np.testing.assert_array_equal(before.choice, after.choice)
        np.testing.assert_array_equal(before.validation, after.validation)
        assert before.at_best() == after.at_best()
        assert before.at_least(0.4) == after.at_least(0.4)


def test_points_are_chosen_by_hand():
    validation = np.array([0.5, 0.7, 0.7, 0.6]), np.array([1.0, 4.0, 3.0, 2.0])
    none = np.zeros((4, 1))
    e = Entry("e", None, np.arange(4.0), none, none, none, validation, 0.0)
    assert e.at_best() == 2
    assert [e.at_least(q) for q in (0.4, 0.55, 0.6, 0.65, 0.9)] == [0, 3, 3, 2, 2]


def test_the_naive_oracle_is_above_every_router(held):
    honest, naive = held.oracle()
    means = held.usd.mean(0), held.quality.mean(0)
    for e in held.entries:
        points = e.usd.mean(1), e.quality.mean(1)
        for usd in points[0]:
            best = np.interp(usd, *hull(naive.usd, naive.quality), left=np.nan)
            assert best >= np.interp(usd, *hull(*points)) - 0.002
    assert naive.quality.max() >= means[1].max()
    assert naive.quality.max() > honest.quality.max() + 0.005, "the honest one does not see the answers it is scored on"


def test_the_single_model_is_the_best_in_training(held, part):
    train = part.split("train").table.matrix("quality", None)
    assert held.single == int(np.nanmean(train, 0).argmax())
    validation = part.split("validation").table.matrix("quality")[:, held.single]
    assert np.isclose(held.single_validation, validation.mean())
    np.testing.assert_array_equal(held.clusters, clusters(held.test.queries))


def test_tables_and_comparisons_repeat_for_a_seed(part, held, standings):
    again = held.table(resamples=100)
    assert again.drop(columns="fit s").equals(standings.drop(columns="fit s"))
    assert list(standings["gain"].map(lambda v: v.mean)) == sorted((v.mean for v in standings["gain"]), reverse=True)
    assert list(standings["area"].map(lambda v: v.mean)) == sorted((v.mean for v in standings["area"]), reverse=True)
    for name in MEASURES:
        for value in standings[name]:
            assert value.low <= value.high
    for measure in ("area", "saving"):
        lines = held.against("linear", measure, resamples=300)
        fixed = ["random mix", "best fixed model"]
        assert [c.name for c in lines] == ["length rule", "cascade", "family lookup (told)", *fixed]
        assert lines == held.against("linear", measure, resamples=300)
        for line in lines:
            gap = standings.loc[line.name, measure].mean - standings.loc["linear", measure].mean
            assert np.isclose(line.difference.mean, gap)
            assert line.p <= line.p_holm <= 1
    with pytest.raises(RouterError, match="no router 'knn' in this contest; it has length rule, l"):
        held.against("knn")


def test_differences_are_what_the_entries_say(held, standings):
    """Each column again in plain loops: hulls, mixes and areas from validation alone, means from the test alone."""
    means = {n: np.split(m.astype(float), 2) for n, m in (("train", held.training), ("validation", held.before))}
    cheap, low, high = means["train"][1].argmin(), *held.ends
    assert (low, high) == (means["train"][1][cheap], means["train"][1][held.single])
    for e in held.entries:
        row = standings.loc[e.name]
        base = held.quality[:, held.single].mean(dtype=float), held.usd[:, held.single].mean(dtype=float)
        assert np.isclose(row["best quality"].mean, e.quality[e.at_best()].mean() - base[0])
        # Points with the cheapest model as the last: on validation, and what they are on the test.
        seen = [(c, q) for q, c in zip(*e.validation, strict=True)]
        seen.append((means["validation"][1][cheap], means["validation"][0][cheap]))
        real = [(c.mean(), q.mean()) for q, c in zip(e.quality, e.usd, strict=True)]
        real.append((held.usd[:, cheap].mean(dtype=float), held.quality[:, cheap].mean(dtype=float)))
        on = [
            i for i, p in enumerate(seen) if not any(_below(p, a, b) for a in seen for b in seen if a != p and b != p)
        ]
        on = sorted({seen[i]: i for i in on[::-1]}.values(), key=lambda i: seen[i])
        x, y = np.array([real[i] for i in on]).T
        grid = np.linspace(low, high, 20001)
        curve = np.interp(grid, x, y)
        assert np.isclose(row["area"].mean, np.trapezoid(curve, grid) / (high - low), atol=1e-5)
        target = held.single_validation
        reach = [i for i in on if seen[i][1] >= target]
        if not reach:
            assert row["saving"] == row["frugal quality"] == (0, 0, 0)
            continue
        dear = reach[0]
        before = on[on.index(dear) - 1]
        share = (target - seen[before][1]) / (seen[dear][1] - seen[before][1])
        paid, right = ((1 - share) * real[before][k] + share * real[dear][k] for k in (0, 1))
        assert np.isclose(row["saving"].mean, 1 - paid / base[1])
        assert np.isclose(row["frugal quality"].mean, right - base[0])


def _below(p, a, b):
    """Whether a mix of a and b is at least as good as p for at most its cost."""
    if a[0] <= p[0] and a[1] >= p[1]:
        return True
    if not a[0] < p[0] < b[0]:
        return False
    return a[1] + (b[1] - a[1]) * (p[0] - a[0]) / (b[0] - a[0]) >= p[1]


def test_unknown_routers_are_refused_with_the_names(part):
    with pytest.raises(RouterError, match=f"no router 'lineer'; there are {', '.join(KINDS)}"):
        contest(part, ["linear", "lineer"])
    for none in ("", []):
        with pytest.raises(RouterError, match="no router ''; there are length"):
            contest(part, none)
    with pytest.raises(RouterError, match="the seed is -1; give a whole number from 0"):
        contest(part, "length", seed=-1)


def test_incomplete_queries_are_left_out_of_the_test_and_said():
    queries, quality, usd, models = _two()
    hidden = quality.copy()
    place = {s: [i for i, q in enumerate(queries) if q.split == s] for s in ("test", "train")}
    hidden[place["test"][:7], 1] = np.nan
    hidden[place["train"][:9], 0] = np.nan
    said = []
    data = _made(queries, hidden, usd, models)
    made = contest(data, "linear", say=said.append, missing="drop-questions")
    (line,) = [line for line in said if line.startswith("missing answers")]
    assert "w lacks 7 of 100" in line
    assert "drop-questions leaves out 7 of 50 test and 0 of 50 validation questions, drop-models leaves out w" in line
    assert made.quality.shape == (43, 2)
    assert not np.isnan(made.quality).any()
    assert {q.id for q in made.test.queries}.isdisjoint(queries[i].id for i in place["test"][:7])
    hidden[place["test"], 1] = np.nan
    with pytest.raises(
        RouterError,
        match="no query of the test split was answered by every model; choose.*w lacks 50 of 100",
    ):
        contest(_made(queries, hidden, usd, models), "linear", missing="drop-questions")


def test_a_table_without_splits_is_split_by_clusters():
    queries, quality, usd, models = _two(300, splits=False)
    twins = [Query.ask(q.text + " again") for q in queries[:60]]
    table = _made([*queries, *twins], np.vstack([quality, quality[:60]]), usd, models)
    said, features = [], Tfidf(width=16)
    seen = []
    features_fit = features.fit
    features.fit = lambda texts: (seen.extend(texts), features_fit(texts))[1]
    made = contest(table, ["length", "linear"], features=features, say=said.append)
    assert said[0].startswith("the table has no splits: 60 % train, 10 % validation, 30 % test")
    tested = {q.text for q in made.test.queries}
    assert 0.2 < len(tested) / 360 < 0.4
    assert 0.5 < len(seen) / 360 < 0.7
    alike = {(t if t.endswith("again") else t + " again") for t in seen} | {t.removesuffix(" again") for t in seen}
    assert tested.isdisjoint(alike | set(seen))


def test_splits_that_are_not_used_are_named_and_too_few_questions_refused():
    queries, quality, usd, models = _two(100)
    pairs = [dataclasses.replace(q, split="test" if q.split == "test" else "train") for q in queries]
    said = []
    contest(_made(pairs, quality, usd, models), "length", say=said.append)
    assert said[0].startswith("the table has only test, train and is split anew: 60 % train")
    one = _queries(1, splits=False)
    with pytest.raises(RouterError, match="1 questions, .* do not fill three splits; record more"):
        contest(_made(one, quality[:1], usd, models), "length")


def test_two_models_equal_the_measures_on_the_same_scores():
    queries, quality, usd, models = _two()
    flip = np.random.default_rng(0).random(len(queries)) < 0.25
    quality = np.where(flip[:, None], [0, 1], quality)
    made = contest(_made(queries, quality, usd, models), ["length", "linear"])
    found = made.two_models()
    assert made.test.table.models[made.single] == "w"
    for e in made.entries:
        scores = e.router.predict(made.test.queries)[0]
        points = routellm_metrics.routellm_points(scores[:, 1] - scores[:, 0], made.quality[:, 0], made.quality[:, 1])
        ends = made.quality[:, 0].mean(), made.quality[:, 1].mean()
        assert np.isclose(found.loc[e.name, "APGR"], routellm_metrics.apgr(*points, *ends), atol=1e-9)
        assert np.isclose(found.loc[e.name, "CPT50%"], routellm_metrics.cpt(*points, 0.5, *ends), atol=1e-6)
    assert found.index[0] == "linear"


def test_two_models_refuses_more(held):
    with pytest.raises(RouterError, match="APGR and CPT are of two models; this table has 6"):
        held.two_models()


def test_dominated_by_hand():
    queries = _queries(8)[3::4]
    quality = np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    usd = np.array([[2.0, 1.0, 3.0], [2.0, 1.0, 3.0]])
    data = _made(queries, quality, [2.0, 1.0, 3.0], ("good", "cheap", "dear"))

    def entry(name, right, paid):
        points = np.array([right]), np.array([paid])
        end = np.array([np.mean(right)]), np.array([np.mean(paid)])
        return Entry(name, None, np.zeros(1), *points, np.zeros((1, 2), int), end, 0.0)

    entries = (
        entry("as good", [1.0, 1.0], [2.0, 2.0]),
        entry("worse", [1.0, 0.0], [2.0, 2.0]),
        entry("wasteful", [1.0, 1.0], [3.0, 3.5]),
        entry("between", [1.0, 0.0], [1.5, 1.5]),
    )
    before = np.concatenate([quality.mean(0), usd.mean(0)])
    made = Contest(data, entries, quality, usd, None, 0, before, np.arange(2), 0, {})
    assert made.dominated() == {
        "as good": [],
        "worse": ["good"],
        "wasteful": ["good", "dear"],
        "between": [],
    }
    assert made.ends == (1.0, 2.0), "up to the best single model, not to the dearest"
    assert made.single_validation == 1.0
    assert [e.name for e in made.chosen("worse", "gone", "as good")] == ["worse", "as good"]
    # Areas from 1 to 2 US$, with the cheapest model as a point: 0.5, 0.375, 0.25 and 0.2222.
    order = ["as good", "between", "worse", "wasteful"]
    assert [e.name for e in made.chosen()] == order
    assert made.oracle() is None


def _always(model, quality, usd):
    right, paid = (m[:, model].astype(float)[None] for m in (quality, usd))
    choice, ends = np.full((1, len(quality)), model), (right.mean(1), paid.mean(1))
    return Entry(f"always {model}", None, np.zeros(1), right, paid, choice, ends, 0.0)


def _by_chance(count=1001):
    """Two models, one better and dearer, in the single precision of a table, and a router that always calls each."""
    rng = np.random.default_rng(0)
    quality = (rng.random((count, 2)) < [0.3, 0.6]).astype(np.float32)
    usd = (rng.random((count, 2)) * [0.001, 0.01]).astype(np.float32)
    data = _made(_queries(4 * count)[3::4], quality, [1.0, 2.0], ("a", "b"))
    before = np.concatenate([m.mean(0, dtype=float) for m in (quality, usd)])
    entries = _always(0, quality, usd), _always(1, quality, usd)
    return Contest(data, entries, quality, usd, None, 1, before, np.arange(count), 0, {})


def test_no_model_dominates_a_router_that_always_calls_it():
    made = _by_chance()
    assert made.dominated() == {"always 0": [], "always 1": []}
    assert made.ends == tuple(e.usd.mean() for e in made.entries)


def test_models_and_oracles_share_the_resamples_of_routers():
    made = _by_chance(91)
    # Every question eleven times: as few are different as before.
    again = dataclasses.replace(
        made,
        quality=np.repeat(made.quality, 11, 0),
        usd=np.repeat(made.usd, 11, 0),
        other=np.repeat(made.quality, 11, 0),
        clusters=np.repeat(np.arange(91), 11),
    )
    models, (honest, naive) = again.models(), again.oracle(5)
    for m in (0, 1):
        router = again.frontier(_always(m, again.quality, again.usd))
        for n in ("quality", "quality_low", "quality_high", "usd", "usd_low", "usd_high"):
            assert np.isclose(getattr(models, n)[m], getattr(router, n)[0], rtol=1e-6)
    few = made.models()
    wide, before = (f.quality_high - f.quality_low for f in (models, few))
    np.testing.assert_allclose(wide, before, rtol=0.1)
    for oracle in (honest, naive):
        assert oracle.quality_high[-1] - oracle.quality_low[-1] == pytest.approx(before[0], rel=0.1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("prices", [(0.0, 0.0), (0.01, 0.0), (0.0, 0.01)])
def test_the_best_single_model_may_be_free(prices):
    quality, usd = np.tile([0.0, 1.0], (4, 1)), np.tile(prices, (4, 1))
    data = _made(_queries(16)[3::4], quality, prices, ("worse", "best"))
    before = np.concatenate([quality.mean(0), usd.mean(0)])
    entries = _always(0, quality, usd), _always(1, quality, usd)
    made = Contest(data, entries, quality, usd, None, 1, before, np.arange(4), 0, {})
    row = made.table(20).loc["always 1"]
    assert row["saving"] == (0, 0, 0)
    assert row["frugal quality"] == (0, 0, 0)
    never = made.table(20).loc["always 0"]  # never as good: it stands for calling the best single model
    assert never["saving"] == never["frugal quality"] == (0, 0, 0)
    assert never["best quality"] == (-1, -1, -1)


def test_the_area_and_saving_of_single_models_by_hand():
    queries = _queries(16)[3::4]
    quality, usd = np.tile([1.0, 0.0], (4, 1)), np.tile([3.0, 1.0], (4, 1))
    data = _made(queries, quality, [3.0, 1.0], ("good", "cheap"))
    half = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    paid = np.array([[2.0] * 4, [1.0] * 4])
    ends = half.mean(1), paid.mean(1)
    e = Entry("half price", None, np.array([0.0, 9.0]), half, paid, half.astype(int), ends, 0.0)
    before = np.concatenate([quality.mean(0), usd.mean(0)])
    made = Contest(data, (e,), quality, usd, None, 0, before, np.arange(4), 0, {})
    row = made.table(50).loc["half price"]
    assert np.isclose(row["area"].mean, 0.75)  # from (1, 0) to (2, 1), then flat up to 3
    assert np.isclose(row["AIQ"].mean, 0.5)  # from 0: nothing below 1, where the router's own points begin
    assert np.isclose(row["saving"].mean, 1 / 3)
    assert row["frugal quality"].mean == 0
    assert made.against("half price") == []


def test_the_luck_of_training_widens_what_is_said():
    queries = _queries(400)[3::4]
    n = len(queries)
    quality, usd = np.tile([0.5, 0.0], (n, 1)), np.tile([3.0, 1.0], (n, 1))
    data = _made(queries, quality, [3.0, 1.0], ("good", "cheap"))

    def entry(name, *rights):
        made = [
            Entry(name, None, np.zeros(1), np.full((1, n), r), np.full((1, n), 2.0),
                  np.zeros((1, n), int), (np.array([r]), np.array([2.0])), 0.0)
            for r in rights
        ]  # fmt: skip
        return dataclasses.replace(made[0], others=tuple(made[1:]))

    entries = entry("lucky", 0.9, 0.7), entry("sure", 0.8), entry("twin", 0.9, 0.7)
    before = np.concatenate([quality.mean(0), usd.mean(0)])
    made = Contest(data, entries, quality, usd, None, 0, before, np.arange(n), 0, {})
    rows = made.table(400)["best quality"]
    assert rows["sure"] == pytest.approx((0.3, 0.3, 0.3))
    assert rows["lucky"] == pytest.approx((0.3, 0.2, 0.4))  # of two trainings, both may be either
    found = made.frontier(entries[0])
    assert [*found.quality, *found.quality_low, *found.quality_high] == pytest.approx([0.8, 0.7, 0.9])
    versus = {c.name: c.difference for c in made.against("lucky", "best quality")}
    assert versus["sure"] == pytest.approx((0.0, -0.1, 0.1))
    assert versus["twin"] == pytest.approx((0.0, 0.0, 0.0))  # the same luck on both sides


def test_routers_that_draw_lots_are_trained_again():
    queries, quality, usd, models = _two()
    made = contest(_made(queries, quality, usd, models), ["linear", "mlp", "forest"], trainings=3)
    others = {e.name: e.others for e in made.entries}
    assert {n: len(o) for n, o in others.items()} == {"linear": 0, "MLP": 2, "forest": 2}
    for e in made.entries[1:]:
        trained = [t.router.predict(made.test.queries)[0] for t in (e, *e.others)]
        assert not any(np.array_equal(trained[0], t) for t in trained[1:])
        assert not np.array_equal(trained[1], trained[2])
        assert all(np.array_equal(e.lam, t.lam) for t in e.others)
    assert len(made.against("linear")) == 4  # two routers, the random mix and the best fixed model
    with pytest.raises(RouterError, match="fitted at least once: give 1 or more"):
        contest(_made(queries, quality, usd, models), "mlp", trainings=0)


def test_single_models_have_the_intervals_of_the_clusters_too():
    queries, quality, usd, models = _two(240)
    twins = [Query.ask(f"{q.text} {q.text} {i}", split=q.split) for i in range(9) for q in queries]
    plain = contest(_made(queries, quality, usd, models), "length").models()
    many = contest(_made(twins, np.tile(quality, (9, 1)), usd, models), "length")
    wide, narrow = (m.quality_high[0] - m.quality_low[0] for m in (many.models(), plain))
    assert len(np.unique(many.clusters)) == 60
    assert wide == pytest.approx(narrow, rel=0.15), "nine copies of a question tell no more than one"


def test_shuffled_labels_gain_nothing_on_average(part):
    made = contest(part, ["shuffled", "length"], features=Tfidf(width=48))
    (control,) = made.chosen("shuffled labels")
    assert len(control.others) == 9
    coin = aiq(made.models(), *made.ends)
    table = made.table(100)
    area = table["area"]["shuffled labels"]
    assert area.low <= coin <= area.high
    assert area.mean == pytest.approx(coin, abs=0.015)
    assert table["area"]["random mix"].mean == pytest.approx(coin, abs=0.01)
    assert table["gain"]["shuffled labels"].low <= 0, "a negative control gains nothing"


def test_a_router_that_cannot_run_is_left_out_and_said():
    queries, quality, usd, models = _two()
    data = _made(queries, quality, usd, models)
    made = contest(data, ["linear", "cascade"])
    assert [e.name for e in made.entries] == ["linear"]
    assert "nothing to look at; leave it out" in made.left_out["cascade"]
    with pytest.raises(RouterError, match="cascade cannot run: .* nothing to look at"):
        contest(data, "cascade")


def test_a_free_model_and_one_model():
    queries, quality, _, models = _two()
    made = contest(_made(queries, quality, [0.0, 0.01], models), ["length", "linear"])
    linear = made.entries[1]
    assert np.isfinite(linear.lam).all()
    assert len(linear.lam) > 5
    assert linear.usd[-1].mean() < 0.2 * linear.usd[0].mean()
    assert linear.quality[0].mean() > 0.95
    alone = contest(_made(queries, quality[:, :1], [0.01], ("m",)), "linear")
    assert (alone.entries[0].choice == 0).all()
    assert np.isnan(alone.table(20)["area"].iloc[0].mean)


def _run(capsys, *arguments):
    try:
        code = cli.main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def small_run(part, tmp_path_factory):
    from routerlab.core.recorded import record

    folder = tmp_path_factory.mktemp("runs") / "part"
    record(Run(folder), part.queries, part.pool, part.table, {"how": "a part of the pocket table"})
    return folder


def test_eval_prints_results_and_keeps_them(capsys, small_run, tmp_path):
    import pandas as pd

    out = tmp_path / "kept"
    asked = ("eval", "--routers", "length,linear", "--table", str(small_run), "--out", str(out))
    code, said, progress = _run(capsys, *asked)
    assert code == 0, progress
    for word in ("best single model in training: pocket-", "area", "length rule", "[", "kept in "):
        assert word in said
    assert "random mix" in said
    assert [line for line in said.splitlines() if line.startswith("area against the random mix (Holm, 5%): above it ")]
    assert [line for line in progress.splitlines() if " " not in line] == ["length", "linear", "lookup"]
    assert "area" not in progress
    points, summary = pd.read_csv(out / "points.csv"), pd.read_csv(out / "summary.csv", index_col=0)
    assert set(points["name"]) == {"length rule", "linear", "family lookup (told)", "random mix", "best fixed model"}
    assert (points["quality_low"] <= points["quality_high"]).all()
    assert set(summary.index) == set(points["name"])
    router = load(out / "routers" / "linear")
    card = (out / "routers" / "linear" / "card.json").read_text()
    assert '"pool": "pocket"' in card
    assert Run(small_run).manifest()["outcomes.parquet"]["sha256"] in card
    assert router.predict([Query.ask("what is 2 + 2?")])[0].shape == (1, 6)
    code, again, _ = _run(capsys, *asked[:-2])
    fitted = [" ".join(line.split()[:-1]) for line in again.splitlines()]
    assert code == 0
    assert fitted == [" ".join(line.split()[:-1]) for line in said.splitlines()][:-1]


def test_eval_of_one_router(capsys, small_run):
    code, said, _ = _run(capsys, "eval", "--routers", "linear", "--table", str(small_run))
    assert code == 0
    assert "linear" in said
    assert "differences to linear" in said, "the random mix is always there to compare with"


def test_eval_lists_routers_and_names_the_cure(capsys, small_run):
    code, said, _ = _run(capsys, "eval", "--routers", "list")
    assert (code, said.split()) == (0, [*KINDS])
    code, said, err = _run(capsys, "eval", "--routers", "lineer", "--table", str(small_run))
    assert (code, said) == (1, "")
    assert "no router 'lineer'; there are length, keyword" in err.splitlines()[-1]
    code, _, err = _run(capsys, "eval", "--table", "no-such-run")
    assert code == 1
    assert "no recorded table in" in err.splitlines()[-1]
    code, _, err = _run(capsys, "eval", "--routers", "length", "--table", str(small_run), "--against", "linear")
    assert code == 1
    assert "no router 'linear' in this contest; it has length rule" in err.splitlines()[-1]
    code, _, err = _run(capsys, "eval", "--table", str(small_run), "--bench", "mmlu")
    assert code == 1
    assert "leave out --bench mmlu" in err.splitlines()[-1]
    code, _, err = _run(capsys, "eval", "--routers", "length", "--table", str(small_run), "--encoder", "no-such")
    assert code == 1
    assert "pip install one such as" in err.splitlines()[-1]


def test_a_router_is_compared_by_the_name_it_was_asked_by(capsys, small_run):
    asked = ("eval", "--routers", "length,linear", "--table", str(small_run), "--against")
    code, said, _ = _run(capsys, *asked, "length")
    assert code == 0
    assert "differences to length rule; equal cost: US$" in said
    assert "area against length rule (Holm, 5%): larger " in said
    code, said, err = _run(capsys, *asked, "lenght")
    assert (code, said) == (1, "")
    (line,) = err.splitlines()  # nothing was fitted for it
    assert line.endswith("no router 'lenght' in this contest; it has length rule, linear")


def test_eval_of_a_published_table(capsys, datasets):
    file = datasets / "routellm_15361x2.parquet"
    if not file.is_file():
        pytest.skip("no routellm_15361x2.parquet in ../shared/datasets")
    asked = ("--routers", "length,linear", "--table", str(file), "--bench", "gsm8k")
    code, said, progress = _run(capsys, "eval", *asked)
    assert code == 0, progress
    assert "APGR and CPT: RouteLLM's, over the share of calls to gpt-4-1106-preview" in said
    for claim in ("one every four characters", "tokens of an answer taken as 1", "95 % intervals"):
        assert claim in said
    assert re.search(r"right on 0\.\d{4} \[0\.\d{4}, 0\.\d{4}\] of the test", said)
    assert "the table has no splits" in progress
    assert "questions dropped: 0 repeated, 0 unanswered" in progress
    code, _, err = _run(capsys, "eval", "--table", str(file), "--bench", "gsm9k")
    assert code == 1
    assert "no bench 'gsm9k'" in err.splitlines()[-1]


def test_a_served_router_is_asked_for_each_decision(tmp_path, part):
    import asyncio

    from routerlab.routers.learned import Ridge
    from tests.fake_model import FakeModel
    from tests.test_serve import pool_of, serving

    train = part.split("train")
    ridge = Ridge().fit(train.queries, train.table).at(2e3)

    async def scenario():
        async with FakeModel() as up, serving(tmp_path, pool_of(up, *part.pool.ids), ridge) as (url, _, _):
            made = await asyncio.to_thread(contest, part, ["length", f"{url}/v1"])
            gone = f"{url}/nowhere"
            with pytest.raises(RouterError, match="/nowhere refused a request: 404"):
                await asyncio.to_thread(contest, part, ["length", gone])
            return made, f"{url}/v1"

    made, url = asyncio.run(scenario())
    (entry,) = made.chosen(url)
    expected = ridge.route(made.test.queries, part.pool).choice
    models = [part.pool.ids[c] for c in expected]
    assert [made.test.table.models[c] for c in entry.choice[0]] == models
    assert entry.quality[0].mean() == pytest.approx(made.quality[np.arange(len(models)), entry.choice[0]].mean())
    assert "gain" in made.measures(20)[url]


def test_a_dead_url_is_an_error_before_anything_is_fitted(part):
    steps = []
    with pytest.raises(RouterError, match=r"no router answers at http://127\.0\.0\.1:9/v1: .*; start it, or mend the"):
        contest(part, ["length", "http://127.0.0.1:9/v1"], say=steps.append)
    assert not steps
