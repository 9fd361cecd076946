"""What a reclaim is asked to do, what it plans, and what it has done."""

import msgspec

from ventifs.store.reclaim.plan import Limits

__all__ = ["Limits", "ReclaimObserver", "ReclaimPlan", "Reclaimed"]


class ReclaimPlan(msgspec.Struct, frozen=True):
    """What a reclaim is going to do. Bytes are those of files or of clumps, compressed.

    Attributes:
        versions: catalogued versions, which need what lives.
        kept: forgotten versions within the grace, which stay too.
        doomed: forgotten versions that go for good.
        leased: roots that stay because a process reads them, though no version has them any more.
        references: references that were followed from all of these.
        blocks, live_blocks: blocks in the index, and how many of them are needed.
        arena_bytes: all arena files, before.
        dead_arenas, dead_bytes: arenas in which nothing lives, and their files; exact.
        repacked_arenas, repacked_bytes: arenas whose live blocks are copied, and their files.
        copied_bytes: about how much is copied.
        freed_bytes: about how much comes back: dead_bytes + repacked_bytes - copied_bytes.
        unused_bytes: bytes of blocks that nothing needs, and that stay.
        skipped_arenas: arenas with such blocks that are damaged, or that others write to, or, while
            others write, that were written in the last 24 hours.
        seconds: about how long copying and freeing take.
    """

    versions: int
    kept: int
    doomed: int
    leased: int
    references: int
    blocks: int
    live_blocks: int
    arena_bytes: int
    dead_arenas: int
    dead_bytes: int
    repacked_arenas: int
    repacked_bytes: int
    copied_bytes: int
    freed_bytes: int
    unused_bytes: int
    skipped_arenas: int
    seconds: float


class Reclaimed(msgspec.Struct, frozen=True):
    """What a reclaim has done; in a dry run, with the plan alone.

    Attributes:
        plan: what it set out to do.
        dry_run: whether it only planned.
        forgotten: the forgotten versions that are gone for good, or would be; not those that came
            back meanwhile.
        arenas: number of arenas freed.
        freed_bytes: bytes of arena files freed, less what was copied.
        copied_bytes: bytes appended to arenas.
        left: arenas that were to be freed and are not, because they are damaged or there was no
            room for copies; each with the reason, in a line.
        in_use: arenas that left the plan because something in them is needed again, or others
            write to them; the next reclaim looks at them again.
        seconds: how long it took.
    """

    plan: ReclaimPlan
    dry_run: bool
    forgotten: list[str]
    arenas: int
    freed_bytes: int
    copied_bytes: int
    left: list[str]
    in_use: list[str]
    seconds: float


class ReclaimObserver:
    """Is notified of progress. The methods do nothing: override what is of interest."""

    def marking(self, references: int, blocks: int) -> None:
        """`references` were followed so far, in a store of `blocks` blocks. Called often."""

    def planned(self, plan: ReclaimPlan) -> None:
        """The plan stands; nothing has been changed yet. An exception ends the reclaim."""

    def copying(self, done: int, total: int) -> None:
        """Bytes of live blocks copied so far, and in all. Called often."""

    def freed(self, done: int, total: int) -> None:
        """Bytes of arenas given back so far, and in all."""

    def may_pause(self) -> None:
        """No other process waits for this one at the moment: a pause costs only time.

        Called often while blocks are marked and copied.
        """
