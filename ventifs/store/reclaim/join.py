"""Finds what lives where: a bit for each block of each arena, from live scores and the index.

The live scores come sorted, and so do the entries of the index: one pass over both finds where the
live blocks are. A block lives only where the index points; a second copy of it is dead. The places
are sorted by arena then, and each arena's directory turns them into bits.

Memory: a bit for each block of arenas in which something lives, and what the spills take.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from struct import Struct
from zlib import crc32

import msgspec

from ventifs.errors import Corrupt, NoSpace, NotStored, VentifsError
from ventifs.store.appender import in_use
from ventifs.store.arena import HEADER_SIZE, Arena
from ventifs.store.arena_state import ArenaState
from ventifs.store.arenas import Arenas
from ventifs.store.clump import ClumpKind, Head, Outline, outline
from ventifs.store.index import Index
from ventifs.store.index_values import CRC_RESIDUE
from ventifs.store.reclaim.spent import spent
from ventifs.store.score import SCORE_SIZE, Score
from ventifs.store.spill import Spill

_PLACE = Struct("<IIH")  # as in the index: arena number, clump offset, position in the clump
_NUMBER_SIZE = 4
_LOOKED_UP = 4096  # scores at a time
_LEFTOVERS_MAX = 100_000  # gathered before they are removed
_DIGITS = bytes.maketrans(b"\0\1", b"01")
IN_USE = "others write to it"
YOUNG = "it was written lately, and others write to the store"


class ArenaUse(msgspec.Struct):
    """How much of an arena lives.

    Attributes:
        arena: its id.
        sealed: whether it is sealed and wholly indexed.
        length: bytes up to which it is indexed.
        file_bytes: bytes of its file, directory and trailer included.
        blocks, live_blocks: blocks in it, and those that live here.
        live_bytes, dead_bytes: bytes of its clumps, divided by the raw bytes of their blocks.
            Gaps count as dead; clumps of the journal as neither, but as dead beside dead blocks
            if nothing lives here, and alone if the arena is spent.
        live: a bit for each block in order, the first one highest; empty if nothing lives here.
        problem: why it cannot be reclaimed; empty if it can.
        gone: whether it has been freed.
    """

    arena: bytes
    sealed: bool
    length: int
    file_bytes: int
    blocks: int
    live_blocks: int = 0
    live_bytes: int = 0
    dead_bytes: int = 0
    live: bytes = b""
    problem: str = ""
    gone: bool = False

    @property
    def damaged(self) -> bool:
        """Whether it cannot be reclaimed because of damage."""
        return self.problem not in ("", IN_USE, YOUNG)

    def flags(self) -> bytes:
        """For each block in order b"1" if it lives here, else b"0"."""
        if not self.live:
            return b"0" * self.blocks
        # A number in binary is the fastest way from bits to bytes.
        return format(int.from_bytes(self.live), f"0{8 * len(self.live)}b").encode()[: self.blocks]


class ArenaUses:
    """The use of all arenas that can be reclaimed, as of the moment it is made.

    Those are the sealed ones, and of the open ones those that no process writes to and that are
    wholly indexed. Others may write to the store meanwhile: what they add is in other arenas.
    """

    def __init__(self, index: Index, arenas: Arenas) -> None:
        """Look at the arenas there are."""
        self.blocks = 0  # entries met
        self.listed = index.entry_count()
        self._index = index
        self._arenas = arenas
        self._states = index.numbered_states()
        self._rows = {number.to_bytes(_NUMBER_SIZE, "little") for number in self._states}
        self._uses = {number: self._unused(state) for number, state in self._states.items()}
        self._numbers = {state.arena: number for number, state in self._states.items()}
        for arena in spent(arenas, index, self._states.values()):
            use = self._uses[self._numbers[arena]]
            use.dead_bytes = use.file_bytes
        self._leftovers: list[Score] = []
        self.leftovers = 0  # entries that led to arenas dropped before, and were removed

    def pass_over(self, oldest_ns: int) -> None:
        """Leave out arenas that were written later than a time: it may be what is written now."""
        for use in self._uses.values():
            if not use.problem:
                with suppress(OSError, VentifsError):
                    status = os.fstat(self._arenas.reader(use.arena).fd)
                    if status.st_mtime_ns > oldest_ns:
                        use.problem = YOUNG

    def all(self) -> list[ArenaUse]:
        """The use of every arena, the oldest first, by its number."""
        return [self._uses[number] for number in sorted(self._uses)]

    def _unused(self, state: ArenaState) -> ArenaUse:
        """An arena in which nothing lives, as far as is known."""
        totals = state.totals
        blocks = totals.data_blocks + totals.node_blocks
        use = ArenaUse(
            state.arena,
            state.sealed,
            state.length,
            file_bytes=state.length,
            blocks=blocks,
            dead_bytes=totals.stored_bytes if blocks or totals.gap_bytes else 0,
        )
        try:
            arena = self._arenas.reader(state.arena)
            use.file_bytes = arena.length()
        except VentifsError as error:
            use.problem = str(error)
            return use
        if not state.sealed and (arena.length() != state.length or in_use(arena)):
            use.problem = IN_USE
        return use

    def add(
        self,
        live: Spill,
        *,
        first: int = 0,
        end: int = 256,
        remove_leftovers: bool = False,
        memory: int = 64 << 20,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        """Take in live scores, all those whose first byte is from `first` to `end` - 1.

        Args:
            live: of 32-byte scores.
            first: the lowest first byte.
            end: the highest one, plus one.
            remove_leftovers: whether entries are removed that lead to arenas dropped before.
            memory: bytes that the places of live blocks may take.
            pause: called often, with no lock held and no transaction open.

        Raises:
            NotStored: the index lacks a live block, or its entry is damaged.
            NoSpace: there is no room for temporary files.
        """
        with Spill(_PLACE.size, memory=memory) as places:
            start = bytes([first]) + bytes(SCORE_SIZE - 1)
            for wanted, following in _with_following(live.pieces(), end):
                places.add(self._places(start, following, wanted, remove=remove_leftovers))
                start = following or b""
                pause()
            if remove_leftovers:
                self._remove_leftovers()
            self._take_places(places)

    def _places(
        self, start: bytes, following: bytes | None, wanted: list[bytes], *, remove: bool
    ) -> list[bytes]:
        """The places of live blocks, of all whose scores are from `start` to below `following`."""
        alive, rows = set(wanted), self._rows
        found: list[bytes] = []
        met: list[bytes] = []
        for entries in self._entries(start, following):
            # Of an entry that is damaged, or in an arena that was made since, the block is missed.
            sound = [
                (key, value)
                for key, value in entries
                if key in alive
                and value[:_NUMBER_SIZE] in rows
                and crc32(value, crc32(key)) == CRC_RESIDUE
            ]
            found += [value[: _PLACE.size] for _, value in sound]
            met += [key for key, _ in sound]
            if remove and not {value[:_NUMBER_SIZE] for _, value in entries} <= rows:
                self._leftovers += [
                    Score(key)
                    for key, value in entries
                    if value[:_NUMBER_SIZE] not in rows and key not in alive
                ]
                if len(self._leftovers) >= _LEFTOVERS_MAX:
                    self._remove_leftovers()
        if met == wanted:  # nearly always, and cheaper to see than what is missed
            return found
        return [*found, *self._places_missed(sorted(alive.difference(met)))]

    def _entries(
        self, start: bytes, following: bytes | None
    ) -> Iterator[list[tuple[bytes, bytes]]]:
        key: bytes | None = start
        while key is not None and (following is None or key < following):
            entries, key = self._index.stored_entries(key)
            if following is not None and entries and entries[-1][0] >= following:
                entries = [entry for entry in entries if entry[0] < following]
                key = None
            self.blocks += len(entries)
            yield entries

    def _places_missed(self, missed: list[bytes]) -> list[bytes]:
        """The places of live blocks, each looked up, as of now.

        What a writer stores a second time meanwhile leads to another arena, which may be new: it
        lives there, and in none of these.

        Raises:
            NotStored: the index has no sound entry for one.
        """
        found = []
        for start in range(0, len(missed), _LOOKED_UP):
            scores = [Score(score) for score in missed[start : start + _LOOKED_UP]]
            for score, place in zip(scores, self._index.locate_many(scores), strict=True):
                if place is None:
                    raise NotStored(
                        f"block {score.hex()} is needed and the index lacks it; "
                        "'ventifs check' lists the versions that need it, and says how to mend "
                        "them: forget those that cannot be mended"
                    )
                number = self._numbers.get(place.arena)
                if number is not None:
                    found.append(_PLACE.pack(number, place.offset, place.position))
        return found

    def _remove_leftovers(self) -> None:
        with suppress(NoSpace):  # the next reclaim finds them again
            self.leftovers += self._index.remove_leftovers(self._leftovers)
        self._leftovers = []

    def _take_places(self, places: Spill) -> None:
        for number, group in groupby(_places_in(places), key=itemgetter(0)):
            use = self._uses.get(number)
            if use is not None:
                self._take(use, group)

    def _take(self, use: ArenaUse, places: Iterable[tuple[int, int, int]]) -> None:
        """Count the live blocks of an arena, given by arena number, clump offset and position."""
        wanted: defaultdict[int, list[int]] = defaultdict(list)
        for _, offset, position in places:
            wanted[offset].append(position)
        for offset in [offset for offset in wanted if offset >= use.length]:
            use.problem = use.problem or IN_USE  # written since
            del wanted[offset]
        if not wanted:
            return
        try:
            _count(use, outlines_of(self._arenas.reader(use.arena), use), wanted)
        except VentifsError as error:
            use.problem = use.problem or str(error)


def heads_of(arena: Arena, use: ArenaUse) -> Iterator[tuple[int, Head]]:
    """(offset, head) of an arena's clumps, in order.

    Raises:
        Corrupt: its directory, or a head, is damaged.
    """
    trailer = arena.trailer() if use.sealed else None
    if trailer is not None:
        return arena.directory(trailer)
    return arena.heads(HEADER_SIZE, use.length)


def outlines_of(arena: Arena, use: ArenaUse) -> Iterator[tuple[int, Outline]]:
    """(offset, outline) of an arena's clumps, in order.

    Raises:
        Corrupt: its directory, or a head, is damaged.
    """
    trailer = arena.trailer() if use.sealed else None
    if trailer is not None:
        return arena.outlines(trailer)
    return ((offset, outline(head.listed)) for offset, head in arena.heads(HEADER_SIZE, use.length))


def _count(
    use: ArenaUse, clumps: Iterable[tuple[int, Outline]], wanted: dict[int, list[int]]
) -> None:
    """Set the bits of live blocks, by clump offset, and add to the figures of their arena."""
    flags = bytearray()
    live_bytes = dead_bytes = live_blocks = 0
    for offset, clump in clumps:
        count, size = clump.count, clump.size
        positions = wanted.pop(offset, ())
        if not positions:
            flags += bytes(count)
            dead_bytes += size if count or clump.kind == ClumpKind.GAP else 0
            continue
        if max(positions) >= count:
            raise Corrupt(f"a clump lacks block {max(positions)}", arena=use.arena.hex())
        share = size
        if len(positions) == count:
            flags += b"\1" * count
        else:
            bits = bytearray(count)
            for position in positions:
                bits[position] = 1
            flags += bits
            share = size * clump.length_of(positions) // max(clump.raw_length, 1)
        live_blocks += len(positions)
        live_bytes += share
        dead_bytes += size - share
    if wanted:
        raise Corrupt(f"no clump begins at {min(wanted)}", arena=use.arena.hex())
    before = int.from_bytes(use.live)  # of other passes
    use.dead_bytes = use.dead_bytes - live_bytes if use.live else dead_bytes
    use.blocks = len(flags)
    use.live_blocks += live_blocks
    use.live_bytes += live_bytes
    flags += bytes(-len(flags) % 8)
    use.live = (before | int(flags.translate(_DIGITS), 2)).to_bytes(len(flags) // 8)


def _with_following(
    pieces: Iterable[list[bytes]], end: int
) -> Iterator[tuple[list[bytes], bytes | None]]:
    """Pieces, each with the lowest score that belongs to the next one; the last with the end."""
    before: list[bytes] = []
    for piece in pieces:
        if before:
            yield before, piece[0]
        before = piece
    yield before, bytes([end]) + bytes(SCORE_SIZE - 1) if end < 256 else None


def _places_in(places: Spill) -> Iterator[tuple[int, int, int]]:
    for piece in places.pieces():
        yield from _PLACE.iter_unpack(b"".join(piece))
