"""Access to a store: owner, group and mode of everything in it.

The store's own directory decides. Every file and directory of a store takes its access from the
directory that it is created in, so the umask, default ACLs and the writing user have no effect.
There are three kinds of stores:

    private   0700 and 0600: the owner
    shared    2770 and 0660: a group reads and writes
    readers   2750 and 0640: the owner writes, a group reads. Readers write to two things: the
              index's lock.mdb, 0660, and leases/, 2770, with its files 0660

The set-group-ID bit marks the two kinds that a group may reach. Nothing is created here with more
access than it should have. A directory gets its name after its owner, group and mode are set. So
does a file where the file system supports that (O_TMPFILE); elsewhere it has mode 0600 until then.
"""

import ctypes
import errno
import fcntl
import grp
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from ventifs.errors import VentifsError

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_DIRECTORY | os.O_CLOEXEC
_GROUP = 0o070
_GROUP_READS, _GROUP_WRITES = 0o040, 0o020
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}
_NO_MODES = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}  # from a file system such as FAT
_NO_RENAMEAT2 = {errno.ENOSYS, errno.EINVAL}  # from a kernel or a file system that lacks it
_ACLS = ("system.posix_acl_default", "system.posix_acl_access")
_RENAME_NOREPLACE = 1
_MAKING = ".making-"

READERS_LOCK = "lock.mdb"  # LMDB's: readers write to it
LEASES = "leases"  # a directory: readers write to it
MAKING = re.compile(re.escape(_MAKING) + "[0-9a-f]{16}")  # a directory without its final name

_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


class Access(msgspec.Struct, frozen=True):
    """The access of a new store's directory.

    Attributes:
        mode: of the directory; the modes of everything in it follow from this.
        gid: the group's number; None keeps the group that the directory has.
    """

    mode: int
    gid: int | None = None


PRIVATE = Access(0o700)


def shared(group: str) -> Access:
    """A store that a group reads and writes.

    Raises:
        VentifsError: see `group_id`.
    """
    return Access(stat.S_ISGID | 0o770, group_id(group))


def readers(group: str) -> Access:
    """A store that a group reads, and its owner writes.

    Raises:
        VentifsError: see `group_id`.
    """
    return Access(stat.S_ISGID | 0o750, group_id(group))


def group_id(group: str) -> int:
    """The number of a group, given by name or number, that the caller may give files to.

    Raises:
        VentifsError: there is no such group, or the caller is not in it.
    """
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        if not (group.isascii() and group.isdecimal() and int(group) < 2**32 - 1):
            raise VentifsError(
                f"{group!r}: there is no such group; 'getent group' lists those there are"
            ) from None
        gid = int(group)
    mine = {os.getegid(), *os.getgroups()}
    if os.geteuid() != 0 and gid not in mine:
        names = ", ".join(sorted(map(group_name, mine)))
        raise VentifsError(
            f"{group}: you are not in this group, so you cannot give it the store; name one of "
            f"yours ({names}), or run this as root"
        )
    return gid


def group_name(gid: int) -> str:
    """The name of a group; its number, if it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


# --- what is made -------------------------------------------------------------------------------


def create_file(path: Path) -> int:
    """Create a file of a store that must not exist yet, and return a read-write descriptor.

    Raises:
        OSError: it cannot be created, or exists.
    """
    with _opened(path.parent) as directory:
        above = os.fstat(directory)
        fd, named = _unnamed(directory), False
        if fd is None:
            fd, named = os.open(path.name, _NEW, 0o600, dir_fd=directory), True
        try:
            _set(fd, above, file_mode(above.st_mode, path.name))
            if not named:
                # Through /proc, because linkat takes a bare descriptor only with a capability.
                os.link(
                    f"/proc/self/fd/{fd}", path.name, dst_dir_fd=directory, follow_symlinks=True
                )
        except BaseException:
            os.close(fd)
            raise
    return fd


def open_or_create(path: Path) -> int:
    """A read-write descriptor of a file, which is created if it is missing; see `create_file`.

    Raises:
        OSError: it cannot be opened or created.
    """
    while True:
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        with suppress(FileExistsError):
            return create_file(path)


def make_directory(path: Path) -> None:
    """Create a directory of a store; it gets its name after its owner, group and mode are set.

    A directory that exists already is kept. If the caller owns it and its mode is not the store's,
    as older programs may have left it, its mode is corrected, unless it is reached by a link.

    Concurrency: idempotent, and safe beside other processes that make the same directory.

    Raises:
        OSError: it cannot be created.
    """
    with _opened(path.parent) as above:
        while not _is_there(path.name, above):
            made = _make_unnamed(path.name, above)
            # Another process made the directory first, or removed this one as a leftover.
            with suppress(FileExistsError, FileNotFoundError):
                _name_directory(made, path.name, above)
        _remove_leftovers(above)


def _is_there(name: str, above: int) -> bool:
    """Whether the directory exists; if it is the caller's, its mode is corrected.

    Raises:
        FileExistsError: something else has the name.
    """
    try:
        kind = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISLNK(kind):
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=above).st_mode):
                return True
    if not stat.S_ISDIR(kind):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    with suppress(FileNotFoundError), _opened(Path(name), above) as there:
        status, top = os.fstat(there), os.fstat(above)
        wanted = directory_mode(top.st_mode, name)
        mine = {os.geteuid(), top.st_uid} if os.geteuid() == 0 else {os.geteuid()}
        if status.st_uid in mine and stat.S_IMODE(status.st_mode) != wanted:
            _set(there, top, wanted)
        return True
    return False  # it is gone again


def _make_unnamed(final: str, above: int) -> str:
    """Create a directory with access from its parent, and return its temporary name."""
    status = os.fstat(above)
    mode = directory_mode(status.st_mode, final)
    name = f"{_MAKING}{os.urandom(8).hex()}"
    # A caller outside the group cannot set the set-group-ID bit that the directory inherits.
    os.mkdir(name, mode & 0o777 if mode & stat.S_ISGID else 0o700, dir_fd=above)
    try:
        with suppress(FileNotFoundError), _opened(Path(name), above) as made:
            _set(made, status, mode)
    except BaseException:
        with suppress(OSError):
            os.rmdir(name, dir_fd=above)
        raise
    return name


def _name_directory(made: str, name: str, above: int) -> None:
    """Give a directory its final name; on any error, remove it.

    Raises:
        FileExistsError: the name is taken.
        FileNotFoundError: another process removed the directory as a leftover.
    """
    try:
        _rename_new(made, name, above)
    except BaseException:
        with suppress(OSError):
            os.rmdir(made, dir_fd=above)
        raise


def _rename_new(old: str, new: str, above: int) -> None:
    """Rename a directory; replaces nothing, where the file system can guarantee that."""
    if _renameat2 is not None:
        if _renameat2(above, os.fsencode(old), above, os.fsencode(new), _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in _NO_RENAMEAT2:
            raise OSError(code, os.strerror(code), new)
    try:  # it replaces at most an empty directory
        os.rename(old, new, src_dir_fd=above, dst_dir_fd=above)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None


def _remove_leftovers(above: int) -> None:
    """Remove directories that a killed process never named.

    This can also remove a directory that a running process is about to name; that process then
    tries again. As this is only called after a directory has its name, one of the two processes
    always makes progress.
    """
    with suppress(OSError):
        for name in os.listdir(above):
            if MAKING.fullmatch(name):
                with suppress(OSError):  # another user's
                    os.rmdir(name, dir_fd=above)


def prepare(root: Path, access: Access) -> None:
    """Give the directory of an empty or half-created store, and all in it, the given access.

    Raises:
        OSError: the directory is not the caller's.
    """
    with _opened(root) as fd:
        for name in _ACLS:
            with suppress(OSError):  # there is none
                os.removexattr(_target(fd), name)
        status = os.fstat(fd)
        gid = status.st_gid if access.gid is None else access.gid
        if gid != status.st_gid:
            os.chown(_target(fd), -1, gid)
        _change_mode(fd, access.mode)
        _conform(fd)


def _conform(directory: int) -> None:
    """Give the leftovers of an interrupted creation in a directory that directory's access.

    Everything is reached by descriptors and never through a link, because root may do this in a
    directory where a user swaps names meanwhile. A creation leaves only directories and files with
    one name; anything else is not the store's.
    """
    above = os.fstat(directory)
    with _opened(Path("."), directory) as listed:
        names = os.listdir(listed)
    for name in names:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                _set(fd, above, directory_mode(above.st_mode, name))
                _conform(fd)
            elif stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                _set(fd, above, file_mode(above.st_mode, name))
        finally:
            os.close(fd)


def close_directory(root: Path, mode: int) -> None:
    """Give a store's directory a mode; what is in it keeps its own.

    Raises:
        OSError: the directory is not the caller's.
    """
    with _opened(root) as fd:
        _change_mode(fd, mode)


def correct(root: Path, path: str, mode: int) -> None:
    """Give a file or directory of an existing store a mode, and the group that it needs for that.

    Owners stay. As in `_conform`, no link is followed, and what has a second name is left alone.

    Args:
        root: the store's directory.
        path: below it.
        mode: without the group's bits, if the caller may not give the file to the group.

    Raises:
        OSError: it is not the caller's, or gone.
    """
    *directories, name = Path(path).parts
    with ExitStack() as stack:
        above = stack.enter_context(_opened(root))
        for each in directories:
            above = stack.enter_context(_opened(Path(each), above))
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        stack.callback(os.close, fd)
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1):
            _share(fd, os.fstat(above), mode)


@contextmanager
def _opened(path: Path, above: int | None = None) -> Iterator[int]:
    """A directory's descriptor; below an open directory, symbolic links are not followed."""
    flags = _DIRECTORY if above is None else _DIRECTORY | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, dir_fd=above)
    except PermissionError:  # the umask can make a directory that its owner cannot read
        fd = os.open(path, flags | os.O_PATH, dir_fd=above)
    try:
        yield fd
    finally:
        os.close(fd)


def _unnamed(directory: int) -> int | None:
    """A new file without a name; None where that is not supported, or it could not be named."""
    if not os.path.exists("/proc/self/fd"):  # a chroot, say
        return None
    try:
        return os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
        return None


def directory_mode(above: int, name: str) -> int:
    """The mode of a directory inside a directory of mode `above`; others never write to it."""
    mode = above & (stat.S_ISGID | 0o777) & ~0o002
    return mode | _GROUP_WRITES if name == LEASES and _is_readable(above) else mode


def file_mode(above: int, name: str) -> int:
    """The mode of a file in a directory of mode `above`; others can never write to it."""
    mode = above & 0o664
    return mode | _GROUP_WRITES if name == READERS_LOCK and _is_readable(above) else mode


def _is_readable(above: int) -> bool:
    """Whether a directory of this mode is for a group that reads."""
    return bool(above & stat.S_ISGID and above & _GROUP_READS)


def _target(fd: int) -> int | str:
    """The argument that chown and chmod accept for a descriptor, which may be an O_PATH one."""
    return f"/proc/self/fd/{fd}" if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH else fd


def _set(fd: int, above: os.stat_result, mode: int) -> None:
    """Give a file or directory the owner and group of its parent directory, and a mode.

    Only root changes the owner, so that a store stays readable for its owner. If the caller may not
    give it to the group, its mode loses the group's bits.
    """
    status = os.fstat(fd)
    if os.geteuid() == 0 and (status.st_uid, status.st_gid) != (above.st_uid, above.st_gid):
        with suppress(OSError):  # root of a container, say
            os.chown(_target(fd), above.st_uid, above.st_gid)
    _share(fd, above, mode)


def _share(fd: int, above: os.stat_result, mode: int) -> None:
    """Give a file or directory a mode, and the group of its parent directory if it needs that."""
    status = os.fstat(fd)
    if mode & _GROUP and status.st_gid != above.st_gid:
        try:
            os.chown(_target(fd), -1, above.st_gid)
        except PermissionError:
            mode &= ~(_GROUP | stat.S_ISGID)
    _change_mode(fd, mode)


def _change_mode(fd: int, mode: int) -> None:
    """Set a mode; on a file system without modes, keep the mode that it shows."""
    status = os.fstat(fd)
    if stat.S_IMODE(status.st_mode) == mode:
        return
    try:
        os.chmod(_target(fd), mode)
    except OSError as error:
        if error.errno not in _NO_MODES or status.st_uid != os.geteuid():
            raise
