"""A User-mode Linux guest: a real kernel with its own 9P client, which boots fast without KVM.

The guest's root is the host's own, read-only through hostfs, so that it has the host's Python and
coreutils and nothing needs to be built. Its directory (`Uml.directory`) is shared with the host,
and is the only part of the host that it can write. `mnt` below it is a tmpfs of the guest's own,
for mount points and copies; every script starts there.

An agent, the guest's init, runs scripts one after the other, as root. The host requests them over a
serial line and finds their output in the shared directory. For the boot time see
docs/performance.md.
"""

import os
import re
import select
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.patience import PATIENCE_S
from tests.support.segment import GUEST, PREFIX, TAP, Segment, end, missing_programs, tail

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
mount -t hostfs none "$directory" -o "$directory"
mount -t tmpfs mnt "$directory/mnt"
cd "$directory/mnt"
export HOME=$PWD TMPDIR=$PWD
mkdir -p .modules/lib
ln -s {MODULES} .modules/lib/modules
modprobe -d .modules -a 9p 9pnet_fd overlay
ip link set lo up
ip address add {GUEST}/{PREFIX} dev vec0
ip link set vec0 up
exec </dev/ttyS0 >/dev/ttyS0
stty raw -echo
echo ready
while read -r number; do
    status=0
    sh "$directory/$number.sh" >"$directory/$number.out" 2>&1 </dev/null || status=$?
    sync "$directory/$number.out"
    echo "done $number $status"
done
poweroff -f
"""


class GuestDied(AssertionError):
    """The guest ended, hung or panicked; the message ends with the end of its console output."""


@dataclass(frozen=True)
class Done:
    """The result of a script: its exit status, and its output and errors together."""

    status: int
    output: bytes

    @property
    def text(self) -> str:
        """The output as text."""
        return self.output.decode(errors="surrogateescape")


def why_not() -> str:
    """Why no guest can be booted here; empty if one can."""
    missing = missing_programs(["linux.uml", "ip", "unshare", "setpriv", "modprobe"])
    if missing or not MODULES.is_dir():
        return f"needs the Debian packages {PACKAGES} (missing: {' '.join(missing) or MODULES})"
    return ""


class Uml:
    """A running guest in a segment."""

    def __init__(self, segment: Segment, directory: Path) -> None:
        """Boot it; `directory` must be new or empty.

        Raises:
            GuestDied: the guest does not boot.
        """
        self.directory = directory
        self._console = directory / "console.log"
        self._said = b""
        self._scripts = 0
        (directory / "mnt").mkdir(parents=True)
        (directory / "home").mkdir()
        agent = directory / "agent"
        agent.write_text(_AGENT)
        agent.chmod(0o755)
        self._line, theirs = socket.socketpair()
        fd = theirs.fileno()
        # The guest's idle loop may miss a packet that arrives as it falls asleep. Without
        # `nohz=off` nothing wakes it until TCP retransmits, which takes long, see
        # docs/performance.md.
        # The PID namespace ends the guest's processes with its kernel: they are traced processes of
        # the host, which would outlive a killed kernel.
        with self._console.open("wb") as console, theirs:
            self._process = segment.start(
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
                f"vec0:transport=tap,ifname={TAP},gro=1",
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
        try:
            self._heard("ready", PATIENCE_S)
        except BaseException:
            self.kill()
            raise

    @property
    def alive(self) -> bool:
        """Whether the guest still runs."""
        return self._process.poll() is None

    def run(self, script: str, *, patience_s: float = PATIENCE_S) -> Done:
        """Run a shell script in the guest to its end.

        Raises:
            GuestDied: the script does not end within `patience_s`, or the guest ends first; the
                guest is killed then.
        """
        self._scripts += 1
        number = self._scripts
        (self.directory / f"{number}.sh").write_text(script)
        output = self.directory / f"{number}.out"
        try:
            self._line.sendall(b"%d\n" % number)
            told = self._heard(f"done {number} (\\d+)", patience_s)
        except BaseException as failure:
            self.kill()
            if isinstance(failure, GuestDied | OSError):
                said = tail(output) if output.exists() else ""
                raise GuestDied(f"{failure}\nof the script:\n{script}\n{said}") from None
            raise
        return Done(int(told[1]), output.read_bytes())

    def succeed(self, script: str, *, patience_s: float = PATIENCE_S) -> str:
        """Run a script whose commands must all succeed; return its output."""
        done = self.run(f"set -eu\n{script}", patience_s=patience_s)
        assert done.status == 0, f"{script!r} ended with {done.status}:\n{done.text}"
        return done.text

    @contextmanager
    def mounted(self, name: str, server: str, options: str) -> Iterator[Path]:
        """Mount a 9P server at the new directory `name`; yields its path in the guest."""
        place, quoted = self.directory / "mnt" / name, shlex.quote(name)
        words = f"mkdir {quoted}\nmount -i -t 9p -o {shlex.quote(options)} {server} {quoted}"
        self.succeed(words)
        try:
            yield place
        finally:
            if self.alive:
                self.succeed(f"umount {quoted}\nrmdir {quoted}")

    def kill(self) -> None:
        """Kill the guest, whatever it does."""
        end(self._process)
        self._line.close()

    def _heard(self, pattern: str, patience_s: float) -> "re.Match[str]":
        """Wait for a line from the agent."""
        while b"\n" not in self._said:  # a line comes in one or few pieces
            if not select.select([self._line], [], [], patience_s)[0]:
                raise GuestDied(f"the guest hangs: no answer for {patience_s} s{self._last()}")
            try:
                data = self._line.recv(4096)
            except ConnectionResetError:
                data = b""
            if not data:
                raise GuestDied(f"the guest has ended{self._last()}")
            self._said += data
        line, _, self._said = self._said.partition(b"\n")
        found = re.fullmatch(pattern, line.decode().strip())
        if found is None:
            raise GuestDied(f"the guest's agent said {line!r}{self._last()}")
        return found

    def _last(self) -> str:
        return f"; its console:\n{tail(self._console)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.kill()
