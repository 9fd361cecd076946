"""LVM's metadata: where a physical volume keeps it, and how its text is parsed.

Reads labels, metadata areas (rings, in which text can wrap around to the beginning) and checksums,
and parses the text into dictionaries. Nothing here knows what the text means.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from ventifs.image.disk import ImageError
from ventifs.image.volumes.window import Window

TEXT_BYTES_MAX = 16 << 20
_DEPTH_MAX = 16
_AREA = struct.Struct("<I16sIQQ")  # checksum, magic, version; start and size of the area
_LOCATION = struct.Struct("<QQII")  # offset in the area, size, checksum, flags
_AREA_MAGIC = b" LVM2 x[5A%r0N*>"
_AREA_HEADER_BYTES = 512
_TOKEN = re.compile(
    r"""(?:\s++|\#[^\n]*+)*+  # taken whole: a comment holds no token
    (?: (?P<text>"(?:[^"\\]|\\.)*+") | (?P<number>-?\d+(?:\.\d+)?) (?![\w.+-])
      | (?P<name>[\w.+-]+) | (?P<mark>[{}\[\]=,]) )""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)

Value = str | int | float | list[str | int | float]
Section = dict[str, "Value | Section"]


class PhysicalVolume(NamedTuple):
    """A physical volume's label.

    Attributes:
        identifier: 32 characters.
        areas: offset and size of each of its metadata areas; there may be none.
    """

    identifier: str
    areas: tuple[tuple[int, int], ...]


def crc(data: bytes) -> int:
    """LVM's checksum: a CRC-32 with another initial value and without inversion."""
    # zlib inverts before and after; this undoes both.
    return zlib.crc32(data, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def read_label(volume: Window) -> PhysicalVolume | None:
    """The label of a physical volume; None if it has no intact one.

    Raises:
        ImageError: the volume cannot be read.
    """
    for sector in range(4):
        if volume.size < (sector + 1) * 512:
            break
        label = volume.read(sector * 512, 512)
        magic, number, checksum, start, kind = struct.unpack_from("<8sQII8s", label)
        if magic != b"LABELONE" or kind != b"LVM2 001" or number != sector:
            continue
        if checksum == crc(label[20:]) and 32 <= start <= 512 - 40:
            pairs = iter(struct.iter_unpack("<QQ", label[start + 40 :][: (472 - start) // 16 * 16]))
            _list(pairs)  # where data is; the metadata has that, too
            return PhysicalVolume(
                label[start : start + 32].decode("ascii", "replace"), _list(pairs)
            )
    return None


def _list(pairs: Iterator[tuple[int, ...]]) -> tuple[tuple[int, int], ...]:
    """Offsets and sizes up to the first pair whose offset is 0."""
    found = []
    for offset, size in pairs:
        if not offset:
            break
        found.append((offset, size))
    return tuple(found)


def read_text(volume: Window, offset: int, size: int) -> str | None:
    """The current text of a metadata area; None if it has none, as before its first use.

    Raises:
        ImageError: it is damaged, or cannot be read.
    """
    header = volume.read(offset, _AREA_HEADER_BYTES)
    checksum, magic, version, start, area = _AREA.unpack_from(header)
    if magic != _AREA_MAGIC or version != 1 or checksum != crc(header[4:]) or start != offset:
        raise ImageError("the LVM metadata area's header is damaged")
    at, length, checksum, flags = _LOCATION.unpack_from(header, _AREA.size)
    if not at or not length or flags & 1:  # flag 1: ignored, since another area has the text
        return None
    if not _AREA_HEADER_BYTES <= at < area or length > min(area, TEXT_BYTES_MAX):
        raise ImageError("the LVM metadata lies outside its area")
    first = min(length, area - at)
    data = volume.read(offset + at, first)
    data += volume.read(offset + _AREA_HEADER_BYTES, length - first)
    if checksum != crc(data):
        raise ImageError("the LVM metadata is damaged")
    return data.rstrip(b"\0").decode("utf-8", "replace")


def parse(text: str) -> Section:
    """The sections of a text, by name.

    Raises:
        ImageError: it is not what LVM writes.
    """
    return _section(_tokens(text), 0)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Kind and characters of each token; an end of the outermost section follows the last."""
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            if re.fullmatch(r"(?:\s++|#[^\n]*+)*+", text[at:]):
                break
            raise ImageError(f"the LVM metadata cannot be read at character {at}")
        yield str(match.lastgroup), match[str(match.lastgroup)]
        at = match.end()
    yield "mark", "}"


def _section(tokens: Iterator[tuple[str, str]], depth: int) -> Section:
    section: Section = {}
    if depth > _DEPTH_MAX:
        raise ImageError("the LVM metadata is nested too deeply")
    for kind, name in tokens:
        if (kind, name) == ("mark", "}"):
            return section
        _, mark = next(tokens, ("", ""))
        if kind not in ("name", "number") or mark not in ("{", "="):
            break
        section[name] = _section(tokens, depth + 1) if mark == "{" else _value(tokens)
    raise ImageError("the LVM metadata has a section without an end")


def _value(tokens: Iterator[tuple[str, str]]) -> Value:
    kind, text = next(tokens, ("", ""))
    if (kind, text) != ("mark", "["):
        return _scalar(kind, text)
    found: list[str | int | float] = []
    for kind, text in tokens:
        if (kind, text) == ("mark", "]"):
            return found
        if (kind, text) != ("mark", ","):
            found.append(_scalar(kind, text))
    raise ImageError("the LVM metadata has a list without an end")


def _scalar(kind: str, text: str) -> str | int | float:
    if kind == "text":
        return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
    if kind == "number" and len(text) < 20:
        return float(text) if "." in text else int(text)
    raise ImageError("the LVM metadata has something else where a value should be")
