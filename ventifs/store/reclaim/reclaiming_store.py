"""A store that is open to give space back: the steps of a reclaim that concern blocks and arenas.

The layers above mark what lives, and say in what order the steps are taken. FORMAT.md, section
Reclaiming, has the protocol and says why it is safe.
"""

import os
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import compress
from operator import not_

from ventifs.errors import Busy, Corrupt, NoSpace, VentifsError
from ventifs.store.dropping import Journals
from ventifs.store.index import Index
from ventifs.store.lock import both_gates_alone, gate_alone, idle_gate, recovery_lock, turn
from ventifs.store.reclaim.condemned import announce, condemn, empty, withdraw
from ventifs.store.reclaim.copy import LiveBlocks, live_blocks, read_ahead
from ventifs.store.reclaim.join import IN_USE, ArenaUse, ArenaUses, outlines_of
from ventifs.store.recovery import recover
from ventifs.store.reserve import replenish, with_reserve
from ventifs.store.score import SCORE_SIZE, Score
from ventifs.store.spill import Spill
from ventifs.store.store import Store

_ROOM_MARGIN = 64 << 20  # bytes that copies leave free, or a tenth of what is free
_BATCH = 4096  # scores looked up at a time
_LIVE = ord("1")
_COMMIT_EVERY = 1 << 30  # bytes of copies
_YOUNG_NS = 24 * 3600 * 10**9
_MEMORY = 16 << 20  # bytes of scores that live in arenas that are to go
_EMPTIED = 64  # arenas at a time: each time, their directory is synced
_SAMPLE = 8 << 20  # bytes read to find out how long copying takes
_WRITING = 2.0  # times as long as reading alone takes copying
_MEND = "'ventifs check --repair' mends that"

LeftOut = dict[bytes, str]  # arenas that leave the plan, and why


class ReclaimingStore(Store):
    """As `Store`, in mode "reclaim"; in mode "read" it only measures.

    Concurrency: one thread.
    """

    _alone = False
    _looked_at: Index | None = None

    def uses(self) -> ArenaUses:
        """The use of all arenas, of which no live block is known yet."""
        self._follow_rebuild()
        self._looked_at = self._index
        uses = ArenaUses(self._index, self._arenas)
        try:
            with ExitStack() as stack:
                if not self._alone:
                    stack.enter_context(both_gates_alone(self.path))
        except Busy:  # what is being archived looks dead until its version is there
            uses.pass_over(time.time_ns() - _YOUNG_NS)
        except VentifsError:
            pass  # a dry run by a user that may only read
        return uses

    def journals(self) -> Journals:
        """The journals of all arenas that are sealed now, read so that the flip need not."""
        journals = Journals(self._arenas)
        journals.read_ahead()
        return journals

    def room(self) -> int:
        """Bytes that copies may take on the disk."""
        status = os.statvfs(self.path)
        free = status.f_bavail * status.f_frsize
        return max(0, free - min(_ROOM_MARGIN, free // 10))

    def seal(self, batch: Sequence[ArenaUse]) -> LeftOut:
        """Seal the open arenas of a batch, so that they can be copied and dropped.

        Returns:
            Those that others have begun to write to, or that are damaged.
        """
        self.check_writable()
        left: LeftOut = {}

        def seal(use: ArenaUse) -> None:
            try:
                use.sealed = self._writer.seal_open(use.arena, use.length)
                if not use.sealed:
                    left[use.arena] = IN_USE
            except Corrupt as error:
                left[use.arena] = f"{error}; {_MEND}"

        def step() -> None:
            for use in batch:
                if not use.sealed:
                    seal(use)
            self.commit()

        with self._lock, self._all_or_nothing():
            self._with_reserve(step)
        return left

    def copy(self, batch: Sequence[ArenaUse], progress: Callable[[int], None]) -> LeftOut:
        """Store what lives in arenas once more, elsewhere, and commit it.

        Args:
            batch: the arenas, sealed.
            progress: called with the bytes of each clump copied.

        Returns:
            Those in which a live block is damaged, or for which there was no room.

        Raises:
            VentifsError: the copies cannot be committed. What was copied costs space until the
                next reclaim.
        """
        left: LeftOut = {}
        since_commit = 0
        for use in batch:
            if not use.live_blocks:
                continue
            try:
                with closing(self._read(use, left)) as clumps:
                    for clump in clumps:
                        self._add_live(clump)
                        since_commit += clump.size
                        progress(clump.size)
                        if since_commit >= _COMMIT_EVERY:
                            self.commit(from_reserve=True)
                            since_commit = 0
            except NoSpace as error:
                left[use.arena] = str(error)
        self.commit(from_reserve=True)
        return left

    def _read(self, use: ArenaUse, left: LeftOut) -> Generator[LiveBlocks, None, None]:
        """What lives in an arena; if that cannot be read, the reason is added to `left`."""
        try:
            with closing(read_ahead(live_blocks(self._arenas.reader(use.arena), use))) as clumps:
                yield from clumps
        except VentifsError as error:
            left[use.arena] = str(error)

    def _add_live(self, clump: LiveBlocks) -> None:
        """Store live blocks once more."""
        with self._lock, self._all_or_nothing():
            if clump.frame is not None:
                listed = [(score, len(block)) for score, block in clump.blocks]
                self._writer.add_clump(clump.kind, listed, clump.frame)
            else:
                for score, block in clump.blocks:
                    if score not in self._writer.pending:
                        self._writer.add(score, block, clump.kind)
        if self._writer.full(self._pending_max):
            self.commit(from_reserve=True)

    @property
    def index_changes(self) -> int:
        """Grows whenever a process changes the index."""
        self._follow_rebuild()
        return self._index.changes

    def alive_in(self, doomed: Collection[bytes], live: Spill) -> set[bytes]:
        """Which of some arenas live blocks are in, by the index."""
        found: set[bytes] = set()
        for piece in live.pieces():
            for start in range(0, len(piece), _BATCH):
                scores = [Score(score) for score in piece[start : start + _BATCH]]
                found |= self._index.arenas_of(scores)
        return found.intersection(doomed)

    @contextmanager
    def writers_apart(
        self, doomed: Collection[bytes], wait_s: float | None, *, wait: bool = False
    ) -> Iterator[bool]:
        """Wait until no process that writes can rely on a block in some arenas.

        The arenas are announced as condemned. Then either no process writes, and those that come
        meanwhile wait. Or the writers of this moment are waited for, and those that come meanwhile
        store again what they find in these arenas.

        After an exception the announcement stays: what was committed may not be in the index, and
        writers must not rely on what it says until it is.

        Args:
            doomed: the arenas.
            wait_s: how many seconds to wait; None for as long as it takes.
            wait: whether to let others write meanwhile in any case.

        Yields:
            Whether others may write meanwhile.

        Raises:
            Busy: others write for longer than `wait_s`.
            NoSpace: there is no room for the announcement, with the reserve neither.
        """
        with ExitStack() as gates:
            try:
                shared = self._take_gates(gates, doomed, wait_s, wait=wait)
            except BaseException:
                withdraw(self.path, self._files)
                raise
            yield shared
            withdraw(self.path, self._files)

    def _take_gates(
        self, gates: ExitStack, doomed: Collection[bytes], wait_s: float | None, *, wait: bool
    ) -> bool:
        if self._alone or not wait:
            with suppress(Busy):
                if not self._alone:
                    gates.enter_context(both_gates_alone(self.path))
                self._with_reserve(lambda: announce(self.path, doomed, self._files))
                return False
        # An interrupted reclaim may have left writers at the idle gate. They are waited for before
        # the turn: afterwards they look like writers that came after the announcement.
        idle = idle_gate(self.path)
        with gate_alone(self.path, idle, wait_s=wait_s):
            pass

        def step() -> None:
            announce(self.path, doomed, self._files)
            turn(self.path, idle, self._files)

        self._with_reserve(step)
        gates.enter_context(gate_alone(self.path, 1 - idle, wait_s=wait_s))
        return True

    def _with_reserve(self, step: Callable[[], None]) -> None:
        with_reserve(step, self.path, self.header.reserve, self._files)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep all other writers out.

        Raises:
            Busy: there are some.
        """
        with both_gates_alone(self.path):
            self._alone = True
            try:
                yield
            finally:
                self._alone = False

    def recover_again(self) -> None:
        """Index what writers that died since left out of the index."""

        def step() -> None:
            with recovery_lock(self.path):
                recover(self._arenas, self._index, self._files)

        self._with_reserve(step)

    def replaced(self) -> bool:
        """Whether another index came into place since the use of arenas was looked at."""
        self._follow_rebuild()
        return self._index is not self._looked_at

    def scores_in(self, batch: Iterable[ArenaUse], scores: Spill, live: Spill) -> Spill:
        """Sort the blocks in arenas into those that live and those whose entries may lead nowhere.

        A block that lives here has been copied, and the index leads to the copy. A block that does
        not is dead, or another copy of it lives elsewhere: only `live` tells. Sets the problem of
        arenas that cannot be read.

        Args:
            batch: the arenas.
            scores: the scores of blocks that do not live here are added.
            live: all scores that live, with those of other arenas.

        Returns:
            The scores of blocks that live, here or elsewhere. The caller closes it.

        Raises:
            NoSpace: there is no room for temporary files.
        """
        alive = Spill(SCORE_SIZE, memory=_MEMORY)
        for use in batch:
            try:
                self._sort_scores(use, alive, scores)
            except NoSpace:
                alive.close()
                raise
            except VentifsError as error:
                use.problem = f"{error}; {_MEND}"
        for piece in scores.pieces():
            alive.add(compress(piece, live.holds(piece)))
        return alive

    def _sort_scores(self, use: ArenaUse, alive: Spill, others: Spill) -> None:
        """Add the scores of an arena's blocks that live here to `alive`, all others to `others`."""
        flags, start = use.flags(), 0
        for _, clump in outlines_of(self._arenas.reader(use.arena), use):
            scores, end = clump.scores(), start + clump.count
            living = flags.count(b"1", start, end)
            if living == clump.count:
                alive.add(scores)
            elif not living:
                others.add(scores)
            else:
                lives = [flag == _LIVE for flag in flags[start:end]]
                alive.add(compress(scores, lives))
                others.add(compress(scores, map(not_, lives)))
            start = end

    def condemn(self, doomed: Collection[bytes]) -> None:
        """Move dropped arenas away, durably, so that no other process opens them."""
        condemn(self._arenas, doomed, self._files)

    def empty(self, doomed: Sequence[ArenaUse], progress: Callable[[int], None]) -> None:
        """Give the space of condemned arenas back."""
        for start in range(0, len(doomed), _EMPTIED):
            some = doomed[start : start + _EMPTIED]
            empty(self._arenas, [use.arena for use in some], self._files)
            progress(sum(use.file_bytes for use in some))

    def replenish(self) -> None:
        """Make the reserve again, if it was used and there is room now."""
        replenish(self.path, self.header.reserve, self._files)

    def remove_entries(self, scores: Spill) -> int:
        """Remove the index's entries of blocks in dropped arenas; return how many there were."""
        return sum(
            self._index.remove_leftovers([Score(score) for score in piece])
            for piece in scores.pieces()
        )

    def seconds_a_byte(self, batch: Iterable[ArenaUse]) -> float:
        """About how long copying takes, from reading a sample of what lives in arenas."""
        began, size = time.perf_counter(), 0
        for use in batch:
            with suppress(VentifsError):
                for clump in live_blocks(self._arenas.reader(use.arena), use):
                    size += clump.size
                    if size >= _SAMPLE:
                        break
            if size >= _SAMPLE:
                break
        return _WRITING * (time.perf_counter() - began) / max(size, 1)
