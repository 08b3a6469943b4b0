"""The verifier of multiple choice: strict about what counts as naming an option."""

import re
import unicodedata
from typing import Any

from routerlab.core.queries import Query
from routerlab.grade.answers import (
    FORMAT,
    Result,
    VerifyError,
    normal,
    reference,
    stated,
    verdict,
)


def _options(query: Query) -> dict[str, str]:
    choices: Any = query.meta.get("choices")
    if isinstance(choices, dict) and choices:
        named = {str(k).strip().upper(): str(v) for k, v in choices.items()}
        if all(re.fullmatch("[A-Z]", k) for k in named):
            return named
    if not isinstance(choices, list | tuple) or not choices or len(choices) > 26:
        raise VerifyError(f"query {query.id} has no options; give meta={{'choices': [text of A, text of B, ...]}}")
    return {chr(65 + i): str(text) for i, text in enumerate(choices)}


def multiple_choice(query: Query, answer: str) -> Result:
    """The stated letter, or the full text of an option, is the reference's (a letter or an option's text)."""
    options = _options(query)
    wanted = _choice(reference(query).strip(), options)
    if wanted is None:
        raise VerifyError(f"query {query.id}: the reference {query.reference!r} is no option of {', '.join(options)}")
    found = _letter(unicodedata.normalize("NFKC", answer), options)
    return FORMAT if found is None else verdict(found == wanted)


def _choice(text: str, options: dict[str, str]) -> str | None:
    """The option a short text names: its letter alone, or its full text, with or without the letter."""
    text = re.sub(r"\\(?:text|mathrm|textbf)\s*\{([^{}]*)\}", r"\1", text).strip("$*_`' \"\n")
    alone = re.fullmatch(r"[(\[]?([A-Za-z])[)\].:]*", text)
    if alone and alone[1].upper() in options:
        return alone[1].upper()
    texts = [k for k, v in options.items() if normal(v) and normal(v) == normal(text)]
    if texts:
        return texts[0] if len(texts) == 1 else None
    led = re.match(r"[(\[]?([A-Z])(?:[)\].:]|\s[-–])+[*_\s]*(\S.*)", text, re.S)
    if led and led[1] in options and not re.match(f"{_ANOTHER}|{_DENIED}", led[2]):
        return led[1]
    return None


_ANOTHER = (  # names two: no answer
    r"\s*[)\]]?\s*(?:(?:or|and|/|&)\s*[(\[]?[A-Z](?![\w'])|,\s*[(\[]?[A-Z][)\]]?\s*(?:[.,;]|$))"
)
_DENIED = r"\s*(?:is|are|was|can|would be)?\s*(?:n['’]t|not|wrong|false|incorrect)\b"
# A capital letter before a word is an option ("C because"), except A and I, which are words.
_ALONE = r"(?![\w'])(?!" + _ANOTHER + ")"
_STOP = r"\s*(?:[)\].,:;*_$}]|$)"
_NAMED = re.compile(
    r"\b(?:answer|option|choice)\b[*_]*(?:\s+(?:is|would be|should be))?\s*[:=]?[\s*_$]*"
    r"(?:(?:option|choice|letter)\s+)?(?:\\text\{|\\boxed\{)?[(\[]?"
    rf"(?:([A-Z]){_ALONE}(?={_STOP}|\s*(?:because\b|since\b|as\b|which\b|\())"
    rf"|([B-HJ-Z]){_ALONE}|([a-z]){_ALONE}(?={_STOP}))",
    re.M,
)


def _letter(text: str, options: dict[str, str]) -> str | None:
    if (whole := _choice(text, options)) is not None:
        return whole
    for said in stated(text):
        short = re.split(r"(?<=\w)\.\s|\n", said.strip())[0]
        if (found := _choice(said, options) or _choice(short, options)) is not None:
            return found
    lowered = re.sub(r"(?i)\b(answer|option|choice|letter|is)\b", lambda m: m[0].lower(), text)
    named = [next(filter(None, m)).upper() for m in _NAMED.findall(lowered)]
    if named := [x for x in named if x in options]:
        return named[-1]
    lines = [line for line in text.strip().splitlines() if line.strip()]
    for line in (lines[-1], lines[0]) if lines else ():
        if (found := _choice(line, options)) is not None:
            return found
    marked = {x for x in re.findall(r"\(([A-Z])\)", text) if x in options}
    return marked.pop() if len(marked) == 1 else None
