"""Time zones: by name, by offset, and the machine's own.

A zone's `str` is what users call it: `Europe/Berlin`, `UTC`, `+02:00`. A zone that cannot be had is
refused, never replaced by UTC.
"""

import os
import re
import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from io import BytesIO
from pathlib import Path
from zoneinfo import ZoneInfo

from ventifs.errors import VentifsError
from ventifs.text import printable

_LOCALTIME = Path("/etc/localtime")
_OFFSET = re.compile(r"([+-])([01][0-9]|2[0-3]):?([0-5][0-9])")
_POSIX = re.compile(r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]{3,}>)[+-]?[0-9]{1,2}(?::[0-9:]+)?\S*")
_FAULTS = (OSError, ValueError, KeyError, EOFError, struct.error)  # of zoneinfo, for any bytes


class _Offset(tzinfo):
    """A fixed offset from UTC."""

    def __init__(self, offset: timedelta, name: str) -> None:
        self._offset = offset
        self._name = name

    def utcoffset(self, moment: datetime | None, /) -> timedelta:
        return self._offset

    def dst(self, moment: datetime | None, /) -> timedelta:
        return timedelta()

    def tzname(self, moment: datetime | None, /) -> str:
        return self._name

    def __str__(self) -> str:
        return self._name


def zone_of(zone: str | tzinfo | None) -> tzinfo:
    """The zone of a name or offset, or the machine's own for None.

    Raises:
        VentifsError: as `named_zone` and `machine_zone`.
    """
    if zone is None:
        return machine_zone()
    return named_zone(zone) if isinstance(zone, str) else zone


def named_zone(text: str) -> tzinfo:
    """The zone of a name of the IANA database, such as `Europe/Berlin`, or of an offset, `+02:00`.

    Raises:
        VentifsError: there is none.
    """
    if text in ("UTC", "Z"):
        return UTC  # also where there is no database
    offset = _OFFSET.fullmatch(text)
    if offset:
        sign = -1 if offset[1] == "-" else 1
        length = sign * timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        return _Offset(length, f"{offset[1]}{offset[2]}:{offset[3]}")
    try:
        return ZoneInfo(text)
    except _FAULTS:
        raise VentifsError(
            f"{text[:100]!r}: this machine knows no such time zone; write it like Europe/Berlin, "
            "UTC or +02:00 (Debian's package tzdata has the names)"
        ) from None


def machine_zone(environ: Mapping[str, str] = os.environ, localtime: Path = _LOCALTIME) -> tzinfo:
    """The zone that programs of this machine and environment use.

    That is `TZ`, as tzset(3) reads it: a name, the path of a file, or a rule such as
    `CET-1CEST,M3.5.0,M10.5.0/3`, with its dates; else /etc/localtime; UTC if that is not there.

    Raises:
        VentifsError: it is no zone, where the C library would silently use UTC.
    """
    text = environ.get("TZ")
    if text is None:
        return _of_file(localtime) if localtime.exists() else UTC
    name = text.removeprefix(":")
    try:
        if name in ("", "UTC"):
            return UTC
        if name.startswith("/"):
            return _of_file(Path(name))
        return _of_name_or_rule(name)
    except (VentifsError, *_FAULTS):
        raise VentifsError(
            f"TZ={printable(os.fsencode(text[:100]))}: this machine knows no such time zone; "
            "correct or unset it, or name a zone with --timezone"
        ) from None


def _of_file(path: Path) -> tzinfo:
    """The zone of a file, called by the name that the database has for it, if it is a link."""
    try:
        name = os.path.realpath(path).rpartition("/zoneinfo/")[2]
        with path.open("rb") as file:
            return ZoneInfo.from_file(file, key=printable(os.fsencode(name)))
    except _FAULTS as error:
        raise VentifsError(
            f"{printable(os.fsencode(path))} holds no time zone ({error}); name one with --timezone"
        ) from None


def _of_name_or_rule(text: str) -> tzinfo:
    try:
        return ZoneInfo(text)
    except _FAULTS:
        if not _POSIX.fullmatch(text):
            raise
        return _of_rule(text)


def _of_rule(rule: str) -> tzinfo:
    """The zone of a rule: that of a file (RFC 8536) that has no changes of its own before it."""
    counts = struct.pack(">4sc15x6I", b"TZif", b"2", 0, 0, 0, 0, 1, 4)
    block = counts + struct.pack(">iBB", 0, 0, 0) + b"UTC\0"
    return ZoneInfo.from_file(BytesIO(block + block + b"\n" + rule.encode() + b"\n"), key=rule)
