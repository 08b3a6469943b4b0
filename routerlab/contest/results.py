"""How routers did on one test split: areas, savings and differences, with intervals that all of them share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from routerlab.core.recorded import Recorded
from routerlab.evaluate import frontier as fr
from routerlab.evaluate import metrics, routellm_metrics
from routerlab.evaluate.stats import Interval, bootstrap_means, compared, p_value
from routerlab.routers.protocol import RouterError, ScoreRouter

# Columns of meta that name a kind of question.
DOMAIN = ("family", "domain", "category", "eval_name", "topic")


@dataclass(frozen=True)
class Entry:
    """A router as it ran: at each of its cost weights (`lam`) the quality, the cost (USD) and the chosen model of
    each test query (points x queries), what it reached on validation, and how long fitting took. `others` are the same
    router fitted from other seeds, at the same cost weights.
    """

    name: str
    router: Any
    lam: np.ndarray
    quality: np.ndarray
    usd: np.ndarray
    choice: np.ndarray
    validation: tuple[np.ndarray, np.ndarray]  # mean quality and cost (USD) at each point
    fit_s: float
    others: tuple["Entry", ...] = ()

    def over_trainings(self, read: Callable[["Entry"], np.ndarray]) -> np.ndarray:
        """What `read` gives of this entry (queries x things); of several trainings stacked along a last axis."""
        trained = [read(e) for e in (self, *self.others)]
        return np.stack(trained, -1) if self.others else trained[0]

    def at_best(self) -> int:
        """The point with the best quality on validation, of equals the cheapest."""
        quality, usd = self.validation
        return int(np.lexsort((usd, -quality))[0])

    def at_least(self, quality: float) -> int:
        """The cheapest point that reached this quality on validation; the best one if none did."""
        reached = self.validation[0] >= quality - 1e-12
        if not reached.any():
            return self.at_best()
        return int(np.where(reached, self.validation[1], np.inf).argmin())


@dataclass(frozen=True)
class Contest:
    """Entries on one test split, beside what bounds them. `single` is the model that was best in training."""

    test: Recorded
    entries: tuple[Entry, ...]
    quality: np.ndarray  # queries x models
    usd: np.ndarray
    other: np.ndarray | None  # mean quality of other tries, if the table has them
    single: int
    before: np.ndarray  # mean quality of each model on validation, then its mean cost (USD)
    clusters: np.ndarray
    seed: int
    left_out: Mapping[str, str]
    other_usd: np.ndarray | None = None  # mean cost of those other tries

    @property
    def single_validation(self) -> float:
        """What the best single model of the training split reached on validation."""
        return float(self.before[self.single])

    @property
    def ends(self) -> tuple[float, float]:
        """The interval of cost (USD a query) areas are taken over: from the cheapest model to the dearest."""
        means = self.usd.mean(0, dtype=float)
        return float(means.min()), float(means.max())

    def models(self) -> fr.Frontier:
        """Every single model as a point, its intervals over the same resamples as those of routers."""
        rng = np.random.default_rng(self.seed)
        return fr.singles(self.quality, self.usd, rng=rng, clusters=self.clusters)

    def frontier(self, entry: Entry) -> fr.Frontier:
        """The entry's operating points with intervals over clusters of queries."""
        quality, usd = (entry.over_trainings(lambda e, n=n: getattr(e, n).T) for n in ("quality", "usd"))
        rng = np.random.default_rng(self.seed)
        return fr.summarise(entry.name, entry.lam, quality, usd, rng=rng, clusters=self.clusters)

    def oracle(self, points: int = 60) -> tuple[fr.Frontier, fr.Frontier] | None:
        """(honest, naive) oracle, or None where the table has one try of each model."""
        if self.other is None:
            return None
        lams, rng = fr.lam_grid(self.usd, points), np.random.default_rng(self.seed)
        happened = self.quality, self.usd, self.other
        about = {"clusters": self.clusters, "other_usd": self.other_usd}
        return fr.oracle_bracket(*happened, lams, rng=rng, **about)

    def _resampled(self, columns: np.ndarray, resamples: int) -> np.ndarray:
        # The same draws for every router: comparisons are paired.
        rng = np.random.default_rng(self.seed)
        return bootstrap_means(columns, resamples, rng=rng, clusters=self.clusters)

    def table(self, resamples: int = 400):
        """One line a router (pandas), best area first: the area under its frontier, what it saves at the best single
        model's quality, its most frugal point that held that quality on validation and its best point, both against the
        best single model; each with the ends of its 95 % interval.
        """
        import pandas as pd

        rows: dict[str, dict[str, Any]] = {}
        for e in self.entries:
            scored = self._scores(e, resamples)
            rows[e.name] = {n: Interval.of(v, drawn) for n, (v, drawn) in scored.items()}
            rows[e.name]["fit s"] = e.fit_s
        frame = pd.DataFrame(rows).T
        return frame.iloc[np.argsort([-v.mean for v in frame["area"]], kind="stable")]

    def p_values(self, resamples: int = 400):
        """Of each router's difference to the best one in each column of `table` (pandas): the paired bootstrap's, not
        corrected for their number; 1 for the best itself.
        """
        import pandas as pd

        scored = {e.name: self._scores(e, resamples) for e in self.entries}
        p: dict[str, dict[str, float]] = {}
        for column in next(iter(scored.values())):
            top, drawn = max((s[column] for s in scored.values()), key=lambda pair: pair[0])
            for name, columns in scored.items():
                value, mine = columns[column]
                p.setdefault(name, {})[column] = p_value(top - value, drawn - mine)
        return pd.DataFrame(p).T

    def _scores(self, e: Entry, resamples: int) -> dict[str, tuple[float, np.ndarray]]:
        """Each column of `table`: its value, and its value on every resample."""
        base = self.quality[:, self.single], self.usd[:, self.single]
        columns = e.over_trainings(_points)
        singles = self._resampled(np.hstack([self.quality, self.usd]), resamples)
        means = self._resampled(columns, resamples)
        drawn = [self._areas(m, s) for m, s in zip(means, singles, strict=True)]
        areas = self._areas(_mean(columns), None)
        out = {n: (v, np.array([d[n] for d in drawn])) for n, v in areas.items()}

        def at_points(e: Entry) -> np.ndarray:
            frugal, best = e.at_least(self.single_validation), e.at_best()
            gained = e.quality[frugal] - base[0], e.quality[best] - base[0]
            return np.stack([*gained, e.usd[frugal], base[1]], 1)

        columns = e.over_trainings(at_points)
        value, means = _mean(columns), self._resampled(columns, resamples)
        out["frugal quality"] = float(value[0]), means[:, 0]
        out["frugal saving"] = float(_saved(*value[2:])), _saved(means[:, 2], means[:, 3])
        out["best quality"] = float(value[1]), means[:, 1]
        return out

    def _areas(self, means: np.ndarray, singles: np.ndarray | None) -> dict[str, float]:
        half, models = len(means) // 2, self.usd.shape[1]
        if singles is None:
            singles = np.concatenate([m.mean(0, dtype=float) for m in (self.quality, self.usd)])
        q, c = singles[:models], singles[models:]
        cheap = int(np.lexsort((-q, c))[0])
        # Any router can be mixed with the cheapest model, so its frontier begins there at the latest.
        points = fr.hull(np.append(means[half:], c[cheap]), np.append(means[:half], q[cheap]))
        saved = float(_saved(metrics.cost_at(points, q[self.single]), c[self.single]))
        ends = float(c.min()), float(c.max())
        return {
            "area": metrics.aiq(points, *ends) if ends[0] < ends[1] else float("nan"),
            # A frontier that never gets there saves nothing: one would call the best single model. Nor does any if
            # that is free.
            "saving": 0.0 if np.isnan(saved) else saved,
        }

    def against(self, name: str, resamples: int = 4000):
        """Every other router at its frugal point against `name` at its own: `stats.Comparison`s with Holm's correction
        and the minimum detectable difference.
        """
        chosen = {e.name: e.over_trainings(self._frugal) for e in self.entries}
        if name not in chosen:
            raise RouterError(f"no router {name!r} in this contest; it has {', '.join(chosen)}")
        names = [n for n in chosen if n != name]
        if not names:
            return []
        mean = {n: _mean(columns)[0] for n, columns in chosen.items()}
        drawn = {n: self._resampled(columns, resamples)[:, 0] for n, columns in chosen.items()}
        gaps = np.stack([drawn[n] - drawn[name] for n in names], 1)
        return compared(names, np.array([mean[n] - mean[name] for n in names]), gaps)

    def _frugal(self, e: Entry) -> np.ndarray:
        return e.quality[e.at_least(self.single_validation)][:, None]

    def two_models(self):
        """RouteLLM's measures (pandas) where there are two models: APGR and CPT over the share of calls to the stronger
        one, for every router that scores.
        """
        import pandas as pd

        if self.quality.shape[1] != 2:
            raise RouterError(f"APGR and CPT are of two models; this table has {self.quality.shape[1]}")
        strong, weak = self.single, 1 - self.single
        right = self.quality[:, weak], self.quality[:, strong]
        ends = float(right[0].mean()), float(right[1].mean())
        rows = {}
        for e in self.entries:
            if isinstance(e.router, ScoreRouter):
                scores = e.router.predict(self.test.queries)[0]
                points = routellm_metrics.routellm_points(scores[:, strong] - scores[:, weak], *right)
                shares = {f"CPT{x:.0%}": routellm_metrics.cpt(*points, x, *ends) for x in (0.2, 0.5, 0.8)}
                rows[e.name] = {"APGR": routellm_metrics.apgr(*points, *ends), **shares}
        return pd.DataFrame(rows).T.sort_values("APGR", ascending=False, kind="stable")

    def domains(self) -> np.ndarray | None:
        """The kind of each test query, if the table names kinds."""
        key = next((k for k in DOMAIN if k in self.test.queries[0].meta), None)
        return None if key is None else np.array([str(q.meta.get(key)) for q in self.test.queries])

    def chosen(self, *names: str) -> list[Entry]:
        """These entries (those that are here), in this order; of no names, all, the best on validation first."""
        if names:
            return [e for n in names for e in self.entries if e.name == n]
        areas = [self._areas(np.concatenate(e.validation), self.before)["area"] for e in self.entries]
        return [self.entries[i] for i in np.argsort(np.negative(areas), kind="stable")]

    def dominated(self) -> dict[str, list[str]]:
        """For each router at its frugal point, the single models that are at least as good and as cheap, and better in
        one.
        """
        found = {}
        for e in self.entries:
            at = e.at_least(self.single_validation)
            # Means of differences: those of one model's own calls are exactly 0, in any precision.
            paid = (self.usd - e.usd[at][:, None]).mean(0)
            gained = (self.quality - e.quality[at][:, None]).mean(0)
            beaten = metrics.dominance((np.zeros(1), np.zeros(1)), (paid, gained))[0]
            found[e.name] = [m for m, b in zip(self.test.table.models, beaten, strict=True) if b]
        return found


def _points(e: Entry) -> np.ndarray:
    return np.hstack([e.quality.T, e.usd.T])


def _mean(columns: np.ndarray) -> np.ndarray:
    return columns.mean((0, 2) if columns.ndim == 3 else 0, dtype=float)


def _saved(paid, single) -> np.ndarray:
    """1 - paid / single; NaN where the best single model is free."""
    single = np.asarray(single, float)
    return 1 - np.divide(paid, single, out=np.full(single.shape, np.nan), where=single > 0)
