"""9P servers in a segment: ventifs over a store, and diod over directories."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.patience import wait_until
from tests.support.segment import FIRST, HOST, NETWORK, PREFIX, SECOND, Segment, end, tail

PORT = 564


class ServerDied(AssertionError):
    """A server ended or does not listen; the message ends with its log."""


class Server:
    """A server that listens at `HOST` until it is closed."""

    def __init__(self, segment: Segment, log: Path, *command: str | Path, port: int = PORT) -> None:
        """Start it, and wait until it listens at a port.

        Raises:
            ServerDied: it does not listen within `PATIENCE_S`.
        """
        self.port = port
        self.log = log
        with log.open("wb") as file:
            self.process: subprocess.Popen[Any] = segment.start(
                *command, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        probe = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])))"

        def listens() -> bool:
            done = segment.run(
                sys.executable,
                "-c",
                probe,
                HOST,
                str(port),
                check=False,
                stderr=subprocess.DEVNULL,
            )
            return not done.returncode

        try:
            wait_until(listens, unless=lambda: self.process.poll() is not None)
        except AssertionError:
            self.close()
            raise ServerDied(f"no 9P server at port {port}:\n{tail(log)}") from None

    def close(self) -> None:
        """Kill it."""
        end(self.process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()


def ventifs(segment: Segment, log: Path, store: Path, *options: str, port: int = PORT) -> Server:
    """`ventifs serve` over a store."""
    return _serving(segment, log, "--store", store, *options, port=port)


def live(
    segment: Segment,
    log: Path,
    directories: dict[str, Path],
    *,
    port: int = PORT,
    sharing: str = "shared",
) -> Server:
    """`ventifs serve --live` of directories by name, which everybody in the segment may change."""
    exports = [f"--live={name}={directory},rw,{sharing}" for name, directory in directories.items()]
    return _serving(segment, log, *exports, "--allow", f"{NETWORK}/{PREFIX} *", port=port)


def _serving(segment: Segment, log: Path, *options: str | Path, port: int) -> Server:
    command = (sys.executable, "-m", "ventifs.cli.main", "serve", f"tcp://{HOST}:{port}")
    return Server(segment, log, *command, *options, port=port)


# `$1` is a hosts file; the directories to protect come before a `--`, the command after it.
_ALONE = """
mount --bind "$1" /etc/hosts && shift
while [ "$1" != -- ]; do
    mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift || exit
done
shift
exec "$@"
"""


def diod(
    segment: Segment,
    log: Path,
    *directories: Path,
    port: int = PORT,
    writable: bool = False,
    wrapped: Sequence[str] = (),
) -> Server:
    """Debian's diod over directories; the path of each is its `aname`.

    It runs in a mount namespace of its own, for two reasons. It drops peers without a host name, so
    it gets a hosts file. It lets peers write, so the directories, which others use too, are mounted
    read-only unless they are to be `writable`. `wrapped` is a command that runs it.
    """
    hosts = log.with_suffix(".hosts")
    guests = "".join(f"{link.guest} guest-{link.tap}\n" for link in (FIRST, SECOND))
    hosts.write_text(f"127.0.0.1 localhost\n{HOST} host\n{guests}")
    exports = [word for directory in directories for word in ("-e", str(directory))]
    return Server(
        segment,
        log,
        "unshare",
        "--mount",
        "sh",
        "-c",
        _ALONE,
        "-",
        hosts,
        *(() if writable else directories),
        "--",
        *wrapped,
        "diod",
        "-f",
        "-n",
        *(["-N"] if writable else []),  # whoever writes needs no name on this host
        "-L",
        "stderr",
        "-l",
        f"{HOST}:{port}",
        *exports,
        port=port,
    )
