"""Reads fields of a directory entry from its canonical bytes, without decoding it.

A server keeps a million entries and looks at few of them. So what every walk and every line of a
listing needs is read in place. Only for bytes that `decode_entry` has accepted: because they are
canonical, the places of the fields are certain (`tree/FORMAT.md`, Entry): array of 8, name as bin
8, mode as uint 16, since a file's type makes it at least 4096; and the link id last, as bin 8.
"""

from zlib import crc32

from ventifs.tree.objects.records import own_entry

S_DIRECTORY, S_REGULAR, S_SYMLINK = 0o4, 0o10, 0o12  # st_mode's type, without its 12 low bits
_NAME = 3
NO_LINK = b"\xc4\x00"
LINK_HEAD = b"\xc4\x10"


def name_of(raw: bytes) -> bytes:
    """The entry's name."""
    return raw[_NAME : _NAME + raw[2]]


def type_of(raw: bytes) -> int:
    """What kind of file it is: `S_DIRECTORY`, `S_REGULAR`, `S_SYMLINK` or another of stat(2)."""
    return raw[raw[2] + 4] >> 4


def seems_directory(raw: bytes) -> bool:
    """Whether bytes, which need not be an entry, could be the entry of a directory."""
    at = raw[2] + 4 if len(raw) > _NAME else len(raw)
    return at >= len(raw) or raw[at] >> 4 == S_DIRECTORY


def rest_of(raw: bytes) -> bytes:
    """All bytes but the name: equal for the names of one linked file, and for no other file's.

    An archive identifies a linked file by all of them, since a link id alone proves nothing.
    """
    return raw[_NAME + raw[2] :]


def is_linked(raw: bytes) -> bool:
    """Whether it has a link id."""
    if not raw.endswith(NO_LINK):
        return True
    # An id may end in the two bytes that mean no id. Then the head of the id stands before it; but
    # other bytes may look like that head, so the entry is decoded.
    return raw[-18:-16] == LINK_HEAD and bool(own_entry(raw).link)


def version_of(raw: bytes) -> int:
    """The version for an `Identity`: a checksum of everything but the name, and never 0."""
    return crc32(raw[_NAME + raw[2] :]) or 1
