"""Clumps made by somebody who knows the format: refused, and at no cost in memory.

Each is put where the index expects a good one, with a checksum that holds, so that nothing but the
limits stands between it and the reader.
"""

import logging
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from tests.support.damage import overwrite
from tests.support.tiny import audited, tiny_store
from ventifs.errors import Corrupt
from ventifs.store import Score, Store, score_of
from ventifs.store.arena import HEADER_SIZE
from ventifs.store.check import repair
from ventifs.store.lmdb_environment import IndexDamaged

BLOCK = os.urandom(199_999) + b"."
SCORE = score_of(BLOCK)
MEMORY_MAX = 8 << 20
LIE = 2**32 - 1
GAP = "a gap of 4 GiB"


def clump(
    kind: int, codec: int, lengths: list[int], raw: int, payload: bytes, size: int | None = None
) -> Callable[[bytes], bytes]:
    """What makes a clump at the first place of an arena, its checksum right."""

    def made(arena: bytes) -> bytes:
        fixed = struct.pack(
            "<4sBBHII",
            b"vfC\x01",
            kind,
            codec,
            len(lengths),
            raw,
            len(payload) if size is None else size,
        )
        listing = b"".join(SCORE + struct.pack("<I", length) for length in lengths)
        covered = b"" if kind == 5 else payload
        place = struct.pack("<16sQ", arena, HEADER_SIZE)
        check = blake3(place + fixed + listing + covered).digest(16)
        return fixed + check + listing + payload

    return made


def frame(claimed: int) -> bytes:
    """A zstd frame that claims to hold another number of bytes than it does."""
    honest = zstandard.ZstdCompressor().compress(bytes(300))
    return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", claimed) + honest[-20:]


BOMB = zstandard.ZstdCompressor(level=19).compress(bytes(256 << 20))
HOSTILE = {
    "a raw length of 4 GiB": clump(1, 1, [LIE], LIE, b"x" * 100),
    "a payload of 4 GiB": clump(1, 1, [200_000], 200_000, b"x" * 100, LIE),
    "a raw payload of 4 GiB": clump(1, 0, [LIE], LIE, b"x" * 100, LIE),
    "lengths that overflow": clump(1, 0, [LIE, 101], 100, b"x" * 100),
    "lengths that add up to 4 GiB": clump(1, 1, [1 << 22] * 1024, 0, b"x" * 100),
    "more blocks than bytes": clump(1, 1, [1] * 1024, 1025, b"x" * 100),
    "a frame that claims a terabyte": clump(1, 1, [200_000], 200_000, frame(1 << 40)),
    "a frame that claims the raw length": clump(1, 1, [200_000], 200_000, frame(200_000)),
    "a frame that holds 256 MiB": clump(1, 1, [200_000], 200_000, BOMB),
    "a catalog of 4 GiB": clump(3, 1, [], LIE, b"x" * 100),
    "a commit of 4 GiB": clump(4, 0, [], LIE, b"x" * 100, LIE),
    GAP: clump(5, 0, [], 0, b"x" * 100, LIE),
    "a block that is not the one listed": clump(1, 0, [100], 100, b"x" * 100),
    "no block at all": clump(1, 0, [], 0, b""),
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one block in a clump of its own, and one after it."""
    root = tiny_store(tmp_path / "store")
    with Store.open(root, "write") as store:
        assert store.put(BLOCK) == (SCORE, True)
        store.commit([(b"key", b"value")])
    return root


def arena_of(root: Path) -> Path:
    [path] = (root / "arenas" / "open").glob("*.arena")
    return path


def memory(work: Callable[[], object]) -> int:
    """The most that something took at a time, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def with_hostile(store: Path, what: str) -> Path:
    """The store, with a hostile clump in the place of the first."""
    path = arena_of(store)
    overwrite(path, HEADER_SIZE, HOSTILE[what](bytes.fromhex(path.stem)))
    return store


def refused(root: Path, score: Score) -> Corrupt:
    with Store.open(root) as store, pytest.raises(Corrupt) as caught:
        store.get(score)
    return caught.value


@pytest.mark.parametrize("what", [what for what in HOSTILE if what != GAP])
def test_get_refuses_it_and_names_the_place(store: Path, what: str) -> None:
    hostile = with_hostile(store, what)
    error: list[Corrupt] = []
    assert memory(lambda: error.append(refused(hostile, SCORE))) < MEMORY_MAX
    assert error[0].score == SCORE
    assert error[0].arena == arena_of(hostile).stem
    assert error[0].offset == HEADER_SIZE


def test_a_gap_where_the_index_has_a_block_is_not_read(store: Path) -> None:
    """That it stands there is the index's fault, as far as anyone can tell: its checksum holds."""
    with Store.open(with_hostile(store, GAP)) as opened:

        def get() -> None:
            with pytest.raises(IndexDamaged):
                opened.get(SCORE)

        assert memory(get) < MEMORY_MAX


@pytest.mark.parametrize("what", HOSTILE)
def test_check_finds_it(store: Path, what: str) -> None:
    hostile = with_hostile(store, what)
    found: list[str | None] = []
    work = lambda: found.extend(f.arena for f in audited(hostile).findings)  # noqa: E731
    assert memory(work) < MEMORY_MAX
    assert arena_of(hostile).stem in found


@pytest.mark.parametrize("what", HOSTILE)
def test_a_rebuild_makes_nothing_of_it(
    store: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    hostile = with_hostile(store, what)
    caplog.set_level(logging.CRITICAL)
    (hostile / "index" / "data.mdb").unlink()
    assert memory(lambda: Store.open(hostile, "write").close()) < MEMORY_MAX
    with Store.open(hostile, "write") as opened:
        assert [record.key for record in opened.records()] == [b"key"]
        if opened.has(SCORE):  # its checksum holds, so that only its hash can tell
            with pytest.raises(Corrupt):
                opened.get(SCORE)


def test_what_is_forged_with_a_good_checksum_is_healed_by_repair(store: Path) -> None:
    """Not chance but somebody did this: the checksum holds, the hash does not."""
    forged = with_hostile(store, "a block that is not the one listed")
    done = repair(forged, audited(forged))
    assert done.lost == [SCORE.hex()]
    with Store.open(store, "write") as opened:
        assert opened.put(BLOCK) == (SCORE, True)
        opened.commit()
        assert bytes(opened.get(SCORE)) == BLOCK
