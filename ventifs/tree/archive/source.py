"""What an archive run and its source know of each other.

A run archives any `Source`: a directory, a tar stream, a disk. It does not know which one it has.
The source does not know of versions, except for the one that is committed in the end.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from ventifs.store import Store
from ventifs.store.journal import Record
from ventifs.tree.archive.run_lock import RunLock
from ventifs.tree.archive.tally import ArchiveProgress, Tally
from ventifs.tree.objects.records import Entry
from ventifs.tree.versions.catalog import Version
from ventifs.tree.versions.troubles import Troubles


class ArchiveRun(msgspec.Struct, frozen=True):
    """What a source needs to know of its run.

    Attributes:
        store: receives the blocks.
        name: of the version.
        lock: keeps out other runs under the name; None in a rehearsal, which leaves nothing for
            the next run.
        earlier: all versions of the name, looked up after the lock was taken; by time.
        read_all: whether everything is read, whatever the previous run saw.
        progress: called now and then.
    """

    store: Store
    name: str
    lock: RunLock | None
    earlier: Sequence[Version]
    read_all: bool = False
    progress: ArchiveProgress | None = None


class Archived(NamedTuple):
    """What became of a source: the version's root, what was done, and what could not be done."""

    root: Entry
    tally: Tally
    troubles: Troubles


class Source(Protocol):
    """Something to archive, in one run.

    The run calls `archive`, then, unless it is a rehearsal, `records` and `committed`. It calls
    `close` last, also after an error.
    """

    @property
    def label(self) -> str:
        """Its name for users, without control characters; asked for after `archive`."""

    def archive(self, run: ArchiveRun) -> Archived:
        """Store everything.

        Raises:
            VentifsError: no version is made.
        """

    def records(self, run: ArchiveRun) -> tuple[list[tuple[bytes, bytes]], list[Record]]:
        """Records to put and to delete together with the version's.

        Raises:
            VentifsError: no version is made.
        """

    def committed(self, run: ArchiveRun, version: Version) -> None:
        """Leave for the next run what it can use, now that the version is committed."""

    def close(self) -> None:
        """Release what `archive` holds."""
