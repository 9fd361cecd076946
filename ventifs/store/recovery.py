"""Recovery: indexes what arenas hold and the index lacks, after a crash or a copy.

Nothing is taken from arenas that are dropped. Blocks of all arenas go into the index first, and
records last, in one transaction: a version never shows before its blocks.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from itertools import chain

from ventifs.errors import Corrupt
from ventifs.store.appender import lock_arena
from ventifs.store.arena import HEADER_SIZE, Arena, ForeignArena
from ventifs.store.arena_journal import read_journal
from ventifs.store.arena_state import ArenaState
from ventifs.store.arenas import Arenas
from ventifs.store.files import Files
from ventifs.store.index import Index
from ventifs.store.intake import ClumpIntake
from ventifs.store.reclaim.condemned import finish, take_back
from ventifs.store.whole_arenas import left_by_a_copy, read_sealed, restore_whole, too_short
from ventifs.store.writer import move_sealed

log = logging.getLogger("ventifs.store")


def recover(
    arenas: Arenas,
    index: Index,
    files: Files,
    *,
    may_finish: Callable[[], bool] = lambda: True,
) -> bool:
    """Bring the index up to date with the arenas, and make unlocked open arenas whole.

    Then finishes what an interrupted reclaim left. Costs little when there is nothing to do: a
    listing of three directories and a look-up for each open arena.

    Args:
        arenas: the store's.
        index: the one in place.
        files: for tests.
        may_finish: whether no other process is reclaiming space; asked only at need.

    Returns:
        Whether all arenas were looked at: no process has one locked.

    Raises:
        Corrupt: an arena that the index or a commit counts on is missing or too short. Nothing has
            been removed.
        VentifsError: an arena cannot be written.
    """
    condemned = arenas.condemned_ids()
    unmoved, behind, locked = _open_arenas(arenas, index, files)
    unknown, missing = _compared(arenas, index, unmoved)
    if _taken_back(arenas, index, files, condemned, chain(behind, _whole(arenas, unknown))):
        unknown, missing = _compared(arenas, index, unmoved)
    left = [*unknown, *(arena.id for arena, _ in behind)]
    additional = sorted(unknown - index.drops().keys()) if unknown else []
    if behind or additional or missing:
        left += _take_in(arenas, index, files, behind, additional, missing)
    lost = [each for each in index.arena_states(sealed=False) if not arenas.present(each.arena)]
    if lost:
        _refuse_missing(arenas, lost, index.drops())  # dropped meanwhile
    if (condemned or left) and may_finish():
        finish(arenas, index, files, left)
    return not locked


def _whole(arenas: Arenas, sealed: Iterable[bytes]) -> Iterator[tuple[Arena, int]]:
    """Sealed arenas that the index lacks, each with the offset from which it is read."""
    return ((arenas.reader(arena_id), HEADER_SIZE) for arena_id in sealed)


def _taken_back(
    arenas: Arenas,
    index: Index,
    files: Files,
    condemned: list[bytes],
    unread: Iterable[tuple[Arena, int]],
) -> bool:
    """Whether files came back from `condemned/`: neither index nor unread journals drop them."""
    unsure = [arena_id for arena_id in condemned if not index.dropped(arena_id)]
    if not unsure:
        return False
    dropped = drops_in(arenas, unread)
    return bool(take_back(arenas, (each for each in unsure if each not in dropped), files))


def _take_in(
    arenas: Arenas,
    index: Index,
    files: Files,
    behind: list[tuple[Arena, int]],
    additional: list[bytes],
    missing: list[ArenaState],
) -> set[bytes]:
    """Index arenas that the index lacks, or lacks the end of, but none that is dropped.

    Returns:
        The arenas that are dropped without the index having known it.
    """
    intake = ClumpIntake(index.add_blocks)
    before = index.drops().keys()
    dropped = {*before, *drops_in(arenas, chain(behind, _whole(arenas, additional)))}
    _refuse_missing(arenas, missing, dropped)
    for arena, start in behind:
        if arena.id not in dropped:
            found = restore_whole(arena, start, arenas, files, intake)
            if found is not None:
                intake.journal.states.append(found)
    for arena_id in additional:
        if arena_id not in dropped:
            read_sealed(arenas, arena_id, index.arena_state(arena_id).length, intake)
    _recover_relied_on(arenas, index, intake, dropped)
    if dropped - before:
        intake.journal.deletes += _put_by_nobody(arenas, index, dropped)
    if intake.journal.states:
        intake.journal.settle(index)
    for state in intake.journal.states:
        if state.sealed:
            move_sealed(arenas, files, state.arena)
    return dropped - before


def _put_by_nobody(arenas: Arenas, index: Index, dropped: Collection[bytes]) -> list[bytes]:
    """The ids of records that an index older than drops lists, and that no arena which stays puts.

    They were deleted: had they not been, the commits with the drops would have put them again.
    The deletions may have gone with the arenas. Nothing, if not every journal can be read.
    """
    listed = index.records()  # first: others may commit more while the journals are read
    put: set[bytes] = set()
    for arena_id in arenas.all_ids():
        if arena_id not in dropped:
            journal = read_journal(arenas.reader(arena_id))
            if not journal.whole:
                return []
            put |= journal.puts.keys()
    return [record.id for record in listed if record.id not in put]


def drops_in(arenas: Arenas, unread: Iterable[tuple[Arena, int]]) -> set[bytes]:
    """The arenas that are dropped by the journals of some, each from a clump's offset on.

    Must be known before any block is indexed: an entry for a block in an arena that is dropped
    would replace the one that leads to where the block lives now.
    """
    dropped: set[bytes] = set()
    for arena, start in unread:
        with suppress(Corrupt):  # a damaged header
            try:
                arena.check_header(arenas.store_id)
            except ForeignArena:
                continue
        dropped |= read_journal(arena, max(start, HEADER_SIZE)).drops.keys()
    return dropped


def _open_arenas(
    arenas: Arenas, index: Index, files: Files
) -> tuple[list[bytes], list[tuple[Arena, int]], bool]:
    """What is in `open/`: arenas that the index has as sealed, and locked ones that it lacks.

    Returns:
        The ids of the former; the latter, each with the offset up to which it is indexed; and
        whether other processes have locked some.

    Raises:
        Corrupt: an arena is shorter than the index says.
    """
    unmoved: list[bytes] = []
    behind: list[tuple[Arena, int]] = []
    locked = False
    for arena_id in arenas.open_ids():
        if index.arena_state(arena_id).sealed:
            unmoved.append(arena_id)
        arena = lock_arena(arenas.open_path(arena_id))
        if arena is None:
            locked = True  # or moved meanwhile
            continue
        if left_by_a_copy(arena, arenas, files):
            continue
        state = index.arena_state(arena_id)  # again, now that it can no longer change
        if arena.length() < state.length:
            raise too_short(arena, state.length)
        if state.sealed or state.length < arena.length() or arena.length() == 0:
            behind.append((arena, state.length))
    return unmoved, behind, locked


def _compared(
    arenas: Arenas, index: Index, unmoved: list[bytes]
) -> tuple[set[bytes], list[ArenaState]]:
    """The sealed arenas that the index lacks, and those that it knows and that are not there.

    The former may be dropped: an interrupted reclaim leaves their files.

    Either happens when an index, or arenas, were put back from a copy. Two sets with the same mark
    are the same; only others are compared by name.
    """
    if arenas.sealed_mark(unmoved) == index.sealed_mark():
        return set(), []
    there = arenas.sealed_ids()
    known = {state.arena: state for state in index.arena_states(sealed=True)}
    missing = [state for state in known.values() if not arenas.present(state.arena)]
    return set(there) - known.keys(), missing


def _recover_relied_on(
    arenas: Arenas, index: Index, intake: ClumpIntake, dropped: set[bytes]
) -> None:
    """Index what a commit relies on in arenas whose writers are still running.

    This happens when a parent died after writing its commit clump, and a worker still runs. The
    worker's arena is locked, but durable and final up to the length that the commit names.

    Raises:
        Corrupt: such an arena is missing, and not dropped, or too short.
    """
    read = {state.arena: state.length for state in intake.journal.states}
    for arena_id, length in intake.journal.relies_on.items():
        start = max(read.get(arena_id, 0), index.arena_state(arena_id).length)
        if start >= length or arena_id in dropped:
            continue
        if not arenas.present(arena_id):
            raise _missing([arena_id])
        arena = arenas.reader(arena_id)
        if arena.length() < length:
            raise too_short(arena, length)
        totals, damages = intake.read(arena, max(start, HEADER_SIZE), length)
        if damages:  # left to the process that locks the arena next
            log.error(
                "arena %s at %d: damaged, and a commit relies on it",
                arena_id.hex(),
                damages[0].offset,
            )
        else:
            intake.journal.states.append(ArenaState(arena_id, length, False, totals, start))


def _refuse_missing(arenas: Arenas, states: list[ArenaState], dropped: Collection[bytes]) -> None:
    """Raise if arena files are missing: their blocks would wrongly count as known."""
    missing = [
        state.arena
        for state in states
        if state.arena not in dropped and not arenas.present(state.arena)
    ]
    if missing:
        raise _missing(missing)


def _missing(missing: list[bytes]) -> Corrupt:
    names = ", ".join(arena.hex() for arena in missing[:3])
    return Corrupt(
        f"{len(missing)} arena files are missing ({names}): put them back, or run "
        "'ventifs rebuild-index' to go on without their blocks"
    )
