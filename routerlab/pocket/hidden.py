"""A small made-up table on which looking at answers pays, with the best possible agent known in closed form."""

import datetime as dt
import hashlib
import itertools

from routerlab.core.outcomes import Grade, OutcomeTable
from routerlab.core.pools import ModelCard, Pool
from routerlab.core.queries import Query
from routerlab.core.recorded import Recorded

USD = {"modest": 0.3, "left": 0.5, "right": 0.5, "strong": 8.0}  # of a call
_RIGHT = {"modest": 3, "left": 7, "right": 7, "strong": 10}  # of ten questions, independently
_WRONG = {"modest": "I don't know", "left": "myth1", "right": "myth2", "strong": ""}


def hidden_knowledge() -> Recorded:
    """1,000 questions whose text does not say which model knows: `modest` is right on 30 % and else abstains, `left`
    and `right` are each right on 70 % and their wrong answers never agree, `strong` is always right.
    """
    queries, rows = [], []
    for number, digits in enumerate(itertools.product(range(10), repeat=3)):
        noise = hashlib.blake2b(str(number).encode(), digest_size=12).hexdigest()
        text = " ".join(noise[i : i + 6] for i in range(0, 24, 6))
        queries.append(Query.ask(text, "truth", source="hidden", split="train"))
        for model, digit in zip(USD, (*digits, 0), strict=True):
            right = digit < _RIGHT[model]
            grade = Grade.CORRECT if right else Grade.IDK if model == "modest" else Grade.INCORRECT
            answer = "truth" if right else _WRONG[model]
            rows.append((queries[-1].id, model, answer, grade, float(right), USD[model], 1, "stop"))
    names = ("query", "model", "answer", "grade", "quality", "usd", "tokens_out", "finish")
    table = OutcomeTable(dict(zip(names, zip(*rows, strict=True), strict=True)), tuple(USD))
    cards = [ModelCard(m, m, "standard", 0.0, 1e6 * usd, 1000, dt.date(2026, 1, 1)) for m, usd in USD.items()]
    return Recorded(queries, Pool("hidden", cards), table, {"how": "made up, see routerlab.pocket.hidden"}, "")


def best_reward(lam: float = 0.04) -> float:
    """What the best agent earns, quality - lam * usd, at cost weights around 0.04: it asks modest; if that abstains,
    left and right at once; if they disagree, strong. One call earns at most 0.7 - 0.5 lam.
    """
    return 1 - lam * (0.3 + 0.7 * (1 + 0.51 * 8))
