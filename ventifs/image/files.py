"""The files inside one volume: their contents stored, their entries a tree.

A file is read through its extents from its own start, by whoever works for the run, so its content
is the one a directory archive would have made. Entries are gathered on disk, in any order.
"""

import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import msgspec
from msgspec.structs import replace

from ventifs.errors import Corrupt, NotStored
from ventifs.image.disk import Disk
from ventifs.image.events import Ended, Event, Free, Inode, Node, Volume
from ventifs.image.placement import Placement
from ventifs.image.previous import Previous
from ventifs.image.service import FilesRead, ReadFiles, Wanted
from ventifs.tree.content import ContentWriter
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
    entry_problem,
    length_of,
)
from ventifs.tree.workers import REQUEST_MAX, Pool

_BATCH_BYTES = 2 << 20  # of files, in one request
_BATCH_FILES = 200
_FILE_COST = 8 << 10  # what reading one costs, in bytes
_FILE_SIZE = 64  # bytes that a file takes in a request, and an extent of it, at most
_EXTENT_SIZE = 28
_EXTENTS_MAX = (REQUEST_MAX - _FILE_SIZE - 16) // _EXTENT_SIZE
_READ_FACTOR_MAX = 64  # so often a damaged file system may have its volume read

Done = Callable[[Content], None]
_encode = msgspec.msgpack.Encoder().encode
_reply = msgspec.msgpack.Decoder(FilesRead).decode


class FileReader:
    """Has files of one disk read, some at a time.

    Attributes:
        new_bytes: bytes of blocks that this brought to the store.
        told: gets the path of what is archived, and bytes of the disk that it covers.
    """

    def __init__(
        self, pool: Pool, disk: Disk, previous: Previous | None, told: Callable[[bytes, int], None]
    ) -> None:
        """Requests go to `pool`; `told` gets paths, and how many bytes of the disk they cover."""
        self.new_bytes = 0
        self._pool = pool
        self._disk = disk
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
        known, certain = self._guess(inode)
        if known is not None and certain:
            done(known)
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

    def _guess(self, inode: Inode) -> tuple[Content | None, bool]:
        if self._previous is not None:
            with suppress(Corrupt, NotStored):  # then it is only stored anew
                return self._previous.content_of(inode.size, inode.extents)
        return None, False

    def flush(self) -> None:
        """Hand over what is gathered."""
        if not self._wanted:
            return
        wanted, waiting = self._wanted, self._done
        self._wanted, self._done, self._weight, self._encoded = [], [], 0, 0

        def deliver(reply: bytes) -> None:
            decoded = _reply(reply)
            self.new_bytes += decoded.new_bytes
            for done, content in zip(waiting, decoded.contents, strict=True):
                done(content)

        self._pool.submit(_encode(ReadFiles(wanted)), (), deliver)

    def drain(self) -> None:
        """Wait for all that is asked."""
        self.flush()
        self._pool.drain()


class Files:
    """The file tree of one volume on its way.

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
    ) -> None:
        """Contents by `reader`, attributes by `writer`, entries into `gathered`.

        Where contents lie goes into `placed`.
        """
        self.troubles: list[Trouble] = []
        self._reader = reader
        self._writer = writer
        self._placed = placed
        self._gathered = gathered
        self._name = volume.name.encode()
        self._left = _READ_FACTOR_MAX * sum(end - start for start, end in volume.ranges)
        self._rooted = False
        self._first: dict[int, bytes] = {}  # of files with several names, the first met
        self._others: list[tuple[bytes, int]] = []

    def take(self, events: Iterator[Event]) -> Ended:
        """Take in all that is told of the volume; how that ended."""
        for event in events:
            if isinstance(event, Node):
                self._node(event)
            elif isinstance(event, Free):
                self._placed.add_free(event.ranges)
            elif isinstance(event, Ended):
                return event
        return Ended("the survey ended early")

    def finish(self) -> Entry | None:
        """The tree, under the volume's name; None, if no root was told."""
        self._reader.drain()
        for key, number in self._others:
            found = self._gathered.find(self._first[number])
            if found is None:
                self._trouble(key, "its other names could not be archived", missing=True)
            else:
                entry = replace(found[0], name=_last(key))
                self._gathered.put(key, entry, number)
        for trouble in self._gathered.prune():
            self.troubles.append(replace(trouble, path=self._path(trouble.path)))
        if not self._rooted:
            return None
        return replace(self._gathered.build(self._writer.put_node), name=self._name)

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
        regular = stat.S_ISREG(inode.mode)
        entry = self._entry(node.key, inode)
        problem = entry_problem(entry, root=not node.key)
        if not node.key and not entry.is_directory:
            problem = "the root is no directory"
        if regular:
            problem = problem or self._reading_problem(inode)
        if problem:
            self._trouble(node.key, problem, missing=True)
            return
        self._rooted = self._rooted or not node.key
        linked = inode.links > 1 and not entry.is_directory
        if linked:
            self._first[node.number] = node.key
        file = node.number if linked else None
        if not regular or not inode.size:
            self._gathered.put(node.key, entry, file)
        elif inode.data:
            self._stored(node.key, entry, inode, file, self._writer.write_whole(inode.data))
        else:
            self._reader.read(inode, partial(self._stored, node.key, entry, inode, file))

    def _reading_problem(self, inode: Inode) -> str:
        """Why a file is not read, though it could be."""
        if not 0 <= inode.size <= LENGTH_MAX:
            return "a size that cannot be"
        if inode.data and len(inode.data) != inode.size:
            return "another size than it has bytes"
        if len(inode.extents) > _EXTENTS_MAX:
            return f"in more than {_EXTENTS_MAX:,} pieces: read it from the disk's own file"
        self._left -= sum(length for _, _, length in inode.extents)
        if self._left < 0:
            return f"the files of its file system take its size {_READ_FACTOR_MAX} times over"
        return ""

    def _stored(
        self, key: bytes, entry: Entry, inode: Inode, file: int | None, content: Content
    ) -> None:
        """A regular file's content is stored."""
        self._gathered.put(key, replace(entry, detail=File(content)), file)
        if inode.extents and length_of(content):
            self._placed.add(content, inode.size, inode.extents)
        self._reader.told(self._path(path_of(key)), sum(size for _, _, size in inode.extents))

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


def _last(key: bytes) -> bytes:
    return key.rpartition(b"\0")[2]
