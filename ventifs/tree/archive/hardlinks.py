"""Hard links: the names of one file that a walk meets in different places.

A file is read by one of its names. The id that all its names share is the hash of the smallest
path, so it is known when as many names were met as the file has, or when the walk is over.
"""

import stat
from collections.abc import Iterator
from os import stat_result

import msgspec
from blake3 import blake3

from ventifs.tree.archive.directory_assembler import Segment
from ventifs.tree.archive.statcache import Leaf
from ventifs.tree.objects.records import Entry, encode, own_entry

LINK_ID_SIZE = 16


class Member(msgspec.Struct, frozen=True):
    """One name of a file: where its entry goes."""

    segment: Segment
    index: int

    @property
    def path(self) -> bytes:
        """The path of this name."""
        return self.segment.path(self.index)

    @property
    def name(self) -> bytes:
        """Its last component."""
        return self.segment.leaves[self.index][0]


class Group(msgspec.Struct):
    """The names met so far of one file. Kept small: a copy by hard links has one for every file.

    Attributes:
        key: device and inode.
        leaf: the first name, and the file's status when it was met.
        links: how many names the file has, in the tree or not.
        regular: whether it is a regular file.
        entry: what was read of it, encoded; empty until then.
        settled: whether it may be taken from the cache next time.
        final: no more names will come.
    """

    key: int
    leaf: Leaf
    links: int
    regular: bool
    members: list[Member] = msgspec.field(default_factory=list)
    entry: bytes = b""
    settled: bool = False
    final: bool = False

    @classmethod
    def of(cls, status: stat_result, leaf: Leaf) -> "Group":
        """The group of a file of which a first name is met."""
        return cls(_key(status), leaf, status.st_nlink, stat.S_ISREG(status.st_mode))

    def same(self, leaf: Leaf) -> bool:
        """Whether the file is still what it was when its first name was met."""
        return leaf[1:] == self.leaf[1:]

    @property
    def whole(self) -> bool:
        """Whether every name is known, and what the file is."""
        return bool(self.entry) and (self.final or len(self.members) >= self.links)

    def entries(self) -> Iterator[tuple[Member, bytes, int]]:
        """Each name's canonical entry, and the file's size; a lone name is no link."""
        read = own_entry(self.entry)
        link = b""
        if len(self.members) > 1:
            link = link_id(min(member.path for member in self.members))
        for member in self.members:
            entry = msgspec.structs.replace(read, name=member.name, link=link)
            yield member, encode(entry), entry.size


def link_id(smallest: bytes) -> bytes:
    """What all names of a file share, by its bytewise smallest path below the archive's root."""
    return blake3(smallest).digest(LINK_ID_SIZE)


def claim_of(entry: Entry) -> bytes:
    """What archived names of one file have in common: their link id and everything but the name.

    A link id alone proves nothing: what claims another file's contents must not get them.
    """
    return blake3(encode(msgspec.structs.replace(entry, name=b""))).digest(LINK_ID_SIZE)


class Groups:
    """The files of which names may still come."""

    def __init__(self) -> None:
        """None is met yet."""
        self._open: dict[int, Group] = {}

    def find(self, status: stat_result) -> Group | None:
        """The group a file belongs to."""
        return self._open.get(_key(status))

    def add(self, group: Group) -> None:
        """Start a group; one of the same file that is no more the same goes."""
        self._open[group.key] = group

    def remove(self, group: Group) -> None:
        """No more names will come."""
        group.final = True
        if self._open.get(group.key) is group:
            del self._open[group.key]

    def rest(self) -> list[Group]:
        """All that are left."""
        return list(self._open.values())


def _key(status: stat_result) -> int:
    return status.st_dev << 64 | status.st_ino
