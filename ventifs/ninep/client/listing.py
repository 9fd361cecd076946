"""Lists the directories of a server, with attributes, for users to read.

Requests the attributes of many files at a time, within the limits of fid.py. A directory within
itself, or too deep, is not entered. Never prints: it passes each file to a callback, one directory
at a time.
"""

import errno
import os
import stat
from collections.abc import Callable

import msgspec
import trio

from ventifs.errors import VentifsError
from ventifs.ninep.client.attributes import Status
from ventifs.ninep.client.checks import RemoteError, Violation
from ventifs.ninep.client.client import Client
from ventifs.ninep.client.fid import ClientFid, ListedFile
from ventifs.ninep.client.rpc import Disconnected
from ventifs.ninep.protocol.messages import Dialect

DEPTH_MAX = 200  # nested directories; download.py holds a descriptor and a fid for each
_TOGETHER = 32  # files whose attributes are requested at a time


class FoundFile(msgspec.Struct, frozen=True):
    """A file of the server.

    Attributes:
        path: relative to where the survey began; the file's name if that is no directory.
        status: its attributes.
        target: of a symbolic link, else empty.
    """

    path: bytes
    status: Status
    target: bytes = b""


Tell = Callable[[FoundFile], object]
Trouble = Callable[[bytes, str], object]


def reason_of(error: RemoteError) -> str:
    """Why a file could not be read, and for a tree of its own, such as a live one, what to do."""
    advice = "; it is a tree of its own: attach to it by --aname"
    return f"{error}{advice}" if error.errno == errno.EXDEV else str(error)


async def survey(
    client: Client, path: bytes, tell: Tell, trouble: Trouble, *, recursive: bool = False
) -> None:
    """Report the files of a directory, sorted by name, or a single file.

    Args:
        client: attached to a server.
        path: where to begin.
        tell: called with each file; with `recursive`, with a directory before its contents.
        trouble: called with (path, reason) of what could not be read or was not entered.
        recursive: whether to enter the directories below, too.

    Raises:
        RemoteError: when there is nothing at the path, or it may not be read.
        VentifsError: when the connection is lost, or a directory has too many names.
    """
    async with await client.walk(path) as fid:
        status = await fid.status()
        if not stat.S_ISDIR(status.mode):
            tell(FoundFile(os.path.basename(path.rstrip(b"/")), status, await _target(fid, status)))
            return
    waiting: list[tuple[bytes, tuple[int, ...]]] = [(b"", (status.qid.path,))]
    while waiting:
        below, above = waiting.pop()
        try:
            found = await _directory(client, path, below, trouble)
        except RemoteError as error:
            if not below:
                raise
            trouble(below, reason_of(error))
            continue
        entered = []
        for each in found:
            tell(each)
            if recursive and stat.S_ISDIR(each.status.mode):
                if each.status.qid.path in above or len(above) == DEPTH_MAX:
                    trouble(each.path, "a directory within itself, or too deep; not entered")
                else:
                    entered.append((each.path, (*above, each.status.qid.path)))
        waiting += reversed(entered)


async def _directory(
    client: Client, path: bytes, below: bytes, trouble: Trouble
) -> list[FoundFile]:
    found: list[FoundFile] = []
    fatal: list[VentifsError] = []
    async with await client.walk(path + b"/" + below) as directory:
        async with await directory.walk() as reading:
            await reading.open()
            entries = sorted(await reading.entries(), key=lambda entry: entry.name)
        waiting = list(reversed(entries))

        async def worker(scope: trio.CancelScope) -> None:
            while waiting:
                entry = waiting.pop()
                at = below + b"/" + entry.name if below else entry.name
                try:
                    found.append(await _look(client, directory, entry, at))
                except RemoteError as error:
                    trouble(at, reason_of(error))
                except (Disconnected, Violation) as error:
                    fatal.append(error)
                    scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(min(_TOGETHER, len(waiting))):
                nursery.start_soon(worker, nursery.cancel_scope)
        if fatal:
            raise fatal[0]
    return sorted(found, key=lambda each: each.path)


async def _look(client: Client, directory: ClientFid, entry: ListedFile, path: bytes) -> FoundFile:
    if entry.status is not None and client.dialect is not Dialect.LINUX:
        return FoundFile(path, entry.status, entry.status.target or b"")
    async with await directory.walk(entry.name) as fid:
        status = await fid.status()
        return FoundFile(path, status, await _target(fid, status))


async def _target(fid: ClientFid, status: Status) -> bytes:
    return await fid.readlink() if stat.S_ISLNK(status.mode) else b""
