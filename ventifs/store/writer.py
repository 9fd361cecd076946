"""The writing side of an open store: pending blocks, growing arenas, and the commit.

A `Writer` receives only blocks that are new to the store. It gathers them into clumps, data and
nodes apart. A thread compresses the clumps while the caller goes on gathering (zstd releases the
GIL), and each clump is then appended to an arena. On commit the writer makes its arenas durable,
writes the commit clump, and only then updates the index.

Invariants: a block counts as known from the moment it is added. The index never names a byte that
is not durable. A commit that fails leaves the catalog as it was, and everything added is still
pending for the next try.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import msgspec
import zstandard
from msgspec.structs import replace

from ventifs.buffer import Buffer
from ventifs.errors import Corrupt, VentifsError
from ventifs.store.appender import Appender, NotDurable, lock_arena
from ventifs.store.arena_state import ArenaState
from ventifs.store.arenas import Arenas
from ventifs.store.clump import CLUMP_RAW_MAX, ClumpKind, OpenClump, Packed, pack
from ventifs.store.files import Files, readable_errors
from ventifs.store.index import Index
from ventifs.store.journal import (
    Changes,
    Commit,
    CommitCounters,
    encode_changes,
    encode_commit,
)
from ventifs.store.score import Score

log = logging.getLogger("ventifs.store")

Written = tuple[bytes, int, tuple[Score, ...]]  # arena id, clump offset, its blocks in order

_ARENAS_MAX = 1000  # that one commit relies on; workers add a few more


class WorkerBatch(msgspec.Struct):
    """What a worker has made durable for its parent to commit. Picklable.

    Attributes:
        states: how far each of the worker's arenas goes.
        written: the clumps in them that the index does not know.
        counters: what was put.
    """

    states: list[ArenaState] = msgspec.field(default_factory=list)
    written: list[Written] = msgspec.field(default_factory=list)
    counters: CommitCounters = msgspec.field(default_factory=CommitCounters)

    def add(self, other: "WorkerBatch") -> None:
        """Merge a batch of other arenas, or a later batch, into this one."""
        self.written += other.written
        self.counters.add(other.counters)
        by_arena = {state.arena: state for state in self.states}
        for state in other.states:
            earlier = by_arena.get(state.arena)
            if earlier is None:
                self.states.append(state)
                continue
            earlier.length = max(earlier.length, state.length)
            earlier.sealed = earlier.sealed or state.sealed
            earlier.totals.add(state.totals)


class Writer:
    """Appends new blocks and commits them.

    Concurrency: one thread at a time; `Store` holds a lock around it.

    Attributes:
        pending: every block added that the index does not list yet, and the clump it stands in
            (None while that clump is still being gathered).
        counters: what was put since the last commit; the store counts here.
        stored_bytes: clumps appended so far, adopted ones included.
    """

    def __init__(
        self,
        arenas: Arenas,
        index: Index,
        files: Files,
        *,
        arena_size: int,
        level: int,
        threaded: bool = True,
    ) -> None:
        """Write nothing yet; an arena is resumed or created when the first clump needs one.

        Without `threaded` the caller compresses: where every processor has its own process already,
        a thread would only compete with it.
        """
        self.pending: dict[Score, Written | None] = {}
        self.counters = CommitCounters()
        self.stored_bytes = 0
        self._arenas = arenas
        self._index = index
        self._files = files
        self._arena_size = arena_size
        self._compressor = zstandard.ZstdCompressor(level=level, write_content_size=True)
        self._gathering = {
            ClumpKind.DATA: OpenClump(ClumpKind.DATA),
            ClumpKind.NODE: OpenClump(ClumpKind.NODE),
        }
        self._spare: list[OpenClump] = []
        self._sent: deque[tuple[OpenClump, Future[Packed]]] = deque()  # oldest first
        self._thread = ThreadPoolExecutor(1, "ventifs-writer") if threaded else None
        self._appender: Appender | None = None
        self._done: list[Appender] = []  # sealed, and not known to the index
        self._handed: list[Appender] = []  # sealed, and known to the parent
        self._batch = WorkerBatch()  # not yet in the index; a commit makes it durable first
        self._new_names = False  # whether arenas were created whose names are not durable
        self._broken: str | None = None  # not the exception: its traceback would keep arenas open

    def _check(self) -> None:
        if self._broken is not None:
            raise VentifsError(self._broken)

    def full(self, pending_max: int) -> bool:
        """Whether a commit is due, to keep memory and the commit clump bounded."""
        return len(self.pending) >= pending_max or len(self._batch.states) >= _ARENAS_MAX

    def add(self, score: Score, block: Buffer, kind: ClumpKind) -> None:
        """Add a block that is not known.

        Raises:
            NoSpace, VentifsError: when a full clump could not be written; the block is not added,
                and earlier blocks are unaffected.
        """
        self._check()
        clump = self._gathering[kind]
        if not clump.fits(len(block)):
            if len(block) > CLUMP_RAW_MAX:
                self._land(0)
                self._append(kind, [(score, len(block))], pack(block, self._compressor))
                return
            clump = self._send(clump)
        clump.add(score, block)
        self.pending[score] = None

    def add_clump(self, kind: ClumpKind, blocks: list[tuple[Score, int]], packed: Packed) -> None:
        """Add blocks that are compressed together already, also blocks that are known.

        Raises:
            NoSpace, VentifsError: as `add`.
        """
        self._check()
        self._append(kind, blocks, packed)

    def seal_open(self, arena_id: bytes, length: int) -> bool:
        """Seal an open arena, which the next commit tells the index.

        Args:
            arena_id: the arena's.
            length: bytes that it has, all of them indexed.

        Returns:
            Whether it is sealed: not if a process writes to it, or has since.

        Raises:
            Corrupt: a clump in it is damaged, so that it cannot be sealed.
            NoSpace, VentifsError: it cannot be sealed, and is as before.
        """
        self._check()
        if not self._is_indexed(self._index.arena_state(arena_id)):
            return False
        arena = lock_arena(self._arenas.open_path(arena_id))
        if arena is None:
            return False
        state = self._index.arena_state(arena_id)  # again, now that it can no longer change
        if state.sealed or not state.length == length == arena.length():
            return False
        self._sealed(Appender.resume(arena, self._files, state.totals))
        return True

    def gathered(self, score: Score) -> bytes | None:
        """A block whose clump is still being gathered or compressed, if there is one."""
        for clump in (*self._gathering.values(), *(clump for clump, _ in self._sent)):
            if score in clump.spans:
                return clump.block(score)
        return None

    def _send(self, clump: OpenClump) -> OpenClump:
        """Start compressing a full clump, and return an empty one to fill next.

        At most two clumps are with the thread: one is compressed while the other is queued. So the
        thread need not wait for the GIL, which a busy caller releases only every 5 ms.

        Raises:
            NoSpace, VentifsError: an earlier clump could not be written (or this one, without a
                thread); nothing has changed.
        """
        if self._thread is None:
            self._append(clump.kind, clump.blocks(), pack(clump.raw(), self._compressor))
            clump.clear()
            return clump
        self._land(1)
        fresh = self._spare.pop() if self._spare else OpenClump(clump.kind)
        fresh.kind = clump.kind
        self._gathering[clump.kind] = fresh
        packing = self._thread.submit(pack, clump.raw(), self._compressor)
        self._sent.append((clump, packing))
        return fresh

    def _land(self, leave: int) -> None:
        """Append the clumps that were sent to the thread, oldest first, until `leave` remain.

        Waits for the thread where a clump is not compressed yet. A clump that cannot be written
        stays in the queue, and the next call tries it again.

        Raises:
            NoSpace, VentifsError: a clump cannot be written.
        """
        while len(self._sent) > leave:
            clump, packing = self._sent[0]
            self._append(clump.kind, clump.blocks(), packing.result())
            self._sent.popleft()
            clump.clear()
            self._spare.append(clump)

    def _append(self, kind: ClumpKind, blocks: list[tuple[Score, int]], packed: Packed) -> None:
        appender = self._appender_for(len(packed.payload), len(blocks))
        offset = appender.append(kind, blocks, packed)
        self.stored_bytes += appender.length - offset
        scores = tuple([score for score, _ in blocks])
        written = (appender.id, offset, scores)
        self._batch.written.append(written)
        for score in scores:
            self.pending[score] = written

    def _appender_for(self, raw_length: int, blocks: int) -> Appender:
        if self._appender is not None:
            if self._appender.room(self._arena_size, raw_length, blocks):
                return self._appender
            self._seal(self._appender)
            self._appender = None
        self._appender = self._resumed(raw_length, blocks) or self._created()
        return self._appender

    def _seal(self, appender: Appender) -> None:
        """Seal an arena; its lock is held until the index knows it."""
        try:
            self._sealed(appender)
        except Corrupt as error:  # it stays unsealed, and this writer appends no more to it
            log.error("it cannot be sealed: %s; 'ventifs check' tells more", error)
            self._keep(appender)

    def _sealed(self, appender: Appender) -> None:
        try:
            appender.seal()
        except NotDurable as error:
            raise self.break_off(error) from error
        self._keep(appender)

    def _keep(self, appender: Appender) -> None:
        """Keep an arena locked, to which no more is appended, until the index knows its state."""
        self._batch.add(WorkerBatch([appender.state()]))
        self._done.append(appender)

    def _created(self) -> Appender:
        self._new_names = True
        return Appender.create(self._arenas, self._files)

    def _resumed(self, raw_length: int, blocks: int) -> Appender | None:
        """Lock and resume an arena that is not full and is wholly indexed; None without one."""
        known = {state.arena: state for state in self._index.arena_states(sealed=False)}
        for arena_id in self._arenas.open_ids():
            if arena_id not in known or not self._is_indexed(known[arena_id]):
                continue
            arena = lock_arena(self._arenas.open_path(arena_id))
            if arena is None:
                continue
            state = self._index.arena_state(arena_id)  # again, now that it can no longer change
            if state.sealed or state.length != arena.length():
                continue
            appender = Appender.resume(arena, self._files, state.totals)
            if appender.room(self._arena_size, max(raw_length, 2 * CLUMP_RAW_MAX), blocks):
                return appender
            self._seal(appender)
        return None

    def _is_indexed(self, state: ArenaState) -> bool:
        """Whether an arena seems to be wholly indexed. Of others, only a recovery takes the lock.

        A recovery passes over arenas that are locked, also over what a crash left in them.
        """
        try:
            return self._arenas.open_path(state.arena).stat().st_size == state.length
        except OSError:
            return False

    def _write_gathered(self) -> None:
        for clump in list(self._gathering.values()):
            if clump.spans:
                self._send(clump)
        self._land(0)

    def _make_durable(self) -> None:
        """Sync the current arena (sealed ones are durable already) and the names of new ones.

        Raises:
            VentifsError: that failed; the writer is broken off.
        """
        try:
            if self._appender is not None:
                self._appender.sync()
            if self._new_names:
                with readable_errors(self._arenas.open_directory):
                    self._files.sync_directory(self._arenas.open_directory)
                self._new_names = False
        except VentifsError as error:
            # After a failed fsync the kernel may have dropped the pages; a second one may succeed.
            raise self.break_off(error) from error

    def break_off(self, error: BaseException) -> VentifsError:
        """Refuse all further writes; the next recovery finds out what the arenas hold."""
        reason = str(error) or "writing was interrupted"
        self._broken = f"{reason}; nothing more is written: open the store again"
        return VentifsError(self._broken)

    def hand_over(self) -> WorkerBatch:
        """For a worker: make everything added durable, and return it for the parent to commit.

        Raises:
            NoSpace, VentifsError: when that fails; everything is kept for another try.
        """
        self._check()
        self._write_gathered()
        self._make_durable()
        batch, self._batch = self._outstanding(), WorkerBatch()
        kept, self._done = self._done, []
        self._handed = kept  # keeps their locks until the parent has had time to commit
        batch.counters, self.counters = self.counters, CommitCounters()
        self._settled()
        return batch

    def _outstanding(self) -> WorkerBatch:
        """What the index does not know yet, the current arena included."""
        batch = WorkerBatch(list(self._batch.states), self._batch.written)
        if self._appender is not None:
            batch.states.append(self._appender.state())
        return batch

    def _settled(self) -> None:
        if self._appender is not None:
            self._appender.settled()
        self.pending = {}

    def adopt(self, batch: WorkerBatch) -> None:
        """For the parent: include what a worker handed over in the next commit."""
        self._check()
        self._batch.add(batch)
        self.stored_bytes += sum(state.totals.stored_bytes for state in batch.states)
        for written in batch.written:
            self.pending.update(dict.fromkeys(written[2], written))

    def commit(self, changes: Changes, expunged: Sequence[bytes] = ()) -> None:
        """Make everything added durable and findable, and change the catalog.

        Args:
            changes: records keep the ids they have.
            expunged: ids of deleted records that nothing can put again, for the index.

        Raises:
            NoSpace, VentifsError: the catalog is as before. Everything added is still pending,
                unless the writer was broken off (see `break_off`).
        """
        self._check()
        self._write_gathered()
        counters = replace(self.counters)
        counters.add(self._batch.counters)
        if (
            self.pending
            or len(changes)
            or counters != CommitCounters()
            or any(state.sealed for state in self._batch.states)
        ):
            undo = self._journal(changes, counters)
            self._tell_index(changes, counters, expunged, undo)

    def _journal(self, changes: Changes, counters: CommitCounters) -> Callable[[], None]:
        """Write catalog clumps, sync, write the commit clump, sync; return a function to undo it.

        That function removes the commit clump again.
        """
        payloads = list(encode_changes(changes, CLUMP_RAW_MAX))
        largest = sum(map(len, payloads)) + CLUMP_RAW_MAX
        appender = self._appender_for(largest, len(payloads) + 1)  # the journal is never split
        start = appender.length
        for payload in payloads:
            appender.append(ClumpKind.CATALOG, [], pack(payload, self._compressor))
        self._make_durable()
        mark, totals = appender.length, replace(appender.totals)
        durable = [(state.arena, state.length) for state in self._batch.states]
        commit = Commit(
            max(0, time.time_ns()),
            mark - start,
            len(changes),
            counters,
            [*durable, (appender.id, mark)],
        )

        def undo() -> None:
            try:
                appender.cut_back(mark, totals)
            except VentifsError as error:
                raise self.break_off(error) from error
            self._make_durable()

        try:
            appender.append(ClumpKind.COMMIT, [], pack(encode_commit(commit), self._compressor))
            self._make_durable()
        except BaseException:
            undo()
            raise
        return undo

    def _tell_index(
        self,
        changes: Changes,
        counters: CommitCounters,
        expunged: Sequence[bytes],
        undo: Callable[[], None],
    ) -> None:
        batch = self._outstanding()
        try:
            by_arena: dict[bytes, list[tuple[Score, int, int]]] = {}
            for arena, offset, scores in batch.written:
                entries = by_arena.setdefault(arena, [])
                entries.extend((score, offset, at) for at, score in enumerate(scores))
            for arena, entries in by_arena.items():
                self._index.add_blocks(arena, entries)
            self._index.settle(batch.states, changes, counters, expunged)
        except VentifsError:
            undo()
            raise
        self._batch, self.counters = WorkerBatch(), CommitCounters()
        self._settled()
        for state in batch.states:
            if state.sealed:
                move_sealed(self._arenas, self._files, state.arena)
        self._done = []

    def close(self) -> None:
        """Release thread and arenas; what was not committed stays for the next recovery."""
        if self._thread is not None:
            self._thread.shutdown()
        for appender in (*self._done, *self._handed, *([self._appender] if self._appender else [])):
            appender.unlock()
        self._appender = None
        self._done, self._handed = [], []


def move_sealed(arenas: Arenas, files: Files, arena_id: bytes) -> None:
    """Move an arena that is sealed and wholly indexed to `sealed/`."""
    source, target = arenas.open_path(arena_id), arenas.sealed_path(arena_id)
    with readable_errors(source), suppress(FileNotFoundError):  # another process was quicker
        files.rename(source, target)
