"""What a tree looks like through system calls alone, from any kernel: run as a script in guests.

    python3 looking.py DIRECTORY [--no-xattrs] [--part K/N] [--entries K/N] >LOOKS

Prints a line of JSON for every path, in any order; the directory itself is the empty path. Uses
only the standard library, and nothing of ventifs. Bytes are written as text in Latin-1. A fact that
cannot be read is replaced by its errno. With `--part K/N` the contents of about one file in N are
read, chosen by its path; the parts K from 0 to N - 1 together cover all files. With `--entries K/N`
only such a part is looked at of the files below `ORDINARY`; of the rest the names alone are seen.
"""

import argparse
import errno
import hashlib
import json
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

Look = dict[str, Any]
# One buffer for all reads, since page faults are slow in User-mode Linux.
_buffer = memoryview(bytearray(256 << 10))


Part = tuple[int, int]
WHOLE: Part = (0, 1)
ORDINARY = (b"usr/lib/", b"usr/share/")  # most of a root, and nothing of what is hard to carry


def looks(
    top: bytes, *, xattrs: bool = True, part: Part = WHOLE, entries: Part = WHOLE
) -> Iterator[tuple[bytes, Look]]:
    """The facts of every path below a directory, which is itself the empty path."""
    yield b"", look(top, xattrs=xattrs, contents=True)
    pending = [b""]
    while pending:
        directory = pending.pop()
        with os.scandir(os.path.join(top, directory) if directory else top) as listing:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listing]
        for name, is_directory in found:
            path = os.path.join(directory, name) if directory else name
            if not is_directory and not is_looked_at(entries, path):
                yield path, {}
                continue
            seen = look(os.path.join(top, path), xattrs=xattrs, contents=is_in(part, path))
            yield path, seen
            if stat.S_ISDIR(seen["mode"]):
                pending.append(path)


def is_in(part: Part, path: bytes) -> bool:
    """Whether a path belongs to a part (K, N): the K-th of N."""
    return zlib.crc32(path) % part[1] == part[0]


def is_looked_at(entries: Part, path: bytes) -> bool:
    """Whether a file is to be looked at."""
    return not path.startswith(ORDINARY) or is_in(entries, path)


def look(path: bytes, *, xattrs: bool = True, contents: bool = True) -> Look:
    """The facts of one path; links are not followed."""
    status = os.lstat(path)
    seen: Look = {
        "mode": status.st_mode,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime_ns": status.st_mtime_ns,
        "size": status.st_size,
        "nlink": status.st_nlink,
    }
    if stat.S_ISREG(status.st_mode):
        if contents:
            seen["md5"] = _or_errno(lambda: _md5(path))
    elif stat.S_ISLNK(status.st_mode):
        seen["target"] = _or_errno(lambda: os.readlink(path).decode("latin-1"))
    elif not stat.S_ISDIR(status.st_mode):
        seen["rdev"] = status.st_rdev
    if xattrs:
        seen["xattrs"] = _or_errno(lambda: _xattrs(path))
    return seen


def _md5(path: bytes) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        while length := os.readv(fd, [_buffer]):
            digest.update(_buffer[:length])
    finally:
        os.close(fd)
    return digest.hexdigest()


def _xattrs(path: bytes) -> dict[str, str]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return {name: _or_errno(partial(_xattr, path, name)) for name in names}


def _xattr(path: bytes, name: str) -> str:
    return os.getxattr(path, name, follow_symlinks=False).decode("latin-1")


def _or_errno(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def parse(lines: bytes) -> dict[bytes, Look]:
    """The printed facts, by path."""
    parsed = (json.loads(line) for line in lines.splitlines())
    return {path.encode("latin-1"): seen for path, seen in parsed}


def _part(text: str) -> Part:
    which, parts = map(int, text.split("/"))
    return which, parts


def main(words: list[str]) -> None:
    """Print the facts of all paths."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=os.fsencode)
    parser.add_argument("--no-xattrs", action="store_true")
    parser.add_argument("--part", default=WHOLE, type=_part)
    parser.add_argument("--entries", default=WHOLE, type=_part)
    told = parser.parse_args(words)
    for path, seen in looks(
        told.directory, xattrs=not told.no_xattrs, part=told.part, entries=told.entries
    ):
        print(json.dumps([path.decode("latin-1"), seen]))


if __name__ == "__main__":
    main(sys.argv[1:])
