"""A guest of QEMU (TCG) that runs scripts, with any installed or unpacked Debian kernel.

Its root is the host's own, read-only, over QEMU's virtio-9p, and so is its directory; what it
mounts comes over the network. tests/support/agent.py has what can be done with it. It has two
processors, which a User-mode Linux guest has not.
"""

import lzma
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.agent import Guest, served
from tests.support.initramfs import BUSYBOX, packed, release, with_dependencies
from tests.support.segment import FIRST, Link, Segment, missing_programs

PACKAGES = "qemu-system-x86 linux-image-amd64 busybox-static cpio kmod"
MEMORY = "2048M"
_MODULES = (
    "virtio_pci",
    "virtio_net",
    "9p",
    "9pnet_fd",
    "9pnet_virtio",
    "overlay",
    "loop",
    "ext4",
)
_HOST = "version=9p2000.L,trans=virtio,msize=524288"

# `$1` is the shared directory.
_INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module" || echo "no $module"; done </modules/list
directory=$(cat /directory)
mount -t 9p -o ro,cache=loose,{_HOST} root /mnt || poweroff -f
mount -t 9p -o rw,cache=none,{_HOST} shared "/mnt$directory" || poweroff -f
for name in proc sys dev; do mount --move /$name /mnt/$name; done
exec switch_root /mnt "$directory/agent" "$directory"
"""
_AGENT = """#!/bin/sh
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
directory=$1
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs mnt "$directory/mnt"
for device in /sys/class/net/e*; do device=${device##*/}; done
"""


@dataclass(frozen=True)
class Kernel:
    """A Debian kernel: its image, and where `lib/modules` with its modules lies."""

    image: Path
    base: Path = Path("/")


def why_not() -> str:
    """Why no guest can be booted here; empty if one can."""
    missing = missing_programs(["qemu-system-x86_64", "modprobe", "cpio", "unshare", "ip"])
    missing += [str(BUSYBOX)] if not BUSYBOX.exists() else []
    return f"needs the Debian packages {PACKAGES} (missing: {', '.join(missing)})" * bool(missing)


class Emulated(Guest):
    """A running guest in a segment."""

    def __init__(
        self, kernel: Kernel, segment: Segment, directory: Path, link: Link = FIRST
    ) -> None:
        """Boot it.

        Args:
            kernel: what it runs.
            segment: the network that it is in.
            directory: the shared directory, new or empty.
            link: what it is connected by; no other guest is.

        Raises:
            GuestDied: the guest does not boot.
        """
        (directory / "mnt").mkdir(parents=True)
        agent = directory / "agent"
        agent.write_text(_AGENT + served(link, '"$device"', "/dev/ttyS1"))
        agent.chmod(0o755)
        line, theirs = socket.socketpair()
        fd = theirs.fileno()
        words: list[str | Path] = ["qemu-system-x86_64", "-accel", "tcg,thread=multi"]
        words += ["-cpu", "max", "-smp", "2", "-m", MEMORY, "-nodefaults", "-display", "none"]
        words += ["-no-reboot", "-serial", "stdio", "-chardev", f"socket,id=line,fd={fd}"]
        words += ["-serial", "chardev:line", "-device", "virtio-rng-pci"]
        words += _exported("root", Path("/"), "readonly=on,multidevs=remap")
        words += _exported("shared", directory, "multidevs=remap")
        words += ["-netdev", f"tap,id=net,ifname={link.tap},script=no,downscript=no"]
        words += ["-device", f"virtio-net-pci,netdev=net,romfile=,mac={link.mac}"]
        words += ["-kernel", kernel.image, "-initrd", _initramfs(directory, kernel)]
        # A kernel whose virtual timer comes late, on a busy host, would take it for missing.
        words += ["-append", "console=ttyS0 panic=-1 no_timer_check quiet"]
        with (directory / "console.log").open("wb") as console, theirs:
            process = segment.start(
                *words,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=[fd],
                cwd=directory,
            )
        super().__init__(directory, process, line)


def _exported(tag: str, directory: Path, options: str) -> list[str | Path]:
    """QEMU's words for a directory of the host's under a mount tag."""
    path = str(directory).replace(",", ",,")
    return [
        "-fsdev",
        f"local,id={tag},path={path},security_model=none,{options}",
        "-device",
        f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
    ]


def _initramfs(directory: Path, kernel: Kernel) -> Path:
    """Make the initramfs that leads to the host's root."""
    root = directory / "initramfs"
    for name in ("bin", "proc", "sys", "dev", "mnt", "modules"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin" / "busybox")
    listed = []
    for module in with_dependencies(release(kernel.image), _MODULES, kernel.base):
        name = module.name.removesuffix(".xz")
        data = module.read_bytes()
        (root / "modules" / name).write_bytes(
            lzma.decompress(data) if name != module.name else data
        )
        listed.append(name)
    (root / "modules" / "list").write_text("".join(f"{name}\n" for name in listed))
    (root / "directory").write_text(str(directory))
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    image = packed(root)
    shutil.rmtree(root)
    return image
