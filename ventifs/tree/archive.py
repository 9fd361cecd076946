"""From a directory to a version.

The walk is depth first, names in order of their bytes, each directory opened relative to the one it
is in and without following links. A directory's tree is built when all below it is done. Which
names are hard links of one file is known for certain only at the end, so directories that hold any
wait until then. Blocks are committed as the work goes, the version last.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from blake3 import blake3

from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.store.files import explained
from ventifs.tree.catalog import (
    TIME_NS_MAX,
    Version,
    check_name,
    decode_version,
    encode_version,
    time_text,
    version_key,
    versions,
)
from ventifs.tree.content import ContentWriter
from ventifs.tree.directory import build, printable
from ventifs.tree.live import Changed, Reader, Trouble, allow_many_descriptors, same_file
from ventifs.tree.records import Content, Directory, Empty, Entry, Listed, decode_entry, encode
from ventifs.tree.statcache import SETTLED_NS, Leaf, Seen, StatCache

_COMMIT_EVERY = 1 << 30  # bytes of new blocks
LINK_ID_SIZE = 16
DIGEST_SIZE = 16  # of a directory's entries, in the stat cache

Progress = Callable[["Tally", bytes], None]  # what was done, the current path


@dataclass(slots=True)
class Tally:
    """What an archive run has done so far.

    Attributes:
        entries: names archived, directories included.
        bytes: bytes of regular files.
        new_bytes: bytes of blocks that the store did not have.
    """

    entries: int = 0
    bytes: int = 0
    new_bytes: int = 0


@dataclass(slots=True)
class _Group:
    """The names of one hard-linked file; what it was at the first, and whether it had settled."""

    entry: Entry
    status: os.stat_result
    settled: bool
    paths: list[bytes] = field(default_factory=list)

    def encoded(self, name: bytes) -> bytes:
        """The entry under one of the names; a lone name is no link."""
        link = blake3(min(self.paths)).digest(LINK_ID_SIZE) if len(self.paths) > 1 else b""
        return encode(msgspec.structs.replace(self.entry, name=name, link=link))


@dataclass(slots=True)
class _Frame:
    """A directory on the way."""

    name: bytes
    path: bytes
    fd: int
    status: os.stat_result
    names: Iterator[bytes]
    children: list[tuple[bytes, "bytes | _Group | _Frame"]] = field(default_factory=list)
    paths: int = 0  # below it
    total: int = 0  # bytes of regular files below it
    waits: bool = False
    xattrs: Listed | Content = field(default_factory=Empty)
    encoded: bytes = b""
    seen: Seen | None = None
    known: dict[bytes, Leaf] = field(default_factory=dict)
    leaves: list[Leaf] = field(default_factory=list)


class Archiver:
    """One archive run. Not to be used twice."""

    def __init__(
        self,
        store: Store,
        cache: StatCache,
        *,
        one_file_system: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Archive into `store`, which is open for writing; `cache` knows the previous run."""
        self.tally = Tally()
        self.troubles: list[Trouble] = []
        self._store = store
        self._own = os.stat(store.path)
        self._cache = cache
        self._writer = ContentWriter(store)
        self._reader = Reader(self._writer)
        self._one_file_system = one_file_system
        self._progress = progress
        self._groups: dict[tuple[int, int], _Group] = {}
        self._waiting: list[_Frame] = []  # directories with hard links in or below, in post-order
        self._committed = 0

    def run(self, source: Path) -> Entry:
        """Archive a directory; its own entry.

        Raises:
            VentifsError: when the directory itself cannot be read.
        """
        allow_many_descriptors()
        try:
            fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            root = self._frame(b"", b"", fd)
        except OSError as error:
            raise explained(error, source) from None
        stack = [root]
        try:
            while stack:
                frame = stack[-1]
                name = next(frame.names, None)
                if name is not None:
                    self._visit(frame, name, stack)
                    continue
                stack.pop()
                self._finish(frame, stack[-1] if stack else None)
        finally:
            for frame in stack:
                if frame.fd >= 0:
                    os.close(frame.fd)
        for frame in self._waiting:  # the root is the last
            self._build(frame)
        self.tally.new_bytes = self._writer.new_bytes
        return decode_entry(root.encoded, root=True)

    def _frame(self, name: bytes, path: bytes, fd: int) -> _Frame:
        try:
            names = sorted(os.fsencode(name) for name in os.listdir(fd))
            frame = _Frame(name, path, fd, os.fstat(fd), iter(names))
        except OSError:
            os.close(fd)
            raise
        frame.seen = self._cache.seen(path)
        if frame.seen is not None:
            frame.known = {leaf.name: leaf for leaf in frame.seen.leaves}
        return frame

    def _visit(self, frame: _Frame, name: bytes, stack: list[_Frame]) -> None:
        path = frame.path + b"/" + name if frame.path else name
        try:
            status = os.stat(name, dir_fd=frame.fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                stack.append(self._enter(name, path, frame, status))
            else:
                self._leaf(frame, name, path, status)
        except (OSError, Changed) as error:
            number = error.errno if isinstance(error, OSError) else None
            reason = os.strerror(number).lower() if number else str(error)
            self._trouble(path, reason, missing=True)
        if self._progress is not None:
            self.tally.new_bytes = self._writer.new_bytes
            self._progress(self.tally, path)

    def _trouble(self, path: bytes, reason: str, *, missing: bool) -> None:
        self.troubles.append(Trouble(path, reason, missing))

    def _enter(self, name: bytes, path: bytes, frame: _Frame, status: os.stat_result) -> _Frame:
        """Go down into a directory; one that cannot be, or should not be, is archived as empty.

        The store itself should not be: every run would archive the last one's arenas.
        """
        elsewhere = self._one_file_system and status.st_dev != frame.status.st_dev
        if elsewhere or os.path.samestat(status, self._own):
            return _Frame(name, path, -1, status, iter(()))
        try:
            return self._frame(name, path, self._reader.open(name, frame.fd))
        except OSError as error:
            reason = f"directory cannot be read: {os.strerror(error.errno or 0).lower()}"
            self._trouble(path, reason, missing=False)
            return _Frame(name, path, -1, status, iter(()))

    def _leaf(self, frame: _Frame, name: bytes, path: bytes, status: os.stat_result) -> None:
        """Anything but a directory: from the cache if it is what it was, else read."""
        group = self._group(path, status)
        leaf = frame.known.get(name)
        if leaf is not None and leaf.matches(status):
            self._cache.hits += 1
            settled = True
        else:
            leaf, status, settled = self._read(frame, name, path, status, group)
        if settled:
            frame.leaves.append(leaf)
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        self.tally.entries += 1
        self.tally.bytes += size
        frame.paths += 1
        frame.total += size
        if status.st_nlink > 1:
            if group is None:
                group = _Group(decode_entry(leaf.entry), status, settled)
                self._groups[status.st_dev, status.st_ino] = group
            group.paths.append(path)
            frame.children.append((name, group))
            frame.waits = True
        else:
            frame.children.append((name, leaf.entry))
        if self._writer.new_bytes - self._committed >= _COMMIT_EVERY:
            self._committed = self._writer.new_bytes
            self._store.commit()

    def _group(self, path: bytes, status: os.stat_result) -> _Group | None:
        """The names met already of a hard-linked file, if it is still what it was then."""
        if status.st_nlink < 2:
            return None
        group = self._groups.get((status.st_dev, status.st_ino))
        if group is not None and not same_file(group.status, status):
            self._trouble(path, "changed between two of its names", missing=False)
            return None
        return group

    def _read(
        self, frame: _Frame, name: bytes, path: bytes, status: os.stat_result, group: _Group | None
    ) -> tuple[Leaf, os.stat_result, bool]:
        """A leaf as it was read, its status then, and whether it had settled: may be cached."""
        started_ns, problem = time.time_ns(), ""
        if group is not None:
            entry = msgspec.structs.replace(group.entry, name=name)
        elif stat.S_ISREG(status.st_mode):
            entry, status, problem = self._reader.regular(name, frame.fd)
        else:
            entry = self._reader.other(name, frame.fd, status)
        if problem:
            self._trouble(path, problem, missing=False)
        leaf = Leaf(name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
                    encode(entry))  # fmt: skip
        if group is not None:
            settled = group.settled
        else:
            settled = not problem and status.st_ctime_ns < started_ns - SETTLED_NS
        return leaf, status, settled

    def _finish(self, frame: _Frame, parent: _Frame | None) -> None:
        """All below a directory has been seen."""
        self.tally.entries += 1
        if frame.fd >= 0:
            try:
                frame.xattrs = self._reader.xattrs(frame.fd)
            except OSError as error:
                reason = f"its attributes cannot be read: {os.strerror(error.errno or 0).lower()}"
                self._trouble(frame.path, reason, missing=False)
            os.close(frame.fd)
        if parent is None:
            self._waiting.append(frame)
            return
        parent.paths += frame.paths + 1
        parent.total += frame.total
        if frame.waits:
            parent.waits = True
            self._waiting.append(frame)
            parent.children.append((frame.name, frame))
        else:
            self._build(frame)
            parent.children.append((frame.name, frame.encoded))

    def _build(self, frame: _Frame) -> None:
        """Store a directory whose children are all known."""
        children = [(name, _encoded(name, child)) for name, child in frame.children]
        digest = blake3(b"".join([data for _, data in children])).digest(DIGEST_SIZE)
        if frame.seen is not None and frame.seen.digest == digest:
            content = frame.seen.content
        else:
            content = build(self._writer.put_node, children)
        self._cache.add(Seen(frame.path, digest, content, frame.leaves))
        frame.children, frame.leaves, frame.known, frame.seen = [], [], {}, None
        detail = Directory(content, frame.paths, frame.total)
        entry = self._reader.entry(frame.name, frame.status, detail, frame.xattrs)
        frame.encoded = encode(entry)


def _encoded(name: bytes, child: "bytes | _Group | _Frame") -> bytes:
    if isinstance(child, _Group):
        return child.encoded(name)
    return child.encoded if isinstance(child, _Frame) else child


def archive(
    store: Store,
    source: Path,
    name: str,
    *,
    time_ns: int | None = None,
    comment: str = "",
    tags: tuple[str, ...] = (),
    one_file_system: bool = False,
    read_all: bool = False,
    progress: Progress | None = None,
) -> tuple[Version, Tally]:
    """Archive a directory as a new version.

    Args:
        store: open for writing.
        source: the directory.
        name: the version's.
        time_ns: the version's time; now, if None.
        comment: kept with the version.
        tags: kept with the version.
        one_file_system: archive directories on other file systems as empty.
        read_all: read every file, whatever the previous run saw.
        progress: called for every entry.

    Returns:
        The version, committed, and what was done.

    Raises:
        VentifsError: when there is a version of that name and time; the store's and the source's
            own problems. No version is made.
    """
    started = time.monotonic()
    stamp = time.time_ns() if time_ns is None else time_ns
    for text in (comment, *tags):
        if not text.isprintable():
            raise VentifsError(f"{text!r}: a comment or tag is one line of text")
    if not 0 <= stamp <= TIME_NS_MAX:
        raise VentifsError("a version's time lies between 1970 and 2554")
    if any(version.time_ns == stamp for version in versions(store, check_name(name))):
        raise VentifsError(f"{name}@{time_text(stamp)}: there is such a version already")
    with closing(StatCache.open(store, name, ask=not read_all)) as cache:
        archiver = Archiver(store, cache, one_file_system=one_file_system, progress=progress)
        root = archiver.run(source)
        troubles = tuple((trouble.path, trouble.reason, trouble.missing)
                         for trouble in archiver.troubles)  # fmt: skip
        where = printable(os.fsencode(source.absolute()))
        version = Version(name, stamp, root, where, comment, tags,
                          archiver.tally.new_bytes, time.monotonic() - started,
                          troubles)  # fmt: skip
        [record] = store.commit([(version_key(name, stamp), encode_version(version))])
        with suppress(OSError):  # the version is committed; the next run only reads more
            cache.put_in_place()
    return replace(decode_version(record), troubles=troubles, troubles_more=0), archiver.tally
