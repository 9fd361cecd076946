"""Opens a disk, whatever it is: `open_disk`. Follows chains of backing files.

The only module that knows which format is read by which other module. Every refusal is one line
that says what the file is, and what to do.
"""

import os
import stat
from collections.abc import Callable

from ventifs.image.disk import Disk, ImageError
from ventifs.image.foreign import open_foreign
from ventifs.image.probe import HEAD, TAIL, Guess, probe
from ventifs.image.qcow2 import Qcow2Disk
from ventifs.image.qcow2_header import Header, parse
from ventifs.image.raw import RawDisk
from ventifs.image.remedies import OF_KINDS, OF_QEMU, Remedy
from ventifs.tree.directory import printable

FORMATS = ("raw", "qcow2", "vmdk", "vhd", "vhdx")
LAYERS_MAX = 64
RAW_SUFFIXES = (".img", ".raw")
_QEMU_NAMES = {"vpc": "vhd", "file": "raw", "host_device": "raw", "": ""}
_Identity = tuple[int, int]


def open_disk(path: str | os.PathLike[str], format: str | None = None) -> Disk:  # noqa: A002
    """Open an image file or a block device, to be closed by the caller.

    `format` is one of `FORMATS`, or None to find it out: by the first bytes; block devices, and
    files named *.img or *.raw whose bytes tell nothing, are raw.

    Raises:
        ImageError: it cannot be read as a disk; the line says why and what to do.
    """
    return _Chain().open(os.fspath(path), format or "")


def guess(path: str | os.PathLike[str]) -> Guess:
    """What a file is: what `open_disk` goes by, and what else it may be.

    Raises:
        ImageError: it is neither a regular file nor a block device, or cannot be read.
    """
    file = RawDisk(os.fspath(path))
    try:
        return _guess(file)
    finally:
        file.close()


def _guess(file: RawDisk) -> Guess:
    if stat.S_ISBLK(file.status.st_mode):
        return Guess("raw", "a block device")  # its guest could write any header into it
    head = file.read_upto(0, HEAD)
    found = probe(head, file.read_upto(max(0, file.size - TAIL), TAIL), file.size)
    if found.kind == "unknown" and file.label.endswith(RAW_SUFFIXES):
        return Guess("raw", "a raw disk by its name")
    return found


class _Chain:
    """The files that are being opened: those that lead from the image to its lowest layer."""

    def __init__(self) -> None:
        self._files: list[_Identity] = []
        self._labels: list[str] = []

    def open(self, path: str, kind: str) -> Disk:
        file = RawDisk(path)
        try:
            self._enter(file)
            kind = kind or self._found(file)
            if kind == "raw":
                return file
            if kind == "qcow2":
                return self._qcow2(file, path)
        except BaseException:
            file.close()
            raise
        if kind in FORMATS:
            return open_foreign(file, kind, _Beside())
        file.close()
        top = self._labels[0]
        if top != file.label:  # another backing file would not be the one that it names
            remedy = Remedy.FLATTEN_QCOW2
        else:
            remedy = OF_QEMU.get(kind, Remedy.RAW)
        shown = printable(os.fsencode(kind))
        raise ImageError(f"{file.label}: format '{shown}' is not read here: {remedy.line(top)}")

    def _enter(self, file: RawDisk) -> None:
        identity = file.status.st_dev, file.status.st_ino
        if identity in self._files:
            raise ImageError(f"{file.label}: its backing files lead back to itself")
        if len(self._files) == LAYERS_MAX:
            raise ImageError(
                f"{file.label}: more than {LAYERS_MAX} images, each the backing file of another: "
                + Remedy.FLATTEN_QCOW2.line(self._labels[0])
            )
        self._files.append(identity)
        self._labels.append(file.label)

    def _found(self, file: RawDisk) -> str:
        kind, what = _guess(file)
        if kind in FORMATS:
            return kind
        if len(self._files) > 1:
            return "raw"  # a backing file that tells nothing is raw for QEMU
        raise ImageError(f"{file.label}: {_REFUSALS[kind](what, file.label)}")

    def _qcow2(self, file: RawDisk, path: str) -> Disk:
        header = parse(file.read_upto, file.label)
        backing: Disk | None = None
        data: RawDisk | None = None
        try:
            if header.external:
                data = self._data_file(header, file, path)
            if header.backing:
                backing = self._backing(header, file, path)
            disk = Qcow2Disk(file, header, backing, data)
        except BaseException:
            if data is not None:
                data.close()
            if backing is not None:
                backing.close()
            raise
        if backing is not None:
            disk.notes += [f"backing file {backing.label}: {note}" for note in backing.notes]
        return disk

    def _data_file(self, header: Header, file: RawDisk, path: str) -> RawDisk:
        if not header.data_file:
            raise ImageError(f"{file.label}: its data is in another file, whose name is not told")
        try:
            return RawDisk(_beside(path, header.data_file, file.label))
        except ImageError as error:
            raise ImageError(f"{file.label}: its data file cannot be used: {error}") from error

    def _backing(self, header: Header, file: RawDisk, path: str) -> Disk:
        kind = _QEMU_NAMES.get(header.backing_format, header.backing_format)
        above = len(self._files) > 1  # the topmost image is named in an error, and the one at fault
        try:
            backing = self.open(_beside(path, header.backing, file.label), kind)
        except ImageError as error:
            if above:
                raise
            raise ImageError(f"{file.label}: its backing file cannot be used: {error}") from error
        if not kind and backing.format != "raw":
            # A guest whose disk is raw can write any header into it.
            backing.notes.append(
                f"taken for {backing.format} by its first bytes: no format is told"
            )
        return backing


class _Beside:
    """Opens files that an image names, if they lie beside it."""

    def open(self, name: bytes, layer: RawDisk) -> RawDisk:
        if b"/" in name or b"\\" in name:
            raise ImageError(
                f"{layer.label}: an extent of it, '{printable(name)}', is not in its own directory"
            )
        file = RawDisk(os.path.join(os.path.dirname(layer.label), os.fsdecode(name)))
        if not stat.S_ISREG(file.status.st_mode):
            file.close()
            raise ImageError(f"{file.label}: not a regular file")
        return file


def _beside(path: str, name: bytes, label: str) -> str:
    """The path of a file that an image names: relative to the image's own directory."""
    name = name.rstrip(b"\0").removeprefix(b"file:")
    before, colon, _ = name.partition(b":")
    if colon and b"/" not in before:
        raise ImageError(f"{label}: it refers to '{printable(name)}': only files are followed: "
                         + Remedy.FLATTEN_QCOW2.line(label))  # fmt: skip
    return os.path.join(os.path.dirname(path), os.fsdecode(name))


def _not_disk(what: str, label: str) -> str:
    return f"{what}, not a disk; '--format raw' archives it bit for bit"


def _converted(what: str, label: str) -> str:
    return f"{what}, which is not read here: {OF_KINDS[what].line(label)}"


def _unpacked(what: str, label: str) -> str:
    return f"{what}: unpack it first, or archive it bit for bit by '--format raw'"


def _locked(what: str, label: str) -> str:
    return f"{what}: {Remedy.LUKS.line(label)}"


def _unknown(what: str, label: str) -> str:
    return (
        "no tar archive, no disk image that is known, no partition table and no file system; "
        "'--format raw' archives it bit for bit"
    )


_REFUSALS: dict[str, Callable[[str, str], str]] = {
    "tar": _not_disk,
    "packed": _unpacked,
    "luks": _locked,
    "foreign": _converted,
    "unknown": _unknown,
}
