"""The policy view of two models: policies from probabilities, and what routing by them is worth, by hand."""

import json

import numpy as np
import pytest

from routerlab import recorded
from routerlab.contest import two_models
from routerlab.contest.run import contest
from routerlab.label.oracle import Policy
from routerlab.routers.protocol import RouterError

MEDIUM, LARGE = "pocket-max", "pocket-think"


@pytest.fixture(scope="module")
def results():
    return contest(recorded("pocket"), ["ridge", "length"])


def test_the_likeliest_policy_by_hand():
    # Chances of (Standard, Complex, Ambiguous): (.6, .2, .2), (.2, .56, .24), (.1, .09, .81), a tie of .5 and .5.
    medium, large = np.array([0.6, 0.2, 0.1, 0.5]), np.array([0.5, 0.7, 0.1, 1.0])
    expected = [Policy.STANDARD, Policy.COMPLEX, Policy.AMBIGUOUS, Policy.STANDARD]
    assert two_models.likeliest(medium, large).tolist() == expected


def test_fixed_policies_are_the_fixed_models(results):
    columns = [results.test.table.models.index(m) for m in (MEDIUM, LARGE)]
    quality, usd = results.quality[:, columns].mean(0), results.usd[:, columns].mean(0)
    for policy, column in ((Policy.COMPLEX, 1), (Policy.STANDARD, 0), (Policy.AMBIGUOUS, 0)):
        report = two_models.policy_report(results, [policy] * len(results.quality), MEDIUM, LARGE, resamples=50)
        line, fixed = report.routing.loc["policies"], report.routing.iloc[1 + column]
        assert line["right"].mean == pytest.approx(quality[column])
        assert line["saving"].mean == pytest.approx(1 - usd[column] / usd[1])
        assert all(line[c] == fixed[c] for c in report.routing)
        assert report.by_policy.loc[policy.value, "share"].mean == 1
        assert report.by_policy.loc[policy.value, f"{MEDIUM} right"] == pytest.approx(quality[0])


def test_policies_of_a_router_beat_both_models_and_not_the_oracle(results):
    (ridge,) = results.chosen("ridge")
    policies = two_models.policies_of(results, ridge, MEDIUM, LARGE)
    report = two_models.policy_report(results, policies, MEDIUM, LARGE)
    right = {name: line["right"] for name, line in report.routing.iterrows()}
    assert right["policies"].mean > max(right[f"always {m}"].mean for m in (MEDIUM, LARGE))
    assert report.routing.loc["policies", f"right less {LARGE}'s"].low > 0
    assert right["oracle's policies"].mean > right["policies"].mean
    by = report.by_policy
    assert sum(s.mean for s in by["share"]) == pytest.approx(1)
    assert by.loc["Complex_Query", f"{LARGE} right"] > by.loc["Complex_Query", f"{MEDIUM} right"]
    shuffled = list(np.random.default_rng(0).permutation(policies))
    luck = two_models.policy_report(results, shuffled, MEDIUM, LARGE).routing.loc["policies", "right"]
    assert luck.high < right["policies"].low, "the same shares at random are worse"
    written = json.loads(report.as_json())
    assert written["routing"]["policies"]["saving"] == list(report.routing.loc["policies", "saving"])
    assert written["published saving"] == [0.4, 0.6]


def test_another_map_needs_no_other_policies(results):
    policies = [Policy.AMBIGUOUS] * len(results.quality)
    models = {Policy.STANDARD: MEDIUM, Policy.COMPLEX: LARGE, Policy.AMBIGUOUS: LARGE}
    report = two_models.policy_report(results, policies, MEDIUM, LARGE, models, resamples=50)
    assert report.routing.loc["policies", "saving"].mean == 0
    with pytest.raises(RouterError, match="no model 'gpt' in this table; it has pocket-"):
        two_models.policies_of(results, results.entries[0], "gpt", LARGE)
