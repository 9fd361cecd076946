"""Clumps: up to 128 KiB of blocks compressed together, and their bytes. No I/O here.

FORMAT.md, section Clump, is the byte-exact description. Always, for a clump that parses: the
lengths of its blocks add up to `raw_length`, and nothing in it exceeds the limits below, so a
hostile head costs no more memory than a small clump. A clump's checksum covers its arena's id and
its own offset. So the bytes of a clump that is valid elsewhere (an arena archived inside another)
are not valid here.
"""

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum

import msgspec
import zstandard
from blake3 import blake3

from ventifs.buffer import Buffer
from ventifs.errors import Corrupt
from ventifs.store.score import SCORE_SIZE, ZERO_SCORE, Score

BLOCK_SIZE_MAX = 1 << 20
CLUMP_RAW_MAX = 128 << 10  # of several blocks; a larger block is alone in its clump
CLUMP_BLOCKS_MAX = 1024
ARENA_ID_SIZE = 16
CHECK_SIZE = 16

MAGIC = b"vfC\x01"
_HEAD = struct.Struct("<4sBBHII")  # magic, kind, codec, blocks, raw length, payload length
_BLOCK = struct.Struct("<32sI")  # score, length
_LENGTH = struct.Struct("<I")  # of a block, behind its score
_PLACE = struct.Struct("<16sQ")  # arena id, offset: what the checksum begins with
HEAD_SIZE = _HEAD.size + CHECK_SIZE
LISTED_BLOCK_SIZE = _BLOCK.size
CLUMP_SIZE_MAX = HEAD_SIZE + CLUMP_BLOCKS_MAX * LISTED_BLOCK_SIZE + BLOCK_SIZE_MAX


class ClumpKind(IntEnum):
    """What a clump carries; NODE differs from DATA only in placement: a tree takes few clumps."""

    DATA = 1
    NODE = 2
    CATALOG = 3
    COMMIT = 4
    GAP = 5  # bytes that a crash left unreadable, skipped from then on


class ClumpCodec(IntEnum):
    """How a clump's payload is encoded."""

    RAW = 0
    ZSTD = 1


class Head(msgspec.Struct, frozen=True):
    """A clump's header and block list.

    Attributes:
        raw_length: bytes of all blocks together, before compression.
        payload_length: bytes that follow the block list.
        check: the 16-byte checksum over place, header, list and payload.
        blocks: (score, length) of each block, in order; empty for kinds other than DATA and NODE.
        listed: header and list as they are in the file.
    """

    kind: ClumpKind
    codec: ClumpCodec
    raw_length: int
    payload_length: int
    check: bytes
    blocks: list[tuple[Score, int]]
    listed: bytes

    @property
    def size(self) -> int:
        """Bytes the whole clump takes in its arena."""
        return len(self.listed) + self.payload_length

    def holds(self, position: int, score: Score) -> bool:
        """Whether the block at `position` is the one named `score`."""
        return position < len(self.blocks) and self.blocks[position][0] == score


def head_length(start: Buffer) -> int:
    """The length of header and block list, from the clump's first `HEAD_SIZE` bytes.

    Raises:
        Corrupt: when these bytes begin no clump.
    """
    if len(start) < HEAD_SIZE or start[:4] != MAGIC:
        raise Corrupt("no clump begins here")
    count: int = _HEAD.unpack_from(start)[3]
    if count > CLUMP_BLOCKS_MAX:
        raise Corrupt(f"clump lists {count} blocks, more than {CLUMP_BLOCKS_MAX}")
    return HEAD_SIZE + count * LISTED_BLOCK_SIZE


def parse_head(data: Buffer) -> Head:
    """Decode header and block list; `verify` compares the checksum.

    Raises:
        Corrupt: for anything that `encode` would not have written.
    """
    end = head_length(data)
    if len(data) < end:
        raise Corrupt("clump is cut off in its block list")
    listed = bytes(data[:end])
    _, kind, codec, count, raw_length, payload_length = _HEAD.unpack_from(listed)
    try:
        kind, codec = ClumpKind(kind), ClumpCodec(codec)
    except ValueError:
        raise Corrupt(f"clump of unknown kind {kind} or codec {codec}") from None
    blocks = list(_BLOCK.iter_unpack(listed[HEAD_SIZE:]))
    if kind in (ClumpKind.DATA, ClumpKind.NODE):
        lengths = [length for _, length in blocks]
        largest = CLUMP_RAW_MAX if count > 1 else BLOCK_SIZE_MAX
        sound = count > 0 and min(lengths) > 0 and sum(lengths) == raw_length <= largest
    else:
        sound = count == 0 and (kind is ClumpKind.GAP or raw_length <= BLOCK_SIZE_MAX)
    if kind is ClumpKind.GAP:
        sound = sound and codec is ClumpCodec.RAW and raw_length == 0
    elif codec is ClumpCodec.RAW:
        sound = sound and payload_length == raw_length
    else:
        sound = sound and 0 < payload_length < raw_length
    if not sound:
        raise Corrupt("clump header contradicts itself")
    return Head(
        kind, codec, raw_length, payload_length, listed[_HEAD.size : HEAD_SIZE], blocks, listed
    )


class Outline(msgspec.Struct, frozen=True, gc=False):
    """What a directory's entry says of a clump, its blocks not decoded: cheap, for many clumps.

    Unlike those of a `Head`, its fields may contradict each other: the directory's fingerprint
    vouches for them, and nothing else does.

    Attributes:
        kind: as in `ClumpKind`, or a number that is none.
        count: how many blocks are listed.
        size: bytes that the whole clump takes in its arena.
        listed: header and list as they are in the file.
    """

    kind: int
    count: int
    raw_length: int
    size: int
    listed: bytes

    def scores(self) -> list[bytes]:
        """The scores of its blocks, in order."""
        listed = self.listed
        return [
            listed[at : at + SCORE_SIZE] for at in range(HEAD_SIZE, len(listed), LISTED_BLOCK_SIZE)
        ]

    def length_of(self, positions: Iterable[int]) -> int:
        """Raw bytes of some of its blocks together."""
        start = HEAD_SIZE + SCORE_SIZE
        unpack, listed = _LENGTH.unpack_from, self.listed
        return sum(unpack(listed, start + LISTED_BLOCK_SIZE * at)[0] for at in positions)


def outline(listed: bytes) -> Outline:
    """The outline of a clump whose header and list are `listed`."""
    _, kind, _, count, raw_length, payload_length = _HEAD.unpack_from(listed)
    return Outline(kind, count, raw_length, len(listed) + payload_length, listed)


class Packed(msgspec.Struct, frozen=True):
    """A clump's encoded payload, which does not depend on its place."""

    codec: ClumpCodec
    raw_length: int
    payload: Buffer


def pack(raw: Buffer, compressor: zstandard.ZstdCompressor) -> Packed:
    """Compress a clump's blocks, end to end in `raw`, or keep them if that is no smaller."""
    packed = compressor.compress(raw)
    if len(packed) < len(raw):
        return Packed(ClumpCodec.ZSTD, len(raw), packed)
    return Packed(ClumpCodec.RAW, len(raw), bytes(raw))


def encode(
    kind: ClumpKind,
    blocks: Sequence[tuple[Score, int]],
    packed: Packed,
    *,
    arena: bytes,
    offset: int,
) -> Head:
    """The head of a clump for one place in one arena; the clump is `listed`, then the payload."""
    return _assembled(kind, blocks, packed, len(packed.payload), arena=arena, offset=offset)


def encode_gap(length: int, *, arena: bytes, offset: int) -> bytes:
    """The header that turns `length` unreadable bytes at `offset` into a gap clump."""
    nothing = Packed(ClumpCodec.RAW, 0, b"")
    return _assembled(
        ClumpKind.GAP, (), nothing, length - HEAD_SIZE, arena=arena, offset=offset
    ).listed


def _assembled(
    kind: ClumpKind,
    blocks: Sequence[tuple[Score, int]],
    packed: Packed,
    payload_length: int,
    *,
    arena: bytes,
    offset: int,
) -> Head:
    fixed = _HEAD.pack(MAGIC, kind, packed.codec, len(blocks), packed.raw_length, payload_length)
    listing = b"".join([_BLOCK.pack(score, length) for score, length in blocks])
    check = _checksum(arena, offset, fixed, listing, packed.payload)
    return Head(
        kind,
        packed.codec,
        packed.raw_length,
        payload_length,
        check,
        list(blocks),
        fixed + check + listing,
    )


def _checksum(arena: bytes, offset: int, fixed: Buffer, listing: Buffer, payload: Buffer) -> bytes:
    hasher = blake3(_PLACE.pack(arena, offset))
    hasher.update(fixed)
    hasher.update(listing)
    hasher.update(payload)
    return hasher.digest(CHECK_SIZE)


def verify(head: Head, payload: Buffer, *, arena: bytes, offset: int) -> None:
    """Compare a clump with its checksum, which for a gap covers no payload.

    Raises:
        Corrupt: when they differ.
    """
    covered = b"" if head.kind is ClumpKind.GAP else payload
    fixed, listing = head.listed[: _HEAD.size], head.listed[HEAD_SIZE:]
    if _checksum(arena, offset, fixed, listing, covered) != head.check:
        raise Corrupt("clump does not match its checksum", arena=arena.hex(), offset=offset)


def decompress(head: Head, payload: Buffer, decompressor: zstandard.ZstdDecompressor) -> Buffer:
    """The clump's raw bytes, exactly `head.raw_length` of them.

    Raises:
        Corrupt: when the payload is not a frame of that length.
    """
    if len(payload) != head.payload_length:
        raise Corrupt("clump is cut off")
    if head.codec is ClumpCodec.RAW:
        return payload
    try:
        # Check the length that the frame claims first: decompress() would allocate all of it.
        if zstandard.frame_content_size(payload) != head.raw_length:
            raise Corrupt("compressed frame is not of the length its clump says")
        return decompressor.decompress(payload, allow_extra_data=False)
    except zstandard.ZstdError:
        raise Corrupt("compressed frame cannot be read") from None


class OpenClump:
    """The blocks gathered for one clump. Not thread-safe; `Store` holds a lock.

    Blocks are copied at once into one buffer, which is used again for every clump. So compression
    needs neither a join nor new memory.
    """

    def __init__(self, kind: ClumpKind) -> None:
        """Start empty."""
        self.kind = kind
        self.spans: dict[Score, tuple[int, int]] = {}
        self._buffer = bytearray(CLUMP_RAW_MAX)
        self._length = 0

    def fits(self, length: int) -> bool:
        """Whether a block of `length` bytes can join those already here."""
        return self._length + length <= CLUMP_RAW_MAX and len(self.spans) < CLUMP_BLOCKS_MAX

    def add(self, score: Score, block: Buffer) -> None:
        """Take in a block that `fits`."""
        start, end = self._length, self._length + len(block)
        self._buffer[start:end] = block
        self.spans[score] = (start, end)
        self._length = end

    def block(self, score: Score) -> bytes:
        """A copy of a gathered block."""
        start, end = self.spans[score]
        return bytes(self._buffer[start:end])

    def blocks(self) -> list[tuple[Score, int]]:
        """(score, length) of each block, in order."""
        return [(score, end - start) for score, (start, end) in self.spans.items()]

    def raw(self) -> memoryview:
        """All blocks end to end, valid until the next `add` or `clear`."""
        return memoryview(self._buffer)[: self._length]

    def clear(self) -> None:
        """Start again, after the clump has been written."""
        self.spans = {}
        self._length = 0


class DecodedClump:
    """One clump's blocks, each hashed against its score. Shared between threads.

    Attributes:
        data: a read-only view of all blocks, end to end.
        spans: start and end in `data` of each block that matches its score; only these may be
            returned to callers.
        cost: bytes of memory to account for.
        used: for the cache: whether a block was requested lately.
    """

    __slots__ = ("__weakref__", "cost", "data", "spans", "used")

    def __init__(self, head: Head, raw: Buffer) -> None:
        """Hash; blocks that do not match are left out."""
        self.data = memoryview(raw).toreadonly()
        self.spans: dict[Score, tuple[int, int]] = {}
        self.used = False
        start = 0
        for score, length in head.blocks:
            end = start + length
            if blake3(self.data[start:end]).digest() == score:
                self.spans[score] = start, end
            start = end
        self.cost = len(raw) + 400 * len(self.spans)  # a span, its key and two dict slots

    def block(self, score: Score) -> memoryview:
        """A read-only view of one of the blocks in `spans`."""
        start, end = self.spans[score]
        return self.data[start:end]


ZERO_BLOCK = memoryview(b"")
assert len(ZERO_SCORE) == SCORE_SIZE
