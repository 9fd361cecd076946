"""The standard streams of a command, and what happens when a write to one fails.

Always: a failing stream never changes what a command does to a store or a tree. Commands that only
print stop at the first write that fails (`OutputFailed`); all others finish their work, and what
they still print is discarded. `Output` keeps the first failure, from which `program` derives the
exit code. Text that standard error does not take is discarded, without an exit code of its own. A
file of a store never gets the descriptor number of a standard stream.
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
    """A standard stream for writing. The process that opened it may have made it non-blocking."""

    def _put(self, data: Any) -> int:
        while (count := super().write(data)) is None:
            select.select((), (self.fileno(),), ())
        return count


class Output(_Stream):
    """Standard output.

    Attributes:
        failure: the error of the first failed write; all later output is discarded.
        stopped: whether that failure stopped the command.
    """

    def __init__(self) -> None:
        """Write to descriptor 1, which stays open."""
        super().__init__(1, "wb", closefd=False)
        self.failure: OSError | None = None
        self.stopped = False
        self._discards = False

    def discard(self) -> None:
        """Discard all further output: a flush must not wait for a reader that does not read."""
        self._discards = True

    def write(self, data: Any, /) -> int:
        """Write the data, or discard it after a failure.

        Raises:
            OutputFailed: a write failed for the first time, in a command that only prints.
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
    """Standard error; a write never fails."""

    def write(self, data: Any, /) -> int:
        try:
            return self._put(data)
        except OSError:  # closed, full, or its reader has gone: there is no other place to say so
            return memoryview(data).nbytes


def take_over() -> Output:
    """Replace `sys.stdout` and `sys.stderr` by streams of this module; return standard output.

    A closed standard descriptor is opened on `/dev/null`, so that no other file gets its number.
    Writes to such a standard output fail, as on a closed one; writes to standard error are dropped.
    """
    for fd, how in enumerate((os.O_RDWR, os.O_RDONLY, os.O_RDWR)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, how)  # gets the lowest free number
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
    """The name of the running command, such as `9p cat`; empty while none runs."""
    context = click.get_current_context(silent=True)
    words: list[str] = []
    while context is not None and context.parent is not None:
        words.insert(0, context.info_name or "")
        context = context.parent
    return " ".join(words)
