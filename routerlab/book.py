"""The book: execute the numbered notebooks without a browser; tidy them, so that a fresh run gives the same bytes."""

import hashlib
import json
import os
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from routerlab.core.runs import root, sha256, write_atomic

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
    """The outcome of one notebook: seconds, the error that stopped it (if any), and what it recorded.

    `key` is a hash of what the result depends on, `files` are the names of the figures that it drew, `copy` is the
    SHA-256 of the executed copy, and `values` holds the numbers, short texts and small tables of its variables.
    """

    name: str
    seconds: float
    error: str = ""
    key: str = ""
    copy: str = ""
    files: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)


def notebooks(only: Iterable[str] = ()) -> list[Path]:
    """The numbered notebooks in order; `only` picks by number (`00`) or by name."""
    if not (every := sorted((root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))):
        raise BookError(f"no notebooks in {root() / 'notebooks'}; set ROUTERLAB_HOME to a clone of the project")
    known = {key: path for path in every for key in (path.stem[:2], path.stem, path.name)}
    wanted = [key.strip() for key in only if key.strip()]
    if unknown := [key for key in wanted if key not in known]:
        raise BookError(f"no notebook {', '.join(unknown)}; there are {', '.join(p.stem for p in every)}")
    return sorted({known[key] for key in wanted}) if wanted else every


def parameters(path: Path) -> dict[str, str]:
    """The parameters a notebook declares, with the help behind each."""
    import papermill

    return {name: declared["help"] for name, declared in papermill.inspect_notebook(str(path)).items()}


def declaring(paths: Sequence[Path], values: Iterable[str]) -> dict[Path, dict[str, str]]:
    """The parameters of each notebook; a name in `values` that none of them declares is refused."""
    declared = {path: parameters(path) for path in paths}
    for name in values:
        if not any(name in known for known in declared.values()):
            have = [f"{p.stem}: {', '.join(known) or 'none'}" for p, known in declared.items()]
            raise BookError(f"no notebook declares parameter {name!r} ({'; '.join(have)})")
    return declared


def folder_of(values: Mapping[str, Any]) -> Path:
    """Where a run with these parameters leaves its results: data/runs/book, or a folder beside it that is named after
    the parameters, so that a run with others overwrites nothing.
    """
    name = "-".join(["book", *(f"{name}-{value}" for name, value in values.items() if (name, value) != _DEFAULT)])
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    return root() / "data" / "runs" / (plain if len(plain) <= 100 else f"book-{_hash(name)[:12]}")


_DEFAULT = ("profile", "pocket")
EVERY_S = 10.0  # between two lines about what is running


def results(folder: Path) -> dict[str, Done]:
    """What a run recorded of each notebook, from its result.json; nothing where there is none."""
    try:
        recorded = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return {name: Done(name, **about) for name, about in recorded.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise BookError(f"{folder / 'result.json'} is damaged ({error}); remove it and run again") from error


def run(
    paths: Sequence[Path],
    values: dict[str, Any],
    *,
    own: Mapping[str, Mapping[str, Any]] | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] = print,
    fresh: bool = False,
    jobs: int = 1,
    timeout_s: float = 3600.0,
) -> list[Done]:
    """Execute notebooks, each in a fresh kernel; a notebook that fails does not stop the rest. What is finished is
    recorded at once, so that a run that was killed goes on with the notebooks that it did not finish.

    Args:
        paths: the notebooks.
        values: parameters; each notebook gets those it declares, and at least one must declare each.
        own: what single notebooks get in place of these, by number.
        folder: where the executed copies and result.json go; by default `folder_of(values)`.
        say: takes progress lines: the start and the end of each notebook, and every 10 s those that are running.
        fresh: execute also what is finished and unchanged.
        jobs: notebooks executed at once; none of them needs another one's results.
        timeout_s: the most seconds for each notebook; a cell that is running then is stopped, which is a failure.
    """
    declared = declaring(paths, values)
    home, folder = folder_of(values), folder or folder_of(values)
    # Figures of other parameters go into the run's folder; those of the default run are what figures/ is for.
    figures = root() / "figures" if home == folder_of({}) else folder / "figures"
    recorded, state = results(folder), _state(values)
    which = {path: f"[{number}/{len(paths)}] {path.stem}" for number, path in enumerate(paths, 1)}
    todo, finished, running = queue.SimpleQueue(), queue.SimpleQueue(), {}
    waiting, outcomes = 0, {}
    for path in paths:
        given = {**values, **(own or {}).get(path.stem[:2], {})}
        given = {name: value for name, value in given.items() if name in declared[path]}
        key = _hash(state, given, [(cell.cell_type, cell.source) for cell in nbformat.read(path, 4).cells])
        before = recorded.get(path.stem)
        if not fresh and before and before.key == key and _still_there(before, folder / path.name, figures):
            say(f"{which[path]} unchanged since its last run (--fresh runs it again)")
            outcomes[path] = before
        else:
            todo.put((path, given, key))
            waiting += 1

    def work() -> None:
        while not todo.empty():
            try:
                path, given, key = todo.get_nowait()
            except queue.Empty:
                return
            running[path] = time.monotonic()
            say(f"{which[path]} …")
            try:
                finished.put((path, _run_one(path, folder / path.name, given, key, figures, timeout_s)))
            except BaseException as error:  # raised again where the results are awaited
                finished.put((path, error))

    os.environ.update(_ENVIRONMENT | dict(os.environ))
    backend = os.environ.pop("MPLBACKEND", None)  # with another than the kernel's own, notebooks have no pictures
    os.environ["ROUTERLAB_FIGURES"] = str(figures)  # kernels inherit it; figures.export reads it
    for _ in range(min(jobs, waiting)):
        threading.Thread(target=work, daemon=True).start()
    while waiting:
        try:
            path, result = finished.get(timeout=EVERY_S)
        except queue.Empty:
            for path, started in list(running.items()):
                say(f"{which[path]} … {time.monotonic() - started:.0f} s")
            continue
        if isinstance(result, BaseException):
            raise result
        waiting -= 1
        del running[path]
        outcomes[path] = recorded[path.stem] = result
        about = {name: asdict(done) for name, done in sorted(recorded.items())}
        text = json.dumps({name: {k: v for k, v in a.items() if k != "name"} for name, a in about.items()}, indent=1)
        write_atomic(folder / "result.json", lambda temporary, text=text: temporary.write_text(text + "\n"))
        say(f"{which[path]} {'FAILED' if result.error else 'ok'} {result.seconds:.1f} s")
    os.environ.pop("ROUTERLAB_FIGURES")
    os.environ.update({} if backend is None else {"MPLBACKEND": backend})
    return [outcomes[path] for path in paths]


def _hash(*what: Any) -> str:
    return hashlib.sha256(json.dumps(what, default=str, sort_keys=True).encode()).hexdigest()


def _state(values: Mapping[str, Any]) -> str:
    """A hash of the package, of the data that comes with it, and of the recorded table that the parameters name."""
    home = root()
    folders = [home / "routerlab", home / "benchmarks" / "results", *(home / "data").glob("*/")]
    files = [f for each in folders if each.name != "runs" for f in sorted(each.rglob("*")) if f.is_file()]
    files += [home / "data" / "runs" / str(values.get("table", "")) / "manifest.json"]
    return _hash([(str(f), sha256(f)) for f in files if f.is_file() and "__pycache__" not in f.parts])


def _still_there(done: Done, executed: Path, figures: Path) -> bool:
    drawn = all((figures / name).is_file() for name in done.files)
    return not done.error and drawn and executed.is_file() and sha256(executed) == done.copy


def _run_one(path: Path, output: Path, given: dict[str, Any], key: str, figures: Path, timeout_s: float) -> Done:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    began, started, error = time.time(), time.monotonic(), ""
    # Papermill saves after every cell and not atomically, so it writes beside the file that is put in place at the end.
    partial = output.with_name(f".{output.stem}.running.ipynb")
    partial.parent.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(_LAST_CELL, metadata={"tags": ["recorded-values"]}))
    try:
        papermill.execute_notebook(
            notebook,
            str(partial),
            given,
            kernel_name="python3",
            progress_bar=False,
            log_output=False,
            # For the kernel alone: papermill's `cwd` moves the whole process, in which other notebooks run, too.
            resources={"metadata": {"path": str(path.parent)}},
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            timeout_func=lambda _: max(1, int(started + timeout_s - time.monotonic())),
        )
    except PapermillExecutionError as failed:
        error = f"{path.name}, cell {failed.cell_index + 1} (In [{failed.exec_count}]): {failed.ename}: {failed.evalue}"
    except CellTimeoutError:
        error = f"{path.name}: not finished within {timeout_s:g} s; raise --timeout"
    except DeadKernelError:
        error = f"{path.name}: its kernel died, perhaps for want of memory; run it alone with --only"
    executed, recorded = nbformat.read(partial, 4), {}
    last = executed.cells.pop()
    executed.metadata.papermill["input_path"] = str(path)  # in place of the whole notebook, which papermill was given
    if not error:
        recorded = json.loads("".join(out.text for out in last.outputs if out.get("name") == "stdout"))
    write_atomic(output, lambda temporary: nbformat.write(executed, str(temporary)))
    partial.unlink()
    named = re.findall(r'export\(\w+, "(\w+)"', "".join(cell.source for cell in notebook.cells))
    drawn = [path for path in (figures / f"{name}.pdf" for name in named) if path.is_file()]
    drawn = [path.name for path in drawn if path.stat().st_mtime >= began - 1]
    return Done(path.stem, time.monotonic() - started, error, key, sha256(output), drawn, recorded)


_LAST_CELL = "from routerlab.figures.values import values_of\nprint(values_of(globals()))"


def update(executed: Path, notebook: Path) -> None:
    """Replace a notebook by its executed copy, tidied."""
    write_atomic(notebook, lambda temporary: shutil.copyfile(executed, temporary))
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
        cell.execution_count = None if cell.execution_count is None else count
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
