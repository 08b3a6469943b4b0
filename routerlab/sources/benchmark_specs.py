"""What `data/benchmarks.yaml` declares, and the raw rows behind it: from a folder, the hub or the web.

Nothing is fetched that is not pinned to a commit or a SHA-256, no code of a dataset is run, and no pickle is opened.
Where there is no network, the error says what to fetch and where to put it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from routerlab.core.runs import root
from routerlab.sources import code_rows
from routerlab.sources import rows as row_functions
from routerlab.sources.files import Row, SourceError, fetch, named, read_rows
from routerlab.sources.rows import Asked, plain


@dataclass(frozen=True)
class Benchmark:
    """A declaration of `data/benchmarks.yaml`, which says what each field means."""

    name: str
    verifier: str | list[str]
    licence: str
    hub: str | None = None
    config: str | None = None
    revision: str | None = None
    gated: bool = False
    urls: dict[str, list[str]] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    splits: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    tables: str | None = None
    inside: str = ""
    rows: str | None = None
    question: str | None = None
    answer: str | None = None
    options: str | None = None
    keep: list[str] = field(default_factory=list)

    @property
    def verifiers(self) -> list[str]:
        return [self.verifier] if isinstance(self.verifier, str) else self.verifier

    @property
    def known_splits(self) -> list[str]:
        return list(self.splits or self.urls)

    def theirs(self, split: str) -> Any:
        """The publisher's name of a split, or its files."""
        return self.splits.get(split, split)

    def asked(self, split: str) -> Callable[[Row], Asked | None]:
        if self.question is not None:
            columns = {"question": self.question, "answer": self.answer, "options": self.options}
            return lambda row: plain(row, **columns, keep=[c for c in self.keep if row.get(c)])
        name = self.rows or self.name.replace("-", "_")
        return partial(getattr(row_functions, name, None) or getattr(code_rows, name), split=split)


def benchmarks() -> dict[str, Benchmark]:
    """All declared benchmarks by name."""
    raw = yaml.safe_load((root() / "data" / "benchmarks.yaml").read_text(encoding="utf-8"))
    return {name: Benchmark(name, **fields) for name, fields in raw.items()}


def raw_rows(spec: Benchmark, split: str, folder: str | Path | None = None, revision: str | None = None) -> list[Row]:
    """A split's rows as published: from raw files in `folder`, else fetched at the pinned revision or `revision`."""
    if folder is not None:
        return _from_folder(spec, split, Path(folder))
    revision = revision or spec.revision
    if revision is None and not spec.sha256:
        raise SourceError(
            f"{spec.name} is not pinned: look up a commit at https://huggingface.co/datasets/{spec.hub}/commits/main "
            "and give it as revision=, or give folder= with its files"
        )
    if spec.urls:
        paths = [fetch(u, spec.sha256.get(u.rpartition("/")[2])) for u in _urls(spec, split, revision)]
        return _read(spec, split, paths, fetch(spec.tables.format(revision=revision)) if spec.tables else None)
    return _hub(spec, split, str(revision))


def _hub(spec: Benchmark, split: str, revision: str) -> list[Row]:
    import datasets

    names = spec.theirs(split)
    try:
        if isinstance(names, str):
            return [
                dict(row) for row in datasets.load_dataset(spec.hub or "", spec.config, split=names, revision=revision)
            ]
        kinds = {name: "parquet" if name.endswith(".parquet") else "json" for name in names}
        at = f"hf://datasets/{spec.hub}@{revision}"
        return [
            {**dict(row), "_file": Path(name).stem}
            for name, kind in kinds.items()
            for row in datasets.load_dataset(kind, data_files=f"{at}/{name}", split="train")
        ]
    except Exception as error:  # the hub's clients raise errors of their own, of many kinds
        page = f"https://huggingface.co/datasets/{spec.hub}"
        terms = f"accept its terms at {page} and set HF_TOKEN; or " if spec.gated else ""
        raise SourceError(
            f"could not load {spec.hub} at {revision[:12]} ({type(error).__name__}: {error}); "
            f"{terms}{_cure(spec, split, 'FOLDER')}"
        ) from error


def _urls(spec: Benchmark, split: str, revision: str | None) -> list[str]:
    return [u.format(revision=revision) for u in spec.urls[split]]


def _cure(spec: Benchmark, split: str, folder: str | Path) -> str:
    """How to get the raw files by hand."""
    if spec.urls:
        urls = _urls(spec, split, spec.revision)
        urls += [spec.tables.format(revision=spec.revision)] if spec.tables else []
        gets = " && ".join(f"curl -L --create-dirs -o {folder}/{spec.name}/{named(u)} {u}" for u in urls)
    else:
        pin = f"--revision {spec.revision} " if spec.revision else ""
        gets = f"hf download --repo-type dataset {spec.hub} {pin}--local-dir {folder}/{spec.name}"
    return f"fetch it where there is a network, `{gets}`, and give folder={folder}"


def _from_folder(spec: Benchmark, split: str, folder: Path) -> list[Row]:
    """The first pattern that finds files wins: known raw names, then the layout of a downloaded repository."""
    published = spec.theirs(split)  # the split's name, or its files
    names = [f.format(split=published) for f in spec.files] + [f"{spec.name}_{split}.*"]
    names += [f"{spec.name}.*"] if split == spec.known_splits[0] else []
    names += [named(u) for u in _urls(spec, split, spec.revision)] if spec.urls else []
    groups = [[n] for n in [*names, *(f"{spec.name}/**/{n}" for n in names)]]
    if isinstance(published, list):
        groups = [[f"{spec.name}/{name}" for name in published], [Path(name).name for name in published], *groups]
    else:
        layout = [f"{spec.config}/{published}[-.]*", f"{spec.config}/**/{published}[-.]*"] if spec.config else []
        layout += [spec.inside.format(split=published).lstrip("*/")] if spec.inside and not spec.tables else []
        groups += [[f"{spec.name}/**/{n}"] for n in [*layout, f"{published}[-.]*"]]
    for group in groups:
        if paths := [p for pattern in group for p in sorted(folder.glob(pattern)) if p.is_file()]:
            return _read(spec, split, paths, next(folder.glob("**/tables.zip"), None) if spec.tables else None)
    looked = ", ".join(pattern for group in groups[:4] for pattern in group)
    raise SourceError(f"no {spec.name} ({split}) in {folder}: looked for {looked} etc.; {_cure(spec, split, folder)}")


def _read(spec: Benchmark, split: str, paths: Iterable[Path], tables: Path | None) -> list[Row]:
    inside = spec.inside.format(split=spec.theirs(split)) or "*"
    rows = [row for path in paths for row in read_rows(path, inside)]
    if not spec.tables:
        return rows
    if tables is None:
        raise SourceError(f"{spec.name} also needs tables.zip beside its samples; {_cure(spec, split, 'FOLDER')}")
    table_of = {row["_file"]: row for row in read_rows(tables, inside)}
    if absent := [row["table_id"] for row in rows if str(row["table_id"]) not in table_of]:
        raise SourceError(
            f"{tables} lacks table {absent[0]} (and {len(absent) - 1} more) of {spec.name}; fetch both at one commit"
        )
    return [{**row, "table": table_of[str(row["table_id"])]} for row in rows]
