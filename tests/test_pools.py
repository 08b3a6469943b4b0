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
        ("{cheap: [small]}", "{cheap: [[small]]}", "'sets' is a mapping of names to lists of models"),
        ("{cheap: [small]}", "{4: [small]}", "'sets' is a mapping of names to lists of models"),
        ("provider_id: p/small", "provider_id: 4", "'small': provider_id is 4; give text, in quotes"),
        ("provider_id: p/small", "provider_id: ''", "'small': provider_id is ''; give text"),
        ("context: 1000}", f"context: 1{'0' * 400}}}", "'big': context is a number of more than 30 digits; give"),
        ("context: 1000}", "context: 1000.0}", "'big': context is 1000.0; give"),
        ("context: 1000}", f"context: 1{'0' * 5000}}}", r"is not YAML \(Exceeds the limit"),
        ("usd_per_mtok_out: 8", f"usd_per_mtok_out: 1{'0' * 400}", "'big': usd_per_mtok_out is a number of more than"),
        ("as_of: 2026-01-02", "as_of: 2026-02-30", "is not YAML"),
        ("strengths: [code]", "strengths: [[code]]", "'small': strengths are .*; give a list of words"),
        ("strengths: [code]", "strengths: {code: 1}", "'small': strengths are .*; give a list of words"),
        ("strengths: [code]", "description: 5", "'small': description is 5; give text"),
        ("strengths: [code]", "base_url: localhost:8000/v1", "'small': base_url is .*begins with http:// or https://"),
        ("strengths: [code]", "key_env: sk-secret", "'small': key_env is not the name of an environment variable"),
        ("name: duo", "name: [duo]", "the pool's name is .*; give text"),
        ("tier: budget", "tier: {a: b}", "'small': tier .* is not one of premium"),
        ("strengths: [code]", "4: code", "'small' has unknown field 4"),
    ],
)
def test_a_bad_pool_is_refused_with_the_cure(load, old, new, message):
    assert old in GOOD
    with pytest.raises(PoolError, match=message):
        load(GOOD.replace(old, new))


@pytest.mark.parametrize("deep", ["[" * 5000, "a: " + "{a: " * 5000, "- " * 5000])
def test_a_pool_without_end_is_refused_in_one_line(load, deep):
    with pytest.raises(PoolError, match=r"duo.yaml is (nested too deep for a pool|not YAML)[^\n]*$"):
        load(f"models: {deep}" if deep[0] != "-" else deep)


def test_a_model_may_have_a_server_of_its_own(load):
    pool = load(GOOD.replace("strengths: [code]", "base_url: 'http://127.0.0.1:8000/v1', key_env: MY_KEY_2"))
    assert (pool["small"].base_url, pool["small"].key_env) == ("http://127.0.0.1:8000/v1", "MY_KEY_2")
    assert (pool["big"].base_url, pool["big"].key_env) == ("", "")
    assert load(pool.to_yaml())["small"] == pool["small"]
    assert "base_url" not in pool.subset(["big"]).to_yaml()
    with pytest.raises(PoolError) as error:
        load(GOOD.replace("strengths: [code]", "key_env: sk-secret"))
    assert "sk-secret" not in str(error.value), "a key that was pasted by mistake is not shown"


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
