"""Where a call is sent: to the embedded models, a recorded table, or a provider.

A backend answers every call of a batch with a `Reply` or a `CallError`; it never retries, prices or grades.
"""

import asyncio
import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from routerlab.collect.calls import BackendError, Call, CallError, Reply, Scope
from routerlab.collect.providers import LiteLLMBackend, OpenAIBackend
from routerlab.core.pools import Pool, PoolError
from routerlab.core.recorded import recorded
from routerlab.core.runs import read_json, root


class Backend(Protocol):
    """`batch` is the most calls per `answer`; `concurrency` is how many are in flight by default.

    A backend may have a method `check(cards)`, which raises BackendError before the first call if some model cannot be
    called, a method `warm_up()`, which loads what takes seconds before the time left is estimated, and a field
    `follows_instructions`, true if its models are sent the contract.
    """

    batch: int
    concurrency: int

    async def answer(self, calls: Sequence[Call]) -> list[Reply | CallError]:
        """A reply or an error for every call, in order."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class PocketBackend:
    """The embedded models, run now; an answer depends on its call alone, whatever the batch."""

    batch = concurrency = 256

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._one = asyncio.Lock()  # one batch already uses all cores

    @functools.cache  # noqa: B019 (a backend lives as long as a run)
    def weights(self, model: str) -> str:
        """A hash of everything a model's answers come from, so that other weights are other calls."""
        folder = self.folder or root() / "data" / "pocket"
        card = read_json(folder / "card.json")["models"].get(model, {})
        digest = blake3(json.dumps(card.get("abstain_below")).encode())
        for file in sorted((folder / "models" / model).glob("*.*")):
            if file.name != "recipe.json":
                digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest(length=8)

    def warm_up(self) -> None:
        """Import what models run in, which takes seconds."""
        import routerlab.pocket.make.record  # noqa: F401

    async def answer(self, calls: Sequence[Call]) -> list[Reply | CallError]:
        async with self._one:
            return await asyncio.to_thread(self._answer, calls)

    def _answer(self, calls: Sequence[Call]) -> list[Reply | CallError]:
        from routerlab.pocket.make.record import replies

        def alike(number: int) -> tuple:
            return calls[number].model, calls[number].sample, calls[number].temperature, calls[number].max_tokens

        answers: dict[int, Reply | CallError] = {}
        for (model, sample, temperature, limit), group in itertools.groupby(
            sorted(range(len(calls)), key=alike), alike
        ):
            texts = {number: calls[number].messages[-1]["content"] for number in group}
            try:
                written = replies(model, [*texts.values()], sample, temperature, limit, self.folder)
            except PoolError as error:
                raise CallError("not_found", Scope.RUN, str(error)) from error
            for number, (text, r) in zip(texts, written, strict=True):
                too_long = CallError("context_length", Scope.ROW, said=f"{model} does not read questions this long")
                reply = Reply(text, "stop", r.tokens_in, r.tokens_out, round(r.latency_s, 3))
                answers[number] = too_long if r.finish == "context_length" else reply
        return [answers[number] for number in range(len(calls))]

    async def close(self) -> None: ...


class ReplayBackend:
    """The answers of a recorded table, by query, model and sample; a call it does not hold is an error of its row."""

    batch = concurrency = 1024

    def __init__(self, name: str | Path) -> None:
        self.name = str(name)
        rows = recorded(name).table.rows.to_pylist()
        self._rows = {(row["query"], row["model"], row["sample"]): row for row in rows}

    async def answer(self, calls: Sequence[Call]) -> list[Reply | CallError]:
        return [self._look_up(call) for call in calls]

    def _look_up(self, call: Call) -> Reply | CallError:
        row = self._rows.get((call.query, call.model, call.sample))
        if row is None:
            where = f"query {call.query}, model {call.model}, sample {call.sample}"
            return CallError("not_recorded", Scope.ROW, f"{self.name} has no {where}")
        if abs(row["temperature"] - call.temperature) > 1e-6:
            why = f"sample {call.sample} of {self.name} was drawn at temperature {row['temperature']:g}"
            return CallError("not_recorded", Scope.RUN, f"{why}; ask for that one")
        if row["error"] is not None:
            return CallError(row["error"], Scope.ROW, "recorded as an error")
        counts = row["tokens_in"], row["tokens_out"], row["latency_s"] or 0.0, row["tokens_cached"]
        return Reply(row["answer"] or "", row["finish"] or "stop", *counts)

    async def close(self) -> None: ...


def check_keys(where: Backend, models: Pool) -> None:
    """Raise BackendError if a backend cannot call one of these models."""
    if check := getattr(where, "check", None):
        check(models)


def backend(name: str, **options) -> Backend:
    """The backend `pocket`, `replay:<table>`, `litellm`, `openai:<base url>` or `openai`; `options` go to its class."""
    kind, _, rest = name.partition(":")
    match kind:
        case "pocket" if not rest:
            return PocketBackend(**options)
        case "replay":
            return ReplayBackend(rest or "pocket", **options)
        case "litellm" if not rest:
            return LiteLLMBackend(**options)
        case "openai" if rest or name == "openai":
            return OpenAIBackend(rest, **options)
    raise BackendError(f"no backend {kind!r}; there are pocket, replay:<table>, litellm, openai:<base url>, openai")
