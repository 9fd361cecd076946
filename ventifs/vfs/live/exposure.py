"""Which directories may be live exports.

Always: what a client can reach by an export is nothing that ventifs itself depends on, no two
exports overlap, and what a client of a server of root writes cannot raise the rights of a user of
this host. Two directories are compared by device and inode number along their real parents, and by
their places in their file systems, which bind mounts do not change. Looks at directories, changes
nothing.
"""

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

from ventifs.errors import VentifsError
from ventifs.text import command_word, printable
from ventifs.vfs.live.export import LiveExport
from ventifs.vfs.live.mount_table import DevicePath, mounts, place_of, ways_to
from ventifs.vfs.live.syscalls import filesystem_type

_PATH_ONLY = os.O_PATH | os.O_CLOEXEC
# File systems by which the kernel is asked and ordered, by the magic number that its source has
_NO_STORES = {
    0x0000_9FA0: "proc",
    0x0000_1CD1: "devpts",
    0x0027_E0EB: "cgroup",
    0x0765_5821: "resctrl",
    0x1980_0202: "mqueue",
    0x4249_4E4D: "binfmt_misc",
    0x4341_5D53: "smackfs",
    0x5A3C_69F0: "apparmorfs",
    0x6165_676C: "pstore",
    0x6265_6570: "configfs",
    0x6265_6572: "sysfs",
    0x6367_7270: "cgroup2",
    0x6462_6720: "debugfs",
    0x6573_5543: "fusectl",
    0x6E73_6673: "nsfs",
    0x7363_6673: "securityfs",
    0x7472_6163: "tracefs",
    0xCAFE_4A11: "bpf",
    0xDE5E_81E4: "efivarfs",
    0xF97C_FF8C: "selinuxfs",
}


class NotExportable(VentifsError):
    """A directory cannot be exported; the message says why and what to do."""


class OpenExport(NamedTuple):
    """A live export, and its directory.

    Attributes:
        fd: of the directory, open for reading.
    """

    export: LiveExport
    fd: int


class Own(NamedTuple):
    """Something that ventifs itself uses.

    Attributes:
        what: it is, for messages.
        path: where it is; nothing need be there yet.
        kind: a `file`, which may be a socket, or a `directory`.
    """

    what: str
    path: str
    kind: Literal["file", "directory"] = "file"


class _Where(NamedTuple):
    """A directory: the device and inode numbers of it and of all above it, and its place."""

    line: list[tuple[int, int]]
    place: DevicePath | None

    def holds(self, other: "_Where") -> bool:
        """Whether `other` is this directory or lies in it."""
        if self.line[0] in other.line:
            return True
        return self.place is not None and other.place is not None and self.place.holds(other.place)


def open_export(export: LiveExport) -> OpenExport:
    """Open the directory of an export; renames do not change any more what is served.

    The kernel keeps servers apart: no other one serves a directory that one serves exclusively.

    Raises:
        NotExportable: it is missing, is no directory, cannot be read, is in a file system that is
            no store of files, or another server has it.
    """
    shown = f"live export '{export.name}': {printable(export.directory)}"
    try:
        fd = os.open(export.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotExportable(f"{shown}: there is no such directory; make it first") from None
    except NotADirectoryError:
        raise NotExportable(f"{shown}: is no directory; name one") from None
    except PermissionError:
        raise NotExportable(f"{shown}: cannot be read; run as a user who may read it") from None
    except OSError as error:
        raise NotExportable(f"{shown}: {os.strerror(error.errno or 0).lower()}") from None
    try:
        kind = _NO_STORES.get(filesystem_type(fd))
    except OSError as error:
        os.close(fd)
        raise NotExportable(f"{shown}: {os.strerror(error.errno or 0).lower()}") from None
    if kind is not None:
        os.close(fd)
        raise NotExportable(
            f"{shown}: is {kind}, by which the kernel is controlled; name a directory of files"
        )
    exclusive = export.sharing == "exclusive"
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        which = "serves it, too" if exclusive else "serves it exclusively"
        raise NotExportable(
            f"{shown}: another server {which}; stop that one, or serve both shared"
        ) from None
    except OSError:
        pass  # a file system without locks
    return OpenExport(export, fd)


def check_exposure(opened: Sequence[OpenExport], own: Sequence[Own], uid: int) -> None:
    """Check that directories may be exported.

    Args:
        opened: all exports of a server.
        own: what ventifs uses.
        uid: of the server.

    Raises:
        NotExportable: one may not.
    """
    places = [_where(each.fd) for each in opened]
    for each, where in zip(opened, places, strict=True):
        for thing in own:
            _check_own(each.export, where, thing)
    for number, (each, where) in enumerate(zip(opened, places, strict=True)):
        for other, there in zip(opened[:number], places[:number], strict=True):
            if where.holds(there) or there.holds(where):
                upper, lower = (each, other) if where.holds(there) else (other, each)
                name, path = upper.export.name, ":/PATH"
                how = "lies in"
                if where.line[0] == there.line[0]:
                    how, path = "is the same directory as", ""
                raise NotExportable(
                    f"live export '{lower.export.name}': {how} '{name}'; leave it out, and let "
                    f"clients attach to '{name}{path}'"
                )
    if uid == 0:
        for each, where in zip(opened, places, strict=True):
            if each.export.writable:
                _check_writable(each, where)


def _check_own(export: LiveExport, where: _Where, own: Own) -> None:
    """Check that an export and something of ours are apart.

    Raises:
        NotExportable: they are not.
    """
    shown = f"live export '{export.name}': {printable(export.directory)}"
    thing = f"{own.what} {printable(own.path)}"
    for path in {own.path, os.path.realpath(own.path)}:
        with _nearest(os.path.dirname(path)) as fd:
            if where.holds(_where(fd)):
                raise NotExportable(f"{shown}: contains {thing}; export a directory beside it")
        if own.kind == "directory" and os.path.isdir(path):
            with _nearest(path) as fd:
                found = _where(fd)
            if where.holds(found):
                raise NotExportable(f"{shown}: contains {thing}; export a directory beside it")
            if found.holds(where):
                raise NotExportable(f"{shown}: lies in {thing}; export a directory outside of it")


def _check_writable(opened: OpenExport, where: _Where) -> None:
    """Check that users of this host gain no rights by what clients of root's server write.

    A client may make set-user-ID programs and device files; on a mount without these, or where only
    root can go, they are of no use to a user of this host.

    Raises:
        NotExportable: they would gain some; the message has the commands that prevent it.
    """
    way = _way_to_harm(opened.fd, os.fsencode(opened.export.directory), where.place)
    if way is None:
        return
    raise NotExportable(
        f"live export '{opened.export.name}': users of this host could run set-user-ID programs "
        f"that a guest leaves in {printable(way)}; {_remedy(way)}"
    )


def _remedy(way: bytes) -> str:
    """The commands that make `way` harmless; a mount point cannot be moved."""
    way = os.path.realpath(way)
    quoted = command_word(os.fsdecode(way))
    remount = f"mount -o remount,bind,nosuid,nodev {quoted}"
    if any(mount.point == way for mount in mounts()):
        return f"take set-user-ID from it: '{remount}'"
    return (
        f"either put it where only root can go: 'install -d -m 700 /srv/live && mv {quoted} "
        f"/srv/live/', or take set-user-ID from it: 'mount --bind {quoted} {quoted} && {remount}'"
    )


def _way_to_harm(fd: int, directory: bytes, place: DevicePath | None) -> bytes | None:
    """A path by which users of this host reach programs in an open directory; None if none does."""
    if not _harmless(fd, directory):
        return directory
    for way in ways_to(place) if place is not None else ():
        other = os.open(way, _PATH_ONLY)
        try:
            if not _harmless(other, way):
                return way
        finally:
            os.close(other)
    return None


def _harmless(fd: int, path: bytes) -> bool:
    """Whether what is open is on a nosuid,nodev mount, or below a directory only root enters."""
    flags = os.fstatvfs(fd).f_flag
    if flags & os.ST_NOSUID and flags & os.ST_NODEV:
        return True
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        above = list(_upwards(fd))[1:]
    else:  # a file that is a mount
        with _nearest(os.path.dirname(path)) as parent:
            above = list(_upwards(parent))
    return any(
        status.st_uid == 0 and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        for status in above
    )


def _where(fd: int) -> _Where:
    return _Where([(status.st_dev, status.st_ino) for status in _upwards(fd)], place_of(fd))


def _upwards(fd: int) -> Iterator[os.stat_result]:
    """The status of an open directory, then of its real parents, up to the root."""
    at, status = os.open(".", _PATH_ONLY, dir_fd=fd), os.fstat(fd)
    try:
        while True:
            yield status
            upper = os.open("..", _PATH_ONLY, dir_fd=at)
            os.close(at)
            at, below = upper, status
            status = os.fstat(at)
            if os.path.samestat(status, below):
                return
    finally:
        os.close(at)


@contextmanager
def _nearest(path: str | bytes) -> Iterator[int]:
    """A directory opened; if it is missing, the nearest one above it that is there."""
    while True:
        try:
            fd = os.open(path, _PATH_ONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            path = os.path.dirname(path)
            continue
        try:
            yield fd
        finally:
            os.close(fd)
        return
