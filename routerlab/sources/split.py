"""Splits that no near-duplicate straddles: MinHash finds clusters of alike questions, and a hash of
the cluster chooses its split.

Broder (1997): the share of minimum hashes two sets have in common estimates their Jaccard similarity. Signatures cut
into bands give candidate pairs; each candidate is then compared exactly, so no estimate decides anything.
"""

import hashlib
import html
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from routerlab.core.queries import Query, QueryError

WORDS = 3  # consecutive words in a shingle
HASHES = 128
MISSED = 1e-6  # bands are as selective as this chance of missing a pair at the threshold allows
COMMON = 0.05, 50  # shingles in more than this share of the queries, and this many, are boilerplate
_TOKEN = re.compile(r"\w+|[^\w\s.,;:!?'\"`“”‘’()…]")
_MIX = np.uint64(0x9E3779B97F4A7C15)


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
    if not all(0 <= s < float("inf") for s in shares.values()) or total <= 0:
        raise QueryError(
            f"shares are {dict(shares)}; give numbers of 0 or more that are not all 0, such as "
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
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    words = [_words(q.text) for q in queries]
    same: dict[tuple[str, ...], int] = {}
    text = np.array([same.setdefault(tuple(w), len(same)) for w in words])
    shingle, doc = _shingles(list(same))
    left, right = _alike(shingle, doc, len(same), threshold)
    edges = sparse.coo_matrix((np.ones(len(left), bool), (left, right)), (len(same), len(same)))
    return connected_components(edges, directed=False)[1][text].astype(np.int64)


def _words(text: str) -> list[str]:
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def _shingles(texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """(hash, text) of every different shingle of every text, by text, without boilerplate."""
    ids: dict[str, int] = {}
    flat = np.array([ids.setdefault(w, len(ids)) for t in texts for w in t], np.int64)
    words = np.array([zlib.crc32(w.encode()) for w in ids] or [0], np.uint64)
    flat = words[flat] if len(flat) else words[:0]
    length = np.array([len(t) for t in texts])
    owner = np.repeat(np.arange(len(texts)), length)
    place = np.arange(len(flat)) - np.repeat(np.cumsum(length) - length, length)
    left = np.repeat(length, length) - place
    value = np.zeros(len(flat), np.uint64)
    for step in range(WORDS):
        there = left > step  # texts of fewer words are one shingle
        value[there] = (value[there] ^ flat[np.flatnonzero(there) + step]) * _MIX
        value ^= value >> np.uint64(32)
    whole = (left >= WORDS) | (place == 0)
    pair = np.unique(np.stack([owner[whole].astype(np.uint64), value[whole]]), axis=1)
    doc, value = pair[0].astype(np.int64), pair[1]
    _, number, count = np.unique(value, return_inverse=True, return_counts=True)
    rare = count[number] <= max(COMMON[0] * len(texts), COMMON[1])
    return value[rare], doc[rare]


def _alike(shingle: np.ndarray, doc: np.ndarray, size: int, threshold: float):
    """Pairs of texts whose Jaccard similarity reaches the threshold."""
    from scipy import sparse

    none = np.zeros(0, np.int64)
    if not len(doc):
        return none, none
    present, start = np.unique(doc, return_index=True)
    pairs = none
    for keys in _bands(shingle, start, _rows(threshold)):
        pairs = np.union1d(pairs, _same(keys, present, size))
    _, column = np.unique(shingle, return_inverse=True)
    matrix = sparse.csr_matrix((np.ones(len(doc), np.float32), (doc, column)))
    count = np.bincount(doc, minlength=size)
    left, right = pairs // size, pairs % size
    keep = [none]
    for s in range(0, len(pairs), 100_000):
        i, j = left[s : s + 100_000], right[s : s + 100_000]
        both = np.asarray(matrix[i].multiply(matrix[j]).sum(1)).ravel()
        keep.append(s + np.flatnonzero(both >= threshold * (count[i] + count[j] - both) - 1e-6))
    here = np.concatenate(keep)
    return left[here], right[here]


def _rows(threshold: float) -> int:
    """Hashes a band: the most that miss a pair at the threshold less often than `MISSED`."""
    fits = [r for r in (2, 4, 8, 16) if (1 - threshold**r) ** (HASHES // r) < MISSED]
    return max(fits, default=1)


def _bands(shingle: np.ndarray, start: np.ndarray, rows: int):
    """For each band, one key a text; equal keys make candidates."""
    rng = np.random.default_rng(0)
    odd = rng.integers(1, 2**63, HASHES, np.uint64) | np.uint64(1)
    plus = rng.integers(0, 2**63, HASHES, np.uint64)
    for band in range(0, HASHES, rows):
        key = np.zeros(len(start), np.uint64)
        for k in range(band, band + rows):
            mixed = shingle * odd[k] + plus[k]
            mixed = (mixed ^ (mixed >> np.uint64(29))) * _MIX
            key = (key ^ np.minimum.reduceat(mixed, start)) * _MIX
            key ^= key >> np.uint64(32)
        yield key


def _same(keys: np.ndarray, present: np.ndarray, size: int) -> np.ndarray:
    """Every pair of texts with one key, as `left * size + right`."""
    order = np.argsort(keys, kind="stable")
    edge = np.flatnonzero(np.diff(keys[order])) + 1
    starts, ends = np.r_[0, edge], np.r_[edge, len(keys)]
    out = [np.zeros(0, np.int64)]
    for s, e in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        members = np.sort(present[order[s:e]])
        i, j = np.triu_indices(len(members), 1)
        out.append(members[i] * size + members[j])
    return np.concatenate(out)


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
