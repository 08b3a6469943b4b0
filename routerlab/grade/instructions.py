"""The verifier of instructions that a program can check: 24 of the 25 of IFEval (Zhou et al. 2023, arXiv:2311.07911).

meta carries `instructions`, a list of {"id", "kwargs"}, or the data set's columns `instruction_id_list` and `kwargs`.
An answer is correct when it follows all of them (the paper's strict, prompt-level score). language:response_language is
left out: it needs a language detector. Deviations: sentences are split by punctuation, not by a trained model, and
all-capitals does not also ask for English.
"""

import json
import re
from collections.abc import Callable, Iterator

from routerlab.core.queries import Query
from routerlab.grade.answers import FORMAT, MATCH, MISMATCH, Result, VerifyError


def instructions(query: Query, answer: str) -> Result:
    """Whether the answer follows every instruction of the query."""
    if not answer.strip():
        return FORMAT
    return MATCH if all(followed(query, answer).values()) else MISMATCH


def followed(query: Query, answer: str) -> dict[str, bool]:
    """By instruction (numbered, as one may occur twice), whether the answer follows it."""
    given = query.meta.get("instructions")
    rules = [(r["id"], r.get("kwargs")) for r in given] if given else _columns(query)
    out = {}
    for number, (name, given) in enumerate(rules):
        if name not in CHECKS:
            raise VerifyError(f"query {query.id}: no check for {name!r}; there are {', '.join(sorted(CHECKS))}")
        arguments = {k: v for k, v in (given or {}).items() if v is not None}
        try:
            out[f"{number} {name}"] = bool(CHECKS[name](answer, **arguments))
        except TypeError as error:
            raise VerifyError(f"query {query.id}: {name}: {error}") from error
    return out


def _columns(query: Query) -> list[tuple[str, dict | None]]:
    ids, options = query.meta.get("instruction_id_list"), query.meta.get("kwargs")
    if not ids or options is None or len(ids) != len(options):
        raise VerifyError(
            f"query {query.id}: 'instructions' needs meta['instructions'], a list of {{id, kwargs}}, or "
            f"instruction_id_list and kwargs, equally long"
        )
    return list(zip(ids, options, strict=True))


def _compare(count: int, relation: str, bound: int) -> bool:
    if relation not in {"at least", "less than"}:
        raise VerifyError(f"a relation is 'at least' or 'less than', not {relation!r}")
    return count >= bound if relation == "at least" else count < bound


def _has(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.I) is not None


def _existence(text: str, keywords: list[str]) -> bool:
    return all(k.casefold() in text.casefold() for k in keywords)


def _frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _compare(text.casefold().count(keyword.strip().casefold()), relation, frequency)


def _forbidden(text: str, forbidden_words: list[str]) -> bool:
    return not any(_has(text, w) for w in forbidden_words)


def _letters(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(text.lower().count(letter.lower()), let_relation, let_frequency)


def sentences(text: str) -> list[str]:
    """A text cut after . ! ? before a space, but not after an initial, a title or "e.g."."""
    text = re.sub(r"\b((?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e))\.(?=\s)", r"\1․", text)
    parts = re.split(r"(?<=[.!?])[\"'”’)\]]*\s+|\n{2,}", text)
    return [p.replace("․", ".") for p in parts if re.search(r"\w", p)]


def _sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _compare(len(sentences(text)), relation, num_sentences)


def _words(text: str, num_words: int, relation: str) -> bool:
    return _compare(len(re.findall(r"\w+", text)), relation, num_words)


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner = [p for i, p in enumerate(parts) if p.strip() or 0 < i < len(parts) - 1]
    return all(p.strip() for p in inner) and len(inner) == num_paragraphs


def _nth_first(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = [p.strip() for p in re.split(r"\n\n", text) if p.strip()]
    if len(parts) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    found = re.match(r"[\"'“‘*_]*([^\s.,?!\"'”’*_]+)", parts[nth_paragraph - 1])
    return found is not None and found[1].lower() == first_word.lower()


def _placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\[\]]+\]", text)) >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    letters = [re.escape(c) for c in re.sub(r"[^A-Za-z]", "", postscript_marker)]
    if not letters:
        return postscript_marker in text
    return re.search(r"^\s*[*_]*" + r"\.?\s?".join(letters) + r"\b.*\S", text, re.M | re.I) is not None


def _bullets(text: str, num_bullets: int) -> bool:
    return len(re.findall(r"^\s*(?:\*(?!\*)|-(?!-))\s*\S.*$", text, re.M)) == num_bullets


def _constrained(text: str) -> bool:
    return any(f"My answer is {x}." in text for x in ("yes", "no", "maybe"))


def _highlights(text: str, num_highlights: int) -> bool:
    bold = re.findall(r"\*\*([^\n*]+)\*\*", text)
    plain = re.findall(r"\*([^\n*]+)\*", re.sub(r"\*\*[^\n*]+\*\*|^\s*\*\s", "", text, flags=re.M))
    return sum(bool(x.strip()) for x in (*bold, *plain)) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    head = rf"\s?{re.escape(section_spliter.strip())}\s?\d+\s?"
    return len(re.split(head, text)) - 1 >= num_sections


def _json(text: str) -> bool:
    inner = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.I).strip()
    try:
        json.loads(inner)
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    return any(t.strip() for t in re.findall(r"<<([^\n<>]+)>>", text))


def _two_responses(text: str) -> bool:
    parts = text.split("******")
    inner = [p.strip() for i, p in enumerate(parts) if p.strip() or 0 < i < len(parts) - 1]
    return len(inner) == 2 and all(inner) and inner[0] != inner[1]


def _repeats(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quoted(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == '"' == text[-1]


def _capitals(text: str, capital_frequency: int, capital_relation: str) -> bool:
    words: Iterator[str] = (w for w in re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text))
    return _compare(sum(w.isupper() for w in words), capital_relation, capital_frequency)


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _nth_first,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _ends,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capitals,
    "change_case:english_capital": str.isupper,
    "change_case:english_lowercase": str.islower,
    "punctuation:no_comma": lambda text: "," not in text,
}
