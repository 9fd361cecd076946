"""A User-mode Linux guest: a real kernel with its own 9P client, which boots fast without KVM.

The guest's root is the host's own, read-only through hostfs, so that it has the host's Python and
coreutils and nothing needs to be built. tests/support/agent.py has what can be done with it. For
the boot time see docs/performance.md.
"""

import os
import socket
import subprocess
from pathlib import Path

from tests.support.agent import Done as Done
from tests.support.agent import Guest, served
from tests.support.agent import GuestDied as GuestDied
from tests.support.segment import FIRST, Link, Segment, missing_programs

MEMORY = "2048M"
MODULES = Path("/usr/lib/uml/modules")
PACKAGES = "user-mode-linux iproute2"

# `$1` is the shared directory. modprobe expects its modules below a `lib/modules`.
_AGENT = f"""#!/bin/sh
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
directory=$1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
mount -t hostfs none "$directory" -o "$directory"
mount -t tmpfs mnt "$directory/mnt"
cd "$directory/mnt"
mkdir -p .modules/lib
ln -s {MODULES} .modules/lib/modules
modprobe -d .modules -a 9p 9pnet_fd overlay loop
"""


def why_not() -> str:
    """Why no guest can be booted here; empty if one can."""
    missing = missing_programs(["linux.uml", "ip", "unshare", "setpriv", "modprobe"])
    if missing or not MODULES.is_dir():
        return f"needs the Debian packages {PACKAGES} (missing: {' '.join(missing) or MODULES})"
    return ""


class Uml(Guest):
    """A running guest in a segment."""

    def __init__(self, segment: Segment, directory: Path, link: Link = FIRST) -> None:
        """Boot it.

        Args:
            segment: the network that it is in.
            directory: the shared directory, new or empty.
            link: what it is connected by; no other guest is.

        Raises:
            GuestDied: the guest does not boot.
        """
        (directory / "mnt").mkdir(parents=True)
        (directory / "home").mkdir()
        agent = directory / "agent"
        agent.write_text(_AGENT + served(link, "vec0", "/dev/ttyS0"))
        agent.chmod(0o755)
        line, theirs = socket.socketpair()
        fd = theirs.fileno()
        # The guest's idle loop may miss a packet that arrives as it falls asleep. Without
        # `nohz=off` nothing wakes it until TCP retransmits, which takes long, see
        # docs/performance.md.
        # The PID namespace ends the guest's processes with its kernel: they are traced processes of
        # the host, which would outlive a killed kernel.
        with (directory / "console.log").open("wb") as console, theirs:
            process = segment.start(
                "unshare",
                "--pid",
                "--mount-proc",
                "--fork",
                "--kill-child",
                "linux.uml",
                f"mem={MEMORY}",
                "root=/dev/root",
                "rootfstype=hostfs",
                "rootflags=/",
                "ro",
                f"init={agent}",
                "con=null",
                "con0=null,fd:1",
                f"ssl0=fd:{fd}",
                "ssl=null",
                f"vec0:transport=tap,ifname={link.tap},gro=1",
                "panic=-1",
                "nohz=off",
                "--",
                str(directory),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=[fd],
                env={**os.environ, "HOME": str(directory / "home")},
                cwd=directory,
            )
        super().__init__(directory, process, line)
