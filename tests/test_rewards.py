"""Rewards by hand, the published edge cases, and what groups do to small differences."""

import numpy as np
import pytest

from routerlab.label.rewards import (
    RewardError,
    Step,
    advantages,
    gated,
    linear,
    normalised,
    resolve,
)


def test_linear_and_gated_by_hand():
    assert linear(1, 0.05, lam=3) == pytest.approx(0.85)
    assert linear([1, 0], [0.1, 0.1], lam=2) == pytest.approx([0.8, -0.2])
    assert gated(1, 0.05) == pytest.approx(0.85)
    assert gated(1, 1.0) == pytest.approx(0.2)
    assert gated(0, 1.0) == 0
    assert gated(1, 0.8 / 3) == gated(1, 50) == pytest.approx(0.2), "spending is free beyond the cap"
    assert gated(1, 0.3, lam=2, cost_max=0.6) == pytest.approx(0.4)
    for bad in (gated, normalised):
        with pytest.raises(RewardError, match="below 0"):
            bad(1, -0.1) if bad is gated else bad(-0.1)


def test_units():
    assert normalised(0.2) == 0.2
    assert normalised([0.1, 0.2], "share", dearest_usd=[0.2, 0.4]) == pytest.approx([0.5, 0.5])
    assert normalised(0, "log") == 0
    assert normalised(1e-6 * (np.e - 1), "log") == pytest.approx(1)
    share = linear(1, normalised(0.1, "share", dearest_usd=0.2), lam=0.5)
    dear = linear(1, normalised(10, "share", dearest_usd=20), lam=0.5)
    assert share == dear == 0.75, "the price level does not matter"
    for arguments, words in (((1, "euro"), "no unit"), ((1, "share"), "needs dearest_usd")):
        with pytest.raises(RewardError, match=words):
            normalised(*arguments)


def call(turn, usd, answer="right", number=0):
    return Step("call", turn, answer, number, usd)


OWN = 0.001  # what the router's own tokens cost
CASES = {  # steps -> (reward in agent mode, in simple mode); the answer "right" is right, lam is 3
    "direct answer": ([Step("text", 1, "right")], 1, 1),
    "call, then a summary": ([call(1, 0.05), Step("text", 2, "right")], 0.85, 0.85),
    "call, then select": ([call(1, 0.05), Step("select", 2, number=0)], 0.85, 0.85),
    "failed call, then direct": ([call(1, 0, None), Step("text", 2, "right")], 1, 1),
    "failed but billed call": ([call(1, 0.05, None), Step("text", 2, "right")], 0.85, 0.85),
    "a dollar": ([call(1, 1.0), Step("text", 2, "right")], 0.2, 0.2),
    "ends on a call": ([call(1, 0.05)], 0.85, 0.85),
    "call and select in one turn": ([call(1, 0.05), Step("select", 1, number=0)], 0.85, 0.85),
    "select before its call": ([Step("select", 1, number=0), call(1, 0.05)], 0.85, 0.85),
    "select of nothing": ([call(1, 0.05), Step("select", 2, number=7)], 0, 0.85),
    "unknown tool, then direct": ([Step("unknown", 1), Step("text", 2, "right")], 1, 1),
    "unknown tool for ever": ([Step("unknown", 1), Step("unknown", 2)], 0, 0),
    "two calls": ([call(1, 0.05, "wrong"), call(2, 0.05, "right", 1)], 0.7, 0),
    "said beside its call": ([Step("text", 1, "let me ask"), call(1, 0.05)], 0.85, 0.85),
    "said beside a failed call": ([Step("text", 1, "right"), call(1, 0, None)], 0, 0),
    "said beside a select of nothing": (
        [call(1, 0.05), Step("select", 2, number=7), Step("text", 2, "right")],
        0,
        0.85,
    ),
    "two calls at once": ([call(1, 0.05), call(1, 0.1, "wrong", 1)], 0, 0.55),
    "wrong summary of a right call": ([call(1, 0.05), Step("text", 2, "wrong")], 0, 0.85),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", ["agent", "simple"])
def test_each_edge_case(name, mode):
    steps, agent, simple = CASES[name]
    found = resolve(steps, mode)
    assert gated(float(found.answer == "right"), found.usd) == pytest.approx(agent if mode == "agent" else simple)
    own = resolve(steps, mode, router_usd=OWN)
    assert own.usd == pytest.approx(found.usd + OWN)
    assert found.valid == (found.answer is not None)


def test_how_it_ended_is_said():
    assert resolve(CASES["ends on a call"][0]).how == "last_call"
    assert resolve(CASES["ends on a call"][0], "simple").how == "call"
    bad = resolve(CASES["select of nothing"][0])
    assert (bad.answer, bad.valid, bad.how) == (
        None,
        False,
        "selected a response that is not there",
    )
    assert not resolve(CASES["unknown tool for ever"][0]).valid
    assert resolve(CASES["two calls"][0]).usd == pytest.approx(0.1)
    assert resolve(CASES["two calls"][0], "simple").usd == pytest.approx(0.05), "it ended there"
    with pytest.raises(RewardError, match="did not fit"):
        resolve([])
    with pytest.raises(RewardError, match="no mode"):
        resolve([Step("text", 1, "x")], "agents")


def test_the_router_is_free_unless_its_cost_is_given():
    assert resolve([Step("text", 1, "x")]).usd == 0
    assert resolve([Step("text", 1, "x")], router_usd=0.3).usd == 0.3
    assert Step("text", 1).usd == 0


def test_advantages_divide_by_the_sample_deviation_by_hand():
    assert advantages(np.array([[0.0, 2.0]]))[0] == pytest.approx([-(0.5**0.5), 0.5**0.5])


def test_published_defaults_of_the_gated_reward():
    assert gated(1, 0.1) == pytest.approx(1 - 3 * 0.1)
    assert gated(1, 9.0) == pytest.approx(1 - 0.8)
    assert gated(1, 0.1, k=2.0) == pytest.approx(1.7)
    assert normalised(1.0, "log") == pytest.approx(np.log(1 + 1e6))


def test_a_fraction_of_a_cent_is_not_blown_up():
    cheap, dear = gated(1, np.array([0.0001, 0.0001, 0.0001, 0.0002])), gated([1, 1, 0, 0], 0.0001)
    groups = np.array([cheap, dear])
    assert np.ptp(cheap) == pytest.approx(3e-4)
    blown = advantages(groups)
    assert np.abs(blown[0]).max() > np.abs(blown[1]).max(), "a hundredth of a cent beats right or wrong"
    floored, plain = advantages(groups, std_floor=0.1), advantages(groups, scale="none")
    for tame in (floored, plain):
        assert np.abs(tame[0]).max() < 0.01 * np.abs(tame[1]).max()
    assert plain == pytest.approx(groups - groups.mean(1, keepdims=True))
    assert advantages(np.ones((1, 4))) == pytest.approx(np.zeros((1, 4)))
    assert blown.sum(1) == pytest.approx([0, 0], abs=1e-9)
    with pytest.raises(RewardError, match="groups x rollouts"):
        advantages(np.ones(4))
