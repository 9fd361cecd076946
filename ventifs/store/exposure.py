"""Which users can reach an existing store, and commands that correct its owners, groups and modes.

This module changes nothing. The owner of the files that a command changes can run it as given,
except that GROUP stands for the name of a group. The files then have the access that `permissions`
would have given them.
"""

import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from ventifs.store.permissions import (
    LEASES,
    READERS_LOCK,
    directory_mode,
    file_mode,
    group_name,
)
from ventifs.text import command_word

_HEADER_NAME = "ventifs.store"
_GROUP, _OTHERS = 0o070, 0o007
_ENTERED = 0o011  # the right to enter a directory, for group and others
_SHARING = 0o066  # the bits of a file's mode to compare; some file systems show all as executable


class Odd(msgspec.Struct, frozen=True):
    """A file or directory of a store whose mode is not the one of the store's kind.

    Attributes:
        path: below the store's directory.
        mode: what it has.
        expected: what it would be made with.
        uid: its owner's number.
    """

    path: str
    mode: int
    expected: int
    uid: int


def exposed(root: Path) -> str:
    """One line: which others can read a store, and the command that ends it; empty if none can.

    Older programs, which did not set modes, made such stores. If a store is marked as a group's
    (set-group-ID), that group may read it. A store below a closed directory is not exposed.

    Raises:
        OSError: the store cannot be looked at.
    """
    status = root.stat()
    who = _others(root, status)
    if not who:
        return ""
    change = "o=" if status.st_mode & stat.S_ISGID else "go="
    return (
        f"{root}: {who} can read what is archived here; "
        f"'chmod -R {change} {command_word(root)}' ends that"
    )


def _others(root: Path, status: os.stat_result) -> str:
    """Which others can read a store; empty if none can."""
    marked = status.st_mode & stat.S_ISGID
    above = [found.st_mode for found in _above(root, status)]
    if not all(mode & _ENTERED for mode in above):
        return ""
    if status.st_mode & _OTHERS:
        everybody = all(mode & stat.S_IXOTH for mode in above)
        return f"every user {'of this machine' if everybody else 'who can reach it'}"
    if status.st_mode & _GROUP and not marked:
        return f"the group {group_name(status.st_gid)}"
    return ""


def closed_mode(root: Path) -> tuple[int, str]:
    """The mode that closes a store's directory to others, and which others can read it now.

    Without such others the mode is the one that it has.

    Raises:
        OSError: the store cannot be looked at.
    """
    status = root.stat()
    mode, who = stat.S_IMODE(status.st_mode), _others(root, status)
    if who:
        mode &= ~_OTHERS if mode & stat.S_ISGID else ~(_GROUP | _OTHERS)
    return mode, who


def _above(root: Path, status: os.stat_result) -> Iterator[os.stat_result]:
    """The directories above a store, except those of third users, who could open them."""
    for directory in Path(os.path.realpath(root)).parents:
        with suppress(OSError):  # it is not accessible
            found = directory.stat()
            if found.st_uid in (0, status.st_uid):
                yield found


def odd_modes(root: Path, mode: int | None = None) -> list[Odd]:
    """Files and directories whose modes do not fit the store's kind, sorted by path.

    Older programs leave such modes, and so does a copy that does not keep modes.

    Args:
        root: the store's directory.
        mode: the one that decides the kind; by default that of the directory.
    """
    above, found = root.stat().st_mode if mode is None else mode, []
    for place, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(place, name)
            with suppress(OSError):  # it is gone
                odd = _odd(root, path, os.lstat(path), above)
                found += [] if odd is None else [odd]
    return sorted(found, key=lambda odd: odd.path)


def _odd(root: Path, path: str, status: os.stat_result, above: int) -> Odd | None:
    mode, below = stat.S_IMODE(status.st_mode), Path(os.path.relpath(path, root))
    wanted = _wanted(above, below, folder=stat.S_ISDIR(status.st_mode))
    if stat.S_ISDIR(status.st_mode):
        same = mode == wanted
    else:
        same = not stat.S_ISREG(status.st_mode) or mode & _SHARING == wanted & _SHARING
    return None if same else Odd(str(below), mode, wanted, status.st_uid)


def _wanted(above: int, below: Path, *, folder: bool) -> int:
    """The mode of a path below the directory of a store, which has the mode `above`."""
    *directories, name = below.parts
    for directory in directories:
        above = directory_mode(above, directory)
    return directory_mode(above, name) if folder else file_mode(above, name)


def odd_line(root: Path, odd: list[Odd]) -> str:
    """A line about what `odd_modes` found, with the command that corrects it; empty if nothing."""
    if not odd:
        return ""
    first, more = odd[0], len(odd) - 1
    others = f" ({more:,} more are wrong, too)" if more else ""
    return (
        f"{root}: {first.path} has the mode {first.mode:04o} where {first.expected:04o} is "
        f"expected{others}; its owner {user_name(first.uid)} sets that with "
        f"'{_mending(root, first.uid)}'"
    )


def _mending(root: Path, owner: int) -> str:
    """The command that gives an owner's files in a store the modes of its kind."""
    mode, store = stat.S_IMODE(root.stat().st_mode), command_word(root)
    user = f" -user {user_name(owner)}"
    directories, files = directory_mode(mode, ""), file_mode(mode, "")
    lock, leases = file_mode(mode, READERS_LOCK), directory_mode(mode, LEASES)
    command = (
        f"find {store} -mindepth 1{user} -type d -exec chmod {directories:04o} {{}} + ; "
        f"find {store}{user} -type f -exec chmod {files:04o} {{}} +"
    )
    if lock != files:
        command += (
            f" ; find {store}{user} -name {READERS_LOCK} -exec chmod {lock:04o} {{}} +"
            f" ; find {store}{user} -name {LEASES} -exec chmod {leases:04o} {{}} +"
            f" ; find {store}{user} -name \\*.lease -exec chmod {lock:04o} {{}} +"
        )
    return command


def shut_out(path: Path) -> str:
    """How the owner of a file opens it to the store's group; empty if that is not the problem.

    A program that does not know the kinds of stores leaves its files with the umask's modes.

    Args:
        path: the part of a store that could not be opened, or the directory that it is in.
    """
    root = _root_of(path)
    if root is None:
        return ""
    with suppress(OSError):
        above = root.stat().st_mode
        for found in _on_the_way(root, path):
            status = found.lstat()
            folder = stat.S_ISDIR(status.st_mode)
            wanted = _wanted(above, found.relative_to(root), folder=folder)
            closed = wanted & _GROUP & ~status.st_mode
            if closed and not stat.S_ISLNK(status.st_mode) and status.st_uid != os.geteuid():
                return (
                    f"{found.name} is closed to the store's group; "
                    f"{user_name(status.st_uid)} opens it with '{_mending(root, status.st_uid)}'"
                )
    return ""


def _on_the_way(root: Path, path: Path) -> Iterator[Path]:
    """The directories between a store's directory and a path, the path, and its entries."""
    below = path.relative_to(root).parts
    for count in range(1, len(below) + 1):
        yield root.joinpath(*below[:count])
    if below and path.is_dir():
        yield from path.iterdir()


def _root_of(path: Path) -> Path | None:
    """The directory of the store that a path is in, if it is a group's store; None otherwise."""
    for directory in (path, *path.parents):
        if os.path.exists(directory / _HEADER_NAME):  # False, no error, if inaccessible
            return directory if directory.stat().st_mode & stat.S_ISGID else None
    return None


def user_name(uid: int) -> str:
    """The name of a user; its number, if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def for_readers(root: Path) -> str:
    """The commands that make a store one that a group can read."""
    store = command_word(root)
    return (
        f"mkdir -p {store}/{LEASES} && "
        f"chgrp -R GROUP {store} && chmod -R u=rwX,g=rX,o= {store} && "
        f"find {store} -type d -exec chmod g+s {{}} + && "
        f"chmod g+w {store}/index/{READERS_LOCK} {store}/{LEASES}"
    )


def lock_remedy(lock: Path) -> str:
    """What to do so that this user can hold the lock of a store's index."""
    root = lock.parent.parent
    status, shown = root.stat(), command_word(lock)
    group = group_name(status.st_gid)
    marked = status.st_mode & stat.S_ISGID
    try:
        found = lock.stat()
    except OSError:  # it is missing, or not accessible
        found = None
    if found is not None and found.st_uid == os.geteuid():
        return f"run 'chmod u+w {shown}'"
    if marked and status.st_gid not in {os.getegid(), *os.getgroups()}:
        return f"the store is for the group {group}; have yourself added to it"
    first = (
        f"have its owner run 'ventifs versions --store {command_word(root)}' once, which makes it"
    )
    if marked and found is None:
        return first
    if marked and found is not None:
        bits = "w" if found.st_mode & stat.S_IRGRP else "rw"
        change = "" if found.st_gid == status.st_gid else f"chgrp {group} {shown} && "
        return f"have its owner open it to the group {group}: {change}chmod g+{bits} {shown}"
    readable = f"have its owner make the store readable for a GROUP of yours: {for_readers(root)}"
    return f"{first}; then {readable}" if found is None else f"run as its owner, or {readable}"
