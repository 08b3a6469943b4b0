"""Splits that no near-duplicate straddles: alike questions form clusters, and a hash of the cluster chooses its split.

Alike means a Jaccard similarity of word shingles, computed exactly by sparse matrix products. Only pairs that can reach
the threshold are compared: with the shingles of every text sorted from rare to common, two texts as alike as t share
one of the first |x| - ceil(t |x|) + 1 (prefix filtering; Chaudhuri et al. 2006, Bayardo et al. 2007).
"""

import hashlib
import html
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from routerlab.core.queries import Query, QueryError

WORDS = 3  # consecutive words in a shingle
COMMON = 0.05, 50  # shingles in more than this share of the queries, and this many, are boilerplate
_TOKEN = re.compile(r"\w+|[^\w\s.,;:!?'\"`“”‘’()…]")
BATCH = 500_000  # products of one chunk of rows, which bounds the memory


def split(
    queries: Sequence[Query],
    shares: Mapping[str, float] | None = None,
    *,
    threshold: float = 0.8,
    salt: str = "routerlab",
) -> list[Query]:
    """The queries, in order, each with its split; near-duplicates share one.

    `shares` are relative sizes, by default train 0.7, validation 0.1, test 0.2. They are met in expectation: a split of
    share p over c clusters misses it by about sqrt(p (1 - p) / c), more where clusters are large. What is guaranteed:
    the result depends on the set of queries, the threshold and the salt, not on their order; the split of a cluster is
    a hash of the salt and of the smallest query id in it, so adding queries moves only clusters they join or merge
    (or whose boilerplate they change, see `clusters`).
    """
    shares = shares or {"train": 0.7, "validation": 0.1, "test": 0.2}
    total = sum(shares.values())
    if not all(0 <= s <= 1e9 for s in shares.values()) or total <= 0:
        raise QueryError(
            f"shares are {dict(shares)}; give numbers from 0 to 1e9 that are not all 0, such as "
            f"{{'train': 0.8, 'test': 0.2}}"
        )
    label = clusters(queries, threshold)
    key: dict[int, str] = {}
    for c, q in zip(label.tolist(), queries, strict=True):
        key[c] = min(q.id, key.get(c, q.id))
    names = [n for n, s in shares.items() if s > 0]
    ends = np.cumsum([shares[n] for n in names]) / total
    chosen = {}
    for c, k in key.items():
        digest = hashlib.blake2b(f"{salt}\0{k}".encode(), digest_size=8).digest()
        place = np.searchsorted(ends, int.from_bytes(digest) / 2**64, side="right")
        chosen[c] = names[min(int(place), len(names) - 1)]
    return [replace(q, split=chosen[c]) for c, q in zip(label.tolist(), queries, strict=True)]


def clusters(queries: Sequence[Query], threshold: float = 0.8) -> np.ndarray:
    """The cluster number of each query: connected components of "alike to at least `threshold`".

    Alike means the Jaccard similarity of their sets of three consecutive words (case, accent forms and punctuation
    aside). Shingles in more than 5 % of the queries and in more than 50 are boilerplate, such as the instructions of
    a template, and are left out: two sums in one wording are two questions. Queries of one text are always together.
    """
    if not 0 < threshold <= 1:
        raise QueryError(f"threshold is {threshold}; a similarity lies above 0 and up to 1")
    if not queries:
        return np.zeros(0, np.int64)

    words = [_words(q.text) for q in queries]
    same: dict[tuple[str, ...], int] = {}
    text = np.array([same.setdefault(tuple(w), len(same)) for w in words])
    left, right = _alike(*_shingles(list(same)), len(same), threshold)
    edges = sparse.coo_matrix((np.ones(len(left), bool), (left, right)), (len(same), len(same)))
    return connected_components(edges, directed=False)[1][text].astype(np.int64)


def _words(text: str) -> list[str]:
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def _shingles(texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """(text, shingle) of every different shingle of every text, without boilerplate. Shingles are numbered from the
    rarest to the most common, and the pairs are sorted.
    """
    ids: dict[str, int] = {}
    flat = np.array([ids.setdefault(w, len(ids) + 1) for t in texts for w in t], np.int64)
    length = np.array([len(t) for t in texts])
    owner = np.repeat(np.arange(len(texts)), length)
    left = np.repeat(np.cumsum(length), length) - np.arange(len(flat))  # words from here to the end of the text
    value = np.zeros(len(flat), np.int64)
    for step in range(WORDS):  # distinct for up to 2 million different words
        following = np.zeros(len(flat), np.int64)
        following[left > step] = flat[np.flatnonzero(left > step) + step]
        value = value * (len(ids) + 1) + following
    first = left == np.repeat(length, length)
    whole = (left >= WORDS) | first  # a text of fewer words is one shingle
    _, number, count = np.unique(value[whole], return_inverse=True, return_counts=True)
    pair = np.unique(owner[whole] * len(count) + number)
    doc, number = pair // max(len(count), 1), pair % max(len(count), 1)
    count = np.bincount(number, minlength=len(count))  # texts with each shingle
    rare = count[number] <= max(COMMON[0] * len(texts), COMMON[1])
    rank = np.empty(len(count), np.int64)
    rank[np.argsort(count, kind="stable")] = np.arange(len(count))
    doc, number = doc[rare], rank[number[rare]]
    order = np.lexsort((number, doc))
    return doc[order], number[order]


def _alike(doc: np.ndarray, shingle: np.ndarray, size: int, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of texts whose Jaccard similarity reaches the threshold."""
    count = np.bincount(doc, minlength=size)
    start = np.cumsum(count) - count
    first = np.arange(len(doc)) - start[doc] <= count[doc] - np.ceil(threshold * count[doc] - 1e-6)
    shape = size, int(shingle.max(initial=0)) + 1
    whole, prefix = (
        sparse.csr_matrix((np.ones(keep.sum(), np.int32), (doc[keep], shingle[keep])), shape)
        for keep in (np.ones(len(doc), bool), first)
    )
    work = prefix @ np.bincount(prefix.indices, minlength=shape[1])  # products that each row takes
    ends = np.searchsorted(np.cumsum(work), np.arange(BATCH, work.sum() + BATCH, BATCH), side="right")
    left, right = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    rows, across = np.unique([0, *ends, size]), prefix.T.tocsr()
    for begin, end in pairwise(rows):
        near = (prefix[begin:end] @ across).tocoo()
        i, j = near.row + begin, near.col
        i, j = i[i > j], j[i > j]
        both = np.asarray(whole[i].multiply(whole[j]).sum(1)).ravel()
        alike = both >= threshold * (count[i] + count[j] - both) - 1e-6
        left.append(i[alike])
        right.append(j[alike])
    return np.concatenate(left), np.concatenate(right)


@dataclass(frozen=True)
class Leakage:
    """Near-duplicates across splits. `leaked[a, b]` counts queries of split a with a near-duplicate
    in split b; `straddling` holds the clusters concerned.
    """

    splits: Mapping[str, int]  # queries of each
    together: int  # clusters of two or more queries
    straddling: tuple[tuple[Query, ...], ...]
    leaked: Mapping[tuple[str, str], int]
    threshold: float

    def __bool__(self) -> bool:
        return bool(self.straddling)

    def __str__(self) -> str:
        sizes = ", ".join(f"{n} {c}" for n, c in self.splits.items())
        lines = [
            f"{sum(self.splits.values())} queries ({sizes}); {self.together} clusters of near-duplicates (similarity "
            f"{self.threshold:g} or more), {len(self.straddling)} of them in more than one split"
        ]
        for (a, b), count in self.leaked.items():
            share = count / self.splits[a]
            lines.append(f"  {count} of {self.splits[a]} ({share:.2%}) of {a} are also in {b}")
        for members in self.straddling[:3]:
            lines.append("  for example")
            lines += [f"    {q.split}: {' '.join(q.text.split())[:100]}" for q in members[:4]]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def leakage(queries: Sequence[Query], threshold: float = 0.8) -> Leakage:
    """What the splits the queries have now leak into each other; empty (false) after `split`."""
    groups: dict[int, list[Query]] = {}
    for c, q in zip(clusters(queries, threshold).tolist(), queries, strict=True):
        groups.setdefault(c, []).append(q)
    splits = Counter(q.split for q in queries)
    across = [tuple(g) for g in groups.values() if len({q.split for q in g}) > 1]
    leaked: Counter[tuple[str, str]] = Counter()
    for group in across:
        names = {q.split for q in group}
        leaked.update((q.split, other) for q in group for other in names - {q.split})
    order = {n: i for i, n in enumerate(splits)}
    return Leakage(
        splits,
        sum(len(g) > 1 for g in groups.values()),
        tuple(sorted(across, key=len, reverse=True)),
        dict(sorted(leaked.items(), key=lambda item: [order[n] for n in item[0]])),
        threshold,
    )
