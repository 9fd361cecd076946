"""The requests of an image's archive run to its workers, and the replies.

Workers take in files, read the rest of the disk, and build the files' trees. The disk was opened
before the workers were forked, so requests name nothing but offsets.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from msgspec.structs import replace

from ventifs.image.archive.file_trees import build
from ventifs.image.archive.gap_blocks import BlockWriter, Piece, Stretch
from ventifs.image.archive.ingest import Intake
from ventifs.image.archive.previous_disk import Previous
from ventifs.image.archive.spool import frames
from ventifs.image.disk import Disk
from ventifs.image.survey_events import Range
from ventifs.store import Store
from ventifs.store.claims import Claims
from ventifs.store.writer import Batch
from ventifs.tree.archive.worker import PENDING_MAX, HandOver
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.records import Content
from ventifs.tree.process_pool import Handle, Send


class TakeIn(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The request: take in events of a volume's parser. The reply is a `TakenIn`.

    Attributes:
        body: as `survey_events.Inside` has it.
        time: of the first row that they make.
    """

    body: bytes
    time: int


class ReadBlocks(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The request: store what is in some stretches of the disk, block by block."""

    stretches: list[Stretch]


class BuildTree(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The request: build a volume's tree from a part of the `Spool`. The reply is a `Built`.

    Attributes:
        start, end: of the part.
    """

    start: int
    end: int


class Before(msgspec.Struct, frozen=True, array_like=True, tag=3):
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

    pieces: list[list[Piece]]
    new_bytes: int


_decode = msgspec.msgpack.Decoder(TakeIn | ReadBlocks | BuildTree | Before | HandOver).decode
_encode = msgspec.msgpack.Encoder().encode


class Service:
    """Answers requests about one disk."""

    def __init__(self, store: Callable[[], Store], disk: Disk) -> None:
        """`store` opens the store to write to, when it is first needed."""
        self._open_store = store
        self._disk = disk
        self._store: Store | None = None
        self._intake: Intake | None = None
        self._before: Before | None = None

    def handle(self, request: bytes, descriptors: Sequence[int]) -> bytes:
        """The reply to a request.

        Raises:
            ImageError: the disk cannot be read.
            VentifsError: the store's own problems.
        """
        decoded = _decode(request)
        if isinstance(decoded, HandOver):
            if self._store is not None and self._store.mode == "worker":
                return pickle.dumps(self._store.hand_over())
            return b""
        if isinstance(decoded, Before):
            if self._before is None:
                self._before = decoded
            else:
                self._before.same.extend(decoded.same)
            return b""
        if self._store is None:
            self._store = self._open_store()
        if isinstance(decoded, TakeIn):
            if self._intake is None:
                self._intake = Intake(ContentWriter(self._store), self._disk, self._previous())
            return _encode(self._intake.take(decoded.body, decoded.time))
        if isinstance(decoded, BuildTree):
            writer = ContentWriter(self._store)
            names = frames(descriptors[0], decoded.start, decoded.end)
            built = build(names, writer.put_node)
            return _encode(replace(built, new_bytes=writer.new_bytes))
        blocks = BlockWriter(self._store, self._disk)
        pieces = [blocks.write(stretch) for stretch in decoded.stretches]
        return _encode(BlocksRead(pieces, blocks.new_bytes))

    def _previous(self) -> Previous | None:
        before = self._before
        if before is None or self._store is None:
            return None
        return Previous(self._store, before.content, before.same, free=before.free)


@contextmanager
def serving(path: Path, disk: Disk, claims: Claims, level: int, send: Send) -> Iterator[Handle]:
    """The task of a worker: work for a run into the store at `path`."""

    def give(batch: Batch) -> None:
        send(pickle.dumps(batch))

    with ExitStack() as stack:

        def opened() -> Store:
            return stack.enter_context(
                Store.open(
                    path, "worker", pending_max=PENDING_MAX, level=level, give=give, claims=claims
                )
            )

        yield Service(opened, disk).handle
