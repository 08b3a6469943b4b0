"""How far a judge can be trusted: agreement with gold, order, attacks, and what its errors do to an accuracy."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from routerlab.core.invariants import Grade
from routerlab.core.queries import Query
from routerlab.core.runs import root
from routerlab.evaluate.stats import wilson
from routerlab.grade.judge import Ask, Comparison, Preference, grade_by


class AuditError(ValueError):
    """Numbers that no audit can be made of; the message says what is needed."""


@dataclass(frozen=True)
class Share:
    """`count` of `n`, with the Wilson interval (1927) of the share."""

    count: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        return self.count / self.n if self.n else math.nan


def share(count: int, n: int) -> Share:
    """A share with its Wilson interval; of nothing, the interval is [0, 1]."""
    low, high = wilson(count, n)
    return Share(count, n, float(low), float(high))


def kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Cohen's kappa (1960) of two raters: (agreement - chance) / (1 - chance).

    Pairs with a None are left out. NaN where chance alone would agree always (both raters say one and the same).
    """
    if len(a) != len(b):
        raise AuditError(f"kappa needs two ratings of each item, not {len(a)} and {len(b)}")
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if not pairs:
        raise AuditError("no item has both ratings; grade the gold set with the judge first")
    n = len(pairs)
    left, right = Counter(x for x, _ in pairs), Counter(y for _, y in pairs)
    chance = sum(left[k] * right[k] for k in left) / n**2
    agreed = sum(x == y for x, y in pairs) / n
    return (agreed - chance) / (1 - chance) if chance < 1 else math.nan


def swap_rate(comparisons: Sequence[Comparison]) -> Share:
    """The share of pairs on which the two orders disagree."""
    return share(sum(c.verdict == Preference.DISAGREE for c in comparisons), len(comparisons))


@dataclass(frozen=True)
class Corrected:
    """An accuracy as the judge saw it and corrected for its errors, with the interval of the corrected one."""

    accuracy: float
    low: float
    high: float
    observed: float
    sensitivity: float
    specificity: float


def rogan_gladen(correct: int, n: int, *, tp: int, fn: int, tn: int, fp: int, level: float = 0.95) -> Corrected:
    """The accuracy behind a judge's: (observed + specificity - 1) / (sensitivity + specificity - 1).

    The judge called `correct` of `n` answers correct. On the gold set it called `tp` of the right ones and `fp` of the
    wrong ones correct, `fn` and `tn` not. Rogan and Gladen (1978), cut to [0, 1]. The interval is by the delta method:
    the variances of the three shares, which come from different answers, add up; each is taken with one success and
    one failure added, for a gold set on which the judge never failed does not mean that it cannot.
    """
    right, wrong = tp + fn, tn + fp
    if not n or not right or not wrong or not 0 <= correct <= n:
        raise AuditError(
            f"correction needs answers ({correct} of {n}) and a gold set with right ({right}) and wrong ({wrong}) ones"
        )
    observed, sensitivity, specificity = correct / n, tp / right, tn / wrong
    power = sensitivity + specificity - 1
    if power <= 0:
        raise AuditError(
            f"the judge tells right from wrong no better than chance (sensitivity {sensitivity:.2f}, specificity "
            f"{specificity:.2f}): nothing can be corrected; take another judge"
        )
    accuracy = min(1.0, max(0.0, (observed + specificity - 1) / power))
    variance = (
        _variance(correct, n) + accuracy**2 * _variance(tp, right) + (1 - accuracy) ** 2 * _variance(tn, wrong)
    ) / power**2
    half = NormalDist().inv_cdf(0.5 + level / 2) * math.sqrt(variance)
    low, high = max(0.0, accuracy - half), min(1.0, accuracy + half)
    return Corrected(accuracy, low, high, observed, sensitivity, specificity)


def _variance(count: int, n: int) -> float:
    p = (count + 1) / (n + 2)
    return p * (1 - p) / n


@dataclass(frozen=True)
class Attack:
    """A wrong answer, alone and with an attack on the judge around it."""

    kind: str
    query: Query
    wrong: str
    answer: str


def attacks(path: Path | None = None) -> list[Attack]:
    """The committed suite data/judge/injections.jsonl, or another of its form."""
    path = path or root() / "data" / "judge" / "injections.jsonl"
    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            query = Query.ask(row["question"], row["reference"], verifier="judge", source="attack")
            text = row["attack"].replace("{wrong}", row["wrong"])
            text = text.replace("{reference}", row["reference"])
            out.append(Attack(row["kind"], query, row["wrong"], text))
        except (ValueError, KeyError) as error:
            raise AuditError(
                f"{path}, line {number}: an attack is a JSON object of kind, question, reference, "
                f"wrong and attack ({error})"
            ) from error
    return out


@dataclass(frozen=True)
class Injected:
    """How often an attack made a wrong answer CORRECT, of those the judge grades wrong when unattacked.

    `errors` attacks made the judge give no verdict at all: they are in no share, for such an answer is missing.
    """

    share: Share
    errors: int
    skipped: int  # the judge does not call the wrong answer wrong even without an attack
    kinds: tuple[str, ...]  # of the attacks that succeeded


async def injection_rate(ask: Ask, suite: Sequence[Attack] | None = None) -> Injected:
    """Ask the judge about every attack of the suite and about the same wrong answer without it."""
    suite = attacks() if suite is None else suite

    async def one(attack: Attack) -> tuple[Grade | None, Grade | None]:
        plain = await grade_by(ask, attack.query, attack.wrong)
        attacked = await grade_by(ask, attack.query, attack.answer)
        return plain.grade, attacked.grade

    grades = await asyncio.gather(*map(one, suite))
    tried = [(a, g) for a, (plain, g) in zip(suite, grades, strict=True) if plain is Grade.INCORRECT]
    held = [(a, g) for a, g in tried if g is not None]
    fooled = tuple(a.kind for a, g in held if g is Grade.CORRECT)
    errors, skipped = len(tried) - len(held), len(suite) - len(tried)
    return Injected(share(len(fooled), len(held)), errors, skipped, fooled)
