"""Routers that read the question."""

import numpy as np

from routerlab.routers.protocol import ScoreRouter


class TfidfRidge(ScoreRouter):
    """Ridge regression from TF-IDF of words and characters to every model's quality and cost.

    One linear model for all targets; costs are learned in units of their mean. Missing outcomes take the column mean
    of what is there. Salton and Buckley (1988) for the features, Hoerl and Kennard (1970) for the regression.
    """

    name = "TF-IDF ridge"

    def __init__(self, lam: float = 0.0, alpha: float = 1.0) -> None:
        super().__init__(lam)
        self.alpha = alpha

    def _fit(self, queries, quality, usd):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline, make_union

        words = TfidfVectorizer(
            token_pattern=r"\S+", ngram_range=(1, 2), min_df=2, sublinear_tf=True
        )
        letters = TfidfVectorizer(
            analyzer="char", ngram_range=(1, 3), min_df=2, lowercase=False, sublinear_tf=True
        )
        self._scale = np.nanmean(usd)
        targets = np.hstack([quality, usd / self._scale])
        targets = np.where(np.isnan(targets), np.nanmean(targets, 0), targets)
        self._model = make_pipeline(
            make_union(words, letters), Ridge(self.alpha, solver="sparse_cg", tol=1e-4)
        )
        self._model.fit([q.text for q in queries], targets)

    def _predict(self, queries):
        quality, usd = np.hsplit(self._model.predict([q.text for q in queries]), 2)
        return quality, np.maximum(usd, 0) * self._scale
