"""Writes a part of a file's content at its offset, so that several processes can write one file.

In a new file, holes stay holes. On a device, which may hold anything, they are written as zeros.
"""

import fcntl
import os
import struct
from contextlib import suppress

import msgspec

from ventifs.buffer import Buffer
from ventifs.store import Store
from ventifs.tree.objects.content import read
from ventifs.tree.objects.records import Content

_WRITE_MAX = 512 << 10  # bytes in one call, unless one piece is larger
_PIECES_MAX = 64
_ZEROS = bytes(1 << 20)
_BLKZEROOUT = 0x127F  # linux/fs.h: zero a range of a device, by the device's own means if it can


class WriteRange(msgspec.Struct, frozen=True):
    """The request to write a part of a content into the file whose descriptor comes with it.

    Attributes:
        content: the whole content.
        offset: of its first byte, in the content and in the file.
        length: bytes; those past the end of the content are left out.
        zeros: whether holes are written too.
    """

    content: Content
    offset: int
    length: int
    zeros: bool = False


def write_piece(store: Store, piece: WriteRange, fd: int) -> int:
    """Write a piece; return the offset in the file at which its last data ends.

    Raises:
        Corrupt, NotStored: where the archive is damaged.
        OSError: it cannot be written.
    """
    start = offset = reached = piece.offset
    gathered: list[Buffer] = []
    for part in read(store, piece.content, piece.offset, piece.length):
        hole = isinstance(part, int)
        if not isinstance(part, int):
            gathered.append(part)
            offset = reached = offset + len(part)
        if hole or offset - start >= _WRITE_MAX or len(gathered) == _PIECES_MAX:
            write_all(fd, gathered, start)
            gathered = []
            if isinstance(part, int):
                if piece.zeros:
                    _zero(fd, offset, part)
                offset += part
            start = offset
    write_all(fd, gathered, start)
    return reached


def write_all(fd: int, pieces: list[Buffer], offset: int) -> None:
    """Write buffers one after another, all of them.

    Raises:
        OSError: they cannot be written.
    """
    wanted = sum(map(len, pieces))
    written = os.pwritev(fd, pieces, offset) if pieces else 0
    if written < wanted:  # the disk may be filling up: then the next call raises
        rest = memoryview(b"".join(pieces))
        while written < wanted:
            written += os.pwrite(fd, rest[written:], offset + written)


def _zero(fd: int, offset: int, length: int) -> None:
    with suppress(OSError):  # no device, or one that wants larger units
        fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("QQ", offset, length))
        return
    end = offset + length
    while offset < end:
        offset += os.pwrite(fd, memoryview(_ZEROS)[: end - offset], offset)
