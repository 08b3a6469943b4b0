import numpy as np
import pyarrow.parquet as pq
import pytest

from routerlab import Decisions, OutcomeTable, Run
from routerlab.core.decisions import DecisionError
from routerlab.core.outcomes import SCHEMA, OutcomeError, check


def test_matrices(small_table):
    np.testing.assert_array_equal(small_table.matrix(), np.float32([[1, 0], [0, 1], [np.nan, 0.75]]))
    np.testing.assert_allclose(small_table.matrix("usd"), [[0.1, 0.5], [0.1, 0.5], [0, 0.6]])
    assert small_table.grades().tolist() == [
        ["CORRECT", "INCORRECT"],
        ["IDK", "CORRECT"],
        [None, "CORRECT"],
    ]
    assert np.isnan(small_table.matrix(samples=3)).all()


def test_means_over_samples(small):
    twice = {k: v * 2 for k, v in small.items()} | {"sample": [0] * 6 + [1] * 6}
    twice["grade"][6], twice["quality"][6] = "INCORRECT", 0.0
    table = OutcomeTable(twice)
    assert table.matrix(samples=None)[0, 0] == 0.5
    assert table.matrix(samples=[1])[0, 0] == 0.0
    assert np.isnan(table.matrix(samples=None)[2, 0]), "an error is missing in both tries, not wrong"


def test_the_cost_of_answers_leaves_out_calls_that_failed(small):
    twice = {k: v * 2 for k, v in small.items()} | {"sample": [0] * 6 + [1] * 6}
    twice["grade"][6], twice["quality"][6] = None, None
    twice["error"] = [*twice["error"][:6], "timeout", *twice["error"][7:]]
    twice["usd"][6] = 0.0
    table = OutcomeTable(twice)
    assert table.matrix("usd", None)[0, 0] == pytest.approx(0.05)
    assert table.matrix("usd", None, graded=True)[0, 0] == pytest.approx(0.1)
    assert np.isnan(table.matrix("usd", 1, graded=True)[0, 0])


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("usd", 1, -0.1, "row 1 has a cost that is not 0 or more"),
        ("usd", 1, float("nan"), "row 1 has no usd"),
        ("usd", 1, float("inf"), "row 1 has a cost"),
        ("tokens_out", 2, -1, "row 2 has a negative tokens_out"),
        ("grade", 0, "correct", "row 0 has an unknown grade: grades are CORRECT, INCORRECT, IDK"),
        ("grade", 0, "INCORRECT", "row 0 has a grade that its quality contradicts"),
        ("quality", 3, 1.5, "row 3 has a quality outside 0..1"),
        ("quality", 3, None, "row 3 has a grade without a quality"),
        ("quality", 2, 0.2, "row 2 is IDK with a quality"),
        ("grade", 4, "INCORRECT", "row 4 has both an error and a grade"),
        ("error", 4, None, "row 4 has neither a grade nor an error"),
        ("query", 1, None, "row 1 has no query"),
        ("model", 1, "x", "row 1 is a second outcome of the same query, model and sample"),
    ],
)
def test_broken_rows_are_named_with_the_cure(small, column, row, value, message):
    small[column][row] = value
    with pytest.raises(OutcomeError, match=message):
        OutcomeTable(small)


def test_cached_tokens_are_part_of_the_input(small):
    with pytest.raises(OutcomeError, match="row 0 .*more cached than input tokens"):
        OutcomeTable(small | {"tokens_cached": [11] * 6})


def test_wrong_columns(small, small_table):
    with pytest.raises(OutcomeError, match="unknown column cost; the columns are query"):
        OutcomeTable(small | {"cost": [0] * 6})
    with pytest.raises(OutcomeError, match="lacks usd"):
        check(small_table.rows.drop_columns(["usd"]))
    with pytest.raises(OutcomeError, match="which the pool lacks"):
        OutcomeTable(small, models=["x"])


def test_round_trip(tmp_path, small):
    run = Run(tmp_path)
    OutcomeTable(small).write(run)
    again = OutcomeTable.read(run.path("outcomes.parquet"), models=["y", "x", "z"])
    assert again.models == ("y", "x", "z")
    assert np.isnan(again.matrix()[:, 2]).all(), "a model of the pool without outcomes is a column of missing ones"
    np.testing.assert_array_equal(again.select(["a", "b", "c"]).matrix()[:, [1, 0]], OutcomeTable(small).matrix())
    assert again.rows.schema.names == SCHEMA.names
    pq.write_table(again.rows.replace_schema_metadata({}), tmp_path / "old.parquet")
    with pytest.raises(OutcomeError, match="outcomes/1"):
        OutcomeTable.read(tmp_path / "old.parquet")


def test_select_keeps_the_order_asked_for(small_table):
    part = small_table.select(["c", "a"])
    assert part.queries == ("c", "a")
    np.testing.assert_array_equal(part.matrix(), small_table.matrix()[[2, 0]])
    with pytest.raises(OutcomeError, match="query q is not in this table of 3"):
        small_table.select(["a", "q"])


def test_a_query_named_twice_is_refused(small_table):
    first, second = small_table.queries[:2]
    with pytest.raises(OutcomeError, match=f"query {first} is asked for twice"):
        small_table.select([first, second, first])


def test_empty_tables_are_tables():
    table = OutcomeTable({"query": []})
    assert len(table) == 0
    assert table.matrix().shape == (0, 0)


def test_summary_and_reprs(small, small_table):
    frame = small_table.summary()
    assert frame.loc["x", ["correct", "incorrect", "idk", "missing"]].tolist() == [0.5, 0, 0.5, 1]
    assert frame.loc["y", "usd_per_1000"] == pytest.approx(1600 / 3)
    assert repr(small_table) == "OutcomeTable(3 queries x 2 models x 1 samples, 6 rows)"
    evil = OutcomeTable(small | {"model": ["<script>", "y"] * 3})
    assert "<script>" not in evil._repr_html_()


def test_decisions_must_fit():
    made = Decisions(("a", "b", "c"), ("x", "y"), np.array([0, 1, 1]))
    assert made.shares() == {"x": pytest.approx(1 / 3), "y": pytest.approx(2 / 3)}
    with pytest.raises(DecisionError, match="outside 0..1"):
        Decisions(("a",), ("x", "y"), np.array([2]))
    with pytest.raises(DecisionError, match="as many integer choices"):
        Decisions(("a", "b"), ("x", "y"), np.array([0.0, 1.0]))


def test_a_matrix_is_of_numbers(small_table):
    for name in ("grade", "kwality"):
        with pytest.raises(OutcomeError, match=f"'{name}' is no column of numbers; those are sample"):
            small_table.matrix(name)


def test_a_matrix_of_one_try_holds_that_try_alone(small):
    twice = {k: v * 2 for k, v in small.items()} | {"sample": [0] * 6 + [1] * 6}
    twice["usd"] = [*small["usd"], *[9.0] * 6]
    table = OutcomeTable(twice)
    np.testing.assert_allclose(table.matrix("usd"), OutcomeTable(small).matrix("usd"))
    np.testing.assert_allclose(table.matrix("usd", 1), np.full((3, 2), 9.0))


def test_queries_and_models_stand_in_the_order_of_their_first_rows():
    columns = {"query": ["a", "b", "a", "b"], "model": ["m", "n", "n", "m"], "grade": ["CORRECT"] * 4}
    table = OutcomeTable(columns | {"quality": [1.0] * 4, "usd": [0.0] * 4})
    assert (table.queries, table.models) == (("a", "b"), ("m", "n"))
    columns["query"], columns["model"] = ["a", "b", "b", "a"], ["n", "m", "n", "m"]
    table = OutcomeTable(columns | {"quality": [1.0] * 4, "usd": [0.0, 0.25, 0.5, 0.75]})
    assert (table.queries, table.models) == (("a", "b"), ("n", "m"))
    assert table.matrix("usd").tolist() == [[0.0, 0.75], [0.5, 0.25]]
