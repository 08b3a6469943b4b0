"""Splits, kinds of question, missing answers and models worth fitting; and what must change no number of a contest."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contest import _made, _queries, _two

from routerlab import Query
from routerlab.contest import setup
from routerlab.contest.results import MEASURES
from routerlab.contest.run import contest
from routerlab.core.recorded import Recorded
from routerlab.routers.features import Tfidf
from routerlab.routers.protocol import RouterError

SMALL = ("length", "ridge", "knn", "blend")


def _three(count=160, seed=0):
    """Three models; each is good at one kind of question, the dearest at both."""
    queries = _queries(count)
    adds = np.array([q.text.startswith("add") for q in queries])
    rng = np.random.default_rng(seed)
    rate = np.stack([np.where(adds, 0.8, 0.1), np.where(adds, 0.3, 0.7), np.where(adds, 0.85, 0.8)], 1)
    return queries, (rng.random(rate.shape) < rate).astype(float), np.array([0.001, 0.002, 0.01]), ("a", "b", "c")


def _numbers(results):
    table = results.table(60)
    return {(n, m): np.array(table.loc[n, m]) for n in table.index for m in MEASURES}


def _same(one, other, names=None):
    assert {n for n, _ in one} == {n for n, _ in other}
    for key, value in one.items():
        np.testing.assert_allclose(other[key], value, atol=2e-6, err_msg=str(key))


@pytest.fixture(scope="module")
def plain():
    queries, quality, usd, models = _three()
    return _numbers(contest(_made(queries, quality, usd, models), SMALL, features=Tfidf(width=16)))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2), st.floats(1, 50), st.floats(0, 1), st.integers(0, 99), st.permutations(range(4)))
def test_a_dominated_model_changes_no_number_of_any_router(plain, below, dearer, worse, seed, order):
    """The new model is right at most where another one is, for at least its price; the models come in any order."""
    queries, quality, usd, models = _three()
    lucky = np.random.default_rng(seed).random(len(quality)) < worse
    wide = np.hstack([quality, np.where(lucky, 0, quality[:, below])[:, None]])[:, order]
    prices, names = np.append(usd, usd[below] * dearer)[list(order)], np.array([*models, "new"])[list(order)]
    more = contest(_made(queries, wide, prices, tuple(names)), SMALL, features=Tfidf(width=16))
    _same(plain, _numbers(more))
    assert more.test.table.models == tuple(names), "it is still in the table"


def test_a_useless_model_four_times_as_dear_moves_no_area_and_no_rank(plain):
    queries, quality, usd, models = _three()
    wide = np.hstack([quality, np.zeros((len(quality), 1))])
    data = _made(queries, wide, np.append(usd, 4 * usd.max()), (*models, "useless"))
    said = []
    more = contest(data, SMALL, features=Tfidf(width=16), say=said.append)
    _same(plain, _numbers(more))
    assert any(line.startswith("no router calls useless: on every training question") for line in said)


def test_a_repeated_model_and_the_order_of_rows_and_models_change_no_number(plain):
    queries, quality, usd, models = _three()
    rows = np.random.default_rng(1).permutation(len(queries))
    turned = [2, 0, 1]
    data = _made([queries[i] for i in rows], quality[rows][:, turned], usd[turned], tuple(models[m] for m in turned))
    turned_numbers = _numbers(contest(data, SMALL, features=Tfidf(width=16)))
    assert turned_numbers.keys() == plain.keys()
    _same(plain, turned_numbers)
    for name in ("0", "z"):  # its id comes before or after the others'
        twice = np.hstack([quality[:, :1], quality])
        data = _made(queries, twice, np.append(usd[0], usd), (name, *models))
        _same(plain, _numbers(contest(data, SMALL, features=Tfidf(width=16))))


def test_a_model_that_is_right_where_no_other_is_stays():
    queries, quality, usd, models = _three(40)
    once = np.zeros((len(quality), 1))
    alone = int(np.flatnonzero((quality.max(1) == 0) & [q.split == "train" for q in queries])[0])
    once[alone] = 1
    data = _made(queries, np.hstack([quality, once]), np.append(usd, 9.0), (*models, "rare"))
    assert setup.worth_fitting(data.split("train")) == ["a", "b", "c", "rare"]
    once[alone] = 0
    data = _made(queries, np.hstack([quality, once]), np.append(usd, 9.0), (*models, "rare"))
    assert setup.worth_fitting(data.split("train")) == ["a", "b", "c"]
    same = _made(queries, np.hstack([quality, quality[:, :1]]), np.append(usd, usd[0]), (*models, "A"))
    assert setup.worth_fitting(same.split("train")) == ["A", "b", "c"], "of models that are alike the first id"
    cheaper = _made(queries, np.hstack([quality, once]), np.append(usd, usd[0] / 2), (*models, "free"))
    assert "free" in setup.worth_fitting(cheaper.split("train")), "cheaper than all others"


def _holes(count=200):
    queries, quality, usd, models = _two(count)
    quality[::5, 1] = 1  # the dearer model is the better one
    test = [i for i, q in enumerate(queries) if q.split == "test"]
    hidden = quality.copy()
    hidden[test[:7], 1] = np.nan
    return queries, hidden, usd, models, test


def test_available_keeps_every_question_and_calls_only_models_that_answered():
    queries, hidden, usd, models, test = _holes()
    hidden[test[9]] = np.nan  # nobody answered this one
    said = []
    results = contest(_made(queries, hidden, usd, models), ["linear", "length"], say=said.append)
    (line,) = [line for line in said if line.startswith("missing answers")]
    assert line.endswith("available lets routers call the models that answered (--missing available)")
    assert results.quality.shape == (49, 2)
    assert np.isnan(results.quality).sum() == 7
    for e in results.entries:
        assert not np.isnan(e.quality).any()
        assert not np.isnan(np.take_along_axis(results.quality, e.choice.T, 1)).any()
    # Single models are scored on what they answered.
    assert results.models().quality == pytest.approx(np.nanmean(results.quality, 0))
    mix = results.mix
    assert np.isnan(mix.quality).sum() == 7
    assert mix.choice[:, 0].tolist() == [1, 0]
    assert all(np.isfinite(v).all() for v in _numbers(results).values())


def test_drop_models_and_unknown_ways():
    queries, hidden, usd, models, _ = _holes()
    results = contest(_made(queries, hidden, usd, models), "length", missing="drop-models")
    assert (results.test.table.models, results.quality.shape) == (("m",), (50, 1))
    hidden[:, 0] = np.where(np.arange(len(hidden)) == 2, np.nan, hidden[:, 0])
    with pytest.raises(RouterError, match="every model lacks an answer; w lacks 7 of 100: use --missing available"):
        contest(_made(queries, hidden, usd, models), "length", missing="drop-models")
    with pytest.raises(RouterError, match="no way 'drop' to treat missing answers; there are available, drop-q"):
        contest(_made(queries, hidden, usd, models), "length", missing="drop")


def _with_meta(queries, **columns):
    return [replace(q, meta={k: v[i] for k, v in columns.items()}) for i, q in enumerate(queries)]


def test_kinds_of_question_are_found_in_any_column_that_has_them():
    queries, quality, usd, models = _two(120)
    kinds = [q.text.split()[0] for q in queries]
    said = []
    for column in ("task", "dataset", "bench", "subject", "whatever"):
        data = _made(_with_meta(queries, **{column: kinds}), quality, usd, models)
        results = contest(data, ["length", "category"], say=said.append)
        assert not results.left_out, "the router that predicts the kind learns this column, too"
        assert results.category == column
        assert [e.name for e in results.entries][-1] == f"{column} lookup (told)"
        assert sorted(set(results.domains())) == ["add", "spell"]
        assert any(line.startswith(f"kinds of question: column {column} (2 values)") for line in said)
    lookup = results.entries[-1]
    assert lookup.quality[0].mean() == 1, "the kind tells who is right"


def test_a_category_is_taken_as_told_and_columns_that_are_none_are_not_found():
    queries = _queries(120)
    kinds, ids = [q.text.split()[0] for q in queries], [str(i) for i in range(120)]
    both = _with_meta(queries, family=kinds, other=kinds, id=ids, same=["x"] * 120)
    assert setup.category_of(both, None, print) == "family"
    assert setup.category_of(both, "other", print) == "other"
    assert setup.category_of(_with_meta(queries, id=ids, same=["x"] * 120), None, print) is None
    half = [q if i % 3 else replace(q, meta={"kind": kinds[i]}) for i, q in enumerate(queries)]
    assert setup.category_of(half, None, print) is None, "only a third of the questions have it"
    with pytest.raises(RouterError, match="no column 'kind' in this table; it keeps family, id, other, same"):
        setup.category_of(both, "kind", print)


def test_a_held_out_kind_is_the_test_and_nothing_like_it_is_trained_on():
    queries, quality, usd, models = _two(200)
    kinds = [q.text.split()[0] for q in queries]
    queries = _with_meta(queries, kind=kinds)
    twin = replace(
        Query.ask(next(q.text for q in queries if q.meta["kind"] == "spell") + " again"), meta={"kind": "add"}
    )
    data = _made([*queries, twin], np.vstack([quality, quality[:1]]), usd, models)
    said = []
    parts = setup.with_splits(data, said.append, hold_out="kind=spell")
    assert {q.meta["kind"] for q in parts.queries if q.split == "test"} == {"spell"}
    assert {q.meta["kind"] for q in parts.queries if q.split != "test"} == {"add"}
    assert sum(q.split == "test" for q in parts.queries) == kinds.count("spell")
    assert twin.id not in {q.id for q in parts.queries}
    assert (
        said[0]
        == f"{kinds.count('spell')} questions with kind=spell are the test; 1 near-duplicates of them are left out"
    )
    with pytest.raises(RouterError, match="--hold-out kind=sum: no question has that value; kind has add, spell"):
        setup.with_splits(data, print, hold_out="kind=sum")
    with pytest.raises(RouterError, match="no question has that value; columns are kind"):
        setup.with_splits(data, print, hold_out="sort=add")
    with pytest.raises(RouterError, match="give COLUMN=VALUE; columns are kind"):
        setup.with_splits(data, print, hold_out="kind")


def test_other_salts_are_other_splits_and_few_validation_questions_are_said():
    queries, quality, usd, models = _two(400)
    data, said = _made(queries, quality, usd, models), []
    one, two = (setup.with_splits(data, said.append, salt=s) for s in ("a", "b"))
    assert [q.id for q in one.queries] == [q.id for q in two.queries]
    assert [q.split for q in one.queries] != [q.split for q in two.queries]
    assert sum(line.startswith("only ") and "validation questions" in line for line in said) == 2
    kept = setup.with_splits(data, said.append)
    assert {q.id: q.split for q in kept.queries} == {q.id: q.split for q in queries}, "its own splits"
    assert len(said) == 2, "100 validation questions are enough"


def test_of_models_orders_columns():
    queries, quality, usd, models = _three(8)
    table = setup.of_models(_made(queries, quality, usd, models).table, ["c", "a"])
    np.testing.assert_array_equal(table.matrix(), quality[:, [2, 0]])
    assert isinstance(_made(queries, quality, usd, models), Recorded)
