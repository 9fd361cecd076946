"""Converts POSIX access control lists from their form on disk to the form that the kernel shows.

Programs read and write lists as the values of `system.posix_acl_access` and `..._default`. On disk,
ext and XFS each have their own form. Entries keep the order of the disk, as the kernel does.
"""

import struct

from ventifs.image.disk import ImageError

_SHOWN = struct.Struct("<I")
_SHOWN_ENTRY = struct.Struct("<HHI")
_SHOWN_VERSION = 2
_NOBODY = 0xFFFFFFFF  # for entries that name no user or group
_NAMED = (0x02, 0x08)  # ACL_USER, ACL_GROUP
_TAGS = frozenset((0x01, 0x02, 0x04, 0x08, 0x10, 0x20))
_EXT_HEAD = struct.Struct("<I")
_EXT_SHORT = struct.Struct("<HH")
_EXT_LONG = struct.Struct("<HHI")
_XFS_HEAD = struct.Struct(">I")
_XFS_ENTRY = struct.Struct(">IIHH")


def from_ext(value: bytes) -> bytes:
    """The shown form of a list as ext2, 3 and 4 keep it; empty for a list without entries.

    Raises:
        ImageError: it is damaged.
    """
    if len(value) < 4 or _EXT_HEAD.unpack_from(value)[0] != 1:
        raise ImageError("its access control list is damaged")
    entries = []
    at = 4
    while at < len(value):
        if len(value) - at < 4:
            raise ImageError("its access control list is damaged")
        tag, permissions = _EXT_SHORT.unpack_from(value, at)
        who = _NOBODY
        if tag in _NAMED:
            if len(value) - at < 8:
                raise ImageError("its access control list is damaged")
            who = _EXT_LONG.unpack_from(value, at)[2]
        at += 8 if tag in _NAMED else 4
        entries.append((tag, permissions, who))
    return _shown(entries)


def from_xfs(value: bytes) -> bytes:
    """The shown form of a list as XFS keeps it; empty for a list without entries.

    Raises:
        ImageError: it is damaged.
    """
    if len(value) < 4:
        raise ImageError("its access control list is damaged")
    count = _XFS_HEAD.unpack_from(value)[0]
    if len(value) < 4 + count * _XFS_ENTRY.size:
        raise ImageError("its access control list is damaged")
    entries = []
    for index in range(count):
        tag, who, permissions, _ = _XFS_ENTRY.unpack_from(value, 4 + index * _XFS_ENTRY.size)
        entries.append((tag, permissions, who if tag in _NAMED else _NOBODY))
    return _shown(entries)


def _shown(entries: list[tuple[int, int, int]]) -> bytes:
    if any(tag not in _TAGS for tag, _, _ in entries):
        raise ImageError("its access control list is damaged")
    if not entries:
        return b""
    return _SHOWN.pack(_SHOWN_VERSION) + b"".join(_SHOWN_ENTRY.pack(*entry) for entry in entries)
