"""Shared by all tests: a calm thread pool (set before torch is imported), the recorded tables, real
data if present.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import nbformat
import numpy as np
import pytest

from routerlab import OutcomeTable, recorded
from routerlab.core.runs import root


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def pocket():
    return recorded("pocket")


@pytest.fixture
def small():
    """Three queries, two models, one try: correct, incorrect, idk, an error."""
    return {
        "query": ["a", "a", "b", "b", "c", "c"],
        "model": ["x", "y"] * 3,
        "grade": ["CORRECT", "INCORRECT", "IDK", "CORRECT", None, "CORRECT"],
        "quality": [1.0, 0.0, 0.0, 1.0, None, 0.75],
        "usd": [0.1, 0.5, 0.1, 0.5, 0.0, 0.6],
        "tokens_in": [10] * 6,
        "tokens_out": [5] * 6,
        "error": [None, None, None, None, "timeout", None],
    }


@pytest.fixture
def small_table(small):
    return OutcomeTable(small)


@pytest.fixture(scope="session")
def datasets():
    """The folder of real tables beside the project; tests that need it skip where it is absent."""
    folder = root().parent / "shared" / "datasets"
    if not folder.is_dir():
        pytest.skip("no ../shared/datasets here: real tables are not part of the project")
    return folder


def notebook(*sources, parameters="profile = 'pocket'  # which"):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(s) for s in sources]
    for number, cell in enumerate(cells):
        cell.id = f"cell{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture
def write(tmp_path):
    def make(name, *sources, **rest):
        nbformat.write(notebook(*sources, **rest), tmp_path / name)
        return tmp_path / name

    return make
