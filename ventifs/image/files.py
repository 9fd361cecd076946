"""The files inside one volume: their contents stored, their entries a tree.

A file is read through its extents from its own start, by whoever works for the run, so its content
is the one a directory archive would have made. Entries are gathered on disk, in any order.
"""

import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from ventifs.errors import Corrupt, NotStored
from ventifs.image.disk import Disk
from ventifs.image.events import Ended, Event, Extent, Free, Inode, Node, Range, Volume
from ventifs.image.placement import Placement
from ventifs.image.previous import Previous, within
from ventifs.image.service import FilesRead, ReadFiles, Wanted
from ventifs.image.walk import valid
from ventifs.tree.content import WHOLE_MAX, ContentWriter
from ventifs.tree.gathered import Gathered, path_of
from ventifs.tree.live import Trouble
from ventifs.tree.records import (
    LENGTH_MAX,
    Content,
    Detail,
    Device,
    Directory,
    Empty,
    Entry,
    File,
    Special,
    Symlink,
    Xattrs,
    entry_problem,
    length_of,
)
from ventifs.tree.workers import REQUEST_MAX, Handle, Pool

_BATCH_BYTES = 2 << 20  # of files, in one request
_BATCH_FILES = 200
_FILE_COST = 8 << 10  # what reading one costs, in bytes
_FILE_SIZE = 64  # bytes that a file takes in a request, and an extent of it, at most
_EXTENT_SIZE = 28
_EXTENTS_MAX = (REQUEST_MAX - _FILE_SIZE - 16) // _EXTENT_SIZE
_XATTR_SIZE = 16  # that an attribute takes beside its name and value, at most
_TELL_EVERY = 1 << 20  # bytes of the disk
_READ_FACTOR_MAX = 64  # so often a damaged file system may have its volume read

Done = Callable[[Content, int], None]  # and how many zeros are known to follow on the disk
_encode = msgspec.msgpack.Encoder().encode
_reply = msgspec.msgpack.Decoder(FilesRead).decode


class FileReader:
    """Has files of one disk read, some at a time.

    Attributes:
        new_bytes: bytes of blocks that this brought to the store.
        room: what the sizes of all files may still sum up to: the version's total has a limit.
        disk_size: bytes.
        told: gets the path of what is archived, and bytes of the disk that it covers.
    """

    def __init__(
        self,
        pool: Pool,
        handle: Handle,
        disk: Disk,
        previous: Previous | None,
        told: Callable[[bytes, int], None],
    ) -> None:
        """Requests go to `pool`, or to `handle` in this process if they are too long for one.

        `told` gets paths, and how many bytes of the disk they cover.
        """
        self.new_bytes = 0
        self.room = (LENGTH_MAX - disk.size) // 2
        self.disk_size = disk.size
        self._pool = pool
        self._handle = handle
        self._previous = previous
        self.told = told
        self._wanted: list[Wanted] = []
        self._done: list[Done] = []
        self._weight = self._encoded = 0

    def read(self, inode: Inode, done: Done) -> None:
        """Have a regular file's content stored; `done` gets it, now or later.

        Raises:
            ImageError, VentifsError: see `service`.
        """
        known, certain, zeros = self._guess(inode)
        if known is not None and certain:
            done(known, zeros)
            return
        if len(inode.extents) > _EXTENTS_MAX:
            request = _encode(ReadFiles([(inode.size, inode.extents, known)]))
            self._deliver([done], self._handle(request, ()))
            return
        encoded = _FILE_SIZE + _EXTENT_SIZE * len(inode.extents)
        if self._encoded + encoded > REQUEST_MAX:
            self.flush()
        self._wanted.append((inode.size, inode.extents, known))
        self._done.append(done)
        self._encoded += encoded
        self._weight += _FILE_COST + sum(length for _, _, length in inode.extents)
        if self._weight >= _BATCH_BYTES or len(self._wanted) >= _BATCH_FILES:
            self.flush()

    def _guess(self, inode: Inode) -> tuple[Content | None, bool, int]:
        if self._previous is not None:
            with suppress(Corrupt, NotStored):  # then it is only stored anew
                return self._previous.content_of(inode.size, inode.extents)
        return None, False, 0

    def flush(self) -> None:
        """Hand over what is gathered."""
        if not self._wanted:
            return
        wanted, waiting = self._wanted, self._done
        self._wanted, self._done, self._weight, self._encoded = [], [], 0, 0
        self._pool.submit(_encode(ReadFiles(wanted)), (), partial(self._deliver, waiting))

    def _deliver(self, waiting: list[Done], reply: bytes) -> None:
        decoded = _reply(reply)
        self.new_bytes += decoded.new_bytes
        for done, (content, zeros) in zip(waiting, decoded.files, strict=True):
            done(content, zeros)

    def drain(self) -> None:
        """Wait for all that is asked."""
        self.flush()
        self._pool.drain()


class _Told(NamedTuple):
    """A name that is told: what it needs when its content is stored.

    Attributes:
        file: what its names have in common, if it has several.
        time: when it was told, for `Gathered`.
    """

    key: bytes
    entry: Entry
    file: int | None
    time: int


class Files:
    """The file tree of one volume on its way. Takes whatever is told, also what cannot be.

    Attributes:
        troubles: what could not be taken in as it should be.
    """

    def __init__(
        self,
        reader: FileReader,
        writer: ContentWriter,
        volume: Volume,
        placed: Placement,
        gathered: Gathered,
        *,
        drop_free: bool,
    ) -> None:
        """Contents by `reader`, attributes by `writer`, entries into `gathered`.

        Where contents lie goes into `placed`, and what is free if that is to be dropped.
        """
        self.troubles: list[Trouble] = []
        self._reader = reader
        self._writer = writer
        self._placed = placed
        self._gathered = gathered
        self._name = volume.name.encode()
        self._ranges = sorted(volume.ranges)
        self._left = _READ_FACTOR_MAX * sum(end - start for start, end in volume.ranges)
        self._drop_free = drop_free
        self._rooted = False
        self._untold = 0  # bytes of the disk since the last progress
        self._first: dict[int, _Told] = {}  # of files with several names, the first met
        self._others: list[tuple[bytes, int]] = []
        self._parent: bytes | None = None  # the last one met that can be

    def take(self, events: Iterator[Event]) -> Ended:
        """Take in all that is told of the volume; how that ended."""
        for event in events:
            if isinstance(event, Node):
                self._node(event)
            elif isinstance(event, Free):
                if self._drop_free:
                    self._free(event.ranges)
            elif isinstance(event, Ended):
                return event
        return Ended("the survey ended early")

    def finish(self) -> Entry | None:
        """The tree, under the volume's name; None, if no root was told."""
        self._reader.drain()
        self._reader.told(self._path(b""), self._untold)
        self._untold = 0
        for key, number in self._others:
            self._link(key, self._first.get(number))
        for trouble in self._gathered.prune():
            self.troubles.append(replace(trouble, path=self._path(trouble.path)))
        if not self._rooted:
            return None
        return replace(self._gathered.build(self._writer.put_node), name=self._name)

    def _link(self, key: bytes, first: _Told | None) -> None:
        """Another name of a file."""
        found = None if first is None else self._gathered.find(first.key)
        if first is None or found is None or found[1] != first.file:
            self._trouble(key, "its other names could not be archived", missing=True)
        elif problem := self._problem(key) or self._size_problem(found[0].size):
            self._trouble(key, problem, missing=True)
        else:
            self._gathered.put(key, replace(found[0], name=_last(key)), first.file)

    def _free(self, ranges: Sequence[Range]) -> None:
        """What the volume does not use, as far as it is the volume's."""
        own = self._ranges
        self._placed.add_free([each for low, high in ranges for each in within(own, low, high)])

    def _path(self, path: bytes) -> bytes:
        return b"/".join(part for part in (b"files", self._name, path) if part)

    def _trouble(self, key: bytes, reason: str, *, missing: bool) -> None:
        self.troubles.append(Trouble(self._path(path_of(key)), reason, missing))

    def _node(self, node: Node) -> None:
        """Take in a name."""
        inode = node.inode
        if node.problem:
            missing = inode is None and node.number not in self._first
            self._trouble(node.key, node.problem, missing=missing)
            if missing:
                return
        if inode is None:
            self._others.append((node.key, node.number))
            return
        if not 0 <= inode.mode < 1 << 16:
            self._trouble(node.key, "a mode that cannot be", missing=True)
            return
        inode = self._sound(node.key, inode)
        regular = stat.S_ISREG(inode.mode)
        entry = self._entry(node.key, inode)
        problem = self._problem(node.key) or entry_problem(entry, root=not node.key)
        if not node.key and not entry.is_directory:
            problem = "the root is no directory"
        if regular:
            problem = problem or self._reading_problem(inode)
        if problem:
            self._trouble(node.key, problem, missing=True)
            return
        self._rooted = self._rooted or not node.key
        time = self._gathered.reserve()
        linked = inode.links > 1 and not entry.is_directory
        told = _Told(node.key, entry, -time if linked else None, time)
        if linked:
            self._first[node.number] = told
        if not regular or not inode.size:
            self._gathered.put(told.key, told.entry, told.file, told.time)
        elif inode.data:
            self._stored(told, inode, self._writer.write_whole(inode.data), 0)
        else:
            self._reader.read(inode, partial(self._stored, told, inode))

    def _sound(self, key: bytes, inode: Inode) -> Inode:
        """An inode without what cannot be of its extents and attributes."""
        if not _are_xattrs(inode.xattrs):
            self._trouble(key, "extended attributes that cannot be are left out", missing=False)
            inode = replace(inode, xattrs=())
        if inode.data or not stat.S_ISREG(inode.mode):
            return replace(inode, extents=()) if inode.extents else inode
        extents = _sound_extents(inode.extents, self._reader.disk_size)
        if len(extents) < len(inode.extents):
            self._trouble(key, "zeros stand for extents that cannot be", missing=False)
            inode = replace(inode, extents=extents)
        return inode

    def _problem(self, key: bytes) -> str:
        """What is wrong with a path; nothing, if it can be."""
        parent, inner, name = key.rpartition(b"\0")
        if inner and parent != self._parent:
            if not all(map(valid, parent.split(b"\0"))):
                return "below a name that cannot be"
            self._parent = parent
        return "" if not key or valid(name) else "a name that cannot be"

    def _reading_problem(self, inode: Inode) -> str:
        """Why a file is not read, though it could be."""
        if not 0 <= inode.size <= LENGTH_MAX:
            return "a size that cannot be"
        if inode.data and len(inode.data) != inode.size:
            return "another size than it has bytes"
        left = self._left - sum(length for _, _, length in inode.extents)
        if left < 0:
            return f"the files of its file system take its size {_READ_FACTOR_MAX} times over"
        problem = self._size_problem(inode.size)
        if not problem:
            self._left = left
        return problem

    def _size_problem(self, size: int) -> str:
        if size > self._reader.room:
            return "the sizes of all files sum up to more than there can be"
        self._reader.room -= size
        return ""

    def _stored(self, told: _Told, inode: Inode, content: Content, zeros: int) -> None:
        """A regular file's content is stored."""
        entry = replace(told.entry, detail=File(content))
        self._gathered.put(told.key, entry, told.file, told.time)
        if inode.extents and length_of(content):
            self._placed.add(content, inode.size, inode.extents, zeros)
        self._untold += sum(size for _, _, size in inode.extents)
        if self._untold >= _TELL_EVERY:
            self._reader.told(self._path(path_of(told.key)), self._untold)
            self._untold = 0

    def _entry(self, key: bytes, inode: Inode) -> Entry:
        detail: Detail = Special()
        match stat.S_IFMT(inode.mode):
            case stat.S_IFREG:
                detail = File(Empty())
            case stat.S_IFDIR:
                detail = Directory(Empty(), 0, 0)
            case stat.S_IFLNK:
                detail = Symlink(inode.target)
            case stat.S_IFCHR | stat.S_IFBLK:
                detail = Device(*inode.rdev)
        xattrs = self._writer.write_xattrs(inode.xattrs)
        return Entry(_last(key), inode.mode, inode.uid, inode.gid, inode.mtime_ns, detail,
                     xattrs, b"")  # fmt: skip


def _sound_extents(extents: tuple[Extent, ...], disk_size: int) -> tuple[Extent, ...]:
    """Those that are in order, and on the disk; the very same, if all are."""
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


def _are_xattrs(xattrs: Xattrs) -> bool:
    """Whether there can be such attributes."""
    if not xattrs:
        return True
    names = [name for name, _ in xattrs]
    size = sum(len(name) + len(value) + _XATTR_SIZE for name, value in xattrs)
    named = all(name and b"\0" not in name for name in names)
    return named and names == sorted(set(names)) and size <= WHOLE_MAX


def _last(key: bytes) -> bytes:
    return key.rpartition(b"\0")[2]
