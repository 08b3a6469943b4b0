"""What seeing answers would gain."""

import numpy as np
import pytest

from routerlab.cli import main
from routerlab.core.outcomes import OutcomeError
from routerlab.core.recorded import record
from routerlab.core.runs import Run
from routerlab.evaluate.frontier import lam_grid
from routerlab.evaluate.looking import looking
from routerlab.pocket.hidden import hidden_knowledge
from routerlab.routers.cascade import answer_codes, signs_of
from routerlab.routers.learned import linear


def hidden(sets, seed=0):
    table = hidden_knowledge().table
    quality, usd = table.matrix("quality"), table.matrix("usd")
    x = np.ones((len(quality), 1))
    about = {"fit": linear, "lams": lam_grid(usd, 25), "rng": np.random.default_rng(seed)}
    return looking(x, signs_of(table), answer_codes(table), (quality, usd), sets, **about)


def test_looking_pays_where_answers_tell_who_knows():
    modest, pair, strong = hidden([[0], [1, 2], [3]])
    assert modest.models == (0,)
    # Silence of modest tells when it is right, and costs 0.3 of 8.
    assert modest.free.low > 0.05
    assert modest.paid.low > 0.03
    assert modest.paid.mean < modest.free.mean
    assert pair.free.low > 0.05, "left and right agree exactly where both are right"
    assert pair.paid.low > 0
    assert strong.free.high < 0.05, "strong is always right, so its answer says nothing new"
    assert abs(strong.paid.mean) < 0.02


def test_answers_that_tell_nothing_gain_nothing():
    rng = np.random.default_rng(0)
    n = 600
    x = rng.standard_normal((n, 3))
    quality = (rng.random((n, 2)) < 1 / (1 + np.exp(-x[:, :2] - (0, 1)))) * 1.0
    usd = np.tile([1.0, 3.0], (n, 1))
    signs = rng.standard_normal((n, 2, 2))
    about = {"fit": linear, "lams": lam_grid(usd, 25), "rng": rng, "clusters": np.arange(n) // 2}
    for line in looking(x, signs, np.full((n, 2), -1), (quality, usd), [[0], [0, 1]], **about):
        assert line.free.low < 0.01
        assert line.paid.mean <= 0.005


def test_without_a_trade_off_there_is_nothing_to_look_for():
    about = {"fit": linear, "lams": np.ones(1), "rng": np.random.default_rng(0)}
    quality, usd = np.tile([1.0, 0.0], (20, 1)), np.tile([1.0, 2.0], (20, 1))
    with pytest.raises(OutcomeError, match="the cheapest model is the best"):
        looking(np.ones((20, 1)), np.ones((20, 2, 1)), np.ones((20, 2)), (quality, usd), [[0]], **about)


def test_predictions_are_made_without_the_question_and_its_near_duplicates():
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.standard_normal((40, 30)), 2, 0)  # pairs of duplicates, with labels at random
    quality = np.repeat((rng.random((40, 2)) < 0.5) * 1.0, 2, 0)
    quality[::4, 1] = 1  # so the dearer model is better on average
    usd = np.tile([1.0, 1.01], (80, 1))
    signs, said = np.zeros((80, 2, 1)), np.full((80, 2), -1)
    about = {"fit": lambda x, y: (np.linalg.pinv(x) @ y, 0.0), "lams": np.array([0.0, 1.0])}
    together = looking(rows, signs, said, (quality, usd), [[0]], rng=rng, clusters=np.arange(80) // 2, **about)
    apart = looking(rows, signs, said, (quality, usd), [[0]], rng=rng, **about)
    assert apart[0].without.mean > together[0].without.mean + 0.1, "a duplicate in the other folds gives the label away"


def test_the_verb_prints_a_line_for_each_set(capsys, tmp_path):
    data = hidden_knowledge()
    record(Run(tmp_path / "hidden"), data.queries, data.pool, data.table, data.card)
    assert main(["eval", "--table", str(tmp_path / "hidden"), "--looking"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("area of a linear router that sees no answers: ")
    assert [line.split("  ")[0] for line in lines[2:-1]] == [
        "modest",
        "left",
        "right",
        "strong",
        "modest, left",
        "modest, left, right",
    ]
    modest = lines[2].replace("[", "").replace(",", "").replace("]", "").split()
    assert float(modest[2]) > 0.03
    with pytest.raises(SystemExit):
        main(["eval", "--look"])
