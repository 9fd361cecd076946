"""What a run could not archive: the troubles of a version, in its record and beyond it.

A record lists up to 200 troubles. When there are more, or the record would be too long for the
store, the first stand in the record and all others in content that it names: each as its length (4
bytes, little-endian) and the MessagePack array of path, reason and whether the path is missing.
However many they are, they are written and read some at a time. A run itself holds all that it
reports in memory until it commits: about 300 bytes each.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from ventifs.errors import Corrupt
from ventifs.store import Store
from ventifs.store.journal import RECORD_VALUE_MAX
from ventifs.tree.catalog import TROUBLES_MAX, Listed, Version, version_size
from ventifs.tree.chunker import HOLE_ALIGN
from ventifs.tree.content import ContentWriter, read
from ventifs.tree.live import Trouble
from ventifs.tree.records import Empty

_LISTED_BYTES = 64 << 10  # in a record that does not hold all
_PATH_MAX = 64 << 10  # bytes of a path; of a longer one the beginning and the end are kept
_REASON_MAX = 1000  # characters of up to four bytes
_TROUBLE_MAX = 68 << 10  # bytes, encoded
_LENGTH = struct.Struct("<I")
_PIECE = 1 << 20  # bytes written at a time; of whole pages, as the cutter wants it
_MORE = "..."
assert _PIECE % HOLE_ALIGN == 0

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Listed).decode


def listed(found: Iterable[Trouble]) -> tuple[Listed, ...]:
    """What a run reports, in order of the paths, as a version has it: reasons are one text each."""
    return tuple(sorted((each.path, _reason(each.reason), each.missing) for each in found))


def _reason(text: str) -> str:
    """A reason that can be encoded; bytes that are no UTF-8 come from names in archives."""
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _REASON_MAX else text[: _REASON_MAX - len(_MORE)] + _MORE


def shortened(path: bytes, most: int) -> bytes:
    """A path for a report: of a longer one beginning and end, with three dots between."""
    if len(path) <= most:
        return path
    half = (most - len(_MORE)) // 2
    return path[:half] + _MORE.encode() + path[-half:]


def fitted(version: Version, writer: ContentWriter) -> Version:
    """A version whose record the store takes: troubles that it has no room for are in blocks.

    Args:
        version: with all troubles of its run, and none beyond.
        writer: stores what the record has no room for; durable with the record's own commit.
    """
    if len(version.troubles) <= TROUBLES_MAX and version_size(version) <= RECORD_VALUE_MAX:
        return version
    count = _fitting(version.troubles)
    rest = version.troubles[count:]
    return replace(
        version,
        troubles=version.troubles[:count],
        troubles_more=len(rest),
        beyond=writer.write_pieces(_pieces(rest)),
    )


def _fitting(troubles: Sequence[Listed]) -> int:
    """How many of the first a record lists that does not hold all."""
    size = 0
    for count, trouble in enumerate(troubles[:TROUBLES_MAX]):
        size += len(_encode(trouble))
        if size > _LISTED_BYTES:
            return count
    return min(len(troubles), TROUBLES_MAX)


def _pieces(troubles: Iterable[Listed]) -> Iterator[bytes]:
    held = bytearray()
    for path, reason, missing in troubles:
        data = _encode((shortened(path, _PATH_MAX), reason, missing))
        held += _LENGTH.pack(len(data)) + data
        while len(held) >= _PIECE:
            yield bytes(held[:_PIECE])
            del held[:_PIECE]
    if held:
        yield bytes(held)


def troubles_of(store: Store, version: Version) -> Iterator[Listed]:
    """All troubles of a version that the store knows, in order; some at a time are in memory.

    Raises:
        Corrupt, NotStored: where the archive is damaged.
    """
    yield from version.troubles
    if isinstance(version.beyond, Empty):
        return
    count, held = 0, bytearray()
    for piece in read(store, version.beyond):
        held += bytes(piece)  # of a number so many zeros, which no trouble has
        at = 0
        while len(held) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(held, at)
            if not 0 < length <= _TROUBLE_MAX:
                raise Corrupt(f"{version}: a trouble of {length} bytes")
            end = at + _LENGTH.size + length
            if end > len(held):
                break
            yield _decoded(version, bytes(held[at + _LENGTH.size : end]))
            count, at = count + 1, end
        del held[:at]
    if held or count != version.troubles_more:
        raise Corrupt(f"{version}: {count:,} troubles where {version.troubles_more:,} are said")


def _decoded(version: Version, data: bytes) -> Listed:
    try:
        trouble = _decode(data)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{version}: a trouble cannot be read: {error}") from None
    if _encode(trouble) != data:
        raise Corrupt(f"{version}: a trouble is not in its canonical form")
    return trouble
