"""The runner: order, parameters, failures; and tidy: a fresh run leaves the same bytes."""

import hashlib
import os
import socket
import subprocess
import sys

import nbformat
import pytest

from routerlab import book
from routerlab.cli.headless import literal, summary
from routerlab.core.runs import root


def test_notebooks_are_found_by_number_and_name():
    every = book.notebooks()
    assert [p.stem for p in every] == sorted(p.stem for p in every)
    assert book.notebooks(["00"]) == book.notebooks(["00_start_here"]) == every[:1]
    with pytest.raises(book.BookError, match=r"no notebook 77, start; there are 00_start_here"):
        book.notebooks(["77", "00", "start"])


def test_parameters_reach_the_kernel_and_results_are_renamed_into_place(write, tmp_path):
    path = write("00_a.ipynb", "print(profile, number * 2)", parameters="profile = 'pocket'\nnumber = 1")
    said = []
    done = book.run([path], {"profile": "live", "number": 21}, folder=tmp_path / "out", say=said.append)
    made = nbformat.read(tmp_path / "out" / "00_a.ipynb", 4)
    assert made.cells[-1].outputs[0].text == "live 42\n"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["00_a.ipynb", "result.json"]
    assert (done[0].error, done[0].name) == ("", "00_a")
    assert said[0].startswith("[1/1] 00_a")
    assert "ok" in summary(done)


def test_a_parameter_nobody_declares_is_an_error(write, tmp_path):
    path = write("00_a.ipynb", "print(profile)")
    with pytest.raises(book.BookError, match=r"no notebook declares parameter 'porfile' \(00_a: profile\)"):
        book.run([path], {"porfile": "live"}, folder=tmp_path / "out")


def test_a_failing_cell_is_named_and_the_rest_still_runs(write, tmp_path):
    bad = write("00_a.ipynb", "x = 1", "raise KeyError('lost')")
    good = write("01_b.ipynb", "print('fine')")
    done = book.run([bad, good], {}, folder=tmp_path / "out", say=lambda _: None)
    assert done[0].error == "00_a.ipynb, cell 3 (In [3]): KeyError: 'lost'"
    assert done[1].error == ""
    assert (tmp_path / "out" / "00_a.ipynb").is_file(), "the executed copy is kept to look at"


def test_kernels_start_in_the_notebooks_folder_and_the_process_stays_in_its_own(write, tmp_path, monkeypatch):
    """Two notebooks that moved the process and took it back, each in its thread, could leave it elsewhere."""
    paths = [write(f"{i:02}_n.ipynb", "import os; print(os.getcwd())") for i in range(2)]
    before, change, moved = os.getcwd(), os.chdir, set()
    monkeypatch.setattr(os, "chdir", lambda folder: (moved.add(str(folder)), change(folder)))
    done = book.run(paths, {}, folder=tmp_path / "out", jobs=2, say=lambda _: None)
    assert moved <= {before}
    for each in done:
        made = nbformat.read(tmp_path / "out" / f"{each.name}.ipynb", 4)
        assert made.cells[-1].outputs[0].text == f"{tmp_path}\n"


def test_literals():
    assert [literal(t) for t in ("3", "0.5", "true", "pocket", "1e-3", "[1]", "null")] == [
        3, 0.5, True, "pocket", "1e-3", "[1]", "null",
    ]  # fmt: skip
    assert [literal(t) for t in ("[1,", ": :")] == ["[1,", ": :"]


def test_tidy_refuses_what_is_no_notebook(tmp_path):
    for content in (b"", b"# text", b"[]", b"\xff"):
        (tmp_path / "a.md").write_bytes(content)
        with pytest.raises(book.BookError, match=r"a\.md is not a notebook; name files that end in"):
            book.tidy(tmp_path / "a.md")
        assert (tmp_path / "a.md").read_bytes() == content


def test_tidy_drops_what_differs_and_is_idempotent(write, tmp_path):
    path = write("00_a.ipynb", "import sys; print('out'); print('err', file=sys.stderr)", "1 + 1")
    book.run([path], {"profile": "pocket"}, folder=tmp_path / "out", say=lambda _: None)
    made = tmp_path / "out" / "00_a.ipynb"
    assert book.tidy(made, write=False)
    assert book.tidy(made)
    assert not book.tidy(made)
    found = nbformat.read(made, 4)
    assert [c.execution_count for c in found.cells] == [1, 2, 3]
    assert [o.output_type for c in found.cells for o in c.outputs] == ["stream", "execute_result"]
    assert found.cells[2].outputs[0].execution_count == 3
    assert list(found.metadata) == ["kernelspec"]
    assert "papermill" not in made.read_text()
    assert "injected-parameters" not in made.read_text()


def test_committed_notebooks_are_tidy_and_hold_no_errors():
    for path in book.notebooks():
        assert not book.tidy(path, write=False), f"{path.name}: run `routerlab tidy`"
        found = nbformat.read(path, 4)
        code = [c for c in found.cells if c.cell_type == "code"]
        assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
        assert sum("parameters" in c.metadata.get("tags", []) for c in code) == 1
        assert all(len([x for x in c.source.splitlines() if x.strip()]) <= 15 for c in code)
        assert not any(line.startswith("class ") for c in code for line in c.source.splitlines())
        outputs = [o for c in code for o in c.outputs]
        assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in outputs)
        assert any("image/png" in o.get("data", {}) for o in outputs)
        assert "assert" in "".join(c.source for c in code)
        assert code[0].metadata.tags == ["parameters"]


@pytest.fixture(scope="module")
def three_runs(tmp_path_factory):
    """Notebook 00 executed three times with the network shut but for loopback: hashes of what it
    leaves.
    """
    folder = tmp_path_factory.mktemp("three")
    (folder / "sitecustomize.py").write_text(BLOCK)
    path = os.pathsep.join([str(folder), str(root())])
    environment = os.environ | {"PYTHONPATH": path, "BLOCKED_LOG": str(folder / "blocked")}
    hashes = []
    for number in range(3):
        out = folder / f"run{number}"
        command = [sys.executable, "-m", "routerlab.cli", "run", "--only", "00", "--out", str(out)]
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        book.tidy(out / "00_start_here.ipynb")
        files = [
            out / "00_start_here.ipynb",
            *(root() / "figures" / f"first_frontier.{k}" for k in ("pdf", "svg", "png", "csv")),
        ]
        hashes.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in files])
    return hashes, folder


def test_a_fresh_run_leaves_the_same_bytes(three_runs):
    hashes, _ = three_runs
    assert hashes[0] == hashes[1] == hashes[2]


BLOCK = """
import os, socket
_connect, _lookup = socket.socket.connect, socket.getaddrinfo
def _here(host): return host in (None, "", b"", "localhost") or str(host).startswith(("127.", "::1"))
def connect(self, address):
    if isinstance(address, tuple) and not _here(address[0]):
        open(os.environ["BLOCKED_LOG"], "a").write(f"{address}\\n")
        raise OSError(f"network blocked: {address}")
    return _connect(self, address)
def getaddrinfo(host, *rest, **more):
    if not _here(host):
        open(os.environ["BLOCKED_LOG"], "a").write(f"{host}\\n")
        raise OSError(f"network blocked: {host}")
    return _lookup(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
"""


def test_a_run_needs_no_network(three_runs):
    _, folder = three_runs
    assert not (folder / "blocked").exists(), "something tried to reach the network"
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=2)"
    environment = os.environ | {"PYTHONPATH": str(folder), "BLOCKED_LOG": str(folder / "control")}
    tried = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "network blocked" in tried.stderr, "the block itself must work"
    assert (folder / "control").read_text() != ""
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]})).close()"
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_text_printed_in_two_pieces_is_joined(tmp_path):
    pieces = [nbformat.v4.new_output("stream", name=n, text=t) for n, t in OUTPUTS]
    cell = nbformat.v4.new_code_cell("print()", execution_count=1, outputs=pieces)
    path = tmp_path / "n.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assert book.tidy(path)
    (made,) = nbformat.read(path, 4).cells[0].outputs
    assert (made.name, made.text) == ("stdout", "a\nb\nc\n")
    assert not book.tidy(path)


OUTPUTS = (("stdout", "a\n"), ("stderr", "x\n"), ("stdout", "b\n"), ("stdout", "c\n"))
