"""Answers a second by verifier, on right and wrong answers, and boxes a second for code.

A function is graded in one box for the answer and one for its tests; a benchmark's tests are read once more to learn
their calls. Prints a table, and as its last line one JSON object of named figures.
"""

import json
import time
from statistics import median

from routerlab.core.queries import Query
from routerlab.grade.sandbox import run_code
from routerlab.grade.verify import VERIFIERS, Verifier, _verdict, grade_many, visible

REPEATS, COMPARED, WORKERS = 3, 15, 2
TESTS = {"test_list": ["assert add(2, 3) == 5", "assert add([1], [2]) == [1, 2]", "assert add('a', 'b') == 'ab'"]}
CASES = {"cases": [{"stdin": "2 3", "stdout": "5"}]}
FUNCTION = "```python\ndef add(a, b):\n    return a {} b\n```"
PROGRAM = "```python\na, b = map(int, input().split())\nprint(a {} b)\n```"
# verifier: (reference, meta, right answer, wrong answer, how many answers)
EXAMPLES = {
    "exact": ("Paris", {}, "The answer is **Paris**.", "I believe it is London.", 2000),
    "numeric": ("#### 1,000", {}, "She has 9 * 100 = 900, and 100 more. The answer is $1000.00.", "It is 999.", 2000),
    "multiple_choice": ("B", {"choices": ["a dog", "a cat"]}, "Dogs bark. The answer is (B).", "A) a dog", 2000),
    "literal": ("[1, 2]", {}, "```python\n[1, 2]\n```", "[2, 1]", 2000),
    "json": ('{"a": [1, 2]}', {}, '```json\n{"a": [1.0, 2]}\n```', '{"a": 1}', 2000),
    "regex": (r"\bcat\b", {}, "It is a cat.", "It is a dog.", 2000),
    "math": (r"\frac{1}{2}", {}, r"So it is $\boxed{0.5}$.", r"So it is $\boxed{0.3}$.", 200),
    "code": (None, {"tests": TESTS}, FUNCTION.format("+"), FUNCTION.format("-"), 40),
    "code (stdin)": (None, {"tests": CASES}, PROGRAM.format("+"), PROGRAM.format("-"), 40),
}


def against_in_process(check: Verifier, query: Query, answers: list[str]) -> float:
    """The time of one process with a deadline, over that of the same calls in this process: each the least of many."""
    apart, here = [], []
    for _ in range(COMPARED):  # many, as a busy machine gives two processes their turns late
        began = time.perf_counter()
        grade_many([query] * len(answers), answers, workers=1)
        middle = time.perf_counter()
        for answer in answers:
            _verdict(check(query, visible(answer)), answer)
        apart.append(middle - began)
        here.append(time.perf_counter() - middle)
    return min(apart) / min(here)


def main() -> None:
    rates: dict[str, float] = {}
    slower: dict[str, float] = {}
    print(f"{'verifier':16} {'answers/s':>10}  time against the same calls in this process")
    for name, (reference, meta, right, wrong, count) in EXAMPLES.items():
        query = Query.ask("question", reference, verifier=name.partition(" ")[0], meta=meta)
        answers = [right, wrong] * (count // 2)
        seconds = []
        for _ in range(REPEATS + 1):  # the first run warms up
            began = time.perf_counter()
            verdicts = grade_many([query] * count, answers, workers=WORKERS)
            seconds.append(time.perf_counter() - began)
            assert [v.quality for v in verdicts] == [1.0, 0.0] * (count // 2), name
        rates[name] = count / median(seconds[1:])
        if check := VERIFIERS.get(name):
            slower[name] = against_in_process(check, query, answers)
        print(f"{name:16} {rates[name]:10.1f}" + (f"  {slower[name]:.2f} x" if name in slower else ""))
    began, boxes = time.perf_counter(), 0
    while time.perf_counter() - began < 4:
        assert run_code("print(1)").stdout == "1\n"
        boxes += 1
    one = boxes / (time.perf_counter() - began)
    # A box a case of stdin, and two boxes a function.
    together = max(2 * rates["code"], rates["code (stdin)"])
    print(f"boxes/s: {one:.1f} one after the other, {together:.1f} with {WORKERS} at once")
    figures = {
        "answers_per_s": {n: round(r, 1) for n, r in rates.items()},
        "seconds_against_in_process": {n: round(r, 2) for n, r in slower.items()},
        "boxes_per_s": round(together, 1),
        "boxes_per_s_alone": round(one, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
