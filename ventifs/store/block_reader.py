"""Reads committed blocks, while others write, rebuild the index or drop arenas.

A block is looked up, its clump read from its arena, and its bytes are hashed. Where that fails, the
arena may have been dropped meanwhile and the block be elsewhere, or the index been replaced. So it
is looked up again, twice, before anything counts as damaged.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import RLock, local
from typing import TypeVar

import zstandard

from ventifs.errors import Corrupt, NotStored
from ventifs.store.arena_state import Place
from ventifs.store.arenas import Arenas
from ventifs.store.cache import ClumpCache
from ventifs.store.clump import ClumpKind, DecodedClump, decompress, verify
from ventifs.store.index import Index
from ventifs.store.keyed_locks import KeyedLocks
from ventifs.store.lmdb_environment import IndexDamaged, file_of
from ventifs.store.presence import absent
from ventifs.store.score import ZERO_SCORE, Score
from ventifs.store.stats import Sizes, sizes_by_part, sizes_of

Measured = TypeVar("Measured")

_LOOKS = 3  # the first, and two more


class ReclaimedMeanwhile(NotStored):
    """A block's arena was dropped while the block was read: no version refers to it any more."""


class BlockReader:
    """The reading side of an open store.

    Concurrency: every method may be called from any thread.

    Attributes:
        index: the one in place when it was last looked at.
        cache: decoded clumps.
    """

    def __init__(self, path: Path, store_id: bytes, arenas: Arenas, cache_bytes: int) -> None:
        """Open the index of the store at `path`."""
        self.cache = ClumpCache(cache_bytes)
        self._path = path / "index"
        self._store_id = store_id
        self._arenas = arenas
        self._turns = KeyedLocks()
        self._lock = RLock()
        self._local = local()
        self._opened = ExitStack()
        self._shunned: frozenset[bytes] = frozenset()
        self.index = self._open()

    def _open(self) -> Index:
        index = Index(self._path, self._store_id)
        self._opened.callback(index.close)  # later: other threads may be using it
        index.shunned = self._shunned
        return index

    def shun(self, arenas: frozenset[bytes]) -> None:
        """Take the blocks of some arenas for unknown, but read them; see `Index.shunned`."""
        with self._lock:
            self._shunned = self.index.shunned = arenas

    def close(self) -> None:
        """Release every index that was opened."""
        self._opened.close()

    def follow_rebuild(self) -> bool:
        """If a rebuild has replaced the index, open the new one; return whether it did."""
        with self._lock:
            while self.index.replaced():
                found = file_of(self._path)
                try:
                    self.index = self._open()
                except IndexDamaged:
                    if found is not None and found == file_of(self._path):
                        raise
                    continue  # the next rebuild has moved it away already
                return True
            return False

    def locate(self, score: Score) -> Place | None:
        """Where a block is; None if the store lacks it."""
        place = self.index.locate(score)
        if place is None and self.follow_rebuild():
            place = self.index.locate(score)
        return place

    def known_many(self, scores: Sequence[Score]) -> list[bool]:
        """Whether the index has each block."""
        known = self.index.known_many(scores)
        if not all(known) and self.follow_rebuild():
            known = self.index.known_many(scores)
        return known

    def locate_many(self, scores: Sequence[Score]) -> list[Place | None]:
        """Where each block is; None for those that the store lacks."""
        places = self.index.locate_many(scores)
        if None in places and self.follow_rebuild():
            places = self.index.locate_many(scores)
        return places

    def read(self, score: Score, place: Place | None) -> memoryview:
        """A block, at a place or, with None, where the index has it.

        Raises:
            NotStored: the store has no such block.
            ReclaimedMeanwhile: it had, when this began.
            Corrupt: its bytes are damaged.
            IndexDamaged: the index contradicts the arenas.
        """
        place = place or self.locate(score)
        if place is None:
            raise NotStored(f"block {score.hex()} is not in the store")
        for _ in range(_LOOKS - 1):
            try:
                return self._read_in_turn(score, place)
            except (Corrupt, IndexDamaged):
                place = self._look_again(score, place)
        try:
            return self._read_in_turn(score, place)
        except Corrupt as error:
            if self.index.dropped(place.arena):
                raise ReclaimedMeanwhile(
                    f"block {score.hex()} was reclaimed while it was read: no version refers to it"
                ) from error
            raise

    def _look_again(self, score: Score, place: Place) -> Place:
        """Where a block is now; `place`, if it is nowhere."""
        self._arenas.forget_reader(place.arena)
        self.index.look_again()
        self.follow_rebuild()
        return self.index.locate(score) or place

    def _read_in_turn(self, score: Score, place: Place) -> memoryview:
        with self._turns.of((place.arena, place.offset)):
            block = self.cache.get(score)  # another thread may have read the clump meanwhile
            return self._read_at(place, score) if block is None else block

    def _read_at(self, place: Place, score: Score) -> memoryview:
        arena = self._arenas.reader(place.arena)
        try:
            head = arena.read_head(place.offset)
            payload = b"" if head.kind is ClumpKind.GAP else arena.read_payload(place.offset, head)
            if not head.holds(place.position, score):
                verify(head, payload, arena=arena.id, offset=place.offset)
                raise IndexDamaged(self._path, f"has block {score.hex()} wrong")
            clump = DecodedClump(head, decompress(head, payload, self._decompressor()))
            if score not in clump.spans:
                raise Corrupt("bytes do not match their score")
        except Corrupt as error:
            raise Corrupt(
                error.reason, score=score, arena=arena.id.hex(), offset=place.offset
            ) from None
        self.cache.add(clump)
        return clump.block(score)

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        try:
            decompressor: zstandard.ZstdDecompressor = self._local.decompressor
        except AttributeError:
            decompressor = self._local.decompressor = zstandard.ZstdDecompressor()
        return decompressor

    def absent(self, scores: Iterable[Score]) -> dict[Score, str]:
        """The blocks that are not where the index leads; see `Store.absent`."""
        found = absent(self._arenas, self.locate, sorted(scores))
        for _ in range(_LOOKS - 1):
            if not found:
                break
            self._arenas.close()
            self.index.look_again()
            self.follow_rebuild()
            found = absent(self._arenas, self.locate, sorted(found))
        return found

    def sizes(self, scores: Iterable[Score]) -> Sizes:
        """The space that blocks take; see `Store.sizes`."""
        wanted = sorted(set(scores) - {ZERO_SCORE})  # look-ups in order are cheaper
        return self._looking_again(lambda: sizes_of(self._arenas, self._places(wanted)))

    def sizes_by_part(self, part_of: Callable[[Score], int]) -> dict[int, tuple[int, Sizes]]:
        """The space that all blocks take, in parts; see `Store.sizes_by_part`."""
        self.follow_rebuild()

        def measure() -> dict[int, tuple[int, Sizes]]:
            entries = self.index.entries()
            places = ((part_of(score), place) for score, place in entries if place is not None)
            return sizes_by_part(self._arenas, places)

        return self._looking_again(measure)

    def _looking_again(self, measure: Callable[[], Measured]) -> Measured:
        for _ in range(_LOOKS - 1):
            try:
                return measure()
            except Corrupt:
                self._arenas.close()
                self.index.look_again()
                self.follow_rebuild()
        return measure()

    def _places(self, scores: Iterable[Score]) -> Iterator[Place]:
        for score in scores:
            place = self.locate(score)
            if place is None:
                raise NotStored(f"block {score.hex()} is not in the store")
            yield place
