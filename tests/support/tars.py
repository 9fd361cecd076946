"""Tar streams for tests: by tarfile, member for member, and by common tar programs."""

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Literal

from ventifs.store import Store
from ventifs.tree.objects.content import read
from ventifs.tree.objects.directory import tree
from ventifs.tree.objects.records import Entry, RegularFile
from ventifs.tree.patterns import Patterns
from ventifs.tree.tar.importer import TarArchiver

END = bytes(1024)
PACKED = ("gzip", "xz", "zstd", "bzip2")


def member(
    name: str,
    data: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    to: str = "",
    pax: dict[str, str] | None = None,
    form: Literal[0, 1, 2] = 2,
    **fields: int,
) -> bytes:
    """One member's blocks; `form` is one of tarfile's: 0 ustar, 1 GNU, 2 pax."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mtime = kind, to, len(data), 0
    info.pax_headers = pax or {}
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(form) + data + bytes(-len(data) % 512)


def with_fields(block: bytes, fields: dict[int, bytes]) -> bytes:
    """A member with other bytes at some offsets of its header, and a matching checksum."""
    head = bytearray(block[:512])
    for at, data in {**fields, 148: b" " * 8}.items():
        head[at : at + len(data)] = data
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + block[512:]


def directory(name: str, *, mode: int = 0o755, uid: int = 0, mtime: int = 0) -> bytes:
    return member(name, kind=tarfile.DIRTYPE, mode=mode, uid=uid, mtime=mtime)


def link(name: str, target: str) -> bytes:
    return member(name, kind=tarfile.LNKTYPE, to=target)


def packed(data: bytes, command: str) -> bytes:
    """The data, compressed by a command such as gzip."""
    return subprocess.run([command, "-c"], input=data, capture_output=True, check=True).stdout


def gnu_tar(source: Path, *options: str) -> bytes:
    """GNU tar's archive of a directory, with everything that it can store."""
    words = ["tar", "--format=posix", "--xattrs", "--xattrs-include=*", "-C", str(source)]
    done = subprocess.run([*words, *options, "-cf", "-", "."], capture_output=True, check=True)
    return done.stdout


def unpacked(data: bytes, target: Path, *command: str, **environment: str) -> str:
    """Unpack by a tar program, which must succeed; return its standard error."""
    target.mkdir()
    done = subprocess.run(
        [*command, "-xpf", "-", "-C", target],
        input=data,
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.decode()


def taken(store: Path, data: bytes, exclude: tuple[bytes, ...] = ()) -> tuple[Entry, TarArchiver]:
    """Archive a stream; return its root, and the archiver with its troubles."""
    with Store.open(store, "write") as opened:
        archiver = TarArchiver(opened, exclude=Patterns(exclude))
        return archiver.run(io.BytesIO(data)), archiver


def entries_of(store: Path, data: bytes) -> dict[bytes, Entry]:
    """Archive a stream without troubles; return every path with its entry."""
    root, archiver = taken(store, data)
    assert list(archiver.troubles) == []
    with Store.open(store) as opened:
        return {b"": root, **dict(tree(opened, root))}


def told(archiver: TarArchiver) -> list[tuple[bytes, bool]]:
    return [(path, missing) for path, _, missing in archiver.troubles]


def text(store: Path, entry: Entry) -> bytes:
    assert isinstance(entry.detail, RegularFile)
    with Store.open(store) as opened:
        return b"".join(bytes(piece) for piece in read(opened, entry.detail.content))
