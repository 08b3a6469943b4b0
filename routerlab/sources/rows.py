"""One function a benchmark: from a row of its published columns to what is asked, the reference and what grading needs.

Each takes a row and the name of the split wanted, and gives an `Asked`, or None where the row is not in the split or
cannot be graded. `data/benchmarks.yaml` names the function of a benchmark that needs more than two columns.
"""

import ast
import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from routerlab.sources.files import SourceError

Row = Mapping[str, Any]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Asked(NamedTuple):
    """A question before it is a `Query`; verifier None means the declared one."""

    text: str
    reference: str | None
    meta: Mapping[str, Any] = MappingProxyType({})
    verifier: str | None = None


def plain(row: Row, question: str, answer: str | None, keep: Sequence[str] = (), options: str | None = None) -> Asked:
    """What a row asks, by the names of its columns.

    Args:
        row: the row.
        question: the column of the question, or a text with columns in braces.
        answer: the column of the reference; None for questions that need a judge.
        keep: columns for meta.
        options: the column of the options of a multiple-choice question; its answer is a letter, a place or an option.
    """
    if "{" in question and question not in row:
        row, question = {**row, "question": re.sub(r"{(\w+)}", lambda m: str(row[m[1]]), question)}, "question"
    if absent := [c for c in (question, answer, options, *keep) if c is not None and c not in row]:
        have = ", ".join(c for c in row if c != "_file")
        raise SourceError(f"no column {', '.join(absent)}; there are {have}: name yours")
    for column in (question, answer):
        if column is not None and (row[column] is None or not str(row[column]).strip()):
            raise SourceError(f"nothing in column {column}; fill it in, or drop the row")
    text, reference = str(row[question]), None if answer is None else row[answer]
    kept = {c: jsonable(row[c]) for c in keep if row[c] is not None}
    if options is not None:
        listed = [o for o in row[options] if o != "N/A"]
        return _choose(text, listed, listed.index(reference) if reference in listed else reference, **kept)
    if isinstance(reference, list | dict):
        reference = json.dumps(jsonable(reference), ensure_ascii=False)
    return Asked(text, None if reference is None else str(reference), kept)


def jsonable(value: Any) -> Any:
    """What JSON can hold of a value read from Parquet or CSV."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def loads(value: Any) -> Any:
    """A value that may be JSON in a string, or a Python literal in a string, or itself."""
    if not isinstance(value, str):
        return value
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return read(value)
    return value


def _choose(question: str, options: Sequence[str], right: Any, **meta) -> Asked:
    letter = LETTERS[int(right)] if str(right).isdigit() else str(right)
    if not 2 <= len(options) <= 26 or letter not in LETTERS[: len(options)]:
        raise SourceError(f"{question[:60]!r} has {len(options)} options and the answer {letter!r}")
    listed = "\n".join(f"{a}. {o}" for a, o in zip(LETTERS, options, strict=False))
    meta = {"choices": [str(o) for o in options], **meta}
    return Asked(f"{question}\n{listed}", letter, meta, "multiple_choice")


def _shuffled(question: str, right: str, wrong: Sequence[str], **meta) -> Asked:
    """Options in an order drawn from the question itself: where a file lists the right one first."""
    seed = int.from_bytes(hashlib.blake2b(question.encode(), digest_size=8).digest())
    options = [right, *wrong]
    order = np.random.default_rng(seed).permutation(len(options))
    return _choose(question, [options[i] for i in order], order.tolist().index(0), **meta)


def gsm8k(row: Row, split: str) -> Asked:
    work, mark, answer = row["answer"].rpartition("####")
    if not mark:
        raise SourceError(f"no #### in the answer {row['answer'][-60:]!r}; this is not GSM8K")
    return Asked(row["question"], answer.strip().replace(",", ""), {"steps": work.count("<<")})


def olympiadbench(row: Row, split: str) -> Asked:
    answers = [str(a).strip().strip("$") for a in row["final_answer"]]
    return Asked(row["question"], ", ".join(answers), {"subfield": row.get("subfield") or ""})


def simpleqa(row: Row, split: str) -> Asked:
    about = loads(row.get("metadata") or "{}")
    return Asked(row["problem"], row["answer"], {k: about[k] for k in ("topic", "answer_type") if k in about})


def natural_questions(row: Row, split: str) -> Asked:
    answers = [str(a) for a in row["answer"]]
    return Asked(row["question"], answers[0], {"aliases": answers[1:]})


def gpqa(row: Row, split: str) -> Asked:
    wrong = [row[f"Incorrect Answer {n}"].strip() for n in (1, 2, 3)]
    domain = row.get("High-level domain") or row.get("Subdomain") or ""
    return _shuffled(row["Question"].strip(), row["Correct Answer"].strip(), wrong, domain=domain)


def truthfulqa(row: Row, split: str) -> Asked:
    """The hub and the published CSV name the columns differently; in the CSV, answers are one text."""
    if "question" not in row:
        row = {k.lower().replace(" ", "_"): v for k, v in row.items()}
    answers = {k: _listed(row[k]) for k in ("correct_answers", "incorrect_answers")}
    return Asked(row["question"], row["best_answer"], {"category": row["category"], **answers})


def _listed(answers: str | Sequence[str]) -> list[str]:
    return [a.strip() for a in answers.split(";") if a.strip()] if isinstance(answers, str) else list(answers)


def truthfulqa_mc(row: Row, split: str) -> Asked:
    """One right option; the hub lists it first (mc1), so the order is drawn."""
    if "mc1_targets" in row:
        targets = row["mc1_targets"]
        right, *wrong = (
            o for o, _ in sorted(zip(targets["choices"], targets["labels"], strict=True), key=lambda p: -p[1])
        )
        return _shuffled(row["question"], right, wrong)
    wrong = list(dict.fromkeys(a for a in _listed(row["Incorrect Answers"]) if a != row["Best Answer"].strip()))
    return _shuffled(row["Question"], row["Best Answer"].strip(), wrong, category=row["Category"])


def bbh(row: Row, split: str) -> Asked:
    text, target = row["input"], row["target"].strip()
    options = re.findall(r"^\(([A-Z])\) (.*)$", text, re.M)
    letter = re.fullmatch(r"\(([A-Z])\)", target)
    if letter and [a for a, _ in options] == list(LETTERS[: len(options)]):
        meta = {"choices": [o for _, o in options], "task": row["_file"]}
        return Asked(text, letter[1], meta, "multiple_choice")
    return Asked(text, target, {"task": row["_file"]}, "exact")


def arc_agi(row: Row, split: str) -> Asked:
    """The first test grid of a task; tasks with more than one are the exception."""
    shown = "\n\n".join(
        f"Input: {json.dumps(pair['input'])}\nOutput: {json.dumps(pair['output'])}" for pair in row["train"]
    )
    last = row["test"][0]
    text = (
        "Each pair of grids below follows one rule. Find it and write the missing output grid as a JSON list of rows."
        f"\n\n{shown}\n\nInput: {json.dumps(last['input'])}\nOutput:"
    )
    return Asked(text, json.dumps(last["output"]), {"task": row["_file"]})


def zebra(row: Row, split: str) -> Asked:
    solution = loads(row["solution"])
    house, *features = solution["header"]
    houses = {f"{house} {r[0]}": dict(zip(features, r[1:], strict=True)) for r in solution["rows"]}
    form = {name: dict.fromkeys(features, "...") for name in houses}
    text = f"{row['puzzle']}\n\nAnswer with a JSON object of this form:\n{json.dumps(form, indent=1)}"
    return Asked(text, json.dumps(houses), {"size": row.get("size", "")})


def finqa(row: Row, split: str) -> Asked:
    asked = row["qa"]
    text = "\n".join([*row["pre_text"], "", grid(row["table"]), "", *row["post_text"], "", asked["question"]])
    answer = asked.get("exe_ans", asked.get("answer"))
    return short(text, answer, {"program": asked.get("program", ""), "tolerance": 0.005})


def hitab(row: Row, split: str) -> Asked:
    """The samples name a table of `tables.zip`, joined as `table`; the hub's copy carries it as `table_content`."""
    table = loads(row["table"] if "table" in row else row["table_content"])
    answers = loads(row["answer"])
    answers = answers if isinstance(answers, list) else [answers]
    text = f"{table.get('title', '')}\n\n{grid(table['texts'])}\n\n{row['question']}".strip()
    if len(answers) > 1:
        return Asked(text, ", ".join(map(str, answers)), {"answers": answers}, "judge")
    return short(text, answers[0], {"aggregation": loads(row.get("aggregation"))})


def grid(rows: Sequence[Sequence[Any]]) -> str:
    """A table as lines of cells between bars."""
    return "\n".join("| " + " | ".join(str(c) for c in r) + " |" for r in rows)


def short(text: str, answer: Any, meta: dict[str, Any]) -> Asked:
    """A number is graded as one, anything else as text."""
    number = isinstance(answer, int | float) or re.fullmatch(r"[-+]?[\d,]*\.?\d+%?", str(answer).strip())
    return Asked(text, str(answer), jsonable(meta), "numeric" if number else "exact")


def ifeval(row: Row, split: str) -> Asked:
    return Asked(row["prompt"], None, {"instructions": rules(row)})


def rules(row: Row) -> list[dict[str, Any]]:
    """Instructions as IFEval's columns give them, as what the verifier `instructions` reads."""
    given = zip(row["instruction_id_list"], map(loads, row["kwargs"]), strict=True)
    kept = [(name, {k: v for k, v in (a or {}).items() if v is not None}) for name, a in given]
    return jsonable([{"id": name, "kwargs": arguments} for name, arguments in kept])


def mt_bench(row: Row, split: str) -> Asked:
    """The first turn is asked; the second depends on the answer and waits in meta["turns"]."""
    turns = list(row.get("turns") or row["prompt"])
    references = list(row.get("reference") or [])
    meta = {"category": row["category"], "turns": turns[1:], "references": references[1:]}
    return Asked(turns[0], references[0] if references else None, meta)
