"""The standard streams of a command, and what becomes of output that is not taken.

Always: a failing stream never changes what a command does to a store or a tree. Commands that only
print stop at the first write that fails (`OutputFailed`); all others finish their work, and what
they still print is discarded. `Output` remembers the first failure, from which `main` makes the
exit code. What standard error does not take is discarded: it has no code of its own. No file of a
store ever gets the number of a standard stream.
"""

import io
import os
import select
import sys
from typing import Any, TextIO

import click

from ventifs.text import UNENCODABLE, PrintableStream

# Commands whose whole work is their output. One that is missing here only stops later.
PRINTERS = frozenset(
    {
        "versions",
        "ls",
        "cat",
        "log",
        "diff",
        "find",
        "du",
        "export",
        "servers",
        "stats",
        "9p ls",
        "9p cat",
        "9p stat",
    }
)


class OutputFailed(Exception):
    """Standard output takes no more, and the command has nothing else to do."""


class _Stream(io.FileIO):
    """A standard stream for writing, which may be non-blocking: it is its opener's."""

    def _put(self, data: Any) -> int:
        while (count := super().write(data)) is None:
            select.select((), (self.fileno(),), ())
        return count


class Output(_Stream):
    """Standard output.

    Attributes:
        failure: of the first write that failed; everything after it is discarded.
        stopped: whether the command was stopped by that.
    """

    def __init__(self) -> None:
        """Of this process."""
        super().__init__(1, "wb", closefd=False)
        self.failure: OSError | None = None
        self.stopped = False
        self._discards = False

    def discard(self) -> None:
        """Write nothing more: what is buffered must not wait for a reader that does not read."""
        self._discards = True

    def write(self, data: Any, /) -> int:
        """Write, or discard.

        Raises:
            OutputFailed: the first time that it fails, in a command that only prints.
        """
        if self.failure is None and not self._discards:
            try:
                return self._put(data)
            except OSError as error:
                self.failure = error
                if _command() in PRINTERS:
                    self.stopped = True
                    raise OutputFailed from None
        return memoryview(data).nbytes


class _Errors(_Stream):
    """Standard error, which takes everything."""

    def write(self, data: Any, /) -> int:
        try:
            return self._put(data)
        except OSError:  # closed, full, or its reader has gone: there is no other place to say so
            return memoryview(data).nbytes


def take_over() -> Output:
    """Make the standard streams those of this module; standard output.

    A stream that is closed is replaced, so that its number is taken: standard output by what fails
    as a closed one does, standard error by one that leads nowhere.
    """
    for fd, how in enumerate((os.O_RDWR, os.O_RDONLY, os.O_RDWR)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, how)  # gets the lowest number there is
    output = Output()
    if sys.stdout is None or isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _text(output, sys.stdout, line_buffering=os.isatty(1))
    if sys.stderr is None or isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _text(_Errors(2, "wb", closefd=False), sys.stderr, line_buffering=True)
    return output


def _text(raw: io.FileIO, before: TextIO | None, *, line_buffering: bool) -> io.TextIOWrapper:
    return PrintableStream(
        io.BufferedWriter(raw),
        encoding=before.encoding if before else "utf-8",
        errors=UNENCODABLE,
        line_buffering=line_buffering,
    )


def _command() -> str:
    """The words of the command that runs, `9p cat`; none while there is none."""
    context = click.get_current_context(silent=True)
    words: list[str] = []
    while context is not None and context.parent is not None:
        words.insert(0, context.info_name or "")
        context = context.parent
    return " ".join(words)
