import copy
import warnings

import numpy as np
import pytest

from routerlab import OutcomeTable, Pool, Query
from routerlab.core.pools import ModelCard
from routerlab.routers.baselines import best_single
from routerlab.routers.blend import Blend
from routerlab.routers.features import Tfidf, Views
from routerlab.routers.learned import KNN, Linear, Logistic, Ridge, filled, linear
from routerlab.routers.nonlinear import MLP, Boosting, Factorisation, Forest
from routerlab.routers.protocol import RouterError

KINDS = (Linear, Ridge, KNN, Logistic, Forest, Boosting, Factorisation, MLP, Blend)
MODELS, TRAIN, TOPICS = ("sums", "words", "both"), 360, ("add", "spell", "draw")
every = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)


def table_of(queries, quality, usd, models=MODELS, **more):
    """A table of one try; NaN in `quality` is a call that failed and cost nothing."""
    quality = np.asarray(quality, float)
    usd = np.where(np.isnan(quality), 0, np.broadcast_to(usd, quality.shape))
    flat = [None if np.isnan(v) else v for v in quality.ravel().tolist()]
    return OutcomeTable(
        {
            "query": [q.id for q in queries for _ in models],
            "model": [*models] * len(queries),
            "quality": flat,
            "grade": [None if v is None else "CORRECT" if v >= 0.5 else "INCORRECT" for v in flat],
            "error": ["timeout" if v is None else None for v in flat],
            "usd": usd.ravel().tolist(),
            **{name: np.asarray(values).ravel().tolist() for name, values in more.items()},
        },
        models,
    )


def pool_of(models):
    import datetime as dt

    day = dt.date(2026, 1, 1)
    return Pool("made", [ModelCard(m, f"x/{m}", "standard", 1, 1, 1000, day) for m in models])


def topics(count):
    """Queries of three topics with filler; a model is right on its topic 19 times of 20, else once of 20; `both` knows
    two topics and costs ten times as much."""
    rng = np.random.default_rng(0)
    filler = [f"thing{i}" for i in range(30)]
    topic = rng.integers(0, 3, count)
    queries = [Query.ask(f"{TOPICS[t]} the {' '.join(rng.choice(filler, 4))} {i}") for i, t in enumerate(topic)]
    knows = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1]]).T[topic]
    quality = (rng.random((count, 3)) < np.where(knows, 0.95, 0.05)).astype(float)
    usd = np.array([0.001, 0.001, 0.01]) * rng.uniform(0.8, 1.2, (count, 3))
    return queries, quality, usd


@pytest.fixture(scope="module")
def task():
    return topics(600)


@pytest.fixture(scope="module")
def shared(task):
    return Tfidf(width=32).fit([q.text for q in task[0][:TRAIN]])


@pytest.fixture(scope="module")
def fitted(task, shared):
    queries, quality, usd = task
    table = table_of(queries, quality, usd)
    return {k: k(shared).fit(queries[:TRAIN], table) for k in KINDS}


def _refit(kind, shared, task, quality=None, columns=slice(None), rows=None):
    queries, held, usd = task
    quality = held if quality is None else quality
    names = tuple(np.array(MODELS)[columns])
    rows = np.arange(TRAIN) if rows is None else rows
    table = table_of(queries, quality[:, columns], usd[:, columns], names)
    return kind(shared).fit([queries[i] for i in rows], table)


@every
def test_it_learns_what_the_text_decides(task, fitted, kind):
    (queries, quality, usd), size, router = task, TRAIN, fitted[kind]
    if kind in (Boosting, Factorisation, MLP):  # their steps are few on a few hundred queries
        (queries, quality, usd), size = topics(2600), 2200
        shared = Tfidf(width=32).fit([q.text for q in queries[:size]])
        router = kind(shared).fit(queries[:size], table_of(queries, quality, usd))
    single = best_single(queries[:size], table_of(queries, quality, usd))
    alone = quality[size:, MODELS.index(single.model)].mean()
    chosen = router.route(queries[size:], pool_of(MODELS)).choice
    reached = quality[size:][np.arange(len(chosen)), chosen].mean()
    assert reached > alone + 0.2
    assert reached > 0.9


@every
def test_two_fits_are_equal(task, shared, fitted, kind):
    queries = task[0][TRAIN:]
    for one, other in zip(fitted[kind].predict(queries), _refit(kind, shared, task).predict(queries), strict=True):
        np.testing.assert_array_equal(one, other)


@every
def test_missing_is_not_wrong(task, shared, fitted, kind):
    queries, quality, _ = task
    test, rng = queries[TRAIN:], np.random.default_rng(1)
    whole = fitted[kind].predict(test)
    some = np.where(rng.random(quality.shape) < 0.3, np.nan, quality)
    quality_, usd = _refit(kind, shared, task, some).predict(test)
    # Counted as wrong, the mean would fall by 0.3 of itself.
    np.testing.assert_allclose(quality_.mean(0), whole[0].mean(0), atol=0.06)
    np.testing.assert_allclose(usd.mean(0), whole[1].mean(0), rtol=0.05)
    assert (quality_.argmax(1) == whole[0].argmax(1)).mean() > 0.8
    hidden = quality.copy()
    hidden[:, 1] = np.where(hidden[:, 1] == 0, np.nan, 1)
    generous = _refit(kind, shared, task, hidden).predict(test)[0]
    assert generous[:, 1].min() > 0.9
    assert generous[:, 1].mean() > whole[0][:, 1].mean() + 0.2


@every
def test_the_order_of_models_changes_nothing(task, shared, fitted, kind):
    test, order = task[0][TRAIN:], np.array([2, 0, 1])
    turned = _refit(kind, shared, task, columns=order)
    assert turned.models == ("both", "sums", "words")
    # Networks draw their first weights in the order of models, and trees break ties by rounding.
    close = {MLP: 0.1, Factorisation: 0.1, Forest: 0.02, Blend: 0.02, Ridge: 1e-3}.get(kind, 1e-6)
    q, c = fitted[kind].predict(test)
    other, price = turned.predict(test)
    assert np.abs(other - q[:, order]).mean() < close
    np.testing.assert_allclose(price, c[:, order], rtol=1e-6)


@every
def test_the_order_of_rows_changes_nothing(task, fitted, kind):
    queries, test, rng = task[0][:TRAIN], task[0][TRAIN:], np.random.default_rng(2)
    rows = rng.permutation(TRAIN)
    turned = Tfidf(width=32).fit([queries[i].text for i in rows])
    again = _refit(kind, turned, task, rows=rows)
    for one, other in zip(fitted[kind].predict(test), again.predict(test), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_penalty_of_ridge_does_not_depend_on_which_rows_come_fifth(shared):
    # Every fifth of these rows is noise, and would ask for the largest penalty.
    queries, quality, usd = topics(400)
    place = np.arange(400) % 5 == 0
    quality[place] = np.random.default_rng(0).random((place.sum(), 3)) < 0.5
    table = table_of(queries, quality, usd)
    orders = (
        np.arange(400),
        np.argsort(place, kind="stable"),
        np.random.default_rng(1).permutation(400),
    )
    chosen = {Ridge(shared).fit([queries[i] for i in o], table).values["alpha"] for o in orders}
    assert len(chosen) == 1


@pytest.mark.parametrize("kind", [Linear, Ridge, KNN], ids=lambda k: k.__name__)
def test_a_dominated_model_changes_no_decision(task, shared, fitted, kind):
    queries, quality, usd = task
    models = (*MODELS, "poor")
    poor = (
        np.column_stack([quality, np.zeros(len(quality))]),
        np.column_stack([usd, 2 * usd.max(1)]),
    )
    more = kind(shared).fit(queries[:TRAIN], table_of(queries, *poor, models))
    for lam in (0.0, 10.0, 100.0):
        before = fitted[kind].at(lam).route(queries[TRAIN:], pool_of(MODELS)).choice
        after = more.at(lam).route(queries[TRAIN:], pool_of(models)).choice
        same = (before == after).mean()
        assert same == 1 if kind is Linear else same > 0.97


@every
def test_decisions_follow_the_price_of_money(task, fitted, kind):
    queries, _, usd = task
    test, router, pool = queries[TRAIN:], fitted[kind], pool_of(MODELS)
    quality, cost = router.predict(test)
    assert (cost > 0).all()
    np.testing.assert_allclose(cost.mean(0), usd.mean(0), rtol=0.05)
    rows = np.arange(len(test))
    chosen = [router.at(lam).route(test, pool).choice for lam in (0, 1, 10, 100, 1e3, 1e7)]
    np.testing.assert_allclose(quality[rows, chosen[0]], quality.max(1), atol=1e-9)
    paid = [cost[rows, c].mean() for c in chosen]
    assert (np.diff(paid) <= 1e-12).all()
    assert paid[-1] < paid[0] / 2
    np.testing.assert_allclose(cost[rows, chosen[-1]], cost.min(1), rtol=1e-6)


@every
def test_one_query_and_a_smaller_pool(task, fitted, kind):
    queries, router = task[0][TRAIN:], fitted[kind]
    q, c = router.predict(queries)
    one, price = router.predict(queries[7:8])
    np.testing.assert_allclose(one[0], q[7], atol=1e-5)
    np.testing.assert_allclose(price[0], c[7], rtol=1e-4)
    assert len(router.route([], pool_of(MODELS)).choice) == 0
    assert set(router.route(queries, pool_of(("words",))).choice) == {0}
    two = router.route(queries, pool_of(("both", "sums"))).choice
    np.testing.assert_array_equal(two == 0, q[:, 2] > q[:, 0])


@every
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_few_queries_and_constant_outcomes(task, shared, kind, rows):
    queries, _, usd = task
    for models in (("a",), ("a", "b")):
        right = np.ones((rows, len(models)))
        right[:, -1] = 0
        table = table_of(queries[:rows], right, usd[:rows, : len(models)], models)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made = kind(shared).fit(queries[:rows], table)
            quality, cost = made.predict(queries[50:60])
        assert quality.shape == (10, len(models)) == cost.shape
        np.testing.assert_allclose(quality, np.tile(right[0], (10, 1)), atol=0.35)
        assert (cost > 0).all()
        assert (quality.argmax(1) == 0).all()


@every
def test_a_model_with_few_outcomes_is_taken_and_one_with_none_refused(task, shared, kind):
    quality = task[1].copy()
    quality[:, 2] = np.nan
    with pytest.raises(RouterError, match="no outcome of both on these queries; collect it, or"):
        _refit(kind, shared, task, quality)
    quality[[3, 5], 2] = 1, 0
    found = _refit(kind, shared, task, quality).predict(task[0][TRAIN:])
    assert np.isfinite(found).all()


def test_failed_calls_do_not_make_a_model_cheap(task, shared):
    queries, quality, usd = task
    failed = quality.copy()
    failed[::2, 2] = np.nan
    cost = Linear(shared).fit(queries[:TRAIN], table_of(queries, failed, usd)).predict(queries)[1]
    np.testing.assert_allclose(cost[:, 2].mean(), usd[:, 2].mean(), rtol=0.03)


def test_filled_takes_the_mean_of_the_column():
    found = filled(np.array([[1, np.nan], [0, 0.5], [np.nan, 1]]))
    np.testing.assert_allclose(found, [[1, 0.75], [0, 0.5], [0.5, 1]])


def test_linear_is_ridge_at_the_best_leave_one_out():
    from sklearn.linear_model import Ridge as Solver

    rng = np.random.default_rng(0)
    x = rng.standard_normal((25, 6)) + 2
    y = np.stack([x[:, 0] + 0.1 * rng.standard_normal(25), rng.standard_normal(25)], 1)
    alphas = (0.1, 1.0, 10.0, 100.0)
    errors = np.zeros((len(alphas), 2))
    for a, alpha in enumerate(alphas):
        for i in range(25):
            rest = np.arange(25) != i
            left = Solver(alpha).fit(x[rest], y[rest]).predict(x[i : i + 1])[0]
            errors[a] += (left - y[i]) ** 2 / 25
    best = errors.argmin(0)
    assert best[0] < best[1], "a signal wants less of a penalty than noise"
    weights, base = linear(x, y, alphas)
    for column, a in enumerate(best):
        wanted = Solver(alphas[a]).fit(x, y[:, column])
        np.testing.assert_allclose(weights[:, column], wanted.coef_, atol=1e-8)
        np.testing.assert_allclose(base[column], wanted.intercept_, atol=1e-8)


def test_linear_router_is_the_same_ridge(task, shared, fitted):
    views = shared.views([q.text for q in task[0]])
    weights, base = linear(views.dense[:TRAIN], task[1][:TRAIN])
    np.testing.assert_allclose(fitted[Linear].predict(task[0])[0], views.dense @ weights + base, atol=1e-6)


def _neighbours(x, y, x0, k, own):
    """The definition: a loop over rows."""
    mean, out = np.nanmean(y, 0), []
    for i, row in enumerate(x):
        near = x0 @ row / np.linalg.norm(x0, axis=1) / np.linalg.norm(row)
        if own:
            near[i] = -2
        at = np.argsort(-near, kind="stable")[: min(k, len(x0) - own)]
        known = ~np.isnan(y[at])
        out.append((np.nansum(y[at], 0) + 5 * mean) / (known.sum(0) + 5))
    return np.array(out)


@pytest.mark.parametrize("rows", [12, 60])
def test_neighbours_and_their_number_by_brute_force(rows):
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, 5)).astype(np.float32)
    y = (x[:, :2] + 0.5 * rng.standard_normal((rows, 2)) > 0).astype(float)
    y[rng.random(y.shape) < 0.2] = np.nan
    router = KNN(ks=(1, 3, 8, 40))
    router.learn(Views(x, x), y)
    errors = [np.nanmean((_neighbours(x, y, x, k, True) - y) ** 2) for k in router.ks]
    assert router.values["k"] == router.ks[int(np.argmin(errors))]
    new = rng.standard_normal((9, 5)).astype(np.float32)
    np.testing.assert_allclose(
        router.estimate(Views(new, new)),
        _neighbours(new, y, x, router.values["k"], False),
        atol=1e-5,
    )


def test_a_question_is_not_its_own_neighbour_beyond_the_first_thousand():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1300, 5)).astype(np.float32)
    y = rng.integers(0, 2, (1300, 1)).astype(float)  # noise: one's own outcome would be the best neighbour
    router = KNN(ks=(1, 600))
    router.learn(Views(x, x), y)
    own = [np.nanmean((m - y)[1000:] ** 2) for m in router._means(router.arrays["x"], (1,), leave_out=True)]
    assert own[0] > 0.25
    assert router.values["k"] == 600


def test_the_penalty_of_ridge_is_chosen_on_rows_it_is_not_fitted_on(shared):
    rng, texts = np.random.default_rng(0), [q.text for q in topics(600)[0]]
    router = Ridge(alphas=(0.1, 1000))
    router.learn(shared.views(texts), (rng.random((600, 2)) < 0.5).astype(float))
    assert router.values["alpha"] == 1000, "on noise the largest penalty has the least error"


def test_a_predicted_cost_is_at_least_half_of_the_least_seen(task, shared):
    queries, quality, _ = task
    usd = np.where(np.arange(600)[:, None] % 50 == 0, 1.0, 0.01) * [1, 2, 3]
    router = Linear(shared).fit(queries[:TRAIN], table_of(queries, quality, usd))
    router._cost = router._cost[0] * 1e6, router._cost[1], router._cost[2]  # a prediction that is far off
    np.testing.assert_allclose(router.predict(queries)[1].min(0), np.array([1, 2, 3]) * 0.005, rtol=1e-5)


def test_a_seed_reaches_the_members_of_a_blend(task, shared):
    views = shared.views([q.text for q in task[0][:100]])
    blend, forest = Blend(members=(Forest(trees=3),)), Forest(trees=3)
    blend.seed = forest.seed = 7
    for router in (blend, forest):
        router.learn(views, task[1][:100])
    np.testing.assert_array_equal(blend.members[0].arrays["threshold"], forest.arrays["threshold"])


def test_all_rows_are_neighbours_when_fewer_than_k():
    x = np.eye(3, dtype=np.float32)
    router = KNN(ks=(10,))
    router.learn(Views(x, x), np.array([[1.0], [1.0], [0.0]]))
    np.testing.assert_allclose(router.estimate(Views(x, x)), 2 / 3, rtol=1e-6)


def test_logistic_is_the_minimum_of_its_loss():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 4))
    y = (x[:, :1] + rng.standard_normal((80, 1)) > 0.3).astype(float)
    router = Logistic(alpha=3.0)
    router.learn(Views(x, x), y)
    wanted = LogisticRegression(C=1 / 3, tol=1e-10).fit(x, y[:, 0])
    np.testing.assert_allclose(router.arrays["w"][:-1, 0], wanted.coef_[0], atol=1e-3)
    np.testing.assert_allclose(router.arrays["w"][-1], wanted.intercept_, atol=1e-3)
    half = np.full((80, 1), 0.5)
    router.learn(Views(x, x), half)
    np.testing.assert_allclose(router.estimate(Views(x, x)), 0.5, atol=1e-6)


@pytest.mark.parametrize("models", [1, 3])
def test_forest_predicts_what_its_trees_do(models):
    from sklearn.ensemble import ExtraTreesRegressor

    rng = np.random.default_rng(0)
    x = rng.standard_normal((150, 7)).astype(np.float32)
    x[:, 3] = np.round(x[:, 3])  # ties at thresholds
    y = (x[:, :models] > 0).astype(float)
    router = Forest(trees=12)
    router.learn(Views(x, x), y)
    wanted = ExtraTreesRegressor(12, min_samples_leaf=5, max_features=0.3, random_state=0)
    wanted.fit(x, y[:, 0] if models == 1 else y)
    new = np.vstack([x, rng.standard_normal((200, 7)).astype(np.float32)])
    np.testing.assert_allclose(router.estimate(Views(new, new)), wanted.predict(new).reshape(-1, models), atol=1e-6)


def test_boosting_predicts_what_its_ensembles_do_and_copies_whole(task, shared, fitted):
    import lightgbm

    router, x = fitted[Boosting], shared.views([q.text for q in task[0][TRAIN:]]).dense
    for column, text in enumerate(router.values["trees"]):
        wanted = lightgbm.Booster(model_str=text).predict(x)
        np.testing.assert_array_equal(router.predict(task[0][TRAIN:])[0][:, column], wanted)
    twin = copy.deepcopy(router)
    assert twin.models == router.models
    np.testing.assert_array_equal(twin.predict(task[0][TRAIN:])[0], router.predict(task[0][TRAIN:])[0])


def test_blend_weighs_its_members_by_what_they_did_unseen(task, shared):
    queries, quality, _ = task
    views = shared.views([q.text for q in queries[:TRAIN]])
    y = quality[:TRAIN].copy()
    y[np.random.default_rng(0).random(y.shape) < 0.1] = np.nan
    members = Linear(), KNN(), Logistic()
    made = Blend(members=members)
    made.learn(views, y)
    weights = made.arrays["weights"]
    assert (weights >= 0).all()
    assert weights.max() > 0.2
    fold = np.random.default_rng(0).permutation(TRAIN) % 4
    unseen = np.zeros((len(members), *y.shape))
    for number, member in enumerate(members):
        for k in range(4):
            part = copy.deepcopy(member)
            part.learn(views.rows(fold != k), y[fold != k])
            unseen[number, fold == k] = part.estimate(views.rows(fold == k))
    mean = np.nanmean(y, 0)
    blended = mean + np.tensordot(weights, unseen - mean, 1)
    alone = [np.nanmean((u - y) ** 2) for u in [*unseen, np.broadcast_to(mean, y.shape)]]
    assert np.nanmean((blended - y) ** 2) <= min(alone) + 1e-9
    wanted = mean + sum(w * (m.estimate(views) - mean) for w, m in zip(weights, made.members, strict=True))
    np.testing.assert_allclose(made.estimate(views), wanted)
    assert not members[0].arrays, "the members it was given stay as they were"


def test_blend_of_noise_is_the_mean(task, shared):
    queries, quality, _ = task
    views = shared.views([q.text for q in queries[:TRAIN]])
    shuffled = np.random.default_rng(5).permutation(quality[:TRAIN])
    made = Blend(members=(Linear(), KNN(), Logistic()))
    made.learn(views, shuffled)
    assert made.arrays["weights"].sum() < 0.35
    np.testing.assert_allclose(made.estimate(views).mean(0), shuffled.mean(0), atol=0.02)
    assert made.estimate(views).std(0).max() < 0.05


def test_given_features_are_not_fitted_again_and_own_ones_are(task):
    queries, quality, usd = task
    table = table_of(queries, quality, usd)
    with pytest.raises(ValueError, match=r"seen no texts yet; call fit\(texts\) first"):
        Linear(Tfidf()).fit(queries[:50], table)
    own = Linear().fit(queries[:50], table)
    words = set(own.features.state()[1]["vocabulary"][0])
    assert own.features.views([queries[0].text]).dense.shape[1] == 49 + 8
    own.fit(queries[50:100], table)
    assert words != set(own.features.state()[1]["vocabulary"][0])


def test_at_another_price_the_router_itself_stays(task, fitted):
    router = fitted[Linear]
    dear = router.at(1e9)
    assert (router.lam, dear.lam) == (0.0, 1e9)
    assert dear.arrays is router.arrays
    with pytest.raises(RouterError, match=r"linear has learned nothing yet; call fit\("):
        Linear().predict(task[0][:1])


def test_a_blend_predicts_categories_only_where_the_table_has_them(task, shared):
    queries, quality, usd = task
    named = [Query.ask(q.text, meta={"topic": q.text.split()[0]}) for q in queries]
    for asked, members in ((queries, 4), (named, 5)):
        router = Blend(shared).fit(asked[:TRAIN], table_of(asked, quality, usd))
        assert len(router.members) == members == len(router.arrays["weights"])
        assert np.isfinite(router.predict(asked[TRAIN:])[0]).all()


@pytest.mark.parametrize("name", ["kss", "fit", "_shrink", "arrays"])
def test_a_setting_that_the_router_lacks_is_refused(name):
    with pytest.raises(TypeError, match=f"KNN has no setting '{name}'"):
        KNN(**{name: 3})
