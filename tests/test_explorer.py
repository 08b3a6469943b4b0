"""The explorer, the outcome browser and the training monitor: plain functions, and what stands in a saved page."""

import json
import re
import time

import ipywidgets
import nbformat
import numpy as np
import pytest

from routerlab import OutcomeTable, Query, book
from routerlab.core.recorded import Recorded
from routerlab.evaluate.frontier import decide, oracle_bracket
from routerlab.figures import browser, monitor
from routerlab.figures.explorer import Explored
from routerlab.figures.widgets import Shown, table
from routerlab.routers.learned import Ridge

EVIL = "<script>alert(1)</script> & $x$"


@pytest.fixture(scope="module")
def explored(pocket):
    train, test = pocket.split("train"), pocket.split("test")
    scores = Ridge().fit(train.queries, train.table).predict(test.queries)
    quality, usd = (test.table.matrix(name) for name in ("quality", "usd"))
    lams = np.geomspace(10, 1e6, 20)
    bracket = oracle_bracket(quality, usd, quality, lams, rng=np.random.default_rng(0))
    return Explored("ridge", test, scores, bracket)


def test_the_table_behind_a_point_is_the_point(explored):
    for lam in (0.0, 1000.0, explored.curve.collapse_lam):
        behind, (quality, usd) = explored.table(lam), explored.curve.at(lam)
        assert behind["quality that happened"].mean() == pytest.approx(quality)
        choice = decide(*explored.predicted, lam)
        assert behind["goes to"].tolist() == [explored.data.table.models[m] for m in choice]
        paid = explored.happened[1][np.arange(len(choice)), choice]
        assert paid.mean() == pytest.approx(usd)
        assert (behind["worth less by"] >= -1e-9).all()


def test_the_numbers_for_the_browser_are_those_of_the_curve(explored):
    numbers = explored.numbers("A claim", 1000.0)
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    np.testing.assert_allclose(numbers["curve"]["quality"], explored.curve.quality, rtol=1e-8)
    assert numbers["curve"]["lam"][0] is None, "an infinite cost weight"
    assert len(numbers["questions"]) == len(numbers["predicted"]) == len(explored.data.queries)
    assert [m["name"] for m in numbers["models"]] == list(explored.data.table.models)
    assert (np.array(numbers["oracle"]["high"]) >= np.array(numbers["oracle"]["low"]) - 1e-9).all()
    best = numbers["hull"]["quality"]
    assert best == sorted(best)


def test_the_picture_marks_the_operating_point(explored):
    (axes,) = explored.picture("A claim", 1000.0).axes
    quality, usd = explored.curve.at(1000.0)
    assert np.asarray(axes.lines[-1].get_xydata()).tolist() == [[usd * 1000, quality]]
    assert {"ridge", "random mix", "oracle bracket"} <= {t.get_text() for t in axes.texts}


def test_a_page_is_one_file_with_its_numbers_and_words_for_its_picture(explored, tmp_path):
    page = explored.page("A <claim>", 1000.0, tmp_path / "x.html").read_text()
    assert re.findall(r"(?:src|href)=[\"']?(?!data:)[^\"' >]+|https?://|@import|url\(", page) == []
    numbers = json.loads(*re.findall(r'id="numbers">(.*?)</script>', page, re.S))
    assert numbers["data"]["title"] == "A <claim>"
    assert "<claim>" not in page
    (alt,) = re.findall(r'<img alt="([^"]+)"', page)
    assert "right answers for US$" in alt
    assert explored.page("A <claim>", 1000.0, tmp_path / "y.html").read_text() == page


def test_a_saved_page_shows_a_picture_and_no_widget_id(explored):
    shown = explored.widget("A claim", 1000.0)
    bundle = shown._repr_mimebundle_()
    assert {"image/png", "text/plain"} <= set(bundle)
    assert "VBox" not in bundle["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    again = explored.widget("A claim", 1000.0)._repr_mimebundle_()
    assert again["image/png"] == bundle["image/png"]
    assert shown.children[0].lam == 1000.0


def test_questions_without_every_answer_are_left_out(explored):
    test, rows = explored.data, explored.data.table.rows
    gone = test.queries[5].id
    kept = np.array([q != gone or m != "pocket-max" for q, m in rows.select(["query", "model"]).to_pandas().to_numpy()])
    table = OutcomeTable(rows.filter(kept), test.table.models).select([q.id for q in test.queries])
    fewer = Explored("ridge", test._replace(table=table), explored.scores)
    assert fewer.questions == [q.text for q in test.queries if q.id != gone]


@pytest.fixture
def recorded_four():
    queries = [Query.ask(t, reference="1", source="t", meta={"kind": k}) for t, k in ((EVIL, "a"), ("two", "b"))]
    each = [(q, m) for q in queries for m in ("x", "y")]
    grades = ["CORRECT", "INCORRECT", "IDK", None]
    columns = {"query": [q.id for q, _ in each], "model": [m for _, m in each], "grade": grades}
    columns |= {"quality": [1.0, 0.0, 0.0, None], "usd": [0.1] * 4, "tokens_in": [1] * 4, "tokens_out": [1] * 4}
    columns |= {"answer": ["1", EVIL, "", None], "error": [None, None, None, "timeout"]}
    return Recorded(queries, None, OutcomeTable(columns), {}, "")  # type: ignore


def test_outcomes_are_filtered_by_grade_model_category_and_band(recorded_four):
    frame = browser.outcomes(recorded_four, "kind", ["hard", "simple"])
    assert frame["grade"].tolist() == ["CORRECT", "INCORRECT", "IDK", "missing"]
    assert browser.pick(frame, grade="INCORRECT")["model"].tolist() == ["y"]
    assert browser.pick(frame, category="b", model="x")["grade"].tolist() == ["IDK"]
    assert browser.pick(frame, band="hard")["question"].tolist() == [EVIL, EVIL]
    assert len(browser.pick(frame, 1, band="hard")) == 1
    with pytest.raises(ValueError, match=r"no grade 'RIGHT' here; there are CORRECT, IDK, INCORRECT, missing"):
        browser.pick(frame, grade="RIGHT")
    with pytest.raises(ValueError, match="not filtered by colour, but by grade"):
        browser.pick(frame, colour="red")


def test_the_browser_escapes_answers_and_follows_its_menus(recorded_four):
    frame = browser.outcomes(recorded_four, "kind", ["hard", "simple"])
    shown = browser.widget(frame)
    menus, rows = shown.children
    assert rows.value.startswith("<p>4 of 4 outcomes</p>")
    assert "<script>" not in rows.value
    assert "&lt;script&gt;" in rows.value
    by_name = {menu.description: menu for menu in menus.children}
    assert list(by_name) == ["grade", "model", "category", "band"]
    by_name["grade"].value = "INCORRECT"
    assert rows.value.startswith("<p>1 of 4 outcomes</p>")
    by_name["model"].value = "x"
    assert rows.value.startswith("<p>0 of 4 outcomes</p>"), "a filter that nothing passes is no error"
    assert "<script>" not in shown._repr_mimebundle_()["text/html"]
    assert "mathjax_ignore" in table(frame)


def test_the_monitor_reads_what_is_there_and_follows(tmp_path):
    with pytest.raises(FileNotFoundError, match="routerlab train --out"):
        monitor.streams(tmp_path)
    log = tmp_path / "metrics.jsonl"
    log.write_text(
        '{"step": 1, "loss": 2.0, "grad_norm": 9}\n{"step": 2, "loss": 1.5, "reward": 0.25}\n{"step": 3, "lo'
    )
    frame = monitor.streams(tmp_path)
    assert frame.columns.tolist() == ["step", "loss", "reward"]
    assert frame["loss"].tolist() == [2.0, 1.5], "a line that is being written is left out"
    panels = monitor.picture("x", frame).axes
    assert [a.get_ylabel() for a in panels] == ["loss", "reward"]
    assert np.asarray(panels[1].lines[0].get_xydata()).tolist() == [[2, 0.25]]
    shown = monitor.watch(tmp_path, every_s=0.02)
    (lines,) = shown.children
    assert lines.streams == {"loss": [[1, 2], [2.0, 1.5]], "reward": [[2], [0.25]]}
    log.write_text(log.read_text().replace('{"step": 3, "lo', '{"step": 3, "loss": 1.0}\n'))
    for _ in range(500):
        if len(lines.streams.get("loss", [[]])[0]) == 3:
            break
        time.sleep(0.02)
    assert "image/png" in shown._repr_mimebundle_()
    shown.close()
    assert lines.streams["loss"] == [[1, 2, 3], [2.0, 1.5, 1.0]]


def test_what_is_shown_is_plain_where_no_kernel_runs(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"x": [EVIL]})
    one, two = (Shown([ipywidgets.Label("x")], frame, "a table")._repr_mimebundle_() for _ in range(2))
    view = "application/vnd.jupyter.widget-view+json"
    assert one.pop(view) != two.pop(view), "the id of a live widget is random"
    assert one == two


def test_a_notebook_with_widgets_is_the_same_bytes_after_each_run(tmp_path):
    code = "import pandas as pd, ipywidgets\nfrom routerlab.figures.widgets import Shown\n"
    code += "Shown([ipywidgets.IntSlider()], pd.DataFrame({'x': [1]}), 'a slider')"
    cells = [nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code)]
    for number, cell in enumerate(cells):
        cell.id = f"cell{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "00_a.ipynb")
    left = []
    for run in ("one", "two"):
        (done,) = book.run([tmp_path / "00_a.ipynb"], {}, folder=tmp_path / run, say=lambda _: None)
        assert done.error == ""
        book.tidy(tmp_path / run / "00_a.ipynb")
        left.append((tmp_path / run / "00_a.ipynb").read_text())
    assert left[0] == left[1]
    assert "<td>1</td>" in left[0]
    assert "VBox(" not in left[0]
