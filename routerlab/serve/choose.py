"""Which model a question goes to: a router of the package, a policy map, or now and then a random model."""

import asyncio
import contextlib
import logging
import random
import time
from pathlib import Path
from typing import Any

from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.routers.protocol import RouterError
from routerlab.serve.calls import Ask
from routerlab.serve.log import Log, Refusal
from routerlab.serve.policies import PolicyError, PolicyMap

log = logging.getLogger("routerlab.serve")
_LONGEST_S = 10.0  # a decision; then the default model answers


class Chooser:
    """Asks `router`. Questions that arrive while it decides are decided together, in a thread, after that.

    `default` answers when the router fails. `explore` is the share of questions that go to a model drawn at random; the
    chance that each model had is noted for every question, so that a log can tell what another router would reach.
    """

    def __init__(self, router: Any, pool: Pool, default: str, explore: float = 0.0, seed: int | None = None) -> None:
        self.router, self.pool, self.default, self.explore = router, pool, pool[default].id, explore
        self.name, self.policy_file = router.name, ""
        self._random, self._one_batch, self._began = random.Random(seed), asyncio.Lock(), 0.0
        self._next: dict[float | None, tuple[list[Query], asyncio.Task]] = {}  # by cost weight: the waiting questions

    def reload(self) -> None:
        """Read the policy map's file again; a map that cannot be used is refused and the present one stays."""
        if self.policy_file:
            try:
                self.router = PolicyMap.load(Path(self.policy_file), self.pool)
                log.warning("policy map %s was read again", self.policy_file)
            except PolicyError as error:
                log.error("the present policy map stays: %s", error)

    async def choose(self, ask: Ask, book: Log) -> None:
        """Set the intended model of a request, the chances of each model, and what deciding cost."""
        ask.strategy, ask.intended = "default", self.default
        if ask.fallback:  # a router that is a language model failed before
            return
        lam, router = _lam(ask.model), self.router
        if lam is not None and not hasattr(router, "at"):
            raise Refusal(400, f"{router.name} has no operating points; ask for model 'router'")
        try:
            if isinstance(router, PolicyMap):
                chosen, rule = router.choose(ask.query, self.pool, ask.account.share_spent)
                ask.strategy = f"{router.name}: {rule}"
            else:
                async with asyncio.timeout(_LONGEST_S):
                    chosen, ask.router_usd = await self._decided(ask.query, lam)
                point = f" at lam {router.lam if lam is None else lam:g}" if hasattr(router, "at") else ""
                ask.strategy = router.name + point
        except Exception as error:  # of any kind: a router that fails must not fail the request
            log.exception("router %s failed", router.name)
            ask.fallback = f"router: {type(error).__name__}"
            return
        if ask.router_usd:
            ask.reserve(book, "router", ask.router_usd)
        share = self.explore / len(self.pool)
        ask.propensity = {m: share + (1 - self.explore) * (m == chosen) for m in self.pool.ids}
        ask.intended = chosen
        if self.explore and self._random.random() < self.explore:
            ask.intended, ask.strategy = self._random.choice(self.pool.ids), "explore"

    async def _decided(self, query: Query, lam: float | None) -> tuple[str, float]:
        if self._one_batch.locked() and time.monotonic() - self._began > _LONGEST_S:
            raise TimeoutError(f"the router has been deciding for more than {_LONGEST_S:g} s")
        if lam not in self._next:
            self._next[lam] = [], asyncio.create_task(self._decide(lam))
        queries, decisions = self._next[lam]
        queries.append(query)
        place = len(queries) - 1
        return (await asyncio.shield(decisions))[place]  # others wait for it too

    async def _decide(self, lam: float | None) -> list[tuple[str, float]]:
        """(model, US dollars) for each question that waits when the batch before is decided."""
        async with self._one_batch:
            self._began, (queries, _) = time.monotonic(), self._next.pop(lam)
            return await asyncio.to_thread(self._route, queries, lam)

    def _route(self, queries: list[Query], lam: float | None) -> list[tuple[str, float]]:
        import numpy as np

        router = self.router if lam is None else self.router.at(lam)  # type: ignore
        decided = router.route(queries, self.pool)
        usd = np.broadcast_to(np.asarray(decided.own_usd, float), len(queries))
        return [(decided.models[c], float(cost)) for c, cost in zip(decided.choice, usd, strict=True)]


def _lam(model: str) -> float | None:
    _, at, text = model.partition("@")
    with contextlib.suppress(ValueError):
        if not at or 0 <= float(text) < 1e30:
            return float(text) if at else None
    raise Refusal(400, f"{model[:40]!r}: the cost weight after @ is a number, 0 or more: router@2000")


def open_router(spec: str, pool: Pool, table: str = "pocket", lam: float | None = None) -> Any:
    """A router by its name in a contest, which is fitted on the training split of a recorded table; the folder of a
    saved one; a policy map; or a model of the pool, which then answers everything.
    """
    from routerlab.contest.run import KINDS
    from routerlab.contest.setup import of_models
    from routerlab.core.recorded import recorded
    from routerlab.routers import baselines, store
    from routerlab.routers.features import Tfidf

    if spec in pool:
        return baselines.Always(spec)
    if Path(spec).is_dir():
        router = store.load(spec)
    elif spec.endswith((".yaml", ".yml")):
        return PolicyMap.load(spec, pool)
    elif spec in KINDS and spec != "cascade":
        train = recorded(table).split("train")
        shared = Tfidf().fit([q.text for q in train.queries])
        router = KINDS[spec](shared).fit(train.queries, of_models(train.table, pool.ids))
    else:
        known = ", ".join(k for k in KINDS if k != "cascade")
        raise RouterError(f"no router {spec!r}; give a model of the pool, a folder, a policy map (.yaml), or {known}")
    return router if lam is None else router.at(lam)  # type: ignore
