"""From a version back to a directory.

Every component is opened relative to its parent's descriptor and never through a link, so nothing
an archive holds can write outside the destination. Files get their contents first and their
metadata last, directories when all below them is done. What the user may not restore (owners,
devices, some attributes) is left out and told; everything else comes back bit for bit.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.store.files import explained
from ventifs.tree.content import read, read_whole
from ventifs.tree.directory import entries, printable
from ventifs.tree.live import allow_many_descriptors
from ventifs.tree.records import (
    Content,
    Device,
    Directory,
    Empty,
    Entry,
    File,
    Listed,
    Symlink,
    Xattrs,
    decode_xattrs,
)

_NOT_ALLOWED = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_NOT_HELD = {errno.ENOSPC, errno.E2BIG, errno.ERANGE}  # by this file system, of attributes
_SET_ID = stat.S_ISUID | stat.S_ISGID
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Progress = Callable[["Restored", bytes], None]


@dataclass(slots=True)
class Restored:
    """What a restore has done so far.

    Attributes:
        entries: names made.
        size: bytes of regular files written.
        left: (path, what was left out) for what the user may not restore.
    """

    entries: int = 0
    size: int = 0
    left: list[tuple[bytes, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Level:
    """A directory on the way."""

    entry: Entry
    path: bytes
    fd: int
    children: Iterator[Entry]


class Restorer:
    """One restore. Not to be used twice."""

    def __init__(self, store: Store, *, progress: Progress | None = None) -> None:
        """Restore from `store`."""
        self.done = Restored()
        self._store = store
        self._progress = progress
        self._links: dict[bytes, bytes] = {}  # link id: the path that was made first
        self._top = -1

    def run(self, entry: Entry, target: Path) -> Restored:
        """Restore an entry: a directory into `target`, anything else as `target`.

        Raises:
            VentifsError: when the target is there and not empty, or cannot be written.
            Corrupt, NotStored: where the archive is damaged.
        """
        allow_many_descriptors()
        if not isinstance(entry.detail, Directory):
            self._run_single(entry, target)
            return self.done
        try:
            target.mkdir(parents=True, exist_ok=True)
            if any(target.iterdir()):
                raise VentifsError(f"{target}: not empty; restore into a new or empty directory")
            self._top = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with suppress(OSError):  # what is made here would inherit from it
                os.removexattr(self._top, "system.posix_acl_default")
            self._run_tree(entry)
        except OSError as error:
            raise explained(error, target) from None
        return self.done

    def _run_single(self, entry: Entry, target: Path) -> None:
        if os.path.lexists(target):
            raise VentifsError(f"{target}: is there already; name a path that is not")
        try:
            self._top = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                name = os.fsencode(target.name)
                self._make(entry, name, name, self._top)
            finally:
                os.close(self._top)
        except OSError as error:
            raise explained(error, target) from None

    def _run_tree(self, root: Entry) -> None:
        levels = [_Level(root, b"", self._top, _children(self._store, root))]
        try:
            while levels:
                level = levels[-1]
                child = next(level.children, None)
                if child is not None:
                    below = self._down(level, child)
                    if below is not None:
                        levels.append(below)
                    continue
                self._metadata(level.entry, level.path, level.fd)
                self.done.entries += 1
                levels.pop()
                os.close(level.fd)
        finally:
            for level in levels:
                os.close(level.fd)

    def _down(self, level: _Level, child: Entry) -> _Level | None:
        """Make one child; for a directory, go on in it."""
        path = level.path + b"/" + child.name if level.path else child.name
        if self._progress is not None:
            self._progress(self.done, path)
        if not isinstance(child.detail, Directory):
            self._make(child, child.name, path, level.fd)
            return None
        os.mkdir(child.name, 0o700, dir_fd=level.fd)
        fd = os.open(child.name, _DIRECTORY, dir_fd=level.fd)
        return _Level(child, path, fd, _children(self._store, child))

    def _make(self, entry: Entry, name: bytes, path: bytes, directory: int) -> None:
        """Make anything but a directory."""
        first = self._links.get(entry.link) if entry.link else None
        if first is not None:
            self._link(first, name, directory)
        elif isinstance(entry.detail, File):
            self._make_file(entry, entry.detail.content, name, path, directory)
        elif not self._make_other(entry, name, path, directory):
            return
        if entry.link:
            self._links.setdefault(entry.link, path)
        self.done.entries += 1

    def _link(self, first: bytes, name: bytes, directory: int) -> None:
        """A further name of a file made before, reached component by component."""
        *above, last = first.split(b"/")
        at = os.dup(self._top)
        try:
            for component in above:
                below = os.open(component, _DIRECTORY, dir_fd=at)
                os.close(at)
                at = below
            os.link(last, name, src_dir_fd=at, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(at)

    def _make_file(
        self, entry: Entry, content: Content, name: bytes, path: bytes, directory: int
    ) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            offset = 0
            for piece in read(self._store, content):
                if isinstance(piece, int):
                    offset += piece
                    continue
                view = memoryview(piece)
                while view:
                    written = os.pwrite(fd, view, offset)
                    offset += written
                    view = view[written:]
            os.ftruncate(fd, offset)
            self.done.size += offset
            self._metadata(entry, path, fd)
        finally:
            os.close(fd)

    def _make_other(self, entry: Entry, name: bytes, path: bytes, directory: int) -> bool:
        """Make a link, device, FIFO or socket; False when the user may not."""
        try:
            if isinstance(entry.detail, Symlink):
                os.symlink(entry.detail.target, name, dir_fd=directory)
            else:
                device = 0
                if isinstance(entry.detail, Device):
                    device = os.makedev(entry.detail.major, entry.detail.minor)
                os.mknod(name, stat.S_IFMT(entry.mode) | 0o600, device, dir_fd=directory)
        except OSError as error:
            if error.errno not in _NOT_ALLOWED:
                raise
            self._left(path, f"{_kind(entry)} not made", error)
            return False
        mode = self._owner(entry, path, name, directory)
        if not isinstance(entry.detail, Symlink):
            os.chmod(name, mode, dir_fd=directory)
        through = b"/proc/self/fd/%d/%s" % (directory, name)
        self._xattrs(entry, path, through)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
        return True

    def _metadata(self, entry: Entry, path: bytes, fd: int) -> None:
        """Everything about a file or directory but its content.

        The owner first, for chown clears set-uid; the mode after the attributes, for without write
        permission an ordinary user may set none.
        """
        mode = self._owner(entry, path, fd, None)
        self._xattrs(entry, path, fd)
        os.fchmod(fd, mode)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _owner(self, entry: Entry, path: bytes, target: int | bytes, directory: int | None) -> int:
        """Set the owner; the mode to set then, for set-uid is its owner's to give."""
        mode = stat.S_IMODE(entry.mode)
        try:
            if directory is None:
                os.chown(target, entry.uid, entry.gid)
            else:
                os.chown(target, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NOT_ALLOWED:
                raise
            self._left(path, f"owner {entry.uid}:{entry.gid}", error)
            if not isinstance(entry.detail, Directory) and mode & _SET_ID:
                self._left(path, "set-uid and set-gid", error)
                mode &= ~_SET_ID
        return mode

    def _xattrs(self, entry: Entry, path: bytes, target: int | bytes) -> None:
        for name, value in xattrs_of(self._store, entry):
            try:
                os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
            except OSError as error:
                if error.errno not in _NOT_ALLOWED | _NOT_HELD:
                    raise
                self._left(path, f"attribute {printable(name)}", error)

    def _left(self, path: bytes, what: str, error: OSError) -> None:
        self.done.left.append((path, f"{what}: {os.strerror(error.errno or 0).lower()}"))


def _children(store: Store, entry: Entry) -> Iterator[Entry]:
    assert isinstance(entry.detail, Directory)
    return entries(store, entry.detail.content)


def xattrs_of(store: Store, entry: Entry) -> Xattrs:
    """An entry's extended attributes, wherever they are kept.

    Raises:
        Corrupt, NotStored: where the archive is damaged.
    """
    match entry.xattrs:
        case Empty():
            return ()
        case Listed(pairs):
            return pairs
        case content:
            return decode_xattrs(read_whole(store, content))


def _kind(entry: Entry) -> str:
    match stat.S_IFMT(entry.mode):
        case stat.S_IFLNK:
            return "symbolic link"
        case stat.S_IFCHR | stat.S_IFBLK:
            return "device"
        case stat.S_IFIFO:
            return "FIFO"
    return "socket"
