"""The program in an answer: which of its blocks of code count, and how they go on from the code that a task gives."""

import ast
import builtins
import re
import symtable
import sys
import textwrap
import warnings
from collections.abc import Iterable
from typing import NamedTuple

_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1|\Z)", re.S | re.M)
_TAG = re.compile(r"</?(?:code|pre)\b[^>\n]*>")
_FIRST = re.compile(
    r"^(?:@|(?:async|def|class|import|from|for|while|if|try|with)\b|print\(|[\w.,\[\] ]+=)", re.M
)  # how the first line of a program may begin
_READS, _WRITES = re.compile(r"\binput\(|\bstdin\b|\bopen\(0"), re.compile(r"\bprint\(|\.write(?:lines)?\(")
_BUILTIN = set(dir(builtins))
_LINES = 50  # of an answer without fences: so many of its lines are tried as the first one of the program


class _Names(NamedTuple):
    """The names of a block of code."""

    bound: set[str]  # by definition or assignment, at its top level or as a method of Solution
    imported: set[str]
    needed: set[str]  # used, and neither bound nor imported there


def extract(answer: str, names: Iterable[str] = ()) -> str | None:
    """The program in an answer, None if there is none; `names` are those which the tests call, () for a whole program.

    Of several blocks it is the last that defines a name, or the last that reads input and prints. The blocks that
    define what it needs belong to it; examples of use and of output do not.
    """
    if blocks := _blocks(answer):
        return _joined(blocks, set(names)) or max(blocks, key=lambda block: (parses(block), len(block)))
    return answer if answer.strip() and parses(answer) else _unfenced(answer, set(names))


def after(start: str, answer: str) -> str:
    """The answer as one whole program: `start` and then its longest block, unless the block already begins with it."""
    rests = [block for _, tag, block in _FENCE.findall(answer) if _is_python(tag)] or [answer]
    wholes = [r if r.strip().startswith(start.strip()) else f"{start.rstrip()}\n{r}" for r in rests]
    return f"```python\n{max(wholes, key=lambda whole: (parses(whole), len(whole)))}\n```"


def with_prompt(answer: str, prompt: str, names: set[str]) -> str | None:
    """One program from prompt and answer, which may be a whole function or only what follows the prompt's last line."""
    program = extract(answer, names)
    if not prompt:
        return program
    if program is not None and parses(program) and names & _defined(_names(program)):
        # The prompt's imports and helpers are used, and the answer replaces its empty function.
        return f"{opening(prompt)}\n\n{program}"
    # A body alone is no Python, as it returns. Its indentation may be complete, missing, or missing in the first line.
    for body in sorted(_blocks(answer) or [answer], key=lambda block: (parses(block), -len(block))):
        for way in (textwrap.indent(textwrap.dedent(body), "    "), "    " + body.lstrip(), body):
            if parses(prompt + way):
                return prompt + way
    return program


def opening(prompt: str) -> str:
    """A prompt as code that runs by itself: its imports, its helpers and an empty function; "" if it is no code."""
    return next((p for p in (prompt, f"{prompt}\n    pass\n") if parses(p)), "")


def called(tests: str) -> set[str]:
    """The names that tests need from the answer."""
    needed = _names(tests).needed if parses(tests) else set()
    return needed - _BUILTIN - sys.stdlib_module_names or needed & _BUILTIN


def parses(source: str) -> bool:
    return _error_line(source) is None


def _error_line(source: str) -> int | None:
    """The line where a program is no Python, 1 if it is not known, None if all of it is."""
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(source, "answer", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        return getattr(error, "lineno", None) or 1
    return None


def _is_python(tag: str) -> bool:
    return tag.lower() in {"", "python", "py", "python3"}


def _blocks(answer: str) -> list[str]:
    return [textwrap.dedent(block) for _, tag, block in _FENCE.findall(answer) if _is_python(tag)]


def _names(source: str) -> _Names:
    top = symtable.symtable(source, "answer", "exec")
    tables = [top]
    for table in tables:
        tables += table.get_children()
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned()}
    for table in top.get_children():
        if isinstance(table, symtable.Class) and table.get_name() == "Solution":
            bound |= set(table.get_identifiers())
    imported = {s.get_name() for s in top.get_symbols() if s.is_imported()}
    used = {s.get_name() for t in tables for s in t.get_symbols() if s.is_referenced() and s.is_global()}
    return _Names(bound, imported, used - bound - imported)


def _defined(names: _Names) -> set[str]:
    return names.bound | names.imported


def _joined(blocks: list[str], names: set[str]) -> str | None:
    """The blocks that define `names`, or those of a whole program, with the blocks that define what these need."""
    blocks = [block for block in blocks if parses(block)]
    table = [_names(block) for block in blocks]

    def together(needed: set[str], before: int, chosen: set[int]) -> str:
        """The chosen blocks and those that define what is needed: of several the last one before, or else after."""
        for name in sorted(needed):
            # A usage example may import the function from a file that does not exist.
            bound = [i for i, x in enumerate(table) if name in x.bound]
            found = bound or [i for i, x in enumerate(table) if name in x.imported]
            i = max((i for i in found if i < before), default=found[-1] if found else None)
            if i is not None and i not in chosen:
                chosen.add(i)
                together(table[i].needed - _BUILTIN, i, chosen)
        return "\n\n".join(blocks[i] for i in sorted(chosen))

    if names:
        return together(names, len(blocks), set()) or None
    running = [i for i, block in enumerate(blocks) if _runs(block)]
    wholes = [together(table[i].needed - _BUILTIN, i, {i}) for i in running]
    tiers = [w for i, w in zip(running, wholes, strict=True) if _talks(blocks[i])], [w for w in wholes if _talks(w)]
    return next((tier[-1] for tier in (*tiers, wholes) if tier), None)


def _runs(block: str) -> bool:
    """Whether a block calls anything when it is run: an example of output, even one that is Python, does not."""
    defining = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    lines = [line for line in ast.parse(block).body if not isinstance(line, defining)]
    return any(isinstance(node, ast.Call) for line in lines for node in ast.walk(line))


def _talks(program: str) -> bool:
    return bool(_READS.search(program) and _WRITES.search(program))


def _unfenced(answer: str, names: set[str]) -> str | None:
    """The program in an answer without fences: from a line that can be its first up to where Python ends."""
    text = _TAG.sub("\n", answer)
    for first in list(_FIRST.finditer(text))[:_LINES]:
        source = text[first.start() :]
        while source and (line := _error_line(source)):
            source = "\n".join(source.split("\n")[: line - 1])
        if source and (names & _defined(_names(source)) if names else _runs(source) and _talks(source)):
            return source
    return None
