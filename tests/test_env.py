"""The environment: turns, tools and results of one routed question."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerlab import recorded
from routerlab.routers.prompts import SELECT
from routerlab.train.env import Call, EnvError, Episode, Replay, ToolCall, read_tools

MODELS = ("a", "b.1")
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def call(model, text="{}", name="x"):
    return ToolCall(f"call_{model}", text, name)


def select(number):
    return ToolCall(SELECT, {"call": number})


def test_two_calls_at_once_then_a_selection():
    episode = Episode(MODELS)
    asked = episode.act("", [call("a", '{"system_prompt": "be brief", "temperature": 0.5}', "t1"), call("b_1")])
    assert asked == [Call(1, "a", "be brief", 0.5), Call(2, "b.1")]
    with pytest.raises(EnvError, match=r"calls \[1, 2\] have no result yet"):
        episode.act("early")
    episode.feed(2, "two", 0.2)
    episode.feed(1, None, 0.01, "timed out")
    assert [name for name, _ in episode.observations] == ["t1", "x"]
    assert [json.loads(text) for _, text in episode.observations] == [
        {"call": 1, "model": "a", "error": "timed out"},
        {"call": 2, "model": "b.1", "response": "two"},
    ]
    assert not episode.done
    assert episode.act("", [select(2)]) == []
    assert episode.done
    assert episode.turns == 2
    assert episode.outcome() == ("two", "select", pytest.approx(0.21), True, 2)
    with pytest.raises(EnvError, match="it has ended"):
        episode.act("more")


def test_the_last_turn_may_call_and_its_response_counts():
    episode = Episode(MODELS, max_turns=2)
    for number in (1, 2):
        assert not episode.done
        episode.act("", [call("a")])
        episode.feed(number, f"answer {number}", 0.1)
    assert episode.done
    assert episode.outcome() == ("answer 2", "last_call", pytest.approx(0.2), True, 2)


def test_a_selection_beside_its_call_ends_the_turn_once_the_result_is_there():
    episode = Episode(MODELS)
    episode.act("", [select(1), call("a")])
    assert not episode.done
    episode.feed(1, "one", 0.1)
    assert episode.done
    assert episode.outcome().number == 1


def test_a_bad_selection_is_an_observation_while_turns_are_left_and_invalid_at_the_end():
    episode = Episode(MODELS, max_turns=2)
    episode.act("", [select(7)])
    assert episode.observations == [("", "there is no response 7")]
    assert not episode.done
    episode.act("", [select(7)])
    assert episode.done
    assert not episode.outcome().valid


def test_modes_and_texts():
    simple = Episode(MODELS, mode="simple")
    simple.act("", [call("a")])
    simple.feed(1, "one")
    assert simple.done
    failed = Episode(MODELS, mode="simple")
    failed.act("", [call("a")])
    failed.feed(1, None)
    assert not failed.done
    direct = Episode(MODELS)
    direct.act("it is 4")
    assert direct.done
    assert direct.outcome().answer == "it is 4"
    silent = Episode(MODELS)
    silent.act("")
    assert silent.done
    assert not silent.outcome().valid
    beside = Episode(MODELS)
    beside.act("let me ask", [call("a")])
    beside.feed(1, None)
    assert not beside.done
    assert beside.outcome().answer is None


@pytest.mark.parametrize(
    ("tool", "says"),
    [
        (ToolCall("call_c", "{}"), "there is no tool 'call_c'; the tools are call_a, call_b_1, select_response"),
        (call("a", "{not json"), "cannot be read"),
        (call("a", "[1]"), "cannot be read"),
        (call("a", '{"temperature": "hot"}'), "a number from 0 to 2"),
        (call("a", '{"temperature": NaN}'), "a number from 0 to 2"),
        (call("a", '{"system_prompt": ["x"]}'), "system_prompt, a text"),
        (select("the first"), "needs the number of a response"),
        (select(True), "needs the number of a response"),
    ],
)
def test_what_a_router_gets_wrong_is_an_observation(tool, says):
    episode = Episode(MODELS)
    assert episode.act("", [tool]) == []
    assert says in episode.observations[0][1]
    assert not episode.done
    assert episode.steps[0].kind == "unknown"


def test_calls_of_one_turn_are_bounded():
    episode = Episode(MODELS, max_calls=2)
    assert len(episode.act("", [call("a")] * 4)) == 2
    assert "more than 2 calls" in episode.observations[3][1]


def test_tools_in_tags():
    text, tools = read_tools(
        'Hm. <tool_call>{"name": "call_a", "arguments": {"temperature": 1}}</tool_call><tool_call>oops</tool_call>'
    )
    assert text == "Hm."
    assert tools == [ToolCall("call_a", {"temperature": 1}), ToolCall("", "oops")]
    assert Episode(MODELS).act(text, tools) == [Call(1, "a", "", 1.0)]
    assert read_tools('<tool_call>{"name": "call_a"') == ("", [ToolCall("", '{"name": "call_a"')])


TURNS = st.lists(
    st.tuples(
        st.text(max_size=5),
        st.lists(
            st.builds(
                ToolCall,
                st.sampled_from(["call_a", "call_b_1", SELECT, "other"]) | st.text(max_size=5),
                JUNK | JUNK.map(json.dumps) | st.dictionaries(st.sampled_from(["call", "temperature"]), JUNK),
            ),
            max_size=4,
        ),
    ),
    min_size=3,
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(TURNS, st.lists(st.booleans(), min_size=12, max_size=12), st.sampled_from(["agent", "simple"]))
def test_nothing_a_router_writes_raises_and_every_call_is_charged_once(turns, works, mode):
    episode, calls = Episode(MODELS, mode=mode), 0
    for text, tools in turns:
        if episode.done:
            break
        for asked in episode.act(text, tools):
            episode.feed(asked.number, "answer" if works[calls] else None, 0.5)
            calls += 1
        assert len(episode.observations) == len(tools)
    assert episode.done
    outcome = episode.outcome()
    assert outcome.usd == pytest.approx(0.5 * calls)
    assert outcome.valid == (outcome.answer is not None)
    assert outcome.number is None or works[outcome.number - 1]


def test_replay_answers_from_the_table_and_scores_the_call_that_counts():
    data = recorded("pocket").split("test")
    replay = Replay.of(data)
    quality, usd = data.table.matrix("quality"), data.table.matrix("usd")
    cheap, dear = (data.table.models.index(m) for m in ("pocket-nano", "pocket-max"))
    differ = np.flatnonzero(quality[:, cheap] != quality[:, dear])[:5]
    for row in differ.tolist():
        episode = Episode(data.table.models)
        replay.answer(row, episode, episode.act("", [call("pocket-nano"), call("pocket-max")]))
        episode.act("", [select(1)])
        assert replay.quality_of(row, episode) == quality[row, cheap]
        assert episode.outcome().usd == pytest.approx(usd[row, cheap] + usd[row, dear])
        assert episode.outcome().answer == data.table.text("answer")[row, cheap]


def test_a_failed_call_is_charged_and_gives_no_answer():
    replay = Replay(("a",), np.array([[None]], object), np.array([[np.nan]]), np.array([[0.3]]))
    episode = Episode(("a",))
    replay.answer(0, episode, episode.act("", [call("a")]))
    episode.act("", [select(1)])
    episode.act("")
    assert replay.quality_of(0, episode) == 0
    assert episode.outcome().usd == pytest.approx(0.3)
    assert not episode.outcome().valid
