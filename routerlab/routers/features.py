"""What learned routers see of a question: TF-IDF of words and characters here, sentence embeddings in `encoder`."""

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from routerlab.core.threads import one_thread

_UNFITTED = "these features have seen no texts yet; call fit(texts) first"
State = tuple[dict[str, np.ndarray], dict[str, Any]]  # arrays, and what JSON can hold


class FeatureError(ValueError):
    """Features that cannot be computed; the message names the cure."""


class Views(NamedTuple):
    """One row a text: `wide`, possibly sparse, for linear models; `dense`, for neighbours, trees and networks."""

    wide: Any
    dense: np.ndarray
    category: np.ndarray | None = None  # of training questions, where the table has categories
    known: np.ndarray | None = None  # the share of each text's n-grams that the vocabulary has

    def rows(self, at: np.ndarray) -> "Views":
        parts: list[Any] = [None if part is None else part[at] for part in self]
        return Views(*parts)


class Features(Protocol):
    """Turns texts into matrices. `fit` sees only training texts."""

    name: str

    def fit(self, texts: Sequence[str]) -> Self: ...
    def views(self, texts: Sequence[str]) -> Views: ...
    def state(self) -> State: ...


def counts(texts: Sequence[str]) -> np.ndarray:
    """log(1 + count) of eight things in each text: characters, words, line breaks, digits, capitals, punctuation marks,
    characters of the longest word, and (0 or 1) a question mark at the end.
    """

    def row(t: str) -> tuple[int, ...]:
        words, capitals = t.split(), sum(map(str.isupper, t))
        marks, longest = len(re.findall(r"[^\w\s]", t)), max(map(len, words), default=0)
        digits, asks = sum(map(str.isdigit, t)), t.rstrip().endswith("?")
        return len(t), len(words), t.count("\n"), digits, capitals, marks, longest, asks

    return np.log1p(np.array([row(t) for t in texts], np.float32).reshape(len(texts), 8))


class Tfidf:
    """TF-IDF of words (one and two) and of characters (one to three), and the plain `counts`. The dense view is their
    truncated singular value decomposition with `width` components, and the counts again; `most` is the size of each
    vocabulary. Salton and Buckley (1988); Deerwester et al. (1990).
    """

    name = "tfidf"

    def __init__(self, width: int = 256, most: int = 30_000) -> None:
        self.width, self.most = width, most
        self._vectorizers: list[Any] = []
        self._cache: dict[str, Views] = {}

    @one_thread("sklearn.decomposition")
    def fit(self, texts: Sequence[str]) -> Self:
        from sklearn.decomposition import TruncatedSVD

        if not len(texts):
            raise FeatureError("no texts to learn from; give at least one query")
        self._vectorizers = [self._fitted(i, texts) for i in (0, 1)]
        # The random part of the projection depends on the order of rows, so they are sorted.
        order = sorted(range(len(texts)), key=texts.__getitem__)
        plain = counts(texts)[order]
        self._shift, self._scale = plain.mean(0), np.maximum(plain.std(0), 1e-3)
        wide, known = self._wide(texts)
        # There can be no more components than texts.
        width = max(1, min(self.width, wide.shape[1] - 1, len(texts) - 1))
        reduced: Any = TruncatedSVD(width, algorithm="randomized", n_iter=3, random_state=0)
        with np.errstate(divide="ignore", invalid="ignore"):  # when all texts are the same
            self._axes = np.ascontiguousarray(reduced.fit(wide[order]).components_.T, np.float32)
        self._cache = {content_hash(texts): self._project(wide, known)}
        return self

    @one_thread()
    def views(self, texts: Sequence[str]) -> Views:
        """The last eight columns of both matrices are the standardised counts times 0.1. The views of the last four
        sets of texts are cached, so routers that share features compute them once.
        """
        if not self._vectorizers:
            raise FeatureError(_UNFITTED)
        key = content_hash(texts)
        if key not in self._cache:
            self._cache = dict([*self._cache.items()][-3:])
            self._cache[key] = self._project(*self._wide(texts))
        return self._cache[key]

    def _wide(self, texts: Sequence[str]) -> tuple[Any, np.ndarray]:
        """What the vectorizers' `transform` gives, to the bit, with the counts beside it; and the shares of known
        n-grams. Their own bookkeeping takes two milliseconds for a single text, and a served question waits for it.
        """
        from scipy.sparse import csr_matrix

        plain = 0.1 * (counts(texts) - self._shift) / self._scale
        weights, columns, ends, known = [], [], [0], []
        grams = [v.build_analyzer() for v in self._vectorizers]
        for text, eight in zip(texts, plain.astype(np.float32), strict=True):
            first = seen = strange = 0  # the first column of a vectorizer; n-grams in and outside the vocabularies
            for vectorizer, grams_of in zip(self._vectorizers, grams, strict=True):
                times = Counter(map(vectorizer.vocabulary_.get, grams_of(text)))
                strange += times.pop(None, 0)
                column = np.array(sorted(times), np.int32)
                often = np.array([times[c] for c in column.tolist()], np.float32)
                weight = (np.log(often) + np.float32(1)) * vectorizer.idf_[column]
                squares = np.cumsum(weight * weight, dtype=np.float64)
                weights.append(weight / np.sqrt(squares[-1]) if len(weight) else weight)
                columns.append(column + first)
                seen += int(often.sum())
                first += len(vectorizer.vocabulary_)
            weights.append(eight[eight != 0])
            columns.append(first + np.flatnonzero(eight))
            ends.append(ends[-1] + sum(map(len, columns[-3:])))
            known.append(seen / max(seen + strange, 1))
        width = sum(len(v.vocabulary_) for v in self._vectorizers) + 8
        values = np.concatenate(weights or [[]], dtype=np.float32, casting="same_kind")
        at = np.concatenate(columns or [[]], dtype=np.int32, casting="unsafe")
        return csr_matrix((values, at, np.array(ends, np.int32)), (len(texts), width)), np.array(known)

    def _project(self, wide: Any, known: np.ndarray) -> Views:
        dense = np.hstack([wide @ self._axes, wide[:, -8:].toarray()])
        return Views(wide, dense.astype(np.float32), known=known)

    def _fitted(self, number: int, texts: Sequence[str]):
        for rare in (2, 1) if len(texts) >= 20 else (1,):
            with contextlib.suppress(ValueError):  # no word is in `rare` texts
                return _vectorizer(number, {"max_features": self.most, "min_df": rare}).fit(texts)
        return _vectorizer(number, {"vocabulary": {"": 0}}).fit(texts)

    def state(self) -> State:
        if not self._vectorizers:
            raise FeatureError(_UNFITTED)
        arrays, words = {"axes": self._axes.T, "shift": self._shift, "scale": self._scale}, []
        for number, vectorizer in enumerate(self._vectorizers):
            arrays[f"idf{number}"] = vectorizer.idf_.astype(np.float32)
            words.append(sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.get))
        return arrays, {"width": self.width, "most": self.most, "vocabulary": words}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> "Tfidf":
        features = cls(values["width"], values["most"])
        features._axes = np.ascontiguousarray(arrays["axes"].T)  # the sparse product copies any other order each time
        features._shift, features._scale = arrays["shift"], arrays["scale"]
        for number, words in enumerate(values["vocabulary"]):
            vectorizer = _vectorizer(number, {"vocabulary": {w: i for i, w in enumerate(words)}})
            vectorizer.idf_ = arrays[f"idf{number}"]
            features._vectorizers.append(vectorizer)
        return features


def _vectorizer(number: int, vocabulary: dict[str, Any]):
    """The vectorizer of words (0) or of characters (1); `vocabulary` says how to find it, or what it is."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = {"token_pattern": r"\w+|[^\w\s]", "ngram_range": (1, 2), "lowercase": True}
    characters = {"analyzer": "char", "ngram_range": (1, 3), "lowercase": False}
    return TfidfVectorizer(**(words, characters)[number], **vocabulary, sublinear_tf=True, dtype=np.float32)  # pyright: ignore


class RandomFeatures:
    """A random vector for each text, drawn by its hash: whatever a router learns from it is luck."""

    name = "random"

    def __init__(self, width: int = 64) -> None:
        self.width = width

    def fit(self, texts: Sequence[str]) -> Self:
        return self

    def views(self, texts: Sequence[str]) -> Views:
        matrix = np.array([self._row(t) for t in texts]).reshape(len(texts), self.width)
        return Views(matrix, matrix)

    def _row(self, text: str) -> np.ndarray:
        rng = np.random.default_rng(int(content_hash([text])[:15], 16))
        return rng.standard_normal(self.width).astype(np.float32)

    def state(self) -> State:
        return {}, {"width": self.width}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> "RandomFeatures":
        return cls(values["width"])


class LengthFeatures(RandomFeatures):
    """log(1 + characters) of a text, and nothing else."""

    name = "length"

    def __init__(self, width: int = 1) -> None:
        super().__init__(width)

    def _row(self, text):
        return np.log1p([float(len(text))])


def content_hash(texts: Sequence[str]) -> str:
    """A hash of the texts and their order."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
