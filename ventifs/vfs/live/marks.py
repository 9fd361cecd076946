"""What a file is known by while nothing pins it: its mark, one object of bytes.

A mark is the file's type, version and number, then its file handle, if that was needed so far, and
its name. One object of bytes takes less memory than one for each. Two marks with equal `same` are
of one file as long as either of them is pinned, or their handles are equal.
"""

import stat
from struct import Struct

from ventifs.vfs.interface import DIRECTORY, FILE, SYMLINK, Identity

# The identity as it is; the type as readdir(3) has it; the length of the handle
_MARK = Struct("<BIQBB")
_IDENTITY = Struct("<BIQ").unpack_from
_NUMBER = Struct("<Q").unpack_from
_TYPE = 13
_SAME = 14  # bytes: identity and type
_SIZE = _MARK.size
_KINDS = [FILE] * 16
_KINDS[stat.S_IFDIR >> 12] = DIRECTORY
_KINDS[stat.S_IFLNK >> 12] = SYMLINK
_NEW = tuple.__new__


def version_of(birth_s: int, birth_ns: int) -> int:
    """The version of a file that was made at a time: the same as long as it exists, never 0.

    It holds no time of modification: Linux's client takes files of different versions for
    different ones.
    """
    return (birth_s * 1_000_003 ^ birth_ns) & 0xFFFF_FFFF or 1


def mark_of(mode: int, version: int, number: int, name: bytes) -> bytes:
    """The mark of a file, without a handle."""
    kind = mode >> 12
    return _MARK.pack(_KINDS[kind], version, number, kind, 0) + name


def with_handle(mark: bytes, handle: bytes) -> bytes:
    """A mark with a handle."""
    return b"".join([mark[:_SAME], len(handle).to_bytes(1, "little"), handle, name_in(mark)])


def with_name(mark: bytes, name: bytes) -> bytes:
    """A mark with another name."""
    return mark[: _SIZE + mark[_SAME]] + name


def same(mark: bytes) -> bytes:
    """The part that is equal for marks of one file."""
    return mark[:_SAME]


def handle_in(mark: bytes) -> bytes:
    """The handle; empty if the mark has none."""
    return mark[_SIZE : _SIZE + mark[_SAME]]


def name_in(mark: bytes) -> bytes:
    """The name."""
    return mark[_SIZE + mark[_SAME] :]


def type_in(mark: bytes) -> int:
    """The type as readdir(3) has it."""
    return mark[_TYPE]


def number_in(mark: bytes) -> int:
    """The number."""
    number: int = _NUMBER(mark, 5)[0]
    return number


def identity_in(mark: bytes) -> Identity:
    """The identity."""
    return _NEW(Identity, _IDENTITY(mark))
