"""The handlers of 9P2000 and 9P2000.u: modes of open(5), stat records, directories read as stats.

In 9P2000 every file that is no directory is a plain file: a symbolic link contains its target, a
special file nothing. 9P2000.u distinguishes them by bits of the mode and an extension string.

A request of these dialects says less than one of Linux: no group, not what an open may create, no
part of a second. So they write only to file systems that declare `plain_writes`; to all others
every request that would write is refused with EROFS.
"""

import errno
import os
import stat as st
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

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
from ventifs.ninep.session.stat_records import (
    DMDEVICE,
    DMDIR,
    DMLINK,
    DMNAMEDPIPE,
    DMSOCKET,
    DMSYMLINK,
    device_of,
    number_of,
    permissions,
    stat_of,
)
from ventifs.vfs.interface import (
    DIRECTORY,
    FILE,
    SYMLINK,
    AttributeChanges,
    Attributes,
    File,
    Filesystem,
    Identity,
    Opened,
    Refused,
)

OTRUNC, OAPPEND, ORCLOSE = 0x10, 0x80, 0x40
_ACCESS = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY)  # of OREAD, OWRITE, ORDWR, OEXEC
_SPECIAL = DMDEVICE | DMNAMEDPIPE | DMSOCKET
_NONE32 = 0xFFFFFFFF  # "don't touch"
_NONE64 = 0xFFFFFFFFFFFFFFFF
_DOTS = (b".", b"..")
_GONE = frozenset({errno.ENOENT, errno.ESTALE})
_S = 1_000_000_000
NO_GID = _NONE32  # of files that are created: a request names no group
LISTING_MAX = 128  # stats of one reply: about as long as a turn; see docs/performance.md
PLACES_MAX = 64  # that a directory remembers
PLACE_SIZE = 128  # bytes that one place takes


class Listing(OpenDirectory):
    """An open directory: read in order, and from places where a read ended before.

    Attributes:
        room: bytes that the last reply left of what its request asked for. Linux asks next for
            exactly as many, until it gets nothing, and then for a whole buffer again.
    """

    __slots__ = ("_earlier", "_fids", "_last", "room")

    def __init__(self, opened: Opened, fids: Fids) -> None:
        """List a directory."""
        super().__init__(opened)
        self._fids = fids
        self.room = -1
        self._last = (0, 0)  # the offset that was reached last, and the cookie of what is there
        self._earlier: dict[int, int] | None = None  # the same of offsets before; most need none

    def cookie(self, offset: int) -> int | None:
        """The cookie of the entry at an offset; None when no read ended there."""
        if offset == 0:
            return 0
        if offset == self._last[0]:
            return self._last[1]
        return self._earlier.get(offset) if self._earlier else None

    def reached(self, offset: int, cookie: int) -> None:
        """Remember that a read ended here; of too many places the oldest is forgotten."""
        if self.cookie(offset) is not None:
            return
        (before, there), self._last = self._last, (offset, cookie)
        if not before:
            return
        earlier = self._earlier = self._earlier or {}
        if len(earlier) >= PLACES_MAX or not self._fids.hold(PLACE_SIZE):
            if not earlier:
                return  # the session holds too much
            del earlier[next(iter(earlier))]
        earlier[before] = there

    def close(self) -> None:
        """Close it."""
        if self._earlier:
            self._fids.hold(-PLACE_SIZE * len(self._earlier))
        self._earlier = None
        super().close()


class Plan9Handlers(Handlers):
    """Handlers of 9P2000; also of 9P2000.u, for which a subclass changes some."""

    dialect: ClassVar[m.Dialect] = m.Dialect.PLAIN

    def __init__(self, filesystem: Filesystem, fids: Fids, msize: int) -> None:
        """See `Handlers`."""
        super().__init__(filesystem, fids, msize)
        self._writable: bool = getattr(filesystem, "plain_writes", False)

    def _check_writable(self) -> None:
        if not self._writable:
            raise Refused(errno.EROFS)

    def error(self, number: int) -> m.Message:
        """Rerror, in Linux's words."""
        return m.Rerror(os.strerror(number).encode(), number)

    def auth(self, _: None, message: m.Tauth) -> Body:
        """Refuse: no authentication is required."""
        return m.Rerror(b"authentication not required", errno.ENOENT)

    def identity(self, file: File) -> Identity:
        """Symbolic links are files here."""
        identity = file.identity
        return identity if identity.kind != SYMLINK else identity._replace(kind=FILE)

    def open(self, fid: Fid, message: m.Topen) -> Body:
        """Open a file."""
        file = self.closed(fid)
        flags = _flags(message.mode)
        if flags & (os.O_ACCMODE | os.O_TRUNC) or message.mode & ORCLOSE:
            self._check_writable()
        self.check_open()
        self.fids.opened(fid, self._readable(file, self._opening(file, flags)))
        if message.mode & ORCLOSE:
            fid.remove_at_end()
        return m.Ropen(self.qid(file), 0)

    def _opening(self, file: File, flags: int) -> Opened:
        """Open a file; symbolic links and special files open as plain ones in this dialect."""
        kind = st.S_IFMT(self.call(file.attributes).mode)
        if kind in {st.S_IFREG, st.S_IFDIR}:
            return self.call(file.open, flags)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise Refused(errno.EACCES)
        return Held(file, self.call(file.readlink) if kind == st.S_IFLNK else b"", self.fids)

    def _readable(self, file: File, opened: Opened) -> Opened:
        return Listing(opened, self.fids) if file.identity.kind == DIRECTORY else opened

    def create(self, fid: Fid, message: m.Tcreate) -> Body:
        """Create a file, or a directory, in a directory; the fid becomes it, open."""
        directory = self.closed(fid)
        check_new_name(message.name)
        self._check_writable()
        self.check_open()
        flags = _flags(message.mode)
        file, opened = self._creating(directory, message, flags)
        if opened is None:
            opened = self._opening(file, flags)
        made = self.fids.made_open(file, self._readable(file, opened))
        if message.mode & ORCLOSE:
            made.remove_at_end()
        self.fids.replace(message.fid, fid, made)
        return m.Rcreate(self.qid(file), 0)

    def _creating(
        self, directory: File, message: m.Tcreate, flags: int
    ) -> tuple[File, Opened | None]:
        name, mode = message.name, permissions(message.perm)
        if message.perm & DMDIR:
            return self.call(directory.mkdir, name, mode, NO_GID), None
        return self.call(directory.create, name, flags | os.O_CREAT | os.O_EXCL, mode, NO_GID)

    def read(self, fid: Fid, message: m.Tread) -> Body:
        """Read from what is open; of a directory, whole stats."""
        opened = self.opened(fid)
        if type(opened) is not Listing:
            return super().read(fid, message)
        cookie = opened.cookie(message.offset)
        if cookie is None:
            raise Refused(errno.EINVAL)
        left = min(message.count, self.msize - READ_OVERHEAD)
        data: list[bytes] = []
        try:
            for after, stat in self._stats(opened, cookie):
                if len(stat) > left:
                    if not data and message.count != opened.room:
                        raise Refused(errno.EINVAL)  # an empty reply would be the directory's end
                    break
                left -= len(stat)
                data.append(stat)
                cookie = after
                if len(data) >= LISTING_MAX:
                    break
        except Exception:
            if not data:
                raise  # otherwise the next request meets the error, or waits
        body = b"".join(data)
        opened.room = message.count - len(body)
        opened.reached(message.offset + len(body), cookie)
        return [COUNT(len(body)), body]

    def _stats(self, opened: Listing, cookie: int) -> Iterator[tuple[int, bytes]]:
        """The stat of each entry from a cookie on, with the cookie after it."""
        # When the request runs again, what was found first must be the same, even if the directory
        # has changed. A later one may be left for the next reply: its calls are made again then.
        first = None
        while first is None:
            entry = self.call(_next, opened, cookie)
            if entry is None:
                return
            cookie, name = entry
            first = self._stat_in(opened, name, self.call_and_go_on)
        yield cookie, first
        within = opened.opened
        for after, name, _, _ in within.entries(cookie):
            stat = self._stat_in(within, name, None) if name not in _DOTS else None
            if stat is not None:
                yield after, stat

    def _stat_in(self, opened: Opened, name: bytes, call: Any) -> bytes | None:
        """The stat of an entry; None when it is gone by now."""
        try:
            if call is None:  # nearly all, so without a call of a call
                file = opened.listed(name)
                attributes = file.attributes()
            else:
                file = call(opened.listed, name)
                attributes = call(file.attributes)
            target = self._target(file, attributes, call or _now)
        except (Refused, OSError) as error:
            if error.errno in _GONE:
                error.__traceback__ = None  # it is kept: see `Handlers.call_and_go_on`
                return None
            raise
        return self.codec.encode_record(self._stat_of(file, attributes, target))

    def _target(self, file: File, attributes: Attributes, call: Any) -> bytes:
        """The target in a symbolic link's stat: none in this dialect."""
        return b""

    def _stat_of(self, file: File, attributes: Attributes, target: bytes) -> m.Stat:
        return stat_of(self.qid(file), file.name, attributes, target, self.dialect)

    def stat(self, fid: Fid, message: m.Tstat) -> Body:
        """Report a file's attributes."""
        attributes = self.call(fid.file.attributes)
        target = self._target(fid.file, attributes, self.call)
        return m.Rstat(self._stat_of(fid.file, attributes, target))

    def write(self, fid: Fid, message: m.Twrite) -> Body:
        """Write to what is open."""
        self._check_writable()
        return super().write(fid, message)

    def remove(self, fid: Fid, message: m.Tremove) -> Body:
        """Remove a file; its fid is forgotten even if that fails."""
        if not self._writable:
            self.fids.forget(message.fid, fid)
            raise Refused(errno.EROFS)
        return super().remove(fid, message)

    def wstat(self, fid: Fid, message: m.Twstat) -> Body:
        """Change a file's attributes; a request without changes brings it to the disk."""
        stat = message.stat
        changes = AttributeChanges(
            mode=permissions(stat.mode) if stat.mode != _NONE32 else None,
            uid=number_of(stat.uid, stat.n_uid),
            gid=number_of(stat.gid, stat.n_gid),
            size=stat.length if stat.length != _NONE64 else None,
            atime_ns=stat.atime * _S if stat.atime != _NONE32 else None,
            mtime_ns=stat.mtime * _S if stat.mtime != _NONE32 else None,
        )
        renamed = bool(stat.name) and stat.name != fid.file.name
        if renamed:
            check_new_name(stat.name)
        is_directory = fid.file.identity.kind == DIRECTORY
        if stat.mode != _NONE32 and bool(stat.mode & DMDIR) != is_directory:
            raise Refused(errno.EINVAL)
        if renamed or changes != AttributeChanges():
            self._check_writable()
        if changes != AttributeChanges():
            self.call((fid.opened or fid.file).setattr, changes)
        if renamed:
            self.call(fid.file.rename, None, stat.name)
        if changes == AttributeChanges() and not renamed and fid.opened is not None:
            self.call(partial(fid.opened.fsync, data_only=False))
        return b""


class UnixHandlers(Plan9Handlers):
    """Handlers of 9P2000.u."""

    dialect: ClassVar[m.Dialect] = m.Dialect.UNIX

    def identity(self, file: File) -> Identity:
        """As it is."""
        return file.identity

    def _opening(self, file: File, flags: int) -> Opened:
        return self.call(file.open, flags)

    def _target(self, file: File, attributes: Attributes, call: Any) -> bytes:
        if not st.S_ISLNK(attributes.mode):
            return b""
        target: bytes = call(file.readlink)
        return target

    def create(self, fid: Fid, message: m.Tcreate) -> Body:
        """Create a file of any kind; of a link or special file the fid is not open."""
        perm, name = message.perm, message.name
        if not perm & (DMSYMLINK | DMLINK | _SPECIAL):
            return super().create(fid, message)
        directory = self.closed(fid)
        check_new_name(name)
        self._check_writable()
        if perm & DMSYMLINK:
            check_target(message.extension)
            file = self.call(directory.symlink, name, message.extension, NO_GID)
        elif perm & DMLINK:
            linked = self.call(self._linked, message.extension)
            file = linked.file
            self.call(directory.link, file, name)
        else:
            mode, rdev = device_of(perm, message.extension)
            file = self.call(directory.mknod, name, mode, rdev, NO_GID)
        self.fids.replace(message.fid, fid, self.fids.made(file))
        return m.Rcreate(self.qid(file), 0)

    def _linked(self, extension: bytes) -> Fid:
        """The fid that a hard link's extension names, in decimal."""
        text = extension.strip()
        if not text.isdigit() or len(text) > 10:
            raise Refused(errno.EINVAL)
        return self.fids.of(int(text))


def _next(opened: Opened, cookie: int) -> tuple[int, bytes] | None:
    """The next entry of a directory but for dots: the cookie after it, and its name."""
    for after, name, _, _ in opened.entries(cookie):
        if name not in _DOTS:
            return after, name
    return None


def _now(method: Any, *args: Any) -> Any:
    return method(*args)


def _flags(mode: int) -> int:
    flags = _ACCESS[mode & 3]
    if mode & OTRUNC:
        flags |= os.O_TRUNC
    if mode & OAPPEND:
        flags |= os.O_APPEND
    return flags
