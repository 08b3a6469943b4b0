"""The book leaves the same bytes under other conditions: one thread in place of many, and the network shut.

The first execution is the one of `make run` (data/runs/book), which is made here if it is not there or not of today's
package. The second is made here, so after `make run` these tests cost one execution of the book: `make test-book`.
Notebook 00 is executed three times in test_book.py.
"""

import hashlib
import os
import re
import subprocess
import sys

import nbformat
import pytest
from test_book import BLOCK

from routerlab import book
from routerlab.core.runs import root

pytestmark = pytest.mark.skipif("WHOLE_BOOK" not in os.environ, reason="it takes minutes: make test-book")
THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "NUMEXPR", "VECLIB_MAXIMUM")
# What a cell prints of time: (cell, pattern of what may differ).
TIMED: dict[str, list[tuple[str, str]]] = {}


def _run(out, environment, *more):
    command = [sys.executable, "-m", "routerlab.cli", "run", *(["--out", str(out)] if out else []), *more]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr.splitlines()[-1]


def _figures():
    """The bytes of what the notebooks exported, but for the files that say when and by which version."""
    files = [p for p in sorted((root() / "figures").iterdir()) if p.suffix in {".pdf", ".svg", ".png", ".csv", ".tex"}]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _tidied(folder, copy):
    """The executed notebooks as they would be committed."""
    copy.mkdir()
    for path in book.notebooks():
        (copy / path.name).write_bytes((folder / path.name).read_bytes())
        book.tidy(copy / path.name)
    return {path.stem: nbformat.read(copy / path.name, 4) for path in book.notebooks()}


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twice")
    (folder / "sitecustomize.py").write_text(BLOCK)
    _run(None, {})
    drawn = _figures()
    one = {f"{name}_NUM_THREADS": "1" for name in THREADS}
    path = {"PYTHONPATH": os.pathsep.join([str(folder), str(root())]), "BLOCKED_LOG": str(folder / "blocked")}
    _run(folder / "out", one | path, "--jobs", str(min(os.cpu_count() or 1, 4)))  # on one thread each
    usual = book.folder_of({})
    return _tidied(usual, folder / "first"), _tidied(folder / "out", folder / "second"), drawn, _figures(), folder


@pytest.mark.parametrize("name", [path.stem for path in book.notebooks()])
def test_a_notebook_leaves_the_same_bytes(twice, name):
    first, second = (notebooks[name] for notebooks in twice[:2])
    for one, other in zip(first.cells, second.cells, strict=True):
        for cell, pattern in TIMED.get(name[:2], ()):
            if one.id == cell:
                for each in (one, other):
                    for output in each.outputs:
                        assert re.search(pattern, output.text), "nothing here depends on time: take it off the list"
                        output.text = re.sub(pattern, "", output.text)
        assert one == other, f"cell {one.id}"


def test_the_figures_are_the_same_bytes(twice):
    _, _, one, other, _ = twice
    assert len(one) > 60
    assert {name for name in one if one[name] != other.get(name)} == set()


def test_no_notebook_needs_the_network(twice):
    blocked = twice[4] / "blocked"
    assert not blocked.exists(), blocked.read_text()
