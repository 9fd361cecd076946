"""The descriptor of a VMDK: text that names the image's kind and the files it consists of.

By VMware's "Virtual Disk Format 5.0". Opens no files: names of extents are data. A line that
describes an extent must be understood completely, or the image is refused: a disk without one of
its extents is another disk.
"""

import re
from typing import NamedTuple

from ventifs.image.disk import ImageError
from ventifs.image.formats.mapped_disk import SIZE_MAX, Damaged
from ventifs.image.formats.remedies import Remedy
from ventifs.text import printable

BYTES_MAX = 1 << 20
_LINE_MAX = 4096
# Strangers write the text that these match, so no repetition backtracks: `++`.
_START = re.compile(rb"\s*+#\s*+Disk\s*+DescriptorFile", re.IGNORECASE)
_KEY = re.compile(rb"[\w.:-]++")
_EXTENT = re.compile(rb"\s*+(?:RW|RDONLY|NOACCESS)\s")
_PARTS = re.compile(
    rb'RW\s++(\d{1,15}+)\s++([A-Z]++)(?:\s++"([^"]{1,511}+)"(?:\s++(\d{1,15}+))?+)?+'
)
_NO_PARENT = ("", "0", "ffffffff")
_WITH_OFFSET = ("FLAT",)
_WITHOUT_OFFSET = ("SPARSE", "VMFS", "VMFSSPARSE")
ONE_FILE = ("monolithicSparse", "streamOptimized")  # with the descriptor in their only extent
_OF_FILES = (
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "vmfs",
    "vmfsSparse",
)


class ExtentLine(NamedTuple):
    """A line that describes an extent.

    Attributes:
        sectors: how many it has.
        kind: "FLAT", "SPARSE", "VMFS", "VMFSSPARSE" or "ZERO".
        name: of its file; empty for "ZERO".
        offset: where it begins in the file, in sectors.
    """

    sectors: int
    kind: str
    name: bytes
    offset: int


class Descriptor(NamedTuple):
    """A checked descriptor.

    Attributes:
        kind: its createType.
        extents: in the disk's order.
    """

    kind: str
    extents: tuple[ExtentLine, ...]


def parse_descriptor(text: bytes, label: str, damaged: Damaged) -> Descriptor:
    """Parse a descriptor, which ends at the first NUL or at the end of the text.

    Raises:
        ImageError: it is damaged, or describes a disk that cannot be read.
    """
    text = text.partition(b"\0")[0]
    if not _START.match(text):
        raise damaged("its descriptor does not begin like one")
    settings: dict[str, str] = {}
    extents: list[ExtentLine] = []
    for line in re.split(rb"[\r\n]+", text):
        if len(line) > _LINE_MAX:
            raise damaged("its descriptor has a line that is longer than any")
        if _EXTENT.match(line):
            extents.append(_extent(line.strip(), damaged))
        elif found := _setting(line.strip()):
            settings.setdefault(*found)
    _judge(settings, label)
    if not extents or sum(extent.sectors for extent in extents) * 512 > SIZE_MAX:
        raise damaged("its descriptor has no extents, or too large ones")
    kind = settings.get("createtype", "")
    if kind not in ONE_FILE + _OF_FILES:
        raise ImageError(
            f"{label}: VMDK image of type '{kind}', which is not read here: "
            + Remedy.VMDK_OTHER.line(label)
        )
    return Descriptor(kind, tuple(extents))


def _setting(line: bytes) -> tuple[str, str] | None:
    """A setting's key, in lower case, and its value without quotes; None for any other line."""
    key, _, value = line.partition(b"=")
    key, value = key.rstrip(), value.lstrip()
    value = value.removeprefix(b'"').removesuffix(b'"')
    if not _KEY.fullmatch(key) or b"=" not in line or b'"' in value:
        return None
    return key.decode("ascii").lower(), printable(value)


def _extent(line: bytes, damaged: Damaged) -> ExtentLine:
    found = _PARTS.fullmatch(line)
    if found is None:
        raise damaged(f"its descriptor has an extent that is not read here: '{printable(line)}'")
    sectors, kind, name = int(found[1]), found[2].decode("ascii"), found[3] or b""
    offset = found[4]
    known = (
        (kind == "ZERO" and not name)
        or (kind in _WITH_OFFSET and name and offset is not None)
        or (kind in _WITHOUT_OFFSET and name and offset is None)
    )
    if not sectors or not known:
        raise damaged(f"its descriptor has an extent that is not read here: '{printable(line)}'")
    return ExtentLine(sectors, kind, name, int(offset or 0))


def _judge(settings: dict[str, str], label: str) -> None:
    """Refuse images that need a key or another image to be read."""
    if any(key.startswith("encryption.") for key in settings):
        raise ImageError(f"{label}: encrypted VMDK image: {Remedy.ENCRYPTED_VMDK.line(label)}")
    parent = settings.get("parentcid", "").lower()
    if parent not in _NO_PARENT or settings.get("parentfilenamehint"):
        raise ImageError(
            f"{label}: only what differs from another VMDK image: {Remedy.VMDK_PARENT.line(label)}"
        )
