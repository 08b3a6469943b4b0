"""One routed question as a state machine without input or output.

A router takes turns. In each it writes text or asks for tools: `call_<model>` with {system_prompt, temperature}, or
`select_response` with {call}, the number of an earlier response that becomes the answer. `Episode.act` takes a turn and
returns the model calls to make; whoever makes them (a recorded table, a live backend, a server) hands the results to
`Episode.feed`. So training and serving run the same code. Nothing a router writes raises an error: a tool that does not
exist, arguments that cannot be read and calls that failed become observations.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from routerlab.core.recorded import Recorded
from routerlab.label.rewards import Resolved, Step, resolve
from routerlab.routers.prompts import SELECT, Mode, tool_name

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.S)


class EnvError(ValueError):
    """The environment was driven wrongly by its caller; the message says what to do. No router text causes it."""


class ToolCall(NamedTuple):
    """What a router asked for: a tool's name and its arguments, as JSON text or as a mapping."""

    name: str
    arguments: str | Mapping[str, Any] = ""
    id: str = ""


class Call(NamedTuple):
    """A model call to make. `number` is what `select_response` names later."""

    number: int
    model: str
    system_prompt: str = ""
    temperature: float = 0.0


def read_tools(text: str) -> tuple[str, list[ToolCall]]:
    """(text outside the tags, tools) of a turn in which tools stand as <tool_call>{"name", "arguments"}</tool_call>."""
    tools = []
    for content in _TAGGED.findall(text):
        read = _decoded(content)
        named = isinstance(read, dict) and isinstance(read.get("name"), str)
        tools.append(ToolCall(read["name"], read.get("arguments", {})) if named else ToolCall("", content))
    return _TAGGED.sub("", text).strip(), tools


def _decoded(content: Any) -> Any:
    """The value of a JSON text, None if it is none; anything but text stays what it is."""
    if not isinstance(content, str):
        return content
    try:
        return json.loads(content) if content.strip() else {}
    except (ValueError, RecursionError):
        return None


class Episode:
    """The turns of a router on one question. `steps` is what happened so far, `turns` how many turns it took, `called`
    the model of each call number.

    The last of `max_turns` turns ends the episode, whatever it does; so does a text without tools, and a selection of
    a response that exists (a response of the same turn, too). In mode `simple` the first call that works ends it.
    """

    def __init__(self, models: Sequence[str], max_turns: int = 3, mode: Mode = "agent", max_calls: int = 16) -> None:
        self.models, self.max_turns, self.max_calls = tuple(models), max_turns, max_calls
        self.mode: Mode = mode
        self.names = {tool_name(m): m for m in models}
        self.steps: list[Step] = []
        self.called: dict[int, str] = {}
        self.turns = 0
        self.done = False
        self.observations: list[tuple[str, str]] = []  # (tool id, text) for each tool of the last turn, in order
        self._waiting: dict[int, tuple[int, int]] = {}  # call number: places of its step and of its observation

    def act(self, text: str = "", tools: Sequence[ToolCall] = ()) -> list[Call]:
        """Take the router's next turn; returns the calls to make at once, each of which `feed` must answer."""
        if self.done or self._waiting:
            why = "it has ended" if self.done else f"calls {[*self._waiting]} have no result yet; feed them first"
            raise EnvError(f"no turn can be taken: {why}")
        self.turns += 1
        self.observations = []
        calls = [call for tool in tools if (call := self._use(tool)) is not None]
        if text or not self.steps or self.steps[-1].turn < self.turns:
            # A turn without text and tools says nothing; it ends the episode as a text does.
            self.steps.append(Step("text", self.turns, text) if text else Step("unknown", self.turns))
            self.done = not tools
        self._close()
        return calls

    def _use(self, tool: ToolCall) -> Call | None:
        given, name = _decoded(tool.arguments), str(tool.name)
        number, turn = len(self.called) + 1, self.turns
        if name != SELECT and name not in self.names:
            problem = f"there is no tool {name[:80]!r}; the tools are {', '.join([*self.names, SELECT])}"
        elif not isinstance(given, Mapping):
            problem = f"the arguments of {name} cannot be read; give a JSON object"
        elif name == SELECT:
            chosen = str(given.get("call"))
            if re.fullmatch(r"\d{1,6}", chosen):
                self.steps.append(Step("select", turn, number=int(chosen)))
                self.observations.append((tool.id, f"there is no response {chosen}"))
                return None
            problem = f"{SELECT} needs the number of a response: {{'call': 1}}"
        elif sum(step.turn == turn and step.kind == "call" for step in self.steps) >= self.max_calls:
            problem = f"more than {self.max_calls} calls in one turn"
        else:
            prompt, heat = given.get("system_prompt") or "", given.get("temperature") or 0.0
            if isinstance(prompt, str) and isinstance(heat, int | float) and 0 <= heat <= 2:
                self._waiting[number] = len(self.steps), len(self.observations)
                self.called[number] = self.names[name]
                self.steps.append(Step("call", turn, number=number))
                self.observations.append((tool.id, ""))
                return Call(number, self.called[number], prompt, float(heat))
            problem = f"{name} takes system_prompt, a text, and temperature, a number from 0 to 2"
        self.steps.append(Step("unknown", turn))
        self.observations.append((tool.id, problem))
        return None

    def feed(self, number: int, answer: str | None, usd: float = 0.0, error: str = "") -> None:
        """The result of a call that `act` asked for: its answer (None: it failed, `error` says why) and its charge."""
        if number not in self._waiting:
            raise EnvError(f"no call {number} is waiting for a result; waiting: {[*self._waiting] or 'none'}")
        step, place = self._waiting.pop(number)
        self.steps[step] = Step("call", self.turns, answer, number, usd)
        shown = {"response": answer} if answer is not None else {"error": error or "the call failed"}
        text = json.dumps({"call": number, "model": self.called[number], **shown}, ensure_ascii=False)
        self.observations[place] = self.observations[place][0], text
        self._close()

    def _close(self) -> None:
        """End the episode if this turn has all its results and is the last."""
        if not self._waiting:
            how = self.outcome().how
            self.done |= self.turns >= self.max_turns or how == "select" or (self.mode == "simple" and how == "call")

    def outcome(self) -> Resolved:
        """What the episode comes to, by `rewards.resolve`: the answer, how it was reached, the cost of its calls."""
        return resolve(self.steps, self.mode)

    def tally(self) -> tuple[Counter[str], Counter[str]]:
        """How often each model was called, and how often that failed."""
        calls = [step for step in self.steps if step.kind == "call"]
        names = [self.called[step.number or 0] for step in calls]
        return Counter(names), Counter(n for n, step in zip(names, calls, strict=True) if step.answer is None)


@dataclass(frozen=True)
class Replay:
    """What every model did on each question (questions x models). A recorded answer does not depend on the system
    prompt or temperature a router asks for.
    """

    models: tuple[str, ...]
    answers: np.ndarray
    quality: np.ndarray
    usd: np.ndarray

    @classmethod
    def of(cls, data: Recorded, sample: int = 0) -> "Replay":
        """One try of a recorded table. An outcome without a grade is a call that failed; its charge stays."""
        table = data.table
        usd = np.nan_to_num(table.matrix("usd", sample))
        return cls(table.models, table.text("answer", sample), table.matrix("quality", sample), usd)

    def answer(self, row: int, episode: Episode, calls: Sequence[Call]) -> None:
        """Feed an episode on question `row` with the recorded results of its calls."""
        for call in calls:
            column = self.models.index(call.model)
            failed = np.isnan(self.quality[row, column])
            said = None if failed else self.answers[row, column] or ""
            episode.feed(call.number, said, float(self.usd[row, column]), "this call failed when it was recorded")

    def quality_of(self, row: int, episode: Episode) -> float:
        """The quality of the episode's answer; 0 if it has none, or one that no model of the table gave."""
        number = episode.outcome().number
        return 0.0 if number is None else float(self.quality[row, self.models.index(episode.called[number])])
