"""RouterLab: which router gives the most accuracy per dollar, how sure are we, and how do I train and ship it?

Everything is a function of one table: what each model of a pool did on each query. The names below are loaded on first
use, so importing the package costs nothing and pulls in neither torch nor pandas.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "Query": "core.queries",
    "read_queries": "core.queries",
    "ModelCard": "core.pools",
    "Pool": "core.pools",
    "Decisions": "core.decisions",
    "Grade": "core.outcomes",
    "OutcomeTable": "core.outcomes",
    "Recorded": "core.recorded",
    "Run": "core.runs",
    "recorded": "core.recorded",
}
__all__ = [
    "Decisions",
    "Grade",
    "ModelCard",
    "OutcomeTable",
    "Pool",
    "Query",
    "Recorded",
    "Run",
    "read_queries",
    "recorded",
]

if TYPE_CHECKING:
    from routerlab.core.decisions import Decisions
    from routerlab.core.outcomes import Grade, OutcomeTable
    from routerlab.core.pools import ModelCard, Pool
    from routerlab.core.queries import Query, read_queries
    from routerlab.core.recorded import Recorded, recorded
    from routerlab.core.runs import Run


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"routerlab has no {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(importlib.import_module(f"routerlab.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
