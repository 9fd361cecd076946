"""Directory trees that Hypothesis makes and changes, and a check of their archives."""

import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.support.trees import noise
from tests.support.walker import look_at
from ventifs.store import Store
from ventifs.tree.objects.content import read_whole
from ventifs.tree.objects.directory import tree
from ventifs.tree.objects.records import Entry, RegularFile, Symlink
from ventifs.tree.restore.metadata import xattrs_of
from ventifs.tree.versions.catalog import find_version
from ventifs.tree.versions.verify import Verifier

_FEW_NAMES = [b"a", b"a.b", b"b", b"b-", b"c", b"\xff", b"\xc3\xa9", b"new\nline", b"n" * 255]
_SIZES = [0, 1, 32, 33, 100, 5000, 70_000]

names = st.sampled_from(_FEW_NAMES) | st.binary(min_size=1, max_size=8).map(
    lambda data: data.replace(b"\0", b"0").replace(b"/", b"-").replace(b".", b"_")
)


class Step(NamedTuple):
    """One change. It names its targets by numbers, so that every list of steps is valid."""

    what: str
    first: int
    second: int
    name: bytes
    number: int


MAKING = ("directory", "file", "file", "symlink", "fifo", "link", "link", "sparse")
CHANGING = (
    *MAKING,
    "unlink",
    "unlink",
    "rename",
    "rename",
    "rename directory",
    "replace",
    "touch",
    "rewrite",
    "rewrite and forge",
    "chmod",
    "chown",
    "xattr",
    "remove directory",
)


def steps(kinds: tuple[str, ...], *, max_size: int) -> st.SearchStrategy[list[Step]]:
    number = st.integers(0, 1000)
    return st.lists(
        st.builds(Step, st.sampled_from(kinds), number, number, names, number), max_size=max_size
    )


class Growing:
    """A directory that is changed in steps."""

    def __init__(self, top: Path) -> None:
        """Make the directory."""
        top.mkdir()
        self.top = os.fsencode(top)
        self._time_ns = 10**18

    def take(self, step: Step) -> None:
        """Make a change, if a suitable target exists."""
        directories, files = self._found()
        parent = directories[step.first % len(directories)]
        file = files[step.first % len(files)] if files else None
        target = os.path.join(parent, step.name)
        into = os.path.join(directories[step.second % len(directories)], step.name)
        directory = directories[step.second % len(directories)]
        method = getattr(self, "_" + step.what.replace(" ", "_"))
        if step.what in MAKING and step.what != "link":
            if not os.path.lexists(target):
                method(target, step.number)
        elif step.what in {"rename directory", "remove directory"}:
            if directory != self.top:
                method(directory, target)
        elif step.what in {"chmod", "chown", "xattr"}:
            both = directories + files
            method(both[step.first % len(both)], step.number)
        elif file is not None:
            method(file, into, step.number)

    def _found(self) -> tuple[list[bytes], list[bytes]]:
        directories, files = [], []
        for directory, _, names in os.walk(self.top):
            directories.append(directory)
            files += [os.path.join(directory, name) for name in names]
        for directory, below, _ in os.walk(self.top):
            files += [
                os.path.join(directory, name)
                for name in below
                if os.path.islink(os.path.join(directory, name))
            ]
        return sorted(directories), sorted(files)

    def _settle(self, path: bytes) -> None:
        self._time_ns += 1
        os.utime(path, ns=(0, self._time_ns), follow_symlinks=False)

    def _directory(self, path: bytes, number: int) -> None:
        os.mkdir(path)

    def _file(self, path: bytes, number: int) -> None:
        with open(path, "wb") as file:
            file.write(noise(_SIZES[number % len(_SIZES)], number % 50))

    def _sparse(self, path: bytes, number: int) -> None:
        with open(path, "wb") as file:
            file.write(noise(4096, number % 3))
            file.seek(number * 1024)
            file.write(b"end")
            file.truncate(2 << 20)

    def _symlink(self, path: bytes, number: int) -> None:
        os.symlink(b"to%d" % number, path)

    def _fifo(self, path: bytes, number: int) -> None:
        os.mkfifo(path)

    def _link(self, file: bytes, into: bytes, number: int) -> None:
        if not os.path.lexists(into):
            os.link(file, into, follow_symlinks=False)

    def _unlink(self, file: bytes, into: bytes, number: int) -> None:
        os.unlink(file)

    def _rename(self, file: bytes, into: bytes, number: int) -> None:
        if os.path.islink(into) or not os.path.isdir(into):
            os.rename(file, into)

    def _rename_directory(self, directory: bytes, target: bytes) -> None:
        if not (target + b"/").startswith(directory + b"/") and not os.path.lexists(target):
            os.rename(directory, target)

    def _remove_directory(self, directory: bytes, target: bytes) -> None:
        for below, directories, names in os.walk(directory, topdown=False):
            for name in names:
                os.unlink(os.path.join(below, name))
            for name in directories:
                path = os.path.join(below, name)
                (os.unlink if os.path.islink(path) else os.rmdir)(path)
        os.rmdir(directory)

    def _replace(self, file: bytes, into: bytes, number: int) -> None:
        """Replace a file by another with the same size and mtime."""
        status = os.lstat(file)
        other = os.path.join(os.path.dirname(self.top), b"other")
        with open(other, "wb") as made:
            made.write(noise(min(status.st_size, 1 << 20), number))
        os.utime(other, ns=(0, status.st_mtime_ns))
        os.rename(other, file)

    def _touch(self, file: bytes, into: bytes, number: int) -> None:
        self._settle(file)

    def _rewrite(self, file: bytes, into: bytes, number: int) -> None:
        if stat.S_ISREG(os.lstat(file).st_mode):
            self._file(file, number)

    def _rewrite_and_forge(self, file: bytes, into: bytes, number: int) -> None:
        status = os.lstat(file)
        if stat.S_ISREG(status.st_mode) and status.st_size:
            with open(file, "r+b") as opened:
                opened.write(noise(min(status.st_size, 1 << 20), number))
            os.utime(file, ns=(0, status.st_mtime_ns))

    def _chmod(self, path: bytes, number: int) -> None:
        if not os.path.islink(path):
            os.chmod(path, 0o700 | number % 0o7777)

    def _chown(self, path: bytes, number: int) -> None:
        if os.geteuid() == 0:
            os.chown(path, number, -1, follow_symlinks=False)

    def _xattr(self, path: bytes, number: int) -> None:
        if os.path.isdir(path) or (not os.path.islink(path) and os.path.isfile(path)):
            os.setxattr(path, "user.x", noise(number, number))


def is_archived(store: Path, name: str, source: Path) -> None:
    """Fail unless the last version of a name equals what `walker` sees of a source."""
    looks = look_at(source)
    with Store.open(store) as opened:
        version = find_version(opened, name)
        assert list(Verifier(opened).version(version)) == []
        root = version.root
        entries = {b"": root, **dict(tree(opened, root))}
        assert sorted(entries) == sorted(looks)
        groups: dict[bytes, list[bytes]] = {}
        for path, entry in entries.items():
            if entry.link:
                groups.setdefault(entry.link, []).append(path)
        for path, entry in entries.items():
            look = looks[path]
            told: dict[str, Any] = {
                "mode": look.mode,
                "uid": look.uid,
                "gid": look.gid,
                "mtime_ns": look.mtime_ns,
                "size": look.size,
                "target": look.target,
                "group": look.group,
                "xattrs": tuple((os.fsencode(name), value) for name, value in look.xattrs),
            }
            assert told == _facts(opened, entry, groups), path
            if isinstance(entry.detail, RegularFile):
                fd = os.open(os.fsencode(source) + b"/" + path, os.O_RDONLY)
                with open(fd, "rb") as file:
                    assert file.read() == read_whole(opened, entry.detail.content), path


def _facts(store: Store, entry: Entry, groups: dict[bytes, list[bytes]]) -> dict[str, Any]:
    return {
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime_ns": entry.mtime_ns,
        "size": entry.size,
        "target": entry.detail.target if isinstance(entry.detail, Symlink) else b"",
        "group": tuple(sorted(groups[entry.link])) if entry.link else (),
        "xattrs": xattrs_of(store, entry),
    }
