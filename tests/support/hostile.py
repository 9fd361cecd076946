"""Hostile names and texts in a tree, in the records of a store, on a disk and from a 9P server.

`NAME` holds everything that can fool a terminal, a log or a person, as a file's name; `TEXT` holds
the same as text.
"""

import os
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

import trio
from msgspec.structs import replace

from tests.support.forging import directory, directory_of, file
from ventifs.image.disk_facts import DISK, MARK, Facts, VolumeFacts, encode_facts
from ventifs.ninep.protocol.codec import HEADER_SIZE, MessageCodec
from ventifs.ninep.protocol.messages import (
    NONUNAME,
    Dialect,
    Message,
    Rattach,
    Rclunk,
    Rerror,
    Ropen,
    Rread,
    Rstat,
    Rversion,
    Rwalk,
    Stat,
    Tattach,
    Tclunk,
    Topen,
    Tread,
    Tstat,
    Tversion,
    Twalk,
)
from ventifs.ninep.protocol.wire import QTDIR, Qid
from ventifs.ninep.session.stat_records import DMDIR
from ventifs.store import Store
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.records import Empty, Entry, Tree
from ventifs.tree.versions.catalog import Version, encode_version, version_key

TEXT = (
    "a\x1b]52;c;ZXZpbA==\x07\x1b[31m\x1b[2J\x9b1m\r\n\t\b\x7f\x85\u202e\u2066\u200f\u200b\u2028"
    "\ufeff\u00a0\\z"
)
NAME = TEXT.encode() + b"\xff\xed\xa0\x80"


def tree(top: Path) -> None:
    """Make a tree with such names, links, attributes and users."""
    top.mkdir()
    base = os.fsencode(top) + b"/"
    os.makedirs(base + NAME + b"/below" + NAME)
    for path in (NAME + b"/file", b"file" + NAME):
        with open(base + path, "wb") as opened:
            opened.write(NAME)
    os.symlink(NAME, base + b"link" + NAME)
    os.mkfifo(base + b"fifo" + NAME)
    (top / "etc").mkdir()
    for name in "passwd", "group":
        (top / "etc" / name).write_bytes(b"evil" + NAME.replace(b"\n", b"") + b":x:1000:1000:::\n")
    with suppress(OSError):
        os.setxattr(base + b"file" + NAME, b"user." + NAME[:200], b"1")
    os.mknod(base + b"socket" + NAME, stat.S_IFSOCK | 0o644)


def version(store: Store, name: str, root: Entry) -> None:
    """Commit a version whose record has such text in every text field."""
    made = Version(
        name,
        10**18,
        root,
        TEXT,
        TEXT,
        (TEXT, "tag"),
        5,
        1.5,
        ((NAME, TEXT, True), (b"etc", TEXT, False)),
        3,
    )
    store.commit([(version_key(name, made.time_ns), encode_version(made))])


def disk(store: Store) -> Entry:
    """The root of a disk's version whose labels, titles and notes are such text."""
    volume = VolumeFacts(
        name=TEXT,
        start=0,
        size=512,
        type=TEXT,
        title=TEXT,
        filesystem=TEXT,
        uuid=TEXT,
        label=f"label {TEXT}",
        notes=(TEXT,),
    )
    facts = Facts(
        size=512, volumes=(volume, replace(volume, logical=True)), notes=(TEXT,), free_dropped=True
    )
    root = directory(store, b"", [file(DISK, Empty())])
    return replace(root, xattrs=ContentWriter(store).write_xattrs(((MARK, encode_facts(facts)),)))


def damaged(store: Store) -> Entry:
    """A root with a directory and a file whose blocks are missing."""
    lost = Tree(bytes(32), 1)
    return directory(store, b"", [file(b"lost" + NAME, lost), directory_of(NAME, lost, 1, 1)])


def image(path: Path) -> None:
    """Make a disk image whose label holds escape sequences."""
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-L", "\x1b[31m\r\n\u202e", path, "1M"],
        check=True,
        capture_output=True,
    )


def overlay(path: Path) -> None:
    """Make an image whose backing file has such a name."""
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", NAME, "-F", "raw", path, "1M"],
        check=True,
        capture_output=True,
    )


class Server:
    """A 9P2000 server of one directory, which sends `NAME` wherever it can.

    A walk to `bad` fails, and so does an attach to `refused`; the directory `sub` cannot be
    opened.
    """

    def __init__(self, *, speaks: bool = True) -> None:
        """Serve; unless it `speaks` 9P2000, it answers Tversion with the version `NAME`."""
        self._version = b"9P2000" if speaks else NAME
        self._codec = MessageCodec.of(Dialect.PLAIN)
        self._fids: dict[int, bytes] = {}

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Answer a client until it disconnects."""
        data = bytearray()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while more := await stream.receive_some(1 << 16):
                data += more
                while len(data) >= HEADER_SIZE and len(data) >= (
                    size := int.from_bytes(data[:4], "little")
                ):
                    tag, request = self._codec.decode(bytes(data[:size]))
                    del data[:size]
                    await stream.send_all(self._codec.encode(self._answer(request), tag))

    def _answer(self, request: Message) -> Message:
        match request:
            case Tversion(msize, _):
                return Rversion(msize, self._version)
            case Tattach(fid, _, _, aname) if aname != b"refused":
                self._fids[fid] = b""
                return Rattach(_qid(b""))
            case Twalk(_, _, names) if b"bad" in names:
                return Rerror(NAME, 0)
            case Twalk(fid, newfid, names):
                names = tuple(name for name in names if name)
                self._fids[newfid] = names[-1] if names else self._fids[fid]
                return Rwalk(tuple(_qid(name) for name in names))
            case Topen(fid) if self._fids[fid] != b"sub":
                return Ropen(_qid(self._fids[fid]), 0)
            case Tread(fid, offset, _) if not self._fids[fid]:
                whole = b"".join(
                    self._codec.encode_record(_stat(name)) for name in (NAME, b"bad", b"sub")
                )
                return Rread(whole[offset:])
            case Tread(_, offset, _):
                return Rread(NAME[offset:])
            case Tstat(fid):
                return Rstat(_stat(self._fids[fid]))
            case Tclunk():
                return Rclunk()
        return Rerror(NAME, 0)


def _qid(name: bytes) -> Qid:
    return Qid(QTDIR if name in (b"", b"sub") else 0, 0, len(name))


def _stat(name: bytes) -> Stat:
    mode = DMDIR | 0o755 if name in (b"", b"sub") else 0o644
    length = 0 if mode & DMDIR else len(NAME)
    return Stat(
        0,
        0,
        _qid(name),
        mode,
        0,
        0,
        length,
        name or b"/",
        NAME,
        NAME,
        NAME,
        b"",
        NONUNAME,
        NONUNAME,
        NONUNAME,
    )
