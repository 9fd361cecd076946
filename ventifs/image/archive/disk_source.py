"""A disk as the source of one archive run; see `tree.archive.source.Source`."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from msgspec.structs import replace

from ventifs.errors import Corrupt, NotStored
from ventifs.image.archive.archiver import ImageArchiver
from ventifs.image.archive.image_stat import SeenImage, recall, remember, statuses, version_of
from ventifs.image.archive.previous_disk import PreviousDisk
from ventifs.image.disk import Disk, ImageError
from ventifs.image.disk_facts import Facts, disk_of, facts_of
from ventifs.image.formats.kept_choice import Kept, changes
from ventifs.image.survey_events import Range, Surveyed
from ventifs.store import Store
from ventifs.store.journal import Record
from ventifs.store.leases import Lease
from ventifs.tree.archive.file_reader import Trouble
from ventifs.tree.archive.source import Archived, ArchiveRun
from ventifs.tree.archive.tally import Tally
from ventifs.tree.objects.records import Empty, Entry, RegularFile
from ventifs.tree.process_pool import Pool
from ventifs.tree.versions.catalog import Version, tree_score
from ventifs.tree.versions.leasing import ForgottenMeanwhile, lease
from ventifs.tree.versions.troubles import Troubles, troubles_of

Unchanged = Callable[[bytes], list[Range] | None]  # unchanged since a mark was set; None: not known


class DiskSource:
    """A disk to archive.

    Attributes:
        label: the disk's name in messages.
        facts: about the disk, once it is archived.
        reused: whether the last version was taken whole, because the image file is unchanged.
        superseded: the mark of the last run, if this one set another.
    """

    def __init__(
        self,
        disk: Disk,
        events: Iterator[Surveyed],
        *,
        pool: Pool | None = None,
        drop_free: bool = False,
        unchanged: Unchanged | None = None,
        mark: bytes = b"",
        kept: Kept | None = None,
        check: Callable[[Store, str], None] | None = None,
    ) -> None:
        """Archive `disk`.

        Args:
            disk: open.
            events: of the disk's survey, with free ranges if they are to be dropped.
            pool: the workers that read; None to read in this process.
            drop_free: whether what file systems do not use is archived as zeros.
            unchanged: returns the ranges that are unchanged since an earlier mark was set.
            mark: the one that was set before the survey, for the next run.
            kept: the settings to keep with the name, beside the version.
            check: raises if the name no longer keeps the settings that this run uses.
        """
        self.label = disk.label
        self.facts = Facts(disk.size)
        self.reused = False
        self.superseded = b""
        self._disk = disk
        self._events = events
        self._pool = pool
        self._drop_free = drop_free
        self._unchanged = unchanged
        self._mark = mark
        self._kept = kept
        self._check = check
        self._seen: SeenImage | None = None
        self._lease: Lease | None = None  # on the last version of the name
        self._opened_ns = time.time_ns()

    def archive(self, run: ArchiveRun) -> Archived:
        """See `tree.archive.source.Source`.

        Raises:
            ImageError: the disk cannot be read.
            VentifsError: the store's own problems.
        """
        store, name = run.store, run.name
        if self._check is not None:
            self._check(store, name)
        seen = self._seen = self._now(store)
        before, version = recall(store, name), None
        if before is not None and self._mark:
            self.superseded = before.mark
        if before is not None and not run.read_all:
            version = version_of(before, store, run.earlier)
        if version is not None:
            try:  # until the new version, which may take parts of this one, is committed
                self._lease = lease(store, version)
            except ForgottenMeanwhile:
                version = None
        previous: PreviousDisk | None = None
        if before is not None and version is not None:
            if seen.files and before.files == seen.files and before.is_like(seen):
                facts, troubles = self._facts(store, version), self._troubles(store, version)
                if facts is not None and troubles is not None:
                    self.facts, self.reused = facts, True
                    return Archived(version.root, Tally(bytes=facts.size), troubles)
            previous = self._previous(store, seen, before, version)
        archiver = ImageArchiver(
            store,
            self._disk,
            pool=self._pool,
            drop_free=self._drop_free,
            progress=run.progress,
            previous=previous,
        )
        root = archiver.run(self._events)
        self.facts = archiver.facts
        return Archived(root, archiver.tally, Troubles(archiver.troubles, store))

    def records(self, run: ArchiveRun) -> tuple[list[tuple[bytes, bytes]], list[Record]]:
        """See `tree.archive.source.Source`.

        Raises:
            VentifsError: the settings cannot be kept.
        """
        return ([], []) if self._kept is None else changes(run.store, run.name, self._kept)

    def committed(self, run: ArchiveRun, version: Version) -> None:
        """See `tree.archive.source.Source`: record what was seen of the image's files."""
        if self._seen is not None:
            remember(run.store, version.name, replace(self._seen, root=tree_score(version.root)))

    def close(self) -> None:
        """See `tree.archive.source.Source`: the caller closes the disk."""
        if self._lease is not None:
            self._lease.release()

    def _now(self, store: Store) -> SeenImage:
        """The record of what this run sees."""
        files = self._disk.files
        settled = statuses(files, self._opened_ns)
        return SeenImage(
            store.header.store_id,
            store.epoch,
            b"",
            settled,
            self._drop_free,
            self._mark,
            format=self._disk.format,
            backing=(statuses(files[1:], self._opened_ns) or None) if len(files) > 1 else [],
        )

    def _facts(self, store: Store, version: Version) -> Facts | None:
        with suppress(Corrupt, NotStored):  # then the disk is archived again
            return facts_of(store, version.root)
        return None

    def _troubles(self, store: Store, version: Version) -> Troubles | None:
        """The troubles of a version to be taken whole; None if the store does not have them all."""
        if version.troubles_more and isinstance(version.beyond, Empty):
            return None  # an older program only counted the rest
        with suppress(Corrupt, NotStored):
            return Troubles((Trouble(*each) for each in troubles_of(store, version)), store)
        return None

    def _previous(
        self, store: Store, now: SeenImage, seen: SeenImage, version: Version
    ) -> PreviousDisk | None:
        """The disk as the last version of the name has it, with what is known to be unchanged.

        What counts as unchanged is not stored again, so the version must be in the catalog, and its
        record from this epoch of the store: none of its blocks may have been lost since.
        """
        entry: Entry | None = None
        with suppress(Corrupt, NotStored):
            entry = disk_of(store, version.root)
        if entry is None or not isinstance(entry.detail, RegularFile):
            return None
        same = self._same(now, seen)
        return PreviousDisk(store, entry.detail.content, same, free=seen.drop_free)

    def _same(self, now: SeenImage, seen: SeenImage) -> list[Range]:
        """What is known not to have changed since the last run's mark."""
        if not seen.mark or self._unchanged is None or not seen.is_like(now):
            return []
        if seen.backing is None or now.backing != seen.backing:
            return []
        with suppress(ImageError):  # of a damaged bitmap: then all is read
            return self._unchanged(seen.mark) or []
        return []
