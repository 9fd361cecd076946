"""Reads a directory tree independently, to compare an archived tree with the restored one.

It uses only `os` and `hashlib`, nothing of ventifs.
"""

import errno
import hashlib
import os
import stat
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

_SHORT_HOLE = 32 << 10  # a shorter hole may be restored as zeros
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True)
class Look:
    """Everything of a path that a restore should bring back."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    rdev: int
    target: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    sha256: str
    group: tuple[bytes, ...]  # the paths within the tree that are the same hard-linked file
    data_pages: int | None  # 4 KiB pages outside long holes, for a file with such holes


def look_at(root: Path | str) -> dict[bytes, Look]:
    """The looks of every path below a directory; the directory itself is the empty path."""
    looks: dict[bytes, Look] = {}
    groups: dict[tuple[int, int], list[bytes]] = defaultdict(list)
    inodes: dict[bytes, tuple[int, int]] = {}
    pending = [(b"", os.open(root, _FLAGS | os.O_DIRECTORY))]
    while pending:
        path, fd = pending.pop()
        if not path:
            looks[path] = _look(b".", fd)
        for name in map(os.fsencode, os.listdir(fd)):
            below = path + b"/" + name if path else name
            looks[below] = _look(name, fd)
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                pending.append((below, os.open(name, _FLAGS | os.O_DIRECTORY, dir_fd=fd)))
            else:
                inodes[below] = (status.st_dev, status.st_ino)
                groups[inodes[below]].append(below)
        os.close(fd)
    for path, inode in inodes.items():
        if len(groups[inode]) > 1:
            kept = {name: getattr(looks[path], name) for name in Look.__dataclass_fields__}
            looks[path] = Look(**{**kept, "group": tuple(sorted(groups[inode]))})
    return looks


def _look(name: bytes, fd: int) -> Look:
    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    through = b"/proc/self/fd/%d/%s" % (fd, name)
    regular, link = stat.S_ISREG(status.st_mode), stat.S_ISLNK(status.st_mode)
    device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    names = sorted(os.listxattr(through, follow_symlinks=False))
    digest, pages = _content(name, fd, status.st_size) if regular else ("", None)
    return Look(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_size if regular else 0,
        status.st_rdev if device else 0,
        os.readlink(name, dir_fd=fd) if link else b"",
        tuple((name, os.getxattr(through, name, follow_symlinks=False)) for name in names),
        digest,
        (),
        pages,
    )


def _content(name: bytes, directory: int, size: int) -> tuple[str, int | None]:
    """The hash of a file's content, in which holes equal zeros, and its number of data pages."""
    fd, digest, pages, at = os.open(name, _FLAGS, dir_fd=directory), hashlib.sha256(), 0, 0
    try:
        while at < size:
            try:
                data = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                data = size
            if data - at < _SHORT_HOLE:
                pages += -(-(data - at) // 4096)
            if data == size:
                break
            at = os.lseek(fd, data, os.SEEK_HOLE)
            for offset in range(data, at, 4096):
                page = os.pread(fd, 4096, offset)
                pages += 1
                if page.strip(b"\0"):  # so that zeros and holes are the same content
                    digest.update(b"%d:" % offset + page)
        digest.update(b"%d" % size)
    finally:
        os.close(fd)
    return digest.hexdigest(), pages if pages < -(-size // 4096) else None


def same(source: Path | str, restored: Path | str) -> None:
    """Fail, naming the first difference, unless two trees are equal in everything."""
    ours, theirs = look_at(source), look_at(restored)
    assert sorted(ours) == sorted(theirs)
    for path, look in ours.items():
        assert _without_pages(look) == _without_pages(theirs[path]), path
        if look.data_pages is not None:
            pages = theirs[path].data_pages
            assert pages is not None, f"{path!r} came back without its holes"
            assert pages <= look.data_pages + 16, path  # ends of holes may be filled


def _without_pages(look: Look) -> dict[str, object]:
    return {name: getattr(look, name) for name in Look.__dataclass_fields__ if name != "data_pages"}
