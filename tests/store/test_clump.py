"""Clumps: read back as written, bound to one place; of other bytes, nothing but `Corrupt`."""

import struct
from contextlib import suppress

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tests.support.arenafiles import COMPRESSOR, DECOMPRESSOR, clump_bytes, incompressible
from tests.support.damage import damaged
from ventifs.errors import Corrupt
from ventifs.store.clump import (
    BLOCK_SIZE_MAX,
    CLUMP_BLOCKS_MAX,
    CLUMP_RAW_MAX,
    HEAD_SIZE,
    MAGIC,
    ClumpCodec,
    ClumpKind,
    DecodedClump,
    Head,
    OpenClump,
    decompress,
    encode,
    encode_gap,
    head_length,
    pack,
    parse_head,
    verify,
)
from ventifs.store.score import score_of

ARENA, OFFSET = bytes(range(16)), 4096
BLOCKS = st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=20)
SMALL = clump_bytes(ARENA, OFFSET, b"one block", b"another", b"z" * 200)


def read(data: bytes, *, arena: bytes = ARENA, offset: int = OFFSET) -> tuple[Head, bytes]:
    """Everything a reader does with a clump's bytes."""
    head = parse_head(data)
    payload = data[len(head.listed) :]
    verify(head, payload, arena=arena, offset=offset)
    return head, bytes(decompress(head, payload, DECOMPRESSOR))


def head_bytes(kind: int, codec: int, lengths: list[int], raw: int, payload: int) -> bytes:
    """A head made by hand, its checksum zeros: parsing does not look at it."""
    fixed = MAGIC + struct.pack("<BBHII", kind, codec, len(lengths), raw, payload)
    return fixed + bytes(16) + b"".join(bytes(32) + struct.pack("<I", size) for size in lengths)


@given(BLOCKS, st.sampled_from([ClumpKind.DATA, ClumpKind.NODE]), st.integers(0, 2**32 - 1))
def test_a_clump_is_read_back_as_it_was_written(
    blocks: list[bytes], kind: ClumpKind, offset: int
) -> None:
    head, raw = read(clump_bytes(ARENA, offset, *blocks, kind=kind), offset=offset)
    assert (head.kind, raw) == (kind, b"".join(blocks))
    assert head.blocks == [(score_of(block), len(block)) for block in blocks]
    assert head.size == len(clump_bytes(ARENA, offset, *blocks, kind=kind))


@given(BLOCKS)
def test_encode_tells_what_parsing_will_find(blocks: list[bytes]) -> None:
    listed = [(score_of(block), len(block)) for block in blocks]
    packed = pack(b"".join(blocks), COMPRESSOR)
    head = encode(ClumpKind.DATA, listed, packed, arena=ARENA, offset=OFFSET)
    assert parse_head(head.listed + bytes(packed.payload)) == head


def test_what_was_packed_does_not_change_with_the_buffer() -> None:
    buffer = bytearray(incompressible(1000))
    packed = pack(memoryview(buffer), COMPRESSOR)
    buffer[:] = bytes(1000)
    assert packed.payload == incompressible(1000)
    assert packed.raw_length == 1000


def test_what_does_not_compress_is_stored_as_it_is() -> None:
    for block, codec in ((b"a" * 1000, ClumpCodec.ZSTD), (incompressible(1000), ClumpCodec.RAW)):
        head, raw = read(clump_bytes(ARENA, OFFSET, block))
        assert (head.codec, raw) == (codec, block)
        assert (head.payload_length < 100) == (codec is ClumpCodec.ZSTD)


def test_an_empty_payload_is_a_clump_of_the_journal() -> None:
    head, raw = read(clump_bytes(ARENA, OFFSET, b"", kind=ClumpKind.CATALOG))
    assert (head.kind, head.blocks, raw) == (ClumpKind.CATALOG, [], b"")


def test_a_clump_holds_only_in_its_own_place() -> None:
    read(SMALL)
    with pytest.raises(Corrupt, match="checksum") as caught:
        read(SMALL, offset=OFFSET + 1)
    assert (caught.value.arena, caught.value.offset) == (ARENA.hex(), OFFSET + 1)
    with pytest.raises(Corrupt, match="checksum"):
        read(SMALL, arena=ARENA[::-1])


@pytest.mark.parametrize("offset", range(len(SMALL)))
def test_a_changed_byte_is_noticed_wherever_it_is(offset: int) -> None:
    data = bytearray(SMALL)
    data[offset] ^= 0x01
    with pytest.raises(Corrupt):
        read(bytes(data))


@given(damaged(SMALL))
def test_damaged_clumps_are_corrupt(data: bytes) -> None:
    if not data.startswith(SMALL):  # what follows a clump is none of its business
        with pytest.raises(Corrupt):
            head = parse_head(data)
            read(data[: head.size])


@given(st.binary(max_size=300) | st.binary(max_size=300).map(MAGIC.__add__))
def test_any_bytes_are_a_head_or_corrupt(data: bytes) -> None:
    try:
        head = parse_head(data)
    except Corrupt:
        return
    assert data.startswith(head.listed)


@given(st.binary(max_size=100), st.integers(0, 200))
def test_any_payload_is_a_frame_of_that_length_or_corrupt(payload: bytes, raw: int) -> None:
    for magic in (b"", zstandard.FRAME_HEADER):
        data = magic + payload
        head = Head(ClumpKind.DATA, ClumpCodec.ZSTD, raw, len(data), bytes(16), [], b"")
        with suppress(Corrupt):
            assert len(decompress(head, data, DECOMPRESSOR)) == raw


@given(damaged(COMPRESSOR.compress(b"ventifs" * 50)))
def test_damaged_frames_are_corrupt_or_of_the_length_the_clump_says(frame: bytes) -> None:
    head = Head(ClumpKind.DATA, ClumpCodec.ZSTD, 350, len(frame), bytes(16), [], b"")
    with suppress(Corrupt):
        assert len(decompress(head, frame, DECOMPRESSOR)) == 350


M = BLOCK_SIZE_MAX
IMPOSSIBLE = {
    "kind 0": head_bytes(0, 0, [5], 5, 5),
    "kind 6": head_bytes(6, 0, [5], 5, 5),
    "codec 2": head_bytes(1, 2, [5], 5, 5),
    "data without blocks": head_bytes(1, 0, [], 0, 0),
    "a block of nothing": head_bytes(1, 0, [5, 0], 5, 5),
    "lengths that do not add up": head_bytes(1, 0, [5, 6], 10, 10),
    "two blocks over 128 KiB": head_bytes(1, 0, [CLUMP_RAW_MAX, 1], CLUMP_RAW_MAX + 1, 9),
    "two blocks over 128 KiB, raw": head_bytes(2, 0, [M // 2, M // 2], M, M),
    "a block over 1 MiB": head_bytes(1, 0, [M + 1], M + 1, M + 1),
    "a catalog with blocks": head_bytes(3, 0, [5], 5, 5),
    "a commit with blocks": head_bytes(4, 0, [5], 5, 5),
    "a catalog over 1 MiB": head_bytes(3, 1, [], M + 1, 5),
    "a gap with blocks": head_bytes(5, 0, [5], 0, 5),
    "a gap with content": head_bytes(5, 0, [], 5, 5),
    "a gap that is compressed": head_bytes(5, 1, [], 0, 5),
    "raw of another length": head_bytes(1, 0, [5], 5, 6),
    "compressed to more": head_bytes(1, 1, [5], 5, 5),
    "compressed to nothing": head_bytes(1, 1, [5], 5, 0),
    "too many blocks": head_bytes(1, 0, [1] * (CLUMP_BLOCKS_MAX + 1), CLUMP_BLOCKS_MAX + 1, 1025),
    "another magic": b"vfC\x02" + head_bytes(1, 0, [5], 5, 5)[4:],
    "cut in its head": head_bytes(1, 0, [5], 5, 5)[: HEAD_SIZE - 1],
    "cut in its list": head_bytes(1, 0, [5, 5], 10, 10)[:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("data", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_a_head_that_cannot_be_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        parse_head(data)


@pytest.mark.parametrize(
    "data",
    [
        head_bytes(1, 1, [1] * CLUMP_BLOCKS_MAX, CLUMP_BLOCKS_MAX, 9),
        head_bytes(1, 0, [CLUMP_RAW_MAX - 1, 1], CLUMP_RAW_MAX, CLUMP_RAW_MAX),
        head_bytes(2, 0, [M], M, M),
        head_bytes(3, 1, [], M, 5),
        head_bytes(5, 0, [], 0, 2**32 - 1),
    ],
    ids=["1024 blocks", "128 KiB", "one block of 1 MiB", "catalog of 1 MiB", "a long gap"],
)
def test_a_head_may_be_as_large_as_the_limits(data: bytes) -> None:
    assert parse_head(data).listed == data
    assert head_length(data[:HEAD_SIZE]) == len(data)


@pytest.mark.parametrize(
    "frame",
    [
        COMPRESSOR.compress(b"a" * 1001),
        COMPRESSOR.compress(b"a" * (64 << 20)),
        zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 1000),
        COMPRESSOR.compress(b"a" * 1000) + b"\0",
        COMPRESSOR.compress(b"a" * 1000)[:-1],
        b"\x50\x2a\x4d\x18\x04\0\0\0skip",
        b"",
    ],
    ids=["longer", "a bomb", "of unsaid length", "with more after it", "cut", "skippable", "none"],
)
def test_a_frame_that_is_not_exactly_the_content_is_corrupt(frame: bytes) -> None:
    head = Head(ClumpKind.DATA, ClumpCodec.ZSTD, 1000, len(frame), bytes(16), [], b"")
    with pytest.raises(Corrupt):
        decompress(head, frame, DECOMPRESSOR)


def test_a_payload_that_is_cut_off_is_corrupt() -> None:
    head = parse_head(clump_bytes(ARENA, OFFSET, b"short"))
    with pytest.raises(Corrupt, match="cut off"):
        decompress(head, b"shor", DECOMPRESSOR)


def test_a_gap_takes_its_length_and_does_not_vouch_for_its_bytes() -> None:
    data = encode_gap(500, arena=ARENA, offset=OFFSET)
    head = parse_head(data)
    assert (head.kind, head.size, len(data)) == (ClumpKind.GAP, 500, HEAD_SIZE)
    verify(head, b"whatever", arena=ARENA, offset=OFFSET)
    with pytest.raises(Corrupt):
        verify(head, b"", arena=ARENA, offset=OFFSET + 1)


def test_a_head_knows_what_stands_where() -> None:
    head = parse_head(SMALL)
    assert head.holds(1, score_of(b"another"))
    assert not head.holds(0, score_of(b"another"))
    assert not head.holds(3, score_of(b"another"))


def test_a_decoded_clump_gives_only_blocks_that_are_what_their_scores_say() -> None:
    head = parse_head(SMALL)
    raw = b"one block" + b"anothex" + b"z" * 200
    clump = DecodedClump(head, raw)
    found = {score: clump.block(score) for score in clump.spans}
    assert found == {score_of(b"one block"): b"one block", score_of(b"z" * 200): b"z" * 200}
    assert clump.cost >= len(raw)
    assert all(view.readonly for view in found.values())
    assert DecodedClump(head, bytearray(raw)).data.readonly


def test_an_open_clump_takes_blocks_up_to_its_limits() -> None:
    clump = OpenClump(ClumpKind.DATA)
    assert clump.fits(CLUMP_RAW_MAX)
    assert not clump.fits(CLUMP_RAW_MAX + 1)
    clump.add(score_of(b"first"), b"first")
    assert clump.fits(CLUMP_RAW_MAX - 5)
    assert not clump.fits(CLUMP_RAW_MAX - 4)
    for number in range(CLUMP_BLOCKS_MAX - 1):
        assert clump.fits(4)
        block = struct.pack(">I", number + 1)
        clump.add(score_of(block), block)
    assert not clump.fits(4)


def test_an_open_clump_copies_what_it_is_given() -> None:
    clump, block = OpenClump(ClumpKind.NODE), bytearray(b"first")
    first, second = score_of(b"first"), score_of(b"second")
    clump.add(first, block)
    block[:] = b"xxxxx"
    clump.add(second, b"second")
    assert bytes(clump.raw()) == b"firstsecond"
    assert clump.blocks() == [(first, 5), (second, 6)]
    assert (clump.block(first), clump.block(second)) == (b"first", b"second")


def test_an_open_clump_starts_again_when_it_is_cleared() -> None:
    clump = OpenClump(ClumpKind.DATA)
    clump.add(score_of(b"long ago"), b"long ago")
    clump.clear()
    assert (clump.blocks(), bytes(clump.raw()), clump.spans) == ([], b"", {})
    clump.add(score_of(b"now"), b"now")
    assert bytes(clump.raw()) == b"now"


def test_checksum_is_blake3_over_place_head_list_and_payload() -> None:
    head = parse_head(SMALL)
    covered = ARENA + struct.pack("<Q", OFFSET) + SMALL[:16] + SMALL[HEAD_SIZE:]
    assert head.check == SMALL[16:HEAD_SIZE] == blake3(covered).digest()[:16]
