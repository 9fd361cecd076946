"""Copies a file or a tree of a server into a new or empty local directory.

Invariants, whatever the server sends: everything is created below the destination, by checked
names, relative to open directories, and never over an existing file. A file that could not be
completed is removed. A directory within itself, or below `DEPTH_MAX` others, is not entered. Unless
`everything` is set, the files belong to the user and grant no privileges: no owners, set-uid or
set-gid bits, devices, or attributes other than `user.*`. Never prints.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from ventifs.errors import VentifsError
from ventifs.ninep.client.attributes import Status
from ventifs.ninep.client.checks import RemoteError, Violation
from ventifs.ninep.client.client import Client
from ventifs.ninep.client.fid import ClientFid
from ventifs.ninep.client.listing import DEPTH_MAX
from ventifs.ninep.client.rpc import Disconnected
from ventifs.store.files import explained
from ventifs.text import printable
from ventifs.tree.archive.file_reader import allow_many_descriptors
from ventifs.tree.objects.records import Detail, Directory, Empty, Entry, Special, Symlink, Xattrs
from ventifs.tree.restore.file_maker import STOPPING
from ventifs.tree.restore.metadata import dress, dress_name

TROUBLES_MAX = 10_000  # listed of each kind; further ones are only counted
_TOGETHER = 16  # files copied at a time
_HOLE = 1 << 14  # bytes of an aligned run of zeros that is left as a hole
_ZEROS = bytes(_HOLE)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLAIN_MODE = 0o777 | stat.S_ISVTX

Progress = Callable[["Downloaded", bytes], None]


@dataclass(slots=True)
class Downloaded:
    """What was copied so far.

    Attributes:
        entries: names created.
        size: bytes of regular files, each file counted once.
        left: (path, what was left out) of files copied in part, or skipped on purpose.
        failed: (path, reason) of files that could not be read or created.
        unlisted: how many more of both there are.
    """

    entries: int = 0
    size: int = 0
    left: list[tuple[bytes, str]] = field(default_factory=list)
    failed: list[tuple[bytes, str]] = field(default_factory=list)
    unlisted: int = 0


class _Place(msgspec.Struct):
    """A directory that is being copied: its fid at the server, and its local descriptor."""

    path: bytes  # relative to the destination
    fid: ClientFid
    fd: int
    status: Status
    waiting: list[tuple[bytes, Status]]  # directories in it that are not entered yet


class Downloader:
    """One download, which can be run once."""

    def __init__(
        self, client: Client, *, everything: bool = False, progress: Progress | None = None
    ) -> None:
        """Copy from a server.

        Args:
            client: attached to it.
            everything: copy also owners, set-uid and set-gid bits, devices and all attributes; only
                for servers that are trusted.
            progress: called with the totals and a path, after each piece and each file.
        """
        self.done = Downloaded()
        self._client = client
        self._everything = everything
        self._progress = progress
        self._has_xattrs = True  # until the server says that it has none
        self._places: list[_Place] = []
        self._linked: dict[int, bytes] = {}  # qid.path: path of its copy, below the destination
        self._later: list[tuple[bytes, Status]] = []  # files with several links, copied one by one
        self._fatal: VentifsError | None = None

    async def run(self, path: bytes, target: Path) -> Downloaded:
        """Copy what is at a path: a directory into `target`, anything else as `target`.

        Raises:
            RemoteError: when there is nothing at the path.
            VentifsError: when the target exists and is not an empty directory, or when the disk or
                the connection fails; what was copied stays.
        """
        allow_many_descriptors()
        before = os.umask(0o077)
        try:
            async with await self._client.walk(path) as fid:
                status = await fid.status()
                if stat.S_ISDIR(status.mode):
                    await self._tree(fid, status, _new_directory(target))
                else:
                    await self._single(fid, status, target)
        finally:
            os.umask(before)
            for place in self._places:
                os.close(place.fd)
                place.fid.drop()
        return self.done

    async def _single(self, fid: ClientFid, status: Status, target: Path) -> None:
        try:
            parent = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise explained(error, target) from None
        name = os.fsencode(target.name)
        try:
            if os.path.lexists(target):
                raise VentifsError(f"{printable(target)}: is there already; name another path")
            await self._attempt(b"", self._make, b"", name, fid, status, parent)
            self._raise_fatal()
        finally:
            os.close(parent)

    async def _tree(self, fid: ClientFid, status: Status, fd: int) -> None:
        await self._enter(b"", await fid.walk(), fd, status)
        while self._places:
            place = self._places[-1]
            if place.waiting:
                name, status = place.waiting.pop()
                await self._attempt(_join(place.path, name), self._descend, place, name, status)
                self._raise_fatal()
            else:
                await self._leave(self._places.pop())

    async def _descend(self, place: _Place, name: bytes, status: Status) -> None:
        if len(self._places) == DEPTH_MAX:
            raise VentifsError(f"more than {DEPTH_MAX} directories deep")
        if any(above.status.qid.path == status.qid.path for above in self._places):
            raise VentifsError("a directory within itself")
        fid = await place.fid.walk(name)
        try:
            os.mkdir(name, 0o700, dir_fd=place.fd)
            fd = os.open(name, _OPEN_DIRECTORY, dir_fd=place.fd)
        except BaseException:
            fid.drop()
            raise
        await self._enter(_join(place.path, name), fid, fd, status)

    async def _enter(self, path: bytes, fid: ClientFid, fd: int, status: Status) -> None:
        """Copy the files of a directory; its subdirectories are added to `waiting`."""
        place = _Place(path, fid, fd, status, [])
        self._places.append(place)
        self.done.entries += 1
        reading = await fid.walk()
        async with reading:
            await reading.open()
            names = [entry.name for entry in await reading.entries()]
        names.sort(reverse=True)
        async with trio.open_nursery() as nursery:
            for _ in range(min(_TOGETHER, len(names))):
                nursery.start_soon(self._worker, place, names, nursery.cancel_scope)
        self._raise_fatal()
        place.waiting.sort(reverse=True)  # taken from the end
        later, self._later = self._later, []
        for name, _ in sorted(later):
            await self._attempt(_join(path, name), self._child, place, name, linked=True)
            self._raise_fatal()

    async def _worker(self, place: _Place, names: list[bytes], scope: trio.CancelScope) -> None:
        while names and self._fatal is None:
            name = names.pop()
            await self._attempt(_join(place.path, name), self._child, place, name)
        if self._fatal is not None:
            scope.cancel()

    async def _child(self, place: _Place, name: bytes, *, linked: bool = False) -> None:
        async with await place.fid.walk(name) as fid:
            status = await fid.status()
            path = _join(place.path, name)
            if stat.S_ISDIR(status.mode):
                place.waiting.append((name, status))
            elif status.nlink > 1 and not linked:
                self._later.append((name, status))
            elif not (linked and self._link(place, name, status)):
                await self._make(path, name, fid, status, place.fd)
                if status.nlink > 1:
                    self._linked[status.qid.path] = path

    def _link(self, place: _Place, name: bytes, status: Status) -> bool:
        """Link a file that was copied under another name; return whether that was possible."""
        first = self._linked.get(status.qid.path)
        if first is None:
            return False
        above, _, last = first.rpartition(b"/")
        try:
            with _reached(above, self._places[0].fd) as directory:
                os.link(
                    last, name, src_dir_fd=directory, dst_dir_fd=place.fd, follow_symlinks=False
                )
        except OSError as error:
            if error.errno in STOPPING or error.errno == errno.EEXIST:
                raise
            return False  # its directory denies access by now, or is gone: make a copy instead
        self.done.entries += 1
        return True

    async def _make(
        self, path: bytes, name: bytes, fid: ClientFid, status: Status, directory: int
    ) -> None:
        """Create a file other than a directory, under a name that is free."""
        kind = stat.S_IFMT(status.mode)
        if kind in (stat.S_IFCHR, stat.S_IFBLK) and not self._everything:
            self._tell(self.done.left, path, "a device, which only --all makes")
            return
        xattrs = await self._xattrs(path, fid, link=kind == stat.S_IFLNK)
        if kind == stat.S_IFREG:
            await self._file(path, name, fid, status, xattrs, directory)
        else:
            target = await fid.readlink() if kind == stat.S_IFLNK else b""
            if kind == stat.S_IFLNK:
                os.symlink(target, name, dir_fd=directory)
            else:
                os.mknod(name, kind | 0o600, status.rdev, dir_fd=directory)
            with _unmade(name, directory):
                self._less(
                    path, dress_name(self._entry(path, name, status), xattrs, name, directory)
                )
        self.done.entries += 1
        if self._progress is not None:
            self._progress(self.done, path)

    async def _file(
        self,
        path: bytes,
        name: bytes,
        fid: ClientFid,
        status: Status,
        xattrs: Xattrs,
        directory: int,
    ) -> None:
        await fid.open()
        fd = os.open(name, _NEW, 0o600, dir_fd=directory)
        try:
            with _unmade(name, directory):
                offset = 0

                def write(data: bytes) -> None:
                    nonlocal offset
                    _write(fd, data, offset)
                    offset += len(data)
                    self.done.size += len(data)
                    if self._progress is not None:
                        self._progress(self.done, path)

                await fid.read_to(write, expected=status.size)
                os.ftruncate(fd, offset)
                self._less(path, dress(self._entry(path, name, status), xattrs, fd))
        finally:
            os.close(fd)

    async def _leave(self, place: _Place) -> None:
        """Set a directory's own attributes, after all in it is copied."""
        try:
            xattrs = await self._xattrs(place.path, place.fid, link=False)
            entry = self._entry(place.path, b"", place.status)
            await self._attempt(place.path, self._dress_directory, place, entry, xattrs)
        finally:
            os.close(place.fd)
            place.fid.drop()
        self._raise_fatal()

    async def _dress_directory(self, place: _Place, entry: Entry, xattrs: Xattrs) -> None:
        self._less(place.path, dress(entry, xattrs, place.fd))

    async def _xattrs(self, path: bytes, fid: ClientFid, *, link: bool) -> Xattrs:
        """The attributes to set; symbolic links can have none that ordinary users may set."""
        if not self._has_xattrs or (link and not self._everything):
            return ()
        try:
            names = await fid.xattr_names()
            wanted = [name for name in names if self._everything or name.startswith(b"user.")]
            return tuple(sorted([(name, await fid.xattr(name)) for name in wanted]))
        except RemoteError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
                self._has_xattrs = False
            else:
                self._tell(self.done.left, path, f"attributes: {error}")
            return ()

    def _entry(self, path: bytes, name: bytes, status: Status) -> Entry:
        """The file's entry for `dress`, without content."""
        mode, uid, gid = status.mode, os.geteuid(), os.getegid()
        if self._everything:
            if status.uid is None or status.gid is None:
                who = printable(status.owner + b":" + status.group)
                self._tell(self.done.left, path, f"owner {who}: the server tells no numbers")
            else:
                uid, gid = status.uid, status.gid
        else:
            mode &= stat.S_IFMT(mode) | _PLAIN_MODE
        detail: Detail = Special()
        if stat.S_ISDIR(mode):
            detail = Directory(Empty(), 0, 0)
        elif stat.S_ISLNK(mode):
            detail = Symlink(b"-")
        return Entry(name, mode, uid, gid, status.mtime_ns, detail, Empty(), b"")

    async def _attempt(
        self, path: bytes, work: Callable[..., Any], *words: Any, **more: Any
    ) -> None:
        """Do a step; record its failure for this path, or as fatal if all others would fail too."""
        try:
            await work(*words, **more)
        except (Disconnected, Violation) as error:
            self._fatal = error
        except (VentifsError, OverflowError) as error:
            self._tell(self.done.failed, path, str(error))
        except OSError as error:
            if error.errno in STOPPING:
                self._fatal = explained(error, Path(os.fsdecode(path or b".")))
            else:
                self._tell(self.done.failed, path, os.strerror(error.errno or 0).lower())

    def _raise_fatal(self) -> None:
        if self._fatal is not None:
            raise self._fatal

    def _less(self, path: bytes, left: list[str]) -> None:
        for what in left:
            self._tell(self.done.left, path, what)

    def _tell(self, troubles: list[tuple[bytes, str]], path: bytes, what: str) -> None:
        if len(troubles) < TROUBLES_MAX:
            troubles.append((path, what))
        else:
            self.done.unlisted += 1


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def _new_directory(target: Path) -> int:
    """Open an empty directory, which is created if missing, and return its descriptor."""
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if os.listdir(fd):
            os.close(fd)
            raise VentifsError(f"{printable(target)}: not empty; name a new or empty directory")
        return fd
    except OSError as error:
        raise explained(error, target) from None


@contextmanager
def _reached(path: bytes, top: int) -> Iterator[int]:
    """Open a directory that was created earlier, name by name, without following links.

    Other users may be able to write to a finished directory, and put links into it.
    """
    fd = os.dup(top)
    try:
        for name in filter(None, path.split(b"/")):
            above, fd = fd, os.open(name, _OPEN_DIRECTORY | os.O_PATH, dir_fd=fd)
            os.close(above)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _unmade(name: bytes, directory: int) -> Iterator[None]:
    """Remove the file if the body fails, so that no incomplete file stays behind."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.unlink(name, dir_fd=directory)
        raise


def _write(fd: int, data: bytes, offset: int) -> None:
    """Write the data, except aligned runs of zeros, which become holes."""
    at, end = offset, offset + len(data)
    while at < end:
        piece = data[at - offset : at - offset + _HOLE - at % _HOLE]
        if piece == _ZEROS[: len(piece)]:  # one memcmp, since both are bytes
            at += len(piece)
        else:
            at += os.pwrite(fd, piece, at)
