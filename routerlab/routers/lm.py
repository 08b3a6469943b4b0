"""A router that is a language model: it reads the question, writes a reason and a policy, and a map turns the policy
into a model.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from routerlab.core.decisions import Decisions
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.label.oracle import Policy
from routerlab.label.rationale import prompt
from routerlab.routers.protocol import RouterError

Write = Callable[[Sequence[list[dict[str, str]]]], Sequence[tuple[str, float]]]


class LMRouter:
    """`write` takes the messages of every query and gives for each the text that was written and what writing it cost
    (USD): a model in this process or at a URL. `models` maps every policy to a model and may change without training.

    A text whose last line is no policy goes to `fallback`, and `unread` counts them: a guess would hide it.
    """

    def __init__(
        self,
        write: Write,
        models: Mapping[Policy, str],
        fallback: str,
        name: str = "language model",
    ) -> None:
        if absent := [p.value for p in Policy if p not in models]:
            raise RouterError(f"no model for {', '.join(absent)}; map every policy to one")
        self.write, self.models, self.fallback, self.name = write, dict(models), fallback, name
        self.unread = 0

    def route(self, queries: Sequence[Query], pool: Pool) -> Decisions:
        """The model of `pool` that the map names for the policy written about each query."""
        place = {m: pool.ids.index(pool[m].id) for m in {*self.models.values(), self.fallback}}
        written = self.write([prompt(q.text) for q in queries])
        if len(written) != len(queries):
            raise RouterError(f"{len(queries)} questions, {len(written)} texts; write one for each")
        read = [read_policy(text) for text, _ in written]
        self.unread = sum(p is None for p in read)
        choice = [place[self.fallback if p is None else self.models[p]] for p in read]
        spent = np.array([usd for _, usd in written])
        ids = tuple(q.id for q in queries)
        return Decisions(ids, pool.ids, np.array(choice, np.int64), self.name, own_usd=spent)


def read_policy(text: str) -> Policy | None:
    """The policy that is alone on the last line; None if there is none."""
    lines = text.strip().splitlines()
    last = lines[-1].strip() if lines else ""
    return Policy(last) if last in set(Policy) else None
