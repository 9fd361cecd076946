"""Makes trees with everything a file system can hold, in a mounted one. Needs root."""

import os
import random
import socket
import subprocess
from pathlib import Path

FINE = {"user.comment": b"short", "user.empty": b"", "trusted.binary": bytes(range(256))}


def names(top: Path) -> None:
    """Make names of any bytes and any length, and links."""
    place = os.fsencode(top / "names")
    os.mkdir(place)
    for byte in range(1, 256):
        if byte not in b"/.":
            (Path(os.fsdecode(place + b"/" + bytes([byte])))).write_bytes(bytes([byte]))
    Path(os.fsdecode(place + b"/" + b"\xff" * 255)).write_text("long")
    Path(top / "one").write_text("linked")
    os.link(top / "one", top / "names" / "two")
    for count in (1, 10, 59, 60, 61, 100, 300, 1000, 1020):
        os.symlink("t" * count, top / f"link{count}")


def attributes(top: Path, last: tuple[int, int] = (4095, 1048575)) -> None:
    """Make files of many owners, modes, times and types."""
    times = (0, 1, -1, -1_500_000_001, -(1 << 31) * 10**9, (1 << 31) * 10**9 + 5, 5 * 10**18 + 7)
    for index, time_ns in enumerate(times):
        (top / f"time{index}").touch()
        os.utime(top / f"time{index}", ns=(time_ns, time_ns))
    for index, owner in enumerate((0, 65535, 65536, 3_000_000_000, 4_294_967_294)):
        (top / f"owner{index}").touch()
        os.chown(top / f"owner{index}", owner, owner // 3)
    for mode in (0, 0o4755, 0o2711, 0o1777, 0o7777, 0o644):
        (top / f"mode{mode:o}").touch()
        os.chmod(top / f"mode{mode:o}", mode)
    for major, minor in ((1, 3), (255, 255), (256, 1), (8, 256), (300, 70000), last):
        os.mknod(top / f"c{major}-{minor}", 0o020600, os.makedev(major, minor))
        os.mknod(top / f"b{major}-{minor}", 0o060640, os.makedev(major, minor))
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        old = os.getcwd()
        os.chdir(top)
        try:
            listener.bind("socket")
        finally:
            os.chdir(old)


def xattrs(
    top: Path, sizes: tuple[int, ...] = (3, 300, 1500, 3000), counts: tuple[int, ...] = (1, 5, 30)
) -> None:
    """Make extended attributes: few, many, large; access control lists; a capability."""
    for count in counts:
        path = top / f"xattrs{count}"
        path.write_text("x")
        for index in range(count):
            os.setxattr(path, f"user.n{index:04}", b"v" * index)
    for size in sizes:
        path = top / f"xattr-of-{size}"
        path.write_text("x")
        os.setxattr(path, "user.large", random.Random(size).randbytes(size))
        os.setxattr(path, "trusted.name", b"t")
    for name, value in FINE.items():
        os.setxattr(top / "xattrs1", name, value)
    (top / "capable").write_text("c")
    subprocess.run(["setcap", "cap_net_raw+ep", top / "capable"], check=True)
    (top / "listed").mkdir()
    acl = "u:5:r,u:3000000000:rwx,g:7:x,m::rx"
    subprocess.run(["setfacl", "-m", acl, top / "listed", top / "capable"], check=True)
    subprocess.run(["setfacl", "-d", "-m", acl, top / "listed"], check=True)
    (top / "listed" / "heir").write_text("h")
    os.symlink("nowhere", top / "link-with")
    os.setxattr(top / "link-with", "trusted.of", b"the link", follow_symlinks=False)


def contents(top: Path) -> None:
    """Make files of many sizes, sparse and fragmented ones."""
    rng = random.Random(1)
    for size in (0, 1, 59, 60, 61, 100, 150, 1023, 1024, 4095, 4096, 4097, 70_000, 3_000_000):
        (top / f"size{size}").write_bytes(rng.randbytes(size))
    with (top / "sparse").open("wb") as file:
        for at in (5000, 1 << 20, 9 << 20, 100 << 20):
            file.seek(at)
            file.write(rng.randbytes(6000))
        file.truncate(1 << 30)
    with (top / "hole").open("wb") as file:
        file.truncate(123_456_789)
    with (top / "fragmented").open("wb") as file, (top / "fragmented2").open("wb") as other:
        for index in range(3000):
            for each in (file, other):
                os.pwrite(each.fileno(), rng.randbytes(1000), index * 8192 + 3)
            if index % 100 == 0:
                os.fsync(file.fileno())


def preallocated(top: Path) -> None:
    """Make unwritten extents: around data, past the end, and punched holes."""
    with (top / "unwritten").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
        os.pwrite(file.fileno(), b"middle" * 1000, 300_000)
    (top / "beyond").touch()
    subprocess.run(["fallocate", "-n", "-l", "2M", top / "beyond"], check=True)
    with (top / "beyond").open("r+b") as file:
        file.write(b"only these")
    with (top / "punched").open("wb") as file:
        file.write(random.Random(2).randbytes(2_000_000))
        file.flush()
        os.fsync(file.fileno())
    for at in range(0, 2_000_000, 65536):
        subprocess.run(
            ["fallocate", "-p", "-o", str(at), "-l", "10000", top / "punched"], check=True
        )


def directories(top: Path, count: int = 3000) -> None:
    """Make a wide directory with gaps, a deep one, and one with long names."""
    (top / "wide").mkdir()
    for index in range(count):
        (top / "wide" / f"file{index:06}").touch()
    for index in range(0, count, 3):
        (top / "wide" / f"file{index:06}").unlink()
    (top / "long").mkdir()
    for index in range(300):
        (top / "long" / (f"{index:03}" + "n" * (index % 250))).mkdir()
    deep = top
    for _ in range(60):
        deep /= "deeper"
        deep.mkdir()
    (deep / "bottom").write_text("bottom")


def everything(top: Path) -> None:
    """Make all of the above that every file system can hold."""
    names(top)
    attributes(top)
    xattrs(top)
    contents(top)
    directories(top)
