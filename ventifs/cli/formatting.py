"""Formats figures for people and paths for scripts; parses sizes from the command line."""

import re
from base64 import b64encode

import click

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_SIZE = re.compile(r"(\d+)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def size(count: float) -> str:
    """Bytes in decimal units, three digits: `40.1 MB`."""
    unit = 0
    while abs(count) >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    if unit == 0:
        return f"{count:.0f} B"
    return f"{count:.{max(0, 2 - len(str(int(abs(count)))) + 1)}f} {_UNITS[unit]}"


def count(number: int, one: str, many: str | None = None) -> str:
    """A number of things: `1 arena`, `2,000 blocks`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def share(part: int, whole: int) -> str:
    """A percentage: `40.1 %`; a dash if `whole` is 0."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def exact(path: bytes, key: str = "path") -> dict[str, str]:
    """A path's fields in JSON: its text and, if it is not UTF-8, its bytes as `path_base64`."""
    try:
        return {key: path.decode()}
    except UnicodeDecodeError:
        text = path.decode("utf-8", "replace")
        return {key: text, f"{key}_base64": b64encode(path).decode()}


def duration(seconds: float) -> str:
    """A time in whole seconds: `12 s`, `3:05 min`, `2:10 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


class Size(click.ParamType[int]):
    """A number of bytes on the command line: `256MiB`, `1G`, `4194304`."""

    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Parse; KiB, MiB, GiB, TiB, K, M, G and T are powers of 1024; KB, MB, GB, TB of 1000."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is not a size; write it like 256MiB", param, ctx)
        digits, unit, binary = match.groups()
        decimal = not binary and value.strip().lower().endswith("b")
        power: int = " kmgt".index(unit.lower() or " ")
        return int(digits) * int((1000 if decimal else 1024) ** power)
