"""Where a suite runs: a server with its exports, guests of one kernel, and one kind of sharing.

A suite gets a `Setting` and makes no processes of its own but through it. Everything lies below one
directory that only root enters, since ventifs writes as root nowhere else. A server starts with
each `serving` and ends with it; guests stay from suite to suite, unless one fails.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.agent import Guest
from tests.support.emulated import Emulated, Kernel
from tests.support.initramfs import kernels
from tests.support.segment import FIRST, HOST, SECOND, Link, Segment
from tests.support.servers import PORT, Server, diod
from tests.support.serving import command
from tests.support.trees import remove
from tests.support.uml import Uml

INSIDE = Path(__file__).parent / "inside"
SERVERS = ("ventifs", "diod", "local")
UML = "uml-6.1"
LINKS = (FIRST, SECOND)
FILES_MAX = 1024  # of the server, where a suite asks for few
_LOCAL_BYTES = 1400 << 20  # of the local file system, a sparse file in the guest's memory


@dataclass(frozen=True)
class Kind:
    """How an export is shared, and the guest's cache that goes with it."""

    sharing: str
    cache: str


KINDS = {
    "shared": Kind("shared", "none"),
    "exclusive": Kind("exclusive", "mmap"),
    "loose": Kind("exclusive", "loose"),
}


class Failed(AssertionError):
    """A suite found a fault; the message is its evidence."""


def check(right: object, message: str) -> None:
    """Fail the suite unless something is true."""
    if not right:
        raise Failed(message)


def available_kernels(work: Path) -> dict[str, Kernel | None]:
    """The kernels that guests can have, by name; None is User-mode Linux's.

    Args:
        work: has unpacked kernels as `kernels/NAME/boot` and `kernels/NAME/lib/modules`.
    """
    found: dict[str, Kernel | None] = {UML: None}
    if installed := kernels():
        found["6.1"] = Kernel(installed[-1])
    for base in sorted((work / "kernels").glob("*")):
        for image in base.glob("boot/vmlinuz-*"):
            found[base.name] = Kernel(image, base)
    return found


class Guests:
    """The guests of one kernel, booted when they are needed."""

    def __init__(self, network: Segment, work: Path, kernel: Kernel | None) -> None:
        """Boot none yet.

        Args:
            network: where they are.
            work: where their directories are made.
            kernel: Debian's kernel, or None for User-mode Linux.
        """
        self._network = network
        self._work = work
        self._kernel = kernel
        self._running: dict[Link, Guest] = {}
        self._directories: list[Path] = []

    def get(self, link: Link) -> Guest:
        """The guest behind a link."""
        guest = self._running.get(link)
        if guest is None or not guest.alive:
            directory = Path(tempfile.mkdtemp(prefix="guest-", dir=self._work))
            self._directories.append(directory)
            guest = (
                Uml(self._network, directory, link)
                if self._kernel is None
                else Emulated(self._kernel, self._network, directory, link)
            )
            self._running[link] = guest
        return guest

    def kill(self) -> None:
        """End all guests; the next that is needed is a new one."""
        for guest in self._running.values():
            guest.kill()
        self._running.clear()
        for directory in self._directories:
            remove(directory)
        self._directories.clear()


@dataclass
class Setting:
    """Where one suite runs.

    Attributes:
        server: one of `SERVERS`.
        kind: one of `KINDS`.
        work: kept from run to run: what is large and can be used again.
        directory: new, and removed after the suite.
        scale: how much to do; 1 is everything.
        options: more mount options.
    """

    server: str
    kind: str
    work: Path
    directory: Path
    scale: float
    network: Segment
    guests: Guests
    options: str = ""
    log: Path = field(init=False)
    _paths: dict[str, Path] = field(init=False)

    def __post_init__(self) -> None:
        """Make the export."""
        self.log = self.directory / "server.log"
        self.export.mkdir()
        (self.directory / "run").mkdir()
        self.export.chmod(0o755)

    @property
    def export(self) -> Path:
        """The directory of the host that is served, writable, as `data`."""
        return self.directory / "export"

    @property
    def guest(self) -> Guest:
        """The first guest."""
        return self.guests.get(FIRST)

    @property
    def second(self) -> Guest:
        """Another guest beside it."""
        return self.guests.get(SECOND)

    @property
    def maps(self) -> bool:
        """Whether files can be mapped shared and writable: with cache=none Linux refuses that."""
        return self.server == "local" or KINDS[self.kind].cache != "none"

    def many(self, full: int, least: int = 1) -> int:
        """A number that goes with the scale."""
        return max(int(full * self.scale), least)

    @contextmanager
    def serving(
        self,
        read_only: Mapping[str, Path] | None = None,
        *more: str,
        beside: Mapping[str, Path] | None = None,
        few_files: bool = False,
    ) -> Iterator[Server]:
        """Serve the export.

        Args:
            read_only: other directories by name, served read-only.
            more: more words for `ventifs serve`.
            beside: other directories by name, writable and shared.
            few_files: allow the server only `FILES_MAX` open files.
        """
        self._paths = {"data": self.export, **(read_only or {}), **(beside or {})}
        limit = ["prlimit", f"--nofile={FILES_MAX}:{FILES_MAX}"] if few_files else []
        if self.server == "diod":
            served = self._paths.values()
            with diod(self.network, self.log, *served, writable=True, wrapped=limit) as server:
                yield server
            return
        exports = [f"data={self.export},rw,{KINDS[self.kind].sharing}"]
        exports += [f"{name}={path}" for name, path in (read_only or {}).items()]
        exports += [f"{name}={path},rw" for name, path in (beside or {}).items()]
        words = [word for export in exports for word in ("--live", export)]
        for link in LINKS:
            words += ["--allow", f"{link.network}/24 *"]
        with Server(
            self.network,
            self.log,
            *limit,
            "env",
            f"XDG_DATA_HOME={self.directory}/none",
            f"RUNTIME_DIRECTORY={self.directory}/run",
            *command("serve", f"tcp://{HOST}:{PORT}", *words, *more),
        ) as server:
            yield server

    def words(self, name: str = "data", more: str = "") -> str:
        """The mount options for an export by its name."""
        aname = str(self._paths[name]) if self.server == "diod" else name
        cache = KINDS[self.kind].cache
        options = f"trans=tcp,port={PORT},version=9p2000.L,aname={aname},uname=root,access=user"
        options += f",msize=1048576,cache={cache},locktimeout=1"
        return ",".join(filter(None, [options, self.options, more]))

    @contextmanager
    def mounted(self, *, guest: Guest | None = None, more: str = "") -> Iterator[Path]:
        """The export, mounted in a guest; yields its path there."""
        guest = guest or self.guest
        if self.server == "local":
            with _local(guest) as path:
                yield path
            return
        with guest.mounted("data", HOST, self.words(more=more)) as path:
            yield path

    @contextmanager
    def ready(self, more: str = "") -> Iterator[Path]:
        """Serve the export alone and mount it in the first guest; yields its path there."""
        if self.server == "local":
            with self.mounted() as path:
                yield path
            return
        with self.serving(), self.mounted(more=more) as path:
            yield path

    def inside(self, program: str, *words: object) -> str:
        """The command that runs a program of `inside` in a guest."""
        return shlex.join([sys.executable, "-I", "-S", f"{INSIDE}/{program}", *map(str, words)])

    def run(
        self, script: str, *, guest: Guest | None = None, patience_s: float | None = None
    ) -> str:
        """Run a script in a guest, in which all commands must succeed; return its output.

        It may take an hour, or 15 minutes when the suite does less than the whole.

        Raises:
            Failed: one did not.
        """
        if patience_s is None:
            patience_s = 3600 if self.scale >= 1 else 900
        done = (guest or self.guest).run(f"set -eu\n{script}", patience_s=patience_s)
        check(not done.status, f"exit status {done.status} of:\n{script}\n{done.text[-6000:]}")
        return done.text


@contextmanager
def _local(guest: Guest) -> Iterator[Path]:
    """A file system of the guest's own: the control group of a suite."""
    place = guest.directory / "mnt" / "data"
    image = guest.directory / "mnt" / "image"
    guest.succeed(
        f"truncate -s {_LOCAL_BYTES} {image}; mkfs.ext4 -q {image}; mkdir {place}\n"
        f"mount -o loop {image} {place}; rmdir {place}/lost+found"
    )
    try:
        yield place
    finally:
        if guest.alive:
            guest.succeed(f"umount {place}; rmdir {place}; rm {image}")


@dataclass(frozen=True)
class Suite:
    """A suite: what it does, and where it makes sense.

    Attributes:
        about: a line for `--list`.
        kinds: the kinds of sharing, of `KINDS`.
        kernels: the kernels that it runs on unless others are chosen.
        programs: what must be installed.
        local: whether it can run on a file system of the guest's own.
        servers: the servers that it runs against.
    """

    name: str
    about: str
    run: Callable[[Setting], str | None]
    kinds: tuple[str, ...] = ("shared", "exclusive")
    kernels: tuple[str, ...] = (UML,)
    programs: tuple[str, ...] = ()
    local: bool = True
    servers: tuple[str, ...] = ("ventifs", "diod")


def host(*words: str | Path, cwd: Path | None = None) -> str:
    """Run a command on the host to its end; return its output."""
    done = subprocess.run(
        words,
        check=False,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="surrogateescape",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    check(not done.returncode, f"{words}: {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout
