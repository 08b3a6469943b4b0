"""Grades of text answers: adversarial pairs, the contract, whole data sets, and texts made to be slow."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from routerlab.core.invariants import Grade
from routerlab.core.queries import Query
from routerlab.grade import contract, deadline, verify
from routerlab.grade.answers import Result, json_value, regex
from routerlab.grade.deadline import WorkerError, grade_apart
from routerlab.grade.statements import LONGEST, affirmed, statements
from routerlab.grade.verify import grade, grade_many

PAIRS, ASIDE, SEVENTH, EIGHTH, NINTH, TENTH = (
    [json.loads(line) for line in (Path(__file__).parent / "data" / f"{name}.jsonl").read_text().splitlines()]
    for name in ("pairs", "pairs_aside", "pairs_seventh", "pairs_eighth", "pairs_ninth", "pairs_tenth")
)


STILL_MISSED = {  # right answers of pairs.jsonl that the readers do not take
    "numeric": ["I'd pick 43 over 42.", "It's 14. My earlier 41 was a typo."],
    "multiple_choice": [],
    "math": [],
    "exact": ["Yes... no, wait. No."],
}


def ask(verifier, reference=None, **meta):
    return Query.ask("question", reference, verifier=verifier, meta=meta)


def pairs_graded(rows):
    """(pair, verdict) of each pair."""
    meta = [{"choices": r["choices"]} if "choices" in r else {} for r in rows]
    queries = [
        Query.ask("question", r["reference"], verifier=r["verifier"], meta=m) for r, m in zip(rows, meta, strict=True)
    ]
    return list(zip(rows, grade_many(queries, [r["answer"] for r in rows], workers=2), strict=True))


@pytest.mark.parametrize(
    "answer",
    [r"$0.\overline{" + "9" * 5000 + "}$", "9" * 5000 + " halves", "7 3/0", "one third of " + "8" * 5000, "²" * 5000],
    ids=["period", "halves", "mixed", "third", "raised"],
)
def test_no_number_in_an_answer_is_too_long_to_be_graded(answer):
    for verifier, reference in (("math", r"\frac{1}{2}"), ("numeric", "0.5"), ("exact", "half")):
        verdict = grade(ask(verifier, reference), answer)
        assert (verdict.error, verdict.grade) == (None, Grade.INCORRECT)


def test_pairs_that_were_kept_aside_hold_their_rates():
    """505 pairs, graded once before anything was learnt from them: 13 wrong ones were CORRECT, 30 right ones missed.

    410 of them were then used to repair the readers, and the last 95 were written and graded after that. Today's rates.
    """
    graded = pairs_graded(ASIDE)
    false = [r for r, v in graded if v.grade is Grade.CORRECT and not r["correct"]]
    missed = [r for r, v in graded if v.grade is not Grade.CORRECT and r["correct"]]
    assert len(ASIDE) == 505
    assert not [v for _, v in graded if v.error]
    assert len(false) <= 1
    assert len(missed) <= 3


def test_pairs_that_taught_nothing_meet_the_bar():
    graded = pairs_graded(ASIDE[410:])
    false = [r for r, v in graded if v.grade is Grade.CORRECT and not r["correct"]]
    missed = [r for r, v in graded if v.grade is not Grade.CORRECT and r["correct"]]
    assert (len(false) <= 0.02 * 95, len(missed) <= 0.06 * 95) == (True, True)


def test_pairs_of_the_seventh_measurement_hold_their_rates():
    """992 pairs. Every second one of the first 480 taught nothing: of these 240, 7 are falsely CORRECT, 20 missed."""
    graded = pairs_graded(SEVENTH)
    kinds = [(v.grade is Grade.CORRECT, r["correct"]) for r, v in graded]
    assert len(SEVENTH) == 992
    assert not [v for _, v in graded if v.error]
    assert kinds.count((True, False)) <= 7
    assert kinds.count((False, True)) <= 45
    assert kinds[1:480:2].count((True, False)) <= 7
    assert kinds[1:480:2].count((False, True)) <= 20


def test_pairs_of_the_eighth_measurement_hold_their_rates():
    """600 pairs by an attacker who did not know the readers: 15 falsely CORRECT (2.5 %) and 46 missed (7.7 %) at first
    sight; what 5 of the false ones showed was repaired afterwards. Today's rates."""
    graded = pairs_graded(EIGHTH)
    kinds = [(v.grade is Grade.CORRECT, r["correct"]) for r, v in graded]
    assert len(EIGHTH) == 600
    assert not [v for _, v in graded if v.error]
    assert kinds.count((True, False)) <= 7
    assert kinds.count((False, True)) <= 37


def test_pairs_of_the_ninth_measurement_hold_their_rates():
    """Three sets of 600 by writers who knew neither readers nor pairs: 26, 14 and 21 falsely CORRECT, 45, 21 and 56
    missed at first sight. All of the first and parts of the others were used for repairs then. Today's rates."""
    kinds = [(v.grade is Grade.CORRECT, r["correct"]) for r, v in pairs_graded(NINTH)]
    assert len(NINTH) == 1800
    assert kinds.count((True, False)) <= 11
    assert kinds.count((False, True)) <= 28


def test_pairs_of_the_tenth_measurement_meet_the_bar():
    """600 pairs of another such writer, graded after the repairs of the ninth and read by nobody before: nothing was
    learnt from them. 10 are falsely CORRECT (1.7 %), 32 missed (5.3 %)."""
    graded = pairs_graded(TENTH)
    kinds = [(v.grade is Grade.CORRECT, r["correct"]) for r, v in graded]
    assert len(TENTH) == 600
    assert not [v for _, v in graded if v.error]
    assert kinds.count((True, False)) <= 0.02 * 600
    assert kinds.count((False, True)) <= 0.06 * 600


@pytest.mark.parametrize("verifier", ["numeric", "multiple_choice", "exact", "math"])
def test_adversarial_pairs_are_graded_as_a_careful_reader_would(verifier):
    rows = [r for r in PAIRS if r["verifier"] == verifier]
    graded = pairs_graded(rows)
    verdicts = [v for _, v in graded]
    assert len(rows) >= 100
    assert not [v for v in verdicts if v.error]
    assert not [r for r, v in graded if v.grade is Grade.CORRECT and not r["correct"]]
    missed = [r["answer"] for r, v in graded if v.grade is not Grade.CORRECT and r["correct"]]
    assert missed == STILL_MISSED[verifier]


@pytest.mark.parametrize(
    ("verifier", "reference", "answer", "why"),
    [
        ("exact", "Paris", "It is on the Seine.\nANSWER: Paris", "match by contract"),
        ("exact", "Paris", "ANSWER: Lyon", "mismatch by contract"),
        ("exact", "Paris", "ANSWER: Lyon\nANSWER: Paris", "mismatch"),  # two answers: not by contract
        ("exact", "Paris", "Answer: Paris", "match"),
        ("exact", "Paris", "ANSWER: Paris\nI am sure.", "match"),
        ("numeric", "42", "6 * 7 = 42\n\nANSWER: 42\n", "match by contract"),
        ("numeric", "42", "ANSWER: 43", "mismatch by contract"),
        ("numeric", "42", "ANSWER: 42 apples", "match"),
        ("numeric", "42", "ANSWER: > 42", "mismatch"),
        ("multiple_choice", "B", "Red is warm.\nANSWER: B", "match by contract"),
        ("multiple_choice", "B", "ANSWER: A", "mismatch by contract"),
        ("multiple_choice", "B", "ANSWER: Blue", "match"),
        ("math", "5", r"So it is \boxed{5}.", "match by contract"),
        ("math", "5", r"So it is \boxed{6}.", "mismatch by contract"),
        ("math", "5", r"\boxed{6}, no: \boxed{5}", "match"),
        ("math", "5", "5", "match"),
    ],
)
def test_why_says_which_reader_read_the_answer(verifier, reference, answer, why):
    meta = {"choices": ["Red", "Blue"]} if verifier == "multiple_choice" else {}
    assert grade(ask(verifier, reference, **meta), answer).why == why


def test_the_contract_names_the_form_that_its_reader_reads():
    for verifier in ("exact", "numeric", "multiple_choice", "literal"):
        assert "`ANSWER: <" in contract.instruction(ask(verifier, "1"))
        assert contract.read(ask(verifier, "1"), "thought\n  ANSWER: B  \n\n") == "B"
        assert contract.read(ask(verifier, "1"), "ANSWER: B\nmore") is None
        assert contract.read(ask(verifier, "1"), "ANSWER:") is None
        assert contract.read(ask(verifier, "1"), "The ANSWER: B") is None
    assert r"\boxed{}" in contract.instruction(ask("math", "1"))
    assert contract.read(ask("math", "1"), r"\boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert "```python" in contract.instruction(ask("code"))
    assert contract.read(ask("code"), "Here:\n```python\nx = 1\n```\nDone.") == "x = 1"
    assert "<answer>" in contract.instruction(ask("reasoning_gym"))
    assert contract.read(ask("reasoning_gym"), "<answer> 7 </answer>") == "7"
    assert contract.read(ask("reasoning_gym"), "<answer>7</answer><answer>8</answer>") is None
    for verifier in ("regex", "instructions", "judge"):
        assert contract.instruction(ask(verifier, "1")) is None
        assert contract.read(ask(verifier, "1"), "ANSWER: 1") is None


def test_the_share_of_lenient_readings_counts_answers_whose_verifier_has_a_contract():
    queries = [ask("exact", "1"), ask("math", "1"), ask("numeric", "1"), ask("regex", "1"), ask("exact", "1")]
    texts = ["ANSWER: 1", "1", "ANSWER: 1", "1", None]
    assert contract.lenient_share(queries, texts) == pytest.approx(1 / 3)
    assert contract.lenient_share(queries[3:], texts[3:]) != contract.lenient_share(queries[3:], texts[3:])  # NaN


def test_integers_compare_exactly_and_other_numbers_within_a_tolerance():
    right = [("12343703", "12343703.0"), ("0.3333333333", "1/3"), ("2.5", "2.5000001")]
    wrong = [("12343703", "12343702"), ("12343703", "12343703.5"), ("12343702.5", "12343703"), ("2.5", "2.50001")]
    assert [grade(ask("numeric", a), b).grade is Grade.CORRECT for a, b in right + wrong] == [True] * 3 + [False] * 4
    assert grade(ask("numeric", "1000", tolerance=0.01), "1000.5").grade is Grade.CORRECT
    assert grade(ask("numeric", "1000", tolerance=0.01), "1001").grade is Grade.INCORRECT


def test_statements_and_denials():
    assert [s for *_, s in statements("The answer is 5. So: answer: 6\n#### 7")] == ["5. So:", "6", "7"]
    assert affirmed("6, not 5") == "6"
    assert affirmed("not 5 but 6").strip() == "6"
    assert affirmed("it is not 5") is None
    assert affirmed("5 is not the answer") is None


def test_math500_references_are_correct_bare_and_boxed(datasets):
    rows = json.loads((datasets / "math500_test.json").read_text())
    queries = [Query.ask(r["problem"], r["answer"], verifier="math") for r in rows]
    answers = [r["answer"] for r in rows] + [rf"\boxed{{{r['answer']}}}" for r in rows]
    assert len(rows) == 500
    assert {v.grade for v in grade_many(queries * 2, answers, workers=2)} == {Grade.CORRECT}


SLOW = """
import sys
from routerlab.core.queries import Query
from routerlab.grade.formulas import math
from routerlab.grade.verify import VERIFIERS
verifier, units = sys.argv[1], sys.argv[2:]
meta = {"choices": ["Red one", "Blue"], "instructions": [{"id": "length_constraints:number_sentences",
    "kwargs": {"num_sentences": 3, "relation": "less than"}}, {"id": "detectable_content:postscript",
    "kwargs": {"postscript_marker": "P.S."}}, {"id": "detectable_format:number_bullet_lists", "kwargs":
    {"num_bullets": 2}}, {"id": "detectable_format:number_highlighted_sections", "kwargs": {"num_highlights": 2}}]}
reference = {"numeric": "5", "multiple_choice": "A", "json": "{}"}.get(verifier, "1")
query = Query.ask("q", reference, verifier=verifier, meta=meta)
for unit in units:
    for end in ("", "5"):
        (math if verifier == "math" else VERIFIERS[verifier])(query, (unit * 200_000)[:200_000] + end)
"""
UNITS = (
    *(
        "\n",
        " \n",
        " ",
        "_",
        "a",
        "1",
        "1,",
        "1 ",
        "(",
        "[",
        "{",
        "}",
        r"\boxed{",
        r"\boxed{1}",
        "$",
        "$1$ ",
        "**",
        "`",
    ),
    *(
        "answer is ",
        "The answer is A. ",
        "not ",
        "not 5, ",
        "Wait, no. ",
        "A or ",
        "(A) ",
        "####",
        "<answer>",
        "x=",
        "½",
    ),
    *("5 or ", "minus ", r"\frac{", r"\text{", "1^", "<<", "[a", "it is ", "because ", "- ", "* ", "*a", ". ", "P.S"),
)


@pytest.mark.parametrize("verifier", ["exact", "numeric", "multiple_choice", "math", "literal", "json", "instructions"])
def test_long_texts_made_to_be_slow_are_graded(verifier):
    """About 90 texts of 200,000 characters: linear patterns take seconds, a quadratic one would take hours."""
    command = [sys.executable, "-c", SLOW, verifier, *UNITS]
    ran = subprocess.run(command, timeout=400, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert LONGEST >= 50_000


def test_a_pattern_that_takes_for_ever_is_an_error_and_the_next_is_graded():
    evil, plain = ask("regex", pattern="(a+)+$"), ask("regex", pattern="^b")
    late, then = grade_apart(regex, [(evil, "a" * 40 + "b"), (plain, "b")], 1, timeout_s=3.0)
    assert isinstance(late, WorkerError)
    assert "more than 3 s" in str(late)
    assert then == (1.0, "match")


def test_a_pattern_in_a_schema_has_a_deadline_and_the_next_answer_is_graded():
    evil = ask("json", schema={"type": "string", "pattern": "^(a+)+$"})
    late, then = grade_apart(json_value, [(evil, '"' + "a" * 40 + 'b"'), (evil, '"aaa"')], 1, timeout_s=2.0)
    assert "more than 2 s" in str(late)
    assert then == (1.0, "match")


def test_no_verifier_of_the_package_runs_in_this_process(monkeypatch):
    ended = []
    monkeypatch.setattr(verify, "grade_apart", lambda check, jobs, workers: ended.append(check) or [(1.0, "match")])
    for name in verify.VERIFIERS:
        monkeypatch.setattr(verify, "_verdict", lambda result, answer: result)
        grade(ask(name, "1"), "1")
    assert ended == list(verify.VERIFIERS.values())


def test_processor_time_counts_and_not_the_time_of_a_busy_machine():
    worker = deadline._Worker()
    query = ask("exact", "1")
    assert worker.ask("routerlab.grade.answers:exact", 1.0, [(deadline.about(query), "1")]) == [(1.0, "match")]
    worker.process.send_signal(signal.SIGSTOP)
    threading.Timer(2.0, worker.process.send_signal, [signal.SIGCONT]).start()
    waited = worker.ask("routerlab.grade.answers:exact", 1.0, [(deadline.about(query), "1")])
    assert waited == [(1.0, "match")], "it waited, and is graded"
    worker.close()


def hangs(query, answer):
    """A verifier that waits without using the processor, or ends its process, where the answer says so."""
    if answer == "end":
        os._exit(3)
    time.sleep(1000 * (answer == "wait"))
    return Result(1.0, answer)


def test_a_verifier_that_only_waits_is_ended_by_the_clock():
    query = ask("exact", "1")
    late, then = grade_apart(hangs, [(query, "wait"), (query, "go")], 1, timeout_s=0.1)
    assert isinstance(late, WorkerError)
    assert "more than 1 s by the clock" in str(late)
    assert then == (1.0, "go")


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_results_do_not_depend_on_how_many_answers_are_sent_at_once(size, monkeypatch):
    monkeypatch.setattr(deadline, "_BATCH", size)
    answers = [*"abcde", "end", *"fgh", "end", "end", *"ij"]
    jobs = [(ask("exact", "1"), answer) for answer in answers] + [(ask("exact", "1", odd={1}), "no JSON")]
    *results, unsendable = grade_apart(hangs, jobs * 8, 1)[: len(jobs)]
    assert isinstance(unsendable, TypeError)
    for answer, result in zip(answers, results, strict=True):
        assert "the process ended (3)" in str(result) if answer == "end" else result == (1.0, answer)


def test_a_run_is_graded_again_without_asking(tmp_path, capsys, pocket):
    from routerlab import cli
    from routerlab.core.outcomes import OutcomeTable
    from routerlab.core.recorded import record, recorded
    from routerlab.core.runs import Run

    queries = pocket.split("test").queries[:5]
    table = pocket.table.select([q.id for q in queries])
    columns = table.rows.to_pydict()
    wrong = {**columns, "grade": [Grade.INCORRECT] * len(columns["grade"]), "quality": [0.0] * len(columns["grade"])}
    run = Run(tmp_path / "run")
    record(run, queries, pocket.pool, OutcomeTable(wrong, pocket.pool.ids), {"how": "test"})
    assert cli.main(["grade", str(run.folder)]) == 0
    changed = sum(g != Grade.INCORRECT for g in columns["grade"])
    assert f"{len(columns['grade'])} answers graded again, {changed} grades changed" in capsys.readouterr().out
    assert recorded(run.folder).table.rows.to_pydict()["grade"] == columns["grade"]
    assert cli.main(["grade", "pocket"]) == 1
