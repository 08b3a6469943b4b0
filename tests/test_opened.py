"""Tables as notebooks open them: splits, complete questions; sentences that must hold on the embedded table only."""

from dataclasses import replace

import numpy as np
import pytest

from routerlab import Pool, Query
from routerlab.contest.opened import claim, opened
from routerlab.contest.setup import SPLITS
from routerlab.core.outcomes import Grade, OutcomeTable
from routerlab.core.recorded import record
from routerlab.core.runs import RunError


@pytest.fixture
def foreign(tmp_path):
    """200 questions without splits; `b` did not answer the first five; quality is 1 where the number is even."""
    queries = [Query.ask(f"{name} number {n} of the {name}s?", "x") for n, name in enumerate(NAMES)]
    rows = [(q.id, m, int(q.text.split()[2])) for q in queries for m in "ab"]
    lost = [m == "b" and n < 5 for _, m, n in rows]
    table = OutcomeTable(
        {
            "query": [q for q, _, _ in rows],
            "model": [m for _, m, _ in rows],
            "grade": [
                None if gone else Grade.INCORRECT if n % 2 else Grade.CORRECT
                for (_, _, n), gone in zip(rows, lost, strict=True)
            ],
            "quality": [None if gone else 1.0 - n % 2 for (_, _, n), gone in zip(rows, lost, strict=True)],
            "usd": [1e-3 if m == "a" else 2e-3 for _, m, _ in rows],
            "error": ["timeout" if gone else None for gone in lost],
        },
        ("a", "b"),
    )
    card = Pool.load("pocket").cards[0]
    pool = Pool("two", [replace(card, id=m, provider_id=m) for m in "ab"])
    record(tmp_path / "foreign", queries, pool, table, {"how": "made up"})
    return tmp_path / "foreign"


NAMES = ["".join(np.random.default_rng(n).choice([*"bdfgklmnprst"], 9)) for n in range(200)]


def test_a_table_without_splits_is_split_and_its_rows_stay_those_of_its_questions(foreign):
    said = []
    data = opened(foreign, said.append)
    assert said[0] == "5 of 200 questions that some model did not answer are left out"
    assert "has no splits: 60 % train" in said[1]
    assert {q.split for q in data.queries} == {*SPLITS}
    assert len(data.queries) == 195
    even = [int(q.text.split()[2]) % 2 == 0 for q in data.queries]
    assert data.table.matrix("quality").T.tolist() == [even, even], "rows of another question"
    whole = opened(foreign, said.append, complete=False)
    assert len(whole.queries) == 200
    assert np.isnan(whole.table.matrix("quality")).sum() == 5
    assert {q.id: q.split for q in whole.queries} | {q.id: q.split for q in data.queries} == {
        q.id: q.split for q in whole.queries
    }, "a question has its split whatever else is left out"


def test_the_embedded_table_is_opened_as_it_is(pocket):
    def never(line):
        raise AssertionError(line)

    data = opened("pocket", never)
    assert data.queries == pocket.queries
    assert data.sha256 == pocket.sha256
    assert np.array_equal(data.table.matrix("usd"), pocket.table.matrix("usd"))
    with pytest.raises(RunError, match="no recorded table"):
        opened("nowhere", never)


def test_a_sentence_must_hold_on_the_embedded_table_and_is_taken_back_on_another(capsys):
    claim("pocket", True, "cost falls")
    claim("mine", np.bool_(True), "cost falls")
    assert capsys.readouterr().out == ""
    with pytest.raises(AssertionError, match="no longer true: cost falls"):
        claim("pocket", np.bool_(False), "cost falls")
    claim("mine", False, "cost falls")
    assert capsys.readouterr().out == "not so on this table: cost falls\n"
