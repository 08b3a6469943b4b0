"""Rows out of files of any plain format, and files from the web that are what they were."""

import contextlib
import csv
import fnmatch
import gzip
import hashlib
import io
import json
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from routerlab.core.queries import QueryError
from routerlab.core.runs import Run

Row = dict[str, Any]
PICKLES = {".pkl", ".pickle", ".pt", ".bin", ".npy", ".joblib"}
csv.field_size_limit(2**31 - 1)


class SourceError(QueryError):
    """Questions or outcomes that cannot be had; the message says what to fetch, give or convert."""


def read_rows(path: str | Path, inside: str = "*.json*") -> list[Row]:
    """The rows of a JSONL, JSON, CSV, TSV or Parquet file, gzipped or not, or of the files in a zip that match
    `inside`. A JSON file is a list of rows, an object with one list of rows in it, or one row; `_file` names the file.
    """
    path = Path(path)
    refuse_pickle(path)
    with readable(path):
        if path.suffix == ".parquet":
            return [{**row, "_file": path.stem} for row in pq.read_table(path).to_pylist()]
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                names = [n for n in archive.namelist() if fnmatch.fnmatch(n, inside)]
                return [row for n in sorted(names) for row in _rows(Path(n), archive.read(n))]
        return list(_rows(path, path.read_bytes()))


@contextlib.contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turn what the reader of a format raises for a damaged file, or one of another format, into a SourceError."""
    if not Path(path).is_file():
        raise SourceError(f"no file at {path}; give the path of a JSONL, JSON, CSV or Parquet file")
    try:
        yield
    except SourceError:
        raise
    except (ValueError, EOFError, csv.Error, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as e:
        why = " ".join(str(e).split()) or type(e).__name__
        raise SourceError(f"{path} cannot be read ({why}); is it whole, in UTF-8, and what its name says?") from e


def refuse_pickle(path: Path) -> None:
    if path.suffixes and (path.suffix in PICKLES or (path.suffix == ".gz" and PICKLES & {*path.suffixes})):
        raise SourceError(
            f"{path} may be a pickle, which runs code when it is opened; where you trust it, convert it once: "
            f"python -c \"import pandas; pandas.read_pickle('{path}').to_parquet('{path.with_suffix('.parquet')}')\""
        )


def _rows(path: Path, content: bytes) -> Iterator[Row]:
    if path.suffix == ".gz":
        path, content = path.with_suffix(""), gzip.decompress(content)
    text = content.decode("utf-8-sig")
    rows: Any
    match path.suffix:
        case ".csv" | ".tsv":
            rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
            if twice := [name for name, count in Counter(rows.fieldnames or ()).items() if count > 1]:
                raise SourceError(f"{path}: the header names {', '.join(sorted(twice))} twice; rename one of them")
        case ".jsonl" | ".ndjson":
            rows = (_parse(path, n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip())
        case ".json":
            rows = _parse(path, 1, text)
            if isinstance(rows, dict):
                lists = [v for v in rows.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
                rows = lists[0] if len(lists) == 1 else [rows]
            elif not isinstance(rows, list):
                raise SourceError(f"{path} is {rows!r:.60}, not rows; make it a list of objects")
        case _:
            raise SourceError(f"{path} is no JSONL, JSON, CSV, TSV, Parquet or zip file; convert it to one")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise SourceError(f"{path}: row {number} is {row!r:.60}, not named columns; make each row an object")
        if None in row or (isinstance(rows, csv.DictReader) and None in row.values()):
            raise SourceError(
                f"{path}: row {number} has {'more' if None in row else 'fewer'} fields than the header names; put "
                f"quotes around a field with a {'tab' if path.suffix == '.tsv' else 'comma'} in it, or drop the row"
            )
        yield {**row, "_file": path.stem}


def _parse(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else error
        raise SourceError(f"{path}: line {line} is not JSON ({why}); repair or drop it") from error


def named(url: str) -> str:
    """The file name of a URL; the archive of a commit has none of its own."""
    name = url.rpartition("/")[2]
    return name if "." in name else f"{name}.zip"


def fetch(url: str, digest: str | None = None) -> Path:
    """Download a file once into data/runs/downloads; a known SHA-256 is checked before it is kept."""
    if not url.startswith("https://"):
        raise SourceError(f"{url} is not fetched: give an https address, or a folder with the file")
    run = Run("downloads")
    name = f"{url.removeprefix('https://').rpartition('/')[0]}/{named(url)}"
    if name not in run.manifest():
        try:
            with urllib.request.urlopen(url, timeout=60) as reply:
                content = reply.read()
        except OSError as error:
            raise SourceError(
                f"could not fetch {url} ({error}); fetch it where there is a network, put it into a folder, and give "
                f"folder="
            ) from error
        if digest and (actual := hashlib.sha256(content).hexdigest()) != digest:
            raise SourceError(
                f"{url} is not the file it was: SHA-256 {actual[:12]}…, expected {digest[:12]}…; it was not kept. Look "
                f"at what changed, then give the file with folder="
            )
        run.write(name, content)
    return run.path(name)
