"""Widgets beside a plain picture or table: what a page shows that has no kernel."""

import base64
import io
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

VIEW = "application/vnd.jupyter.widget-view+json"


class Shown(ipywidgets.VBox):
    """Widgets in a column. Where they cannot run (a saved notebook, a web page), `plain` stands in their place."""

    def __init__(self, children: list[ipywidgets.Widget], plain: Figure | pd.DataFrame, alt: str) -> None:
        super().__init__(children)
        if isinstance(plain, Figure):
            self.plain = {"text/plain": alt, "image/png": base64.b64encode(png(plain)).decode()}
        else:
            self.plain = {"text/plain": alt, "text/html": table(plain)}

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """What Jupyter stores of a displayed object: the view for a live kernel, and the plain thing for all others."""
        live = super()._repr_mimebundle_() or {}
        return {kind: view for kind, view in live.items() if kind == VIEW} | self.plain


def png(figure: Figure) -> bytes:
    """A figure as PNG; the figure is closed, so that a notebook does not show it a second time."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    plt.close(figure)
    return picture.getvalue()


def table(frame: pd.DataFrame) -> str:
    """A frame as an HTML table; its text is escaped, and dollar signs are not read as formulas."""
    with pd.option_context("display.max_colwidth", 400):
        body = frame.to_html(index=False, escape=True, border=0, na_rep="", float_format="{:.4g}".format)
    return f'<div class="tex2jax_ignore mathjax_ignore" style="white-space: pre-wrap">{body}</div>'
