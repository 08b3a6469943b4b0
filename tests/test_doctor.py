"""The doctor: what it finds is there, no key's value is shown, and its last line is a command that runs."""

import shlex
import shutil
import sys

import pytest
import yaml

from routerlab import Pool, cli, doctor
from routerlab.core.runs import root


@pytest.fixture(scope="module")
def checks():
    return {check.name: check for check in doctor.examine()}


def test_it_names_every_part_and_what_it_enables(checks, capsys):
    assert cli.main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name, check in checks.items():
        line = next(line for line in out.splitlines() if line[5:].startswith(name))
        assert line.startswith("yes" if check.seen else "no ")
        assert line.endswith(check.enables)
        assert (check.seen or f"missing: {check.cure}") in out
    assert {"GPU", "flash-attn", "vLLM", "bubblewrap", "TeX", "Chromium", "provider keys"} <= set(checks)


def test_what_it_says_of_this_machine_is_so(checks, monkeypatch):
    import torch

    models = Pool.load("pocket").ids
    assert checks["embedded models"].seen == f"{len(models)} models and their table"
    assert bool(checks["GPU"].seen) == torch.cuda.is_available()
    assert doctor._program("no-such-program", "sh") == shutil.which("sh")
    assert doctor._program("no-such-program") == ""
    assert doctor._package("yaml") == f"PyYAML {yaml.__version__}"
    assert doctor._package("no_such_package") == ""
    assert "yaml" in sys.modules


def test_keys_are_named_and_never_shown(monkeypatch, capsys):
    for name in doctor.key_names():
        monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1")
    monkeypatch.setenv("MISTRAL_API_KEY", "")
    monkeypatch.setenv("OPENAI_API_KEY_FILE", "/x")
    assert doctor.key_names() == ["OPENAI_API_KEY"]
    cli.main(["doctor"])
    out = capsys.readouterr().out
    assert "OPENAI_API_KEY" in out
    assert "secret" not in out


def _there(*names):
    return [doctor.Check(name, "x", "", "") for name in names]


def test_the_last_line_is_a_command_that_exists(tmp_path, monkeypatch):
    (tmp_path / "data" / "pools").mkdir(parents=True)
    monkeypatch.setenv("ROUTERLAB_HOME", str(tmp_path))
    assert doctor.following([]) == "git checkout -- data/pocket"
    first = doctor.following(_there("embedded models", "provider keys"))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "pareto.pdf").touch()
    second, third = (doctor.following(_there("embedded models", *more)) for more in (["provider keys"], []))
    assert first == "routerlab run"
    for command, verb in ((first, "run"), (second, "collect"), (third, "eval")):
        words = shlex.split(command)[1:]
        assert words[0] == verb
        assert cli.function(cli.parser().parse_args(words).do).__name__ in {"run", "collect", "evaluate"}
    assert (root() / "figures" / "pareto.pdf").is_file()


def test_a_missing_table_is_not_reported_as_there(tmp_path, monkeypatch):
    (tmp_path / "data" / "pools").mkdir(parents=True)
    monkeypatch.setenv("ROUTERLAB_HOME", str(tmp_path))
    assert doctor._embedded() == ""
    weights = tmp_path / "data" / "pocket" / "models" / "m" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert doctor._embedded() == "", "weights without their table"
    (tmp_path / "data" / "pocket" / "outcomes.parquet").touch()
    assert doctor._embedded() == "1 models and their table"
