"""docs/coming_from.md: every command is understood, and every file of the project that it names is there."""

import re
import shlex

import pytest

from routerlab import Pool, cli
from routerlab.core.runs import root

TEXT = (root() / "docs" / "coming_from.md").read_text()
COMMANDS = [c for c in re.findall(r"`([^`]+)`", TEXT) if c.startswith("routerlab ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_understands(command):
    given = cli.parser().parse_args(shlex.split(command)[1:])
    assert callable(cli.function(given.do))
    if getattr(given, "pool", None) in ("pocket", "duo", "xrouter"):
        pool = Pool.load(given.pool)
        assert set((getattr(given, "models", None) or pool.ids[0]).split(",")) <= set(pool.ids)
        assert (getattr(given, "judge", None) or pool.ids[0]) in pool.ids
    if recipe := getattr(given, "recipe", None):
        folder = root() / "data" / "recipes"
        assert [p for p in folder.rglob("*.yaml") if p.stem == recipe], f"no recipe {recipe}"


def test_every_step_has_a_command_or_a_reason():
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| step")]
    assert len(rows) >= 25
    for row in rows:
        _, step, here, _ = (
            row.split("|", 3) if row.count("|") == 3 else [*row.split("|")[:2], "|".join(row.split("|")[2:-1]), ""]
        )
        assert "`" in here or "not" in here, step
