import json

import numpy as np
import pytest
from test_features import _bert
from test_learned import KINDS, table_of, topics

from routerlab import Run, recorded
from routerlab.core.recorded import record
from routerlab.core.runs import RunError
from routerlab.routers.baselines import KeywordRule, LengthRule, ShuffledLabels, random_features
from routerlab.routers.blend import Blend
from routerlab.routers.cascade import Cascade
from routerlab.routers.encoder import Encoder
from routerlab.routers.features import FeatureError, RandomFeatures, Tfidf
from routerlab.routers.groups import KMeans
from routerlab.routers.learned import KNN, Linear, Ridge
from routerlab.routers.nonlinear import MLP, Boosting, Forest
from routerlab.routers.protocol import RouterError
from routerlab.routers.store import load, save

CARD = {"data": "sha256 of the table", "pool": "made"}


@pytest.fixture(scope="module")
def task():
    queries, quality, usd = topics(220)
    return queries, table_of(queries, quality, usd)


@pytest.fixture(scope="module")
def shared(task):
    return Tfidf(width=24).fit([q.text for q in task[0][:150]])


def _same(one, other, queries):
    for a, b in zip(one.predict(queries), other.predict(queries), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [*KINDS, KMeans, ShuffledLabels], ids=lambda k: k.__name__)
def test_a_router_comes_back_as_it_was(task, shared, tmp_path, kind):
    queries, table = task
    router = kind(shared).fit(queries[:150], table).at(12.5)
    folder = save(router, tmp_path / "r", CARD)
    again = load(folder)
    assert type(again) is kind
    assert (again.name, again.lam, again.models) == (router.name, 12.5, router.models)
    _same(router, again, queries)
    card = json.loads((folder / "card.json").read_text())
    assert card["data"] == CARD["data"]
    assert card["pool"] == "made"
    assert card["router"] == router.name
    assert card["models"] == list(router.models)


def test_a_blend_of_every_kind_and_a_blend_inside_a_blend(task, shared, tmp_path):
    queries, table = task
    inner = Blend(members=(Linear(), KNN()))
    members = (inner, Ridge(alphas=(3,)), Forest(trees=5), Boosting(rounds=10), MLP())
    router = Blend(shared, members=members, folds=2).fit(queries[:150], table)
    assert (router.arrays["weights"] > 0).any()
    again = load(save(router, tmp_path / "r", CARD))
    _same(router, again, queries)
    twice = load(save(again, tmp_path / "s", CARD))
    _same(router, twice, queries)


def test_features_of_every_kind(task, tmp_path):
    queries, table = task
    encoder = _bert(tmp_path / "enc", seed=0)
    for features in (RandomFeatures(5), Encoder(encoder)):
        router = Linear(features).fit(queries[:60], table)
        again = load(save(router, tmp_path / features.name.replace(" ", "_"), CARD))
        assert type(again.features) is type(features)
        _same(router, again, queries)
    _bert(encoder, seed=1)
    with pytest.raises(FeatureError, match="other weights than this router learned with"):
        load(tmp_path / "encoder_enc")
    by_length = LengthRule().fit(queries[:60], table)
    _same(by_length, load(save(by_length, tmp_path / "length", CARD)), queries)
    named = load(save(random_features().fit(queries[:20], table), tmp_path / "n", CARD))
    assert named.name == "random features"


def test_a_folder_given_as_a_relative_path_is_found_from_elsewhere(task, tmp_path, monkeypatch):
    queries, table = task
    _bert(tmp_path / "enc", seed=0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    features = Encoder("enc")
    monkeypatch.chdir(tmp_path / "elsewhere")
    router = Linear(features).fit(queries[:60], table)
    again = load(save(router, tmp_path / "r", CARD))
    assert again.features.folder == tmp_path / "enc"
    _same(router, again, queries)


def test_files_are_data_and_never_code(task, shared, tmp_path, monkeypatch):
    import pickle

    queries, table = task
    router = Blend(shared).fit(queries[:100], table)

    def never(*_, **__):
        raise AssertionError("something was pickled")

    for name in ("dump", "dumps", "load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    folder = save(router, tmp_path / "r", CARD)
    again = load(folder)
    monkeypatch.undo()
    _same(router, again, queries[:5])
    names = {p.name for p in folder.rglob("*")} - {".lock"}
    assert names == {"router.json", "arrays.safetensors", "card.json", "manifest.json"}
    for name in ("router.json", "card.json", "manifest.json"):
        json.loads((folder / name).read_text())


def test_it_loads_in_a_process_that_has_nothing_else(task, shared, tmp_path):
    import subprocess
    import sys

    queries, table = task
    router = Linear(shared).fit(queries[:150], table)
    folder = save(router, tmp_path / "r", CARD)
    code = (
        "import sys, json; from routerlab import Query; from routerlab.routers.store import load;"
        f"r = load({str(folder)!r}); q, c = r.predict([Query.ask('add the thing3')]);"
        "print(json.dumps([q[0].tolist(), c[0].tolist(), 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    quality, usd, torch = json.loads(done.stdout)
    from routerlab import Query

    mine = router.predict([Query.ask("add the thing3")])
    np.testing.assert_allclose(quality, mine[0][0], atol=1e-6)
    np.testing.assert_allclose(usd, mine[1][0], atol=1e-9)
    assert not torch, "a linear router needs no torch"


@pytest.mark.parametrize("name", ["router.json", "arrays.safetensors"])
def test_changed_and_missing_files_are_refused(task, shared, tmp_path, name):
    queries, table = task
    folder = save(Linear(shared).fit(queries[:50], table), tmp_path / "r", CARD)
    data = bytearray((folder / name).read_bytes())
    data[-9] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(RunError, match=f"{name} was changed: SHA-256 .* restore"):
        load(folder)
    (folder / name).unlink()
    with pytest.raises(RunError, match=f"{name} is gone though the manifest names it"):
        load(folder)


def _altered(folder, change):
    told = json.loads((folder / "router.json").read_text())
    change(told)
    Run(folder).write("router.json", json.dumps(told))
    return folder


def test_what_this_version_does_not_know_is_refused(task, shared, tmp_path):
    queries, table = task
    router = Linear(shared).fit(queries[:50], table)

    def folder():
        return save(router, tmp_path / "r", CARD)

    with pytest.raises(RouterError, match="'os.system' is no kind of router or features.*Linear"):
        load(_altered(folder(), lambda t: t["router"].update(kind="os.system")))
    with pytest.raises(RouterError, match="'Word2Vec' is no kind of .* knows: Tfidf, Encoder"):
        load(_altered(folder(), lambda t: t["features"].update(kind="Word2Vec")))
    with pytest.raises(RouterError, match="is 'router/2'; this version reads 'router/1'"):
        load(_altered(folder(), lambda t: t.update(version="router/2")))
    with pytest.raises(RouterError, match="is None; this version reads"):
        load(_altered(folder(), lambda t: t.pop("version")))
    with pytest.raises(
        RouterError, match=r"no router in .*; save one with `routerlab eval --out NAME` or routers\.store\.save"
    ):
        load(tmp_path / "nothing")


def test_what_cannot_be_saved_is_refused(task, shared, tmp_path):
    queries, table = task
    with pytest.raises(RouterError, match=r"linear has learned nothing yet; call fit\("):
        save(Linear(shared), tmp_path / "r", CARD)
    router = Linear(shared).fit(queries[:50], table)
    with pytest.raises(RouterError, match="the card lacks data, pool; say what the router was fitted on"):
        save(router, tmp_path / "r", {})
    with pytest.raises(RouterError, match="the card lacks pool"):
        save(router, tmp_path / "r", {"data": "x"})
    for other in (KeywordRule(), Cascade(shared)):
        with pytest.raises(RouterError, match=f"a {type(other).__name__} cannot be saved; these can: L"):
            save(other, tmp_path / "r", CARD)
    assert not (tmp_path / "r").exists()


def test_saving_again_replaces_and_numbers_of_any_kind_pass(task, shared, tmp_path):
    queries, table = task
    save(KNN(shared).fit(queries[:50], table), tmp_path / "r", CARD)
    made = Ridge(shared, alphas=np.array([1, 3])).fit(queries[:150], table).at(np.float32(2))
    again = load(save(made, tmp_path / "r", {**CARD, "share": np.float64(0.5)}))
    assert isinstance(again, Ridge)
    assert again.lam == 2
    _same(made, again, queries)


def test_a_blend_on_words_stays_small(pocket, tmp_path):
    train = pocket.split("train")
    queries = train.queries[::8]
    features = Tfidf().fit([q.text for q in train.queries])
    router = Blend(features).fit(queries, train.table)
    folder = save(router, tmp_path / "r", CARD)
    size = sum(p.stat().st_size for p in folder.iterdir()) / 1e6
    print(f"a blend learned from {len(queries)} queries takes {size:.1f} MB")
    assert size < 60
    _same(router, load(folder), queries[:20])


def test_a_router_is_not_saved_over_a_recorded_table(task, shared, tmp_path, pocket):
    part = pocket.split("validation")
    data = record(tmp_path / "run", part.queries, part.pool, part.table, {"how": "a test"})
    router = Linear(shared).fit(task[0][:150], task[1])
    with pytest.raises(RouterError, match="holds a recorded table, whose card would be replaced; name another folder"):
        save(router, tmp_path / "run", CARD)
    assert recorded(tmp_path / "run").card == data.card
    assert save(router, tmp_path / "run" / "router", CARD).is_dir()
