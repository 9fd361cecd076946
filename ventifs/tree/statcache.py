"""What the previous run under a name saw, so that what is unchanged need not be read again.

One disposable file a version name, beside the store. For every directory, by path: name, inode,
size, mtime and ctime of each leaf, and its canonical entry. The device is left out, for snapshot
mounts change it nightly. A run asks it, gathers a new one, and puts that in place only after its
version is committed. It is bound to the store's id and epoch: when blocks may have left the store,
nothing in it counts. Every record carries a check, so damage is a miss.

An entry is taken in only if its ctime lies 2 s or more before the file was read: what is changed
within the clock's tick of being read is read again next time.
"""

import os
from array import array
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec
from blake3 import blake3

from ventifs.store import Store
from ventifs.tree.records import Content

SETTLED_NS = 2 * 10**9
_MAGIC = b"vfstat\x00\x01"
_CHECK_SIZE = 8
_DIRECTORY = "statcache"


class Leaf(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A name as it was seen, and the entry that was made of it."""

    name: bytes
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    entry: bytes

    def matches(self, status: os.stat_result) -> bool:
        """Whether a file is still what it was."""
        return (
            self.inode == status.st_ino
            and self.ctime_ns == status.st_ctime_ns
            and self.mtime_ns == status.st_mtime_ns
            and self.size == status.st_size
        )


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """A directory as it was seen.

    Attributes:
        path: below the archive's root.
        digest: 16 bytes over all its children's entries.
        content: the tree that was built of these.
        leaves: those that had settled.
    """

    path: bytes
    digest: bytes
    content: Content
    leaves: list[Leaf]


class _Footer(msgspec.Struct, frozen=True, array_like=True):
    """The last record: where each directory's record is, by the hash of its path, ascending."""

    store_id: bytes
    epoch: bytes
    hashes: bytes
    offsets: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode_seen = msgspec.msgpack.Decoder(Seen).decode
_decode_footer = msgspec.msgpack.Decoder(_Footer).decode


def _path_hash(path: bytes) -> int:
    return int.from_bytes(blake3(path).digest(8), "little")


@dataclass(slots=True)
class _Previous:
    """The file of the previous run, open."""

    fd: int
    hashes: "array[int]"
    offsets: "array[int]"


@dataclass(slots=True)
class StatCache:
    """The cache of one run: asks the previous one's, gathers its own.

    Attributes:
        hits: leaves that need not be read.
    """

    path: Path
    store_id: bytes
    epoch: bytes
    hits: int = 0
    _previous: _Previous | None = None
    _file: IO[bytes] | None = None
    _places: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def open(cls, store: Store, name: str, *, ask: bool = True) -> "StatCache":
        """The cache for a version name; without `ask`, everything is read anew."""
        directory = store.path / _DIRECTORY
        directory.mkdir(exist_ok=True)
        cache = cls(directory / name, store.header.store_id, store.epoch)
        if ask:
            cache._previous = cache._opened()
        cache._file = cache._temporary.open("wb")
        cache._file.write(_MAGIC)
        return cache

    @property
    def _temporary(self) -> Path:
        return self.path.with_name(f".{self.path.name}.{os.getpid()}")

    def _opened(self) -> _Previous | None:
        """The previous run's file; whatever is wrong with it, there is none."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        footer = None
        with suppress(OSError, msgspec.DecodeError):
            size = os.fstat(fd).st_size
            start = int.from_bytes(os.pread(fd, 8, size - 8), "little") if size > 16 else 0
            data = _record_at(fd, start) if os.pread(fd, 8, 0) == _MAGIC else None
            footer = _decode_footer(data) if data else None
        if footer is None or (footer.store_id, footer.epoch) != (self.store_id, self.epoch):
            os.close(fd)
            return None
        return _Previous(fd, array("Q", footer.hashes), array("Q", footer.offsets))

    def seen(self, path: bytes) -> Seen | None:
        """What the previous run saw of a directory."""
        previous = self._previous
        if previous is None:
            return None
        wanted = _path_hash(path)
        at = bisect_left(previous.hashes, wanted)
        if at == len(previous.hashes) or previous.hashes[at] != wanted:
            return None
        data = _record_at(previous.fd, previous.offsets[at])
        try:
            seen = _decode_seen(data) if data else None
        except msgspec.DecodeError:
            return None
        return seen if seen is not None and seen.path == path else None

    def add(self, seen: Seen) -> None:
        """Gather a directory for the next run."""
        assert self._file is not None
        self._places.append((_path_hash(seen.path), self._file.tell()))
        self._write(_encode(seen))

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(len(data).to_bytes(8, "little") + blake3(data).digest(_CHECK_SIZE) + data)

    def put_in_place(self) -> None:
        """The version is committed: let the next run ask what was gathered."""
        assert self._file is not None
        self._places.sort()
        hashes = array("Q", [place[0] for place in self._places])
        offsets = array("Q", [place[1] for place in self._places])
        start = self._file.tell()
        self._write(
            _encode(_Footer(self.store_id, self.epoch, hashes.tobytes(), offsets.tobytes()))
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


def _record_at(fd: int, offset: int) -> bytes | None:
    """A record's bytes, if they are what was written."""
    size = os.fstat(fd).st_size
    if offset >= size:
        return None
    head = os.pread(fd, 8 + _CHECK_SIZE, offset)
    length = int.from_bytes(head[:8], "little")
    if not 0 < length <= size:
        return None
    data = os.pread(fd, length, offset + len(head))
    return data if blake3(data).digest(_CHECK_SIZE) == head[8:] else None
