"""Persistent dirty bitmaps of qcow2 images: what has been written since one was added.

This module reads bitmaps by the published format; QEMU's programs add and remove them ('qemu-img
bitmap'). These programs get a descriptor of the image that is open here. They can open no other
file, whatever the image's header names, and whatever its path leads to by now. A bitmap is trusted
only while QEMU trusts it: it is enabled, it was saved when the image was closed, and no program
that does not know bitmaps has written to the image.
"""

import json
import os
import re
import struct
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, Self

import msgspec

from ventifs.image.confinement import confined
from ventifs.image.confinement.confined import Given
from ventifs.image.confinement.landlock import NotConfined
from ventifs.image.disk import Disk, ImageError
from ventifs.image.formats.qcow2 import Qcow2Disk, numbers
from ventifs.image.formats.qcow2_header import OFFSET, damaged, parse
from ventifs.image.formats.raw import RawDisk
from ventifs.image.survey_events import Range
from ventifs.text import printable
from ventifs.tree.archive.read_batches import reason_of

GRANULARITY = 64 << 10  # of the bitmaps that `add` makes
_QCOW2 = ("-f", "qcow2")
_CPU_S = 600
_ENTRY = struct.Struct(">QIIBBHI")
_COUNT_MAX = 65535  # these limits are QEMU's,
_DIRECTORY_MAX = 64 << 20
_GRANULARITY_BITS = range(9, 32)
_TABLE_MAX = 1 << 20  # and this one is ours: entries, for 32 TiB at the least
_IN_USE, _AUTO, _EXTRA_COMPATIBLE = 1, 2, 4
_DIRTY_TRACKING = 1


class Bitmap(msgspec.Struct, frozen=True):
    """A dirty bitmap in an image.

    Attributes:
        granularity: bytes of the disk that each bit stands for.
        auto: whether it is enabled: writes are recorded in it.
        in_use: whether it was not saved when the image was last closed, or the image is open.
        known: whether it is a dirty bitmap without flags or extra data of unknown meaning.
        table: offset and number of entries of its table.
    """

    name: str
    granularity: int
    auto: bool
    in_use: bool
    known: bool
    table: tuple[int, int]

    @property
    def consistent(self) -> bool:
        """Whether ranges that are not dirty in it are known to be unchanged."""
        return self.auto and not self.in_use and self.known


def bitmaps(disk: Disk) -> list[Bitmap]:
    """The bitmaps of an image; empty if its header marks them as inconsistent.

    Raises:
        ImageError: their directory is damaged.
    """
    if not isinstance(disk, Qcow2Disk) or disk.header.bitmaps is None:
        return []
    return list(_BitmapDirectory(disk).entries())


def dirty(disk: Disk, name: str) -> list[Range] | None:
    """The ranges that may have changed since `add` added a bitmap; sorted, not touching.

    None if the image has no such bitmap, or it cannot be trusted. `add` sets the disk's last bit,
    and a resize clears it, which shows that the bitmap is no longer complete: no bitmap records
    what was cut off and came back empty. A bitmap covers the image itself, and not its backing
    files.

    Raises:
        ImageError: the bitmap is damaged.
    """
    found = [bitmap for bitmap in bitmaps(disk) if bitmap.name == name]
    if len(found) != 1 or not found[0].consistent:
        return None
    assert isinstance(disk, Qcow2Disk)
    changed = _united(_set_ranges(disk, found[0]))
    return changed if changed and changed[-1][1] == disk.size else None


def unchanged(disk: Disk, mark: bytes) -> list[Range] | None:
    """The ranges that have not changed since a bitmap was added; sorted, not touching.

    `mark` is the bitmap's name. None if that is unknown; see `dirty`.

    Raises:
        ImageError: the bitmap is damaged.
    """
    changed = dirty(disk, mark.decode(errors="replace"))
    return None if changed is None else _between(changed, disk.size)


def add(image: RawDisk, name: str, granularity: int = GRANULARITY) -> None:
    """Add a bitmap to an image that is not in use; it records all writes from now on.

    `image` stays open and is still the caller's to close. `granularity` is in bytes, a power of two
    from 512 to 2 GiB.

    Raises:
        ImageError: QEMU's tools failed; the message has their reason.
    """
    with _Tool(image, name) as tool, tempfile.TemporaryDirectory(prefix="ventifs-") as made:
        step = f"{granularity}"
        tool.run("qemu-img", "bitmap", "--add", "-g", step, tool.image, name)
        directory = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mark = confined.path(
                directory, b"mark"
            )  # an empty image of that size, whose bitmap has its last bit set
            write = f"write {max(0, tool.size - 512)} 512"
            apart = Given(within=[directory])
            tool.run("qemu-img", "create", *_QCOW2, mark, f"{tool.size}", given=apart)
            tool.run("qemu-img", "bitmap", "--add", "-g", step, *_QCOW2, mark, name, given=apart)
            tool.run("qemu-io", *_QCOW2, "-c", write, mark, given=apart)
            both = tool.given._replace(within=[directory])
            merge = ("--merge", name, "-b", mark, "-F", "qcow2")
            tool.run("qemu-img", "bitmap", *merge, tool.image, name, given=both)
        finally:
            os.close(directory)


def remove(image: RawDisk, name: str) -> None:
    """Remove a bitmap of an image that is not in use; `image` stays open for the caller to close.

    Raises:
        ImageError: qemu-img failed; the message has its reason.
    """
    with _Tool(image, name) as tool:
        tool.run("qemu-img", "bitmap", "--remove", tool.image, name)


class _Tool:
    """Runs QEMU's tools on one image; they can open no other file. A context manager.

    Attributes:
        size: bytes of the disk.
        image: the image's name for the tools. It lists all parts of the image, so that the tools
            look up none of them in its header.
        given: the image's descriptors.
    """

    def __init__(self, image: RawDisk, name: str) -> None:
        self._label = image.label
        self._name = name
        header = parse(image.read_upto, self._label)
        self.size = header.size
        try:
            self._fd = image.reopened(os.O_RDWR)  # its path may lead to another file by now
        except OSError as error:
            raise ImageError(
                f"{self._label}: dirty bitmap '{self._name}': {reason_of(error)}"
            ) from error
        node: dict[str, Any] = {
            "driver": "qcow2",
            "backing": None,
            "file": {"driver": "file", "filename": confined.path(self._fd)},
        }
        if header.external:  # the data file holds no bitmaps
            node["data-file"] = {"driver": "null-co", "size": self.size, "read-zeroes": True}
        self.image = "json:" + json.dumps(node)
        self.given = Given(writing=[self._fd])

    def run(self, *command: str, given: Given | None = None) -> None:
        """Run one tool, with no descriptors but the given ones."""
        try:
            process = confined.start(command, given or self.given, cpu_s=_CPU_S)
        except FileNotFoundError as error:
            raise ImageError(
                f"{self._label}: dirty bitmaps need '{command[0]}': install qemu-utils"
            ) from error
        except NotConfined as error:
            raise ImageError(
                f"{self._label}: dirty bitmaps need '{command[0]}': {error}"
            ) from error
        _, complaint = process.communicate()
        if process.returncode:
            said = printable((complaint.strip().splitlines() or [b"no reason given"])[-1])
            said = said.removeprefix("qemu-img: ")
            raise ImageError(f"{self._label}: dirty bitmap '{self._name}': {said}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class _BitmapDirectory:
    def __init__(self, disk: Qcow2Disk) -> None:
        assert disk.header.bitmaps is not None
        self._label = disk.label
        offset, size, self._count = disk.header.bitmaps
        if not 0 < self._count <= _COUNT_MAX or size > _DIRECTORY_MAX:
            raise damaged(disk.label, "its directory of bitmaps is larger than QEMU allows")
        self._data = disk.file.read_upto(offset, size)

    def entries(self) -> Iterator[Bitmap]:
        at = 0
        for _ in range(self._count):
            if at + _ENTRY.size > len(self._data):
                raise damaged(self._label, "its directory of bitmaps is cut off")
            table, entries, flags, kind, bits, name_size, extra = _ENTRY.unpack_from(self._data, at)
            begin = at + _ENTRY.size + extra
            name = self._data[begin : begin + name_size]
            if len(name) != name_size or bits not in _GRANULARITY_BITS:
                raise damaged(self._label, "its directory of bitmaps contradicts itself")
            at = (begin + name_size + 7) & ~7
            yield Bitmap(
                name=name.decode("utf-8", "backslashreplace"),
                granularity=1 << bits,
                auto=bool(flags & _AUTO),
                in_use=bool(flags & _IN_USE),
                known=kind == _DIRTY_TRACKING
                and flags < 2 * _EXTRA_COMPATIBLE
                and not (extra and not flags & _EXTRA_COMPATIBLE),
                table=(table, entries),
            )


def _set_ranges(disk: Qcow2Disk, bitmap: Bitmap) -> Iterator[Range]:
    """The ranges of the disk whose bits are set; they may touch."""
    cluster = disk.header.cluster
    covered = cluster * 8 * bitmap.granularity  # bytes of the disk that one cluster of bits covers
    offset, count = bitmap.table
    if count != -(-disk.size // covered) or count > _TABLE_MAX:
        raise damaged(disk.label, f"the table of bitmap '{bitmap.name}' has {count} entries")
    table = disk.file.read_upto(offset, count * 8)
    if len(table) != count * 8:
        raise damaged(disk.label, f"the table of bitmap '{bitmap.name}' is cut off")
    for index, entry in enumerate(numbers(table)):
        start = index * covered
        if not entry & OFFSET:
            if entry & 1:
                yield start, min(disk.size, start + covered)
            continue
        bits = disk.file.read_upto(entry & OFFSET, cluster)
        if len(bits) != cluster:
            raise damaged(disk.label, f"bitmap '{bitmap.name}' is cut off")
        for first, last in _runs(bits):
            low = start + first * bitmap.granularity
            yield low, min(disk.size, start + last * bitmap.granularity)


def _runs(data: bytes) -> Iterator[Range]:
    """The runs of set bits: first bit, and the one after the last; a byte's lowest bit is first."""
    for match in re.finditer(rb"\xff+|[^\0\xff]", data):
        at = 8 * match.start()
        if match[0][0] == 0xFF:
            yield at, 8 * match.end()
            continue
        for bit in range(8):
            if match[0][0] >> bit & 1:
                yield at + bit, at + bit + 1


def _between(ranges: list[Range], end: int) -> list[Range]:
    """The gaps between sorted ranges, up to an end."""
    between, at = [], 0
    for start, stop in [*ranges, (end, end)]:
        if start > at:
            between.append((at, start))
        at = max(at, stop)
    return between


def _united(ranges: Iterable[Range]) -> list[Range]:
    united: list[Range] = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if united and start <= united[-1][1]:
            united[-1] = united[-1][0], max(united[-1][1], end)
        else:
            united.append((start, end))
    return united
