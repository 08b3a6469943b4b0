"""Hundreds of files and flags that cannot be used: each ends in one line that says what is wrong, without a trace of
the program, and nothing is written.
"""

import json
from pathlib import Path

import pytest

from routerlab import Run, cli
from routerlab.core.recorded import record
from routerlab.core.runs import root

DEEP = "[" * 100_000
GOOD_POOL = {
    "name": "p",
    "models": [
        {
            "id": "a",
            "provider_id": "x/a",
            "tier": "budget",
            "usd_per_mtok_in": 1,
            "usd_per_mtok_out": 2,
            "context": 1000,
            "as_of": "2026-01-02",
        }
    ],
}


def pool(**changes):
    return yaml_of({"name": "p", "models": [GOOD_POOL["models"][0] | changes]})


def yaml_of(value):
    text = json.dumps(value)
    return text.replace('"2026-01-02"', "2026-01-02").encode()


POOLS = {
    "empty": b"",
    "nul": b"\0\0",
    "binary": bytes(range(256)),
    "utf16": "name: p".encode("utf-16"),
    "scalar": b"5",
    "list": b"[1, 2]",
    "no models": b"name: p",
    "models null": b"models:",
    "models empty": b"models: []",
    "models text": b"models: abc",
    "models of text": b"models: [abc]",
    "models of null": b"models: [null]",
    "models of lists": b"models: [[a]]",
    "models mapping": b"models: {a: b}",
    "deep": DEEP.encode(),
    "deep mapping": b"a: " + b"{a: " * 3000,
    "deep item": b"models: [" + b"[" * 900 + b"]" * 900 + b"]",
    "tab": b"models:\n\t- a",
    "tag": b"models: !!python/object/apply:os.system ['true']",
    "alias": b"models: *nowhere",
    "bad date": pool(as_of="x").replace(b'"x"', b"2026-02-31"),
    "number as date": pool(as_of=2026),
    "integer id": pool(id=5),
    "empty id": pool(id=""),
    "list id": pool(id=["a"]),
    "integer provider": pool(provider_id=7),
    "list provider": pool(provider_id=[]),
    "deep provider": pool(provider_id=json.loads("[" * 200 + "]" * 200)),
    "tier": pool(tier="cheap"),
    "tier list": pool(tier=[1]),
    "negative": pool(usd_per_mtok_in=-1),
    "infinite": pool(usd_per_mtok_in=5).replace(b'_in": 5', b'_in": .inf'),
    "not a number": pool(usd_per_mtok_in=5).replace(b'_in": 5', b'_in": .nan'),
    "true price": pool(usd_per_mtok_in=True),
    "text price": pool(usd_per_mtok_out="2"),
    "absurd price": pool(usd_per_mtok_out=10**400),
    "absurd float": pool(usd_per_mtok_out=5).replace(b'_out": 5', b'_out": 1.0e+300'),
    "endless price": pool(usd_per_mtok_out=5).replace(b'_out": 5', b'_out": 1' + b"0" * 5000),
    "cached": pool(usd_per_mtok_cached_in="x"),
    "context zero": pool(context=0),
    "context true": pool(context=True),
    "context text": pool(context="many"),
    "context float": pool(context=1e3),
    "context absurd": pool(context=10**400),
    "strengths": pool(strengths="math"),
    "strengths of lists": pool(strengths=[["math"]]),
    "strengths number": pool(strengths=4),
    "description": pool(description=4),
    "url": pool(base_url="example.org"),
    "url number": pool(base_url=8000),
    "key": pool(key_env="sk-123"),
    "key list": pool(key_env=["A"]),
    "unknown field": pool(price=3),
    "missing": yaml_of({"models": [{"id": "a"}]}),
    "twice": yaml_of({"models": GOOD_POOL["models"] * 2}),
    "sets list": yaml_of(GOOD_POOL | {"sets": [1]}),
    "sets unknown": yaml_of(GOOD_POOL | {"sets": {"s": ["b"]}}),
    "sets deep": yaml_of(GOOD_POOL | {"sets": {"s": [["a"]]}}),
    "name number": yaml_of(GOOD_POOL | {"name": 3}),
    "name mapping": yaml_of(GOOD_POOL | {"name": {"a": 1}}),
}
HOW = "--run r --question q --model m --quality ok --usd usd"
TABLE = b"q,m,ok,usd\none?,a,1,0.1\ntwo?,b,0,0.2\n"
TABLES = {
    "empty.csv": b"",
    "header.csv": b"q,m,ok,usd\n",
    "blank.csv": b"\n\n\n",
    "latin.csv": TABLE + b"caf\xe9?,a,1,0.1\n",
    "utf16.csv": TABLE.decode().encode("utf-16"),
    "more.csv": TABLE + b"x,y,1,0.1,z\n",
    "fewer.csv": TABLE + b"x,y\n",
    "quote.csv": TABLE + b'"never closed,a,1,0.1\n',
    "twice.csv": TABLE + b"one?,a,1,0.1\n",
    "header-twice.csv": b"q,m,ok,usd,ok\none?,a,1,0.1,0\n",
    "no-question.csv": TABLE + b",a,1,0.1\n",
    "no-model.csv": TABLE + b"three?,,1,0.1\n",
    "no-cost.csv": TABLE + b"three?,a,1,\n",
    "text-cost.csv": TABLE + b"three?,a,1,much\n",
    "negative-cost.csv": TABLE + b"three?,a,1,-1\n",
    "infinite-cost.csv": TABLE + b"three?,a,1,inf\n",
    "percent.csv": TABLE + b"three?,a,80,0.1\n",
    "below.csv": TABLE + b"three?,a,-0.5,0.1\n",
    "words.csv": TABLE + b"three?,a,right,0.1\n",
    "no-outcome.csv": b"q,m,ok,usd\none?,a,,0.1\n",
    "other.csv": b"a,b\n1,2\n",
    "semicolon.csv": TABLE.replace(b",", b";"),
    "comma.tsv": TABLE,
    "torn.csv.gz": b"\x1f\x8b\x08\0",
    "torn.jsonl.gz": b"torn",
    "plain.parquet": TABLE,
    "short.parquet": b"PAR1",
    "empty.parquet": b"",
    "plain.zip": TABLE,
    "empty.json": b"",
    "null.json": b"null",
    "number.json": b"5",
    "text.json": b'"q"',
    "numbers.json": b"[1, 2]",
    "none.json": b"[]",
    "object.json": b"{}",
    "deep.json": DEEP.encode(),
    "deep-row.json": b'[{"q": ' + b"[" * 50_000 + b"]" * 50_000 + b"}]",
    "endless.json": b'[{"q": "a", "m": "b", "ok": 1' + b"0" * 5000 + b', "usd": 1}]',
    "large.json": b'[{"q": "a", "m": "b", "ok": 1, "usd": 1' + b"0" * 400 + b"}]",
    "nan.json": b'[{"q": "a", "m": "b", "ok": NaN, "usd": 1}]',
    "list-model.json": b'[{"q": "a", "m": ["b"], "ok": 1, "usd": {}}]',
    "list-quality.json": b'[{"q": "a", "m": "b", "ok": [1], "usd": 1}]',
    "surrogate.json": b'[{"q": "\\ud83d", "m": "b", "ok": 1, "usd": 1}]',
    "lines.jsonl": b'{"q": "a"}\n{"q": ',
    "deep.jsonl": b'{"q": ' + DEEP.encode() + b"\n",
    "array.jsonl": b"[1]\n",
    "pickle.pkl": b"\x80\x04.",
    "pickle.pt": b"\x80\x04.",
    "what.txt": TABLE,
    "noending": TABLE,
    "folder.csv": None,
    "absent.csv": ...,
}
FLAGS = [
    "import",
    "import x.csv",
    "import --run r",
    "import x.csv --run r --split 1",
    "import x.csv --run r --split a,b,c",
    "import x.csv --run r --split=-1,1,1 --question q --quality ok --model m --usd usd",
    "import x.csv --run r --split nan,1,1 --question q --quality ok --model m --usd usd",
    "import x.csv --run r --as-of 2026-13-01",
    "import x.csv --run pocket --question q --quality ok --model m --usd usd",
    "import x.csv --run  --question q --quality ok --model m --usd usd",
    "import x.csv --run r --layout",
    "import x.csv --run r --layout ../x",
    "import x.csv --run r --question q --quality {model} --usd usd",
    "import x.csv --run r --question q --quality ok --model m --usd usd --pool nowhere",
    "import x.csv --run r --question q --quality ok --model m --usd usd --verifier multiple_choice --answer gold",
    "import x.csv --run r --question q --quality ok --model m --pool pocket --tokens-in 1 --tokens-out 1",
    "import x.csv --run r --question q --quality ok --model m --usd usd --tokens-in=-5",
    "import x.csv --run r --question q --quality ok --model m --usd usd --tokens-in nan",
    "import x.csv --run r --question q --quality ok --model m --usd usd --tokens-in 1e300",
    "import x.csv --run r --question q --quality ok --model m --usd usd --tokens-out a=1",
    "import x.csv --run r --question q --quality ok --model m --usd usd --tokens-out characters",
    "import x.csv --run r --layout mt-bench --pool duo --questions nowhere.jsonl",
    "data",
    "data lsit",
    "data split nothing",
    "data split gsm8k:nothing",
    "data split gsm8k, --folder .",
    "data split gsm8k --folder nowhere",
    "data split file:x.csv",
    "data split file:x.csv?question=text",
    "data split file:x.csv?question=q&colour=1",
    "data split pocket --shares 1,1",
    "data split pocket --shares 0,0,0",
    "data split pocket --shares=-1,1,1",
    "data split pocket:nothing",
    "data download nothing",
    "data filter --band hard --out x",
    "data filter --reference pocket --band hard --out x",
    "data filter --reference pocket --model pocket-nano --at 0.7 --band harsh --out x",
    "data records --recipe nothing --out x",
    "data records --recipe pocket --kind ppo --out x",
    "data records --recipe pocket --lam much --out x",
    "data records --recipe hard --out x",
    "data records --recipe eval --kind sft --sets {} --out x",
    "data records --recipe few-to-many --out x",
    "data records --recipe pocket --curriculum [x] --out x",
    'data records --recipe pocket --kind rl --sets {"x":.001} --out x',
    "data records --recipe pocket --kind sft --layout verl --out x",
    "data records --recipe empty.yaml --kind rl --out x",
    "collect --run x --key-env =",
    "collect --run x --key-env sk-1 --backend replay",
    f"import x.csv {HOW} --verifier fly",
    f"import x.csv {HOW} --split 1e308,1e308,1",
    f"import x.csv {HOW} --as-of 0001-01-01",
    f"import x.csv {HOW} --prices prices.csv --tokens-in 1 --tokens-out 1 --as-of 0001-01-01",
    f"import x.csv {HOW} --prices prices.csv --tokens-in 1 --tokens-out 1 --as-of 9999-12-31",
    f"import x.csv {HOW} --questions x.csv",
    "data split pocket --shares 1e308,1e308,1",
    "collect --run x --temperature 1e308",
    "collect --run x --samples 1000000",
    "collect --run CON|<>?*",
    "collect --run a/b/../../..",
    "route hi --answer --run .. --router data/pocket/actor/known",
    "data records --recipe pocket --probes 1000000000 --out x",
    "eval --splits 1000000",
    "eval --trainings 1000000",
    "train sft --recipe smol --plan --from nowhere",
    "train sft --recipe smol --plan --table nowhere",
    "train sft --recipe smol --plan --gpus 1000000000",
    "train sft --recipe smol --plan --set play.curriculum=[zz]",
    "train sft --recipe smol --plan --set play.curriculum=5",
    "data tokens nothing.parquet",
    "data tokens README.md",
    "show nowhere",
    "show ..",
    "show --split nothing",
    "pools check",
    "pools check nowhere",
    "pools ceck pocket",
]
LINES = (Path(__file__).parent / "data" / "malformed.txt").read_text(encoding="utf-8").splitlines()
STAND_INS = {"LONG": "x" * 5000, "EMPTY": "", "UNI": "prüf\u202ex"}


@pytest.fixture
def check_refused(capsys, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for name in ("pools", "layouts", "pocket", "recipes", "judge", "policies", "benchmarks.yaml", "openapi.yaml"):
        (tmp_path / "data" / name).symlink_to(root() / "data" / name)
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    monkeypatch.setenv("ROUTERLAB_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            code = cli.main(arguments)
        except SystemExit as exit_:
            code = exit_.code
        err = capsys.readouterr().err
        assert code in (1, 2), err
        last = err.strip().splitlines()[-1]
        assert "Traceback" not in err
        assert 15 < len(last) < 700, last
        if code == 1:
            assert len(err.strip().splitlines()) == 1, err
            assert last.startswith("routerlab: ")
        assert not list((tmp_path / "data").glob("runs/*")), "nothing is written"

    return run


@pytest.mark.parametrize("name", POOLS)
def test_pools(check_refused, tmp_path, name):
    (tmp_path / "p.yaml").write_bytes(POOLS[name])
    check_refused("pools", "check", "p.yaml")


@pytest.mark.parametrize("name", TABLES)
def test_tables(check_refused, tmp_path, name):
    content = TABLES[name]
    if content is None:
        (tmp_path / name).mkdir()
    elif content is not ...:
        (tmp_path / name).write_bytes(content)
    check_refused("import", name, *HOW.split(" "))
    check_refused("import", name, "--run", "r")


FORGED = {
    "manifest.json": [DEEP, '{"files": null}', '{"files": 5}', "NaN", "\0", "caf\xe9"],
    "card.json": ["", "null", "[1]", DEEP, '{"settings": "x"}', '{"pool": 5}', '{"recorded": 5}', "{}", "caf\xe9"],
}
READERS = {
    "show {}",
    "eval --table {} --routers length",
    "grade {}",
    "ledger {}",
    "data filter --reference {} --band hard --out x",
}


@pytest.mark.parametrize("verb", sorted(READERS))
@pytest.mark.parametrize(("name", "number"), [(name, i) for name, texts in FORGED.items() for i in range(len(texts))])
def test_forged_files_of_runs(check_refused, tmp_path, pocket, verb, name, number):
    part, run = pocket.split("validation"), Run(tmp_path / "run")
    record(run, part.queries[:20], part.pool, part.table.select([q.id for q in part.queries[:20]]), {"how": "a test"})
    content = FORGED[name][number].encode("latin-1")
    if name == "card.json":
        run.write(name, content)
    (run.folder / name).write_bytes(content)
    if content == b"{}":
        (run.folder / "pool.yaml").unlink()
    (run.folder / "ledger.jsonl").touch()
    check_refused(*verb.format(run.folder).split(" "))


@pytest.mark.parametrize("number", range(len(FORGED["manifest.json"])))
def test_forged_manifests_of_routers(check_refused, tmp_path, number):
    (tmp_path / "router").mkdir()
    (tmp_path / "router" / "manifest.json").write_bytes(FORGED["manifest.json"][number].encode("latin-1"))
    check_refused("route", "hi", "--router", "router")
    check_refused("reprice", "--router", "router", "--pool", "pocket", "--out", "new")
    check_refused("meet", "--router", "router", "--pool", "xrouter", "--model", "gpt-5")


def test_text_that_is_not_utf8(check_refused):
    check_refused("collect", "--run", "x", "--system", "\udcff")
    check_refused("route", "\udcff", "--router", "r")
    check_refused("run", "-p", "seed", "\udcff")


@pytest.mark.parametrize("line", FLAGS)
def test_flags(check_refused, tmp_path, line):
    (tmp_path / "x.csv").write_bytes(TABLE)
    (tmp_path / "prices.csv").write_text("model,usd_per_mtok_in,usd_per_mtok_out\na,1,2\nb,1,2\n")
    check_refused(*line.split(" "))


@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith("#")])
def test_verbs(check_refused, tmp_path, line):
    for kind in ("csv", "yaml", "parquet", "ipynb"):
        (tmp_path / f"folder.{kind}").mkdir()
        (tmp_path / f"empty.{kind}").touch()
        (tmp_path / f"bin.{kind}").write_bytes(bytes(range(256)))
    (tmp_path / "folder").mkdir()
    (tmp_path / "list.ipynb").write_text("[]")
    (tmp_path / "obj.ipynb").write_text("{}")
    for word, meaning in STAND_INS.items():
        line = line.replace(word, meaning)
    check_refused(*line.split(" "))
