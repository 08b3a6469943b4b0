"""Trajectories whose reward a stricter check rejects."""

import numpy as np
import pytest

from routerlab import Query, recorded
from routerlab.label.rewards import gated
from routerlab.train.hacking import (
    FREE_FAILURE,
    FREE_SPENDING,
    LENIENT,
    Trajectory,
    strictly_right,
    summary,
    suspicious,
)

LAM = 2.0
SUM = Query.ask("What is 2 + 2?", "4", verifier="numeric")


def play(answer, quality, usd, reward=None):
    return Trajectory(SUM, answer, quality, usd, LAM, quality - LAM * usd if reward is None else reward)


def test_an_answer_is_strictly_right_as_the_reference_or_by_the_contract():
    texts = ["4", "ANSWER: 4", "ANSWER: 5", "I think it is 4 or so.", "", None, "4\nANSWER: 4.0"]
    assert strictly_right([SUM] * len(texts), texts).tolist() == [True, True, False, False, False, False, True]


def test_the_linear_reward_leaves_only_lenient_readings():
    table = suspicious(
        [play("4", 1.0, 0.1), play("it is 4, or 5", 1.0, 0.1), play("5", 0.0, 0.3), play(None, 0.0, 0.0)]
    )
    assert table.why.tolist() == [LENIENT]
    assert table.excess[0] == pytest.approx(1.0)
    assert table.answer[0] == "it is 4, or 5"


def test_both_holes_of_the_published_reward_are_found():
    usd = {"cheap and right": 0.1, "dear and right": 0.9, "wrong": 0.2}
    plays = [
        play(
            "4" if "right" in name else "5", float("right" in name), paid, float(gated("right" in name, paid, lam=LAM))
        )
        for name, paid in usd.items()
    ]
    table = suspicious(plays)
    # Beyond the cap 0.8 of 1.8 is counted; a wrong answer is charged nothing of 0.4.
    assert table.why.tolist() == [FREE_SPENDING, FREE_FAILURE]
    assert table.excess.to_numpy() == pytest.approx([1.0, 0.4])
    text = summary(table, 3)
    assert text.startswith("reward hacking: 2 of 3 trajectories look suspicious: failing is free 1 (mean excess 0.4)")
    assert (
        summary(suspicious([]), 0)
        == "reward hacking: none of 0 trajectories has a reward that a stricter check rejects"
    )


def test_answers_of_the_embedded_table_that_were_read_leniently():
    """Six of its right test answers are wrong to the letter; answers of palindromes differ and are right."""
    data = recorded("pocket").split("test")
    quality, answers = data.table.matrix("quality"), data.table.text("answer")
    rows, columns = np.nonzero(quality >= 0.5)
    plays = [Trajectory(data.queries[i], answers[i, j], 1.0, 0.0, 0.0, 1.0) for i, j in zip(rows, columns, strict=True)]
    table = suspicious(plays)
    family = {q.id: q.meta["family"] for q in data.queries}
    several = [family[q] == "palindrome_generation" for q in table["query"]]
    assert set(table.why) == {LENIENT}
    assert len(table) - sum(several) <= 6 < sum(several)
