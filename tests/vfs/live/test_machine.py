"""The same operations on a live export and on a directory beside it, by `os`.

Results, errnos and the final trees must be equal. The export's pins are few, so that files are
evicted and found again all the time; in some runs threads do all that may need a disk.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from tests.support.live import Guest, live_export
from tests.support.privileges import open_directory
from tests.support.sizes import LONG
from ventifs.vfs.interface import Refused

LONGEST = "d" * 255
NAMES = st.sampled_from(["a", "b", "c", "LONGEST"])
PATHS = st.lists(NAMES, max_size=3).map("/".join)
NAMED = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TARGETS = st.sampled_from(["a", "../x", "/etc/passwd", "b/c", "LONGEST"])
MODES = st.sampled_from([0o644, 0o444, 0o755, 0o4755, 0o2755, 0o1777, 0o2775, 0o000])
OFFSETS = st.one_of(st.integers(0, 20_000), st.sampled_from([1 << 32, (1 << 63) - 1, 1 << 45]))
FLAGS = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
EXTRA = st.sampled_from([0, 0, 0, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY, os.O_EXCL])
DATA = st.binary(max_size=5000)
TIMES = st.one_of(st.none(), st.integers(-(10**18), 4 * 10**18), st.just(1_700_000_000_123_456_789))
XATTRS = st.sampled_from([b"user.a", b"user.b", b"user.LONG", b"trusted.t", b"odd"])
VALUES = st.sampled_from([b"", b"1", b"LONG"])
GID = os.getegid()
SPECIAL = (stat.S_IFIFO, stat.S_IFSOCK)


class Shortened(Guest):
    """A guest whose paths have a word for the longest name, so that failures can be read."""

    def __init__(self, guest: Guest) -> None:
        super().__init__(guest.live, guest.root)

    def at(self, path: str | bytes = b"") -> Any:
        assert isinstance(path, str)
        return super().at(path.replace("LONGEST", LONGEST))

    def _within(self, path: str) -> tuple[Any, bytes]:
        return super()._within(path.replace("LONGEST", LONGEST))


class Both(RuleBasedStateMachine):
    """A live export and a directory beside it."""

    files: Bundle[Any] = Bundle("files")
    opens: Bundle[Any] = Bundle("opens")

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self.live = self._stack.enter_context(live_export(pins_max=2))
        self.guest: Guest = Shortened(self.live.attach())
        self.beside = self._stack.enter_context(open_directory())
        # Hypothesis keeps what is in bundles for longer than a run: so they have numbers alone.
        self._kept: dict[int, tuple[Any, int, int]] = {}

    @initialize(threads=st.booleans())
    def choose(self, threads: bool) -> None:
        if threads:
            self.live.all_in_threads()

    def teardown(self) -> None:
        for number in list(self._kept):
            self._let_go(number)
        try:
            assert seen(self.beside) == seen(self.live.path)
        finally:
            del self.guest, self.live
            self._stack.close()

    def _keep(self, ours: Any, fd: int, flags: int = 0) -> int:
        number = len(self._kept)
        while number in self._kept:
            number += 1
        self._kept[number] = ours, fd, flags
        return number

    def _let_go(self, number: int) -> None:
        ours, fd, _ = self._kept.pop(number)
        if hasattr(ours, "close"):
            ours.close()
        os.close(fd)

    def both(self, ours: Callable[[], Any], theirs: Callable[[], Any]) -> Any:
        """Do the same on both sides; return both results, or None if both fail alike."""
        results: list[Any] = []
        for work in (ours, theirs):
            try:
                results.append(work())
            except (OSError, Refused) as error:
                results.append(f"fails: {errno.errorcode[error.errno or 0]}")
        mine, other = results
        failed = [each for each in results if isinstance(each, str) and each.startswith("fails")]
        if failed:
            self.agree(mine, other)
            return None
        return mine, other

    def agree(self, ours: Any, theirs: Any) -> None:
        """See that two results are equal."""
        if ours != theirs:
            self.live.counts_descriptors = False  # what failed may hold some
        assert ours == theirs

    def same(self, ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
        """Do the same on both sides, with equal results."""
        found = self.both(ours, theirs)
        if found is not None:
            self.agree(*found)

    # Names

    @contextmanager
    def _within(self, path: str) -> Iterator[tuple[int, bytes]]:
        """The directory of a path beside, and a name; no symbolic link is followed on the way."""
        *way, name = path.replace("LONGEST", LONGEST).split("/")
        at = os.open(self.beside, os.O_PATH)
        try:
            for each in way:
                at, left = os.open(each, os.O_PATH | os.O_NOFOLLOW, dir_fd=at), at
                os.close(left)
            yield at, name.encode()
        finally:
            os.close(at)

    def _named(self, path: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of `os` with a name and its directory."""
        with self._within(path) as (directory, name):
            return call(name or b".", *args, dir_fd=directory, **kwargs)

    def _kind(self, path: str) -> int:
        """The type of what has a path beside; 0 if nothing has."""
        try:
            status: os.stat_result = self._named(path, os.stat, follow_symlinks=False)
        except OSError:
            return 0
        return stat.S_IFMT(status.st_mode)

    @rule(path=NAMED, mode=MODES, flags=FLAGS, extra=EXTRA, target=opens)
    def create(self, path: str, mode: int, flags: int, extra: int) -> Any:
        if extra & os.O_DIRECTORY or self._kind(path) in SPECIAL:
            return multiple()
        theirs = flags | extra | os.O_CREAT | os.O_NOFOLLOW
        found = self.both(
            lambda: self.guest.create(path, mode, flags | extra, GID)[1],
            lambda: self._named(path, os.open, theirs, mode),
        )
        return self._keep_open(found, flags)

    def _keep_open(self, found: Any, flags: int) -> Any:
        if found is None:
            return multiple()
        opened, fd = found
        return self._keep(opened, fd, flags)

    @rule(path=NAMED, mode=MODES)
    def mkdir(self, path: str, mode: int) -> None:
        mode |= 0o700
        self.both(
            lambda: self.guest.mkdir(path, mode, GID), lambda: self._named(path, os.mkdir, mode)
        )

    @rule(path=NAMED, to=TARGETS)
    def symlink(self, path: str, to: str) -> None:
        target = to.replace("LONGEST", "n" * 4095).encode()

        def ours() -> None:
            directory, name = self.guest._within(path)
            self.guest.run(directory.symlink, name, target, GID)

        def theirs() -> None:
            with self._within(path) as (directory, name):
                os.symlink(target, name, dir_fd=directory)

        self.both(ours, theirs)

    @rule(path=NAMED, mode=st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG]))
    def mknod(self, path: str, mode: int) -> None:
        def ours() -> None:
            directory, name = self.guest._within(path)
            self.guest.run(directory.mknod, name, mode | 0o640, 0, GID)

        self.both(ours, lambda: self._named(path, os.mknod, mode | 0o640))

    @rule(path=NAMED, new=NAMED)
    def link(self, path: str, new: str) -> None:
        def ours() -> None:
            file = self.guest.at(path)
            directory, name = self.guest._within(new)
            self.guest.run(directory.link, file, name)

        def theirs() -> None:
            self._named(path, os.stat, follow_symlinks=False)  # a guest looks it up first
            with self._within(path) as (old, name), self._within(new) as (to, newname):
                os.link(name, newname, src_dir_fd=old, dst_dir_fd=to, follow_symlinks=False)

        self.both(ours, theirs)

    @rule(path=NAMED, new=NAMED)
    def rename(self, path: str, new: str) -> None:
        def theirs() -> None:
            with self._within(path) as (old, name), self._within(new) as (to, newname):
                os.rename(name, newname, src_dir_fd=old, dst_dir_fd=to)

        self.both(lambda: self.guest.rename(path, new), theirs)

    @rule(path=NAMED, directory=st.booleans())
    def unlink(self, path: str, directory: bool) -> None:
        self.both(
            lambda: self.guest.unlink(path, directory=directory),
            lambda: self._named(path, os.rmdir if directory else os.unlink),
        )

    @rule(path=PATHS)
    def listing(self, path: str) -> None:
        def theirs() -> list[bytes]:
            fd = self._named(path, os.open, os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                return sorted(map(os.fsencode, os.listdir(fd)))
            finally:
                os.close(fd)

        if self._kind(path) in (0, stat.S_IFDIR):
            self.same(lambda: self.guest.names(path), theirs)

    @rule(path=PATHS)
    def look(self, path: str) -> None:
        self.same(
            lambda: looks(self.guest.stat(path)),
            lambda: looks(self._named(path, os.stat, follow_symlinks=False)),
        )

    @rule(path=NAMED)
    def readlink(self, path: str) -> None:
        self.same(
            lambda: self.guest.run(self.guest.at(path).readlink),
            lambda: self._named(path, os.readlink),
        )

    # Files that are held, whatever becomes of their names

    @rule(path=PATHS, target=files)
    def hold(self, path: str) -> Any:
        found = self.both(
            lambda: self.guest.at(path),
            lambda: self._named(path, os.open, os.O_PATH | os.O_NOFOLLOW),
        )
        if found is None:
            return multiple()
        return self._keep(*found)

    @rule(held=files)
    def look_again(self, held: int) -> None:
        file, fd, _ = self._kept[held]
        if os.fstat(fd).st_nlink:  # what lost its name while it was evicted is gone
            self.same(lambda: looks(self.guest.stat(file)), lambda: looks(os.fstat(fd)))

    @rule(held=files, flags=FLAGS, extra=EXTRA, target=opens)
    def open(self, held: int, flags: int, extra: int) -> Any:
        file, fd, _ = self._kept[held]
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if not os.fstat(fd).st_nlink or kind in (*SPECIAL, stat.S_IFDIR):
            return multiple()
        if kind == stat.S_IFLNK:
            assert self.guest.refused(file.open, flags) == errno.ELOOP
            return multiple()
        found = self.both(
            lambda: self.guest.open(file, flags | extra),
            lambda: os.open(f"/proc/self/fd/{fd}", flags | extra & ~os.O_EXCL),
        )
        return self._keep_open(found, flags)

    @rule(
        held=files,
        mode=st.none() | MODES,
        size=st.none() | OFFSETS,
        atime=TIMES,
        mtime=TIMES,
        ctime=st.booleans(),
    )
    def setattr(
        self,
        held: int,
        mode: int | None,
        size: int | None,
        atime: int | None,
        mtime: int | None,
        ctime: bool,
    ) -> None:
        file, fd, _ = self._kept[held]
        if not os.fstat(fd).st_nlink:
            return
        changes = {"mode": mode, "size": size, "atime_ns": atime, "mtime_ns": mtime}

        def ours() -> None:
            self.guest.set(file, **changes, ctime=ctime)

        self.both(ours, lambda: change(fd, **changes))

    @rule(held=files, name=XATTRS, value=VALUES, flags=st.sampled_from([0, 1, 2]))
    def set_xattr(self, held: int, name: bytes, value: bytes, flags: int) -> None:
        file, fd, _ = self._kept[held]
        if not os.fstat(fd).st_nlink:
            return

        def theirs() -> None:
            path = f"/proc/self/fd/{fd}"
            if not value and flags & os.XATTR_REPLACE:  # as Linux's client removes one
                os.removexattr(path, name)
            else:
                os.setxattr(path, name, value, flags)

        self.both(lambda: self.guest.run(file.set_xattr, name, value, flags), theirs)

    @rule(held=files, name=XATTRS)
    def xattr(self, held: int, name: bytes) -> None:
        file, fd, _ = self._kept[held]
        if not os.fstat(fd).st_nlink:
            return
        path = f"/proc/self/fd/{fd}"
        self.same(lambda: self.guest.run(file.xattr, name), lambda: os.getxattr(path, name))
        self.same(
            lambda: sorted(self.guest.run(file.xattr_names)),
            lambda: sorted(map(os.fsencode, os.listxattr(path))),
        )

    @rule(held=files)
    def parent(self, held: int) -> None:
        file, fd, _ = self._kept[held]
        status = os.fstat(fd)
        if not status.st_nlink or os.path.samestat(status, os.stat(self.beside)):
            return
        self.same(
            lambda: looks(self.guest.stat(self.guest.run(file.walk, b".."))),
            lambda: looks(os.stat("..", dir_fd=fd)),
        )

    # Open files

    @rule(opened=opens, offset=OFFSETS, data=DATA)
    def write(self, opened: int, offset: int, data: bytes) -> None:
        file, fd, _ = self._kept[opened]
        self.same(
            lambda: self.guest.run(file.write, offset, data), lambda: os.pwrite(fd, data, offset)
        )

    @rule(opened=opens, offset=OFFSETS, count=st.integers(1, 200_000))
    def read(self, opened: int, offset: int, count: int) -> None:
        file, fd, _ = self._kept[opened]
        self.same(lambda: self.guest.read(file, offset, count), lambda: os.pread(fd, count, offset))

    @rule(opened=opens, size=OFFSETS)
    def truncate(self, opened: int, size: int) -> None:
        file, fd, flags = self._kept[opened]
        if flags != os.O_RDONLY:
            self.both(lambda: self.guest.set(file, size=size), lambda: os.ftruncate(fd, size))

    @rule(opened=opens, mode=MODES, time=TIMES)
    def change_open(self, opened: int, mode: int, time: int | None) -> None:
        file, fd, _ = self._kept[opened]
        self.both(
            lambda: self.guest.set(file, mode=mode, mtime_ns=time),
            lambda: change(fd, mode=mode, mtime_ns=time),
        )

    @rule(opened=opens, data_only=st.booleans())
    def fsync(self, opened: int, data_only: bool) -> None:
        self.guest.run(self._kept[opened][0].fsync, data_only=data_only)

    @rule(opened=opens)
    def look_open(self, opened: int) -> None:
        file, fd, _ = self._kept[opened]
        self.same(lambda: looks(self.guest.stat(file)), lambda: looks(os.fstat(fd)))

    @rule(opened=consumes(opens))
    def close(self, opened: int) -> None:
        self._let_go(opened)

    @invariant()
    def pins_are_few(self) -> None:
        assert len(self.live.tree.pins) <= 2


def change(
    fd: int,
    mode: int | None = None,
    size: int | None = None,
    atime_ns: int | None = None,
    mtime_ns: int | None = None,
) -> None:
    """Change attributes by `os`."""
    path = f"/proc/self/fd/{fd}"
    if size is not None:
        os.truncate(path, size)
    if mode is not None:
        os.chmod(path, mode)
    if atime_ns is not None or mtime_ns is not None:
        before = os.fstat(fd)
        times = (
            before.st_atime_ns if atime_ns is None else atime_ns,
            before.st_mtime_ns if mtime_ns is None else mtime_ns,
        )
        os.utime(path, ns=times)


def looks(found: Any) -> tuple[Any, ...]:
    """What is equal on both sides: all but inode numbers and times of the clock."""
    if isinstance(found, os.stat_result):
        size = found.st_size if not stat.S_ISDIR(found.st_mode) else None
        blocks = found.st_blocks if size is not None else None
        return found.st_mode, found.st_uid, found.st_gid, found.st_nlink, size, blocks
    size = found.size if not stat.S_ISDIR(found.mode) else None
    blocks = found.blocks if size is not None else None
    return found.mode, found.uid, found.gid, found.nlink, size, blocks


def seen(top: Path) -> dict[str, Any]:
    """A tree, as `os` shows it: everything but times of the clock."""
    found: dict[str, Any] = {}
    for at, directories, files in os.walk(top):
        for name in [".", *directories, *files]:
            path = os.path.join(at, name)
            status = os.lstat(path)
            content: Any = None
            if stat.S_ISREG(status.st_mode):
                content = pieces(path)
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            xattrs = {}
            for each in os.listxattr(path, follow_symlinks=False):
                xattrs[each] = os.getxattr(path, each, follow_symlinks=False)
            found[os.path.relpath(path, top)] = looks(status), content, xattrs
    return found


def pieces(path: str) -> list[tuple[int, bytes]]:
    """A file's data, without its holes."""
    found = []
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        at = 0
        while at < end:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, os.pread(file.fileno(), at - start, start)))
    return found


TestBoth = pytest.mark.slow(Both.TestCase)
TestBoth.settings = settings(
    max_examples=1000 if LONG else 40, stateful_step_count=50, deadline=None
)
