"""Disks in VMDK, VHD and VHDX images: which module reads which.

This package reads all of them itself: by the published formats, in plain Python, and through
descriptors that are already open. No foreign library and no program reads an image for it, and only
an `Opener` opens other files. What is not understood, or QEMU reads in another way, is refused.
"""

from ventifs.image.disk import Disk
from ventifs.image.formats.raw import RawDisk
from ventifs.image.formats.references import Opener
from ventifs.image.formats.vhd import open_vhd
from ventifs.image.formats.vhdx import open_vhdx
from ventifs.image.formats.vmdk import open_vmdk


def open_foreign(file: RawDisk, kind: str, opener: Opener) -> Disk:
    """Open an image of a kind: "vmdk", "vhd" or "vhdx"; takes over the open file.

    Raises:
        ImageError: it cannot be read, or not without another image; the file is closed, too.
    """
    if kind == "vmdk":
        return open_vmdk(file, opener)
    if kind == "vhd":
        return open_vhd(file)
    assert kind == "vhdx"
    return open_vhdx(file)
