"""Pass rates of a reference model, with no more tries than the bands need."""

from collections.abc import Sequence
from dataclasses import replace

from routerlab.collect.ask import Settings
from routerlab.collect.backends import Backend
from routerlab.collect.run import Collected, collect
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.core.runs import Run
from routerlab.label.difficulty import EDGES, ENOUGH, difficulty, needs_more


def pass_rates(
    queries: Sequence[Query],
    pool: Pool,
    backend: Backend,
    run: Run,
    settings: Settings = Settings(temperature=1.0),  # noqa: B008 (frozen)
    *,
    edges: Sequence[float] = EDGES,
    most: int = ENOUGH,
    show: str | None = None,
) -> Collected:
    """Ask the one model of `pool` every question again and again, `most` times at most, each only until the interval
    of its pass rate lies inside one band.

    Resumable like any run: the tries are calls in its ledger. `difficulty(result.table, model)` gives the bands.
    """
    (model,) = pool.ids
    todo, stopped, asked = list(queries), None, 0
    for tries in range(1, most + 1):
        made = collect(todo, pool, backend, run, replace(settings, samples=tries), show=show)
        asked, stopped = asked + made.asked, made.stopped
        if stopped:
            break
        found = difficulty(made.table, model, edges=edges)
        more = needs_more(found["passed"], found["tries"], edges=edges, most=most)
        wanted = set(found.index[more])
        todo = [q for q in todo if q.id in wanted]
        if not todo:
            break
    whole = replace(settings, samples=most)
    made = collect(queries, pool, backend, run, whole, ask_new=False, show="none")
    return replace(made, asked=asked, stopped=stopped)
