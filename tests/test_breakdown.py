"""What a router calls, where it is good and where its money goes add up to what it was scored with."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from routerlab import Run
from routerlab.contest import breakdown
from routerlab.contest.run import contest
from routerlab.routers import store
from routerlab.routers.protocol import RouterError


@pytest.fixture(scope="module")
def made(pocket):
    kept = [q for i, q in enumerate(pocket.queries) if i % 5 == 0]
    part = pocket._replace(queries=kept, table=pocket.table.select([q.id for q in kept]))
    return contest(part, ["linear", "cascade", "length"])


def test_shares_are_of_the_calls_that_were_made(made):
    entry = made.chosen("linear")[0]
    shares = breakdown.shares(made, entry)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert list(shares.columns) == list(made.test.table.models)
    assert shares.iloc[3, 2] == np.mean(entry.choice[3] == 2)


def test_money_adds_up_and_a_cascade_pays_for_what_it_drops(made):
    entries = made.chosen("linear", "cascade")
    usd, own = breakdown.spent(made, entries)
    for entry in entries:
        at = entry.at_least(made.single_validation)
        assert usd.loc[entry.name].sum() + own[entry.name] == pytest.approx(entry.usd[at].mean())
    assert own["linear"] == pytest.approx(0, abs=1e-12)
    assert own["cascade"] > 0


def test_domains_by_hand(made):
    mean, low, high = breakdown.by_domain(made, made.chosen("linear"))
    entry = made.chosen("linear")[0]
    kinds = np.array([q.meta["family"] for q in made.test.queries])
    mix = breakdown._at_cost(entry, made.equal_usd)
    assert mix.of(entry.validation[1]) == pytest.approx(made.equal_usd), "all routers are compared at one cost"
    right = mix.of(entry.quality.T)
    for kind in np.unique(kinds):
        assert mean.loc[kind, "linear"] == pytest.approx(right[kinds == kind].mean())
    assert (low <= mean + 1e-12).all(axis=None)
    assert (mean <= high + 1e-12).all(axis=None)
    with pytest.raises(RouterError, match="no kind of question in meta"):
        breakdown.by_domain(dataclasses.replace(made, category=None), [])


def test_the_gain_of_the_mix_is_nothing_and_that_of_a_router_is_by_hand(made):
    mix, entry = made.mix, made.chosen("linear")[0]
    (own,) = breakdown.gains(made, [mix])
    np.testing.assert_allclose(own.quality, 0, atol=1e-12)
    (gain,) = breakdown.gains(made, [entry])
    order = np.argsort(mix.usd.mean(1))
    at = np.interp(entry.usd.mean(1), mix.usd.mean(1)[order], mix.quality.mean(1)[order])
    np.testing.assert_allclose(gain.quality, entry.quality.mean(1) - at, atol=1e-9)
    assert (gain.quality_low <= gain.quality + 1e-12).all()
    frontier = made.frontier(entry)
    wide = (frontier.quality_high - frontier.quality_low).mean()
    assert (gain.quality_high - gain.quality_low).mean() < wide, "differences on the same questions are more certain"


def test_the_order_of_validation_does_not_look_at_the_test(made):
    other = dataclasses.replace(made, quality=1 - made.quality, usd=made.usd[::-1] * 3)
    assert [e.name for e in made.chosen()] == [e.name for e in other.chosen()]


def test_a_contest_is_kept_with_its_routers(made, tmp_path):
    folder = breakdown.keep(made, Run(tmp_path / "kept"), made.table(resamples=50))
    points = pd.read_csv(folder / "points.csv")
    assert set(points["name"]) == {*(e.name for e in made.entries), "random mix", "best fixed model"}
    linear = made.chosen("linear")[0]
    again = store.load(folder / "routers" / "linear")
    np.testing.assert_allclose(
        again.predict(made.test.queries[:20])[0], linear.router.predict(made.test.queries[:20])[0]
    )
