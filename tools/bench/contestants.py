"""The servers that are compared, as processes, and the load generator that measures them.

Every server listens on a loopback port or a Unix socket of its own, so that all run side by side;
idle servers cost nothing. CPU time and memory are those of all processes of a server's session.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

STARTS_WITHIN_S = 30.0
VENTIFS = [sys.executable, "-c", "from ventifs.cli.main import main; main()"]  # of this tree
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

Result = dict[str, Any]  # what load.c prints, and `server_cpu_s`


@dataclass(frozen=True)
class Place:
    """The paths: trees to serve, the store of their versions, scratch space, the generator."""

    trees: dict[str, Path]  # name of the version -> directory
    store: Path
    scratch: Path
    load: Path
    unix: bool


class Server(AbstractContextManager["Server"]):
    """A server process and its address."""

    name = ""
    msize_max = 1 << 20
    checkout = Path.cwd()  # the source that a ventifs server runs

    def __init__(self, place: Place) -> None:
        """Start it, and wait until it accepts connections."""
        self.place = place
        self.address = free_address(place)
        self._log = place.scratch / f"{self.name}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(self.checkout)},
                cwd=place.scratch,  # where diod's core is, if it aborts when clients leave
            )
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not connects(self.address):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                said = self._log.read_text(errors="replace")[-4000:]
                sys.exit(f"{self.name} does not serve {self.address}:\n{said}")
            time.sleep(0.02)

    def command(self) -> list[str]:
        """The command line of the server."""
        raise NotImplementedError

    def aname(self, tree: str) -> str:
        """The aname that a client attaches to for a tree."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Terminate the process, and kill it if it does not end."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def cpu_s(self) -> float:
        """User and system time so far."""
        return sum(int(row[11]) + int(row[12]) for row in self._rows()) / _TICKS

    def resident(self) -> int:
        """Bytes of resident memory."""
        return sum(int(row[21]) * _PAGE for row in self._rows())

    def _rows(self) -> list[list[str]]:
        rows = (stat(int(name)) for name in os.listdir("/proc") if name.isdecimal())
        return [row for row in rows if row[3:4] == [str(self._process.pid)]]

    def start_load(
        self, workload: str, tree: str, paths: Sequence[str], *options: object
    ) -> "subprocess.Popen[str]":
        """Start the generator; with `-H` it runs until its stdin, which stays open, is closed."""
        command = [self.place.load, "-a", self.aname(tree), *options, self.address, workload]
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write("".join(f"{path}\n" for path in paths) + "\n")
        process.stdin.flush()
        return process

    def finish(self, process: "subprocess.Popen[str]") -> Result:
        """Wait for a generator to end; an error that it found ends the bench."""
        assert process.stdout is not None
        said = process.stdout.readline()  # with -H the generator waits after this line
        process.communicate()
        if process.returncode:
            log = self._log.read_text(errors="replace")[-2000:]
            sys.exit(f"load failed against {self.name}, whose log ends:\n{log}")
        result: Result = json.loads(said)
        return result

    def load(self, workload: str, tree: str, paths: Sequence[str], *options: object) -> Result:
        """Run the generator to its end, with its options."""
        before = self.cpu_s()
        result = self.finish(self.start_load(workload, tree, paths, *options))
        return {**result, "server_cpu_s": self.cpu_s() - before}

    def resident_holding(
        self, workload: str, tree: str, paths: Sequence[str], *options: object
    ) -> int:
        """Bytes of resident memory after a workload, while its clients are still connected."""
        process = self.start_load(workload, tree, paths, "-H", *options)
        assert process.stdout is not None
        said = process.stdout.readline()
        resident = self.resident()
        process.communicate()
        if process.returncode or json.loads(said)["errors"]:
            sys.exit(f"{workload} failed against {self.name}")
        return resident


class Diod(Server):
    """Debian's diod with its default of 16 threads, without authentication."""

    name = "diod"
    msize_max = 65536  # it offers no more

    def command(self) -> list[str]:
        """The command line; exports are directories, and anames their paths."""
        exports = [word for tree in self.place.trees.values() for word in ("-e", str(tree))]
        return [
            "/usr/sbin/diod",
            "-f",
            "-n",
            "-N",
            "-L",
            "stderr",
            "-c",
            "/dev/null",
            "-l",
            self.address,
            *exports,
        ]

    def aname(self, tree: str) -> str:
        """The path of the tree."""
        return str(self.place.trees[tree])


class Ventifs(Server):
    """`ventifs serve`, with its default cache unless an option sets another."""

    name = "ventifs"

    def __init__(self, place: Place, *options: str) -> None:
        """Start it with these options of `ventifs serve`."""
        self._options = options
        super().__init__(place)

    def command(self) -> list[str]:
        """The command line of `ventifs serve` with one process."""
        return [*VENTIFS, "serve", "--store", str(self.place.store), *self._where()]

    def _where(self) -> list[str]:
        unix = self.place.unix
        allowing = [] if unix else ["--allow", "127.0.0.1 *"]  # else only what user nobody may read
        return [*allowing, *self._options, f"{'unix' if unix else 'tcp'}://{self.address}"]

    def aname(self, tree: str) -> str:
        """The last version of the tree."""
        return f"{tree}@latest"


class Live(Ventifs):
    """`ventifs serve` of the directories as they are now, which clients may change."""

    def command(self) -> list[str]:
        """The command line of `ventifs serve --live`."""
        lives = [
            word
            for name, directory in self.place.trees.items()
            for word in ("--live", f"{name}={directory},rw")
        ]
        return [*VENTIFS, "serve", *lives, *self._where()]

    def aname(self, tree: str) -> str:
        """The name of the tree."""
        return tree


class DiodAgain(Diod):
    """diod in the place of ventifs: what ratios are without any difference."""

    name = "ventifs"


class Before(Ventifs):
    """`ventifs serve` of another checkout."""

    name = "before"

    def __init__(self, place: Place, checkout: Path) -> None:
        """Start the server of another checkout."""
        self.checkout = checkout
        super().__init__(place)


class Bare(Server):
    """The server of bare.py, for one file of a tree, read in windows of `count` bytes."""

    name = "sendmsg"

    def __init__(self, place: Place, tree: str, path: str, count: int) -> None:
        """Start it; it decodes the file before it listens."""
        self._arguments = [f"{tree}@latest", path, str(count)]
        super().__init__(place)

    def command(self) -> list[str]:
        """The command line of a process, as for the other servers."""
        return [
            sys.executable,
            "-m",
            "tools.bench.bare",
            str(self.place.store),
            *self._arguments,
            self.address,
        ]

    def aname(self, tree: str) -> str:
        """The tree; the server ignores the name."""
        return tree


def compiled_load(directory: Path) -> Path:
    """Compile the load generator into a directory; its path."""
    source, load = Path(__file__).with_name("load.c"), directory / "load"
    subprocess.run(["gcc", "-O2", "-o", load, source], check=True)
    return load


def free_address(place: Place) -> str:
    """A free HOST:PORT, or a free /PATH for a Unix socket."""
    if place.unix:
        return str(place.scratch / f"socket{time.monotonic_ns()}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def connects(address: str) -> bool:
    """Whether a server listens at the address."""
    family = socket.AF_UNIX if address.startswith("/") else socket.AF_INET
    host, _, port = address.rpartition(":")
    with socket.socket(family) as connection:
        try:
            connection.connect(address if family is socket.AF_UNIX else (host, int(port)))
        except OSError:
            return False
    return True


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none once it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
