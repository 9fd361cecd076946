"""Hard links: the names of one file that a walk meets in different places.

A file is read by one of its names. The id that all its names share is the hash of the smallest
path, so the id is known when the walk has met as many names as the file has, or is over.
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


class LinkName(msgspec.Struct, frozen=True):
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


class LinkGroup(msgspec.Struct):
    """The names of one file that the walk has met so far.

    Kept small: a tree copied by hard links has a group for every file.

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
    members: list[LinkName] = msgspec.field(default_factory=list)
    entry: bytes = b""
    settled: bool = False
    final: bool = False

    @classmethod
    def of(cls, status: stat_result, leaf: Leaf) -> "LinkGroup":
        """The group of a file whose first name is met."""
        return cls(_key(status), leaf, status.st_nlink, stat.S_ISREG(status.st_mode))

    def same(self, leaf: Leaf) -> bool:
        """Whether the file is still what it was when its first name was met."""
        return leaf[1:] == self.leaf[1:]

    @property
    def whole(self) -> bool:
        """Whether the file has been read and all of its names are known."""
        return bool(self.entry) and (self.final or len(self.members) >= self.links)

    def entries(self) -> Iterator[tuple[LinkName, bytes, int]]:
        """Each name with its canonical entry and the file's size; a single name gets no link id."""
        read = own_entry(self.entry)
        link = b""
        if len(self.members) > 1:
            link = link_id(min(member.path for member in self.members))
        for member in self.members:
            entry = msgspec.structs.replace(read, name=member.name, link=link)
            yield member, encode(entry), entry.size


def link_id(smallest: bytes) -> bytes:
    """The id that all names of a file share, from its smallest path below the root, by bytes."""
    return blake3(smallest).digest(LINK_ID_SIZE)


def claim_of(entry: Entry) -> bytes:
    """A hash of what the archived names of one file share: link id and everything but the name.

    A link id alone proves nothing: an entry with a forged id must not get another file's contents.
    """
    return blake3(encode(msgspec.structs.replace(entry, name=b""))).digest(LINK_ID_SIZE)


class LinkGroups:
    """The files that may have more names."""

    def __init__(self) -> None:
        """Start without groups."""
        self._open: dict[int, LinkGroup] = {}

    def find(self, status: stat_result) -> LinkGroup | None:
        """The group a file belongs to."""
        return self._open.get(_key(status))

    def add(self, group: LinkGroup) -> None:
        """Start a group; it replaces an older one with the same device and inode."""
        self._open[group.key] = group

    def remove(self, group: LinkGroup) -> None:
        """Close a group: no more names will come."""
        group.final = True
        if self._open.get(group.key) is group:
            del self._open[group.key]

    def rest(self) -> list[LinkGroup]:
        """All groups that are still open."""
        return list(self._open.values())


def _key(status: stat_result) -> int:
    return status.st_dev << 64 | status.st_ino
