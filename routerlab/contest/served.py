"""A router that is served behind OpenAI's chat completions: which model it calls is asked question by question."""

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from routerlab.collect.keys import secret
from routerlab.core.decisions import Decisions
from routerlab.core.pools import Pool
from routerlab.core.queries import Query
from routerlab.routers.protocol import RouterError, Tunable

TIMEOUT_S, AT_ONCE = 60.0, 16


class Served(Tunable):
    """The router at a URL such as http://127.0.0.1:8800/v1; after a `#`, the model to ask for (router@500: another cost
    weight). Each question is a request for an answer of one token; the answer says in `router_metadata`, or else in
    `model`, which model was called, and what routing cost. The key, if one is needed, is in ROUTERLAB_API_KEY.
    """

    def __init__(self, where: str) -> None:
        self.url, _, model = where.partition("#")
        self.name, self.model = where, model or "router"
        try:
            listed = self._asked("/models")["data"]
            self.models = tuple(m["id"] for m in listed if not str(m["id"]).startswith("router"))
        except (KeyError, TypeError) as error:
            raise RouterError(f"{self.url}/models lists no models; give the URL of a router, up to /v1") from error

    def decisions(
        self, queries: Sequence[Query], pool: Pool, lams: Sequence[float], answers: Any = None
    ) -> list[Decisions]:
        """What the server chooses, at its own cost weight; `lams` has one entry, which is not read."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            called, usd = zip(*threads.map(self._choice, queries), strict=True)
        if strange := sorted(set(called) - set(pool.ids)):
            raise RouterError(f"{self.name} called {strange[0]!r}, which is not in this table ({', '.join(pool.ids)})")
        choice = np.array([pool.ids.index(m) for m in called])
        return [Decisions(tuple(q.id for q in queries), pool.ids, choice, self.name, own_usd=np.array(usd))]

    def operating_points(self, queries: Sequence[Query], table: Any, count: int) -> np.ndarray:
        return np.zeros(1)

    def _choice(self, query: Query) -> tuple[str, float]:
        messages = [dict(m) for m in query.messages]
        answer = self._asked("/chat/completions", {"model": self.model, "messages": messages, "max_tokens": 1})
        about = answer.get("router_metadata") or {}
        return about.get("model_used") or str(answer.get("model")), float(about.get("router_cost") or 0.0)

    def _asked(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The server's answer; a router that failed, so that its default answered, is an error and no choice."""
        headers = {"Content-Type": "application/json"}
        if key := secret("ROUTERLAB_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.url.rstrip("/") + path, data, headers)
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                fallback, content = answer.headers.get("x-router-fallback"), json.load(answer)
        except urllib.error.HTTPError as error:
            raise RouterError(f"{self.name} refused a request: {error.code} {error.read(300)!r}") from error
        except (OSError, ValueError) as error:
            raise RouterError(f"no router answers at {self.url}: {error}; start it, or mend the URL") from error
        if fallback:
            raise RouterError(f"{self.name} did not call what it chose: {fallback}; mend the server and ask again")
        return content
