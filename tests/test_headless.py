"""A run of the notebooks: what a kill, a timeout and other parameters leave; what it records; and its pages."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import pytest

from routerlab import book, cli
from routerlab.cli import headless, pages
from routerlab.core.runs import root
from routerlab.evaluate.stats import Interval
from routerlab.figures.values import values_of


def printed(path):
    """What the executed copy printed."""
    outputs = (out for cell in nbformat.read(path, 4).cells for out in cell.get("outputs", ()))
    return "".join(out.get("text", "") for out in outputs)


def test_what_is_finished_and_unchanged_is_not_run_again(write, tmp_path):
    first = write("00_a.ipynb", "import time; print(time.time())")
    second = write("01_b.ipynb", "print(profile)")
    out, said = tmp_path / "out", []
    run = lambda *, values=None, **more: book.run([first, second], values or {}, folder=out, say=said.append, **more)  # noqa: E731
    run()
    time_printed = printed(out / "00_a.ipynb")
    said.clear()
    again = run()
    assert [line.endswith("unchanged since its last run (--fresh runs it again)") for line in said] == [True, True]
    assert [done.name for done in again] == ["00_a", "01_b"]
    write("01_b.ipynb", "print(profile, 2)")
    said.clear()
    run()
    assert "unchanged" in said[0]
    assert "ok" in said[-1]
    assert printed(out / "00_a.ipynb") == time_printed
    assert printed(out / "01_b.ipynb") == "pocket 2\n"
    run(values={"profile": "live"})
    assert printed(out / "01_b.ipynb") == "live 2\n", "other parameters are another run"
    (out / "00_a.ipynb").write_text("{}")
    run(values={"profile": "live"})
    assert printed(out / "00_a.ipynb") > time_printed, "a copy that was changed or lost is made again"
    before = printed(out / "00_a.ipynb")
    run(values={"profile": "live"}, fresh=True)
    assert printed(out / "00_a.ipynb") > before


def test_a_failed_notebook_is_run_again_and_the_others_are_not(write, tmp_path):
    flag = tmp_path / "flag"
    good, bad = write("00_a.ipynb", "1"), write("01_b.ipynb", f"print(open({str(flag)!r}).read())")
    first = book.run([good, bad], {}, folder=tmp_path / "out", say=lambda _: None)
    assert [bool(done.error) for done in first] == [False, True]
    flag.write_text("there")
    said = []
    second = book.run([good, bad], {}, folder=tmp_path / "out", say=said.append)
    assert not any(done.error for done in second)
    assert "unchanged" in said[0]


def test_a_killed_run_leaves_whole_results_and_goes_on(write, tmp_path):
    """SIGKILL while the second of three notebooks runs."""
    started = tmp_path / "started"
    paths = [
        write("00_a.ipynb", "print('first')"),
        write("01_b.ipynb", SLEEPER.format(str(started))),
        write("02_c.ipynb", "print('third')"),
    ]
    out = tmp_path / "out"
    code = "import sys; from pathlib import Path; from routerlab import book\n" + (
        "book.run([Path(p) for p in sys.argv[2:]], {}, folder=Path(sys.argv[1]))"
    )
    environment = os.environ | {"PYTHONPATH": str(root()), "SECONDS_TO_SLEEP": "600"}
    process = subprocess.Popen([sys.executable, "-c", code, out, *paths], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert started.exists()
    assert printed(out / "00_a.ipynb") == "first\n"
    assert not (out / "01_b.ipynb").exists(), "half a notebook is not put in place"
    before = (out / "00_a.ipynb").stat().st_mtime_ns
    assert [*book.results(out)] == ["00_a"]
    said = []
    done = book.run(paths, {}, folder=out, say=said.append)
    assert [each.error for each in done] == ["", "", ""]
    assert "unchanged" in said[0]
    assert (out / "00_a.ipynb").stat().st_mtime_ns == before
    assert printed(out / "02_c.ipynb") == "third\n"


SLEEPER = (
    "import os, pathlib, time\npathlib.Path({!r}).touch()\ntime.sleep(float(os.environ.get('SECONDS_TO_SLEEP', 0)))"
)


def test_a_notebook_that_takes_too_long_is_stopped_and_what_runs_is_told(write, tmp_path, monkeypatch):
    monkeypatch.setattr(book, "EVERY_S", 0.4)
    slow, said = write("00_a.ipynb", "import time; time.sleep(600)", "print('never')"), []
    (done,) = book.run([slow], {}, folder=tmp_path / "out", say=said.append, timeout_s=4)
    assert done.error == "00_a.ipynb: not finished within 4 s; raise --timeout"
    assert any(re.fullmatch(r"\[1/1\] 00_a … \d+ s", line) for line in said)
    assert "never" not in printed(tmp_path / "out" / "00_a.ipynb")


def test_two_notebooks_at_once_and_results_in_order(write, tmp_path):
    """Each waits for a file of the other, so they finish only side by side."""
    wait = "import pathlib, time\npathlib.Path({!r}).touch()\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.05)"
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    paths = [write("00_a.ipynb", wait.format(a, b)), write("01_b.ipynb", wait.format(b, a))]
    done = book.run(paths, {}, folder=tmp_path / "out", say=lambda _: None, jobs=2, timeout_s=60)
    assert [(each.name, each.error) for each in done] == [("00_a", ""), ("01_b", "")]


def test_numbers_and_tables_are_recorded(write, tmp_path):
    assert json.loads(values_of({"a": 1, "b": float("nan"), "_c": 2, "f": len, "long": "x" * 999, "t": (1, "u")})) == {
        "a": 1, "b": None, "t": [1, "u"],
    }  # fmt: skip
    table = pd.DataFrame({"gain": [Interval(0.2, 0.1, 0.3)]}, index=["ridge"])
    recorded = json.loads(values_of({"table": table, "many": pd.DataFrame({"x": range(500)})}))
    assert recorded == {"table": {"ridge": {"gain": {"mean": 0.2, "low": 0.1, "high": 0.3}}}}

    class Odd:
        def __getattr__(self, name):
            raise RuntimeError(name)

    assert json.loads(values_of({"odd": Odd(), "a": 1})) == {"a": 1}, "what cannot be recorded is left out"
    path = write("00_a.ipynb", "import numpy as np\nhalf = np.float64(0.5)")
    book.run([path], {}, folder=tmp_path / "out", say=lambda _: None)
    assert book.results(tmp_path / "out")["00_a"].values == {"profile": "pocket", "half": 0.5}
    assert "values_of" not in (tmp_path / "out" / "00_a.ipynb").read_text(), "the copy is the notebook and no more"
    (tmp_path / "out" / "result.json").write_text('{"00_a": 3}')
    with pytest.raises(book.BookError, match="damaged"):
        book.results(tmp_path / "out")


def test_other_parameters_have_a_folder_and_figures_of_their_own(write, tmp_path, monkeypatch):
    assert book.folder_of({"profile": "pocket"}) == root() / "data" / "runs" / "book"
    assert book.folder_of({"profile": "pocket", "seed": 7}).name == "book-seed-7"
    assert book.folder_of({"source": "a/../b c"}).name == "book-source-a_.._b_c"
    assert len(book.folder_of({"routers": "x" * 300}).name) < 30
    show = "import os; print(os.environ['ROUTERLAB_FIGURES'])"
    path = write("00_a.ipynb", show, parameters="seed = 0")
    book.run([path], {"seed": 7}, folder=tmp_path / "out", say=lambda _: None)
    assert printed(tmp_path / "out" / "00_a.ipynb") == f"{tmp_path / 'out' / 'figures'}\n"
    book.run([path], {}, folder=tmp_path / "out", say=lambda _: None)
    assert printed(tmp_path / "out" / "00_a.ipynb") == f"{root() / 'figures'}\n"
    assert "ROUTERLAB_FIGURES" not in os.environ


PAID = [
    word
    for name, value in {"pool_name": "pocket", "source": "pocket:test", "limit": 10, "budget_usd": 1}.items()
    for word in ("-p", name, str(value))
]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--profile", "gpu"], r"--profile gpu lacks .*(GPU|vLLM|flash-attn).* here \("),
        (["--profile", "live"], "--profile live needs pool_name, source, limit, budget_usd: routerlab run --profile"),
        (["--profile", "live", "-p", "pool_name", "nowhere"], "--profile live needs source, limit, budget_usd"),
        (["--profile", "live", *PAID, "-p", "porfile", "x"], "no notebook declares parameter 'porfile'"),
    ],
)
def test_what_a_profile_lacks_is_said_in_one_line_before_anything_runs(arguments, says, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a notebook was executed")

    monkeypatch.setattr(book, "_run_one", refuse)
    assert cli.main(["run", "--out", str(tmp_path / "out"), *arguments]) == 1
    said = capsys.readouterr().err
    assert re.search(says, said)
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_pages_need_no_network_cut_no_line_and_describe_every_picture(tmp_path):
    for path in book.notebooks(["00", "02"]):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = pages.write(tmp_path, {"00_start_here": book.Done("00_start_here", 12.0)})
    texts = {path.name: path.read_text() for path in (tmp_path / "html").iterdir()}
    assert set(texts) == {"index.html", "00_start_here.html", "02_outcome_table.html"}
    for text in texts.values():
        assert not re.search(r"<(?:script|link|iframe|object)\b|@import|url\(", text)
        sources = re.findall(r'<img\b[^>]*?src="([^"]{10})', text)
        described = re.findall(r'<img alt="([^"]{20,})"', text)
        assert all(source == "data:image" for source in sources)
        assert len(sources) == len(described) == text.count("<img")
    assert texts["00_start_here.html"].count("<img") == 2, "the figure and the formula"
    assert "pre { white-space: pre-wrap" in texts["00_start_here.html"]
    for target in re.findall(r'href="([^"]+)"', index.read_text()):
        page, _, part = target.partition("#")
        assert not part or f'id="{part}"' in texts[page]


@pytest.mark.parametrize(
    ("name", "value"), [("seed", "x"), ("seed", "1.5"), ("seed", "true"), ("share", "many"), ("go", "1")]
)
def test_a_value_of_another_kind_is_refused_before_anything_runs(capsys, write, tmp_path, name, value):
    path = write("00_a.ipynb", "1", parameters="seed = 0\nshare = 0.5\ngo = True\ntable = 'pocket'")
    with pytest.raises(book.BookError, match=f"-p {name} .*: 00_a needs a value such as"):
        headless.refuse_other_kinds([path], {name: headless.literal(value)})
    fine = {"seed": 7, "share": 1, "go": False, "table": "x", "other": "x"}
    headless.refuse_other_kinds([path], fine)


def test_a_home_without_notebooks_says_so(capsys, tmp_path, monkeypatch):
    (tmp_path / "data" / "pools").mkdir(parents=True)
    monkeypatch.setenv("ROUTERLAB_HOME", str(tmp_path))
    assert cli.main(["run", "--only", "00"]) == 1
    assert capsys.readouterr().err == (
        f"routerlab: no notebooks in {tmp_path / 'notebooks'}; set ROUTERLAB_HOME to a clone of the project\n"
    )
