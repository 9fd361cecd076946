"""Live files: what a fid points at. Each pins its inode, and every operation is of that inode.

A server may have a million of them, so that a `LiveFile` is small: what it shares with the files of
its attach (`Access`), its pin, its directory, and its mark (`marks.py`). Nothing refers to a file
but fids, the files below it, and what is open; so its descriptor is closed as soon as it is not
used any more. Invariants:

- a step is one component, never a symbolic link's target, and never leads outside the root or to
  another mount;
- a name is looked up, made or removed in a directory's descriptor as the user of the fid, so that
  the kernel checks what that user may do;
- only regular files and directories are opened.

This module knows no fids and no messages.
"""

import errno
import os
import stat
from contextlib import suppress
from functools import partial

from ventifs.vfs.interface import (
    AttributeChanges,
    Attributes,
    File,
    Identity,
    Refused,
    Statfs,
    check_reading,
)
from ventifs.vfs.live.access import Access
from ventifs.vfs.live.attributes import attributes_of, change, statfs_of
from ventifs.vfs.live.descriptors import Descriptor
from ventifs.vfs.live.marks import (
    NO_HANDLE,
    identity_in,
    name_in,
    number_in,
    same,
    type_in,
    with_handle,
    with_name,
)
from ventifs.vfs.live.mount_points import MountPoint
from ventifs.vfs.live.opened import LiveListing, LiveOpened
from ventifs.vfs.live.overrides import open_executable, remove_capability
from ventifs.vfs.live.syscalls import link_by_fd, look_up, open_beneath, proc_path
from ventifs.vfs.live.tree import PATH_ONLY

NAME_MAX = 255
_CROSSED = "a mount point is not exported"
_REGULAR, _DIRECTORY, _LINK = stat.S_IFREG >> 12, stat.S_IFDIR >> 12, stat.S_IFLNK >> 12
_CREATE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_ODD = frozenset({errno.EXDEV, errno.EMFILE, errno.ENFILE})
_NO_NAMES = (b"", b".", b"..")
_TRIES = 16  # of what somebody else undoes meanwhile


class LiveFile:
    """A file of a live export that is no directory.

    Attributes:
        above: the directory that it was found in, wherever it is now; None for a root. It never
            changes: files that go round in a circle would have no root, a file acts as the user of
            its directory, and sessions count by it.
        mark: what it is known by.
        pin: the descriptor that pins its inode, mostly one of O_PATH; None while it is evicted.
    """

    __slots__ = ("__weakref__", "above", "mark", "pin")

    weight = 0

    def __init__(self, above: "LiveFile", pin: Descriptor, mark: bytes) -> None:
        """In a directory; the caller counts its pin, or holds it."""
        self.above: LiveFile | None = above
        self.pin: Descriptor | None = pin
        self.mark = mark

    @property
    def access(self) -> Access:
        """What it shares with the other files of its attach: its directory has it."""
        assert self.above is not None, "a root has its own"
        return self.above.access

    # Its pin

    def pinned(self) -> Descriptor:
        """Its pin, found again if it was evicted.

        Keep it as long as its number is used: other threads evict too, and what is opened next gets
        the number.

        Raises:
            Cold: a thread has to find it.
            Refused: ESTALE, when it is gone.
        """
        pin = self.pin
        if pin is not None:
            pin.used = True
            return pin
        tree = self.access.tree
        tree.pace.bring(self, partial(tree.found, self))
        return self.pinned()

    def evict(self) -> bool:
        """See `descriptors.Pinned`."""
        pin = self.pin
        if pin is None:
            return False
        mark = self.access.tree.evictable(pin.fd, self.mark)
        if mark is None:
            return False
        self.mark, self.pin = mark, None
        return True

    def lose(self) -> bool:
        """See `descriptors.Pinned`."""
        pin, access = self.pin, self.access
        if pin is None or access.holds.keeps(self):
            return False
        try:
            mark = access.tree.evictable(pin.fd, self.mark)
        except OSError:  # some file systems have no handles of files without a name
            mark = None
        self.mark, self.pin = with_handle(self.mark, NO_HANDLE) if mark is None else mark, None
        return True

    def hold(self) -> Descriptor:
        """Its pin, which is not evicted until `release`, as often as this is called."""
        access, pins = self.access, self.access.tree.pins
        access.holds.check()
        while True:
            pin = self.pinned()
            if self.above is None or pins.hold(self, pin):
                access.locks.opened(number_in(self.mark))
                access.holds.open()
                return pin

    def release(self, writer: Descriptor | None = None) -> None:
        """End one `hold`, and that a descriptor was open for writing."""
        pin, access, number = self.pin, self.access, number_in(self.mark)
        access.locks.closed(number)
        access.holds.close()
        if writer is not None:
            access.writers.discard(number, writer)
        assert pin is not None, "what is open is not evicted"
        if self.above is not None:
            access.tree.pins.release(self, pin)

    # What it is

    @property
    def identity(self) -> Identity:
        """See `File`."""
        return identity_in(self.mark)

    @property
    def kind(self) -> int:
        """See `File`."""
        return type_in(self.mark)

    @property
    def name(self) -> bytes:
        """See `File`: the name that it was found under."""
        return name_in(self.mark)

    def attributes(self) -> Attributes:
        """See `File`."""
        pin = self.pinned()
        return attributes_of(pin.fd)

    def statfs(self) -> Statfs:
        """See `File`."""
        pin = self.pinned()
        return statfs_of(pin.fd)

    def readlink(self) -> bytes:
        """See `File`."""
        if type_in(self.mark) != _LINK:
            raise Refused(errno.EINVAL)
        pin = self.pinned()
        return os.readlink(b"", dir_fd=pin.fd)

    def setattr(self, changes: AttributeChanges) -> None:
        """See `File`."""
        self.access.check_writable()
        if changes.size is not None:
            self._check_sized()
        pin = self.pinned()
        self.access.act()
        change(pin.fd, changes, self.access)

    def _check_sized(self) -> None:
        """See that it has a size that can be changed; nothing else is ever opened."""
        kind = type_in(self.mark)
        if kind != _REGULAR:
            raise Refused(errno.EISDIR if kind == _DIRECTORY else errno.EINVAL)

    # Extended attributes

    def xattr_names(self) -> list[bytes]:
        """See `File`."""
        pin = self.pinned()
        self.access.act()
        return [os.fsencode(name) for name in os.listxattr(proc_path(pin.fd))]

    def xattr(self, name: bytes) -> bytes:
        """See `File`."""
        pin = self.pinned()
        self.access.act()
        return os.getxattr(proc_path(pin.fd), name)

    def set_xattr(self, name: bytes, value: bytes, flags: int) -> None:
        """See `File`."""
        self.access.check_writable()
        pin = self.pinned()
        self.access.act()
        if not value and flags & os.XATTR_REPLACE:
            try:
                os.removexattr(proc_path(pin.fd), name)
            except PermissionError:
                if not remove_capability(self.access, pin.fd, name):
                    raise
        else:
            os.setxattr(proc_path(pin.fd), name, value, flags)

    # Walking

    def walk(self, name: bytes) -> File:
        """See `File`."""
        if name == b"..":
            return self._parent()
        pin, access = self.pinned(), self.access
        access.act()
        try:
            fd = look_up(pin.fd, name)
        except BlockingIOError:  # the name is not in memory
            return access.tree.pace.run(partial(self.find, pin, name))
        except OSError as error:
            if error.errno not in _ODD:
                raise
            return self._odd(pin, name, error.errno)
        if fd >= access.tree.pins.numbers_max:
            os.close(fd)
            return self._odd(pin, name, errno.EMFILE)
        return self._child(Descriptor(fd), name)

    def find(self, pin: Descriptor, name: bytes) -> File:
        """The file of a name. May wait for the disk."""
        access = self.access
        access.act()
        try:
            fd = access.tree.pins.with_room(open_beneath, pin.fd, name, PATH_ONLY, cached=False)
        except OSError as error:
            if error.errno not in _ODD:
                raise
            return self._odd(pin, name, error.errno)
        return self._child(Descriptor(fd), name)

    def _odd(self, pin: Descriptor, name: bytes, number: int) -> File:
        """What stands for a name that is there, but could not be opened."""
        if number == errno.EXDEV:
            return MountPoint(self, name)
        pins = self.access.tree.pins
        fd = pins.with_room(open_beneath, pin.fd, name, PATH_ONLY, cached=False)
        return self._child(Descriptor(fd), name)

    def _child(self, pin: Descriptor, name: bytes) -> "LiveFile":
        access = self.access
        mark = access.tree.mark(pin.fd, name)
        file: LiveFile
        if type_in(mark) == _DIRECTORY:
            file = LiveAccessible(access, self, pin, mark)
        else:
            file = LiveFile(self, pin, mark)
        access.tree.pins.keep(file, pin)
        return file

    def _parent(self) -> "LiveFile":
        """The directory that it is in now, which may not be the one that it was found in."""
        above = self.above
        if above is None:
            return self
        if type_in(self.mark) != _DIRECTORY:
            raise Refused(errno.ENOTDIR)
        pin, access = self.pinned(), self.access
        access.act()
        up = Descriptor(
            access.tree.pins.with_room(os.open, b"..", PATH_ONLY | os.O_DIRECTORY, dir_fd=pin.fd)
        )
        mark = access.tree.mark(up.fd, b"")
        above.pinned()
        if same(mark) == same(above.mark):
            return above
        return self.placed(up, mark)

    def placed(self, pin: Descriptor, mark: bytes) -> "LiveFile":
        """The file of a descriptor, walked to from the root along the path that it has now.

        Raises:
            Refused: ESTALE, when it is not beneath the root, or moves all the time.
        """
        root = self
        while root.above is not None:
            root = root.above
        assert root.pin is not None
        for _ in range(_TRIES):
            top = os.readlink(proc_path(root.pin.fd)).rstrip(b"/") + b"/"
            path = os.readlink(proc_path(pin.fd))
            if path + b"/" == top:
                return root
            if not path.startswith(top):
                break
            at, above = root, root.pin
            self.access.tree.acting.as_server()
            try:
                for name in path[len(top) :].split(b"/"):
                    fd = open_beneath(above.fd, name, PATH_ONLY, cached=False)
                    above = Descriptor(fd)
                    at = at._child(above, name)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    continue
                raise
            if same(at.mark) == same(mark):
                return at
        raise Refused(errno.ESTALE)

    # Opening

    def open(self, flags: int) -> LiveOpened:
        """See `File`."""
        access = self.access
        kind = type_in(self.mark)
        if kind == _LINK:
            raise Refused(errno.ELOOP)
        if not access.tree.writable:
            check_reading(flags)
        if kind == _DIRECTORY:
            return self._list(flags)
        if flags & os.O_DIRECTORY:
            raise Refused(errno.ENOTDIR)
        if kind != _REGULAR:
            raise Refused(errno.ENXIO, "a FIFO, socket or device is not opened on the host")
        flags = access.opening(flags)
        opened = self._reopened(flags)
        if flags & os.O_ACCMODE:
            access.writers.add(number_in(self.mark), opened)
        return LiveOpened(self, opened, flags)

    def _list(self, flags: int) -> LiveListing:
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            raise Refused(errno.EISDIR)
        return LiveListing(self, self._reopened(os.O_RDONLY | os.O_DIRECTORY), os.O_RDONLY)

    def _reopened(self, flags: int) -> Descriptor:
        """Open it as the user, and hold its pin."""
        pin, access = self.hold(), self.access
        try:
            access.act()
            try:
                fd = access.tree.reopen(pin, flags)
            except PermissionError:
                executable = type_in(self.mark) == _REGULAR
                found = open_executable(access, pin, flags) if executable else None
                if found is None:
                    raise
                fd = found
            return Descriptor(fd)
        except BaseException:
            self.release()
            raise

    # Changing the directory

    def create(self, name: bytes, flags: int, mode: int, gid: int) -> "tuple[LiveFile, LiveOpened]":
        """See `File`; without O_EXCL, what is there already is opened."""
        access = self.access
        pin = self._changing(name)
        passed, pins = access.opening(flags), access.tree.pins
        access.holds.check()
        if pins.short:
            pins.check_room(pin.fd)
        for _ in range(_TRIES):
            access.act_in(gid)
            try:
                fd = os.open(name, passed | _CREATE, mode & 0o7777, dir_fd=pin.fd)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
            except OSError as error:
                if not pins.makes_room(error):
                    raise
                continue
            else:
                pins.short |= fd >= pins.numbers_max
                opened = Descriptor(fd)
                made = LiveFile(self, opened, access.tree.mark(fd, name))
                pins.hold_new(opened)
                number = number_in(made.mark)
                access.locks.opened(number)
                access.holds.open()
                if passed & os.O_ACCMODE:
                    access.writers.add(number, opened)
                return made, LiveOpened(made, opened, passed)
            try:
                found = self.find(pin, name)
            except FileNotFoundError:
                continue
            if not isinstance(found, LiveFile) or type_in(found.mark) == _DIRECTORY:
                raise Refused(errno.EISDIR)
            return found, found.open(flags & ~os.O_CREAT)
        raise Refused(errno.EAGAIN)

    def _making(self, name: bytes) -> Descriptor:
        """The pin to make a name in; what is made can be pinned, too."""
        pin = self._changing(name)
        self.access.tree.pins.check_room(pin.fd)
        return pin

    def mkdir(self, name: bytes, mode: int, gid: int) -> File:
        """See `File`."""
        pin = self._making(name)
        self.access.act_in(gid)
        os.mkdir(name, mode, dir_fd=pin.fd)
        return self.find(pin, name)

    def symlink(self, name: bytes, target: bytes, gid: int) -> File:
        """See `File`; the target is the guest's business."""
        pin = self._making(name)
        self.access.act_in(gid)
        os.symlink(target, name, dir_fd=pin.fd)
        return self.find(pin, name)

    def mknod(self, name: bytes, mode: int, rdev: int, gid: int) -> File:
        """See `File`; the kernel lets only root make devices."""
        if stat.S_IFMT(mode) in (stat.S_IFDIR, stat.S_IFLNK):
            raise Refused(errno.EINVAL)
        pin = self._making(name)
        self.access.act_in(gid)
        os.mknod(name, mode, rdev, dir_fd=pin.fd)
        return self.find(pin, name)

    def link(self, file: File, name: bytes) -> None:
        """See `File`."""
        pin = self._changing(name)
        target = self._beside(file).pinned()
        self.access.act()
        link_by_fd(target.fd, pin.fd, name)

    def renameat(self, name: bytes, directory: File, newname: bytes) -> None:
        """See `File`."""
        _check_name(name)
        to = self._beside(directory)
        target = to._changing(newname)
        pin = self.pinned()
        self.access.act()
        os.rename(name, newname, src_dir_fd=pin.fd, dst_dir_fd=target.fd)

    def unlink(self, name: bytes, *, directory: bool) -> None:
        """See `File`."""
        pin = self._changing(name)
        self.access.act()
        (os.rmdir if directory else os.unlink)(name, dir_fd=pin.fd)

    # Changing its own name

    def rename(self, directory: File | None, name: bytes) -> None:
        """See `File`: the name that it was found under, or the one that it has now."""
        self.access.check_writable()
        above, old = self._found_in()
        to = above if directory is None else self._beside(directory)
        above.renameat(old, to, name)
        self.mark = with_name(self.mark, name)

    def remove(self) -> None:
        """See `File`: the name that it was found under, or the one that it has now."""
        self.access.check_writable()
        above, name = self._found_in()
        above.unlink(name, directory=type_in(self.mark) == _DIRECTORY)

    def _found_in(self) -> "tuple[LiveFile, bytes]":
        """A directory that it is in now, and its name there.

        Raises:
            Refused: EBUSY for a root, ESTALE when no name of it is known.
        """
        above = self.above
        if above is None:
            raise Refused(errno.EBUSY)
        pin, up, access = self.pinned(), above.pinned(), self.access
        access.act()
        with suppress(OSError):  # if that user cannot find it there, the server looks for it
            if same(access.tree.mark_at(up.fd, self.name)) == same(self.mark):
                return above, self.name
        now = self.placed(pin, self.mark)
        if now.above is None:
            raise Refused(errno.EBUSY)
        return now.above, now.name

    def _changing(self, name: bytes) -> Descriptor:
        """The pin of this directory, if a name in it may be changed."""
        if not self.access.tree.writable:
            raise Refused(errno.EROFS)
        if name in _NO_NAMES or b"/" in name or b"\0" in name or len(name) > NAME_MAX:
            _check_name(name)
        if type_in(self.mark) != _DIRECTORY:
            raise Refused(errno.ENOTDIR)
        return self.pinned()

    def _beside(self, file: File) -> "LiveFile":
        """Another file of the same export."""
        if isinstance(file, MountPoint):
            raise Refused(errno.EXDEV)
        if not isinstance(file, LiveFile) or file.access.tree is not self.access.tree:
            raise Refused(errno.EXDEV)
        return file


class LiveAccessible(LiveFile):
    """A directory of a live export, or the root of an attach: what has an `Access` of its own."""

    __slots__ = ("access",)

    def __init__(
        self, access: Access, above: LiveFile | None, pin: Descriptor, mark: bytes
    ) -> None:
        """In a directory; a root is in none, and its pin is not counted: it stays."""
        self.access = access  # type: ignore[misc]
        self.above = above
        self.pin = pin
        self.mark = mark


def root_of(access: Access) -> LiveFile:
    """The root of an attach to the export's directory."""
    root = access.tree.root
    return LiveAccessible(access, None, root, access.tree.mark(root.fd, b"/"))


def root_at(access: Access, names: list[bytes]) -> LiveFile:
    """The root of an attach to a path. May wait for the disk.

    Raises:
        Refused: EXDEV for a mount point, ENOENT for `.` and `..`, EINVAL for a NUL.
    """
    at = root_of(access)
    for name in names:
        if name in (b".", b".."):
            raise Refused(errno.ENOENT)
        _check_name(name)
        found = at.find(at.pin or access.tree.found(at), name)
        if not isinstance(found, LiveFile):
            raise Refused(errno.EXDEV, _CROSSED)
        at = found
    pin = at.pin or access.tree.found(at)
    return LiveAccessible(access, None, pin, with_name(at.mark, b"/"))


def _check_name(name: bytes) -> None:
    """See that a name is one component; sessions have checked that already."""
    if name in _NO_NAMES or b"/" in name or b"\0" in name:
        raise Refused(errno.EINVAL)
    if len(name) > NAME_MAX:
        raise Refused(errno.ENAMETOOLONG)
