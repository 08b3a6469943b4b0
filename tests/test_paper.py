"""The paper: every number is recomputed; a stale number or figure and a false sentence are refused; it builds."""

import importlib.util
import json
import re
import shutil
import subprocess

import pandas as pd
import pytest
from matplotlib.figure import Figure

from routerlab import book
from routerlab.contest.run import contest
from routerlab.core.runs import root

FOLDER = root() / "papers" / "cost_aware_routing"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("paper_build", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def known(build):
    return build.known_numbers()


@pytest.fixture(scope="module")
def text():
    return (FOLDER / "paper.tex").read_text(encoding="utf-8")


def test_every_number_of_the_text_is_named_and_none_is_typed(text, known):
    named = re.findall(r"\\(?:num|ival)\{([^}#]+)\}", text)
    assert len(named) > 50
    assert set(named) <= set(known)
    for name in re.findall(r"\\ival\{([^}#]+)\}", text):
        assert {f"{name}.low", f"{name}.high"} <= set(known)
    body = text.partition(r"\maketitle")[2]
    rest = re.sub(
        r"\\(?:num|ival|ref|label|cite\w*|includegraphics(?:\[[^]]*\])?|input|setlength\{[^}]*\})\{[^}]*\}", "", body
    )
    settings = {"95", "25", "100", "200", "400", "1,000", "2,000", "8", "16", "32", "0,1"}  # how it was measured
    assert set(re.findall(r"\d[\d,.]*\d|\d", rest.replace("0pt", ""))) <= settings


def test_each_reference_is_cited_and_each_citation_is_there(text):
    cited = {key.strip() for keys in re.findall(r"\\cite\w*\{([^}]+)\}", text) for key in keys.split(",")}
    assert cited == set(re.findall(r"^@\w+\{(\w+),", (FOLDER / "refs.bib").read_text(), re.M))


def test_numbers_of_the_table_and_of_the_benchmarks_are_those_of_today(build, known):
    fresh = build._pool() | build._benchmarks()
    assert len(fresh) > 60
    assert [line for line in build.stale(fresh, known) if not line.endswith("is gone")] == []


def test_numbers_of_the_contest_are_those_of_a_fresh_one(build, known, pocket):
    """Four of its routers, fitted and scored again; the resamples do not depend on who else competes."""
    names = ("ridge", "linear", "length", "shuffled")
    scores = contest(pocket, names, seed=0).table()
    assert {"ridge", "linear", "length rule", "shuffled labels"} <= set(scores.index)
    for router, row in scores.iterrows():
        for column, short in (("gain", "gain"), ("saving", "saving"), ("frugal quality", "accuracy")):
            for end, key in (("mean", ""), ("low", ".low"), ("high", ".high")):
                name = f"{router}.{short}{key}"
                assert known[name].near(getattr(row[column], end)), name


def test_a_number_that_moved_is_named(build, known):
    assert build.stale(known, known) == []
    moved = known | {"ridge.gain": known["ridge.gain"]._replace(value=known["ridge.gain"].value + 0.01)}
    (line,) = build.stale(moved, known)
    assert line.startswith("ridge.gain: 0.1")
    assert build.stale({k: v for k, v in known.items() if k != "closed"}, known) == ["closed is gone"]
    assert build.stale(known | {"more": build.Number(1)}, known) == ["more is new"]


def test_numbers_are_printed_as_they_should(build):
    printed = {
        (0.1234, 2, False): "0.12",
        (0.615, 1, True): "61.5",
        (-0.01, 3, False): "$-$0.010",
        (-1e-9, 3, False): "0.000",
    }
    assert {key: str(build.Number(*key)) for key in printed} == printed
    assert str(build.Number(177600, 0)) == "177,600"
    assert build.Number(0.1714).near(0.1700)
    assert not build.Number(0.1714).near(0.1685)


def test_a_sentence_that_is_no_longer_true_stops_the_build(build, known):
    build.check_claims(known)
    for name, value, sentence in (
        ("ridge.gain.low", -0.01, "every learned router gains"),
        ("shuffled labels.gain.low", 0.02, "negative controls gain nothing"),
        ("cascade.gain", 0.5, "the cascade is below"),
        ("looking.pocket.three.paid.high", 0.02, "looking does not pay"),
    ):
        with pytest.raises(build.PaperError, match=f"no longer true: .*{sentence}"):
            build.check_claims(known | {name: build.Number(value)})


def test_a_missing_or_stale_figure_stops_the_build(build, known, pocket, tmp_path):
    with pytest.raises(build.PaperError, match=r"pareto\.pdf is missing: routerlab run --only 09"):
        build.check_figures(tmp_path)
    for name in build.FIGURES:
        table = "benchmarks/results/newcomers.csv" if name == "newcomers" else pocket.sha256
        (tmp_path / f"{name}.json").write_text(json.dumps({"table": table}))
        (tmp_path / f"{name}.pdf").touch()
        (tmp_path / f"{name}.csv").touch()
    build.check_figures(tmp_path)
    models = [card.id for card in pocket.pool]
    points = {
        "name": models,
        "usd_per_1000": [known[f"{m}.usd"].value for m in models],
        "quality": [known[f"{m}.correct"].value for m in models],
    }
    pd.DataFrame(points).to_csv(tmp_path / "pareto.csv")
    build.check_points(known, tmp_path)
    points["quality"][2] += 0.02
    pd.DataFrame(points).to_csv(tmp_path / "pareto.csv")
    with pytest.raises(build.PaperError, match=r"pareto\.pdf is stale, pocket-math stands elsewhere"):
        build.check_points(known, tmp_path)
    (tmp_path / "call_share.json").write_text(json.dumps({"table": "0" * 64}))
    with pytest.raises(build.PaperError, match=r"call_share\.pdf is stale, it shows the table 000000000000"):
        build.check_figures(tmp_path)


def test_it_builds_without_overfull_lines(build, known, tmp_path):
    if not shutil.which("latexmk"):
        pytest.skip(
            "no LaTeX here: apt-get install latexmk texlive-latex-recommended texlive-latex-extra "
            "texlive-fonts-recommended lmodern"
        )
    figures = root() / "figures"
    if all((figures / f"{name}.pdf").is_file() for name in build.FIGURES):
        build.check_figures(figures)
    else:  # before the first run: empty pages as wide as the figures of a run
        figures = tmp_path / "figures"
        figures.mkdir()
        for name in build.FIGURES:
            Figure(figsize=(5.5, 3.4)).savefig(figures / f"{name}.pdf")
    ranked = [name.removesuffix(".gain") for name in known if name.endswith(".gain") and f"{name}.low" in known]
    ranked = [name for name in ranked if name != "leader"]
    build.write(known, ranked, figures, tmp_path / "build")
    for name in ("paper.tex", "refs.bib"):
        shutil.copy(FOLDER / name, tmp_path / name)
    command = ["latexmk", "-silent", "-pdf", "-halt-on-error", "-interaction=nonstopmode", "-outdir=build", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    log = (tmp_path / "build" / "paper.log").read_text(encoding="latin-1")
    assert done.returncode == 0, log[-3000:]
    assert "Overfull" not in log
    assert "undefined" not in log
    pages = int(re.search(r"Output written on build/paper\.pdf \((\d+) pages", log)[1])
    assert 4 <= pages <= 8


def test_numbers_of_a_finished_run_are_those_of_the_text(build, known):
    done = {name[:2]: one for name, one in book.results(book.folder_of({})).items() if not one.error}
    if not set(build.NOTEBOOKS) <= set(done):
        pytest.skip("no finished run of the notebooks here: make run")
    assert build.stale(build.numbers(done), known) == []
