"""An archived tree through a real session, in each dialect: all that the dialect can carry.

And what diod's and plan9port's own tools send, message by message, read from their sources.
"""

import errno
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair

from tests.support.answering import answer
from tests.support.clock import Clock
from tests.support.trees import archived, odd_tree, plain_tree, remove
from ventifs.buffer import joined
from ventifs.ninep.client.client import Client
from ventifs.ninep.client.fid import ClientFid
from ventifs.ninep.protocol.codec import HEADER, HEADER_SIZE, MessageCodec
from ventifs.ninep.protocol.messages import (
    NOFID,
    NONUNAME,
    NOTAG,
    Dialect,
    Message,
    Rattach,
    Rclunk,
    Rerror,
    Rlerror,
    Rread,
    Rreaddir,
    Rstat,
    Rversion,
    Rwalk,
    Tattach,
    Tauth,
    Tclunk,
    Tgetattr,
    Tlopen,
    Topen,
    Tread,
    Treaddir,
    Tstat,
    Tversion,
    Twalk,
)
from ventifs.ninep.session.session import NinepSession
from ventifs.store import Store
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.served_versions import Split

P, U, L = Dialect.PLAIN, Dialect.UNIX, Dialect.LINUX
TIME_MAX = 2**32 - 2


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    tree = tmp_path_factory.mktemp("dialects") / "tree"
    (odd_tree if os.geteuid() == 0 else plain_tree)(tree)
    yield tree
    remove(tree)


@pytest.fixture(scope="module")
def files(tree: Path) -> Iterator[ArchiveFilesystem]:
    """The tree archived as `t`."""
    Store.create(tree.parent / "s")
    archived(tree.parent / "s", tree)
    split = Split.of(64 << 20)
    with Store.open(tree.parent / "s", cache_bytes=split.clumps) as store:
        yield ArchiveFilesystem(store, split, clock=Clock())


def through(
    files: ArchiveFilesystem,
    dialect: Dialect,
    use: Callable[[Client], Awaitable[Any]],
    msize: int = 8192,
) -> Any:
    """What a client of the tree finds."""
    found: list[Any] = []

    async def main() -> None:
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, NinepSession(files), theirs)
            async with Client.connect(
                ours, dialect=dialect, aname=b"t", msize=msize, user=b"root", uid=0
            ) as client:
                found.append(await use(client))

    trio.run(main)
    return found[0]


async def walk(client: Client, fid: ClientFid, path: bytes = b"") -> dict[bytes, Any]:
    """Everything about every path: (status, content or target, attributes, qid)."""
    status = await fid.status()
    found: dict[bytes, Any] = {}
    content: list[bytes] = []
    xattrs: dict[bytes, bytes] = {}
    if client.dialect is L:
        xattrs = {name: await fid.xattr(name) for name in await fid.xattr_names()}
    if stat.S_ISLNK(status.mode):
        content.append(await fid.readlink())
    elif stat.S_ISREG(status.mode):
        async with await fid.walk() as reading:
            await reading.open()
            await reading.read_to(content.append)
    elif stat.S_ISDIR(status.mode):
        async with await fid.walk() as reading:
            await reading.open()
            entries = await reading.entries()
        for entry in entries:
            async with await fid.walk(entry.name) as below:
                assert below.qid == entry.qid
                inside = path + b"/" + entry.name if path else entry.name
                found |= await walk(client, below, inside)
    found[path] = (status, b"".join(content), xattrs)
    return found


def expected(path: bytes, dialect: Dialect) -> tuple[Any, ...]:
    """What a dialect can carry of a local path: mode, size, owner, mtime, rdev, content, xattrs."""
    there = os.lstat(path)
    mode, rdev, content, size = there.st_mode, 0, b"", 0
    if stat.S_ISREG(mode):
        content, size = Path(os.fsdecode(path)).read_bytes(), there.st_size
    elif stat.S_ISLNK(mode):
        content = os.readlink(path)
        size = len(content)
    elif stat.S_ISDIR(mode) and dialect is L:
        size = 4096
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        rdev = there.st_rdev
    mtime_ns, xattrs = there.st_mtime_ns, {}
    if dialect is L:
        names = os.listxattr(path, follow_symlinks=False)
        xattrs = {
            os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names
        }
    else:
        mtime_ns = min(max(mtime_ns // 10**9, 0), TIME_MAX) * 10**9
    if dialect is P:
        kind = stat.S_IFDIR if stat.S_ISDIR(mode) else stat.S_IFREG
        mode, rdev = kind | mode & 0o777, 0
    return mode, size, there.st_uid, there.st_gid, mtime_ns, rdev, content, xattrs


@pytest.mark.parametrize("msize", [4096, 1 << 20])
@pytest.mark.parametrize("dialect", [P, U, L])
def test_a_tree_comes_through(
    files: ArchiveFilesystem, tree: Path, dialect: Dialect, msize: int
) -> None:
    async def use(client: Client) -> dict[bytes, Any]:
        async with await client.walk(b"latest") as root:
            found = await walk(client, root)
        assert client.connection.fids.in_use == 1
        return found

    found = through(files, dialect, use, msize)
    paths = [b""]
    for at, directories, names in os.walk(os.fsencode(tree)):
        paths += [
            os.path.relpath(os.path.join(at, name), os.fsencode(tree))
            for name in directories + names
        ]
    assert sorted(found) == sorted(paths)
    groups: dict[int, set[int]] = {}
    for path, (status, content, xattrs) in found.items():
        at = os.path.join(os.fsencode(tree), path)
        seen = (
            status.mode,
            status.size,
            status.uid,
            status.gid,
            status.mtime_ns,
            status.rdev,
            content,
            xattrs,
        )
        assert seen == expected(at, dialect), path
        there = os.lstat(at)
        groups.setdefault(status.qid.path, set()).add(there.st_ino)
        if dialect is L:
            assert status.nlink == (1 if stat.S_ISDIR(there.st_mode) else there.st_nlink), path
        elif dialect is U and stat.S_ISREG(there.st_mode):
            assert status.nlink == there.st_nlink, path
        else:
            assert status.nlink == 1
        if dialect is not L:
            assert status.name == (path.rpartition(b"/")[2] or status.name)
    assert all(len(inodes) == 1 for inodes in groups.values())
    assert len(groups) == len(set.union(*groups.values()))


# What others' tools send


class Speaker:
    """Says one message at a time to a session, as simple clients do."""

    def __init__(self, files: ArchiveFilesystem, dialect: Dialect) -> None:
        self.session = NinepSession(files)
        self.codec = MessageCodec.of(dialect)

    def __call__(self, request: Message, tag: int = 0) -> Any:
        """The reply, which is the only one and has the tag."""
        self.session.receive(self.codec.encode(request, tag))
        replies = b""
        for _ in range(1000):
            replies += joined(self.session.turn())
            for job in self.session.loads():
                try:
                    self.session.finish(job, job.run())
                except Exception as error:
                    self.session.finish(job, error=error)
            if not self.session.more and not self.session.in_flight:
                break
        assert HEADER.unpack_from(replies.ljust(HEADER_SIZE))[0] == len(replies)
        found, reply = self.codec.decode(replies)
        assert found == tag
        return reply


def diod(files: ArchiveFilesystem, aname: bytes) -> Speaker:
    """npc_start, npc_auth and npc_attach: tag and fid numbers begin at 0 and are used again."""
    say = Speaker(files, L)
    assert say(Tversion(65536, b"9P2000.L"), NOTAG) == Rversion(65536, b"9P2000.L")
    assert say(Tauth(0, b"", aname, 0)) == Rlerror(errno.ENOENT)  # others end diod's tools
    assert isinstance(say(Tattach(0, NOFID, b"", aname, 0)), Rattach)
    return say


@pytest.mark.parametrize("names", [(), (b"links",)])
def test_diodls_long(files: ArchiveFilesystem, tree: Path, names: tuple[bytes, ...]) -> None:
    say = diod(files, b"t@latest")
    assert len(say(Twalk(0, 1, names)).wqids) == len(names)
    assert say(Tlopen(1, os.O_RDONLY)).iounit == 0
    assert stat.S_ISDIR(say(Tgetattr(1, 0x7FF)).mode)
    offset, listed = 0, []
    while (page := say(Treaddir(1, offset, 65512))) != Rreaddir(b""):
        for dirent in say.codec.dirents(page.data):
            offset = dirent.offset
            listed.append(dirent.name)
            assert len(say(Twalk(1, 2, (dirent.name,))).wqids) == 1  # of an open fid; `.`, too
            told = say(Tgetattr(2, 0x7FF))
            local = os.lstat(os.path.join(os.fsencode(tree), *names, dirent.name))
            if dirent.name not in (b".", b".."):
                assert (told.mode, told.mtime_sec) == (
                    local.st_mode,
                    local.st_mtime_ns // 10**9 & 2**64 - 1,
                )
            assert say(Tclunk(2)) == Rclunk()
    there = os.listdir(os.path.join(os.fsencode(tree), *names))
    assert sorted(listed) == sorted([b".", b"..", *there])
    assert say(Tclunk(1)) == Rclunk()
    assert say(Tclunk(0)) == Rclunk()


def test_diodls_of_a_file_and_of_nothing(files: ArchiveFilesystem) -> None:
    say = diod(files, b"t@latest")
    say(Twalk(0, 1, (b"size33",)))
    say(Tlopen(1, os.O_RDONLY))
    assert not stat.S_ISDIR(say(Tgetattr(1, 0x7FF)).mode)
    assert say(Tclunk(1)) == Rclunk()
    assert say(Twalk(0, 1, (b"size33",))).wqids
    assert say(Tgetattr(1, 0x7FF)).size == 33
    assert say(Tclunk(1)) == Rclunk()
    assert say(Twalk(0, 1, (b"nope",))) == Rlerror(errno.ENOENT)


@pytest.mark.parametrize("name", [b"size0", b"size65537", b"size300000"])
def test_diodcat(files: ArchiveFilesystem, tree: Path, name: bytes) -> None:
    say = diod(files, b"t@latest")
    say(Twalk(0, 1, (name,)))
    say(Tlopen(1, os.O_RDONLY))
    content = b""
    while data := say(Tread(1, len(content), 65512)).data:
        content += data
    assert content == (tree / os.fsdecode(name)).read_bytes()
    assert say(Tclunk(1)) == say(Tclunk(0)) == Rclunk()


def plan9port(files: ArchiveFilesystem, dialect: Dialect) -> Speaker:
    """fsmount: msize 8192; its earlier releases asked for .u."""
    say = Speaker(files, dialect)
    assert say(Tversion(8192, dialect.version), NOTAG) == Rversion(8192, dialect.version)
    assert isinstance(say(Tattach(0, NOFID, b"glenda", b"t@latest", NONUNAME)), Rattach)
    return say


@pytest.mark.parametrize("dialect", [P, U])
def test_9p_ls(files: ArchiveFilesystem, tree: Path, dialect: Dialect) -> None:
    say = plan9port(files, dialect)
    say(Twalk(0, 1, ()))
    assert say(Tstat(1)).stat.mode & 0x80000000
    assert say(Tclunk(1)) == Rclunk()
    assert say(Twalk(0, 1, ())) == Rwalk(())
    say(Topen(1, 0))
    listed, offset = [], 0
    while (page := say(Tread(1, offset, 8192 - 24))) != Rread(b""):
        offset += len(page.data)
        listed += [each.name for each in say.codec.stats(page.data)]
    assert sorted(listed) == sorted(os.listdir(os.fsencode(tree)))
    assert say(Tclunk(1)) == Rclunk()


@pytest.mark.parametrize("dialect", [P, U])
def test_9p_read_and_stat(files: ArchiveFilesystem, tree: Path, dialect: Dialect) -> None:
    say = plan9port(files, dialect)
    say(Twalk(0, 1, (b"links", b"in", b"a")))
    say(Topen(1, 0))
    content = b""
    while data := say(Tread(1, len(content), 4096)).data:
        content += data
    assert content == (tree / "links" / "b").read_bytes()
    say(Twalk(0, 2, (b"links", b"b")))
    told = say(Tstat(2))
    assert isinstance(told, Rstat)
    assert (told.stat.name, told.stat.length) == (b"b", len(content))
    assert say(Tclunk(2)) == Rclunk()
    missing = say(Twalk(0, 2, (b"nope",)))
    assert isinstance(missing, Rerror)
    assert missing.ename == b"No such file or directory"
