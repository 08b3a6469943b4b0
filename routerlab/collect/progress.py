"""How a run is going, in the place where it runs: one line in a terminal, a line every 10 s in a
log, a label in a notebook.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from routerlab.collect.calls import Call


class Progress:
    """Counts of a run: rows done, dollars charged, errors by class, and when it may end.

    `where` is "terminal", "log", "notebook" or "none"; None finds out. Lines go to `write` (standard error).
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        usd: float = 0.0,
        *,
        where: str | None = None,
        write: Callable[[str], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.done, self.usd = total, done, usd
        self.errors: Counter[str] = Counter()
        self.where = where or _where()
        self._write, self._clock = write or _stderr, clock
        self._began = self._told = clock()
        self._before = done
        self._label: Any = None

    def tell(self, call: Call, usd: float, error: str | None) -> None:
        """One call was settled: an answer, or an error of class `error`."""
        self.done += 1
        self.usd += usd
        if error:
            self.errors[error] += 1
        pause = {"terminal": 0.2, "log": 10.0, "notebook": 0.5}.get(self.where)
        if pause is not None and self._clock() - self._told >= pause:
            self.show()

    def line(self) -> str:
        """`1,204 of 5,920 (20 %)  $0.0132  4 min left  errors: timeout 3`."""
        spent = max(self._clock() - self._began, 1e-9)
        left = (self.total - self.done) / max((self.done - self._before) / spent, 1e-9)
        share = self.done / max(self.total, 1)
        parts = [f"{self.done:,} of {self.total:,} ({share:.0%})", f"${self.usd:.4f}"]
        if self._before < self.done < self.total:
            parts.append(f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left")
        if self.errors:
            parts.append("errors: " + ", ".join(f"{k} {n}" for k, n in self.errors.most_common()))
        return "  ".join(parts)

    def show(self, end: bool = False) -> None:
        """Write the line now; `end` closes it."""
        self._told = self._clock()
        if self.where == "terminal":
            self._write(f"\r\x1b[K{self.line()}" + ("\n" if end else ""))
        elif self.where == "log":
            self._write(self.line() + "\n")
        elif self.where == "notebook":
            self._in_notebook()

    def _in_notebook(self) -> None:
        if self._label is None:
            from IPython.display import display
            from ipywidgets import Label

            self._label = Label()
            display(self._label)
        self._label.value = self.line()


def _stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _where() -> str:
    shell = type(sys.modules["IPython"].get_ipython()).__name__ if "IPython" in sys.modules else ""
    if shell == "ZMQInteractiveShell":
        return "notebook"
    return "terminal" if sys.stderr.isatty() else "log"
