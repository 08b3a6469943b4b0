"""What a language-model router reads and writes: one renderer, used to train it and to serve it.

A router reads a question and the cards of a pool that it may never have seen. Styles:

- `oracle`: routes in XML; the router writes one sentence about the question, then `<route>POLICY</route>`.
- `tool`: a function `call_<model>` for each model, in OpenAI's format; in agent mode also `select_response`.
- `compact`, for small actors: a line for each model after its slot token, such as `<|slot0|>`; the reply is that token.

The question is always the end of the last message, unchanged, so a question may contain any of these markers.
"""

import datetime as dt
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple
from xml.sax.saxutils import escape, quoteattr

from routerlab.core.pools import ModelCard
from routerlab.label.oracle import Policy
from routerlab.routers.protocol import RouterError

Style = Literal["oracle", "tool", "compact"]
Mode = Literal["simple", "agent"]
Message = dict[str, Any]
SELECT = "select_response"
SLOTS = tuple(f"<|slot{place}|>" for place in range(32))
ROUTES = {
    Policy.STANDARD: "the cheaper model will do",
    Policy.COMPLEX: "the stronger model is needed",
    Policy.AMBIGUOUS: "neither is likely to be right; do not pay for the stronger one",
}
ORACLE = (
    "You decide which model should answer a question; you do not answer it. Say in one sentence what the question asks "
    "of a model, then name one route on a line of its own, such as <route>Standard_Query</route>."
)
TOOL = {
    "simple": "You decide which model should answer a question. Call one of the models; its answer goes to the user.",
    "agent": "You decide which models should answer a question. Call one or more of them, in several turns if you need "
    f"to. Then call {SELECT} with the number of the response that should go to the user.",
}
EXAMPLE = ModelCard("a", "a", "budget", 0.1, 0.4, 1000, dt.date(2025, 1, 1))


class Prompt(NamedTuple):
    """What a router reads. `tools` are its functions in OpenAI's format; other styles than `tool` have none."""

    messages: list[Message]
    tools: list[dict[str, Any]]


def tool_name(model: str) -> str:
    """The function that calls a model: names of functions have letters, digits, _ and - only."""
    return f"call_{re.sub(r'[^A-Za-z0-9_-]', '_', model)}"


def describe(card: ModelCard) -> str:
    """A card in one line: tier, prices, strengths, measured skills, description."""
    parts = [f"{card.tier}, US$ {card.usd_per_mtok_in:g} in and {card.usd_per_mtok_out:g} out a million tokens"]
    parts += [f"good at {', '.join(card.strengths)}"] if card.strengths else []
    if card.skills:
        parts.append("measured: " + ", ".join(f"{s.kind} {s.accuracy:.2f} of {s.n}" for s in card.skills))
    return " ".join("; ".join([*parts, card.description] if card.description else parts).split())


def prompt(
    style: Style, question: str, cards: Sequence[ModelCard], lam: float | None = None, mode: Mode = "simple"
) -> Prompt:
    """What a router of this style reads.

    Args: the `style`; the text of the `question`; the `cards` of the pool, in the order in which they are shown; the
    cost weight `lam` (quality per US$; None: the prompt does not say it); the `mode` of style `tool`.
    """
    cost = "" if lam is None else f"A right answer is worth US$ {1 / lam:.3g}." if lam > 0 else "Costs do not matter."
    if style == "compact" and len(cards) > len(SLOTS):
        raise RouterError(f"{len(cards)} models; style compact has {len(SLOTS)} slots: draw smaller pools")
    if style == "compact":
        lines = [f"{slot} {describe(card)}" for slot, card in zip(SLOTS, cards, strict=False)]
        return Prompt([{"role": "user", "content": "\n".join([*lines, cost, question])}], [])
    if style == "oracle":
        routes = [f"<route name={quoteattr(name)}>{text}</route>" for name, text in ROUTES.items()]
        models = [f"<model name={quoteattr(c.id)}>{escape(describe(c))}</model>" for c in cards]
        system = "\n".join([ORACLE, "<routes>", *routes, "</routes>", "<models>", *models, "</models>", cost]).strip()
        return Prompt([{"role": "system", "content": system}, {"role": "user", "content": question}], [])
    system = f"{TOOL[mode]} {cost}".strip()
    return Prompt([{"role": "system", "content": system}, {"role": "user", "content": question}], tools(cards, mode))


def tools(cards: Sequence[ModelCard], mode: Mode = "simple") -> list[dict[str, Any]]:
    """`call_<model>` for each card, with a system prompt and a temperature, and in agent mode `select_response`.

    Both arguments are optional. Recorded answers and embedded models do not depend on them, so records leave them out.
    """
    system = {"type": "string", "description": "instructions for the model", "maxLength": 2000}
    given = {"system_prompt": system, "temperature": {"type": "number", "minimum": 0, "maximum": 2}}
    listed = [_function(tool_name(c.id), f"Ask {c.id}. {describe(c)}", given, []) for c in cards]
    if len({tool["function"]["name"] for tool in listed}) < len(listed):
        raise RouterError(f"two of the models {', '.join(c.id for c in cards)} have one tool name; rename one of them")
    number = {"call": {"type": "integer", "minimum": 1, "description": "the number of its call; the first is 1"}}
    chosen = _function(SELECT, "Give this response to the user and stop.", number, ["call"])
    return [*listed, chosen] if mode == "agent" else listed


def _function(name: str, description: str, properties: Mapping[str, Any], required: list[str]):
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def choices(style: Style, cards: Sequence[ModelCard]) -> list[str]:
    """What a router can decide on: the policies of style `oracle`, else the ids of the models."""
    return [*map(str, Policy)] if style == "oracle" else [c.id for c in cards]


def reply(style: Style, choice: str, cards: Sequence[ModelCard], rationale: str = "") -> Message:
    """The message that decides on one of `choices`; `rationale` stands before the route of style oracle."""
    if style == "oracle":
        return {"role": "assistant", "content": f"{rationale}\n<route>{Policy(choice)}</route>".strip()}
    if style == "compact":
        return {"role": "assistant", "content": SLOTS[[c.id for c in cards].index(choice)]}
    return use(tool_name(choice))


def use(name: str, **arguments: Any) -> Message:
    """The assistant's message that calls one function."""
    one = {"type": "function", "id": name, "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [one]}


def read(style: Style, message: Mapping[str, Any], cards: Sequence[ModelCard]) -> str | None:
    """The choice in a router's reply; None if the reply is not exactly of the style's form, so that it can be counted.

    Style tool: one call of a known model, from `tool_calls` or as <tool_call>JSON</tool_call> in the text.
    """
    text = (message.get("content") or "").strip()
    if style == "oracle":
        last = re.sub(r"^<route>(.*)</route>$", r"\1", text.splitlines()[-1].strip()) if text else ""
        return last if last in set(Policy) else None
    if style == "compact":
        return {slot: c.id for slot, c in zip(SLOTS, cards, strict=False)}.get(text)
    calls = [c.get("function", c) for c in message.get("tool_calls") or []]
    if not calls and (tagged := re.fullmatch(r"<tool_call>(.*)</tool_call>", text, re.S)):
        try:
            calls = [json.loads(tagged[1])]
        except (ValueError, RecursionError):
            return None
    names = {tool_name(c.id): c.id for c in cards}
    return names.get(str(calls[0].get("name"))) if len(calls) == 1 and isinstance(calls[0], Mapping) else None


@functools.cache
def version(style: Style, mode: Mode = "simple") -> str:
    """The version of a style's templates: a hash of all that they render of one card. Records carry it."""
    rendered = prompt(style, "q", [EXAMPLE], 1.0, mode), reply(style, choices(style, [EXAMPLE])[0], [EXAMPLE], "r")
    digest = hashlib.blake2b(json.dumps(rendered, sort_keys=True).encode(), digest_size=4).hexdigest()
    return f"{style}-{mode}/1:{digest}" if style == "tool" else f"{style}/1:{digest}"


def tokens(tokenizer: Any, read: Prompt, question: str, replies: Sequence[Message] = (), ask: bool = True) -> list[int]:
    """A prompt (and `replies`) as tokens of a Hugging Face tokenizer, by its chat template; `ask` ends them where the
    router's turn begins. Special tokens that stand in the question are read as ordinary characters.
    """
    last = read.messages[-1]
    held = any(token.content in question for token in tokenizer.added_tokens_decoder.values())
    hidden = {**last, "content": last["content"].removesuffix(question) + "\ue000"} if held else last
    text = tokenizer.apply_chat_template(
        [*read.messages[:-1], hidden, *replies], tools=read.tools or None, add_generation_prompt=ask, tokenize=False
    )
    before, mark, after = text.partition("\ue000") if held else (text, "", "")
    pieces = [(before, False), (question if mark else "", True), (after, False)]
    ids = [tokenizer(t, add_special_tokens=False, split_special_tokens=s)["input_ids"] for t, s in pieces if t]
    return [token for piece in ids for token in piece]
