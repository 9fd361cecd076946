"""Reads the members of a tar stream in order, with the standard library's tarfile.

tarfile reads through `_Headers`, which goes forward only, limits the size of one member's headers,
and checks how the stream ends: it counts as whole only if a block of zeros closes it. Whatever
tarfile raises on hostile input, this module turns it into a `BadTar` with a text of one line.
"""

import re
import struct
import tarfile
from collections.abc import Iterator
from typing import IO, Self, cast

from ventifs.tree.tar.decompress import BadTar, Unpacked

HEADERS_MAX = 32 << 20  # bytes, of all headers of one member: a sparse file's map is the longest
_GLOBAL_MAX = 1 << 20  # bytes, of all headers that apply to all members
_BLOCK = 512
_PIECE = 1 << 20
_PAGE = 4096
_GNU_MAGIC = b"ustar  \0"
_DIGITS_MAX = 100  # of a number in a pax record; a longer one is refused
_WHOLE = re.compile(rf"-?[0-9]{{1,{_DIGITS_MAX}}}")
_DECIMAL = re.compile(rf"(-?)([0-9]{{1,{_DIGITS_MAX}}})(?:\.([0-9]*))?")
_HOSTILE = (
    tarfile.TarError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    MemoryError,
    struct.error,
)
_REMEDY = "make it or fetch it anew"


class TarMember(tarfile.TarInfo):
    """A member's header, which corrects what tarfile rounds or misreads.

    Properties that read numbers raise ValueError if the header has something else there.
    """

    __slots__ = ()

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Decode a header; GNU's own format has times where tarfile sees a part of the name."""
        member = super().frombuf(buf, encoding, errors)
        if buf[257:265] == _GNU_MAGIC:
            member.name = bytes(buf[:100]).partition(b"\0")[0].decode(encoding, errors)
        return member

    @property
    def path_bytes(self) -> bytes:
        """The name, as the stream has it."""
        return _raw(self.pax_headers.get("GNU.sparse.name", self.name))

    @property
    def target_bytes(self) -> bytes:
        """The target of a link."""
        return _raw(self.linkname)

    @property
    def extents(self) -> list[tuple[int, int]] | None:
        """(offset, length) of the data of a sparse file; None for any other."""
        return cast("list[tuple[int, int]] | None", self.sparse)

    @property
    def stored_size(self) -> int:
        """Bytes that a regular file takes in the stream, without a sparse file's map."""
        return self.size if self.extents is None else sum(length for _, length in self.extents)

    @property
    def real_size(self) -> int:
        """Bytes of a regular file, holes included."""
        for keyword in ("GNU.sparse.realsize", "GNU.sparse.size"):
            if self.extents is not None and keyword in self.pax_headers:
                return self._number(keyword, 0)
        return self.size

    @property
    def owner(self) -> tuple[int, int]:
        """Numbers of user and group."""
        return self._number("uid", self.uid), self._number("gid", self.gid)

    @property
    def mtime_ns(self) -> int:
        """The time exactly as the stream has it, up to nanoseconds."""
        text = self.pax_headers.get("mtime")
        if text is None:
            return int(self.mtime) * 10**9
        found = _DECIMAL.fullmatch(text)
        if found is None:
            raise ValueError("mtime is no number")
        sign, seconds, fraction = found.groups(default="")
        nanoseconds = int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0"))
        return -nanoseconds if sign else nanoseconds

    def _number(self, keyword: str, otherwise: int) -> int:
        """A whole number, from a pax record if there is one."""
        text = self.pax_headers.get(keyword, str(otherwise))
        if not _WHOLE.fullmatch(text):
            raise ValueError(f"{keyword} is no number")
        return int(text)


class _TarFile(tarfile.TarFile):
    members: list[tarfile.TarInfo]  # typeshed does not know it


class _Headers:
    """The file object that tarfile reads from."""

    def __init__(self, unpacked: Unpacked) -> None:
        self.left = HEADERS_MAX
        self.last = b""
        self._unpacked = unpacked

    def tell(self) -> int:
        return self._unpacked.position

    def seek(self, position: int) -> None:
        if position < self.tell():
            raise _damaged(self.tell(), "a size that cannot be")
        if not self._unpacked.skip(position - self.tell()):
            raise _truncated()

    def read(self, length: int) -> bytes:
        if not 0 <= length <= self.left:
            raise _damaged(self.tell(), f"headers of more than {HEADERS_MAX >> 20} MiB")
        self.left -= length
        self.last = self._unpacked.read(length)
        if len(self.last) < length:
            raise _truncated()
        return self.last


class Members:
    """Iterates over the members once; the contents of each can be read until the next."""

    def __init__(self, unpacked: Unpacked) -> None:
        """Nothing is read yet."""
        self._unpacked = unpacked

    def __iter__(self) -> Iterator[TarMember]:
        """Yield the members in order, then drain the rest of the stream.

        Raises:
            BadTar: this is no tar archive, is damaged or ends early.
        """
        headers, empty = _Headers(self._unpacked), True
        try:
            tar = _TarFile(
                fileobj=cast(IO[bytes], headers),
                tarinfo=TarMember,
                encoding="utf-8",
                errors="surrogateescape",
            )
            for member in tar:
                assert isinstance(member, TarMember)
                empty = False
                tar.members.clear()
                self._settle(tar, member)
                yield member
                headers.left = HEADERS_MAX
        except _HOSTILE as error:
            if self._unpacked.position <= _BLOCK:
                raise BadTar(
                    "not a tar archive, plain or packed by gzip, xz, zstd or bzip2; name one"
                ) from None
            raise _damaged(self._unpacked.position, " ".join(str(error).split())) from None
        if headers.last != bytes(_BLOCK):
            raise _damaged(self._unpacked.position, "a header that is none")
        if not self._unpacked.drain() and empty:  # else this data would be lost silently
            raise BadTar(
                "not a tar archive: it begins with zeros and goes on with other data, as many "
                "disks do; these are read from files and devices, unpacked"
            )

    def _settle(self, tar: _TarFile, member: TarMember) -> None:
        """Check that the next header follows this member's data, and that global ones are small."""
        lasting = sum(len(keyword) + len(text) for keyword, text in tar.pax_headers.items())
        if lasting > _GLOBAL_MAX:
            raise _damaged(member.offset, f"global headers of more than {_GLOBAL_MAX >> 20} MiB")
        if member.extents is not None and "size" in member.pax_headers:
            # tarfile confuses the two sizes, and counts the map twice.
            tar.offset = member.offset_data + _blocks(member.stored_size)
        room = tar.offset - self._unpacked.position
        if room < 0 or (member.isreg() and room != _blocks(member.stored_size)):
            raise _damaged(member.offset, "a size that cannot be")

    def pieces(self, member: TarMember) -> Iterator[bytes | int]:
        """A regular member's content in order: bytes, and for each hole an int, its length.

        Each piece but the last is a multiple of 4 KiB long, as `Chunker.chunks` needs it.

        Raises:
            BadTar: while iterating: the content ends early, or a sparse file's map contradicts
                itself.
        """
        if member.extents is None:
            return self._data(member.size)
        return _in_pages(self._sparse(member))

    def _data(self, length: int) -> Iterator[bytes]:
        while length > 0:
            wanted = min(length, _PIECE)
            data = self._unpacked.read(wanted)
            if len(data) < wanted:
                raise _truncated()
            yield data
            length -= wanted

    def _sparse(self, member: TarMember) -> Iterator[bytes | int]:
        at, size = 0, member.real_size
        for offset, length in member.extents or ():
            if length == 0:  # marks the end, or pads a header
                continue
            if length < 0 or offset < at or offset + length > size:
                raise _damaged(member.offset, "a map of holes that contradicts itself")
            if offset > at:
                yield offset - at
            yield from self._data(length)
            at = offset + length
        if at < size:
            yield size - at


def _in_pages(pieces: Iterator[bytes | int]) -> Iterator[bytes | int]:
    """Regroup the bytes in whole pages; a hole stays a hole where it fills whole pages."""
    held = bytearray()
    for piece in pieces:
        if isinstance(piece, int):
            fill = min(piece, -len(held) % _PAGE)
            held += bytes(fill)
            whole = (piece - fill) // _PAGE * _PAGE
            if whole:
                if held:
                    yield bytes(held)
                    held.clear()
                yield whole
            held += bytes(piece - fill - whole)
        else:
            held += piece
        if len(held) >= _PIECE:
            whole = len(held) // _PAGE * _PAGE
            yield bytes(held[:whole])
            del held[:whole]
    if held:
        yield bytes(held)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _blocks(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


def _truncated() -> BadTar:
    return BadTar(
        "the tar stream ends early, without the zeros that close it; see whether what wrote it "
        "has failed"
    )


def _damaged(position: int, reason: str) -> BadTar:
    return BadTar(f"the tar stream is damaged near byte {position}: {reason}; {_REMEDY}")
