import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from routerlab import Run
from routerlab.core.runs import RunError, root, write_atomic


def test_what_was_written_is_read_and_listed(tmp_path):
    run = Run(tmp_path / "r")
    run.write("a.txt", "hello")
    run.write("deep/b.bin", b"\x00")
    run.write_table("t.parquet", pa.table({"x": [1]}))
    assert run.path("a.txt").read_text() == "hello"
    assert list(run.manifest()) == ["a.txt", "deep/b.bin", "t.parquet"]
    assert run.manifest()["a.txt"]["sha256"].startswith("2cf24dba5fb0a30e")
    assert all(map(run.path, Run(tmp_path / "r").manifest()))
    assert repr(run) == "Run('r', 3 files)"


def test_a_changed_or_missing_file_is_refused(tmp_path):
    run = Run(tmp_path)
    run.write("a", "hello").write_text("hellp")
    with pytest.raises(RunError, match="was changed: SHA-256"):
        run.path("a")
    (tmp_path / "a").unlink()
    with pytest.raises(RunError, match="is gone though the manifest names it"):
        [*map(run.path, run.manifest())]
    with pytest.raises(RunError, match="'b' is not in run .*, which has a"):
        run.path("b")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RunError, match="is not a manifest"):
        run.path("a")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "manifest.json", ""])
def test_names_stay_inside(tmp_path, name):
    with pytest.raises(RunError, match="not a name inside run"):
        Run(tmp_path / "r").write(name, "x")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    run = Run(tmp_path)
    run.write("a", "old")

    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run.write("a", fail)
    assert run.path("a").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "a", "manifest.json"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    write_atomic(tmp_path / "a", lambda p: p.write_text("old"))
    code = (
        "import os, pathlib, sys; from routerlab.core.runs import write_atomic\n"
        "def die(p): p.write_text('half'); os.kill(os.getpid(), 9)\n"
        "write_atomic(pathlib.Path(sys.argv[1]), die)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")])
    assert killed.returncode == -9
    assert (tmp_path / "a").read_text() == "old"


def test_writers_side_by_side_lose_no_entry(tmp_path):
    code = "import sys; from routerlab import Run\nfor i in range(20): Run(sys.argv[1]).write(f'{sys.argv[2]}{i}', 'x')"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    assert [w.wait() for w in writers] == [0, 0]
    assert len(Run(tmp_path).manifest()) == 40


def test_names_that_would_be_lost_are_refused():
    with pytest.raises(RunError, match="'' is no name"):
        Run("")
    with pytest.raises(RunError, match="'pocket' names the embedded table"):
        Run("pocket")


@pytest.mark.parametrize("name", ["..", "a/b/../..", "~x", "CON|<>?*", "a\nb", "/", Path(".."), Path()])
def test_a_name_that_is_none_is_refused_as_text_and_as_a_path(name):
    with pytest.raises(RunError, match="is no name for a run; give it a name of its own"):
        Run(name)


FILES = [
    '{"files": null}',
    '{"files": 5}',
    '{"files": {"a": null}}',
    '{"files": {"a": {"sha256": 5}}}',
    '{"files": NaN}',
]


@pytest.mark.parametrize("theirs", ['{"name": "app", "files": {}}', "[]", "{", "[" * 100_000, *FILES], ids=range(9))
def test_a_manifest_of_something_else_is_left_as_it_is(tmp_path, theirs):
    (tmp_path / "manifest.json").write_text(theirs)
    with pytest.raises(RunError, match="is not a manifest of a run .* write to another folder"):
        Run(tmp_path).write("a", "x")
    assert (tmp_path / "manifest.json").read_text() == theirs
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_root_is_absolute_and_can_be_set(tmp_path, monkeypatch):
    assert (root() / "pyproject.toml").is_file()
    assert Run("demo").folder == root() / "data" / "runs" / "demo"
    monkeypatch.setenv("ROUTERLAB_HOME", str(tmp_path))
    with pytest.raises(RunError, match="set ROUTERLAB_HOME"):
        root()
    assert os.path.isabs(Run(tmp_path).folder)
