"""Recovery: indexes what arenas hold and the index lacks, after a crash and for a rebuild.

Only clumps that verify are indexed. An open arena is recovered under its lock. Bytes that are no
clump are copied to a file beside it (`.torn`), then covered by a gap clump or cut off. So the
arena is whole again, and the next writer can append to it. Blocks of all arenas go into the index
first, and records last, in one transaction: a version never shows before its blocks. The order of
arenas does not matter, because records are puts minus deletes.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import msgspec
import zstandard

from ventifs.errors import Corrupt
from ventifs.store.appender import lock_arena
from ventifs.store.arena import (
    DIRECTORY_MAGIC,
    HEADER_SIZE,
    Arena,
    Clump,
    Damage,
    ForeignArena,
    Trailer,
    encode_header,
)
from ventifs.store.arena_journal import committed_changes, read_journal
from ventifs.store.arena_state import ArenaState, ArenaTotals, SealedMark
from ventifs.store.arenas import Arenas
from ventifs.store.clump import ClumpKind, decompress, encode_gap
from ventifs.store.files import Files, readable_errors
from ventifs.store.index import Index
from ventifs.store.journal import Changes, CommitCounters, Record, decode_commit
from ventifs.store.score import Score
from ventifs.store.writer import move_sealed

log = logging.getLogger("ventifs.store")

Sink = Callable[[bytes, list[tuple[Score, int, int]]], None]
_ENTRIES_MAX = 64_000
_PIECE = 1 << 20  # of damaged bytes being copied


class Journal(msgspec.Struct):
    """Arena states and commits read so far, to be stored after all blocks are indexed."""

    states: list[ArenaState] = msgspec.field(default_factory=list)
    puts: list[Record] = msgspec.field(default_factory=list)
    deletes: list[bytes] = msgspec.field(default_factory=list)
    drops: dict[bytes, CommitCounters] = msgspec.field(default_factory=dict)
    counters: CommitCounters = msgspec.field(default_factory=CommitCounters)
    relies_on: dict[bytes, int] = msgspec.field(default_factory=dict)

    def settle(self, index: Index) -> None:
        """Store all of it in the index in one transaction."""
        index.settle(self.states, Changes(self.puts, self.deletes, self.drops), self.counters)


class ClumpIntake:
    """Reads clumps of arenas; passes their blocks to a sink, and collects commits in `journal`."""

    def __init__(self, sink: Sink) -> None:
        """`sink` gets (arena id, entries) in pieces of bounded size."""
        self.journal = Journal()
        self._sink = sink
        self._decompressor = zstandard.ZstdDecompressor()

    def read(self, arena: Arena, start: int, end: int) -> tuple[ArenaTotals, list[Damage]]:
        """Read every clump of an arena between two offsets; those that verify are passed on."""
        totals, damages = ArenaTotals(), []
        entries: list[tuple[Score, int, int]] = []
        for found in arena.scan(start, end):
            if isinstance(found, Damage):
                damages.append(found)
                continue
            totals.count(found.head)
            entries.extend(
                (score, found.offset, at) for at, (score, _) in enumerate(found.head.blocks)
            )
            if found.head.kind is ClumpKind.COMMIT:
                self._read_commit(arena, found)
            if len(entries) >= _ENTRIES_MAX:
                self._sink(arena.id, entries)
                entries = []
        if entries:
            self._sink(arena.id, entries)
        return totals, damages

    def _read_commit(self, arena: Arena, clump: Clump) -> None:
        try:
            commit = decode_commit(decompress(clump.head, clump.payload, self._decompressor))
            changes = committed_changes(arena, clump.offset, commit, self._decompressor)
        except Corrupt as error:
            log.error(
                "arena %s at %d: a commit cannot be read: %s",
                arena.id.hex(),
                clump.offset,
                error.reason,
            )
            return
        self.journal.puts += changes.puts
        self.journal.deletes += changes.deletes
        self.journal.drops.update(changes.drops)
        self.journal.counters.add(commit.counters)
        for relied, length in commit.relies_on:
            known = self.journal.relies_on.get(relied, 0)
            self.journal.relies_on[relied] = max(known, length)


def recover(arenas: Arenas, index: Index, files: Files) -> None:
    """Bring the index up to date with the arenas, and make unlocked open arenas whole.

    Costs little when there is nothing to do: a listing of two directories and a look-up for each
    open arena.

    Raises:
        Corrupt: an arena that the index or a commit counts on is missing or too short.
        VentifsError: an arena cannot be written.
    """
    intake = ClumpIntake(index.add_blocks)
    unmoved, behind = _open_arenas(arenas, index, files)
    sealed = _sealed_arenas(arenas, index, unmoved)
    if behind or sealed:
        _take_in(arenas, index, files, intake, behind, sealed)
    _refuse_missing(arenas, index.arena_states(sealed=False))


def _take_in(
    arenas: Arenas,
    index: Index,
    files: Files,
    intake: ClumpIntake,
    behind: list[tuple[Arena, int]],
    sealed: list[bytes],
) -> None:
    """Index arenas that the index lacks, or lacks the end of, but none that is dropped."""
    readers = (arenas.reader(arena_id) for arena_id in sealed)
    dropped = {
        *index.drops(),
        *drops_in(arenas, [*behind, *((arena, HEADER_SIZE) for arena in readers)]),
    }
    for arena, start in behind:
        if arena.id not in dropped:
            found = restore_whole(arena, start, arenas, files, intake)
            if found is not None:
                intake.journal.states.append(found)
    for arena_id in sealed:
        if arena_id not in dropped:
            read_sealed(arenas, arena_id, index.arena_state(arena_id).length, intake)
    _recover_relied_on(arenas, index, intake, dropped)
    if intake.journal.states:
        intake.journal.settle(index)
    for state in intake.journal.states:
        if state.sealed:
            move_sealed(arenas, files, state.arena)


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
) -> tuple[list[bytes], list[tuple[Arena, int]]]:
    """What is in `open/`: arenas that the index has as sealed, and locked ones that it lacks.

    Returns:
        The ids of the former; the latter, each with the offset up to which it is indexed.

    Raises:
        Corrupt: an arena is shorter than the index says.
    """
    unmoved: list[bytes] = []
    behind: list[tuple[Arena, int]] = []
    for arena_id in arenas.open_ids():
        if index.arena_state(arena_id).sealed:
            unmoved.append(arena_id)
        arena = lock_arena(arenas.open_path(arena_id))
        if arena is None or left_by_a_copy(arena, arenas, files):
            continue
        state = index.arena_state(arena_id)  # again, now that it can no longer change
        if arena.length() < state.length:
            raise Corrupt(
                f"{arena.path}: it has {arena.length():,} bytes, and the index counts on "
                f"{state.length:,}: put a whole copy back, or run 'ventifs rebuild-index' to go on "
                "without the rest"
            )
        if state.sealed or state.length < arena.length() or arena.length() == 0:
            behind.append((arena, state.length))
    return unmoved, behind


def left_by_a_copy(arena: Arena, arenas: Arenas, files: Files) -> bool:
    """Whether a locked open arena is what a copy of the store took of one that was then sealed.

    It is removed: the sealed one has all its bytes.

    Raises:
        Corrupt: both are there, and they differ.
    """
    sealed = arenas.sealed_path(arena.id)
    if not sealed.exists():
        return False
    whole = Arena.open(sealed)
    for start in range(0, arena.length(), _PIECE):
        length = min(_PIECE, arena.length() - start)
        if os.pread(arena.fd, length, start) != os.pread(whole.fd, length, start):
            raise Corrupt(
                f"{arena.path} and {sealed} are one arena and differ: move one of them away; "
                "'ventifs check --read-data' tells whether the other is sound"
            )
    log.warning("%s: left by a copy of the store; %s has all of it", arena.path, sealed)
    with readable_errors(arena.path):
        files.unlink(arena.path)
        files.sync_directory(arenas.open_directory)
    return True


def _sealed_arenas(arenas: Arenas, index: Index, unmoved: list[bytes]) -> list[bytes]:
    """The ids of sealed arenas that the index lacks, as after it was put back from a copy.

    Two listings that have the same mark are the same; only others are compared by name.

    Raises:
        Corrupt: sealed arenas that the index knows are missing.
    """
    there = arenas.sealed_ids()
    mark = index.sealed_mark()
    if SealedMark.of([*there, *unmoved]) == mark:
        return []
    known = index.arena_states(sealed=True)
    _refuse_missing(arenas, known)
    return sorted(set(there) - {state.arena for state in known} - index.drops().keys())


def restore_whole(
    arena: Arena, start: int, arenas: Arenas, files: Files, intake: ClumpIntake
) -> ArenaState | None:
    """Read a locked arena from `start` into `intake`, and durably make it whole.

    Returns:
        How far it goes now; None if it held nothing and is removed, or belongs to another store.
    """
    with readable_errors(arena.path):
        if _is_foreign(arena, arenas):
            return None
        # First: the index must not name what is only in the page cache; that includes file names.
        files.sync(arena.fd)
        files.sync_directory(arenas.open_directory)
        trailer = _sound_trailer(arena)
        end = arena.length() if trailer is None else trailer.directory_offset
        first = max(start, HEADER_SIZE)
        totals, damages = intake.read(arena, first, end)
        empty = first == HEADER_SIZE and _nothing_in(damages, first, end)
        if not _header_restored(arena, arenas, files, empty=empty):
            return None
        sealed = trailer is not None and not damages
        if not sealed:
            files.truncate(arena.fd, end)  # cut off the directory that follows damaged clumps
            end = _without_damage(arena, damages, end, totals, files)
            files.sync(arena.fd)
    return ArenaState(arena.id, end, sealed, totals, start)


def _is_foreign(arena: Arena, arenas: Arenas) -> bool:
    """Whether an arena belongs to another store; such an arena is left alone."""
    try:
        arena.check_header(arenas.store_id)
    except ForeignArena as error:
        log.warning("%s; it is left alone", error)
        return True
    except Corrupt:
        pass
    return False


def _sound_trailer(arena: Arena) -> Trailer | None:
    """The trailer; None without one, or if a power cut in sealing left a damaged directory."""
    trailer = arena.trailer()
    if trailer is not None:
        try:
            for _ in arena.directory(trailer):
                pass
        except Corrupt:
            return None
    return trailer


def _nothing_in(damages: list[Damage], start: int, end: int) -> bool:
    return end <= start or damages == [Damage(start, end - start)]


def _header_restored(arena: Arena, arenas: Arenas, files: Files, *, empty: bool) -> bool:
    """Rewrite a damaged header, or remove an arena without clumps; return whether it is kept."""
    try:
        arena.check_header(arenas.store_id)
        return True
    except Corrupt:
        pass
    if not empty:
        log.warning("arena %s: its header was damaged and is written anew", arena.id.hex())
        files.overwrite(arena.fd, encode_header(arenas.store_id, arena.id, 0), 0)
        return True
    _keep_torn(arena, Damage(0, arena.length()), files)
    files.unlink(arena.path)
    files.sync_directory(arenas.open_directory)
    return False


def _without_damage(
    arena: Arena, damages: list[Damage], end: int, totals: ArenaTotals, files: Files
) -> int:
    """Turn damage between clumps into gaps, cut it off at the end; return the new end."""
    for damage in damages:
        _keep_torn(arena, damage, files)
        if damage.offset + damage.length == end:
            files.truncate(arena.fd, damage.offset)
            return damage.offset
        gap = encode_gap(damage.length, arena=arena.id, offset=damage.offset)
        files.overwrite(arena.fd, gap, damage.offset)
        totals.clumps += 1
        totals.stored_bytes += damage.length
        totals.gap_bytes += damage.length
    return end


def _keep_torn(arena: Arena, damage: Damage, files: Files) -> None:
    """Copy damage to a file beside the arena, unless it is all zeros or a partial directory."""
    if not any(piece.strip(b"\0") for piece in _pieces(arena, damage)):
        return
    if os.pread(arena.fd, len(DIRECTORY_MAGIC), damage.offset) == DIRECTORY_MAGIC:
        return
    path = arena.path.with_name(f"{arena.id.hex()}-{damage.offset}.torn")
    log.warning(
        "arena %s at %d: %d bytes that a crash left unreadable were moved to %s",
        arena.id.hex(),
        damage.offset,
        damage.length,
        path,
    )
    files.write_whole(path, _pieces(arena, damage))


def _pieces(arena: Arena, damage: Damage) -> Iterator[bytes]:
    for start in range(0, damage.length, _PIECE):
        length = min(_PIECE, damage.length - start)
        yield os.pread(arena.fd, length, damage.offset + start)


def read_sealed(arenas: Arenas, arena_id: bytes, start: int, intake: ClumpIntake) -> list[Damage]:
    """Read a sealed arena from `start` into `intake`; return damage, but never write to it."""
    arena = arenas.reader(arena_id)
    if _is_foreign(arena, arenas):
        return []
    end = arena.clumps_end()
    totals, damages = intake.read(arena, max(start, HEADER_SIZE), end)
    intake.journal.states.append(ArenaState(arena_id, end, True, totals, start))
    for damage in damages:
        log.error(
            "arena %s at %d: %d bytes are damaged; 'ventifs check --read-data' tells more",
            arena_id.hex(),
            damage.offset,
            damage.length,
        )
    return damages


def _recover_relied_on(
    arenas: Arenas, index: Index, intake: ClumpIntake, dropped: set[bytes]
) -> None:
    """Index what a commit relies on in arenas whose writers are still running.

    This happens when a parent died after writing its commit clump, and a worker still runs. The
    worker's arena is locked, but durable and final up to the length that the commit names.

    Raises:
        Corrupt: such an arena is missing, and not dropped.
    """
    read = {state.arena: state.length for state in intake.journal.states}
    for arena_id, length in intake.journal.relies_on.items():
        start = max(read.get(arena_id, 0), index.arena_state(arena_id).length)
        if start >= length or arena_id in dropped:
            continue
        if not arenas.present(arena_id):
            raise _missing([arena_id])
        arena = arenas.reader(arena_id)
        totals, damages = intake.read(arena, max(start, HEADER_SIZE), length)
        if damages:  # left to the process that locks the arena next
            log.error(
                "arena %s at %d: damaged, and a commit relies on it",
                arena_id.hex(),
                damages[0].offset,
            )
        else:
            intake.journal.states.append(ArenaState(arena_id, length, False, totals, start))


def _refuse_missing(arenas: Arenas, states: list[ArenaState]) -> None:
    """Raise if arena files are missing: their blocks would wrongly count as known."""
    missing = [state.arena for state in states if not arenas.present(state.arena)]
    if missing:
        raise _missing(missing)


def _missing(missing: list[bytes]) -> Corrupt:
    names = ", ".join(arena.hex() for arena in missing[:3])
    return Corrupt(
        f"{len(missing)} arena files are missing ({names}): put them back, or run "
        "'ventifs rebuild-index' to go on without their blocks"
    )
