"""A network of its own for a test: servers, guests and tools in one network namespace.

Nothing in it reaches the host's network, and nothing outside reaches it, so that servers listen at
well-known ports and guests have fixed addresses. All that is started in a segment dies with it, and
with the test run, even one that is killed.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.patience import PATIENCE_S

HOST = "192.0.2.1"  # the address of servers; RFC 5737 keeps this network for examples
GUEST = "192.0.2.2"
NETWORK, PREFIX = "192.0.2.0", 24
TAP = "tap0"  # where a guest's network card is

# The namespace lives as long as this shell, which ends when our end of its input does.
# A tap seems to signal SIGIO before it tells epoll: a User-mode Linux guest that is quick looks in
# between, sees nothing, and misses what came, until something else comes: a server that answers
# while the guest is awake has it happen to 1 of 2,000 replies. So TCP sends again after 5 ms and
# not 200, which were half of the time that such a guest took to look at a tree.
_HOLD = f"""
ip link set lo up &&
ip tuntap add {TAP} mode tap &&
ip address add {HOST}/{PREFIX} dev {TAP} &&
ip link set {TAP} up &&
ip route change {NETWORK}/{PREFIX} dev {TAP} rto_min 5ms &&
echo ready && read -r nothing
"""
_DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


def why_not() -> str:
    """Why there can be no segment here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not Path("/dev/net/tun").exists():
        return "this host has no /dev/net/tun"
    done = subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True, text=True)
    return done.stderr.strip()


class Segment:
    """A network namespace with a tap device, and the processes in it."""

    def __init__(self) -> None:
        """Make it.

        Raises:
            RuntimeError: the host does not allow it; the message says what it said.
        """
        self._started: list[subprocess.Popen[Any]] = []
        self._holder = subprocess.Popen(
            [*_DIE_WITH_US, "unshare", "--net", "sh", "-c", _HOLD],
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
        """Kill what runs in it."""
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
    """Kill a process, if it still runs, and close what we hold of it."""
    process.kill()
    process.wait(PATIENCE_S)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def tail(log: Path, lines: int = 20) -> str:
    """The end of a log, for a message."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def missing_programs(programs: Sequence[str]) -> list[str]:
    """Those of some programs that are not installed; what root alone runs is looked for too."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    places = path.split(os.pathsep)
    return [
        name
        for name in programs
        if not any(os.access(os.path.join(place, name), os.X_OK) for place in places)
    ]
