"""Where files lie: absolute paths of the project, and `Run`, a folder whose every file is written whole and hashed."""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class RunError(RuntimeError):
    """A file of a run that is missing, altered or cannot be written; the message says what to do."""


def root() -> Path:
    """The project's folder; notebooks, papermill and nbval all run elsewhere, so every path starts here."""
    home = Path(os.environ.get("ROUTERLAB_HOME") or Path(__file__).resolve().parents[2])
    if not (home / "data" / "pools").is_dir():
        raise RunError(
            f"no data/pools in {home}; install with `pip install -e .` in a clone, or set ROUTERLAB_HOME to one"
        )
    return home


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write(temporary)` make a file beside `path`, then put it in place: readers see the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8; what cannot be read is refused by its name."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); repair it") from error


def read_json(
    path: str | Path,
    what: str = "an object in JSON",
    cure: str = "restore it, or make it again",
    fits: Callable[[dict[str, Any]], object] = lambda held: True,
) -> dict[str, Any]:
    """The object in a JSON file. What is damaged, or something else, is refused in one line.

    Args:
        path: the file.
        what: the file should be, for the message.
        cure: what to do about another one.
        fits: whether an object is of the form that is read; it may raise what a wrong type raises.
    """
    text = read_text(path)
    try:
        held = json.loads(text)
        if not isinstance(held, dict) or not fits(held):
            raise ValueError("it holds something else")
        return held
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = {RecursionError: "it is nested too deep", KeyError: f"it lacks {error}"}.get(type(error), error)
        raise RunError(f"{path} is not {what} ({why}); {cure}") from error


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_manifest(held: dict[str, Any]) -> bool:
    return [*held] == ["files"] and all(isinstance(file["sha256"], str) for file in held["files"].values())


class Run:
    """A folder of artefacts with `manifest.json`: the SHA-256 and size of every file written through it.

    `Run("demo")` is `data/runs/demo`; a path opens any other folder. Reading checks the hash, so a file that was
    changed behind the run's back is refused instead of believed.
    """

    def __init__(self, name: str | Path) -> None:
        if name == "pocket":
            raise RunError("'pocket' names the embedded table; give the run another name")
        own = Path(name).name  # empty for "." and "/"
        if own in {"", ".."} or str(name).startswith("~") or {*own} & {*'<>"|?*'} or not own.isprintable():
            raise RunError(f"{str(name)!r} is no name for a run; give it a name of its own, or the path of a folder")
        plain = isinstance(name, str) and not {*name} & {*"/\\"}
        self.folder = root() / "data" / "runs" / name if plain else Path(name).resolve()
        self.name = self.folder.name

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {len(self.manifest())} files)"

    def manifest(self) -> dict[str, dict]:
        """What each file should be: {name: {"bytes": int, "sha256": str}}."""
        path = self.folder / "manifest.json"
        if not path.is_file():
            return {}
        return read_json(path, "a manifest of a run", "restore it, or write to another folder", _is_manifest)["files"]

    def write(self, name: str, content: bytes | str | Callable[[Path], object]) -> Path:
        """Write one file (bytes, text, or a function that writes to the path it is given) and record its hash."""
        path = self._inside(name)
        self.manifest()  # of something else is refused before anything is written
        data = content.encode() if isinstance(content, str) else content
        write_atomic(path, data if callable(data) else lambda temporary: temporary.write_bytes(data))
        with self._locked():
            files = self.manifest() | {name: {"bytes": path.stat().st_size, "sha256": sha256(path)}}
            text = json.dumps({"files": dict(sorted(files.items()))}, indent=1) + "\n"
            write_atomic(self.folder / "manifest.json", lambda temporary: temporary.write_text(text))
        return path

    def write_table(self, name: str, table: pa.Table, **options) -> Path:
        """Write an Arrow table as Parquet (zstd)."""
        settings = {"compression": "zstd", "compression_level": 19, **options}
        return self.write(name, lambda path: pq.write_table(table, path, **settings))

    def path(self, name: str) -> Path:
        """The path of a file whose content still matches its hash; anything else is refused."""
        path, known = self._inside(name), self.manifest()
        if name not in known:
            have = ", ".join(known) or "nothing"
            raise RunError(f"{name!r} is not in run {self.name!r}, which has {have}; write it first")
        if not path.is_file():
            raise RunError(f"{path} is gone though the manifest names it; restore it or write the run again")
        found, expected = sha256(path), known[name]["sha256"]
        if found != expected:
            raise RunError(
                f"{path} was changed: SHA-256 {found[:12]}…, manifest {expected[:12]}…; restore it or write it again"
            )
        return path

    def _inside(self, name: str) -> Path:
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder) or name in {"", "manifest.json"}:
            raise RunError(f"{name!r} is not a name inside run {self.name!r}; use a relative path without '..'")
        return path

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
