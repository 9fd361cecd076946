"""A guest that runs scripts one after the other: the protocol of its agent, on the host's side.

The agent is the guest's init, as root. The host requests scripts over a serial line and finds their
output in a directory (`Guest.directory`) that the guest shares with the host, and that is the only
part of the host that it can write. `mnt` below it is a tmpfs of the guest's own, for mount points
and copies; every script starts there. What boots a guest is its subclass's.
"""

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
from typing import Any, Self

from tests.support.patience import PATIENCE_S
from tests.support.segment import PREFIX, Link, end, tail


def served(link: Link, device: str, line: str) -> str:
    """The part of the agent that serves scripts; its shell has the shared directory as $directory.

    Args:
        link: what the guest is connected by.
        device: its network card.
        line: its end of the serial line.
    """
    return f"""
cd "$directory/mnt"
export HOME=$PWD TMPDIR=$PWD
ip link set lo up
ip address add {link.guest}/{PREFIX} dev {device}
ip link set {device} up
ip route add default via {link.host}
exec <{line} >{line}
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


class Guest:
    """A running guest."""

    def __init__(
        self, directory: Path, process: "subprocess.Popen[Any]", line: socket.socket
    ) -> None:
        """Wait until a guest that was started is ready.

        Args:
            directory: the shared directory; the guest's console goes to `console.log` in it.
            process: what runs the guest.
            line: the host's end of the serial line.

        Raises:
            GuestDied: the guest does not boot.
        """
        self.directory = directory
        self._console = directory / "console.log"
        self._said = b""
        self._scripts = 0
        self._process = process
        self._line = line
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
