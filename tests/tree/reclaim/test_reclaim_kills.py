"""A reclaimer is killed at random moments beside writers and a guest; nothing that counts is lost.

Four writers archive, forget and bring back the very contents whose blocks were just condemned. A
server's guest reads a version that was forgotten after it was mounted. Neither may ever fail. After
each kill the store is sound, every version in the catalog reads bit for bit, and writers go on.
`VENTIFS_KILLS` sets the number of kills.
"""

import os
import random
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import ventifs
from tests.support import turnover
from tests.support.faults import Point
from tests.support.patience import pause, wait_until
from tests.support.processes import KILLED, finished, kill, kill_all, start
from tests.support.sizes import LONG
from tests.support.tiny import audited, tiny_store
from tests.support.turnover import Log, LogReader, content, read_tree, write_tree
from ventifs.store import Store
from ventifs.store.files import Files
from ventifs.store.header import read_header
from ventifs.store.journal import Record
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index
from ventifs.tree.reclaim.reclaim import reclaim
from ventifs.tree.reclaim.results import Limits
from ventifs.tree.versions.leasing import ForgottenMeanwhile

KILLS = int(os.environ.get("VENTIFS_KILLS") or (1000 if LONG else 30))
WRITERS = 4
# A writer resumes an arena that has room for 256 KiB. In smaller
# ones every commit makes an arena, and a thousand kills tens of thousands.
ARENA_SIZE = 384 << 10
OPERATIONS_MAX = 120  # of files, until a reclaimer dies; a reclaim has about 60
INDEX_CALLS_MAX = 30
EVENTS_MAX = 30  # lines that a reclaimer logs before it is killed from outside


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory in memory, if there is one: a kill loses nothing that waits to be written."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with TemporaryDirectory(prefix="ventifs-", dir=place) as directory:
        try:
            yield Path(directory)
        finally:
            kill_all()


class Siege:
    """A store with writers, a server and its guest, and a reclaimer that is killed."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home = home
        self.rng = random.Random(seed)
        self.root = tiny_store(home / "store", arena_size=ARENA_SIZE)
        names = [f"{writer}{letter}" for writer in range(WRITERS) for letter in "ab"]
        self.sources = [write_tree(home / "sources" / name, content(name)) for name in names]
        self.logs = [LogReader(home / f"w{number}.log") for number in range(WRITERS)]
        self._mount()
        self.writers = [self._writer(number) for number in range(WRITERS)]
        self.kills = Log(home / "kills.log")
        self.reclaims = LogReader(home / "reclaim.log")
        self.progress()

    def _mount(self) -> None:
        """Serve a version, attach to it, and forget it."""
        guest = write_tree(self.home / "sources" / "guest", content("guest"))
        with ventifs.open(self.root, "write") as archive:
            archive.add(self.sources[0], "before", comment=self.sources[0].name)
            version = archive.add(guest, "guest").version
            archive.add(self.sources[1], "after", comment=self.sources[1].name)
        address = f"unix://{self.home}/socket"
        self.served = LogReader(self.home / "serve.log")
        self.server = start(
            turnover.serve_until_killed, self.root, address, self.home / "serve.log"
        )
        self._wait_for(self.served, "listening", 1, self.server)
        self.reads = LogReader(self.home / "guest.log")
        aname = str(version).encode()
        self.guest = start(
            turnover.read_until_killed, address, aname, "guest", self.home / "guest.log"
        )
        self._wait_for(self.reads, "attached", 1, self.guest)
        with ventifs.open(self.root, "write") as archive:
            archive.forget(str(version), force=True)

    # --- children -------------------------------------------------------------------------------

    def _writer(self, number: int) -> BaseProcess:
        return start(
            turnover.archive_until_killed,
            self.root,
            self.sources,
            self.home / f"w{number}.log",
            f"w{number}",
            self.rng.getrandbits(40),
        )

    def _wait_for(self, log: LogReader, word: str, times: int, child: BaseProcess) -> None:
        def failure() -> str:
            return "" if child.is_alive() else f"a child ends:\n{log.end}"

        wait_until(lambda: log.count(word) >= times, unless=failure)

    def kill_a_reclaimer(self) -> None:
        """Start one, and let it die at a random operation, or kill it at a random moment."""
        point = self._point()
        self.kills.note(str(point or "from outside"))
        before = self.reclaims.count()
        child = start(
            turnover.reclaim_until_killed,
            self.root,
            self.home / "reclaim.log",
            self.rng.getrandbits(40),
            point,
        )
        if self.rng.random() < 0.3:
            self._kill_a_writer()
        if point is None:
            due = before + self.rng.randint(0, EVENTS_MAX)
            wait_until(lambda: self.reclaims.count() >= due or not child.is_alive())
            pause(self.rng.uniform(0, 0.02))
            child.kill()
        assert finished(child) == KILLED, (point, self.reclaims.end)

    def _point(self) -> Point | None:
        where = self.rng.choice(["files", "files", "index", "outside"])
        if where == "files":
            when = self.rng.choice(["before", "after", "torn"])
            most = OPERATIONS_MAX if when != "torn" else OPERATIONS_MAX // 5
            return Point("files", when, self.rng.randint(1, most))  # type: ignore[arg-type]
        if where == "index":
            when = self.rng.choice(["before", "after"])
            return Point("index", when, self.rng.randint(1, INDEX_CALLS_MAX))  # type: ignore[arg-type]
        return None

    def _kill_a_writer(self) -> None:
        number = self.rng.randrange(WRITERS)
        assert self.writers[number].is_alive(), self.logs[number].end
        kill(self.writers[number])
        self.writers[number] = self._writer(number)

    # --- what must hold -------------------------------------------------------------------------

    def progress(self) -> None:
        """Writers and the guest go on."""
        due = [log.count("added") + 1 for log in self.logs]
        self.read_again()
        for log, times, writer in zip(self.logs, due, self.writers, strict=True):
            self._wait_for(log, "added", times, writer)

    def read_again(self) -> None:
        """The guest reads everything from the beginning."""
        self._wait_for(self.reads, "read", self.reads.count("read") + 2, self.guest)

    def sound(self) -> None:
        """`check` finds no harm, and every version is there and reads bit for bit."""
        assert [each for each in audited(self.root).findings if not each.harmless] == []
        required, seen = self._required(), [len(log.lines) for log in self.logs]
        with ventifs.open(self.root) as archive:
            versions = archive.versions()
            for version in versions:
                with suppress(ForgottenMeanwhile):
                    assert read_tree(version) == content(version.comment), version
        there = {str(version) for version in versions}
        for log, at in zip(self.logs, seen, strict=True):
            log.count()  # what was forgotten meanwhile may have come back meanwhile, too
            there |= {line.split()[1] for line in log.lines[at:] if line.startswith("forgetting")}
        assert required - there == set(), "\n".join(
            line for log in self.logs for line in log.lines if line.split()[1] in required - there
        )

    def _required(self) -> set[str]:
        """The versions that were acknowledged, and that nothing has begun to forget."""
        wanted: dict[str, bool] = {}
        for log in self.logs:
            log.count()
            for line in log.lines:
                what, _, version = line.partition(" ")
                wanted[version] = what == "added"
        return {version for version, there in wanted.items() if there}

    def end(self) -> None:
        """All writers are killed; then everything else is given back, and a rebuild agrees."""
        for writer in self.writers:
            kill(writer)
        reclaim(self.root, limits=Limits(max_unused=0.0))
        self.read_again()
        kill(self.guest)
        kill(self.server)
        self.sound()
        done = reclaim(self.root, limits=Limits(max_unused=0.0))
        assert done.plan.doomed == done.plan.leased == 0
        again = reclaim(self.root, limits=Limits(max_unused=0.0), dry_run=True).plan
        assert again.unused_bytes == 0
        assert again.blocks == again.live_blocks
        assert list(self.root.glob("arenas/condemned/*")) == []
        before = _records(self.root)
        with store_lock(self.root, alone=True):
            rebuild_index(self.root, read_header(self.root), Files())
        assert _records(self.root) == before
        self.sound()

    @property
    def arenas_freed(self) -> int:
        """By reclaims that came to their end."""
        self.reclaims.count()
        return sum(int(line.split()[1]) for line in self.reclaims.lines if line.startswith("done"))

    def close(self) -> None:
        for log in [*self.logs, self.reclaims, self.served, self.reads]:
            log.close()


def _records(root: Path) -> list[Record]:
    with Store.open(root) as store:
        return store.records()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_reclaimers_killed_beside_writers_and_a_guest_lose_nothing(home: Path, seed: int) -> None:
    siege = Siege(home, seed)
    for _ in range(KILLS // 2):
        siege.kill_a_reclaimer()
        siege.sound()
        siege.progress()
    siege.end()
    assert siege.arenas_freed > 0
    siege.close()
