"""Pass rates of a reference model, with no more tries than the difficulty bands need."""

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
    """Ask the one model of `pool` every question several times: until the interval of its pass rate lies inside one
    band, and at most `most` times. `difficulty(result.table, model)` gives the bands.

    Resumable like any run: the tries are calls in its ledger.

    Args:
        queries, pool, backend, run, settings, show: as for `collect`; `settings.samples` is not used.
        edges: of the bands.
        most: tries of a question.
    """
    (model,) = pool.ids
    open_, stopped, asked = list(queries), None, 0
    for tries in range(1, most + 1):
        collected = collect(open_, pool, backend, run, replace(settings, samples=tries), show=show)
        asked, stopped = asked + collected.asked, collected.stopped
        if stopped:
            break
        rates = difficulty(collected.table, model, edges=edges)
        more = needs_more(rates["passed"], rates["tries"], edges=edges, most=most)
        undecided = set(rates.index[more])
        if not (open_ := [q for q in open_ if q.id in undecided]):
            break
    settings = replace(settings, samples=most)
    collected = collect(queries, pool, backend, run, settings, ask_new=False, show="none")
    return replace(collected, asked=asked, stopped=stopped)
