"""Tables that others recorded become runs: what is missing stays missing, and no cost is guessed."""

import datetime as dt
import json
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from routerlab import Run, recorded
from routerlab.core.queries import QueryError
from routerlab.core.runs import RunError
from routerlab.sources import tables
from routerlab.sources.files import SourceError
from routerlab.sources.split import leakage
from routerlab.sources.tables import Layout

DAY = dt.date(2025, 1, 1)
CANNOT = r" cannot be read \([^\n]*is it whole, in UTF-8"


@pytest.fixture
def pool():
    return tables.pool_of("two", {"a": (1.0, 2.0), "b": (10.0, 30.0)}, as_of=DAY, context=4096)


@pytest.fixture
def wide_csv(tmp_path):
    path = tmp_path / "wide.csv"
    pd.DataFrame(
        {
            "q": ["two and two?", "capital of Peru?", "a third one"],
            "gold": ["4", "Lima", "x"],
            "topic": ["sums", "places", "none"],
            "ok/a": [1, 0, None],
            "ok/b": [True, 1, 0],
            "in": [100, 200, 300],
            "out/a": [10, 20, None],
            "out/b": [40, 50, 60],
        }
    ).to_csv(path, index=False)
    return path


WIDE = {
    "question": "q",
    "quality": "ok/{model}",
    "answer": "gold",
    "verifier": "exact",
    "keep": ("topic",),
}


def wide(path, pool, quality="{model}", **names):
    return tables.import_table(path, Layout(quality=quality, **names), pool)


def long(path, pool, **names):
    return tables.import_table(path, Layout(**{"quality": "quality", "model": "model"} | names), pool)


def test_wide_by_hand(wide_csv, pool):
    made = wide(wide_csv, pool, **WIDE, tokens_in="in", tokens_out="out/{model}")
    assert made.table.models == ("a", "b")
    np.testing.assert_array_equal(made.table.matrix("quality"), [[1, 1], [0, 1], [np.nan, 0]])
    # 100 tokens at 1 and 10 at 2 dollars a million; 200 at 10 and 50 at 30
    usd = made.table.matrix("usd")
    assert usd[0, 0] == pytest.approx(120e-6)
    assert usd[1, 1] == pytest.approx(3500e-6)
    assert len(made.table) == 5
    assert made.card["outcomes_missing"] == 1
    assert [q.reference for q in made.queries] == ["4", "Lima", "x"]
    assert made.queries[0].meta == {"topic": "sums"}
    assert (made.queries[0].source, made.queries[0].verifier) == ("wide", "exact")


def test_tokens_that_are_not_recorded_are_never_guessed(wide_csv, pool):
    with pytest.raises(
        QueryError, match=r"records no tokens_in.*give tokens_in \(--tokens-in\), .*'characters'.*usd \(--usd\)"
    ):
        wide(wide_csv, pool, **WIDE)
    with pytest.raises(QueryError, match="records no tokens_out"):
        wide(wide_csv, pool, **WIDE, tokens_in="characters")
    with pytest.raises(QueryError, match="no number for b"):
        wide(wide_csv, pool, **WIDE, tokens_in=1, tokens_out={"a": 3})
    made = wide(wide_csv, pool, **WIDE, tokens_in="characters", tokens_out={"a": 5, "b": 7})
    assert made.table.matrix("tokens_in")[:, 1].tolist() == [3, 4, 3]  # 12, 16 and 11 characters
    assert made.table.matrix("tokens_out")[0].tolist() == [5, 7]
    assert made.card["tokens_in"] == "characters"
    assert made.card["tokens_out"] == {"a": 5, "b": 7}


def test_long_equals_wide(wide_csv, pool, tmp_path):
    frame = pd.read_csv(wide_csv)
    parts = [
        frame[["q", "gold", "topic", "in"]].assign(model=m, quality=frame[f"ok/{m}"], out=frame[f"out/{m}"])
        for m in "ab"
    ]
    rows = pd.concat(parts).dropna(subset=["quality"]).sample(frac=1, random_state=0)
    rows.to_csv(tmp_path / "long.csv", index=False)
    made = long(
        tmp_path / "long.csv",
        pool,
        question="q",
        answer="gold",
        verifier="exact",
        keep=("topic",),
        tokens_in="in",
        tokens_out="out",
    )
    other = wide(wide_csv, pool, **WIDE, tokens_in="in", tokens_out="out/{model}")
    made_table = made.table.select(other.table.queries)
    for column in ("quality", "usd", "tokens_out"):
        np.testing.assert_array_equal(made_table.matrix(column), other.table.matrix(column))
    twice = pd.concat([rows, rows.iloc[:1]])
    twice.to_csv(tmp_path / "twice.csv", index=False)
    with pytest.raises(QueryError, match="second outcome"):
        long(tmp_path / "twice.csv", pool, question="q", tokens_in=1, tokens_out=1)


def test_a_missing_model_column_or_price_is_named(wide_csv, pool, tmp_path):
    with pytest.raises(QueryError, match="no column question; it has q, gold"):
        wide(wide_csv, pool, question="question", quality="ok/{model}")
    with pytest.raises(QueryError, match="no column fits 'right/{model}'"):
        wide(wide_csv, pool, question="q", quality="right/{model}")
    with pytest.raises(QueryError, match="say which models"):
        wide(wide_csv, pool, question="q")
    only = tables.pool_of("one", {"a": (1, 2)}, as_of=DAY, context=10)
    with pytest.raises(QueryError, match="no card of b.*pool_of"):
        wide(wide_csv, only, **WIDE, tokens_in=1, tokens_out=1)
    with pytest.raises(QueryError, match="no file at"):
        wide(tmp_path / "absent.csv", pool, **WIDE)
    with pytest.raises(QueryError, match="column 'topic' is not a number"):
        wide(wide_csv, pool, question="q", quality="topic", models=["a", "b"])
    graded = pd.read_csv(wide_csv).assign(**{"out/b": [1, None, 1]})
    graded.to_csv(tmp_path / "holes.csv", index=False)
    with pytest.raises(QueryError, match="1 graded outcomes lack tokens_out"):
        wide(tmp_path / "holes.csv", pool, **WIDE, tokens_in="in", tokens_out="out/{model}")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", b"", " has no rows, so it holds no outcome; is it whole"),
        ("x.csv", b"q,ok/a\n\xe9,1\n", CANNOT),
        ("x.csv", b"q,ok/a\nx,1\ny,1,1,1\n", ": row 2 has more fields than the header names; put quotes"),
        ("x.csv.gz", b"torn", CANNOT),
        ("x.parquet", b"torn", CANNOT),
        ("x.jsonl.gz", b"torn", CANNOT),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, pool, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=rf"{name}{says}"):
        wide(tmp_path / name, pool, **WIDE, tokens_in=1, tokens_out=1)


def test_a_question_nobody_answered_is_left_out_and_counted(wide_csv, pool, tmp_path):
    gone = pd.read_csv(wide_csv).assign(**{"ok/b": [1, 1, None]})
    gone.to_csv(tmp_path / "gone.csv", index=False)
    made = wide(tmp_path / "gone.csv", pool, **WIDE, tokens_in=1, tokens_out=1)
    assert [q.reference for q in made.queries] == ["4", "Lima"]
    assert made.card["unanswered_questions_dropped"] == 1
    assert (made.card["repeated_questions_dropped"], made.card["outcomes_missing"]) == (0, 0)
    assert tables.save(made, tmp_path / "run").split("test").table.matrix().shape == (2, 2)
    gone.assign(**{"ok/a": None, "ok/b": None}).to_csv(tmp_path / "none.csv", index=False)
    gone.iloc[:0].to_csv(tmp_path / "header.csv", index=False)
    for name, says in (
        ("none.csv", "holds no outcome; name the columns"),
        ("header.csv", "has no rows, so it holds no"),
    ):
        with pytest.raises(SourceError, match=says):
            wide(tmp_path / name, pool, **WIDE, tokens_in=1, tokens_out=1)


def test_an_empty_cell_is_no_word(wide_csv, pool, tmp_path):
    frame = pd.read_csv(wide_csv)
    frame.assign(gold=["4", None, "x"]).to_csv(tmp_path / "gold.csv", index=False)
    made = wide(tmp_path / "gold.csv", pool, **WIDE, tokens_in=1, tokens_out=1)
    assert [q.reference for q in made.queries] == ["4", None, "x"]
    frame.assign(q=["a", None, "c"]).to_csv(tmp_path / "q.csv", index=False)
    with pytest.raises(SourceError, match=r"row 2 \(and 0 more\) has nothing in column q; fill it in"):
        wide(tmp_path / "q.csv", pool, **WIDE, tokens_in=1, tokens_out=1)
    for column in ("q", "model"):
        rows = {"q": ["a", "b"], "model": ["a", "b"], "quality": [1, 0]} | {column: [None, "b"]}
        pd.DataFrame(rows).to_csv(tmp_path / "long.csv", index=False)
        with pytest.raises(SourceError, match=f"row 1 .*has nothing in column {column}"):
            long(tmp_path / "long.csv", pool, question="q", tokens_in=1, tokens_out=1)
    pd.DataFrame({"q": ["a"], "model": [1], "quality": [1]}).to_csv(tmp_path / "n.csv", index=False)
    with pytest.raises(SourceError, match="has no card of 1"):
        long(tmp_path / "n.csv", pool, question="q", tokens_in=1, tokens_out=1)


def test_saved_tables_open_as_runs_with_their_own_pool(wide_csv, pool, tmp_path):
    made = wide(wide_csv, pool, **WIDE, tokens_in="in", tokens_out="out/{model}")
    saved = tables.save(made, tmp_path / "run", {"train": 0.5, "test": 0.5})
    again = recorded(tmp_path / "run")
    assert sorted(Run(tmp_path / "run").manifest()) == [
        "card.json",
        "outcomes.parquet",
        "pool.yaml",
        "queries.parquet",
    ]
    assert again.pool.ids == ("a", "b")
    assert again.pool["b"] == pool["b"]
    assert again.card["queries"] == {s: sum(q.split == s for q in again.queries) for s in again.card["queries"]}
    assert again.table.rows.equals(saved.table.rows)
    assert again.sha256 == saved.sha256 != ""
    np.testing.assert_array_equal(again.table.matrix(), made.table.matrix())
    (tmp_path / "run" / "pool.yaml").write_text("name: other\n")
    with pytest.raises(RunError, match="was changed"):
        recorded(tmp_path / "run")


def test_a_price_that_is_no_number_is_named(tmp_path):
    (tmp_path / "p.csv").write_text("model,usd_per_mtok_in,usd_per_mtok_out\na,dear,1\n")
    with pytest.raises(SourceError, match="column 'usd_per_mtok_in' is not a number everywhere"):
        tables.pool_of("x", tmp_path / "p.csv", as_of=DAY, context=10)


def test_prices_become_tiers():
    pool = tables.pool_of("p", {"x": (1, 5), "y": (1, 4.99), "z": (1, 0.99)}, as_of=DAY, context=1)
    assert [c.tier for c in pool] == ["premium", "standard", "budget"]
    assert pool["x"].as_of == DAY


def routerbench(tmp_path, **changes):
    frame = pd.DataFrame(
        {
            "sample_id": ["mmlu.1", "gsm.2"],
            "prompt": ["['Which one?\\nA. this\\nB. that']", "Count the sheep."],
            "eval_name": ["mmlu-sheep", "grade-school-math"],
            "a": [1.0, 0.25],
            "b": [0.0, 0.75],
            "a|model_response": ["A", "seven"],
            "b|model_response": ["B", "eight"],
            "a|total_cost": [0.001, 0.002],
            "b|total_cost": [0.01, 0.02],
            "oracle_model_to_route_to": ["a", "b"],
            **changes,
        }
    )
    frame.to_parquet(tmp_path / "rb.parquet")
    return tmp_path / "rb.parquet"


def test_routerbench_keeps_its_costs_and_answers(tmp_path, pool):
    made = tables.import_table(routerbench(tmp_path), "routerbench", pool)
    np.testing.assert_allclose(made.table.matrix("usd"), [[0.001, 0.01], [0.002, 0.02]])
    np.testing.assert_allclose(made.table.matrix("quality"), [[1, 0], [0.25, 0.75]])
    assert made.table.grades().tolist() == [["CORRECT", "INCORRECT"], ["INCORRECT", "CORRECT"]]
    assert made.table.text("answer").tolist() == [["A", "B"], ["seven", "eight"]]
    assert made.queries[0].text == "Which one?\nA. this\nB. that"
    assert made.queries[1].meta == {"eval_name": "grade-school-math", "sample_id": "gsm.2"}
    assert (made.card["usd"], made.card["tokens_in"]) == ("recorded", 0)
    with pytest.raises(QueryError, match="graded outcomes lack usd"):
        tables.import_table(routerbench(tmp_path, **{"a|total_cost": [0.1, None]}), "routerbench", pool)


def test_none_is_an_answer_and_an_empty_field_is_not(tmp_path, pool):
    path = tmp_path / "t.csv"
    names = {"question": "q", "answer": "a", "quality": "ok/{model}", "models": pool.ids[:1]}
    names |= {"tokens_in": 1, "tokens_out": 1}
    head = f"q,a,ok/{pool.ids[0]}\n"
    path.write_text(head + "Which of them?,None,1\nNA,n/a,1\nthird,x,0\nfourth,y,NA\n")
    made = wide(path, pool, **names)
    assert [(q.text, q.reference) for q in made.queries] == [
        ("Which of them?", "None"),
        ("NA", "n/a"),
        ("third", "x"),
    ]
    assert made.table.matrix().ravel().tolist() == [1, 1, 0]  # nobody answered the fourth
    path.write_text(head + "first,x,1\n ,x,1\n")
    with pytest.raises(SourceError, match=r"row 2 .*has nothing in column q; fill it in"):
        wide(path, pool, **names)


def test_a_pickle_is_refused_unread(tmp_path, pool):
    touched = tmp_path / "touched"
    evil = type("Evil", (), {"__reduce__": lambda _: (open, (str(touched), "w"))})
    path = tmp_path / "routerbench_0shot.pkl"
    path.write_bytes(pickle.dumps(evil()))
    with pytest.raises(QueryError, match=r"may be a pickle.*read_pickle\('.*to_parquet"):
        tables.import_table(path, "routerbench", pool)
    assert not touched.exists()


def test_mt_bench_judgements(tmp_path, pool):
    asked = [
        {
            "question_id": 81,
            "category": "writing",
            "turns": ["Write a verse.", "Now without rhyme."],
        },
        {
            "question_id": 82,
            "category": "math",
            "turns": ["Two and two?", "Plus one?"],
            "reference": ["4", "5"],
        },
    ]
    scores = [
        (81, "a", 10),
        (81, "a", 7),
        (81, "b", 1),
        (81, "b", 1),
        (82, "a", -1),
        (82, "b", 5.5),
        (82, "c", 9),
    ]
    (tmp_path / "question.jsonl").write_text("\n".join(map(json.dumps, asked)))
    lines = [json.dumps({"question_id": q, "model": m, "score": s, "judge": "gpt-4"}) for q, m, s in scores]
    (tmp_path / "judged.jsonl").write_text("\n".join(lines))
    layout = replace(tables.layouts()["mt-bench"], tokens_in=60, tokens_out={"a": 200, "b": 300})
    made = tables.import_table(tmp_path / "judged.jsonl", layout, pool, questions=tmp_path / "question.jsonl")
    np.testing.assert_allclose(made.table.matrix("quality"), [[7.5 / 9, 0], [np.nan, 0.5]])
    assert [q.verifier for q in made.queries] == ["judge", "judge"]
    assert made.queries[1].reference == "4"
    assert made.queries[0].meta["turns"] == ["Now without rhyme."]


def test_routellm_real(datasets, tmp_path):
    path = datasets / "routellm_15361x2.parquet"
    with pytest.raises(QueryError, match="records no tokens_in"):
        tables.import_table(path, "routellm")
    layout = replace(tables.layouts()["routellm"], tokens_in="characters", tokens_out=150)
    made = tables.import_table(path, layout, bench="gsm8k")
    frame = pd.read_parquet(path)
    frame = frame[frame.bench == "gsm8k"].drop_duplicates("prompt")
    assert len(made.queries) == len(frame) == 1319
    assert made.pool.ids == ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
    np.testing.assert_array_equal(made.table.matrix(), frame[list(made.pool.ids)].to_numpy(float))
    saved = tables.save(made, tmp_path / "gsm8k", {"train": 0.6, "test": 0.4})
    assert not leakage(saved.queries)
    with pytest.raises(QueryError, match="no bench 'mt_bench'.*mmlu, gsm8k"):
        tables.import_table(path, "routellm", bench="mt_bench")


def test_mmlu_pro_real(datasets):
    listed = pd.read_csv(datasets / "mmlupro_models.csv").set_index("model")
    chat = listed[listed.chat_pool]
    prices = {m: (r.usd_per_mtok_in, r.usd_per_mtok_out) for m, r in chat.iterrows()}
    pool = tables.pool_of("chat", prices, as_of=DAY, context=8192)
    made = tables.import_table(datasets / "mmlupro_12032x29.parquet", "mmlu-pro", pool)
    assert len(pool) == 11
    assert (len(made.queries), made.card["repeated_questions_dropped"]) == (11_873, 159)
    frame = made.table.summary()
    np.testing.assert_allclose(frame.correct, chat.accuracy, atol=0.003)
    assert frame.missing.to_dict() == {m: {12012: 20, 12020: 12}.get(n, 0) for m, n in chat.rows.items()}
    assert frame.usd_per_1000["gemini-1.5-pro-002"] == pytest.approx(0.659, abs=0.005)
    assert all("ABCDEFGHIJ".index(q.reference) < len(q.meta["choices"]) for q in made.queries)
    first = made.queries[0]
    assert first.text.endswith(f"J. {first.meta['choices'][9]}")


def test_a_published_file_is_told_by_its_columns(tmp_path):
    def file(name, **columns):
        pd.DataFrame(columns).to_csv(tmp_path / name, index=False)
        return tmp_path / name

    models = tuple("mxbkzaqc")  # so many that their order in the file is no accident
    bench = file(
        "b.csv",
        prompt=["two and two?", "Peru?"],
        eval_name=["sums", "places"],
        sample_id=["s.1", "p.1"],
        **{m: [1.0, 0.0] for m in models},
        **{f"{m}|total_cost": [0.001 * i, 0.002] for i, m in enumerate(models, 1)},
    )
    made = tables.known(bench)
    assert made.table.models == models
    usd = made.table.matrix("usd")
    np.testing.assert_allclose(usd[0], 0.001 * np.arange(1, 9), rtol=1e-6)
    np.testing.assert_allclose(usd[1], 0.002, rtol=1e-6)
    with pytest.raises(SourceError, match="does not say of which benchmark a question is, so it has no bench 'mmlu'"):
        tables.known(bench, "mmlu")
    with pytest.raises(
        SourceError,
        match=r"columns of no known layout \(mmlu-pro, .*\); make a run of it with `routerlab import .*x.csv --run",
    ):
        tables.known(file("x.csv", q=["a"], a=["b"]))
