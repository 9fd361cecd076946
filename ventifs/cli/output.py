"""What commands print for people and programs, on either stream: lines, JSON, log lines.

All of it passes here or through `listing`, so that every line is one line of text that prints,
whatever was composed into it. Bytes (contents of files, a tar, names behind `-0`) go to
`sys.stdout.buffer` instead.
"""

import json
import logging
import sys
from typing import Any, TextIO

from ventifs.text import PrintableStream, one_line


def echo(line: str = "", *, err: bool = False) -> None:
    """Print a line, and flush it."""
    stream = sys.stderr if err else sys.stdout
    stream.write(one_line(line) + "\n")
    stream.flush()


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print JSON, in ASCII, in which JSON itself escapes whatever does not print."""
    sys.stdout.write(json.dumps(value, indent=indent) + "\n")
    sys.stdout.flush()


def drawing() -> TextIO:
    """Standard error for what is drawn on a terminal by escape sequences of our own."""
    return sys.stderr.drawing() if isinstance(sys.stderr, PrintableStream) else sys.stderr


class LogLine(logging.Formatter):
    """What the store logs while a command runs, a line each."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; the traceback of an exception follows."""
        line = f"ventifs: {one_line(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
