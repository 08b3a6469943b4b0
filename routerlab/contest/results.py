"""How routers did on one test split: areas, gains over the random mix, savings, with intervals that all of them share.

Whatever is chosen is chosen before the test: the best single model, the interval of costs and the models of the random
mix on the training split; operating points and mixes of them on the validation split. The test only scores it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from routerlab.contest.entries import Entry as Entry
from routerlab.contest.entries import Plan
from routerlab.core.recorded import Recorded
from routerlab.evaluate import frontier as fr
from routerlab.evaluate import metrics, routellm_metrics
from routerlab.evaluate.mixes import Mix, cheapest_mix, path_area, path_quality
from routerlab.evaluate.stats import Comparison, Interval, bootstrap_means, column_means, compared, p_value
from routerlab.routers.protocol import RouterError, ScoreRouter

MEASURES = ("area", "gain", "AIQ", "saving", "frugal quality", "best quality")
RESAMPLES = 2000


@dataclass(frozen=True)
class Contest:
    """Entries on one test split, beside what bounds them. `single` is the model that was best in training."""

    test: Recorded
    entries: tuple[Entry, ...]
    quality: np.ndarray  # queries x models, NaN where an answer is missing
    usd: np.ndarray
    other: np.ndarray | None  # mean quality of other tries, if the table has them
    single: int
    before: np.ndarray  # mean quality of each model on validation, then its mean cost (USD)
    clusters: np.ndarray
    seed: int
    left_out: Mapping[str, str]
    other_usd: np.ndarray | None = None  # mean cost of those other tries
    training: np.ndarray | None = None  # as `before`, on the training split; without it `before` stands for it
    mix: Entry | None = None  # the random mix: its points are the vertices of the hull of single models in training
    category: str | None = None  # the column of meta that names the kind of a question
    trained_on: int = 0  # training questions
    _measures: dict[int, dict[str, dict[str, np.ndarray]]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def fixed(self) -> Entry:
        """The single model that was best on validation, of equals the cheapest, always called."""
        quality, usd = np.split(self.before, 2)
        m = np.lexsort((usd, -quality))[:1]
        played = self.quality[:, m].T, self.usd[:, m].T, np.full((1, len(self.quality)), m)
        return Entry("best fixed model", None, np.zeros(1), *played, (quality[m], usd[m]), 0.0)

    @property
    def everyone(self) -> list[Entry]:
        """The routers, then, where there is a random mix to compare with, that and the best fixed model."""
        return [*self.entries, *([self.mix, self.fixed] if self.mix else [])]

    @property
    def single_validation(self) -> float:
        """What the best single model of the training split reached on validation."""
        return float(self.before[self.single])

    @cached_property
    def cheapest(self) -> int:
        """The model with the least mean cost in training, of equals the best."""
        quality, usd = np.split(self.before if self.training is None else self.training, 2)
        return int(np.lexsort((-quality, usd))[0])

    @property
    def ends(self) -> tuple[float, float]:
        """The interval of cost (USD a query) areas are taken over: from the cheapest model's to the best single model's
        mean cost in training, so no dominated model moves it.
        """
        usd = np.split(self.before if self.training is None else self.training, 2)[1]
        return float(usd[self.cheapest]), float(usd[self.single])

    def models(self) -> fr.Frontier:
        """Every single model as a point, its intervals over the same resamples as those of routers."""
        rng, none = np.random.default_rng(self.seed), np.full(self.usd.shape[1], np.nan)
        return fr.summarise("single models", none, self.quality, self.usd, rng=rng, clusters=self.clusters)

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
        other = np.where(np.isnan(self.quality), np.nan, self.other)  # what cannot be scored cannot be chosen
        about = {"clusters": self.clusters, "other_usd": self.other_usd}
        return fr.oracle_bracket(self.quality, self.usd, other, lams, rng=rng, **about)

    def plan(self, e: Entry) -> Plan:
        """What is chosen for this entry on validation. A router that reaches the best single model's quality at no cost
        weight has that model as its frugal point: it saves nothing.
        """
        quality, usd = self._validated(e)
        points = len(e.lam)
        own = fr.corners(usd[:points], quality[:points])
        path = fr.corners(usd[:-1], quality[:-1])
        if e is self.mix:  # all of its points were chosen in training
            own = path = np.arange(points)[::-1]
        frugal = cheapest_mix(usd[:-1], quality[:-1], quality[-1]) or Mix(points + 1, points + 1, 1.0)
        return Plan(path, own, frugal, int(np.lexsort((usd[:points], -quality[:points]))[0]))

    def _validated(self, e: Entry) -> tuple[np.ndarray, np.ndarray]:
        """Mean quality and cost on validation: of each point, then of the cheapest and of the best single model."""
        points = (np.mean([t.validation[i] for t in (e, *e.others)], 0) for i in (0, 1))
        models = (side[[self.cheapest, self.single]] for side in np.split(self.before, 2))
        quality, usd = (np.append(*pair) for pair in zip(points, models, strict=True))
        return quality, usd

    def _tested(self, e: Entry) -> np.ndarray:
        """Quality, then cost, of each test query in the same order (queries x 2 (points + 2), perhaps x trainings)."""
        models = [self.cheapest, self.single]
        return e.over_trainings(
            lambda t: np.hstack([t.quality.T, self.quality[:, models], t.usd.T, self.usd[:, models]]).astype(float)
        )

    def resampled(self, values: np.ndarray, resamples: int = RESAMPLES, at: Any = slice(None)) -> np.ndarray:
        """Means of the columns of `values` (test queries `at` x things, perhaps x trainings), then those on every
        resample of the queries, which are the same whatever is compared: differences are paired.
        """
        rng = np.random.default_rng(self.seed)
        means = bootstrap_means(values, resamples, rng=rng, clusters=self.clusters[at])
        return np.vstack([column_means(values), means])

    def measures(self, resamples: int = RESAMPLES) -> dict[str, dict[str, np.ndarray]]:
        """By entry of `everyone` and column of `table`: the value on the test, then on every resample."""
        if resamples not in self._measures:
            measured = {e.name: self._measured(e, resamples) for e in self.everyone}
            mix = measured[self.mix.name] if self.mix else {}
            for columns in measured.values() if mix else ():
                columns["gain"] = columns["area"] - mix["area"]
            self._measures[resamples] = measured
        return self._measures[resamples]

    def _measured(self, e: Entry, resamples: int) -> dict[str, np.ndarray]:
        quality, usd = np.split(self.resampled(self._tested(e), resamples), 2, axis=1)
        (low, high), plan = self.ends, self.plan(e)
        nothing, single_usd = np.full(len(quality), np.nan), usd[:, -1]
        saving = 1 - np.divide(plan.frugal.of(usd), single_usd, out=np.ones_like(single_usd), where=single_usd > 0)
        return {
            "area": path_area(usd[:, plan.path], quality[:, plan.path], low, high) if low < high else nothing,
            "gain": nothing,
            "AIQ": path_area(usd[:, plan.own], quality[:, plan.own], 0, high, below=False) if high > 0 else nothing,
            "saving": saving,
            "frugal quality": plan.frugal.of(quality) - quality[:, -1],
            "best quality": quality[:, plan.best] - quality[:, -1],
            "at cost": path_quality(usd[:, plan.path], quality[:, plan.path], self.equal_usd),
        }

    def table(self, resamples: int = RESAMPLES):
        """One line an entry of `everyone` (pandas), the largest gain first; each value with its 95 % interval. area:
        mean quality over the costs between `ends`, any router mixed with the cheapest model. gain: area less that of
        the random mix. AIQ: RouterBench's, from cost 0, where quality is 0 below the router's cheapest point. saving:
        share of the best single model's cost saved by the cheapest mix of two points that was as good on validation;
        frugal quality: quality of that mix, best quality: of the best point on validation, both less the best single
        model's.
        """
        import pandas as pd

        rows = {
            name: {m: Interval.of(columns[m][0], columns[m][1:]) for m in MEASURES}
            for name, columns in self.measures(resamples).items()
        }
        frame = pd.DataFrame(rows, index=list(MEASURES)).T
        frame["fit s"] = {e.name: e.fit_s for e in self.everyone}
        keys = [[-np.nan_to_num(row[c].mean) for c in ("best quality", "area", "gain")] for row in rows.values()]
        return frame.iloc[np.lexsort(np.array(keys).T)]

    def operating_points(self):
        """The cost weights of what was chosen on validation (pandas): those of the frugal mix, the share of queries
        routed at the second, and that of the best point. NaN stands for a single model: the cheapest, or, for a router
        that is never as good, the best one.
        """
        import pandas as pd

        rows = {}
        for e in self.entries:
            plan, lam = self.plan(e), np.append(e.lam, [np.nan, np.nan])
            rows[e.name] = [lam[plan.frugal.cheap], lam[plan.frugal.dear], plan.frugal.share, lam[plan.best]]
        return pd.DataFrame(rows, index=["frugal λ", "and λ", "share of the second", "best λ"]).T

    def p_values(self, resamples: int = RESAMPLES):
        """Of each router's difference to the best one in each column of `table` (pandas): the paired bootstrap's, not
        corrected for their number; 1 for the best itself.
        """
        import pandas as pd

        values = {m: {n: columns[m] for n, columns in self.measures(resamples).items()} for m in MEASURES}
        tops = {m: max(of.values(), key=lambda v: v[0]) for m, of in values.items()}
        gaps = {m: {n: tops[m] - v for n, v in of.items()} for m, of in values.items()}
        return pd.DataFrame({m: {n: p_value(gap[0], gap[1:]) for n, gap in of.items()} for m, of in gaps.items()})

    @cached_property
    def equal_usd(self) -> float:
        """The cost (USD a query) at which routers are compared: that of the leader's frugal mix on validation."""
        leader = self.chosen()[0]
        return float(self.plan(leader).frugal.of(self._validated(leader)[1]))

    def against(
        self, name: str, measure: str = "area", resamples: int = RESAMPLES, among: Sequence[str] | None = None
    ) -> list[Comparison]:
        """Every other entry (or those `among` them) less `name` in a column of `table`, or in quality "at cost"
        `equal_usd`: paired differences with p-values, Holm's correction and the minimum detectable difference.
        """
        measured = self.measures(resamples)
        if name not in measured:
            raise RouterError(f"no router {name!r} in this contest; it has {', '.join(measured)}")
        others = [n for n in (measured if among is None else among) if n != name]
        values = np.array([measured[n][measure] - measured[name][measure] for n in others]).T
        return compared(others, values[0], values[1:]) if others else []

    def predicted(self, e: Entry) -> tuple[np.ndarray, np.ndarray]:
        """(quality, usd) that a router predicts for each test query and model of the table, NaN for models it lacks."""
        out = np.full((2, *self.usd.shape), np.nan)
        out[:, :, [self.test.table.models.index(m) for m in e.router.models]] = e.router.predict(self.test.queries)
        return out[0], out[1]

    def two_models(self):
        """RouteLLM's measures (pandas) where there are two models: APGR and CPT over the share of calls to the stronger
        one, for every router that scores.
        """
        import pandas as pd

        if self.quality.shape[1] != 2:
            raise RouterError(f"APGR and CPT are of two models; this table has {self.quality.shape[1]}")
        both, order, rows = ~np.isnan(self.quality).any(1), [1 - self.single, self.single], {}
        right = self.quality[both][:, order].T  # of the weaker model, then of the stronger one
        ends = [float(m.mean()) for m in right]
        for e in self.entries:
            if isinstance(e.router, ScoreRouter) and len(e.router.models) == 2:
                weak, strong = self.predicted(e)[0][both][:, order].T
                points = routellm_metrics.routellm_points(strong - weak, *right)
                shares = [routellm_metrics.cpt(*points, x, *ends) for x in (0.2, 0.5, 0.8)]
                rows[e.name] = [routellm_metrics.apgr(*points, *ends), *shares]
        frame = pd.DataFrame(rows, index=["APGR", "CPT20%", "CPT50%", "CPT80%"]).T
        return frame.sort_values("APGR", ascending=False, kind="stable")

    def domains(self) -> np.ndarray | None:
        """The kind of each test query, if the table names kinds."""
        key = self.category
        return None if key is None else np.array([str(q.meta.get(key)) for q in self.test.queries])

    def chosen(self, *names: str) -> list[Entry]:
        """These entries (those that are here), in this order; of no names, all, the best on validation first."""
        if names:
            return [e for n in names for e in self.entries if e.name == n]
        return sorted(self.entries, key=lambda e: -self._validation_area(e))

    def _validation_area(self, e: Entry) -> float:
        (quality, usd), at, (low, high) = self._validated(e), self.plan(e).path, self.ends
        return float(path_area(usd[at], quality[at], low, high)) if low < high else float(quality[at].max())

    def dominated(self) -> dict[str, list[str]]:
        """For each router the single models that dominate it on the test at its frugal mix, or at its best point if no
        mix is as good as the best single model on validation.
        """
        beaten = {}
        for e in self.entries:
            plan = self.plan(e)
            own = plan.frugal if plan.frugal.cheap <= len(e.lam) else Mix(plan.best, plan.best, 1.0)
            values = self._tested(e)
            quality, usd = (own.of(v) for v in np.split(values.mean(-1) if e.others else values, 2, axis=1))
            # Means of differences: those of one model's own calls are exactly 0, in any precision.
            paid, gained = (np.nanmean(m - v[:, None], 0) for m, v in ((self.usd, usd), (self.quality, quality)))
            dominates = metrics.dominance((np.zeros(1), np.zeros(1)), (paid, gained))[0]
            beaten[e.name] = [m for m, d in zip(self.test.table.models, dominates, strict=True) if d]
        return beaten
