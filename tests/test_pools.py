import datetime as dt

import numpy as np
import pytest

from routerlab.core.pools import ModelCard, Pool, PoolError

GOOD = """
name: duo
as_of: 2026-01-02
models:
  - {id: big, provider_id: p/big, tier: premium, usd_per_mtok_in: 2, usd_per_mtok_out: 8, context: 1000}
  - {id: small, provider_id: p/small, tier: budget, usd_per_mtok_in: 0.5, usd_per_mtok_cached_in: 0.05,
     usd_per_mtok_out: 1, context: 1000, as_of: 2026-03-04, strengths: [code]}
sets: {cheap: [small]}
"""


@pytest.fixture
def load(tmp_path):
    def make(text):
        path = tmp_path / "duo.yaml"
        path.write_text(text)
        return Pool.load(path)

    return make


def test_a_pool_knows_its_cards_prices_and_sets(load):
    pool = load(GOOD)
    assert pool.ids == ("big", "small")
    assert pool["big"].as_of == dt.date(2026, 1, 2)
    assert pool["small"].as_of == dt.date(2026, 3, 4)
    assert pool["big"].usd(1000, 500) == pytest.approx(0.002 + 0.004)
    assert pool["small"].usd(1000, 0, 400) == pytest.approx((600 * 0.5 + 400 * 0.05) / 1e6)
    assert pool["big"].usd(1000, 0, 400) == pytest.approx(0.002), "no cached price: cached costs what fresh costs"
    assert pool.subset("cheap").ids == ("small",)
    assert pool.subset(["small", "big"]).ids == ("small", "big")
    assert repr(pool) == "Pool('duo', 2 models: big, small)"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "tier: budget",
            "tier: cheap",
            "tier 'cheap' is not one of premium, standard, budget, specialized",
        ),
        ("tier: budget,", "", r"'small' lacks tier \(one of premium"),
        (
            "usd_per_mtok_out: 1,",
            "usd_per_mtok_out: -1,",
            "usd_per_mtok_out is -1; a price is a number",
        ),
        ("usd_per_mtok_out: 1,", "usd_per_mtok_out: .nan,", "a price is a number of dollars"),
        ("usd_per_mtok_out: 1,", "usd_per_mtok_out: cheap,", "a price is a number of dollars"),
        ("id: small", "id: big", "two cards for big"),
        ("strengths: [code]", "strength: [code]", "unknown field strength; known: as_of"),
        (
            "cheap: [small]",
            "cheap: [smal]",
            r"set 'cheap': 'smal' is not in pool 'duo' \(big, small\)",
        ),
        ("as_of: 2026-01-02\n", "", "'big' lacks as_of"),
        ("as_of: 2026-03-04", "as_of: soon", "give the date of its prices as YYYY-MM-DD"),
        ("models:", "model:", "needs a list 'models'"),
        ("name: duo", "name: [", r"is not YAML \([^\n]*\); repair it"),
        ("id: small", "id: 4", "a model's id is 4; give a name, in quotes if it is a number"),
        ("strengths: [code]", "strengths: code", r"give a list, \[code\]"),
        ("{cheap: [small]}", "[small]", "'sets' is a mapping of names to lists of models"),
    ],
)
def test_a_bad_pool_is_refused_with_the_cure(load, old, new, message):
    assert old in GOOD
    with pytest.raises(PoolError, match=message):
        load(GOOD.replace(old, new))


def test_a_pool_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PoolError, match="is not YAML"):
        Pool.load(tmp_path / "x.yaml")


def test_unknown_names_list_the_known(load):
    pool = load(GOOD)
    with pytest.raises(PoolError, match=r"'gpt' is not in pool 'duo' \(big, small\)"):
        pool["gpt"]
    with pytest.raises(PoolError, match="no set 'dear'; its sets: cheap"):
        pool.subset("dear")
    with pytest.raises(PoolError, match="pools there: .*pocket"):
        Pool.load("poket")
    with pytest.raises(PoolError, match="'cheap' is not a tier"):
        pool.tier("cheap")


def test_tier_sampler():
    pool = Pool.load("pocket")
    rng = np.random.default_rng(0)
    counts = {"budget": (1, 1), "specialized": (0, 2), "premium": (1, 9)}
    drawn = [pool.sample(counts, rng) for _ in range(200)]
    assert all(len(p.tier("budget")) == 1 and 1 <= len(p.tier("premium")) <= 2 for p in drawn)
    assert {len(p.tier("specialized")) for p in drawn} == {0, 1, 2}
    assert all(list(p.ids) == [i for i in pool.ids if i in p] for p in drawn), "order is the pool's"
    again = [pool.sample(counts, np.random.default_rng(5)).ids for _ in range(2)]
    assert again[0] == again[1]
    with pytest.raises(PoolError, match=r"cannot draw 2 to 3 of tier 'budget'"):
        pool.sample({"budget": (2, 3)}, rng)


def test_html_is_escaped():
    card = ModelCard("<i>", "p", "budget", 1, 1, 10, dt.date(2026, 1, 1), strengths=("<b>",))
    text = Pool("x", [card])._repr_html_()
    assert "<i>" not in text
    assert "<b>" not in text


def test_a_pool_survives_its_yaml(tmp_path):
    pool = Pool.load("pocket")
    path = tmp_path / "p.yaml"
    path.write_text(pool.to_yaml())
    again = Pool.load(path)
    assert (again.name, again.cards, again.sets) == (pool.name, pool.cards, pool.sets)
