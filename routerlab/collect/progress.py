"""The progress of a run: one line in a terminal, a line every 10 s in a log, a bar in a notebook, all by tqdm."""

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, TextIO

from routerlab.collect.calls import CallError

MOST_TEXTS = 20  # messages of providers that are shown
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
        self.retried = self.in_flight = 0
        self.messages: dict[str, str] = {}  # of providers, once for each text without its numbers
        self._out = out
        self._lines = _Lines(out) if where == "log" else None
        self._bar: Any = tqdm(
            total=total,
            initial=done,
            file=self._lines or out,
            disable=where == "none",  # named here, so that TQDM_DISABLE does not switch it off
            mininterval=PAUSE_S[where],
            miniters=0,
            smoothing=0,
            bar_format="{n:,} of {total:,} ({percentage:.0f}%)  {desc}",
            desc=f"${usd:.4f}",
        )

    def start(self) -> None:
        """Measure time from here: the first call is about to be sent."""
        if not self._bar.disable:
            self._bar.start_t = self._bar.last_print_t = self._bar._time()

    def tell(self, usd: float, error: CallError | None) -> None:
        """Count one finished call: its charge, and its error if it has no answer."""
        self.usd += usd
        self._bar.n += 1
        if error:
            self.errors[error.kind] += 1
            self.say(error)
        self.tick()

    def of_judge(self) -> "Progress":
        """A progress that shows nothing but messages, as the judge's calls are not counted among the run's."""
        judge = Progress(0, where="none")
        judge.messages, judge.line = self.messages, self.line  # type: ignore[method-assign]
        return judge

    def retry(self, error: CallError, down: bool) -> None:
        """Count an attempt that failed and will be repeated; `down` if its provider is waited for."""
        self.retried += 1
        self.say(error, "waiting until the provider answers again" if down else "")
        self.tick()

    @contextlib.contextmanager
    def flying(self, calls: int) -> Iterator[None]:
        """Count calls in flight."""
        self.in_flight += calls
        try:
            yield
        finally:
            self.in_flight -= calls

    def say(self, error: CallError, remark: str = "") -> None:
        """Show the provider's words, or a remark on an error, once for each text (but for its numbers)."""
        if not (error.said or remark):
            return
        text = ": ".join(filter(None, (str(error), remark)))
        known = re.sub(r"\w*\d\w*", "#", text)
        if known not in self.messages and len(self.messages) < MOST_TEXTS:
            self.messages[known] = text
            self.line(text)

    def line(self, text: str) -> None:
        """Show a line of text above the bar."""
        if not self._bar.disable:
            self._bar.clear()
            print(text, file=self._out, flush=True)
            if not self._lines:  # a log has no bar to draw again
                self._bar.refresh()

    def tick(self) -> None:
        """Show the counts if it is time to."""
        bar = self._bar
        if bar.disable:
            return
        parts = [f"${self.usd:.4f}"]
        if self._rate_known_at <= bar.n < bar.total:
            left_s = (bar.total - bar.n) / (bar.n - bar.initial) * bar.format_dict["elapsed"]
            parts.append(f"{left_s / 60:.0f} min left" if left_s > 90 else f"{left_s:.0f} s left")
        parts += [f"{self.retried:,} attempts repeated"] * bool(self.retried)
        parts += ["errors: " + ", ".join(f"{k} {n}" for k, n in self.errors.most_common())] * bool(self.errors)
        bar.desc = "  ".join(parts)
        bar.update(0)

    def close(self) -> None:
        self.tick()
        if self._lines:
            self._lines.closing = True
        self._bar.close()


class _Lines:
    """A file for tqdm that turns each redrawn bar into a line. When it closes, the last line is not repeated."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._last, self.closing = file, "", False

    def write(self, text: str) -> None:
        if (line := text.strip()) and not (self.closing and line == self._last):
            self._file.write(line + "\n")
            self._last = line

    def flush(self) -> None:
        self._file.flush()


def _where() -> str:
    shell = type(sys.modules["IPython"].get_ipython()).__name__ if "IPython" in sys.modules else ""
    if shell == "ZMQInteractiveShell":
        return "notebook"
    return "terminal" if sys.stderr.isatty() else "log"
