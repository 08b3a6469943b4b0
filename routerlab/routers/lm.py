"""A router that is a language model: it reads the question and writes a reason and a policy; a map from policies to
models names the model.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from routerlab.core.decisions import Decisions
from routerlab.core.outcomes import OutcomeTable
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.label.oracle import Policy
from routerlab.label.rationale import prompt
from routerlab.routers.protocol import RouterError

Write = Callable[[Sequence[list[dict[str, str]]]], Sequence[tuple[str, float]]]


class LMRouter:
    """`write` takes the messages of every query and returns for each the generated text and what generating it cost
    (USD); it may be a model in this process or one at a URL. `models` maps every policy to a model, and can be changed
    without training.

    A text whose last line is no policy is sent to `fallback`, and `unread` counts those, so that a guess stays visible.
    """

    def __init__(self, write: Write, models: Mapping[Policy, str], fallback: str, name: str = "language model") -> None:
        if absent := [p.value for p in Policy if p not in models]:
            raise RouterError(f"no model for {', '.join(absent)}; map every policy to one")
        self.write, self.models, self.fallback, self.name = write, dict(models), fallback, name
        self.unread = 0

    def route(self, queries: Sequence[Query], pool: Pool, answers: OutcomeTable | None = None) -> Decisions:
        """For each query the model of `pool` that its policy is mapped to."""
        place = {m: pool.ids.index(pool[m].id) for m in {*self.models.values(), self.fallback}}
        texts = self.write([prompt(q.text) for q in queries])
        if len(texts) != len(queries):
            raise RouterError(f"{len(queries)} questions, {len(texts)} texts; write one for each")
        policies = [read_policy(text) for text, _ in texts]
        self.unread = sum(p is None for p in policies)
        choice = [place[self.fallback if p is None else self.models[p]] for p in policies]
        spent = np.array([usd for _, usd in texts])
        ids = tuple(q.id for q in queries)
        return Decisions(ids, pool.ids, np.array(choice, np.int64), self.name, own_usd=spent)


def read_policy(text: str) -> Policy | None:
    """The policy that stands alone on the last line; None if there is none."""
    lines = text.strip().splitlines()
    last = lines[-1].strip() if lines else ""
    return Policy(last) if last in set(Policy) else None
