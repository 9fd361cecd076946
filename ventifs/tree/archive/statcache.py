"""What the previous run under a name saw, so that unchanged files are not read again.

The cache is one disposable file for each version name, in the store's directory. For every
directory, by path, it has the name, inode, size, mtime and ctime of each leaf, and its canonical
entry. These are kept encoded, so that an unchanged directory is recognised by comparing bytes. The
device is left out, because snapshot mounts change it nightly.

A run reads the old file, and puts a new one in place only after its version is committed. The new
file holds all that the run saw, or the old file's records followed by those that changed. A file
that is more than twice as large as when it was last written whole is written whole again.

What counts as unchanged is not stored again, so it must be in the store already. The file is
therefore bound to the store's id, its epoch, and the root score of the version whose run wrote it.
It counts only while a version of the name has that root, whatever its time and notes: forgetting
the last such version voids the file, and putting one back makes it count again. The epoch is new
after a rebuild or a repair, when blocks that a version needs may be lost. Within the file, a record
counts only if it leads down from that root: a directory's content must be the one in the record of
the directory above, and the root's content the version's. Other records may be older; they were
carried over, and blocks that only they refer to may be gone. Every record carries a check, so
damage is a miss.

The version is looked up once, after the lock of the name is taken. If it is forgotten while the run
is at work, its blocks stay all the same: forgetting removes none, and a reclaim relies on the gate
that every writer holds from before this look-up until after its commit. It removes a block only if
no version needs it, and no writer is at work that began before that was so.

An entry counts only if its ctime lies more than 2 s before the file was read. A file that is
changed within the clock's tick of being read is therefore read again next time.
"""

import os
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

import msgspec
from blake3 import blake3

from ventifs.store import Score, Store
from ventifs.store.permissions import create_file
from ventifs.tree.archive.run_lock import LEFT_BY_RUNS, RunLock
from ventifs.tree.objects.records import Content, Directory, Empty, clamped_ns
from ventifs.tree.versions.catalog import Version, last_with_root

SETTLED_NS = 2 * 10**9
NOT_SETTLED = -1  # as a ctime: matches no file
_MAGIC = b"vfstat\x00\x04"
_CHECK_SIZE = 8
_HEAD_SIZE = 8 + _CHECK_SIZE  # length, check
_WINDOW = 1 << 20  # bytes read ahead and behind: neighbours in the tree are neighbours in the file

Leaf = tuple[bytes, int, int, int, int]  # name, inode, size, mtime_ns, ctime_ns
NamedEntry = tuple[bytes, bytes]  # a name and its canonical entry


class SeenSegment(msgspec.Struct, frozen=True, array_like=True):
    """Names of one directory that follow one another, as a run saw them.

    Attributes:
        leaves: the encoded `Leaf`s of everything but directories, sorted by name.
        entries: the encoded list of their canonical entries.
        directories: the encoded list of the subdirectories' names and canonical entries.
        size: bytes of regular files among the leaves.
        count: leaves.
    """

    leaves: msgspec.Raw
    entries: msgspec.Raw
    directories: msgspec.Raw
    size: int
    count: int

    def known(self) -> dict[bytes, tuple[Leaf, bytes]]:
        """Leaf and entry, by name."""
        pairs = zip(_decode_leaves(self.leaves), _decode_entries(self.entries), strict=True)
        return {leaf[0]: (leaf, entry) for leaf, entry in pairs}

    def below(self) -> list[NamedEntry]:
        """Name and entry of each subdirectory, in order."""
        return _decode_named(self.directories)


class SeenDirectory(msgspec.Struct, frozen=True, array_like=True):
    """A directory as a run saw it.

    Attributes:
        path: below the archive's root.
        content: the tree that was built from it.
        segments: the only one; empty when there are several.
        bounds: last name and offset of each, when there are several.
    """

    path: bytes
    content: Content
    segments: tuple[SeenSegment, ...]
    bounds: tuple[tuple[bytes, int], ...] = ()

    @property
    def count(self) -> int:
        """How many segments there are."""
        return len(self.segments) or len(self.bounds)


class _CacheFooter(msgspec.Struct, frozen=True, array_like=True):
    """The last record: the offset of each directory's record, by ascending hash of its path.

    `root` is the score of the version whose run wrote the file. `whole_size` is the size of the
    file, without its footer, when a run last wrote all of it.
    """

    store_id: bytes
    epoch: bytes
    root: bytes
    whole_size: int
    hashes: bytes
    offsets: bytes


encode = msgspec.msgpack.Encoder().encode
_decode_seen = msgspec.msgpack.Decoder(SeenDirectory).decode
_decode_segment = msgspec.msgpack.Decoder(SeenSegment).decode
_decode_leaves = msgspec.msgpack.Decoder(list[Leaf]).decode
_decode_entries = msgspec.msgpack.Decoder(list[bytes]).decode
_decode_named = msgspec.msgpack.Decoder(list[NamedEntry]).decode
_decode_footer = msgspec.msgpack.Decoder(_CacheFooter).decode


def raw(items: Sequence[object]) -> msgspec.Raw:
    """A list, encoded."""
    return msgspec.Raw(encode(items))


def raw_leaves(leaves: Sequence[Leaf]) -> msgspec.Raw:
    """Leaves, encoded; a time that MessagePack cannot hold becomes the nearest that it can.

    A leaf with such a time is kept as not settled, so it never counts as unchanged.
    """
    try:
        return msgspec.Raw(encode(leaves))
    except OverflowError:
        held = [
            (name, inode, size, clamped_ns(mtime_ns), clamped_ns(ctime_ns))
            for name, inode, size, mtime_ns, ctime_ns in leaves
        ]
        return msgspec.Raw(encode(held))


def _path_hash(path: bytes) -> int:
    return int.from_bytes(blake3(path).digest(8), "little")


class PreviousCache:
    """The file that the previous run left, open for reading.

    Attributes:
        fd: its descriptor; the caller closes it.
        end: where its records end and the footer begins.
    """

    def __init__(self, fd: int) -> None:
        """Read the footer.

        Raises:
            OSError, msgspec.DecodeError: when it is missing or damaged.
        """
        self.fd = fd
        self._size = os.fstat(fd).st_size
        self._start = self._end = 0
        self._window = b""
        if self._size < len(_MAGIC) + 8 or os.pread(fd, len(_MAGIC), 0) != _MAGIC:
            raise msgspec.DecodeError("no magic")
        self.end = int.from_bytes(os.pread(fd, 8, self._size - 8), "little")
        self.footer = _decode_footer(self._record(self.end) or b"")
        self.hashes = array("Q", self.footer.hashes)
        self.offsets = array("Q", self.footer.offsets)

    @property
    def worn(self) -> bool:
        """Whether half of the file or more may be outdated records."""
        return self._size > 2 * self.footer.whole_size

    def directory(self, path: bytes, content: Content) -> SeenDirectory | None:
        """What the run saw of a directory; None unless it has this content.

        Args:
            path: below the archive's root.
            content: as the record of the directory above has it; of the root, as the version has.
        """
        wanted = _path_hash(path)
        at = bisect_left(self.hashes, wanted)
        if at == len(self.hashes) or self.hashes[at] != wanted:
            return None
        data = self._record(self.offsets[at])
        try:
            seen = _decode_seen(data) if data else None
        except msgspec.DecodeError:
            return None
        if seen is None or seen.path != path or seen.content != content:
            return None
        return seen

    def segment(self, seen: SeenDirectory, number: int) -> SeenSegment | None:
        """One segment of a directory."""
        if seen.segments:
            return seen.segments[number]
        data = self._record(seen.bounds[number][1])
        with suppress(msgspec.DecodeError):
            return _decode_segment(data) if data else None
        return None

    def _record(self, offset: int) -> bytes | None:
        """A record's bytes; None if they cannot be read, or are not what was written."""
        with suppress(OSError):
            head = self._bytes(offset, _HEAD_SIZE)
            length = int.from_bytes(head[:8], "little")
            if 0 < length <= self._size - offset:
                data = self._bytes(offset + _HEAD_SIZE, length)
                return data if blake3(data).digest(_CHECK_SIZE) == head[8:] else None
        return None

    def _bytes(self, offset: int, length: int) -> bytes:
        if offset >= self._size:
            return b""
        if length > _WINDOW:
            return os.pread(self.fd, length, offset)
        if not self._start <= offset or offset + length > self._end:
            self._start = max(0, offset - _WINDOW // 2)
            self._window = os.pread(self.fd, 2 * _WINDOW, self._start)
            self._end = self._start + len(self._window)
        at = offset - self._start
        return self._window[at : at + length]


class StatCache:
    """The cache of one run: what the previous one left, and what this one gathers.

    Only a run that holds the lock of the name gathers, so no two runs write one file.

    Attributes:
        path: of the file.
        previous: the file that the previous run left; None if it is not used.
        root: the content of the root of the version that `previous` is bound to.
        carries: whether the records of `previous` are kept, and this run adds to them.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        lock: RunLock | None,
        earlier: Sequence[Version],
        *,
        ask: bool = True,
    ) -> None:
        """The cache for a version name.

        Args:
            store: the store whose blocks it refers to.
            name: of the versions.
            lock: of the name, held until the cache is closed; None to gather nothing.
            earlier: all versions of the name, looked up after the lock was taken.
            ask: whether to use what the previous run saw.
        """
        assert lock is None or lock.name == name
        self.path = store.path / LEFT_BY_RUNS / name
        self.previous: PreviousCache | None = None
        self.root: Content = Empty()
        self._ids = store.header.store_id, store.epoch
        self._temporary = self.path.with_name(f".{name}.new")
        self._gathers = lock is not None
        self.carries = False
        self._file: IO[bytes] | None = None
        self._places: dict[int, int] = {}  # offset of a directory's record, by its path's hash
        if ask:
            self.previous = self._opened(earlier)

    def _opened(self, earlier: Sequence[Version]) -> PreviousCache | None:
        """The previous run's file; None if it does not count, or anything is wrong with it."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        with suppress(OSError, msgspec.DecodeError):
            previous = PreviousCache(fd)
            footer = previous.footer
            version = last_with_root(earlier, footer.root)
            if (footer.store_id, footer.epoch) == self._ids and version is not None:
                detail = version.root.detail
                assert isinstance(detail, Directory)  # as of every version
                self.root = detail.content
                return previous
        os.close(fd)
        return None

    def directory(self, path: bytes, content: Content) -> SeenDirectory | None:
        """What the previous run saw of a directory; as `PreviousCache.directory`."""
        return None if self.previous is None else self.previous.directory(path, content)

    def segment(self, seen: SeenDirectory, number: int) -> SeenSegment | None:
        """One segment of a directory that the previous run saw."""
        return None if self.previous is None else self.previous.segment(seen, number)

    def carry_over(self) -> None:
        """Keep the records of the previous run, and add to them."""
        self.carries = self.previous is not None

    def add_segment(self, segment: SeenSegment) -> int:
        """Gather one of several segments for the next run; return its offset."""
        return self._write(encode(segment))

    def add(self, seen: SeenDirectory) -> None:
        """Gather a directory for the next run."""
        if self._gathers:
            self._places[_path_hash(seen.path)] = self._write(encode(seen))

    def _write(self, data: bytes) -> int:
        if not self._gathers:
            return 0
        try:
            if self._file is None:
                self._file = self._started()
            place = self._file.tell()
            self._file.write(
                len(data).to_bytes(8, "little") + blake3(data).digest(_CHECK_SIZE) + data
            )
        except OSError:  # then the next run only reads more
            self._drop()
            return 0
        return place

    def _drop(self) -> None:
        """Stop gathering, and remove the new file."""
        self._gathers = False
        file, self._file = self._file, None
        with suppress(OSError):
            if file is not None:
                self._temporary.unlink(missing_ok=True)
                file.close()

    def _started(self) -> IO[bytes]:
        """A new file, which begins with the records that are carried over."""
        self._temporary.unlink(missing_ok=True)  # of a run that was killed
        file = self._file = os.fdopen(create_file(self._temporary), "wb", buffering=_WINDOW)
        if not self.carries:
            file.write(_MAGIC)
            return file
        assert self.previous is not None
        for start in range(0, self.previous.end, _WINDOW):
            length = min(_WINDOW, self.previous.end - start)
            file.write(os.pread(self.previous.fd, length, start))
        return file

    def put_in_place(self, root: Score) -> None:
        """Let the next run use what was gathered, once a version with this root is committed.

        Raises:
            OSError: it cannot be written.
        """
        if not self._gathers:
            return
        if self._file is None:  # all is carried over, nothing added
            if self.previous is not None and self.previous.footer.root == root:
                return
            self._file = self._started()  # the root's own metadata has changed
        start, places = self._file.tell(), self._places
        whole_size = start
        if self.carries:
            assert self.previous is not None
            whole_size = self.previous.footer.whole_size
            places = {
                **dict(zip(self.previous.hashes, self.previous.offsets, strict=True)),
                **places,
            }
        ordered = sorted(places.items())
        hashes = array("Q", [key for key, _ in ordered]).tobytes()
        offsets = array("Q", [place for _, place in ordered]).tobytes()
        self._write(encode(_CacheFooter(*self._ids, root, whole_size, hashes, offsets)))
        if not self._gathers:
            return  # it could not be written
        self._file.write(start.to_bytes(8, "little"))
        self._file.close()
        self._file = None
        self._temporary.replace(self.path)

    def close(self) -> None:
        """Release everything; what was gathered and not put in place is dropped."""
        if self.previous is not None:
            os.close(self.previous.fd)
            self.previous = None
        self._drop()
