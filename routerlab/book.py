"""The book: execute the numbered notebooks without a browser; tidy them, so that a fresh run gives the same bytes."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routerlab.core.runs import root, write_atomic

# Waiting threads must not spin (generation was six times slower), and progress bars belong in terminals.
_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}


class BookError(RuntimeError):
    """A missing notebook, a parameter that no notebook declares, or a file that is not a notebook."""


@dataclass(frozen=True)
class Done:
    """The outcome of one notebook: seconds, and the error that stopped it, if any."""

    name: str
    seconds: float
    error: str = ""


def notebooks(only: Iterable[str] = ()) -> list[Path]:
    """The numbered notebooks in order; `only` picks by number (`00`) or by name."""
    every = sorted((root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    known = {key: path for path in every for key in (path.stem[:2], path.stem, path.name)}
    wanted = [key.strip() for key in only if key.strip()]
    if unknown := [key for key in wanted if key not in known]:
        raise BookError(f"no notebook {', '.join(unknown)}; there are {', '.join(p.stem for p in every)}")
    return sorted({known[key] for key in wanted}) if wanted else every


def literal(text: str) -> Any:
    """The value of a parameter given as text: a YAML scalar (`3`, `0.5`, `true`) or the text itself."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, bool | int | float) else text


def parameters(path: Path) -> dict[str, str]:
    """The parameters a notebook declares, with the help behind each."""
    import papermill

    return {name: declared["help"] for name, declared in papermill.inspect_notebook(str(path)).items()}


def run(
    paths: Sequence[Path],
    values: dict[str, Any],
    *,
    folder: Path | None = None,
    say: Callable[[str], None] = print,
) -> list[Done]:
    """Execute notebooks one after the other, each in a fresh kernel; a notebook that fails does not stop the rest.

    Args:
        paths: the notebooks.
        values: parameters; each notebook gets those it declares, and at least one must declare each.
        folder: where the executed copies go; by default data/runs/book.
        say: takes progress lines.
    """
    declared = {path: parameters(path) for path in paths}
    for name in values:
        if not any(name in known for known in declared.values()):
            have = [f"{p.stem}: {', '.join(known) or 'none'}" for p, known in declared.items()]
            raise BookError(f"no notebook declares parameter {name!r} ({'; '.join(have)})")
    folder = folder or root() / "data" / "runs" / "book"
    results = []
    for number, path in enumerate(paths, 1):
        which = f"[{number}/{len(paths)}] {path.stem}"
        say(f"{which} …")
        own = {name: value for name, value in values.items() if name in declared[path]}
        result = _run_one(path, folder / path.name, own)
        say(f"{which} {'FAILED' if result.error else 'ok'} {result.seconds:.1f} s")
        results.append(result)
    return results


def _run_one(path: Path, output: Path, values: dict[str, Any]) -> Done:
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    started, error = time.monotonic(), ""
    # Papermill saves after every cell and not atomically, so it writes beside the file that is put in place at the end.
    partial = output.with_name(f".{output.stem}.running.ipynb")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(path),
            str(partial),
            values,
            kernel_name="python3",
            progress_bar=False,
            log_output=False,
            cwd=str(path.parent),
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
    except PapermillExecutionError as failed:
        error = f"{path.name}, cell {failed.cell_index + 1} (In [{failed.exec_count}]): {failed.ename}: {failed.evalue}"
    if partial.exists():
        executed = nbformat.read(partial, 4)
        write_atomic(output, lambda temporary: nbformat.write(executed, str(temporary)))
        partial.unlink()
    return Done(path.stem, time.monotonic() - started, error)


def summary(done: Sequence[Done]) -> str:
    """A table of notebooks, seconds and results."""
    width = max((len(d.name) for d in done), default=8)
    lines = [f"{'notebook':{width}}  {'seconds':>7}  result"]
    lines += [f"{d.name:{width}}  {d.seconds:7.1f}  {d.error or 'ok'}" for d in done]
    return "\n".join(lines)


def update(executed: Path, notebook: Path) -> None:
    """Replace a notebook by its executed copy, tidied."""
    import nbformat

    copy = nbformat.read(executed, 4)
    write_atomic(notebook, lambda temporary: nbformat.write(copy, str(temporary)))
    tidy(notebook)


def _joined(outputs: Iterable[Any]) -> list[Any]:
    """The outputs with consecutive pieces of one stream joined: how Jupyter cuts printed text depends on timing."""
    out: list[Any] = []
    for output in outputs:
        if output.output_type == "stream" and out and out[-1].get("name") == output.name:
            out[-1].text += output.text
        else:
            out.append(output)
    return out


def tidy(path: Path, write: bool = True) -> bool:
    """Drop from a notebook what differs from run to run: stderr, timings, widget state, injected cells.

    Returns True if that changes the file; with `write=False` it is left as it is.
    """
    import nbformat

    try:
        before = path.read_text(encoding="utf-8")
        book = nbformat.reads(before, 4)
    except (ValueError, AttributeError, nbformat.ValidationError) as error:
        raise BookError(f"{path} is not a notebook; name files that end in .ipynb") from error
    book.metadata = nbformat.NotebookNode({k: v for k, v in book.metadata.items() if k == "kernelspec"})
    book.cells = [c for c in book.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    count = 0
    for cell in book.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.NotebookNode({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        count += bool(cell.source.strip())
        ran = cell.execution_count is not None
        cell.execution_count = count if ran else None
        cell.outputs = _joined(o for o in cell.outputs if o.get("name") != "stderr")
        for output in cell.outputs:
            output.pop("transient", None)
            # A live widget has a random id; the picture or table beside it is kept.
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            if "metadata" in output:
                output.metadata = nbformat.NotebookNode()
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
    after = nbformat.writes(book) + "\n"
    if write and after != before:
        write_atomic(path, lambda temporary: temporary.write_text(after, encoding="utf-8"))
    return after != before
