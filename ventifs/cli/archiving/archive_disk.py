"""What `ventifs archive` does for disks: opening, forking workers, printing."""

import os
import stat
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

import click
import msgspec

from ventifs.cli.archiving.disk_options import DiskOptions
from ventifs.cli.output import echo
from ventifs.cli.versions.list_versions import disk_lines, disk_notes
from ventifs.errors import VentifsError
from ventifs.image.archive.disk_source import DiskSource
from ventifs.image.archive.disk_worker import disk_handlers
from ventifs.image.confinement import confined
from ventifs.image.disk import REFERRING, Disk, ImageError
from ventifs.image.disk_facts import Facts
from ventifs.image.formats import btrfs_changes as extents
from ventifs.image.formats import qcow2_bitmap as bitmap
from ventifs.image.formats.advice import FOLLOW_BACKING, FOLLOW_DEVICE, Advice, Following
from ventifs.image.formats.choice import TAR, check, chosen, note_of, source_of
from ventifs.image.formats.in_use import in_use
from ventifs.image.formats.kept_choice import Kept, absolute, check_kept, encode_kept
from ventifs.image.formats.open_disk import look, read_as
from ventifs.image.formats.raw import RawDisk
from ventifs.image.formats.references import References
from ventifs.image.formats.remedies import Remedy
from ventifs.image.survey import Survey
from ventifs.store.claims import Claims
from ventifs.text import printable
from ventifs.tree.archive.worker import serving
from ventifs.tree.process_pool import Workers

_BITMAP = "ventifs-"
_LOCKED = "LUKS-encrypted, and archived so: to have its files, "


class DiskRequest(msgspec.Struct, frozen=True):
    """What is asked for of a file or device.

    Attributes:
        path: as given.
        name: the version's.
        format: if one is given.
        kept: what the name keeps of its last disk, if anything.
        more: words for all other options, for commands that messages advise.
    """

    path: str
    name: str
    format: str | None
    kept: Kept | None
    more: tuple[str, ...]

    def advice(self, following: Following) -> Advice:
        """This run, for messages."""
        return Advice(self.path, self.name, self.more, self.format or "", following)


class OpenDisk(msgspec.Struct, frozen=True):
    """A disk that is to be archived.

    Attributes:
        mark: lets the next run find what has changed.
        kept: the settings that the name keeps for the next run.
        marked: the image that `mark` was added to, as a bitmap; None if none was.
        before: what the name kept when the run began.
    """

    disk: Disk
    options: DiskOptions
    mark: bytes
    kept: Kept
    marked: RawDisk | None
    before: Kept | None

    def source(self, stack: ExitStack, store: Path, *, jobs: int, level: int) -> DiskSource:
        """Fork the processes that survey and read the disk; call it before a store is opened."""
        disk, drop_free = self.disk, self.options.drop_free
        survey = stack.enter_context(Survey(disk, free=drop_free))
        pool = None
        if jobs > 1:
            pool = stack.enter_context(
                Workers(
                    jobs, partial(serving, store, Claims(), level, partial(disk_handlers, disk))
                )
            )
        unchanged = extents.unchanged if disk.format == "raw" else bitmap.unchanged
        source = DiskSource(
            disk,
            iter(survey),
            pool=pool,
            drop_free=drop_free,
            unchanged=partial(unchanged, disk),
            mark=self.mark,
            kept=self.kept,
            check=partial(check_kept, kept=self.before),
        )
        if self.marked is not None:
            stack.push(partial(_supersede, self.marked, source))
        return source


def find_disk(request: DiskRequest, options: DiskOptions, stack: ExitStack) -> OpenDisk | None:
    """Open a disk; None if the source is to be read as a tar archive.

    Raises:
        VentifsError: it cannot be read as one, what it is contradicts its name, or a guest is
            writing to it.
    """
    following = _following(request, options)
    advice = request.advice(following)
    file = RawDisk(request.path)
    stack.callback(file.close)
    kind = "device" if stat.S_ISBLK(file.status.st_mode) else "file"
    choice = chosen(request.path, kind, request.format, request.kept)
    if not choice.decided:
        check(choice, look(file), os.path.abspath(request.path), advice)
    if choice.format == TAR:
        return None
    if choice.format not in REFERRING and (options.follow_backing or options.follow_device):
        raise click.UsageError(
            f"{file.label}: --follow-... is for {' and '.join(REFERRING)} images, and this is "
            f"archived as {choice.format}, which refers to no other file; leave the option out"
        )
    source = source_of(request.path, kind=kind)
    kept = Kept(choice.format, source, following)
    encode_kept(kept)  # before the work: it fails if this is too much to keep
    reason = in_use(confined.path(file.fileno()))
    if reason and not options.in_use:
        raise VentifsError(
            f"{file.label}: {reason}; archive a snapshot of it, or what is on disk just now by "
            "--in-use"
        )
    references = References(following, advice)
    image = stack.enter_context(closing(file.again()))
    disk = stack.enter_context(closing(read_as(file, choice.format, references)))
    mark, marked = b"", None
    if options.dirty_bitmap:
        _check_markable(disk)
    if options.dirty_bitmap and not options.dry_run:
        disk.close()
        mark, marked = _mark(image, stack), image
        disk = stack.enter_context(closing(read_as(image.again(), disk.format, references)))
    if reason:
        disk.notes.append(f"in use when it was archived: {reason}")
    disk.notes += references.notes()
    if note := note_of(source, choice.format):
        disk.notes.append(note)
    if disk.format == "raw":
        mark = extents.mark(disk)
        if look(file).kind == "luks":
            disk.notes.append(_LOCKED + Remedy.LUKS.line(disk.label))
    return OpenDisk(disk, options, mark, kept, marked, request.kept)


def _following(request: DiskRequest, options: DiskOptions) -> Following:
    """The references to follow: options that are given replace those that were kept.

    Raises:
        VentifsError: a given path does not exist. Kept paths may have been for another image,
            and are not checked.
    """
    for path in options.follow_backing:
        if not os.path.isdir(path):
            raise VentifsError(
                f"{FOLLOW_BACKING} {printable(os.fsencode(path))}: no such directory"
            )
    for path in options.follow_device:
        if not Path(path).is_block_device():
            raise VentifsError(f"{FOLLOW_DEVICE} {printable(os.fsencode(path))}: no such device")
    kept = request.kept.following if request.kept and not options.follow_nothing else Following()
    return Following(
        _absolute(options.follow_backing, FOLLOW_BACKING) or kept.directories,
        _absolute(options.follow_device, FOLLOW_DEVICE) or kept.devices,
    )


def _absolute(paths: tuple[str, ...], option: str) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(absolute(path, option) for path in paths))


def _check_markable(disk: Disk) -> None:
    if disk.format != "qcow2":
        raise VentifsError(
            f"{disk.label}: --dirty-bitmap is for qcow2 images, and this is archived as "
            f"{disk.format}; leave the option out"
        )


def _mark(image: RawDisk, stack: ExitStack) -> bytes:
    """Add a bitmap that records all later writes to an image; return its name.

    QEMU adds it, and can open no other file than this one (`bitmap`). The disk must be opened again
    afterwards, so that all that is read is from after the bitmap began.
    """
    name = _BITMAP + os.urandom(8).hex()
    bitmap.add(image, name)
    stack.push(partial(_withdraw, image, name))
    return name.encode()


def _withdraw(image: RawDisk, name: str, kind: type[BaseException] | None, *_: object) -> None:
    """Remove the bitmap of a run that failed, since no version refers to it."""
    if kind is not None:
        with suppress(ImageError):
            bitmap.remove(image, name)


def _supersede(
    image: RawDisk, source: DiskSource, kind: type[BaseException] | None, *_: object
) -> None:
    """Remove the last run's bitmap after a run that succeeded, since only the new one counts."""
    if kind is None and source.superseded.startswith(_BITMAP.encode()):
        with suppress(ImageError):  # it has been removed already
            bitmap.remove(image, source.superseded.decode())


def print_disk(facts: Facts) -> None:
    """Print what was found on a disk."""
    for line in disk_lines(facts):
        echo(line)
    for note in disk_notes(facts):
        echo(f"note: {note}", err=True)
