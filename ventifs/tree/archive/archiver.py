"""Archives a directory: stores everything below it and makes its entry.

The walk is depth first, names in the order of their bytes. Each directory is opened relative to its
parent and without following links. Every name is compared with what the previous run saw. Files
that differ are read in batches, by worker processes if there are any, so directories become
complete in any order (`directory_assembler`). Which names are hard links of one file is known only
after the walk has met all of them (`hardlinks`).
"""

import os
import stat
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from ventifs.store import Store
from ventifs.store.files import explained
from ventifs.tree.archive.change_scan import Scouted, scout
from ventifs.tree.archive.directory_assembler import Assembler, PendingDirectory, Segment
from ventifs.tree.archive.directory_worker import directory_handlers
from ventifs.tree.archive.file_reader import (
    Changed,
    FileReader,
    Opener,
    Trouble,
    allow_many_descriptors,
)
from ventifs.tree.archive.hardlinks import LinkGroup, LinkGroups, LinkName
from ventifs.tree.archive.read_batches import Batches, Outcome, Wanted, reason_of
from ventifs.tree.archive.scan import NameChunk, Options, Scanner
from ventifs.tree.archive.statcache import NOT_SETTLED, Leaf, StatCache, raw_leaves
from ventifs.tree.archive.tally import ArchiveProgress, Tally
from ventifs.tree.archive.worker import WorkerService, collect, commit_notes
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.records import (
    INLINE_MAX,
    NAME_MAX,
    Content,
    Directory,
    Entry,
    RegularFile,
    Unfit,
    decode_entry,
    own_entry,
    time_problem,
)
from ventifs.tree.process_pool import InlinePool, Pool
from ventifs.tree.versions.troubles import Troubles

_Known = dict[bytes, tuple[Leaf, bytes]]
_UNKNOWN: tuple[Leaf | None, bytes] = (None, b"")


class _WalkLevel(msgspec.Struct):
    """A directory that the walk is in.

    Attributes:
        chunks: names that are still to be looked at.
        segment: the segment of the last chunk; None once the walk has passed its names.
        below: its subdirectories that are still to be walked: name, status, slot in the segment,
            and the entry from the previous run, empty if there is none.
        scouted: whether the look-ahead compared the subdirectories that the previous run saw.
    """

    frame: PendingDirectory
    fd: int
    chunks: Iterator[NameChunk]
    segment: Segment | None = None
    below: deque[tuple[bytes, os.stat_result, int, bytes]] = msgspec.field(default_factory=deque)
    scouted: bool = False


class Archiver:
    """One archive run over a directory; an instance is used once."""

    def __init__(
        self,
        store: Store,
        cache: StatCache,
        *,
        options: Options | None = None,
        pool: Pool | None = None,
        progress: ArchiveProgress | None = None,
    ) -> None:
        """Archive into `store`, which is open for writing.

        Args:
            store: receives the blocks.
            cache: knows what the previous run saw.
            options: what to leave out.
            pool: reads the files; None reads them in this process.
            progress: called for every directory, and for every batch of files that was read.
        """
        self.tally = Tally()
        self.troubles = Troubles(store=store)
        self._store = store
        self._own = os.stat(store.path)
        self._cache = cache
        self._writer = ContentWriter(store)
        self._opener = Opener()
        self._reader = FileReader(self._writer, self._opener)
        self._options = options or Options()
        self._scanner = Scanner(cache, self._options, self._opener, self._vanished)
        self._assembler = Assembler(self._writer.put_node, cache)
        self._pool = pool or InlinePool(
            WorkerService(lambda: store, partial(directory_handlers, self._options)).handle
        )
        commit_notes(self._pool, store)
        self._batches = Batches(self._pool, self._tell)
        self._groups = LinkGroups()
        self._scouted: Scouted | None = None  # what the look-ahead found; None without one
        # Whose first name could not be read, or is another file now.
        self._again: list[LinkGroup] = []
        self._progress = progress

    def run(self, source: Path) -> Entry:
        """Archive a directory; return its own entry.

        Raises:
            VentifsError: when the directory itself cannot be read; the store's own problems.
        """
        allow_many_descriptors()
        try:
            top = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._look_ahead(top)
                root = self._level(b"", b"", os.dup(top), self._cache.root)
                root.scouted = self._scouted is not None
                self._walk([root])
                self._settle(top)
            finally:
                os.close(top)
        except OSError as error:
            raise explained(error, source) from None
        self.tally.new_bytes = self._writer.new_bytes + self._batches.new_bytes
        return decode_entry(self._assembler.root, root=True)

    def _look_ahead(self, top: int) -> None:
        """Have the pool find the directories that are as the previous run saw them.

        If the cache has grown too much by what such runs append to it, everything is walked
        instead, and the cache is written anew.
        """
        previous = self._cache.previous
        if previous is None or previous.worn:
            return
        self._scouted = scout(self._pool, top, previous, self._cache.root)
        if self._scouted is not None:
            self._cache.carry_over()

    def _walk(self, stack: list[_WalkLevel]) -> None:
        try:
            while stack:
                level = stack[-1]
                if level.below:
                    below = self._enter(level, *level.below.popleft())
                    if below is not None:
                        stack.append(below)
                elif level.segment is not None:
                    segment, level.segment = level.segment, None
                    self._assembler.arrived(segment)  # the walk has passed all of its names
                elif (chunk := next(level.chunks, None)) is not None:
                    self._look(level, chunk)
                else:
                    self._leave(stack.pop())
        except BaseException:
            self._batches.drop()
            raise
        finally:
            for level in stack:
                if level.fd >= 0:
                    os.close(level.fd)

    def _settle(self, top: int) -> None:
        """After the walk, wait for pending reads, and read again what has to be."""
        while True:
            self._batches.flush()
            self._pool.drain()
            if not self._again:
                break
            group = self._again.pop()
            self._read_again(group, top)
        for group in self._groups.rest():
            self._finish_group(group)
        collect(self._pool, self._store)

    def _trouble(self, path: bytes, reason: str, *, missing: bool) -> None:
        self.troubles.append(Trouble(path, reason, missing))

    def _vanished(self, path: bytes, error: OSError) -> None:
        self._trouble(path, reason_of(error), missing=True)

    def _tell(self, path: bytes = b"") -> None:
        if self._progress is not None:
            self.tally.new_bytes = self._writer.new_bytes + self._batches.new_bytes
            self._progress(self.tally, path)

    # --- directories --------------------------------------------------------------------------

    def _level(self, name: bytes, path: bytes, fd: int, content: Content | None) -> _WalkLevel:
        """A level for an open directory, its names read.

        Args:
            name: of the directory.
            path: of the directory.
            fd: of the directory; the level closes it.
            content: what the previous run archived of it; None if nothing is known.

        Raises:
            OSError: when they cannot be read; `fd` is closed then.
        """
        try:
            frame = PendingDirectory(name, path, os.fstat(fd))
            if content is not None:
                frame.seen = self._cache.directory(path, content)
            chunks, frame.several = self._scanner.chunks(path, fd, frame.seen)
        except OSError:
            os.close(fd)
            raise
        return _WalkLevel(frame, fd, chunks)

    def _enter(
        self, level: _WalkLevel, name: bytes, status: os.stat_result, slot: int, entry: bytes
    ) -> _WalkLevel | None:
        """Enter a directory, unless it is known that nothing in it changed.

        A directory that cannot or must not be entered is archived as empty. The store itself must
        not be entered: every run would archive the last one's arenas.
        """
        path = level.frame.below(name)
        # Only what the directory above led to was compared: the cache may hold older records, too.
        scouted = self._scouted if level.scouted and entry else None
        if scouted is not None and scouted.unchanged(path):
            self._take(level, name, slot, entry)
            return None
        elsewhere = (
            self._options.one_file_system and status.st_dev != level.frame.status.st_dev
        ) or os.path.samestat(status, self._own)
        below = _WalkLevel(PendingDirectory(name, path, status), -1, iter(()))
        if not elsewhere:
            try:
                fd = self._opener.open(name, level.fd)
                below = self._level(name, path, fd, _content_of(entry) if entry else None)
            except OSError as error:
                reason = f"directory cannot be read: {reason_of(error)}"
                self._trouble(path, reason, missing=False)
        below.frame.above, below.frame.slot = level.segment, slot
        below.scouted = scouted is not None and path not in scouted.unknown
        return below

    def _take(self, level: _WalkLevel, name: bytes, slot: int, entry: bytes) -> None:
        """Take over an unchanged directory from the previous run."""
        detail = decode_entry(entry).detail
        assert isinstance(detail, Directory)  # the cache lists directories apart
        assert level.segment is not None
        self.tally.entries += detail.paths + 1
        self.tally.bytes += detail.bytes
        self._assembler.taken(level.segment, slot, name, entry, detail)

    def _leave(self, level: _WalkLevel) -> None:
        """Finish a directory after the walk has passed all its names."""
        frame = level.frame
        if level.fd >= 0:
            try:
                frame.xattrs = self._reader.xattrs(level.fd)
            except (OSError, Changed, Unfit) as error:
                reason = f"its attributes cannot be read: {reason_of(error)}"
                self._trouble(frame.path, reason, missing=False)
            os.close(level.fd)
        if problem := time_problem(frame.status.st_mtime_ns):
            self._trouble(frame.path, problem, missing=False)
        self.tally.entries += 1
        self._assembler.told(frame)
        self._tell(frame.path)

    def _look(self, level: _WalkLevel, chunk: NameChunk) -> None:
        """Start a segment for a chunk of a directory's names."""
        segment = Segment(level.frame, chunk.last)
        level.segment = segment
        level.frame.segments.append(segment)
        if chunk.directories and max(len(name) for name, _ in chunk.directories) > NAME_MAX:
            self._drop_long_names(level.frame, chunk)
        entries = dict(chunk.old.below()) if chunk.old is not None and chunk.directories else {}
        for slot, (name, status) in enumerate(chunk.directories):
            segment.below.append((name, b""))
            level.below.append((name, status, slot, entries.get(name, b"")))
        segment.pending += len(segment.below)
        leaves = chunk.stats()
        if chunk.old is not None and not chunk.linked and raw_leaves(leaves) == chunk.old.leaves:
            segment.old = chunk.old
            self.tally.entries += chunk.old.count
            self.tally.bytes += chunk.old.size
            return
        segment.leaves, segment.entries = leaves, [b""] * len(leaves)
        self._leaves(level, segment, chunk)

    def _drop_long_names(self, frame: PendingDirectory, chunk: NameChunk) -> None:
        """Leave out directories with names longer than Linux allows, as FUSE may report them."""
        for name, _ in chunk.directories:
            if len(name) > NAME_MAX:
                self._trouble(frame.below(name), "a name that cannot be", missing=True)
        chunk.directories = [pair for pair in chunk.directories if len(pair[0]) <= NAME_MAX]

    # --- leaves -------------------------------------------------------------------------------

    def _leaves(self, level: _WalkLevel, segment: Segment, chunk: NameChunk) -> None:
        """Take each leaf from the previous run if it is unchanged; have all others read."""
        known = chunk.old.known() if chunk.old is not None else {}
        unread: list[int] = []
        for index, (name, status) in enumerate(chunk.leaves):
            seen, entry = known.get(name, _UNKNOWN)
            if seen != segment.leaves[index]:
                entry = b""
            if status.st_nlink > 1:
                self._linked(level, segment, index, status, entry)
            elif entry:
                self._put(segment, index, entry, _bytes_of(status))
            else:
                unread.append(index)
        if unread:
            segment.pending += len(unread)
            statuses = [chunk.leaves[index][1] for index in unread]
            wanted = [
                _wanted(segment.leaves[index][0], status, known)
                for index, status in zip(unread, statuses, strict=True)
            ]
            sizes = [_bytes_of(status) for status in statuses]
            self._batches.add(level.fd, wanted, sizes, partial(self._were_read, segment, unread))

    def _were_read(
        self, segment: Segment, unread: list[int], first: int, outcomes: list[Outcome]
    ) -> None:
        """Record the outcomes of reading leaves, beginning at place `first` of `unread`."""
        # Hot: once for every file of a first run.
        leaves, entries, size, missing = segment.leaves, segment.entries, 0, 0
        for index, outcome in zip(unread[first:], outcomes, strict=False):
            if outcome.problem:
                self._trouble(segment.path(index), outcome.problem, missing=not outcome.entry)
            if not outcome.entry:
                missing += 1
                continue
            entries[index] = outcome.entry
            size += outcome.regular_size
            leaves[index] = (
                leaves[index][0],
                outcome.inode,
                outcome.size,
                outcome.mtime_ns,
                outcome.ctime_ns if outcome.settled else NOT_SETTLED,
            )
        segment.size += size
        self.tally.entries += len(outcomes) - missing
        self.tally.bytes += size
        self._assembler.arrived(segment, len(outcomes))

    def _put(self, segment: Segment, index: int, entry: bytes, size: int) -> None:
        segment.entries[index] = entry
        segment.size += size
        self.tally.entries += 1
        self.tally.bytes += size

    # --- hard links ---------------------------------------------------------------------------

    def _linked(
        self, level: _WalkLevel, segment: Segment, index: int, status: os.stat_result, entry: bytes
    ) -> None:
        """Take in one name of a file that has several; `entry` is the previous run's, or empty."""
        member, leaf = LinkName(segment, index), segment.leaves[index]
        if len(leaf[0]) > NAME_MAX:  # as FUSE may report it
            self._trouble(member.path, "a name that cannot be", missing=True)
            return
        segment.pending += 1
        group = self._groups.find(status)
        if group is not None and not group.same(leaf):
            self._trouble(member.path, "changed between two of its names", missing=False)
            self._finish_group(group)
            group = None
        if group is None:
            group = LinkGroup.of(status, leaf)
            self._groups.add(group)
        group.members.append(member)
        if entry and not group.entry:
            group.entry, group.settled = entry, True
        elif len(group.members) == 1:
            self._read_group(group, level.fd)
        if group.whole:
            self._finish_group(group)

    def _read_group(self, group: LinkGroup, directory: int) -> None:
        """Have a file read by the first of its remaining names."""
        wanted, size = (group.members[0].name, group.regular, None), group.leaf[2]
        self._batches.add(directory, [wanted], [size], partial(self._group_was_read, group))

    def _group_was_read(self, group: LinkGroup, _: int, outcomes: list[Outcome]) -> None:
        """Record the outcome of reading a file with several names by the first of them."""
        if group.entry:
            return  # another name was as the previous run saw it
        [outcome] = outcomes
        if not outcome.entry or outcome.inode != group.leaf[1]:
            alone = group.members.pop(0)
            self._were_read(alone.segment, [alone.index], 0, outcomes)
            if group.members:
                self._again.append(group)
            else:
                self._groups.remove(group)
            return
        if outcome.problem:
            self._trouble(group.members[0].path, outcome.problem, missing=False)
        group.entry, group.settled = outcome.entry, outcome.settled
        if group.whole:
            self._finish_group(group)

    def _read_again(self, group: LinkGroup, top: int) -> None:
        """Read a file by its next name, whose directory is opened again."""
        fd = -1
        try:
            fd = os.dup(top)
            for component in group.members[0].path.split(b"/")[:-1]:
                below = self._opener.open(component, fd)
                os.close(fd)
                fd = below
            self._read_group(group, fd)
        except OSError as error:
            self._group_was_read(group, 0, [Outcome(b"", problem=reason_of(error))])
        finally:
            if fd >= 0:
                os.close(fd)

    def _finish_group(self, group: LinkGroup) -> None:
        """Close a group to further names; if its file has been read, place the entries."""
        self._groups.remove(group)
        if not group.whole:
            return
        for member, entry, size in group.entries():
            if not group.settled:
                leaf = member.segment.leaves[member.index]
                member.segment.leaves[member.index] = (*leaf[:4], NOT_SETTLED)
            self._put(member.segment, member.index, entry, size)
            self._assembler.arrived(member.segment)


def _wanted(name: bytes, status: os.stat_result, known: _Known) -> Wanted:
    """What to read of a leaf; with its earlier content if a file kept its size."""
    if not stat.S_ISREG(status.st_mode):
        return name, False, None
    seen, entry = known.get(name, _UNKNOWN)
    if seen is None or seen[2] != status.st_size or status.st_size <= INLINE_MAX:
        return name, True, None
    detail = own_entry(entry).detail
    return name, True, detail.content if isinstance(detail, RegularFile) else None


def _content_of(entry: bytes) -> Content:
    """The content of a directory, by its encoded entry."""
    detail = own_entry(entry).detail
    assert isinstance(detail, Directory)  # the cache lists directories apart
    return detail.content


def _bytes_of(status: os.stat_result) -> int:
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
