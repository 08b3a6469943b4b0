"""The embedded workload: eleven procedural task families at four levels, and how to work them out
step by step.

Questions, wordings and scorers come from reasoning-gym, a generator with verifiable answers. Difficulty rises with
the level; `count_primes` is there because no small model can do it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

# Wordings that never change become one token each (see `examples.tokenizer`): a tiny context then
# holds only what varies.
PHRASES = (
    "State the final answer to the following arithmetic problem: ",
    "Solve the following multiplication: ",
    ". Give only the result as your final answer.",
    "Add the complex numbers: ",
    "Subtract the complex numbers: ",
    "Multiply the complex numbers: ",
    "Solve for ",
    "Find the value of ",
    " in the equation: ",
    "Determine the value of ",
    " that satisfies: ",
    "Spell this word backward (example: sun -> nus): ",
    "Your task is, given a list of letters, to form a valid palindrome.\n\nA palindrome is a "
    "phrase that reads the same "
    "forwards and backwards.\n\nIf there are multiple possible answers, only respond with one of "
    "them. You must use all "
    "the letters provided.\n\nYour output should be a single string, with no spaces or "
    "punctuation.\n\nNow, form a valid "
    "palindrome using the following letters: ",
    "Your task is to sort words in ascending or descending order using ASCII/Unicode "
    "ordering.\n\nYour output should be a "
    "comma-separated list of words, e.g. word_1, word_2, word_3\n\nNow, sort these words in ",
    " order (using ASCII/Unicode ordering) and return them as a comma-separated list: ",
    "ascending",
    "descending",
    "Sort these numbers in ",
    " order: ",
    "Please follow the instruction below:\n## 1. Let all your answers be a list of numbers. "
    "Instead of reporting your "
    "answer as -69, -13, 1, 7, 11, 43, 59, 61, use ['-69', '-13', '1', '7', '11', '43', '59', "
    "'61'] instead\n## 2. Convert "
    "all numbers in the square brackets as strings. For example, ['-69', '-13', '1', '7', '11', "
    "'43', '59', '61']\n",
    "Your task is to convert a number between two different bases.\n\nIf the target base is > 10, "
    "use lowercase letters a-z "
    "for digits above 9.\n\nNow, convert the ",
    "base-",
    " number ",
    " to ",
    "Your task is to count how many legs there are in total when given a list of animals.\n\nNow, "
    "how many legs are there "
    "in total if you have ",
    "Count how many prime numbers there are between ",
    " and ",
    " (inclusive) ?",
    ".0i",
    ".0",
    ", ",
    " + ",
    " - ",
    " * ",
    " = ",
    "['",
    "', '",
    "']",
)
PHRASE = re.compile("|".join(re.escape(p) for p in sorted(PHRASES, key=len, reverse=True)))


LEVELS = 4


@dataclass(frozen=True)
class Family:
    """One kind of question: its group, reasoning-gym arguments by level, and how to work it out
    step by step.
    """

    name: str
    group: str
    levels: tuple[dict, ...]
    scratch: Callable[[dict], str] | None = None
    commutes: bool = False  # operands in another order are the same question
    asked: bool = True  # whether the table asks it; the models train on it either way


def _sums(steps: list[tuple[str, int]]) -> str:
    return ";".join(f"{text}={value}" for text, value in steps)


def _chain_sum(meta: dict) -> str:
    parts = meta["expression"].split()
    total, steps = int(parts[0]), []
    for sign, term in zip(parts[1::2], parts[2::2], strict=True):
        after = total + int(term) if sign == "+" else total - int(term)
        steps.append((f"{total}{sign}{term}", after))
        total = after
    return _sums(steps)


def _long_multiplication(a: int, b: int) -> list[tuple[str, int]]:
    steps, total = [], 0
    for place, digit in enumerate(reversed(str(b))):
        part = a * int(digit) * 10**place
        steps.append((f"{a}*{int(digit) * 10**place}", part))
        if place:
            steps.append((f"{total}+{part}", total + part))
        total += part
    return steps


def _products(meta: dict) -> str:
    first, *rest = (int(x) for x in meta["expression"].split(" * "))
    steps = []
    for factor in rest:
        steps += _long_multiplication(first, factor)
        first *= factor
    return _sums(steps)


def _complex(meta: dict) -> str:
    (a, b), (c, d) = (map(int, meta[k]) for k in ("num1", "num2"))
    if meta["operation"] == "*":
        ac, bd, ad, bc = a * c, b * d, a * d, b * c
        steps = [(f"{a}*{c}", ac), (f"{b}*{d}", bd), (f"{ac}-{bd}", ac - bd)]
        return _sums([*steps, (f"{a}*{d}", ad), (f"{b}*{c}", bc), (f"{ad}+{bc}", ad + bc)])
    sign = 1 if meta["operation"] == "+" else -1
    return _sums([(f"{a}{meta['operation']}{c}", a + sign * c), (f"{b}{meta['operation']}{d}", b + sign * d)])


def _equation(meta: dict) -> str:
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


def _base(meta: dict) -> str:
    source, target = meta["source_base"], meta["target_base"]
    value, steps = 0, []
    if source == 10:
        value = meta["decimal_value"]
    else:
        first, *digits = (int(digit, 36) for digit in meta["source_repr"])
        value = first
        for digit in digits:
            steps.append((f"{value}*{source}+{digit}", value * source + digit))
            value = value * source + digit
    while value and target != 10:
        steps.append((f"{value}/{target}", f"{value // target}r{value % target}"))
        value //= target
    return _sums(steps)


def _legs(meta: dict) -> str:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    total, steps = None, []
    for animal, count in meta["animals"].items():
        part = count * ANIMALS[animal]
        steps.append((f"{count}*{ANIMALS[animal]}", part))
        if total is not None:
            steps.append((f"{total}+{part}", total + part))
        total = part + (total or 0)
    return _sums(steps)


def _span(name: str, *ranges: tuple[int, int], **fixed) -> tuple[dict, ...]:
    return tuple({f"min_{name}": low, f"max_{name}": high, **fixed} for low, high in ranges)


def _plane(limit: int, *operations: str) -> dict:
    box = {f"{end}_{axis}": sign * limit for axis in ("real", "imag") for end, sign in (("min", -1), ("max", 1))}
    return {
        **box,
        "operations": operations,
        "operations_weights": [1 / len(operations)] * len(operations),
    }


_WHOLE = {"min_decimals": 0, "max_decimals": 0}
FAMILIES = {
    f.name: f
    for f in (
        Family(
            "chain_sum",
            "arithmetic",
            (
                {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
                {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 2},
                {"min_terms": 4, "max_terms": 4, "min_digits": 2, "max_digits": 2},
                {"min_terms": 5, "max_terms": 6, "min_digits": 2, "max_digits": 3},
            ),
            _chain_sum,
        ),
        Family(
            "products",
            "arithmetic",
            (
                {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
                {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 2},
                {"min_terms": 2, "max_terms": 2, "min_digits": 3, "max_digits": 3},
                {"min_terms": 2, "max_terms": 2, "min_digits": 4, "max_digits": 4},
            ),
            _products,
            commutes=True,
        ),
        Family(
            "complex_arithmetic",
            "arithmetic",
            (_plane(10, "+", "-"), _plane(50, "+", "-"), _plane(10, "*"), _plane(40, "*")),
            _complex,
        ),
        Family(
            "simple_equations",
            "arithmetic",
            (
                {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 12},
                {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 30},
                {"min_terms": 3, "max_terms": 3, "min_value": 1, "max_value": 50},
                {"min_terms": 4, "max_terms": 4, "min_value": 1, "max_value": 99},
            ),
            _equation,
            asked=False,  # too few equations up to wording and letter to keep splits apart
        ),
        Family("spell_backward", "words", _span("word_len", (3, 4), (5, 6), (7, 8), (9, 10))),
        Family(
            "palindrome_generation",
            "words",
            _span("length", (3, 4), (5, 6), (7, 8), (9, 11)),
            commutes=True,
        ),
        Family(
            "word_sorting",
            "words",
            _span("words", (2, 2), (3, 3), (4, 5), (6, 7), min_word_length=2, max_word_length=7),
            commutes=True,
        ),
        Family(
            "number_sorting",
            "other",
            tuple(
                {
                    "min_numbers": low,
                    "max_numbers": high,
                    "min_value": -top,
                    "max_value": top,
                    **_WHOLE,
                }
                for low, high, top in ((3, 3, 30), (4, 4, 99), (5, 6, 99), (7, 9, 999))
            ),
            commutes=True,
        ),
        Family(
            "base_conversion",
            "other",
            tuple(
                {"min_base": 2, "max_base": base, "min_value": low, "max_value": high}
                for base, low, high in ((5, 2, 60), (10, 10, 150), (16, 50, 400), (16, 400, 2000))
            ),
            _base,
        ),
        Family(
            "leg_counting",
            "other",
            tuple(
                {"min_animals": low, "max_animals": high, "min_instances": 1, "max_instances": top}
                for low, high, top in ((2, 2, 9), (3, 3, 12), (4, 5, 15), (6, 8, 15))
            ),
            _legs,
            commutes=True,
        ),
        Family(
            "count_primes",
            "impossible",
            tuple({"min_n": low, "max_n": high} for low, high in ((1, 4000), (1, 6000), (1, 8000), (1, 10000))),
        ),
    )
}
