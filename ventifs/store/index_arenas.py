"""The index's tables of arenas: their numbers, how far each is indexed, and which are dropped.

Entries of blocks name arenas by numbers. A number is never used again, so an entry whose arena is
gone leads to no other arena: it is a miss. The sealed arenas have a mark, their number and the
exclusive or of their ids, which recovery compares with the directory.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import astuple

from ventifs.store.arena_state import ArenaState, ArenaTotals, SealedMark
from ventifs.store.clump import ARENA_ID_SIZE
from ventifs.store.index_values import Meta, guarded, unguarded
from ventifs.store.journal import COUNTERS, CommitCounters
from ventifs.store.lmdb_environment import IndexDamaged

NUMBER = struct.Struct(">I")
_ARENA = struct.Struct("<16sQIQQQQQQ")
_SEALED = struct.Struct("<Q16s")  # number of sealed arenas, exclusive or of their ids

_NEXT, _SEALED_MARK, _DROP = b"next", b"sealed", b"drop"  # keys in `meta`


class ArenaTables:
    """The rows of arenas. Every method takes the transaction it works in."""

    def __init__(self, path: Path, tables: Mapping[bytes, Any], meta: Meta) -> None:
        """`tables` are LMDB's handles by name."""
        self._path = path
        self._open, self._sealed = tables[b"open"], tables[b"sealed"]
        self._numbers = tables[b"numbers"]
        self._meta = meta

    # --- numbers ------------------------------------------------------------------------------

    def number_of(self, arena: bytes, transaction: Any) -> int:
        """The arena's 32-bit number, assigned now if it has none; never one that was used.

        Raises:
            IndexDamaged: its row is damaged.
        """
        known = self._known_number(arena, transaction)
        if known is not None:
            return known
        number = self.next_number(transaction)
        key = NUMBER.pack(number)
        self._meta.put(_NEXT, NUMBER.pack(number + 1), transaction)
        transaction.put(arena, guarded(arena, key), db=self._numbers)
        self.put_state(number, ArenaState(arena, 0, False, ArenaTotals()), transaction)
        return number

    def _known_number(self, arena: bytes, transaction: Any) -> int | None:
        """The arena's number; None if it has none.

        Raises:
            IndexDamaged: its row is damaged, so the arena would pass for an unknown one.
        """
        stored = transaction.get(arena, db=self._numbers)
        value = unguarded(arena, stored)
        if value is None and stored is not None:
            raise IndexDamaged(self._path, f"has a damaged number of arena {arena.hex()}")
        return None if value is None else int(NUMBER.unpack(value)[0])

    def next_number(self, transaction: Any) -> int:
        """The lowest number above all that were ever assigned.

        Programs older than this mark assign numbers without it, but never remove an arena's row.
        """
        value = self._meta.find(_NEXT, transaction)
        number: int = 0 if value is None else NUMBER.unpack(value)[0]
        for table in (self._open, self._sealed):
            cursor = transaction.cursor(table)
            if cursor.last():
                number = max(number, NUMBER.unpack(cursor.key())[0] + 1)
        return number

    # --- states -------------------------------------------------------------------------------

    def state(self, number: int, transaction: Any) -> ArenaState | None:
        """An arena's state by its number; None without a row, or with a damaged one."""
        key = NUMBER.pack(number)
        for table in (self._sealed, self._open):
            value = unguarded(key, transaction.get(key, db=table))
            if value is not None:
                return _decoded(value, sealed=table is self._sealed)
        return None

    def state_of(self, arena: bytes, transaction: Any) -> ArenaState:
        """An arena's state by its id; of length 0, if the index does not know it.

        Raises:
            IndexDamaged: it has a number, and the row of either is damaged.
        """
        number = self._known_number(arena, transaction)
        if number is None:
            return ArenaState(arena, 0, False, ArenaTotals())
        state = self.state(number, transaction)
        if state is None or state.arena != arena:
            raise IndexDamaged(self._path, f"has a damaged record of arena {arena.hex()}")
        return state

    def states(self, transaction: Any, sealed: bool | None) -> list[ArenaState]:
        """The states of all arenas, or of the sealed or the unsealed ones.

        Raises:
            IndexDamaged: one of them is damaged.
        """
        return list(self.numbered(transaction, sealed).values())

    def numbered(self, transaction: Any, sealed: bool | None = None) -> dict[int, ArenaState]:
        """As `states`, by the arenas' numbers."""
        found = {}
        for table in (self._sealed, self._open):
            if sealed is not None and sealed != (table is self._sealed):
                continue
            for key, stored in transaction.cursor(table):
                value = unguarded(key, stored)
                if value is None or len(value) != _ARENA.size:
                    number = int.from_bytes(key, "big")
                    raise IndexDamaged(self._path, f"has a damaged record of arena number {number}")
                state = _decoded(value, sealed=table is self._sealed)
                found[NUMBER.unpack(key)[0]] = state
        return found

    def put_state(self, number: int, state: ArenaState, transaction: Any) -> None:
        """Store an arena's state."""
        key = NUMBER.pack(number)
        value = _ARENA.pack(state.arena, state.length, *astuple(state.totals))
        mark = self.sealed_mark(transaction)
        table, other = self._open, self._sealed
        if state.sealed:
            table, other = other, table
        was_sealed = transaction.get(key, db=self._sealed) is not None
        transaction.delete(key, db=other)
        transaction.put(key, guarded(key, value), db=table)
        self._put_mark(mark.changed(state.arena, was_sealed, state.sealed), transaction)

    def sealed_mark(self, transaction: Any) -> SealedMark:
        """The mark of the sealed arenas; computed where a program older than it has been at work.

        Raises:
            IndexDamaged: it has to be computed, and a row is damaged.
        """
        mark = self._stored_mark(transaction)
        if mark is not None and mark.count == transaction.stat(self._sealed)["entries"]:
            return mark
        return SealedMark.of(state.arena for state in self.states(transaction, True))

    def _stored_mark(self, transaction: Any) -> SealedMark | None:
        value = self._meta.find(_SEALED_MARK, transaction)
        return None if value is None else SealedMark(*_SEALED.unpack(value))

    def _put_mark(self, mark: SealedMark, transaction: Any) -> None:
        self._meta.put(_SEALED_MARK, _SEALED.pack(mark.count, mark.ids), transaction)

    # --- dropped arenas -----------------------------------------------------------------------

    def drop(self, drops: Mapping[bytes, CommitCounters], transaction: Any) -> None:
        """Remove the rows of arenas, and remember that they are dropped.

        Raises:
            IndexDamaged: a row is damaged; the caller gives the transaction up.
        """
        for arena, counters in drops.items():
            value = COUNTERS.pack(*astuple(counters))
            self._meta.put(_DROP + arena, value, transaction)
            number = self._known_number(arena, transaction)
            if number is None:
                continue
            mark = self.sealed_mark(transaction)
            self._meta.put(_NEXT, NUMBER.pack(self.next_number(transaction)), transaction)
            was_sealed = transaction.delete(NUMBER.pack(number), db=self._sealed)
            transaction.delete(NUMBER.pack(number), db=self._open)
            transaction.delete(arena, db=self._numbers)
            self._put_mark(mark.changed(arena, was_sealed, False), transaction)

    def dropped(self, arena: bytes, transaction: Any) -> bool:
        """Whether an arena is dropped."""
        return self._meta.find(_DROP + arena, transaction) is not None

    def drops(self, transaction: Any) -> dict[bytes, CommitCounters]:
        """All arenas that are dropped, each with the counters of its commits."""
        found = self._meta.below(_DROP, transaction)
        return {arena: CommitCounters(*COUNTERS.unpack(value)) for arena, value in found.items()}

    # --- what contradicts itself ----------------------------------------------------------------

    def contradictions(self, transaction: Any) -> list[tuple[bytes, str]]:
        """What is wrong between the tables: an arena's id, or nothing, and the reason.

        Raises:
            IndexDamaged: a row of `open`, `sealed` or of the drops is damaged.
        """
        found: list[tuple[bytes, str]] = []
        numbers: dict[bytes, int] = {}
        for key, stored in transaction.cursor(self._numbers):
            arena, value = bytes(key), unguarded(key, stored)
            if value is None:
                found.append((arena, "its number is damaged"))
            else:
                (numbers[arena],) = NUMBER.unpack(value)
        damaged, drops = {arena for arena, _ in found}, self.drops(transaction)
        for table in (self._open, self._sealed):
            for key, stored in transaction.cursor(table):
                arena = bytes(stored[:ARENA_ID_SIZE])
                if numbers.pop(arena, None) != NUMBER.unpack(key)[0] and arena not in damaged:
                    found.append((arena, "it has a record that its number does not lead to"))
                if arena in drops:
                    found.append((arena, "it has a record, but it was dropped"))
        found += [(arena, "its number leads to no record") for arena in numbers]
        mark = self._stored_mark(transaction)
        right = SealedMark.of(state.arena for state in self.states(transaction, True))
        if mark is not None and mark.count == right.count and mark != right:
            found.append((b"", "its mark of the sealed arenas is of others"))
        return found

    def up_to_date(self, transaction: Any) -> bool:
        """Whether the marks that indexes of older programs lack are there."""
        marks = (self._meta.find(key, transaction) for key in (_NEXT, _SEALED_MARK))
        return None not in marks and self.sealed_mark(transaction) == self._stored_mark(transaction)

    def bring_up_to_date(self, transaction: Any) -> None:
        """Store the marks that indexes of older programs lack."""
        self._put_mark(self.sealed_mark(transaction), transaction)
        self._meta.put(_NEXT, NUMBER.pack(self.next_number(transaction)), transaction)


def _decoded(value: bytes, *, sealed: bool) -> ArenaState:
    arena, length, *totals = _ARENA.unpack(value)
    return ArenaState(arena, length, sealed, ArenaTotals(*totals))
