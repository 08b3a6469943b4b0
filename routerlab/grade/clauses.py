"""What a free text commits to, clause by clause: the closed-world reading of answers that no statement introduces.

Every clause either says something of its own, or is void: it denies, supposes, asks, compares, or tells what somebody
else or the writer once thought. A value counts where a clause that is not void has its place for one, and only if what
the rest of the text says cannot be another value.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from routerlab.grade.names import key, same
from routerlab.grade.statements import PHRASES

MOST = 6000  # characters that are read, from the end
_SIGN = {"yes": True, "no": False, "true": True, "false": False}
_BOTH = re.compile("yes|no|nope|true|false", re.I)


class Clause(NamedTuple):
    """A clause: the sentence it is of, what joins it to the clause before, and its text."""

    sentence: int
    join: str
    text: str
    label: str  # the words before its colon
    aside: bool  # joined by "because", "after", "which" or the like, or by a comma to a clause that is


def sentences(text: str) -> list[str]:
    """The sentences of a text; questions are left out if something else is said."""
    parts = [part.strip() for part in PHRASES["sentence_end"].sub("\\g<0>\x00", text[-MOST:]).split("\x00")]
    parts = [part for part in parts if re.search(r"\w", part)]
    return [part for part in parts if not part.rstrip("\"')* ").endswith("?")] or parts


def clauses(text: str, whole: re.Pattern | None = None) -> list[Clause]:
    """The clauses of a text; a match of `whole` is never cut."""
    out = []
    for number, sentence in enumerate(sentences(text)[-12:]):
        kept = [m.span() for m in whole.finditer(sentence)] if whole else []
        joints = [
            m
            for m in PHRASES["clause_joint"].finditer(sentence)
            if not any(start < m.start() < end for start, end in kept)
        ]
        place, join, label, aside = 0, ".", "", False
        for mark in [*joints, None]:
            part = sentence[place : mark.start() if mark else len(sentence)].strip(" .,!?;:*>")
            join = join.lower().strip()
            led = join == ":" and PHRASES["label_of_others"].match(label)
            aside = bool(PHRASES["void_join"].search(join) or led) or (aside and join in (",", ", and"))
            if _bare(part) or (part and not joints):
                out.append(Clause(number, join, part, label if join == ":" else "", aside))
                label = part + ": "
            place, join = (mark.end(), mark[0]) if mark else (0, "")
    return out


def _bare(clause: str) -> str:
    return PHRASES["filler"].sub("", clause + " ", count=1).strip(" .✅✓✔\"'")


def places(clause: Clause) -> Iterator[str]:
    """Where a clause can have its answer: all of it, its verb's complement, its subject, or its end if it has no other.

    The end is not a place where another name, or another number, stands in the clause, as it may be the answer.
    """
    yield clause.text
    yield (bare := _bare(clause.text))
    for place in ("complement", "result", "quoted", "cleft", "subject", "doer"):
        for form in {bare, clause.text}:
            if match := PHRASES[place].match(form):
                yield match[match.lastindex or 0]
    if (
        PHRASES["linking"].search(clause.text)
        or PHRASES["doer"].match(bare)
        or not PHRASES["strong_join"].fullmatch(clause.join)
    ):
        return
    words = bare.split()
    for start in range(max(2, len(words) - 4), len(words)):
        before, value = " ".join(words[:start]), " ".join(words[start:])
        kind = "digit" if re.search(r"\d", value) else "name" if value.lower() != value else "word"
        if start < 3 and PHRASES["led_in"].fullmatch(words[start - 1]):
            continue  # "Kilimanjaro in Tanzania"
        if not PHRASES[f"other_{kind}"].search(before) and not PHRASES["no_end"].search(before):
            yield value


def void(clause: Clause, value: str = "") -> bool:
    """Whether a clause says nothing of its own, the value apart."""
    before, _, after = _bare(clause.text).rpartition(value) if value else (_bare(clause.text), "", "")
    return bool(
        clause.aside or PHRASES["void"].search(f"{before}~{after}".strip("~")) or PHRASES["next"].match(clause.text)
    )


def commits(text: str, wanted: Iterable[str]) -> bool:
    """Whether the last thing that a text commits to is a wanted value, and nothing beside it is another."""
    wanted = list(wanted)

    def is_it(phrase: str) -> bool:
        return any(same(phrase, name) for name in wanted)

    both = any(map(is_it, ("yes", "no", "true", "false")))
    long = [re.escape(name) for name in wanted if PHRASES["clause_joint"].search(name) or re.search(r"\W", name)]
    if wanted[0].lower() in _SIGN and len(set(_signs(text))) == 1:
        return _SIGN[wanted[0].lower()] in _signs(text)
    every = clauses(text, re.compile("|".join(long), re.I) if long else None)
    if PHRASES["declined"].search(text):
        return False
    if "?" not in text and _BOTH.fullmatch(every[0].text if every else "") and not both:
        return False  # "No, that's a myth."
    for i in reversed(range(len(every))):
        clause = every[i]
        if PHRASES["taken_back"].match(clause.text) or (not both and i and PHRASES["cue"].match(clause.text + " ")):
            return False
        if PHRASES["led_in"].match(clause.text) and not all(void(c) for c in every[-20:] if c is not clause):
            continue
        value = next((p for p in places(clause) if is_it(p)), None)
        if value is None or void(clause, value):
            apposed = i and clause.join == "," and re.match("(?:the|an?) [a-z]", clause.text)
            if (
                not void(clause)
                and not apposed
                and (clause.join.endswith("but") or _short(clause, is_it, both) or PHRASES["states"].match(clause.text))
            ):
                return False
            continue
        strong = PHRASES["strong_join"].fullmatch(clause.join) or (
            i and PHRASES["copula_end"].search(every[i - 1].text)
        )
        if PHRASES["states"].match(clause.text):
            other = [c for c in every[:i] if PHRASES["states"].match(c.text) and not void(c)]
            return all(any(map(is_it, places(c))) for c in other)
        beside = [c for c in every[:i] if (c.sentence != clause.sentence or not strong) and not void(c)]
        beside = [c for c in beside if not PHRASES["led_in"].match(c.text)]
        if is_it(_bare(clause.text)) and not strong and any(len(c.text.split()) <= 5 for c in beside):
            return False
        return not any(_short(c, is_it, both) for c in beside)
    return False


def endorsed(text: str, mark: re.Pattern, guess: Callable[[str], str | None]) -> tuple[str | None, set[str]]:
    """The one of several known values, marked in the text, that it commits to, or None; and the values it denies.

    A clause that is a value, or says that it is the answer, is a commitment, and the last one counts; without any, the
    values that clauses mention, one in a clause, must be one value or end with a conclusion. `guess` is the value that
    the words of a clause stand for.
    """
    sure: list[tuple[Clause, str]] = []
    mentioned: list[tuple[Clause, str | None]] = []
    denied: set[str] = set()
    placed = re.compile(f"^(?:the |only |it |that |this |statement )?{mark.pattern}|{mark.pattern}$", re.I)
    for clause in clauses(text, mark):
        found = {m[1] for m in mark.finditer(clause.text)}
        if not found:
            found = {value for p in places(clause) if (value := guess(p)) and not void(clause, p)}
        elif PHRASES["against"].search(_bare(clause.text)):
            denied |= found
            sure = [x for x in sure if x[1] not in denied]
            mentioned = [x for x in mentioned if x[1] not in denied]
            continue
        if PHRASES["taken_back"].match(clause.text) or (found and re.match("(?:or|and) ", clause.text)):
            sure, mentioned = [], []
        if len(found) > 1 and not clause.aside:
            sure, mentioned = [x for x in sure if _chosen(x[0])], [*mentioned, (clause, None)]
        if len(found) == 1 and (not void(clause) or guess(_bare(clause.text))):
            bare = mark.fullmatch(_bare(clause.text)) is not None
            states = _chosen(clause)
            if bare or states or placed.search(_bare(clause.text)) or mark.search(clause.text) is None:
                (sure if bare or states else mentioned).append((clause, found.pop()))
    unsure = any(PHRASES[name].search(text.strip()[-400:]) for name in ("declined", "torn", "dangling"))
    if unsure or not (sure or mentioned) or _in_turn(text, mark):
        return None, denied
    last, value = (sure or mentioned)[-1]
    near = {value for clause, value in sure if clause.sentence == last.sentence} or {x for _, x in mentioned}
    concluded = PHRASES["strong_join"].fullmatch(last.join) and (sure or last.join != ".")
    concluded = concluded or re.match("(?:so|hence|thus|therefore) ", last.text)
    several = len({value for _, value in sure}) > 2 and (len(last.join) == 1 and not _chosen(last))
    several = several or (len(near) > 1 and not concluded)
    return None if several else value, denied


def _in_turn(text: str, mark: re.Pattern) -> bool:
    """Whether a text ends with the last of three sentences and more that each begin with another value."""
    firsts = [re.match(rf"\W*(?:option |choice |answer )?{mark.pattern}[).:]* \w", x, re.I) for x in _parts(text)]
    values = [first[1] if first else "" for first in firsts[-3:]]
    told = re.compile(f"{PHRASES['chosen'].pattern}|{PHRASES['against'].pattern}")
    return len({*values} - {""}) == 3 and not any(map(told.search, _parts(text)[-4:]))


def _parts(text: str) -> list[str]:
    """The sentences of a text's end; the letter of an option at the start of one is no end."""
    parts = PHRASES["sentence_end"].sub("\\g<0>\x00", text[-MOST:]).split("\x00")
    joined: list[str] = []
    for part in filter(str.strip, parts):
        if joined and re.fullmatch(r"\W*(?:option |choice )?§?[A-Z][.):]\s*", joined[-1]):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def option_concluded(text: str, mark: re.Pattern) -> str | None:
    """The value that the last sentence with one comes to, the values marked in the text; None if it does not show.

    Sentences that only deny values are passed over, and none of what they deny is the conclusion.
    """
    parts = _parts(text)
    denied: set[str] = set()
    if _in_turn(text, mark):
        return None
    for i in reversed(range(max(0, len(parts) - 8), len(parts))):
        part = parts[i].strip()
        if part.endswith("?") or PHRASES["after_the_end"].match(part):
            continue
        said: set[str] = set()
        for clause in re.split(r"[;:]\s|, (?:and )?(?=[a-z])|\bbut\b|[()]", part):
            clause = re.sub(r"(?i)\bby (?:a process of )?elimination\b|\bsecond (?:thought|guess)", "", clause)
            here = {m[1] for m in mark.finditer(clause)}
            if PHRASES["against"].search(PHRASES["relative_denial"].sub("", clause)):
                denied |= here
            elif not PHRASES["void"].search(mark.sub(" ", clause)):
                said |= here
            elif here and not PHRASES["once_thought"].search(clause):
                return None
        left = said - denied
        if not said and (PHRASES["taken_back"].search(part) or PHRASES["cue"].match(part)):
            return None
        listed = i and re.match(rf"\W*(?:{mark.pattern}|\d{{1,2}}\W*$)", parts[i - 1])
        alone = mark.fullmatch(part.strip(" .*"))
        listed = listed and not (alone and re.search(r"[a-z]{2}", parts[i - 1]))
        bare = alone or (re.match(rf"\W*{mark.pattern}", part) and _ends(part))
        if left:
            concludes = PHRASES["option_concluded"].search(part) or (bare and not listed)
            return left.pop() if concludes and len(left) == 1 else None
    return None


def _ends(part: str) -> bool:
    return len(part.split()) < 9 and not re.search(r"\b(?:is|are|was|has|says)\b", part)


def _chosen(clause: Clause) -> bool:
    return bool(PHRASES["states"].match(clause.text) or PHRASES["chosen"].search(clause.label + clause.text))


def _signs(text: str) -> list[bool]:
    """Whether each clause of a text that says yes or no says yes."""
    out = []
    for clause in filter(lambda clause: not clause.aside, clauses(text)):
        plain = clause.text.strip("\"' ")
        if judged := PHRASES["judgement"].fullmatch(plain):
            out.append(bool(judged["true"]) is not bool(judged["not"]))
        elif held := PHRASES["holds"].fullmatch(plain):
            out.append(held["no"] is None)
        elif plain.lower() in _SIGN:
            out.append(_SIGN[plain.lower()])
        else:
            out += [name == "yes" for name in ("yes", "no") if PHRASES[name].fullmatch(plain)]
    return out


def contradicted(text: str, wanted: Iterable[str]) -> bool:
    """Whether a clause after the last mention of a wanted name says that something is another name."""
    names = [name for name in wanted if name[:1].isupper()]
    later: list[Clause] = []
    for clause in reversed(clauses(text)):
        if any(key(name) in key(clause.text) for name in names):
            return any(_names(c) for c in later)
        later += [] if void(clause) else [clause]
    return bool(names) and any(_names(c) for c in later)  # the name is in a question


def _names(clause: Clause) -> bool:
    match = PHRASES["complement"].match(clause.text)
    return match is not None and re.fullmatch(r"[A-Z][\w'-]+(?: [A-Z][\w'-]+){0,2}", match[1].strip(" .")) is not None


def _short(clause: Clause, is_it: Callable[[str], bool], both: bool) -> bool:
    """Whether a clause is a few words that may be another value."""
    words = _bare(clause.text).split()
    if clause.join == "," and re.fullmatch(r"(?:[A-Z][\w'-]*|and|or| )+", clause.text):
        words = words[:1]  # one more of a list
    if not 1 <= len(words) <= 3 or PHRASES["led_in"].match(clause.text) or (_BOTH.fullmatch(words[0]) and not both):
        return False
    if both:
        return _BOTH.fullmatch(words[0]) is not None and not is_it(words[0])
    return not any(is_it(" ".join(words[i:j])) for i in range(len(words)) for j in range(i + 1, len(words) + 1))
