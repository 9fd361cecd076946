"""The header of a qcow2 image, versions 2 and 3, by QEMU's docs/interop/qcow2.

Reads and checks the header. Encrypted images, images with unknown features, and tables larger than
QEMU allows are refused here, so the code that follows the tables never meets them. Opens no other
files: it only returns the names of a backing file and a data file.
"""

import struct
from collections.abc import Callable

import msgspec

from ventifs.image.disk import ImageError
from ventifs.image.formats.remedies import Remedy
from ventifs.text import printable

MAGIC = b"QFI\xfb"
OFFSET = 0x00FF_FFFF_FFFF_FE00  # of a host cluster, in the entries of all tables
L1_BYTES_MAX = 32 << 20  # these limits are QEMU's
NAME_MAX = 1023  # of a backing file; of a data file, QEMU has no limit
FORMAT_MAX = 15
CLUSTER_BITS = range(9, 22)
_EXTENDED_CLUSTER_BITS_MIN = 14
_HEADER_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_HEADER_V3 = struct.Struct(">QQQII")
_V2_BYTES, _V3_BYTES = 72, 104
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_AUTOCLEAR_BITMAPS = 1
_END, _FORMAT, _NAMES, _BITMAPS, _DATA_NAME = 0, 0xE2792ACA, 0x6803F857, 0x23852875, 0x44415441
_CIPHERS = {1: "AES", 2: "LUKS"}
_COMPRESSIONS = {0: "zlib", 1: "zstd"}

ReadImage = Callable[[int, int], bytes]  # offset and length of the file; short where the file ends


class Qcow2Header(msgspec.Struct, frozen=True):
    """What a header says, checked.

    Attributes:
        size: bytes of the virtual disk, as the guest sees it: whole sectors.
        l1_offset, l1_entries: the active L1 table, with only as many entries as the size needs.
        compression: "zlib" or "zstd".
        extended: whether L2 entries have 128 bits, with 32 subclusters for each cluster.
        backing: name of the backing file, as the header has it; empty if there is none.
        backing_format: QEMU's name of its format; empty if the header does not have it.
        external: whether data clusters are in another file, named `data_file`.
        bitmaps: offset, size in bytes and number of entries of the directory of dirty bitmaps;
            None if there are none or they cannot be trusted.
        notes: lines for people about the image.
    """

    version: int
    cluster_bits: int
    size: int
    l1_offset: int
    l1_entries: int
    refcount_offset: int
    refcount_clusters: int
    refcount_order: int
    compression: str
    extended: bool
    backing: bytes
    backing_format: str
    external: bool
    data_file: bytes
    bitmaps: tuple[int, int, int] | None
    notes: tuple[str, ...]

    @property
    def cluster(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @property
    def l2_entries(self) -> int:
        """Clusters that one L2 table maps."""
        return self.cluster // (16 if self.extended else 8)


def parse(read: ReadImage, label: str) -> Qcow2Header:
    """The header of an image.

    Raises:
        ImageError: it is damaged, encrypted, or of a kind that cannot be read.
    """
    return _Parser(read, label).header()


class _Parser:
    def __init__(self, read: ReadImage, label: str) -> None:
        self._label = label
        self._head = read(0, 1 << CLUSTER_BITS[-1])  # a cluster at most, where all of it lies
        self._notes: list[str] = []

    def header(self) -> Qcow2Header:
        if len(self._head) < _V2_BYTES or not self._head.startswith(MAGIC):
            raise self._damaged("its header is cut off")
        fields = _HEADER_V2.unpack_from(self._head)
        _, version, backing_offset, backing_size, bits, size, crypt = fields[:7]
        l1_size, l1_offset, refcount_offset, refcount_clusters, snapshots, _ = fields[7:]
        if version not in (2, 3):
            raise ImageError(
                f"{self._label}: qcow2 version {version}; only 2 and 3 are known: "
                + Remedy.NEWER_QCOW2.line(self._label)
            )
        if bits not in CLUSTER_BITS:
            raise self._damaged(f"it says its clusters have 2^{bits} bytes")
        self._head = self._head[: 1 << bits]
        incompatible, autoclear, order, length = self._version3() if version == 3 else (0, 0, 4, 72)
        extensions = dict(self._extensions(length, backing_offset or len(self._head)))
        self._judge(incompatible, extensions.get(_NAMES, b""), crypt)
        extended = bool(incompatible & _EXTENDED_L2)
        if extended and bits < _EXTENDED_CLUSTER_BITS_MIN:
            raise self._damaged(f"it says its clusters have 2^{bits} bytes and subclusters")
        if snapshots:
            self._notes.append(
                f"internal snapshots: {snapshots}, which are not archived, only the current state"
            )
        return Qcow2Header(
            version=version,
            cluster_bits=bits,
            size=size & ~511,  # QEMU counts whole sectors
            l1_offset=l1_offset,
            l1_entries=self._l1_entries(size, bits, extended, l1_size, l1_offset),
            refcount_offset=refcount_offset,
            refcount_clusters=refcount_clusters,
            refcount_order=order,
            compression=self._compression(incompatible, length),
            extended=extended,
            backing=self._backing(backing_offset, backing_size),
            backing_format=_text(self._bounded(extensions, _FORMAT, FORMAT_MAX)),
            external=bool(incompatible & _DATA_FILE),
            data_file=self._bounded(extensions, _DATA_NAME, NAME_MAX),
            bitmaps=self._bitmaps(autoclear, extensions),
            notes=tuple(self._notes),
        )

    def _version3(self) -> tuple[int, int, int, int]:
        if len(self._head) < _V3_BYTES:
            raise self._damaged("its header is cut off")
        incompatible, _, autoclear, order, length = _HEADER_V3.unpack_from(self._head, _V2_BYTES)
        if length < _V3_BYTES or length % 8 or length > len(self._head):
            raise self._damaged(f"it says its header has {length} bytes")
        if order > 6:
            raise self._damaged(f"it says its refcounts have 2^{order} bits")
        return incompatible, autoclear, order, length

    def _extensions(self, at: int, end: int) -> list[tuple[int, bytes]]:
        """Kind and data of each header extension, in reverse, so that the first of a kind counts.

        They end where the name of the backing file begins; old images have no end mark.
        """
        found: list[tuple[int, bytes]] = []
        end = min(end, len(self._head))
        while at + 8 <= end:
            kind, length = struct.unpack_from(">II", self._head, at)
            if kind == _END:
                break
            at += 8
            if length > end - at:
                raise self._damaged("a header extension is longer than there is room")
            found.append((kind, self._head[at : at + length]))
            at += (length + 7) & ~7
        return found[::-1]

    def _bounded(self, extensions: dict[int, bytes], kind: int, bytes_max: int) -> bytes:
        found = extensions.get(kind, b"")
        if len(found) > bytes_max:
            what = "format of its backing file" if kind == _FORMAT else "name of its data file"
            raise self._damaged(f"the {what} has {len(found):,} bytes, and at most {bytes_max:,}")
        return found

    def _judge(self, incompatible: int, names: bytes, crypt: int) -> None:
        if crypt:
            cipher = _CIPHERS.get(crypt, "unknown")
            raise ImageError(
                f"{self._label}: encrypted qcow2 image ({cipher}): "
                + Remedy.DECRYPT_QCOW2.line(self._label)
            )
        if unknown := incompatible & ~_KNOWN:
            what = ", ".join(_feature(names, bit) for bit in range(64) if unknown >> bit & 1)
            raise ImageError(
                f"{self._label}: qcow2 image with features unknown here ({what}): "
                + Remedy.NEWER_QCOW2.line(self._label)
            )
        if incompatible & _CORRUPT:
            self._notes.append(
                "marked as corrupt by QEMU: parts of it may be wrong: "
                + Remedy.CHECK_QCOW2.line(self._label)
            )
        if incompatible & _DIRTY:
            # Only refcounts may be out of date, and reading the disk does not need them.
            self._notes.append("not closed cleanly: it is in use, or its guest died")

    def _compression(self, incompatible: int, length: int) -> str:
        kind = self._head[_V3_BYTES] if length > _V3_BYTES else 0
        if kind not in _COMPRESSIONS or bool(kind) != bool(incompatible & _COMPRESSION):
            raise self._damaged(f"it says its compression is of kind {kind}")
        return _COMPRESSIONS[kind]

    def _l1_entries(self, size: int, bits: int, extended: bool, entries: int, offset: int) -> int:
        if size >= 1 << 63:
            raise self._damaged("its size is beyond all bounds")
        covered_bits = 2 * bits - (4 if extended else 3)  # what one L2 table maps
        needed = -(-size >> covered_bits)
        if needed > L1_BYTES_MAX // 8 or entries > L1_BYTES_MAX // 8:
            raise self._damaged("its L1 table is larger than QEMU allows")
        if needed > entries:
            raise self._damaged("its L1 table is too small for its size")
        if needed and (offset % (1 << bits) or offset >= 1 << 63):
            raise self._damaged("its L1 table is not where a cluster begins")
        return needed

    def _backing(self, offset: int, length: int) -> bytes:
        if not offset:
            return b""
        if not 0 < length <= NAME_MAX or offset + length > len(self._head):
            raise self._damaged("the name of its backing file is not in its first cluster")
        return self._head[offset : offset + length]

    def _bitmaps(self, autoclear: int, extensions: dict[int, bytes]) -> tuple[int, int, int] | None:
        data = extensions.get(_BITMAPS)
        # A cleared bit means that a program that does not know bitmaps wrote to the image.
        if data is None or len(data) != 24 or not autoclear & _AUTOCLEAR_BITMAPS:
            return None
        count, _, size, offset = struct.unpack(">IIQQ", data)
        return offset, size, count

    def _damaged(self, what: str) -> ImageError:
        return damaged(self._label, what)


def damaged(label: str, what: str) -> ImageError:
    """The error for an image that contradicts its format."""
    return ImageError(f"{label}: damaged qcow2 image: {what}: {Remedy.CHECK_QCOW2.line(label)}")


def _text(name: bytes) -> str:
    return printable(name.rstrip(b"\0"))


def _feature(names: bytes, bit: int) -> str:
    for at in range(0, len(names) - 47, 48):
        if names[at] == 0 and names[at + 1] == bit:
            return _text(names[at + 2 : at + 48])
    return f"bit {bit}"
