"""The progress of a run: one line in a terminal, a line every 10 s in a log, a bar in a notebook, all by tqdm."""

import sys
from collections import Counter
from typing import Any, TextIO

PAUSE_S = {"terminal": 0.2, "log": 10.0, "notebook": 0.5, "none": 10.0}


class Progress:
    """Counts of a run: calls done, dollars charged, time left, errors by class. `close` writes the last line.

    Args:
        total: calls of the run.
        done: of them, those already in the ledger.
        usd: charged before this session.
        at_once: calls in flight. The time left is shown after so many returned: before, the rate is not known.
        where: "terminal", "log", "notebook" or "none"; None finds out.
        file: where lines go, standard error if None.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        usd: float = 0.0,
        *,
        at_once: int = 1,
        where: str | None = None,
        file: TextIO | None = None,
    ) -> None:
        where, out = where or _where(), file or sys.stderr
        if where == "notebook":
            from tqdm.notebook import tqdm
        else:
            from tqdm.std import tqdm
        self.usd, self.errors, self._rate_known_at = usd, Counter[str](), done + at_once
        self._bar: Any = tqdm(
            total=total,
            initial=done,
            file=_Lines(out) if where == "log" else out,
            disable=where == "none",  # named here, so that TQDM_DISABLE does not switch it off
            mininterval=PAUSE_S[where],
            miniters=0,
            smoothing=0,
            bar_format="{n:,} of {total:,} ({percentage:.0f}%)  {desc}",
            desc=f"${usd:.4f}",
        )

    def tell(self, usd: float, error: str | None) -> None:
        """Count one finished call: its charge, and the class of its error if it has no answer."""
        self.usd += usd
        self.errors.update([error] if error else [])
        self._bar.n += 1
        self.tick()

    def tick(self) -> None:
        """Show the counts if it is time to."""
        bar = self._bar
        if bar.disable:
            return
        parts = [f"${self.usd:.4f}"]
        if self._rate_known_at <= bar.n < bar.total:
            left_s = (bar.total - bar.n) / (bar.n - bar.initial) * bar.format_dict["elapsed"]
            parts.append(f"{left_s / 60:.0f} min left" if left_s > 90 else f"{left_s:.0f} s left")
        if self.errors:
            parts.append("errors: " + ", ".join(f"{k} {n}" for k, n in self.errors.most_common()))
        bar.desc = "  ".join(parts)
        bar.update(0)

    def close(self) -> None:
        self.tick()
        self._bar.close()


class _Lines:
    """A file for tqdm that turns each redrawn bar into a line."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._last = file, ""

    def write(self, text: str) -> None:
        if (line := text.strip()) and line != self._last:
            self._file.write(line + "\n")
            self._last = line

    def flush(self) -> None:
        self._file.flush()


def _where() -> str:
    shell = type(sys.modules["IPython"].get_ipython()).__name__ if "IPython" in sys.modules else ""
    if shell == "ZMQInteractiveShell":
        return "notebook"
    return "terminal" if sys.stderr.isatty() else "log"
