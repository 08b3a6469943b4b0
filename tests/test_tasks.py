"""The embedded workload: its questions can be made again, its worked steps are true, and nothing
leaks.
"""

import re

import pytest

from routerlab.pocket import tasks
from routerlab.pocket.families import FAMILIES, LEVELS
from routerlab.pocket.make import examples
from routerlab.pocket.make.record import SPLITS, questions

CELLS = [(family, level) for family in FAMILIES for level in range(LEVELS)]


def test_families_are_many_and_one_is_out_of_reach():
    groups = [f.group for f in FAMILIES.values()]
    assert len(groups) == 11
    assert {"arithmetic", "words", "other", "impossible"} == set(groups)
    assert all(len(f.levels) == LEVELS >= 4 for f in FAMILIES.values())


@pytest.mark.parametrize(("family", "level"), CELLS)
def test_a_question_can_be_made_again_and_its_own_answer_scores(family, level):
    for index in range(5 * 10**7, 5 * 10**7 + 20):
        made = tasks.entry(family, level, index)
        tasks._dataset.cache_clear()
        assert tasks.entry(family, level, index)["question"] == made["question"]
        assert tasks.score(family, level, index, made["answer"]) == 1.0
        assert tasks.score(family, level, index, "I don't know") == 0.0
        assert tasks.score(family, level, index, "") == 0.0


@pytest.mark.parametrize("family", [f for f in FAMILIES if FAMILIES[f].scratch])
def test_the_worked_steps_are_true_and_end_in_the_answer(family):
    scratch = FAMILIES[family].scratch
    assert scratch is not None
    for level in range(LEVELS):
        for index in range(40):
            made = tasks.entry(family, level, index)
            steps = scratch(made["metadata"]).split(";")
            for step in steps:
                left, right = step.rsplit("=", 1)
                if found := re.fullmatch(r"(\d+)/(\d+)=(\d+)r(\d+)", step):
                    n, base, quotient, rest = map(int, found.groups())
                    assert divmod(n, base) == (quotient, rest), step
                else:
                    numbers = re.sub(r"(?<=[\d])([-+*/])", r" \1 ", left)
                    assert eval(numbers) == int(right), step  # noqa: S307 (digits and signs only)
            if family == "complex_arithmetic":
                at = (0, 1) if len(steps) == 2 else (2, 5)
                real, imaginary = (int(steps[i].rsplit("=", 1)[1]) for i in at)
                assert [real, imaginary] == list(made["metadata"]["result"])
            elif family != "base_conversion" and made["metadata"].get("equation") != "0 = 0":
                assert steps[-1].rsplit("=", 1)[1] == made["answer"]


def test_a_base_conversion_reads_its_digits_off_the_steps():
    made = tasks.entry("base_conversion", 2, 12)
    scratch = FAMILIES["base_conversion"].scratch
    assert scratch is not None
    rests = re.findall(r"r(\d+)", scratch(made["metadata"]))
    digits = "0123456789abcdef"
    if made["metadata"]["target_base"] != 10:
        assert "".join(digits[int(r)] for r in reversed(rests)) == made["answer"]


def test_keys_ignore_the_wording_and_the_order_of_operands():
    a = {"question": "Solve the following multiplication: 12 * 7. Give only the result as your final answer."}
    b = {"question": "Solve the following multiplication: 7 * 12. Give only the result as your final answer."}
    assert tasks.key("products", a) == tasks.key("products", b) == "products 12 7"
    assert tasks.key("chain_sum", {"question": "1 + 2"}) != tasks.key("chain_sum", {"question": "2 + 1"})


def test_no_question_is_in_two_places():
    calibration, table = questions()
    keys = {}
    for query in calibration + table:
        meta = query.meta
        name = tasks.key(meta["family"], tasks.entry(meta["family"], meta["level"], meta["index"]))
        assert keys.setdefault(name, query.split) == query.split, query
        keys[name] = query.split
    assert len(keys) == len(calibration) + len(table)
    assert {q.split for q in table} == set(SPLITS)
    dropped = 0
    for family, level in CELLS:
        for made in tasks.training_entries(family, level, 300):
            dropped += made is None
            assert made is None or tasks.key(family, made) not in keys
    assert dropped > 0, "small spaces do collide, and the collisions are dropped"


def test_the_table_is_what_the_card_says(pocket):
    _, table = questions()
    assert [q.id for q in table] == [q.id for q in pocket.queries]
    assert pocket.card["queries"] == {s: sum(q.split == s for q in table) for s in SPLITS}


def test_the_tokenizer_covers_every_question_and_answer():
    words = examples.tokenizer()
    assert (words.pad_token_id, words.eos_token_id) == (examples.PAD, examples.EOS)
    assert len(words) < 256, "training stores tokens as bytes"
    for family, level in CELLS:
        rows, heads, lost = examples.encode_cell(family, level, 50, thinks=True)
        assert len(rows) + lost == 50
        for row, head in zip(rows, heads, strict=True):
            text = words.decode(row)
            assert words.unk_token_id not in row
            assert text.endswith("<eos>")
            assert words.decode(row[:head]).endswith("<think>")
            assert len(row) <= examples.MAX_TOKENS
    question = tasks.entry("spell_backward", 0, 1)["question"]
    assert words.decode(words(question)["input_ids"]) == question
    assert len(words(question)["input_ids"]) <= 5, "the fixed wording is one token, the word its letters"


def test_batches_hold_every_example_once_and_count_only_what_is_written(rng):
    rows, heads, _ = examples.encode_cell("chain_sum", 1, 500, thinks=False)
    import numpy as np

    seen = []
    for inputs, labels in examples.batches(rows, np.array(heads), rng, 256):
        assert inputs.numel() <= 256
        for line, target in zip(inputs.tolist(), labels.tolist(), strict=True):
            written = [t for t in target if t != -100]
            seen.append(tuple(t for t in line if t != examples.PAD))
            assert written[-1] == examples.EOS
            assert tuple(written) == seen[-1][-len(written) :]
    assert sorted(seen) == sorted(tuple(r.tolist()) for r in rows)
