"""How far a judge can be trusted: agreement with gold grades, effect of the order, attacks, and corrected accuracy."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

from routerlab.core.invariants import Grade
from routerlab.core.queries import Query
from routerlab.core.runs import root
from routerlab.evaluate.stats import wilson
from routerlab.grade.judge import Ask, Comparison, JudgeError, Preference, asked, compare_by, grade_by


class AuditError(ValueError):
    """Numbers that cannot be audited; the message says what is needed."""


class Share(NamedTuple):
    """`count` of `n`, with the Wilson interval (1927) of the share: [0, 1] where n is 0."""

    count: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        return self.count / self.n if self.n else math.nan

    def __str__(self) -> str:
        return f"{self.count} of {self.n} ({self.rate:.1%}, 95 % interval {self.low:.1%} to {self.high:.1%})"


def share(count: int, n: int) -> Share:
    """A share with its Wilson interval."""
    return Share(count, n, *(float(end) for end in wilson(count, n)))


def kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Cohen's kappa (1960) of two raters: (agreement - chance) / (1 - chance).

    Pairs with a None are left out. NaN where chance alone would always agree (both raters use one and the same word).
    """
    if len(a) != len(b):
        raise AuditError(f"kappa needs two ratings of each item, not {len(a)} and {len(b)}")
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if not pairs:
        raise AuditError("no item has both ratings; grade the gold set with the judge first")
    n = len(pairs)
    left, right = Counter(x for x, _ in pairs), Counter(y for _, y in pairs)
    chance = sum(left[k] * right[k] for k in left) / n**2
    agreement = sum(x == y for x, y in pairs) / n
    return (agreement - chance) / (1 - chance) if chance < 1 else math.nan


def swap_rate(comparisons: Sequence[Comparison]) -> Share:
    """The share of pairs on which the two orders disagree."""
    return share(sum(c.verdict == Preference.DISAGREE for c in comparisons), len(comparisons))


class Corrected(NamedTuple):
    """An accuracy as the judge saw it (`observed`) and corrected for its errors, with the interval of the latter."""

    accuracy: float
    low: float
    high: float
    observed: float
    sensitivity: float
    specificity: float


def rogan_gladen(correct: int, n: int, *, tp: int, fn: int, tn: int, fp: int, level: float = 0.95) -> Corrected:
    """The accuracy behind a judge's: (observed + specificity - 1) / (sensitivity + specificity - 1), cut to [0, 1].

    Rogan and Gladen (1978). The interval is by the delta method: the variances of the three shares, which come from
    different answers, add up. Each is taken with one success and one failure added, because a gold set on which the
    judge never failed does not prove that it cannot.

    Args:
        correct, n: the judge called `correct` of `n` answers correct.
        tp, fn: of the right answers of the gold set, how many the judge called correct, and how many not.
        tn, fp: of the wrong answers of the gold set, how many the judge called not correct, and how many correct.
        level: of the interval.

    Returns:
        The corrected accuracy, its interval, and the three shares it comes from.
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
            f"{specificity:.2f}): nothing can be corrected; choose another judge"
        )
    accuracy = min(1.0, max(0.0, (observed + specificity - 1) / power))
    parts = (1.0, correct, n), (accuracy**2, tp, right), ((1 - accuracy) ** 2, tn, wrong)
    variance = sum(weight * (k + 1) * (of - k + 1) / (of + 2) ** 2 / of for weight, k, of in parts) / power**2
    half = NormalDist().inv_cdf(0.5 + level / 2) * math.sqrt(variance)
    low, high = max(0.0, accuracy - half), min(1.0, accuracy + half)
    return Corrected(accuracy, low, high, observed, sensitivity, specificity)


class Attack(NamedTuple):
    """A wrong answer, alone and with an attack on the judge around it."""

    kind: str
    query: Query
    wrong: str
    answer: str


def attacks(path: Path | None = None) -> list[Attack]:
    """The committed suite data/judge/injections.jsonl, or another file of its form."""
    path = path or root() / "data" / "judge" / "injections.jsonl"

    def attack(line: str) -> Attack:
        row = json.loads(line)
        query = Query.ask(row["question"], row["reference"], verifier="judge", source="attack")
        text = row["attack"].replace("{wrong}", row["wrong"]).replace("{reference}", row["reference"])
        return Attack(row["kind"], query, row["wrong"], text)

    try:
        return [attack(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (ValueError, KeyError) as error:
        wants = "a JSON object of kind, question, reference, wrong and attack"
        raise AuditError(f"{path}: an attack is {wants} ({error})") from error


class Injected(NamedTuple):
    """How often an attack made a wrong answer CORRECT, of those the judge grades wrong when unattacked.

    After `errors` attacks the judge gave no verdict: they are in no share, because such an answer is missing.
    """

    share: Share
    errors: int
    skipped: int  # the judge does not call the wrong answer wrong even without an attack
    kinds: tuple[str, ...]  # of the attacks that succeeded


async def injection_rate(ask: Ask, suite: Sequence[Attack] | None = None) -> Injected:
    """Ask the judge about every attack of the suite, and about the same wrong answer without the attack."""
    suite = attacks() if suite is None else suite
    plain = await asyncio.gather(*(grade_by(ask, a.query, a.wrong) for a in suite))
    attacked = await asyncio.gather(*(grade_by(ask, a.query, a.answer) for a in suite))
    tried = [(a.kind, v.grade) for a, p, v in zip(suite, plain, attacked, strict=True) if p.grade is Grade.INCORRECT]
    graded = [(kind, grade) for kind, grade in tried if grade is not None]
    fooled = tuple(kind for kind, grade in graded if grade is Grade.CORRECT)
    return Injected(share(len(fooled), len(graded)), len(tried) - len(graded), len(suite) - len(tried), fooled)


class Audit(NamedTuple):
    """What `audit` measured; `gold` and `judged` are the two grades of each answer, None where the judge gave none."""

    injected: Injected
    swapped: Share
    undecided: int  # pairs on which the judge gave no verdict in at least one order
    gold: list[Grade]
    judged: list[Grade | None]

    def __str__(self) -> str:
        attacked, pairs = self.injected, list(zip(self.gold, self.judged, strict=True))
        count = Counter((g is Grade.CORRECT, j is Grade.CORRECT) for g, j in pairs if j is not None)
        right, wrong = (share(count[g, g], count[g, True] + count[g, False]) for g in (True, False))
        return "\n".join(
            (
                f"attacks: {attacked.share} turned a wrong answer into CORRECT; no verdict after {attacked.errors}; "
                f"{attacked.skipped} not tried, as the judge does not call the wrong answer wrong",
                *(f"  succeeded: {kind}" for kind in attacked.kinds),
                f"order: on {self.swapped} pairs the verdict changes with the order; no verdict on {self.undecided}",
                f"agreement with the gold grades: kappa {kappa(self.gold, self.judged):.3f}; called correct "
                f"{right} of the right answers, not correct {wrong} of the wrong ones; "
                f"no verdict on {sum(j is None for j in self.judged)}",
            )
        )


async def audit(ask: Ask, pairs: Sequence[tuple[Query, str, str]], gold: Sequence[tuple[Query, str, Grade]]) -> Audit:
    """Attack the judge with the committed suite, show it pairs of answers in both orders, and let it grade answers.

    Args:
        ask: sends messages to the judge and returns its text.
        pairs: a question and two answers to it, for the effect of the order.
        gold: a question, an answer and its grade by a verifier or a person.
    """
    injected = await injection_rate(ask)
    compared = (compare_by(ask, asked(q), one, two, q.reference) for q, one, two in pairs)
    verdicts = await asyncio.gather(*compared, return_exceptions=True)
    decided = [v for v in verdicts if isinstance(v, Comparison)]
    for error in verdicts:
        if isinstance(error, BaseException) and not isinstance(error, JudgeError):
            raise error
    judged = await asyncio.gather(*(grade_by(ask, q, answer) for q, answer, _ in gold))
    grades = [grade for _, _, grade in gold]
    return Audit(injected, swap_rate(decided), len(verdicts) - len(decided), grades, [v.grade for v in judged])
