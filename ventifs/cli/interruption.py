"""SIGINT and SIGTERM in a command: the first signal raises an exception, a second ends the process.

Always: no signal prints a traceback, and a second signal does not depend on what the first one has
begun. The first raises `KeyboardInterrupt` or `Terminated`, once, so that staging directories are
removed and workers end. It ends the process at once where there is nothing to clean up (while
modules are imported, after the command), and where an exception would break a foreign event loop
(trio's). A store survives that at any moment.

The handlers are never replaced by `SIG_DFL`: Python would report a signal that arrives just before
that as ignored. This module imports almost nothing, so that it is ready before everything else.
"""

import os
import select
import signal
import sys

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # as a shell reports them
MESSAGES = {
    signal.SIGINT: "ventifs: interrupted; nothing committed was lost",
    signal.SIGTERM: "ventifs: terminated; nothing committed was lost",
}

_more = ""  # what the command that runs adds to a message
_raises = False  # whether the next signal is an exception
_silent = False  # whether a signal ends the process without a message


class Terminated(BaseException):
    """SIGTERM arrived."""


def install() -> None:
    """Handle both signals from now on; until `begin` either ends the process at once.

    SIGINT stays ignored if the parent ignores it, as shells do for commands in the background.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _on_signal)
    signal.signal(signal.SIGTERM, _on_signal)
    sys.unraisablehook = _on_unraisable


def begin() -> None:
    """Make the next signal raise an exception: the command runs now."""
    global _raises  # noqa: PLW0603  # signals are the process's
    _raises = True


def explain(text: str) -> None:
    """Add a clause to the message of a signal that interrupts this command."""
    global _more  # noqa: PLW0603
    _more = f"; {text}"


def message(number: signal.Signals) -> str:
    """What is printed when a signal has interrupted the command."""
    return MESSAGES[number] + _more


def end() -> None:
    """Make a signal end the process silently: the command is over, and only reports its result."""
    global _raises, _silent
    _raises, _silent = False, True


class AtOnce:
    """A part of a command in which signals end the process, unless the part handles them itself."""

    def __enter__(self) -> None:
        """Let signals end the process from now on."""
        global _raises
        self._before, _raises = _raises, False

    def __exit__(self, *_: object) -> None:
        """Restore what signals did before."""
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
        _say(message(number))
    os._exit(EXIT_CODES[number])


def _say(line: str) -> None:
    """Print a line on standard error if that does not block: the end waits for no reader."""
    try:
        if select.select((), (2,), (), 0)[1]:
            os.write(2, f"{line}\n".encode())
    except OSError:  # closed, or its reader has gone: there is no other place to report it
        return


def _on_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """End the process for an interruption that Python drops, such as one in a `__del__`."""
    global _silent  # noqa: PLW0603
    for kind, number in ((KeyboardInterrupt, signal.SIGINT), (Terminated, signal.SIGTERM)):
        if issubclass(unraisable.exc_type, kind):
            _silent = False
            _end_at_once(number)
    sys.__unraisablehook__(unraisable)
