"""Text on a figure: a title that states a claim, and names that stand beside what they name and cover nothing."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox, offset_copy
from scipy.optimize import isotonic_regression

from routerlab.figures.style import GREY, active_style


class Label(NamedTuple):
    """A text, the points (in data coordinates) it may stand beside, its colour and the marker of what it names."""

    text: str
    at: list[tuple[float, float]]
    colour: str = "black"
    weight: str = "normal"
    marker: str = ""


@contextlib.contextmanager
def titled(title: str, lines: float | None = None, panels: Sequence[float] = (1,)) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes in the active style, below a title that states its claim. Its height is `lines` of text,
    where that follows from what it shows, or that of `panels` one above the other, in heights of a figure; the axes of
    several are given as an array and share the horizontal one.
    """
    with active_style():
        width, height = mpl.rcParams["figure.figsize"]
        height = 1.2 * mpl.rcParams["font.size"] / 72 * lines if lines else height * sum(panels)
        figure = plt.figure(layout="constrained", figsize=(width, height))
        axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=panels)
        claim(figure, title)
        yield figure, axes


def claim(figure: Figure, text: str) -> None:
    """Write the title at the left edge of the figure, broken into lines where it is wider than the figure."""
    size, weight = mpl.rcParams["axes.titlesize"], mpl.rcParams["axes.titleweight"]
    title = figure.suptitle("", x=0.01, ha="left", size=size, weight=weight)
    lines: list[str] = []
    for word in text.split():
        title.set_text(" ".join([*lines[-1:], word]))
        if lines and title.get_window_extent().width < 0.98 * figure.bbox.width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    title.set_text("\n".join(lines))


def beside(figure: Figure, axes: Axes, labels: Sequence[Label], join: bool = True) -> None:
    """Write the labels in a column at the right, each joined to the last of its points; none covers another, however
    close their points are. Without `join` the lines are left out.
    """
    em = _points()
    column = offset_copy(axes.transAxes, figure, x=1.4 * em, units="points")
    arrow = {"lw": 0.5 * join, "alpha": 0.7, "shrinkA": 0.9 * em, "shrinkB": 1, "relpos": (0, 0.5)}
    notes = [_note(axes, label, label.at[-1], column, arrow | {"color": label.colour}) for label in labels]
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    step = max(Text.get_window_extent(note).height for note in notes) + 0.1 * em * figure.dpi / 72
    wanted = axes.transData.transform([label.at[-1] for label in labels])[:, 1]
    order = np.argsort(wanted, kind="stable")
    steps = step * np.arange(len(labels))
    # The heights nearest to the wanted ones (least squares) that stay a step apart.
    fitted = isotonic_regression(wanted[order] - steps).x
    # Whole labels stay within the height of the axes while they can, so that the layout does not move again.
    floor = frame.y0 + step / 2
    roof = max(floor, frame.y1 - step / 2 - steps[-1])
    heights = (np.clip(fitted, floor, roof) + steps - frame.y0) / frame.height
    swatch = offset_copy(axes.transAxes, figure, x=0.8 * em, units="points")
    for number, height in zip(order, heights, strict=True):
        notes[number].set(position=(1, height), va="center")
        look = {"marker": labels[number].marker, "ms": 0.6 * em, "color": labels[number].colour}
        axes.plot([1], [height], transform=swatch, clip_on=False, **look)


def place(figure: Figure, axes: Axes, labels: Sequence[Label]) -> None:
    """Write each label beside one of its points, where it covers least of what is drawn already; a line joins those
    that have to stand further off.
    """
    figure.draw_without_rendering()
    em, pixels = _points(), figure.dpi / 72
    frame, drawn, taken = axes.get_window_extent(), _ink(axes), []
    for label in labels:
        note = _note(axes, label, label.at[0], "offset points", {"color": GREY, "lw": 0.4, "shrinkA": 0, "shrinkB": 3})
        note.set_in_layout(False)
        size = np.array(Text.get_window_extent(note).size)
        best: tuple[float, Any, Any, Bbox, np.ndarray] | None = None
        for point in label.at:
            at = axes.transData.transform(point)
            for far in (0.7, 1.6, 2.6, 4.0):
                for side in _SIDES:
                    corner = at + far * em * pixels * side + (side - 1) / 2 * size
                    box = Bbox([corner, corner + size])
                    nearest = np.clip(at, corner, corner + size)
                    joint = _dense(np.stack([at, nearest])) if far > 1 else np.empty((0, 2))
                    covered = _inside(drawn, box.padded(0.3 * em * pixels)) / pixels
                    grown = box.padded(0.3 * em * pixels)
                    over = sum(grown.overlaps(b) + (_inside(joint, b) > 0) for b in taken)
                    outside = not (frame.contains(*box.min) and frame.contains(*box.max))
                    cost = covered + 400 * over + 200 * outside + 6 * (far - 0.7)
                    if best is None or cost < best[0] - 1e-9:
                        best = cost, point, (corner - at) / pixels, box, joint
        if best:
            _, note.xy, offset, box, joint = best
            note.set_position(tuple(offset))
            assert note.arrow_patch
            note.arrow_patch.set_visible(len(joint) > 0)
            taken.append(box)
            drawn = np.vstack([drawn, joint])


_SIDES = [np.array(s) for s in ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))]


def key(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """A legend below the figure, in as many columns as its width has room for and its rows need."""
    for columns in dict.fromkeys(-(-len(names) // rows) for rows in range(1, len(names) + 1)):
        spacing = {"handlelength": 1.3, "columnspacing": 1.0, "handletextpad": 0.4}
        legend = figure.legend(handles, names, loc="outside lower left", ncols=columns, **spacing)
        if columns == 1 or legend.get_window_extent().width < 0.99 * figure.bbox.width:
            return
        legend.remove()


def _note(axes: Axes, label: Label, at: tuple[float, float], coordinates: Any, line: dict[str, Any]) -> Annotation:
    """The text of a label with a line to `at`; where it stands is for the caller to say, in these coordinates."""
    look = {"color": label.colour, "weight": label.weight, "fontsize": _points(), "zorder": 6}
    look |= {"path_effects": [withStroke(linewidth=2, foreground="white")]}  # readable where it crosses a line
    arrow = {"arrowstyle": "-", **line}
    return axes.annotate(label.text, at, (1, 0.5), textcoords=coordinates, arrowprops=arrow, **look)


def _points() -> float:
    """The size of label text in points."""
    return FontProperties(size=mpl.rcParams["legend.fontsize"]).get_size_in_points()


def _inside(points: np.ndarray, box: Bbox) -> int:
    return int(((points > box.min) & (points < box.max)).all(1).sum())


def _ink(axes: Axes) -> np.ndarray:
    """Points, in pixels and about one pixel apart, of all lines, bars and markers drawn in data coordinates."""
    paths = [np.empty((0, 2))]
    for line in axes.lines:
        if line.get_transform() == axes.transData:
            path = axes.transData.transform(line.get_xydata())
            paths.append(path if line.get_linestyle() == "None" else _dense(path))
            if line.get_marker() not in {"None", ""}:
                half = line.get_markersize() / 2 * axes.figure.dpi / 72
                square = np.stack(np.meshgrid(*[np.linspace(-half, half, 7)] * 2), -1)
                paths.append((path[:, None] + square.reshape(-1, 2)).reshape(-1, 2))
    for bars in axes.collections:
        if isinstance(bars, LineCollection):
            paths += [_dense(axes.transData.transform(s)) for s in bars.get_segments()]
    return np.vstack(paths)


def _dense(path: np.ndarray) -> np.ndarray:
    if len(path) < 2:
        return path
    along = np.r_[0, np.cumsum(np.hypot(*np.diff(path, axis=0).T))]
    grid = np.linspace(0, along[-1], int(along[-1]) + 2)
    return np.stack([np.interp(grid, along, path[:, i]) for i in (0, 1)], 1)
