"""Disk images made by QEMU's own tools, and what they say is in them."""

import os
import random
import subprocess
from pathlib import Path

from ventifs.image.advice import Following
from ventifs.image.disk import Disk
from ventifs.image.opening import open_disk
from ventifs.image.references import References

KIB, MIB = 1 << 10, 1 << 20


def qemu_img(*arguments: str | Path) -> str:
    """Run qemu-img; what it prints."""
    command = ["qemu-img", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


def qemu_io(image: Path, *commands: str) -> None:
    """Write to an image as a guest would."""
    command = ["qemu-io", *(word for text in commands for word in ("-c", text)), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stdout + done.stderr
    assert "failed" not in done.stdout, done.stdout


def mixture(size: int, seed: int = 1) -> bytes:
    """Bytes of a disk: noise, text that compresses, and zeros, in stretches of odd lengths."""
    chance = random.Random(seed)
    parts: list[bytes] = []
    while sum(map(len, parts)) < size:
        length = chance.randrange(1, 200 * KIB)
        kind = chance.randrange(3)
        text = b"%d lines of it\n" % chance.randrange(1000)
        parts.append(
            chance.randbytes(length)
            if kind == 0
            else bytes(length)
            if kind == 1
            else (text * length)[:length]
        )
    return b"".join(parts)[:size]


def raw_image(path: Path, size: int = 3 * MIB, seed: int = 1) -> Path:
    """A raw image of `mixture`."""
    path.write_bytes(mixture(size, seed))
    return path


def opened(image: Path, kind: str = "qcow2", beneath: Path | None = None) -> Disk:
    """An image opened as what it is; files it refers to may lie in its own directory."""
    following = Following((os.fsencode(beneath or image.absolute().parent),))
    return open_disk(image, kind, References(following))


def bytes_by_qemu(image: Path, kind: str) -> bytes:
    """The disk in an image, as QEMU reads it."""
    out = image.with_name(image.name + ".by-qemu")
    qemu_img("convert", "-f", kind, "-O", "raw", image, out)
    data = out.read_bytes()
    out.unlink()
    return data


def bytes_of(disk: Disk, step: int = 100_003) -> bytes:
    """All of a disk, in reads that follow nobody's boundaries."""
    return b"".join(
        disk.read(offset, min(step, disk.size - offset)) for offset in range(0, disk.size, step)
    )


def bytes_by_spans(disk: Disk, start: int = 0, end: int | None = None) -> bytes:
    """A range of a disk, read only where it says there is data; checks the spans, too."""
    end = disk.size if end is None else end
    parts: list[bytes] = []
    at = start
    for span in disk.spans(start, end):
        assert span.start == at < span.end
        at = span.end
        length = span.end - span.start
        parts.append(disk.read(span.start, length) if span.data else bytes(length))
    assert at == end
    return b"".join(parts)
