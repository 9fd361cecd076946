"""Builds the file tree of one volume from the names in its batches.

A worker does this when all of a volume is read, while the run itself puts the disk together.
Batches come in any order; this module settles what concerns several of them. If a name comes twice,
the later row counts. Names below something that is no directory are left out. Sound parsers send
neither; names that are lost this way still count among those of a file.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

import msgspec
from msgspec.structs import replace

from ventifs.image.archive.external_sort import Ordered
from ventifs.image.archive.ingest import BatchNames, NameRow, key_problem
from ventifs.tree.objects import tree_builder as building
from ventifs.tree.objects.prolly import Put
from ventifs.tree.objects.records import Entry, encode, encode_entry, own_entry
from ventifs.tree.objects.tree_builder import AS_CLOSED, CLOSED, Key, build_tree, path_of, with_link

_AFTER_ALL = 1 << 62  # later than any row of a parser
_decode = msgspec.msgpack.Decoder(BatchNames).decode
Problem = tuple[Key, str, bool]  # key, reason, whether something is missing


class Built(msgspec.Struct, frozen=True, array_like=True):
    """A tree.

    Attributes:
        root: its encoded entry, without a name; empty if there was no root.
        troubles: what could not be taken in as it should be.
        new_bytes: of nodes that the store did not have.
    """

    root: bytes
    troubles: list[Problem]
    new_bytes: int = 0


def build(batches: Iterable[memoryview], put: Put) -> Built:
    """Build a volume's tree from its batches.

    Args:
        batches: encoded `BatchNames`.
        put: stores nodes.

    Raises:
        VentifsError: no room for a temporary file; the store's own problems.
    """
    with Ordered[NameRow](NameRow) as rows:
        tree = _FileTree(rows)
        for names in batches:
            tree.take(_decode(names), len(names))
        root = tree.finish(put)
    return Built(root, tree.troubles)


class _FileTree:
    """The tree that is being built."""

    def __init__(self, rows: Ordered[NameRow]) -> None:
        self.troubles: list[Problem] = []
        self._rows = rows
        self._rooted = False
        self._later: list[BatchNames] = []  # what is settled after the last batch
        # Inode number: the row of a file that may have more names.
        self._first: dict[int, NameRow] = {}
        self._least: dict[int, bytes] = {}  # number of a file with several names: its least path
        self._time = _AFTER_ALL

    def take(self, names: BatchNames, size: int) -> None:
        """Add a batch of `size` bytes."""
        rows = names.rows
        self._rows.add(rows, size)
        self._rooted = self._rooted or not all(row[0] for row in rows)
        for inode, at in names.linked:
            row = rows[at]
            first = self._first.get(inode)
            if first is None or first[1] < row[1]:
                self._first[inode] = row
        if names.others or names.troubles:
            self._later.append(replace(names, rows=[], linked=[]))

    def finish(self, put: Put) -> bytes:
        """Build the tree after the last batch; return the root's encoded entry."""
        self._later.sort(key=lambda names: names.time)
        for names in self._later:
            self.troubles += names.troubles
        for names in self._later:
            for key, inode, problem in names.others:
                self._other(key, inode, problem)
        rows = self._kept()
        if self._rooted:
            return encode_entry(build_tree(rows, put, self._implied), root=True)
        deque(rows, 0)  # only for the troubles that it adds
        return b""

    def _implied(self, key: Key) -> Entry:
        """A directory that was not listed, though something in it was: closed to all but root."""
        self.troubles.append((key, f"its attributes are not known; {AS_CLOSED}", False))
        return CLOSED

    def _other(self, key: Key, inode: int, problem: str) -> None:
        """Handle a name that came without an inode: another name of a file, or only a trouble."""
        first = self._first.get(inode)
        if problem:
            self.troubles.append((key, problem, first is None))
            if first is None:
                return
        if first is None:
            self.troubles.append((key, "its other names could not be archived", True))
            return
        size = first[4]
        wrong = key_problem(key)
        if wrong:
            self.troubles.append((key, wrong, True))
            return
        self._time += 1
        record = encode(replace(own_entry(first[5]), name=key.rpartition(b"\0")[2]))
        row = key, self._time, False, first[3], size, record
        self._rows.add([row], len(record))
        least = self._least.get(first[3]) or path_of(first[0])
        self._least[first[3]] = min(least, path_of(key))

    def _kept(self) -> Iterator[building.EntryRow]:
        """Yield the rows that stay."""
        last: NameRow | None = None
        barred = b"\0"  # keys that begin with this are below something that is no directory
        for row in chain(self._rows, [None]):
            if last is not None and (row is None or row[0] != last[0]):
                key, _, directory, file, size, record = last
                if key.startswith(barred):
                    self.troubles.append((key, "is below what is no directory", True))
                else:
                    if not directory:
                        barred = key + b"\0"
                    least = self._least.get(file) if file else None
                    yield key, directory, size, with_link(record, least) if least else record
            last = row
