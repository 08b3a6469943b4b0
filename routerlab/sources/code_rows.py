"""Rows of code benchmarks, and of sets that mix code with other tasks (LiveBench, the Guru RL set)."""

import base64
import contextlib
import json
import pickletools
import re
import zlib
from typing import Any

from routerlab.sources.files import SourceError
from routerlab.sources.rows import Asked, Row, jsonable, loads, rules, short

FENCE = "Answer with one Python code block."


def _code(text: str, tests: dict[str, Any], **meta) -> Asked:
    return Asked(f"{text}\n\n{FENCE}", None, {"tests": tests, **meta}, "code")


def humaneval(row: Row, split: str) -> Asked:
    """HumanEval and HumanEval+."""
    prompt = row["prompt"].rstrip()
    text = f"Complete this function; write all of it, imports too.\n\n```python\n{prompt}\n```"
    return _code(text, {k: row[k] for k in ("test", "entry_point", "prompt")}, task=row["task_id"])


def mbpp(row: Row, split: str) -> Asked | None:
    """The raw file holds all splits; the task number says which (Austin et al. 2021, section 2.1)."""
    ends = {10: "prompt", 510: "test", 600: "validation", 974: "train"}
    if next(name for end, name in ends.items() if int(row["task_id"]) <= end) != split:
        return None
    tests = {"test_list": [*row["test_list"]], "test_setup_code": row.get("test_setup_code") or ""}
    return _mbpp(row, row["text"], tests)


def mbpp_plus(row: Row, split: str) -> Asked:
    """`test` is a script with the published tests and many more."""
    return _mbpp(row, row["prompt"], {"test_list": [*(row.get("test_imports") or []), row["test"]]})


def _mbpp(row: Row, text: str, tests: dict[str, Any]) -> Asked:
    """One test is shown, because only the tests give the function its name."""
    text = f"{text.strip()}\nIt must pass tests such as this one:\n{row['test_list'][0].strip()}"
    return _code(text, tests, task=int(row["task_id"]))


def livecodebench(row: Row, split: str) -> Asked:
    kept = {k: str(row[k]) for k in ("platform", "difficulty", "contest_date") if row.get(k)}
    text, about = row["question_content"].strip(), loads(row.get("metadata") or "{}") or {}
    if row.get("starter_code"):
        text = f"{text}\n\n```python\n{row['starter_code'].rstrip()}\n```"
    return _contest(row, text, about.get("func_name"), task=str(row["question_id"]), **kept)


def _contest(row: Row, text: str, name: str | None, **meta) -> Asked:
    """Public and private tests of a contest problem: of a program, or calls whose arguments are lines of JSON."""
    cases = loads(row["public_test_cases"]) + _cases(row.get("private_test_cases") or "[]")
    if not any(c["testtype"] == "functional" for c in cases):
        text = f"{text}\n\nRead from standard input and print to standard output."
        return _code(text, {"cases": [{"stdin": c["input"], "stdout": c["output"]} for c in cases]}, **meta)
    calls = [
        {"args": [json.loads(x) for x in c["input"].split("\n") if x.strip()], "expect": json.loads(c["output"])}
        for c in cases
    ]
    return _code(text, {"entry_point": name, "calls": calls}, **meta)


def _cases(packed: str) -> list[dict[str, Any]]:
    """Private tests: JSON, or JSON in a pickled string, compressed. The pickle is never loaded: its opcodes are read,
    and anything but one string in it is refused.
    """
    if packed.lstrip().startswith("["):
        return json.loads(packed)
    texts = []
    for code, value, _ in pickletools.genops(zlib.decompress(base64.b64decode(packed))):
        if code.name in {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}:
            texts.append(value)
        elif code.name not in {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"}:
            raise SourceError(
                f"private tests hold a pickle with {code.name}, not one string; it is not loaded: leave "
                f"this problem out"
            )
    return json.loads(texts[0])


def codeio(row: Row, split: str) -> Asked | None:
    """Output predictions whose published first answer was checked to be right; that answer is the reference.

    The release carries no outputs of its own, and an input prediction has no single right answer.
    """
    if (row.get("feedback_1") or "").strip() != "Correct output!":
        return None
    answer = row.get("turn_1") or ""
    for start in reversed([m.start() for m in re.finditer(r"\{", answer)]):
        with contextlib.suppress(ValueError):
            if set(value := json.JSONDecoder().raw_decode(answer, start)[0]) == {"output"}:
                return Asked(row["prompt"], json.dumps(value))
    return None


_LIVE = {
    "AMPS_Hard": "math", "math_comp": "exact", "olympiad": "exact", "web_of_lies_v2": "exact",
    "web_of_lies_v3": "exact", "zebra_puzzle": "exact", "spatial": "exact", "cta": "exact",
    "tablejoin": "json", "connections": "exact", "typos": "exact",
}  # fmt: skip


def livebench(row: Row, split: str) -> Asked:
    """LiveBench by our verifiers, not by its own scorers: partial credit is not given, and what only they can compare
    (plot_unscrambling, tablereformat) goes to a judge. A coding_completion asks for the rest of a partial solution.
    """
    text, meta = next(iter(row["turns"])), {"category": row["category"], "task": row["task"]}
    if row.get("instruction_id_list"):
        return Asked(text, None, {**meta, "instructions": rules(row)}, "instructions")
    if row["category"] == "coding":
        about = loads((loads(row.get("original_json") or "{}") or {}).get("metadata") or "{}")
        asked = _contest(row, text, about.get("func_name"), **meta)
        if start := row.get("partial_solution"):
            asked.meta["tests"]["start"] = start
        return asked
    truth, verifier = row["ground_truth"], _LIVE.get(row["task"], "judge")
    truth = json.dumps(jsonable(loads(truth))) if verifier == "json" else truth
    return Asked(text, str(truth), meta, verifier)


def guru(row: Row, split: str) -> Asked:
    """Records of the Guru RL set and others of its columns (data_source, prompt, ability, reward_model, extra_info)."""
    source = str(row["data_source"])
    text = "\n\n".join(m["content"] for m in row["prompt"] if m["role"] == "user")
    truth = loads(row["reward_model"]["ground_truth"])
    meta = {"data_source": source, "ability": str(row.get("ability") or "")}
    if source.startswith("codegen") or (isinstance(truth, dict) and "functional" in truth):
        return _guru_code(text, truth, meta)
    if source.startswith("math"):
        return Asked(text, str(row["reward_model"]["ground_truth"]), meta, "math")
    if source.startswith("stem"):
        return Asked(text, str(row["reward_model"]["ground_truth"]), meta, "judge")
    if isinstance(truth, list | dict):
        return Asked(text, json.dumps(jsonable(truth)), meta, "json")
    return short(text, truth, meta)


def _guru_code(text: str, truth: Any, meta: dict[str, Any]) -> Asked:
    if isinstance(truth, dict) and truth.get("functional"):
        tests: dict[str, Any] = {"test_list": [truth["functional"]]}
    elif isinstance(truth, dict) and "inputs" in truth and not truth.get("fn_name"):
        pairs = zip(truth["inputs"], truth["outputs"], strict=True)
        tests = {"cases": [{"stdin": jsonable(i), "stdout": jsonable(o)} for i, o in pairs]}
    else:
        keys = ", ".join(truth) if isinstance(truth, dict) else type(truth).__name__
        raise SourceError(f"a code record whose ground truth is {keys}; known are functional, and inputs with outputs")
    return Asked(text, None, {**meta, "tests": tests}, "code")
