"""Hard links: the names of one file that a walk meets in different places.

A file is read by one of its names. The id that all its names share is the hash of the smallest
path, so it is known when as many names were met as the file has, or when the walk is over.
"""

from collections.abc import Iterator
from os import stat_result

import msgspec
from blake3 import blake3

from ventifs.tree.assembly import Segment
from ventifs.tree.records import Entry, encode

LINK_ID_SIZE = 16


class Member(msgspec.Struct, frozen=True):
    """One name of a file: where its entry goes, and its path."""

    segment: Segment
    index: int
    path: bytes

    @property
    def name(self) -> bytes:
        """The last component."""
        return self.path.rpartition(b"/")[2]


class Group(msgspec.Struct):
    """The names met so far of one file.

    Attributes:
        status: the file's, when its first name was met.
        entry: what was read of it; None until then.
        settled: whether it may be taken from the cache next time.
        final: no more names will come.
    """

    status: stat_result
    members: list[Member] = msgspec.field(default_factory=list)
    entry: Entry | None = None
    settled: bool = False
    final: bool = False

    @property
    def whole(self) -> bool:
        """Whether every name is known, and what the file is."""
        told = self.final or len(self.members) >= self.status.st_nlink
        return told and self.entry is not None

    def entries(self) -> Iterator[tuple[Member, bytes]]:
        """Each name's canonical entry; a lone name is no link."""
        assert self.entry is not None
        link = b""
        if len(self.members) > 1:
            link = link_id(min(member.path for member in self.members))
        for member in self.members:
            entry = msgspec.structs.replace(self.entry, name=member.name, link=link)
            yield member, encode(entry)


def link_id(smallest: bytes) -> bytes:
    """What all names of a file share, by its bytewise smallest path below the archive's root."""
    return blake3(smallest).digest(LINK_ID_SIZE)


def claim_of(entry: Entry) -> bytes:
    """What archived names of one file have in common: their link id and everything but the name.

    A link id alone proves nothing: what claims another file's contents must not get them.
    """
    return blake3(encode(msgspec.structs.replace(entry, name=b""))).digest(LINK_ID_SIZE)


class Groups:
    """The files of which names may still come, by device and inode."""

    def __init__(self) -> None:
        """None is met yet."""
        self._open: dict[tuple[int, int], Group] = {}

    def find(self, status: stat_result) -> Group | None:
        """The group a file belongs to."""
        return self._open.get((status.st_dev, status.st_ino))

    def add(self, group: Group) -> None:
        """Start a group; one of the same file that is no more the same goes."""
        self._open[group.status.st_dev, group.status.st_ino] = group

    def remove(self, group: Group) -> None:
        """No more names will come."""
        group.final = True
        key = group.status.st_dev, group.status.st_ino
        if self._open.get(key) is group:
            del self._open[key]

    def rest(self) -> list[Group]:
        """All that are left."""
        return list(self._open.values())
