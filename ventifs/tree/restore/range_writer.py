"""A part of a file's content, written where it belongs: what several processes do for one file.

Holes stay holes in a file that was made new; on a device, which may hold anything, zeros.
"""

import fcntl
import os
import struct
from contextlib import suppress

import msgspec

from ventifs.store import Store
from ventifs.store.score import Buffer
from ventifs.tree.objects.content import read
from ventifs.tree.objects.records import Content

_WRITE_MAX = 512 << 10  # bytes in one call, unless one piece is larger
_PIECES_MAX = 64
_ZEROS = bytes(1 << 20)
_BLKZEROOUT = 0x127F  # linux/fs.h: zero a range of a device, by its own means where it has some


class Piece(msgspec.Struct, frozen=True):
    """The request to write a part of a content into the file whose descriptor comes with it.

    Attributes:
        content: whose part.
        offset: of its first byte, in the content and in the file.
        length: bytes; those past the end of the content are not there.
        zeros: whether holes are written too.
    """

    content: Content
    offset: int
    length: int
    zeros: bool = False


def write_piece(store: Store, piece: Piece, fd: int) -> int:
    """Write a piece; how many bytes up to the end of the last that is no hole.

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
    if written < wanted:  # a disk that fills up: the next call tells
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
