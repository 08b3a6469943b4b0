"""Recorded tables: a folder with queries, outcomes and a card, such as the embedded `data/pocket`."""

import json
from pathlib import Path
from typing import NamedTuple

from routerlab.outcomes import OutcomeTable
from routerlab.pools import Pool
from routerlab.queries import Query, by_split, read_queries
from routerlab.runs import Run, RunError, root


class Recorded(NamedTuple):
    """A recorded table with its queries, its pool and the card that says how it was made."""

    queries: list[Query]
    pool: Pool
    table: OutcomeTable
    card: dict
    sha256: str  # of the outcomes file

    def split(self, name: str) -> "Recorded":
        """The part of one split: its queries and their outcomes, in the same order."""
        splits = by_split(self.queries)
        if name not in splits:
            raise RunError(f"no split {name!r} in this table; it has {', '.join(splits)}")
        return self._replace(
            queries=splits[name], table=self.table.select([q.id for q in splits[name]])
        )


def recorded(name: str | Path = "pocket") -> Recorded:
    """Open a recorded table: `pocket` (committed), the name of a run in `data/runs`, or a folder.
    Hashes are checked.
    """
    run = Run(root() / "data" / "pocket") if name == "pocket" else Run(name)
    if not (run.folder / "manifest.json").is_file():
        raise RunError(f"no recorded table in {run.folder}; record one there, or use 'pocket'")
    queries = read_queries(run.path("queries.parquet"))
    card = json.loads(run.path("card.json").read_text())
    pool = Pool.load(card["pool"])
    table = OutcomeTable.read(run.path("outcomes.parquet"), pool.ids)
    sha256 = run.manifest()["outcomes.parquet"]["sha256"]
    return Recorded(queries, pool, table.select([q.id for q in queries]), card, sha256)
