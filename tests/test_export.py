"""What a paper needs of a figure and a table: width, type, origin, the same bytes each time."""

import hashlib
import json
import re
import shutil
import subprocess
import zlib

import matplotlib as mpl
import matplotlib.pyplot as plt
import matplotlib.text
import numpy as np
import pandas as pd
import pytest

from routerlab.core.runs import root
from routerlab.figures import export, plots
from routerlab.figures.style import COLOURS, style, use_style


def _pdf(path) -> bytes:
    """The objects of a PDF with its streams unpacked."""
    raw = path.read_bytes()
    found = [raw]
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", raw, re.S):
        try:
            found.append(zlib.decompress(stream))
        except zlib.error:
            continue
    return b"\n".join(found)


def _drawn(venue, column="one"):
    with style(venue, column):
        figure, axes = plt.subplots(layout="constrained")
        axes.plot([1, 2], [1, 2])
        axes.set(xlabel="λ × cost (US$)", ylabel=r"$\alpha$ of it", title="a claim")
    return figure


@pytest.mark.parametrize(
    ("venue", "column", "points"),
    [
        ("neurips", "one", 396),
        ("iclr", "one", 396),
        ("jmlr", "one", 432),
        ("icml", "one", 234),
        ("icml", "all", 486),
        ("aaai", "one", 237.6),
    ],
)
def test_a_pdf_is_as_wide_as_the_venue_and_embeds_its_type(tmp_path, venue, column, points):
    figure = _drawn(venue, column)
    made = export.export(figure, "x", pd.DataFrame({"x": [1]}), {}, tmp_path)
    text = _pdf(made[0])
    box = re.search(rb"/MediaBox \[ *([\d. ]+)\]", text)
    assert box
    assert float(box[1].split()[2]) == pytest.approx(points, abs=1e-3)
    assert b"/Type3" not in text
    embedded = len(set(re.findall(rb"/FontFile2 (\d+) 0 R", text)))
    assert embedded == len(set(re.findall(rb"/FontName /(\S+)", text))) > 0
    assert b"STIXGeneral" in text
    assert b"DejaVu" not in text, "every sign is in the type of the paper"
    sizes = [t.get_fontsize() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]
    assert min(sizes) >= 6


def test_a_style_ends_with_its_block_and_an_unknown_venue_names_the_known():
    before = mpl.rcParams["figure.figsize"]
    with style("icml", ratio=0.5):
        assert list(mpl.rcParams["figure.figsize"]) == [3.25, 1.625]
        assert mpl.rcParams["text.usetex"] is False
        assert mpl.rcParams["axes.prop_cycle"].by_key()["color"] == list(COLOURS)
    assert mpl.rcParams["figure.figsize"] == before
    with pytest.raises(ValueError, match=r"'nips' is not a known venue \(.*icml.*neurips.*\)"):
        style("nips")
    with style(), style("house", ratio=0.5):
        assert list(mpl.rcParams["figure.figsize"]) == [7.0, 3.5]
        assert mpl.rcParams["font.family"] == ["DejaVu Sans"]
    with pytest.raises(ValueError, match="'one' or 'all', not 'half'"):
        style("icml", "half")


def test_a_style_set_once_reaches_every_later_figure():
    shares = pd.DataFrame({"hard": [0.5, 0.25], "simple": [0.5, 0.75]})
    with mpl.rc_context():
        use_style("icml")
        drawn = [plots.bands("x", shares), plots.costs("x", shares), plots.call_share("x", shares.set_axis([1.0, 2.0]))]
    assert [figure.get_size_inches()[0] for figure in drawn] == [3.25] * 3
    assert plots.bands("x", shares).get_size_inches()[0] == 5.5, "the column of the usual venue"
    assert {t.get_fontfamily()[0] for t in drawn[0].findobj(matplotlib.text.Text)} == {"STIXGeneral"}


def test_a_paper_figure_is_the_same_bytes_twice_and_says_where_it_came_from(tmp_path):
    data, hashes = pd.DataFrame({"x": [1 / 3]}), []
    for folder in ("one", "two"):
        to = tmp_path / folder
        made = export.export(_drawn("icml"), "x", data, {"lam": 0.5}, to)
        hashes.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in made])
    assert hashes[0] == hashes[1]
    assert made[3].read_text() == "x\n0.333333\n"
    origin = json.loads(made[4].read_text())
    assert origin.pop("code").startswith("routerlab ")
    assert origin == {"lam": 0.5}


MEAN = pd.DataFrame(
    {"quality": [0.5, 0.75, 0.74], "usd": [2.0, np.nan, 1.0]},
    index=pd.Index(["a_b", "50% & λ", "c"], name="router"),
)


def test_a_table_has_means_half_intervals_the_best_bold_and_its_equals_underlined():
    alike = pd.DataFrame({"quality": [0.01, 1.0, 0.3], "usd": [0.0, 0.0, 1.0]}, MEAN.index)
    table = export.latex_table(
        MEAN,
        MEAN - 0.1,
        MEAN + 0.3,
        alike=alike,
        smaller=["usd"],
        digits={"quality": 2, "usd": 1},
    )
    assert table == (
        r"""\begin{tabular}{lrr}
\toprule
router & quality & usd \\
\midrule
a\_b & $0.50 \pm 0.20$ & $2.0 \pm 0.2$ \\
50\% \& $\lambda$ & $\mathbf{0.75} \pm 0.20$ & -- \\
c & $\underline{0.74} \pm 0.20$ & $\mathbf{1.0} \pm 0.2$ \\
\bottomrule
\end{tabular}
"""
    )


def test_a_table_with_booleans_and_words():
    mean = MEAN.loc[["a_b", "c"], ["quality"]].assign(kind=["x^2", r"\y{~}"])
    alike = pd.DataFrame({"quality": [True, True]}, mean.index)
    numbers = mean[["quality"]]
    table = export.latex_table(mean, numbers - 0.1, numbers + 0.3, alike=alike, digits=1)
    assert table.splitlines()[4:6] == [
        r"a\_b & $\underline{0.5} \pm 0.2$ & x\textasciicircum{}2 \\",
        r"c & $\mathbf{0.7} \pm 0.2$ & \textbackslash{}y\{\textasciitilde{}\} \\",
    ]
    assert table.startswith(r"\begin{tabular}{lrl}")
    assert r"c & $\mathbf{0.740}$ \\" in export.latex_table(numbers)


def test_p_values_count_from_a_twentieth_up():
    mean = pd.DataFrame({"q": [0.5, 0.4, 0.4]}, index=["a", "b", "c"])
    alike = pd.DataFrame({"q": [1.0, 0.05, 0.0499]}, index=mean.index)
    lines = export.latex_table(mean, alike=alike).splitlines()
    assert [line.split("$")[1] for line in lines[4:7]] == [r"\mathbf{0.500}", r"\underline{0.400}", "0.400"]


def test_a_column_may_be_named_like_the_index():
    frame = pd.DataFrame({"router": [0.5], "q": [0.5]}, index=pd.Index(["a"], name="router"))
    assert r"router & router & q \\" in export.latex_table(frame)


def test_equal_bests_are_all_bold():
    frame = pd.DataFrame({"q": [0.5, 0.5]}, index=["a", "b"])
    assert export.latex_table(frame).count(r"\mathbf") == 2


def test_figures_of_other_parameters_go_where_the_run_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTERLAB_FIGURES", str(tmp_path / "other"))
    made = export.export(_drawn("icml"), "x", pd.DataFrame({"x": [1]}), {})
    assert {path.parent for path in made} == {tmp_path / "other"}
    monkeypatch.delenv("ROUTERLAB_FIGURES")
    assert export.folder_of_figures() == root() / "figures"


def test_a_table_of_six_columns_fits_a_column_of_396_points(tmp_path):
    if not (latex := shutil.which("pdflatex")):
        pytest.skip("no pdflatex; Debian: apt-get install texlive-latex-recommended")
    names = ["area", "gain", "AIQ", "saving", "frugal", "best"]
    mean = pd.DataFrame(-68.3, index=["family lookup (told)", "predicted category"], columns=names)
    table = export.latex_table(mean, mean - 1.9, mean + 1.9, alike=mean < 0, digits=1, compact=True)
    body = rf"\sbox0{{{table}}}\typeout{{WIDTH \the\wd0}}"
    head = r"\documentclass{article}\usepackage{booktabs,times}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{head}{body}\\end{{document}}")
    said = subprocess.run([latex, "-interaction=batchmode", "t"], cwd=tmp_path, capture_output=True, text=True)
    width = re.search(r"WIDTH ([\d.]+)pt", (tmp_path / "t.log").read_text())
    assert width, said.stdout
    assert float(width[1]) <= 5.5 * 72.27
