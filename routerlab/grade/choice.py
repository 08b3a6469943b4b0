"""The verifier of multiple choice: the option that the answer commits to last."""

import re
import unicodedata
from functools import partial
from typing import Any

from routerlab.core.queries import Query
from routerlab.grade import contract
from routerlab.grade.answers import FORMAT, Result, VerifyError, reference, verdict
from routerlab.grade.assertions import asserted
from routerlab.grade.clauses import commits, endorsed, option_concluded
from routerlab.grade.names import normal
from routerlab.grade.numeric import Number, stated_number
from routerlab.grade.statements import LONGEST, PHRASES, QUOTES, SEVERAL, affirmed, last_stated, statements, tidy


def _options(query: Query) -> dict[str, str]:
    choices: Any = query.meta.get("choices")
    if isinstance(choices, list | tuple) and len(choices) <= 26:
        choices = {chr(65 + i): text for i, text in enumerate(choices)}
    options = {str(k).strip().upper(): str(v) for k, v in choices.items()} if isinstance(choices, dict) else {}
    if not options or not all(re.fullmatch("[A-Z]", letter) for letter in options):
        raise VerifyError(f"query {query.id} has no options; give meta={{'choices': [text of A, text of B, ...]}}")
    return options


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
        answer = _own_words(answer)
        if not any(len(text.split()) > 3 and text in answer for text in options.values()):
            answer = asserted(answer, lambda part: PHRASES["letter"].search(part) is not None) or answer
        if PHRASES["only_asks"].fullmatch(answer):
            return FORMAT
        text = _lettered(tidy(unicodedata.normalize("NFKC", answer)), options)
        chosen = last_stated(text, partial(_read, options), lambda text: closed(text, options)[0])
        if chosen != SEVERAL and not PHRASES["cue"].search(text):
            value, denied = closed(answer, options)
            chosen = value or (chosen if chosen not in denied else None)
        unsettled = chosen == SEVERAL and len(statements(text)) > 1
        if chosen not in options and not unsettled and not PHRASES["declined"].search(text):
            chosen = option_concluded(*_marked(text, options))
    return verdict(chosen == wanted) if chosen in options else FORMAT


def _own_words(answer: str) -> str:
    """An answer without what it quotes from somebody else, unless it agrees with that or says nothing besides."""
    text = PHRASES["reported_quote"].sub("", answer[-LONGEST:].translate(QUOTES))
    return text if re.search(r"\w", text) and not PHRASES["seconded"].search(text) else answer


def _letter(text: str) -> str | None:
    match = re.fullmatch(r"\W{0,9}([A-Za-z])\W{0,9}", text)
    return match[1].upper() if match else None


def _named(text: str, options: dict[str, str]) -> str | None:
    """The option whose letter, or whose text and no other's, is all of a text."""
    letters = [k for k, v in options.items() if normal(v) and normal(v) == normal(text)]
    letter = None if re.search(r"\w[+#]", text) else _letter(text)  # "C++" is no letter
    return letter if letter in options else letters[0] if len(letters) == 1 else None


def _lettered(text: str, options: dict[str, str]) -> str:
    """A text with (B) in place of the text of option B, and in place of "B) text" and "text (B)"."""
    plain = {k: tidy(unicodedata.normalize("NFKC", v)).lower() for k, v in options.items()}
    texts = {" ".join(v.split()).strip(" .,;:"): k for k, v in plain.items()}
    letters = "".join(options)
    text = re.sub(
        rf"(?<!\w)(?<!from )\(?[{letters}]\)? ?(?:-|to|through) ?\(?[{letters}]\)?(?!\w)", "several options", text
    )
    words = sorted((re.escape(t) for t in texts if len(t) > 1 or t.isdigit()), key=len, reverse=True)
    text = PHRASES["option_changed"].sub("", re.sub(r"[^\S\n]+", " ", text))
    text = PHRASES["asked_and_answered"].sub(lambda m: f"It is {'' if m[2] else 'not '}{m[1]}", text)
    text = PHRASES["i_myself"].sub("we ", text)
    if words and len(texts) == len(options):
        pattern = rf"(?<!\w)(?<!option )(?<!choice )(?<!step )({'|'.join(words)})(?:(?<=[a-z])s)?(?!\w)"
        text = re.sub(pattern, lambda m: f"({texts.get(m[1].lower(), '?')})", text, flags=re.I)
    text = PHRASES["option_text"].sub("", PHRASES["unit_letter"].sub(" units", text))
    text = PHRASES["weighed"].sub(": ", PHRASES["latex_text"].sub(r"\1", text))
    text = re.sub(r"(?<![\w'])([A-Z])\b[^\w\n]{1,6}\(\1\)", r"(\1)", text)
    return re.sub(r"\(([A-Z])\)[^\w\n]{1,4}(?:option |choice )?\1\b[)\]]?", r"(\1)", text)


_POLAR = {"yes", "no", "true", "false"}
_PLACES: list[str] = ["first", "second", "third", "fourth", "fifth", "one", "two", "three", "four", "five"]
_WORDS = "correct right answer option them these those above a an the it is of to in and or are be"
_STOP = set(re.findall(r"\w+", _WORDS))


def closed(answer: str, options: dict[str, str]) -> tuple[str | None, set[str]]:
    """The only option that the clauses of a text endorse, by letter, text or words for it, and the ones they deny."""
    answer, options = _in_plain_words(answer, options)
    if {*map(normal, options.values())} <= _POLAR:
        left = {k for k, v in options.items() if commits(answer, [normal(v)])}
        if len(left) == 1:
            return left.pop(), set()
    text = _lettered(tidy(unicodedata.normalize("NFKC", answer)), options)
    words = {k: {*re.findall(r"\w+", v.lower())} - _STOP for k, v in options.items()}
    if re.fullmatch(r"\W*[a-z]\W*", text) or not PHRASES["dangling"].search(text):
        text = re.sub(r"\(([a-z])\)|(?<![\w'])([a-z])(?=[.)]?\W*$)", lambda m: m[0].upper(), text)
    text, mark = _marked(text, options)
    judged = {m[1]: bool(m[2] or m[3]) for m in PHRASES["judged"].finditer(text.replace("§", "")) if m[1] in options}
    if len(judged) > 1:  # "A: false, B: true"
        left = [k for k, fits in judged.items() if fits] or [*(options.keys() - judged)]
        if len(left) == 1:
            return left[0], set()

    def guess(phrase: str) -> str | None:
        said = {*re.findall(r"\w+", phrase.lower())} - _STOP
        fit = [k for k, have in words.items() if said and said <= have]
        return fit[0] if len(fit) == 1 else None

    value, denied = endorsed(text, mark, guess)
    amounts = {k: stated_number(v) for k, v in options.items()}
    if value is None and len({*mark.findall(text)}) < 2 and all(isinstance(x, Number) for x in amounts.values()):
        said = stated_number(answer)
        fit = [
            k for k, x in amounts.items() if isinstance(said, Number) and isinstance(x, Number) and x[:2] == said[:2]
        ]
        value = fit[0] if len(fit) == 1 and fit[0] not in denied else None
    return value, denied


def _marked(text: str, options: dict[str, str]) -> tuple[str, re.Pattern]:
    """A text with §B where it names option B, and the pattern of such a mark."""
    text = PHRASES["in_order"].sub(lambda m: f"({_by_place((m[1] or m[2]).lower(), options)})", text)
    text = re.sub(r"(?i)\b(option|choice) ([a-z])(?= ?[(]|$)", lambda m: f"{m[1]} {m[2].upper()}", text)
    text = PHRASES["letter"].sub(lambda m: "§" + x if (x := next(filter(None, m.groups()))) in options else m[0], text)
    text = re.sub(r"(?:\bwould (?:be )?)?[\"']?(§[A-Z])[\"']?", r"\1", text)
    return re.sub(r"§([A-Z])[).:,;]?\s?\(?§\1\)?", r"§\1", text), re.compile(f"§([{''.join(options)}])")


def _by_place(word: str, options: dict[str, str]) -> str:
    return sorted(options)[-1] if word == "last" else "ABCDE"[_PLACES.index(word) % 5]


def _in_plain_words(answer: str, options: dict[str, str]) -> tuple[str, dict[str, str]]:
    """An answer and options with one word for each way to say that something grows, falls or stays."""
    for name, word in (("same", "unvaried"), ("more", "increases"), ("less", "decreases")):
        own = [v for v in options.values() if PHRASES[name].search(v)]
        if len(own) == 1 and normal(own[0]) not in answer.lower():
            answer = PHRASES[name].sub(word, answer)
            options = {k: PHRASES[name].sub(word, v) for k, v in options.items()}
    return answer, options


def _read(options: dict[str, str], phrase: str) -> str | None:
    """The option a phrase begins with; SEVERAL if it names two or only denies, None if it names none."""
    kept = affirmed(re.split(r"\. (?=[A-Z]\w*(?: \w+)?:)", phrase.strip())[0])
    if kept is None or PHRASES["two_options"].match(kept):
        return SEVERAL if re.search(r"\b[A-Z]\b", phrase) else None
    match = re.fullmatch(r"\W{0,3}([A-Za-z])\W{0,3}", kept) or PHRASES["first_option"].match(kept)
    letter = next(filter(None, match.groups())).upper() if match else None
    return letter if letter in options else None
