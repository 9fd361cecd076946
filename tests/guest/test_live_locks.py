"""Locks of Linux's own client on a live directory: two mounts of it, and processes of the host.

For the server, two mounts of a guest are two sessions, as two guests are; for the guest's kernel
they are different files, so that no conflict between them is its own doing.
"""

import fcntl
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.locking import READ, WRITE, held_by_process, record
from tests.support.patience import wait_until
from tests.support.segment import HOST, Segment
from tests.support.servers import Server
from tests.support.uml import Uml
from ventifs.vfs.interface import UNLOCKED

pytestmark = pytest.mark.slow
PORT = 565
OPTIONS = (
    f"trans=tcp,port={PORT},version=9p2000.L,aname=live,uname=root,access=user,"
    "msize=131072,cache=none,locktimeout=1"
)
# Python in the guest: `lock(path, kind, start, length, command)` as fcntl(2) has it.
_LOCK = """
import fcntl, os, struct, sys, time
def lock(file, kind, start=0, length=0, command=fcntl.F_SETLK):
    packed = struct.pack("@hhqqi0q", kind, 0, start, length, 0)
    kind, _, start, length, pid = struct.unpack("@hhqqi0q", fcntl.fcntl(file, command, packed))
    return kind, start, length, pid
"""


@dataclass
class Mounted:
    """A guest with two mounts, `one` and `two`, of a directory with an empty `file`."""

    guest: Uml
    file: Path

    def status(self, command: str) -> int:
        """The exit status of a command in the guest."""
        return self.guest.run(command).status

    def python(self, code: str) -> str:
        """The output of Python code in the guest that must succeed."""
        script = self.guest.directory / "locks.py"
        script.write_text(_LOCK + code)
        return self.guest.succeed(f"{sys.executable} -I -S ../locks.py").strip()

    def hold(self, command: str) -> None:
        """Start a `flock` in the guest that holds a lock until `go`."""
        script = "echo >../held; while [ ! -e ../go ]; do sleep 0.05; done"
        words = f"rm -f ../go; {command} sh -c '{script}' >/dev/null 2>&1 &"
        self.guest.succeed(f"{words} echo $! >../pid")
        wait_until((self.guest.directory / "held").exists)

    def go(self) -> None:
        """Have what `hold` has started end."""
        (self.guest.directory / "go").touch()
        self.quiet()
        (self.guest.directory / "held").unlink()

    def quiet(self) -> None:
        """Wait until no process of the guest has the file open."""
        self.guest.succeed("while ls -l /proc/[0-9]*/fd 2>&1 | grep -q /file$; do sleep 0.05; done")

    def seen_by_the_host(self, kind: int = WRITE, start: int = 0, length: int = 0) -> int:
        """The kind of the lock that keeps a process of the host from this one."""
        fd = os.open(self.file, os.O_RDWR)
        try:
            return record(fd, fcntl.F_OFD_GETLK, kind, start, length)[0]
        finally:
            os.close(fd)


@pytest.fixture(scope="module")
def live(network: Segment, scratch: Path) -> Iterator[Path]:
    """A directory of the host that is served live."""
    directory = scratch / "live"
    directory.mkdir()
    (directory / "file").touch()
    words = ["serve", f"tcp://{HOST}:{PORT}", "--live", f"live={directory},rw"]
    command = [sys.executable, "-m", "ventifs.cli.main", *words, "--allow", "192.0.2.0/24 *"]
    with Server(network, scratch / "live.log", *command, port=PORT):
        yield directory


@pytest.fixture
def mounted(guest: Uml, live: Path) -> Iterator[Mounted]:
    with guest.mounted("one", HOST, OPTIONS), guest.mounted("two", HOST, OPTIONS):
        yield Mounted(guest, live / "file")


def test_flock_keeps_other_guests_and_the_host_out(mounted: Mounted) -> None:
    mounted.hold("flock one/file")
    assert mounted.seen_by_the_host(READ) == WRITE
    for mount in ("one", "two"):
        assert mounted.status(f"flock -n {mount}/file true") == 1
        assert mounted.status(f"flock -s -n {mount}/file true") == 1
    assert mounted.status("flock -w 2 two/file true") == 1
    assert mounted.status("timeout -s KILL 1 flock two/file true") == 128 + 9
    mounted.go()
    assert mounted.status("flock two/file true") == 0
    assert mounted.seen_by_the_host() == UNLOCKED


def test_shared_locks_share(mounted: Mounted) -> None:
    mounted.hold("flock -s one/file")
    assert mounted.seen_by_the_host() == READ
    assert mounted.status("flock -s -n two/file true") == 0
    assert mounted.status("flock -n two/file true") == 1
    mounted.go()
    assert mounted.status("flock two/file true") == 0


def test_a_process_of_the_host_keeps_guests_out(mounted: Mounted) -> None:
    with held_by_process(mounted.file, WRITE, 5, 5) as process:
        assert mounted.status("flock -n one/file true") == 1
        assert mounted.status("flock -w 1 two/file true") == 1
        found = mounted.python('print(lock(open("one/file", "r+b"), 1, command=fcntl.F_GETLK))')
        assert found == f"(1, 5, 5, -{process})", "Linux's client makes numbers of others negative"
    assert mounted.status("flock -n one/file true") == 0


def test_ranges_conflict_byte_by_byte_up_to_the_last_one(mounted: Mounted) -> None:
    last = (1 << 63) - 2  # Linux itself lets no process lock the byte after that alone
    wanted = [(1, 0, 10), (1, 20, 5), (0, last, 1), (0, 19, 1), (1, 9, 2), (1, last, 1)]
    told = mounted.python(f"""
one, two = open("one/file", "r+b"), open("two/file", "r+b")
ready, say = os.pipe()
child = os.fork()
if not child:
    lock(one, 1, 10, 10), lock(one, 0, {last}, 0)
    os.write(say, b"1")
    time.sleep(600)
os.read(ready, 1)
for kind, start, length in {wanted}:
    try:
        lock(two, kind, start, length)
    except BlockingIOError:
        print("blocked")
    else:
        print("taken")
for start, length in ((0, 0), (20, 0), (20, 5)):
    print(*lock(two, 1, start, length, fcntl.F_GETLK)[:3])
os.kill(child, 9)
""")
    assert told.splitlines() == [
        *("taken", "taken", "taken", "blocked", "blocked", "blocked"),
        *("1 10 10", f"0 {last} 0", "2 20 5"),
    ]
    wait_until(lambda: mounted.seen_by_the_host() == UNLOCKED)


def test_a_blocking_lock_comes_when_it_is_given_back(mounted: Mounted) -> None:
    mounted.hold("flock one/file")
    mounted.guest.succeed("(flock two/file sh -c 'echo got >../got') >/dev/null 2>&1 &")
    assert mounted.status("flock -w 1 two/file true") == 1
    assert not (mounted.guest.directory / "got").exists()
    mounted.go()
    wait_until((mounted.guest.directory / "got").exists)
    mounted.quiet()


def test_locks_end_with_their_process_and_with_their_mount(mounted: Mounted) -> None:
    mounted.hold("flock one/file")
    mounted.guest.succeed("kill -KILL $(cat ../pid)")
    wait_until(lambda: mounted.seen_by_the_host() == UNLOCKED)
    mounted.go()
    with mounted.guest.mounted("three", HOST, OPTIONS):
        mounted.hold("flock three/file")
        assert mounted.seen_by_the_host() == WRITE
        mounted.go()
    assert mounted.seen_by_the_host() == UNLOCKED


def test_a_lock_of_a_process_that_ends_is_the_guests_alone_then(mounted: Mounted) -> None:
    """Linux's client gives it back though another process has the file open: see SERVING.md."""
    told = mounted.guest.succeed("""
        exec 9<>one/file
        flock 9
        flock -n one/file true || echo here
        flock -n two/file true && echo nowhere else
    """)
    assert told.split("\n") == ["here", "nowhere else", ""]
