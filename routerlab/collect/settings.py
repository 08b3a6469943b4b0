"""How questions are asked, and the calls that follow from it."""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from routerlab.collect.calls import Call
from routerlab.core.pools import ModelCard, Pool
from routerlab.core.queries import Query
from routerlab.grade import contract


class CollectError(RuntimeError):
    """A run that stopped before its end. Its answers are in its ledger; the message says how to go on."""


# Fields of Settings under which answers can be compared.
KEYED = ("temperature", "max_tokens", "system", "prompt", "contract", "extra")
# Fields that decide the size and the destination of a call: in `extra` they would bypass the budget.
_OURS = {
    *("model", "messages", "temperature", "max_tokens", "max_completion_tokens", "n", "best_of"),
    *("stream", "api_key", "base_url", "api_base", "extra_headers", "headers"),
}


@dataclass(frozen=True)
class Settings:
    """How questions are asked. All fields before `budget_usd` are part of a call's key."""

    samples: int = 1  # tries of each question; try 0 is greedy if `temperature` is 0
    temperature: float = 0.0
    max_tokens: int = 512
    system: str = ""  # a system message before every question
    prompt: str = "plain/1"  # name and version of the prompt's wording
    contract: str | None = None  # version of the instruction on how to answer, or "none"; None: as the backend needs
    extra: Mapping[str, object] = field(default_factory=dict)  # further fields of the request
    budget_usd: float | None = None  # hard cap for the whole run, earlier sessions included
    concurrency: int | None = None  # calls in flight; None: the backend's default
    attempts: int = 5  # of one call, before it is left to the next session
    requests_per_minute: float | None = None  # per provider
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        if taken := sorted(_OURS & set(self.extra)):
            raise CollectError(
                f"extra names {', '.join(taken)}, which budget, key and backend need: use the argument of that name "
                f"(a key in the environment)"
            )
        most = sys.float_info.max
        bounds = dict.fromkeys(("max_tokens", "attempts", "concurrency"), (1, most, "give a whole number from 1"))
        bounds |= {"samples": (1, 1000, "give a whole number from 1 to 1,000")}
        bounds |= {"temperature": (0, 100, "give a number from 0 to 100")}
        least = math.nextafter(0, 1), most, "give a number above 0, or leave it out"
        bounds |= dict.fromkeys(("budget_usd", "requests_per_minute", "tokens_per_minute"), least)
        for name, (low, high, cure) in bounds.items():
            if (value := getattr(self, name)) is not None and not low <= value <= high:
                raise CollectError(f"{name} is {value!r}; {cure}")


def plan(
    queries: Iterable[Query], pool: Pool, settings: Settings, weights: Callable[[str], str] = lambda model: ""
) -> list[Call]:
    """Every call a run needs, model by model, so that one model's batches stay together. `weights` maps a model to a
    hash of its weights, where they are known.
    """
    if settings.contract not in (None, "none", contract.VERSION):
        raise CollectError(f"contract is {settings.contract!r}; there are {contract.VERSION} and none")
    head = ({"role": "system", "content": settings.system},) if settings.system else ()
    asked = []
    for query in queries:
        messages, prompt = (*head, *query.messages), settings.prompt
        if settings.contract == contract.VERSION and (text := contract.instruction(query)):
            last = {**messages[-1], "content": f"{messages[-1]['content']}\n\n{text}"}
            messages, prompt = (*messages[:-1], last), f"{prompt}+{contract.VERSION}"
        asked.append((query, messages, prompt))
    return [
        replace(call_of(card, q.id, messages, settings), sample=sample, prompt=prompt, weights=weights(card.id))
        for card in pool
        for sample in range(settings.samples)
        for q, messages, prompt in asked
    ]


def call_of(card: ModelCard, query: str, messages: Sequence[Mapping[str, str]], settings: Settings) -> Call:
    """The first try of a question to a model."""
    return Call(
        query=query,
        model=card.id,
        provider_id=card.provider_id,
        messages=tuple(messages),
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        prompt=settings.prompt,
        prices=card.as_of.isoformat(),
        extra=settings.extra,
        base_url=card.base_url,
        key_env=card.key_env,
    )


def worst_case_usd(call: Call, card: ModelCard) -> float:
    """The most a call can cost: its input at one token a byte, cached or not, and `max_tokens` of output."""
    tokens_in = call.tokens_in_at_most
    return max(card.usd(tokens_in, call.max_tokens, cached) for cached in (0, tokens_in))
