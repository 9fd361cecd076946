"""A file system in memory for sessions to serve: writable, cold or blocking on demand.

It is a model: small, obviously right, and it caches nothing. `weather` decides for each call
whether it returns at once, raises `Cold`, raises `Cold` with the whole call as its load, or raises
`Blocking`.
"""

import errno
import os
import stat as st
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ventifs.buffer import Buffer
from ventifs.vfs.interface import (
    DIRECTORY,
    FILE,
    LOCK_BLOCK,
    LOCK_BLOCKED,
    LOCK_SUCCESS,
    SYMLINK,
    UNLOCKED,
    AttributeChanges,
    Attributes,
    Blocking,
    Cold,
    Elsewhere,
    File,
    Identity,
    Load,
    Lock,
    Refused,
    Statfs,
    User,
    Wait,
    Waiting,
)

Weather = Callable[[str], str]
"""From the name of a call to "" (at once), "cold", "own" or "blocking"."""

_ACCESS = 3
XATTR_CREATE, XATTR_REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE
COOKIE_STEP = 1 << 40


class Inode:
    """A file, whatever its names."""

    def __init__(self, path: int, mode: int, *, rdev: int = 0, target: bytes = b"") -> None:
        self.path = path
        self.version = 1
        self.mode = mode
        self.uid = self.gid = 0
        self.rdev = rdev
        self.nlink = 1
        self.times = [0, 0, 0]
        self.data = bytearray(target)
        self.children: dict[bytes, Inode] = {}
        self.xattrs: dict[bytes, bytes] = {}
        self.locks: list[Lock] = []


class MemoryFilesystem:
    """A tree.

    Attributes:
        weather: decides how each call behaves; see `Weather`.
        warm: keys of loads that have run; each is good for one call.
        opened: the number of files that are open now.
        synced: the number of calls of fsync.
        allowed: the attach names that exist.
        elsewhere: the attach names that another process serves.
        cancelled: the number of waits for locks that were cancelled.
    """

    plain_writes = True

    def __init__(self, weather: Weather = lambda call: "") -> None:
        self.weather = weather
        self.warm: set[Any] = set()
        self.opened = 0
        self.synced = 0
        self.allowed = {b"": b"/"}
        self.elsewhere: set[bytes] = set()
        self.cancelled = 0
        self._paths = 0
        self.root = self.inode(st.S_IFDIR | 0o755)
        self.synced_data_only = 0

    def inode(self, mode: int, *, rdev: int = 0, target: bytes = b"") -> Inode:
        self._paths += 1
        return Inode(self._paths, mode, rdev=rdev, target=target)

    def add(self, path: str, mode: int, content: bytes = b"", *, rdev: int = 0) -> Inode:
        """Put a file into the tree; directories on the way are made."""
        *parents, name = path.encode().strip(b"/").split(b"/")
        directory = self.root
        for parent in parents:
            if parent not in directory.children:
                directory.children[parent] = self.inode(st.S_IFDIR | 0o755)
            directory = directory.children[parent]
        made = directory.children[name] = self.inode(mode, rdev=rdev, target=content)
        return made

    def ready(self, call: str, key: Any, work: Callable[[], Any]) -> Any:
        """Do a call's work, or raise `Cold` or `Blocking` as the weather decides."""
        weather = self.weather(call)
        if weather == "cold" and key not in self.warm:
            raise Cold(Load(key, lambda: self.warm.add(key)))
        self.warm.discard(key)
        if weather == "own":
            raise Cold(Load(None, work))
        if weather == "blocking":
            raise Blocking(work)
        return work()

    def attach(self, user: User, aname: bytes) -> "MemoryFile":
        def work() -> MemoryFile:
            if aname in self.elsewhere:
                raise Elsewhere(aname.decode())
            if aname not in self.allowed:
                raise Refused(errno.ENOENT)
            return MemoryFile(self, self.root, b"/", None)

        return self.ready("attach", ("attach", aname), work)  # type: ignore[no-any-return]

    def session(self) -> "MemoryFilesystem":
        """The file system itself: its names never change their meaning."""
        return self

    def ahead(self) -> list[Load]:
        return []


class MemoryFile:
    """A file by one of its names."""

    weight = 0
    above = None

    def __init__(
        self, fs: MemoryFilesystem, inode: Inode, name: bytes, parent: "MemoryFile | None"
    ) -> None:
        self.fs = fs
        self.inode = inode
        self.name = name
        self.parent = parent or self

    def _ready(self, call: str, work: Callable[[], Any], *key: Any) -> Any:
        return self.fs.ready(call, (call, self.inode.path, *key), work)

    @property
    def identity(self) -> Identity:
        kind = {st.S_IFDIR: DIRECTORY, st.S_IFLNK: SYMLINK}.get(st.S_IFMT(self.inode.mode), FILE)
        return Identity(kind, self.inode.version, self.inode.path)

    @property
    def kind(self) -> int:
        return self.inode.mode >> 12

    def attributes(self) -> Attributes:
        return self._ready("attributes", self.status)  # type: ignore[no-any-return]

    def status(self) -> Attributes:
        """The attributes, whatever the weather."""
        i = self.inode
        return Attributes(
            i.mode,
            i.uid,
            i.gid,
            i.nlink,
            i.rdev,
            len(i.data),
            i.times[1],
            i.times[0],
            i.times[2],
            -(-len(i.data) // 4096) * 8,
        )

    def _directory(self) -> dict[bytes, Inode]:
        if not st.S_ISDIR(self.inode.mode):
            raise Refused(errno.ENOTDIR)
        return self.inode.children

    def _child(self, name: bytes) -> Inode:
        child = self._directory().get(name)
        if child is None:
            raise Refused(errno.ENOENT)
        return child

    def walk(self, name: bytes) -> "MemoryFile":
        def work() -> MemoryFile:
            if name == b"..":
                self._directory()
                return self.parent
            return MemoryFile(self.fs, self._child(name), name, self)

        return self._ready("walk", work, name)  # type: ignore[no-any-return]

    def open(self, flags: int) -> "MemoryOpened":
        def work() -> MemoryOpened:
            if st.S_ISLNK(self.inode.mode):
                raise Refused(errno.ELOOP)
            if st.S_ISDIR(self.inode.mode) and flags & _ACCESS != os.O_RDONLY:
                raise Refused(errno.EISDIR)
            if flags & os.O_TRUNC:
                self.inode.data.clear()
            return MemoryOpened(self, flags)

        return self._ready("open", work)  # type: ignore[no-any-return]

    def readlink(self) -> bytes:
        def work() -> bytes:
            if not st.S_ISLNK(self.inode.mode):
                raise Refused(errno.EINVAL)
            return bytes(self.inode.data)

        return self._ready("readlink", work)  # type: ignore[no-any-return]

    def xattr_names(self) -> list[bytes]:
        return self._ready("xattr_names", lambda: list(self.inode.xattrs))  # type: ignore[no-any-return]

    def xattr(self, name: bytes) -> bytes:
        def work() -> bytes:
            if name not in self.inode.xattrs:
                raise Refused(errno.ENODATA)
            return self.inode.xattrs[name]

        return self._ready("xattr", work, name)  # type: ignore[no-any-return]

    def statfs(self) -> Statfs:
        return self._ready("statfs", lambda: Statfs(files=7))  # type: ignore[no-any-return]

    def _add(self, name: bytes, mode: int, gid: int, rdev: int = 0, target: bytes = b"") -> Any:
        if name in self._directory():
            raise Refused(errno.EEXIST)
        made = self.fs.inode(mode, rdev=rdev, target=target)
        made.gid = gid if gid != 0xFFFFFFFF else 0
        self.inode.children[name] = made
        self.inode.version += 1
        return MemoryFile(self.fs, made, name, self)

    def create(self, name: bytes, flags: int, mode: int, gid: int) -> "tuple[File, MemoryOpened]":
        def work() -> tuple[File, MemoryOpened]:
            inode = self._directory().get(name)
            if inode is None or flags & os.O_EXCL:
                made = self._add(name, st.S_IFREG | mode, gid)
            else:
                made = MemoryFile(self.fs, inode, name, self)
            return made, MemoryOpened(made, flags)

        return self._ready("create", work, name)  # type: ignore[no-any-return]

    def mkdir(self, name: bytes, mode: int, gid: int) -> "MemoryFile":
        return self._ready(  # type: ignore[no-any-return]
            "mkdir", lambda: self._add(name, st.S_IFDIR | mode, gid), name
        )

    def symlink(self, name: bytes, target: bytes, gid: int) -> "MemoryFile":
        def work() -> Any:
            return self._add(name, st.S_IFLNK | 0o777, gid, target=target)

        return self._ready("symlink", work, name)  # type: ignore[no-any-return]

    def mknod(self, name: bytes, mode: int, rdev: int, gid: int) -> "MemoryFile":
        return self._ready(  # type: ignore[no-any-return]
            "mknod", lambda: self._add(name, mode, gid, rdev), name
        )

    def link(self, file: File, name: bytes) -> None:
        def work() -> None:
            assert isinstance(file, MemoryFile)
            if name in self._directory():
                raise Refused(errno.EEXIST)
            if st.S_ISDIR(file.inode.mode):
                raise Refused(errno.EPERM)
            file.inode.nlink += 1
            self.inode.children[name] = file.inode

        self._ready("link", work, name)

    def rename(self, directory: File | None, name: bytes) -> None:
        def work() -> None:
            to = self.parent if directory is None else directory
            assert isinstance(to, MemoryFile)
            moved = self.parent._child(self.name)
            target = to._directory()
            del self.parent.inode.children[self.name]
            target[name] = moved
            self.name, self.parent = name, to

        self._ready("rename", work, name)

    def renameat(self, name: bytes, directory: File, newname: bytes) -> None:
        def work() -> None:
            assert isinstance(directory, MemoryFile)
            moved = self._child(name)
            target = directory._directory()
            del self.inode.children[name]
            target[newname] = moved

        self._ready("renameat", work, name, newname)

    def unlink(self, name: bytes, *, directory: bool) -> None:
        def work() -> None:
            child = self._child(name)
            if st.S_ISDIR(child.mode) != directory:
                raise Refused(errno.ENOTDIR if directory else errno.EISDIR)
            if child.children:
                raise Refused(errno.ENOTEMPTY)
            child.nlink -= 1
            del self.inode.children[name]

        self._ready("unlink", work, name)

    def remove(self) -> None:
        def work() -> None:
            if self.parent is self:
                raise Refused(errno.EBUSY)
            if self.inode.children:
                raise Refused(errno.ENOTEMPTY)
            self.parent._child(self.name)
            del self.parent.inode.children[self.name]

        self._ready("remove", work)

    def setattr(self, changes: AttributeChanges) -> None:
        self._ready("setattr", partial(self.change, changes))

    def change(self, changes: AttributeChanges) -> None:
        """Change attributes, whatever the weather."""
        i = self.inode
        if changes.mode is not None:
            i.mode = st.S_IFMT(i.mode) | changes.mode
        i.uid = changes.uid if changes.uid is not None else i.uid
        i.gid = changes.gid if changes.gid is not None else i.gid
        if changes.size is not None:
            if changes.size > 1 << 24:
                raise Refused(errno.EFBIG)
            i.data[:] = i.data[: changes.size].ljust(changes.size, b"\0")
        for at, time in ((0, changes.atime_ns), (1, changes.mtime_ns)):
            if time is not None:
                i.times[at] = time
        i.times[2] += changes.ctime
        i.version += 1

    def set_xattr(self, name: bytes, value: bytes, flags: int) -> None:
        def work() -> None:
            if flags & XATTR_CREATE and name in self.inode.xattrs:
                raise Refused(errno.EEXIST)
            if flags & XATTR_REPLACE and name not in self.inode.xattrs:
                raise Refused(errno.ENODATA)
            if not value and flags & XATTR_REPLACE:
                del self.inode.xattrs[name]
            else:
                self.inode.xattrs[name] = value

        self._ready("set_xattr", work, name)


class MemoryOpened:
    """An open file."""

    def __init__(self, file: MemoryFile, flags: int) -> None:
        self.file = file
        self.inode = file.inode
        self.fs = file.fs
        self.flags = flags
        self.closed = False
        self.fs.opened += 1

    def _ready(self, call: str, work: Callable[[], Any], *key: Any) -> Any:
        assert not self.closed, f"{call} of a closed file"

        def open_still() -> Any:
            assert not self.closed, f"{call} of a closed file"
            return work()

        return self.fs.ready(call, (call, self.inode.path, *key), open_still)

    def read(self, offset: int, count: int) -> list[Buffer]:
        def work() -> list[Buffer]:
            if st.S_ISDIR(self.inode.mode):
                raise Refused(errno.EISDIR)
            if self.flags & _ACCESS == os.O_WRONLY:
                raise Refused(errno.EBADF)
            found = bytes(self.inode.data[offset : offset + count])
            half = len(found) // 2
            return [memoryview(found)[:half], found[half:]]

        return self._ready("read", work, offset, count)  # type: ignore[no-any-return]

    def attributes(self) -> Attributes:
        return self._ready("attributes", self.file.status)  # type: ignore[no-any-return]

    def setattr(self, changes: AttributeChanges) -> None:
        self._ready("setattr", partial(self.file.change, changes))

    def entries(self, cookie: int) -> Iterator[tuple[int, bytes, Identity, int]]:
        assert not self.closed, "entries of a closed directory"
        if not st.S_ISDIR(self.inode.mode):
            raise Refused(errno.ENOTDIR)
        whole = [(b".", self.file), (b"..", self.file.parent)]
        for name, inode in sorted(self.inode.children.items()):
            whole.append((name, MemoryFile(self.fs, inode, name, self.file)))
        # Cookies are no ordinals: nothing may count on that.
        for at, (name, file) in enumerate(whole, 1):
            if at * COOKIE_STEP <= cookie:
                continue
            key = ("entries", self.inode.path, name)
            dots = name in {b".", b".."}
            if not dots and self.fs.weather("entries") == "cold" and key not in self.fs.warm:
                raise Cold(Load(key, partial(self.fs.warm.add, key)))  # it never blocks
            self.fs.warm.discard(key)
            yield at * COOKIE_STEP, name, file.identity, file.kind

    def listed(self, name: bytes) -> MemoryFile:
        return self.file.walk(name)

    def write(self, offset: int, data: Buffer) -> int:
        def work() -> int:
            if self.flags & _ACCESS == os.O_RDONLY:
                raise Refused(errno.EBADF)
            if offset > 1 << 24:
                raise Refused(errno.EFBIG)
            content = self.inode.data
            at = len(content) if self.flags & os.O_APPEND else offset
            content[:] = content.ljust(at, b"\0")
            content[at : at + len(data)] = data
            return len(data)

        return self._ready("write", work, offset, data)  # type: ignore[no-any-return]

    def fsync(self, *, data_only: bool) -> None:
        def work() -> None:
            self.fs.synced += 1
            self.fs.synced_data_only += data_only

        self._ready("fsync", work)

    def _in_the_way(self, lock: Lock) -> Lock | None:
        for held in self.inode.locks:
            theirs = (held.proc_id, held.client_id) != (lock.proc_id, lock.client_id)
            if theirs and (held.kind or lock.kind):
                return held
        return None

    def lock(self, lock: Lock, flags: int) -> int:
        def work() -> int:
            if lock.kind == UNLOCKED:
                self.inode.locks = [
                    held for held in self.inode.locks if held.proc_id != lock.proc_id
                ]
            elif self._in_the_way(lock):
                return LOCK_BLOCKED
            else:
                self.inode.locks.append(lock)
            return LOCK_SUCCESS

        if flags & LOCK_BLOCK and lock.kind != UNLOCKED and self._in_the_way(lock):

            def attempt() -> int | None:
                assert not self.closed, "a lock of a closed file"
                return None if self._in_the_way(lock) else work()

            def cancel() -> None:
                self.fs.cancelled += 1

            raise Waiting(Wait(attempt, 1.0, LOCK_BLOCKED, cancel))
        return self._ready("lock", work)  # type: ignore[no-any-return]

    def getlock(self, lock: Lock) -> Lock:
        def work() -> Lock:
            return self._in_the_way(lock) or Lock(
                UNLOCKED, lock.start, lock.length, lock.proc_id, lock.client_id
            )

        return self._ready("getlock", work)  # type: ignore[no-any-return]

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True
        self.fs.opened -= 1
