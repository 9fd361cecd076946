"""Finds what a reclaim must keep: the versions of the catalog, forgotten ones, and leases.

Always: the catalog is read first, in one listing, and then the leases. FORMAT.md of the store,
section Leases, has the reason. A record of a kind that this program does not know may refer to
blocks that this program would take for dead, so it ends the reclaim.
"""

from collections.abc import Callable, Collection, Iterator

import msgspec

from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Store
from ventifs.store.journal import Record
from ventifs.store.leases import leased
from ventifs.text import printable
from ventifs.tree.objects.records import Directory, Entry, RegularFile, decode_entry
from ventifs.tree.versions.catalog import Version, decode_version
from ventifs.tree.versions.forgotten import Forgotten, decode_forgotten
from ventifs.tree.versions.leasing import roots_of
from ventifs.tree.versions.reachable import Ref, of_entry, top

# What the keys of records begin with, up to the first NUL. Those of the image format refer to no
# blocks.
VERSION, FORGOTTEN, HOLD = b"version", b"forgotten", b"hold"
DISK, FORGOTTEN_DISK = b"disk", b"forgotten-disk"
KINDS = frozenset((VERSION, FORGOTTEN, HOLD, DISK, FORGOTTEN_DISK))


class Roots(msgspec.Struct, frozen=True):
    """What refers to blocks, as of one moment.

    Attributes:
        versions: those in the catalog.
        kept: forgotten versions that stay.
        doomed: forgotten versions that go for good: their blocks are not kept.
        leases: the encoded root entries that processes use, each once.
    """

    versions: list[Version]
    kept: list[Forgotten]
    doomed: list[Forgotten]
    leases: list[bytes]

    @property
    def staying(self) -> Iterator[Version]:
        """The versions that stay, forgotten ones after the others."""
        yield from self.versions
        for each in self.kept:
            yield each.version

    @property
    def leased_alone(self) -> int:
        """The number of leases on roots that none of the versions that stay has."""
        theirs = {root for version in self.staying for root in roots_of(version)}
        return sum(root not in theirs for root in self.leases)

    def references(self) -> Iterator[Ref]:
        """What all that must stay refers to directly."""
        for version in self.staying:
            yield from top(version)
        for root in self.leases:
            yield from of_entry(_decoded(root))


def roots_before(store: Store, forgotten_until_ns: int) -> Roots:
    """The roots when a reclaim begins.

    Args:
        store: where they are.
        forgotten_until_ns: versions that were forgotten then, or before, are doomed.

    Raises:
        Corrupt: a record or a lease is damaged.
        IndexDamaged: the index has lost records.
        VentifsError: a record is of an unknown kind, or a lease file cannot be read.
    """
    return _roots(store, lambda each: each.forgotten_ns <= forgotten_until_ns)


def roots_again(store: Store, doomed: Collection[bytes]) -> Roots:
    """The roots later in a reclaim: doomed is only what was doomed when it began.

    Args:
        store: where they are.
        doomed: the ids of the records of these forgotten versions. One that is not there any more,
            since it was brought back, is not doomed.

    Raises:
        Corrupt, IndexDamaged, VentifsError: as `roots_before`.
    """
    return _roots(store, lambda each: _record_of(each).id in doomed)


def _roots(store: Store, is_doomed: Callable[[Forgotten], bool]) -> Roots:
    roots = Roots([], [], [], [])
    for record in store.records():
        kind, separator, _ = record.key.partition(b"\0")
        if kind not in KINDS or not separator:
            raise VentifsError(
                f"{store.path}: there is a record of the kind {printable(kind)!r}, made by a newer "
                "ventifs, which may need blocks that this one would reclaim; use that one"
            )
        if kind == VERSION:
            roots.versions.append(decode_version(record))
        elif kind == FORGOTTEN:
            each = decode_forgotten(record)
            (roots.doomed if is_doomed(each) else roots.kept).append(each)
    roots.leases.extend(leased(store.path))
    for root in roots.leases:
        _decoded(root)
    return roots


def _record_of(each: Forgotten) -> Record:
    assert each.version.record is not None
    return each.version.record


def _decoded(root: bytes) -> Entry:
    """The entry that a lease holds.

    Raises:
        Corrupt: it is no entry of a directory or a regular file.
    """
    try:
        entry = decode_entry(root, root=True)
    except Corrupt as error:
        problem = error.reason
    else:
        if isinstance(entry.detail, Directory | RegularFile):
            return entry
        problem = "it is neither a directory nor a regular file"
    raise Corrupt(
        f"a process has a lease on no root that is known here, {root[:16].hex()}...: {problem}; "
        "end the servers and other processes of ventifs that use the store, then try again"
    )
