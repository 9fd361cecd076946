"""Extended attributes of XFS inodes: in the inode, in leaves below an index, and outside of them.

The result is what the kernel shows to root. It has access control lists twice: as
`system.posix_acl_*`, in the shown form, and as `trusted.SGI_ACL_*`, in the form on disk. Parent
pointers and attributes that were never completed are not shown.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator

from ventifs.image.disk import ImageError
from ventifs.image.filesystems import acl
from ventifs.image.filesystems.extents import Run
from ventifs.image.filesystems.walk import XATTRS_MAX
from ventifs.image.filesystems.xfs.layout import XfsLayout
from ventifs.tree.objects.records import Xattrs

_SECURE, _ROOT, _PARENT, _INCOMPLETE, _HERE = 0x4, 0x2, 0x8, 0x80, 0x1
_PREFIXES = {0: b"user.", _ROOT: b"trusted.", _SECURE: b"security."}
_ACLS = {
    b"SGI_ACL_FILE": b"system.posix_acl_access",
    b"SGI_ACL_DEFAULT": b"system.posix_acl_default",
}
_VALUE_MAX = 65536
_DEPTH_MAX = 6
_LEAVES = {0xFBEE: 32, 0x3BEE: 80}  # magic number and length of the header
_NODES = {0xFEBE: 16, 0x3EBE: 64}
_LEAF_ENTRY = struct.Struct(">4xHBx")
_REMOTE = struct.Struct(">IIB")
_REMOTE_HEADER = struct.Struct(">4sII")
_REMOTE_HEADER_SIZE = 56
_DAMAGED = "its extended attributes are damaged"

Attribute = tuple[int, bytes, bytes]  # flags, name without prefix, value


def in_inode(fork: bytes) -> Iterator[Attribute]:
    """Yield the attributes in the inode itself.

    Raises:
        ImageError: they are damaged; those yielded before are valid.
    """
    if len(fork) < 4:
        raise ImageError(_DAMAGED)
    at = 4
    for _ in range(fork[2]):
        if at + 3 > len(fork):
            raise ImageError(_DAMAGED)
        length, size, flags = fork[at : at + 3]
        begin = at + 3 + length
        at = begin + size
        if at > len(fork):
            raise ImageError(_DAMAGED)
        yield flags, fork[begin - length : begin], fork[begin:at]


class Outside:
    """The attributes in blocks of their own."""

    def __init__(self, layout: XfsLayout, runs: list[Run]) -> None:
        """Reads nothing yet; `runs` are the attribute fork's."""
        self._layout = layout
        self._runs = runs

    def attributes(self) -> Iterator[Attribute]:
        """Yield all of them.

        Raises:
            ImageError: they are damaged; those yielded before are valid.
        """
        number, seen = self._first_leaf(), set()
        while True:
            seen.add(number)
            block = self._block(number)
            yield from self._leaf(block)
            number = int.from_bytes(block[:4], "big")
            if not number:
                return
            if number in seen:
                raise ImageError(_DAMAGED)

    def _first_leaf(self) -> int:
        number = 0
        for _ in range(_DEPTH_MAX):
            block = self._block(number)
            head = _NODES.get(int.from_bytes(block[8:10], "big"))
            if head is None:
                return number
            number = int.from_bytes(block[head + 4 : head + 8], "big")
        raise ImageError(_DAMAGED)

    def _block(self, number: int) -> bytes:
        """A block of the attribute fork, by its number in the fork."""
        at = bisect_right(self._runs, number, key=lambda run: run[0]) - 1
        if at < 0 or number >= self._runs[at][0] + self._runs[at][2]:
            raise ImageError(_DAMAGED)
        block, place, _ = self._runs[at]
        return self._layout.block(place + number - block)

    def _leaf(self, block: bytes) -> Iterator[Attribute]:
        head = _LEAVES.get(int.from_bytes(block[8:10], "big"))
        if head is None:
            raise ImageError(_DAMAGED)
        at = 56 if head == 80 else 12
        count = int.from_bytes(block[at : at + 2], "big")
        if head + 8 * count > len(block):
            raise ImageError(_DAMAGED)
        for place, flags in _LEAF_ENTRY.iter_unpack(block[head : head + 8 * count]):
            if place + (3 if flags & _HERE else 9) > len(block):
                raise ImageError(_DAMAGED)
            if flags & _HERE:
                size, length = int.from_bytes(block[place : place + 2], "big"), block[place + 2]
                begin = place + 3 + length
                if begin + size > len(block):
                    raise ImageError(_DAMAGED)
                yield flags, block[begin - length : begin], block[begin : begin + size]
            elif not flags & _INCOMPLETE:
                number, size, length = _REMOTE.unpack_from(block, place)
                name = block[place + 9 : place + 9 + length]
                if len(name) < length:
                    raise ImageError(_DAMAGED)
                yield flags, name, self._value(number, size)

    def _value(self, number: int, size: int) -> bytes:
        if size > _VALUE_MAX:
            raise ImageError(_DAMAGED)
        value = bytearray()
        while len(value) < size:
            block = self._block(number)
            number += 1
            if not self._layout.checked:
                value += block
                continue
            magic, offset, count = _REMOTE_HEADER.unpack_from(block)
            data = block[_REMOTE_HEADER_SIZE : _REMOTE_HEADER_SIZE + count]
            if magic != b"XARM" or offset != len(value) or not 0 < count == len(data):
                raise ImageError(_DAMAGED)
            value += data
        return bytes(value[:size])


def shown(attributes: Iterator[Attribute]) -> tuple[Xattrs, str]:
    """Names and values as listxattr and getxattr return them to root, and a problem or nothing."""
    found: dict[bytes, bytes] = {}
    problem = ""
    total = 0
    try:
        for flags, name, value in attributes:
            total += len(value)
            if total > XATTRS_MAX:
                raise ImageError("it has too many extended attributes")
            if flags & (_PARENT | _INCOMPLETE):
                continue
            prefix = _PREFIXES.get(flags & (_ROOT | _SECURE))
            if prefix is None or not name or b"\0" in name or len(prefix + name) > 255 + 9:
                problem = "an extended attribute's name is damaged"
                continue
            if prefix == b"trusted." and name in _ACLS:
                try:
                    if as_shown := acl.from_xfs(value):
                        found[_ACLS[name]] = as_shown
                except ImageError as error:
                    problem = str(error)
            found.setdefault(prefix + name, value)
    except ImageError as error:
        problem = str(error)
    return tuple(sorted(found.items())), problem
