"""Condemned arenas: those that a reclaim is about to drop, and the files of those that are dropped.

FORMAT.md, section Reclaiming, has the bytes and the order. Before the drop, an announcement names
the arenas; writers that come meanwhile store again what they find in them. One that a kill left
counts until a writer has indexed all that the killed process may have committed. After the drop,
the files are moved to `arenas/condemned/`, emptied and removed. If that is interrupted, the next
writer does it.

Always: no file is emptied whose arena the index does not have as dropped.
"""

import logging
import os
import struct
from collections.abc import Collection, Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from blake3 import blake3

from ventifs.errors import Busy, Corrupt, VentifsError
from ventifs.store.arena import Arena, ForeignArena
from ventifs.store.arenas import Arenas
from ventifs.store.clump import ARENA_ID_SIZE
from ventifs.store.files import Files, explained, readable_errors
from ventifs.store.index import Index
from ventifs.store.lock import reclaimer_lives, reclaimer_lock

log = logging.getLogger("ventifs.store")

ANNOUNCEMENT = "condemned"  # file of a store
ARENAS_MAX = 1 << 24  # in one announcement
_MAGIC = b"vfcond\0\1"
_COUNT = struct.Struct("<I")
_CHECK_SIZE = 16
_HEAD_SIZE = len(_MAGIC) + _COUNT.size
_SIZE_MAX = _HEAD_SIZE + ARENAS_MAX * ARENA_ID_SIZE + _CHECK_SIZE
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


# --- before the drop ----------------------------------------------------------------------------


def announce(root: Path, arenas: Collection[bytes], files: Files) -> None:
    """Announce that arenas are going to be dropped, in place of what was announced before.

    The caller holds the reclaimer's lock, and waits afterwards for every writer that may have come
    before this.

    Raises:
        ValueError: for more than `ARENAS_MAX`.
        NoSpace, VentifsError: it cannot be written; what was announced before still is.
    """
    data = encode_announcement(arenas)
    with readable_errors(root / ANNOUNCEMENT):
        files.write_whole(root / ANNOUNCEMENT, [data])


def withdraw(root: Path, files: Files) -> None:
    """Remove the announcement, or what a kill left of one; the caller is the reclaimer."""
    with readable_errors(root / ANNOUNCEMENT):
        files.unlink(root / (ANNOUNCEMENT + ".tmp"))
        files.unlink(root / ANNOUNCEMENT)


def announced(root: Path) -> frozenset[bytes]:
    """The arenas that a process is about to drop, or was when it ended; for a writer with its gate.

    Raises:
        Busy: such a process lives, and its announcement cannot be read or is damaged.
    """
    path = root / ANNOUNCEMENT
    try:
        return decode_announcement(_read(path))
    except FileNotFoundError:
        return frozenset()
    except (OSError, Corrupt) as error:
        if not reclaimer_lives(root):
            return frozenset()
        reason = (
            str(explained(error, path))
            if isinstance(error, OSError)
            else (f"{path}: {error.reason}")
        )
        raise _unknown(reason) from error


def withdraw_left(root: Path, files: Files) -> None:
    """Remove the announcement of a process that has ended, unless another reclaims by now.

    The caller has indexed all that such a process may have left in arenas.
    """
    if (root / ANNOUNCEMENT).exists() and not reclaimer_lives(root):
        with suppress(VentifsError), reclaimer_lock(root):
            withdraw(root, files)


def _read(path: Path) -> bytes:
    fd = os.open(path, _READ)
    with os.fdopen(fd, "rb") as file:
        return file.read(_SIZE_MAX + 1)


def _unknown(reason: str) -> Busy:
    return Busy(
        f"{reason}; space is being reclaimed, and which arenas go is not known: try again when "
        "that is done"
    )


def encode_announcement(arenas: Iterable[bytes]) -> bytes:
    """The bytes that announce some arenas.

    Raises:
        ValueError: for more than `ARENAS_MAX`.
    """
    ids = sorted(set(arenas))
    if len(ids) > ARENAS_MAX:
        raise ValueError(f"{len(ids)} arenas: at most {ARENAS_MAX} can be announced")
    body = b"".join([_MAGIC, _COUNT.pack(len(ids)), *ids])
    return body + blake3(body).digest(_CHECK_SIZE)


def decode_announcement(data: bytes) -> frozenset[bytes]:
    """The arenas that an announcement names.

    Raises:
        Corrupt: it is damaged.
    """
    body, check = data[:-_CHECK_SIZE], data[-_CHECK_SIZE:]
    if len(body) < _HEAD_SIZE or not body.startswith(_MAGIC):
        raise Corrupt("it is no announcement")
    (count,) = _COUNT.unpack_from(body, len(_MAGIC))
    listed = body[_HEAD_SIZE:]
    if len(listed) != count * ARENA_ID_SIZE or blake3(body).digest(_CHECK_SIZE) != check:
        raise Corrupt("it is damaged")
    ids = [listed[at : at + ARENA_ID_SIZE] for at in range(0, len(listed), ARENA_ID_SIZE)]
    if any(one >= following for one, following in pairwise(ids)):
        raise Corrupt("its arenas are not in order")
    return frozenset(ids)


# --- after the drop -----------------------------------------------------------------------------


def make_room(arenas: Arenas, files: Files) -> None:
    """Make the directory of condemned arenas.

    Raises:
        NoSpace, VentifsError: it cannot be made.
    """
    with readable_errors(arenas.condemned_directory):
        files.make_directory(arenas.condemned_directory)


def condemn(arenas: Arenas, ids: Collection[bytes], files: Files) -> None:
    """Move the files of dropped arenas away from the others, durably; idempotent.

    Args:
        arenas: the store's.
        ids: of arenas that are dropped, durably. One that was moved or has no file is no error.
        files: for tests.

    Raises:
        VentifsError: a file cannot be moved; those before it were.
    """
    if not ids:
        return
    make_room(arenas, files)
    for arena_id in sorted(ids):
        target = arenas.condemned_path(arena_id)
        for source in (arenas.sealed_path(arena_id), arenas.open_path(arena_id)):
            with readable_errors(source), suppress(FileNotFoundError):
                source.stat()
                _remove(target, files)  # where a copy of the store has brought `source` back
                files.rename(source, target)
        arenas.forget_reader(arena_id)
    for directory in (arenas.condemned_directory, arenas.sealed_directory, arenas.open_directory):
        with readable_errors(directory):
            files.sync_directory(directory)


def empty(arenas: Arenas, ids: Collection[bytes], files: Files) -> None:
    """Remove the files of dropped arenas from where `condemn` has moved them; idempotent.

    They are cut to nothing first, so their space is free even while a server has them open.

    Args:
        arenas: the store's.
        ids: of arenas that are dropped. One without a file there is no error.
        files: for tests.

    Raises:
        VentifsError: a file cannot be removed; those before it were.
    """
    if not ids:
        return
    for arena_id in sorted(ids):
        path = arenas.condemned_path(arena_id)
        with readable_errors(path):
            _remove(path, files)
    with readable_errors(arenas.condemned_directory), suppress(FileNotFoundError):
        files.sync_directory(arenas.condemned_directory)


def _remove(path: Path, files: Files) -> None:
    """Cut a file to nothing and remove it; one with a second name, as in a backup, is not cut."""
    with suppress(FileNotFoundError):
        fd = os.open(path, _WRITE)
        try:
            if os.fstat(fd).st_nlink == 1:
                files.truncate(fd, 0)
        finally:
            os.close(fd)
        files.unlink(path)


# --- what an interrupted reclaim left -----------------------------------------------------------


def take_back(arenas: Arenas, ids: Iterable[bytes], files: Files) -> list[bytes]:
    """Move the files of arenas that are not dropped back to `sealed/`, as far as they are whole.

    A copy of a store that was made during a reclaim has such files: its index and journals may be
    older than the drop, and may need them. Others stay where they are.

    Returns:
        The ids of those that were moved.
    """
    moved = [arena_id for arena_id in ids if _is_whole(arenas, arena_id)]
    for arena_id in moved:
        source, target = arenas.condemned_path(arena_id), arenas.sealed_path(arena_id)
        log.warning("%s: no journal says that it was dropped; it is moved back", source)
        with readable_errors(source):
            files.rename(source, target)
    if moved:
        for directory in (arenas.sealed_directory, arenas.condemned_directory):
            with readable_errors(directory):
                files.sync_directory(directory)
    return moved


def _is_whole(arenas: Arenas, arena_id: bytes) -> bool:
    """Whether a file in `condemned/` has a sealed arena of this store that is nowhere else."""
    if arenas.present(arena_id):
        return False
    path = arenas.condemned_path(arena_id)
    try:
        with readable_errors(path):
            arena = Arena.open(path)
        arena.check_header(arenas.store_id)
    except ForeignArena:
        return False
    except Corrupt:
        pass  # a damaged header alone is no reason
    except VentifsError:
        return False
    return arena.trailer() is not None


def finish(arenas: Arenas, index: Index, files: Files, left: Iterable[bytes] = ()) -> None:
    """Remove the files of dropped arenas that an interrupted reclaim left; idempotent.

    What cannot be removed stays, and is logged: it takes space and does no harm.

    Args:
        arenas: the store's.
        index: has every drop that the journals have.
        files: for tests.
        left: ids of arenas that may be dropped and have a file in `sealed/` or `open/`.
    """
    gone = {arena_id for arena_id in (*left, *arenas.condemned_ids()) if index.dropped(arena_id)}
    try:
        condemn(arenas, gone, files)
        empty(arenas, gone, files)
    except VentifsError as error:
        log.warning("%s; space that was reclaimed is not free yet", error)
