"""Builds a new index from the arenas alone.

Every clump of every arena is read and verified, so that a rebuilt index lists only blocks that are
there. Entries are spread over 256 temporary files by the first byte of their scores, which are
uniform. Then each file is sorted in memory, which needs room for a 256th of the entries. So LMDB is
filled in ascending order, at 58 bytes an entry. The new index is built beside the old one and
replaces it at the end.
"""

import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from ventifs.errors import Busy
from ventifs.store.appender import lock_arena
from ventifs.store.arena import HEADER_SIZE, Damage
from ventifs.store.arena_state import ArenaProgress
from ventifs.store.arenas import Arenas
from ventifs.store.files import Files, readable_errors
from ventifs.store.header import StoreHeader
from ventifs.store.index import Index
from ventifs.store.intake import ClumpIntake
from ventifs.store.journal import CommitCounters
from ventifs.store.lmdb_environment import INDEX_NAME
from ventifs.store.permissions import make_directory
from ventifs.store.reclaim.condemned import take_back
from ventifs.store.recovery import drops_in
from ventifs.store.score import Score
from ventifs.store.whole_arenas import left_by_a_copy, read_sealed, restore_whole
from ventifs.store.writer import move_sealed

_BUCKETS = 256
_ITEM = struct.Struct("<32sIIH")  # score, arena number, offset, position
_APPEND_MAX = 64_000


class _Sorter:
    """Sorts entries by score on disk, in 256 buckets."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._buckets: list[IO[bytes] | None] = [None] * _BUCKETS

    def add(self, number: int, entries: list[tuple[Score, int, int]]) -> None:
        """Add entries of one arena."""
        gathered: dict[int, list[bytes]] = {}
        for score, offset, position in entries:
            item = _ITEM.pack(score, number, offset, position)
            gathered.setdefault(score[0], []).append(item)
        for bucket, items in gathered.items():
            file = self._buckets[bucket]
            if file is None:
                file = self._buckets[bucket] = TemporaryFile(dir=self._directory)  # noqa: SIM115
            file.write(b"".join(items))

    def close(self) -> None:
        """Drop the temporary files."""
        for file in self._buckets:
            if file is not None:
                file.close()

    def ascending(self) -> Iterator[list[tuple[Score, int, int, int]]]:
        """All entries, one for each score, as lists in ascending order."""
        for file in self._buckets:
            if file is None:
                continue
            file.seek(0)
            unique = {item[:32]: item for item in _items(file)}
            ordered = sorted(unique.values())
            for start in range(0, len(ordered), _APPEND_MAX):
                yield [_ITEM.unpack(item) for item in ordered[start : start + _APPEND_MAX]]


def _items(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_ITEM.size * 4096):
        for start in range(0, len(piece), _ITEM.size):
            yield piece[start : start + _ITEM.size]


def rebuild_index(
    root: Path,
    header: StoreHeader,
    files: Files,
    progress: ArenaProgress | None = None,
    *,
    dropped: Mapping[bytes, CommitCounters] | None = None,
) -> list[tuple[bytes, Damage]]:
    """Build a new index and put it in place; the caller holds the store's lock exclusively.

    The files of dropped arenas that an interrupted reclaim left are left to the next writer.

    Args:
        root: the store's directory.
        header: its header.
        files: for tests.
        progress: called after every arena.
        dropped: arenas that were dropped, of which the journals have lost it.

    Returns:
        (arena id, damage) for everything in sealed arenas that could not be read.

    Raises:
        NoSpace, VentifsError: the old index, if any, is still in place.
    """
    target = root / "index"
    with readable_errors(root):
        for leftover in root.glob("index.*"):
            if INDEX_NAME.fullmatch(leftover.name) and leftover.is_dir():
                shutil.rmtree(leftover)
        building = root / f"index.{os.urandom(4).hex()}"
        make_directory(building)
        try:
            with closing(Index(building, header.store_id, create=True, sync=False)) as index:
                damages = _fill(
                    index, Arenas(root, header.store_id), files, progress, dropped or {}
                )
                index.sync()
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        _put_in_place(building, target, files)
    return damages


def _put_in_place(building: Path, target: Path, files: Files) -> None:
    """Swap directories; after a crash between the two renames, the next writer rebuilds again."""
    files.sync_directory(building)
    old = target.with_name(target.name + ".old")
    if target.exists():
        files.rename(target, old)
    files.rename(building, target)
    files.sync_directory(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _fill(
    index: Index,
    arenas: Arenas,
    files: Files,
    progress: ArenaProgress | None,
    lost: Mapping[bytes, CommitCounters],
) -> list[tuple[bytes, Damage]]:
    with closing(_Sorter(index.path)) as sorter:
        return _fill_sorted(index, arenas, files, progress, lost, sorter)


def _not_dropped(arenas: Arenas, files: Files, lost: Mapping[bytes, CommitCounters]) -> list[bytes]:
    """The ids of the arenas to read, of those as well that a copy has among the condemned."""
    there = arenas.all_ids()
    dropped = _drops_in(arenas, there) | lost.keys()
    unsure = (arena for arena in arenas.condemned_ids() if arena not in dropped)
    back = take_back(arenas, unsure, files)
    dropped |= _drops_in(arenas, back)
    return [arena for arena in sorted({*there, *back}) if arena not in dropped]


def _drops_in(arenas: Arenas, ids: Iterable[bytes]) -> set[bytes]:
    return drops_in(arenas, ((arenas.reader(arena), HEADER_SIZE) for arena in ids))


def _fill_sorted(
    index: Index,
    arenas: Arenas,
    files: Files,
    progress: ArenaProgress | None,
    lost: Mapping[bytes, CommitCounters],
    sorter: _Sorter,
) -> list[tuple[bytes, Damage]]:
    def sink(arena: bytes, entries: list[tuple[Score, int, int]]) -> None:
        sorter.add(index.number_of(arena), entries)

    intake = ClumpIntake(sink)
    damages: list[tuple[bytes, Damage]] = []
    ids = _not_dropped(arenas, files, lost)
    intake.journal.drops.update(lost)
    sizes = {arena: arenas.reader(arena).length() for arena in ids}
    done, total = 0, sum(sizes.values())
    for arena_id in ids:
        path = arenas.open_path(arena_id)
        if path.exists():
            arena = lock_arena(path)
            if arena is None:
                raise Busy(f"{path}: another process holds this arena; try again when it is done")
        else:
            arena = None
        if arena is not None and not left_by_a_copy(arena, arenas, files):
            state = restore_whole(arena, 0, arenas, files, intake)
            if state:
                intake.journal.states.append(state)
        else:
            damages += [(arena_id, damage) for damage in read_sealed(arenas, arena_id, 0, intake)]
        done += sizes[arena_id]
        if progress is not None:
            progress(done, total)
    for entries in sorter.ascending():
        index.append_blocks(entries)
    for counters in intake.journal.drops.values():  # of commits that went with their arenas
        intake.journal.counters.add(counters)
    intake.journal.settle(index)
    for state in intake.journal.states:
        if state.sealed:
            move_sealed(arenas, files, state.arena)
    return damages


assert os.name == "posix"
