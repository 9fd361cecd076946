"""The directories of a destination: makes them, opens them again, and stages what goes into them.

The destination itself is opened by its path, which may lead through links. Every component below it
is opened relative to its parent's descriptor and never through a link. A restore keeps only the
links that `directory_symlinks` allows; that module finds the directory beneath the destination and
returns its descriptor. Few descriptors are open at a time, however deep the tree is: a closed one
is opened again from the nearest directory above that is still open.

With `overwrite`, everything but directories is made in a staging directory that only this user may
enter, and then moved to its place. A large file that is restored alone is always made so. There is
one staging directory for each mount, since files cannot be moved between mounts. The next run in
the same place removes the staging directory of a run that was killed.
"""

import errno
import fcntl
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ventifs.tree.objects.records import Entry
from ventifs.tree.restore.alias_paths import Alias
from ventifs.tree.restore.directory_symlinks import (
    DirectoryNames,
    NotKept,
    Symlinks,
    described,
    follow,
    open_again,
)

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LARGE = 32 << 20  # bytes, from which on a file is made piece by piece
_OPEN_MAX = 64
_STAGING = b".ventifs-restore."
_TRIES = 100  # to make a staging directory; even a second one is rare


@dataclass(slots=True, eq=False)
class UnfinishedDirectory:
    """A directory of the destination that is not finished.

    Attributes:
        entry: the archived entry.
        above: the directory it is in; None for the top.
        linked: whether the first name of a hard-linked file is in it or below.
        staging: descriptor of the staging directory of its mount; -1 without one.
        pending: how many tasks must end before it is finished; its own walk is the first.
        names: its own names in the destination, if a kept symbolic link leads to it.
        alias: its other names, if a link is on the way to it; see `alias_paths`.
        before: its status when it was entered, if it existed already.
    """

    entry: Entry
    above: "UnfinishedDirectory | None"
    linked: bool = False
    staging: int = -1
    pending: int = 1
    names: DirectoryNames | None = None
    alias: Alias | None = None
    before: os.stat_result | None = None

    def path(self, name: bytes = b"") -> bytes:
        """Its path below the top, or that of a name in it."""
        names = [name] if name else []
        place = self
        while place.above is not None:
            names.append(place.entry.name)
            place = place.above
        return b"/".join(reversed(names))


def real(place: UnfinishedDirectory) -> DirectoryNames:
    """The names of a directory from the top on, none of which is a link."""
    names: list[bytes] = []
    while place.names is None and place.above is not None:
        names.append(place.entry.name)
        place = place.above
    return (*(place.names or ()), *reversed(names))


class Places:
    """The directories of one restore. Not to be shared between threads.

    Attributes:
        on_link: called before a link is followed, to finish all that is being made: the directory
            may have been entered under another name.
        on_replaced: called with a path, and a description of the link that was replaced there.
    """

    def __init__(self, top: int, *, overwrite: bool, symlinks: Symlinks = Symlinks.TRUSTED) -> None:
        """Restore below the descriptor `top`, which `close` closes."""
        self.on_link: Callable[[], None] = lambda: None
        self.on_replaced: Callable[[bytes, str], None] = lambda *_: None
        self._symlinks = symlinks
        self._top = top
        self._open: OrderedDict[UnfinishedDirectory, int] = (
            OrderedDict()
        )  # those used last come last
        self._stagings: dict[UnfinishedDirectory, Staging] = {}  # by the directory they are in
        self._mounts: dict[tuple[int, bytes], UnfinishedDirectory] = {}
        self._overwrite = overwrite

    def top(self, entry: Entry) -> UnfinishedDirectory:
        """The place of the whole tree.

        Raises:
            OSError: the staging directory cannot be made.
        """
        place = UnfinishedDirectory(entry, None)
        if self._overwrite:
            _allow_owner(self._top)
            self._give_staging(place, self._top)
        else:
            _make_private(self._top)
        return place

    def around(self, entry: Entry) -> UnfinishedDirectory:
        """The place for a single entry that is no directory: the top, whose metadata stays.

        The entry is made in a staging directory with `overwrite`, or if it is large (`LARGE`).

        Raises:
            OSError: the staging directory cannot be made.
        """
        place = UnfinishedDirectory(entry, None)
        if (
            self._overwrite or entry.size >= LARGE
        ):  # it takes long; a killed run leaves no half file
            self._give_staging(place, self._top)
        return place

    def make(self, entry: Entry, above: UnfinishedDirectory) -> UnfinishedDirectory:
        """Make a directory in another or, with `overwrite`, enter an existing one.

        Raises:
            OSError: it can be neither made nor entered.
        """
        place = UnfinishedDirectory(entry, above, staging=above.staging)
        directory = self.fd(above)
        try:
            fd = _made(entry.name, directory)
        except FileExistsError:
            if not self._overwrite:
                raise
            self._make_over(place, above)
        else:
            self._keep(place, fd)
        return place

    def _make_over(self, place: UnfinishedDirectory, above: UnfinishedDirectory) -> None:
        """Enter an existing directory, or replace what has its name by a new directory."""
        name, directory = place.entry.name, self.fd(above)
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        said = ""
        if stat.S_ISLNK(mode):
            self.on_link()
            directory = self.fd(above)
            try:
                place.names, found = follow(self._top, real(above), directory, name, self._symlinks)
            except NotKept as error:
                said = described(name, directory, str(error))
            else:
                with _closing(found):
                    self._enter(place, _opened(b".", found))
                return
        if stat.S_ISDIR(mode):
            self._enter(place, _opened(name, directory))
            return
        os.unlink(name, dir_fd=directory)
        self._keep(place, _made(name, directory))
        if said:
            self.on_replaced(place.path(), said)

    def _enter(self, place: UnfinishedDirectory, opened: tuple[int, os.stat_result]) -> None:
        fd, place.before = opened
        self._keep(place, fd)
        self._give_staging(place, fd)

    def fd(self, place: UnfinishedDirectory) -> int:
        """A descriptor of a place's directory; valid until the next call.

        Raises:
            OSError: the directory was closed and cannot be opened again.
        """
        closed: list[UnfinishedDirectory] = []
        while place.above is not None and place not in self._open:
            closed.append(place)
            place = place.above
        fd = self._top
        if place.above is not None:
            self._open.move_to_end(place)
            fd = self._open[place]
        for below in reversed(closed):
            if below.names is not None and below.before is not None:
                fd = open_again(self._top, below.names, below.before)
            else:
                fd = os.open(below.entry.name, OPEN_DIRECTORY, dir_fd=fd)
            self._keep(below, fd)
        return fd

    def _keep(self, place: UnfinishedDirectory, fd: int) -> None:
        self._open[place] = fd
        if len(self._open) > _OPEN_MAX:
            os.close(self._open.popitem(last=False)[1])

    def tidy(self, place: UnfinishedDirectory) -> None:
        """Remove the staging directory that was made in this place: nothing needs it any more."""
        if place in self._stagings:
            self._stagings.pop(place).close()
            self._mounts = {mount: at for mount, at in self._mounts.items() if at is not place}

    def forget(self, place: UnfinishedDirectory) -> None:
        """Close a directory that is finished."""
        fd = self._open.pop(place, -1)
        if fd >= 0:
            os.close(fd)

    def _give_staging(self, place: UnfinishedDirectory, directory: int) -> None:
        """Find or make the staging directory for the mount of an existing directory."""
        mount = _mount_of(directory)
        if mount not in self._mounts:  # the mount begins here, or the restore does
            self._stagings[place] = Staging(directory)
            self._mounts[mount] = place
        place.staging = self._stagings[self._mounts[mount]].fd

    def close(self) -> None:
        """Close all descriptors, and remove the staging directories."""
        for staging in self._stagings.values():
            staging.close()
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        os.close(self._top)


class Staging:
    """A private directory, locked while it is in use.

    Attributes:
        fd: its descriptor.
    """

    def __init__(self, above: int) -> None:
        """Make one in a directory, and remove those that killed runs have left there.

        Raises:
            OSError: it cannot be made.
        """
        self._above = os.dup(above)
        try:
            for name in map(os.fsencode, os.listdir(above)):
                if name.startswith(_STAGING):
                    _remove_left_over(name, above)
            self._name, self.fd = _made_staging(above)
        except BaseException:
            os.close(self._above)
            raise
        _make_private(self.fd)

    def close(self) -> None:
        """Remove it, with anything that an interrupted run has left in it."""
        _remove(self.fd, self._name, self._above)
        os.close(self.fd)
        os.close(self._above)


def _made_staging(above: int) -> tuple[bytes, int]:
    """Make and lock a staging directory; return its name and descriptor.

    Until it is locked, another run may take it for that of a killed run and remove it. Then the
    next one is made.
    """
    for _ in range(_TRIES):
        name = _STAGING + os.urandom(8).hex().encode()
        os.mkdir(name, 0o700, dir_fd=above)
        with suppress(FileNotFoundError):
            fd = _opened(name, above)[0]
            if _locked(fd, name, above, fcntl.LOCK_EX):
                return name, fd
            os.close(fd)
    raise OSError(errno.EAGAIN, "other runs keep removing the staging directory")


def _locked(fd: int, name: bytes, above: int, how: int) -> bool:
    """Lock an open directory; return whether it is still the one that has the name."""
    fcntl.flock(fd, how)
    try:
        there = os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:  # removed between open and lock
        return False
    return os.path.samestat(os.fstat(fd), there)


def _remove_left_over(name: bytes, above: int) -> None:
    """Remove the staging directory of a run that was killed."""
    with suppress(OSError):
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=above)
        try:
            held = _locked(fd, name, above, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if held and os.fstat(fd).st_uid == os.geteuid():
                _remove(fd, name, above)
        finally:
            os.close(fd)


def _remove(fd: int, name: bytes, above: int) -> None:
    with suppress(OSError):
        for staged in os.listdir(fd):
            os.unlink(staged, dir_fd=fd)
        os.rmdir(name, dir_fd=above)


def _make_private(fd: int) -> None:
    """Keep other users out, and let new files inherit nothing, as far as this user may."""
    with suppress(OSError):
        os.removexattr(fd, "system.posix_acl_default")
    with suppress(OSError):
        os.fchown(fd, os.geteuid(), os.getegid())
    with suppress(OSError):
        os.fchmod(fd, 0o700)


def opened_top(target: Path) -> tuple[int, os.stat_result]:
    """Open the destination as `_opened` does; it and its parents are made where they are missing.

    Raises:
        OSError: it cannot be made or opened.
    """
    _make_top(target, 0o700)  # its archived mode is set last
    with _closing(os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as found:
        return _opened(b".", found)


def _make_top(target: Path, mode: int) -> None:
    try:
        os.mkdir(target, mode)
    except FileExistsError:
        return
    except FileNotFoundError:
        if target.parent == target:
            raise
        _make_top(target.parent, 0o777)
        os.mkdir(target, mode)
    with _closing(os.open(target, OPEN_DIRECTORY | os.O_PATH)) as found:
        _allow_owner(found)  # so that the umask does not keep this process out of it


def _made(name: bytes, directory: int) -> int:
    """Make a directory; return its descriptor."""
    os.mkdir(name, 0o700, dir_fd=directory)
    return _opened(name, directory)[0]


def _opened(name: bytes, directory: int) -> tuple[int, os.stat_result]:
    """Open a directory, with all permissions for its owner if this user may set them.

    A default ACL of the directory above, or the umask, may keep a process out of a directory that
    it has just made. The returned status is the one from before the change.
    """
    try:
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
    except PermissionError:
        with _closing(_found(name, directory)) as found:
            before = os.fstat(found)
            _allow_owner(found)
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
    else:
        before = os.fstat(fd)
        _allow_owner(fd)
    return fd, before


def _found(name: bytes, directory: int) -> int:
    """A descriptor of a directory that may not be entered: `.` cannot be looked up in it."""
    if name == b".":
        return os.dup(directory)
    return os.open(name, OPEN_DIRECTORY | os.O_PATH, dir_fd=directory)


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _allow_owner(fd: int) -> None:
    """Give a directory's owner all permissions, until the archived mode is set."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & 0o700 != 0o700:
        with suppress(OSError):
            os.chmod(f"/proc/self/fd/{fd}", mode | 0o700)  # for O_PATH; chmod by name follows links


def _mount_of(fd: int) -> tuple[int, bytes]:
    """Device and mount id: equal for two directories if files can be moved between them."""
    mount = b""
    with suppress(OSError), open(f"/proc/self/fdinfo/{fd}", "rb") as facts:
        mount = next((line for line in facts if line.startswith(b"mnt_id:")), b"")
    return os.fstat(fd).st_dev, mount
