"""What a text of several sentences comes to: the sentence that concludes it, and the answer at its end.

The last sentence concludes; a courtesy, a note, a question and a remark about the answer ("It was found in 1930.") do
not count as the last. A sentence that denies, supposes or reports concludes nothing.
"""

import re
from collections.abc import Callable, Iterable

from routerlab.grade.assertions import sentences
from routerlab.grade.names import same
from routerlab.grade.statements import PHRASES

MOST = 6000  # characters that are read, from the end
_OPPOSITE = {"yes": "no", "no": "yes", "true": "false", "false": "true", "valid": "invalid", "invalid": "valid"}


def concluded(text: str, wanted: Iterable[str]) -> bool | None:
    """Whether a text of several sentences concludes with a wanted answer; None if it does not show."""
    wanted = list(wanted)
    opposite = [_OPPOSITE[name.lower()] for name in wanted if name.lower() in _OPPOSITE]

    def is_it(phrase: str) -> bool:
        return any(same(phrase, name) for name in wanted)

    parts = [part.strip() for part in sentences(text[-MOST:]) if re.search(r"\w", part)]
    if parts and PHRASES["supposing"].match(parts[-1]):
        return False
    if len(parts) < 2 or PHRASES["declined"].search(text[-400:]):
        return None
    first = parts[0].strip(" .!,*")
    if not opposite and (
        PHRASES["polar"].fullmatch(first) or (first[:1].isalpha() and PHRASES["only_a_name"].fullmatch(first))
    ):
        return None  # the answer came first
    for i in reversed(range(max(0, len(parts) - 8), len(parts))):
        part, before = parts[i], parts[i - 1] if i else ""
        if part.rstrip("\"')* ").endswith("?") or PHRASES["after_the_end"].match(part):
            continue
        asked = before.endswith("?")
        remark = PHRASES["remark_on_it"].match(part) and not asked
        main = _main(part)
        if PHRASES["concludes_nothing"].search(PHRASES["relative_denial"].sub(" ", main)):
            return None
        if not asked and len(main.split()) < 5 and (PHRASES["bullet"].match(part) or len(before.split()) < 5):
            return None  # one more of a list
        if not remark:
            if ends_in(main, is_it):
                return True
            if asked and not opposite and len(main.split()) < 4 and not PHRASES["yes_or_no"].match(main):
                return False
            if opposite and ends_in(main, lambda phrase: phrase.lower() in opposite):
                return False
        if _names_another(main, part, wanted):
            return False
        if not remark:
            return None
    return None


def ends_with(phrase: str, wanted: Iterable[str]) -> bool:
    """Whether a stated phrase is a sentence with a wanted answer at its end: "the author was Ada Lovelace"."""
    names = list(wanted)
    return ends_in(_main(phrase), lambda end: any(same(end, name) for name in names), sure=True)


def _main(sentence: str) -> str:
    """A sentence without what follows its statement: a reason, a relative clause, what is denied or in brackets."""
    sentence = re.sub(r"[*_`]", "", PHRASES["bullet"].sub("", sentence)).strip(" .!✓✔✅")
    if len(sentence) > 2 and sentence[0] == '"' == sentence[-1]:
        sentence = sentence[1:-1]
    sentence = re.sub(r"\b([Ii]t (?:is|was|must be) [^,;.]{1,60}?) (?:who|that|which)\b.*", r"\1", sentence)
    sentence = re.sub(r"\b(?:not|neither)\b [^.;:]{1,80}?\bbut (?:rather )?", "", sentence)  # "not Dana but Frances"
    sentence = re.sub(r", [^.;:]{1,120}, (?=(?:is|was|are|were)\b)", " ", sentence)
    cut = PHRASES["after_statement"].search(sentence, 3)
    return (sentence[: cut.start()] if cut else sentence).strip(" .!,;:")


def ends_in(sentence: str, is_it: Callable[[str], bool], sure: bool = False) -> bool:
    """Whether the answer at the end of a sentence, in a place for one, is wanted.

    Args:
        sentence: a sentence without what follows its statement.
        is_it: whether a phrase is a wanted answer.
        sure: a verb that says what something is stands in the sentence.
    """
    if sure and not PHRASES["linking"].search(sentence):
        return False
    words = sentence.split()
    for start in range(len(words) - 1, max(-1, len(words) - 9), -1):
        if is_it(" ".join(words[start:])) and _place(words[:start], words[start]):
            return True
    return False


def _place(before: list[str], first: str) -> bool:
    """Whether what stands before the end of a sentence makes it the place of an answer."""
    lead = re.sub(r"(?:^| )(?:a|an|the)$", "", " ".join(before), flags=re.I)
    if not lead or PHRASES["answer_follows"].search(lead):
        return True
    if lead[-1] in ",:":
        return (first[:1].isupper() and PHRASES["linking"].search(lead) is not None) or lead[-1] == ":"
    if not (first[:1].isupper() or first[:1].isdigit()) or PHRASES["no_answer_follows"].search(lead):
        return False
    last = lead.rsplit(maxsplit=1)[-1]  # "the novelist Toni Morrison", but not "Papua New Guinea"
    return last.islower() or last.endswith("'s")


def _names_another(main: str, sentence: str, wanted: list[str]) -> bool:
    """Whether a sentence says what something is, and that is none of the wanted answers."""
    if any(name.lower() in sentence.lower() for name in wanted):
        return False
    if PHRASES["specifies"].fullmatch(main):
        return True
    dated = all(re.fullmatch(r"\d+", name) for name in wanted)
    drawn = PHRASES["drawn"].match(main) is not None
    return (drawn or dated) and ends_in(main, lambda phrase: _like(phrase, wanted[0], drawn))


def _like(phrase: str, wanted: str, drawn: bool) -> bool:
    """Whether a phrase may be another answer of the kind of the wanted one."""
    kinds = [r"\d+", r"\d+(?:st|nd|rd|th)", r"[A-Z][\w'-]+(?: [A-Z][\w'-]+)?"]
    kinds += [r"(?:the )?[a-z]+(?: [a-z]+)?"] if drawn and len(phrase.split()) < 3 else []
    return any(re.fullmatch(kind, phrase) and re.fullmatch(kind, wanted) for kind in kinds)
