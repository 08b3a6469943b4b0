"""The list of mutants stays applicable, and its runner tells a noticed mutant from one that nobody notices."""

import pytest
from mutants import MutantError, mutated, read, survivors

LINE = {"file": "double.py", "line": "return 2 * x", "becomes": "return 3 * x"}
MUTANT = LINE | {"list": "a", "tests": "test_it.py", "k": "double"}


def test_every_listed_mutant_changes_exactly_one_line_of_its_file():
    for mutant in read():
        assert mutated(mutant), mutant


@pytest.fixture
def project(tmp_path):
    def write(checks):
        def into(root):
            (root / "double.py").write_text("def double(x):\n    return 2 * x\n")
            (root / "test_it.py").write_text(f"from double import double\n\ndef test_double():\n    assert {checks}\n")

        return into

    return write


def test_a_mutant_is_killed_by_a_test_that_fails_and_survives_one_that_passes(project, capsys):
    assert survivors([MUTANT, MUTANT | {"becomes": "return x * 2"}], project("double(1) == 2")) == [
        MUTANT | {"becomes": "return x * 2"}
    ]
    assert survivors([MUTANT], project("double(0) == 0")) == [MUTANT]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["killed", "SURVIVED", "SURVIVED"]


def test_tests_that_fail_without_a_mutant_prove_nothing(project):
    with pytest.raises(MutantError, match="test_it.py -k 'double': fails without any mutant"):
        survivors([MUTANT], project("double(1) == 3"))


def test_a_selection_without_tests_proves_nothing(project):
    with pytest.raises(MutantError, match=r"(?s)could not run test_it.py -k 'triple':.*1 deselected"):
        survivors([MUTANT | {"k": "triple"}], project("double(1) == 2"))


def test_a_line_must_occur_exactly_once_and_a_list_must_exist(tmp_path):
    (tmp_path / "double.py").write_text("def double(x):\n    return 2 * x\n\ndef again(x):\n    return 2 * x\n")
    with pytest.raises(MutantError, match="'return 2 \\* x' must occur exactly once in double.py .* occurs 2 times"):
        mutated(MUTANT, tmp_path)
    with pytest.raises(MutantError, match="it occurs 0 times"):
        mutated(MUTANT | {"line": "return 2"}, tmp_path)
    with pytest.raises(MutantError, match="no list nowhere; there are "):
        read(["nowhere"])


def test_a_mutant_keeps_the_indentation_of_its_line(tmp_path):
    (tmp_path / "double.py").write_text("def double(x):\n    return 2 * x\n")
    assert mutated(MUTANT, tmp_path) == "def double(x):\n    return 3 * x\n"
