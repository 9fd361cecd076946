"""Stores a file's bytes as blocks, and reads any part of them back, holes as holes.

Content is empty, inline, one block, or a tree of items; the bytes alone decide which.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from ventifs.errors import Corrupt
from ventifs.store import Score, Store
from ventifs.store.score import score_of
from ventifs.tree.objects.chunker import CHUNK_MIN, Chunker
from ventifs.tree.objects.prolly import Builder, leaves, walk
from ventifs.tree.objects.records import (
    INLINE_MAX,
    Block,
    Chunk,
    Content,
    Empty,
    Hole,
    Inline,
    Item,
    Listed,
    Slice,
    Tree,
    Xattrs,
    decode_item,
    encode,
    encode_item,
    length_of,
    listed_xattrs,
    own_item,
    weigh_item,
)

WHOLE_MAX = 16 << 20  # bytes; the limit of `read_whole`, which reads extended attributes
SLICE_DEPTH_MAX = 8  # slices of slices: a disk image's are one deep


class ContentWriter:
    """Stores contents in one store. Not to be shared between threads.

    Attributes:
        store: receives the blocks.
        new_bytes: bytes of chunks and nodes that the store did not have.
    """

    def __init__(self, store: Store) -> None:
        """Cut with the seed in the store's header."""
        self.store = store
        seed = int.from_bytes(store.header.chunk_seed[:8], "little")
        self._chunker = Chunker(seed)
        self.new_bytes = 0

    def put_node(self, data: bytes) -> Score:
        """Store a node."""
        score, new = self.store.put(data, node=True)
        self.new_bytes += len(data) if new else 0
        return score

    def _put_chunk(self, data: bytes | memoryview) -> Score:
        score, new = self.store.put(data)
        self.new_bytes += len(data) if new else 0
        return score

    def write_whole(self, data: bytes) -> Content:
        """Store content that is in memory."""
        if not data:
            return Empty()
        if len(data) <= INLINE_MAX:
            return Inline(data)
        if len(data) <= CHUNK_MIN and (data[0] or data.strip(b"\0")):
            return Block(self._put_chunk(data), len(data))
        chunks = self._chunker.plain(data)
        return self._write(self._chunker.chunks([data]) if chunks is None else chunks)

    def write_xattrs(self, xattrs: Xattrs) -> Listed | Content:
        """Store extended attributes, sorted by name, unless the entry itself can hold them."""
        listed = listed_xattrs(xattrs)
        return self.write_whole(encode(xattrs)) if listed is None else listed

    def write_pieces(self, pieces: Iterable[bytes]) -> Content:
        """Store content that comes in pieces, each but the last of whole pages."""
        rest = iter(pieces)
        head = list(islice(rest, 2))
        return self.write(chain(head, rest)) if len(head) > 1 else self.write_whole(b"".join(head))

    def write(self, pieces: Iterable[bytes | int]) -> Content:
        """Store content of more than 32 bytes, given as `Chunker.chunks` takes it."""
        return self._write(self._chunker.chunks(pieces))

    def _write(self, chunks: Iterable[bytes | memoryview | int]) -> Content:
        builder: Builder | None = None
        first: Item | None = None
        for chunk in chunks:
            item: Item
            if isinstance(chunk, int):
                item = Hole(chunk)
            else:
                item = Chunk(self._put_chunk(chunk), len(chunk))
            if first is None:
                first = item
                continue
            if builder is None:
                builder = Builder(self.put_node)
                builder.add(encode_item(first), length=first.length)
            builder.add(encode_item(item), length=item.length)
        if first is None:
            return Empty()
        if builder is None:
            if isinstance(first, Chunk):
                return Block(first.score, first.length)
            builder = Builder(self.put_node)
            builder.add(encode_item(first), length=first.length)
        return Tree(builder.finish(), builder.total)


def read(
    store: Store, content: Content, offset: int = 0, length: int | None = None
) -> Iterator[bytes | memoryview | int]:
    """Part of a content, in order.

    Args:
        store: where its blocks are.
        content: a file's.
        offset: first byte wanted; past the end, nothing is yielded.
        length: how many bytes; None for the rest.

    Yields:
        non-empty pieces of bytes, or the lengths of holes.

    Raises:
        Corrupt, NotStored: where the archive is damaged.
    """
    end = length_of(content) if length is None else min(offset + length, length_of(content))
    yield from _read(store, content, offset, end, SLICE_DEPTH_MAX)


def _read(
    store: Store, content: Content, offset: int, end: int, depth: int
) -> Iterator[bytes | memoryview | int]:
    wanted = end - offset
    if wanted <= 0:
        return
    match content:
        case Inline(data):
            yield data[offset:end]
        case Block(score, length):
            yield from _block(store, score, length, offset, wanted)
        case Tree(score, length):
            for skip, raw in walk(store.get, Score(score), offset, weigh_item, length):
                item = decode_item(raw)
                take = min(item.length - skip, wanted)
                yield from _item(store, item, skip, take, depth)
                wanted -= take
                if not wanted:
                    return
            raise Corrupt("content ends before the length its entry says", score=score)


def _item(
    store: Store, item: Item, skip: int, take: int, depth: int
) -> Iterator[bytes | memoryview | int]:
    match item:
        case Hole():
            yield take
        case Chunk(score, length):
            yield from _block(store, score, length, skip, take)
        case Slice(content, offset, _):
            if depth == 0:
                raise Corrupt("slices of slices, too deep")
            yield from _read(store, content, offset + skip, offset + skip + take, depth - 1)


def _block(
    store: Store, score: bytes, length: int, offset: int, take: int
) -> Iterator[bytes | memoryview | int]:
    """Part of a block, with the trailing zeros that the store leaves out."""
    data = store.get(Score(score))
    if len(data) > length:
        raise Corrupt(f"block of {len(data)} bytes where {length} are said", score=score)
    part = data[offset : offset + take]
    if len(part):
        yield part
    if len(part) < take:
        yield bytes(take - len(part)) if take - len(part) < 4096 else take - len(part)


def holds(
    store: Store,
    content: Content,
    piece: Callable[[int, int], bytes | memoryview],
    zeros: Callable[[int, int], bool],
) -> bool:
    """Whether a file has the bytes of a content, judged by scores; no data blocks are read.

    Args:
        store: where the content's nodes are.
        content: a block or a tree.
        piece: a file's bytes, by offset and length; fewer than asked for at its end.
        zeros: whether a range of a file is all zeros, by offset and length.

    Returns:
        Whether they are the same; False also for contents with slices, empty and inline ones.

    Raises:
        Corrupt, NotStored: where the archive is damaged.
    """
    match content:
        case Block(score, length):
            return _is_block(piece(0, length), score, length)
        case Tree(score, _):
            offset = 0
            for node in leaves(store.get, Score(score)):
                for raw in node.items:
                    item = own_item(raw)
                    if isinstance(item, Chunk):
                        same = _is_block(piece(offset, item.length), item.score, item.length)
                    else:
                        same = isinstance(item, Hole) and zeros(offset, item.length)
                    if not same:
                        return False
                    offset += item.length
            return True
    return False


def _is_block(data: bytes | memoryview, score: bytes, length: int) -> bool:
    return len(data) == length and score_of(data) == score


def read_whole(store: Store, content: Content) -> bytes:
    """A content that is known to be small, in one piece.

    Raises:
        Corrupt, NotStored: where the archive is damaged, or the content is longer than `WHOLE_MAX`.
    """
    if length_of(content) > WHOLE_MAX:
        raise Corrupt(f"content of {length_of(content)} bytes where a small one is said")
    pieces = read(store, content)
    return b"".join(bytes(piece) for piece in pieces)  # bytes(n) is n zeros
