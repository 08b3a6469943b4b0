"""What a server checks before it starts: its keys and their limits, the keys of its models, the run it writes."""

import asyncio
import hashlib

import pytest

from routerlab import Pool, Run, cli
from routerlab.cli import serve as serve_verbs
from routerlab.collect.calls import BackendError
from routerlab.serve.keys import accounts
from routerlab.serve.log import Account, Log, LogError, Refusal
from tests.fake_model import FakeModel
from tests.test_serve import ask, pool_of, serving


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads a file of keys with this text; A_KEY and B_KEY are set, SAME_KEY is A_KEY's, E_KEY and S_KEY are blank."""
    values = {"A_KEY": "secret-a", "B_KEY": "secret-b", "SAME_KEY": " secret-a", "E_KEY": "", "S_KEY": " \n"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ROUTERLAB_API_KEY", raising=False)

    def reader(text, usd=None, host="0.0.0.0"):
        file = tmp_path / "keys.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return accounts(file, usd, host)

    return reader


def test_the_example_is_read_with_its_limits(read, monkeypatch):
    from routerlab.core.runs import root

    monkeypatch.setenv("TEAM_A_KEY", "one")
    monkeypatch.setenv("TEAM_B_KEY", "two")
    first, second = read((root() / "data" / "keys-example.yaml").read_bytes())
    assert (first.name, first.usd, first.requests_per_minute, first.tokens_per_minute) == ("team-a", 5, 600, 200_000)
    assert (second.name, second.usd, second.requests_per_minute) == ("team-b", 1, None)
    assert first.digest == hashlib.sha256(b"one").digest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "keys: []",
        "keys:",
        "keys: x",
        "keys: 7",
        "keys: {name: a, key_env: A_KEY}",
        "- {name: a, key_env: A_KEY}",
        "usd: 5\nkeys:\n- {name: a, key_env: A_KEY}",
        "[" * 5000,
        "keys: [sk-abc",
        "keys: &sk-abc : :\n -sk-abc: - :",
        "keys:\n- !!python/object:sk-abc {}",
        "keys: 2026-13-45",
        b"keys: \xff\xfe",
        "keys: [sk-abc]",
        "keys: [[a, A_KEY]]",
        "keys: [null]",
    ],
)
def test_a_file_without_a_list_of_keys_is_refused(read, text):
    with pytest.raises(LogError, match=r"keys\.yaml.*data/keys-example\.yaml shows the form") as refused:
        read(text)
    assert "sk-abc" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("name: a", "key_env is not the name of an environment variable"),
        ("name: a, key_env: sk-abc", "key_env is not the name of an environment variable"),
        ("name: a, key_env: 5", "key_env is not the name of an environment variable"),
        ("name: a, key_env: ''", "key_env is not the name of an environment variable"),
        ("name: a, key_env: E_KEY", "variable E_KEY must be set and not empty"),
        ("name: a, key_env: S_KEY", "variable S_KEY must be set and not empty"),
        ("name: a, key_env: NO_SUCH_KEY", "variable NO_SUCH_KEY must be set and not empty"),
        ("key_env: A_KEY", "name is None"),
        ("name: 5, key_env: A_KEY", "name is 5"),
        ("name: ' ', key_env: A_KEY", "name is ' '"),
        ("name: [a], key_env: A_KEY", "name is ['a']"),
        ("name: a, key_env: A_KEY, digest: x", "unknown field 'digest'"),
        ("name: a, key_env: A_KEY, charged: -5", "unknown field 'charged'"),
        ("name: a, key_env: A_KEY, sk-abc: x", "unknown field; there are name"),
        ("name: a, key_env: A_KEY, 7: x", "unknown field; there are name"),
        *[
            (f"name: a, key_env: A_KEY, {field}: {value}", f"{field} is ")
            for field in ("usd", "requests_per_minute", "tokens_per_minute")
            for value in (".nan", ".inf", "-.inf", "-1", "0", "much", "true", "[1]", "{a: 1}", "'5'", "9" * 400)
        ],
        ("name: a, key_env: A_KEY, requests_per_minute: 0.5", "at least 1"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(read, fields, says):
    with pytest.raises(LogError) as refused:
        read(f"keys:\n- {{name: b, key_env: B_KEY}}\n- {{{fields}}}")
    message = str(refused.value)
    assert says in message
    assert "keys.yaml: entry 2" in message
    assert not [word for word in ("sk-abc", "secret", "\n") if word in message]


@pytest.mark.parametrize(
    "second", ["{name: a, key_env: B_KEY}", "{name: b, key_env: A_KEY}", "{name: b, key_env: SAME_KEY}"]
)
def test_two_entries_have_neither_one_name_nor_one_key(read, second):
    with pytest.raises(LogError, match=r"keys\.yaml: .*give each its own"):
        read(f"keys:\n- {{name: a, key_env: A_KEY}}\n- {second}")


def test_a_missing_file_and_a_budget_that_no_key_would_have_are_refused(read, tmp_path):
    with pytest.raises(LogError, match="cannot be read"):
        accounts(tmp_path / "none.yaml", None, "127.0.0.1")
    with pytest.raises(LogError, match="write usd into"):
        read("keys:\n- {name: a, key_env: A_KEY}", usd=5.0)


def test_without_a_file_a_blank_key_is_no_key(monkeypatch):
    monkeypatch.setenv("ROUTERLAB_API_KEY", " ")
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(LogError, match="ROUTERLAB_API_KEY must be set and not empty"):
            accounts(None, None, host)
    monkeypatch.setenv("ROUTERLAB_API_KEY", "")
    assert accounts(None, 1.0, "127.0.0.1") == [Account(usd=1.0)], "as if it were not set"
    for host in ("0.0.0.0", "::", ""):
        with pytest.raises(LogError, match="can be reached from elsewhere"):
            accounts(None, None, host)


def test_an_empty_key_never_matches_and_no_accounts_let_nobody_in(tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", b"k\xff".decode("utf-8", "surrogateescape"))
    (tmp_path / "keys.yaml").write_text("keys:\n- {name: a, key_env: A_KEY}")
    empty = Account("empty", hashlib.sha256(b"").digest())
    keys = [empty, *accounts(tmp_path / "keys.yaml", None, "0.0.0.0")]

    async def scenario():
        async with FakeModel() as up, serving(tmp_path, pool_of(up, "a"), keys=keys) as (url, server, client):
            for sent in ({}, {"Authorization": ""}, {"Authorization": "Bearer "}, {"Authorization": "Bearer k?"}):
                assert (await ask(client, url, **sent))[0] == 401, sent
            sent = "Bearer " + b"k\xff".decode("utf-8", "surrogateescape")
            assert server.log.account(sent).name == "a", "of any bytes"

    asyncio.run(scenario())
    log = Log(Run(tmp_path / "none"), [])
    with pytest.raises(Refusal, match="API key"):
        log.account("")
    log.close()


def server_of(*flags):
    """The server that these flags make, as far as it comes without listening."""
    return serve_verbs._server(cli.parser().parse_args(["serve", "--port", "0", *map(str, flags)]))


def test_keys_that_models_lack_are_named_before_the_start(tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "TOGETHERAI_API_KEY", "OWN_KEY"):
        monkeypatch.delenv(name, raising=False)
    run = ("--run", tmp_path / "run")
    with pytest.raises(BackendError, match="set OPENAI_API_KEY, TOGETHERAI_API_KEY, .* 18 of 18 models") as refused:
        server_of("--pool", "xrouter", "--router", "gpt-5-nano", *run)
    assert len(str(refused.value)) < 300
    router = ("--router", "https://host.example/v1", "--router-model", "actor")
    with pytest.raises(BackendError, match="'actor' needs a key"):
        server_of(*router, *run)
    with pytest.raises(BackendError, match="OWN_KEY"):
        server_of(*router, "--key-env", "OWN_KEY", *run)
    backend = ("--pool", "xrouter", "--router", "gpt-5-nano", "--backend")
    with pytest.raises(BackendError, match="'gpt-5' needs a key"):
        server_of(*backend, "https://host.example/v1", *run)
    assert not (tmp_path / "run").exists()
    server_of(*backend, "http://127.0.0.1:9/v1", *run).log.close()  # a server on this machine needs no key
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    server_of("--pool", "xrouter", "--models", "gpt-5-nano", "--router", "gpt-5-nano", *run).log.close()


def test_a_run_of_something_else_is_not_served_into(tmp_path, capsys):
    base, flags = tmp_path / "base", ("--router", "pocket-nano", "--run")
    collect = ["collect", "--run", str(base), "--models", "pocket-nano", "--limit", "2"]
    assert cli.main(collect) == 0
    before = {file.name: file.read_bytes() for file in base.iterdir()}
    with pytest.raises(LogError, match=r"base holds ledger\.jsonl .*give the run another name"):
        server_of(*flags, base)
    assert {file.name: file.read_bytes() for file in base.iterdir()} == before
    (base / "ledger.jsonl").rename(tmp_path / "ledger.jsonl")
    with pytest.raises(LogError, match=r"manifest\.json"):
        server_of(*flags, base)
    own = tmp_path / "own"
    own.mkdir()
    (own / "pool.yaml").write_text(Pool.load("pocket").to_yaml() + "# mine\n")
    with pytest.raises(LogError, match=r"pool\.yaml"):
        server_of(*flags, own)
    assert (own / "pool.yaml").read_text().endswith("# mine\n")
    for _ in range(2):  # a run of a server goes on, also after its log was moved away
        server_of(*flags, tmp_path / "served").log.close()
    (tmp_path / "served" / "served.jsonl").unlink()
    server_of(*flags, tmp_path / "served").log.close()
