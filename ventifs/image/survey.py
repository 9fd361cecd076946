"""Finds a disk's volumes and the files inside, in processes of their own.

The archiver survives whatever an image holds. Parsers run in forked children, whose memory and
processor time are limited and which cannot open files. There is one child for the disk's tables and
one for each volume; all are children of a process that relays their events. Where the kernel has no
Landlock they can open files, and a note about the disk says so. If a child dies or is stopped, the
rest of that volume's files are missing, and the volume's `Ended` reports it. Their bytes are
archived all the same.
"""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Protocol, Self

from msgspec.structs import replace

from ventifs.image.confinement.confined import note
from ventifs.image.confinement.sandbox import Apart, EventBatch, ProcessLimits, Telling
from ventifs.image.disk import Disk, ImageError
from ventifs.image.filesystems.filesystem import read_files
from ventifs.image.survey_events import (
    Ended,
    Event,
    Extent,
    FoundName,
    Free,
    Inode,
    Noted,
    Range,
    Surveyed,
    Volume,
    VolumeBatch,
    VolumeEvent,
)
from ventifs.image.volumes.discovery import find_volumes
from ventifs.image.volumes.window import Window

_MEMORY = 1 << 30
_CPU_S = 60  # plus `_CPU_S_GIB` for each GiB of the disk
_CPU_S_GIB = 4
_CPU_S_MAX = 4 * 3600
_STALL_S = 30
_BATCH_BYTES = 8 << 20  # of files, in one batch
_FACTOR_MAX = 64  # times its size that a volume may be read, if its file system is damaged
_TOO_MUCH = f"the files of its file system take its size {_FACTOR_MAX} times over"


class ReadFiles(Protocol):
    """Lists the files of a volume; offsets are bytes from the volume's beginning."""

    def __call__(self, window: Window, filesystem: str, *, free: bool) -> Iterator[VolumeEvent]:
        """Yield what a volume holds, as `filesystem.read_files` does."""


class Survey:
    """The events of a disk, in the order that `survey_events` describes, whatever parsers do.

    A context manager. The survey starts when it is made; it ends when the thread that made it does.

    Concurrency: one thread. Make it before anything that does not survive a fork: stores, threads.
    """

    def __init__(self, disk: Disk, *, free: bool, read_files: ReadFiles = read_files) -> None:
        """Start to survey a disk; with `free`, report what file systems do not use, too."""
        limits = _limits(disk.size)
        self._apart = Apart(partial(_survey, disk, free, read_files, limits), limits)
        self._inside = False
        self._events = chain.from_iterable(self._told())

    def __iter__(self) -> Iterator[Surveyed]:
        """The events that were not returned yet."""
        return self._events

    def _told(self) -> Iterator[list[Surveyed]]:
        for batch in self._apart.batches():
            if batch.passed_on:
                yield [VolumeBatch(bytes(batch.body))]
            else:
                yield self._ordered(self._apart.events_of(batch))
        problem = self._apart.problem
        if self._inside:
            yield [Ended(problem)]
        elif problem:
            yield [Noted(f"not all volumes are told: {problem}")]

    def _ordered(self, events: list[Event]) -> list[Surveyed]:
        """The relaying child's own events: volumes, their ends, and notes."""
        told = [event for event in events if isinstance(event, Volume | Ended | Noted)]
        for event in told:
            self._inside = isinstance(event, Volume)
        return list(told)

    def close(self) -> None:
        """End the survey, finished or not. Idempotent."""
        self._apart.close()

    def __enter__(self) -> Self:
        """The survey itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


def _limits(size: int) -> ProcessLimits:
    return ProcessLimits(_MEMORY, min(_CPU_S + _CPU_S_GIB * (size >> 30), _CPU_S_MAX), _STALL_S)


def _survey(disk: Disk, free: bool, read_files: ReadFiles, limits: ProcessLimits) -> Telling:
    """In the relaying child: have the volumes found, then have each one read."""
    if what := note():
        yield Noted(what)
    volumes: list[Volume] = []
    with Apart(partial(find_volumes, disk), limits, confined=True) as finding:
        for event in finding:
            if isinstance(event, Volume):
                volumes.append(event)
            else:
                yield event
        if finding.problem:
            yield Noted(f"not all volumes are told: {finding.problem}")
    for volume in volumes:
        yield volume
        if volume.filesystem:
            yield from _inside(disk, volume, free, read_files, limits)
        else:
            yield Ended()


def _inside(
    disk: Disk, volume: Volume, free: bool, read_files: ReadFiles, limits: ProcessLimits
) -> Telling:
    work = partial(_files, disk, volume, free, read_files)
    with Apart(work, limits, confined=True) as files:
        for batch in files.batches():
            yield EventBatch(batch.body, passed_on=True)
        yield Ended(files.problem)  # the child's own `Ended`, if it sent one, came before


def _files(disk: Disk, volume: Volume, free: bool, read_files: ReadFiles) -> Telling:
    """In the volume's own child: list its files, with offsets on the disk, some MB a batch."""
    window = Window(disk, volume.ranges)
    # For a volume in one piece, such as a partition, its start is added to every offset.
    base = window.ranges[0][0] if len(window.ranges) == 1 else None
    left, weight = _FACTOR_MAX * window.size, 0  # bytes of files
    for event in read_files(window, volume.filesystem, free=free):
        if isinstance(event, FoundName):
            inode = event.inode
            if inode is None or not inode.extents:
                yield event
                continue
            size = sum([length for _, _, length in inode.extents])
            if size > left:
                yield FoundName(event.key, event.number, None, _TOO_MUCH)
                continue
            left -= size
            if base is not None and _is_sound(inode.extents, window.size):
                yield event if not base else _moved(event, inode, base)
            else:
                yield _on_disk(event, inode, window)
            weight += size
            if weight >= _BATCH_BYTES:
                weight = 0
                yield None
        elif isinstance(event, Free):
            yield Free(tuple(_free_on_disk(event.ranges, window)))
        else:
            yield event
            return


def _is_sound(extents: tuple[Extent, ...], size: int) -> bool:
    """Whether extents are in order and within a volume."""
    told = 0
    for offset, start, length in extents:
        if offset < told or length <= 0 or start < 0 or start + length > size:
            return False
        told = offset + length
    return True


def _moved(node: FoundName, inode: Inode, base: int) -> FoundName:
    extents = tuple([(offset, base + start, length) for offset, start, length in inode.extents])
    return FoundName(node.key, node.number, replace(inode, extents=extents), node.problem)


def _on_disk(node: FoundName, inode: Inode, window: Window) -> FoundName:
    """Translate a node's extents to the disk; leave out those that overlap or exceed the volume."""
    extents: list[Extent] = []
    problem = node.problem
    told = 0
    for offset, start, length in inode.extents:
        try:
            places = window.where(start, length)
        except ImageError as error:
            problem = problem or str(error)
            continue
        if offset < told or length <= 0:
            problem = problem or "its extents overlap"
            continue
        told = offset
        for place, count in places:
            extents.append((told, place, count))
            told += count
    changed = replace(inode, extents=tuple(extents))
    return FoundName(node.key, node.number, changed, problem)


def _free_on_disk(ranges: tuple[Range, ...], window: Window) -> Iterator[Range]:
    for start, end in ranges:
        for place, count in window.where(start, end - start):
            yield place, place + count
