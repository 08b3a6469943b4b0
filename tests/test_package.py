"""The package as an installed thing: what importing costs, and that the three lists of dependencies
agree.
"""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from itertools import chain

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import routerlab
from routerlab.core.runs import root

GIVEN = {
    *("jupyterlab", "papermill", "torch", "transformers", "trl", "peft", "vllm", "litellm"),
    *("pandas", "matplotlib", "seaborn", "ipywidgets", "nbval"),
}


def test_importing_is_cheap_and_pulls_in_nothing_heavy():
    code = (
        "import sys, time; t = time.perf_counter(); import routerlab; s = time.perf_counter() - t;"
        "heavy = {'torch', 'litellm', 'pandas', 'numpy', 'pyarrow', 'matplotlib', 'transformers'} "
        "& set(sys.modules);"
        "print(s, ','.join(sorted(heavy)))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    seconds, heavy = zip(*(r.stdout.strip("\n").split(" ") for r in runs), strict=True)
    assert min(map(float, seconds)) <= 0.3
    assert heavy == ("", "", "")


def test_public_names_load_and_an_unknown_one_lists_them():
    for name in routerlab.__all__:
        assert getattr(routerlab, name) is not None
    with pytest.raises(AttributeError, match="OutcomeTable"):
        _ = routerlab.Outcometable


def _name(requirement: str) -> str:
    return re.split(r"[\s<>=!\[;]", requirement.strip())[0].lower().replace("_", "-")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((root() / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def pins():
    lines = (root() / "versions.txt").read_text().splitlines()
    found = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in found), (
        "a version only: no URL, no host"
    )
    return {_name(line): line.split("==")[1] for line in found}


def test_every_dependency_is_pinned(project, pins):
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    assert {_name(r) for r in wanted} - set(pins) == set()
    assert pins["torch"] == "2.13.0"
    assert tuple(map(int, pins["transformers"].split(".")))[:2] < (5, 18), "vllm 0.31 needs transformers below 5.18"
    assert pins["litellm"] not in {"1.82.7", "1.82.8"}, "compromised releases"


def test_what_they_pull_in_is_pinned_too_and_is_what_is_installed(pins):
    todo, seen = ["routerlab[test]"], set()
    while todo:
        requirement = Requirement(todo.pop())
        extras = requirement.extras or {""}
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        for text in metadata.requires(requirement.name) or []:
            found = Requirement(text)
            if found.marker and not any(found.marker.evaluate({"extra": e}) for e in extras):
                continue
            found.marker = None
            if str(found) not in seen:
                seen.add(str(found))
                todo.append(str(found))
    names = {canonicalize_name(Requirement(text).name) for text in seen}
    assert len(names) > 100
    assert {n for n in names if n not in pins} <= {"setuptools", "routerlab"}
    wrong = {n: metadata.version(n) for n in names if n in pins and metadata.version(n).split("+")[0] != pins[n]}
    assert not wrong, "remove .venv and run make again"


def test_conda_users_get_the_same_set(project, pins):
    environment = yaml.safe_load((root() / "environment.yml").read_text())
    by_pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert "-c versions.txt" in by_pip
    assert any(line.startswith("-e .[") and "test" in line for line in by_pip)
    listed = {_name(r) for r in by_pip if not r.startswith("-")}
    assert listed >= GIVEN
    core = {_name(r) for r in project["dependencies"]} | {_name(r) for r in project["optional-dependencies"]["test"]}
    assert core <= listed
    for line in by_pip:
        if "==" in line:
            assert pins[_name(line)] == line.split("==")[1].split(";")[0].strip(), line


def test_the_given_packages_are_all_there(project):
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    assert {_name(r) for r in wanted} >= GIVEN


def test_readme_commands_exist():
    text = (root() / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (root() / "Makefile").read_text(), re.M))
    asked = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.M))
    assert {"run", "test"} <= asked <= targets
    help_text = subprocess.run([sys.executable, "-m", "routerlab.cli", "--help"], capture_output=True, text=True).stdout
    for verb in set(re.findall(r"^(?:\.venv/bin/)?routerlab ([a-z]+)", text, re.M)):
        assert f"    {verb}" in help_text
