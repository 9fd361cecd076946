"""Disks in VMDK, VHD and VHDX images: which module reads which.

This package reads all of them itself, in plain Python, by the published formats, and through
descriptors that are already open. It uses no library and no program to read an image, and only a
`ReferenceOpener` opens other files. An image that it does not understand, or that QEMU reads
differently, is refused.
"""

from ventifs.image.disk import Disk
from ventifs.image.formats.raw import RawDisk
from ventifs.image.formats.references import ReferenceOpener
from ventifs.image.formats.vhd import open_vhd
from ventifs.image.formats.vhdx import open_vhdx
from ventifs.image.formats.vmdk import open_vmdk


def open_foreign(file: RawDisk, kind: str, opener: ReferenceOpener) -> Disk:
    """Open an image of the kind "vmdk", "vhd" or "vhdx"; the disk owns the open file.

    Raises:
        ImageError: it cannot be read, or needs another image; the file is closed.
    """
    if kind == "vmdk":
        return open_vmdk(file, opener)
    if kind == "vhd":
        return open_vhd(file)
    assert kind == "vhdx"
    return open_vhdx(file)
