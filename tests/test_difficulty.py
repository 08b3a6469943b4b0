"""Pass rates in half-open bands, with intervals that hold what they promise."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from routerlab import OutcomeTable
from routerlab.core.outcomes import OutcomeError
from routerlab.evaluate.stats import wilson
from routerlab.label.difficulty import band_of, difficulty, needs_more


def table(results, temperature=1.0, model="ref"):
    """results: {query: string of + - x}, x an error."""
    rows = [(q, i, c) for q, marks in results.items() for i, c in enumerate(marks)]
    grade = {"+": "CORRECT", "-": "INCORRECT", "?": "IDK", "x": None}
    return OutcomeTable(
        {
            "query": [q for q, _, _ in rows],
            "model": [model] * len(rows),
            "sample": [i for _, i, _ in rows],
            "temperature": [temperature] * len(rows),
            "grade": [grade[c] for _, _, c in rows],
            "quality": [None if c == "x" else float(c == "+") for _, _, c in rows],
            "usd": [0.0] * len(rows),
            "error": ["timeout" if c == "x" else None for _, _, c in rows],
        }
    )


def test_hand_values():
    marks = {
        "a": "+" * 16,
        "b": "-" * 16,
        "c": "+++-" * 4,
        "d": "+-" * 8,
        "e": "+" + "-" * 15,
        "f": "xxxx",
        "g": "-?+x",
    }
    frame = difficulty(table(marks), "ref", level=0.95)
    assert frame.band.to_dict() == {
        "a": "perfect",
        "b": "impossible",
        "c": "simple",
        "d": "medium",
        "e": "hard",
        "f": "unknown",
        "g": "medium",
    }
    assert frame.tries.tolist() == [16, 16, 16, 16, 16, 0, 3]
    assert frame.passed.tolist() == [16, 0, 12, 8, 1, 0, 1]
    assert frame.errors.tolist() == [0, 0, 0, 0, 0, 4, 1]
    assert np.isnan(frame.rate["f"])
    assert frame.rate["g"] == pytest.approx(1 / 3)
    # 8 of 16 by hand: z² = 3.8415, centre 0.5, half = z sqrt(0.25/16 + z²/1024) / (1 + z²/16) = 0.2200
    assert frame.loc["d", ["low", "high"]].tolist() == pytest.approx([0.2800, 0.7200], abs=1e-4)
    assert (frame.low["f"], frame.high["f"]) == (0, 1)
    assert frame.certain.to_dict() == {
        "a": True,
        "b": False,
        "c": False,
        "d": False,
        "e": False,
        "f": False,
        "g": False,
    }


def test_edges_belong_to_the_band_above():
    assert band_of([0, 0.149, 0.15, 0.64, 0.65, 1]).tolist() == [0, 0, 1, 1, 2, 2]
    marks = {
        "low": "+++" + "-" * 17,
        "below": "++" + "-" * 18,
        "top": "+" * 13 + "-" * 7,
        "under": "+" * 12 + "-" * 8,
    }
    frame = difficulty(table(marks), "ref")  # 3/20 = 0.15 and 13/20 = 0.65 exactly
    assert frame.band.tolist() == ["medium", "hard", "simple", "medium"]
    own = difficulty(table(marks), "ref", edges=(0.5,), names=("below", "above"))
    assert own.band.tolist() == ["below", "below", "above", "above"]


def test_none_or_all_of_too_few_tries_is_not_set_apart():
    frame = difficulty(table({"a": "-" * 15, "b": "+" * 15, "c": "-" * 16}), "ref")
    assert frame.band.tolist() == ["hard", "simple", "impossible"]
    assert difficulty(table({"a": "--"}), "ref", enough=2).band.tolist() == ["impossible"]


def test_errors_are_no_tries():
    with_errors, without = table({"a": "+x-x+x"}), table({"a": "+-+"})
    columns = ["tries", "passed", "rate", "low", "high", "band"]
    assert difficulty(with_errors, "ref")[columns].equals(difficulty(without, "ref")[columns])


def test_temperatures_are_not_mixed(pocket):
    part = pocket.table.select(pocket.table.queries[:300])
    with pytest.raises(OutcomeError, match=r"0 \(300 tries\), 0.7 \(1200 tries\).*choose one"):
        difficulty(part, "pocket-mini")
    sampled = difficulty(part, "pocket-mini", temperature=0.7)
    greedy = difficulty(part, "pocket-mini", temperature=0.0)
    assert (sampled.tries == 4).all()
    assert (greedy.tries == 1).all()
    np.testing.assert_allclose(sampled.rate, part.matrix("quality", [1, 2, 3, 4])[:, part.models.index("pocket-mini")])
    np.testing.assert_allclose(greedy.rate, part.matrix("quality", 0)[:, part.models.index("pocket-mini")])
    with pytest.raises(OutcomeError, match="not asked at temperature 1"):
        difficulty(part, "pocket-mini", temperature=1.0)
    with pytest.raises(OutcomeError, match="not in this table"):
        difficulty(part, "gpt-5", temperature=0.7)


def test_edges_must_make_sense():
    for edges, names in (
        ((0.65, 0.15), "abc"),
        ((0.2, 0.2), "abc"),
        ((0, 0.5), "abc"),
        ((0.5,), "abc"),
    ):
        with pytest.raises(OutcomeError, match="rising edges"):
            difficulty(table({"a": "+"}), "ref", edges=edges, names=list(names))


@pytest.mark.parametrize(("passed", "tries"), [(0, 16), (3, 16), (8, 16), (16, 16), (1, 1), (40, 100)])
def test_wilson_agrees_with_scipy(passed, tries):
    other = scipy_stats.binomtest(passed, tries).proportion_ci(0.9, method="wilson")
    assert [float(x) for x in wilson(passed, tries, 0.9)] == pytest.approx([other.low, other.high], abs=1e-12)


def test_wilson_covers_what_it_says(rng):
    for tries in (16, 40):
        true = rng.random(40_000)
        low, high = wilson(rng.binomial(tries, true), tries, 0.9)
        assert np.mean((low <= true) & (true <= high)) == pytest.approx(0.9, abs=0.015)
    with pytest.raises(ValueError, match="passed lies between"):
        wilson(3, 2)


def run_online(true, rng, most=16):
    passed, tries = np.zeros(len(true), int), np.zeros(len(true), int)
    while (more := needs_more(passed, tries, most=most)).any():
        passed[more] += rng.random(more.sum()) < true[more]
        tries[more] += 1
    return passed, tries


def test_by_hand_when_to_stop():
    # all right: low = n / (n + 1.645²) >= 0.65 from n = 6; none right: high = 2.706 / (n + 2.706) < 0.15 from n = 16
    assert [bool(needs_more(n, n)) for n in (0, 1, 5, 6)] == [True, True, True, False]
    assert [bool(needs_more(0, n, most=50)) for n in (15, 16)] == [True, False]
    assert not needs_more(8, 16)
    assert needs_more(8, 16, most=17)
    assert needs_more(np.array([0, 6, 3]), np.array([0, 6, 6])).tolist() == [True, False, True]


def test_stopping_early_saves_tries_and_keeps_the_bands(rng):
    true = rng.beta(0.4, 0.4, 20_000)  # many easy, many impossible: what a pass rate looks like
    passed, tries = run_online(true, rng)
    assert tries.max() <= 16
    saved = 1 - tries.mean() / 16
    assert 0.20 <= saved <= 0.35, saved
    early = np.mean(band_of(passed / tries) == band_of(true))
    full = np.mean(band_of(rng.binomial(16, true) / 16) == band_of(true))
    assert early >= full - 0.02, (early, full)
    stopped = tries < 16
    assert np.mean(band_of(passed[stopped] / tries[stopped]) == band_of(true[stopped])) >= 0.93
