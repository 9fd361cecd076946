"""What people read of a reclaim: progress, the plan before anything is changed, and the result."""

import math
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import msgspec

from ventifs import Reclaimed, ReclaimObserver, ReclaimPlan
from ventifs.cli import interruption
from ventifs.cli.formatting import count, duration, share, size
from ventifs.cli.output import echo
from ventifs.cli.progress import ByteProgress, EntryProgress
from ventifs.cli.upkeep.making_way import MakingWay
from ventifs.tree.versions.times import CalendarSpan

COPIES_STAY = "what was copied takes space twice until the next reclaim"
_LINES_MAX = 20  # of versions that would go, or of arenas that are left


class Asked(msgspec.Struct, frozen=True):
    """What a reclaim was asked for.

    Attributes:
        grace: what was forgotten in this last time stays.
        max_unused: a share as a float, bytes as an int; `math.inf` for any amount.
        max_repack: bytes; None for any number.
        dry_run: whether it only plans.
    """

    grace: CalendarSpan = CalendarSpan()
    max_unused: float | int = 0.05
    max_repack: int | None = None
    dry_run: bool = False

    @property
    def grace_text(self) -> str:
        """The grace, for a line."""
        return str(self.grace) if self.grace else "0"

    @property
    def unused_text(self) -> str:
        """The value of `--max-unused`, for a line."""
        if self.max_unused == math.inf:
            return "unlimited"
        if isinstance(self.max_unused, int):
            return size(self.max_unused)
        return f"{100 * self.max_unused:.6g}%"


class ReclaimReport(ReclaimObserver):
    """Prints the plan when it stands, and shows the progress of each step.

    A context manager, which removes the progress from the terminal at the end.
    """

    def __init__(self, asked: Asked, *, quiet: bool, after_signal: str = "") -> None:
        """Print what becomes of what was `asked`, or nothing if `quiet`.

        `after_signal` is a clause for the message of a signal; while copies take space for nothing,
        there is another one before it.
        """
        self._asked = asked
        self._after_signal = after_signal
        self._quiet = quiet
        self._make_way = MakingWay()
        self._steps = ExitStack()
        self._entries: EntryProgress | None = None
        self._bytes: tuple[str, ByteProgress] | None = None

    def __enter__(self) -> Self:
        """Start."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the progress from the terminal."""
        self._end_step()

    def marking(self, references: int, blocks: int) -> None:
        """Show how many references were followed."""
        if self._entries is None:
            self._end_step()
            things = ("reference", "references")
            progress = EntryProgress("marking", quiet=self._quiet, things=things)
            self._entries = self._steps.enter_context(progress)
        self._entries(references, 0, b"")

    def planned(self, plan: ReclaimPlan) -> None:
        """Print what is going to be done."""
        self._end_step()
        if not self._quiet:
            for line in plan_lines(plan, self._asked):
                echo(line)

    def copying(self, done: int, total: int) -> None:
        """Show how much is copied."""
        interruption.explain(f"{COPIES_STAY}; {self._after_signal}")
        self._show("copying", done, total)

    def freed(self, done: int, total: int) -> None:
        """Show how much is freed."""
        interruption.explain(self._after_signal)
        self._show("freeing", done, total)

    def may_pause(self) -> None:
        """Make way for others."""
        self._make_way()

    def end(self, done: Reclaimed) -> None:
        """Print what was done."""
        for line in done_lines(done):
            echo(line)

    def _show(self, what: str, done: int, total: int) -> None:
        if self._bytes is None or self._bytes[0] != what:
            self._end_step()
            progress = self._steps.enter_context(ByteProgress(what, quiet=self._quiet))
            self._bytes = what, progress
        self._bytes[1](done, total)

    def _end_step(self) -> None:
        self._steps.close()
        self._entries = self._bytes = None


def plan_lines(plan: ReclaimPlan, asked: Asked) -> list[str]:
    """What is going to be done, a line each; one line if that is nothing."""
    frees = bool(plan.dead_arenas or plan.repacked_arenas)
    if not frees and not plan.doomed:
        reasons = [_why_no_more(plan, asked), _what_stays(plan, asked), *_leased(plan)]
        return [f"nothing to do: {'; '.join(reasons)}"]
    lines = [_what_goes(plan, asked)]
    if frees:
        lines.append(_what_is_freed(plan, asked))
    else:
        lines.append(f"no space comes back: {_why_no_more(plan, asked)}")
    return [*lines, *(f"note: {line}" for line in _leased(plan))]


def _what_goes(plan: ReclaimPlan, asked: Asked) -> str:
    if not plan.doomed:
        return f"no forgotten version goes for good: {_what_stays(plan, asked)}"
    verb = "would go" if asked.dry_run else "goes" if plan.doomed == 1 else "go"
    stay = f"; {plan.kept:,} within it {_stay(plan.kept, asked)}" if plan.kept else ""
    return (
        f"{count(plan.doomed, 'forgotten version')} {verb} for good: forgotten longer ago than "
        f"the grace of {asked.grace_text}{stay}"
    )


def _what_stays(plan: ReclaimPlan, asked: Asked) -> str:
    if not plan.kept:
        return f"none is forgotten (the grace is {asked.grace_text})"
    verb = "is" if plan.kept == 1 else "are"
    return f"{count(plan.kept, 'forgotten version')} {verb} within the grace of {asked.grace_text}"


def _stay(number: int, asked: Asked) -> str:
    return "would stay" if asked.dry_run else "stays" if number == 1 else "stay"


def _what_is_freed(plan: ReclaimPlan, asked: Asked) -> str:
    parts = []
    if plan.dead_arenas:
        arenas = count(plan.dead_arenas, "arena")
        parts.append(f"{arenas} that nothing needs ({size(plan.dead_bytes)})")
    if plan.repacked_arenas:
        arenas = f"{plan.repacked_arenas:,}" if parts else count(plan.repacked_arenas, "arena")
        parts.append(f"{arenas} repacked (copies {size(plan.copied_bytes)})")
    verb = "would free" if asked.dry_run else "will free"
    about = " about" if plan.repacked_arenas else ""
    takes = duration(max(1, plan.seconds))
    return f"{verb}{about} {size(plan.freed_bytes)}: {', '.join(parts)}; about {takes}"


def _why_no_more(plan: ReclaimPlan, asked: Asked) -> str:
    """Why not more is freed, where nothing is."""
    if not plan.unused_bytes:
        return "all that is stored is needed"
    part = share(plan.unused_bytes, plan.arena_bytes)
    unused = f"{part} of the store ({size(plan.unused_bytes)}) is unused"
    limit, left = asked.max_unused, max(1, plan.arena_bytes - plan.freed_bytes)
    if plan.unused_bytes <= (limit * left if isinstance(limit, float) else limit):
        return f"{unused}, within --max-unused {asked.unused_text}"
    if plan.skipped_arenas:
        arenas = count(plan.skipped_arenas, "arena")
        return (
            f"{unused}, in part in {arenas} that others write to or have written lately, or that "
            "are damaged: run it when nothing is archived; 'ventifs check' finds damage"
        )
    if asked.max_repack is not None:
        return f"{unused}, and --max-repack {size(asked.max_repack)} lets no more be copied"
    return unused


def _leased(plan: ReclaimPlan) -> list[str]:
    if not plan.leased:
        return []
    are, their = ("is", "its") if plan.leased == 1 else ("are", "their")
    gone = count(plan.leased, "version that is gone", "versions that are gone")
    return [f"{gone} {are} still read or served; {their} space stays until that ends"]


def _some(lines: list[str]) -> list[str]:
    """The first of many lines, and how many more there are."""
    rest = len(lines) - _LINES_MAX
    return lines if rest <= 1 else [*lines[:_LINES_MAX], f"and {rest:,} more; --json lists all"]


def done_lines(done: Reclaimed) -> list[str]:
    """What was done, a line each; none if there was nothing to do."""
    plan = done.plan
    frees = bool(plan.dead_arenas or plan.repacked_arenas)
    left = plan.arena_bytes - plan.freed_bytes
    if done.dry_run:
        lines = _some([f"would go for good: {each}" for each in done.forgotten])
        unused = f"; {share(plan.unused_bytes, left)} of the store would be unused" if left else ""
        lines += _some([f"note: left: {line}" for line in done.left])
        return [*lines, f"a dry run: nothing was changed{unused if frees else ''}"]
    lines = _some([f"note: left: {line}" for line in (*done.left, *done.in_use)])
    back = plan.doomed - len(done.forgotten)
    if back > 0:
        came = "came back meanwhile, and stays" if back == 1 else "came back meanwhile, and stay"
        lines.append(f"note: {count(back, 'forgotten version')} {came}")
    took = f"{done.seconds:.1f} s" if done.seconds < 60 else duration(done.seconds)
    if frees:
        unused = f"; {share(plan.unused_bytes, left)} of the store is unused" if left else ""
        lines.append(
            f"freed {size(done.freed_bytes)} in {took}{'' if done.left or done.in_use else unused}"
        )
    elif plan.doomed:
        gone = count(len(done.forgotten), "forgotten version")
        are = "is" if len(done.forgotten) == 1 else "are"
        lines.append(f"{gone} {are} gone for good, after {took}")
    return lines
