"""Archives a disk as the root of a version: the disk, its volumes, and the files inside.

First, the files that the survey lists are taken in. Each is read from its own start, as a directory
archive would read it, so that image and directory share every block. Their entries become the trees
in `files`. Then the disk is put together: slices where files lie, blocks of 4 KiB everywhere else.
Unless free space is dropped, every byte of the disk is archived whatever the survey reports: wrong
events can only make the archive larger.
"""

import stat
from collections.abc import Iterator
from functools import partial
from itertools import chain

import msgspec
from msgspec.structs import replace

from ventifs.image.archive.disk_content import DiskAssembler, part
from ventifs.image.archive.disk_worker import Before, BuildTree, disk_handlers
from ventifs.image.archive.extent_map import Placement
from ventifs.image.archive.previous_disk import PreviousDisk
from ventifs.image.archive.readable_nodes import readable_nodes
from ventifs.image.archive.spool import Spool
from ventifs.image.archive.volume_files import VolumeFiles
from ventifs.image.disk import Disk
from ventifs.image.disk_facts import DISK, MARK, Facts, VolumeFacts, encode_facts
from ventifs.image.filesystems.walk import valid
from ventifs.image.survey_events import Ended, Noted, Range, Surveyed, Volume
from ventifs.store import Store
from ventifs.tree.archive.file_reader import Trouble
from ventifs.tree.archive.tally import ArchiveProgress, Tally
from ventifs.tree.archive.worker import WorkerService, collect, commit_notes
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.directory import build
from ventifs.tree.objects.prolly import Get, Put
from ventifs.tree.objects.records import (
    INLINE_MAX,
    LENGTH_MAX,
    Content,
    Detail,
    Directory,
    Empty,
    Entry,
    Listed,
    RegularFile,
    bounded_total,
    clamped_ns,
    encode_entry,
    length_of,
    time_problem,
)
from ventifs.tree.process_pool import REQUEST_MAX, Done, InlinePool, Pool

_SUFFIX = b".img"
_RANGES = 3000  # in one request, of up to 19 bytes each
_PHYSICAL = "LVM2_member"  # what holds logical volumes


class ImageArchiver:
    """One archive run over a disk. Not to be used twice.

    Attributes:
        tally: what was done; `entries` are those of the file trees, `bytes` the disk's.
        troubles: what in the file trees is not archived as it should be.
        facts: about the disk, once it is done.
    """

    def __init__(
        self,
        store: Store,
        disk: Disk,
        *,
        pool: Pool | None = None,
        previous: PreviousDisk | None = None,
        drop_free: bool = False,
        progress: ArchiveProgress | None = None,
    ) -> None:
        """Archive `disk` into `store`, which is open for writing.

        Args:
            store: where the version goes.
            disk: what to archive.
            pool: the workers that read; None to read in this process.
            previous: the disk as the last version of the name has it.
            drop_free: whether what file systems do not use is archived as zeros.
            progress: called now and then.
        """
        self.tally = Tally()
        self.troubles: list[Trouble] = []
        self.facts = Facts(disk.size)
        self._disk = disk
        self._store = store
        self._writer = ContentWriter(store)
        self._handle = WorkerService(lambda: store, partial(disk_handlers, disk)).handle
        self._pool = pool or InlinePool(self._handle)
        commit_notes(self._pool, store)
        self._previous = previous
        self._drop_free = drop_free
        self._progress = progress
        self._new_bytes = 0  # of blocks that others than `_writer` stored

    def run(self, events: Iterator[Surveyed]) -> Entry:
        """Archive the disk, using its survey's `events`; return the version's root.

        Raises:
            ImageError: the disk cannot be read.
            VentifsError: the store's own problems.
        """
        if self._previous is not None:
            self._remind(self._previous)
        with (
            Placement() as placed,
            readable_nodes(self._store, self._writer) as (get, put),
            Spool() as spool,
        ):
            volumes, notes = self._files(events, placed, spool)
            placed.keep(_contested([files.volume for files in volumes]))
            content = self._whole(placed, volumes, put)
            self._pool.drain()
            self.troubles = [each for files in volumes for each in files.troubles]
            if problem := time_problem(self._disk.status.st_mtime_ns):
                self.troubles.append(Trouble(DISK, problem, missing=False))
            self.tally.entries = sum(map(_paths, volumes))
            below = self._below(content, volumes, get, put)
        collect(self._pool, self._store)
        self.facts = Facts(self._disk.size, tuple(map(_facts, volumes)), notes, self._drop_free)
        facts = self._writer.write_xattrs(((MARK, encode_facts(self.facts)),))
        root = self._directory(b"", below, facts)
        self.tally.bytes = self._disk.size
        self.tally.new_bytes = self._writer.new_bytes + self._new_bytes
        return root

    def _remind(self, previous: PreviousDisk) -> None:
        """Send the last version's disk to every worker."""
        for start in range(0, max(len(previous.same), 1), _RANGES):
            same = previous.same[start : start + _RANGES]
            note = msgspec.msgpack.encode(Before(previous.content, previous.free, same))
            self._pool.ask_all(note, lambda _: None)
            if not isinstance(self._pool, InlinePool):
                self._handle(note, ())

    def _ask(self, request: bytes, done: Done) -> None:
        """Have a request answered by a worker, or by this process if it is too long for one."""
        if len(request) > REQUEST_MAX:
            done(self._handle(request, ()))
        else:
            self._pool.submit(request, (), done)

    def _tell(self, path: bytes, done: int, new_bytes: int, entries: int = 0) -> None:
        self.tally.bytes += done
        self.tally.entries += entries
        self._new_bytes += new_bytes
        if self._progress is not None:
            self.tally.new_bytes = self._writer.new_bytes + self._new_bytes
            self._progress(self.tally, path)

    # --- files --------------------------------------------------------------------------------

    def _files(
        self, events: Iterator[Surveyed], placed: Placement, spool: Spool
    ) -> tuple[list[VolumeFiles], tuple[str, ...]]:
        """Take in the survey's events; return volumes and notes. Trees may be unfinished then."""
        volumes: list[VolumeFiles] = []
        notes = list(self._disk.notes)
        names: set[str] = set()
        for event in events:
            if isinstance(event, Noted):
                notes.append(event.text)
            elif isinstance(event, Volume):
                if event.name in names or not _is_name(event.name.encode()):
                    notes.append(f"a volume cannot be called {event.name!r}: left as bytes")
                    _pass_over(events)
                    continue
                names.add(event.name)
                volume = replace(event, ranges=_clipped(event.ranges, self._disk.size))
                files = VolumeFiles(volume, spool, placed, self._tell, drop_free=self._drop_free)
                files.take(events, self._ask)
                self._pool.drain()
                volumes.append(files)
        for files in volumes:
            start, end = files.names
            if end > start:
                request = msgspec.msgpack.encode(BuildTree(start, end))
                self._pool.submit(request, [spool.fileno()], files.built, alone=True)
        return volumes, tuple(notes)

    # --- the disk -----------------------------------------------------------------------------

    def _whole(self, placed: Placement, volumes: list[VolumeFiles], put: Put) -> Content:
        """The whole disk's content."""
        if self._disk.size <= INLINE_MAX:
            return self._writer.write_whole(self._disk.read(0, self._disk.size))
        ranges = chain.from_iterable(files.volume.ranges for files in volumes)
        borders = set(chain.from_iterable(ranges))
        assembler = DiskAssembler(
            self._disk,
            placed,
            sorted(borders),
            self._pool,
            previous=self._previous,
            report=partial(self._tell, DISK),
        )
        return assembler.run(put)

    # --- the version's root -------------------------------------------------------------------

    def _below(
        self, content: Content, volumes: list[VolumeFiles], get: Get, put: Put
    ) -> dict[bytes, Entry]:
        """The entries of the version's root directory."""
        below = {DISK: self._image(DISK, content)}
        parts: dict[bytes, dict[bytes, Entry]] = {b"partitions": {}, b"volumes": {}, b"files": {}}
        for files in volumes:
            volume, tree = files.volume, files.tree
            if tree is not None:
                parts[b"files"][tree.name] = tree
            size = sum(end - start for start, end in volume.ranges)
            if not INLINE_MAX < size <= LENGTH_MAX:
                continue
            name = volume.name.encode() + _SUFFIX
            whole = volume.ranges == ((0, self._disk.size),)
            piece = content if whole else part(get, content, put, volume.ranges)
            where = parts[b"volumes" if volume.logical else b"partitions"]
            where[name] = self._image(name, piece)
        for name, entries in parts.items():
            if entries:
                below[name] = self._directory(name, entries)
        return below

    def _image(self, name: bytes, content: Content) -> Entry:
        status = self._disk.status
        mode = stat.S_IFREG | stat.S_IMODE(status.st_mode) & 0o666
        return self._owned(name, mode, RegularFile(content))

    def _directory(
        self, name: bytes, entries: dict[bytes, Entry], xattrs: Listed | Content | None = None
    ) -> Entry:
        """A directory of the version; users that may read the image may enter it."""
        permissions = stat.S_IMODE(self._disk.status.st_mode) & 0o666
        mode = stat.S_IFDIR | permissions | (permissions & 0o444) >> 2
        named = sorted(entries.items())
        content = build(
            self._writer.put_node, ((each, encode_entry(entry)) for each, entry in named)
        )
        inside = [entry.detail for entry in entries.values()]
        paths = len(inside) + sum(each.paths for each in inside if isinstance(each, Directory))
        size = sum(
            each.bytes if isinstance(each, Directory) else length_of(each.content)
            for each in inside
            if isinstance(each, Directory | RegularFile)
        )
        return self._owned(name, mode, Directory(content, paths, bounded_total(size)), xattrs)

    def _owned(
        self, name: bytes, mode: int, detail: Detail, xattrs: Listed | Content | None = None
    ) -> Entry:
        status = self._disk.status
        return Entry(
            name,
            mode,
            status.st_uid,
            status.st_gid,
            clamped_ns(status.st_mtime_ns),
            detail,
            Empty() if xattrs is None else xattrs,
            b"",
        )


def _clipped(ranges: tuple[Range, ...], size: int) -> tuple[Range, ...]:
    """Clip ranges to a disk of that size, and leave out empty ones."""
    clipped = ((max(start, 0), min(end, size)) for start, end in ranges)
    return tuple((start, end) for start, end in clipped if start < end)


def _contested(volumes: list[Volume]) -> list[Range]:
    """Ranges in which several volumes lie: what is free for one may be in use by another.

    A partition that holds logical volumes does not count: they are meant to lie in it.
    """
    edges: list[tuple[int, int]] = []
    for volume in volumes:
        if volume.filesystem != _PHYSICAL:
            for start, end in volume.ranges:
                edges += [(start, 1), (end, -1)]
    found: list[Range] = []
    depth = begun = 0
    for at, step in sorted(edges):
        if depth == 2 and step < 0 and at > begun:
            found.append((begun, at))
        depth += step
        if depth == 2 and step > 0:
            begun = at
    return found


def _is_name(name: bytes) -> bool:
    return valid(name) and valid(name + _SUFFIX)


def _pass_over(events: Iterator[Surveyed]) -> None:
    """Skip the events of a volume."""
    for event in events:
        if isinstance(event, Ended):
            return


def _paths(files: VolumeFiles) -> int:
    if files.tree is None or not isinstance(files.tree.detail, Directory):
        return 0
    return files.tree.detail.paths + 1


def _facts(files: VolumeFiles) -> VolumeFacts:
    volume, ended = files.volume, files.ended
    notes = (*([ended.problem] if ended.problem else []), *ended.notes)
    size = sum(end - start for start, end in volume.ranges)
    return VolumeFacts(
        volume.name,
        volume.ranges[0][0] if volume.ranges else 0,
        size,
        volume.logical,
        volume.type,
        volume.title,
        volume.filesystem,
        volume.uuid,
        volume.label,
        notes,
    )
