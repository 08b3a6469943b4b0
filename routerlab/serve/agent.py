"""A language model that routes by calling models as tools; the turns are those of training (`train.env`)."""

import asyncio
import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from routerlab.collect.calls import CallError, Scope
from routerlab.core.pools import ModelCard, Pool, PoolError
from routerlab.serve.log import Refusal
from routerlab.serve.upstream import text_of
from routerlab.train.env import SELECT, Call, Episode, Mode, ToolCall, read_tools, tool_names

if TYPE_CHECKING:
    from routerlab.serve.app import Ask, Server


class Agent:
    """`card` is the router model: a server with tool calling at its `base_url`. In mode `simple` the first call that
    works is the answer; in mode `agent` the router may call several models, read their answers and select one.
    """

    def __init__(self, card: ModelCard, pool: Pool, mode: Mode = "agent", max_turns: int = 3) -> None:
        self.card, self.pool, self.max_turns = card, pool, max_turns
        self.mode: Mode = mode
        self.tools = [_tool(name, pool[model]) for name, model in tool_names(pool.ids).items()]
        if mode == "agent":
            about = "End with the response of an earlier call as the answer."
            self.tools.append(
                _schema(SELECT, about, {"call": {"type": "integer", "description": "its number"}}, ["call"])
            )

    async def answer(self, server: "Server", ask: "Ask") -> tuple[str, dict[str, Any]]:
        """(the model whose answer it is, its completion); CallError if the router model fails or gives no answer."""
        episode, answers = Episode(self.pool.ids, self.max_turns, self.mode), dict[int, dict]()
        messages = [{"role": "system", "content": _SYSTEM[self.mode]}, *ask.fields["messages"]]
        body: dict[str, Any] = {}

        async def ask_model(call: Call) -> None:
            fields = dict(ask.fields)
            if call.system_prompt:
                fields["messages"] = [{"role": "system", "content": call.system_prompt}, *fields["messages"]]
            fields.setdefault("temperature", call.temperature)
            place = len(ask.calls)
            try:
                answers[call.number], entry = await server.complete(ask, self.pool[call.model], fields)
                said = text_of(answers[call.number]["choices"][0].get("message") or {})
                episode.feed(call.number, said, entry["cost"])
            except CallError as error:
                episode.feed(call.number, None, ask.calls[place]["cost"], str(error))
            except Refusal as refusal:  # the budget does not hold this call
                episode.feed(call.number, None, 0.0, refusal.message)

        while not episode.done:
            fields = {"messages": messages, "tools": self.tools, "max_tokens": 1024, "temperature": 0.0}
            body, _ = await server.complete(ask, self.card, fields, "router")
            message = body["choices"][0].get("message") or {}
            text, tools = read_tools(message.get("content") or "")
            tools += [_read(t) for t in message.get("tool_calls") or ()]
            await asyncio.gather(*map(ask_model, episode.act(text, tools)))
            shown = [{"role": "tool", "tool_call_id": i, "content": said} for i, said in episode.observations]
            messages += [{"role": "assistant", **message}, *shown]
        ask.turns, outcome = episode.turns, episode.outcome()
        if outcome.answer is None:
            raise CallError("no_answer", Scope.ROW, outcome.how)
        number = outcome.number
        return (episode.called[number], answers[number]) if number else (self.card.id, body)


def router_card(name: str, url: str, prices: str) -> ModelCard:
    """The card of a router model at a URL; `prices` are IN,OUT in US dollars per million tokens."""
    try:
        usd_in, usd_out = map(float, prices.split(","))
    except ValueError:
        raise PoolError(f"--router-prices is {prices!r}; give IN,OUT, such as 0.1,0.4") from None
    return ModelCard(name, name, "specialized", usd_in, usd_out, 2**20, dt.date.today(), base_url=url)


_SYSTEM = {
    "simple": "Call the one model that answers the user's request well at the lowest price.",
    "agent": "Answer the user's request yourself if that is easy. Else call the models that answer it well at a low "
    f"price, several at once if that helps, and end with {SELECT} of the best response.",
}


def _tool(name: str, card: ModelCard) -> dict[str, Any]:
    prices = f"US$ {card.usd_per_mtok_in:g} in, {card.usd_per_mtok_out:g} out per million tokens"
    about = f"{card.id} ({card.tier}; {prices}). {card.description}"
    fields = {"system_prompt": {"type": "string"}, "temperature": {"type": "number", "minimum": 0, "maximum": 2}}
    return _schema(name, about, fields, [])


def _schema(name: str, about: str, fields: Mapping[str, Any], needed: list[str]) -> dict[str, Any]:
    content = {"type": "object", "properties": dict(fields), "required": needed}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": content}}


def _read(tool: Any) -> ToolCall:
    """A tool call of the answer; one of another shape becomes a call of a tool that does not exist."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        return ToolCall("", str(tool))
    return ToolCall(str(function.get("name")), function.get("arguments") or "", str(tool.get("id") or ""))
