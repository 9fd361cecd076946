"""The index: LMDB tables from scores to places, of arenas, and the catalog.

The index is a rebuildable hint, never trusted. LMDB's pages carry no checksums, so every value,
except the empty ones of `deleted`, carries one over its key and itself: a damaged entry is a miss,
never a false hit. The store verifies every block it returns by its hash, not by the index. A
damaged page can have two more effects: an entry can vanish (for blocks, a miss), and LMDB itself
can crash. So the catalog carries a digest over all its records, and `check` reads the index in a
child process.

FORMAT.md, section Index, lists the tables. `index_arenas` and `index_records` hold the tables of
arenas and of records; this module those of blocks and all that spans several.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
from msgspec.structs import astuple

from ventifs.store.arena_state import ArenaState, Place, SealedMark
from ventifs.store.index_arenas import NUMBER, ArenaTables
from ventifs.store.index_records import RecordTables
from ventifs.store.index_values import CRC_RESIDUE, Meta, guarded, unguarded
from ventifs.store.journal import COUNTERS, Changes, CommitCounters, Record
from ventifs.store.lmdb_environment import Environment, IndexDamaged, LmdbError, lmdb_errors
from ventifs.store.score import Score

INDEX_FORMAT = 1
BATCH_ENTRIES = 32_000  # of one LMDB transaction: bounds its dirty pages at about 128 MiB
_WALK_ENTRIES = 4096  # read in one transaction of a walk over all entries

_TABLES = (b"blocks", b"open", b"sealed", b"numbers", b"catalog", b"deleted", b"meta")

_ENTRY = struct.Struct("<IIH")  # arena number, clump offset, position in the clump


class IndexSnapshot(msgspec.Struct, frozen=True):
    """What the index knew at one moment.

    Attributes:
        deleted: the ids of records that were deleted.
        dropped: the arenas from which nothing is taken, each with its counters.
    """

    states: list[ArenaState] = msgspec.field(default_factory=list)
    records: list[Record] = msgspec.field(default_factory=list)
    deleted: set[bytes] = msgspec.field(default_factory=set)
    dropped: dict[bytes, CommitCounters] = msgspec.field(default_factory=dict)


class Figures(msgspec.Struct, frozen=True):
    """What the index counted at one moment: arenas, all that was put, and entries of blocks."""

    states: list[ArenaState]
    counters: CommitCounters
    entries: int
    records: int


Entries = Iterable[tuple[Score, int, int]]  # score, clump offset, position


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
        self._live: dict[bytes, bytes] = {}  # arenas with a row, by number as in entries
        self._hits: dict[bytes, bytes] = {}  # those of them that are not shunned
        self._shunned: frozenset[bytes] = frozenset()
        environment = Environment.acquire(path, _TABLES, sync=sync, create=create)
        self._environment = environment
        self._begin: Callable[..., Any] = environment.lmdb.begin
        self._blocks = environment.tables[b"blocks"]
        self._meta = Meta(path, environment.tables[b"meta"])
        self._arenas = ArenaTables(path, environment.tables, self._meta)
        self._records = RecordTables(path, environment.tables, self._meta)
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

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        with lmdb_errors(self.path), self._begin() as transaction:
            yield transaction

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        with lmdb_errors(self.path), self._begin(write=True) as transaction:
            yield transaction

    def _initialise(self, store_id: bytes) -> None:
        with self._writing() as transaction:
            for key, value in (
                (b"format", NUMBER.pack(INDEX_FORMAT)),
                (b"store", store_id),
                (b"epoch", os.urandom(8)),
                (b"counters", COUNTERS.pack(*astuple(CommitCounters()))),
            ):
                self._meta.put(key, value, transaction)
            self._records.initialise(transaction)
            self._arenas.bring_up_to_date(transaction)

    def _check_meta(self, store_id: bytes) -> None:
        with self._reading() as transaction:
            if self._meta.get(b"format", transaction) != NUMBER.pack(INDEX_FORMAT):
                raise IndexDamaged(self.path, "is of another format")
            if self._meta.get(b"store", transaction) != store_id:
                raise IndexDamaged(self.path, "belongs to another store")

    @property
    def epoch(self) -> bytes:
        """8 random bytes that change whenever the index may lack blocks that a version needs."""
        with self._reading() as transaction:
            return self._meta.get(b"epoch", transaction)

    @property
    def catalog_mark(self) -> bytes:
        """A value that is equal for equal sets of records and different for different ones."""
        with self._reading() as transaction:
            return self._records.mark(transaction)

    @property
    def changes(self) -> int:
        """How many write transactions there were; costs next to nothing."""
        with lmdb_errors(self.path):
            return int(self._environment.lmdb.info()["last_txnid"])

    # --- blocks -----------------------------------------------------------------------------

    def known(self, score: Score) -> bool:
        """Whether the index has an undamaged entry for a block, in an arena that is not shunned.

        The hot path of a put: one transaction, one look-up, one CRC; see docs/performance.md.
        """
        try:
            transaction = self._begin(self._blocks)  # not by `with`, which costs more
            value = transaction.get(score)
            transaction.abort()
        except LmdbError:
            with lmdb_errors(self.path):
                raise
        if value is None or crc32(value, crc32(score)) != CRC_RESIDUE:
            return False
        return value[:4] in self._hits or self._is_hit(value)

    def _is_hit(self, entry: bytes) -> bool:
        """Whether an entry's arena has a row and is not shunned; remembers those of which it is."""
        live, hits = self._live, self._hits  # before the transaction: see `look_again`
        with self._reading() as transaction:
            arena = self._arena_of(entry, transaction, live)
        if arena is None or arena in self._shunned:
            return False
        hits[entry[:4]] = arena
        return True

    @property
    def shunned(self) -> frozenset[bytes]:
        """The arenas whose blocks are not known: what is put is stored again, elsewhere.

        They can be read as ever: `locate` and `entries` find them.
        """
        return self._shunned

    @shunned.setter
    def shunned(self, arenas: frozenset[bytes]) -> None:
        self._shunned = arenas
        self._hits = {}

    def known_many(self, scores: Sequence[Score]) -> list[bool]:
        """`known` for each score, in sorted order, which is cheaper; see docs/performance.md."""
        found, live = {}, dict[bytes, bytes]()
        with lmdb_errors(self.path), self._begin(self._blocks) as transaction:
            for score in sorted(set(scores)):
                value = unguarded(score, transaction.get(score))
                arena = None if value is None else self._arena_of(value, transaction, live)
                found[score] = arena is not None and arena not in self._shunned
        return [found[score] for score in scores]

    def locate(self, score: Score) -> Place | None:
        """Where a block is, or None when it is absent (or its entry damaged)."""
        live = self._live
        with lmdb_errors(self.path), self._begin(self._blocks) as transaction:
            value = unguarded(score, transaction.get(score))
            if value is None or len(value) != _ENTRY.size:
                return None
            _, offset, position = _ENTRY.unpack(value)
            arena = self._arena_of(value, transaction, live)
        return None if arena is None else Place(arena, offset, position)

    def locate_many(self, scores: Sequence[Score]) -> list[Place | None]:
        """`locate` for each score, in sorted order, which is cheaper, and as of one moment."""
        found: dict[Score, Place] = {}
        live: dict[bytes, bytes] = {}
        with lmdb_errors(self.path), self._begin(self._blocks) as transaction:
            for score in sorted(set(scores)):
                value = unguarded(score, transaction.get(score))
                if value is None or len(value) != _ENTRY.size:
                    continue
                _, offset, position = _ENTRY.unpack(value)
                arena = self._arena_of(value, transaction, live)
                if arena is not None:
                    found[score] = Place(arena, offset, position)
        return [found.get(score) for score in scores]

    def arenas_of(self, scores: Iterable[Score]) -> set[bytes]:
        """The arenas that some blocks are in, as of one moment; cheaper than `locate_many`."""
        live: dict[bytes, bytes] = {}
        found: set[bytes | None] = set()
        with lmdb_errors(self.path), self._begin(self._blocks) as transaction:
            entries: dict[bytes, bytes] = {}
            for score in scores:
                value = transaction.get(score)
                if value is not None and crc32(value, crc32(score)) == CRC_RESIDUE:
                    entries[value[:4]] = value
            found.update(self._arena_of(value, transaction, live) for value in entries.values())
        return {arena for arena in found if arena is not None}

    def _arena_of(self, entry: bytes, transaction: Any, live: dict[bytes, bytes]) -> bytes | None:
        """The arena of an entry; None without a row, which an arena loses when it is dropped.

        Rows that are met are kept in `live`.
        """
        number = entry[:4]
        arena = live.get(number)
        if arena is None:
            state = self._arenas.state(int.from_bytes(number, "little"), transaction)
            if state is None:
                return None
            arena = live[number] = state.arena
        return arena

    def look_again(self) -> None:
        """Forget which arenas there were: some may have been dropped, also by another process.

        A look-up in another thread that began before may still note what it sees, but in the old
        table, which it took before its transaction.
        """
        self._live, self._hits = {}, {}

    def entries(self) -> Iterator[tuple[Score, Place | None]]:
        """Every entry in order of score; a damaged one has None as its place.

        Entries whose arena is dropped are left out.

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
        live: dict[bytes, bytes] = {}
        with lmdb_errors(self.path), self._begin(self._blocks) as transaction:
            cursor = transaction.cursor()
            if not cursor.set_range(start):
                return some, None
            for key, value in cursor:
                if len(some) == _WALK_ENTRIES:
                    return some, bytes(key)
                opened = unguarded(key, value)
                if opened is None or len(key) != 32 or len(opened) != _ENTRY.size:
                    some.append((Score(key), None))
                    continue
                _, offset, position = _ENTRY.unpack(opened)
                arena = self._arena_of(opened, transaction, live)
                if arena is not None:
                    some.append((Score(key), Place(arena, offset, position)))
        return some, None

    def stored_entries(self, start: bytes) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Entries as they are stored, from the key `start` on, and the key after them, if any.

        For walks over millions of entries. `stored_place` decodes the values.
        """
        some: list[tuple[bytes, bytes]] = []
        with lmdb_errors(self.path), self._begin(self._blocks) as transaction:
            cursor = transaction.cursor()
            if not cursor.set_range(start):
                return some, None
            some = list(islice(cursor, _WALK_ENTRIES))
            return some, cursor.key() if len(some) == _WALK_ENTRIES and cursor.next() else None

    def remove_leftovers(self, scores: Sequence[Score]) -> int:
        """Remove the entries of blocks whose arena has no row; return how many there were."""
        removed = 0
        ordered = sorted(scores)
        for start in range(0, len(ordered), BATCH_ENTRIES):
            live: dict[bytes, bytes] = {}
            with self._writing() as transaction:
                get = partial(transaction.get, db=self._blocks)
                for score in ordered[start : start + BATCH_ENTRIES]:
                    value = get(score)
                    if value is None or value[:4] in live:
                        continue
                    value = unguarded(score, value)
                    if value is not None and self._arena_of(value, transaction, live) is None:
                        removed += transaction.delete(score, db=self._blocks)
        return removed

    def entry_count(self) -> int:
        """How many blocks the index lists."""
        with self._reading() as transaction:
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
            with self._writing() as transaction:
                number = self._arenas.number_of(arena, transaction)
                items = self._items(number, ordered[start : start + BATCH_ENTRIES])
                transaction.cursor(self._blocks).putmulti(items)

    @staticmethod
    def _items(number: int, entries: Entries) -> list[tuple[bytes, bytes]]:
        pack, guard = _ENTRY.pack, guarded
        return [
            (score, guard(score, pack(number, offset, position)))
            for score, offset, position in entries
        ]

    def append_blocks(self, entries: Iterable[tuple[Score, int, int, int]]) -> None:
        """Add (score, arena number, offset, position); each score must be above all present ones.

        For rebuilds: appending fills pages, so an entry takes 58 bytes instead of the 90 of random
        insertion.
        """
        pack, guard = _ENTRY.pack, guarded
        items = [(score, guard(score, pack(*place))) for score, *place in entries]
        with self._writing() as transaction:
            transaction.cursor(self._blocks).putmulti(items, append=True)

    def drop_block(self, score: Score) -> None:
        """Remove a block's entry, so that the next put of the block stores it again."""
        with self._writing() as transaction:
            transaction.delete(score, db=self._blocks)

    # --- arenas and records -----------------------------------------------------------------

    def number_of(self, arena: bytes) -> int:
        """The arena's 32-bit number in this index, assigned now if it has none yet."""
        with self._writing() as transaction:
            return self._arenas.number_of(arena, transaction)

    def arena_state(self, arena: bytes) -> ArenaState:
        """How far an arena is indexed; length 0, if the index does not know it."""
        with self._reading() as transaction:
            return self._arenas.state_of(arena, transaction)

    def arena_states(self, *, sealed: bool | None = None) -> list[ArenaState]:
        """The state of every arena the index knows, or only of sealed or unsealed ones."""
        with self._reading() as transaction:
            return self._arenas.states(transaction, sealed)

    def numbered_states(self) -> dict[int, ArenaState]:
        """The state of every arena the index knows, by the arena's number."""
        with self._reading() as transaction:
            return self._arenas.numbered(transaction)

    def sealed_mark(self) -> SealedMark:
        """The mark of the arenas that are sealed and wholly indexed."""
        with self._reading() as transaction:
            return self._arenas.sealed_mark(transaction)

    def dropped(self, arena: bytes) -> bool:
        """Whether an arena is dropped: nothing is taken from it any more."""
        with self._reading() as transaction:
            return self._arenas.dropped(arena, transaction)

    def drops(self) -> dict[bytes, CommitCounters]:
        """All arenas that are dropped, each with the counters of its commits."""
        with self._reading() as transaction:
            return self._arenas.drops(transaction)

    def contradictions(self) -> list[tuple[bytes, str]]:
        """What is wrong between the tables of arenas: an arena's id, or nothing, and the reason.

        Raises:
            IndexDamaged: a row is damaged in a way that leaves its arena unknown.
        """
        with self._reading() as transaction:
            return self._arenas.contradictions(transaction)

    def records(self) -> list[Record]:
        """All committed records, in order of key.

        Raises:
            IndexDamaged: when they are not exactly those that were put and not deleted.
        """
        with self._reading() as transaction:
            return self._records.records(transaction)

    def has_record(self, key: bytes, record_id: bytes) -> bool:
        """Whether a record is there, as one look-up.

        It may be there even if this is false: in a damaged index, which `records` refuses.
        """
        with self._reading() as transaction:
            return self._records.has(key, record_id, transaction)

    def snapshot(self) -> IndexSnapshot:
        """All arenas' states and all records as of one moment."""
        with self._reading() as transaction:
            return IndexSnapshot(
                self._arenas.states(transaction, None),
                self._records.records(transaction),
                self._records.deleted(transaction),
                self._arenas.drops(transaction),
            )

    def figures(self) -> Figures:
        """What is counted, as of one moment."""
        with self._reading() as transaction:
            return Figures(
                self._arenas.states(transaction, None),
                self._counters(transaction),
                self._entry_count(transaction),
                len(self._records.records(transaction)),
            )

    def settle(
        self,
        states: Iterable[ArenaState],
        changes: Changes,
        counters: CommitCounters,
        expunged: Sequence[bytes] = (),
    ) -> None:
        """Store arena states, changes of the catalog, and counters in one transaction.

        A writer and a process that recovered its arena may both report the same states and records.
        So totals count only if they start where the index ends. A record that is present already,
        or was ever deleted, is not put again; puts and deletes may arrive in any order. Nothing is
        stored of an arena that is dropped.

        Args:
            states: of arenas whose blocks are in the index already.
            changes: what a commit says.
            counters: are added to those of the index.
            expunged: ids of deleted records that nothing can put again.
        """
        with self._writing() as transaction:
            self._arenas.drop(changes.drops, transaction)
            for state in states:
                if not self._arenas.dropped(state.arena, transaction):
                    self._settle_state(state, transaction)
            self._records.apply(changes, transaction)
            self._records.expunge(expunged, transaction)
            if any(astuple(counters)):
                total = self._counters(transaction)
                total.add(counters)
                self._meta.put(b"counters", COUNTERS.pack(*astuple(total)), transaction)
        if changes.drops:
            self.look_again()

    def _settle_state(self, state: ArenaState, transaction: Any) -> None:
        number = self._arenas.number_of(state.arena, transaction)
        before = self._arenas.state_of(state.arena, transaction)
        if before.length == state.start:
            before.totals.add(state.totals)
        if before.length <= state.length:
            before.sealed = state.sealed or (before.sealed and before.length == state.length)
            before.length = state.length
            self._arenas.put_state(number, before, transaction)

    @property
    def up_to_date(self) -> bool:
        """Whether it has all that this program keeps in an index."""
        with self._reading() as transaction:
            return self._arenas.up_to_date(transaction)

    def bring_up_to_date(self) -> None:
        """Store what indexes made by older programs lack; changes nothing else."""
        with self._writing() as transaction:
            self._arenas.bring_up_to_date(transaction)

    # --- the whole --------------------------------------------------------------------------

    def counters(self) -> CommitCounters:
        """Counts of everything that was ever put and committed."""
        with self._reading() as transaction:
            return self._counters(transaction)

    def _counters(self, transaction: Any) -> CommitCounters:
        return CommitCounters(*COUNTERS.unpack(self._meta.get(b"counters", transaction)))

    def size(self) -> int:
        """Bytes the index takes on disk."""
        with lmdb_errors(self.path):
            return self._environment.size()

    def sync(self) -> None:
        """Make an index opened without `sync` durable."""
        with lmdb_errors(self.path):
            self._environment.lmdb.sync(True)
