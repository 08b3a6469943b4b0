"""Query x model matrices of tables too large for memory: built in one pass from Parquet, then memory-mapped."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from routerlab.core.invariants import OutcomeError, codes


def build_dense(
    parquet: str | Path,
    folder: str | Path,
    columns: Sequence[str] = ("quality", "usd"),
    sample: int = 0,
) -> "Dense":
    """Query x model matrices of one sample of a Parquet table of any size, as .npy files that are memory-mapped.

    Reads a row group at a time, so memory stays far below the table's size; the long rows are not kept.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    axes = [_values(parquet, name) for name in ("query", "model")]
    shape = (len(axes[0]), len(axes[1]))
    maps = {c: np.lib.format.open_memmap(folder / f"{c}.npy", "w+", np.float32, shape) for c in columns}
    for array in maps.values():
        array[:] = np.nan
    places = [_Places(axis) for axis in axes]
    for group in _groups(parquet, ["query", "model", "sample", *columns]):
        here = group["sample"].to_numpy() == sample
        rows, cells = (p.of(group[n])[here] for p, n in zip(places, ("query", "model"), strict=True))
        for name, array in maps.items():
            array[rows, cells] = group[name].to_numpy()[here]
    for array in maps.values():
        array.flush()
    names = {n: a.to_pylist() for n, a in zip(("query", "model"), axes, strict=True)}
    (folder / "axes.json").write_text(json.dumps(names))
    return Dense.open(folder)


def _groups(parquet: str | Path, columns: list[str]):
    """The row groups of a file, one at a time, each column in one piece."""
    file = pq.ParquetFile(parquet, read_dictionary=["query", "model"], memory_map=True)
    for number in range(file.num_row_groups):
        yield file.read_row_group(number, columns=columns).unify_dictionaries().combine_chunks()


def _values(parquet: str | Path, column: str) -> pa.Array:
    """The different values of a column in order of appearance. A part of a table keeps the whole one's dictionary, so
    it is rows that count.
    """
    found = pa.array([], pa.string())
    for group in _groups(parquet, [column]):
        here = group[column].combine_chunks().unique().dictionary_decode()
        found = pa.concat_arrays([found, here]).unique()
    return found


class _Places:
    """Where the values of a column stand on an axis; row groups that share a dictionary share the look-up."""

    def __init__(self, axis: pa.Array) -> None:
        self.axis, self.dictionary, self.lookup = axis, None, np.zeros(0, np.int64)

    def of(self, column: pa.ChunkedArray) -> np.ndarray:
        dictionary = column.combine_chunks().dictionary
        if self.dictionary is None or not dictionary.equals(self.dictionary):
            found = pc.call_function("index_in", [dictionary], pc.SetLookupOptions(self.axis))
            self.dictionary, self.lookup = dictionary, found.fill_null(-1).to_numpy()
        return self.lookup[codes(column)]


@dataclass(frozen=True)
class Dense:
    """Memory-mapped query x model matrices (float32, NaN where missing) with their axes."""

    queries: tuple[str, ...]
    models: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def open(cls, folder: str | Path) -> "Dense":
        folder = Path(folder)
        if not (folder / "axes.json").is_file():
            raise OutcomeError(f"no dense matrices in {folder}; make them with build_dense(parquet, folder)")
        axes = json.loads((folder / "axes.json").read_text())
        arrays = {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in sorted(folder.glob("*.npy"))}
        return cls(tuple(axes["query"]), tuple(axes["model"]), arrays)
