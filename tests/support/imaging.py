"""Archive runs over disks, from given events or from a survey, and their results."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.support.conversing import answer_all
from tests.support.memory import family
from tests.support.memorydisk import FileDisk, MemoryDisk
from ventifs.image.archive.archiver import ImageArchiver
from ventifs.image.archive.disk_source import DiskSource
from ventifs.image.archive.disk_worker import disk_handlers
from ventifs.image.archive.previous_disk import PreviousDisk
from ventifs.image.disk import Disk
from ventifs.image.disk_facts import Facts
from ventifs.image.survey import Survey
from ventifs.image.survey_events import (
    Ended,
    Event,
    FoundName,
    Free,
    Inode,
    Range,
    Surveyed,
    Volume,
    VolumeBatch,
    VolumeEvent,
    told_in,
)
from ventifs.store import Store
from ventifs.store.claims import Claims
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.file_reader import Trouble
from ventifs.tree.archive.worker import serving
from ventifs.tree.objects.content import read
from ventifs.tree.objects.directory import resolve, tree
from ventifs.tree.objects.records import Content, Entry, RegularFile
from ventifs.tree.process_pool import Task, Workers
from ventifs.tree.versions.catalog import Version, tree_score
from ventifs.tree.versions.verify import Verifier

DIRECTORY = Inode(0o40755, 0, 0, 0, 2)
PAGE = 4096


class Archived(NamedTuple):
    """The result of a run over a disk."""

    root: Entry
    troubles: list[Trouble]
    facts: Facts


def surveyed(events: Iterable[Event], batch: int = 5) -> Iterator[Surveyed]:
    """Events as a survey has them: what volumes' own parsers tell comes in batches."""
    inside: list[VolumeEvent] = []
    for event in events:
        if inside and (len(inside) == batch or not isinstance(event, FoundName | Free)):
            yield VolumeBatch(msgspec.msgpack.encode(inside))
            inside = []
        if isinstance(event, FoundName | Free):
            inside.append(event)
        else:
            yield event
    if inside:
        yield VolumeBatch(msgspec.msgpack.encode(inside))


def told(surveyed: Iterable[Surveyed]) -> Iterator[Event]:
    """All events of a survey, those inside volumes included, but each volume's end only once."""
    ended = False
    for event in surveyed:
        for each in told_in(event.body) if isinstance(event, VolumeBatch) else [event]:
            if isinstance(each, Volume):
                ended = False
            if not (isinstance(each, Ended) and ended):
                yield each
            ended = ended or isinstance(each, Ended)


def regular(size: int, *extents: tuple[int, int, int], links: int = 1, data: bytes = b"") -> Inode:
    return Inode(0o100644, 1, 2, 3, links, size, extents=extents, data=data)


def volume_of(size: int, *nodes: Event, name: str = "1", start: int = 0) -> list[Event]:
    """The events of a volume that holds these nodes and a root."""
    where = ((start, start + size),)
    return [Volume(name, False, where), FoundName(b"", 2, DIRECTORY), *nodes, Ended()]


def image(
    store: Store,
    disk: Disk,
    events: Iterable[Event] = (),
    *,
    drop_free: bool = False,
    previous: Content | None = None,
    same: list[Range] | None = None,
) -> Archived:
    """Archive a disk by what is told of it."""
    before = None if previous is None else PreviousDisk(store, previous, same or [], free=drop_free)
    archiver = ImageArchiver(store, disk, drop_free=drop_free, previous=before)
    root = archiver.run(surveyed(events))
    return Archived(root, archiver.troubles, archiver.facts)


def bytes_of(store: Store, content: Content) -> bytes:
    return b"".join(bytes(piece) for piece in read(store, content))


def content_at(store: Store, root: Entry, path: bytes) -> Content:
    detail = resolve(store, root, path).detail
    assert isinstance(detail, RegularFile)
    return detail.content


def paths_of(store: Store, root: Entry) -> list[bytes]:
    return [path for path, _ in tree(store, root)]


def harms(store: Store, root: Entry) -> list[str]:
    """The damage that a check would find."""
    version = Version("t", 1, root, "", "", (), 0, 0.0, ())
    return [f"{harm.path!r}: {harm.reason}" for harm in Verifier(store).version(version)]


def _task(store: Path, disk: Disk) -> Task:
    """What workers do for a run over a disk."""
    return partial(serving, store, Claims(), 1, partial(disk_handlers, disk))


def archive_file(
    store: Path,
    path: Path,
    name: str,
    jobs: int = 1,
    *,
    read_all: bool = False,
    drop_free: bool = False,
) -> tuple[bytes, tuple[tuple[bytes, str, bool], ...], bool]:
    """Survey and archive an image file; the root's score, troubles, and whether all is reused."""
    with ExitStack() as stack:
        disk = FileDisk(path)
        stack.callback(disk.close)
        survey = stack.enter_context(Survey(disk, free=drop_free))
        pool = None
        if jobs > 1:
            pool = stack.enter_context(Workers(jobs, _task(store, disk)))
        source = DiskSource(disk, iter(survey), pool=pool, drop_free=drop_free)
        opened = stack.enter_context(Store.open(store, "write"))
        version, _ = archive(opened, source, name, read_all=read_all)
    return tree_score(version.root), version.troubles, source.reused


def archive_files(connection: Connection) -> None:
    """The child of a `Peer`: archives images."""
    told: dict[str, Callable[..., object]] = {
        "archive": archive_file,
        "told": archive_told,
        "interrupted": archive_interrupted,
    }
    answer_all(connection, told)


def _working(store: Path, path: Path, halt: Callable[[], None]) -> None:
    """Archive an image by a survey and two workers; `halt` is called in the middle."""
    with ExitStack() as stack:
        disk = FileDisk(path)
        stack.callback(disk.close)
        survey = stack.enter_context(Survey(disk, free=False))
        pool = stack.enter_context(Workers(2, _task(store, disk)))
        source = DiskSource(disk, iter(survey), pool=pool)
        opened = stack.enter_context(Store.open(store, "write"))
        archive(opened, source, "vm", progress=lambda *_: halt())


def archive_interrupted(store: Path, path: Path) -> list[int]:
    """Archive an image until an interrupt; return the pids of children that are left."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        _working(store, path, interrupt)
        raise AssertionError("it was not interrupted")
    return family(os.getpid())[1:]


def archive_until_killed(store: Path, path: Path, pids: Path) -> None:
    """Archive an image until killed; writes the pids of its children to `pids`."""

    def killed() -> None:
        pids.write_text(" ".join(map(str, family(os.getpid())[1:])))
        os.kill(os.getpid(), signal.SIGKILL)

    _working(store, path, killed)


def archive_told(
    store: Path, pieces: dict[int, bytes], size: int, events: list[Event], jobs: int
) -> bytes:
    """Archive a disk in memory; return the root's score."""
    with ExitStack() as stack:
        disk = MemoryDisk(size, pieces)
        pool = None
        if jobs > 1:
            pool = stack.enter_context(Workers(jobs, _task(store, disk)))
        opened = stack.enter_context(Store.open(store, "write"))
        archiver = ImageArchiver(opened, disk, pool=pool)
        return tree_score(archiver.run(surveyed(events)))
