"""Processes are killed with SIGKILL, hundreds of times; whatever was acknowledged is there after.

At random moments, several writers at a time, and workers apart from their parents; and at every
single file operation and every index write of a commit, a seal, a recovery, a rebuild and a
creation. The next open takes no other step than opening.
"""

import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support import crashing
from tests.support.faults import Point, When, Where
from tests.support.ledger import (
    Ledger,
    acknowledged,
    assert_kept,
    assert_whole,
    audited,
    put_recipes,
)
from tests.support.patience import pause, wait_until
from tests.support.processes import KILLED, finished, kill, kill_all, kill_stranger, run, start
from tests.support.stores import findings, new_store
from ventifs.store import Store
from ventifs.store.files import Files
from ventifs.store.header import read_header
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index

POINTS: list[tuple[Where, When]] = [
    ("files", "before"),
    ("files", "after"),
    ("files", "torn"),
    ("index", "before"),
    ("index", "after"),
]
everywhere = pytest.mark.parametrize(("where", "when"), POINTS, ids=str)


@pytest.fixture(autouse=True)
def _no_child_outlives_its_test() -> Iterator[None]:
    yield
    kill_all()


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, if there is one: a kill loses nothing that waits to be written."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


def kill_everywhere(
    where: Where,
    when: When,
    prepare: Callable[[], Path],
    body: Callable[[Path, Point], int],
    verify: Callable[[Path], None],
) -> int:
    """Kill `body` at its first operation, then at its second, and so on; how many there were."""
    for at in itertools.count(1):
        root = prepare()
        code = body(root, Point(where, when, at))
        assert code in (0, KILLED)
        verify(root)
        shutil.rmtree(root)
        if code == 0:
            return at - 1
    raise AssertionError


def reach(ledger: Path, least: int, *writers: BaseProcess) -> None:
    """Wait until so many records are acknowledged, while these writers live."""
    wait_until(
        lambda: acknowledged(ledger) >= least,
        unless=lambda: not all(writer.is_alive() for writer in writers) and "a writer has ended",
    )


# --- random moments -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_writers_killed_at_random_lose_nothing(tmp_path: Path, seed: int) -> None:
    """Four stores, 5 rounds each of 3 writers at a time and 9 kills."""
    rng = random.Random(seed)
    root, ledger = new_store(tmp_path / "store"), tmp_path / "ledger"
    for _ in range(5):
        children: list[BaseProcess] = []
        for number in range(9):
            if len(children) == 3:
                kill(children.pop(rng.randrange(3)))
            children.append(start(crashing.write_until_killed, root, ledger, rng.getrandbits(40)))
            if number >= 2:
                more = acknowledged(ledger) + rng.randint(0, 4)
                reach(ledger, more)
        for child in children:
            kill(child)
        assert_whole(root, ledger, alone=False)
    assert acknowledged(ledger) > 40
    assert findings(root) == []


@pytest.mark.slow
def test_parents_killed_before_their_workers_lose_nothing(tmp_path: Path) -> None:
    """The store is opened and written while the dead parent's workers go on, and after them."""
    rng = random.Random(7)
    root, ledger = new_store(tmp_path / "store"), tmp_path / "ledger"
    for number in range(16):
        pids = tmp_path / f"pids{number}"
        least = acknowledged(ledger) + (number % 2 and rng.randint(6, 9))
        parent = start(crashing.lead_until_killed, root, ledger, pids, number)
        reach(ledger, least, parent)
        pause(rng.uniform(0, 0.08))
        kill(parent)
        assert_whole(root, ledger, alone=False)
        for pid in pids.read_text().split() if pids.exists() else ():
            kill_stranger(int(pid))
        assert_whole(root, ledger, alone=False)
    assert acknowledged(ledger) > 40
    assert findings(root) == []


@pytest.mark.slow
def test_a_rebuild_of_a_larger_store_killed_at_random_loses_nothing(memory_path: Path) -> None:
    """So does one whose index is gone altogether: the next open makes it."""
    rng = random.Random(11)
    root, ledger = new_store(memory_path / "store"), memory_path / "ledger"
    writer = start(crashing.write_until_killed, root, ledger, 1)
    reach(ledger, 150, writer)
    kill(writer)
    assert_whole(root, ledger)
    longest_s = 1.0
    killed = 0
    while killed < 10:
        child = start(crashing.rebuild, root, Point("files", "before", 0))
        pause(rng.uniform(0, longest_s))
        child.kill()
        if finished(child) == KILLED:
            killed += 1
        else:
            longest_s *= 0.8  # a rebuild takes less
        if (root / "index").exists():
            with Store.open(root) as store:
                assert_kept(store, ledger)
        assert_whole(root, ledger)
    assert findings(root) == []


# --- every moment -------------------------------------------------------------------------------


@pytest.mark.slow
@everywhere
def test_commit_and_seal_killed_anywhere(memory_path: Path, where: Where, when: When) -> None:
    ledger = memory_path / "ledger"

    def prepare() -> Path:
        ledger.unlink(missing_ok=True)
        return new_store(memory_path / "store")

    def body(root: Path, point: Point) -> int:
        return run(crashing.follow_script, root, ledger, point)

    points = kill_everywhere(where, when, prepare, body, lambda root: assert_whole(root, ledger))
    assert points >= {"files": 15, "index": 8}[where]


def crashed(memory_path: Path) -> tuple[Path, Path]:
    """A store with all that recovery knows to mend, and its ledger.

    A commit the index has not heard of, a sealed arena that was not moved, a torn tail, damage
    between clumps, an arena that never got its header.
    """
    root, ledger_path = new_store(memory_path / "crashed"), memory_path / "ledger"
    assert run(crashing.follow_script, root, ledger_path, Point("index", "before", 5)) == KILLED
    assert len(list((root / "arenas/open").iterdir())) == 2  # one of them sealed
    ledger = Ledger(ledger_path)
    other = Store.open(root, "worker")  # beside them a third arena
    put_recipes(other, [(60, 800)])
    other.hand_over()
    put_recipes(other, [(61, 900_000), (62, 900_000)])
    state = other.hand_over().states[0]
    other.abandon()
    ledger.close()
    arena = root / "arenas/open" / f"{state.arena.hex()}.arena"
    with arena.open("r+b") as file:
        file.truncate(state.length - 10)
        file.seek(state.length - 1_200_000)  # within the block before the last
        file.write(b"damage")
    (arena.with_name("ab" * 16 + ".arena")).write_bytes(b"vfarena")
    return root, ledger_path


@everywhere
def test_recovery_killed_anywhere(memory_path: Path, where: Where, when: When) -> None:
    template, ledger = crashed(memory_path)
    template_ledger = ledger.read_bytes()

    def prepare() -> Path:
        ledger.write_bytes(template_ledger)
        return Path(shutil.copytree(template, memory_path / "store"))

    def body(root: Path, point: Point) -> int:
        return run(crashing.reopen, root, point)

    points = kill_everywhere(where, when, prepare, body, lambda root: assert_whole(root, ledger))
    assert points >= {"files": 2 if when == "torn" else 15, "index": 4}[where]


@everywhere
def test_rebuild_killed_anywhere(memory_path: Path, where: Where, when: When) -> None:
    template, ledger = crashed(memory_path)
    template_ledger = ledger.read_bytes()

    def prepare() -> Path:
        ledger.write_bytes(template_ledger)
        return Path(shutil.copytree(template, memory_path / "store"))

    def body(root: Path, point: Point) -> int:
        return run(crashing.rebuild, root, point)

    points = kill_everywhere(where, when, prepare, body, lambda root: assert_whole(root, ledger))
    assert points >= {"files": 2 if when == "torn" else 15, "index": 4}[where]


def test_a_rebuild_after_killed_rebuilds_leaves_nothing_of_them_behind(memory_path: Path) -> None:
    root = new_store(memory_path / "store")
    for at in (1, 2, 3):
        assert run(crashing.rebuild, root, Point("files", "before", at)) == KILLED
    with store_lock(root, alone=True):
        rebuild_index(root, read_header(root), Files())
    there = {path.name for path in root.iterdir()}
    assert there == {
        "arenas",
        "gates",
        "index",
        "leases",
        "lock",
        "recovery.lock",
        "reserve",
        "ventifs.store",
    }


@everywhere
def test_creation_killed_anywhere_can_simply_be_done_again(
    memory_path: Path, where: Where, when: When
) -> None:
    ledger = memory_path / "ledger"

    def verify(root: Path) -> None:
        ledger.unlink(missing_ok=True)
        if not (root / "ventifs.store").exists():
            Store.create(root, arena_size=4 << 20)
        assert_whole(root, ledger)

    def body(root: Path, point: Point) -> int:
        return run(crashing.create, root, point)

    points = kill_everywhere(where, when, lambda: memory_path / "store", body, verify)
    assert points >= {"files": 1 if when == "torn" else 12, "index": 1}[where]


def test_a_kill_leaves_no_lock_and_no_arena_that_nobody_goes_on_in(tmp_path: Path) -> None:
    """Arenas of killed writers are filled by the next ones, not left one beside the other."""
    root, ledger = new_store(tmp_path / "store"), tmp_path / "ledger"
    for number in range(5):
        before = acknowledged(ledger)
        child = start(crashing.write_until_killed, root, ledger, number)
        reach(ledger, before + 1, child)
        kill(child)
    assert_whole(root, ledger)
    assert len(list((root / "arenas/open").glob("*.arena"))) == 1
    # A kill within a write may leave half a clump, which recovery keeps beside the arena.
    assert {path.suffix for path in (root / "arenas/open").iterdir()} <= {".arena", ".torn"}
    audited(root)
