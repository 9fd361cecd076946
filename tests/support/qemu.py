"""A guest of QEMU with Debian's stock kernel, emulated (TCG), so that it runs on any machine.

It boots, runs its initramfs, and powers off; the output on its serial console is the result. Escape
codes of terminals are removed from the output.
"""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.initramfs import BUSYBOX, kernels
from tests.support.patience import LONG_PATIENCE_S
from tests.support.segment import Segment, end, missing_programs, tail

PACKAGES = "qemu-system-x86 linux-image-amd64 busybox-static initramfs-tools cpio"
MEMORY = "1024M"
# For the kernel command line of a guest with systemd, whose default for a unit's start is 90 s.
SLOW = f"systemd.default_timeout_start_sec={LONG_PATIENCE_S}"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")


class BootFailed(AssertionError):
    """A guest did not power off in time; the message ends with the end of its console output."""


def why_not() -> str:
    """Why no guest can be booted here; empty if one can."""
    missing = missing_programs(["qemu-system-x86_64", "mkinitramfs", "modprobe", "cpio"])
    missing += [str(BUSYBOX)] if not BUSYBOX.exists() else []
    missing += ["a kernel with 9p in /boot"] if not kernels() else []
    return f"needs the Debian packages {PACKAGES} (missing: {', '.join(missing)})" * bool(missing)


def boot(
    kernel: Path,
    initrd: Path,
    log: Path,
    *,
    append: str = "",
    network: Sequence[str | Path] = ("user", "id=net", "restrict=on"),
    disk: Path | None = None,
    segment: Segment | None = None,
    devices: Sequence[str] = (),
) -> str:
    """Boot a guest with one virtio network card until it powers off; return its console output.

    Args:
        kernel: the kernel's image.
        initrd: the initramfs.
        log: where the console goes.
        append: more words for the kernel's command line.
        network: the arguments of QEMU's `-netdev`, with the id `net`; the default leads nowhere.
        disk: a raw image, which the guest may write, as /dev/vda.
        segment: the network that QEMU runs in, if not in the host's.
        devices: more of QEMU's options.

    Raises:
        BootFailed: the guest runs longer than `LONG_PATIENCE_S`.
    """
    command: list[str | Path] = [
        "qemu-system-x86_64",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-m",
        MEMORY,
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
        "-serial",
        "stdio",
        "-device",
        "virtio-net-pci,netdev=net,romfile=",
        "-device",
        "virtio-rng-pci",
        "-netdev",
        ",".join(map(str, network)),
        *devices,
        *(["-drive", f"file={disk},format=raw,if=virtio"] if disk else []),
        "-kernel",
        kernel,
        "-initrd",
        initrd,
        "-append",
        # A kernel whose virtual timer comes late, on a busy host, would take it for missing.
        f"console=ttyS0 panic=-1 no_timer_check {append}",
    ]
    with log.open("wb") as console:
        process = subprocess.Popen(
            segment.words(*command) if segment else command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )
        try:
            status = process.wait(LONG_PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise BootFailed(f"still running after {LONG_PATIENCE_S} s:\n{tail(log, 50)}") from None
        finally:
            end(process)
    assert status == 0, f"QEMU ended with {status}:\n{tail(log)}"
    return _ESCAPES.sub("", log.read_text(errors="replace"))
