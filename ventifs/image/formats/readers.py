"""Disks in VMDK, VHD and VHDX images: which module reads which.

All three are read by modules of this package, in plain Python, by the published formats, and
through descriptors that are already open. No library and no program reads an image, because a guest
wrote it. Only a `ReferenceOpener` opens the other files that an image names. An image that is not
understood here, or that QEMU reads differently, is refused.
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
