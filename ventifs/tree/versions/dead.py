"""Finds how much of a store no version needs: an estimate at once, or exactly.

The estimate compares what is stored with what the catalogued versions added to the store when they
were archived, as their records say. A version needs what it added; the rest was added by versions
that are gone, by runs that ended early, or by copies. The rest is too high where versions that are
left share blocks with those that are gone, and where only some versions of another store were
copied here. It is too low by the trailing zeros of blocks, which runs count and the store leaves
out, and where blocks were added twice: after a repair, or both here and where a version was copied
from.

Exactly: all nodes of all versions are walked, each once, and every entry of the index is looked up
among what was reached. Memory: about 150 bytes for each block of the store.
"""

from collections.abc import Callable
from contextlib import suppress

import msgspec

from ventifs.errors import Corrupt, NotStored
from ventifs.store import Score, Store
from ventifs.store.journal import Record
from ventifs.store.stats import Sizes
from ventifs.tree.versions.catalog import Version, versions
from ventifs.tree.versions.forgotten import forgotten
from ventifs.tree.versions.leasing import ForgottenMeanwhile, leased
from ventifs.tree.versions.reachable import reach_version

_LIVE, _FORGOTTEN_ALONE, _DEAD = range(3)

MarkProgress = Callable[[int], None]  # number of blocks reached so far


class DeadEstimate(msgspec.Struct, frozen=True):
    """About how much is dead, or held by forgotten versions alone, and what it is computed from.

    Attributes:
        raw_bytes: blocks stored beyond `added_bytes`, before compression.
        stored_bytes: the same, if they compress as all blocks do together.
        versions, added_bytes: the catalogued versions, and the new bytes that their records say.
        forgotten, forgotten_bytes: the same of forgotten versions that can be brought back.
    """

    raw_bytes: int
    stored_bytes: int
    versions: int
    added_bytes: int
    forgotten: int
    forgotten_bytes: int


class Space(msgspec.Struct, frozen=True):
    """Some blocks, and the space that they take.

    Attributes:
        blocks: how many.
        raw_bytes: without trailing zeros, before compression.
        stored_bytes: their share of their clumps.
    """

    blocks: int
    raw_bytes: int
    stored_bytes: int


class MarkedSpace(msgspec.Struct, frozen=True):
    """What is stored, by what needs it.

    Attributes:
        live: reached by catalogued versions.
        forgotten: reached by forgotten versions alone; it comes back with them until it is
            reclaimed.
        dead: reached by no version. The blocks of runs that are at work are among these.
        versions, forgotten_versions: how many were walked.
        unreadable: forgotten versions that are damaged; what cannot be reached of them is dead.
    """

    live: Space
    forgotten: Space
    dead: Space
    versions: int
    forgotten_versions: int
    unreadable: list[str]


def space_of(store: Store, scores: set[Score]) -> Space:
    """The space that some blocks take; raises as `Store.sizes`."""
    sizes = store.sizes(scores)
    return Space(len(scores), sizes.raw_bytes, sizes.stored_bytes)


def estimated(store: Store) -> DeadEstimate:
    """About how much is dead; reads the catalog and the counters, no blocks.

    Raises:
        Corrupt: a version's record is damaged.
    """
    figures = store.stats()
    there, gone = versions(store), forgotten(store)
    added = sum(version.new_bytes for version in there)
    raw = max(0, figures.raw_bytes - added)
    stored = figures.stored_bytes - figures.gap_bytes
    return DeadEstimate(
        raw_bytes=raw,
        stored_bytes=stored * raw // max(figures.raw_bytes, 1),
        versions=len(there),
        added_bytes=added,
        forgotten=len(gone),
        forgotten_bytes=sum(each.version.new_bytes for each in gone),
    )


def measured(store: Store, progress: MarkProgress | None = None) -> MarkedSpace:
    """What is live and what is dead, exactly, as of the versions that were there at the end.

    Raises:
        Corrupt: a catalogued version is damaged; the message names it.
    """
    marks = _Marks(store, progress)
    walked: set[Record | None] = set()
    unreadable: list[str] = []
    # Again while others commit: what is new is quick to walk, since the rest is known.
    while True:
        generation = store.generation
        there, gone = versions(store), forgotten(store)
        fresh = [version for version in there if version.record not in walked]
        for version in fresh:
            try:
                with suppress(ForgottenMeanwhile), leased(store, version):
                    marks.reach(version, _LIVE)
            except (Corrupt, NotStored) as error:
                raise Corrupt(
                    f"{version}: {error}; 'ventifs check' lists what is damaged"
                ) from error
        walked |= {version.record for version in there}
        if generation == store.generation:
            break
    for each in gone:
        try:
            marks.reach(each.version, _FORGOTTEN_ALONE)
        except (Corrupt, NotStored):
            unreadable.append(str(each))
    parts = store.sizes_by_part(marks.part_of)
    return MarkedSpace(
        live=_space(parts, _LIVE),
        forgotten=_space(parts, _FORGOTTEN_ALONE),
        dead=_space(parts, _DEAD),
        versions=len(there),
        forgotten_versions=len(gone),
        unreadable=unreadable,
    )


class _Marks:
    """What versions reach, the catalogued ones first."""

    def __init__(self, store: Store, progress: MarkProgress | None) -> None:
        self._store = store
        self._progress = progress
        self._seen: set[Score] = set()
        self._parts: dict[Score, int] = {}
        self._looked_at = 0

    def reach(self, version: Version, part: int) -> None:
        """Mark all that a version reaches and nothing reached before."""
        for ref in reach_version(self._store, version, self._seen):
            self._parts.setdefault(ref.score, part)
            self._looked_at += 1
            if self._progress is not None:
                self._progress(self._looked_at)

    def part_of(self, score: Score) -> int:
        return self._parts.get(score, _DEAD)


def _space(parts: dict[int, tuple[int, Sizes]], part: int) -> Space:
    count, sizes = parts.get(part, (0, Sizes(0, 0)))
    return Space(count, sizes.raw_bytes, sizes.stored_bytes)
