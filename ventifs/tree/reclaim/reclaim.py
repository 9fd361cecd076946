"""Gives back the space of what nothing needs any more, beside running archives and readers.

The order of steps is what makes it safe; the store's FORMAT.md, section Reclaiming, proves it:

1. Mark what versions and leases need, beside writers. The forgotten versions that go are those of
   this moment.
2. Choose arenas, copy what lives in them, commit.
3. Wait until no writer can rely on what is in them. Mark what was archived since; arenas with
   blocks that came alive stay.
4. Under the catalog's lock, mark the rest, and commit: from then on the arenas are dropped.
5. Remove their files, and the entries of the index that led there.

Interrupted anywhere, nothing is lost: until step 4 the copies cost space, after it the next writer
removes the files.
"""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from ventifs.errors import NoSpace, VentifsError
from ventifs.store import SCORE_SIZE, Mode, Store
from ventifs.store.dropping import Journals
from ventifs.store.files import Files
from ventifs.store.journal import Record
from ventifs.store.reclaim.join import IN_USE, ArenaUse, ArenaUses
from ventifs.store.reclaim.plan import Choice, batches, choose, yielded
from ventifs.store.reclaim.reclaiming_store import ReclaimingStore
from ventifs.store.spill import Spill
from ventifs.tree.reclaim.mark import Marks
from ventifs.tree.reclaim.results import Limits, Reclaimed, ReclaimObserver, ReclaimPlan
from ventifs.tree.reclaim.roots import Roots, roots_again, roots_before
from ventifs.tree.versions.catalog_lock import catalog_lock
from ventifs.tree.versions.forgotten import Forgotten

_PASSES, _PASSES_MAX = (4, 16, 64), 256  # over all nodes, if there is no room for all scores
_REPLACED_MAX = 3
_REAL_FILES = Files()
_FREED_A_SECOND = 2 << 30  # bytes, about
NEEDED = "something in it is needed again"

AlsoDeleted = Callable[[Store, Sequence[Forgotten]], list[Record]]


class IndexReplaced(VentifsError):
    """Another index has come into place since the plan was made."""


def reclaim(
    root: Path,
    *,
    grace_ns: int = 0,
    limits: Limits = Limits(),  # noqa: B008, immutable
    dry_run: bool = False,
    wait_s: float | None = None,
    observer: ReclaimObserver | None = None,
    also: AlsoDeleted | None = None,
    files: Files = _REAL_FILES,
) -> Reclaimed:
    """Give back the space of a store that no version needs.

    Versions in the catalog stay, and those forgotten within the grace, and what a process reads at
    the moment. All other forgotten versions are gone for good.

    Args:
        root: the store's directory.
        grace_ns: nanoseconds for which forgotten versions can still be brought back.
        limits: how much may be left unused, and how much copied.
        dry_run: only plan; changes nothing, and needs no right to write.
        wait_s: how many seconds to wait for archive runs that are at work; by default as long as
            they take. New ones start meanwhile and are not waited for.
        observer: is notified of progress.
        also: returns further records that go with forgotten versions.
        files: for tests.

    Raises:
        Busy: another reclaim, rebuild, repair or upgrade is running, or writers for too long.
        Unsupported: programs that know nothing of reclaiming may write to the store.
        NotStored, Corrupt: something is damaged that a version needs. Nothing is dropped.
        NoSpace: there is not enough room, even for that; what was freed before stays so.
        VentifsError: the catalog has records that this program does not know.
    """
    observer = observer or ReclaimObserver()
    for _ in range(_REPLACED_MAX - 1):
        with suppress(IndexReplaced):
            return _reclaimed(root, grace_ns, limits, dry_run, wait_s, observer, also, files)
    return _reclaimed(root, grace_ns, limits, dry_run, wait_s, observer, also, files)


def _reclaimed(
    root: Path,
    grace_ns: int,
    limits: Limits,
    dry_run: bool,
    wait_s: float | None,
    observer: ReclaimObserver,
    also: AlsoDeleted | None,
    files: Files,
) -> Reclaimed:
    began = time.monotonic()
    mode: Mode = "read" if dry_run else "reclaim"
    with (
        ReclaimingStore.open(root, mode, wait_s=wait_s, files=files, reserve=True) as store,
        ExitStack() as stack,
    ):
        work = _Reclaim(store, observer, stack)
        plan = work.plan(time.time_ns() - grace_ns, limits, dry_run=dry_run)
        work.observer.planned(plan)
        if not dry_run:
            work.carry_out(wait_s, also)
        return Reclaimed(
            plan=plan,
            dry_run=dry_run,
            forgotten=[str(each) for each in work.forgotten],
            arenas=work.arenas,
            freed_bytes=work.freed_bytes - work.copied_bytes,
            copied_bytes=work.copied_bytes,
            left=work.left_because(in_use=False),
            in_use=work.left_because(in_use=True),
            seconds=time.monotonic() - began,
        )


class _Reclaim:
    """One reclaim.

    Attributes:
        roots: what was there at the beginning.
        forgotten: the forgotten versions that go, or have gone.
        left: arenas that are not reclaimed though something in them is dead, and why.
        arenas, freed_bytes: what was given back.
        copied_bytes: what was appended to arenas.
    """

    def __init__(self, store: ReclaimingStore, observer: ReclaimObserver, stack: ExitStack) -> None:
        """`stack` ends with the reclaim."""
        self.observer = observer
        self.arenas = self.freed_bytes = self.copied_bytes = 0
        self.left: dict[bytes, str] = {}
        self.roots: Roots
        self.forgotten: list[Forgotten] = []
        self._store = store
        self._stack = stack
        self._epoch = store.epoch
        self._choice: Choice
        self._marks: Marks
        self._doomed: frozenset[bytes] = frozenset()  # records that go, or have gone
        self._in_passes = False
        self._copied = 0  # bytes of what lives in the arenas that were copied

    def left_because(self, *, in_use: bool) -> list[str]:
        """The arenas that are left, a line each: those in use, or the others."""
        return [
            f"arena {arena.hex()}: {reason}"
            for arena, reason in self.left.items()
            if (reason in (NEEDED, IN_USE)) == in_use
        ]

    # --- the plan -----------------------------------------------------------------------------

    def plan(self, forgotten_until_ns: int, limits: Limits, *, dry_run: bool) -> ReclaimPlan:
        """Mark and choose."""
        self.roots = roots_before(self._store, forgotten_until_ns)
        found = self._marked(dry_run=dry_run)
        self.forgotten = self.roots.doomed
        uses = found.all()
        self._choice = choice = choose(uses, limits)
        for use in uses:
            if use.damaged:
                self.left[use.arena] = use.problem
        copied = sum(use.live_bytes for use in choice.repacked)
        freed = yielded([*choice.dead, *choice.repacked])
        return ReclaimPlan(
            versions=len(self.roots.versions),
            kept=len(self.roots.kept),
            doomed=len(self.roots.doomed),
            leased=self.roots.leased_alone,
            references=self._marks.references,
            blocks=found.blocks,
            live_blocks=sum(use.live_blocks for use in uses),
            arena_bytes=sum(use.file_bytes for use in uses),
            dead_arenas=len(choice.dead),
            dead_bytes=sum(use.file_bytes for use in choice.dead),
            repacked_arenas=len(choice.repacked),
            repacked_bytes=sum(use.file_bytes for use in choice.repacked),
            copied_bytes=copied,
            freed_bytes=freed,
            unused_bytes=choice.unused_bytes,
            skipped_arenas=sum(bool(use.problem and use.dead_bytes) for use in uses),
            seconds=copied * self._store.seconds_a_byte(choice.repacked) + freed / _FREED_A_SECOND,
        )

    def _marked(self, *, dry_run: bool) -> ArenaUses:
        """What lives; in as few passes as there is room for, of memory and temporary files."""
        with suppress(NoSpace):
            return self._marked_in(1, dry_run=dry_run)
        self._in_passes = True
        if not dry_run:  # what lives is not known in the end, so nothing may come alive
            self._stack.enter_context(self._store.alone())
            self.roots = roots_again(self._store, [_id_of(each) for each in self.roots.doomed])
        for passes in _PASSES:
            with suppress(NoSpace):
                return self._marked_in(passes, dry_run=dry_run)
        return self._marked_in(_PASSES_MAX, dry_run=dry_run)

    def _marked_in(self, passes: int, *, dry_run: bool) -> ArenaUses:
        """What lives, in passes that each keep the scores with some of the 256 first bytes."""
        uses = self._store.uses()
        step = 256 // passes
        for first in range(0, 256, step):
            marks = self._marks = Marks(
                self._store, first=first, end=first + step, progress=self._heard(uses)
            )
            try:
                marks.mark(self.roots.references())
                uses.add(marks.live, first=first, end=first + step, remove_leftovers=not dry_run)
            except BaseException:
                marks.close()
                raise
            if first + step < 256:
                marks.close()
        self._stack.callback(self._marks.close)
        return uses

    def _heard(self, uses: ArenaUses) -> Callable[[int], None]:
        blocks = uses.listed
        return lambda references: self.observer.marking(references, blocks)

    # --- carrying it out ----------------------------------------------------------------------

    def carry_out(self, wait_s: float | None, also: AlsoDeleted | None) -> None:
        """Copy, drop and free, in batches for which there is room."""
        doomed = [_id_of(each) for each in self.roots.doomed]
        if also is not None:
            doomed += [record.id for record in also(self._store, self.roots.doomed)]
        self._doomed = frozenset(doomed)
        journals = self._store.journals()
        total = sum(use.live_bytes for use in self._choice.repacked)
        for batch in batches(self._choice, self._store.room):
            self._copy(batch, total)
            staying = [use for use in batch if use.arena not in self.left]
            self._flip(staying, doomed, journals, wait_s)
            doomed = []
        if doomed:
            self._flip([], doomed, journals, wait_s)
        for use in self._choice.repacked:
            if not use.gone and use.arena not in self.left:
                self.left[use.arena] = (
                    f"there is no room to copy the {use.live_bytes:,} bytes that are needed in it; "
                    "make room, or forget more, and run it again"
                )
        self._store.replenish()

    def _copy(self, batch: list[ArenaUse], total: int) -> None:
        """Copy what lives in arenas."""
        self.left |= self._store.seal(batch)
        before = self._store.stored_bytes

        def progress(size: int) -> None:
            self._copied += size
            self.observer.copying(self._copied, total)

        batch = [use for use in batch if use.arena not in self.left]
        self.left |= self._store.copy(batch, progress)
        self.copied_bytes += self._store.stored_bytes - before

    def _flip(
        self,
        batch: list[ArenaUse],
        doomed: Sequence[bytes],
        journals: Journals,
        wait_s: float | None,
    ) -> None:
        """Drop arenas of which everything that lives is elsewhere, with records; free them."""
        with Spill(SCORE_SIZE) as scores, ExitStack() as locks:
            batch = self._readable(batch, scores)
            arenas = {use.arena for use in batch}
            changes, alive = self._store.index_changes, self._alive_in(arenas, scores)
            if batch:
                locks.enter_context(self._store.writers_apart(arenas, wait_s))
            if changes != self._store.index_changes:
                alive |= self._alive_in(arenas, scores)
            locks.enter_context(catalog_lock(self._store))
            self._store.recover_again()
            if self._store.epoch != self._epoch:
                raise IndexReplaced(f"{self._store.path}: the index was replaced; try again")
            alive |= self._alive_since(arenas)
            if doomed:
                self.forgotten = roots_again(self._store, doomed).doomed
            self.left |= dict.fromkeys(alive, NEEDED)
            gone = [use for use in batch if use.arena not in alive]
            if gone or doomed:
                self._store.drop_arenas([use.arena for use in gone], doomed, journals)
                self._store.condemn([use.arena for use in gone])
            locks.close()
            self._free(gone)
            with suppress(NoSpace):
                self._store.remove_entries(scores)

    def _readable(self, batch: list[ArenaUse], scores: Spill) -> list[ArenaUse]:
        """Arenas of which all scores are known, and were added to `scores`."""
        try:
            left = self._store.scores_in(batch, scores)
        except NoSpace:
            if not self._in_passes:
                raise
            return batch  # the next reclaim removes the entries of the index
        self.left |= left
        return [use for use in batch if use.arena not in left]

    def _alive_in(self, arenas: Collection[bytes], scores: Spill) -> set[bytes]:
        """The arenas in which something lives after all.

        By what came since, and because the index leads there again: a writer that was at work
        may have stored what it knew of them once more.
        """
        alive = self._alive_since(arenas)
        if not self._in_passes:
            alive |= self._store.alive_in(arenas, scores, self._marks.live)
        return alive

    def _alive_since(self, arenas: Collection[bytes]) -> set[bytes]:
        """The arenas in which something is needed by what came since all was marked last."""
        alive: set[bytes] = set()
        while True:
            generation = self._store.generation
            roots = roots_again(self._store, self._doomed)
            with self._marks.since(roots.references()) as live:
                alive |= self._store.alive_in(arenas, live)
            if generation == self._store.generation:
                return alive

    def _free(self, gone: list[ArenaUse]) -> None:
        total = sum(use.file_bytes for use in gone)
        done = 0

        def progress(size: int) -> None:
            nonlocal done
            done += size
            self.observer.freed(done, total)

        self._store.empty(gone, progress)
        for use in gone:
            use.gone = True
        self.arenas += len(gone)
        self.freed_bytes += total


def _id_of(version: Forgotten) -> bytes:
    """The id of the record that keeps a forgotten version."""
    assert version.version.record is not None
    return version.version.record.id
