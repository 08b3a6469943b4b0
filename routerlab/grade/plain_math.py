"""Formulas in plain text, put between dollar signs so that one reader serves both; words that stand for formulas."""

import re

from routerlab.grade.numeric import SHARES, WORDS
from routerlab.grade.statements import PHRASES

_SYMBOLS = {"root": r"\\sqrt{\1}", "plus_minus": "±", "pi": r"\\pi ", "empty": r"\\emptyset", "infinity": "∞"}
_SYMBOLS |= {"squared": "^2", "cubed": "^3", "times": r" \\cdot ", "plus": " + ", "minus": "-", "plus_one": "1"}
_SYMBOLS |= {"logarithm": r"\\log", "factorial": "!", "except_for": ""}
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿˣ", "0123456789+-nx")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")


def in_symbols(text: str) -> str:
    """A text with "three quarters", "pi", "the square root of 2" and "fifty percent" as formulas."""
    text = PHRASES["share"].sub(lambda m: rf"\frac{{{_count(m[1])}}}{{{SHARES[m[2].lower().removesuffix('s')]}}}", text)
    text = PHRASES["unit_power"].sub("", text)
    text = re.sub(r"(?<![\d/.^])(\d{1,6}) (?:and )?(\d{1,6})/(\d{1,6})(?![\d/])", _mixed, text)
    text = re.sub("[⁰¹²³⁴-⁹⁺⁻ⁿˣ]+", lambda m: f"^{{{m[0].translate(_RAISED)}}}", text)
    text = re.sub("[₀-₉]+", lambda m: f"_{{{m[0].translate(_LOWERED)}}}", text)
    text = PHRASES["out_of"].sub(lambda m: rf"\frac{{{m[1] or 1}}}{{{m[2]}}}", text)
    for name, becomes in _SYMBOLS.items():
        text = PHRASES[name].sub(becomes, text)
    text = PHRASES["approximate"].sub(lambda m: next(filter(None, m.groups()), ""), text)
    text = re.sub(r"(?i)(?<=\b[a-z]) is (?:strictly )?(?:greater|larger|more) than (?=-?\d)", " > ", text)
    text = re.sub(r"(?i)(?<=\b[a-z]) is (?:strictly )?(?:less|smaller) than (?=-?\d)", " < ", text)
    return re.sub(r"(?i)(?<=\d) ?percent\b|(?<=\d) per cent\b", r"\%", text)


def _mixed(number: re.Match) -> str:
    whole, top, low = map(int, number.groups())
    return rf"\frac{{{whole * low + top}}}{{{low}}}"


def _count(word: str) -> int | str:
    return word if word.isdigit() else WORDS.get(word.lower(), 1)  # "a third"


def delimited(text: str) -> str:
    """A text without dollar signs or boxes, each run of formula in it between dollar signs."""
    if PHRASES["math_mode"].search(text) or re.search(r"boxed|[$]|</?[a-z]+>", text):
        return text
    return "\n".join(_line(line) for line in text.split("\n"))


def _line(line: str) -> str:
    out, run, depth = [], [], 0
    for token in [*PHRASES["math_token"].findall(line), ""]:
        depth += (token in "([{") - (token in ")]}") if token else 0
        ends = depth <= 0 and token.isspace() and run and run[-1] == ","
        if (not ends and token.strip() and PHRASES["math_word"].fullmatch(token.strip())) or (
            run and token.isspace() and not ends
        ):
            run.append(token)
            continue
        out.append(_wrapped("".join(run)))
        run = []
        out.append(token)
    return re.sub(r"(= ?[^$=]{1,40})\$(?:,| and) \$(?=[a-z] ?=)", r"\1, ", "".join(out))  # x = 2, y = -1


def _wrapped(run: str) -> str:
    """A run of formula tokens between dollar signs, what ends the sentence after it; a run without a value as it is."""
    body = run.rstrip(" \t.,;:!?") + ("!" if run.rstrip(" .,;:?").endswith("!") else "")
    if not PHRASES["math_value"].search(body) or body.count("(") < body.count(")"):
        return run
    return f"${body.strip()}${run[len(body) :]}"
