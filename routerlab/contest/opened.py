"""A recorded table as notebooks need it, whatever table it is; and sentences that must hold on the embedded one."""

from pathlib import Path

from routerlab.contest.setup import SPLITS, Say, with_splits
from routerlab.core.recorded import Recorded, recorded


def opened(table: str | Path, say: Say = print, *, complete: bool = True) -> Recorded:
    """A recorded table with its three splits, or, if it lacks one, split as a contest splits it.

    Args: the name of the `table`, as `recorded` takes it; where to `say` what was changed; `complete`: leave out the
    questions that some model did not answer.
    """
    data = recorded(table)
    if complete:
        count, data = len(data.queries), data.complete()
        if len(data.queries) < count:
            say(f"{count - len(data.queries)} of {count} questions that some model did not answer are left out")
    if set(SPLITS) <= {q.split for q in data.queries}:
        return data
    data = with_splits(data, say)
    return data._replace(table=data.table.select([q.id for q in data.queries]))


def claim(table: str | Path, holds: bool, sentence: str) -> None:
    """A sentence about results: on the embedded table it must hold; on another one the reader is told where not."""
    assert holds or str(table) != "pocket", f"no longer true: {sentence}"
    if not holds:
        print(f"not so on this table: {sentence}")
