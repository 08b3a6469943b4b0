import numpy as np
import pytest

from routerlab.core.decisions import DecisionError, Decisions

QUALITY = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, np.nan]])
USD = np.array([[0.1, 0.2, 0.4], [0.1, 0.2, np.nan]])


def made(choice, **more):
    return Decisions(("a", "b"), ("x", "y", "z"), np.array(choice), "r", **more)


def test_what_happened_by_hand():
    quality, usd = made([2, 1]).realised(QUALITY, USD)
    np.testing.assert_allclose(quality, [0.5, 1])
    np.testing.assert_allclose(usd, [0.4, 0.2])
    also = np.array([[True, False, False], [True, True, False]])
    quality, usd = made([2, 1], also=also).realised(QUALITY, USD)
    np.testing.assert_allclose(quality, [0.5, 1], err_msg="the chosen answer counts")
    np.testing.assert_allclose(usd, [0.5, 0.3], err_msg="every call is charged, none twice")


def test_routing_itself_is_charged():
    np.testing.assert_allclose(made([0, 0], own_usd=0.01).realised(QUALITY, USD)[1], [0.11, 0.11])
    own = made([0, 0], own_usd=np.array([0.01, 0.03]))
    np.testing.assert_allclose(own.realised(QUALITY, USD)[1], [0.11, 0.13])


def test_missing_outcomes_are_refused_where_they_count():
    with pytest.raises(DecisionError, match="1 of 2 chosen outcomes are missing: collect them"):
        made([2, 2]).realised(QUALITY, USD)
    charged = np.array([[False] * 3, [False, False, True]])
    with pytest.raises(DecisionError, match="1 of 2 chosen outcomes are missing"):
        made([0, 0], also=charged).realised(QUALITY, USD)
    assert made([0, 0]).realised(QUALITY, USD)[0].tolist() == [1, 0]


def test_outcomes_of_other_queries_or_models_are_refused():
    for quality, usd in ((QUALITY[:, :2], USD[:, :2]), (QUALITY[:1], USD), (QUALITY, USD[:, :2])):
        with pytest.raises(DecisionError, match="2 queries x 3 models, the outcomes are"):
            made([0, 0]).realised(quality, usd)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ([0], "2 queries need as many integer choices, not"),
        ([0.0, 1.0], "integer choices, not"),
        ([True, False], "integer choices"),
        ([0, 3], r"a choice lies outside 0\.\.2 \(x, y, z\)"),
        ([-1, 0], "a choice lies outside"),
    ],
)
def test_choices_that_cannot_be_are_refused(choice, message):
    with pytest.raises(DecisionError, match=message):
        made(choice)


def test_marks_of_another_shape_are_refused():
    with pytest.raises(DecisionError, match=r"`also` marks \(2, 3\), not \(2, 2\)"):
        made([0, 1], also=np.zeros((2, 2), bool))


def test_shares_sum_to_one_in_the_order_of_models():
    assert made([1, 1]).shares() == {"x": 0.0, "y": 1.0, "z": 0.0}
    none = Decisions((), ("x",), np.zeros(0, int))
    assert none.shares() == {"x": 0.0}
    assert [len(v) for v in none.realised(np.zeros((0, 1)), np.zeros((0, 1)))] == [0, 0]


def test_it_shows_shares_and_no_thousand_ids():
    text = repr(made([0, 2]))
    assert text == "Decisions('r', 2 queries: x 50.0%, y 0.0%, z 50.0%)"
