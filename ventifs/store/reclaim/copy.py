"""Reads what lives in an arena, clump by clump, each block compared with its score.

A clump in which everything lives is handed on with its compressed frame as it is; of the others,
the live blocks are.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import zstandard

from ventifs.errors import Corrupt
from ventifs.store.arena import Arena
from ventifs.store.clump import ClumpKind, DecodedClump, Head, Packed, decompress
from ventifs.store.reclaim.join import ArenaUse, heads_of
from ventifs.store.score import Score

_LIVE = ord("1")
_AHEAD_BYTES = 1 << 20  # of clumps, read by a thread at a time
_AHEAD = 3  # times as many bytes are in memory


class LiveBlocks(msgspec.Struct, frozen=True):
    """Live blocks of one clump.

    Attributes:
        kind: DATA or NODE.
        blocks: score and bytes of each.
        frame: all of them compressed as they are in the arena, if the whole clump lives.
        size: bytes of the clump, or their share of it.
    """

    kind: ClumpKind
    blocks: list[tuple[Score, memoryview]]
    frame: Packed | None
    size: int


def live_blocks(arena: Arena, use: ArenaUse) -> Iterator[LiveBlocks]:
    """What lives in an arena, in the order in which it is there.

    Raises:
        Corrupt: the arena's directory, a head or a live block is damaged.
    """
    flags = use.flags()
    decompressor = zstandard.ZstdDecompressor()
    ordinal = 0
    for offset, head in heads_of(arena, use):
        start, ordinal = ordinal, ordinal + len(head.blocks)
        alive = [at for at in range(len(head.blocks)) if flags[start + at] == _LIVE]
        if alive:
            try:
                yield _read(arena, offset, head, alive, decompressor)
            except Corrupt as error:
                raise Corrupt(
                    error.reason, score=error.score, arena=arena.id.hex(), offset=offset
                ) from None


def read_ahead(clumps: Iterator[LiveBlocks]) -> Generator[LiveBlocks, None, None]:
    """The same clumps, read by a thread while the caller uses those before.

    Reading, decompressing and hashing release the GIL, as appending does: two processors share
    the work. The thread ends with the iterator, which must be exhausted or closed.

    Raises:
        Corrupt: as `live_blocks`; clumps just before the damaged one may be left out.
    """

    def some() -> list[LiveBlocks]:
        found, size = [], 0
        for clump in clumps:
            found.append(clump)
            size += clump.size
            if size >= _AHEAD_BYTES:
                break
        return found

    with ThreadPoolExecutor(1, "ventifs-reader") as thread:
        try:
            waiting = deque(thread.submit(some) for _ in range(_AHEAD))
            while found := waiting.popleft().result():
                waiting.append(thread.submit(some))
                yield from found
        finally:
            thread.shutdown(wait=False, cancel_futures=True)


def _read(
    arena: Arena,
    offset: int,
    head: Head,
    alive: list[int],
    decompressor: zstandard.ZstdDecompressor,
) -> LiveBlocks:
    payload = arena.read_payload(offset, head)
    clump = DecodedClump(head, decompress(head, payload, decompressor))
    blocks = []
    raw = 0
    for position in alive:
        score, length = head.blocks[position]
        if score not in clump.spans:
            raise Corrupt("bytes do not match their score", score=score)
        blocks.append((score, clump.block(score)))
        raw += length
    if len(alive) < len(head.blocks):
        return LiveBlocks(head.kind, blocks, None, head.size * raw // head.raw_length)
    return LiveBlocks(head.kind, blocks, Packed(head.codec, head.raw_length, payload), head.size)
