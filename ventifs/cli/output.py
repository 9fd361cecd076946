"""Output of commands for people and programs, on either stream: lines, JSON, log lines.

All text output passes through this module or `listing`, so that every line is one line of printable
text, whatever was composed into it. Bytes (contents of files, a tar, names printed by `-0`) go to
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
    """Print a value as JSON in ASCII; JSON escapes all nonprintable characters."""
    sys.stdout.write(json.dumps(value, indent=indent) + "\n")
    sys.stdout.flush()


def drawing() -> TextIO:
    """Standard error without escaping, for what the program draws by escape sequences."""
    return sys.stderr.drawing() if isinstance(sys.stderr, PrintableStream) else sys.stderr


class LogLine(logging.Formatter):
    """Formats log records of a running command, one line each."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; the traceback of an exception follows."""
        line = f"ventifs: {one_line(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
