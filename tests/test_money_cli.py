"""The verbs that spend money, from the command line: malformed invocations, signals, releases, pings."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
from faults import calls_and_pool
from provider import Provider
from test_cli import run

from routerlab import Run, recorded
from routerlab.collect.ledger import Ledger
from routerlab.collect.ledger_format import encode

POOL = "name: p\nas_of: 2026-01-01\nmodels:\n  - {%s}\n"
CARD = "id: m, provider_id: m, tier: budget, usd_per_mtok_in: 1, usd_per_mtok_out: 2, context: 99"
HERE = Path(__file__).resolve().parents[1]

_NUMBERS = ["0", "-1", "x", "", "nan", "1e400", "9" * 40, "1.5.2", "٣x", "0x10"]
_FLAGS = ["--limit", "--samples", "--max-tokens", "--concurrency", "--attempts"]
_MONEY = ["0", "-1", "x", "", "nan", "inf", "1e308", "1e400", "$5", "5,0"]
_URLS = [
    "openai:",
    "openai:x",
    "openai:http://",
    "openai:http://[::1/v1",
    "openai:ftp://h/v1",
    "openai:http://u:p@h/v1",
]
_URLS += ["openai:http://h/v1?key=1", "openai:http://h:99999999/v1", "openai:http://h:x/v1", "openai://h"]
_URLS += ["pocket:x", "litellm:x", "replay:nothing-here", "", "openia:x", "gpt-5"]
_RUNS = ["", "..", ".", "~", "~x", "pocket", "/proc/nothing/x", "/dev/null", "/dev/null/x"]
_POOLS = ["", "nothing", "/nowhere.yaml", "/", "x/y", "/dev/null"]
_MODELS = ["", ",", "gpt-9", "pocket-nano,,gpt-9", "pocket-nano pocket-max", "../x"]
_SOURCES = ["", "gsm9k", "file:", "file:/nowhere.csv", "pocket:tset", "pocket,gsm9k", "file:/dev/null", ":test"]
_CARDS = [
    CARD.replace("provider_id: m", "provider_id: 5"),
    CARD.replace("context: 99", "context: " + "9" * 5000),
    CARD.replace("usd_per_mtok_in: 1", "usd_per_mtok_in: 1e308"),
    CARD.replace("usd_per_mtok_in: 1", "usd_per_mtok_in: -1"),
    CARD + ", base_url: 5",
    CARD + ", base_url: 'http://[::1/v1'",
    CARD + ", base_url: ftp://h",
    CARD + ", key_env: sk-123",
    CARD + ", colour: red",
    "a: " + "[" * 3000 + "]" * 3000,
    "id: m",
    "",
]
_LEDGERS = [
    b"",
    b"hello\n",
    b"\0" * 100,
    encode({"t": "ledger", "v": "ledger/1"}) + encode({"t": "result"}),
    encode({"t": "ledger", "v": "ledger/1"}) + encode({"t": "intent", "key": 5, "n": "x", "usd": "y"}),
    encode({"t": "ledger", "v": "ledger/1"}) + encode({"t": "result", "key": "k", "n": 1, "usd": 0, "reply": {"x": 1}}),
    encode({"t": "ledger", "v": "ledger/1"}) + encode({"t": "result", "key": "k", "n": 1, "usd": -1.0}),
    encode({"t": "ledger", "v": "ledger/9"}),
    encode([1, 2]),
    encode({"t": "ledger", "v": "ledger/1"}) + encode("text"),
]
BASE = {"--run": "d", "--models": "pocket-nano", "--limit": "1"}


def malformed():
    def collect(**changes):
        flags = BASE | {f"--{name}".replace("_", "-"): value for name, value in changes.items()}
        return ["collect", *(text for pair in flags.items() for text in pair)]

    for flag, value in product(_FLAGS, _NUMBERS):
        yield collect(**{flag[2:]: value})
    for flag, value in product(["budget_usd"], _MONEY):
        yield collect(**{flag: value})
    for flag, value in product(["rpm", "tpm", "timeout", "temperature"], ["-1", "x", "", "nan", "inf", "1e400"]):
        yield collect(**{flag: value})
    for name, values in {"run": _RUNS, "pool": _POOLS, "models": _MODELS, "source": _SOURCES, "backend": _URLS}.items():
        for value in values:
            yield collect(**{name: value})
    yield collect(judge="gpt-9")
    yield collect(contract="contract/9")
    yield collect(limit_field="tokens")
    yield collect(backend="openai:https://api.example.com/v1", key_env="NO_SUCH_KEY_IS_SET")
    yield ["collect"]
    yield ["collect", "--run"]
    yield [*collect(), "--fly"]
    yield [*collect(), "surplus"]
    for number in range(len(_CARDS)):
        yield [
            "collect",
            "--run",
            "d",
            "--pool",
            f"{{folder}}/card{number}.yaml",
            "--backend",
            "openai:http://127.0.0.1:9/v1",
        ]
        yield ["pools", "ping", f"{{folder}}/card{number}.yaml", "--backend", "openai"]
    for number in range(len(_LEDGERS)):
        yield ["ledger", f"{{folder}}/run{number}", "--release", "nothing"]
        yield ["collect", "--run", f"{{folder}}/run{number}", "--models", "gpt-9"]
    for name in (*_RUNS, "nothing-here"):
        yield ["ledger", name]
        yield ["show", name] if name != "pocket" else ["show", "pocket", "--split", "x"]
    yield ["show", "pocket", "--grade", "GOOD"]
    yield ["show", "a", "b"]
    yield ["pools", "ping"]
    yield ["pools", "fly", "pocket"]
    yield ["pools", "ping", "xrouter", "--budget-usd", "1e308"]
    yield ["pools", "ping", "pocket", "--backend", "openai:http://[::1/v1"]


MALFORMED = list(malformed())


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for name in ("pools", "pocket", "benchmarks.yaml"):
        (tmp_path / "data" / name).symlink_to(HERE / "data" / name)
    monkeypatch.setenv("ROUTERLAB_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_200_malformed_invocations():
    assert len(MALFORMED) >= 200


@pytest.mark.parametrize("arguments", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_invocation_is_one_clear_line(capsys, home, arguments):
    for number, card in enumerate(_CARDS):
        (home / f"card{number}.yaml").write_text(POOL % card)
    for number, content in enumerate(_LEDGERS):
        (home / f"run{number}").mkdir()
        (home / f"run{number}" / "ledger.jsonl").write_bytes(content)
    arguments = [a.replace("{folder}", str(home)) for a in arguments]
    code, out, err = run(capsys, *arguments)
    assert code not in (0, None), (arguments, out)
    last = (err or out).strip().splitlines()[-1]
    assert last.startswith("routerlab") or "no answer" in out
    assert len(last) < 600
    assert "Traceback" not in err + out


@contextmanager
def serving(model="m", **changes):
    """(url, provider) of a provider that answers in a thread of its own."""
    loop, provider = asyncio.new_event_loop(), Provider()
    started: list[str] = []
    ready = threading.Event()

    async def start():
        started.append(await provider.__aenter__())
        ready.set()

    thread = threading.Thread(target=lambda: (loop.run_until_complete(start()), loop.run_forever()), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield started[0], provider
    finally:
        asyncio.run_coroutine_threadsafe(provider.__aexit__(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)


def command(home, url, model="m", *more):
    (home / "p.yaml").write_text(POOL % CARD.replace("provider_id: m", f"provider_id: {model}"))
    (home / "q.csv").write_text("question,answer\n" + "".join(f"question {i},{i}\n" for i in range(6)))
    source = f"file:{home / 'q.csv'}?question=question&answer=answer"
    flags = ["--pool", str(home / "p.yaml"), "--source", source, "--backend", f"openai:{url}", "--max-tokens", "16"]
    return ["collect", "--run", "r", *flags, *more]


def test_a_key_of_a_file_is_used_and_never_shown(capsys, home, monkeypatch):
    monkeypatch.delenv("THE_KEY_OF_THIS_TEST", raising=False)
    (home / ".env").write_text("THE_KEY_OF_THIS_TEST=canary-4711\n")
    with serving() as (url, provider):
        code, out, err = run(capsys, *command(home, url, "m", "--key-env", "THE_KEY_OF_THIS_TEST", "--limit", "2"))
        assert code == 0, err
        assert set(provider.headers) == {"Bearer canary-4711"}
        assert "canary" not in out + err
        assert [b["messages"][0]["content"].split("\n")[0] for b in provider.asked.values()] == [
            "question 0",
            "question 1",
        ]
    monkeypatch.delenv("THE_KEY_OF_THIS_TEST")


def test_a_refused_setting_is_said_and_exits_3(capsys, home):
    with serving() as (url, _):
        code, _, err = run(capsys, *command(home, url, "m~bad_request"))
    assert code == 3
    assert err.count("unknown field") == 1
    assert "refused 6 of 6 calls" in err.splitlines()[-1]


def test_sigterm_ends_a_run_with_a_table_and_a_word(home):
    with serving() as (url, provider):
        arguments = command(home, url, "m", "--rpm", "60", "--concurrency", "1", "--limit", "6")
        environment = os.environ | {"PYTHONPATH": str(HERE)}
        process = subprocess.Popen(
            [sys.executable, "-m", "routerlab.cli", *arguments], env=environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(600):
            if provider.billed or process.poll() is not None:
                break
            threading.Event().wait(0.1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "stopping: waiting for" in err
    assert "answers are kept: run the same command again to go on" in err.splitlines()[-1]
    assert 1 <= len(recorded(home / "data" / "runs" / "r").table) < 6


def test_a_call_with_an_unknown_outcome_is_listed_and_released(capsys, home):
    calls, _, _ = calls_and_pool(2)

    async def leave():
        with Ledger.open(Run("r").folder / "ledger.jsonl") as ledger:
            for call in calls:
                await ledger.intent(call.key, 0.25, {"model": "m", "query": call.query, "sample": 0})

    asyncio.run(leave())
    code, out, _ = run(capsys, "ledger", "r")
    assert code == 0
    assert "2 calls with an unknown outcome; $0.500000 stay charged" in out
    code, out, _ = run(capsys, "ledger", "r", "--release", calls[0].key)
    assert (code, out.splitlines()[0]) == (0, "released 1 calls, $0.250000")
    assert Ledger.read(Run("r").folder / "ledger.jsonl").spent_usd == 0.25
    code, _, err = run(capsys, "show", "r")
    assert code == 1
    assert "was interrupted before its table was written; 0 answers are in its ledger" in err


def test_show_prints_answers_by_grade_and_how_to_go_on(capsys, home):
    with serving() as (url, _):
        code, _, err = run(capsys, *command(home, url, "m", "--budget-usd", "0.0002"))
    assert code == 3, err
    code, out, err = run(capsys, "show", "r", "--answers", "--grade", "INCORRECT")
    assert code == 0
    assert "question: question 0" in out
    assert "reference: 0" in out
    assert "answer: answer" in out
    assert "INCORRECT (mismatch" in out
    assert "this run stopped before its end: the budget of" in err
    assert "question: " not in run(capsys, "show", "r", "--answers", "--grade", "CORRECT")[1]
    assert "100% of the answers do not follow the contract and were read leniently" in out
    assert "contract" not in run(capsys, "show", "pocket")[1]
    code, _, err = run(capsys, *command(home, url, "m", "--contract", "none"))
    assert code == 1
    assert "the run r began with the contract 'contract/1' and keeps it" in err


def test_ping_says_who_answers_and_what_it_cost(capsys, home):
    with serving() as (url, provider):
        cards = [CARD, CARD.replace("id: m, provider_id: m", "id: n, provider_id: m~no_model")]
        text = "name: p\nas_of: 2026-01-01\nmodels:\n" + "".join(f"  - {{{c}, base_url: '{url}'}}\n" for c in cards)
        (home / "two.yaml").write_text(text)
        code, out, _ = run(capsys, "pools", "ping", str(home / "two.yaml"), "--backend", "openai")
    assert code == 1
    assert "1 of 2 models answer; charged $0.0000" in out
    assert "no answer: the run stopped at not_found" in out
    assert {b["max_tokens"] for b in provider.asked.values()} == {1}


def test_a_run_goes_on_after_an_absurd_charge_was_released(capsys, home):
    with serving() as (url, _):
        code, _, err = run(capsys, *command(home, url, "m~cost_absurd", "--budget-usd", "0.01", "--concurrency", "1"))
        assert code == 3
        assert (
            "`routerlab ledger r --release all` charges what was reserved, if the bill says less"
            in err.splitlines()[-1]
        )
        code, _, err = run(capsys, *command(home, url, "m", "--budget-usd", "0.01"))
        assert code == 3
        assert (
            "1 calls are charged above their reservations: `routerlab ledger r --release all`" in err.splitlines()[-1]
        )
        code, out, _ = run(capsys, "ledger", "r")
        assert code == 0
        assert "reserved, $100000000.000000 reported and charged" in out
        code, out, _ = run(capsys, "ledger", "r", "--release", "all")
        assert code == 0
        assert re.match(r"released 1 calls, \$99999999.999\d+$", out.splitlines()[0])
        code, out, err = run(capsys, *command(home, url, "m", "--budget-usd", "0.01"))
        assert code == 0, err
    assert recorded(home / "data" / "runs" / "r").table.matrix("usd").max() < 0.01


def test_what_a_file_of_keys_lacks_is_said_by_its_name(capsys, home, monkeypatch):
    monkeypatch.delenv("THE_KEY_OF_THIS_TEST", raising=False)
    (home / ".env").write_text("THE_KEY_OF_THIS_TEST=canary-4711\nexport X\nBROKEN LINE\n")
    with serving() as (url, provider):
        code, _, err = run(capsys, *command(home, url, "m", "--key-env", "THE_KEY_OF_THIS_TEST", "--limit", "1"))
        assert code == 0, err
        assert f"{home / '.env'}: line 3 is not NAME=VALUE" in err.splitlines()[0]
        assert "dotenv" not in err
        assert "canary" not in err
        (home / ".env").write_bytes(b"\xff\xfe\x00OPENAI_API_KEY=x")
        code, _, err = run(capsys, *command(home, url))
        assert (code, err.count("\n")) == (1, 1), err
        assert f"{home / '.env'} is not text in UTF-8" in err
        (home / ".env").unlink()
        (home / ".env").mkdir()
        assert f"{home / '.env'} is a folder; keys are read from a file" in run(capsys, *command(home, url))[2]
        (home / ".env").rmdir()
        monkeypatch.setenv("OPENAI_API_KEY", "canary\r\nX-Evil: 1")
        tries = sum(provider.tries.values())
        code, _, err = run(capsys, *command(home, url))
        assert (code, err.count("\n")) == (1, 1), err
        assert "the key in OPENAI_API_KEY has a line break" in err
        assert "canary" not in err
        assert sum(provider.tries.values()) == tries
    monkeypatch.delenv("THE_KEY_OF_THIS_TEST")


@pytest.mark.parametrize("said", ["no\n", "contract/9", "caf\xe9", ""])
def test_a_damaged_contract_is_named(capsys, home, said):
    with serving() as (url, provider):
        assert run(capsys, *command(home, url, "m", "--limit", "1"))[0] == 0
        path = home / "data" / "runs" / "r" / "contract.txt"
        path.write_bytes(said.encode("latin-1"))
        code, _, err = run(capsys, *command(home, url))
    assert (code, err.count("\n")) == (1, 1), err
    assert f"{path} " in err
    assert sum(provider.tries.values()) == 1


def test_keys_are_looked_for_before_questions_are_fetched(capsys, home, monkeypatch):
    def fetched(*_, **__):
        raise AssertionError

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for module in ("collect", "headless"):
        monkeypatch.setattr(f"routerlab.cli.{module}.load", fetched)
    models = ["xrouter", "gpt-5-nano", "gsm8k"]
    asked = [
        "collect",
        "--run",
        "r",
        "--backend",
        "litellm",
        "--pool",
        models[0],
        "--models",
        models[1],
        "--source",
        models[2],
    ]
    live = ["run", "--profile", "live", "--only", "00", "-p", "limit", "3", "-p", "budget_usd", "1"]
    live += [text for pair in zip(("pool_name", "models", "source"), models, strict=True) for text in ("-p", *pair)]
    (home / "notebooks").symlink_to(HERE / "notebooks")
    for command_ in (asked, live):
        code, _, err = run(capsys, *command_)
        assert code == 1
        assert "OPENAI_API_KEY" in err.splitlines()[-1]
        assert "gpt-5-nano" in err.splitlines()[-1]


def test_an_emptied_ledger_is_said(capsys, home):
    with serving() as (url, provider):
        assert run(capsys, *command(home, url, "m", "--limit", "1"))[0] == 0
        (home / "data" / "runs" / "r" / "ledger.jsonl").write_text("")
        code, out, err = run(capsys, "ledger", "r")
        assert (code, out) == (1, "")
        assert "is empty though the run's table has answers; restore it" in err
        code, _, err = run(capsys, *command(home, url, "m", "--limit", "1"))
        assert code == 1
        assert "restore ledger.jsonl" in err
        assert sum(provider.tries.values()) == 1


def test_smoke_against_nothing_names_the_cure(capsys, home):
    (home / "data" / "smoke.yaml").symlink_to(HERE / "data" / "smoke.yaml")
    code, out, err = run(capsys, "smoke", "--url", "http://127.0.0.1:9/v1")
    assert code == 1
    assert "APIConnectionError" in out
    assert err.startswith("routerlab: 16 of 16 checks failed at http://127.0.0.1:9/v1 (APIConnectionError")
    assert err.endswith("start a server (`routerlab serve`), or give its --url\n")
