"""One archive run of a disk, as `tree.run` wants its sources."""

import time
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from ventifs.image.archive import ImageArchiver
from ventifs.image.disk import Disk
from ventifs.image.events import Event, Range
from ventifs.image.facts import Facts, disk_of, facts_of
from ventifs.image.previous import Previous
from ventifs.image.seen import Seen, recall, remember, statuses
from ventifs.store import Store
from ventifs.tree.archive import Progress, Tally
from ventifs.tree.catalog import Version, versions
from ventifs.tree.live import Trouble
from ventifs.tree.records import Entry, File
from ventifs.tree.workers import Pool

Dirty = Callable[[str], list[Range] | None]  # ranges changed since a bitmap began, if it tells


class DiskSource:
    """A disk to archive.

    Attributes:
        label: what people call it.
        facts: about the disk, once it is archived.
        reused: whether the last version was taken whole, for the image file is as it was.
        superseded: the dirty bitmap of the last run, if this one began another.
    """

    def __init__(
        self,
        disk: Disk,
        events: Iterator[Event],
        *,
        pool: Pool | None = None,
        drop_free: bool = False,
        dirty: Dirty | None = None,
        bitmap: str = "",
    ) -> None:
        """Archive `disk`.

        Args:
            disk: open.
            events: what a survey of it tells, with free ranges if they are to be dropped.
            pool: who reads; this process, if None.
            drop_free: whether what file systems do not use is archived as zeros.
            dirty: tells what changed since a dirty bitmap of the image began.
            bitmap: the one that was begun before the survey, for the next run.
        """
        self.label = disk.label
        self.facts = Facts(disk.size)
        self.reused = False
        self.superseded = ""
        self._disk = disk
        self._events = events
        self._pool = pool
        self._drop_free = drop_free
        self._dirty = dirty
        self._bitmap = bitmap
        self._seen: Seen | None = None

    def archive(
        self, store: Store, name: str, *, read_all: bool, progress: Progress | None
    ) -> tuple[Entry, Tally, list[Trouble]]:
        """See `tree.run.Source`.

        Raises:
            ImageError: the disk cannot be read.
            VentifsError: the store's own problems.
        """
        files = statuses(self._disk.files, time.time_ns())
        self._seen = Seen(
            store.header.store_id, store.epoch, 0, files, self._drop_free, self._bitmap
        )
        found = None if read_all else recall(store, name)
        if found is not None and self._bitmap:
            self.superseded = found[0].bitmap
        if found is not None and files and found[0].files == files:
            seen, version = found
            facts = facts_of(store, version.root)
            if facts is not None and seen.drop_free == self._drop_free:
                self.facts, self.reused = facts, True
                return version.root, Tally(bytes=facts.size), list(map(_trouble, version.troubles))
        archiver = ImageArchiver(
            store, self._disk, pool=self._pool, drop_free=self._drop_free, progress=progress,
            previous=None if read_all else self._previous(store, name, found),
        )  # fmt: skip
        root = archiver.run(self._events)
        self.facts = archiver.facts
        return root, archiver.tally, archiver.troubles

    def committed(self, store: Store, version: Version) -> None:
        """See `tree.run.Source`."""
        if self._seen is not None:
            remember(store, version.name, replace(self._seen, time_ns=version.time_ns))

    def _previous(
        self, store: Store, name: str, found: tuple[Seen, Version] | None
    ) -> Previous | None:
        """What the last version of the name has, and what is known to be the same still."""
        same: list[Range] = []
        version: Version | None = None
        if found is not None and found[0].bitmap and self._dirty is not None:
            dirty = self._dirty(found[0].bitmap)
            if dirty is not None and found[0].drop_free == self._drop_free:
                version, same = found[1], _between(dirty, self._disk.size)
        for each in versions(store, name)[-1:] if version is None else ():
            version = each
        entry = None if version is None else disk_of(store, version.root)
        if entry is None or not isinstance(entry.detail, File):
            return None
        return Previous(store, entry.detail.content, same)


def _trouble(trouble: tuple[bytes, str, bool]) -> Trouble:
    return Trouble(*trouble)


def _between(dirty: list[Range], size: int) -> list[Range]:
    """What lies between sorted ranges."""
    same, at = [], 0
    for start, end in [*dirty, (size, size)]:
        if start > at:
            same.append((at, min(start, size)))
        at = max(at, end)
    return same
