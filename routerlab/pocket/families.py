"""The embedded workload: eleven procedural task families at four levels, and the worked steps of their answers.

Questions, wordings and scorers come from reasoning-gym, a generator with verifiable answers; `families.yaml` holds its
arguments. Difficulty rises with the level. `count_primes` is there because no small model can do it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

LEVELS = 4


@dataclass(frozen=True)
class Family:
    """One kind of question."""

    name: str  # of the reasoning-gym data set
    group: str
    levels: tuple[dict, ...]  # reasoning-gym arguments of each level
    scratch: Callable[[dict], str] | None = None  # from the metadata of a question to the worked steps of its answer
    commutes: bool = False  # operands in another order are the same question
    asked: bool = True  # whether the outcome table asks it; the models train on it either way


def _sums(steps: list[tuple[str, int]]) -> str:
    return ";".join(f"{text}={value}" for text, value in steps)


def _chain_sum(meta: dict) -> str:
    words = meta["expression"].split()
    total, steps = int(words[0]), []
    for sign, term in zip(words[1::2], words[2::2], strict=True):
        after = total + int(term) if sign == "+" else total - int(term)
        steps.append((f"{total}{sign}{term}", after))
        total = after
    return _sums(steps)


def _long_multiplication(a: int, b: int) -> list[tuple[str, int]]:
    steps, total = [], 0
    for place, digit in enumerate(reversed(str(b))):
        factor = int(digit) * 10**place
        product = a * factor
        steps.append((f"{a}*{factor}", product))
        if place:
            steps.append((f"{total}+{product}", total + product))
        total += product
    return steps


def _products(meta: dict) -> str:
    first, *rest = (int(x) for x in meta["expression"].split(" * "))
    steps = []
    for factor in rest:
        steps += _long_multiplication(first, factor)
        first *= factor
    return _sums(steps)


def _complex_arithmetic(meta: dict) -> str:
    (a, b), (c, d) = (map(int, meta[k]) for k in ("num1", "num2"))
    if meta["operation"] == "*":
        ac, bd, ad, bc = a * c, b * d, a * d, b * c
        steps = [(f"{a}*{c}", ac), (f"{b}*{d}", bd), (f"{ac}-{bd}", ac - bd)]
        return _sums([*steps, (f"{a}*{d}", ad), (f"{b}*{c}", bc), (f"{ad}+{bc}", ad + bc)])
    sign = 1 if meta["operation"] == "+" else -1
    return _sums([(f"{a}{meta['operation']}{c}", a + sign * c), (f"{b}{meta['operation']}{d}", b + sign * d)])


def _simple_equations(meta: dict) -> str:
    left, right = meta["equation"].split(" = ")
    total, factor, steps = int(right), 1, []
    for term in re.findall(r"[+-]? ?[^ +-]+", left):
        term = term.replace(" ", "").lstrip("+")
        if meta["variable"] not in term:
            steps.append((f"{total}-{term}", total - int(term)))
            total -= int(term)
        else:
            number = term.replace(meta["variable"], "").replace("*", "")
            factor = int(number + "1") if number in ("", "-") else int(number)
    return _sums([*steps, (f"{total}/{factor}", total // factor)])


def _base_conversion(meta: dict) -> str:
    source, target = meta["source_base"], meta["target_base"]
    digits = [meta["decimal_value"]] if source == 10 else [int(digit, 36) for digit in meta["source_repr"]]
    value, steps = digits[0], []
    for digit in digits[1:]:
        steps.append((f"{value}*{source}+{digit}", value * source + digit))
        value = value * source + digit
    while value and target != 10:
        steps.append((f"{value}/{target}", f"{value // target}r{value % target}"))
        value //= target
    return _sums(steps)


def _leg_counting(meta: dict) -> str:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    total, steps = 0, []
    for number, (animal, count) in enumerate(meta["animals"].items()):
        legs = count * ANIMALS[animal]
        steps.append((f"{count}*{ANIMALS[animal]}", legs))
        steps += [(f"{total}+{legs}", total + legs)] if number else []
        total += legs
    return _sums(steps)


def _load() -> tuple[dict[str, Family], tuple[str, ...]]:
    data = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    families = {
        name: Family(name, scratch=globals().get(f"_{name}"), **fields | {"levels": tuple(fields["levels"])})
        for name, fields in data["families"].items()
    }
    return families, tuple(data["phrases"])


FAMILIES, PHRASES = _load()
PHRASE = re.compile("|".join(re.escape(p) for p in sorted(PHRASES, key=len, reverse=True)))
