"""A disk's volumes and the files inside, found out in a process of its own.

Whatever an image holds, the archiver survives it: parsers run in forked children whose memory and
processor time are limited, one for the disk's tables and one for each volume, all of them children
of one that relays what they tell. A child that dies or is stopped costs the rest of that volume's
files (their bytes are archived all the same), told in the volume's `Ended`.
"""

from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import Protocol, Self

import msgspec

from ventifs.image.apart import Apart, Limits
from ventifs.image.disk import Disk, ImageError
from ventifs.image.events import Ended, Event, Extent, Free, Node, Noted, Range, Volume
from ventifs.image.filesystem import read_files
from ventifs.image.layout import find_volumes
from ventifs.image.volumes import Window

_MEMORY = 1 << 30
_CPU_S = 60  # and for each GiB of the disk
_CPU_S_GIB = 4
_CPU_S_MAX = 4 * 3600
_STALL_S = 30


class ReadFiles(Protocol):
    """Whoever tells the files of a volume; offsets are bytes from its beginning."""

    def __call__(
        self, window: Window, filesystem: str, *, free: bool
    ) -> Iterator[Node | Free | Ended]:
        """Tell what a volume holds, as `filesystem.read_files` does."""


class Survey:
    """An iterator of a disk's events, in the order that `events` describes, however parsers fare.

    A context manager. The survey is under way as soon as it is made; it ends when the thread that
    made it does.

    Concurrency: one thread. Make it before anything that does not survive a fork: stores, threads.
    """

    def __init__(self, disk: Disk, *, free: bool, read_files: ReadFiles = read_files) -> None:
        """Start to survey a disk; with `free`, tell what file systems do not use, too."""
        limits = _limits(disk.size)
        self._apart = Apart(partial(_survey, disk, free, read_files, limits), limits)
        self._events = self._told()

    def __iter__(self) -> Iterator[Event]:
        """The events that have not been given yet."""
        return self._events

    def _told(self) -> Iterator[Event]:
        inside = False
        for event in self._apart:
            inside = isinstance(event, Volume) or (inside and not isinstance(event, Ended))
            yield event
        problem = self._apart.problem
        if inside:
            yield Ended(problem)
        elif problem:
            yield Noted(f"not all volumes are told: {problem}")

    def close(self) -> None:
        """End the survey, whatever it is at. Again is harmless."""
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


def _limits(size: int) -> Limits:
    return Limits(_MEMORY, min(_CPU_S + _CPU_S_GIB * (size >> 30), _CPU_S_MAX), _STALL_S)


def _survey(disk: Disk, free: bool, read_files: ReadFiles, limits: Limits) -> Iterator[Event]:
    """In the child: have the volumes found, then each read."""
    volumes: list[Volume] = []
    with Apart(partial(find_volumes, disk), limits) as finding:
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
    disk: Disk, volume: Volume, free: bool, read_files: ReadFiles, limits: Limits
) -> Iterator[Event]:
    with Apart(partial(_files, disk, volume, free, read_files), limits) as files:
        for event in files:
            if isinstance(event, Volume | Noted):  # its memory is damaged
                yield Ended("the parser told what it cannot know")
                return
            yield event
            if isinstance(event, Ended):
                return
        yield Ended(files.problem)


def _files(
    disk: Disk, volume: Volume, free: bool, read_files: ReadFiles
) -> Iterator[Node | Free | Ended]:
    """In the volume's own child: its files, with offsets on the disk."""
    window = Window(disk, volume.ranges)
    for event in read_files(window, volume.filesystem, free=free):
        if isinstance(event, Node):
            yield _node_on_disk(event, window)
        elif isinstance(event, Free):
            yield Free(tuple(_free_on_disk(event.ranges, window)))
        else:
            yield event


def _node_on_disk(node: Node, window: Window) -> Node:
    """A node whose extents are on the disk; without those that its file system does not have."""
    inode = node.inode
    if inode is None or not inode.extents:
        return node
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
    changed = msgspec.structs.replace(inode, extents=tuple(extents))
    return Node(node.key, node.number, changed, problem)


def _free_on_disk(ranges: tuple[Range, ...], window: Window) -> Iterator[Range]:
    for start, end in ranges:
        for place, count in window.where(start, end - start):
            yield place, place + count
