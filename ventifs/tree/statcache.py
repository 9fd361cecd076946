"""What the previous run under a name saw, so that what is unchanged need not be read again.

One disposable file a version name, beside the store. For every directory, by path: name, inode,
size, mtime and ctime of each leaf, and its canonical entry, kept encoded, so that a directory in
which nothing changed is recognised by comparing bytes. The device is left out, for snapshot mounts
change it nightly. A run asks the file, gathers a new one, and puts that in place only after its
version is committed. It is bound to the store's id and epoch: when blocks may have left the store,
nothing in it counts. Every record carries a check, so damage is a miss.

An entry counts only if its ctime lies 2 s or more before the file was read: what is changed within
the clock's tick of being read is read again next time.
"""

import fcntl
import os
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec
from blake3 import blake3

from ventifs.errors import Busy
from ventifs.store import Store
from ventifs.tree.records import Content

SETTLED_NS = 2 * 10**9
NOT_SETTLED = -1  # as a ctime: matches no file
_MAGIC = b"vfstat\x00\x02"
_CHECK_SIZE = 8
_HEAD_SIZE = 8 + _CHECK_SIZE  # length, check
_DIRECTORY = "statcache"
_WINDOW = 1 << 20  # bytes read ahead and behind: neighbours in the tree are neighbours here

Leaf = tuple[bytes, int, int, int, int]  # name, inode, size, mtime_ns, ctime_ns


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Names of one directory that follow one another, as they were seen.

    Attributes:
        leaves: the encoded `Leaf`s of everything but directories, sorted by name.
        entries: the encoded list of their canonical entries.
        directories: the encoded list of the subdirectories' canonical entries.
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
        pairs = zip(_decode_leaves(self.leaves), decode_entries(self.entries), strict=True)
        return {leaf[0]: (leaf, entry) for leaf, entry in pairs}


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """A directory as it was seen.

    Attributes:
        path: below the archive's root.
        content: the tree that was built of it.
        segments: the only one; none, when there are several.
        bounds: last name and place of each, when there are several.
    """

    path: bytes
    content: Content
    segments: tuple[Segment, ...]
    bounds: tuple[tuple[bytes, int], ...] = ()

    @property
    def count(self) -> int:
        """How many segments there are."""
        return len(self.segments) or len(self.bounds)


class _Footer(msgspec.Struct, frozen=True, array_like=True):
    """The last record: where each directory's record is, by the hash of its path, ascending."""

    store_id: bytes
    epoch: bytes
    hashes: bytes
    offsets: bytes


encode = msgspec.msgpack.Encoder().encode
_decode_seen = msgspec.msgpack.Decoder(Seen).decode
_decode_segment = msgspec.msgpack.Decoder(Segment).decode
_decode_leaves = msgspec.msgpack.Decoder(list[Leaf]).decode
decode_entries = msgspec.msgpack.Decoder(list[bytes]).decode
_decode_footer = msgspec.msgpack.Decoder(_Footer).decode


def raw(items: Sequence[object]) -> msgspec.Raw:
    """A list, encoded."""
    return msgspec.Raw(encode(items))


def _path_hash(path: bytes) -> int:
    return int.from_bytes(blake3(path).digest(8), "little")


class _Previous:
    """The file of the previous run, open."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = os.fstat(fd).st_size
        self.hashes = self.offsets = array("Q")
        self._start = self._end = 0
        self._window = b""

    def footer(self) -> _Footer | None:
        """The last record, if it is whole."""
        if self.size < len(_MAGIC) + 8 or os.pread(self.fd, len(_MAGIC), 0) != _MAGIC:
            return None
        data = self.record(int.from_bytes(os.pread(self.fd, 8, self.size - 8), "little"))
        return None if data is None else _decode_footer(data)

    def record(self, offset: int) -> bytes | None:
        """A record's bytes, if they are what was written."""
        head = self._bytes(offset, _HEAD_SIZE)
        length = int.from_bytes(head[:8], "little")
        if not 0 < length <= self.size - offset:
            return None
        data = self._bytes(offset + _HEAD_SIZE, length)
        return data if blake3(data).digest(_CHECK_SIZE) == head[8:] else None

    def _bytes(self, offset: int, length: int) -> bytes:
        if length > _WINDOW:
            return os.pread(self.fd, length, offset)
        if not self._start <= offset or offset + length > self._end:
            self._start = max(0, min(offset, 2**62) - _WINDOW // 2)
            self._window = os.pread(self.fd, 2 * _WINDOW, self._start)
            self._end = self._start + len(self._window)
        at = offset - self._start
        return self._window[at : at + length]


class StatCache(msgspec.Struct):
    """The cache of one run: asks the previous one's, gathers its own.

    Holds a lock, so that two runs under one name cannot be at work at once.
    """

    path: Path
    store_id: bytes
    epoch: bytes
    lock: int
    _previous: _Previous | None = None
    _file: IO[bytes] | None = None
    _places: list[tuple[int, int]] = msgspec.field(default_factory=list)

    @classmethod
    def open(cls, store: Store, name: str, *, ask: bool = True, gather: bool = True) -> "StatCache":
        """The cache for a version name.

        Args:
            store: whose blocks it speaks of.
            name: of the versions.
            ask: whether what the previous run saw counts.
            gather: whether this run leaves one for the next.

        Raises:
            Busy: another run under this name is at work.
        """
        directory = store.path / _DIRECTORY
        if gather:
            directory.mkdir(exist_ok=True)
        lock = _locked(directory / f".{name}.lock", name) if gather else -1
        cache = cls(directory / name, store.header.store_id, store.epoch, lock)
        if ask:
            cache._previous = cache._opened()
        if gather:
            cache._file = cache._temporary.open("wb", buffering=_WINDOW)
            cache._file.write(_MAGIC)
        return cache

    @property
    def _temporary(self) -> Path:
        return self.path.with_name(f".{self.path.name}.new")

    def _opened(self) -> _Previous | None:
        """The previous run's file; whatever is wrong with it, there is none."""
        try:
            previous = _Previous(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return None
        footer = None
        with suppress(OSError, msgspec.DecodeError):
            footer = previous.footer()
        if footer is None or (footer.store_id, footer.epoch) != (self.store_id, self.epoch):
            os.close(previous.fd)
            return None
        previous.hashes = array("Q", footer.hashes)
        previous.offsets = array("Q", footer.offsets)
        return previous

    def directory(self, path: bytes) -> Seen | None:
        """What the previous run saw of a directory."""
        previous = self._previous
        if previous is None:
            return None
        wanted = _path_hash(path)
        at = bisect_left(previous.hashes, wanted)
        if at == len(previous.hashes) or previous.hashes[at] != wanted:
            return None
        data = previous.record(previous.offsets[at])
        try:
            seen = _decode_seen(data) if data else None
        except msgspec.DecodeError:
            return None
        return seen if seen is not None and seen.path == path else None

    def segment(self, seen: Seen, number: int) -> Segment | None:
        """One segment of a directory."""
        if seen.segments:
            return seen.segments[number]
        assert self._previous is not None
        data = self._previous.record(seen.bounds[number][1])
        with suppress(msgspec.DecodeError):
            return _decode_segment(data) if data else None
        return None

    def add_segment(self, segment: Segment) -> int:
        """Gather one of several segments for the next run; its place."""
        return self._write(encode(segment))

    def add(self, seen: Seen) -> None:
        """Gather a directory for the next run."""
        self._places.append((_path_hash(seen.path), self._write(encode(seen))))

    def _write(self, data: bytes) -> int:
        if self._file is None:
            return 0
        place = self._file.tell()
        self._file.write(len(data).to_bytes(8, "little") + blake3(data).digest(_CHECK_SIZE) + data)
        return place

    def put_in_place(self) -> None:
        """The version is committed: let the next run ask what was gathered."""
        assert self._file is not None
        self._places.sort()
        hashes = array("Q", [place[0] for place in self._places])
        offsets = array("Q", [place[1] for place in self._places])
        start = self._write(
            encode(_Footer(self.store_id, self.epoch, hashes.tobytes(), offsets.tobytes()))
        )
        self._file.write(start.to_bytes(8, "little"))
        self._file.close()
        self._file = None
        self._temporary.replace(self.path)

    def close(self) -> None:
        """Let go; what was gathered and not put in place is dropped."""
        if self._previous is not None:
            os.close(self._previous.fd)
            self._previous = None
        if self._file is not None:
            self._file.close()
            self._temporary.unlink(missing_ok=True)
            self._file = None
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def _locked(path: Path, name: str) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Busy(
            f"{name}: another run is archiving under this name; wait for it, or use another name"
        ) from None
    return lock
