"""Builds directories as their contents become known, in any order.

A `PendingDirectory` has one `Segment` or, if it is very large, several: names that follow one
another. They are those of subdirectories and of leaves, which are all other entries. A segment
counts what it still waits for. When the first segment of a directory is complete, its entries go
into the directory's tree and the segment is dropped. After the last segment, the directory's own
entry goes into the segment of the directory above. A segment that did not change since the previous
run is recognised by comparing bytes, and a directory that has only such segments is not built
again.
"""

from collections import deque
from collections.abc import Callable
from os import stat_result

import msgspec

from ventifs.errors import VentifsError
from ventifs.store import Score
from ventifs.tree.archive.file_reader import entry_of
from ventifs.tree.archive.statcache import (
    Leaf,
    NamedEntry,
    SeenDirectory,
    SeenSegment,
    StatCache,
    raw,
    raw_leaves,
)
from ventifs.tree.objects.prolly import Builder
from ventifs.tree.objects.records import (
    Content,
    Directory,
    Empty,
    Listed,
    Tree,
    bounded_total,
    encode_entry,
)


class Segment(msgspec.Struct):
    """Names of one directory that follow one another.

    Attributes:
        last: the last of them.
        pending: how many entries are not known yet, plus one while the walk is in the segment.
        old: what the previous run saw, if the leaves did not change; then the next two are empty.
        leaves: as they go into the cache.
        entries: of the leaves; empty for a leaf that is not read yet or could not be archived.
        below: name and entry of each subdirectory, in order; `slot` is an index here.
        size: bytes of regular files among the leaves.
    """

    frame: "PendingDirectory"
    last: bytes
    pending: int = 1
    old: SeenSegment | None = None
    leaves: list[Leaf] = msgspec.field(default_factory=list)
    entries: list[bytes] = msgspec.field(default_factory=list)
    below: list[NamedEntry] = msgspec.field(default_factory=list)
    size: int = 0

    def path(self, index: int) -> bytes:
        """The path of a leaf, by its index in `leaves`."""
        return self.frame.below(self.leaves[index][0])


class PendingDirectory(msgspec.Struct):
    """A directory that is being built.

    Attributes:
        path: below the archive's root.
        above: the segment that holds it; None for the root.
        slot: its index among the subdirectories of that segment.
        seen: what the previous run saw of it.
        told: whether all its segments have been added.
        segments: those whose entries are not in the tree yet.
        several: whether it may have more than one segment.
        same: how many leading segments are unchanged.
        records, bounds: what goes into the cache.
        paths: the number of names below, so far.
        size: bytes of regular files below, so far.
    """

    name: bytes
    path: bytes
    status: stat_result
    above: Segment | None = None
    slot: int = 0
    seen: SeenDirectory | None = None
    xattrs: Listed | Content = msgspec.field(default_factory=Empty)
    told: bool = False
    segments: deque[Segment] = msgspec.field(default_factory=deque)
    several: bool = False
    same: int = 0
    builder: Builder | None = None
    records: list[SeenSegment] = msgspec.field(default_factory=list)
    bounds: list[tuple[bytes, int]] = msgspec.field(default_factory=list)
    paths: int = 0
    size: int = 0

    def below(self, name: bytes) -> bytes:
        """The path of a name in this directory."""
        return self.path + b"/" + name if self.path else name


class Assembler:
    """Builds directories.

    Attributes:
        directories: how many are done.
        root: the canonical entry of the root, once it is done.
    """

    def __init__(self, put_node: Callable[[bytes], Score], cache: StatCache) -> None:
        """Nodes go to `put_node`, what was seen to `cache`."""
        self.directories = 0
        self.root = b""
        self._put_node = put_node
        self._cache = cache

    def arrived(self, segment: Segment, count: int = 1) -> None:
        """Record that `count` of the entries that the segment waited for are known.

        The end of the walk in the segment counts as one, too.
        """
        segment.pending -= count
        if not segment.pending:
            self._advance(segment.frame)

    def taken(
        self, segment: Segment, slot: int, name: bytes, entry: bytes, detail: Directory
    ) -> None:
        """Take over a subdirectory from the previous run: nothing in or below it has changed.

        Args:
            segment: the part of the directory above that it is in.
            slot: its index among the subdirectories of that segment.
            name: its name.
            entry: its encoded entry.
            detail: the same entry's, decoded; for the totals of what is below it.
        """
        _place(segment, slot, (name, entry), detail.paths, detail.bytes)
        if not segment.pending:
            self._advance(segment.frame)

    def told(self, frame: PendingDirectory) -> None:
        """Record that all segments of a frame have been added."""
        frame.told = True
        self._advance(frame)

    def _advance(self, frame: PendingDirectory | None) -> None:
        """Take in what is complete; a loop, because directories may be nested without limit."""
        while frame is not None:
            while frame.segments and not frame.segments[0].pending:
                self._take_in(frame, frame.segments.popleft())
            if frame.segments or not frame.told:
                return
            above = frame.above
            data = self._finished(frame)
            self.directories += 1
            if above is None:
                self.root = data
                return
            _place(above, frame.slot, (frame.name, data), frame.paths, frame.size)
            frame = None if above.pending else above.frame

    def _take_in(self, frame: PendingDirectory, segment: Segment) -> None:
        """Take in a complete segment; all before it have been taken in."""
        old, directories = segment.old, raw(segment.below)
        if old is not None:
            unchanged = old.directories == directories
            record = old if unchanged else msgspec.structs.replace(old, directories=directories)
            pairs = None
        else:
            kept = [pair for pair in zip(segment.leaves, segment.entries, strict=True) if pair[1]]
            unchanged = False
            record = SeenSegment(
                raw_leaves([leaf for leaf, _ in kept]),
                raw([entry for _, entry in kept]),
                directories,
                bounded_total(segment.size),
                len(kept),
            )
            pairs = [(leaf[0], entry) for leaf, entry in kept]
        frame.paths += record.count
        frame.size += record.size
        leading = unchanged and frame.builder is None
        if not frame.several:
            frame.records.append(record)
        elif leading and self._cache.carries and frame.seen is not None and frame.seen.bounds:
            frame.bounds.append(frame.seen.bounds[frame.same])  # the carried-over file has it
        elif record.count or segment.below:
            frame.bounds.append((segment.last, self._cache.add_segment(record)))
        if leading:
            frame.same += 1
            return
        self._begin(frame)
        if pairs is None:
            pairs = _leaf_pairs(record)
        self._feed(frame, pairs + segment.below)

    def _begin(self, frame: PendingDirectory) -> None:
        """Start the tree, with the entries of the leading segments that did not change.

        Raises:
            VentifsError: the previous run's cache does not have them any more.
        """
        if frame.builder is not None:
            return
        frame.builder = Builder(self._put_node)
        for number in range(frame.same):
            assert frame.seen is not None
            record = self._cache.segment(frame.seen, number)
            if record is None:
                raise VentifsError(
                    f"{self._cache.path}: changed while it was in use; run again with --no-cache"
                )
            self._feed(frame, _leaf_pairs(record) + record.below())

    def _feed(self, frame: PendingDirectory, pairs: list[tuple[bytes, bytes]]) -> None:
        assert frame.builder is not None
        for name, data in sorted(pairs):
            frame.builder.add(data, key=name)

    def _finished(self, frame: PendingDirectory) -> bytes:
        """The entry of a directory that is complete."""
        seen = frame.seen
        unchanged = frame.builder is None and seen is not None and frame.same == seen.count
        if unchanged and seen is not None:
            content = seen.content
        else:
            self._begin(frame)
            assert frame.builder is not None
            content = _content(frame.builder)
        if not (unchanged and self._cache.carries):
            self._cache.add(
                SeenDirectory(frame.path, content, tuple(frame.records), tuple(frame.bounds))
            )
        detail = Directory(content, frame.paths, bounded_total(frame.size))
        entry = entry_of(frame.name, frame.status, detail, frame.xattrs)
        return encode_entry(entry, root=frame.above is None)


def _place(segment: Segment, slot: int, named: NamedEntry, paths: int, size: int) -> None:
    """Record a subdirectory's entry, and the totals of what is below it."""
    segment.below[slot] = named
    segment.frame.paths += paths + 1
    segment.frame.size += size
    segment.pending -= 1


def _leaf_pairs(record: SeenSegment) -> list[tuple[bytes, bytes]]:
    return [(name, entry) for name, (_, entry) in record.known().items()]


def _content(builder: Builder) -> Content:
    return Tree(builder.finish(), builder.count) if builder.count else Empty()
