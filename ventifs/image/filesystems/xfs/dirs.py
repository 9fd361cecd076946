"""Names in XFS directories: those kept in the inode, and those in blocks of their own.

Only the blocks that hold names are read. The indexes, leaves and nodes, begin at the directory's
offset of 32 GiB.
"""

import struct
from collections.abc import Iterable, Iterator

from ventifs.image.disk import ImageError
from ventifs.image.filesystems.walk import Name, valid
from ventifs.image.filesystems.xfs.layout import XfsLayout
from ventifs.image.survey_events import Extent

NAMES_END = 32 << 30
_PIECE = 1 << 20
_ENTRY = struct.Struct(">QB")
_UNUSED = struct.Struct(">HH")
_TAIL = struct.Struct(">II")
_DAMAGED = "the directory is damaged"


def in_inode(layout: XfsLayout, fork: bytes) -> Iterator[Name]:
    """Yield the names of a directory that has no blocks.

    Raises:
        ImageError: it is damaged; the names yielded before are valid.
    """
    if len(fork) < 6:
        raise ImageError(_DAMAGED)
    width = 8 if fork[1] else 4
    at = 2 + width
    for _ in range(fork[0]):
        if at >= len(fork):
            raise ImageError(_DAMAGED)
        begin = at + 3
        end = begin + fork[at]
        at = end + layout.typed + width
        name, number = fork[begin:end], fork[at - width : at]
        if at > len(fork) or not valid(name):
            raise ImageError(_DAMAGED)
        yield int.from_bytes(number, "big"), name


def in_blocks(layout: XfsLayout, extents: Iterable[Extent]) -> Iterator[Name]:
    """Yield the names of a directory with blocks; damage loses the names in the rest of its block.

    Raises:
        ImageError: some names are damaged; all that can be read were yielded before.
    """
    trouble = ""
    try:
        for block in _blocks(layout, extents):
            try:
                yield from _names(layout, block)
            except ImageError as error:
                trouble = trouble or str(error)
    except ImageError as error:
        trouble = trouble or str(error)
    if trouble:
        raise ImageError(trouble)


def _blocks(layout: XfsLayout, extents: Iterable[Extent]) -> Iterator[bytes]:
    """The directory's blocks; each consists of one or more blocks of the file system."""
    size, window = layout.directory_block_size, layout.window
    rest, expected, read = b"", 0, 0
    for at, start, length in extents:
        read += length
        if at >= NAMES_END:
            break
        # A directory larger than the volume must map the same blocks repeatedly.
        if (rest and at != expected) or read > window.size:
            raise ImageError(_DAMAGED)
        for offset in range(0, length, _PIECE):
            data = rest + window.read(start + offset, min(_PIECE, length - offset))
            whole = len(data) - len(data) % size
            for begin in range(0, whole, size):
                yield data[begin : begin + size]
            rest = data[whole:]
        expected = at + length
    if rest:
        raise ImageError(_DAMAGED)


def _names(layout: XfsLayout, block: bytes) -> Iterator[Name]:
    magic, end = block[:4], len(block)
    head, single, several = (64, b"XDB3", b"XDD3") if layout.checked else (16, b"XD2B", b"XD2D")
    if magic == single:  # the only block has the index at its end
        end -= 8 + 8 * _TAIL.unpack_from(block, end - 8)[0]
    elif magic != several:
        raise ImageError(_DAMAGED)
    at, typed = head, layout.typed
    while at + 16 <= end:
        if block[at : at + 2] == b"\xff\xff":
            step = _UNUSED.unpack_from(block, at)[1]
            if step < 8 or step & 7:
                raise ImageError(_DAMAGED)
            at += step
            continue
        number, length = _ENTRY.unpack_from(block, at)
        name = block[at + 9 : at + 9 + length]
        at += (11 + length + typed + 7) & ~7
        if at > end:
            raise ImageError(_DAMAGED)
        if valid(name):
            yield number, name
        elif name not in (b".", b".."):
            raise ImageError("it has names that no file can have")
    if end < head:
        raise ImageError(_DAMAGED)
