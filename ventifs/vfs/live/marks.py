"""What a file is known by while nothing pins it: its mark, one object of bytes.

A mark is the file's type, version and number, then its file handle, if that was needed so far, and
its name. One object of bytes takes less memory than one for each. Two marks with equal `same` are
of one file as long as either of them is pinned, or their handles are equal.
"""

import stat
from struct import Struct

from ventifs.vfs.interface import DIRECTORY, FILE, SYMLINK, Identity

_MARK = Struct("<BIQB")  # type as readdir(3) has it, version, number, length of the handle
_UNPACK = _MARK.unpack_from
_NUMBER = Struct("<Q").unpack_from
_SAME = 13  # bytes: type, version, number
_SIZE = _MARK.size
_KINDS = [FILE] * 16
_KINDS[stat.S_IFDIR >> 12] = DIRECTORY
_KINDS[stat.S_IFLNK >> 12] = SYMLINK
_NEW = tuple.__new__
NO_HANDLE = b"\0"  # that no file has: of a file that cannot be found again


def version_of(birth_ns: int) -> int:
    """The version of a file that was made at a time: the same as long as it exists, never 0.

    It holds no time of modification: Linux's client takes files of different versions for
    different ones.
    """
    return (birth_ns ^ birth_ns >> 32) & 0xFFFF_FFFF or 1


def mark_of(mode: int, birth_ns: int, number: int, name: bytes) -> bytes:
    """The mark of a file, without a handle."""
    return _MARK.pack(mode >> 12, version_of(birth_ns), number, 0) + name


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
    return mark[0]


def number_in(mark: bytes) -> int:
    """The number."""
    number: int = _NUMBER(mark, 5)[0]
    return number


def identity_in(mark: bytes) -> Identity:
    """The identity."""
    kind, version, number, _ = _UNPACK(mark)
    return _NEW(Identity, (_KINDS[kind], version, number))
