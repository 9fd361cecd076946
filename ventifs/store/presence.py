"""Finds blocks that the arenas lack where the index leads; believes no entry of the index.

An entry is confirmed by the head of the clump that it leads to: the head lists the score at the
entry's position, and the clump ends before the arena's clumps do. No payload is read. Places are
visited in the order of arena and offset, so each head is read once per call.
"""

from collections.abc import Callable, Iterable

from ventifs.errors import Corrupt, VentifsError
from ventifs.store.arena import Arena
from ventifs.store.arena_state import Place
from ventifs.store.arenas import Arenas
from ventifs.store.clump import Head
from ventifs.store.score import Score

MISSING = "is not in the store"  # the reason where the index has no entry


def absent(
    arenas: Arenas, locate: Callable[[Score], Place | None], scores: Iterable[Score]
) -> dict[Score, str]:
    """The blocks that are not where the index leads, each with the reason; looks once.

    Uses about 300 bytes of memory for each score.

    Args:
        arenas: the store's.
        locate: where the index has a block.
        scores: of the blocks; in order they are looked up quicker.
    """
    found: dict[Score, str] = {}
    places: list[tuple[bytes, int, int, Score]] = []
    for score in scores:
        place = locate(score)
        if place is None:
            found[score] = MISSING
        else:
            places.append((place.arena, place.offset, place.position, score))
    places.sort()
    reader = _Heads(arenas)
    for arena, offset, position, score in places:
        if problem := reader.problem(arena, offset, position, score):
            found[score] = f"is not where the index leads, arena {arena.hex()} at {offset}: "
            found[score] += problem
    return found


class _Heads:
    """Reads heads in the order of their places; keeps the last one."""

    def __init__(self, arenas: Arenas) -> None:
        self._arenas = arenas
        self._arena_id = b""
        self._arena: Arena | None = None
        self._end = 0  # of the arena's clumps
        self._offset = -1
        self._head: Head | None = None
        self._problem = ""

    def problem(self, arena_id: bytes, offset: int, position: int, score: Score) -> str:
        """Why a block is not at a place; empty if it is there."""
        if arena_id != self._arena_id:
            self._open(arena_id)
        if self._arena is None:
            return self._problem
        if offset != self._offset:
            self._read(self._arena, offset)
        if self._head is None:
            return self._problem
        return "" if self._head.holds(position, score) else "another block is there"

    def _open(self, arena_id: bytes) -> None:
        self._arena_id, self._arena, self._offset = arena_id, None, -1
        try:
            arena = self._arenas.reader(arena_id)
            self._end = arena.clumps_end()
            self._arena = arena
        except VentifsError as error:
            self._problem = _reason(error)

    def _read(self, arena: Arena, offset: int) -> None:
        self._offset, self._head = offset, None
        try:
            head = arena.read_head(offset)
        except VentifsError as error:
            self._problem = _reason(error)
            return
        if offset + head.size > self._end:
            self._problem = "the clump is cut off"
        else:
            self._head = head


def _reason(error: VentifsError) -> str:
    return error.reason if isinstance(error, Corrupt) else str(error)
