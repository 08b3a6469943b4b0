"""`routerlab import`: logs of several shapes become runs without a line of Python."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from routerlab import Run, cli, recorded
from routerlab.core.recorded import record
from routerlab.core.runs import root


@pytest.fixture
def do(capsys, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for name in ("pools", "layouts", "pocket", "recipes", "benchmarks.yaml"):
        (tmp_path / "data" / name).symlink_to(root() / "data" / name)
    monkeypatch.setenv("ROUTERLAB_HOME", str(tmp_path))

    def run(*arguments):
        try:
            code = cli.main(list(map(str, arguments)))
        except SystemExit as exit_:
            code = exit_.code
        return code, *capsys.readouterr()

    return run


WIDE = {
    "prompt": ["two and two?", "capital of Peru?", "three?", "four?"],
    "gold": ["4", "Lima", "073", "x"],
    "topic": ["sums", "places", "sums", "none"],
    "level": [1, 2, 2, 3],
    "small ok": [True, False, None, False],
    "large ok": [True, True, False, True],
    "small usd": [0.001, 0.002, 0.003, 0.004],
    "large usd": [0.01, 0.02, 0.03, 0.04],
}


def expect(name, usd=((0.001, 0.01), (0.002, 0.02), (np.nan, 0.03), (0.004, 0.04))):
    data = recorded(name)
    by_text = {q.text: q for q in data.queries}
    assert set(by_text) == set(WIDE["prompt"])
    data = data._replace(queries=[by_text[t] for t in WIDE["prompt"]])
    table = data.table.select([q.id for q in data.queries])
    assert table.models == ("small", "large")
    np.testing.assert_array_equal(table.matrix(), [[1, 1], [0, 1], [np.nan, 0], [0, 1]])
    np.testing.assert_allclose(table.matrix("usd"), usd, rtol=1e-6)
    return data


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet", "csv.gz"])
def test_a_wide_log_of_any_format(do, tmp_path, kind):
    frame, path = pd.DataFrame(WIDE), tmp_path / f"log.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "json":
        path.write_text(json.dumps({"made": "today", "rows": json.loads(frame.to_json(orient="records"))}))
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    code, out, err = do(
        *("import", path, "--run", "mine", "--question", "prompt", "--quality", "{model} ok", "--usd", "{model} usd"),
        *("--answer", "gold", "--verifier", "exact", "--keep", "topic,level", "--split", "50,0,50"),
    )
    assert (code, err) == (0, "")
    assert "0 repeated questions dropped" in out
    assert "cost: recorded" in out
    data = expect("mine")
    assert [q.reference for q in data.queries] == ["4", "Lima", "073", "x"], "no digit of an answer is lost"
    assert [dict(q.meta) for q in data.queries[:2]] == [{"topic": "sums", "level": 1}, {"topic": "places", "level": 2}]
    assert {q.split for q in data.queries} <= {"train", "test"}
    assert data.card["outcomes_missing"] == 1
    assert (data.pool["small"].usd_per_mtok_in, data.pool["large"].usd_per_mtok_out) == (0, 0)
    code, out, _ = do("show", "mine")
    assert code == 0
    assert "small" in out


def test_a_long_log_with_prices_and_tokens(do, tmp_path):
    rows = [
        {"q": p, "llm": m, "score": ok, "n_in": 100 * (i + 1), "n_out": 10, "said": f"{m} {i}"}
        for m in ("small", "large")
        for i, (p, ok) in enumerate(zip(WIDE["prompt"], WIDE[f"{m} ok"], strict=True))
        if ok is not None
    ]
    path, prices = tmp_path / "calls.jsonl", tmp_path / "prices.csv"
    path.write_text("\n".join(map(json.dumps, rows)))
    prices.write_text("model,usd_per_mtok_in,usd_per_mtok_out\nsmall,1,2\nlarge,10,30\n")
    ask = ("import", path, "--run", "long", "--question", "q", "--quality", "score", "--model", "llm", "--text", "said")
    ask += ("--prices", prices, "--as-of", "2026-01-02", "--tokens-in", "n_in")
    code, _, err = do(*ask)
    assert code == 1
    assert "records no tokens_out" in err
    assert "(--tokens-out), a column, a number, or a number for each model" in err
    code, _, err = do(*ask, "--tokens-out", "small=10,large=20")
    assert (code, err) == (0, "")
    usd = [[(n * a + t * b) / 1e6 for a, b, t in ((1, 2, 10), (10, 30, 20))] for n in (100, 200, 300, 400)]
    usd[2][0] = np.nan
    data = expect("long", usd)
    assert str(data.pool["small"].as_of) == "2026-01-02"
    assert data.table.text()[1].tolist() == ["small 1", "large 1"]
    assert data.card["tokens_out"] == {"small": 10, "large": 20}


def test_an_answer_that_is_a_number_is_kept(do, tmp_path):
    path = tmp_path / "n.csv"
    path.write_text("q,m,ok,cost,said\none?,a,1,0.1,42\ntwo?,a,0,0.1,\n")
    code, *_ = do(
        *("import", path, "--run", "n", "--question", "q", "--model", "m", "--quality", "ok", "--usd", "cost"),
        *("--text", "said"),
    )
    assert code == 0
    assert recorded("n").table.text().tolist() == [["42"], [None]]


def test_published_tables_need_no_flags(do, datasets):
    code, out, err = do("import", datasets / "routellm_15361x2.parquet", "--run", "rl", "--bench", "gsm8k")
    assert (code, err) == (0, "")
    assert "tokens in: characters; tokens out: 1; cost: tokens x prices of the pool" in out
    assert len(recorded("rl").queries) == 1319
    flags = ("--layout", "routellm", "--bench", "gsm8k", "--tokens-out", "150")
    assert do("import", datasets / "routellm_15361x2.parquet", "--run", "rl2", *flags)[0] == 0
    first, second = recorded("rl").table, recorded("rl2").table
    assert {*first.matrix("tokens_out").ravel()} == {1}
    assert {*second.matrix("tokens_out").ravel()} == {150}
    code, out, _ = do("import", datasets / "mmlupro_12032x29.parquet", "--run", "mp", "--split", "70,10,20")
    assert code == 0
    data = recorded("mp")
    assert (len(data.queries), len(data.pool)) == (11_873, 11)
    assert {q.split for q in data.queries} == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--question prompt", "is no known layout|columns of no known layout"),
        ("--question prompt --quality ok", "'ok' is one column for all models"),
        ("--question prompt --quality {model}_ok", "no column fits '{model}_ok'"),
        ("--question text --quality {model}+ok --usd {model}+usd", "no column text; it has prompt, gold"),
        (
            "--question prompt --quality {model}+ok",
            r"no column of costs is named.*--usd.*--pool.*--prices.*--tokens-in",
        ),
        ("--question prompt --quality {model}+ok --pool duo", "pool 'duo' has no card of small, large"),
        ("--question prompt --quality {model}+ok --usd {model}_cost", "no column small_cost, large_cost"),
        ("--question prompt --quality {model}+ok --usd gold", "column 'gold' is not a number everywhere"),
        ("--question prompt --quality {model}+ok --usd {model}+usd --keep subject", "no column subject"),
        (
            "--question prompt --quality level --model topic --usd level",
            r"has a quality outside 0\.\.1: scale it",
        ),
        ("--layout routlelm", "no layout 'routlelm'; there are mmlu-pro, mt-bench, routellm, routerbench"),
        ("--layout mt-bench --pool duo", "no column question_id"),
        ("--question prompt --quality {model}+ok --usd {model}+usd --bench mmlu", "so it has no bench 'mmlu'"),
        ("--question prompt --quality {model}+ok --split 80,20", "'80,20' are no shares; give train,validation,test"),
        ("--question prompt --quality {model}+ok --split 0,0,0 --usd {model}+usd", "shares are .*not all 0"),
        ("--question prompt --quality {model}+ok --as-of soon", "'soon' is no day; give it as YYYY-MM-DD"),
        ("--question prompt --quality {model}+ok --prices nowhere.csv", "no file at nowhere.csv"),
        ("--question prompt --quality {model}+ok --models small,huge --usd {model}+usd", "no column huge ok"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_cure(do, tmp_path, flags, says):
    path = tmp_path / "log.csv"
    pd.DataFrame(WIDE).to_csv(path, index=False)
    code, out, err = do("import", path, "--run", "bad", *(f.replace("+", " ") for f in flags.split()))
    assert code in (1, 2)
    assert out == ""
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert re.search(says, last), last
    assert not (tmp_path / "data" / "runs" / "bad" / "outcomes.parquet").exists()


def test_a_run_that_was_collected_is_not_overwritten(do, tmp_path):
    pd.DataFrame(WIDE).to_csv(tmp_path / "log.csv", index=False)
    folder = tmp_path / "data" / "runs" / "paid"
    folder.mkdir(parents=True)
    (folder / "ledger.jsonl").write_text("paid answers")
    how = ("--question", "prompt", "--quality", "{model} ok", "--usd", "{model} usd")
    code, _, err = do("import", tmp_path / "log.csv", "--run", "paid", *how)
    assert code == 1
    assert "holds what was collected; give the run another name" in err.splitlines()[-1]
    assert [path.name for path in folder.iterdir()] == ["ledger.jsonl"]
    assert do("import", tmp_path / "log.csv", "--run", "new", *how)[0] == 0


FILTER = "data filter --reference pocket --model pocket-nano --at 0 --band simple,impossible --out"
RECORDS = "data records --recipe pocket --most 3 --kind sft --out"


@pytest.mark.parametrize(
    "verb", [FILTER, RECORDS, "data split pocket --out", "data download gsm8k --folder nowhere --out"]
)
@pytest.mark.parametrize("held", ["outcomes.parquet", "ledger.jsonl", "served.jsonl"])
def test_no_verb_writes_over_what_a_run_recorded(do, tmp_path, monkeypatch, verb, held):
    run = Run("mine")
    if held == "outcomes.parquet":
        pocket = recorded("pocket").split("validation")
        record(run, pocket.queries, pocket.pool, pocket.table, {"how": "elsewhere"})
    else:
        run.folder.mkdir(parents=True)
        (run.folder / held).write_text("recorded")
    if "download" in verb:  # what was fetched is not what is tested
        monkeypatch.setattr("routerlab.cli.records.benchmarks.load", lambda *_, **__: recorded("pocket").queries)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    out = run.folder / "queries.parquet" if "split" in verb else "mine"
    code, _, err = do(*verb.split(), out)
    assert (code, len(err.splitlines())) == (1, 1), err
    assert "holds what was collected; give the run another name" in err
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


def test_an_import_and_a_filter_may_be_made_again(do, tmp_path):
    pd.DataFrame(WIDE).to_csv(tmp_path / "log.csv", index=False)
    how = ("--question", "prompt", "--quality", "{model} ok", "--usd", "{model} usd")
    for _ in range(2):
        assert do("import", tmp_path / "log.csv", "--run", "mine", *how)[0] == 0
        assert do(*FILTER.split(), "kept")[0] == 0
