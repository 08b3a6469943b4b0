"""Nine cells, and the one rule behind them for any number of models."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerlab.core.outcomes import Grade, OutcomeError
from routerlab.label.oracle import (
    CELLS,
    WRONG,
    Policy,
    choose,
    label,
    preference_pairs,
    soft_labels,
    utility,
)

C, I, K = Grade.CORRECT, Grade.INCORRECT, Grade.IDK  # noqa: E741


def grid(rows):
    out = np.empty((len(rows), len(rows[0])), object)
    for i, row in enumerate(rows):
        out[i] = row
    return out


NINE = grid(list(CELLS))
MEDIUM_LARGE = np.array([1.0, 3.0])


def test_the_nine_cells_are_as_published():
    assert len(CELLS) == 9
    assert {c for c, p in CELLS.items() if p is Policy.STANDARD} == {(C, C), (C, I), (C, K)}
    assert {c for c, p in CELLS.items() if p is Policy.COMPLEX} == {(I, C), (K, C), (I, K)}
    assert {c for c, p in CELLS.items() if p is Policy.AMBIGUOUS} == {(I, I), (K, I), (K, K)}
    assert [p.value for p in Policy] == ["Standard_Query", "Complex_Query", "Ambiguous_Query"]


@pytest.mark.parametrize("wrong", [0.2, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_the_rule_gives_them_while_the_price_of_the_step_is_below_min_of_w_and_1(wrong, share):
    lam = share * min(wrong, 1) / 2
    made = label(NINE, MEDIUM_LARGE, lam=lam, wrong=wrong)
    assert made.policy.tolist() == list(CELLS.values())
    assert [int(c) for c in made.choice] == [int(p is Policy.COMPLEX) for p in CELLS.values()]


@pytest.mark.parametrize(("cell", "leaves_at"), [((I, K), 0.5), ((K, C), 1.0), ((I, C), 1.5)])
def test_each_complex_cell_is_left_exactly_where_the_algebra_says(cell, leaves_at):
    for step, escalates in ((leaves_at - 1e-6, True), (leaves_at + 1e-6, False)):
        made = label(grid([cell]), MEDIUM_LARGE, lam=step / 2, wrong=0.5)
        assert (made.choice[0] == 1) == escalates
        assert (made.policy[0] == Policy.COMPLEX) == escalates


tables = st.integers(1, 5).flatmap(
    lambda m: st.tuples(
        st.lists(st.lists(st.sampled_from([C, I, K]), min_size=m, max_size=m), min_size=1, max_size=12),
        st.lists(st.integers(1, 9), min_size=m, max_size=m, unique=True),
    )
)


@settings(max_examples=80, deadline=None)
@given(tables, st.floats(0, 2), st.permutations(range(5)))
def test_the_order_of_models_does_not_matter(table, lam, order):
    grades, usd = grid(table[0]), np.array(table[1], float)
    order = [i for i in order if i < len(usd)]
    one, other = label(grades, usd, lam=lam), label(grades[:, order], usd[order], lam=lam)
    assert (np.array(order)[other.choice] == one.choice).all()
    assert (one.policy == other.policy).all()


@settings(max_examples=80, deadline=None)
@given(tables)
def test_cost_falls_as_the_price_of_money_rises(table):
    grades, usd = grid(table[0]), np.array(table[1], float)
    paid = [usd[label(grades, usd, lam=lam).choice].sum() for lam in np.linspace(0, 3, 13)]
    assert (np.diff(paid) <= 1e-9).all()


@settings(max_examples=80, deadline=None)
@given(tables, st.floats(0, 2))
def test_a_dominated_model_changes_nothing(table, lam):
    grades, usd = grid(table[0]), np.array(table[1], float)
    more = np.concatenate([grades, grades[:, :1]], 1)
    one, other = label(grades, usd, lam=lam), label(more, np.append(usd, usd[0] + 1), lam=lam)
    assert (one.choice == other.choice).all()
    assert (one.policy == other.policy).all()


def test_too_dear_a_right_answer_is_no_reason_to_call_it_and_no_ambiguity():
    made = label(grid([(I, C), (I, I)]), MEDIUM_LARGE, lam=1.0)
    assert made.choice.tolist() == [0, 0]
    assert made.policy.tolist() == [Policy.STANDARD, Policy.AMBIGUOUS]


def test_missing_is_not_a_label_and_a_stray_grade_is_refused():
    made = label(grid([(C, None), (I, C)]), MEDIUM_LARGE)
    assert made.choice.tolist() == [-1, 1]
    assert made.policy.tolist() == [None, Policy.COMPLEX]
    with pytest.raises(OutcomeError, match="'WRONG' is not a grade"):
        utility(grid([("WRONG", C)]))


def test_costs_may_differ_from_query_to_query():
    usd = np.array([[1.0, 3.0], [3.0, 1.0]])
    made = label(grid([(C, C), (C, C)]), usd)
    assert made.choice.tolist() == [0, 1]
    assert made.policy.tolist() == [Policy.STANDARD] * 2


def test_soft_labels_are_probabilities_that_sharpen_with_tries():
    rng = np.random.default_rng(0)
    few = np.array([[[C], [K]], [[I], [C]]], object)
    many = np.repeat(few, 30, 2)
    soft, sharp = (soft_labels(g, MEDIUM_LARGE, lam=0.05, rng=rng) for g in (few, many))
    assert soft.sum(1) == pytest.approx([1, 1])
    assert 0.6 < soft[0, 0] < 0.999
    assert sharp[0, 0] > 0.999
    assert sharp[1, 1] > 0.999
    with pytest.raises(OutcomeError, match="no graded try"):
        soft_labels(np.array([[[None], [C]]], object), MEDIUM_LARGE, rng=rng)
    with pytest.raises(OutcomeError, match="no cost for a query"):
        soft_labels(few, np.array([[np.nan, 3.0], [1.0, 3.0]]), rng=rng)


def test_preference_pairs_weigh_the_gap():
    value = np.array([[1.0, 1.0, -0.5], [0.0, 1.0, 0.0], [np.nan, 1.0, 0.0]])
    usd = np.array([1.0, 2.0, 4.0])
    made = preference_pairs(value, usd, lam=0.1)
    found = set(zip(*(np.round(a, 9).tolist() for a in made), strict=True))
    assert found == {(0, 0, 1, 0.1), (0, 0, 2, 1.8), (1, 1, 0, 0.9), (1, 1, 2, 1.2)}
    assert (made.weight > 0).all()
    assert len(preference_pairs(np.ones((3, 2)), np.ones(2)).query) == 0, "ties make no pair"


def test_soft_labels_count_cost_and_wrong_answers():
    rng = np.random.default_rng(0)
    # After 30 tries each: the dear model is always right, the cheap one never, by silence or by a wrong answer.
    sure = np.repeat(np.array([[[K], [C]], [[I], [C]]], object), 30, 2)
    assert soft_labels(sure, MEDIUM_LARGE, rng=rng)[:, 1] == pytest.approx([1, 1]), "by default cost weighs nothing"
    # A step of 2 US$ at lam 0.6 costs 1.2: more than a right answer over an abstention, less than over a wrong one.
    assert soft_labels(sure, MEDIUM_LARGE, lam=0.6, rng=rng)[:, 1] == pytest.approx([0, 1], abs=0.01)
    assert soft_labels(sure, MEDIUM_LARGE, lam=0.6, wrong=0.0, rng=rng)[:, 1] == pytest.approx([0, 0], abs=0.01)
    # The rate of right answers alone would choose the cheap model, that less half the rate of wrong ones the dear one.
    mixed = np.array([[[C] * 16 + [I] * 14, [C] * 14 + [K] * 16]], object).repeat(20, 2)
    assert soft_labels(mixed, np.ones(2), rng=rng)[0, 1] > 0.99
    assert soft_labels(mixed, np.ones(2), wrong=0.0, rng=rng)[0, 1] < 0.1


def test_wrong_answers_cost_half_a_right_one_unless_said_otherwise():
    assert WRONG == 0.5
    assert utility(grid([(C, I, K)])).tolist() == [[1, -0.5, 0]]
    one = label(grid([(I, K), (I, C)]), MEDIUM_LARGE, lam=0.26)  # the step costs 0.52
    assert one.choice.tolist() == [0, 1]
    assert label(grid([(K, C)]), np.array([1.0, 1e9])).choice.tolist() == [1], "by default cost weighs nothing"


def test_preference_pairs_name_query_chosen_and_rejected_in_this_order():
    pairs = preference_pairs(np.array([[0.0, 0.0], [0.0, 0.0], [0.2, 1.0]]), np.ones(2))
    assert [a.tolist() for a in pairs[:3]] == [[2], [1], [0]]
    assert pairs.weight == pytest.approx([0.8])
    assert len(preference_pairs(np.array([[0.0, 1.0]]), np.array([1.0, 9.0])).query) == 1, (
        "by default cost weighs nothing"
    )


def test_choose_equals_a_plain_loop():
    rng = np.random.default_rng(3)
    value, usd = rng.integers(0, 3, (200, 4)) / 2, rng.integers(1, 4, (200, 4)).astype(float)
    for lam in (0.0, 0.25, 0.5, 1.0):
        plain = [
            max(range(4), key=lambda m: (round(v[m] - lam * u[m], 9), -u[m], -m))
            for v, u in zip(value, usd, strict=True)
        ]
        assert choose(value, usd, lam).tolist() == plain


def test_every_pair_of_cells_is_covered():
    assert set(itertools.product((C, I, K), repeat=2)) == set(CELLS)
