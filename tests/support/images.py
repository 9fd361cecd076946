"""Disk images made by QEMU's tools, and comparisons with what these tools read."""

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from ventifs.image.disk import Disk, ImageError
from ventifs.image.formats import qcow2_bitmap as bitmap
from ventifs.image.formats.advice import Following
from ventifs.image.formats.open_disk import open_disk
from ventifs.image.formats.qcow2 import Qcow2Disk
from ventifs.image.formats.qcow2_header import parse
from ventifs.image.formats.raw import RawDisk
from ventifs.image.formats.readers import open_foreign
from ventifs.image.formats.references import References

KIB, MIB = 1 << 10, 1 << 20


def qemu_img(*arguments: str | Path) -> str:
    """Run qemu-img; return its output."""
    command = ["qemu-img", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


def qemu_io(image: Path, *commands: str, kind: str = "") -> None:
    """Write to an image as a guest would; `kind` is its format, which is probed if not given."""
    words = [word for text in commands for word in ("-c", text)]
    command = ["qemu-io", *(("-f", kind) if kind else ()), *words, str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stdout + done.stderr
    assert "failed" not in done.stdout, done.stdout


def add_bitmap(image: Path, name: str, granularity: int = bitmap.GRANULARITY) -> None:
    """Add a dirty bitmap to an image."""
    with closing(RawDisk(str(image))) as file:
        bitmap.add(file, name, granularity)


def remove_bitmap(image: Path, name: str) -> None:
    """Remove a dirty bitmap of an image."""
    with closing(RawDisk(str(image))) as file:
        bitmap.remove(file, name)


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
    """Open an image in its format; files that it refers to may lie in its own directory."""
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
    """All bytes of a disk, read in steps that match no boundary of a format."""
    return b"".join(
        disk.read(offset, min(step, disk.size - offset)) for offset in range(0, disk.size, step)
    )


def bytes_by_spans(disk: Disk, start: int = 0, end: int | None = None) -> bytes:
    """A range of a disk, read only in spans with data; also checks the spans."""
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


class Beside:
    """A `ReferenceOpener` that opens what lies beside the image that names it."""

    def open(self, name: bytes, layer: RawDisk) -> RawDisk:
        return RawDisk(os.path.join(os.path.dirname(layer.label), os.fsdecode(name)))


def read_here(image: Path, kind: str) -> Disk:
    """Open an image in a format, whatever its name; files beside it may be opened."""
    file = RawDisk(str(image))
    if kind == "raw":
        return file
    if kind != "qcow2":
        return open_foreign(file, kind, Beside())
    header = parse(file.read_upto, file.label)
    data = Beside().open(header.data_file, file) if header.external else None
    return Qcow2Disk(file, header, data=data)


def assert_read_as_by_qemu(image: Path, kind: str, driver: str) -> None:
    """Compare a disk with what QEMU reads in it, byte by byte, and check its spans.

    Holes of both are skipped, so that disks of any size can be compared.
    """
    out = image.with_name(image.name + ".by-qemu")
    qemu_img("convert", "-f", driver, "-O", "raw", image, out)
    theirs, disk = RawDisk(str(out)), read_here(image, kind)
    try:
        assert disk.size == theirs.size, f"{disk.size} bytes, {theirs.size} by QEMU"
        at = 0
        for span in disk.spans(0, disk.size):
            assert span.start == at < span.end
            at = span.end
            for part in theirs.spans(span.start, span.end):
                if span.data or part.data:
                    _assert_equal(disk, theirs, part.start, part.end, data=span.data)
        assert at == disk.size
    finally:
        disk.close()
        theirs.close()
        out.unlink()


def _assert_equal(disk: Disk, theirs: Disk, start: int, end: int, *, data: bool) -> None:
    for at in range(start, end, 4 * MIB):
        length = min(4 * MIB, end - at)
        found, expected = disk.read(at, length), theirs.read(at, length)
        if found != expected:
            first = next(i for i in range(length) if found[i] != expected[i])
            raise AssertionError(
                f"at {at + first}: {found[first:][:8]!r}, QEMU has {expected[first:][:8]!r}"
            )
        assert data or not found.strip(b"\0"), f"not zeros at {at}, where no data should be"


def mutations(whole: bytes, count: int, seed: int = 7) -> Iterator[bytes]:
    """Copies of an image with changes to its metadata, some of them cut off."""
    chance = random.Random(seed)
    meta = [at for at in range(0, len(whole), 16) if whole[at : at + 16].strip(b"\0")]
    last = meta[-40:]
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            at = chance.choice(chance.choice((meta[:40], meta[:400], last))) + chance.randrange(16)
            some = chance.choice((chance.randbytes(4), b"\xff" * 4, bytes(4), b"\0\0\0\1"))
            data[at : at + 4] = some
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        yield bytes(data[: len(whole)])


def read_or_refuse(image: Path, kind: str) -> bool:
    """Read the beginning, the end and some spans of a disk; return whether all could be read.

    The only error may be an `ImageError` of one line.
    """
    disk = None
    try:
        disk = read_here(image, kind)
        disk.read(0, min(disk.size, MIB))
        disk.read(disk.size - min(disk.size, MIB), min(disk.size, MIB))
        for span in islice(disk.spans(0, disk.size), 1000):
            if span.data:
                disk.read(span.start, min(MIB, span.end - span.start))
    except ImageError as error:
        line = str(error)
        assert "\n" not in line, line
        return False
    finally:
        if disk is not None:
            disk.close()
    return True
