"""The requests of a disk's archive run to its workers, and how they answer.

Workers take in files, read the rest of the disk, and build the files' trees. The disk was opened
before the workers were forked, so requests name nothing but offsets.
"""

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from ventifs.image.archive.file_trees import build
from ventifs.image.archive.gap_blocks import BlockWriter, GapItem, Stretch
from ventifs.image.archive.ingest import EventIntake
from ventifs.image.archive.previous_disk import PreviousDisk
from ventifs.image.archive.spool import frames
from ventifs.image.disk import Disk
from ventifs.image.survey_events import Range
from ventifs.tree.archive.worker import REQUESTS, Handlers, OpenStore
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.records import Content


@REQUESTS.register
class TakeIn(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """The request: take in events of a volume's parser. The reply is a `TakenIn`.

    Attributes:
        body: as `survey_events.VolumeBatch` has it.
        time: of the first name, see `ingest.NameRow`.
    """

    body: bytes
    time: int


@REQUESTS.register
class ReadBlocks(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """The request: store what is in some stretches of the disk, block by block."""

    stretches: list[Stretch]


@REQUESTS.register
class BuildTree(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """The request: build a volume's tree from a part of the `Spool`. The reply is a `Built`.

    Attributes:
        start, end: of the part.
    """

    start: int
    end: int


@REQUESTS.register
class Before(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """The request: remember the disk of the name's last version. The reply is empty.

    Attributes:
        content: of the disk then.
        free: whether zeros may stand for what was free then.
        same: ranges that have not changed since; a later request adds its own.
    """

    content: Content
    free: bool
    same: list[Range]


class BlocksRead(msgspec.Struct, frozen=True, array_like=True):
    """The reply: for each stretch its pieces, and bytes of new blocks."""

    pieces: list[list[GapItem]]
    new_bytes: int


_encode = msgspec.msgpack.Encoder().encode


def disk_handlers(disk: Disk, store: OpenStore) -> Handlers:
    """Handlers for the requests of one run.

    They raise `ImageError` if the disk cannot be read.

    Args:
        disk: open.
        store: opens the store.
    """
    worker = _DiskWorker(disk, store)
    return {
        TakeIn: worker.take_in,
        ReadBlocks: worker.read_blocks,
        BuildTree: worker.build_tree,
        Before: worker.remember,
    }


class _DiskWorker:
    def __init__(self, disk: Disk, store: OpenStore) -> None:
        self._disk = disk
        self._store = store
        self._intake: EventIntake | None = None
        self._before: Before | None = None

    def take_in(self, request: TakeIn, _: Sequence[int]) -> bytes:
        if self._intake is None:
            self._intake = EventIntake(ContentWriter(self._store()), self._disk, self._previous())
        return _encode(self._intake.take(request.body, request.time))

    def read_blocks(self, request: ReadBlocks, _: Sequence[int]) -> bytes:
        blocks = BlockWriter(self._store(), self._disk)
        pieces = [blocks.write(stretch) for stretch in request.stretches]
        return _encode(BlocksRead(pieces, blocks.new_bytes))

    def build_tree(self, request: BuildTree, descriptors: Sequence[int]) -> bytes:
        writer = ContentWriter(self._store())
        names = frames(descriptors[0], request.start, request.end)
        built = build(names, writer.put_node)
        return _encode(replace(built, new_bytes=writer.new_bytes))

    def remember(self, request: Before, _: Sequence[int]) -> bytes:
        if self._before is None:
            self._before = request
        else:
            self._before.same.extend(request.same)
        return b""

    def _previous(self) -> PreviousDisk | None:
        before = self._before
        if before is None:
            return None
        return PreviousDisk(self._store(), before.content, before.same, free=before.free)
