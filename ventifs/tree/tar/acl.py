"""POSIX access control lists, as Linux keeps them in attributes and as tar archives spell them.

Binary: a version word, then (tag, permissions, id) for each entry, little-endian, ordered by tag
and id (linux/posix_acl_xattr.h). Text: `user:1000:rw-`, one a line or separated by commas;
libarchive adds the id as a fourth field when it names the user.
"""

import re
import struct

_VERSION = b"\2\0\0\0"
_ENTRY = struct.Struct("<HHI")
_NO_ID = 2**32 - 1
_TAGS = {1: "user", 2: "user", 4: "group", 8: "group", 16: "mask", 32: "other"}
_NAMED = {1: 2, 4: 8}  # the tag of an entry with an id, by that of the one without
_TAG_OF = {"u": 1, "user": 1, "g": 4, "group": 4, "m": 16, "mask": 16, "o": 32, "other": 32}
_PERMISSIONS = re.compile(r"[r-][w-][x-]")
_ID = re.compile(r"[0-9]{1,10}")


def text_of(acl: bytes) -> str | None:
    """The text of a binary ACL; None for what Linux would not have written."""
    if acl[:4] != _VERSION or len(acl) % _ENTRY.size != len(_VERSION):
        return None
    lines = []
    for tag, permissions, number in _ENTRY.iter_unpack(acl[4:]):
        named = tag in _NAMED.values()
        if tag not in _TAGS or permissions > 7 or (number == _NO_ID) is named:
            return None
        rwx = "".join(
            c if permissions & bit else "-" for c, bit in zip("rwx", (4, 2, 1), strict=True)
        )
        lines.append(f"{_TAGS[tag]}:{number if named else ''}:{rwx}")
    return "\n".join(lines) or None


def from_text(text: str) -> bytes:
    """The binary ACL of a text; empty when it says no more than the mode does.

    Raises:
        ValueError: part of it is malformed; the message names that part.
    """
    entries = []
    for line in re.split(r"[,\n]", text):
        if spelled := line.partition("#")[0].strip():
            entries.append(_entry(spelled))
    entries.sort()
    if all(number == _NO_ID and tag != 16 for tag, _, number in entries):
        return b""
    return _VERSION + b"".join(_ENTRY.pack(*entry) for entry in entries)


def permissions_of(acl: bytes) -> int:
    """The nine permission bits of a file with a valid access ACL; a mask becomes the group's."""
    bits: dict[int, int] = {tag: permissions for tag, permissions, _ in _ENTRY.iter_unpack(acl[4:])}
    return bits.get(1, 0) << 6 | bits.get(16, bits.get(4, 0)) << 3 | bits.get(32, 0)


def _entry(spelled: str) -> tuple[int, int, int]:
    kind, *fields = (part.strip() for part in spelled.split(":"))
    if kind not in _TAG_OF or not 1 <= len(fields) <= 3:
        raise ValueError(f"entry {spelled!r}")
    tag, number = _TAG_OF[kind], _NO_ID
    if len(fields) == 1:  # other:r--
        fields.insert(0, "")
    if not _PERMISSIONS.fullmatch(fields[1]):
        raise ValueError(f"entry {spelled!r}")
    if fields[0]:
        if tag not in _NAMED or not _ID.fullmatch(fields[-1] if len(fields) == 3 else fields[0]):
            raise ValueError(f"entry {spelled!r} has no number")
        tag, number = _NAMED[tag], int(fields[-1] if len(fields) == 3 else fields[0])
    if number > _NO_ID:
        raise ValueError(f"entry {spelled!r}")
    bits = sum(bit for c, bit in zip(fields[1], (4, 2, 1), strict=True) if c != "-")
    return tag, bits, number
