"""Takes in the events of a volume's parser: stores contents, returns rows of entries and places.

Workers do this, a batch at a time, in any order; nothing here knows of other batches. A parser may
send anything: something invalid is reported as a trouble, and costs no more than its own name. A
file is read through its extents from its own start, so its content is the one that a directory
archive would have made.
"""

import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec
from msgspec.structs import replace

from ventifs.errors import Corrupt, NotStored
from ventifs.image.archive.extent_map import Placed, places_of
from ventifs.image.archive.file_stream import REST_MAX, Stream
from ventifs.image.archive.previous_disk import PreviousDisk
from ventifs.image.disk import Disk
from ventifs.image.filesystems.walk import valid
from ventifs.image.survey_events import Ended, Extent, FoundName, Free, Inode, Range, told_in
from ventifs.store.score import score_of
from ventifs.tree.objects.content import WHOLE_MAX, ContentWriter, holds
from ventifs.tree.objects.records import (
    LENGTH_MAX,
    Block,
    Content,
    Detail,
    Device,
    Directory,
    Empty,
    Entry,
    RegularFile,
    Special,
    Symlink,
    Xattrs,
    encode,
    entry_problem,
)
from ventifs.tree.objects.tree_builder import AS_CLOSED, CLOSED, Key

_ReadFile = Callable[[int, int], bytes | memoryview]  # of a file, by offset and length
_IsZero = Callable[[int, int], bool]
_IN_MEMORY_MAX = 4 << 20  # bytes of a file that is read in one piece
_ZEROS = bytes(REST_MAX)
_XATTR_SIZE = 16  # bytes that an attribute takes beside its name and value, at most


NameRow = tuple[Key, int, bool, int, int, bytes]
"""Key; time, a number that grows in the order of the parser's events; whether it is a directory; a
number below 0, which all names share, for a file that may have several names, else 0; bytes of a
regular file; encoded entry."""


class BatchNames(msgspec.Struct, frozen=True, array_like=True):
    """The names in a batch, from which the tree is built.

    Attributes:
        time: of the batch's first name, see `NameRow`.
        rows: of what can be archived.
        linked: numbers of inodes that may have other names, and the index of each one's row.
        others: names that came without an inode: key, the inode's number, and the reason; empty if
            it is just another name.
        troubles: key, reason, whether something is missing.
    """

    time: int
    rows: list[NameRow]
    linked: list[tuple[int, int]]
    others: list[tuple[Key, int, str]]
    troubles: list[tuple[Key, str, bool]]


class TakenIn(msgspec.Struct, frozen=True, array_like=True):
    """The result of a batch.

    Attributes:
        names: encoded `BatchNames`.
        last: the key of their last row; empty if there is none.
        placed: where contents of files are, for `Placement`.
        free: ranges that the file system does not use.
        ended: the parser's own `Ended`, if the batch has it.
        entries: how many rows `names` have.
        read: bytes of the disk that the files cover.
        new_bytes: of blocks that the store did not have.
    """

    names: bytes
    last: Key
    placed: list[Placed]
    free: list[Range]
    ended: Ended | None
    entries: int
    read: int
    new_bytes: int


class EventIntake:
    """Takes in batches of one disk's events."""

    def __init__(self, writer: ContentWriter, disk: Disk, previous: PreviousDisk | None) -> None:
        """Store by `writer` what is on `disk`; `previous` may have contents that are unchanged."""
        self._writer = writer
        self._disk = disk
        self._previous = previous
        self._parent: bytes | None = None  # the last valid one

    def take(self, body: bytes, time: int) -> TakenIn:
        """Take in a batch, encoded as in a `survey_events.VolumeBatch`.

        `time` is that of its first name, see `NameRow`.

        Raises:
            ImageError: the disk cannot be read.
            VentifsError: the store's own problems.
        """
        names = BatchNames(time, [], [], [], [])
        placed: list[Placed] = []
        free: list[Range] = []
        before = self._writer.new_bytes
        ended: Ended | None = None
        read = 0
        for event in told_in(body):
            if isinstance(event, FoundName):
                read += self._node(event, time, names, placed)
                time += 1
            elif isinstance(event, Free):
                free.extend(event.ranges)
            else:
                ended = ended or event
        last = names.rows[-1][0] if names.rows else b""
        new_bytes = self._writer.new_bytes - before
        count = len(names.rows)
        return TakenIn(encode(names), last, placed, free, ended, count, read, new_bytes)

    def _node(self, node: FoundName, time: int, names: BatchNames, placed: list[Placed]) -> int:
        """Take in a name; return how many bytes of the disk its file covers."""
        # Hot: for every name; see docs/performance.md.
        inode, key = node.inode, node.key
        if inode is None:
            names.others.append((key, node.number, node.problem))
            return 0
        if node.problem:
            names.troubles.append((key, node.problem, False))
        xattrs = inode.xattrs
        if xattrs and not _can_be(xattrs):
            reason = "extended attributes that cannot be are left out"
            names.troubles.append((key, reason, False))
            xattrs = ()
        name = key.rpartition(b"\0")[2]
        detail = _detail(inode)
        entry = Entry(
            name,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.mtime_ns,
            detail,
            self._writer.write_xattrs(xattrs),
            b"",
        )
        wrong_key = self._key_problem(key, name)
        problem = wrong_key or entry_problem(entry, root=not key)
        directory = type(detail) is Directory
        if problem and directory and not wrong_key:
            # What is in it stays, and nothing private opens; an invalid name is left out.
            closed = replace(CLOSED, name=name)
            if not entry_problem(closed, root=not key):
                names.troubles.append((key, f"{problem}; {AS_CLOSED}", False))
                entry, problem = closed, ""
        if not key and not directory:
            problem = "the root is no directory"
        elif type(detail) is RegularFile:
            problem = problem or _size_problem(inode)
        if problem:
            names.troubles.append((key, problem, True))
            return 0
        linked = inode.links > 1 and not directory
        if linked:
            names.linked.append((node.number, len(names.rows)))
        file = -time if linked else 0
        if type(detail) is not RegularFile or not inode.size:
            names.rows.append((key, time, directory, file, 0, encode(entry)))
            return 0
        content, extents, zeros = self._regular(inode, key, names)
        entry = Entry(
            name,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.mtime_ns,
            RegularFile(content),
            entry.xattrs,
            b"",
        )
        names.rows.append((key, time, False, file, inode.size, encode(entry)))
        if not extents:
            return 0
        placed.extend(places_of(content, inode.size, extents, zeros))
        return sum([length for _, _, length in extents])

    def _key_problem(self, key: Key, name: bytes) -> str:
        """What is wrong with the names above the last name of a path; empty if they are valid.

        Quick in the root, and in the directory of the last valid path below it. The last name is
        not always checked here, since `entry_problem` checks it.

        Args:
            key: the path, with NUL between its names.
            name: the last of these names.
        """
        if len(key) == len(name):
            return ""  # `entry_problem` checks the name
        if key[: -len(name) - 1] != self._parent:
            problem = key_problem(key)
            if problem:
                return problem
            self._parent = key[: -len(name) - 1]
        return ""

    # --- regular files ------------------------------------------------------------------------

    def _regular(
        self, inode: Inode, key: Key, names: BatchNames
    ) -> tuple[Content, tuple[Extent, ...], int]:
        """The content, where it lies, and how many zeros are known to follow there."""
        if inode.data:
            return self._writer.write_whole(inode.data), (), 0
        extents = _sound(inode.extents, self._disk.size)
        if len(extents) < len(inode.extents):
            names.troubles.append((key, "zeros stand for extents that cannot be", False))
        content, zeros = self._content(inode.size, extents)
        return content, extents, zeros

    def _content(self, size: int, extents: tuple[Extent, ...]) -> tuple[Content, int]:
        """Store the content; return it, and how many zeros are known to follow on the disk."""
        known, certain, zeros = self._guess(size, extents)
        if known is not None and certain:
            return known, zeros
        if size > _IN_MEMORY_MAX:
            stream = Stream(self._disk, size, extents)
            if known is not None and self._holds(known, stream.read, stream.is_zero):
                return known, stream.zeros_after()
            return self._writer.write(stream.pieces()), stream.zeros_after()
        data, zeros = self._read(size, extents)
        if known is not None:
            # Fast path for the common case: `holds` costs more; see docs/performance.md.
            if type(known) is Block:
                same = score_of(data) == known.score
            else:
                same = self._holds(
                    known, partial(_piece, memoryview(data)), partial(_is_zero, data)
                )
            if same:
                return known, zeros
        return self._writer.write_whole(data), zeros

    def _guess(self, size: int, extents: tuple[Extent, ...]) -> tuple[Content | None, bool, int]:
        """The likely content, whether it is certain, and if so, how many zeros follow."""
        if self._previous is None:
            return None, False, 0
        try:
            return self._previous.content_of(size, extents)
        except (Corrupt, NotStored):  # without a guess, the content is stored again
            return None, False, 0

    def _holds(self, known: Content, piece: _ReadFile, is_zero: _IsZero) -> bool:
        with suppress(Corrupt, NotStored):  # nodes of the guess are lost: it is stored again
            return holds(self._writer.store, known, piece, is_zero)
        return False

    def _read(self, size: int, extents: tuple[Extent, ...]) -> tuple[bytes, int]:
        """Read a whole file; return it, and how many zeros are known to follow."""
        if len(extents) == 1 and not extents[0][0]:  # fast path for the common case
            _, start, length = extents[0]
            rest = length - size
            if 0 <= rest <= REST_MAX:
                data = self._disk.read(start, length)
                if not rest:
                    return data, 0
                return data[:size], rest if data.endswith(_ZEROS[:rest]) else 0
        stream = Stream(self._disk, size, extents)
        return stream.read(0, size), stream.zeros_after()


def _detail(inode: Inode) -> Detail:
    """The fields that only this type of file has, without content yet."""
    match inode.mode & 0xF000:
        case stat.S_IFREG:
            return RegularFile(Empty())
        case stat.S_IFDIR:
            return Directory(Empty(), 0, 0)
        case stat.S_IFLNK:
            return Symlink(inode.target)
        case stat.S_IFCHR | stat.S_IFBLK:
            return Device(*inode.rdev)
    return Special()


def _size_problem(inode: Inode) -> str:
    if not 0 <= inode.size <= LENGTH_MAX:
        return "a size that cannot be"
    if inode.data and len(inode.data) != inode.size:
        return "another size than it has bytes"
    return ""


def key_problem(key: Key) -> str:
    """What is wrong with a path; empty if it is valid."""
    *above, name = key.split(b"\0")
    if not all(map(valid, above)):
        return "below a name that cannot be"
    return "" if not key or valid(name) else "a name that cannot be"


def _piece(data: memoryview, offset: int, length: int) -> memoryview:
    return data[offset : offset + length]


def _is_zero(data: bytes, offset: int, length: int) -> bool:
    return not data[offset : offset + length].strip(b"\0")


def _sound(extents: tuple[Extent, ...], disk_size: int) -> tuple[Extent, ...]:
    """The extents that are in order and on the disk; the same tuple if all are."""
    # Hot: once a file.
    sound: list[Extent] = []
    told = 0
    for extent in extents:
        offset, start, length = extent
        if (
            told <= offset
            and length > 0
            and start >= 0
            and start + length <= disk_size
            and offset + length <= LENGTH_MAX
        ):
            sound.append(extent)
            told = offset + length
    return extents if len(sound) == len(extents) else tuple(sound)


def _can_be(xattrs: Xattrs) -> bool:
    """Whether attributes are valid."""
    names = [name for name, _ in xattrs]
    size = sum(len(name) + len(value) + _XATTR_SIZE for name, value in xattrs)
    named = all(name and b"\0" not in name for name in names)
    return named and names == sorted(set(names)) and size <= WHOLE_MAX
