import pytest

from routerlab import cli


def run(capsys, *arguments):
    try:
        code = cli.main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    return code, *capsys.readouterr()


def test_help_reads_well(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verb in ("run", "tidy", "show", "pocket"):
        assert f"    {verb}" in out
        code, text, _ = run(capsys, verb, "--help")
        assert code == 0
        assert len(text.splitlines()) >= 6
        assert "None" not in text
        assert max(map(len, text.splitlines())) <= 100
    assert run(capsys)[0] == 2


def test_a_wrong_notebook_lists_the_right_ones(capsys):
    code, out, err = run(capsys, "run", "--only", "42")
    assert (code, out) == (1, "")
    assert err.strip().splitlines()[-1] == "routerlab: no notebook 42; there are 00_start_here"


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


def test_a_failed_notebook_exits_non_zero_and_names_the_cell(capsys, tmp_path):
    code, out, err = run(
        capsys, "run", "--only", "00", "-p", "table", "nothing-here", "--out", str(tmp_path)
    )
    assert code == 1
    assert "RunError: no recorded table in" in out
    assert "1 of 1 notebooks failed: 00_start_here.ipynb, cell" in err


def test_tidy_check(capsys, tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_text('{"cells": [], "metadata": {"x": 1}, "nbformat": 4, "nbformat_minor": 5}')
    assert run(capsys, "tidy", "--check", str(path))[:2] == (1, "a.ipynb: not tidy\n")
    assert run(capsys, "tidy", str(path))[:2] == (0, "a.ipynb: tidied\n")
    assert run(capsys, "tidy", "--check", str(path))[0] == 0


@pytest.mark.parametrize("bad", [["fly"], ["run", "--profile", "cloud"]])
def test_unknown_words_are_refused(capsys, bad):
    code, _, err = run(capsys, *bad)
    assert code == 2
    assert "invalid choice" in err
