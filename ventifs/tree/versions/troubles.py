"""Troubles: what a run could not archive, gathered and kept with the version, in any number.

A record lists up to 200 troubles. When there are more, or the record would be too long for the
store, the record lists the first, and content that it names holds all others: each as its length (4
bytes, little-endian) and the MessagePack array of path, reason and whether the path is missing.
Troubles are gathered, sorted, written and read some at a time: memory holds ten thousand.
"""

import heapq
import os
import struct
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import IO

import msgspec
from msgspec.structs import replace

from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Store
from ventifs.store.files import readable_errors
from ventifs.store.journal import RECORD_VALUE_MAX
from ventifs.tree.archive.file_reader import Trouble
from ventifs.tree.objects.chunker import HOLE_ALIGN
from ventifs.tree.objects.content import ContentWriter, read
from ventifs.tree.objects.records import Content, Empty
from ventifs.tree.versions.catalog import TROUBLES_MAX, ListedTrouble, Version, version_size

_LISTED_BYTES = 64 << 10  # in a record that does not hold all
_PATH_MAX = 64 << 10  # bytes of a path; a longer one is cut in the middle
_REASON_MAX = 1000  # characters of up to four bytes
_FRAME_MAX = 68 << 10  # bytes of one trouble in content, encoded
_RUN_FRAME_MAX = RECORD_VALUE_MAX + (8 << 10)  # bytes of one trouble in the temporary file, encoded
_WAITING_MAX = 10_000  # troubles in memory
_SIZE_MAX = 8 << 20  # bytes of paths in memory
_RUN_PIECE = 64 << 10  # bytes read at a time of each sorted run
_LENGTH = struct.Struct("<I")
_PIECE = 1 << 20  # bytes written at a time; whole pages, as the chunker requires
_MORE = "..."
assert _PIECE % HOLE_ALIGN == 0

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ListedTrouble).decode


class Troubles:
    """Troubles of one run, added in any order; a temporary file holds what memory does not.

    The file has no name. It is in the directory of the store that the run writes to, because TMPDIR
    may be small; a run that writes to no store has it in TMPDIR.

    Iterating yields the troubles sorted by path, reason and whether the path is missing, any number
    of times.
    """

    def __init__(self, found: Iterable[Trouble] = (), store: Store | None = None) -> None:
        """Begin with the troubles `found`, of a run into `store`."""
        self._directory = store.path if store is not None and store.writes else None
        self._waiting: list[ListedTrouble] = []
        self._runs: list[tuple[int, int]] = []  # begin and end of each sorted run in the file
        self._file: IO[bytes] | None = None
        self._count = self._size = 0  # size: bytes of the paths in memory
        self.extend(found)

    def __len__(self) -> int:
        """The number of troubles."""
        return self._count

    def append(self, trouble: Trouble) -> None:
        """Add one.

        Raises:
            VentifsError: the temporary file cannot be written, for example on a full disk.
        """
        path = shortened(trouble.path, RECORD_VALUE_MAX)  # no record holds more
        self._waiting.append((path, _reason(trouble.reason), trouble.missing))
        self._size += len(path)
        self._count += 1
        if len(self._waiting) >= _WAITING_MAX or self._size >= _SIZE_MAX:
            self._spill()

    def extend(self, found: Iterable[Trouble]) -> None:
        """Add several."""
        for trouble in found:
            self.append(trouble)

    def _spill(self) -> None:
        """Write the troubles in memory to the file, sorted."""
        with self._errors():
            if self._file is None:
                # Unbuffered: on a full disk, closing would try to write a buffer again, and fail.
                self._file = tempfile.TemporaryFile(  # noqa: SIM115, kept
                    prefix="ventifs-", dir=self._directory, buffering=0
                )
                weakref.finalize(self, self._file.close)
            start = end = self._file.seek(0, os.SEEK_END)
            for piece in _pieces(sorted(self._waiting), RECORD_VALUE_MAX):
                end += _write_all(self._file, piece)
        self._runs.append((start, end))
        self._waiting, self._size = [], 0

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn an OSError into a message that names the file's directory."""
        if self._directory is not None:
            with readable_errors(self._directory):
                yield
            return
        try:
            yield
        except OSError as error:
            place = tempfile.tempdir or "temporary file"  # no directory can be written to
            raise VentifsError(
                f"{place}: {os.strerror(error.errno or 0).lower()}, for the list of what cannot "
                "be archived; name a directory with room in TMPDIR"
            ) from error

    def __iter__(self) -> Iterator[ListedTrouble]:
        """All of them, in order."""
        runs = [_frames(self._read(*run), _RUN_FRAME_MAX) for run in self._runs]
        return heapq.merge(*runs, sorted(self._waiting))

    def _read(self, start: int, end: int) -> Iterator[bytes]:
        assert self._file is not None
        while start < end:
            data = os.pread(self._file.fileno(), min(_RUN_PIECE, end - start), start)
            if not data:
                raise VentifsError("the temporary file of troubles ends early; run again")
            yield data
            start += len(data)


def encodable(text: str) -> str:
    r"""The text as a record can hold it: a byte that is not UTF-8 becomes the text `\xff`."""
    if text.isascii():
        return text
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # other lone surrogates
        data = text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def _reason(text: str) -> str:
    """A reason as it is recorded."""
    text = encodable(text)
    return text if len(text) <= _REASON_MAX else text[: _REASON_MAX - len(_MORE)] + _MORE


def shortened(path: bytes, most: int) -> bytes:
    """A path of up to `most` bytes; a longer one keeps its ends, with three dots between."""
    if len(path) <= most:
        return path
    half = (most - len(_MORE)) // 2
    return path[:half] + _MORE.encode() + path[-half:]


def fitted(version: Version, found: Troubles, writer: ContentWriter | None) -> Version:
    """A version whose record is small enough to store; blocks hold troubles that do not fit.

    Args:
        version: without its troubles.
        found: all troubles of its run.
        writer: stores the troubles that do not fit; they become durable with the record's commit.
            None only counts them, in a rehearsal.
    """
    first = tuple(islice(found, TROUBLES_MAX))
    whole = replace(version, troubles=first, troubles_more=len(found) - len(first))
    if len(found) <= TROUBLES_MAX and version_size(whole) <= RECORD_VALUE_MAX:
        return whole
    count = _fitting(first)
    whole = replace(version, troubles=first[:count], troubles_more=len(found) - count)
    if writer is None:
        return whole
    return replace(whole, beyond=writer.write_pieces(_pieces(islice(found, count, None))))


def _fitting(troubles: Sequence[ListedTrouble]) -> int:
    """How many of the first troubles a record lists if it cannot hold all."""
    size = 0
    for count, trouble in enumerate(troubles):
        size += len(_encode(trouble))
        if size > _LISTED_BYTES:
            return count
    return len(troubles)


def _write_all(file: IO[bytes], data: bytes) -> int:
    """Write to an unbuffered file, which may take a part at a time; return the bytes written."""
    done = 0
    while done < len(data):
        done += file.write(data[done:])
    return done


def _pieces(troubles: Iterable[ListedTrouble], path_max: int = _PATH_MAX) -> Iterator[bytes]:
    """Encoded troubles in pieces; all but the last are whole pages."""
    held = bytearray()
    for path, reason, missing in troubles:
        held += _framed((shortened(path, path_max), reason, missing))
        while len(held) >= _PIECE:
            yield bytes(held[:_PIECE])
            del held[:_PIECE]
    if held:
        yield bytes(held)


def _framed(trouble: ListedTrouble) -> bytes:
    data = _encode(trouble)
    return _LENGTH.pack(len(data)) + data


def troubles_of(store: Store, version: Version) -> Iterator[ListedTrouble]:
    """All troubles of a version that the store knows, in order; memory holds some at a time.

    Raises:
        Corrupt, NotStored: where the archive is damaged.
    """
    yield from version.troubles
    if isinstance(version.beyond, Empty):
        return
    count = 0
    for trouble in _frames(_listed_bytes(store, version.beyond), _FRAME_MAX):
        count += 1
        if count > version.troubles_more:
            raise Corrupt(f"{version}: more troubles than the {version.troubles_more:,} it counts")
        yield trouble
    if count != version.troubles_more:
        raise Corrupt(f"{version}: {count:,} troubles where {version.troubles_more:,} are said")


def _listed_bytes(store: Store, content: Content) -> Iterator[bytes]:
    """The bytes of a list of troubles.

    `read` may yield a run of zeros as its length. The path of a trouble may contain zeros, but a
    run longer than a trouble cannot be part of a list: it would contain a length of 0.

    Raises:
        Corrupt, NotStored: where the archive is damaged.
    """
    for piece in read(store, content):
        if isinstance(piece, int) and piece > _FRAME_MAX:
            raise Corrupt(f"a list of troubles has a hole of {piece:,} bytes")
        yield bytes(piece)


def _frames(pieces: Iterable[bytes], most: int) -> Iterator[ListedTrouble]:
    """The troubles in a stream of bytes, each of up to `most` bytes.

    Raises:
        Corrupt: for bytes that `_framed` would not have written.
    """
    held, at = b"", 0
    for piece in chain(pieces, [None]):
        held, at = held[at:] + (piece or b""), 0
        while len(held) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(held, at)
            if length > most:
                raise Corrupt(f"a trouble of {length:,} bytes; the longest has {most:,}")
            end = at + _LENGTH.size + length
            if end > len(held):
                break
            yield _decoded(held[at + _LENGTH.size : end])
            at = end
    if at < len(held):
        raise Corrupt("a list of troubles ends early")


def _decoded(data: bytes) -> ListedTrouble:
    try:
        trouble = _decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Corrupt(f"a trouble cannot be read: {error}") from None
    if _encode(trouble) != data:
        raise Corrupt("a trouble is not in its canonical form")
    return trouble
