"""Pools against the price lists that are installed, and the published pools as they are committed."""

import dataclasses
import re
import socket

import pytest

from routerlab.core.pools import Pool
from routerlab.sources.prices import Difference, compare, report


def check(pool):
    """Every disagreement of the pool's cards with the lists, and the models that a list does not know."""
    return [difference for difference in compare(pool) if not difference.agrees]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a price check must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def xrouter():
    return Pool.load("xrouter")


def changed(pool, model, **values):
    return Pool(pool.name, [dataclasses.replace(c, **values) if c.id == model else c for c in pool])


def test_the_published_pool(xrouter):
    assert len(xrouter) == 18
    assert [len(xrouter.sets[s]) for s in ("set1", "set2", "set3")] == [9, 14, 4]
    assert {t: len(xrouter.tier(t)) for t in ("premium", "standard", "budget", "specialized")} == {
        "premium": 5,
        "standard": 5,
        "budget": 4,
        "specialized": 4,
    }
    # Where the published README and catalogue differ, the README's tier stands.
    assert (xrouter["gpt-4.1-mini"].tier, xrouter["deepseek-r1"].tier) == ("standard", "specialized")
    assert (xrouter["gpt-5"].usd_per_mtok_in, xrouter["gpt-5"].usd_per_mtok_out) == (1.25, 10)
    assert xrouter["gpt-4.1-nano"].usd_per_mtok_out == 0.4


def test_committed_pools_disagree_with_no_list_that_knows_them(xrouter):
    for pool in (xrouter, Pool.load("duo")):
        assert [d for d in check(pool) if d.field != "model"] == []
    unknown = {d.model for d in check(xrouter) if d.field == "model" and d.source == "litellm"}
    assert unknown == {
        "qwen3-235b-instruct",
        "qwen3-235b-thinking",
        "deepseek-r1",
        "deepseek-r1-tput",
    }


def test_the_published_slip_is_found_by_both_lists(xrouter):
    found = [d for d in check(changed(xrouter, "gpt-4.1-nano", usd_per_mtok_out=1.40)) if d.field != "model"]
    assert found == [
        Difference("gpt-4.1-nano", "usd_per_mtok_out", 1.4, 0.4, "litellm"),
        Difference("gpt-4.1-nano", "usd_per_mtok_out", 1.4, 0.4, "genai-prices"),
    ]
    shown = report(found)
    assert "gpt-4.1-nano: usd_per_mtok_out is 1.4 here, 0.4 in litellm" in shown


def test_every_field_is_compared(xrouter):
    for field in ("usd_per_mtok_in", "usd_per_mtok_out", "usd_per_mtok_cached_in"):
        found = check(changed(xrouter, "o3", **{field: 99.0}))
        assert {(d.field, d.source) for d in found if d.model == "o3"} == {
            (field, "litellm"),
            (field, "genai-prices"),
        }
    absent = check(changed(xrouter, "o3", usd_per_mtok_cached_in=None))
    assert {(d.field, d.ours, d.theirs) for d in absent if d.model == "o3"} == {("usd_per_mtok_cached_in", None, 0.5)}


def test_an_unknown_model_is_said_to_be_unknown():
    found = check(Pool.load("pocket"))
    assert {d.field for d in found} == {"model"}
    assert {d.source for d in found} == {"litellm", "genai-prices"}
    assert len(found) == 12
    assert "unknown to litellm: pocket-nano" in report(found)
    assert report([]) == "no disagreement"


def test_it_says_how_many_prices_agree(xrouter):
    dear = changed(xrouter, "gpt-4.1-nano", usd_per_mtok_out=1.40)
    good, bad = report(compare(xrouter)).splitlines(), report(compare(dear)).splitlines()
    for source in ("litellm", "genai-prices"):
        all_agree = next(line for line in good if line.startswith(f"{source}: "))
        listed = int(re.fullmatch(rf"{source}: (\d+) of \1 listed prices agree", all_agree)[1])
        assert listed >= 20
        assert f"{source}: {listed - 1} of {listed} listed prices agree" in bad
    assert "litellm: 0 of 0 listed prices agree" in report(compare(Pool.load("pocket")))
