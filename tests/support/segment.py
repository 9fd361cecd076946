"""A private network for a test: servers, guests and tools in one network namespace.

The namespace is isolated from the host's network, so that servers listen at well-known ports and
guests have fixed addresses. All processes that are started in a segment end with it, and with the
test run, even if that is killed.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.patience import PATIENCE_S

HOST = "192.0.2.1"  # the address of servers; RFC 5737 keeps this network for examples
GUEST = "192.0.2.2"
NETWORK, PREFIX = "192.0.2.0", 24
TAP = "tap0"  # the device behind a guest's network card


@dataclass(frozen=True)
class Link:
    """What one guest is connected by: a tap device, and the addresses of its two ends."""

    tap: str
    host: str
    guest: str
    network: str
    mac: str


FIRST = Link(TAP, HOST, GUEST, NETWORK, "52:54:00:00:02:02")
SECOND = Link("tap1", "198.51.100.1", "198.51.100.2", "198.51.100.0", "52:54:00:51:02:02")

# The namespace lives as long as this shell, which ends when our end of its input is closed.
# A tap seems to send SIGIO before it wakes epoll. A fast User-mode Linux guest looks in between,
# sees nothing, and misses the packet until another one arrives; a server that answers while the
# guest is awake causes this now and then. So TCP retransmits after 5 ms; the default of 200 ms
# would be much of the time in which such a guest reads a tree, see docs/performance.md.
_LINK = f"""
ip tuntap add {{0.tap}} mode tap &&
ip address add {{0.host}}/{PREFIX} dev {{0.tap}} &&
ip link set {{0.tap}} up &&
ip route change {{0.network}}/{PREFIX} dev {{0.tap}} rto_min 5ms &&
"""
_DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


def why_not() -> str:
    """The reason why a segment cannot be made here; empty if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not Path("/dev/net/tun").exists():
        return "this host has no /dev/net/tun"
    done = subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True, text=True)
    return done.stderr.strip()


class Segment:
    """A network namespace with a tap device, and the processes in it."""

    def __init__(self, *links: Link) -> None:
        """Make it.

        Args:
            links: the links of its guests; by default the first alone.

        Raises:
            RuntimeError: the host does not allow it; the message holds the reason.
        """
        self._started: list[subprocess.Popen[Any]] = []
        made = "".join(_LINK.format(link) for link in links or (FIRST,))
        hold = f"ip link set lo up &&{made}echo ready && read -r nothing"
        self._holder = subprocess.Popen(
            [*_DIE_WITH_US, "unshare", "--net", "sh", "-c", hold],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            raise RuntimeError(f"no network namespace: {self._holder.communicate()[1].strip()}")

    def words(self, *command: str | Path) -> list[str | Path]:
        """The command line that runs a command in the segment."""
        return [*_DIE_WITH_US, "nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--", *command]

    def start(self, *command: str | Path, **options: Any) -> "subprocess.Popen[Any]":
        """Start a process in the segment, with the options of `Popen`."""
        process = subprocess.Popen(self.words(*command), **options)
        self._started.append(process)
        return process

    def run(
        self, *command: str | Path, check: bool = True, **options: Any
    ) -> "subprocess.CompletedProcess[Any]":
        """Run a process in the segment to its end, with the options of `subprocess.run`."""
        return subprocess.run(self.words(*command), check=check, **options)

    def close(self) -> None:
        """Kill all processes in the segment."""
        for process in reversed(self._started):
            end(process)
        self._holder.kill()
        self._holder.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()


def end(process: "subprocess.Popen[Any]") -> None:
    """Kill a process, if it still runs, and close our ends of its streams."""
    process.kill()
    process.wait(PATIENCE_S)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def tail(log: Path, lines: int = 20) -> str:
    """The end of a log, for a message."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def missing_programs(programs: Sequence[str]) -> list[str]:
    """The programs of these that are not installed; searches the directories of root's too."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    places = path.split(os.pathsep)
    return [
        name
        for name in programs
        if not any(os.access(os.path.join(place, name), os.X_OK) for place in places)
    ]
