"""Mounts a version by this kernel's 9p client, over a connection passed to mount(2).

Owns the check for 9p, the system call and the messages for its failures. The kernel takes over the
connection by its descriptor (`trans=fd`), so any address can be mounted, including vsock, for which
the kernel's client has no transport.
"""

import ctypes
import errno
import os
import subprocess
from contextlib import suppress
from pathlib import Path

from ventifs.net.address import Address
from ventifs.net.dial import connect
from ventifs.ninep.mount.options import DATA_MAX, MountError, MountOptions
from ventifs.text import printable

_FILESYSTEMS = Path("/proc/filesystems")
_MODPROBE_S = 30

_REMEDIES = {
    errno.EPERM: "the server refuses this machine, or this is a container, whose root may not",
    errno.ENODEV: "this kernel has no 9p; load the module 9p",
    errno.EINVAL: "the kernel takes no such option, or lacks the module 9pnet_fd; see dmesg",
    errno.EPROTONOSUPPORT: "the kernel lacks the module 9pnet_fd",
    errno.ENOENT: "the server has no such name for this machine; mount / to see its names",
    errno.EACCES: "the server does not give it to this machine; see its allow list",
    errno.EBUSY: "another machine has this exclusive export; unmount it there first",
    errno.ENOTDIR: "a file cannot be mounted; name a directory of the version",
    errno.EREMOTEIO: "the server does not speak 9P2000.L",
    errno.ECONNRESET: "the server closed the connection; see its log and allow list",
    errno.EPIPE: "the server closed the connection; see its log and allow list",
    errno.EIO: "the server closed the connection; see its log and allow list",
    errno.EFAULT: "the server closed the connection; see its log and allow list",  # on Linux 6.1
}


def mount(
    address: Address, aname: str, directory: Path, options: MountOptions, timeout_s: float
) -> None:
    """Mount what `aname` names at a server on a directory; it stays mounted until umount(8).

    Raises:
        MountError: the kernel, the directory or the server does not allow it.
        TransportError: no server answers within `timeout_s` seconds.
    """
    if os.geteuid() != 0:
        raise MountError(f"{printable(directory)}: only root can mount; run it with sudo")
    if not directory.is_dir():
        raise MountError(f"{printable(directory)}: is no directory; make it first")
    require_9p()
    with connect(address, timeout_s) as connection:
        connection.setblocking(False)  # not every kernel does, and then its worker could block
        fd = connection.fileno()
        data = options.data({"trans": "fd", "rfdno": fd, "wfdno": fd})
        if len(os.fsencode(data)) > DATA_MAX:
            raise MountError(f"{address}: the options are too long; mount a directory above it")
        try:
            mount2(str(address), directory, "9p", options.number, data)
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            remedy = _REMEDIES.get(error.errno or 0, "see dmesg")
            raise MountError(
                f"{address}: cannot mount {printable(aname) or '/'}: {reason}; {remedy}"
            ) from None


def require_9p() -> None:
    """Load the kernel's 9p modules if they are missing; needs root.

    Raises:
        MountError: this kernel has no 9p.
    """
    if _has_9p():
        return
    for module in "9p", "9pnet_fd":  # the second is a part of 9pnet before Linux 5.17
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                ["modprobe", "-q", module],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_MODPROBE_S,
                check=False,
            )
    if not _has_9p():
        raise MountError(
            f"this kernel, {os.uname().release}, has no 9p: install a kernel with the module 9p "
            "(Debian's linux-image-amd64 has it, its cloud kernels do not) and start it"
        )


def _has_9p() -> bool:
    return any(line.split()[-1:] == ["9p"] for line in _FILESYSTEMS.read_text().splitlines())


def mount2(source: str, directory: Path, kind: str, flags: int, data: str) -> None:
    """Call mount(2).

    Raises:
        OSError: as the kernel answers.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    words = [os.fsencode(word) for word in (source, directory, kind)]
    if libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
