"""The arena a writer appends to: locked, growing, and in the end sealed.

An `Appender` holds an exclusive lock (flock) on its arena's file for as long as it lives. The lock
ends with the process, so it is never stale. Every append is all or nothing. FORMAT.md, section
Order of writes, describes what each crash point leaves behind.
"""

import fcntl
import os
import time
from pathlib import Path

from blake3 import blake3
from msgspec.structs import replace

from ventifs.buffer import Buffer
from ventifs.errors import VentifsError
from ventifs.store.arena import (
    DIRECTORY_START_SIZE,
    HEADER_SIZE,
    TRAILER_SIZE,
    Arena,
    Trailer,
    encode_directory_start,
    encode_entry,
    encode_header,
    encode_trailer,
)
from ventifs.store.arena_state import ArenaState, ArenaTotals
from ventifs.store.arenas import Arenas
from ventifs.store.clump import ARENA_ID_SIZE, ClumpKind, Packed, encode
from ventifs.store.files import Files, explained, readable_errors
from ventifs.store.score import Score

_WRITEBACK_STEP = 4 << 20
_PIECE = 1 << 20  # of a directory being written


def lock_arena(path: Path) -> Arena | None:
    """The arena at `path` open for writing and locked; None if it is missing or locked already.

    Raises:
        VentifsError: it cannot be opened.
    """
    try:
        arena = Arena.open(path, write=True)
    except FileNotFoundError:
        return None
    return arena if _locked(arena) else None


def _locked(arena: Arena) -> bool:
    try:
        fcntl.flock(arena.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between our open and our lock it may have been sealed and moved, or removed.
        return os.path.samestat(os.fstat(arena.fd), os.stat(arena.path))
    except (BlockingIOError, FileNotFoundError):
        return False


def in_use(arena: Arena) -> bool:
    """Whether a process has locked an open arena, to write to it. Takes no lock that lasts."""
    try:
        fcntl.flock(arena.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(arena.fd, fcntl.LOCK_UN)
    return False


class NotDurable(VentifsError):
    """The disk did not confirm a write; a second try cannot help, as the data may be dropped."""


class Appender:
    """Appends to one locked arena, and remembers what the index does not know of it yet.

    Concurrency: one thread at a time.

    Attributes:
        id: the arena's.
        length: bytes so far; where the next clump goes.
        totals: what was appended since `settled`.
    """

    def __init__(self, arena: Arena, files: Files, length: int, directory_length: int) -> None:
        """Go on at `length`; use `create` or `resume`."""
        self.id = arena.id
        self.path = arena.path
        self.length = length
        self.totals = ArenaTotals()
        self._settled_at = length
        self._arena = arena
        self._files = files
        self._directory_length = directory_length
        self._writeback_from = length
        self._dirty = False
        self._clumps_end = 0  # of the sealed arena

    @classmethod
    def create(cls, arenas: Arenas, files: Files) -> "Appender":
        """A new arena with nothing but its header.

        Raises:
            VentifsError: when it cannot be created.
        """
        arena_id = os.urandom(ARENA_ID_SIZE)
        path = arenas.open_path(arena_id)
        with readable_errors(path):
            arena = Arena(path, arena_id, files.create(path))
            if not _locked(arena):  # another writer's recovery locked it first, and removes it
                return cls.create(arenas, files)
            appender = cls(arena, files, 0, DIRECTORY_START_SIZE)
            try:
                appender._write([encode_header(arenas.store_id, arena_id, time.time_ns())])
            except OSError:
                files.unlink(path)
                raise
        return appender

    @classmethod
    def resume(cls, arena: Arena, files: Files, totals: ArenaTotals) -> "Appender":
        """Go on in a locked arena that is wholly indexed; `totals` are the index's."""
        blocks = totals.data_blocks + totals.node_blocks
        estimate = DIRECTORY_START_SIZE + 40 * totals.clumps + 36 * blocks
        return cls(arena, files, arena.length(), estimate)

    def room(self, size_max: int, raw_length: int, blocks: int) -> bool:
        """Whether a clump of these blocks, and the directory, still fit in `size_max` bytes."""
        listed = 40 + 36 * blocks
        directory = self._directory_length + listed
        return self.length <= HEADER_SIZE or (
            self.length + listed + raw_length + directory + TRAILER_SIZE <= size_max
        )

    def append(self, kind: ClumpKind, blocks: list[tuple[Score, int]], packed: Packed) -> int:
        """Write one clump, and return its offset; on an error the arena is as before.

        Raises:
            NoSpace, VentifsError: when it cannot be written.
        """
        offset = self.length
        head = encode(kind, blocks, packed, arena=self.id, offset=offset)
        with readable_errors(self.path):
            self._write([head.listed, packed.payload])
            if self.length - self._writeback_from >= _WRITEBACK_STEP:
                start, self._writeback_from = self._writeback_from, self.length
                self._files.start_writeback(self._arena.fd, start, self.length - start)
        self._directory_length += 8 + len(head.listed)
        self.totals.count(head)
        return offset

    def _write(self, parts: list[Buffer]) -> None:
        self._dirty = True
        self.length += self._files.append(self._arena.fd, parts, self.length)

    def sync(self) -> None:
        """Make everything appended so far durable.

        Raises:
            NotDurable: what the arena holds past its last indexed clump is then unknown, and
                nothing may be appended to it.
        """
        if self._dirty:
            self._sync_file()

    def _sync_file(self) -> None:
        try:
            self._files.sync(self._arena.fd)
        except OSError as error:
            raise NotDurable(str(explained(error, self.path))) from error
        self._dirty = False

    def cut_back(self, length: int, totals: ArenaTotals) -> None:
        """Cut off what was appended past `length`; `totals` are those at that length.

        Raises:
            VentifsError: it cannot be cut off.
        """
        with readable_errors(self.path):
            self._files.truncate(self._arena.fd, length)
        self.length, self.totals = length, totals
        self._writeback_from = min(self._writeback_from, length)
        self._dirty = True

    def unlock(self) -> None:
        """Release the arena's lock, even if an exception's traceback still refers to this."""
        fcntl.flock(self._arena.fd, fcntl.LOCK_UN)

    def seal(self) -> None:
        """Write directory and trailer durably; if they cannot be written, the arena is as before.

        Raises:
            NoSpace, VentifsError: when they cannot be written.
            Corrupt: when a clump's head cannot be read.
            NotDurable: as `sync`.
        """
        clumps_end = self.length
        try:
            with readable_errors(self.path):
                self._seal(clumps_end)
        except BaseException:
            self.cut_back(clumps_end, self.totals)
            raise
        self._sync_file()
        self._clumps_end = clumps_end

    def _seal(self, clumps_end: int) -> None:
        """Write directory and trailer; heads are read again, as kept ones grow with the arena."""
        fingerprint = blake3()
        parts = [encode_directory_start(os.pread(self._arena.fd, HEADER_SIZE, 0))]
        waiting = clumps = blocks = 0
        for offset, head in self._arena.heads(HEADER_SIZE, clumps_end):
            clumps, blocks = clumps + 1, blocks + len(head.blocks)
            parts.append(encode_entry(offset, head))
            waiting += len(parts[-1])
            if waiting >= _PIECE:
                fingerprint.update(b"".join(parts))
                self._write([b"".join(parts)])
                parts, waiting = [], 0
        fingerprint.update(b"".join(parts))
        self._write([b"".join(parts)])
        trailer = Trailer(
            clumps_end, self.length - clumps_end, clumps, blocks, fingerprint.digest()
        )
        self._write([encode_trailer(trailer, self.id)])

    def state(self) -> ArenaState:
        """How far the arena goes now, with what was appended since `settled`."""
        end = self._clumps_end or self.length
        return ArenaState(
            self.id, end, self._clumps_end > 0, replace(self.totals), self._settled_at
        )

    def settled(self) -> None:
        """Count from here: what `state` returned is now known to the index.

        In a worker process, its parent knows it instead, and will report it to the index. The next
        `state` counts only what is appended from now on.
        """
        self.totals = ArenaTotals()
        self._settled_at = self._clumps_end or self.length
