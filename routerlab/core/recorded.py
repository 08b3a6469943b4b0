"""Recorded tables: a folder with queries, outcomes, a card and perhaps its own pool, such as the
embedded `data/pocket`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import Pool
from routerlab.core.queries import Query, by_split, read_queries, to_arrow
from routerlab.core.runs import Run, RunError, read_json, root


class Recorded(NamedTuple):
    """A recorded table with its queries, its pool and the card that says how it was made."""

    queries: list[Query]
    pool: Pool
    table: OutcomeTable
    card: dict
    sha256: str  # of the outcomes file; empty for a table that is in no file yet

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(part)}" for name, part in by_split(self.queries).items())
        return f"Recorded({sizes}; {self.pool!r}, {self.table!r})"

    def split(self, name: str) -> "Recorded":
        """The part of one split: its queries and their outcomes, in the same order."""
        splits = by_split(self.queries)
        if name not in splits:
            raise RunError(f"no split {name!r} in this table; it has {', '.join(splits)}")
        part = splits[name]
        return self._replace(queries=part, table=self.table.select([q.id for q in part]))

    def priced(self, pool: Pool) -> "Recorded":
        """This table for a pool of the same models with other prices or in another order: what an answer would have
        cost follows from its tokens.
        """
        rows, model = self.table.rows, self.table.places[1]
        counts = [rows[n].to_numpy() for n in ("tokens_in", "tokens_out", "tokens_cached")]
        usd = np.empty(len(rows))
        for place, name in enumerate(self.table.models):
            at = model == place
            usd[at] = np.asarray(pool[name].usd(*(c[at] for c in counts)))
        at = rows.schema.get_field_index("usd")
        rows = rows.set_column(at, rows.schema.field(at), pa.array(usd, rows.schema.field(at).type, from_pandas=True))
        return self._replace(pool=pool, table=OutcomeTable(rows, pool.ids), sha256="")

    def complete(self) -> "Recorded":
        """The queries that every model answered in every try; the pool's order of models. What is missing cannot be
        scored, and counting it as wrong would be a lie.
        """
        held = [~np.isnan(self.table.matrix("quality", k)).any(1) for k in self.table.samples]
        kept = [q for q, every in zip(self.queries, np.all(held, 0), strict=True) if every]
        if not kept:
            raise RunError("no query was answered by every model; choose models that answered more")
        return self._replace(queries=kept, table=self.table.select([q.id for q in kept]))


def recorded(name: str | Path = "pocket") -> Recorded:
    """Open a recorded table: `pocket` (committed), the name of a run in `data/runs`, or a folder.
    Hashes are checked. Its pool is its own `pool.yaml`, or the one of `data/pools` its card names.
    """
    run = Run(root() / "data" / "pocket") if name == "pocket" else Run(name)
    if not (run.folder / "manifest.json").is_file():
        raise RunError(f"no recorded table in {run.folder}; record one there, or use 'pocket'")
    queries = read_queries(run.path("queries.parquet"))
    own = "pool.yaml" in run.manifest()
    card = read_json(run.path("card.json"), "the card of a recorded table", fits=lambda held: _is_card(held, own))
    pool = Pool.load(run.path("pool.yaml") if own else card["pool"])
    table = OutcomeTable.read(run.path("outcomes.parquet"), pool.ids)
    sha256 = run.manifest()["outcomes.parquet"]["sha256"]
    return Recorded(queries, pool, table.select([q.id for q in queries]), card, sha256)


def _is_card(held: Mapping[str, Any], own: bool) -> bool:
    """Whether a card's fields are of the types that are read; without a pool of its own it names one."""
    texts = all(isinstance(held.get(name) or "", str) for name in ("how", "pool", "recorded", "stopped"))
    return texts and isinstance(held.get("settings") or {}, dict) and bool(own or held["pool"])


def refuse_recorded(run: Run, *, but: str = "") -> Run:
    """The run, for a command that makes it anew. One that holds a table, paid calls or served requests is refused, for
    these would be lost; a table whose card says that it was made `but` so may be made again.
    """
    calls = any((run.folder / name).is_file() for name in ("ledger.jsonl", "served.jsonl"))
    table = "outcomes.parquet" in run.manifest()
    if calls or (table and not (but and str(read_json(run.path("card.json")).get("how")).startswith(but))):
        raise RunError(f"{run.folder} holds what was collected; give the run another name")
    return run


def record(
    run: Run | str | Path,
    queries: list[Query],
    pool: Pool,
    table: OutcomeTable,
    card: Mapping[str, Any],
) -> Recorded:
    """Write a table with its queries, its pool and its card, and open what was written. The card
    says at least `how` it was made; `pool` and the number of queries of each split are added.
    """
    run = run if isinstance(run, Run) else Run(run)
    sizes = {name: len(part) for name, part in by_split(queries).items()}
    run.write_table("queries.parquet", to_arrow(queries))
    table.select([q.id for q in queries]).write(run)
    run.write("pool.yaml", pool.to_yaml())
    about = {"pool": pool.name, **card, "queries": sizes}
    run.write("card.json", json.dumps(about, indent=1) + "\n")
    return recorded(run.folder)
