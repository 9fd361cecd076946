"""Children that run pools of workers for tests, since a test process must not fork."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from tests.support.patience import PATIENCE_S
from ventifs.errors import Corrupt, VentifsError
from ventifs.store.lmdb_environment import IndexDamaged
from ventifs.tree.process_pool import DESCRIPTORS_MAX, REQUEST_MAX, Handle, Workers


class _Odd(VentifsError):
    """An error that cannot be made again from its message."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@contextmanager
def obeying(*_: object) -> Iterator[Handle]:
    """A task that obeys its requests."""
    yield _obey


def _listed(directory: int) -> list[str]:
    """A directory's names, by a new descriptor: the one that was sent shares its offset."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def _obey(request: bytes, descriptors: Sequence[int]) -> bytes:
    word, _, rest = request.partition(b" ")
    match word:
        case b"pid":
            return b"%d" % os.getpid()
        case b"names":
            return b",".join(b"".join(map(os.fsencode, _listed(fd))) for fd in descriptors)
        case b"inodes":
            return b",".join(b"%d" % os.fstat(fd).st_ino for fd in descriptors)
        case b"open":
            return b"%d" % len(os.listdir("/proc/self/fd"))
        case b"corrupt":
            raise Corrupt("is bad", score=b"s" * 32, arena="a", offset=7)
        case b"index":
            raise IndexDamaged(Path("/there"), "is bad")
        case b"odd":
            raise _Odd(1, 2)
        case b"bug":
            raise KeyError("a bug")
        case b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"wait":
            with open(rest, "rb") as fifo:  # until a writer writes to it
                return fifo.read()
        case b"wake":
            Path(os.fsdecode(rest)).write_bytes(b"awake")
        case b"hang":
            signal.pause()
    return word + rest[:10] + b"%d" % len(rest)


def lead(connection: Connection, count: int) -> None:
    """A parent of workers that passes on the requests it receives, and returns their replies."""
    signal.alarm(PATIENCE_S)
    with Workers(count, obeying) as pool:
        while True:
            try:
                requests, directories = connection.recv()
            except EOFError:
                return
            connection.send(_answered(pool, requests, directories))


def _answered(pool: Workers, requests: list[bytes], directories: list[str]) -> object:
    replies: list[bytes] = []
    fds = [os.open(path, os.O_RDONLY) for path in directories]
    try:
        for request in requests:
            pool.submit(request, fds, replies.append, alone=request.startswith(b"wait"))
        pool.drain()
    except BaseException as error:
        facts = {name: value for name, value in vars(error).items() if not name.startswith("_")}
        return type(error).__name__, str(error), facts
    finally:
        for fd in fds:
            os.close(fd)
    return replies


def lead_until_killed(pids: Path) -> None:
    """A parent of three workers, two of which are busy."""
    signal.alarm(PATIENCE_S)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    found: list[bytes] = []
    with Workers(3, obeying) as pool:
        pool.ask_all(b"pid", found.append)
        pool.submit(b"hang", (), found.append)
        pool.submit(b"hang", (), found.append)
        pids.with_suffix(".tmp").write_bytes(b" ".join(found))
        pids.with_suffix(".tmp").rename(pids)
        pool.drain()


def limits(connection: Connection) -> None:
    """Send requests of the largest size with the most descriptors, many in flight."""
    (directory,) = connection.recv()
    fd = os.open(directory, os.O_RDONLY)
    replies: list[bytes] = []
    with Workers(2, obeying) as pool:
        for _ in range(20):
            pool.submit(b"inodes ".ljust(REQUEST_MAX), [fd] * DESCRIPTORS_MAX, replies.append)
        pool.drain()
        pool.ask_all(b"open", replies.append)
    connection.send(replies)


def lead_in_trouble(connection: Connection) -> None:
    """Make and end a pool where SIGCHLD is ignored, or children are interrupted once forked."""
    signal.alarm(PATIENCE_S)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fork = os.fork

    def interrupted() -> int:
        pid = fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return pid

    if connection.recv() == "interrupted":
        os.fork = interrupted
    else:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    replies: list[bytes] = []
    with Workers(2, obeying) as pool:
        pool.ask_all(b"pid", replies.append)
    connection.send(len(set(replies)))
