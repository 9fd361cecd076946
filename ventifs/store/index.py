"""The index: LMDB tables from scores to places, and the catalog.

The index is a rebuildable hint, never trusted. LMDB's pages carry no checksums, so every value,
except the empty ones of `deleted`, carries one over its key and itself: a damaged entry is a miss,
never a false hit. The store verifies every block it returns by its hash, not by the index. A
damaged page can have two more effects: an entry can vanish (for blocks, a miss), and LMDB itself
can crash. So the catalog carries a digest over all its records, and `check` reads the index in a
child process.

FORMAT.md, section Index, lists the tables.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
from msgspec.structs import astuple

from ventifs.store.arena_state import ArenaState, ArenaTotals, Place
from ventifs.store.journal import (
    COUNTERS,
    DIGEST_SIZE,
    RECORD_ID_SIZE,
    Changes,
    CommitCounters,
    Record,
)
from ventifs.store.lmdb_environment import Environment, IndexDamaged, LmdbError, lmdb_errors
from ventifs.store.score import Score

INDEX_FORMAT = 1
BATCH_ENTRIES = 32_000  # of one LMDB transaction: bounds its dirty pages at about 128 MiB
_WALK_ENTRIES = 4096  # read in one transaction of a walk over all entries

_TABLES = (b"blocks", b"open", b"sealed", b"numbers", b"catalog", b"deleted", b"meta")

_ENTRY = struct.Struct("<IIH")  # arena number, clump offset, position in the clump
_NUMBER = struct.Struct(">I")
_CRC = struct.Struct("<I")
_CRC_RESIDUE = 0x2144DF1C  # crc32 of any bytes followed by their own crc32, little-endian
_ARENA = struct.Struct("<16sQIQQQQQQ")
_CATALOG = struct.Struct("<Q16s")  # number of records, XOR of their digests


class IndexSnapshot(msgspec.Struct, frozen=True):
    """What the index knew at one moment; `deleted` are the ids of all records ever deleted."""

    states: list[ArenaState] = msgspec.field(default_factory=list)
    records: list[Record] = msgspec.field(default_factory=list)
    deleted: set[bytes] = msgspec.field(default_factory=set)


class Figures(msgspec.Struct, frozen=True):
    """What the index counted at one moment: arenas, all that was put, and entries of blocks."""

    states: list[ArenaState]
    counters: CommitCounters
    entries: int
    records: int


Entries = Iterable[tuple[Score, int, int]]  # score, clump offset, position


def _sealed_value(key: bytes, value: bytes) -> bytes:
    return value + _CRC.pack(crc32(value, crc32(key)))


def _opened_value(key: bytes, value: bytes | None) -> bytes | None:
    """The value without its check, or None when it is absent or damaged."""
    if value is None or crc32(value, crc32(key)) != _CRC_RESIDUE:
        return None
    return value[:-4]


class Index:
    """The tables of one store.

    Concurrency: look-ups from any thread and any number of processes, also while one process
    writes. Write transactions are serialized, also across processes.
    """

    def __init__(self, path: Path, store_id: bytes, *, create: bool = False, sync: bool = True):
        """Open the index in the directory `path`, or create it with `create`.

        Raises:
            IndexMissing: when there is none.
            IndexDamaged: when it cannot be read or belongs to another store.
        """
        self.path = path
        self._arenas: dict[int, bytes] = {}
        environment = Environment.acquire(path, _TABLES, sync=sync, create=create)
        self._environment = environment
        self._begin: Callable[..., Any] = environment.lmdb.begin
        self._tables = environment.tables
        self._blocks = environment.tables[b"blocks"]
        try:
            if create:
                self._initialise(store_id)
            self._check_meta(store_id)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the environment."""
        self._environment.release()

    def replaced(self) -> bool:
        """Whether a rebuild has put another index in this one's place."""
        return self._environment.replaced(self.path)

    def _initialise(self, store_id: bytes) -> None:
        with lmdb_errors(self.path), self._begin(write=True) as transaction:
            meta = self._tables[b"meta"]
            for key, value in (
                (b"format", _NUMBER.pack(INDEX_FORMAT)),
                (b"store", store_id),
                (b"epoch", os.urandom(8)),
                (b"counters", COUNTERS.pack(*astuple(CommitCounters()))),
                (b"catalog", _CATALOG.pack(0, bytes(DIGEST_SIZE))),
            ):
                transaction.put(key, _sealed_value(key, value), db=meta)

    def _check_meta(self, store_id: bytes) -> None:
        if self._meta(b"format") != _NUMBER.pack(INDEX_FORMAT):
            raise IndexDamaged(self.path, "is of another format")
        if self._meta(b"store") != store_id:
            raise IndexDamaged(self.path, "belongs to another store")

    def _meta(self, key: bytes, transaction: Any = None) -> bytes:
        with lmdb_errors(self.path):
            if transaction is None:
                with self._begin() as reading:
                    value = reading.get(key, db=self._tables[b"meta"])
            else:
                value = transaction.get(key, db=self._tables[b"meta"])
        opened = _opened_value(key, value)
        if opened is None:
            raise IndexDamaged(self.path, f"lacks its {key.decode()}")
        return opened

    @property
    def epoch(self) -> bytes:
        """8 random bytes that change whenever blocks may have left the index."""
        return self._meta(b"epoch")

    @property
    def catalog_mark(self) -> bytes:
        """A value that is equal for equal sets of records and different for different ones."""
        return self._meta(b"catalog")

    # --- blocks -----------------------------------------------------------------------------

    def known(self, score: Score) -> bool:
        """Whether the index has an undamaged entry for a block.

        The hot path of a put: one transaction, one look-up, one CRC; see docs/performance.md.
        """
        try:
            transaction = self._begin(self._blocks)  # not by `with`, which costs more
            value = transaction.get(score)
            transaction.abort()
        except LmdbError:
            with lmdb_errors(self.path):
                raise
        return value is not None and crc32(value, crc32(score)) == _CRC_RESIDUE

    def known_many(self, scores: Sequence[Score]) -> list[bool]:
        """`known` for each score, in sorted order, which is cheaper; see docs/performance.md."""
        found = {}
        with lmdb_errors(self.path), self._begin(self._blocks) as transaction:
            for score in sorted(set(scores)):
                found[score] = _opened_value(score, transaction.get(score)) is not None
        return [found[score] for score in scores]

    def locate(self, score: Score) -> Place | None:
        """Where a block is, or None when it is absent (or its entry damaged)."""
        with lmdb_errors(self.path), self._begin(self._blocks) as transaction:
            value = _opened_value(score, transaction.get(score))
            if value is None or len(value) != _ENTRY.size:
                return None
            number, offset, position = _ENTRY.unpack(value)
            arena = self._arena_of(number, transaction)
        return None if arena is None else Place(arena, offset, position)

    def _arena_of(self, number: int, transaction: Any) -> bytes | None:
        arena = self._arenas.get(number)
        if arena is None:
            state = self._state(number, transaction)
            if state is None:
                return None
            arena = self._arenas[number] = state.arena
        return arena

    def entries(self) -> Iterator[tuple[Score, Place | None]]:
        """Every entry in order of score; a damaged one has None as its place.

        Each transaction reads some entries as of its own moment. No transaction is open while the
        caller works on them, because LMDB cannot reuse pages that a reader may see.
        """
        start: bytes | None = b""
        while start is not None:
            some, following = self._entries_from(start)
            yield from some
            # Keys of damaged pages may be out of order: never go back.
            start = following if following is not None and following > start else None

    def _entries_from(self, start: bytes) -> tuple[list[tuple[Score, Place | None]], bytes | None]:
        """The next entries from the key `start` on, and the key after them, if there is one."""
        some: list[tuple[Score, Place | None]] = []
        with lmdb_errors(self.path), self._begin(self._blocks) as transaction:
            cursor = transaction.cursor()
            if not cursor.set_range(start):
                return some, None
            for key, value in cursor:
                if len(some) == _WALK_ENTRIES:
                    return some, bytes(key)
                some.append((Score(key), self._place_of(key, value, transaction)))
        return some, None

    def _place_of(self, key: bytes, value: bytes, transaction: Any) -> Place | None:
        opened = _opened_value(key, value)
        if opened is None or len(key) != 32 or len(opened) != _ENTRY.size:
            return None
        number, offset, position = _ENTRY.unpack(opened)
        arena = self._arena_of(number, transaction)
        return None if arena is None else Place(arena, offset, position)

    def entry_count(self) -> int:
        """How many blocks the index lists."""
        with lmdb_errors(self.path), self._begin() as transaction:
            return self._entry_count(transaction)

    def _entry_count(self, transaction: Any) -> int:
        count: int = transaction.stat(self._blocks)["entries"]
        return count

    def entries_counted(self) -> tuple[int, int]:
        """How many blocks the index lists by its own count, and how many of them can be reached.

        Both are as of one moment, so they differ only in a damaged index. Reads only keys.
        """
        with lmdb_errors(self.path), self._begin(self._blocks) as transaction:
            reached = sum(1 for _ in transaction.cursor().iternext(keys=True, values=False))
            return self._entry_count(transaction), reached

    def add_blocks(self, arena: bytes, entries: Entries) -> None:
        """Add entries of one arena, sorted, in transactions of at most `BATCH_ENTRIES`.

        The arena must be durable up to the last of them. Idempotent: repeat an interrupted call.
        """
        # By score alone: comparing whole entries takes longer; see docs/performance.md.
        ordered = sorted(entries, key=itemgetter(0))
        for start in range(0, len(ordered), BATCH_ENTRIES):
            with lmdb_errors(self.path), self._begin(write=True) as transaction:
                number = self._number_of(arena, transaction)
                items = self._items(number, ordered[start : start + BATCH_ENTRIES])
                transaction.cursor(self._blocks).putmulti(items)

    @staticmethod
    def _items(number: int, entries: Entries) -> list[tuple[bytes, bytes]]:
        pack, seal = _ENTRY.pack, _sealed_value
        return [
            (score, seal(score, pack(number, offset, position)))
            for score, offset, position in entries
        ]

    def append_blocks(self, entries: Iterable[tuple[Score, int, int, int]]) -> None:
        """Add (score, arena number, offset, position); each score must be above all present ones.

        For rebuilds: appending fills pages, so an entry takes 58 bytes instead of the 90 of random
        insertion.
        """
        pack, seal = _ENTRY.pack, _sealed_value
        items = [(score, seal(score, pack(*place))) for score, *place in entries]
        with lmdb_errors(self.path), self._begin(write=True) as transaction:
            transaction.cursor(self._blocks).putmulti(items, append=True)

    def drop_block(self, score: Score) -> None:
        """Remove a block's entry, so that the next put of the block stores it again."""
        with lmdb_errors(self.path), self._begin(write=True) as transaction:
            transaction.delete(score, db=self._blocks)

    # --- arenas -----------------------------------------------------------------------------

    def number_of(self, arena: bytes) -> int:
        """The arena's 32-bit number in this index, assigned now if it has none yet."""
        with lmdb_errors(self.path), self._begin(write=True) as transaction:
            return self._number_of(arena, transaction)

    def _number_of(self, arena: bytes, transaction: Any) -> int:
        value = _opened_value(arena, transaction.get(arena, db=self._tables[b"numbers"]))
        if value is not None:
            return int(_NUMBER.unpack(value)[0])
        last = -1
        for table in (b"open", b"sealed"):
            cursor = transaction.cursor(self._tables[table])
            if cursor.last():
                last = max(last, _NUMBER.unpack(cursor.key())[0])
        number = last + 1
        key = _NUMBER.pack(number)
        transaction.put(arena, _sealed_value(arena, key), db=self._tables[b"numbers"])
        self._put_state(number, ArenaState(arena, 0, False, ArenaTotals()), transaction)
        return number

    def _put_state(self, number: int, state: ArenaState, transaction: Any) -> None:
        key = _NUMBER.pack(number)
        value = _ARENA.pack(state.arena, state.length, *astuple(state.totals))
        table, other = (b"sealed", b"open") if state.sealed else (b"open", b"sealed")
        transaction.delete(key, db=self._tables[other])
        transaction.put(key, _sealed_value(key, value), db=self._tables[table])

    def _state(self, number: int, transaction: Any) -> ArenaState | None:
        key = _NUMBER.pack(number)
        for table in (b"sealed", b"open"):
            value = _opened_value(key, transaction.get(key, db=self._tables[table]))
            if value is not None:
                arena, length, *totals = _ARENA.unpack(value)
                return ArenaState(arena, length, table == b"sealed", ArenaTotals(*totals))
        return None

    def arena_state(self, arena: bytes) -> ArenaState:
        """How far an arena is indexed; length 0, if the index does not know it."""
        with lmdb_errors(self.path), self._begin() as transaction:
            value = _opened_value(arena, transaction.get(arena, db=self._tables[b"numbers"]))
            state = None
            if value is not None:
                state = self._state(_NUMBER.unpack(value)[0], transaction)
        return state or ArenaState(arena, 0, False, ArenaTotals())

    def arena_states(self, *, sealed: bool | None = None) -> list[ArenaState]:
        """The state of every arena the index knows, or only of sealed or unsealed ones."""
        with lmdb_errors(self.path), self._begin() as transaction:
            return self._states(transaction, sealed)

    def _states(self, transaction: Any, sealed: bool | None) -> list[ArenaState]:
        states = []
        for table in (b"sealed", b"open"):
            if sealed is not None and sealed != (table == b"sealed"):
                continue
            for key, value in transaction.cursor(self._tables[table]):
                opened = _opened_value(key, value)
                if opened is None or len(opened) != _ARENA.size:
                    raise IndexDamaged(self.path, "has a damaged arena record")
                arena, length, *totals = _ARENA.unpack(opened)
                states.append(ArenaState(arena, length, table == b"sealed", ArenaTotals(*totals)))
        return states

    def snapshot(self) -> IndexSnapshot:
        """All arenas' states and all records as of one moment."""
        with lmdb_errors(self.path), self._begin() as transaction:
            deleted = {bytes(key) for key, _ in transaction.cursor(self._tables[b"deleted"])}
            return IndexSnapshot(
                self._states(transaction, None), self._records(transaction), deleted
            )

    def figures(self) -> Figures:
        """What is counted, as of one moment."""
        with lmdb_errors(self.path), self._begin() as transaction:
            return Figures(
                self._states(transaction, None),
                self._counters(transaction),
                self._entry_count(transaction),
                len(self._records(transaction)),
            )

    def sealed_count(self) -> int:
        """How many arenas are sealed and wholly indexed."""
        with lmdb_errors(self.path), self._begin() as transaction:
            count: int = transaction.stat(self._tables[b"sealed"])["entries"]
        return count

    # --- catalog ----------------------------------------------------------------------------

    def settle(
        self, states: Iterable[ArenaState], changes: Changes, counters: CommitCounters
    ) -> None:
        """Store arena states, changes of records, and counters in one transaction.

        A writer and a process that recovered its arena may both report the same states and records.
        So totals count only if they start where the index ends. A record that is present already,
        or was ever deleted, is not put again; puts and deletes may arrive in any order.
        """
        with lmdb_errors(self.path), self._begin(write=True) as transaction:
            for state in states:
                number = self._number_of(state.arena, transaction)
                before = self._state(number, transaction) or ArenaState(
                    state.arena, 0, False, ArenaTotals()
                )
                if before.length == state.start:
                    before.totals.add(state.totals)
                if before.length <= state.length:
                    before.sealed = state.sealed or (
                        before.sealed and before.length == state.length
                    )
                    before.length = state.length
                    self._put_state(number, before, transaction)
            self._apply(changes, transaction)
            self._add_counters(counters, transaction)

    def _apply(self, changes: Changes, transaction: Any) -> None:
        if not len(changes):
            return
        catalog, deleted = self._tables[b"catalog"], self._tables[b"deleted"]
        count, stored = _CATALOG.unpack(self._meta(b"catalog", transaction))
        digest = int.from_bytes(stored, "big")
        doomed = set(changes.deletes)
        for record_id in doomed:
            transaction.put(record_id, b"", db=deleted)
        present = list(transaction.cursor(catalog)) if doomed else []
        for key, value in present:
            if key[-RECORD_ID_SIZE:] in doomed:
                record = self._record(key, value)
                transaction.delete(key, db=catalog)
                count, digest = count - 1, digest ^ _number(record)
        for record in changes.puts:
            fresh = transaction.get(record.id, db=deleted) is None
            value = record.value + record.digest()
            if fresh and transaction.put(
                record.key + record.id, value, overwrite=False, db=catalog
            ):
                count, digest = count + 1, digest ^ _number(record)
        value = _sealed_value(b"catalog", _CATALOG.pack(count, digest.to_bytes(DIGEST_SIZE, "big")))
        transaction.put(b"catalog", value, db=self._tables[b"meta"])

    def _record(self, key: bytes, value: bytes) -> Record:
        record = Record(key[:-RECORD_ID_SIZE], key[-RECORD_ID_SIZE:], value[:-DIGEST_SIZE])
        if record.digest() != value[-DIGEST_SIZE:]:
            raise IndexDamaged(self.path, "has a damaged catalog record")
        return record

    def records(self) -> list[Record]:
        """All committed records, in order of key.

        Raises:
            IndexDamaged: when they are not exactly those that were put and not deleted.
        """
        with lmdb_errors(self.path), self._begin() as transaction:
            return self._records(transaction)

    def has_record(self, key: bytes, record_id: bytes) -> bool:
        """Whether a record is there, as one look-up.

        It may be there even if this is false: in a damaged index, which `records` refuses.
        """
        with lmdb_errors(self.path), self._begin(self._tables[b"catalog"]) as transaction:
            return transaction.get(key + record_id) is not None

    def _records(self, transaction: Any) -> list[Record]:
        digest = 0
        cursor = transaction.cursor(self._tables[b"catalog"])
        records = [self._record(key, value) for key, value in cursor]
        for record in records:
            digest ^= _number(record)
        if (len(records), digest.to_bytes(DIGEST_SIZE, "big")) != _CATALOG.unpack(
            self._meta(b"catalog", transaction)
        ):
            raise IndexDamaged(self.path, "has lost catalog records")
        return sorted(records)

    def _add_counters(self, counters: CommitCounters, transaction: Any) -> None:
        if not any(astuple(counters)):
            return
        total = self._counters(transaction)
        total.add(counters)
        value = _sealed_value(b"counters", COUNTERS.pack(*astuple(total)))
        transaction.put(b"counters", value, db=self._tables[b"meta"])

    def counters(self) -> CommitCounters:
        """Counts of everything that was ever put and committed."""
        return self._counters(None)

    def _counters(self, transaction: Any) -> CommitCounters:
        return CommitCounters(*COUNTERS.unpack(self._meta(b"counters", transaction)))

    def size(self) -> int:
        """Bytes the index takes on disk."""
        with lmdb_errors(self.path):
            return self._environment.size()

    def sync(self) -> None:
        """Make an index opened without `sync` durable."""
        with lmdb_errors(self.path):
            self._environment.lmdb.sync(True)


def _number(record: Record) -> int:
    return int.from_bytes(record.digest(), "big")
