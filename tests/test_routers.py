import numpy as np
import pytest

from routerlab import OutcomeTable, Pool, Query
from routerlab.pools import PoolError
from routerlab.routers.baselines import Always, FamilyLookup
from routerlab.routers.learned import TfidfRidge
from routerlab.routers.protocol import Router, RouterError


@pytest.fixture(scope="module")
def fitted(pocket):
    train = pocket.split("train")
    return {c: c().fit(train.queries, train.table) for c in (FamilyLookup, TfidfRidge)}


def test_the_lookup_is_the_mean_of_the_family(pocket, fitted):
    train, lookup = pocket.split("train"), fitted[FamilyLookup]
    quality, usd = lookup.predict(train.queries[:1])
    same = [q.meta["family"] == train.queries[0].meta["family"] for q in train.queries]
    np.testing.assert_allclose(
        quality[0], train.table.matrix(samples=None)[same].mean(0), rtol=1e-5
    )
    np.testing.assert_allclose(usd[0], train.table.matrix("usd", None)[same].mean(0), rtol=1e-5)
    stranger = Query.ask("never seen")
    np.testing.assert_allclose(
        lookup.predict([stranger])[0][0], train.table.matrix(samples=None).mean(0), rtol=1e-4
    )


@pytest.mark.parametrize("kind", [FamilyLookup, TfidfRidge])
def test_routers_follow_the_protocol_and_the_price_of_money(pocket, fitted, kind):
    test, router = pocket.split("test"), fitted[kind]
    assert isinstance(router, Router)
    cost = test.table.matrix("usd")
    rows = np.arange(len(cost))
    spent = []
    for lam in (0.0, 1e3, 1e4, 1e5, 1e9):
        made = router.at(lam).route(test.queries, pocket.pool)
        assert made.queries == tuple(q.id for q in test.queries)
        spent.append(cost[rows, made.choice].mean())
    assert spent[0] > spent[2] > spent[-1]
    assert router.lam == 0.0, "at() leaves the router as it was"
    quality, _ = router.predict(test.queries)
    best = np.take_along_axis(quality, router.route(test.queries, pocket.pool).choice[:, None], 1)[
        :, 0
    ]
    np.testing.assert_allclose(best, quality.max(1), err_msg="lam 0 takes the best quality")


def test_a_smaller_pool_is_respected_and_an_unknown_model_refused(pocket, fitted):
    router, queries = fitted[TfidfRidge], pocket.queries[:50]
    part = router.route(queries, pocket.pool.subset("duo"))
    assert part.models == ("pocket-mini", "pocket-max")
    stranger = Pool("s", [*pocket.pool, *[_renamed(pocket.pool.cards[0], "new")]])
    with pytest.raises(PoolError, match="learned nothing about 'new'; it knows pocket-nano"):
        router.route(queries, stranger)
    with pytest.raises(RouterError, match=r"call fit\(queries, table\) first"):
        TfidfRidge().predict(queries)


def _renamed(card, name):
    import dataclasses

    return dataclasses.replace(card, id=name)


def test_reading_the_text_finds_what_the_text_decides():
    rng = np.random.default_rng(0)
    queries = [
        Query.ask(f"{'add' if i % 2 else 'spell'} item {rng.integers(1e6)}") for i in range(400)
    ]
    right = np.array([[i % 2, 1 - i % 2] for i in range(400)])
    table = OutcomeTable(
        {
            "query": [q.id for q in queries for _ in range(2)],
            "model": ["m", "w"] * 400,
            "grade": np.where(right.ravel(), "CORRECT", "INCORRECT").tolist(),
            "quality": right.ravel().astype(float).tolist(),
            "usd": [0.1, 0.2] * 400,
        }
    )
    router = TfidfRidge().fit(queries[:200], table)
    quality, usd = router.predict(queries[200:])
    assert (quality.argmax(1) == right[200:].argmax(1)).all()
    np.testing.assert_allclose(usd.mean(0), [0.1, 0.2], rtol=0.02)
    assert repr(router) == "TfidfRidge(lam=0, 2 models)"


def test_always(pocket):
    made = Always("pocket-max").route(pocket.queries[:3], pocket.pool)
    assert made.shares()["pocket-max"] == 1.0
    with pytest.raises(PoolError, match="'gpt-9' is not in pool 'pocket'"):
        Always("gpt-9").route(pocket.queries, pocket.pool)
