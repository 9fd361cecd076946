"""Lists a directory's names in order, together with what the previous run saw of them."""

import os
import stat
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, islice

import msgspec

from ventifs.tree.archive.file_reader import Opener
from ventifs.tree.archive.statcache import (
    Leaf,
    PreviousCache,
    SeenDirectory,
    SeenSegment,
    StatCache,
)
from ventifs.tree.patterns import Patterns

SEGMENT_MAX = 4096  # names
_ENCODING = sys.getfilesystemencoding()
_CACHE_TAG = b"CACHEDIR.TAG"
_CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"  # bford.info/cachedir

Pairs = list[tuple[bytes, os.stat_result]]


class Options(msgspec.Struct, frozen=True):
    """What an archive run leaves out.

    Attributes:
        exclude: paths that match.
        one_file_system: what is on another file system than the directory above it.
        exclude_caches: all but the tag, in directories that a CACHEDIR.TAG marks as caches.
    """

    exclude: Patterns = msgspec.field(default_factory=Patterns)
    one_file_system: bool = False
    exclude_caches: bool = False


class NameChunk(msgspec.Struct):
    """Names of a directory that follow one another, in order.

    Attributes:
        last: upper bound of the names; may be empty in a directory's last chunk.
        leaves, directories: the names, with their status.
        old: what the previous run saw in their place; None if not known.
    """

    last: bytes
    leaves: Pairs
    directories: Pairs
    old: SeenSegment | None

    def stats(self) -> list[Leaf]:
        """The leaves in the form that the cache stores."""
        # Hot: for every leaf; see docs/performance.md.
        return [
            (name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            for name, status in self.leaves
        ]

    @property
    def linked(self) -> bool:
        """Whether any leaf has other names."""
        return max([status.st_nlink for _, status in self.leaves], default=0) > 1


class Scanner:
    """Lists directories."""

    def __init__(
        self,
        cache: StatCache | PreviousCache,
        options: Options,
        opener: Opener,
        vanished: Callable[[bytes, OSError], None],
    ) -> None:
        """`vanished` is called for every path that has no readable status and is not excluded."""
        self._cache = cache
        self._options = options
        self._opener = opener
        self._vanished = vanished

    def chunks(
        self, path: bytes, fd: int, seen: SeenDirectory | None
    ) -> tuple[Iterator[NameChunk], bool]:
        """The names of an open directory, and whether there may be several chunks of them.

        The kernel may list a file twice that is replaced meanwhile; the result has it once.

        Raises:
            OSError: when they cannot be read; raised here, not while the chunks are iterated.
        """
        with os.scandir(fd) as found:
            first = list(islice(found, SEGMENT_MAX + 1))
            if len(first) <= SEGMENT_MAX and (seen is None or not seen.bounds):
                return self._only(path, fd, first, seen), False
            names, items = [], chain(first, found)
            while some := _encoded([item.name for item in islice(items, SEGMENT_MAX)]):
                names += some
        return self._several(path, fd, sorted(set(names)), seen), True

    def _only(
        self, path: bytes, fd: int, items: "list[os.DirEntry[str]]", seen: SeenDirectory | None
    ) -> Iterator[NameChunk]:
        # Hot: for every name, nearly all of it lstat; see docs/performance.md.
        pairs = []
        named = dict(zip(_encoded([item.name for item in items]), items, strict=True))
        for name, item in named.items():
            try:
                pairs.append((name, item.stat(follow_symlinks=False)))
            except OSError as error:
                self._gone(path, name, error)
        pairs.sort()
        old = self._cache.segment(seen, 0) if seen is not None and seen.segments else None
        yield self._chunk(path, fd, b"", pairs, old)

    def _several(
        self, path: bytes, fd: int, names: list[bytes], seen: SeenDirectory | None
    ) -> Iterator[NameChunk]:
        """Split the names as the previous run did; a chunk that grew too much is split again."""
        bounds = [last for last, _ in seen.bounds] if seen is not None else []
        if seen is not None and seen.segments:
            bounds = [b""]  # the only segment reaches to the end, as the last one always does
        number = start = 0
        while start < len(names) or number < len(bounds):
            end, old = len(names), None
            if number < len(bounds):
                assert seen is not None
                if number < len(bounds) - 1:
                    end = bisect_right(names, bounds[number], start)
                old = self._cache.segment(seen, number)
            last = bounds[number] if number < len(bounds) - 1 else b""
            number += 1
            if old is None or end - start > 2 * SEGMENT_MAX:
                for at in range(start, end, SEGMENT_MAX):
                    part = names[at : min(at + SEGMENT_MAX, end)]
                    yield self._named(path, fd, part[-1], part, old)
            else:
                part = names[start:end]
                yield self._named(path, fd, last or (part[-1] if part else b""), part, old)
            start = end

    def _named(
        self, path: bytes, fd: int, last: bytes, names: list[bytes], old: SeenSegment | None
    ) -> NameChunk:
        pairs = []
        for name in names:
            try:
                pairs.append((name, os.stat(name, dir_fd=fd, follow_symlinks=False)))
            except OSError as error:
                self._gone(path, name, error)
        return self._chunk(path, fd, last, pairs, old)

    def _gone(self, path: bytes, name: bytes, error: OSError) -> None:
        below = _below(path, name)
        if not self._options.exclude.match(below, directory=False):
            self._vanished(below, error)

    def _chunk(
        self, path: bytes, fd: int, last: bytes, pairs: Pairs, old: SeenSegment | None
    ) -> NameChunk:
        if self._options.exclude:
            pairs = [pair for pair in pairs if not self._excluded(path, *pair)]
        if self._options.exclude_caches and self._is_cache(fd):
            pairs = [pair for pair in pairs if pair[0] == _CACHE_TAG]
        directories = [pair for pair in pairs if stat.S_ISDIR(pair[1].st_mode)]
        if directories:
            pairs = [pair for pair in pairs if not stat.S_ISDIR(pair[1].st_mode)]
        return NameChunk(last, pairs, directories, old)

    def _excluded(self, path: bytes, name: bytes, status: os.stat_result) -> bool:
        directory = stat.S_ISDIR(status.st_mode)
        return self._options.exclude.match(_below(path, name), directory=directory)

    def _is_cache(self, fd: int) -> bool:
        with suppress(OSError):
            tag = self._opener.open(_CACHE_TAG, fd)
            try:
                return os.pread(tag, len(_CACHE_SIGNATURE), 0) == _CACHE_SIGNATURE
            finally:
                os.close(tag)
        return False


def _encoded(names: list[str]) -> list[bytes]:
    """The bytes of names; all at once is much faster than one by one; see docs/performance.md."""
    if not names:
        return []
    return "\0".join(names).encode(_ENCODING, "surrogateescape").split(b"\0")


def _below(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
