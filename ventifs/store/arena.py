"""One arena file, as its readers see it: header, clumps, and, once sealed, directory and trailer.

An arena is read with `pread` alone, so one `Arena` serves any number of threads. `scan`,
`directory` and `read_raw` check the arena's own checksums; `read_head`, `read_payload` and `heads`
do not. The layers above hash each block against its score.
FORMAT.md, section Arena, is the byte-exact description.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import zstandard
from blake3 import blake3

from ventifs.buffer import Buffer
from ventifs.errors import Corrupt, VentifsError
from ventifs.store.clump import (
    ARENA_ID_SIZE,
    CHECK_SIZE,
    CLUMP_SIZE_MAX,
    HEAD_SIZE,
    LISTED_BLOCK_SIZE,
    MAGIC,
    ClumpKind,
    Head,
    Outline,
    decompress,
    head_length,
    outline,
    parse_head,
    verify,
)
from ventifs.store.files import explained, readable_errors

ARENA_MAGIC = b"vfarena\x01"
DIRECTORY_MAGIC = b"vfdirec\x01"
TRAILER_MAGIC = b"vfseal\x00\x01"
_HEADER = struct.Struct("<8s16s16sQ")  # magic, store id, arena id, creation time
_TRAILER = struct.Struct("<8sQQII32s")
_ENTRY = struct.Struct("<Q")  # a directory entry: the clump's offset, then its unchanged head
HEADER_SIZE = _HEADER.size + CHECK_SIZE
TRAILER_SIZE = _TRAILER.size + CHECK_SIZE
DIRECTORY_START_SIZE = len(DIRECTORY_MAGIC) + HEADER_SIZE

_WINDOW = 1 << 20
_HEAD_GUESS = HEAD_SIZE + 16 * LISTED_BLOCK_SIZE  # one read for the head of most clumps


class ForeignArena(VentifsError):
    """An arena file that another store wrote."""


class Clump(msgspec.Struct, frozen=True):
    """A clump whose checksum holds, found by a scan."""

    offset: int
    head: Head
    payload: memoryview

    @property
    def end(self) -> int:
        """Where the next clump begins."""
        return self.offset + self.head.size


class Damage(msgspec.Struct, frozen=True):
    """Bytes that belong to no valid clump."""

    offset: int
    length: int


class Trailer(msgspec.Struct, frozen=True):
    """The last bytes of a sealed arena.

    Attributes:
        directory_offset: where the directory begins and the clumps end.
        directory_length: its bytes, magic and copy of the header included.
        clumps: how many entries it has.
        blocks: how many blocks these list.
        fingerprint: BLAKE3-256 of the directory. It covers all contents: the directory holds the
            arena's header and every clump's head, and each head holds the checksum of its clump.
    """

    directory_offset: int
    directory_length: int
    clumps: int
    blocks: int
    fingerprint: bytes


def encode_header(store_id: bytes, arena_id: bytes, created_ns: int) -> bytes:
    """The first `HEADER_SIZE` bytes of an arena."""
    fixed = _HEADER.pack(ARENA_MAGIC, store_id, arena_id, created_ns)
    return fixed + blake3(fixed).digest(CHECK_SIZE)


def encode_trailer(trailer: Trailer, arena_id: bytes) -> bytes:
    """The last `TRAILER_SIZE` bytes of a sealed arena."""
    fixed = _TRAILER.pack(
        TRAILER_MAGIC,
        trailer.directory_offset,
        trailer.directory_length,
        trailer.clumps,
        trailer.blocks,
        trailer.fingerprint,
    )
    return fixed + blake3(arena_id + fixed).digest(CHECK_SIZE)


def encode_directory_start(header: bytes) -> bytes:
    """What a directory begins with, before its entries: magic and a copy of the arena's header."""
    return DIRECTORY_MAGIC + header


def encode_entry(offset: int, head: Head) -> bytes:
    """A clump's entry in its arena's directory."""
    return _ENTRY.pack(offset) + head.listed


class _ReadWindow:
    """Buffered random access to a file's bytes below `end`, for walks from front to back."""

    def __init__(self, fd: int, end: int) -> None:
        self._fd = fd
        self._start = 0
        self._bytes = b""
        self.end = end

    def at(self, offset: int, length: int) -> memoryview:
        """Up to `length` bytes from `offset`; fewer at the end."""
        length = max(0, min(length, self.end - offset))
        if not self._start <= offset <= offset + length <= self._start + len(self._bytes):
            self._start = offset
            self._bytes = _pread(self._fd, min(max(length, _WINDOW), self.end - offset), offset)
        return memoryview(self._bytes)[offset - self._start :][:length]


def _pread(fd: int, length: int, offset: int) -> bytes:
    data = os.pread(fd, length, offset)
    while 0 < len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


class Arena:
    """An arena file open for reading; its descriptor closes with the last reference to it.

    Concurrency: any number of threads; holds no lock and no position.
    """

    def __init__(self, path: Path, arena_id: bytes, fd: int) -> None:
        """Take over `fd`. Use `open` unless the header is known to be good."""
        self.path = path
        self.id = arena_id
        self.fd = fd

    def __del__(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> "Arena":
        """Open the file named after the arena's id.

        The header is not checked, because clumps carry their own checksums and blocks are verified
        by their scores. Callers that need a sound header call `check_header`.

        Raises:
            VentifsError: when the file cannot be opened.
            FileNotFoundError: when the file does not exist.
        """
        arena_id = bytes.fromhex(path.stem)
        try:
            fd = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise explained(error, path) from None
        return cls(path, arena_id, fd)

    def check_header(self, store_id: bytes) -> None:
        """Compare the first bytes with what they should be.

        Raises:
            ForeignArena: when the arena is another store's.
            Corrupt: when the header is damaged.
        """
        header = self._read(HEADER_SIZE, 0)
        if len(header) == HEADER_SIZE:
            _, owner, _, created_ns = _HEADER.unpack_from(header)
            if header == encode_header(owner, self.id, created_ns):
                if owner != store_id:
                    raise ForeignArena(f"{self.path}: this arena belongs to another store")
                return
        raise Corrupt("arena header is damaged", arena=self.id.hex(), offset=0)

    def length(self) -> int:
        """The file's length in bytes."""
        return os.fstat(self.fd).st_size

    def read_head(self, offset: int) -> Head:
        """The parsed head of the clump at `offset`; its checksum is not verified.

        Raises:
            Corrupt: when no clump begins there.
        """
        try:
            data = self._read(_HEAD_GUESS, offset)
            wanted = head_length(data)
            if wanted > len(data):
                data = self._read(wanted, offset)
            return parse_head(data)
        except Corrupt as error:
            raise Corrupt(error.reason, arena=self.id.hex(), offset=offset) from None

    def read_payload(self, offset: int, head: Head) -> bytes:
        """The payload of the clump at `offset`; shorter than the head says if it is cut off."""
        return self._read(head.payload_length, offset + len(head.listed))

    def read_raw(self, offset: int, decompressor: zstandard.ZstdDecompressor) -> Buffer:
        """A catalog or commit clump's content, its checksum verified.

        Raises:
            Corrupt: when the clump is damaged.
        """
        head = self.read_head(offset)
        payload = self.read_payload(offset, head)
        verify(head, payload, arena=self.id, offset=offset)
        return decompress(head, payload, decompressor)

    def _read(self, length: int, offset: int) -> bytes:
        with readable_errors(self.path):
            return _pread(self.fd, length, offset)

    def scan(self, start: int, end: int) -> Iterator[Clump | Damage]:
        """Every clump between two offsets whose checksum holds, and the damage between them.

        Reads front to back in pieces of 1 MiB. After damage it looks for the next magic whose clump
        verifies at its offset. `start` must be an offset where a clump begins or should begin.
        """
        window = _ReadWindow(self.fd, end)
        offset = start
        while offset < end:
            with readable_errors(self.path):
                clump = self._clump_at(window, offset)
                if clump is not None:
                    yield clump
                    offset = clump.end
                    continue
                resume = self._next_clump(window, offset + HEAD_SIZE)
            yield Damage(offset, resume - offset)
            offset = resume

    def _clump_at(self, window: _ReadWindow, offset: int) -> Clump | None:
        try:
            listed = window.at(offset, head_length(window.at(offset, HEAD_SIZE)))
            head = parse_head(listed)
            if head.kind is ClumpKind.GAP:
                verify(head, b"", arena=self.id, offset=offset)
                sound = offset + head.size <= window.end
                return Clump(offset, head, memoryview(b"")) if sound else None
            whole = window.at(offset, min(head.size, CLUMP_SIZE_MAX))
            payload = whole[len(head.listed) :]
            if len(payload) < head.payload_length:
                return None
            verify(head, payload, arena=self.id, offset=offset)
            return Clump(offset, head, payload)
        except Corrupt:
            return None

    def _next_clump(self, window: _ReadWindow, offset: int) -> int:
        """The offset of the next clump that verifies, or `window.end`."""
        while offset < window.end:
            piece = bytes(window.at(offset, _WINDOW))
            at = piece.find(MAGIC)
            while at >= 0:
                if self._clump_at(window, offset + at) is not None:
                    return offset + at
                at = piece.find(MAGIC, at + 1)
            if offset + len(piece) >= window.end or len(piece) < _WINDOW:
                break  # the requested end, or the end of the file
            offset += len(piece) - len(MAGIC) + 1
        return window.end

    def trailer(self) -> Trailer | None:
        """The trailer, or None when the arena is not sealed (or the trailer is damaged)."""
        length = self.length()
        if length < HEADER_SIZE + TRAILER_SIZE:
            return None
        data = self._read(TRAILER_SIZE, length - TRAILER_SIZE)
        if len(data) < TRAILER_SIZE or data[:8] != TRAILER_MAGIC:
            return None
        trailer = Trailer(*_TRAILER.unpack_from(data)[1:])
        end = trailer.directory_offset + trailer.directory_length
        if data != encode_trailer(trailer, self.id) or end != length - TRAILER_SIZE:
            return None
        return trailer

    def clumps_end(self) -> int:
        """Where the clumps end: at the directory of a sealed arena, else at the file's end."""
        trailer = self.trailer()
        return self.length() if trailer is None else trailer.directory_offset

    def directory(self, trailer: Trailer) -> Iterator[tuple[int, Head]]:
        """(offset, head) of every clump, from a sealed arena's directory, in order.

        Raises:
            Corrupt: at the first invalid entry, or, at the end, when the fingerprint differs.
                Until the end, nothing yielded is certain.
        """
        for offset, listed, at in self._entries(trailer):
            try:
                head = parse_head(listed)
            except Corrupt as error:
                raise self._directory_damage(error.reason, at) from None
            yield offset, head

    def outlines(self, trailer: Trailer) -> Iterator[tuple[int, Outline]]:
        """As `directory`, but blocks are not decoded; for walks over many arenas.

        Raises:
            Corrupt: as `directory`.
        """
        for offset, listed, _ in self._entries(trailer):
            yield offset, outline(listed)

    def _entries(self, trailer: Trailer) -> Iterator[tuple[int, bytes, int]]:
        """(offset of a clump, its header and list, offset of its entry) by the directory.

        Raises:
            Corrupt: as `directory`, but what the entries say is not looked at.
        """
        end = trailer.directory_offset + trailer.directory_length
        read = trailer.directory_offset
        data, at = b"", DIRECTORY_START_SIZE
        hasher = blake3()
        while (offset := read - len(data) + at) < end:
            length = _ENTRY.size + HEAD_SIZE
            if at + length <= len(data):
                try:
                    length = _ENTRY.size + head_length(data[at + _ENTRY.size : at + length])
                except Corrupt as error:
                    raise self._directory_damage(error.reason, offset) from None
            if at + length > len(data):
                more = self._read(min(_WINDOW, end - read), read)
                if not more:
                    raise self._directory_damage("clump is cut off in its block list", offset)
                hasher.update(more)
                data, at = data[at:] + more, max(at - len(data), 0)
                read += len(more)
                continue
            yield _ENTRY.unpack_from(data, at)[0], data[at + _ENTRY.size : at + length], offset
            at += length
        if hasher.digest() != trailer.fingerprint:
            raise self._directory_damage("does not match the fingerprint", end)

    def _directory_damage(self, reason: str, offset: int) -> Corrupt:
        return Corrupt(f"arena directory: {reason}", arena=self.id.hex(), offset=offset)

    def heads(self, start: int, end: int) -> Iterator[tuple[int, Head]]:
        """(offset, head) of every clump between two offsets; checksums are not verified.

        Each head's size gives the offset of the next head.

        Raises:
            Corrupt: at the first offset where no head can be parsed.
        """
        while start < end:
            head = self.read_head(start)
            yield start, head
            start += head.size


assert ARENA_ID_SIZE == 16
