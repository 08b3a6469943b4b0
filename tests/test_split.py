"""No near-duplicate straddles two splits; the same queries always give the same split."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerlab import Query
from routerlab.core.queries import QueryError
from routerlab.sources.split import clusters, leakage, split

WORDS = [
    f"{a}{b}" for a in ("ka", "lo", "mi", "ru", "te", "vo") for b in ("ban", "der", "fin", "gos", "hal", "jem", "nid")
]


def text(rng, length=30):
    return " ".join(rng.choice(WORDS, length))


def planted(rng, pairs=100, alone=300):
    """Queries of which (2i, 2i + 1) are alike: two words of thirty differ, or only case and punctuation."""
    queries = []
    for i in range(pairs):
        words = text(rng, 40).split()
        other = [w.upper() for w in words]
        if i % 2:
            other = words.copy()
            other[0], other[-1] = "changed", "too"
        queries += [
            Query.ask(" ".join(words)),
            Query.ask(", ".join(other) + "?" if i % 2 == 0 else " ".join(other)),
        ]
    return queries + [Query.ask(text(rng)) for _ in range(alone)]


def test_planted_near_duplicates_share_a_split(rng):
    queries = planted(rng)
    label = clusters(queries)
    assert (label[:200:2] == label[1:200:2]).all()
    assert len(set(label.tolist())) == 100 + 300
    done = split(queries, {"train": 0.5, "test": 0.5})
    assert [q.split for q in done[:200:2]] == [q.split for q in done[1:200:2]]
    assert not leakage(done)
    assert [q.id for q in done] == [q.id for q in queries]


def jaccard(a, b):
    sets = [{tuple(w[i : i + 3]) for i in range(len(w) - 2)} for w in (a.split(), b.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.7, 0.8, 0.95]))
def test_it_groups_exactly_what_is_as_alike_as_the_threshold(seed, threshold):
    rng = np.random.default_rng(seed)
    base = text(rng, 40).split()
    texts = []
    for changes in range(8):
        words = base.copy()
        for at in rng.choice(40, changes, replace=False):
            words[at] = f"new{changes}x{at}"
        texts.append(" ".join(words))
    parent = list(range(8))

    def find(i):
        return i if parent[i] == i else find(parent[i])

    for i in range(8):
        for j in range(i):
            if jaccard(texts[i], texts[j]) >= threshold:
                parent[find(i)] = find(j)
    label = clusters([Query.ask(t) for t in texts], threshold)
    assert [[label[i] == label[j] for j in range(8)] for i in range(8)] == [
        [find(i) == find(j) for j in range(8)] for i in range(8)
    ]


def test_the_order_of_queries_does_not_matter(rng):
    queries = planted(rng, 40, 60)
    by_id = {q.id: q.split for q in split(queries)}
    for _ in range(3):
        shuffled = [queries[i] for i in rng.permutation(len(queries))]
        assert {q.id: q.split for q in split(shuffled)} == by_id


def test_shares_are_met_and_the_salt_redraws(rng):
    queries = [Query.ask(text(rng, 12)) for _ in range(4000)]
    shares = {"train": 0.7, "validation": 0.1, "test": 0.2}
    done = split(queries, shares)
    for name, share in shares.items():
        sd = np.sqrt(share * (1 - share) / len(queries))
        assert abs(np.mean([q.split == name for q in done]) - share) < 4 * sd
    again = split(queries, shares, salt="another")
    moved = np.mean([a.split != b.split for a, b in zip(done, again, strict=True)])
    assert moved == pytest.approx(1 - 0.7**2 - 0.1**2 - 0.2**2, abs=0.04)
    assert {q.split for q in split(queries, {"train": 3, "test": 1, "never": 0})} == {
        "train",
        "test",
    }


def test_appended_queries_move_only_the_clusters_they_join(rng):
    old = planted(rng, 20, 200)
    before = {q.id: q.split for q in split(old)}
    twin = Query.ask(old[-1].text.upper() + "!")
    added = [Query.ask(text(rng)) for _ in range(150)] + [twin]
    after = {q.id: q.split for q in split([*old, *added])}
    joined = {old[-1].id}
    assert all(after[i] == before[i] for i in before if i not in joined)
    assert after[twin.id] == after[old[-1].id]


def test_a_shared_template_does_not_make_one_question_of_many():
    ask = "Work this out step by step and give the number alone on the last line of your answer, please: {} plus {}"
    queries = [Query.ask(ask.format(a, b)) for a in range(40) for b in range(40)]
    assert len(set(clusters(queries).tolist())) == len(queries)
    same = [Query.ask(ask.format(1, 1), reference=str(n)) for n in range(3)]
    label = clusters([*queries, *same])
    assert len(set(label[-3:].tolist())) == 1
    assert (label[-1] == label).sum() == 4


def test_leakage_counts_both_ways_and_shows_examples():
    a, b, c = (
        "one two three four five six",
        "seven eight nine ten eleven",
        "twelve thirteen fourteen",
    )
    queries = [
        Query.ask(t, split=s)
        for t, s in ((a, "train"), (a + "?", "test"), (a + "!", "test"), (b, "train"), (c, "test"))
    ]
    found = leakage(queries)
    assert found
    assert found.leaked == {("train", "test"): 1, ("test", "train"): 2}
    assert found.splits == {"train": 2, "test": 3}
    assert len(found.straddling) == 1
    assert found.together == 1
    shown = str(found)
    assert "2 of 3 (66.67%) of test are also in train" in shown
    assert "test: one two three four five six?" in shown
    assert repr(found) == shown
    assert "<script" not in found._repr_html_()
    kept = [dataclasses.replace(q, split="train") for q in queries]
    assert not leakage(kept)


def test_edge_cases():
    assert split([]) == []
    assert not leakage([])
    assert len(split([Query.ask(""), Query.ask("."), Query.ask("a")])) == 3
    for bad in ({"train": 0.0}, {"train": -1.0, "test": 2.0}, {"train": float("nan")}):
        with pytest.raises(QueryError, match="shares are"):
            split([Query.ask("a")], bad)
    with pytest.raises(QueryError, match="threshold"):
        clusters([Query.ask("a")], 0)


def test_real_questions_split_without_leakage(datasets):
    frame = pd.read_parquet(datasets / "routellm_15361x2.parquet", columns=["prompt"])
    queries = [Query.ask(p) for p in frame.prompt.drop_duplicates()[:5000]]
    at_random = [dataclasses.replace(q, split="test" if i % 5 == 0 else "train") for i, q in enumerate(queries)]
    assert leakage(at_random).leaked["test", "train"] >= 5
    done = split(queries, {"train": 0.8, "test": 0.2})
    assert not leakage(done)
    assert np.mean([q.split == "test" for q in done]) == pytest.approx(0.2, abs=0.015)


def test_what_unicode_writes_in_two_ways_is_one():
    texts = ("STRASSE zum ﬁnalen Café in der Altstadt", "straße zum finalen Cafe\u0301 in der altstadt")
    assert len(set(clusters([Query.ask(t) for t in texts]).tolist())) == 1


def test_a_template_of_a_third_of_the_questions_is_boilerplate(rng):
    ask = "Work this out step by step and give the number alone on the last line of your answer, please: {}"
    queries = [Query.ask(ask.format(w)) for w in (f"w{n}" for n in range(60))]
    queries += [Query.ask(text(rng)) for _ in range(120)]
    assert len(set(clusters(queries).tolist())) == 180


def test_a_similarity_of_exactly_the_threshold_is_alike():
    words = [f"w{n}" for n in range(12)]  # 8 of 10 shingles
    pair = [Query.ask(" ".join(words[:10])), Query.ask(" ".join(words))]
    assert len(set(clusters(pair, 0.8).tolist())) == 1
    assert len(set(clusters(pair, 0.81).tolist())) == 2
