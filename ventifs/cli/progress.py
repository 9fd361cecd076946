"""Progress of long work, on standard error: drawn on a terminal, elsewhere a line now and then.

No thread refreshes the display: it would hold the GIL often enough to slow down an archive run, see
docs/performance.md.
"""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ventifs.cli.formatting import count, duration, share, size
from ventifs.cli.output import drawing, echo
from ventifs.text import printable

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LINE_EVERY_S = 15.0
_DRAWN_EVERY_S = 0.1
_ENTRY_BYTES = 50_000  # bytes of content that take as long as one entry by itself


class ByteProgress:
    """Shows the bytes done and in all, the rate and the time left, when it is called.

    A call too soon after the last update shows nothing. On a terminal a bar is redrawn. Elsewhere a
    line is printed, at most every 15 seconds. A context manager, which removes the bar from the
    terminal at the end.
    """

    def __init__(
        self, what: str, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Show `what` before the figures, or nothing if `quiet`. `clock` returns seconds."""
        self._clock = clock
        self._what = what
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._terminal = sys.stderr.isatty()
        self._every_s = _DRAWN_EVERY_S if self._terminal else _LINE_EVERY_S
        self._started = clock()
        self._next = float("inf") if quiet else self._started + self._every_s

    def __enter__(self) -> Self:
        """Start; nothing is drawn before the first call."""
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show the progress, unless the last update was too short a time ago."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._every_s
        if self._terminal:
            self._draw(done, total)
        else:
            rate = done / max(now - self._started, 1e-9)
            left = f", {size(rate)}/s, {duration((total - done) / rate)} left" if done else ""
            line = f"{self._what}: {size(done)} of {size(total)}{left}"
            echo(line, err=True)

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(file=drawing()),
                transient=True,
                auto_refresh=False,
            )
            self._task = self._bar.add_task(self._what, total=total)
            self._bar.start()
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total, refresh=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._bar.stop()


def _work(entries: int, total: int) -> int:
    return entries * _ENTRY_BYTES + total


class EntryProgress:
    """Shows how many names and bytes are done, and the rate, when it is called.

    A call too soon after the last update shows nothing. On a terminal one line is redrawn, with the
    current path. Elsewhere a line without the path is printed, at most every 15 seconds. A context
    manager, which removes the line from the terminal at the end.
    """

    def __init__(
        self,
        what: str,
        *,
        quiet: bool = False,
        things: tuple[str, str] = ("entry", "entries"),
        expected_entries: int = 0,
        expected_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set what is shown.

        Args:
            what: shown before the figures.
            quiet: show nothing at all.
            things: what is counted, in singular and plural.
            expected_entries: how many there will be; with it the share done and the time left are
                shown.
            expected_bytes: how many there will be.
            clock: returns seconds.
        """
        self._clock = clock
        self._what = what
        self._things = things
        self._expected = _work(expected_entries, expected_bytes)
        self._terminal = sys.stderr.isatty()
        self._live: Live | None = None
        self._started = clock()
        self._every_s = _DRAWN_EVERY_S if self._terminal else _LINE_EVERY_S
        self._next = float("inf") if quiet else self._started + self._every_s

    def __enter__(self) -> Self:
        """Start; nothing is drawn before the first call."""
        return self

    def __call__(self, entries: int, total: int, path: bytes) -> None:
        """Show the progress, unless the last update was too short a time ago."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._every_s
        elapsed_s = max(now - self._started, 1e-9)
        line = f"{self._what}: {count(entries, *self._things)}"
        if total:
            line += f", {size(total)}, {size(total / elapsed_s)}/s"
        line += self._left(_work(entries, total), elapsed_s)
        if not self._terminal:
            echo(line, err=True)
            return
        from rich.text import Text

        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=drawing()), auto_refresh=False, transient=True)
            self._live.start()
        text = Text(f"{line}  {printable(path)}", no_wrap=True, overflow="ellipsis")
        self._live.update(text, refresh=True)

    def _left(self, work: int, elapsed_s: float) -> str:
        """The share done and the time left; empty where they cannot be estimated."""
        if not 0 < work <= self._expected:
            return ""
        left_s = elapsed_s * (self._expected - work) / work
        return f", {share(work, self._expected)}, {duration(left_s)} left"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the line from the terminal."""
        if self._live is not None:
            self._live.stop()
