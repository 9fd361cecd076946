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
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from ventifs.errors import NoSpace, VentifsError
from ventifs.store import SCORE_SIZE, Mode, Store
from ventifs.store.dropping import Journals
from ventifs.store.files import Files
from ventifs.store.journal import Record
from ventifs.store.reclaim.join import IN_USE, ArenaUse, ArenaUses
from ventifs.store.reclaim.plan import Choice, batches, choose, fitting, yielded
from ventifs.store.reclaim.reclaiming_store import ReclaimingStore
from ventifs.store.spill import Spill
from ventifs.tree.reclaim.mark import Marks
from ventifs.tree.reclaim.results import Limits, Reclaimed, ReclaimObserver, ReclaimPlan
from ventifs.tree.reclaim.roots import Roots, roots_again, roots_before
from ventifs.tree.versions.catalog_lock import catalog_lock
from ventifs.tree.versions.forgotten import Forgotten, forgotten

_PASSES, _PASSES_MAX = (4, 16, 64), 256  # over all nodes, if there is no room for all scores
_REPLACED_MAX = 3
_REAL_FILES = Files()
_ROUNDS_MAX = 3  # of marking what came; with the catalog locked, the first is the last
_MEMORY = 16 << 20  # bytes of scores that are looked up again
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
            forgotten=work.forgotten,
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
        self.forgotten: list[str] = []
        self._store = store
        self._stack = stack
        self._choice: Choice
        self._marks: Marks
        self._marked_as_of = b""  # the catalog's generation
        self._doomed: frozenset[bytes] = frozenset()  # records of forgotten versions
        self._forgot = False  # whether they are deleted
        self._in_passes = False  # with both gates, unless it is a dry run
        self._flipping = False
        self._here = stack.enter_context(closing(Spill(SCORE_SIZE, memory=_MEMORY)))
        self._fresh = stack.enter_context(Spill(SCORE_SIZE, memory=_MEMORY))
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
        self._marked_as_of = self._store.generation
        roots = roots_before(self._store, forgotten_until_ns)
        self._doomed = frozenset(map(_id_of, roots.doomed))
        self.forgotten = list(map(str, roots.doomed))
        found, roots = self._marked(roots, dry_run=dry_run)
        uses = found.all()
        chosen = choose(uses, limits)
        self._choice = choice = fitting(chosen, self._store.room())
        self.left = {use.arena: use.problem for use in uses if use.damaged}
        self._leave_out(use for use in chosen.repacked if use not in choice.repacked)
        copied = sum(use.live_bytes for use in choice.repacked)
        freed = yielded([*choice.dead, *choice.repacked])
        return ReclaimPlan(
            versions=len(roots.versions),
            kept=len(roots.kept),
            doomed=len(roots.doomed),
            leased=roots.leased_alone,
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

    def _marked(self, roots: Roots, *, dry_run: bool) -> tuple[ArenaUses, Roots]:
        """What lives; in as few passes as there is room for, of memory and temporary files.

        Returns:
            The use of arenas, and the roots that were marked.
        """
        with suppress(NoSpace):
            return self._marked_in(1, roots, dry_run=dry_run), roots
        self._in_passes = True
        if not dry_run:  # what lives is not known in the end, so nothing may come alive
            self._stack.enter_context(self._store.alone())
            self._marked_as_of = self._store.generation
            roots = roots_again(self._store, self._doomed)
        for passes in _PASSES:
            with suppress(NoSpace):
                return self._marked_in(passes, roots, dry_run=dry_run), roots
        return self._marked_in(_PASSES_MAX, roots, dry_run=dry_run), roots

    def _marked_in(self, passes: int, roots: Roots, *, dry_run: bool) -> ArenaUses:
        """What lives, in passes that each keep the scores with some of the 256 first bytes."""
        uses = self._store.uses()
        step = 256 // passes
        for first in range(0, 256, step):
            marks = self._marks = Marks(
                self._store, first=first, end=first + step, progress=self._heard(uses)
            )
            try:
                marks.mark(roots.references())
                uses.add(
                    marks.live,
                    first=first,
                    end=first + step,
                    remove_leftovers=not dry_run,
                    pause=self._pause,
                )
            except BaseException:
                marks.close()
                raise
            if first + step < 256:
                marks.close()
        self._stack.callback(self._marks.close)
        return uses

    def _heard(self, uses: ArenaUses) -> Callable[[int], None]:
        def progress(references: int) -> None:
            self.observer.marking(references, uses.listed)
            self._pause()

        return progress

    def _pause(self) -> None:
        """Let the observer pause, unless others wait for a lock that is held, or soon will."""
        if not (self._in_passes or self._flipping):
            self.observer.may_pause()

    # --- carrying it out ----------------------------------------------------------------------

    def carry_out(self, wait_s: float | None, also: AlsoDeleted | None) -> None:
        """Copy, drop and free, in batches for which there is room."""
        store, choice = self._store, self._choice
        journals = store.journals()
        self.left |= store.seal([*choice.dead, *choice.repacked])
        total = sum(use.live_bytes for use in choice.repacked)
        for batch in batches(choice, store.room):
            self._copy(self._staying(batch), total)
            self._flipping = True
            self._flip(self._staying(batch), journals, wait_s, also)
            self._flipping = False
        if self._doomed and not self._forgot:
            self._flip([], journals, wait_s, also)
        self._leave_out(use for use in self._staying(choice.repacked) if not use.gone)
        store.replenish()

    def _leave_out(self, uses: Iterable[ArenaUse]) -> None:
        """Take arenas out of the plan for which there is no room."""
        for use in uses:
            self.left[use.arena] = (
                f"there is no room to copy the {use.live_bytes:,} bytes that are needed in it; "
                "make room, or forget more, and run it again"
            )

    def _staying(self, batch: Iterable[ArenaUse]) -> list[ArenaUse]:
        """The arenas that have not left the plan."""
        return [use for use in batch if use.arena not in self.left]

    def _copy(self, batch: list[ArenaUse], total: int) -> None:
        """Copy what lives in arenas."""
        before = self._store.stored_bytes

        def progress(size: int) -> None:
            self._copied += size
            self.observer.copying(self._copied, total)
            self._pause()

        self.left |= self._store.copy(batch, progress)
        self.copied_bytes += self._store.stored_bytes - before

    def _flip(
        self,
        batch: list[ArenaUse],
        journals: Journals,
        wait_s: float | None,
        also: AlsoDeleted | None,
    ) -> None:
        """Drop arenas of which everything that lives is elsewhere, with records; free them."""
        store = self._store
        with Spill(SCORE_SIZE) as scores, ExitStack() as locks:
            batch = self._readable(batch, scores)
            journals.read_ahead()
            store.recover_again()  # what may take long, before others have to wait
            if batch:
                self._keep_writers_apart(locks, batch, wait_s)
            journals.read_ahead()
            store.recover_again()
            locks.enter_context(catalog_lock(store))
            # If this ends early, the drop may be in an arena and not in the index. So the arena is
            # unlocked before the gates: the next writer reads the drop before it trusts the index.
            locks.push(self._ended)
            store.recover_again()
            if store.replaced():
                raise IndexReplaced(f"{store.path}: the index was replaced; try again")
            self.left |= dict.fromkeys(self._alive_since(batch), NEEDED)
            gone = self._staying(batch)
            deletes = self._records_that_go(also)
            if gone or deletes:
                store.drop_arenas([use.arena for use in gone], deletes, journals)
            locks.close()
            store.condemn([use.arena for use in gone])
            self._free(gone)
            with suppress(NoSpace):
                store.remove_entries(scores)

    def _ended(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._store.abandon()

    def _readable(self, batch: list[ArenaUse], scores: Spill) -> list[ArenaUse]:
        """Arenas of which all scores are known, and were added to `scores`; sets `_here`."""
        self._here.close()
        try:
            self._here = self._store.scores_in(batch, scores, self._marks.live)
        except NoSpace:
            if not self._in_passes:
                raise
            return batch  # the next reclaim removes the entries of the index
        self.left |= {use.arena: use.problem for use in batch if use.problem}
        return self._staying(batch)

    def _keep_writers_apart(
        self, locks: ExitStack, batch: list[ArenaUse], wait_s: float | None
    ) -> None:
        """Take locks so that no writer relies on what is in arenas; those with live blocks leave.

        What came since is marked. And the index may lead to an arena that goes for a block that
        lives elsewhere: a writer that was at work may have stored once more what it knew.
        """
        store, arenas = self._store, {use.arena for use in batch}
        for wait in (False, False, True):
            changes = store.index_changes
            self._look_for_life(batch)
            shared = locks.enter_context(store.writers_apart(arenas, wait_s, wait=wait))
            if changes == store.index_changes:
                return
            if shared:
                self._look_for_life(batch)
                return
            locks.close()  # to look at all again takes too long while others wait

    def _look_for_life(self, batch: list[ArenaUse]) -> None:
        alive = self._alive_since(batch)
        if not self._in_passes:
            arenas = [use.arena for use in batch]
            alive |= self._store.alive_in(arenas, self._here)
            alive |= self._store.alive_in(arenas, self._fresh)
        self.left |= dict.fromkeys(alive, NEEDED)

    def _alive_since(self, batch: list[ArenaUse]) -> set[bytes]:
        """Mark what came since that was done last; return the arenas in which some of it is.

        As long as the catalog stays the same, nothing comes: leases are taken on what is in it.
        """
        alive: set[bytes] = set()
        for _ in range(_ROUNDS_MAX):
            generation = self._store.generation
            if generation == self._marked_as_of:
                break
            roots = roots_again(self._store, self._doomed)
            with self._marks.since(roots.references()) as live:
                for piece in live.pieces():
                    self._fresh.add(piece)
                alive |= self._store.alive_in([use.arena for use in batch], live)
            self._marked_as_of = generation
        return alive

    def _records_that_go(self, also: AlsoDeleted | None) -> list[bytes]:
        """The records of forgotten versions that go, and others with them; the first time alone."""
        if self._forgot or not self._doomed:
            return []
        self._forgot = True
        there = [each for each in forgotten(self._store) if _id_of(each) in self._doomed]
        self.forgotten = [str(each) for each in there]
        others = [] if also is None else also(self._store, there)
        return [*map(_id_of, there), *(record.id for record in others)]

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
