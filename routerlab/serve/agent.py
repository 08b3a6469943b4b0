"""A language model that routes by calling models as tools; the turns are those of training (`train.env`)."""

import asyncio
import datetime as dt
from collections.abc import Mapping
from typing import Any

from routerlab.collect.calls import CallError, Scope
from routerlab.core.pools import ModelCard, Pool, PoolError
from routerlab.routers import prompts
from routerlab.serve.calls import Ask, Caller
from routerlab.serve.log import Refusal
from routerlab.serve.upstream import said_in, text_of
from routerlab.train.env import Call, Episode, Mode, ToolCall, read_tools


class Agent:
    """`card` is the router model: a server with tool calling at its `base_url`. In mode `simple` the first call that
    works is the answer; in mode `agent` the router may call several models, read their answers and select one.
    """

    def __init__(self, card: ModelCard, pool: Pool, mode: Mode = "agent", max_turns: int = 3) -> None:
        self.card, self.pool, self.max_turns = card, pool, max_turns
        self.mode: Mode = mode
        self.tools = prompts.tools(pool.cards, mode)

    async def answer(self, caller: Caller, ask: Ask) -> tuple[str, dict[str, Any]]:
        """(the model whose answer it is, its completion); CallError if the router model fails or gives no answer."""
        episode, answers = Episode(self.pool.ids, self.max_turns, self.mode), dict[int, dict]()
        messages = [{"role": "system", "content": prompts.TOOL[self.mode]}, *ask.fields["messages"]]
        body: dict[str, Any] = {}

        async def ask_model(call: Call) -> None:
            fields = {"temperature": call.temperature, **ask.fields}
            if call.system_prompt:
                fields["messages"] = [{"role": "system", "content": call.system_prompt}, *fields["messages"]]
            place = len(ask.calls)
            try:
                answers[call.number] = await caller.complete(ask, self.pool[call.model], fields)
                said = text_of(said_in(answers[call.number]["choices"][0]))
                episode.feed(call.number, said, ask.calls[place]["cost"])
            except CallError as error:
                episode.feed(call.number, None, ask.calls[place]["cost"], str(error))
            except Refusal as refusal:  # the budget does not hold this call
                episode.feed(call.number, None, 0.0, refusal.message)

        while not episode.done:
            asked = {"messages": messages, "tools": self.tools, "max_tokens": 1024, "temperature": 0.0}
            body = await caller.complete(ask, self.card, asked, "router")
            message = said_in(body["choices"][0])
            text, tools = read_tools(text_of({"content": message.get("content")}))
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


def _read(tool: Mapping[str, Any]) -> ToolCall:
    """A tool call of the answer; one of another shape becomes a call of a tool that does not exist."""
    function = tool.get("function")
    if not isinstance(function, Mapping):
        return ToolCall("", str(tool))
    return ToolCall(str(function.get("name")), function.get("arguments") or "", str(tool.get("id") or ""))
