"""Looks ahead of the walk for directories that did not change since the previous run.

The directories in the previous run's stat cache are grouped into units. Workers compare each unit
with the live tree and report every directory that has changed: in its own metadata, in the names of
its subdirectories, or in its leaves, which are all its other entries. The walk then goes only to
these directories and to those above them: the entry of every other directory is known. A directory
that could not be compared is reported as unknown, with everything below it, so that the walk relies
on nothing there. A directory that holds a name of a hard-linked file always counts as changed,
because the entries of such a file depend on all of its names.
"""

import errno
import os
from collections.abc import Iterator
from itertools import chain

import msgspec

from ventifs.tree.archive.file_reader import Opener, entry_of, live_xattrs
from ventifs.tree.archive.scan import Options, Scanner
from ventifs.tree.archive.statcache import NamedEntry, PreviousCache, raw_leaves
from ventifs.tree.archive.worker import REQUESTS
from ventifs.tree.objects.records import (
    Content,
    Directory,
    Empty,
    Entry,
    encode,
    listed_xattrs,
    own_entry,
    time_problem,
)
from ventifs.tree.process_pool import REQUEST_MAX, Pool

UNIT_NAMES = 2000
_UNIT_COST = 20  # the cost of opening one, in names
_CHANGED_MAX = 64  # changed or unknown paths; with more, all of a unit counts as unknown
_UNKNOWN_MIN = 16  # unknown paths; up to this many never end the scan early


class Unit(msgspec.Struct, frozen=True, array_like=True):
    """A directory to compare, alone or with all below it.

    Attributes:
        path: below the archive's root.
        entry: what the previous run archived of it.
        deep: whether everything below is compared, too.
    """

    path: bytes
    entry: bytes
    deep: bool


class Comparison(msgspec.Struct, frozen=True, array_like=True):
    """The result of comparing one unit.

    Attributes:
        changed: paths of the directories that changed.
        unknown: paths of directories that could not be compared, with everything below them.
    """

    changed: list[bytes]
    unknown: list[bytes]


@REQUESTS.register
class Compare(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A request to compare units; its descriptors are the archive's root and the cache."""

    units: list[Unit]


_encode = msgspec.msgpack.Encoder().encode
_decode_reply = msgspec.msgpack.Decoder(list[Comparison]).decode


class Scouted:
    """What the comparison of all units found.

    Attributes:
        unknown: paths of directories that are not known, with everything below them.
    """

    def __init__(self) -> None:
        """Nothing is found yet."""
        self.unknown: set[bytes] = set()
        self._to_walk = {b""}  # changed and unknown directories, and those above them

    def add(self, findings: list[Comparison]) -> None:
        """Add findings."""
        for finding in findings:
            self.unknown.update(finding.unknown)
            for path in chain(finding.changed, finding.unknown):
                while path not in self._to_walk:
                    self._to_walk.add(path)
                    path = path.rpartition(b"/")[0]  # noqa: PLW2901, up to the root

    def unchanged(self, path: bytes) -> bool:
        """Whether a directory that was compared is unchanged, with everything below it."""
        return path not in self._to_walk


def scout(pool: Pool, top: int, previous: PreviousCache, root: Content) -> Scouted | None:
    """Have everything below the root compared.

    Args:
        pool: compares.
        top: the root's descriptor.
        previous: what the previous run saw.
        root: the root's content then.

    Returns:
        What was found; None if the unknown paths are more than half as many as the units, or the
        root is one of them.
    """
    found, asked = Scouted(), 0
    unread: set[bytes] = set()

    def take(reply: bytes) -> None:
        found.add(_decode_reply(reply))

    for units in units_of(previous, root, unread):
        if len(found.unknown) > max(_UNKNOWN_MIN, asked // 2):
            break  # more than half will be unknown
        asked += len(units)
        request = _encode(Compare(units))
        if len(request) <= REQUEST_MAX:
            pool.submit(request, (top, previous.fd), take)
        else:  # too large, because of very long paths
            found.add([Comparison([], [unit.path for unit in units])])
    pool.drain()
    found.add([Comparison([], sorted(unread))])
    return None if b"" in unread or 2 * len(found.unknown) > asked else found


def units_of(previous: PreviousCache, root: Content, unread: set[bytes]) -> Iterator[list[Unit]]:
    """Units that cover all directories below the root that the previous run saw.

    Args:
        previous: what it saw.
        root: the root's content then.
        unread: receives the paths of directories of which not all subdirectories could be read.
            The walk may read them later, and must not take them for compared.

    Yields:
        units for one request.
    """
    batch: list[Unit] = []
    names = size = 0
    pending = [(b"", root)]
    while pending:
        above, content = pending.pop()
        for name, entry in _below(previous, above, content, unread):
            path = above + b"/" + name if above else name
            detail = own_entry(entry).detail
            assert isinstance(detail, Directory)
            deep = detail.paths <= UNIT_NAMES
            if not deep:
                pending.append((path, detail.content))
            batch.append(Unit(path, entry, deep))
            names += _UNIT_COST + (detail.paths if deep else 0)
            size += len(path) + len(entry)
            if names > UNIT_NAMES or size > REQUEST_MAX // 2:
                yield batch
                batch, names, size = [], 0, 0
    if batch:
        yield batch


def _below(
    previous: PreviousCache, path: bytes, content: Content, unread: set[bytes]
) -> Iterator[NamedEntry]:
    seen = previous.directory(path, content)
    if seen is None:
        if not isinstance(content, Empty):
            unread.add(path)
        return
    for number in range(seen.count):
        segment = previous.segment(seen, number)
        if segment is None:
            unread.add(path)
        else:
            yield from segment.below()


def all_unknown(request: Compare) -> bytes:
    """The encoded reply to a request where nothing could be compared."""
    return _encode([Comparison([], [unit.path]) for unit in request.units])


def _unread() -> OSError:
    """A record of the cache cannot be read now; the walk may read it, so below all is unknown."""
    return OSError(errno.EIO, os.strerror(errno.EIO))


class Scout:
    """Compares units with the live tree."""

    def __init__(self, previous: PreviousCache, options: Options, opener: Opener) -> None:
        """Compare with what the previous run saw."""
        self._device = 0
        self._previous = previous
        self._opener = opener
        self._missed = False
        self._scanner = Scanner(previous, options, opener, self._vanished)

    def _vanished(self, path: bytes, error: OSError) -> None:
        self._missed = True

    def compare(self, request: Compare, top: int, previous: int) -> bytes:
        """The encoded reply to a request about the tree below `top`; `previous` is the cache."""
        self._previous.fd = previous  # the last request's may be closed by now
        self._device = os.fstat(top).st_dev
        return _encode([self._unit(unit, top) for unit in request.units])

    def _unit(self, unit: Unit, top: int) -> Comparison:
        """Find the directories of a unit that changed."""
        found = Comparison([], [])
        try:
            fd = self._opened(unit.path, top)
        except OSError:
            return Comparison([], [unit.path])
        stack = [(fd, unit.path, iter(self._compared(fd, unit.path, unit.entry, found)))]
        try:
            while stack:
                if len(found.changed) + len(found.unknown) > _CHANGED_MAX:
                    return Comparison([], [unit.path])
                above, path, below = stack[-1]
                named = next(below, None) if unit.deep else None
                if named is None:
                    stack.pop()
                    os.close(above)
                    continue
                name, entry = named
                child = path + b"/" + name
                try:
                    fd = self._opener.open(name, above)
                except OSError:
                    found.unknown.append(child)
                    continue
                stack.append((fd, child, iter(self._compared(fd, child, entry, found))))
        finally:
            for fd, _, _ in stack:
                os.close(fd)
        return found

    def _opened(self, path: bytes, top: int) -> int:
        fd = os.dup(top)
        for component in path.split(b"/"):
            try:
                below = self._opener.open(component, fd)
            finally:
                os.close(fd)
            fd = below
        return fd

    def _compared(self, fd: int, path: bytes, entry: bytes, found: Comparison) -> list[NamedEntry]:
        """Compare one directory; return the subdirectories that the previous run saw in it."""
        below: list[NamedEntry] = []
        try:
            if not self._same(fd, path, own_entry(entry), entry, below):
                found.changed.append(path)
        except OSError:
            found.unknown.append(path)
            return []
        return below

    def _same(
        self, fd: int, path: bytes, entry: Entry, encoded: bytes, below: list[NamedEntry]
    ) -> bool:
        # Hot: for all names of a directory, a good part in system calls; see docs/performance.md.
        if not isinstance(entry.detail, Directory):
            return False
        seen, status = self._previous.directory(path, entry.detail.content), os.fstat(fd)
        if seen is None:
            if isinstance(entry.detail.content, Empty):
                return False
            raise _unread()
        self._missed = False
        same = status.st_dev == self._device
        chunks, _ = self._scanner.chunks(path, fd, seen)
        for chunk in chunks:
            old = chunk.old
            if old is None:
                if seen.count:
                    raise _unread()
                same = False  # all of its names are new
                continue
            named = old.below()
            below += named
            same = (
                same
                and raw_leaves(chunk.stats()) == old.leaves
                and not chunk.linked
                and [name for name, _ in named] == [name for name, _ in chunk.directories]
            )
        xattrs = listed_xattrs(live_xattrs(fd))
        if xattrs is None:  # too long to be compared without storing them
            return False
        if time_problem(status.st_mtime_ns):  # the walk reports it
            return False
        fresh = entry_of(entry.name, status, entry.detail, xattrs)
        return same and not self._missed and encode(fresh) == encoded
