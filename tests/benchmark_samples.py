"""Made-up rows in the published columns of every declared benchmark, with a right and a wrong answer to each; None
where only a judge could tell.
"""

import base64
import json
import pickle
import zlib

GRID = [[0, 1], [1, 0]]
CHOICE = {"question": "Which is a fruit?", "options": ["stone", "pear", "boat"]}
STDIN_CASES = [{"input": "2 3\n", "output": "5\n", "testtype": "stdin"}]
CALL_CASES = [{"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}]


def packed(cases):
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def live(category, task, turn, truth, **more):
    return {
        "question_id": "x",
        "category": category,
        "task": task,
        "turns": [turn],
        "ground_truth": truth,
        **more,
    }


def record(source, truth):
    prompt = [{"role": "system", "content": "Think."}, {"role": "user", "content": f"Do {source}."}]
    return {
        "data_source": source,
        "prompt": prompt,
        "ability": "a",
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"index": 0},
    }


CONTEST = {
    "question_title": "T",
    "platform": "p",
    "question_id": "q1",
    "contest_date": "2025-01-01",
    "difficulty": "easy",
}
# name: [(row, right answer, wrong answer)]; None where only a judge could tell
SAMPLES = {
    "simpleqa": [
        (
            {
                "metadata": "{'topic': 'Art', 'answer_type': 'Person'}",
                "problem": "Who painted it?",
                "answer": "Ada",
            },
            None,
            None,
        )
    ],
    "natural-questions": [
        (
            {"question": "who sang it", "answer": ["The Larks", "Larks band"]},
            "larks band",
            "the crows",
        )
    ],
    "gsm8k": [
        (
            {"question": "How many?", "answer": "A <<600+634=1234>> sum.\n#### 1,234"},
            "So 1234 in all.",
            "1235",
        )
    ],
    "math-500": [
        (
            {
                "problem": "Half?",
                "solution": "...",
                "answer": "\\frac{1}{2}",
                "subject": "Algebra",
                "level": 1,
                "unique_id": "u",
            },
            "\\boxed{0.5}",
            "\\boxed{2}",
        )
    ],
    "aime24": [
        (
            {
                "id": 1,
                "problem": "Find n.",
                "solution": "s",
                "answer": "073",
                "url": "u",
                "year": "2024",
            },
            "\\boxed{73}",
            "\\boxed{37}",
        )
    ],
    "aime25": [({"problem": "Find m.", "answer": "70", "id": "0"}, "\\boxed{70}", "\\boxed{7}")],
    "amc23": [({"id": 0, "answer": 27.0, "url": "u", "question": "When?"}, "\\boxed{27}", "\\boxed{26}")],
    "minerva": [({"question": "Mass?", "answer": "3e8"}, "\\boxed{3e8}", "\\boxed{3e9}")],
    "olympiadbench": [
        (
            {
                "question": "Solve.",
                "final_answer": ["$2$"],
                "subfield": "Algebra",
                "is_multiple_answer": False,
            },
            "\\boxed{2}",
            "\\boxed{3}",
        )
    ],
    "mmlu": [
        (
            {
                "question": CHOICE["question"],
                "subject": "botany",
                "choices": CHOICE["options"],
                "answer": 1,
            },
            "B",
            "A",
        )
    ],
    "mmlu-pro": [
        (
            {
                "question_id": 1,
                **CHOICE,
                "options": [*CHOICE["options"], "N/A"],
                "answer": "B",
                "answer_index": 1,
                "category": "biology",
                "src": "made",
            },
            "The answer is (B).",
            "C",
        )
    ],
    "gpqa-diamond": [
        (
            {
                "Question": "Which? ",
                "Correct Answer": "pear\n",
                "Incorrect Answer 1": "a",
                "Incorrect Answer 2": "b",
                "Incorrect Answer 3": "c",
                "High-level domain": "Biology",
            },
            "pear",
            "c",
        )
    ],
    "supergpqa": [
        (
            {
                "uuid": "u",
                **CHOICE,
                "answer": "pear",
                "answer_letter": "B",
                "discipline": "Agronomy",
                "difficulty": "easy",
            },
            "B",
            "C",
        )
    ],
    "truthfulqa": [
        (
            {
                "type": "Adversarial",
                "category": "Myths",
                "question": "Do they?",
                "best_answer": "No",
                "correct_answers": ["No", "Never"],
                "incorrect_answers": ["Yes"],
                "source": "s",
            },
            None,
            None,
        )
    ],
    "truthfulqa-mc": [
        (
            {
                "question": "Do they?",
                "mc1_targets": {"choices": ["No", "Yes", "Often"], "labels": [1, 0, 0]},
                "mc2_targets": {},
            },
            "No",
            "Often",
        )
    ],
    "bbh": [
        ({"input": "Pick one.\nOptions:\n(A) stone\n(B) pear", "target": "(B)"}, "(B)", "(A)"),
        ({"input": "not ( True ) is", "target": "False"}, "False", "True"),
    ],
    "arc-agi": [
        (
            {
                "train": [{"input": GRID, "output": GRID[::-1]}],
                "test": [{"input": GRID[::-1], "output": GRID}],
            },
            "[[0,1],[1,0]]",
            "[[1,0],[0,1]]",
        )
    ],
    "humaneval": [
        (
            {
                "task_id": "HumanEval/x",
                "prompt": 'def twice(n: int) -> int:\n    """Double n."""\n',
                "entry_point": "twice",
                "canonical_solution": "    return 2 * n\n",
                "test": "def check(candidate):\n    assert candidate(2) == 4\n",
            },
            "```python\ndef twice(n):\n    return n + n\n```",
            "```python\ndef twice(n):\n    return n\n```",
        )
    ],
    "humaneval+": [
        (
            {
                "task_id": "HumanEval/x",
                "prompt": "import math\n\n\ndef helper(n):\n    return n + 1\n\n\n"
                'def next_root(n):\n    """One more than the root of n."""\n',
                "entry_point": "next_root",
                "canonical_solution": "    return helper(math.isqrt(n))\n",
                "test": "def check(candidate):\n    for n, want in [(4, 3), (9, 4)]:\n"
                "        assert candidate(n) == want\n",
            },
            "```python\ndef next_root(n):\n    return helper(math.isqrt(n))\n```",
            "```python\ndef next_root(n):\n    return helper(n)\n```",
        )
    ],
    "mbpp": [
        (
            {
                "task_id": 11,
                "text": "Write a function to add two.",
                "code": "...",
                "test_list": ["assert add2(1) == 3", "assert add2(0) == 2"],
                "test_setup_code": "",
                "challenge_test_list": [],
            },
            "```python\ndef add2(n):\n    return n + 2\n```",
            "```python\ndef add2(n):\n    return 3\n```",
        )
    ],
    "mbpp+": [
        (
            {
                "task_id": 2,
                "code": "...",
                "prompt": "Write a function to add two.",
                "source_file": "f",
                "test_imports": ["import math"],
                "test_list": ["assert add2(1) == 3"],
                "test": "for i in range(9):\n    assert add2(i) == i + 2\n",
            },
            "```python\ndef add2(n):\n    return n + 2\n```",
            "```python\ndef add2(n):\n    return 3\n```",
        )
    ],
    "livecodebench": [
        (
            {
                **CONTEST,
                "question_content": "Add two numbers.",
                "starter_code": "",
                "public_test_cases": json.dumps(STDIN_CASES),
                "private_test_cases": packed([{**STDIN_CASES[0], "input": "9 9\n", "output": "18\n"}]),
                "metadata": "{}",
            },
            "```python\nprint(sum(map(int, input().split())))\n```",
            "```python\nprint(5)\n```",
        ),
        (
            {
                **CONTEST,
                "question_content": "Sum a list and a number.",
                "starter_code": "class Solution:\n    def total(self, xs, y):\n        ",
                "public_test_cases": json.dumps(CALL_CASES),
                "private_test_cases": "[]",
                "metadata": json.dumps({"func_name": "total"}),
            },
            "```python\nclass Solution:\n    def total(self, xs, y):\n        return sum(xs) + y\n```",
            "```python\nclass Solution:\n    def total(self, xs, y):\n        return y\n```",
        ),
    ],
    "codeio": [
        (
            {
                "prompt": "Predict the output.",
                "turn_1": 'I think {x} so {"output": [1, 2]}',
                "feedback_1": "Correct output!",
                "turn_2": None,
                "feedback_2": None,
            },
            '{"output": [1, 2]}',
            '{"output": [2]}',
        )
    ],
    "cruxeval": [
        (
            {
                "code": "def f(a):\n    return a * 2",
                "input": "'ab'",
                "output": "'abab'",
                "id": "sample_0",
            },
            "'abab'",
            "'ab'",
        )
    ],
    "zebra": [
        (
            {
                "id": "z",
                "size": "2*2",
                "puzzle": "Two houses.",
                "solution": {"header": ["House", "Name"], "rows": [["1", "Eva"], ["2", "Jon"]]},
            },
            '{"House 1": {"Name": "Eva"}, "House 2": {"Name": "Jon"}}',
            '{"House 1": {"Name": "Jon"}, "House 2": {"Name": "Eva"}}',
        )
    ],
    "zebra-mc": [
        (
            {
                "id": "z",
                "puzzle": "Two houses.",
                "question": "Who lives in the first?",
                "choices": ["Eva", "Jon"],
                "answer": "Jon",
            },
            "B",
            "A",
        )
    ],
    "finqa": [
        (
            {
                "pre_text": ["Before."],
                "post_text": ["After."],
                "table": [["", "2020"], ["sales", "10"]],
                "qa": {
                    "question": "growth?",
                    "answer": "12.5%",
                    "exe_ans": 0.125,
                    "program": "divide(1, 8)",
                },
                "id": "f",
            },
            "12.5%",
            "13.5%",
        ),
        (
            {
                "pre_text": [],
                "post_text": [],
                "table": [["a"]],
                "qa": {
                    "question": "more?",
                    "answer": "yes",
                    "exe_ans": "yes",
                    "program": "greater(2, 1)",
                },
                "id": "g",
            },
            "yes",
            "no",
        ),
    ],
    "hitab": [
        (
            {
                "id": "h",
                "table_id": "t1",
                "question": "what percent?",
                "answer": [52.1],
                "aggregation": ["none"],
            },
            "52.1%",
            "51.2",
        ),
        (
            {
                "id": "i",
                "table_id": "t1",
                "question": "which region?",
                "answer": ["east"],
                "aggregation": ["argmax"],
            },
            "East",
            "west",
        ),
        (
            {
                "id": "j",
                "table_id": "t1",
                "question": "which two?",
                "answer": ["east", "west"],
                "aggregation": ["none"],
            },
            None,
            None,
        ),
    ],
    "ifeval": [
        (
            {
                "key": 1,
                "prompt": "Write without commas.",
                "instruction_id_list": ["punctuation:no_comma"],
                "kwargs": [{"num_words": None}],
            },
            "No commas here.",
            "Well, here.",
        )
    ],
    "livebench": [
        (
            live("reasoning", "web_of_lies_v2", "Who lies?", "yes, no, yes"),
            "yes, no, yes",
            "no, no, yes",
        )
    ],
    "livebench-math": [
        (live("math", "AMPS_Hard", "Differentiate.", "\\frac{x}{2}"), "\\boxed{x/2}", "\\boxed{x}"),
        (live("math", "olympiad", "Order the steps.", "3,1,2"), "3,1,2", "1,2,3"),
    ],
    "livebench-coding": [
        (
            live(
                "coding",
                "LCB_generation",
                "Add them.",
                "",
                public_test_cases=json.dumps(STDIN_CASES),
                private_test_cases=packed(STDIN_CASES),
                original_json={"metadata": "{}"},
            ),
            "```python\nprint(sum(map(int, input().split())))\n```",
            "```python\nprint(6)\n```",
        ),
        (
            live(
                "coding",
                "coding_completion",
                "Finish it.",
                "",
                public_test_cases=json.dumps(CALL_CASES),
                private_test_cases=packed(CALL_CASES),
                original_json={"metadata": '{"func_name": "add"}'},
                partial_solution="class Solution:\n    def add(self, a, b):\n        total = sum(a)",
            ),
            "```python\n        total += b\n        return total\n```",
            "```python\n        return total\n```",
        ),
    ],
    "livebench-language": [(live("language", "plot_unscrambling", "Order it.", "One. Two."), None, None)],
    "livebench-data-analysis": [
        (live("data_analysis", "tablejoin", "Join.", "{'a': 'b'}"), '{"a": "b"}', '{"a": "c"}')
    ],
    "livebench-instructions": [
        (
            live(
                "instruction_following",
                "summarize",
                "Write without commas.",
                "",
                instruction_id_list=["punctuation:no_comma"],
                kwargs=[{}],
            ),
            "None.",
            "One, two.",
        )
    ],
    "mt-bench": [
        (
            {
                "question_id": 81,
                "category": "writing",
                "turns": ["Write.", "Again."],
                "reference": ["A text."],
            },
            None,
            None,
        )
    ],
    "guru": [
        (record("math__deepscaler_preview", "\\frac{3}{4}"), "\\boxed{0.75}", "\\boxed{4}"),
        (
            record(
                "codegen__leetcode2k",
                json.dumps({"functional": "def check(f):\n    assert f(1) == 2\n\ncheck(inc)"}),
            ),
            "```python\ndef inc(n):\n    return n + 1\n```",
            "```python\ndef inc(n):\n    return n\n```",
        ),
        (
            record("codegen__taco", json.dumps({"inputs": ["1\n"], "outputs": ["2\n"]})),
            "```python\nprint(int(input()) + 1)\n```",
            "```python\nprint(1)\n```",
        ),
        (
            record("logic__zebra_puzzle_dataset", {"header": ["House"], "rows": [["1"]]}),
            '{"header": ["House"], "rows": [["1"]]}',
            '{"header": [], "rows": []}',
        ),
        (record("logic__ordering_puzzle_dataset", ["b", "a"]), '["b", "a"]', '["a", "b"]'),
        (record("table__hitab", "17.5"), "17.5", "17"),
        (record("logic__graph_logical_dataset", "node seven"), "Node seven", "node six"),
        (record("stem__web", "osmosis"), None, None),
    ],
}
