"""Tries every kind of change on a tree that must not be changed: run as a script in guests.

    python3 writing_anything.py DIRECTORY NAME

`NAME` is a regular file in the directory. Prints a line for every attempt, with the errno of its
failure, or `done`.
"""

import errno
import os
import stat
import sys
from collections.abc import Callable

Attempt = tuple[str, Callable[[], object]]
_FLAGS = {
    "open to write": os.O_WRONLY,
    "open to read and write": os.O_RDWR,
    "open to append": os.O_WRONLY | os.O_APPEND,
    "open and truncate": os.O_WRONLY | os.O_TRUNC,
}


def attempts(directory: bytes, name: bytes) -> list[Attempt]:
    """The attempts, each with its name."""
    file, new = os.path.join(directory, name), os.path.join(directory, b"new")
    tried: list[Attempt] = [
        (what, lambda flags=flags: os.close(os.open(file, flags)))  # type: ignore[misc]
        for what, flags in _FLAGS.items()
    ]
    tried += [
        ("create", lambda: os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL))),
        ("create over", lambda: os.close(os.open(file, os.O_WRONLY | os.O_CREAT))),
        ("truncate", lambda: os.truncate(file, 1)),
        ("mkdir", lambda: os.mkdir(new)),
        ("symlink", lambda: os.symlink(b"target", new)),
        ("link", lambda: os.link(file, new)),
        ("make a FIFO", lambda: os.mkfifo(new)),
        ("make a device", lambda: os.mknod(new, stat.S_IFCHR | 0o600, os.makedev(1, 3))),
        ("rename", lambda: os.rename(file, new)),
        ("rename over", lambda: os.rename(file, os.path.join(directory, b"another git"))),
        ("unlink", lambda: os.unlink(file)),
        ("chmod", lambda: os.chmod(file, 0o600)),
        ("chmod the directory", lambda: os.chmod(directory, 0o700)),
        ("chown", lambda: os.chown(file, 12, 34)),
        ("set times", lambda: os.utime(file, ns=(1, 1))),
        ("touch", lambda: os.utime(file)),
        ("set an attribute", lambda: os.setxattr(file, "user.new", b"1")),
        ("remove an attribute", lambda: os.removexattr(file, "user.old")),
    ]
    return tried


def main(directory: str, name: str) -> None:
    """Make all attempts."""
    for what, attempt in attempts(os.fsencode(directory), os.fsencode(name)):
        try:
            attempt()
        except OSError as error:
            print(f"{what}: {errno.errorcode[error.errno or 0]}")
        else:
            print(f"{what}: done")


if __name__ == "__main__":
    main(*sys.argv[1:])
