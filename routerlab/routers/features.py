"""What learned routers see of a question: weighted words and letters; `encoder` has the embedding of a model."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

_UNFITTED = "these features have seen no texts yet; call fit(texts) first"
State = tuple[dict[str, np.ndarray], dict[str, Any]]  # arrays, and what JSON can hold


class FeatureError(ValueError):
    """Features that cannot be made; the message names the cure."""


class Views(NamedTuple):
    """Two matrices with a row a text: `wide`, perhaps sparse, for linear models; `dense`, a few hundred columns, for
    neighbours, trees and networks.
    """

    wide: Any
    dense: np.ndarray

    def rows(self, at: np.ndarray) -> "Views":
        return Views(self.wide[at], self.dense[at])


class Features(Protocol):
    """Texts to matrices. `fit` sees the texts a router learns from, and those alone."""

    name: str

    def fit(self, texts: Sequence[str]) -> Self: ...
    def views(self, texts: Sequence[str]) -> Views: ...
    def state(self) -> State: ...


def counts(texts: Sequence[str]) -> np.ndarray:
    """Eight plain counts of each text, on a log scale: characters, words, lines, digits, capitals, signs, the longest
    word, and whether it ends in a question mark.
    """
    rows = [
        (
            len(t),
            len(t.split()),
            t.count("\n"),
            sum(map(str.isdigit, t)),
            sum(map(str.isupper, t)),
            len(re.findall(r"[^\w\s]", t)),
            max(map(len, t.split()), default=0),
            t.rstrip().endswith("?"),
        )
        for t in texts
    ]
    return np.log1p(np.array(rows, np.float32).reshape(len(texts), 8))


class Tfidf:
    """TF-IDF of words (one and two) and of characters (one to three), and plain counts; the dense view is their best
    `width`-dimensional projection. Salton and Buckley (1988); Deerwester et al. (1990).
    """

    name = "tfidf"

    def __init__(self, width: int = 256, most: int = 30_000) -> None:
        self.width, self.most = width, most
        self._parts: list[Any] = []
        self._held: dict[str, Views] = {}

    def fit(self, texts: Sequence[str]) -> Self:
        from sklearn.decomposition import TruncatedSVD

        if not len(texts):
            raise FeatureError("no texts to learn from; give at least one query")
        self._parts = [self._learned(i, texts) for i in (0, 1)]
        # What is random in the projection goes by place: the order of the texts must not decide it.
        order = sorted(range(len(texts)), key=texts.__getitem__)
        plain = counts(texts)[order]
        self._shift, self._scale = plain.mean(0), np.maximum(plain.std(0), 1e-3)
        wide = self._wide(texts)
        # A projection wider than the texts are many has nothing to project on.
        width = max(1, min(self.width, wide.shape[1] - 1, len(texts) - 1))
        reduced = TruncatedSVD(width, algorithm="randomized", n_iter=3, random_state=0)
        with np.errstate(divide="ignore", invalid="ignore"):  # texts that are all alike
            self._axes = np.asarray(reduced.fit(wide[order]).components_, np.float32)
        self._held = {content_hash(texts): self._project(wide)}
        return self

    def views(self, texts: Sequence[str]) -> Views:
        """The last eight columns of both are the standardised counts, a tenth of the weight of a text. The views of
        the last four sets of texts are kept, so routers that share features compute them once.
        """
        if not self._parts:
            raise FeatureError(_UNFITTED)
        key = content_hash(texts)
        if key not in self._held:
            self._held = dict([*self._held.items()][-3:])
            self._held[key] = self._project(self._wide(texts))
        return self._held[key]

    def _wide(self, texts: Sequence[str]) -> Any:
        from scipy.sparse import csr_matrix, hstack

        plain = csr_matrix(0.1 * (counts(texts) - self._shift) / self._scale)
        words = [p.transform(texts) if len(texts) else csr_matrix((0, len(p.vocabulary_))) for p in self._parts]
        return hstack([*words, plain], "csr", dtype=np.float32)

    def _project(self, wide: Any) -> Views:
        dense = np.hstack([wide @ self._axes.T, wide[:, -8:].toarray()])
        return Views(wide, dense.astype(np.float32))

    def _learned(self, number: int, texts: Sequence[str]):
        for rare in (2, 1) if len(texts) >= 20 else (1,):
            try:
                return self._vectorizer(number, rare=rare).fit(texts)
            except ValueError:  # no word is in two texts, or in any
                continue
        return self._vectorizer(number, {"": 0}).fit(texts)

    def _vectorizer(self, number: int, vocabulary=None, rare: int = 1):
        from sklearn.feature_extraction.text import TfidfVectorizer

        same: dict[str, Any] = {"sublinear_tf": True, "dtype": np.float32, "vocabulary": vocabulary}
        if vocabulary is None:
            same |= {"max_features": self.most, "min_df": rare}
        kinds: tuple[dict[str, Any], ...] = (
            {"token_pattern": r"\w+|[^\w\s]", "ngram_range": (1, 2), "lowercase": True},
            {"analyzer": "char", "ngram_range": (1, 3), "lowercase": False},
        )
        return TfidfVectorizer(**kinds[number], **same)

    def state(self) -> State:
        if not self._parts:
            raise FeatureError(_UNFITTED)
        arrays = {"axes": self._axes, "shift": self._shift, "scale": self._scale}
        words = []
        for number, part in enumerate(self._parts):
            arrays[f"idf{number}"] = part.idf_.astype(np.float32)
            words.append(sorted(part.vocabulary_, key=part.vocabulary_.get))
        return arrays, {"width": self.width, "most": self.most, "vocabulary": words}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> "Tfidf":
        made = cls(values["width"], values["most"])
        made._axes, made._shift, made._scale = (arrays[n] for n in ("axes", "shift", "scale"))
        made._parts = []
        for number, words in enumerate(values["vocabulary"]):
            part = made._vectorizer(number, {w: i for i, w in enumerate(words)})
            part.idf_ = arrays[f"idf{number}"]
            made._parts.append(part)
        return made


class RandomFeatures:
    """A random vector for each text that says nothing about it: what a router learns from it is luck."""

    name = "random"

    def __init__(self, width: int = 64) -> None:
        self.width = width

    def fit(self, texts: Sequence[str]) -> Self:
        return self

    def views(self, texts: Sequence[str]) -> Views:
        seeds = [int(content_hash([t])[:15], 16) for t in texts]
        rows = [np.random.default_rng(s).standard_normal(self.width) for s in seeds]
        made = np.array(rows, np.float32).reshape(len(texts), self.width)
        return Views(made, made)

    def state(self) -> State:
        return {}, {"width": self.width}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> "RandomFeatures":
        return cls(values["width"])


def content_hash(texts: Sequence[str]) -> str:
    """A hash of the texts and their order."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
