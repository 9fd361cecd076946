"""What a client may do although the host refuses it to the fid's user; see SECURITY.md.

9P requests say less than Linux's own calls. A change of size may be ftruncate(2) by a descriptor
that was opened before; a mode without set-id bits may be what the kernel does before each write;
and reading may be execution. Clients have checked that by themselves, and servers of NFS pass it
likewise. Always:

- what the user may do anyway is done without this module, which is asked after a refusal;
- only regular files are meant, and each function does one thing that it is named for;
- the kernel decides, as that user, about what justifies it: that the user may write the file, or
  execute it. Whoever has a file open for writing in the same session may write it;
- no bit of a mode is ever set, whatever else changes the file at the same time.

The calling thread acts as the user, before and after.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ventifs.vfs.access.permission import ACL, SEARCH, Credentials, permits
from ventifs.vfs.interface import NOW
from ventifs.vfs.live.marks import number_in
from ventifs.vfs.live.syscalls import chown_empty, permitted, proc_path, set_times

if TYPE_CHECKING:
    from ventifs.vfs.live.access import Access
    from ventifs.vfs.live.descriptors import Descriptor

_SET_IDS = stat.S_ISUID | stat.S_ISGID
_CAPABILITY = b"security.capability"


class Writers:
    """What one user of a session has open for writing, by the number of the inode."""

    __slots__ = ("_more", "_one")

    def __init__(self) -> None:
        """Begin with nothing."""
        self._one: dict[int, Descriptor] = {}
        self._more: dict[int, dict[int, Descriptor]] = {}  # beside that one, by descriptor

    def __len__(self) -> int:
        """How many descriptors there are."""
        return len(self._one) + sum(map(len, self._more.values()))

    def add(self, number: int, descriptor: "Descriptor") -> None:
        """Take note of one that was opened."""
        if self._one.setdefault(number, descriptor) is not descriptor:
            self._more.setdefault(number, {})[descriptor.fd] = descriptor

    def discard(self, number: int, descriptor: "Descriptor") -> None:
        """Take note that it is closed."""
        more = self._more.get(number)
        if more is None:
            del self._one[number]
            return
        if self._one[number] is descriptor:
            _, self._one[number] = more.popitem()
        else:
            del more[descriptor.fd]
        if not more:
            del self._more[number]

    def get(self, number: int) -> "Descriptor | None":
        """One of an inode."""
        return self._one.get(number)


def resize(access: "Access", fd: int, size: int) -> bool:
    """Change the size of a file that the user has open for writing; return whether it has.

    Raises:
        OSError: of ftruncate(2).
    """
    writer = _writer(access, fd)
    if writer is None:
        return False
    os.ftruncate(writer.fd, size)
    return True


def clear_set_ids(access: "Access", fd: int, mode: int) -> bool:
    """Clear set-id bits, if a mode asks for that alone and the user may write the file.

    The kernel clears them in one step, so that a change of the mode by others is not undone. It
    also removes `security.capability`, as the write that follows does. Set-gid has no effect on a
    file that its group may not execute, and kernels differ about it: there it may be asked for or
    not, and stays as it is until that write.

    Returns:
        Whether the mode was such, and the user may.
    """
    present = stat.S_IMODE(os.fstat(fd).st_mode)
    ignored = 0 if present & stat.S_IXGRP else stat.S_ISGID
    if mode | ignored != present & ~_SET_IDS | ignored or not _may_write(access, fd):
        return False
    if present & ~mode:
        with _as_server(access):
            chown_empty(fd, -1, -1)
    return True


def touch(access: "Access", fd: int, atime_ns: int | None, mtime_ns: int | None) -> bool:
    """Set times to the present, if the user may write the file; return whether it may.

    Linux's client does so beside each change of size. utimensat(2) permits it only for both.
    """
    if {atime_ns, mtime_ns} - {None, NOW} or not _may_write(access, fd):
        return False
    with _as_server(access):
        set_times(fd, atime_ns, mtime_ns)
    return True


def remove_capability(access: "Access", fd: int, name: bytes) -> bool:
    """Remove `security.capability`, if it is that and the user may write the file.

    Returns:
        Whether both are so.

    Raises:
        OSError: ENODATA if there is none.
    """
    if name != _CAPABILITY or not _may_write(access, fd):
        return False
    with _as_server(access):
        try:
            os.removexattr(proc_path(fd), name)
        except PermissionError:  # this server has no CAP_SETFCAP, but a change of owner removes it
            os.getxattr(proc_path(fd), name)
            chown_empty(fd, -1, -1)
    return True


def open_executable(access: "Access", pin: "Descriptor", flags: int) -> int | None:
    """Open a regular file for reading, if the user may execute it.

    Returns:
        The new descriptor, which the caller closes; None if the user may not, or if the file is
        to be opened otherwise.

    Raises:
        OSError: the server itself may not read it.
    """
    if flags & (os.O_ACCMODE | os.O_TRUNC) or not _may_execute(access, pin.fd):
        return None
    with _as_server(access):
        return access.tree.reopen(pin, flags)


@contextmanager
def _as_server(access: "Access") -> Iterator[None]:
    access.tree.acting.as_server()
    try:
        yield
    finally:
        access.act()


def _writer(access: "Access", fd: int) -> "Descriptor | None":
    """A descriptor by which the user may write a file."""
    writer = access.writers.get(number_in(access.tree.mark(fd, b"")))
    # Numbers of rare devices are hashes.
    if writer is None or not os.path.samestat(os.fstat(writer.fd), os.fstat(fd)):
        return None
    return writer


def _may_write(access: "Access", fd: int) -> bool:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return False
    return permitted(fd, os.W_OK) or _writer(access, fd) is not None


def _may_execute(access: "Access", fd: int) -> bool:
    if permitted(fd, os.X_OK):
        return True
    if not os.fstatvfs(fd).f_flag & os.ST_NOEXEC:
        return False
    # The mount forbids execution on the host, and hides what the file's own permissions are.
    status, actor = os.fstat(fd), access.actor
    user = Credentials(actor.uid, {actor.gid, *actor.groups})
    return permits(
        user, SEARCH, status.st_mode, status.st_uid, status.st_gid, lambda: _access_list(fd)
    )


def _access_list(fd: int) -> bytes | None:
    """A file's access control list; None if it has none."""
    if os.fsencode(ACL) not in map(os.fsencode, os.listxattr(proc_path(fd))):
        return None
    return os.getxattr(proc_path(fd), ACL)
