"""Live exports for tests: a directory, its guests, and their operations run to the end.

Loads and blocking work run in a thread of their own, as they do in a server. After each operation
this thread acts as the server again, so that a test can look at the host's side.
"""

import gc
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest

from tests.support.clock import Clock
from tests.support.privileges import open_directory
from ventifs.buffer import joined
from ventifs.vfs.interface import (
    AttributeChanges,
    Attributes,
    Blocking,
    Cold,
    File,
    Opened,
    Refused,
    User,
)
from ventifs.vfs.live.actor import Actor
from ventifs.vfs.live.export import LiveExport, Sharing, Squashing
from ventifs.vfs.live.filesystem import LiveDirectory
from ventifs.vfs.live.users import HostAccounts

P = ParamSpec("P")
T = TypeVar("T")

NAME = b"export"
AS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="only root can act as other users")
ROUNDS_MAX = 50  # no operation needs more loads
# Users of the host that guests are: in tests they are not looked up, but these.
USERS = {
    0: Actor(0, 0),
    1000: Actor(1000, 1000, (4001, 4002)),
    1001: Actor(1001, 1001, (4002,)),
    1002: Actor(1002, 1002),
}


class Live:
    """A live export of a directory.

    Attributes:
        path: of the directory.
        directory: the export.
        threaded: how many loads and blocking works were run.
        counts_descriptors: whether none may be left at the end.
    """

    def __init__(self, path: Path, *, thread: ThreadPoolExecutor, **options: Any) -> None:
        self.path = path
        self.threaded = 0
        self.counts_descriptors = True
        self._thread = thread
        self._guests: list[Guest] = []
        sharing: Sharing = options.pop("sharing", "shared")
        writable: bool = options.pop("writable", True)
        export = LiveExport(NAME.decode(), str(path), writable=writable, sharing=sharing)
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
        options.setdefault("sends", True)
        options.setdefault("clock", Clock())  # so that nothing is slow
        self.directory = LiveDirectory(export, fd, **options)
        os.close(fd)
        self.tree = self.directory.tree
        if "accounts" not in options:
            accounts = HostAccounts(self.tree.acting, look_up=lambda who: USERS.get(int(who)))
            self.directory._accounts = accounts

    def run(self, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an operation to its end."""
        try:
            for _ in range(ROUNDS_MAX):
                try:
                    return operation(*args, **kwargs)
                except Cold as cold:
                    result = self.in_thread(cold.load.run)
                    if cold.load.key is None:
                        return result  # type: ignore[no-any-return]
                except Blocking as blocking:
                    return self.in_thread(blocking.work)  # type: ignore[no-any-return]
        finally:
            self.tree.acting.as_server()
        raise AssertionError(f"{operation}: still cold")

    def in_thread(self, work: Callable[[], Any]) -> Any:
        """Do something as a load is run."""
        self.threaded += 1
        return self._thread.submit(work).result()

    def attach(
        self, uid: int | None = None, path: bytes = b"", *, squash: Squashing = "none"
    ) -> "Guest":
        """A new session's attach as a user, by default the first that there is."""
        session = self.directory.view(squash).session()
        if uid is None:
            uid = 0 if AS_ROOT else os.geteuid()
        aname = NAME + b":" + path if path else NAME
        guest = Guest(self, self.run(session.attach, User(b"", uid), aname))
        self._guests.append(guest)
        return guest

    def close(self) -> None:
        """Let go of the export; its files may live on."""
        for guest in self._guests:  # which pytest may still hold
            guest.__dict__.clear()
        self.directory.close()
        del self.tree, self.directory

    def all_in_threads(self) -> None:
        """Let threads do everything that may need a disk."""
        self.tree.pace._threaded = 1 << 60


class Guest:
    """A user's view of an export, with files by path.

    Attributes:
        root: where it attached.
    """

    def __init__(self, live: Live, root: File) -> None:
        self.live = live
        self.root = root
        self.run = live.run

    def at(self, path: str | bytes = b"") -> Any:
        """Walk to a path; the file is mostly a `LiveFile`."""
        file = self.root
        for name in (os.fsencode(path)).split(b"/"):
            if name:
                file = self.run(file.walk, name)
        return file

    def _within(self, path: str) -> tuple[Any, bytes]:
        above, _, name = path.rpartition("/")
        return self.at(above), os.fsencode(name)

    def create(
        self, path: str, mode: int = 0o644, flags: int = os.O_RDWR | os.O_EXCL, gid: int = ~0
    ) -> tuple[Any, Any]:
        directory, name = self._within(path)
        made: tuple[Any, Any] = self.run(directory.create, name, flags, mode, gid & 0xFFFF_FFFF)
        return made

    def put(self, path: str, data: bytes = b"", mode: int = 0o644) -> Any:
        """Create a file with a content."""
        file, opened = self.create(path, mode)
        assert self.run(opened.write, 0, data) == len(data)
        opened.close()
        return file

    def mkdir(self, path: str, mode: int = 0o755, gid: int = ~0) -> Any:
        directory, name = self._within(path)
        return self.run(directory.mkdir, name, mode, gid & 0xFFFF_FFFF)

    def unlink(self, path: str, *, directory: bool = False) -> None:
        above, name = self._within(path)
        self.run(above.unlink, name, directory=directory)

    def rename(self, old: str, new: str) -> None:
        (above, name), (to, newname) = self._within(old), self._within(new)
        self.run(above.renameat, name, to, newname)

    def open(self, file: File | str, flags: int = os.O_RDONLY) -> Any:
        return self.run((self.at(file) if isinstance(file, str) else file).open, flags)

    def read(self, opened: Opened, offset: int = 0, count: int = 1 << 16) -> bytes:
        return joined(self.run(opened.read, offset, count))

    def content(self, file: File | str) -> bytes:
        """A file's bytes."""
        opened = self.open(file)
        whole = b""
        while piece := self.read(opened, len(whole)):
            whole += piece
        opened.close()
        return whole

    def stat(self, file: File | Opened | str) -> Attributes:
        found: Attributes = self.run((self.at(file) if isinstance(file, str) else file).attributes)
        return found

    def set(self, file: File | Opened | str, **changes: Any) -> None:
        """Change attributes."""
        at = self.at(file) if isinstance(file, str) else file
        self.run(at.setattr, AttributeChanges(**changes))

    def entries(self, opened: Opened, cookie: int = 0) -> list[tuple[int, bytes, int]]:
        """The rest of an open directory: cookie, name and type of each."""
        found: list[tuple[int, bytes, int]] = []
        while more := self.some_entries(opened, cookie, 1 << 20):
            found += more
            cookie = found[-1][0]
        return found

    def some_entries(self, opened: Opened, cookie: int, most: int) -> list[tuple[int, bytes, int]]:
        """At most so many entries; like a reply without room for one more, it looks at that."""

        def listed() -> list[tuple[int, bytes, int]]:
            some: list[tuple[int, bytes, int]] = []
            try:
                for after, name, _, kind in opened.entries(cookie):
                    if len(some) == most:
                        break
                    some.append((after, name, kind))
            except Cold:
                if not some:
                    raise
            return some

        return self.run(listed)

    def names(self, path: str | bytes | File = b"") -> list[bytes]:
        """The names in a directory, without dots, in order of bytes."""
        opened = self.open(path if not isinstance(path, (str, bytes)) else self.at(path))
        names = [name for _, name, _ in self.entries(opened)]
        opened.close()
        assert {b".", b".."} <= set(names)
        return sorted(set(names) - {b".", b".."})

    def refused(self, operation: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> int:
        """The errno with which an operation fails."""
        number: int | None = None
        try:
            self.run(operation, *args, **kwargs)
        except (OSError, Refused) as error:
            number = error.errno
        assert number is not None, f"{operation} does not fail"
        return number


def descriptors() -> dict[int, str]:
    """This process's descriptors, and what they are of."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # of the listing itself
            continue
    return found


@contextmanager
def live_export(path: Path | None = None, **options: Any) -> Iterator[Live]:
    """A live export; at the end, no descriptor may be left."""
    before = descriptors()
    umask = os.umask(0)
    try:
        with ThreadPoolExecutor(1) as thread, _directory(path) as top:
            live = Live(top, thread=thread, **options)
            yield live
            live.close()
        left = _more_than(before)
        if left:
            gc.collect()  # of failed operations, whose tracebacks are cycles
            left = _more_than(before)
        assert not (left and live.counts_descriptors), (
            f"descriptors are left open: {list(left.items())[:9]}"
        )
    finally:
        os.umask(umask)


def _more_than(before: dict[int, str]) -> dict[int, str]:
    return {fd: at for fd, at in descriptors().items() if before.get(fd) != at}


@contextmanager
def _directory(path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
    else:
        with open_directory() as made:
            yield made


def type_of(mode: int) -> int:
    """A mode's type, as readdir(3) has it."""
    return stat.S_IFMT(mode) >> 12
