"""The store: one directory of immutable blocks named by their scores, and committed records.

This is the package's only public interface. Always: a block that `get` returns hashes to the
requested score. A record that `records` lists was committed whole, with every block its commit
relied on. Killing any process at any moment changes or loses nothing that was committed.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from blake3 import blake3

from ventifs.buffer import Buffer
from ventifs.errors import VentifsError
from ventifs.store.arena_state import Place
from ventifs.store.arenas import Arenas
from ventifs.store.block_reader import BlockReader
from ventifs.store.claims import Claims
from ventifs.store.clump import (
    BLOCK_SIZE_MAX,
    ZERO_BLOCK,
    ClumpKind,
    DecodedClump,
)
from ventifs.store.exposure import exposed
from ventifs.store.files import Files, readable_errors
from ventifs.store.header import (
    ARENA_SIZE_DEFAULT,
    ARENA_SIZE_MAX,
    ARENA_SIZE_MIN,
    HEADER_NAME,
    StoreHeader,
    header_under_lock,
    read_header,
    require_reclaimed,
    require_writable,
    write_header,
)
from ventifs.store.index import Index
from ventifs.store.journal import Changes, CommitCounters, Record, record_problem
from ventifs.store.leases import Lease, Leases, make_leases_directory, sweep
from ventifs.store.lmdb_environment import INDEX_NAME, index_missing
from ventifs.store.lock import (
    GATES,
    RECOVERY_LOCK,
    make_gates,
    reclaimer_lives,
    reclaimer_lock,
    recovery_lock,
    store_lock,
    writers_gate,
)
from ventifs.store.malloc_tuning import keep_freed_clumps
from ventifs.store.permissions import LEASES, MAKING, PRIVATE, Access, prepare
from ventifs.store.reclaim.condemned import announced, make_room, withdraw, withdraw_left
from ventifs.store.recovery import recover
from ventifs.store.reserve import (
    RESERVE_MAX,
    RESERVE_NAME,
    default_size,
    replenish,
    with_reserve,
)
from ventifs.store.score import SCORE_SIZE, ZERO_SCORE, Score, zero_truncated
from ventifs.store.stats import Sizes, Stats, measured
from ventifs.store.writer import WorkerBatch, Writer

if TYPE_CHECKING:
    from ventifs.store.dropping import Journals

Mode = Literal["read", "write", "worker", "rehearse", "reclaim"]

CACHE_BYTES_DEFAULT = 64 << 20
PENDING_DEFAULT = 250_000
LEVEL_DEFAULT = 1  # zstd's; higher ones save little for their time; see docs/performance.md
_REAL_FILES = Files()
log = logging.getLogger("ventifs.store")
_warned: set[str] = set()  # a command may open its store several times


def _rebuild(root: Path, header: StoreHeader, files: Files) -> None:
    from ventifs.store.rebuild import rebuild_index  # rarely needed, and slow to import

    rebuild_index(root, header, files)


def warn_if_exposed(root: Path) -> None:
    """Log which other users can read a store that is about to be written, once per process."""
    with readable_errors(root):
        found = exposed(root)
        if found and found not in _warned:
            _warned.add(found)
            log.warning("%s", found)


def _refuse_occupied(root: Path) -> None:
    """Refuse a directory that holds anything but the leftovers of an interrupted creation.

    Raises:
        VentifsError: when the directory holds a store, or something else.
    """
    if (root / HEADER_NAME).exists():
        raise VentifsError(f"{root}: there is a ventifs store already; it is untouched")
    ours = {root / "arenas", root / "lock", root / (HEADER_NAME + ".tmp"), root / RESERVE_NAME}
    ours |= {root / LEASES, root / GATES, *(root / GATES / gate for gate in "01")}
    ours |= {root / RECOVERY_LOCK}
    ours |= {root / "arenas" / "open", root / "arenas" / "sealed"}
    for index in root.glob("index*"):
        if INDEX_NAME.fullmatch(index.name) and index.is_dir():
            ours |= {index, index / "data.mdb", index / "lock.mdb"}
    if any(path not in ours and not MAKING.fullmatch(path.name) for path in root.rglob("*")):
        raise VentifsError(f"{root}: the directory is not empty; name another")


class Store:
    """An open store; as a context manager it commits on exit, but not after an exception.

    Concurrency: every method may be called from any thread; several processes may have the same
    store open in any mode at once. An open store must not be used after a fork.
    """

    def __init__(
        self,
        path: Path,
        header: StoreHeader,
        mode: Mode,
        *,
        cache_bytes: int,
        pending_max: int,
        level: int,
        files: Files,
        give: "Callable[[WorkerBatch], None] | None",
        claims: Claims | None,
        reserve: bool,
        wait_s: float | None,
    ) -> None:
        """Use `open` or `create`."""
        keep_freed_clumps()
        self.path = path
        status = path.stat()
        self.place = status.st_dev, status.st_ino
        self.header = header
        self.mode = mode
        self.wait_s = wait_s
        self._files = files
        self._pending_max = pending_max
        self._give = give
        self._claims = claims
        self._arenas = Arenas(path, header.store_id)
        self._lock = RLock()
        self._resources = ExitStack()
        self._closed = False
        self._leases = Leases(path, self.place)
        try:
            self._enter()
            self._reader = BlockReader(path, header.store_id, self._arenas, cache_bytes)
            self._resources.callback(self._reader.close)
            if mode in ("write", "worker"):
                self._reader.shun(announced(path))  # a writer has its gate by now
            if self.writes:
                self._recover(reserve=reserve)
                make_leases_directory(path)
                sweep(path)
            self._writer = Writer(
                self._arenas,
                self._index,
                files,
                arena_size=header.arena_size,
                level=level,
                threaded=self.writes,
            )
            self._resources.callback(self._writer.close)
        except BaseException:
            self._resources.close()
            raise

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        arena_size: int = ARENA_SIZE_DEFAULT,
        access: Access = PRIVATE,
        reserve: int | None = None,
        files: Files = _REAL_FILES,
    ) -> None:
        """Make a new, empty store in a directory that is empty or not there.

        Args:
            path: the directory; missing parents are created.
            arena_size: bytes at which arenas are sealed, 4 MiB to 3 GiB.
            access: which users may reach the store, whatever the umask; by default only its owner.
            reserve: bytes of the reserve, with which versions can be forgotten on a full disk; 0
                for none. By default 64 MiB, but at most 1 % of the file system.
            files: for tests.

        Raises:
            ValueError: for an arena size or a reserve out of range.
            VentifsError: when the directory holds anything, or cannot be written.
        """
        if not ARENA_SIZE_MIN <= arena_size <= ARENA_SIZE_MAX:
            raise ValueError(f"arena size {arena_size} is not between 4 MiB and 3 GiB")
        if reserve is not None and not 0 <= reserve <= RESERVE_MAX:
            raise ValueError(f"reserve {reserve} is not between 0 and 1 TiB")
        root = Path(path)
        with readable_errors(root):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_occupied(root)
            prepare(root, access)
            with store_lock(root, alone=True):
                _refuse_occupied(root)  # again: another process may have created it meanwhile
                reserve = default_size(root) if reserve is None else reserve
                header = StoreHeader.new(arena_size, reserve)
                arenas = Arenas(root, header.store_id)
                for directory in (root / "arenas", arenas.open_directory, arenas.sealed_directory):
                    files.make_directory(directory)
                files.make_directory(root / LEASES)
                _rebuild(root, header, files)
                files.sync_directory(root / "arenas")
                make_gates(root, files)
                replenish(root, reserve, files)
                write_header(root, header, files)
            files.sync_directory(root.parent)

    @classmethod
    def open(
        cls,
        path: Path | str,
        mode: Mode = "read",
        *,
        cache_bytes: int = CACHE_BYTES_DEFAULT,
        pending_max: int = PENDING_DEFAULT,
        level: int = LEVEL_DEFAULT,
        files: Files = _REAL_FILES,
        give: "Callable[[WorkerBatch], None] | None" = None,
        claims: Claims | None = None,
        reserve: bool = False,
        wait_s: float | None = None,
    ) -> Self:
        """Open a store.

        Args:
            path: the store's directory.
            mode: "read"; "write", which first indexes what a crash left out of the index; "worker",
                which stores blocks for a parent that commits them (`hand_over`); "rehearse", which
                reads, and accepts blocks only to report which would be new; or "reclaim", which
                writes without a gate, and of which there is one at a time.
            cache_bytes: bytes of decoded clumps to keep in memory.
            pending_max: blocks that may wait for the index. When there are more, the store commits
                them, or passes them to `give`, by itself. About 200 bytes of memory each.
            level: zstd's compression level for new clumps.
            files: for tests.
            give: called in a worker with each batch that it hands over by itself; passes the
                batch to the parent.
            claims: the table of claimed blocks that a worker shares with its siblings.
            reserve: on a full disk, use the store's reserve to index what a crash left; for what
                then frees something.
            wait_s: how many seconds to wait for each lock that is in use. By default a reclaim's
                last step is waited for, which is short, and nothing else.

        Raises:
            NotAStore, Unsupported, Corrupt: see `header.read_header`.
            IndexMissing: the index is missing, and `mode` is neither "write" nor "reclaim".
            Busy: a rebuild, repair or upgrade is running, for longer than `wait_s`; or, in mode
                "reclaim", another reclaim.
            Unsupported: also in mode "reclaim", before `ventifs upgrade` has prepared the store.
            VentifsError: permissions, a read-only file system.
        """
        root = Path(path)
        header = read_header(root)
        if mode in ("write", "worker", "reclaim"):
            require_writable(root, header)
        if mode == "reclaim":
            require_reclaimed(root, header)
        if mode in ("write", "reclaim"):
            warn_if_exposed(root)
        return cls(
            root,
            header,
            mode,
            cache_bytes=cache_bytes,
            pending_max=pending_max,
            level=level,
            files=files,
            give=give,
            claims=claims,
            reserve=reserve,
            wait_s=wait_s,
        )

    def _recover(self, *, reserve: bool) -> None:
        """Index what a crash left out of the index, then make the reserve again if it is short."""
        reclaims = self.mode == "reclaim"

        def step() -> None:
            if reclaims:
                make_room(self._arenas, self._files)
            with recovery_lock(self.path):
                unlocked = recover(
                    self._arenas,
                    self._index,
                    self._files,
                    may_finish=lambda: reclaims or not reclaimer_lives(self.path),
                )
            if unlocked and reclaims:
                withdraw(self.path, self._files)  # left by one that was killed
            elif unlocked:
                withdraw_left(self.path, self._files)

        size = self.header.reserve
        if reserve:
            with_reserve(step, self.path, size, self._files)
        else:
            step()
        replenish(self.path, size, self._files)

    def _enter(self) -> None:
        """Take the locks of a writer or a reclaimer, and see that there is an index."""
        path = self.path / "index"
        if self.writes and index_missing(path):
            with store_lock(self.path, alone=True, wait_s=self.wait_s or 0):
                self.header = header_under_lock(self.path, self.header)
                if index_missing(path):
                    _rebuild(self.path, self.header, self._files)
        if self.writes or self.mode == "worker":
            self._resources.enter_context(
                store_lock(self.path, alone=False, wait_s=self.wait_s or 0)
            )
            self.header = header_under_lock(self.path, self.header)
        if self.mode == "write" and self.header.reclaimed:
            gate = writers_gate(self.path, wait_s=self.wait_s)
            self._resources.enter_context(gate)
        if self.mode == "reclaim":
            self._resources.enter_context(reclaimer_lock(self.path, wait_s=self.wait_s or 0))

    @property
    def _index(self) -> Index:
        return self._reader.index

    @property
    def writes(self) -> bool:
        """Whether commits may be made with it."""
        return self.mode in ("write", "reclaim")

    # --- blocks -----------------------------------------------------------------------------

    def put(self, block: Buffer, *, node: bool = False) -> tuple[Score, bool]:
        """Store a block unless it is stored already.

        `get` of this store object finds the block at once (in a worker, until `hand_over`). Other
        store objects find it after the next commit.

        Args:
            block: 1 byte to 1 MiB; trailing zeros are not stored.
            node: whether the block points at other blocks; such blocks are kept apart from data.

        Returns:
            Its score, and whether it was new.

        Raises:
            ValueError: for a block of another size.
            NoSpace, VentifsError: the block is not stored; earlier blocks are unaffected.
        """
        # Hot: for a known block, mostly BLAKE3 and the index; see docs/performance.md.
        if type(block) is not bytes:
            view = memoryview(block)
            if view.ndim != 1 or view.itemsize != 1 or not view.contiguous:
                raise ValueError("a block is given as bytes, or a view of bytes")
        size = len(block)
        if not 0 < size <= BLOCK_SIZE_MAX:
            raise ValueError(f"a block of {size} bytes: 1 byte to 1 MiB can be stored")
        stored = block if block[-1] else zero_truncated(block)
        score: Score = blake3(stored).digest()  # type: ignore[assignment]
        if self._closed:
            self._check_open()
        with self._lock:
            counters = self._writer.counters
            if (
                score in self._writer.pending
                or self._reader.index.known(score)
                or (self._claims is not None and self._claims.taken(score))
            ):
                new = False
                counters.known_blocks += 1
                counters.known_bytes += len(stored)
            else:
                new = len(stored) > 0
                if new:
                    self._add(score, stored, ClumpKind.NODE if node else ClumpKind.DATA)
                    counters = self._writer.counters  # a commit in `_add` replaces them
            counters.put_blocks += 1
            counters.put_bytes += size
            if stored is not block:
                counters.zero_bytes += size - len(stored)
        return score, new

    def _add(self, score: Score, block: Buffer, kind: ClumpKind) -> None:
        if self.mode == "read":
            raise VentifsError(f"{self.path}: the store is open for reading only")
        if self._writer.full(self._pending_max):
            self._relieve()
        if self.mode == "rehearse":
            self._writer.pending[score] = None
            return
        try:  # the same as `_all_or_nothing`, which costs more; see docs/performance.md
            self._writer.add(score, block, kind)
        except VentifsError:
            raise
        except BaseException as error:
            self._writer.break_off(error)
            raise

    def _relieve(self) -> None:
        """Make room for more pending blocks."""
        if self.writes:
            self.commit()
        elif self.mode == "rehearse":
            self._writer.pending.clear()
        elif self._give is not None:
            self._give(self.hand_over())

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Run a change of the writer; after an unexpected exception, refuse all further writes.

        Ctrl-C or a bug can interrupt the change between two steps. Then only a new recovery can
        find out what is stored. The writer itself handles a `VentifsError`.
        """
        try:
            yield
        except VentifsError:
            raise
        except BaseException as error:
            self._writer.break_off(error)
            raise

    def get(self, score: Score) -> memoryview:
        """A block, without its trailing zeros.

        Returns:
            A read-only view into a decoded clump; `bytes(view)` keeps the block alone.

        Raises:
            NotStored: the store has no such block.
            Corrupt: its bytes are damaged.
            IndexDamaged: the index contradicts the arenas.
        """
        block = self._reader.cache.get(score)
        if block is not None:
            return block
        if score == ZERO_SCORE:
            return ZERO_BLOCK
        return self._load(score)

    def cached(self, score: Score) -> memoryview | None:
        """A block, if it is in memory in a decoded clump; never reads a file or the index."""
        return ZERO_BLOCK if score == ZERO_SCORE else self._reader.cache.get(score)

    def cached_clump(self, score: Score) -> DecodedClump | None:
        """The decoded clump that has a block, if it is in memory.

        A caller that reads from the clump sets `used`, and keeps at most a weak reference to it.
        """
        return self._reader.cache.holder(score)

    def _load(self, score: Score) -> memoryview:
        self._check_open()
        if len(score) != SCORE_SIZE:
            raise ValueError(f"a score has {SCORE_SIZE} bytes, not {len(score)}")
        place = self._pending_place(score)
        if isinstance(place, memoryview):
            return place
        return self._reader.read(score, place)

    def _pending_place(self, score: Score) -> Place | memoryview | None:
        """The place of a block that the index does not list yet, or the block itself."""
        if score not in self._writer.pending:  # no lock: another thread may be in a long commit
            return None
        with self._lock:
            written = self._writer.pending.get(score)
            if written is not None:
                arena, offset, scores = written
                return Place(arena, offset, scores.index(score))
            gathered = self._writer.gathered(score)
        return None if gathered is None else memoryview(gathered)

    def _follow_rebuild(self) -> None:
        """Look at the index that is in place now."""
        self._check_open()
        self._reader.follow_rebuild()

    def _check_open(self) -> None:
        if self._closed:
            raise VentifsError(f"{self.path}: the store is closed")

    def has(self, score: Score) -> bool:
        """Whether the store has a block. The zero block is always there."""
        return self.has_many([score])[0]

    def has_many(self, scores: Sequence[Score]) -> list[bool]:
        """`has` for each score; cheaper than asking one by one."""
        self._check_scores(scores)
        self._check_open()
        pending = self._writer.pending  # read first: a commit moves blocks from it to the index
        waiting = [score in pending or score == ZERO_SCORE for score in scores]
        indexed = self._reader.known_many(scores)
        return [known or waits for known, waits in zip(indexed, waiting, strict=True)]

    def locate_many(self, scores: Sequence[Score]) -> list[Place | None]:
        """Where the index has each block, all as of one moment.

        None stands for a block that is not committed, and for the zero block, which has no place.
        A place is true until the block's arena is dropped. `get` verifies what is there.
        """
        self._check_scores(scores)
        self._check_open()
        return self._reader.locate_many(scores)

    @staticmethod
    def _check_scores(scores: Sequence[Score]) -> None:
        for score in scores:
            if len(score) != SCORE_SIZE:
                raise ValueError(f"a score has {SCORE_SIZE} bytes, not {len(score)}")

    def absent(self, scores: Collection[Score]) -> dict[Score, str]:
        """The blocks that the arenas lack where the index leads, whatever the index says.

        Reads the heads of the blocks' clumps, each once, in the order in which they lie; no
        payload. Uses about 300 bytes of memory for each score.

        Returns:
            Why each of them is not there, as the rest of a sentence that begins with the block.

        Concurrency: as `get`. Arenas that are dropped meanwhile are no reason: a block that is not
        found is looked up again, twice, as in `get`.
        """
        self._check_open()
        pending = self._writer.pending  # read first: a commit moves blocks from it to the index
        wanted = {score for score in scores if score not in pending and score != ZERO_SCORE}
        return self._reader.absent(wanted)

    # --- commits and records ------------------------------------------------------------------

    def check_writable(self) -> None:
        """See that the store is open, and for writing.

        Raises:
            VentifsError: it is not.
        """
        self._check_open()
        if not self.writes:
            raise VentifsError(f"{self.path}: the store is not open for writing")

    def commit(
        self,
        puts: Sequence[tuple[bytes, bytes] | Record] = (),
        deletes: Sequence[Record] = (),
        *,
        drops: Mapping[bytes, CommitCounters] | None = None,
        from_reserve: bool = False,
    ) -> list[Record]:
        """Make every block put so far durable and findable, and change the records atomically.

        When this returns, everything is on disk. When it raises, or the process dies, either all
        changes of records have taken effect or none has. Blocks may be findable even then.

        Args:
            puts: (key of 1 to 400 bytes, value of up to 256 KiB) of records to add; keys need not
                be unique. A `Record` keeps its id; it is ignored if it was ever deleted.
            deletes: records to remove; one that is gone already is ignored.
            drops: arenas that were dropped before, of which the journal has lost it.
            from_reserve: on a full disk, use the space of the store's reserve. For commits that
                free something, or lead to it, alone.

        Returns:
            The records added.

        Raises:
            ValueError: for a key or value out of range.
            NoSpace, VentifsError: nothing is changed. The commit can be tried again, unless writing
                to an arena was broken off, by a failed sync for one: then open the store again.
        """
        records = [put if isinstance(put, Record) else Record.new(*put) for put in puts]
        for record in records:
            if problem := record_problem(len(record.key), len(record.value)):
                raise ValueError(problem)
        self.check_writable()
        changes = Changes(records, [record.id for record in deletes], drops or {})

        def step() -> None:
            self._writer.commit(changes)

        with self._lock, self._all_or_nothing():
            if from_reserve:
                with_reserve(step, self.path, self.header.reserve, self._files)
            else:
                step()
        return records

    def drop_arenas(
        self,
        doomed: Collection[bytes],
        deletes: Collection[bytes] = (),
        journals: "Journals | None" = None,
    ) -> None:
        """Take nothing from some sealed arenas any more; their files stay where they are.

        Records in them are put again with their ids. Blocks are not: the caller has seen to it that
        what is needed of them is elsewhere, and that no other process changes records meanwhile.
        On a full disk, the space of the store's reserve is used.

        Args:
            doomed: their ids.
            deletes: ids of records that the same commit deletes.
            journals: what of the arenas' journals was read before.

        Raises:
            Corrupt: an arena's file is missing; nothing is dropped.
            VentifsError: an arena is not sealed and indexed, or dropped already.
            Unsupported: programs that know no drops may write to the store.
            NoSpace: as `commit`.
        """
        from ventifs.store.dropping import Journals, drop_of  # rarely needed

        self.check_writable()
        require_reclaimed(self.path, self.header)

        def step() -> None:
            self._writer.commit(Changes())  # so that its own arena is no exception
            sealed = {state.arena for state in self._index.arena_states(sealed=True)}
            if unfit := set(doomed) - sealed:
                raise VentifsError(f"arena {min(unfit).hex()} is not sealed, and cannot be dropped")
            read = journals or Journals(self._arenas)
            present = self._arenas.all_ids()
            drop = drop_of(read, present, doomed, self._index.snapshot(), deletes)
            self._writer.commit(drop.changes, drop.expunged)

        with self._lock, self._all_or_nothing():
            with_reserve(step, self.path, self.header.reserve, self._files)
            for arena in doomed:
                self._arenas.forget_reader(arena)

    def records(self, prefix: bytes = b"") -> list[Record]:
        """The committed records whose keys begin with `prefix`, in order of key.

        Raises:
            IndexDamaged: when the index has lost or changed any record.
        """
        self._follow_rebuild()
        return [record for record in self._index.records() if record.key.startswith(prefix)]

    def has_record(self, key: bytes, record_id: bytes) -> bool:
        """Whether a committed record is there still; cheaper than `records`.

        Args:
            key: the record's.
            record_id: the record's.

        Raises:
            IndexDamaged: when the index has lost or changed any record.
        """
        self._follow_rebuild()
        return self._index.has_record(key, record_id) or any(
            record.id == record_id for record in self.records(key)
        )

    def lease(self, *roots: bytes) -> Lease:
        """Keep what roots refer to from being reclaimed, while the lease is held.

        The caller looks up afterwards whether the roots are still in the catalog: only then is
        everything there, and stays there. Closing the store ends its leases.

        Args:
            roots: encoded root entries, of 1 byte to 256 KiB each.
        """
        self._check_open()
        return self._leases.take(*roots)

    @property
    def closed(self) -> bool:
        """Whether it was closed: what is in memory may still be read, nothing else."""
        return self._closed

    @property
    def cached_bytes(self) -> int:
        """Bytes of decoded clumps in memory."""
        return self._reader.cache.bytes

    @property
    def generation(self) -> bytes:
        """A value that stays equal while the committed records stay the same; costs one look-up."""
        self._follow_rebuild()
        return self._index.catalog_mark

    def hand_over(self) -> WorkerBatch:
        """For a worker: make every block put so far durable, for the parent's `adopt`.

        Raises:
            NoSpace, VentifsError: nothing is handed over. It can be tried again, as in `commit`.
        """
        self._check_open()
        with self._lock, self._all_or_nothing():
            return self._writer.hand_over()

    def adopt(self, batch: WorkerBatch) -> None:
        """For the parent: include a worker's blocks in the next commit."""
        self._check_open()
        with self._lock:
            with self._all_or_nothing():
                self._writer.adopt(batch)
            if self._writer.full(self._pending_max):
                self.commit()

    @property
    def stored_bytes(self) -> int:
        """Bytes that this store object, and the workers it adopted from, appended to arenas."""
        return self._writer.stored_bytes

    @property
    def epoch(self) -> bytes:
        """8 bytes that change when blocks that a version needs may be lost: a rebuild, a repair."""
        self._follow_rebuild()
        return self._index.epoch

    def stats(self) -> Stats:
        """What the store holds and saves, as of the last commit."""
        self._follow_rebuild()
        return measured(self.path, self._arenas, self._index)

    def sizes(self, scores: Iterable[Score]) -> Sizes:
        """The space that some committed blocks take, each counted once.

        Reads only the heads of the blocks' clumps, and uses about 200 bytes of memory per clump.

        Concurrency: as `get`.

        Raises:
            NotStored: the store lacks one of them.
            Corrupt: a head is damaged.
        """
        self._check_open()
        return self._reader.sizes(scores)

    def sizes_by_part(self, part_of: Callable[[Score], int]) -> dict[int, tuple[int, Sizes]]:
        """The space that all committed blocks take, in parts: (number of blocks, sizes) of each.

        Reads the whole index and the heads of all clumps, and uses about 200 bytes of memory for
        each part of a clump. Entries of the index that are damaged are left out.

        Args:
            part_of: returns the part that a block belongs to, also when it is asked again.

        Concurrency: as `get`. Blocks that others commit meanwhile may be among them or not.

        Raises:
            Corrupt: a head is damaged.
        """
        self._check_open()
        return self._reader.sizes_by_part(part_of)

    def close(self) -> None:
        """Commit pending blocks, if the store `writes`, and release all resources; idempotent.

        Raises:
            NoSpace, VentifsError: the commit failed; all resources are released nevertheless.
        """
        try:
            if self.writes and not self._closed:
                self.commit()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Release all resources without a commit; the next writer indexes what arenas hold."""
        with self._lock:
            self._closed = True
            self._leases.close()
            self._resources.close()
            self._arenas.close()

    def __enter__(self) -> Self:
        """The store itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; after an exception, without a commit."""
        if error is None:
            self.close()
        else:
            self.abandon()
