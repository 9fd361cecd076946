"""Extended attributes of ext inodes: those in the inode, in a block outside, and in inodes' data.

`shown` returns what the kernel shows to root, without the attributes that the kernel hides (inline
data, encryption's context). `inline_data` finds inline data by its own name, `system.data`. For a
damaged list, the functions return what came before the damage, and the problem.
"""

import struct
from collections.abc import Callable

from ventifs.image.disk import ImageError
from ventifs.image.filesystems import acl
from ventifs.image.filesystems.walk import XATTRS_MAX
from ventifs.tree.objects.records import Xattrs

_ENTRY = struct.Struct("<BBHIII")  # name length, prefix, value offset, inode, size, hash
MAGIC_BYTES = (0xEA020000).to_bytes(4, "little")
_BLOCK_HEADER = 32
_VALUE_MAX = 65536  # the kernel returns no longer values
_NAME_MAX = 255  # with its prefix
_PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
_ACLS = (2, 3)
_INLINE = (7, b"data")  # system.data

Pair = tuple[int, bytes, bytes]  # prefix, name without it, value
ReadInode = Callable[[int, int], bytes]  # an inode's number and a length; returns its data


def in_inode(space: bytes, value: ReadInode) -> tuple[list[Pair], str]:
    """The attributes in the space that an inode has behind its fields, and a problem or nothing."""
    if len(space) < 8 or space[:4] != MAGIC_BYTES:
        return [], ""
    return _entries(space[4:], 0, value)


def in_block(block: bytes, value: ReadInode) -> tuple[list[Pair], str]:
    """The attributes in a block of them, and a problem or nothing."""
    if block[:4] != MAGIC_BYTES:
        return [], "its block of extended attributes is damaged"
    return _entries(block, _BLOCK_HEADER, value)


def _entries(area: bytes, at: int, value: ReadInode) -> tuple[list[Pair], str]:
    """The entries from offset `at` on; values' offsets count from the area's start."""
    pairs: list[Pair] = []
    total = 0
    while at + 4 <= len(area) and area[at : at + 4] != b"\0\0\0\0":
        end = at + _ENTRY.size
        if end > len(area):
            return pairs, "its extended attributes are damaged"
        length, prefix, offset, inode, size, _ = _ENTRY.unpack_from(area, at)
        name = area[end : end + length]
        at = (end + length + 3) & ~3
        if at > len(area) or size > _VALUE_MAX or (not inode and offset + size > len(area)):
            return pairs, "its extended attributes are damaged"
        total += size
        if total > XATTRS_MAX:
            return pairs, "it has too many extended attributes"
        try:
            data = value(inode, size) if inode else area[offset : offset + size]
        except ImageError as error:
            return pairs, f"its extended attributes: {error}"
        pairs.append((prefix, name, data))
    return pairs, ""


def inline_data(pairs: list[Pair]) -> bytes:
    """The part of an inode's inline data that its attributes hold."""
    return next((data for prefix, name, data in pairs if (prefix, name) == _INLINE), b"")


def shown(pairs: list[Pair]) -> tuple[Xattrs, str]:
    """Names and values as listxattr and getxattr return them to root, and a problem or nothing.

    Of several attributes with one name, only the first counts.
    """
    found: dict[bytes, bytes] = {}
    problem = ""
    for prefix, rest, data in pairs:
        if prefix not in _PREFIXES:
            continue
        name = _PREFIXES[prefix] + (b"" if prefix in _ACLS else rest)
        if (not rest and prefix not in _ACLS) or b"\0" in rest or len(name) > _NAME_MAX:
            problem = "an extended attribute's name is damaged"
            continue
        try:
            shown_as = acl.from_ext(data) if prefix in _ACLS else data
        except ImageError as error:
            problem = str(error)
            continue
        if shown_as or prefix not in _ACLS:
            found.setdefault(name, shown_as)
    return tuple(sorted(found.items())), problem
