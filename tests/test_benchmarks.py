"""Every declared benchmark loads from rows of its published columns, and its right answers are graded right.

The rows are made up, in the schema of each dataset; the raw files beside the project are read where they are.
"""

import base64
import gzip
import json
import pickle
import re
import shutil
import sys
import types
import urllib.request
import warnings
import zipfile
import zlib
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmark_samples import CHOICE, SAMPLES

from routerlab import Query, Run
from routerlab.core.queries import QueryError, to_arrow
from routerlab.grade.verify import VERIFIERS, grade, grade_many
from routerlab.sources import benchmarks as catalogue
from routerlab.sources import files
from routerlab.sources.benchmarks import benchmarks, listing, load


def lay_out(folder, name, samples):
    """The raw files of a benchmark in a folder, as a user would have them."""
    rows = [row for row, _, _ in samples]
    if name == "bbh":
        with zipfile.ZipFile(folder / f"{benchmarks()['bbh'].revision}.zip", "w") as archive:
            for n, row in enumerate(rows):
                archive.writestr(f"BIG/bbh/task{n}.json", json.dumps({"canary": "c", "examples": [row]}))
            archive.writestr("BIG/other/skip.json", "[]")
    elif name == "arc-agi":
        (folder / "arc-agi" / "data" / "evaluation").mkdir(parents=True)
        (folder / "arc-agi" / "data" / "evaluation" / "abc.json").write_text(json.dumps(rows[0]))
    elif name == "guru":
        for n, row in enumerate(rows):
            listed = benchmarks()["guru"].splits["train"][n]
            (folder / "guru" / listed).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist([row]), folder / "guru" / listed)
    else:
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        if name == "hitab":
            with zipfile.ZipFile(folder / "tables.zip", "w") as archive:
                table = {
                    "title": "Work",
                    "texts": [["", "east"], ["share", "52.1"]],
                    "merged_regions": [],
                }
                archive.writestr("tables/raw/t1.json", json.dumps(table))
                archive.writestr("tables/hmt/t1.json", "{}")


def test_every_declared_benchmark_has_a_sample():
    assert set(SAMPLES) == set(benchmarks())


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    out = {}
    for name, samples in SAMPLES.items():
        folder = tmp_path_factory.mktemp(re.sub(r"\W", "_", name))
        lay_out(folder, name, samples)
        out[name] = load(name, folder=folder, split=benchmarks()[name].known_splits[0])
    return out


@pytest.mark.parametrize("name", SAMPLES)
def test_rows_become_queries(name, loaded):
    queries, declared = loaded[name], benchmarks()[name]
    assert len(queries) == len(SAMPLES[name])
    assert {q.source for q in queries} == {name}
    assert {q.split for q in queries} == {declared.known_splits[0]}
    assert {q.verifier for q in queries} <= set(declared.verifiers)
    assert set(declared.verifiers) <= {*VERIFIERS, "math", "code", "judge"}
    assert to_arrow(queries).num_rows == len(queries)


def graded(loaded, wanted):
    cases = [
        (name, query, right, wrong)
        for name, queries in loaded.items()
        for query, (_, right, wrong) in zip(queries, SAMPLES[name], strict=True)
        if wanted(query.verifier)
    ]
    return cases


def test_right_answers_are_graded_right_and_wrong_ones_wrong(loaded):
    cases = graded(loaded, lambda v: v in VERIFIERS)
    assert len(cases) >= 25
    for name, query, right, wrong in cases:
        assert grade(query, right).quality == 1, (name, right)
        assert grade(query, wrong).quality == 0, (name, wrong)


@pytest.mark.parametrize("verifier", ["math", "code"])
def test_math_and_code_too(verifier, loaded):
    if verifier == "code" and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed: apt install bubblewrap")
    cases = graded(loaded, lambda v: v == verifier)
    assert len(cases) >= 6
    queries = [c[1] for c in cases] * 2
    found = grade_many(queries, [c[2] for c in cases] + [c[3] for c in cases])
    got = [v.quality for v in found]
    assert got == [1.0] * len(cases) + [0.0] * len(cases), [(c[0], v) for c, v in zip(cases * 2, found, strict=True)]


def test_a_judge_gets_no_answer_where_there_is_none(loaded):
    judged = {name for name, q, _, _ in graded(loaded, lambda v: v == "judge")}
    assert judged == {"simpleqa", "truthfulqa", "hitab", "livebench-language", "mt-bench", "guru"}
    assert loaded["truthfulqa"][0].meta["incorrect_answers"] == ["Yes"]
    assert loaded["mt-bench"][0].meta["turns"] == ["Again."]
    assert loaded["simpleqa"][0].meta == {"topic": "Art", "answer_type": "Person"}


def test_texts_hold_what_is_needed_to_answer(loaded):
    assert loaded["mmlu"][0].text == "Which is a fruit?\nA. stone\nB. pear\nC. boat"
    assert loaded["mmlu-pro"][0].meta["choices"] == CHOICE["options"]
    assert "| share | 52.1 |" in loaded["hitab"][0].text
    assert "| sales | 10 |" in loaded["finqa"][0].text
    assert loaded["finqa"][0].text.endswith("growth?")
    assert "def twice(n: int)" in loaded["humaneval"][0].text
    assert "add2(1) == 3" in loaded["mbpp"][0].text
    assert "add2(0)" not in loaded["mbpp"][0].text
    assert "class Solution" in loaded["livecodebench"][1].text
    assert '"House 1"' in loaded["zebra"][0].text
    assert "Eva" not in loaded["zebra"][0].text
    assert loaded["natural-questions"][0].meta["aliases"] == ["Larks band"]
    assert loaded["guru"][0].text == "Do math__deepscaler_preview."


def test_the_place_of_a_right_option_is_drawn_and_stays(tmp_path):
    rows = [
        {
            "Question": f"Which {n}?",
            "Correct Answer": "right",
            **{f"Incorrect Answer {k}": f"w{k}" for k in (1, 2, 3)},
        }
        for n in range(400)
    ]
    (tmp_path / "gpqa-diamond.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = (load("gpqa-diamond", folder=tmp_path) for _ in range(2))
    assert [q.id for q in first] == [q.id for q in second]
    counts = [sum(q.reference == letter for q in first) for letter in "ABCD"]
    assert min(counts) > 70
    assert all(q.meta["choices"]["ABCD".index(q.reference)] == "right" for q in first)


def test_private_tests_that_are_more_than_a_string_are_refused_unrun(tmp_path):
    touched = tmp_path / "touched"
    evil = type("Evil", (), {"__reduce__": lambda _: (open, (str(touched), "w"))})
    row, _, _ = SAMPLES["livecodebench"][0]
    bad = {
        **row,
        "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(evil()))).decode(),
    }
    (tmp_path / "livecodebench.jsonl").write_text(json.dumps(bad))
    with pytest.raises(QueryError, match="row 1: private tests hold a pickle with STACK_GLOBAL"):
        load("livecodebench", folder=tmp_path)
    assert not touched.exists()


def test_mbpp_knows_its_splits_by_number(tmp_path):
    row, _, _ = SAMPLES["mbpp"][0]
    rows = [{**row, "task_id": n, "text": f"Task {n}."} for n in (1, 10, 11, 510, 511, 600, 601, 974)]
    (tmp_path / "mbpp.jsonl").write_text("\n".join(map(json.dumps, rows)))
    got = {
        s: [q.meta["task"] for q in load("mbpp", split=s, folder=tmp_path)] for s in benchmarks()["mbpp"].known_splits
    }
    assert got == {
        "prompt": [1, 10],
        "test": [11, 510],
        "validation": [511, 600],
        "train": [601, 974],
    }


# --- where rows come from


def test_a_downloaded_repository_is_found_by_config_and_split(tmp_path):
    row, _, _ = SAMPLES["gsm8k"][0]
    for config, split in (("socratic", "test"), ("main", "train"), ("main", "test")):
        path = tmp_path / "gsm8k" / config / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([{**row, "question": f"{config} {split}"}]), path)
    assert [q.text for q in load("gsm8k", folder=tmp_path)] == ["main test"]
    found = load("gsm8k:train", folder=tmp_path)
    assert found == load("gsm8k", split="train", folder=tmp_path)
    assert [(q.text, q.split) for q in found] == [("main train", "train")]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("olympiadbench", "OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet"),
        ("supergpqa", "SuperGPQA-all.jsonl"),
        ("ifeval", "ifeval_input_data.jsonl"),
        ("codeio", "pyedur_full.jsonl"),
    ],
)
def test_a_downloaded_repository_whose_file_names_tell_no_split(name, path, tmp_path):
    rows = [row for row, _, _ in SAMPLES[name]]
    at = tmp_path / name / path
    at.parent.mkdir(parents=True)
    if at.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), at)
    else:
        at.write_text("\n".join(map(json.dumps, rows)))
    assert len(load(name, folder=tmp_path)) == len(rows)


def test_every_source_is_pinned():
    for b in benchmarks().values():
        assert bool(b.hub) != bool(b.urls), b.name
        assert b.revision is None or re.fullmatch("[0-9a-f]{40}", b.revision), b.name
        assert all("{revision}" in u or files.named(u) in b.sha256 for us in b.urls.values() for u in us), b.name
        assert b.revision or b.sha256, b.name


def test_a_source_without_a_pin_refuses_and_says_how_to_pin_it(monkeypatch):
    loose = replace(benchmarks()["aime24"], revision=None)
    monkeypatch.setattr(catalogue, "benchmarks", lambda: {"aime24": loose})
    with pytest.raises(QueryError, match=rf"not pinned.*{loose.hub}/commits.*revision=.*folder="):
        load("aime24")
    assert "(not pinned)" in listing()
    fake_hub(monkeypatch, [SAMPLES["aime24"][0][0]])
    assert len(load("aime24", revision="a" * 40)) == 1


def fake_hub(monkeypatch, rows):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return rows

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_the_hub_is_asked_for_a_commit_and_never_to_run_code(monkeypatch):
    calls = fake_hub(monkeypatch, [SAMPLES["aime24"][0][0]])
    assert load("aime24")[0].split == "test"
    assert calls.pop() == (
        ("HuggingFaceH4/aime_2024", None),
        {"split": "train", "revision": benchmarks()["aime24"].revision},
    )
    load("aime24", revision="a" * 40)
    assert calls.pop()[1]["revision"] == "a" * 40
    calls = fake_hub(monkeypatch, [row for row, _, _ in SAMPLES["livecodebench"]])
    load("livecodebench")
    at = f"hf://datasets/livecodebench/code_generation_lite@{benchmarks()['livecodebench'].revision}/test6.jsonl"
    assert calls == [(("json",), {"data_files": at, "split": "train"})]


def test_without_network_the_error_says_what_to_fetch_and_where(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=refuse))
    pinned = benchmarks()["gpqa-diamond"].revision
    with pytest.raises(
        QueryError,
        match=r"no route.*accept its terms.*HF_TOKEN.*hf download --repo-type dataset Idavidrein/gpqa "
        rf"--revision {pinned} --local-dir FOLDER/gpqa-diamond.*folder=FOLDER",
    ):
        load("gpqa-diamond")
    with pytest.raises(
        QueryError,
        match=rf"no gsm8k \(train\) in .*looked for gsm8k_train.jsonl.*local-dir {tmp_path}/gsm8k",
    ):
        load("gsm8k", split="train", folder=tmp_path)
    with pytest.raises(
        QueryError,
        match=r"curl -L --create-dirs -o .*/hitab/test_samples.jsonl https://raw.*tables.zip",
    ):
        load("hitab", folder=tmp_path)
    with pytest.raises(QueryError, match="no split 'train'; it has test"):
        load("aime24", split="train")
    with pytest.raises(QueryError, match="no benchmark 'gsm9k'; there are simpleqa"):
        load("gsm9k")


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "data" / "pools").mkdir(parents=True)
    monkeypatch.setenv("ROUTERLAB_HOME", str(tmp_path))
    return tmp_path


def test_fetched_files_are_kept_and_checked(home, monkeypatch):
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        return gzip.io.BytesIO(b"content")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    digest = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    for _ in range(2):
        assert files.fetch("https://example.org/a/b.csv", digest).read_bytes() == b"content"
    assert asked == ["https://example.org/a/b.csv"]
    with pytest.raises(QueryError, match="is not the file it was: SHA-256 ed7002b439e9"):
        files.fetch("https://example.org/a/c.csv", "0" * 64)
    assert list(Run("downloads").manifest()) == ["example.org/a/b.csv"]
    assert files.fetch("https://example.org/zip/" + "a" * 40).suffix == ".zip"
    with pytest.raises(QueryError, match="https"):
        files.fetch("http://example.org/x.csv")

    def down(url, timeout):
        raise OSError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", down)
    with pytest.raises(QueryError, match=r"could not fetch https://example.org/d.csv \(no route\).*folder="):
        files.fetch("https://example.org/d.csv")


# --- files of one's own


@pytest.fixture
def own(tmp_path):
    rows = [{"q": f"Is {n} even?", "a": "yes" if n % 2 == 0 else "no", "topic": "parity", "n": n} for n in range(20)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with gzip.open(tmp_path / "own.csv.gz", "wt") as file:
        file.write("q,a,topic,n\n" + "\n".join(f'"{r["q"]}",{r["a"]},{r["topic"]},{r["n"]}' for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "own.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["own.jsonl", "own.csv.gz", "own.parquet"])
def test_files_of_every_format_give_the_same_queries(own, name):
    by_name = load(f"file:{own / name}?question=q&answer=a&verifier=exact&keep=topic&split=train")
    by_argument = load(f"file:{own / name}?question=q&answer=a&keep=topic", split="train")
    expected = [Query.ask(f"Is {n} even?", "yes" if n % 2 == 0 else "no") for n in range(20)]
    assert [q.id for q in by_name] == [q.id for q in by_argument] == [q.id for q in expected]
    assert by_name[3].meta == {"topic": "parity"}
    assert (by_name[3].split, by_name[3].source, by_name[3].verifier) == (
        "train",
        "own" if name != "own.csv.gz" else "own.csv",
        "exact",
    )


def test_a_file_of_queries_needs_no_columns(own):
    queries = [Query.ask("one?", split="train"), Query.ask("two?", split="test")]
    pq.write_table(to_arrow(queries), own / "queries.parquet")
    assert load(f"file:{own / 'queries.parquet'}") == queries
    assert load(f"file:{own / 'queries.parquet'}", split="test") == queries[1:]


def test_a_limit_takes_the_first_in_the_order_of_the_source(own):
    name = f"file:{own / 'own.jsonl'}?question=q&answer=a"
    assert [q.text for q in load(name, limit=5)] == [f"Is {n} even?" for n in range(5)]
    assert len(load(name, limit=100)) == 20
    assert load(name, limit=0) == load(name, limit=-1) == []
    lines = (own / "own.jsonl").read_text().splitlines()
    (own / "own.jsonl").write_text("\n".join([lines[3], lines[0], *lines[:5]]))
    with pytest.warns(UserWarning, match=r"2 of 7 rows repeat a question and its answer; the first of each is kept"):
        assert [q.text for q in load(name, limit=3)] == ["Is 3 even?", "Is 0 even?", "Is 1 even?"]


def test_several_sources_in_one_name(own):
    lay_out(own, "aime24", SAMPLES["aime24"])
    lay_out(own, "gsm8k", SAMPLES["gsm8k"])
    file = f"file:{own / 'own.jsonl'}?question=q&answer=a&keep=topic,n"
    queries = load(f"aime24,{file},gsm8k:test,pocket:test", folder=own, limit=2)
    assert [q.source for q in queries] == ["aime24", "own", "own", "gsm8k", "pocket", "pocket"]
    assert dict(queries[1].meta) == {"topic": "parity", "n": 0}
    assert {q.split for q in queries} == {"test"}
    assert load(f"{file},{file}") == load(file)
    for name, says in {
        "gsm8k,": "no benchmark ''",
        "gsm8k,gsm9k": "no benchmark 'gsm9k'",
        f"{file},x": "column x",
    }.items():
        with pytest.raises(QueryError, match=says):
            load(name, folder=own)


def test_repeated_questions_are_kept_once_and_counted(own):
    text = (own / "own.jsonl").read_text()
    (own / "own.jsonl").write_text(text + "\n" + text)
    with pytest.warns(UserWarning, match="20 of 40 rows repeat"):
        assert len(load(f"file:{own / 'own.jsonl'}?question=q&answer=a")) == 20


def test_mistakes_with_files_name_the_cure(own):
    path = own / "own.jsonl"
    for name, message in {
        f"file:{path}": rf"file:{path}\?question=NAME&answer=NAME; it has q, a, topic, n",
        f"file:{path}?question=text": "no column text; there are q, a, topic, n",
        f"file:{path}?quesiton=q": "unknown quesiton .*known: answer, keep, question",
        f"file:{own / 'absent.csv'}?question=q": "no file at",
        f"file:{own / 'x.pkl'}?question=q": "may be a pickle",
        f"file:{own / 'x.txt'}?question=q": "convert it to one",
        f"file:{own / 'broken.jsonl'}?question=q": "line 2 is not JSON",
        f"file:{own / 'list.json'}?question=q": "row 1 is 1, not named columns",
        f"file:{own / 'empty.jsonl'}?question=q": "no questions",
    }.items():
        (own / "x.txt").write_text("q")
        (own / "broken.jsonl").write_text('{"q": "a"}\n{"q": ')
        (own / "list.json").write_text("[1, 2]")
        (own / "empty.jsonl").write_text("")
        with pytest.raises(QueryError, match=message):
            load(name)
    with pytest.raises(QueryError, match="no benchmark 'gsm8k.question=q'"):
        load("gsm8k?question=q")


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl.gz", "x.csv.gz", "x.zip", "x.parquet", "x.json"])
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"null" if name == "x.json" else b"q,a\n\xe9,1\n")
    for options in ("?question=q", ""):
        with pytest.raises(QueryError, match=rf"{name} (cannot be read|is None, not rows)"):
            load(f"file:{tmp_path / name}{options}")
    with pytest.raises(QueryError, match="no file at"):
        load(f"file:{tmp_path / 'absent.parquet'}")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("q.csv", "q,a\nwho?,me\nwhen,5\n,4\n", "row 3: nothing in column q; fill it in"),
        ("q.csv", "q,a\nwho?,\n", "row 1: nothing in column a; fill it in"),
        ("q.csv", "q,a\nwho?,me\nwhat\n", "row 2 has fewer fields .* drop the row"),
        ("q.csv", "q,a\none, two or three?,me\n", "row 1 has more fields .*quotes"),
        (
            "q.jsonl",
            '{"q": "who?", "a": "me"}\n{"q": null, "a": "5"}\n',
            "row 2: nothing in column q",
        ),
        ("q.jsonl", '{"q": "who \\ud83d", "a": "me"}\n', "row 1: half a surrogate pair"),
    ],
)
def test_a_row_that_asks_nothing_is_refused_by_number(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(QueryError, match=says):
        load(f"file:{tmp_path / name}?question=q&answer=a")


def test_a_line_of_jsonl_ends_at_its_newline_alone(tmp_path):
    """JSON may hold every other mark that Unicode ends a line with."""
    asked = ["a\u2028b", "c\u0085d", "e\u000bf"]
    rows = [json.dumps({"q": q, "a": "x"}, ensure_ascii=False) for q in asked]
    (tmp_path / "q.jsonl").write_bytes("\r\n".join(rows).encode())
    got = load(f"file:{tmp_path / 'q.jsonl'}?question=q&answer=a")
    assert [q.text for q in got] == asked


def test_pocket_and_the_list(pocket):
    assert [q.id for q in load("pocket:test")] == [q.id for q in pocket.split("test").queries]
    assert len(load("pocket")) == len(pocket.queries)
    assert load("pocket", split="train", limit=7)[0].split == "train"
    shown = listing()
    assert all(name in shown for name in SAMPLES)
    assert "openai/gsm8k (main)@cc7b047" in shown
    assert "(not pinned)" not in shown


# --- raw files as published


def test_raw_files(datasets):
    counts = {
        "simpleqa": 4326,
        "gsm8k": 1319,
        "math-500": 500,
        "truthfulqa": 790,
        "truthfulqa-mc": 790,
        "humaneval": 164,
        "mbpp": 499,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two tasks of MBPP have one text and one first test
        found = {name: load(name, folder=datasets) for name in counts}
    assert {name: len(queries) for name, queries in found.items()} == counts
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", q.reference) for q in found["gsm8k"])
    assert found["gsm8k"][0].reference == "18"
    assert found["math-500"][0].reference == "\\left( 3, \\frac{\\pi}{2} \\right)"
    assert {q.meta["level"] for q in found["math-500"]} == {1, 2, 3, 4, 5}
    assert {q.meta["topic"] for q in found["simpleqa"]} >= {
        "Art",
        "Geography",
        "Science and technology",
    }
    assert all(len(q.meta["correct_answers"]) for q in found["truthfulqa"])
    assert all(grade(q, q.reference).quality == 1 for q in found["gsm8k"] + found["truthfulqa-mc"])


def test_published_solutions_pass_their_tests(datasets):
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed: apt install bubblewrap")
    with gzip.open(datasets / "HumanEval.jsonl.gz", "rt") as file:
        human = {r["task_id"]: r["prompt"] + r["canonical_solution"] for r in map(json.loads, file)}
    with (datasets / "mbpp.jsonl").open() as file:
        mbpp = {r["task_id"]: r["code"] for r in map(json.loads, file)}
    queries = load("humaneval", folder=datasets, limit=15) + load("mbpp", split="train", folder=datasets, limit=15)
    solved = {**human, **mbpp}
    found = grade_many(queries, [f"```python\n{solved[q.meta['task']]}\n```" for q in queries])
    assert [v.quality for v in found] == [1.0] * len(queries)


def test_first_of_each_keeps_the_meta_of_the_first(tmp_path):
    (tmp_path / "t.csv").write_text("q,a,topic\none?,1,first\none?,1,second\n")
    with pytest.warns(UserWarning, match="1 of 2 rows repeat"):
        assert [q.meta["topic"] for q in load(f"file:{tmp_path / 't.csv'}?question=q&answer=a&keep=topic")] == ["first"]
