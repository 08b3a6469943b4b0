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
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.sax.saxutils import escape, quoteattr

import yaml

from routerlab.core.pools import ModelCard
from routerlab.label.oracle import Policy
from routerlab.routers.protocol import RouterError

Style = Literal["oracle", "tool", "compact"]
Mode = Literal["simple", "agent"]
Message = dict[str, Any]
SELECT = "select_response"
SLOTS = tuple(f"<|slot{place}|>" for place in range(32))
_TEXTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
ORACLE, TOOL = _TEXTS["oracle"], _TEXTS["tool"]


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
    system = f"{TOOL[mode]} {cost}".strip()
    if style == "compact":
        if len(cards) > len(SLOTS):
            raise RouterError(f"{len(cards)} models; style compact has {len(SLOTS)} slots: draw smaller pools")
        lines = [f"{slot} {describe(card)}" for slot, card in zip(SLOTS, cards, strict=False)]
        return Prompt([{"role": "user", "content": "\n".join([*lines, cost, question])}], [])
    if style == "oracle":
        routes = [f"<route name={quoteattr(name)}>{text}</route>" for name, text in _TEXTS["routes"].items()]
        models = [f"<model name={quoteattr(c.id)}>{escape(describe(c))}</model>" for c in cards]
        system = "\n".join([ORACLE, "<routes>", *routes, "</routes>", "<models>", *models, "</models>", cost]).strip()
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return Prompt(messages, tools(cards, mode) if style == "tool" else [])


def tools(cards: Sequence[ModelCard], mode: Mode = "simple") -> list[dict[str, Any]]:
    """`call_<model>` for each card, and in agent mode `select_response`. Records leave out the arguments of a call:
    recorded answers and embedded models do not depend on them.
    """
    listed = [_function(tool_name(c.id), f"Ask {c.id}. {describe(c)}", _TEXTS["call"], []) for c in cards]
    if len({tool["function"]["name"] for tool in listed}) < len(listed):
        raise RouterError(f"two of the models {', '.join(c.id for c in cards)} have one tool name; rename one of them")
    chosen = _function(SELECT, "Give this response to the user and stop.", _TEXTS["select"], ["call"])
    return [*listed, chosen] if mode == "agent" else listed


def _function(name: str, description: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
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
    """The choice in a router's reply; None if it has not exactly the style's form, so that it can be counted. A tool
    call stands in `tool_calls`, or in the text as <tool_call>JSON</tool_call>.
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
    card = ModelCard("a", "a", "budget", 0.1, 0.4, 1000, dt.date(2025, 1, 1))
    rendered = prompt(style, "q", [card], 1.0, mode), reply(style, choices(style, [card])[0], [card], "r")
    digest = hashlib.blake2b(json.dumps(rendered, sort_keys=True).encode(), digest_size=4).hexdigest()
    return f"{style}-{mode}/1:{digest}" if style == "tool" else f"{style}/1:{digest}"


def tokens(
    tokenizer: Any, messages: Sequence[Message], tools: Any = None, ask: bool = True, question: str = ""
) -> list[int]:
    """Messages as tokens of a Hugging Face tokenizer, by its chat template. Special tokens in what the router did not
    write itself are ordinary characters: no question or answer can end a turn or begin another.

    Args: the `tokenizer`; the `messages` and the `tools`, as in `Prompt`; `ask` ends them where the router's turn
    begins; the `question` that ends a message of style compact, whose slots before it stay special tokens.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values()}
    everything, hidden, shown = json.dumps([messages, tools], ensure_ascii=False), dict[str, str](), []
    free = (mark for mark in map(chr, range(0xE000, 0xF900)) if mark not in everything)
    for message in messages:
        content = message.get("content") or ""
        text = question if question and content.endswith(question) else content
        marks = special if text == question else special.difference(SLOTS)
        if message["role"] != "assistant" and any(mark in text for mark in marks):
            hidden[place := next(free)] = text
            message = {**message, "content": content.removesuffix(text) + place}
        shown.append(message)
    rendered = tokenizer.apply_chat_template(shown, tools=tools or None, add_generation_prompt=ask, tokenize=False)
    pieces = re.split(f"([{''.join(hidden)}])", rendered) if hidden else [rendered]
    texts = [(hidden.get(piece, piece), piece in hidden) for piece in pieces if piece]
    ids = [tokenizer(t, add_special_tokens=False, split_special_tokens=plain)["input_ids"] for t, plain in texts]
    return [token for piece in ids for token in piece]
