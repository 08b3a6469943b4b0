"""Adaptive tries: the same bands as all tries would give, for fewer calls, and resumable."""

import numpy as np
import pytest
from test_collect import Scripted, two_models

from routerlab import Query, Run
from routerlab.collect.ask import Settings
from routerlab.collect.calls import CallError, Reply, Scope
from routerlab.collect.pass_rates import pass_rates
from routerlab.label.difficulty import difficulty

RATES = (0.0, 0.05, 0.4, 0.95, 1.0)


def say(call):
    """Right with the probability the question names, drawn by question and try."""
    rate = float(call.messages[-1]["content"].split()[0])
    drawn = np.random.default_rng([int(call.key[:8], 16)]).random()
    return Reply("7" if drawn < rate else "8", "stop", 5, 1, 0.1)


def test_easy_and_hopeless_questions_need_few_tries_and_a_second_run_none(tmp_path):
    queries = [Query.ask(f"{r} {i}", "7", verifier="numeric") for r in RATES for i in range(12)]
    pool, where, run = two_models(tmp_path).subset(["a"]), Scripted(say), Run(tmp_path / "r")
    settings = Settings(temperature=1.0)
    made = pass_rates(queries, pool, where, run, settings, show="none")
    assert len(where.asked) == made.asked == len(made.table) < 0.75 * 16 * len(queries)
    found = difficulty(made.table, "a").loc[[q.id for q in queries]]
    by_rate = found.assign(true=np.repeat(RATES, 12)).groupby("true")
    assert by_rate["tries"].mean()[0.4] > by_rate["tries"].mean()[1.0] + 3
    assert set(found["band"][found.index[:12]]) <= {"hard", "impossible"}
    assert set(found["band"][found.index[-12:]]) <= {"simple", "perfect"}
    assert (found["certain"] | (found["tries"] == 16)).all()
    again = pass_rates(queries, pool, where, run, settings, show="none")
    assert again.asked == 0
    assert again.table.rows.equals(made.table.rows)
    cool = pass_rates(queries[:5], pool, where, run, Settings(temperature=0.5), show="none")
    assert cool.asked == len(cool.table) > 0, "another temperature is another measurement"


def test_it_keeps_the_most_tries_of_other_runs_of_the_ledger(tmp_path):
    """A question certain after few tries keeps those that an earlier measurement with other edges made."""
    queries = [Query.ask(f"1.0 {i}", "7", verifier="numeric") for i in range(3)]
    pool, run = two_models(tmp_path).subset(["a"]), Run(tmp_path / "r")
    fine = pass_rates(queries, pool, Scripted(say), run, show="none", most=6, edges=(0.01, 0.99))
    assert len(fine.table) == 18
    coarse = pass_rates(queries, pool, Scripted(say), run, show="none", most=6, edges=(0.1, 0.2))
    assert coarse.asked == 0
    assert len(coarse.table) == 18


def test_a_failed_call_is_no_try(tmp_path):
    def fail_first(call):
        return CallError("content_filter", Scope.ROW) if call.sample == 0 else say(call)

    queries = [Query.ask(f"1.0 {i}", "7", verifier="numeric") for i in range(3)]
    pool = two_models(tmp_path).subset(["a"])
    made = pass_rates(queries, pool, Scripted(fail_first), Run(tmp_path / "r"), show="none", most=4)
    found = difficulty(made.table, "a")
    assert found["errors"].tolist() == [1] * 3
    assert found["tries"].tolist() == [3] * 3
    assert found["rate"].tolist() == [1.0] * 3


def test_a_budget_stops_it_and_it_goes_on(tmp_path):
    queries = [Query.ask(f"0.4 {i}", "7", verifier="numeric") for i in range(20)]
    pool, run = two_models(tmp_path).subset(["a"]), Run(tmp_path / "r")
    small = Settings(temperature=1.0, budget_usd=0.0015, max_tokens=16)
    first = pass_rates(queries, pool, Scripted(say), run, small, show="none")
    assert "Raise the budget" in first.stopped
    where = Scripted(say)
    second = pass_rates(queries, pool, where, run, Settings(temperature=1.0, max_tokens=16), show="none")
    assert second.stopped is None
    assert len(where.asked) == len(second.table) - len(first.table)
    assert second.usd == pytest.approx(len(second.table) * 7e-6)
