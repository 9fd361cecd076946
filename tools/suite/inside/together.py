"""What two guests do on one shared export at the same time: run in each of them.

python3 together.py append FILE NAME COUNT    append lines of NAME, each by one write
python3 together.py count FILE flock|record COUNT    increment a number in FILE under a lock
python3 together.py database FILE NAME COUNT    insert rows in transactions of SQLite
python3 together.py create DIRECTORY NAME COUNT    create, rename and remove files
python3 together.py hold FILE flock|record READY DONE    hold a lock until DONE is there
python3 together.py try FILE flock|record    print `held` or `free`
"""

import errno
import fcntl
import os
import sqlite3
import sys
import time
from collections.abc import Callable

TAIL = "." * 60


def append(path: str, name: str, count: str) -> None:
    """Append lines to a file."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number in range(int(count)):
        os.write(fd, f"{name} {number:06} {TAIL}\n".encode())
    os.close(fd)


def _lock(fd: int, kind: str, operation: int) -> None:
    if kind == "flock":
        fcntl.flock(fd, operation)
    else:
        fcntl.lockf(fd, operation)


def count(path: str, kind: str, times: str) -> None:
    """Increment a number under a lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    for _ in range(int(times)):
        _lock(fd, kind, fcntl.LOCK_EX)
        os.pwrite(fd, b"%08d" % (int(os.pread(fd, 8, 0) or b"0") + 1), 0)
        _lock(fd, kind, fcntl.LOCK_UN)
    os.close(fd)


def database(path: str, name: str, times: str) -> None:
    """Insert rows into a database with a rollback journal."""
    opened = sqlite3.connect(path, timeout=300, isolation_level=None)
    opened.execute("create table if not exists rows (name, number, data)")
    for number in range(int(times)):
        opened.execute("begin immediate")
        opened.execute("insert into rows values (?, ?, ?)", (name, number, os.urandom(200)))
        opened.execute("commit")
    opened.close()


def create(directory: str, name: str, times: str) -> None:
    """Create, rename and remove files beside somebody else's."""
    for number in range(int(times)):
        path = f"{directory}/{name}-{number:05}"
        with open(f"{path}.new", "xb") as file:
            file.write(f"{name} {number}".encode())
        os.rename(f"{path}.new", path)
        if number % 3 == 0:
            os.unlink(path)


def hold(path: str, kind: str, ready: str, done: str) -> None:
    """Hold a lock until a file is there."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _lock(fd, kind, fcntl.LOCK_EX)
    with open(ready, "wb"):
        pass
    while not os.path.exists(done):
        time.sleep(0.1)
    os.close(fd)


def attempt(path: str, kind: str) -> None:
    """Try to take a lock."""
    fd = os.open(path, os.O_RDWR)
    try:
        _lock(fd, kind, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        print("held")
    else:
        print("free")
    os.close(fd)


COMMANDS: dict[str, Callable[..., None]] = {
    "append": append,
    "count": count,
    "database": database,
    "create": create,
    "hold": hold,
    "try": attempt,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
