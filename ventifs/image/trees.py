"""The file tree of one volume, put together from what batches say of its names.

Done by whoever works for the run, when all of a volume is read, while the run itself puts the disk
together. Batches come in any order; what concerns several of them is settled here.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from types import TracebackType
from typing import Self

import msgspec
from msgspec.structs import replace

from ventifs.errors import VentifsError
from ventifs.image.entries import Names, key_problem
from ventifs.tree.gathered import TOO_LARGE, Gathered, Key, gather
from ventifs.tree.live import Trouble
from ventifs.tree.prolly import Put
from ventifs.tree.reading import reason_of
from ventifs.tree.records import encode

_LENGTH = struct.Struct("<I")
_READ = 4 << 20  # bytes at a time
_decode = msgspec.msgpack.Decoder(Names).decode


class Built(msgspec.Struct, frozen=True, array_like=True):
    """A tree.

    Attributes:
        root: its encoded entry, without a name; empty, if no root was told.
        troubles: what could not be taken in as it should be: paths below it, reasons, whether
            something is missing.
        new_bytes: of nodes that the store did not have.
    """

    root: bytes
    troubles: list[tuple[bytes, str, bool]]
    new_bytes: int = 0


class Spool:
    """What batches say of names, kept on disk until the tree is built. A context manager."""

    def __init__(self) -> None:
        """An empty one."""
        with _told_plainly():
            self._file = TemporaryFile()  # noqa: SIM115, closed in __exit__

    def add(self, names: bytes) -> None:
        """Encoded `Names`."""
        with _told_plainly():
            self._file.write(_LENGTH.pack(len(names)))
            self._file.write(names)

    def fileno(self) -> int:
        """Its descriptor, for `build`; nothing may be added after."""
        with _told_plainly():
            self._file.flush()
        return self._file.fileno()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drop it."""
        with suppress(OSError):  # of what was still to be written
            self._file.close()


@contextmanager
def _told_plainly() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VentifsError(
            f"temporary file: {reason_of(error)}; make room for it, or name another directory for "
            "it in TMPDIR"
        ) from error


def build(spool: int, put: Put, room: int) -> Built:
    """Build the tree of what the `Spool` with a descriptor holds.

    Args:
        spool: the descriptor.
        put: stores nodes.
        room: what the sizes of all files may sum up to.

    Raises:
        VentifsError: no room for what is temporary; the store's own problems.
    """
    with gather() as gathered:
        tree = _Tree(gathered, room)
        for names in _spooled(spool):
            tree.take(names)
        root = tree.finish(put)
        return Built(root, tree.troubles)


def _spooled(spool: int) -> Iterator[Names]:
    """What was added to a spool, read by offset: the descriptor has other users."""
    at, data = 0, b""
    while True:
        with _told_plainly():
            more = os.pread(spool, _READ, at)
        if not more:
            return
        at += len(more)
        data += more
        start = 0
        while start + _LENGTH.size <= len(data):
            end = start + _LENGTH.size + _LENGTH.unpack_from(data, start)[0]
            if end > len(data):
                break
            yield _decode(memoryview(data)[start + _LENGTH.size : end])
            start = end
        data = data[start:]


class _Tree:
    """The tree on its way."""

    def __init__(self, gathered: Gathered, room: int) -> None:
        self.troubles: list[tuple[Key, str, bool]] = []
        self._size = 0  # sum of the sizes of regular files, each of their names counted
        self._gathered = gathered
        self._room = room
        self._rooted = False
        self._later: list[Names] = []  # what is settled when all is in
        self._first: dict[int, tuple[int, Key]] = {}  # by inode's number: minus its file, a name

    def take(self, names: Names) -> None:
        """A batch."""
        rows = names.rows
        self._gathered.put_rows(rows)
        self._size += sum([row[4] for row in rows])
        self._rooted = self._rooted or not all(row[0] for row in rows)
        for inode, at in names.linked:
            key, time = rows[at][:2]
            self._first[inode] = max(self._first.get(inode, (0, b"")), (time, key))
        if names.others or names.troubles:
            self._later.append(replace(names, rows=[], linked=[]))

    def finish(self, put: Put) -> bytes:
        """All is in: the root's entry, encoded."""
        self._later.sort(key=lambda names: names.time)
        for names in self._later:
            self.troubles += names.troubles
        if self._size > self._room:
            self._told(self._gathered.limit(self._room))
            self._size = self._gathered.size
        for names in self._later:
            for key, inode, problem in names.others:
                self._other(key, inode, problem)
        self._told(self._gathered.prune())
        return encode(self._gathered.build(put)) if self._rooted else b""

    def _other(self, key: Key, inode: int, problem: str) -> None:
        """A name that was told without an inode: another one of a file, or nothing."""
        first = self._first.get(inode)
        if problem:
            self.troubles.append((key, problem, first is None))
            if first is None:
                return
        found = None if first is None else self._gathered.find(first[1])
        if first is None or found is None or found[1] != -first[0]:
            problem = "its other names could not be archived"
        elif self._size + found[0].size > self._room:
            problem = TOO_LARGE
        else:
            problem = key_problem(key)
        if problem:
            self.troubles.append((key, problem, True))
            return
        assert first is not None
        assert found is not None
        self._size += found[0].size
        name = key.rpartition(b"\0")[2]
        self._gathered.put(key, replace(found[0], name=name), -first[0])

    def _told(self, troubles: Iterable[Trouble]) -> None:
        self.troubles += [(each.path, each.reason, each.missing) for each in troubles]
