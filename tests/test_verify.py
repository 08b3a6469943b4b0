"""Grading: every verifier on what it must and must not accept, and what is missing rather than wrong."""

import csv
import gzip
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from routerlab.core.invariants import Grade
from routerlab.core.queries import Query
from routerlab.grade import deadline as workers
from routerlab.grade import program as codes
from routerlab.grade import verify
from routerlab.grade.answers import EVALUATE, Result
from routerlab.grade.code import _same_output
from routerlab.grade.contract import boxed
from routerlab.grade.formulas import math
from routerlab.grade.instructions import CHECKS, followed, sentences
from routerlab.grade.names import normal
from routerlab.grade.numeric import clean, numbers
from routerlab.grade.sandbox import Ran, SandboxError
from routerlab.grade.verify import Verdict, VerifyError, abstains, grade, grade_many

RIGHT = Verdict(Grade.CORRECT, 1.0, "match")
WRONG = Verdict(Grade.INCORRECT, 0.0, "mismatch")
UNREAD = Verdict(Grade.INCORRECT, 0.0, "format")
IDK = Verdict(Grade.IDK, 0.0, "idk")
REFUSED = Verdict(Grade.IDK, 0.0, "refusal")
boxes = pytest.mark.skipif(
    shutil.which("bwrap") is None,
    reason="no bubblewrap here: `apt-get install bubblewrap` (0.8 or newer) to test grading of code",
)


def ask(verifier, reference=None, text="question", **meta):
    return Query.ask(text, reference, verifier=verifier, meta=meta)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("Paris", "paris.", RIGHT),
        ("Paris", "The answer is **Paris**.", RIGHT),
        ("Paris", "First thoughts.\nAnswer: Paris", RIGHT),
        ("Paris", "\\boxed{\\text{Paris}} or so: \\boxed{Paris}", RIGHT),
        ("The Beatles", "beatles", RIGHT),
        ("it's", "It’s", RIGHT),
        ("New York City", "NYC", RIGHT),  # an alias
        ("Paris", "Paris or London", WRONG),
        ("Paris", "not Paris", WRONG),
        ("1.5", "15", WRONG),
        ("-5", "5", WRONG),
        ("C++", "C", WRONG),
        ("Paris", "", UNREAD),
        ("Unknown", "unknown", RIGHT),  # right although it reads like an abstention
        ("Paris", "unknown", IDK),
        ("Paris", "The answer is unknown.", IDK),
    ],
)
def test_exact(reference, answer, verdict):
    assert grade(ask("exact", reference, aliases=["NYC"]), answer) == verdict


def test_thinking_is_not_part_of_an_answer():
    assert grade(ask("exact", "4"), "<think>5? The answer is 5.</think>\n4") == RIGHT
    assert grade(ask("numeric", "4"), "<think>4</think> 5") == WRONG


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,234.50 and -7", [1234.5, -7]),
        ("10-5 is 3–4", [10, 5, 3, 4]),
        ("x = -5, −6, (-8)", [-5, -6, -8]),
        ("-$1,000 or $-20", [-1000, -20]),
        ("3/4 of 1 1/2 and 2½", [0.75, 1.5, 2.5]),
        (r"\frac{3}{4}, 2\frac{1}{2}, -\dfrac{1}{8}", [0.75, 2.5, -0.125]),
        (r"1.5 \times 10^{3}, 2e-3, 3 x 10^2", [1500, 0.002, 300]),
        (r"12{,}345 and 1\,000 and 45^\circ", [12345, 1000, 45]),
        ("H2O and abc1 and 1/0", []),
        ("2 million, 3.5 thousand", [2e6, 3500]),
        (r"\$18.00 per day", [18]),
        (".5", [0.5]),
        ("1" * 500, []),
        ("none", []),
    ],
)
def test_numbers_as_people_write_them(text, values):
    found = [float(n.value) for n in numbers(clean(text))]
    assert found == values


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("... <<9*8=72>>72 clips.\n#### 72", "She sold 72 clips.", RIGHT),
        ("#### 1,000", "so it makes $1000.00 in all", RIGHT),
        ("18", "It is 9 * 2 = 18 dollars", RIGHT),
        ("18", "The answer is 18. This took 2 steps.", RIGHT),
        ("18", "The final answer is 9 * 2 = 18 dollars.", RIGHT),
        ("18", "**Answer:** $18", RIGHT),
        ("18", "\\boxed{18} for 2 days", RIGHT),
        ("18", "16, no: 17", WRONG),
        ("18", "-18", WRONG),
        ("0.5", "50%", RIGHT),
        ("50%", "0.5", RIGHT),
        ("50", "50 percent", RIGHT),
        ("50%", "5000%", WRONG),
        ("0.75", "\\frac{3}{4}", RIGHT),
        ("3.5", "3 1/2 hours", RIGHT),
        ("18", "eighteen", RIGHT),
        ("18", "I don't know", IDK),
        ("0", "0.0", RIGHT),
        ("0", "-0", RIGHT),
        ("0", "0.1", WRONG),
        ("5", "The answer is not 4, it is 5.", RIGHT),
        ("4", "The answer is not 4, it is 5.", WRONG),
        ("15", "The area is 15 cm^2", RIGHT),
        ("9.8", "It falls at 9.8 m/s^{2}", RIGHT),
        ("1000", "10^{3}", RIGHT),
        ("1000", "10³", RIGHT),
        ("103", "10³", WRONG),
        ("1000", "10**3", RIGHT),
        ("0.25", "2^{-2}", RIGHT),
        ("34", "so we get 3*4", WRONG),
        ("12", "so we get *12*", RIGHT),
        ("1234567", "1\u202f234\u202f567", RIGHT),
        ("1000", "1'000", RIGHT),
        ("0.5", "\\frac12", RIGHT),
        ("12", "١٢", RIGHT),
    ],
)
def test_numeric(reference, answer, verdict):
    assert grade(ask("numeric", reference), answer) == verdict


def test_numeric_tolerance():
    assert grade(ask("numeric", "3.1416"), "3.14") == WRONG
    assert grade(ask("numeric", "3.1416", tolerance=0.001), "3.14") == RIGHT
    assert grade(ask("numeric", "no number"), "3").error == "grading"


CHOICES = ["a dog", "a cat", "the correct one", "Iceland"]


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("A", "A", RIGHT),
        ("A", "(a)", RIGHT),
        ("A", "A.", RIGHT),
        ("A", "A) a dog", RIGHT),
        ("A", "The answer is (A).", RIGHT),
        ("A", "**Answer: A**", RIGHT),
        ("A", "answer is a.", RIGHT),
        ("A", "\\boxed{A}", RIGHT),
        ("A", "\\boxed{\\text{A}}", RIGHT),
        ("A", "a dog", RIGHT),
        ("A", "A dog.", RIGHT),
        ("B", "The answer is a cat.", RIGHT),
        ("B", "The answer is B because cats purr.", RIGHT),
        ("B", "A dog barks, so I choose option B.", RIGHT),
        ("B", "B. a cat\n\nCats purr; a dog does not.", RIGHT),
        ("B", "Dogs are out.\n\nB", RIGHT),
        ("a cat", "B", RIGHT),
        ("B", "Not (A), as dogs bark. The answer is (B).", RIGHT),
        ("A", "Answer: B", WRONG),
        # The article and the pronoun are no letters of options, nor is the first letter of a word.
        ("A", "A bird is what it is.", UNREAD),
        ("A", "The answer is a bird.", UNREAD),
        ("A", "The answer is A bird.", UNREAD),
        ("C", "CORRECT", UNREAD),
        ("C", "The answer is CORRECT", UNREAD),
        ("C", "Correct.", UNREAD),
        ("D", "Definitely. I think so", UNREAD),
        ("A", "(A) or (B)", UNREAD),
        ("A", "The answer is A or B.", UNREAD),
        ("B", "The answer is B and C", UNREAD),
        ("A", "Z", UNREAD),
        ("A", "", UNREAD),
        ("A", "I don't know.", IDK),
        ("A", "The answer is A, not B", RIGHT),
        ("B", "The answer is B, C", UNREAD),
        ("A", "(A) is false; (B) is true", WRONG),
        ("B", "Ｂ", RIGHT),
    ],
)
def test_multiple_choice(reference, answer, verdict):
    assert grade(ask("multiple_choice", reference, choices=CHOICES), answer) == verdict


def test_multiple_choice_of_other_shapes():
    named = ask("multiple_choice", "K", choices={"J": "red", "K": "blue"})
    assert grade(named, "blue") == grade(named, "(K)") == RIGHT
    numbered = ask("multiple_choice", "2", choices={"1": "red", "2": "blue"})
    assert "text of A" in grade(numbered, "blue").why
    letters = ask("multiple_choice", "A", choices=["B", "C", "A"])
    assert grade(letters, "A") == RIGHT
    assert "choices" in grade(ask("multiple_choice", "A"), "A").why
    assert "no option" in grade(ask("multiple_choice", "Z", choices=CHOICES), "A").why


@pytest.mark.parametrize(
    ("meta", "reference", "answer", "verdict"),
    [
        ({}, '{"a": [1, 2]}', '```json\n{"a": [1.0, 2]}\n```', RIGHT),
        ({}, '{"a": 1}', 'Here you are: {"a": 1}. Good luck {you}!', RIGHT),
        ({}, '{"a": 1}', '{"a": true}', WRONG),
        ({}, '{"a": 1}', '{"a": 1, "b": 2}', WRONG),
        ({}, "[]", "no", UNREAD),
        ({}, "[]", "[" * 100000, UNREAD),
        ({"schema": {"type": "object", "required": ["x"]}}, None, '{"x": 0}', RIGHT),
        ({"schema": {"type": "object", "required": ["x"]}}, None, "{}", WRONG),
    ],
)
def test_json(meta, reference, answer, verdict):
    assert grade(ask("json", reference, **meta), answer) == verdict


def test_a_schema_downloads_nothing():
    query = ask("json", schema={"$ref": "http://127.0.0.1:9/schema.json"})
    assert grade(query, "{}").error == "grading"


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("'Ab'", '"Ab"', RIGHT),
        ("'Ab'", "'ab'", WRONG),
        ("[1, 2]", "```python\n[1,2]\n```", RIGHT),
        ("[1, 2]", "It returns a list.\nThe answer is `[1, 2]`.", RIGHT),
        ("[1, 2]", "So:\n\n[2, 1]", WRONG),
        ("[1]", "(1,)", WRONG),
        ("1", "True", WRONG),
        ("[1]", "[True]", WRONG),
        ("{'a': (1, 2)}", "{'a': (1, 2.0)}", WRONG),
        ("{'a': None}", '{"a": None}', RIGHT),
        ("1", "open('x')", UNREAD),
    ],
)
def test_literal(reference, answer, verdict):
    assert grade(ask("literal", reference), answer) == verdict


def test_regex():
    query = ask("regex", pattern=r"^\d{4}-\d\d$")
    assert grade(query, "2024-05") == RIGHT
    assert grade(query, "May 2024") == WRONG
    assert grade(ask("regex", r"\bcat\b"), "a cat") == RIGHT
    assert grade(ask("regex", "("), "a cat").error == "grading"


def test_reasoning_gym_scores_embedded_and_other_questions(pocket):
    from routerlab.pocket import tasks

    made = tasks.entry("chain_sum", 1, 5)
    query = ask("reasoning_gym", made["answer"], family="chain_sum", level=1, index=5)
    assert grade(query, made["answer"]) == RIGHT
    assert grade(query, f"<answer> {made['answer']} </answer>") == RIGHT
    assert grade(query, "no") == WRONG
    assert grade(query, " ") == UNREAD
    import reasoning_gym

    entry = reasoning_gym.create_dataset("gcd", seed=1, size=1)[0]
    other = ask("reasoning_gym", entry["answer"], dataset="gcd", entry=json.loads(json.dumps(entry)))
    assert grade(other, entry["answer"]) == RIGHT
    assert grade(other, "0") == WRONG
    assert "family" in grade(ask("reasoning_gym", "1"), "1").why


def test_letters_after_the_right_answer_make_it_wrong():
    """reasoning-gym's partial credit for ten right letters sums to 0.9999999999999999."""
    import reasoning_gym

    entry = dict(reasoning_gym.create_dataset("spell_backward", seed=1, size=1)[0], answer="deldnurtnu")
    question = ask("reasoning_gym", "deldnurtnu", dataset="spell_backward", entry=entry)
    assert grade(question, "deldnurtnu").grade == Grade.CORRECT
    assert grade(question, "deldnurtnurt").grade == Grade.INCORRECT


def evaluating_scorers():
    """Data sets of reasoning-gym whose module hands text to eval or to what calls it, as the package lies here."""
    import reasoning_gym

    calls = re.compile(r"\b(?:eval|exec|sympify|parse_expr|simplify|S)\(")
    for path in sorted(Path(reasoning_gym.__file__).parent.glob("*/*.py")):
        text = path.read_text()
        scorer = re.search(r"def score_answer\(.*?(?=\n    def |\nclass |\Z)", text, re.S)
        name = re.search(r'register_dataset\(\s*"?(\w+)', text)
        if scorer and name and calls.search(scorer[0]):
            named = re.search(rf'^{name[1]} = "(\w+)"', text, re.M)
            yield named[1] if named else name[1]


def test_no_scorer_runs_what_a_model_wrote(tmp_path):
    import reasoning_gym

    assert set(evaluating_scorers()) - {"number_sorting"} == EVALUATE  # (the reference)
    mark = tmp_path / "ran"
    attacks = [
        f"__import__('pathlib').Path({str(mark)!r}).touch()",
        f"[x for x in (open({str(mark)!r}, 'w'),)]",
        f"(lambda: open({str(mark)!r}, 'w'))()",
        f"exp(open({str(mark)!r}, 'w'))",
        "9**9**9**9",
        "[1] * 999999999",
        "[[1], 9**9**9**9]",
        "9" * 5000,
        "(" * 500 + "1" + ")" * 500,
        # No Python expression as a whole, but sympy's parser reads "!" as a factorial and runs what stands before it.
        f"open({str(mark)!r}, 'w')!",
        f"open({str(mark)!r}, 'w')\n!",
        f"word open({str(mark)!r}, 'w')!",
    ]
    for name in sorted(EVALUATE):
        entry = json.loads(json.dumps(reasoning_gym.create_dataset(name, seed=1, size=1)[0]))
        query = ask("reasoning_gym", entry["answer"], dataset=name, entry=entry)
        assert grade(query, entry["answer"]) == RIGHT, name
        for attack in attacks:
            assert grade(query, attack) == WRONG, (name, attack)
            assert not mark.exists(), (name, attack)


@pytest.mark.parametrize("seed", range(3))
def test_formulas_are_scored_as_before(seed):
    import reasoning_gym

    for name in sorted(EVALUATE):
        for entry in reasoning_gym.create_dataset(name, seed=seed, size=15):
            query = ask("reasoning_gym", entry["answer"], dataset=name, entry=entry)
            assert grade(query, str(entry["answer"])) == RIGHT
            if "Integral" in entry["answer"]:
                continue  # a reference that sympy could not work out
            if name in {"countdown", "puzzle24", "polynomial_multiplication"}:
                assert grade(query, f"+({entry['answer']})") == RIGHT
            elif name.endswith("integration"):
                assert grade(query, f"({entry['answer']}) + 7") == RIGHT


def test_the_recorded_table_is_graded_as_it_was(pocket):
    """The verifier by name gives the grades of the committed outcomes again, abstentions included."""
    queries, table = pocket.queries, pocket.table
    answers, grades = table.text("answer"), table.grades()
    rows = [(i, j) for i in range(0, len(queries), 40) for j in range(len(table.models))]
    place = {q.id: q for q in queries}
    asked = [place[table.queries[i]] for i, _ in rows]
    found = grade_many(asked, [answers[i, j] for i, j in rows])
    assert [v.grade for v in found] == [Grade(grades[i, j]) for i, j in rows]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("I don't know.", "idk"),
        ("I don’t know the answer to that question.", "idk"),
        ("Sorry, I do not know.", "idk"),
        ("I'm not sure.", "idk"),
        ("I am not certain about this.", "idk"),
        ("I have no idea", "idk"),
        ("Unknown", "idk"),
        ("I cannot determine the answer from this.", "idk"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I cannot provide instructions for making weapons.", "refusal"),
        ("As an AI language model, I can't assist with this request.", "refusal"),
        ("I'm unable to help with that.", "refusal"),
        ("I don't know, but I think it is Paris.", None),
        ("I'm not sure, maybe 42", None),
        ("I do not know of any city but Paris is the capital", None),
        ("He said: I don't know. The answer is 7.", None),
        ("I know it: 7", None),
        ("The unknown soldier", None),
        ("I can't help but notice that it is 7.", None),
        ("I don't know. " + "But here is a long text. " * 20, None),
        ("", None),
    ],
)
def test_abstention_is_a_short_answer_that_is_nothing_else(answer, says):
    if answer.startswith("I can't help but"):
        assert grade(ask("numeric", "7"), answer) == RIGHT
    else:
        assert abstains(answer) == says


def test_what_did_not_happen_is_missing():
    cut = grade(ask("exact", "4"), "4", "length")
    assert (cut.grade, cut.quality, cut.error) == (None, None, "truncated")
    assert grade(ask("exact", "4"), "", "refusal") == REFUSED
    judged = grade(ask("judge", "4"), "4")
    assert (judged.grade, judged.error) == (None, "judge")
    assert "no judge is configured" in judged.why
    bare = grade(ask("exact"), "4")
    assert (bare.grade, bare.error) == (None, "grading")
    assert "no reference" in bare.why


def test_a_verifier_that_raises_is_an_error_and_never_a_zero(monkeypatch):
    def broken(query, answer):
        raise ZeroDivisionError("oops")

    monkeypatch.setitem(verify.VERIFIERS, "mine", broken)
    assert grade(ask("mine"), "x") == Verdict(None, None, "oops", "grading")
    monkeypatch.setitem(verify.VERIFIERS, "mine", lambda q, a: Result(0.75, "match"))
    assert grade(ask("mine"), "x") == Verdict(Grade.CORRECT, 0.75, "match")


def test_an_unknown_verifier_is_refused_with_the_known_ones():
    with pytest.raises(VerifyError, match=r"'exakt'.*code, exact, instructions.*numeric"):
        grade(ask("exakt", "4"), "4")
    with pytest.raises(VerifyError, match="2 answers"):
        grade_many([ask("exact", "4")], ["4", "5"])


INSTRUCTED = [
    ("keywords:existence", {"keywords": ["cat", "dog"]}, "Cats and a DOG.", "Cats."),
    (
        "keywords:frequency",
        {"keyword": "go", "frequency": 2, "relation": "at least"},
        "Go, go",
        "go",
    ),
    (
        "keywords:frequency",
        {"keyword": "go", "frequency": 2, "relation": "less than"},
        "go",
        "go go",
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "Category", "the cat."),
    (
        "keywords:letter_frequency",
        {"letter": "e", "let_frequency": 3, "let_relation": "at least"},
        "Eleven",
        "ten",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        "Dr. A. Bell called. He is 3.5 m tall!",
        "One. Two. Three.",
    ),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "a b c", "a b"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "First.\n\n**Then** more.",
        "First.\n\nMore then.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] [day]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi\nP.S. bye", "Hi P.S"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Hi\nP.P.S bye", "P.S. bye"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n**b**"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "No."),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        "*a* and **b**",
        "* a\n*b*",
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb",
        "Section 1\na",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<Spring>>\nIt is.", "<< >>\nIt is."),
    ("combination:two_responses", {}, "a******b", "a******a"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi"}, "say hi\nHi.", "Hi."),
    (
        "startend:end_checker",
        {"end_phrase": "That is all."},
        "Yes. That is all.",
        "That is all. Yes",
    ),
    ("startend:quotation", {}, '"yes"', 'yes"'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        "one TWO three",
        "ONE TWO",
    ),
    ("change_case:english_capital", {}, "YES, 1!", "Yes"),
    ("change_case:english_lowercase", {}, "yes, 1!", "Yes"),
    ("punctuation:no_comma", {}, "a b", "a, b"),
]


@pytest.mark.parametrize(("name", "options", "good", "bad"), INSTRUCTED)
def test_instructions(name, options, good, bad):
    # The data set writes every option of every instruction, most of them null.
    meta = {"instruction_id_list": [name], "kwargs": [{**options, "unused": None}]}
    query = ask("instructions", **meta)
    assert grade(query, good) == RIGHT
    assert grade(query, bad) == WRONG
    paired = ask("instructions", instructions=[{"id": name, "kwargs": options}])
    assert grade(paired, good) == RIGHT
    assert grade(paired, bad) == WRONG


def test_all_instructions_count_and_all_are_tested():
    assert {i[0] for i in INSTRUCTED} == set(CHECKS)
    assert len(CHECKS) == 24
    query = ask(
        "instructions",
        instruction_id_list=["punctuation:no_comma", "change_case:english_lowercase"],
        kwargs=[{}, {}],
    )
    assert grade(query, "all is well") == RIGHT
    assert grade(query, "all, is well") == WRONG
    assert grade(query, "") == UNREAD
    assert list(followed(query, "all, is well").values()) == [False, True]
    found = sentences("Ask Dr. A. Bell. And that?\n\nYes")
    assert found == ["Ask Dr. A. Bell.", "And that?", "Yes"]
    unknown = ask("instructions", instruction_id_list=["language:response_language"], kwargs=[{}])
    assert "response_language" in grade(unknown, "x").why
    assert grade(unknown, "x").error == "grading"


def test_boxes_are_balanced():
    assert boxed(r"\boxed{1} and \boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert boxed(r"\boxed{1") is None
    assert boxed(r"{ \boxed{1\} \{} } } \fbox {2} \boxed{") == "2"
    assert boxed(r"\boxed{\boxed{1} + 2}") == "1"
    assert boxed("\\boxed{" * 10**5 + "7}") == "7", "a model that repeats itself is read once"
    assert [numbers(clean(c * 10**5)) for c in ("\n", " \n", "_")] == [[]] * 3
    assert normal(" “The  Cat.” ") == "cat"


def test_math_runs_apart_and_in_threads():
    queries = [ask("math", r"\frac{1}{2}"), ask("math", "x^2+1"), ask("math", "(1, 2)")] * 2
    answers = ["0.5", "$1 + x^2$", r"\boxed{(1,2)}", "0.3", "It is $x^2$", "none that I see"]
    found = []
    thread = threading.Thread(target=lambda: found.extend(grade_many(queries, answers, workers=2)))
    thread.start()
    thread.join()
    by_contract = RIGHT._replace(why="match by contract")
    assert found == [RIGHT, RIGHT, by_contract, WRONG, WRONG, UNREAD]


def test_math_that_takes_too_long_is_an_error_and_the_next_is_graded():
    slow = ask("math", "1")
    tower = "$" + "^{".join(["9"] * 12) + "}" * 11 + "$"
    jobs = [(slow, tower), (slow, "$1$"), (slow, "$2$")]
    results = workers.grade_apart(math, jobs, 1, timeout_s=4.0)
    assert isinstance(results[0], workers.WorkerError)
    assert results[1:] == [Result(1.0, "match"), Result(0.0, "mismatch")]
    # A process that does not answer at all is ended, and another one goes on.
    late = workers.grade_apart(math, [(slow, tower)] * 2, 1, timeout_s=0.0)
    assert all(isinstance(r, workers.WorkerError) and "more than 0 s" in str(r) for r in late)


def test_the_deadline_of_an_answer_does_not_pay_for_the_import():
    """A process that has graded no answer yet has the algebra loaded: that takes longer than an answer."""
    code = "from routerlab.grade.deadline import serve; serve()"
    command = [sys.executable, "-X", "importtime", "-c", code]
    load = json.dumps(["routerlab.grade.formulas:math", 1.0, True, [], [], []]) + "\n"
    ran = subprocess.run(command, input=load, capture_output=True, text=True)
    assert set(ran.stdout.split()) == {"[]"}, "loaded, and nothing graded"
    assert {"math_verify", "latex2sympy2_extended"} <= set(re.findall(r"\w+$", ran.stderr, re.M))


def test_gsm8k_gold_is_correct_and_its_neighbour_is_not(datasets):
    rows = [json.loads(x) for x in (datasets / "gsm8k_test.jsonl").read_text().splitlines()]
    gold = [r["answer"].rpartition("####")[2].strip() for r in rows]
    queries = [Query.ask(r["question"], r["answer"], verifier="numeric") for r in rows]
    assert {v.grade for v in grade_many(queries, [r["answer"] for r in rows])} == {Grade.CORRECT}
    assert {v.grade for v in grade_many(queries, [f"The answer is ${g}.00." for g in gold])} == {Grade.CORRECT}
    others = grade_many(queries, gold[1:] + gold[:1])
    same = [
        float(a.replace(",", "")) == float(b.replace(",", "")) for a, b in zip(gold, gold[1:] + gold[:1], strict=True)
    ]
    assert [v.grade is Grade.CORRECT for v in others] == same


def test_math500_gold_is_correct_and_its_neighbour_is_not(datasets):
    rows = json.loads((datasets / "math500_test.json").read_text())[::2]
    queries = [Query.ask(r["problem"], r["answer"], verifier="math") for r in rows]
    n = len(rows)
    answers = [r["solution"] for r in rows] + [f"So it is ${r['answer']}$." for r in rows]
    answers += [rows[(i + 1) % n]["solution"] for i in range(n)]
    found = grade_many(queries * 3, answers, workers=2)
    assert {v.grade for v in found[: 2 * n]} == {Grade.CORRECT}
    assert sum(v.grade is Grade.CORRECT for v in found[2 * n :]) <= 4  # equal by chance
    assert not [v for v in found if v.error]


def test_truthfulqa_as_multiple_choice(datasets):
    with open(datasets / "TruthfulQA.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    pairs = [(r["Best Answer"], r["Best Incorrect Answer"]) for r in rows if r["Best Incorrect Answer"]]
    pairs = [p for p in pairs if normal(p[0]) != normal(p[1])]
    queries = [ask("multiple_choice", "B", choices=[bad, good]) for good, bad in pairs]
    assert len(queries) > 700
    for wrap in ("{}", "The answer is {}", "B. {}", "B"):
        found = grade_many(queries, [wrap.format(good) for good, _ in pairs])
        assert {v.grade for v in found} == {Grade.CORRECT}
    wrong = grade_many(queries, [bad for _, bad in pairs])
    assert Grade.CORRECT not in {v.grade for v in wrong}


def _humaneval(datasets):
    with gzip.open(datasets / "HumanEval.jsonl.gz", "rt") as f:
        return [json.loads(line) for line in f]


@boxes
def test_humaneval_solutions_pass_however_they_are_given_and_broken_ones_fail(datasets):
    rows = _humaneval(datasets)[10:34:2] + _humaneval(datasets)[38:39]
    keys = ("test", "entry_point", "prompt")
    queries = [ask("code", tests={k: r[k] for k in keys}, text=r["prompt"]) for r in rows]
    whole = [r["prompt"] + r["canonical_solution"] for r in rows]
    ways = {
        "goes on": [r["canonical_solution"] for r in rows],
        "goes on, first indent lost": [r["canonical_solution"].lstrip() for r in rows],
        "fenced": [f"Here it is.\n```python\n{x}```\nIt works: `f(1)`." for x in whole],
        "fenced body": [f"```python\n{r['canonical_solution']}```" for r in rows],
        "fence with an example": [f"```python\n{x}```\n```\nprint({'1' * 3000})\n```" for x in whole],
    }
    for name, answers in ways.items():
        assert grade_many(queries, answers, workers=4) == [RIGHT] * len(rows), name
    broken = [f"def {r['entry_point']}(*args):\n    return None\n" for r in rows]
    assert {v.grade for v in grade_many(queries, broken, workers=4)} == {Grade.INCORRECT}
    gone = [x + "\nraise SystemExit(0)\n" for x in whole]
    assert {v.why for v in grade_many(queries, gone, workers=4)} == {"mismatch"}


@boxes
def test_an_answer_goes_on_with_the_start_it_was_given():
    start = "n = int(input())\nif n > 1:"
    query = ask("code", tests={"start": start, "cases": [{"stdin": "3\n", "stdout": "6\n"}]})
    rest = "    print(2 * n)\n"
    ways = [rest, f"```python\n{rest}```", f"So:\n```python\n{start}\n{rest}```\nDone."]
    assert grade_many([query] * 3, ways) == [RIGHT] * 3
    assert grade_many([query], ["```python\n    print(n)\n```"])[0].grade == Grade.INCORRECT


@boxes
def test_mbpp_solutions_pass_and_exchanged_ones_fail(datasets):
    rows = [json.loads(x) for x in (datasets / "mbpp.jsonl").read_text().splitlines()][10:36:2]
    keys = ("test_list", "test_setup_code")
    queries = [ask("code", tests={k: r[k] for k in keys}, text=r["text"]) for r in rows]
    answers = [f"```python\n{r['code']}\n```" for r in rows]
    assert grade_many(queries, answers, workers=4) == [RIGHT] * len(rows)
    crossed = grade_many(queries, answers[1:] + answers[:1], workers=4)
    assert {v.grade for v in crossed} == {Grade.INCORRECT}


@boxes
def test_programs_are_tested_by_their_output():
    cases = {"cases": [{"stdin": "2 3\n", "stdout": "5\n"}, {"stdin": "1 1", "stdout": "2"}]}
    adder = "```python\na, b = map(int, input().split())\nprint(a + b)\n```"
    queries = [ask("code", tests=cases)] * 6 + [ask("code", tests=cases["cases"])]
    columns = ask("code", tests={"inputs": ["2 3", "1 1"], "outputs": ["5.0", "2"], "timeout_s": 1})
    answers = [
        adder,
        "print(5)",
        "print(1 / 0)",
        "This cannot be done in Python.",
        "I don't know",
        "x = bytearray(10**10)",
        adder,
        "```py\nwhile True: pass\n```",
        adder.replace("a + b", "float(a + b)"),
    ]
    found = grade_many([*queries, columns, columns], answers, workers=4)
    assert [v.why for v in found] == [
        *("match", "mismatch", "crash", "format", "idk", "memory", "match", "timeout", "match"),
    ]


@boxes
def test_functions_and_methods_are_tested_by_calls():
    calls = {
        "entry_point": "twice",
        "calls": [{"args": [2], "expect": 4}, {"args": ["a"], "expect": "aa"}],
    }
    query = ask("code", tests=calls)
    function = "```python\ndef twice(x):\n    return 2 * x\n```"
    method = "```python\nclass Solution:\n    def twice(self, x):\n        return x + x\n```"
    found = grade_many([query] * 3, [function, method, function.replace("2 *", "3 *")])
    assert [v.why for v in found] == ["match", "match", "mismatch"]


def test_code_is_refused_without_a_box(monkeypatch):
    query = ask("code", tests={"cases": [{"stdin": "", "stdout": "1"}]})

    def no_box(url=None):
        raise SandboxError("bubblewrap is not installed: `apt-get install bubblewrap`")

    monkeypatch.setattr(verify, "executor", no_box)
    with pytest.raises(SandboxError, match="apt-get install"):
        grade(query, "print(1)")
    # One that breaks in between is an error of that answer.
    monkeypatch.setattr(verify, "executor", lambda url=None: broken)

    def broken(source, stdin, limits):
        raise SandboxError("the server is gone")

    assert grade(query, "print(1)") == Verdict(None, None, "the server is gone", "grading")
    monkeypatch.setattr(verify, "executor", lambda url=None: lambda *a: Ran("1\n", "", "ok", 0, 0.1))
    assert grade(query, "print(1)") == RIGHT
    assert grade(ask("code", tests={"x": 1}), "print(1)").error == "grading"
    assert grade(ask("code"), "print(1)").error == "grading"


def test_the_program_in_an_answer():
    assert codes.extract("```python\nx = 1\n```\nor\n```\ndef f(): pass\n```", {"f"}) == "def f(): pass\n"
    assert codes.extract("  ```py\n  x = 1\n  ```") == "x = 1\n"
    assert codes.extract("```python\nx = 1") == "x = 1"
    assert codes.extract("```bash\nls\n```") is None
    assert codes.extract("x = 1") == "x = 1"
    assert codes.extract("Let me think.") is None


F, USE = "def f(x):\n    return x * x\n", "print(f(2))\n" * 40
MAIN = "n = int(input())\nprint(n * n)\n"


@pytest.mark.parametrize(
    ("blocks", "names", "program"),
    [
        # A block that the tests do not call, however long: use, output, an installation, another language's words.
        ([F, USE], "f", F),
        ([F, "4\n" * 99], "f", F),
        (["pip install numpy, and a long reason why it is needed at all\n", F], "f", F),
        ([F, "The time complexity is O(1), and so is the space.\n" * 3], "f", F),
        ([F, "from solution import f\nassert f(2) == 4\n"], "f", F),
        ([F, "text = 'def f(x): return 1'\n"], "f", F),
        ([F, "def f(x:\n"], "f", F),
        # The last definition counts, in any of its forms.
        ([F, "def f(x):\n    return x ** 2\n"], "f", "def f(x):\n    return x ** 2\n"),
        ([F, "f = lambda x: x ** 2\n", USE], "f", "f = lambda x: x ** 2\n"),
        ([USE, "from operator import neg as f\n"], "f", "from operator import neg as f\n"),
        ([F, "class Solution:\n    def f(self, x): return 1\n"], "f",
         "class Solution:\n    def f(self, x): return 1\n"),
        # What a block needs from others belongs to it, and what it does not need does not.
        (["def g(x): return x\n", "def f(x): return g(x)\n", USE], "f",
         "def g(x): return x\n\n\ndef f(x): return g(x)\n"),
        (["def f(x): return g(x)\n", "def g(x): return x\n"], "f", "def f(x): return g(x)\n\n\ndef g(x): return x\n"),
        (["import math\n", "print(1)\n", "def f(x): return math.pi\n"], "f",
         "import math\n\n\ndef f(x): return math.pi\n"),
        (["def len(x): return 1\n", "def f(x): return len(x)\n"], "f", "def f(x): return len(x)\n"),
        ([F, "class N: pass\n"], "fN", f"{F}\n\nclass N: pass\n"),
        # Whole programs: the last that runs, reads and prints.
        ([MAIN, "9\n" * 99], "", MAIN),
        ([MAIN, "YES\nNO\n" * 99], "", MAIN),
        ([MAIN, "n = input()\nprint(int(n) ** 2)\n"], "", "n = input()\nprint(int(n) ** 2)\n"),
        ([F, "print(f(int(input())))\n"], "", f"{F}\n\nprint(f(int(input())))\n"),
        ([F + "print(f(int(input())))\n", USE], "", F + "print(f(int(input())))\n"),
        (["n = int(input())\n", "print(n * n)\n"], "", "n = int(input())\n\n\nprint(n * n)\n"),
        (["def main():\n    print(input())\n", "main()\n"], "", "def main():\n    print(input())\n\n\nmain()\n"),
        (["print(6)\n", "6\n"], "", "print(6)\n"),
    ],
)  # fmt: skip
def test_the_blocks_of_an_answer_that_count(blocks, names, program):
    answer = "\nand\n".join(f"```python\n{block}```" for block in blocks)
    assert codes.extract(answer, set(names)) == program


def test_a_program_without_fences():
    for answer in (f"Here is the code:\n\n{F}", f"<code>\n{F}</code>", f"For each x:\n{F}\nIt isn't slow."):
        assert (codes.extract(answer, {"f"}) or "").strip() == F.strip()
        assert codes.extract(answer, {"g"}) is None
    assert (codes.extract(f"from input to output:\n{MAIN}That's it.") or "").strip() == MAIN.strip()
    assert codes.extract("I would print(it), and then stop.") is None
    prompt = "def f(x):\n    # x squared\n"
    ways = "    return x * x\n", "```python\nreturn x * x\n```\nUse:\n```\nprint(f(2), f(3), f(4), f(5))\n```"
    for way in ways:
        assert (codes.with_prompt(way, prompt, {"f"}) or "").rstrip() == prompt + "    return x * x"
    assert codes.called("import a\nassert f(a.b, Tree(math.pi)) == len(x for x in [1])") == {"f", "Tree"}
    assert codes.called("assert sum(2, 3) == 6") == {"sum"}
    assert codes.called("assert f(") == set()


def test_words_of_an_output_are_compared_as_numbers_only_where_both_are():
    for a, b in (
        ("10", "10.0"), ("0.5", "0.50"), ("-0", "0"), ("1e-05", "0.00001"), ("1e+16", "1" + "0" * 16), ("inf", "inf"),
        ("+5", "+5"), ("007", "007"), ("x", "x"),
    ):  # fmt: skip
        assert _same_output(a, b), (a, b)
        assert _same_output(b, a), (a, b)
    for a, b in (
        ("10", "0010"), ("101", "00101"), ("100", "1e2"), ("5", "+5"), ("inf", "Infinity"), ("1000", "1_000"),
        ("6", "６"), ("6", "٦"), ("1", "1e-999999999999"),
        ("nan", "NaN"), ("0", "00"), ("5", "5."), ("1", "1" + "0" * 999),
        ("1.5", "01.5"), ("1", "1.1"), ("1", "１.0"),
    ):  # fmt: skip
        assert not _same_output(a, b), (a, b)
        assert not _same_output(b, a), (a, b)
