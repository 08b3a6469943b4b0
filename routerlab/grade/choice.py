"""The verifier of multiple choice: the option that the answer commits to last."""

import re
import unicodedata
from typing import Any

from routerlab.core.queries import Query
from routerlab.grade import contract
from routerlab.grade.answers import FORMAT, Result, VerifyError, normal, reference, verdict
from routerlab.grade.statements import SEVERAL, affirmed, last_stated, tidy


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
    wanted = _named(reference(query), options)
    if wanted is None:
        raise VerifyError(f"query {query.id}: the reference {query.reference!r} is no option of {', '.join(options)}")
    strict = contract.read(query, answer)
    if strict is not None and (letter := _letter(strict)) in options:
        return verdict(letter == wanted, " by contract")
    if (chosen := _named(answer, options)) is None:
        text = _lettered(tidy(unicodedata.normalize("NFKC", answer)), options)
        chosen = last_stated(text, lambda phrase: _read(phrase, options), lambda rest: _weak(rest, options))
    return verdict(chosen == wanted) if chosen in options else FORMAT


def _letter(text: str) -> str | None:
    match = re.fullmatch(r"\W{0,9}([A-Za-z])\W{0,9}", text)
    return match[1].upper() if match else None


def _named(text: str, options: dict[str, str]) -> str | None:
    """The option whose letter, or whose text and no other's, is all of a text."""
    if (letter := _letter(text)) in options:
        return letter
    letters = [k for k, v in options.items() if normal(v) and normal(v) == normal(text)]
    return letters[0] if len(letters) == 1 else None


_WRAP = re.compile(r"\\(?:text|mathrm|textbf|mathbf|boxed)\s?\{([^{}]{0,200})\}|[$]|\\[()\[\]]")


def _lettered(text: str, options: dict[str, str]) -> str:
    """A text with (B) in place of the text of option B, and in place of "B) text" and "text (B)"."""
    texts = {
        " ".join(tidy(unicodedata.normalize("NFKC", v)).lower().split()).strip(" .,;:"): k for k, v in options.items()
    }
    several = len(texts) < len(options)
    words = sorted((t for t in texts if len(t) > 1), key=len, reverse=True)
    text = re.sub(r"[^\S\n]+", " ", text)
    if words and not several:
        pattern = "|".join(re.escape(w) for w in words)
        text = re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", lambda m: f"({texts.get(m[0].lower(), '?')})", text, flags=re.I)
    text = _WRAP.sub(r"\1", text)
    text = re.sub(r"(?<![\w'])([A-Z])\b[^\w\n]{1,6}\(\1\)", r"(\1)", text)
    return re.sub(r"\(([A-Z])\)[^\w\n]{1,4}(?:option |choice )?\1\b[)\]]?", r"(\1)", text)


_ANOTHER = r"[)\]]?\s?(?:,? ?(?:or|and|&)|/|,)\s?(?:also |maybe |possibly )?(?:option )?[(\[]?(?!I\b)[A-Z](?![\w'])"
_DENIED = r"[)\]]?\s?(?:is|are|was|can|would be)?\s?(?:n't|not|wrong|false|incorrect|out)\b"
_END = r"(?=\s?(?:[).\],:;!?}\n(\"']|- |$|because\b|since\b|as\b|which\b|although\b|but\b|for\b|if\b))"
# A capital letter before a word is an option ("C because"), except A and I, which are words, and "E. coli".
_BARE = rf"(?![\w']|\. ?[a-z])(?!{_ANOTHER})(?!{_DENIED})"
_FIRST = re.compile(
    r"\W{0,3}(?:(?:the )?(?:option|choice|letter|answer)\s)?[(\[]?"
    rf"(?:([A-Z]){_BARE}{_END}|([B-HJ-Z]){_BARE}|([a-z])(?=[)\].]|\W{{0,3}}$))"
)
_PAIR = re.compile(rf"\W{{0,3}}(?:either |both |all of |any of )?(?:(?:option|choice)s?\s)?[(\[]?[A-Z](?={_ANOTHER})")


def _read(phrase: str, options: dict[str, str]) -> str | None:
    """The option a phrase begins with; SEVERAL if it names two or only denies, None if it names none."""
    kept = affirmed(phrase.strip())
    if kept is None or _PAIR.match(kept):
        return SEVERAL if re.search(r"\b[A-Z]\b", phrase) else None
    match = re.fullmatch(r"\W{0,3}([A-Za-z])\W{0,3}", kept) or _FIRST.match(kept)
    letter = next(filter(None, match.groups())).upper() if match else None
    return letter if letter in options else None


_OPTION = r"(?<![\w'])[(\[]?([A-Z])(?![\w'])[)\]]?"
_SURELY = r"(?: clearly| definitely| probably| most likely| therefore| only| indeed)?"
_COMMITS = re.compile(
    rf"{_OPTION}(?: \w{{1,20}})?(?: is| must be| seems| would be|'s)?{_SURELY}(?: (?:the )?(?:single )?(?:most )?"
    r"(?:correct|right|best|likely|appropriate|answer|accurate|only (?:one|option|choice|answer))"
    r"| (?:best )?(?:fits|matches|makes the most sense))\b"
    r"|(?i:\b(?:it(?:'s| is| must be| has to be| should be)|this is|that is|pick|choose|chose|choosing"
    r"|select(?:ed)?|go(?:ing)?"
    r" with|say|leaves|left with|vote for|opt for|so|therefore|thus|hence|answer|option|choice|letter|must be"
    r"|probably|think"
    rf"|maybe|es|ist|est|是|:)){_SURELY}(?: (?:the )?(?:option|answer|choice|letter))?[\s,:\"']{{1,3}}{_OPTION}{_END}"
)


def _weak(text: str, options: dict[str, str]) -> str | None:
    """The option that a text without an explicit statement commits to last, in a sentence or on a line of its own."""
    chosen: list[tuple[int, str]] = []
    for match in _COMMITS.finditer(text):
        letter, place = match[1] or match[2], match.start(1 if match[1] else 2)
        doubt = re.search(
            r"(?:\bnot|n't|\b(?:or|and|if|either|both|neither|nor)|/|\b[A-Z][)\]]?,)\s?[(\[]?$",
            text[max(0, place - 9) : place],
        )
        if letter in options and not re.match(_DENIED, text[place + 1 : place + 40]) and not (doubt and match[1]):
            chosen.append((place, SEVERAL if match[2] and re.match(_ANOTHER, text[place + 1 : place + 30]) else letter))
    alone = [(m.start(), _letter(m[0])) for m in re.finditer(r"(?:^|(?<=[.!?]\s))\W{0,5}\w\b[^\w\n]{0,5}$", text, re.M)]
    lines = [(place, letter) for place, letter in alone if letter in options]
    if len({letter for _, letter in lines}) == 1:  # several lines list the options again
        chosen.append(lines[-1])
    if chosen:
        return max(chosen)[1]
    if ending := re.search(r"\b(?:is|are|was|were) \(([A-Z])\)\W{0,3}$", text):
        return ending[1] if affirmed(text[-400:]) else SEVERAL
    labels = set(re.findall(r"(?<![\w'])([A-Z])(?:[).:](?!\w)| - )", text))
    first = re.match(r"\W{0,3}([A-Z])(?:[).:]+| - )\s*(\S)", text)
    if first and first[1] in options and labels == {first[1]} and (first[2].isupper() or ")" in first[0]):
        return None if re.search(_DENIED, text) else first[1]
    return _read(text, options) if len(text.split()) <= 12 else None
