"""The verifier of instructions that a program can check: 24 of the 25 of IFEval (Zhou et al. 2023, arXiv:2311.07911).

meta carries `instructions`, a list of {"id", "kwargs"}, or the data set's columns `instruction_id_list` and `kwargs`.
An answer is correct when it follows all of them (the paper's strict, prompt-level score). language:response_language is
left out: it needs a language detector. Deviations: sentences are split by punctuation, not by a trained model, and
all-capitals does not also ask for English.
"""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from routerlab.core.queries import Query
from routerlab.grade.answers import FORMAT, MATCH, MISMATCH, Result, VerifyError


def instructions(query: Query, answer: str) -> Result:
    """Whether the answer follows every instruction of the query."""
    if not answer.strip():
        return FORMAT
    return MATCH if all(followed(query, answer).values()) else MISMATCH


def followed(query: Query, answer: str) -> dict[str, bool]:
    """Whether the answer follows each instruction; keys are "number name", because one may occur twice."""
    meta = query.meta
    if rules := [(r["id"], r.get("kwargs")) for r in meta.get("instructions") or ()]:
        names, options = zip(*rules, strict=True)
    else:
        names, options = meta.get("instruction_id_list"), meta.get("kwargs")
    if not names or options is None or len(names) != len(options):
        raise VerifyError(
            f"query {query.id}: 'instructions' needs meta['instructions'], a list of {{id, kwargs}}, or "
            f"instruction_id_list and kwargs of equal length"
        )
    out = {}
    for number, (name, option) in enumerate(zip(names, options, strict=True)):
        if name not in CHECKS:
            raise VerifyError(f"query {query.id}: no check for {name!r}; there are {', '.join(sorted(CHECKS))}")
        arguments = {k: v for k, v in (option or {}).items() if v is not None}
        try:
            out[f"{number} {name}"] = bool(CHECKS[name](answer, **arguments))
        except TypeError as error:
            raise VerifyError(f"query {query.id}: {name}: {error}") from error
    return out


def _compare(count: int, relation: str, bound: int) -> bool:
    if relation not in {"at least", "less than", "exactly"}:
        raise VerifyError(f"a relation is 'at least' or 'less than', not {relation!r}")
    return count == bound if relation == "exactly" else (count >= bound) is (relation == "at least")


def _counts(pattern: str, relation: str, bound: int | str, text: str, /, **options: Any) -> bool:
    """Whether the text follows an instruction of instructions.yaml."""
    needed = {*re.findall(r"\{([a-z_]+)\}", pattern), relation, bound} - {"at least", "exactly", 0, 1}
    if needed != options.keys():
        raise TypeError(f"it needs the options {', '.join(sorted(map(str, needed))) or 'none'}, not {sorted(options)}")
    pattern = re.sub(r"\{([a-z_]+)\}", lambda m: re.escape(options[m[1]].strip()), pattern)
    return _compare(len(re.findall(pattern, text)), options.get(relation, relation), options.get(str(bound), bound))


def sentences(text: str) -> list[str]:
    """A text cut after . ! ? before a space, but not after an initial, a title or "e.g."."""
    text = re.sub(r"\b((?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e))\.(?=\s)", r"\1․", text)
    pieces = re.split(r"(?<=[.!?])[\"'”’)\]]*\s+|\n{2,}", text)
    return [p.replace("․", ".") for p in pieces if re.search(r"\w", p)]


def _divided(text: str, divider: str) -> list[str]:
    """The stripped parts between dividers; an empty one counts between two dividers, not at the ends."""
    pieces = [p.strip() for p in re.split(divider, text)]
    return [p for i, p in enumerate(pieces) if p or 0 < i < len(pieces) - 1]


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    pieces = _divided(text, r"\s?\*\*\*\s?")
    return all(pieces) and len(pieces) == num_paragraphs


def _two_responses(text: str) -> bool:
    pieces = _divided(text, r"\*{6}")
    return len(pieces) == 2 and all(pieces) and pieces[0] != pieces[1]


def _nth_first(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = [p.strip() for p in text.split("\n\n") if p.strip()]
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    word = re.match(r"[\"'“‘*_]*([^\s.,?!\"'”’*_]+)", paragraphs[nth_paragraph - 1])
    return word is not None and word[1].lower() == first_word.lower()


def _postscript(text: str, postscript_marker: str) -> bool:
    letters = re.sub(r"[^A-Za-z]", "", postscript_marker)
    if not letters:
        return postscript_marker in text
    return re.search(r"^[^\S\n]*[*_]*" + r"\.?\s?".join(letters) + r"\b[^\n]*\S", text, re.M | re.I) is not None


def _highlights(text: str, num_highlights: int) -> bool:
    bold = re.findall(r"\*\*([^\n*]+)\*\*", text)
    plain = re.findall(r"\*([^\n*]+)\*", re.sub(r"\*\*[^\n*]+\*\*|^[^\S\n]*\*\s", "", text, flags=re.M))
    return sum(bool(x.strip()) for x in (*bold, *plain)) >= num_highlights


def _json(text: str) -> bool:
    try:
        json.loads(re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.I).strip())
    except (ValueError, RecursionError):
        return False
    return True


def _capitals(text: str, capital_frequency: int, capital_relation: str) -> bool:
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text)
    return _compare(sum(w.isupper() for w in words), capital_relation, capital_frequency)


_RULES = yaml.safe_load(Path(__file__).with_name("instructions.yaml").read_text("utf-8"))
CHECKS: dict[str, Callable[..., bool]] = {name: functools.partial(_counts, *rule) for name, rule in _RULES.items()} | {
    "keywords:existence": lambda text, keywords: all(k.casefold() in text.casefold() for k in keywords),
    "keywords:forbidden_words": lambda text, forbidden_words: (
        not any(re.search(rf"(?<!\w){re.escape(w)}(?!\w)", text, re.I) for w in forbidden_words)
    ),
    "length_constraints:number_sentences": lambda text, num_sentences, relation: _compare(
        len(sentences(text)), relation, num_sentences
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _nth_first,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:json_format": _json,
    "combination:two_responses": _two_responses,
    "change_case:english_capital": str.isupper,
    "change_case:english_lowercase": str.islower,
    "change_case:capital_word_frequency": _capitals,
}
