import os
import subprocess
import sys

import pytest

from routerlab import Pool, cli, read_queries
from routerlab.book import notebooks
from routerlab.cli import tables
from routerlab.core.runs import root

MODELS = Pool.load("pocket").ids


def run(capsys, *arguments):
    try:
        code = cli.main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    return code, *capsys.readouterr()


def test_help_reads_well(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verb in ("run", "tidy", "show", "collect", "data", "pools", "pocket"):
        assert f"    {verb}" in out
        code, text, _ = run(capsys, verb, "--help")
        assert code == 0
        assert len(text.splitlines()) >= 6
        assert "None" not in text
        assert max(map(len, text.splitlines())) <= 100
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert "name a verb; `routerlab --help` lists them" in err.splitlines()[-1]


def test_an_interrupted_verb_ends_in_one_line(capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "show", interrupted)
    assert run(capsys, "show") == (130, "", "routerlab: interrupted; run the same command again\n")


def test_a_file_that_cannot_be_written_is_one_line(capsys, tmp_path):
    (tmp_path / "q.csv").write_text("question,answer\n1+1?,2\n")
    source = f"file:{tmp_path / 'q.csv'}?question=question&answer=answer"
    code, _, err = run(capsys, "data", "split", source, "--out", str(tmp_path))
    assert code == 1
    assert "Is a directory" in err.splitlines()[-1]
    assert "name another file or folder" in err.splitlines()[-1]
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))


def _listing(**more):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    asked = [sys.executable, "-m", "routerlab.cli", "data", "list"]
    return subprocess.Popen(asked, env=os.environ | plain, stderr=subprocess.PIPE, **more)


def test_who_stops_reading_gets_no_trace():
    reads, writes = os.pipe()
    os.close(reads)
    process = _listing(stdout=writes)
    os.close(writes)
    assert process.communicate()[1] == b""
    assert process.returncode == 141


def test_a_terminal_without_unicode_gets_its_results():
    process = _listing(stdout=subprocess.PIPE)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert b"bbh" in out


def test_a_wrong_notebook_lists_the_right_ones(capsys):
    code, out, err = run(capsys, "run", "--only", "42")
    assert (code, out) == (1, "")
    names = ", ".join(p.stem for p in notebooks())
    assert err.strip().splitlines()[-1] == f"routerlab: no notebook 42; there are {names}"
    assert names.startswith("00_start_here, 01_")


def test_a_wrong_parameter_lists_the_right_ones(capsys):
    code, _, err = run(capsys, "run", "--only", "00", "-p", "tabel", "x")
    assert code == 1
    assert "no notebook declares parameter 'tabel'" in err
    assert "table" in err


def test_show_prints_the_table(capsys):
    code, out, err = run(capsys, "show", "--split", "test")
    assert (code, err) == (0, "")
    assert "pocket-think" in out
    code, _, err = run(capsys, "show", "--split", "tset")
    assert code == 1
    assert "no split 'tset' in this table; it has" in err
    code, _, err = run(capsys, "show", "nothing-here")
    assert code == 1
    assert "no recorded table in" in err


def test_collect_asks_once_and_stops_at_its_budget(capsys, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for name in ("pools", "pocket", "benchmarks.yaml"):
        (tmp_path / "data" / name).symlink_to(root() / "data" / name)
    monkeypatch.setenv("ROUTERLAB_HOME", str(tmp_path))
    command = ["collect", "--run", "demo", "--models", "pocket-nano,pocket-words", "--limit", "30"]
    command += ["--max-tokens", "160", "--concurrency", "8"]
    code, out, err = run(capsys, *command, "--budget-usd", "0.0005")
    assert code == 3
    assert err.strip().splitlines()[-1].startswith("routerlab: the budget of $0.0005 is used up")
    asked = int(out.split("asked ")[1].split()[0])
    assert 0 < asked < 60
    code, out, err = run(capsys, *command)
    assert code == 0
    assert f"asked {60 - asked} in this session" in out
    assert "60 of 60 (100%)" in err
    code, out, _ = run(capsys, "show", "demo")
    assert code == 0
    assert "30 queries x 2 models" in out
    code, _, err = run(capsys, "collect", "--run", "d", "--models", "gpt-9")
    assert (code, err.strip()) == (
        1,
        "routerlab: 'gpt-9' is not in pool 'pocket' (" + ", ".join(MODELS) + ")",
    )
    code, _, err = run(capsys, "collect", "--run", "d", "--backend", "openia:x")
    assert code == 1
    assert "there are pocket, replay" in err
    code, _, err = run(capsys, "collect", "--run", "d", "--source", "gsm9k")
    assert code == 1
    assert "no benchmark 'gsm9k'" in err


def test_data_lists_and_splits(capsys, tmp_path):
    code, out, _ = run(capsys, "data", "list")
    assert code == 0
    assert "simpleqa" in out
    path = tmp_path / "q.csv"
    twice = [
        "how many legs have 3 dogs and 2 hens and 5 spiders,56",
        "how many legs have 3 dogs and 2 hens & 5 spiders,56",
    ]
    path.write_text("\n".join(["question,answer", *twice, "what is the capital of peru,Lima"]) + "\n")
    code, out, _ = run(
        capsys,
        "data",
        "split",
        f"file:{path}?question=question&answer=answer",
        "--out",
        str(tmp_path / "split.parquet"),
    )
    assert code == 0
    assert "0 of them in more than one split" in out
    made = read_queries(tmp_path / "split.parquet")
    assert len(made) == 3


def test_pools_check_names_every_disagreement(capsys, tmp_path):
    assert run(capsys, "pools", "check", "xrouter")[0] == 0
    text = (root() / "data" / "pools" / "xrouter.yaml").read_text()
    card = text[text.index("- id: gpt-4.1-nano") :].partition("\n  - ")[0]
    (tmp_path / "dear.yaml").write_text(text.replace(card, card.replace("out: 0.4", "out: 1.4")))
    code, out, _ = run(capsys, "pools", "check", str(tmp_path / "dear.yaml"))
    assert code == 1
    (line,) = [line for line in out.splitlines() if "gpt-4.1-nano" in line and "litellm" in line]
    assert "1.4" in line
    assert "0.4" in line


def test_a_failed_notebook_exits_non_zero_and_names_the_cell(capsys, tmp_path):
    code, out, err = run(capsys, "run", "--only", "00", "-p", "table", "nothing-here", "--out", str(tmp_path))
    assert code == 1
    assert "RunError: no recorded table in" in out
    assert "1 of 1 notebooks failed: 00_start_here.ipynb, cell" in err


def test_tidy_check(capsys, tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_text('{"cells": [], "metadata": {"x": 1}, "nbformat": 4, "nbformat_minor": 5}')
    assert run(capsys, "tidy", "--check", str(path))[:2] == (1, "a.ipynb: not tidy\n")
    assert run(capsys, "tidy", str(path))[:2] == (0, "a.ipynb: tidied\n")
    assert run(capsys, "tidy", "--check", str(path))[0] == 0


@pytest.mark.parametrize("bad", [["eval", "--seed", "-1"], ["pocket", "--threads", "-1"]])
def test_numbers_below_0_are_refused(capsys, bad):
    code, _, err = run(capsys, *bad)
    assert code == 2
    assert "'-1' is not a whole number, 0 or larger" in err.splitlines()[-1]


@pytest.mark.parametrize("bad", [["fly"], ["run", "--profile", "cloud"]])
def test_unknown_words_are_refused(capsys, bad):
    code, _, err = run(capsys, *bad)
    assert code == 2
    assert "invalid choice" in err


@pytest.mark.parametrize("splits", ["1", "2"])
def test_what_a_table_lacks_is_said_once(capsys, monkeypatch, splits):
    from test_contest import _made, _two

    data = _made(*_two(240))
    monkeypatch.setattr("routerlab.cli.evaluate._table", lambda name, bench: data)
    flags = ["--routers", "length", "--splits", splits, "--resamples", "20"]
    code, _, err = run(capsys, "eval", *flags)
    remarks = [line for line in err.splitlines() if "validation questions" in line]
    assert code == 0
    assert len(set(remarks)) == len(remarks) > 0


def test_flags_that_are_data_are_read_as_their_kind():
    args = cli.parser().parse_args(["collect", "--run", "r", "--limit", "3", "--rpm", "60", "--folder", "x"])
    assert (args.limit, args.requests_per_minute, args.samples, args.timeout_s) == (3, 60.0, 1, 120.0)
    assert args.folder.name == "x", "a path"
    args = cli.parser().parse_args(["data", "split", "--shares", "80,0,20"])
    assert args.shares == {"train": 80, "validation": 0, "test": 20}
    args = cli.parser().parse_args(["run", "-p", "seed", "7", "-p", "lam", "1"])
    assert args.values == [["seed", "7"], ["lam", "1"]]
