"""The README: every command runs or says what it needs, its prices are those of the cards, its links lead somewhere."""

import re
import subprocess

import pytest
import readme

from routerlab import Pool
from routerlab.core.runs import root

QUICK = (
    "routerlab tidy --check",
    "routerlab show pocket --split test",
    "routerlab doctor",
    "routerlab data list",
    "routerlab pools check xrouter",
    "routerlab eval --table pocket --routers list",
)


def test_commands_are_found_and_those_with_a_need_are_left_out():
    every = [command for command, _ in readme.commands()]
    assert {"make run", "make test", "routerlab serve"} <= set(every)
    assert len(readme.free()) >= 25
    for word in ("--profile live", "--profile gpu", "torchrun", "routerlab host", "routerlab meet", "log.csv"):
        assert any(word in command for command in every), word
        assert not any(word in command for command in readme.free()), f"{word} needs something; say so"


@pytest.mark.parametrize("command", QUICK)
def test_quick_commands_run(command, tmp_path):
    assert command in readme.free()
    done = subprocess.run(
        readme.words(command), cwd=tmp_path, env=readme.environment(root()), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or command == "routerlab tidy --check"


def test_what_live_runs_cost_follows_from_the_cards():
    text = (root() / "README.md").read_text()
    pool = Pool.load("xrouter")
    prices = re.findall(r"^\| ([\w.-]+) \| (\d+\.\d\d) \|$", text, re.M)
    assert len(prices) >= 4
    for name, price in prices:
        assert f"{1000 * pool[name].usd(150, 300):.2f}" == price, name
    assert f"by the prices of {pool.cards[0].as_of} in" in text.replace("\n", " ")


def test_links_and_folders_of_the_readme_are_there():
    text = (root() / "README.md").read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (root() / target).exists(), target
    tree = text.partition("## Where things are")[2].partition("```\n")[2].partition("```")[0]
    folders = [line.split()[0] for line in tree.splitlines() if line.strip()]
    for name in folders:
        for each in name.rstrip(",").split(","):
            inside = root() / "routerlab" / each if not (root() / each).exists() else root() / each
            assert inside.exists(), each
