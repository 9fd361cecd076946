"""`ventifs archive`."""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import click
from click.core import ParameterSource

import ventifs
from ventifs import Archive, NoSuchVersion
from ventifs.api.archive import OpenMode
from ventifs.cli.archiving.disk_options import DiskOptions
from ventifs.cli.formatting import count, size
from ventifs.cli.options import jobs_option, pattern_options, patterns
from ventifs.cli.output import echo, print_json
from ventifs.cli.progress import EntryProgress
from ventifs.cli.store_option import json_option, store_option, wait_option
from ventifs.cli.versions.list_versions import as_json_object
from ventifs.errors import Corrupt, VentifsError
from ventifs.image.disk import FORMATS
from ventifs.image.disk_facts import DISK
from ventifs.image.formats.advice import FOLLOW_BACKING, FOLLOW_DEVICE
from ventifs.image.formats.choice import TAR
from ventifs.image.formats.kept_choice import Kept, kept_of
from ventifs.store import Store
from ventifs.store.claims import Claims
from ventifs.store.files import readable_errors
from ventifs.store.store import LEVEL_DEFAULT
from ventifs.text import printable
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.directory_worker import directory_handlers
from ventifs.tree.archive.scan import Options
from ventifs.tree.archive.source import Source
from ventifs.tree.archive.tally import Tally
from ventifs.tree.archive.worker import serving
from ventifs.tree.objects.records import Directory
from ventifs.tree.process_pool import Workers
from ventifs.tree.tar.tar_source import TarSource
from ventifs.tree.versions.catalog import Version, check_name, check_notes, tree_score
from ventifs.tree.versions.times import parse_time, time_text

if TYPE_CHECKING:  # else a directory waits for all that reads disks to be imported
    from ventifs.cli.archiving.archive_disk import OpenDisk
    from ventifs.image.archive.disk_source import DiskSource

# Options that the commands in messages set themselves, and options that disks do not have.
_ADVISED = {"name", "kind", "backing", "devices", "follow_nothing", "exclude", "exclude_from"}
_INCOMPLETE = 3  # exit code: archived, but not everything
_SHOWN_MAX = 20

_Found: TypeAlias = "Path | TarSource | OpenDisk"


@click.command(short_help="Archive a directory, tar or disk.")
@click.argument("source", type=click.Path(readable=False))
@store_option
@wait_option
@json_option
@click.option("--name", required=True, help="What to call it: versions are NAME@TIME.")
@click.option("--time", "when", metavar="TIME", help="The version's time.  [default: now]")
@click.option("--comment", default="", help="Kept with the version.")
@click.option("--tag", "tags", multiple=True, help="Kept with the version; may be repeated.")
@pattern_options("exclude", "Leave out what this gitignore pattern matches.")
@click.option(
    "--exclude-caches", is_flag=True, help="Leave out what is in directories with a CACHEDIR.TAG."
)
@click.option("--one-file-system", is_flag=True, help="Leave out what is mounted below.")
@click.option(
    "--format",
    "kind",
    type=click.Choice((*FORMATS, "tar")),
    metavar="FORMAT",
    help="What SOURCE is: raw, qcow2, vmdk, vhd, vhdx, tar; kept with a disk's name.",
)
@click.option(
    FOLLOW_BACKING,
    "backing",
    multiple=True,
    metavar="DIR",
    help="Read files beneath DIR, one guest's own, that an image refers to; repeatable, kept.",
)
@click.option(
    FOLLOW_DEVICE, "devices", multiple=True, metavar="PATH", help="The same of a block device."
)
@click.option("--follow-nothing", is_flag=True, help="Forget the kept --follow-... options.")
@click.option(
    "--drop-free",
    is_flag=True,
    help="Of a disk, archive as zeros what its file systems do not use.",
)
@click.option(
    "--dirty-bitmap", is_flag=True, help="Have a qcow2 image record what changes, for the next run."
)
@click.option("--in-use", is_flag=True, help="Archive a disk that a guest writes to.")
@click.option("--no-cache", is_flag=True, help="Read every file, changed or not.")
@click.option("--dry-run", is_flag=True, help="Only say what would be archived.")
@click.option(
    "--level",
    type=click.IntRange(1, 19),
    default=LEVEL_DEFAULT,
    metavar="N",
    help=f"How hard to compress, 1 to 19.  [default: {LEVEL_DEFAULT}]",
)
@jobs_option
@click.pass_context
def archive(
    context: click.Context,
    source: str,
    *,
    store: Path,
    wait_s: float | None,
    as_json: bool,
    name: str,
    when: str | None,
    comment: str,
    tags: tuple[str, ...],
    exclude: Sequence[str],
    exclude_from: Sequence[BinaryIO],
    exclude_caches: bool,
    one_file_system: bool,
    kind: str | None,
    backing: tuple[str, ...],
    devices: tuple[str, ...],
    follow_nothing: bool,
    drop_free: bool,
    dirty_bitmap: bool,
    in_use: bool,
    no_cache: bool,
    dry_run: bool,
    level: int,
    jobs: int,
) -> int:
    """Archive a directory, a tar archive, or a disk, as a new version.

    SOURCE is a directory; a tar file (also packed by gzip, bzip2, xz or zstd), or - for a tar
    stream on standard input; a disk image (raw, qcow2, VMDK, VHD, VHDX) or block device.

    A file named *.tar, *.tar.*, *.tgz and the like is a tar; any other file, and a device, a disk.
    A disk has the --format given, or else that of the name's last version, if SOURCE is still a
    file or device with the same suffix; or else devices, *.img and *.raw are raw, *.qcow2, *.vmdk,
    *.vhd and *.vhdx are what they are called, and all others are raw; so are *-flat.vmdk and other
    raw extents of VMDK images. What a disk holds never
    chooses, for its guest writes it. An image's backing files, data files and extents are read only
    where --follow-backing or --follow-device allows it. Give a directory of this guest alone, for
    an image that its guest or a stranger wrote can have every file beneath it archived as its own.

    A disk is archived bit for bit, together with the file trees inside: its version is a directory
    with disk.img, partitions/1.img and on, volumes/GROUP-VOLUME.img, and files/1/... and on. Files
    are read from ext2, ext3, ext4 and XFS; what else is there is archived as blocks of 4 KiB. Of a
    running guest archive a snapshot.

    Stores only what the store has never seen. Everything a guest root has is archived: owners,
    modes, times, links, devices, extended attributes, holes. What cannot be read is told, recorded
    in the version, and gives exit code 3. An interrupted run keeps the blocks it has stored for
    the next one.

    Patterns are relative to SOURCE: one with a slash is anchored there, one without matches at any
    depth, one that ends in a slash matches directories, ! takes back.
    """
    time_ns = None if when is None else parse_time(when)[0]
    check_name(name)
    check_notes(comment, tags)
    options = Options(patterns(exclude, exclude_from), one_file_system, exclude_caches)
    disk_options = DiskOptions(
        drop_free,
        dirty_bitmap,
        in_use,
        _named(backing, FOLLOW_BACKING),
        _named(devices, FOLLOW_DEVICE),
        follow_nothing,
        dry_run,
    )
    with ExitStack() as stack:
        found: _Found = _source(context, kind, options, disk_options, stack)
        _make_store(context, store, dry_run=dry_run)
        jobs = 1 if dry_run else jobs
        to_archive: Source
        disk: DiskSource | None = None
        if isinstance(found, Path):
            pool = None  # workers are forked before a store is open, see `process_pool`
            if jobs > 1:
                task = partial(
                    serving, store, Claims(), level, partial(directory_handlers, options)
                )
                pool = stack.enter_context(Workers(jobs, task))
            to_archive = DirectorySource(found, options=options, pool=pool)
        elif isinstance(found, TarSource):
            to_archive = found
        else:
            to_archive = disk = found.source(stack, store, jobs=jobs, level=level)
        mode: OpenMode = "rehearse" if dry_run else "write"
        opened = stack.enter_context(ventifs.open(store, mode, level=level, wait_s=wait_s))
        progress = stack.enter_context(_progress(opened, name, quiet=as_json))
        added, tally = opened.add(
            to_archive,
            name,
            time_ns=time_ns,
            comment=comment,
            tags=tags,
            read_all=no_cache,
            progress=lambda tally, path: progress(tally.entries, tally.bytes, path),
        )
        version = added.stored
        facts_of_disk = None if disk is None else disk.facts
        of_version = as_json_object(version, facts_of_disk, store=opened.store) if as_json else {}
        _warn_of_future(opened, name)
    if as_json:
        facts = {
            **of_version,
            "entries": tally.entries,
            "stored_bytes": tally.stored_bytes,
            "dry_run": dry_run,
        }
        print_json(facts)
    else:
        what = "" if disk is None else f"disk of {size(disk.facts.size)}"
        what += ", unchanged" if disk is not None and disk.reused else ""
        _print_troubles(version, "not among its files" if what else "not archived")
        _print_archived(version, tally, what, dry_run=dry_run)
    if disk is not None:
        if not as_json:
            from ventifs.cli.archiving.archive_disk import print_disk

            print_disk(disk.facts)
        # Whatever is wrong with its file systems, every byte is archived.
        return _INCOMPLETE if any(path == DISK for path, _, _ in version.troubles) else 0
    return _INCOMPLETE if version.troubles or version.troubles_more else 0


def _source(
    context: click.Context,
    kind: str | None,
    options: Options,
    disk_options: DiskOptions,
    stack: ExitStack,
) -> _Found:
    """The directory, the open tar stream, or the open disk, that is meant.

    Raises:
        VentifsError: it is none of them.
    """
    text = context.params["source"]
    if not text:  # an unset variable, say; Path would take it for the working directory
        raise click.UsageError("SOURCE is empty; name what is to be archived")
    source = Path(text)
    if source.is_dir():
        if kind is not None or disk_options.any:
            raise click.UsageError("--format and the options of disks are for files and devices")
        return source
    if options.one_file_system or options.exclude_caches:
        raise click.UsageError("--one-file-system and --exclude-caches are for directories")
    if text == "-":
        return _standard_input(kind, options, disk_options)
    disk = None if _only_tar(source, kind) else _disk(context, kind, disk_options, stack)
    if disk is not None:
        if options.exclude:
            raise click.UsageError("--exclude is for directories and tar archives, not for disks")
        return disk
    if disk_options.any:
        raise click.UsageError(
            "--drop-free, --dirty-bitmap, --in-use and --follow-... are for disks"
        )
    with readable_errors(source):
        stream = stack.enter_context(source.open("rb"))
    label = printable(os.fsencode(source.absolute()))
    return TarSource(stream, label, exclude=options.exclude)


def _only_tar(source: Path, kind: str | None) -> bool:
    """Whether a source that is no directory can only be a tar archive.

    Raises:
        VentifsError: it is not there, or can be neither that nor a disk.
    """
    shown = printable(os.fsencode(source))
    if not source.exists():
        raise VentifsError(f"{shown}: no such file or directory; name what is to be archived")
    if source.is_fifo():
        if kind not in (None, TAR):
            raise click.UsageError(f"{shown}: a pipe can only be a tar stream; disks are files")
        return True
    if not (source.is_file() or source.is_block_device()):
        raise VentifsError(f"{shown}: neither a directory, nor a tar, nor a disk; name one of them")
    return kind == TAR


def _disk(
    context: click.Context, kind: str | None, options: DiskOptions, stack: ExitStack
) -> "OpenDisk | None":
    """The disk that the source is, open; None if it is a tar archive.

    Raises:
        VentifsError: see `find_disk`; the store's own problems.
    """
    from ventifs.cli.archiving.archive_disk import DiskRequest, find_disk

    given = context.params
    kept: Kept | None = None
    if given["store"].exists():
        # Opened for writing, so that the index first takes in what a crash left out of it.
        with Store.open(given["store"], "read" if given["dry_run"] else "write") as opened:
            try:
                kept = kept_of(opened, given["name"])
            except Corrupt as error:
                if kind is None:
                    raise Corrupt(f"{error}; --format takes its place") from None
    request = DiskRequest(given["source"], given["name"], kind, kept, _words(context))
    return find_disk(request, options, stack)


def _named(paths: tuple[str, ...], option: str) -> tuple[str, ...]:
    if not all(paths):
        raise click.UsageError(f"{option} has an empty path; --follow-nothing drops what is kept")
    return paths


def _words(context: click.Context) -> tuple[str, ...]:
    """The options of this run as words, without those in `_ADVISED`."""
    words: list[str] = []
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") == ParameterSource.COMMANDLINE
        if given and isinstance(parameter, click.Option) and parameter.name not in _ADVISED:
            value = context.params[parameter.name or ""]
            for each in value if parameter.multiple else [value]:
                words += [parameter.opts[0], *([] if parameter.is_flag else [f"{each}"])]
    return tuple(words)


def _standard_input(kind: str | None, options: Options, disk_options: DiskOptions) -> TarSource:
    if kind not in (None, "tar") or disk_options.any:
        raise click.UsageError(
            "standard input can only be a tar stream; disks are read from files and devices"
        )
    if sys.stdin is None:
        raise VentifsError("standard input is closed; pipe a tar stream into it")
    if sys.stdin.isatty():
        raise VentifsError("standard input is a terminal; pipe a tar stream into it")
    return TarSource(sys.stdin.buffer, "standard input", exclude=options.exclude)


def _make_store(context: click.Context, store: Path, *, dry_run: bool) -> None:
    """Make the store, if none is named and the default one does not exist."""
    if not context.meta["store_named"] and not store.exists() and not dry_run:
        from ventifs.cli.upkeep.reserve_option import default_reserve

        Store.create(store, reserve=default_reserve())
        echo(f"made a store at {printable(store)}", err=True)


def _progress(archive: Archive, name: str, *, quiet: bool) -> EntryProgress:
    """Progress towards as much as the previous version had."""
    entries = total = 0
    with suppress(NoSuchVersion):
        detail = archive[name].root.entry.detail
        assert isinstance(detail, Directory)
        entries, total = detail.paths + 1, detail.bytes
    return EntryProgress("archiving", quiet=quiet, expected_entries=entries, expected_bytes=total)


def _warn_of_future(archive: Archive, name: str) -> None:
    """Report versions of the name that a wrong clock, then or now, puts into the future."""
    future = [version for version in archive.versions(name) if version.in_future]
    if future:
        more = f" (and {len(future) - 1:,} more)" if len(future) > 1 else ""
        echo(
            f"{future[0]}{more}: in the future by this machine's clock, which says "
            f"{time_text(time.time_ns())[:19]}Z: not the latest while there are others, and kept "
            f"by every rule; if the clock is right, 'ventifs forget {future[0]}' removes it",
            err=True,
        )


def _print_troubles(version: Version, missed: str) -> None:
    for path, reason, missing in version.troubles[:_SHOWN_MAX]:
        what = missed if missing else "archived, but"
        echo(f"{printable(path)}: {what}: {reason}", err=True)
    more = len(version.troubles[_SHOWN_MAX:]) + version.troubles_more
    if more:
        lists = f"; 'ventifs versions {version} --troubles' lists all" if version.record else ""
        echo(f"... and {more:,} more{lists}", err=True)


def _print_archived(version: Version, tally: Tally, what: str, *, dry_run: bool) -> None:
    """Print what the run did; `what` is a disk's title, or empty for a tree of entries."""
    echo(f"{'would be ' if dry_run else ''}{version}  score:{tree_score(version.root).hex()}")
    stored = "" if dry_run else f", {size(tally.stored_bytes)} stored"
    what = what or f"{count(tally.entries, 'entry', 'entries')}, {size(tally.bytes)}"
    echo(f"{what}, {size(tally.new_bytes)} new{stored}, in {version.seconds:.2f} s")
