"""What SIGINT and SIGTERM do to a command: the first is an exception, the second ends it at once.

What always holds: no signal prints a traceback, and a second one needs nothing of what the first
has begun. The first raises `KeyboardInterrupt` or `Terminated`, once, so that staging directories
and workers go. Where there is nothing to clear away (while modules are imported, when the command
is over), and where an exception would break a foreign loop (trio's), the first ends the process as
well; a store bears that at any moment.

The handlers are never replaced by `SIG_DFL`: of a signal that comes just before that, Python prints
that it was ignored. This module imports next to nothing, so that it is ready before all else.
"""

import os
import select
import signal
import sys

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # as a shell has them
MESSAGES = {
    signal.SIGINT: "ventifs: interrupted; nothing committed was lost",
    signal.SIGTERM: "ventifs: terminated; nothing committed was lost",
}

_raises = False  # whether the next signal is an exception
_silent = False  # whether there is nothing to say any more


class Terminated(BaseException):
    """SIGTERM arrived."""


def install() -> None:
    """Handle both signals from now on; until `begin` either ends the process at once.

    SIGINT that the parent ignores, as `nohup` and shells do for what is in the background, stays
    ignored.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _on_signal)
    signal.signal(signal.SIGTERM, _on_signal)
    sys.unraisablehook = _on_unraisable


def begin() -> None:
    """The command runs now: the next signal is an exception."""
    global _raises  # noqa: PLW0603  # signals are the process's
    _raises = True


def end() -> None:
    """The command is over, and what is left to do is to report: a signal ends that, silently."""
    global _raises, _silent
    _raises, _silent = False, True


class AtOnce:
    """A part of a command in which a signal ends the process, where the part does not take it."""

    def __enter__(self) -> None:
        """Raise nothing from now on."""
        global _raises
        self._before, _raises = _raises, False

    def __exit__(self, *_: object) -> None:
        """As before."""
        global _raises  # noqa: PLW0603
        _raises = self._before


def _on_signal(number: int, _: object) -> None:
    global _raises, _silent
    if not _raises:
        _end_at_once(signal.Signals(number))
    _raises, _silent = False, True
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _end_at_once(number: signal.Signals) -> None:
    global _silent  # noqa: PLW0603
    if not _silent:
        _silent = True
        _say(MESSAGES[number])
    os._exit(EXIT_CODES[number])


def _say(line: str) -> None:
    """Print a line on standard error if that takes it now; the end waits for no reader."""
    try:
        if select.select((), (2,), (), 0)[1]:
            os.write(2, f"{line}\n".encode())
    except OSError:  # closed, or its reader has gone: there is no other place to say so
        return


def _on_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """An interruption where Python drops exceptions, in a `__del__`, is not lost."""
    global _silent  # noqa: PLW0603
    for kind, number in ((KeyboardInterrupt, signal.SIGINT), (Terminated, signal.SIGTERM)):
        if issubclass(unraisable.exc_type, kind):
            _silent = False
            _end_at_once(number)
    sys.__unraisablehook__(unraisable)
