"""Log lines: one line each, whatever a peer calls itself."""

import json
import logging
import re
import shlex

from ventifs.serving.log import LineFormatter, event, log

_HOSTILE = 'a "b"\n=\\x\x1b[31m\u2028'


def _lines(formatter: LineFormatter, act: object) -> list[str]:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, root = Keep(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        act()  # type: ignore[operator]
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    return [formatter.format(record) for record in records]


def test_fields_of_an_event() -> None:
    [line] = _lines(
        LineFormatter(),
        lambda: event(
            "closed",
            peer="tcp 192.0.2.1:5",
            reason=None,
            operations=3,
            seconds=1.23456,
            export=b"web01@latest",
        ),
    )
    assert re.fullmatch(
        r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=info event=closed "
        r'peer="tcp 192.0.2.1:5" operations=3 seconds=1.235 export=web01@latest',
        line,
    )


def test_a_line_is_one_line_and_no_field_can_be_forged() -> None:
    [line] = _lines(LineFormatter(), lambda: event("closed", user=_HOSTILE, empty="", last=1))
    assert line.isascii()
    assert line.isprintable()
    _, _, _, user, empty, last = shlex.split(line)
    assert user.startswith("user=a ")
    assert (empty, last) == ("empty=", "last=1")
    quoted = line.partition("user=")[2].partition(" empty=")[0]
    assert json.loads(quoted) == _HOSTILE


def test_json() -> None:
    formatter = LineFormatter(as_json=True, worker=2)
    [line] = _lines(formatter, lambda: event("closed", user=_HOSTILE, raw=b"\xff", seconds=0.5))
    told = json.loads(line)
    assert "\n" not in line
    assert told.pop("time").endswith("Z")
    assert told == {
        "level": "info",
        "event": "closed",
        "user": _HOSTILE,
        "raw": "\\xff",
        "seconds": 0.5,
        "worker": 2,
    }


def test_what_else_is_logged_is_an_event_too() -> None:
    def fail() -> None:
        try:
            raise ValueError("no\nway")
        except ValueError:
            logging.getLogger("ventifs.vfs.errnos").exception("an operation failed")

    [line] = _lines(LineFormatter(), fail)
    assert 'event=message text="an operation failed" source=ventifs.vfs.errnos' in line
    assert "ValueError: no\\nway" in line
    assert "\n" not in line


def test_an_event_may_name_a_worker() -> None:
    [line] = _lines(LineFormatter(), lambda: event("worker_died", worker=3, level=logging.ERROR))
    assert line.endswith("level=error event=worker_died worker=3")
    assert log.name == "ventifs.serve"
