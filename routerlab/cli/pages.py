"""The executed notebooks as pages for a browser: one file for each, pictures inside, and a page of contents.

Nothing in them is fetched from a network, and no line of code is cut off: long lines wrap.
"""

import html
import io
import re
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Template
from pygments.formatters import HtmlFormatter

from routerlab.book import Done
from routerlab.core.runs import write_atomic


def write(folder: Path, done: Mapping[str, Done]) -> Path:
    """Write the executed notebooks of a run as folder/html and return the page of contents."""
    books = {path.stem: nbformat.read(path, 4) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    said = {n: "\n".join(c.source for c in b.cells if c.cell_type == "markdown") for n, b in books.items()}
    titles = {name: title[1] if (title := re.search(r"^# (.+)", said[name], re.M)) else name for name in books}
    page = Template(Path(__file__).with_name("pages.html").read_text(encoding="utf-8"), autoescape=True)
    style = Path(__file__).with_name("pages.css").read_text(encoding="utf-8")
    style += HtmlFormatter(style="default").get_style_defs(".highlight")
    contents, index = {}, folder / "html" / "index.html"
    for name, book in books.items():
        body = _body(book)
        whole = page.render(title=titles[name], style=style, books=titles, at=name, body=body)
        _put(folder / "html" / f"{name}.html", whole)
        about = done.get(name)
        state = "" if about is None else f"{about.seconds:.0f} s" if not about.error else f"failed: {about.error}"
        parts = re.findall(r"^## (.+)", said[name], re.M)
        contents[name] = state, list(zip(re.findall(r'<h2 id="([^"]+)"', body), parts, strict=True))
    _put(index, page.render(title="RouterLab: the notebooks", style=style, books=titles, contents=contents))
    return index


def _put(path: Path, text: str) -> None:
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _body(book: Any) -> str:
    """The cells as HTML. A picture's text for those who cannot see it is the last paragraph before its cell."""
    from nbconvert import HTMLExporter

    said = ""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\$\$(.+?)\$\$", lambda match: _formula(match[1]), cell.source, flags=re.S)
            cell.source = re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](\1.html)", cell.source)
            said = re.sub(r"[*`#$\\]", "", cell.source.strip().rpartition("\n\n")[2]) or said
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)  # it needs a running kernel
            if "image/png" in data:
                output.metadata["image/png"] = {"alt": f"Figure. {said}"[:400]}
    return HTMLExporter(template_name="basic", anchor_link_text="").from_notebook_node(book)[0]


def _formula(tex: str) -> str:
    """A displayed formula as a picture inside the page, with its LaTeX as the description."""
    from matplotlib.mathtext import math_to_image

    picture = io.BytesIO()
    try:
        math_to_image(f"${tex.strip()}$", picture, format="svg")
    except ValueError:
        return f"\n\n    {tex}\n\n"
    data = b64encode(picture.getvalue()).decode()
    return f'\n\n<img alt="{html.escape(tex)}" src="data:image/svg+xml;base64,{data}">\n\n'
