"""A reclaim that is cut short anywhere loses nothing, and the next one frees what it meant to free.

A reclaim is run for real on a file layer that records it. For a power cut before every operation,
the disks that could be left are made and opened; the index is as of the cut, older, or gone. And it
is killed, interrupted and refused room at every operation.
"""

import errno
import itertools
import logging
import os
import random
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, ignore_patterns, rmtree
from typing import Any, TypeVar

import pytest

from tests.support.faults import FaultyFiles, Point, When, Where
from tests.support.processes import KILLED, kill_all, run
from tests.support.reclaims import (
    At,
    World,
    add,
    arena_files,
    assert_known_is_readable,
    assert_nothing_dropped_is_left,
    assert_one_catalog,
    assert_whole,
    block,
    forgotten_names,
    make_open_world,
    make_world,
    names,
    read_all,
    reclaim_and_die,
    reclaimed,
    records_of,
)
from tests.support.recording import (
    Acknowledged,
    Disk,
    Event,
    RecordingFiles,
    Rename,
    SyncDirectory,
    Truncate,
    Unlink,
    index_states,
    possible_disks,
)
from tests.support.sizes import LONG
from ventifs.errors import Corrupt, VentifsError
from ventifs.store import Store
from ventifs.store.index import Index
from ventifs.store.journal import Record
from ventifs.store.lock import turn
from ventifs.store.reclaim.condemned import ANNOUNCEMENT
from ventifs.store.reclaim.reclaiming_store import ReclaimingStore
from ventifs.tree.reclaim.results import ReclaimObserver, ReclaimPlan

SEED = 20261201
Records = frozenset[Record]
T = TypeVar("T")


@dataclass
class Recorded:
    """A reclaim that was recorded.

    Attributes:
        world: the store, as it was before.
        files: what happened; after each change of records, these were acknowledged.
        freed: names of the arena files that it removed.
        names, forgotten: versions there are afterwards.
    """

    world: World
    files: RecordingFiles
    freed: set[str]
    names: list[str]
    forgotten: list[str]


class Beside(ReclaimObserver):
    """Archives beside the reclaim what it is about to free: by a writer from before the flip, and
    by one that comes when the first is waited for."""

    def __init__(self, world: World, files: RecordingFiles) -> None:
        self.world = world
        self.files = files
        self.early: Store | None = None

    def planned(self, plan: ReclaimPlan) -> None:
        self.early = self._writer()
        assert not self.early.put(block_of_alone(0))[1]

    def turned(self) -> None:
        """The first writer is waited for from now on."""
        assert self.early is not None
        late = self._writer()
        assert late.put(block_of_alone(12))[1]
        add(late, "late", 50, range(112, 116))
        self._acknowledge()
        add(self.early, "early", 51, range(100, 104))
        self._acknowledge()
        self.early.close()
        late.put(block_of_alone(13))
        late.abandon()  # it dies
        self.files.note_index()

    def _writer(self) -> Store:
        return Store.open(self.world.root, "write", files=self.files)

    def _acknowledge(self) -> None:
        self.files.acknowledged(records_of(self.world.root))


def block_of_alone(number: int) -> bytes:
    return block(100 + number)


def noting(files: RecordingFiles, patch: pytest.MonkeyPatch) -> None:
    """Note the index before and after each of its changes, and records after the flip."""

    def noted(method: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any) -> Any:
            files.note_index()
            result = method(*args)
            files.note_index()
            return result

        return change

    for name in ("settle", "add_blocks", "remove_leftovers"):
        patch.setattr(Index, name, noted(getattr(Index, name)))
    drop_arenas = ReclaimingStore.drop_arenas

    def dropped(store: ReclaimingStore, *what: Any) -> None:
        drop_arenas(store, *what)
        files.acknowledged(frozenset(store.records()))

    patch.setattr(ReclaimingStore, "drop_arenas", dropped)


def record(
    root: Path,
    make: Callable[[Path], World] = make_world,
    *,
    busy: bool = False,
    room: int = 1 << 30,
) -> Recorded:
    """Make a store and reclaim it, alone or beside writers; with room for copies of some bytes."""
    world = make(root)
    files = RecordingFiles(root)
    files.acknowledged(records_of(root))
    before = arena_files(root)
    observer = Beside(world, files) if busy else ReclaimObserver()
    with pytest.MonkeyPatch.context() as patch:
        noting(files, patch)

        def turned(*where: Any) -> None:
            turn(*where)
            assert isinstance(observer, Beside)
            observer.turned()

        patch.setattr("ventifs.store.reclaim.reclaiming_store.turn", turned)
        patch.setattr(ReclaimingStore, "room", lambda _: room)
        reclaimed(root, observer=observer, files=files)
        files.note_index()
    with Store.open(root) as store:
        world.read_leased(store)
        found = Recorded(
            world, files, before - arena_files(root), names(store), forgotten_names(store)
        )
    world.end_lease()
    return found


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A directory in memory, if there is one: a sync costs nothing there."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)
    kill_all()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("quiet") / "store")


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("batches") / "store", room=30_000)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("opened") / "store", make_open_world)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("busy") / "store", busy=True)


# --- power cuts ---------------------------------------------------------------------------------


def promises(log: list[Event], cut: int) -> tuple[Records, Records]:
    """The records that were acknowledged last before a cut, and those that would have been next."""
    states = [(at, event.state) for at, event in enumerate(log) if isinstance(event, Acknowledged)]
    before = [state for at, state in states if at < cut] or [states[0][1]]
    after = [state for at, state in states if at >= cut] or [states[-1][1]]
    last, coming = before[-1], after[0]
    assert isinstance(last, frozenset)
    assert isinstance(coming, frozenset)
    return last, coming


def assert_recovers(world: World, allowed: Collection[Records]) -> None:
    """The next writer finds everything that counts, and leaves nothing that was dropped."""
    root = world.root
    with Store.open(root, "write") as store:
        assert frozenset(store.records()) in allowed
        read_all(store)
        world.read_leased(store)
    assert_whole(root)
    assert_nothing_dropped_is_left(root)


def assert_goes_on(world: World, freed: set[str], forgotten: list[str]) -> None:
    """What is known can be read, from a rebuilt index as well; another reclaim frees the rest."""
    root = world.root
    assert_one_catalog(root)
    with Store.open(root, "write") as store:
        read_all(store)
        world.read_leased(store)
        assert_known_is_readable(store, world.numbers)
    reclaimed(root)
    with Store.open(root) as store:
        read_all(store)
        assert forgotten_names(store) == forgotten
    assert_whole(root)
    assert_nothing_dropped_is_left(root)
    assert not freed & arena_files(root)
    assert not (root / ANNOUNCEMENT).exists()


def indexes(disk: Disk, log: list[Event], cut: int, rng: random.Random) -> Iterator[bytes | None]:
    yield disk.index
    yield rng.choice(index_states(log, Disk(), cut))
    yield None


def survive(recorded: Recorded, root: Path, *, every: int, chances: int) -> int:
    """Try the disks that a cut could leave; how many there were."""
    log, tried = recorded.files.log, set()
    for cut in range(0, len(log) + 1, every):
        rng = random.Random(f"{SEED} {cut}")
        for disk in possible_disks(log, recorded.files.base, cut, rng, chances=chances):
            for which, index in enumerate(indexes(disk, log, cut, rng)):
                disk.index = index
                case = disk.digest()
                if case in tried:
                    continue
                tried.add(case)
                disk.write_to(root)
                try:
                    world = World(root, recorded.world.leased, recorded.world.numbers)
                    assert_recovers(world, promises(log, cut))
                    assert_goes_on(world, recorded.freed, recorded.forgotten)
                except Exception as error:
                    error.add_note(f"before event {cut}, {log[cut : cut + 1]}, index {which}")
                    raise
                rmtree(root)
    return len(tried)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["quiet", "busy", "batches", "opened"])
def test_a_power_cut_anywhere_in_a_reclaim_costs_nothing(
    how: str, memory_path: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    recorded = request.getfixturevalue(how)
    tried = survive(
        recorded, memory_path / "cut", every=1 if LONG else 13, chances=2 if LONG else 1
    )
    assert tried > 12


@pytest.mark.slow
def test_a_power_cut_in_the_reclaim_after_another_costs_nothing_either(
    busy: Recorded, memory_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    tried = 0
    for cut in range(5, len(busy.files.log), 11 if LONG else 53):
        rng = random.Random(f"{SEED} again {cut}")
        *_, disk = possible_disks(busy.files.log, busy.files.base, cut, rng, chances=1)
        disk.index = rng.choice([disk.index, None])
        again = recorded_again(disk, busy, memory_path / str(cut))
        tried += survive(again, memory_path / "cut", every=2 if LONG else 17, chances=1)
    assert tried > 12


def recorded_again(disk: Disk, recorded: Recorded, root: Path) -> Recorded:
    """Another reclaim of what a power cut has left."""
    disk.write_to(root)
    world = World(root, recorded.world.leased, recorded.world.numbers)
    if disk.index is None:
        Store.open(root, "write").abandon()
    world.take_lease()
    files = RecordingFiles(root)
    with pytest.MonkeyPatch.context() as patch:
        noting(files, patch)
        observer = At(lambda: files.acknowledged(records_of(root)))
        reclaimed(root, observer=observer, files=files)
        files.note_index()
    world.end_lease()
    with Store.open(root) as store:
        return Recorded(world, files, set(), names(store), forgotten_names(store))


def test_what_is_recorded_copies_drops_and_frees(
    quiet: Recorded, busy: Recorded, batches: Recorded
) -> None:
    for recorded in (quiet, busy, batches):
        assert recorded.freed
        assert recorded.forgotten == ["night2"]
        assert {Rename, Truncate, Unlink, SyncDirectory} <= set(map(type, recorded.files.log))
    flips = [event for event in batches.files.log if isinstance(event, Acknowledged)]
    assert len(flips) > 2
    assert quiet.names == batches.names == ["kept1", "kept3", "kept5", "night4", "night5"]
    assert busy.names == ["early", *quiet.names[:3], "late", *quiet.names[3:]]


# --- errors, Ctrl-C and kills -------------------------------------------------------------------


def no_room() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def unsure() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def interrupt() -> None:
    raise KeyboardInterrupt


class FullFrom(FaultyFiles):
    """A disk that is full from one operation on."""

    def _step(self, operation: Callable[..., T], *args: Any) -> T:
        takes_room = operation.__name__ in ("create", "append", "overwrite", "make_directory")
        if self.count + 1 >= self.at and takes_room:
            self.act()
        return super()._step(operation, *args)


WAYS: dict[str, Callable[[int], FaultyFiles]] = {
    "no room": lambda at: FaultyFiles(no_room, "before", at),
    "no room from there on": lambda at: FullFrom(no_room, "before", at),
    "not confirmed": lambda at: FaultyFiles(unsure, "before", at),
    "Ctrl-C before": lambda at: FaultyFiles(interrupt, "before", at),
    "Ctrl-C after": lambda at: FaultyFiles(interrupt, "after", at),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A store that was not reclaimed."""
    world = make_world(tmp_path_factory.mktemp("template") / "store")
    world.end_lease()
    return world


@pytest.fixture(scope="module")
def both(template: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Records, Records]:
    """The records before a reclaim of that store, and after it."""
    copy = template.copied(tmp_path_factory.mktemp("both") / "store")
    reclaimed(copy.root)
    copy.end_lease()
    return records_of(template.root), records_of(copy.root)


def assert_clear(error: VentifsError, root: Path) -> None:
    """One line that names the place."""
    assert len(str(error).splitlines()) == 1
    assert str(error).startswith(str(root))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_reclaim_that_fails_at_any_operation_loses_nothing(
    way: str,
    template: World,
    both: tuple[Records, Records],
    memory_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    failed = 0
    for at in itertools.count(1, 1 if LONG else 8):
        world = template.copied(memory_path / "store")
        files = WAYS[way](at)
        try:
            reclaimed(world.root, files=files)
        except KeyboardInterrupt:
            failed += 1
        except VentifsError as error:
            failed += 1
            assert_clear(error, world.root)
        assert_recovers(world, both)
        assert_goes_on(world, set(), ["night2"])
        world.end_lease()
        rmtree(world.root)
        if files.count < at:
            break
    assert failed > (15 if LONG else 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "when"),
    [("files", "before"), ("files", "torn"), ("index", "before"), ("index", "after")],
)
def test_a_reclaim_that_is_killed_at_any_operation_loses_nothing(
    where: Where,
    when: When,
    template: World,
    both: tuple[Records, Records],
    memory_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    for at in itertools.count(1, 1 if LONG or where == "index" else 9):
        world = template.copied(memory_path / "store")
        code = run(reclaim_and_die, world.root, Point(where, when, at))
        assert code in (0, KILLED)
        assert_recovers(world, both)
        assert_goes_on(world, set(), ["night2"])
        world.end_lease()
        rmtree(world.root)
        if code == 0:
            break
    assert at > 3


# --- copies of a store that is reclaimed --------------------------------------------------------

PARTS = ("arenas/condemned", "arenas/open", "arenas/sealed", "index")


class Snapshots(ReclaimObserver):
    """Copies of a store before a reclaim, in its middle, and afterwards."""

    def __init__(self, root: Path, target: Path) -> None:
        self.taken: list[Path] = []
        self._root = root
        self._target = target

    def planned(self, plan: ReclaimPlan) -> None:
        self.take()

    def take(self) -> None:
        self.taken.append(self._target / f"snapshot{len(self.taken)}")
        copytree(self._root, self.taken[-1])

    def around(self, name: str, patch: pytest.MonkeyPatch, *, before: bool) -> None:
        """Take one before or after a step."""
        step = getattr(ReclaimingStore, name)

        def taking(store: ReclaimingStore, *what: Any, **how: Any) -> Any:
            if before:
                self.take()
            result = step(store, *what, **how)
            if not before:
                self.take()
            return result

        patch.setattr(ReclaimingStore, name, taking)


@pytest.mark.slow
@pytest.mark.parametrize("order", [PARTS, PARTS[::-1]], ids=["by name", "index first"])
def test_a_copy_made_in_the_middle_is_whole_or_says_what_it_lacks(
    order: tuple[str, ...],
    template: World,
    both: tuple[Records, Records],
    memory_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One part is copied after the other, each at any moment of the reclaim."""
    caplog.set_level(logging.CRITICAL)
    world = template.copied(memory_path / "store")
    snapshots = Snapshots(world.root, memory_path)
    with pytest.MonkeyPatch.context() as patch:
        snapshots.around("writers_apart", patch, before=True)
        snapshots.around("drop_arenas", patch, before=False)
        snapshots.around("condemn", patch, before=False)
        reclaimed(world.root, observer=snapshots)
    snapshots.take()
    world.end_lease()
    outcomes = {True: 0, False: 0}
    moments = list(itertools.combinations_with_replacement(snapshots.taken, len(order)))
    for moment in moments[:: 1 if LONG else 9]:
        copy = World(memory_path / "copy", template.leased, template.numbers)
        compose(copy.root, dict(zip(order, moment, strict=True)))
        whole = is_whole_or_refused(copy.root)
        outcomes[whole] += 1
        if whole:
            assert_recovers(copy, both)
            assert_goes_on(copy, set(), ["night2"])
        rmtree(copy.root)
    assert outcomes[True] > outcomes[False] > 0


def compose(root: Path, parts: dict[str, Path]) -> None:
    """Make a store of parts from different moments."""
    copytree(parts["index"], root, ignore=ignore_patterns("arenas", "index"))
    for part, snapshot in parts.items():
        if (snapshot / part).exists():
            copytree(snapshot / part, root / part)


def is_whole_or_refused(root: Path) -> bool:
    """Whether a writer opens a copy; else it names the arenas that are missing."""
    try:
        Store.open(root, "write").close()
    except Corrupt as error:
        assert "arena files are missing" in error.reason  # noqa: PT017, one of two outcomes
        return False
    return True
