"""Makes arenas whole that a crash, or a copy of the store, left otherwise.

An open arena is made whole under its lock. Bytes that are no clump are copied to a file beside it
(`.torn`), then covered by a gap clump or cut off, so that the next writer can append. Sealed arenas
are read as they are.
"""

import logging
import os
from collections.abc import Iterator

from ventifs.errors import Corrupt
from ventifs.store.arena import (
    DIRECTORY_MAGIC,
    HEADER_SIZE,
    Arena,
    Damage,
    ForeignArena,
    Trailer,
    encode_header,
)
from ventifs.store.arena_state import ArenaState, ArenaTotals
from ventifs.store.arenas import Arenas
from ventifs.store.clump import encode_gap
from ventifs.store.files import Files, readable_errors
from ventifs.store.intake import ClumpIntake

log = logging.getLogger("ventifs.store")

_PIECE = 1 << 20  # of bytes being copied or compared


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


def too_short(arena: Arena, length: int) -> Corrupt:
    """The error for an arena that lacks bytes which the index, or a commit, counts on."""
    return Corrupt(
        f"{arena.path}: it has {arena.length():,} bytes, and {length:,} are counted on: put back a "
        "whole copy, or run 'ventifs rebuild-index' to go on without the rest"
    )


def read_sealed(arenas: Arenas, arena_id: bytes, start: int, intake: ClumpIntake) -> list[Damage]:
    """Read a sealed arena from `start` into `intake`; return damage, but never write to it."""
    arena = arenas.reader(arena_id)
    if _is_foreign(arena, arenas):
        return []
    end = arena.clumps_end()
    if end < start:
        raise too_short(arena, start)
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
    if os.path.samestat(os.fstat(arena.fd), os.fstat(whole.fd)):
        return True  # it was moved there since it was locked
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
