"""Times: as texts, as spans of a calendar, and which of them lie in the future.

The only module that parses a time or a span, and that decides which of a name's versions is the
latest: the newest that does not lie in the future by this machine's clock. It knows no time zones
but those passed in; `zones` finds them.
"""

import re
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import msgspec

from ventifs.errors import VentifsError

# How far the clocks of hosts that share a store may differ: a version that another host has just
# made is the latest at once. A clock that is set wrong is wrong by more.
SKEW_NS = 60 * 10**9
IN_FUTURE = "in the future"  # what users see of such a version

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WHEN = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?"
    r"(Z|[+-](?:[01]\d|2[0-3]):?[0-5]\d)?)?)?)?"
)


def time_text(time_ns: int) -> str:
    """A time in ISO 8601, UTC, without trailing zeros of its fraction.

    A time outside the years 1 to 9999, which only a 9P server can report, is `@` and its seconds.
    """
    seconds, fraction = divmod(time_ns, 10**9)
    try:
        when = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return f"@{seconds}"
    text = when.strftime("%Y-%m-%dT%H:%M:%S")
    return text + (f".{fraction:09}".rstrip("0") if fraction else "") + "Z"


def parse_time(text: str) -> tuple[int, int]:
    """The first nanosecond of a (partial) time, and the first after it.

    Raises:
        VentifsError: when it is not a time.
    """
    try:
        return _parse_time(text)
    except (ValueError, OverflowError) as error:
        raise VentifsError(f"{text!r} is not a time: {error}") from None


def _parse_time(text: str) -> tuple[int, int]:
    match = _WHEN.fullmatch(text)
    if match is None:
        raise VentifsError(f"{text!r} is not a time; write it like 2026-11-23 or 2026-11-23T06:00Z")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        start = datetime(
            int(year),
            int(month or 1),
            int(day or 1),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            tzinfo=UTC,
        )
    except ValueError as error:
        raise VentifsError(f"{text!r} is not a time: {error}") from None
    if second:
        length = timedelta(seconds=1)
    elif minute or hour:
        length = timedelta(minutes=1) if minute else timedelta(hours=1)
    elif day:
        length = timedelta(days=1)
    else:
        following = (start.year + 1, 1) if not month else divmod(start.year * 12 + start.month, 12)
        end = start.replace(year=following[0], month=1 if not month else following[1] + 1)
        length = end - start
    if zone and zone != "Z":
        sign = 1 if zone[0] == "+" else -1
        start -= sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    first = (start - _EPOCH) // timedelta(seconds=1) * 10**9
    if fraction:
        first += int(fraction.ljust(9, "0"))
        return first, first + 10 ** (9 - len(fraction))
    return first, first + length // timedelta(seconds=1) * 10**9


def in_future(time_ns: int, now_ns: int | None = None) -> bool:
    """Whether a version's time lies more than a minute after `now_ns`; None is the clock's time."""
    return time_ns > (time.time_ns() if now_ns is None else now_ns) + SKEW_NS


def past_count(times: Sequence[Any], now_ns: int, key: Callable[[Any], int] | None = None) -> int:
    """How many of some times, in order, do not lie in the future; O(log n).

    Args:
        times: UTC nanoseconds since 1970, or what `key` makes into these.
        now_ns: the clock's time.
        key: the time of an element.
    """
    return bisect_right(times, now_ns + SKEW_NS, key=key)


def latest_place(times: Sequence[Any], now_ns: int, key: Callable[[Any], int] | None = None) -> int:
    """Where in a name's times its latest version is; -1 if there are none.

    That is the newest which does not lie in the future, or the newest of all if each of them does.
    """
    return (past_count(times, now_ns, key) or len(times)) - 1


def moment(time_ns: int, zone: tzinfo = UTC) -> datetime:
    """A version's time in a zone, in whole seconds."""
    return (_EPOCH + timedelta(seconds=time_ns // 10**9)).astimezone(zone)


class CalendarSpan(msgspec.Struct, frozen=True):
    """A length of time by the calendar, as in `--keep-within 1y5m7d2h`; false if it is 0.

    Attributes:
        months, days: of the calendar, so that a day may have 23 or 25 hours.
        hours: of 3,600 seconds.
    """

    months: int = 0
    days: int = 0
    hours: int = 0

    def __bool__(self) -> bool:
        return self != CalendarSpan()

    def __str__(self) -> str:
        years, months = divmod(self.months, 12)
        parts = {"y": years, "m": months, "d": self.days, "h": self.hours}
        return "".join(f"{number}{unit}" for unit, number in parts.items() if number) or "0h"

    def before(self, time_ns: int, zone: tzinfo) -> int:
        """The time, in UTC nanoseconds since 1970, that lies so long before another.

        Months and days go back in the zone's calendar, to the same hour; from the 31st to the last
        day of a shorter month. Of an hour that a change of the clock repeats, or leaves out, the
        earlier reading is meant. What lies before the year 1 is -2**63.
        """
        if self.months or self.days:
            try:
                whole_s = self._calendar_before(moment(time_ns, zone))
            except (OverflowError, ValueError):
                return -(2**63)
            time_ns = whole_s * 10**9 + time_ns % 10**9
        return max(time_ns - self.hours * 3600 * 10**9, -(2**63))

    def _calendar_before(self, local: datetime) -> int:
        """Seconds since 1970, so many months and days before a local time."""
        from calendar import monthrange  # only needed here

        year, month = divmod(local.year * 12 + local.month - 1 - self.months, 12)
        day = min(local.day, monthrange(year, month + 1)[1])
        wall = local.replace(year=year, month=month + 1, day=day) - timedelta(days=self.days)
        return min(
            (wall.replace(fold=fold).astimezone(UTC) - _EPOCH) // timedelta(seconds=1)
            for fold in (0, 1)
        )


_SPAN = re.compile(r"(?:[0-9]{1,6}[ymwdh])+")
_UNITS = {
    "y": CalendarSpan(12),
    "m": CalendarSpan(1),
    "w": CalendarSpan(0, 7),
    "d": CalendarSpan(0, 1),
    "h": CalendarSpan(0, 0, 1),
}


def parse_span(text: str) -> CalendarSpan:
    """The span that a text means: numbers of y, m, w, d and h, each unit once; m is a month.

    Raises:
        VentifsError: when it is not a span.
    """
    parts = re.findall(r"([0-9]+)([a-z])", text)
    if not _SPAN.fullmatch(text) or len({unit for _, unit in parts}) < len(parts):
        raise VentifsError(
            f"{text!r} is not a length of time; write it like 30d, 36h, 2w or 1y5m7d2h "
            "(m is a month)"
        )
    months = days = hours = 0
    for digits, letter in parts:
        number, unit = int(digits), _UNITS[letter]
        months += number * unit.months
        days += number * unit.days
        hours += number * unit.hours
    return CalendarSpan(months, days, hours)
