"""What an image's archive run asks of whoever works for it: contents of files, blocks of the rest.

The disk was opened before the workers were forked, so requests name nothing but offsets.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from ventifs.errors import Corrupt, NotStored
from ventifs.image.blocks import BlockWriter, Stretch
from ventifs.image.disk import Disk
from ventifs.image.events import Extent
from ventifs.image.stream import Stream
from ventifs.store import Store
from ventifs.store.claims import Claims
from ventifs.store.writer import Batch
from ventifs.tree.content import ContentWriter, holds
from ventifs.tree.records import Content, Item
from ventifs.tree.service import PENDING_MAX, HandOver
from ventifs.tree.workers import Handle, Send

_WHOLE_MAX = 4 << 20  # read in one piece
Wanted = tuple[int, tuple[Extent, ...], Content | None]  # size, extents, what it may well hold


class ReadFiles(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The request: store some files' contents."""

    files: list[Wanted]


class ReadBlocks(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The request: store what is in some stretches of the disk, block by block."""

    stretches: list[Stretch]


class FilesRead(msgspec.Struct, frozen=True, array_like=True):
    """The reply, in the order of the request.

    Attributes:
        files: contents, and how many bytes after each file's end are known to be zeros.
        new_bytes: bytes of new blocks.
    """

    files: list[tuple[Content, int]]
    new_bytes: int


class BlocksRead(msgspec.Struct, frozen=True, array_like=True):
    """The reply: for each stretch its items, and bytes of new blocks."""

    items: list[list[Item]]
    new_bytes: int


_decode = msgspec.msgpack.Decoder(ReadFiles | ReadBlocks | HandOver).decode
_encode = msgspec.msgpack.Encoder().encode


class Service:
    """Answers requests about one disk."""

    def __init__(self, store: Callable[[], Store], disk: Disk) -> None:
        """`store` opens the one to store in, when it is first needed."""
        self._open_store = store
        self._disk = disk
        self._store: Store | None = None
        self._writer: ContentWriter | None = None

    def handle(self, request: bytes, _: Sequence[int]) -> bytes:
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
        if self._writer is None:
            self._store = self._open_store()
            self._writer = ContentWriter(self._store)
        writer, before = self._writer, self._writer.new_bytes
        if isinstance(decoded, ReadFiles):
            files = [self._content(writer, *wanted) for wanted in decoded.files]
            return _encode(FilesRead(files, writer.new_bytes - before))
        blocks = BlockWriter(writer.store, self._disk)
        items = [blocks.write(stretch) for stretch in decoded.stretches]
        return _encode(BlocksRead(items, blocks.new_bytes))

    def _content(
        self,
        writer: ContentWriter,
        size: int,
        extents: tuple[Extent, ...],
        known: Content | None,
    ) -> tuple[Content, int]:
        stream = Stream(self._disk, size, extents)
        if known is not None and self._holds(writer.store, stream, known):
            content = known
        elif size <= _WHOLE_MAX:
            content = writer.write_whole(stream.read(0, size))
        else:
            content = writer.write(stream.pieces())
        return content, stream.zeros_after()

    def _holds(self, store: Store, stream: Stream, known: Content) -> bool:
        with suppress(Corrupt, NotStored):  # of the guess's own nodes: it is stored anew
            return holds(store, known, stream.read, stream.is_zero)
        return False


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
