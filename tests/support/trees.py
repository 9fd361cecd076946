"""Small directory trees with all the unusual files that a guest root may hold."""

import os
import random
import socket
import stat
import struct
import subprocess
from pathlib import Path

from ventifs.store import Store
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.tally import Tally
from ventifs.tree.versions.catalog import Version

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
ACL = b"\2\0\0\0" + b"".join(
    struct.pack("<HHI", tag, perm, who)
    for tag, perm, who in [
        (1, 6, 2**32 - 1),
        (2, 6, 1000),
        (4, 4, 2**32 - 1),
        (16, 6, 2**32 - 1),
        (32, 4, 2**32 - 1),
    ]
)


def noise(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def archived(
    store: Path, source: Path, name: str = "t", *, time_ns: int | None = None
) -> tuple[Version, Tally]:
    """Archive a directory into a store."""
    with Store.open(store, "write") as opened:
        return archive(opened, DirectorySource(source), name, time_ns=time_ns)


def remove(path: Path) -> None:
    """Remove a tree of any depth; Python's rmtree fails on deep ones."""
    subprocess.run(["rm", "-rf", path], check=True)


def settle(root: Path) -> None:
    """Set the mtime of everything to one that depends on its path alone."""
    for directory, names, files in os.walk(os.fsencode(root), topdown=False):
        for name in [*files, *names, b""]:
            path = os.path.join(directory, name) if name else directory
            told = int.from_bytes(os.path.relpath(path, os.fsencode(root))[-7:], "big")
            linked = not stat.S_ISDIR(os.lstat(path).st_mode) and os.lstat(path).st_nlink > 1
            told = 7 if linked else told
            os.utime(path, ns=(0, told), follow_symlinks=False)


def plain_tree(root: Path, *, backwards: bool = False) -> Path:
    """Make what any user can make and read, in one order or the reverse."""
    root.mkdir(parents=True)

    def sparse() -> None:
        with (root / "sparse").open("wb") as file:
            file.write(noise(4096))
            file.seek(1 << 20)
            file.write(noise(10_000, 1))
            file.truncate(8 << 20)

    def raw_names() -> None:
        for name in (b"\xff\xfe", b"new\nline", b"n" * 255, b"\xc3\xa9", b" ", b"-rf", b"a\\b"):
            with open(os.fsencode(root) + b"/" + name, "wb") as file:
                file.write(name * 3)

    def links() -> None:
        (root / "links" / "in").mkdir(parents=True)
        (root / "links" / "b").write_bytes(b"linked" * 100)
        os.link(root / "links" / "b", root / "links" / "in" / "a")
        os.link(root / "links" / "b", root / "links" / "c")

    def symlinks() -> None:
        for name, target in [
            ("dangling", "no/where"),
            ("absolute", "/etc/passwd"),
            ("parent", ".."),
            ("long", "x" * 3900),
        ]:
            (root / name).symlink_to(target)

    def modes() -> None:
        closed = 0o000 if os.geteuid() == 0 else 0o500  # closed to all but its owner
        for mode in (0o4755, 0o2711, 0o1777, closed, 0o444):
            (root / f"file{mode:o}").write_bytes(b"m")
            (root / f"file{mode:o}").chmod(mode)
            (root / f"dir{mode:o}").mkdir()
            (root / f"dir{mode:o}").chmod(mode)

    def sizes() -> None:
        for size in (0, 1, 32, 33, 4096, 4097, 65536, 65537, 300_000):
            (root / f"size{size}").write_bytes(noise(size, size))
        (root / "zeros").write_bytes(bytes(100_000))
        (root / "empty").mkdir()

    makers = [sparse, raw_names, links, symlinks, modes, sizes]
    for make in reversed(makers) if backwards else makers:
        make()
    return root


def odd_tree(root: Path) -> Path:
    """Make all of `plain_tree`, and what only root can make."""
    plain_tree(root)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 300))
    os.mkfifo(root / "fifo", 0o640)
    os.link(root / "fifo", root / "empty" / "fifo too")
    with socket.socket(socket.AF_UNIX) as listening:
        fd = os.open(root, os.O_PATH)
        listening.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
    owned = root / "owned"
    owned.write_bytes(b"\x7fELF")
    os.chown(owned, 1234, 2**32 - 3)
    owned.chmod(0o6755)
    os.setxattr(owned, "security.capability", CAPABILITY)
    os.setxattr(owned, "system.posix_acl_access", ACL)
    os.setxattr(root / "empty", "system.posix_acl_default", ACL)
    for number in range(20):
        os.setxattr(root / "size33", f"user.n{number}", noise(40, number))
    os.setxattr(root, "user.root", b"of the root")
    os.setxattr(root / "size1", "user.empty", b"")
    os.setxattr(root / "dangling", "trusted.of-a-link", b"1", follow_symlinks=False)
    os.chown(root / "absolute", 5, 6, follow_symlinks=False)
    os.utime(root / "size0", ns=(0, -1_234_567_890_123_456_789))
    os.utime(root / "size1", ns=(0, 4_000_000_000_999_999_999))
    os.utime(root / "dangling", ns=(0, 123_456_789), follow_symlinks=False)
    os.utime(root / "empty", ns=(0, 1))
    return root


def copied(source: Path, target: Path) -> Path:
    """Copy a tree by cp, which keeps everything."""
    subprocess.run(["cp", "-a", "--sparse=always", source, target], check=True)
    return target
