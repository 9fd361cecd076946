"""The handlers of 9P2000.L alone: requests that are Linux's own system calls.

Layouts and meanings are those of diod's protocol.txt and of what Linux's client sends.
"""

import errno
import os
import struct
from functools import partial
from typing import Any, ClassVar

from ventifs.buffer import Buffer
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.codec import READ_OVERHEAD
from ventifs.ninep.session.fids import Fid, Fids
from ventifs.ninep.session.handlers import (
    COUNT,
    Body,
    Handlers,
    Held,
    OpenDirectory,
    check_new_name,
    check_target,
)
from ventifs.ninep.session.linux_fields import (
    MAJOR_MAX,
    MINOR_MAX,
    XATTR_FLAGS,
    changes_of,
    check_xattr_name,
    create_flags,
    getattr_body,
    lock_of,
    node_mode,
    open_flags,
)
from ventifs.vfs.interface import DIRECTORY, Attributes, File, ReadOnlyOpened, Refused

V9FS_MAGIC = 0x01021997  # statfs.f_type, as every server sends it
UNLINK_DIRECTORY = 0x200  # AT_REMOVEDIR
XATTR_SIZE_MAX = 65536  # Linux's own
LISTING_MAX = 512  # entries of one reply: about as long as a turn; see docs/performance.md

_DOTS = (b".", b"..")
_DIRENT = struct.Struct("<BIQQBH")


class NewXattr(ReadOnlyOpened):
    """An extended attribute that is being written, and is set when its fid is clunked."""

    __slots__ = ("_fids", "_file", "flags", "name", "size", "value")

    def __init__(self, file: File, name: bytes, size: int, flags: int, fids: Fids) -> None:
        """Expect `size` bytes, for an attribute of `file`.

        Raises:
            Refused: E2BIG, or ENFILE or ENOMEM, when too much is held.
        """
        if size > XATTR_SIZE_MAX:
            raise Refused(errno.E2BIG)
        fids.must_hold(size)
        self._file = file
        self.name = name
        self.size = size
        self.flags = flags
        self.value = bytearray()
        self._fids = fids

    def attributes(self) -> Attributes:
        """Those of the file."""
        return self._file.attributes()

    def read(self, offset: int, count: int) -> list[Buffer]:
        """Refuse."""
        raise Refused(errno.EBADF)

    def entries(self, cookie: int) -> Any:
        """Refuse."""
        raise Refused(errno.ENOTDIR)

    def write(self, offset: int, data: Buffer) -> int:  # type: ignore[override]
        """Take the next bytes of the value."""
        if offset != len(self.value):
            raise Refused(errno.EINVAL)
        if offset + len(data) > self.size:
            raise Refused(errno.ENOSPC)
        self.value += data
        return len(data)

    def close(self) -> None:
        """Hold nothing more."""
        self._fids.hold(-self.size)
        self.size = 0


class LinuxHandlers(Handlers):
    """Handlers of 9P2000.L."""

    dialect: ClassVar[m.Dialect] = m.Dialect.LINUX

    def error(self, number: int) -> m.Message:
        """Rlerror."""
        return m.Rlerror(number)

    def auth(self, _: None, message: m.Tauth) -> Body:
        """Refuse: no authentication is required. Any other errno ends diod's tools."""
        return m.Rlerror(errno.ENOENT)

    def getattr(self, fid: Fid, message: m.Tgetattr) -> Body:
        """Report what stat(2) does: always all of it, whatever the request asks for."""
        attributes = self.call((fid.opened or fid.file).attributes)
        if attributes.memo is None:
            attributes.memo = getattr_body(fid.file.identity, attributes)
        return attributes.memo

    def setattr(self, fid: Fid, message: m.Tsetattr) -> Body:
        """Change attributes, of what is open if the fid is open."""
        self.call((fid.opened or fid.file).setattr, changes_of(message))
        return b""

    def statfs(self, fid: Fid, message: m.Tstatfs) -> Body:
        """Report the file system that a file is in."""
        fs = self.call(fid.file.statfs)
        return m.Rstatfs(
            V9FS_MAGIC,
            fs.bsize,
            fs.blocks,
            fs.bfree,
            fs.bavail,
            fs.files,
            fs.ffree,
            fs.fsid,
            fs.namelen,
        )

    def lopen(self, fid: Fid, message: m.Tlopen) -> Body:
        """Open a file."""
        file = self.closed(fid)
        if message.flags & os.O_TRUNC:
            self.check_open()
        opened = self.call(file.open, open_flags(message.flags))
        self.fids.opened(fid, OpenDirectory(opened) if file.identity.kind == DIRECTORY else opened)
        return m.Rlopen(self.qid(file), 0)

    def lcreate(self, fid: Fid, message: m.Tlcreate) -> Body:
        """Create a regular file in a directory; the fid becomes it.

        One that has come to be there meanwhile is opened, unless O_EXCL is set.
        """
        directory = self.closed(fid)
        check_new_name(message.name)
        self.check_open()
        flags, mode = create_flags(message.flags), message.mode & 0o7777
        file, opened = self.call(directory.create, message.name, flags, mode, message.gid)
        self.fids.replace(message.fid, fid, self.fids.made_open(file, opened))
        return m.Rlcreate(self.qid(file), 0)

    def symlink(self, fid: Fid, message: m.Tsymlink) -> Body:
        """Create a symbolic link."""
        check_new_name(message.name)
        check_target(message.symtgt)
        file = self.call(fid.file.symlink, message.name, message.symtgt, message.gid)
        return m.Rsymlink(self.qid(file))

    def mknod(self, fid: Fid, message: m.Tmknod) -> Body:
        """Create a special file, or an empty regular one."""
        check_new_name(message.name)
        mode = node_mode(message.mode)
        if message.major > MAJOR_MAX or message.minor > MINOR_MAX:
            raise Refused(errno.EINVAL)
        rdev = os.makedev(message.major, message.minor)
        file = self.call(fid.file.mknod, message.name, mode, rdev, message.gid)
        return m.Rmknod(self.qid(file))

    def mkdir(self, fid: Fid, message: m.Tmkdir) -> Body:
        """Create a directory."""
        check_new_name(message.name)
        file = self.call(fid.file.mkdir, message.name, message.mode & 0o7777, message.gid)
        return m.Rmkdir(self.qid(file))

    def link(self, fid: Fid, message: m.Tlink) -> Body:
        """Give a file one more name."""
        check_new_name(message.name)
        target = self.call(self.fids.of, message.fid)
        self.call(fid.file.link, target.file, message.name)
        return b""

    def rename(self, fid: Fid, message: m.Trename) -> Body:
        """Move a file."""
        check_new_name(message.name)
        directory = self.call(self.fids.of, message.dfid)
        self.call(fid.file.rename, directory.file, message.name)
        return b""

    def renameat(self, fid: Fid, message: m.Trenameat) -> Body:
        """Move a name."""
        check_new_name(message.oldname)
        check_new_name(message.newname)
        directory = self.call(self.fids.of, message.newdirfid)
        self.call(fid.file.renameat, message.oldname, directory.file, message.newname)
        return b""

    def unlinkat(self, fid: Fid, message: m.Tunlinkat) -> Body:
        """Remove a name."""
        check_new_name(message.name)
        if message.flags & ~UNLINK_DIRECTORY:
            raise Refused(errno.EINVAL)
        unlink = partial(fid.file.unlink, directory=bool(message.flags & UNLINK_DIRECTORY))
        self.call(unlink, message.name)
        return b""

    def readlink(self, fid: Fid, message: m.Treadlink) -> Body:
        """Read a symbolic link."""
        return m.Rreadlink(self.call(fid.file.readlink))

    def readdir(self, fid: Fid, message: m.Treaddir) -> Body:
        """Read a directory from an offset on, which is a cookie of the file system."""
        opened = self.opened(fid)
        if type(opened) is not OpenDirectory:
            raise Refused(errno.ENOTDIR)
        data: list[bytes] = []
        left = min(message.count, self.msize - READ_OVERHEAD)
        try:
            for cookie, name, identity, kind in opened.entries(message.offset):
                left -= _DIRENT.size + len(name)
                if left < 0:
                    if not data:
                        raise Refused(errno.EINVAL)
                    break
                data.append(_DIRENT.pack(*identity, cookie, kind, len(name)) + name)
                if len(data) == LISTING_MAX:
                    break
        except Exception:
            # Otherwise send what there is: the next request meets the error, or waits. `.` and `..`
            # alone are not worth a reply.
            if len(data) <= 2 and all(entry[_DIRENT.size :] in _DOTS for entry in data):
                raise
        body = b"".join(data)
        return [COUNT(len(body)), body]

    def fsync(self, fid: Fid, message: m.Tfsync) -> Body:
        """Bring a file to the disk."""
        self.call(partial(self.opened(fid).fsync, data_only=bool(message.datasync)))
        return b""

    def lock(self, fid: Fid, message: m.Tlock) -> Body:
        """Take or give back a lock."""
        return m.Rlock(self.call(self.opened(fid).lock, lock_of(message), message.flags))

    def getlock(self, fid: Fid, message: m.Tgetlock) -> Body:
        """Report the lock that is in the way of another."""
        found = self.call(self.opened(fid).getlock, lock_of(message))
        return m.Rgetlock(found.kind, found.start, found.length, found.proc_id, found.client_id)

    def xattrwalk(self, fid: Fid, message: m.Txattrwalk) -> Body:
        """Let newfid be an extended attribute, or the list of their names."""
        self.fids.check_new(message.newfid)
        if message.name:
            check_xattr_name(message.name)
            value = self.call(fid.file.xattr, message.name)
        else:
            value = b"".join([name + b"\0" for name in self.call(fid.file.xattr_names)])
        made = self.fids.made_open(fid.file, Held(fid.file, value, self.fids))
        self.fids.table[message.newfid] = made
        return m.Rxattrwalk(len(value))

    def xattrcreate(self, fid: Fid, message: m.Txattrcreate) -> Body:
        """Let fid be an extended attribute that is written next."""
        file = self.closed(fid)
        check_xattr_name(message.name)
        if message.flags & ~XATTR_FLAGS:
            raise Refused(errno.EINVAL)
        new = NewXattr(file, message.name, message.attr_size, message.flags, self.fids)
        self.fids.opened(fid, new)
        return b""

    def clunk(self, fid: Fid, message: m.Tclunk) -> Body:
        """Forget a fid; an attribute that was written through it is set."""
        if not self.outcomes and type(fid.opened) is not NewXattr:
            self.fids.forget(message.fid, fid)
            return b""
        new = self.call(_written, fid)
        self.fids.forget(message.fid, fid)
        if new is None:
            raise Refused(errno.EINVAL)
        self.call(fid.file.set_xattr, *new)
        return b""


def _written(fid: Fid) -> tuple[bytes, bytes, int] | None:
    """A fid's new attribute: name, value, flags; None when it was not wholly written."""
    new = fid.opened
    assert type(new) is NewXattr
    return (new.name, bytes(new.value), new.flags) if len(new.value) == new.size else None
