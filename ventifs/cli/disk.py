"""What `ventifs archive` does for disks: opening, forking what works for the run, printing."""

import os
import secrets
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

import click
import msgspec

from ventifs.cli.text import size
from ventifs.errors import VentifsError
from ventifs.image.bitmap import add, dirty, remove
from ventifs.image.disk import Disk, ImageError
from ventifs.image.filesystem import read_files
from ventifs.image.inuse import in_use
from ventifs.image.opening import guess, open_disk
from ventifs.image.run import DiskSource
from ventifs.image.service import serving
from ventifs.image.survey import Survey
from ventifs.store.claims import Claims
from ventifs.tree.directory import printable
from ventifs.tree.workers import Workers

_BITMAP = "ventifs-"


class DiskOptions(msgspec.Struct, frozen=True):
    """The options that only disks have."""

    drop_free: bool = False
    dirty_bitmap: bool = False
    in_use: bool = False

    @property
    def any(self) -> bool:
        """Whether one is given."""
        return self != DiskOptions()


class OpenDisk(msgspec.Struct, frozen=True):
    """A disk that is to be archived, and the bitmap that was added to it."""

    disk: Disk
    options: DiskOptions
    bitmap: str

    def source(self, stack: ExitStack, store: Path, *, jobs: int, level: int) -> DiskSource:
        """Fork who surveys it, and who reads; before the store is opened."""
        disk, drop_free = self.disk, self.options.drop_free
        survey = stack.enter_context(Survey(disk, free=drop_free))
        pool = None
        if jobs > 1:
            pool = stack.enter_context(
                Workers(jobs, partial(serving, store, disk, Claims(), level))
            )
        return DiskSource(
            disk, iter(survey), pool=pool, drop_free=drop_free,
            dirty=partial(dirty, disk), bitmap=self.bitmap,
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
    bitmap = ""
    if options.dirty_bitmap:
        bitmap = _BITMAP + secrets.token_hex(8)
        add(os.fspath(path), bitmap)  # before anything is read: what changes from now on is told
    disk = stack.enter_context(closing(open_disk(path, kind)))
    if reason:
        disk.notes.append(f"in use when it was archived: {reason}")
    return OpenDisk(disk, options, bitmap)


def finish_disk(source: DiskSource, path: Path, *, quiet: bool) -> None:
    """Say what was found on a disk; the last run's dirty bitmap is of no more use."""
    if source.superseded:
        with suppress(ImageError):  # somebody else has removed it
            remove(os.fspath(path), source.superseded)
    facts = source.facts
    if quiet:
        return
    click.echo(f"disk of {size(facts.size)}{', as it was' if source.reused else ''}")
    for volume in facts.volumes:
        label = f" {printable(volume.label.encode())}" if volume.label else ""
        inside = volume.filesystem or "nothing known"
        click.echo(f"  {volume.name}: {size(volume.size)}, {inside}{label}")
    notes = [*facts.notes]
    notes += [f"{volume.name}: {note}" for volume in facts.volumes for note in volume.notes]
    for note in notes:
        click.echo(f"note: {note}", err=True)
