"""Disks in VMDK, VHD and VHDX images, read by libvmdk and libvhdi.

Their handles are never shared between processes: each process opens its own when it first reads,
and a lock lets one thread in at a time. The libraries are imported only when they are needed.
"""

from ventifs.image.disk import Disk, ImageError


def open_foreign(path: str, kind: str) -> Disk:
    """Open such an image.

    Raises:
        ImageError: it cannot be read.
    """
    raise ImageError(f"{path}: {kind} is not read yet")
