"""What `ventifs archive` does for disks: opening, forking what works for the run, printing."""

import os
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

import msgspec

from ventifs.cli.output import echo
from ventifs.cli.text import size
from ventifs.cli.versions import disk_lines, disk_notes
from ventifs.errors import VentifsError
from ventifs.image import bitmap, extents
from ventifs.image.disk import Disk, ImageError
from ventifs.image.inuse import in_use
from ventifs.image.opening import guess, open_disk
from ventifs.image.run import DiskSource
from ventifs.image.service import serving
from ventifs.image.survey import Survey
from ventifs.store.claims import Claims
from ventifs.text import printable
from ventifs.tree.workers import Workers

_BITMAP = "ventifs-"


class DiskOptions(msgspec.Struct, frozen=True):
    """The options that only disks have."""

    drop_free: bool = False
    dirty_bitmap: bool = False
    in_use: bool = False
    dry_run: bool = False  # the one that all have

    @property
    def any(self) -> bool:
        """Whether one is given that only disks have."""
        return self.drop_free or self.dirty_bitmap or self.in_use


class OpenDisk(msgspec.Struct, frozen=True):
    """A disk that is to be archived, and a mark by which the next run knows what has changed."""

    disk: Disk
    options: DiskOptions
    mark: bytes

    def source(self, stack: ExitStack, store: Path, *, jobs: int, level: int) -> DiskSource:
        """Fork who surveys it, and who reads; before the store is opened."""
        disk, drop_free = self.disk, self.options.drop_free
        survey = stack.enter_context(Survey(disk, free=drop_free))
        pool = None
        if jobs > 1:
            pool = stack.enter_context(
                Workers(jobs, partial(serving, store, disk, Claims(), level))
            )
        unchanged = extents.unchanged if disk.format == "raw" else bitmap.unchanged
        return DiskSource(
            disk, iter(survey), pool=pool, drop_free=drop_free,
            unchanged=partial(unchanged, disk), mark=self.mark,
        )  # fmt: skip


def is_disk(path: Path) -> bool:
    """Whether a file or device is to be archived as a disk, rather than as a tar archive.

    Raises:
        VentifsError: it cannot be read.
    """
    return guess(path).kind not in ("tar", "packed")


def open_disk_source(
    path: Path, kind: str | None, options: DiskOptions, stack: ExitStack
) -> OpenDisk:
    """Open a disk.

    Raises:
        VentifsError: it cannot be read as one, or a guest is writing to it.
    """
    reason = in_use(path)
    shown = printable(os.fsencode(path))
    if reason and not options.in_use:
        raise VentifsError(
            f"{shown}: {reason}; archive a snapshot of it, or what is on disk just now by --in-use"
        )
    mark = b""
    if options.dirty_bitmap and not options.dry_run:
        name = _BITMAP + os.urandom(8).hex()
        bitmap.add(os.fspath(path), name)  # before anything is read: what changes is told from now
        stack.push(partial(_withdraw, path, name))
        mark = name.encode()
    disk = stack.enter_context(closing(open_disk(path, kind)))
    if reason:
        disk.notes.append(f"in use when it was archived: {reason}")
    if disk.format == "raw":
        mark = extents.mark(disk)
    return OpenDisk(disk, options, mark)


def _withdraw(path: Path, name: str, kind: type[BaseException] | None, *_: object) -> None:
    """Remove the bitmap of a run that failed, for no version knows of it."""
    if kind is not None:
        with suppress(ImageError):
            bitmap.remove(os.fspath(path), name)


def disk_title(source: DiskSource) -> str:
    """What a run has archived, in a few words."""
    unchanged = ", unchanged" if source.reused else ""
    return f"disk of {size(source.facts.size)}{unchanged}"


def finish_disk(source: DiskSource, path: Path, *, quiet: bool) -> None:
    """Say what was found on a disk; the last run's dirty bitmap is of no more use."""
    if source.superseded.startswith(_BITMAP.encode()):
        with suppress(ImageError):  # somebody else has removed it
            bitmap.remove(os.fspath(path), source.superseded.decode())
    facts = source.facts
    if quiet:
        return
    for line in disk_lines(facts):
        echo(line)
    for note in disk_notes(facts):
        echo(f"note: {note}", err=True)
