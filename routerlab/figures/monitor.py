"""The training monitor: loss, reward and cost of a training while it runs, read from its metrics.jsonl."""

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from routerlab.figures.labels import titled
from routerlab.figures.style import COLOURS
from routerlab.figures.widgets import Shown

STREAMS = ("loss", "reward", "usd")


def streams(folder: Path | str, names: Sequence[str] = STREAMS) -> pd.DataFrame:
    """What a training has logged so far: `step`, and those of these numbers that it logs. A last line that is being
    written is left out.
    """
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; name the folder that `routerlab train --out` writes to")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line.endswith("}")]
    return pd.DataFrame(lines, columns=["step", *(name for name in names if any(name in line for line in lines))])


def picture(title: str, frame: pd.DataFrame) -> Figure:
    """A panel for each stream over the steps."""
    names = list(frame.columns[1:])
    with titled(title, panels=[0.45] * max(len(names), 1)) as (figure, panels):
        for name, axes in zip(names, [panels] if len(names) < 2 else panels, strict=False):
            line = frame[["step", name]].dropna()
            axes.plot(line["step"], line[name], color=COLOURS[0])
            axes.set(ylabel=name, xlabel="Step" if name == names[-1] else "")
    return figure


def watch(folder: Path | str, every_s: float = 2.0, names: Sequence[str] = STREAMS) -> Shown:
    """The streams of a training in a notebook, read again every few seconds until the widget is closed."""
    import anywidget
    import traitlets

    class Monitor(anywidget.AnyWidget):
        _esm = Path(__file__).with_name("monitor.js")
        streams = traitlets.Dict().tag(sync=True)

    def read() -> dict[str, list[list[float]]]:
        frame = streams(folder, names)
        kept = {name: frame[["step", name]].dropna() for name in frame.columns[1:]}
        return {name: [line[column].tolist() for column in ("step", name)] for name, line in kept.items() if len(line)}

    lines = Monitor(streams=read())
    logged = picture(f"{Path(folder).name}: what it has logged so far", streams(folder, names))

    shown = Shown([lines], logged, "what a training has logged so far")

    def follow() -> None:
        while shown.comm is not None:
            lines.streams = read()
            time.sleep(every_s)

    threading.Thread(target=follow, daemon=True).start()
    return shown
