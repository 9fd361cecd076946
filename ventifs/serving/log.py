"""A server's log: each line is an event and its fields, for people and for programs.

Owns both notations: `key=value` (logfmt, values quoted where they must be) and JSON. An event is
always one line, whatever name a peer sends. What other modules log is an event named `message`.
"""

import json
import logging
import re
import time
from typing import Any

from ventifs.text import printable

log = logging.getLogger("ventifs.serve")

_BARE = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f]+")


def event(name: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event.

    Args:
        name: what happened, in a word.
        level: of `logging`.
        fields: of the event, in their order in the line; those that are None are left out.
    """
    log.log(level, name, extra={"fields": fields})


class LineFormatter(logging.Formatter):
    """Records as lines of fields."""

    def __init__(
        self, *, as_json: bool = False, worker: int | None = None, live: str | None = None
    ) -> None:
        """Write JSON or key=value.

        Args:
            as_json: which.
            worker: the number of the process, when there are several.
            live: the live export that the process serves.
        """
        super().__init__()
        self._as_json = as_json
        own = {"worker": worker, "live": live}
        self._process = {name: value for name, value in own.items() if value is not None}

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        fields: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
        }
        if hasattr(record, "fields"):
            fields["event"] = record.getMessage()
            fields.update(record.fields)
        else:
            fields.update(event="message", text=record.getMessage(), source=record.name)
        fields |= self._process
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        fields = {name: value for name, value in fields.items() if value is not None}
        if self._as_json:
            return json.dumps(fields, default=_text)
        return " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())


def _time(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03}Z"


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return printable(value)
    return str(value)


def _quoted(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else _text(value)
    return text if _BARE.fullmatch(text) and text.isascii() else json.dumps(text)
