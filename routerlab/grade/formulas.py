"""The verifier of formulas, by math-verify."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from routerlab.core.queries import Query
from routerlab.grade import contract
from routerlab.grade.answers import FORMAT, Result, VerifyError, exact, reference, verdict
from routerlab.grade.assertions import asserted, sentences
from routerlab.grade.names import normal
from routerlab.grade.numeric import in_digits
from routerlab.grade.plain_math import delimited, in_symbols
from routerlab.grade.statements import PHRASES, SEVERAL, affirmed, last_stated, tidy

LONGEST = 2000  # characters of a formula; a longer one is no answer
_MATH = PHRASES["math_mode"]
_NAME = r"(?:\w|(?:\\left)?\(\s?[a-z](?:,\s?[a-z])+\s?(?:\\right)?\))"  # x, (x, y)
_WORD = r"(?<![\\\w])[^\W\d_]{2,}"
_RULES = yaml.safe_load(Path(__file__).with_name("numbers.yaml").read_text("utf-8"))["formulas"]


def math(query: Query, answer: str) -> Result:
    """Equal to the reference by math-verify, LaTeX or plain; it uses signals: call it in a main thread.

    math-verify calls two formulas it cannot compare in time different; here that is an error and not a wrong answer.
    """
    gold = (contract.boxed(reference(query)) or reference(query)).strip().strip("$")
    strict = contract.read(query, answer)
    if strict is not None:
        return verdict(_same(query, gold, strict), " by contract")
    text = tidy(answer)
    if len(text.split()) > 1 and (re.fullmatch(r"[-\d,.]+", gold) or not re.search(r"\d", text)):
        text = in_digits(text)
    text = re.sub(r"\$\s?[a-z]\s?\\(?:to|rightarrow)\b[^$]{1,40}\$", "", delimited(in_symbols(text)))  # "as $x \\to 0$"
    text = asserted(text, _valued) if not gold.startswith(r"\text") else text
    if pair := re.fullmatch(r"(?:\\pm|±)\s*([^,±]+)", gold):
        gold = gold if "±" in text or r"\pm" in text else f"{pair[1]}, -{pair[1]}"
    for sign, words in (
        ("emptyset|varnothing", "no (?:real )?solutions?"),
        (r"mathbb\{?R|-\\infty, ?\\infty", "all reals?(?: numbers)?"),
    ):
        if re.search(sign, gold) and re.fullmatch(rf"[\w\s']{{0,30}}\b{words}\W*", text, re.I):
            return verdict(True)
    if text.strip() and _plain(answer) == _plain(gold):
        return verdict(True)
    if re.search(r"\\circ|°", gold) and re.search(r"\bradians?\b", text) and not re.search(r"\\circ|°|degree", text):
        return verdict(False)
    said = last_stated(text, formula, _weak) if text.strip() else None
    if name := re.fullmatch(r"\\(?:text|textbf|mbox)\{([^{}]+)\}", gold):
        query = replace(query, reference=name[1], verifier="exact")
        return next((x for x in (exact(query, end) for end in _ends(answer)) if x.quality), verdict(False))
    if said is None:
        return FORMAT
    if _listed(query, gold, said, text) or (said == SEVERAL and _in_two_forms(query, gold, text)):
        return verdict(True)
    if "," in gold and affirmed(text[-LONGEST:]) is not None:
        values = [_content(m) for m in _MATH.finditer(_main(text.strip().rpartition("\n")[2]))]
        if (said == SEVERAL and gold[0] not in "([") or (
            len(values) == gold.count(",") + 1 and (gold[0] not in "([\\" or gold.startswith(r"\{"))
        ):
            said = ", ".join(value.rpartition("=")[2] for value in values) or said
            said = rf"\{{{said}\}}" if gold.startswith(r"\{") and values else said
    if said == SEVERAL and r"\cup" in gold:
        parts = [_readable(_content(m)) for m in _MATH.finditer(text.strip().rpartition("\n")[2])]
        said = r"\cup ".join(parts) if len(parts) > 1 and all(part[0] in "([" for part in parts) else said
    if re.match(r"\\[gl]eq?(?![a-z])|[<>≤≥]", said):
        return verdict(False)
    forms = [said] if said != SEVERAL else [text[start:end] for start, end in contract.boxes(text)[-3:]]
    one = len(forms) > 1 or said != SEVERAL  # one value in several forms
    return verdict(one and all(_same(query, gold, form) for form in forms))


def _listed(query: Query, gold: str, said: str, text: str) -> bool:
    """Whether the reference is several values, and the last sentence with formulas lists just these, in any order."""
    wanted = _items(gold)
    if len(wanted) == 1 and len(re.findall(r"\\pm\b|±", gold)) == 1:
        wanted = [re.sub(r"\\pm\b|±", sign, gold) for sign in "+-"]
    if not 1 < len(wanted) <= 6:
        return False
    sentence = _last_with_formulas(text)
    if affirmed(sentence) is None or re.search(r"(?i)\b(?:only|between|neither|from)\b", sentence):
        return False
    listed: list[str] = []
    before: re.Match | None = None
    for formula in reversed(list(_MATH.finditer(sentence))):
        gap = sentence[formula.end() : before.start()] if before else ""
        if before and not re.fullmatch(r"[\s,;&]*(?:and|or)?\s*(?:[a-z](?:_\w)? ?=)?\s*", gap):
            break
        before, listed = formula, [*_items(_content(formula)), *listed]
        if len(listed) > len(wanted):
            return False
    listed = _items(said) if said != SEVERAL and len(_items(said)) > 1 else listed
    if len(listed) == 1 and len(re.findall(r"\\pm\b|±", listed[0])) == 1:
        listed = [re.sub(r"\\pm\b|±", sign, listed[0]) for sign in "+-"]
    if len(listed) != len(wanted):
        return False
    for value in wanted:
        same = next((x for x in listed if _same(query, _bare(value), _bare(x))), None)
        if same is None:
            return False
        listed.remove(same)
    return True


def _last_with_formulas(text: str) -> str:
    line = next((x for x in reversed(text.split("\n")) if _MATH.search(x)), "")
    return next((x for x in reversed(re.split(r"(?<=[\w$)}])\. (?=[A-Z])", line)) if _MATH.search(x)), "")


def _in_two_forms(query: Query, gold: str, text: str) -> bool:
    """Whether the last sentence with formulas ends with two forms of the reference: "13/2, or 6.5"."""
    *_, one, other = [None, None, *_MATH.finditer(sentence := _last_with_formulas(text))]
    if (
        not one
        or not other
        or affirmed(sentence) is None
        or re.match(r"[^a-z]*(?!if\b|when\b)\w", sentence[other.end() :])
    ):
        return False
    linked = re.fullmatch(r",? or (?:as a decimal |equivalently |simply )?", sentence[one.end() : other.start()])
    return bool(linked) and all(_same(query, gold, _content(form)) for form in (one, other))


def _bare(value: str) -> str:
    return re.sub(r"^\s*[a-z](?:_\{?\w\}?)?\s*=(?!.*=)", "", value).strip()


def _items(text: str) -> list[str]:
    """What the commas outside of brackets separate."""
    items, depth = [""], 0
    for token in re.findall(r"\\.|[\s\S]", text):
        depth += (token in ("(", "[", "{", r"\{")) - (token in (")", "]", "}", r"\}"))
        if token in ",;" and not depth:
            items.append("")
        else:
            items[-1] += token
    return [item.strip() for item in items if item.strip()] or [text]


def _ends(answer: str) -> Iterator[str]:
    """Where a text can name its answer: all of it; after two other sentences, its last one and what is bold there."""
    yield answer
    *work, end = sentences(answer.strip()) or [""]
    if len(work) > 1 and not end.endswith("?"):
        yield end
        yield from re.findall(r"\*\*([^*\n]{1,60})\*\*", end)[-1:]


def _valued(sentence: str) -> bool:
    return re.search(r"[\d$=]|\\[a-zA-Z]", sentence) is not None


def _content(match: re.Match) -> str:
    return next(filter(None, match.groups())).strip().rstrip(".,;")


def formula(phrase: str) -> str | None:
    """The formula a phrase states; SEVERAL if it denies it or leaves open which of several."""
    kept = affirmed(re.sub(r"\\not\b|\\neq?\b", "≠", _main(phrase.strip().rstrip("."))))
    if kept is None or PHRASES["two_formulas"].search(kept):
        return SEVERAL
    inline = list(_MATH.finditer(kept))
    if inline and PHRASES["formula_bound"].search(kept[: inline[-1].start()].replace("$", "")):
        return SEVERAL
    names = [_content(m).partition("=")[::2] for m in inline]
    if len({value for name, value in names if name.strip() == names[0][0].strip()}) > 1 and all(v for _, v in names):
        return SEVERAL  # x = 1, x = 2
    gap = kept[inline[-2].end() - 1 : inline[-1].start() + 1] if len(inline) > 1 else ""
    if PHRASES["listed_formula"].fullmatch(gap) and "=" not in _content(inline[-1]):
        return SEVERAL
    if PHRASES["several_formulas"].search(re.sub(r"\(or [^()]*\)", "", _MATH.sub(" ", kept))) and (
        len(inline) != 1 or kept.lower().startswith("either")
    ):
        return SEVERAL
    return _content(inline[-1]) if inline else PHRASES["formula_reason"].split(kept)[0].strip(" $*`:") or None


def _main(sentence: str) -> str:
    """A sentence without its reason or condition, unless the formula stands there."""
    sentence = PHRASES["formula_remark"].sub("", sentence)
    end = PHRASES["conclusion"].split(sentence)[-1]
    short = PHRASES["formula_aside"].sub("", end if re.search(r"[\d$\\]", end) else sentence)
    return short if re.search(r"[\d$\\]", short) else sentence


def _weak(text: str) -> str | None:
    """The formula of a text without an explicit statement: its last one, or all of a short text."""
    rows = re.findall(r"\\begin\{(?:align|gather|equation)(?:ed)?\*?\}([^$]{1,2000}?)\\end\{", text)
    if rows and text.rstrip().endswith("}"):
        return rows[-1].strip().split("\\\\")[-1].replace("&", "").rpartition("=")[2].strip() or None
    formulas = list(_MATH.finditer(text))
    line = text[text.rfind("\n", 0, formulas[-1].start()) + 1 :] if formulas else text.strip().rpartition("\n")[2]
    every = re.split(r"(?<=[\w$)}])\. (?=[A-Z])", line.partition("\n")[0].strip().rstrip("."))
    every = [y for x in every for y in PHRASES["in_other_words"].split(x)]
    every = [_main(PHRASES["formula_lead"].sub("", x, count=1)) for x in every]
    every = [x for x in every if x and affirmed(x) is not None and not PHRASES["note"].match(x)] or every
    every = [x for x in every if not re.match("about|approx|roughly|≈", x)] or every
    value = PHRASES["formula_is"].split(every[-1])[-1]
    if formulas and re.fullmatch(r"[-\d./,]{1,20}(?: \w+)?", value):
        return value  # "The remainder of $2^9$ divided by 7 is 1."
    if formulas:
        last = next((x for x in reversed(every) if _MATH.search(x)), line)
        value = formula(last)
        return value if value == SEVERAL or _MATH.search(line) else _content(formulas[-1])
    if affirmed(every[-1]) is None:
        return SEVERAL
    value = value if re.search(_WORD, every[-1]) else every[-1]
    few = len(re.findall(_WORD, value)) <= (4 if re.search(r"[\d\\=^]", value) else 2)
    return formula(value) if few else None


def _same(query: Query, gold: str, said: str) -> bool:
    from math_verify import parse, verify
    from math_verify.errors import TimeoutException

    said = _readable(said if "=" in gold else re.sub(rf"^\s*{_NAME}\s*(?:=|∈|\\in\b)\s*(?=\S)", "", said))
    gold = _readable(gold)
    if "=" not in gold and "," not in said and _plain(said).rpartition("=")[2] == _plain(gold):
        return True
    same = normal(_plain(said)) == normal(_plain(gold)) and said.count("!") == gold.count("!")
    if same or _plain(said) == _plain(gold):
        return True
    *_, right = re.split(r"\\(?:to|implies|iff|(?:[Ll]ong)?[Rr]ightarrow)(?![a-zA-Z])|[→⇒⟹]", said)
    said = right if right.count("{") == right.count("}") and "lim" not in said else said
    left, _, right = said.rpartition("=")
    whole = "=" not in gold and left.count("{") == left.count("}")
    if left and whole and re.match(r"\s*(?:\\left)?[(\[]|\\?\{", right):
        said = right  # {x : 1 < x < 2} = (1, 2)
    if len(said) > LONGEST or _unlike(gold, said):
        return False
    try:
        wanted, read = (parse(f"\\boxed{{{x}}}", raise_on_error=True) for x in (gold, said))
        if not wanted:
            raise VerifyError(f"query {query.id}: math-verify cannot read {gold!r}; use 'exact'")
        return bool(read) and verify(wanted, read, raise_on_error=True)
    except TimeoutException as error:
        raise TimeoutError(f"math-verify took too long on query {query.id}") from error


def _unlike(gold: str, said: str) -> bool:
    """What math-verify takes for equal and is not: a numeral of another base, a set and a tuple or interval."""
    bases = [set(re.findall(r"\d_\{?(\d+)", x)) for x in (gold, said)]
    kinds = [re.match(r"(?:\\left)?(\\\{|\(|\[)", x.replace(" ", "")) for x in (gold, said)]
    other = kinds[0] and kinds[1] and (kinds[0][1] == r"\{") != (kinds[1][1] == r"\{")
    return bool(other) or (all(bases) and bases[0] != bases[1])


def _readable(text: str) -> str:
    text = re.sub(r"^\s*=|(?<!\\)\\[!,;: ]", "", re.sub(r",\\!\s*(?=\d{3})", "", text))
    for pattern, becomes in _RULES:
        text = re.sub(pattern, becomes, text)
    text = re.sub(r"(?<!\d)(\d{0,50})\.(\d{0,50})\\overline\{(\d{1,50})\}", _fraction, text)
    text = re.sub(r"([bpBV])matrix\b", "pmatrix", text)
    if rows := re.fullmatch(r"\s*\[\s*(\[[^\[\]]+\](?:,\s*\[[^\[\]]+\])*)\s*\]\s*", text):
        rows = [row.replace(",", "&") for row in re.findall(r"\[([^\[\]]+)\]", rows[1])]
        text = r"\begin{pmatrix}" + r" \\ ".join(rows) + r"\end{pmatrix}"
    text = re.sub(r"\\text\s?\{[^{}]*\}\s*$", "", text) if re.search(r"\d", text) else text
    text = re.sub(r"(?<=\d)\{,\}(?=\d{3})", ",", text).replace("°", r"^\circ").strip(" $")
    above = re.fullmatch(r"\s*[a-z]\s*(>|≥)([^<>≤≥=]+)", re.sub(r"\\geq?(?![a-z])|>=", "≥", text))
    if above:
        return ("[" if above[1] == "≥" else "(") + above[2] + r",\infty)"
    sides = re.fullmatch(r"(?:([^<>≤=]+)(<|≤))?\s*[a-z]\s*(<|≤)([^<>≤=]+)", re.sub(r"\\leq?(?![a-z])|<=", "≤", text))
    if not sides:
        return text
    low, over, under, high = sides.groups()  # x < 2 is the interval below 2
    return ("[" if over == "≤" else "(") + (low or r"-\infty") + "," + high + ("]" if under == "≤" else ")")


def _fraction(digits: re.Match) -> str:
    whole, still, again = digits.groups()
    below = (10 ** len(again) - 1) * 10 ** len(still)
    return rf"\frac{{{int(whole + still + again) - int('0' + whole + still)}}}{{{below}}}"


def _plain(text: str) -> str:
    """LaTeX without what does not change its meaning: spacing, delimiters, sizes, text in braces."""
    text = re.sub(r"\\(?:left|right|!|,|;|:|displaystyle|\(|\)|\[|\])|[\s$]", "", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\\(?:text|mathrm|textbf|mbox)\{([^{}]{0,500})\}", r"\1", text).replace("°", r"^\circ")
    return re.sub(r"(?<=\d)\{,\}(?=\d{3})", "", re.sub(r"_\{(\w)\}", r"_\1", text)).rstrip(".")
