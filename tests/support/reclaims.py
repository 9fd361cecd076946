"""Small stores of versions for tests of reclaiming, and what must hold before and after one."""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.dropping import arenas_of
from tests.support.faults import Point, armed
from tests.support.forging import commit_version, directory, directory_of, file, totals, tree_of
from tests.support.tiny import audited
from ventifs.store import Store
from ventifs.store.files import Files
from ventifs.store.header import read_header
from ventifs.store.index import Index
from ventifs.store.journal import Record
from ventifs.store.leases import Lease
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index
from ventifs.store.reclaim.reclaiming_store import ReclaimingStore
from ventifs.tree.objects.directory import build
from ventifs.tree.objects.records import Block, Chunk, Entry, encode, encode_entry
from ventifs.tree.reclaim.reclaim import reclaim
from ventifs.tree.reclaim.results import Limits, Reclaimed, ReclaimObserver, ReclaimPlan
from ventifs.tree.versions.catalog import Version, versions
from ventifs.tree.versions.catalog_lock import catalog_lock
from ventifs.tree.versions.forgotten import Forgotten, bringing_back, forgetting, forgotten
from ventifs.tree.versions.holds import hold
from ventifs.tree.versions.reachable import RefKind, reach, reach_version

LONG_AGO_NS = 10**18
GRACE_NS = 3600 * 10**9
EVERYTHING = Limits(max_unused=0)
ARENA_SIZE = 60 << 10


def block(number: int) -> bytes:
    """One of many blocks, of 2,000 to 10,000 bytes that hardly compress."""
    rng = random.Random(number)
    return rng.randbytes(rng.randint(2000, 10_000)) + b"."


def create(root: Path, *, arena_size: int = ARENA_SIZE, reserve: int = 0) -> Path:
    """Create a store with arenas of this size; return its path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ventifs.store.store.ARENA_SIZE_MIN", 1)
        Store.create(root, arena_size=arena_size, reserve=reserve)
    return root


def age(root: Path) -> None:
    """Make all arenas look as if they had been written long ago."""
    for path in (root / "arenas").glob("*/*.arena"):
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))


def add(store: Store, name: str, time_ns: int, numbers: Sequence[int]) -> Version:
    """Commit a version with a file for each block, and one file that has all of them."""
    files = []
    for number in numbers:
        data = block(number)
        score, _ = store.put(data)
        files.append(file(b"%06d" % number, Block(score, len(data))))
    chunks = [Chunk(store.put(block(number))[0], len(block(number))) for number in numbers]
    below = directory(store, b"below", files)
    children: list[Entry] = [below, file(b"whole", tree_of(store, chunks))]
    content = build(
        lambda data: store.put(data, node=True)[0],
        [(child.name, encode(child)) for child in children],
    )
    root = directory_of(b"", content, *totals(children))
    with catalog_lock(store):
        return commit_version(store, root, name, time_ns)


def forget(store: Store, *doomed: Version, at_ns: int = LONG_AGO_NS) -> None:
    """Forget versions, as of a time."""
    with catalog_lock(store):
        _, (puts, deletes) = forgetting(store, doomed, at_ns)
        store.commit(puts, deletes)


def undelete(store: Store, *chosen: Forgotten) -> None:
    """Bring versions back."""
    with catalog_lock(store):
        store.commit(*bringing_back(store, chosen))


def read_whole(store: Store, version: Version) -> None:
    """Read all that a version refers to; every block matches its score."""
    for ref in reach_version(store, version, set()):
        if ref.kind is RefKind.DATA:
            bytes(store.get(ref.score))


def read_all(store: Store) -> None:
    """Read all versions that are in the catalog, and all that can be brought back."""
    for version in versions(store):
        read_whole(store, version)
    for each in forgotten(store):
        read_whole(store, each.version)


def names(store: Store) -> list[str]:
    """The names of the catalogued versions."""
    return [version.name for version in versions(store)]


def forgotten_names(store: Store) -> list[str]:
    """The names of the forgotten versions that can be brought back."""
    return [each.version.name for each in forgotten(store)]


@dataclass
class World:
    """A store with versions in all their states.

    Attributes:
        root: its directory.
        leased: the root entry of a forgotten version that a living process reads.
        numbers: of all its blocks.
    """

    root: Path
    leased: Entry
    numbers: list[int]
    _reader: Store | None = None
    _lease: Lease | None = None

    def take_lease(self) -> None:
        """Let a process begin to read the leased version, as if from before it was forgotten."""
        self._reader = Store.open(self.root)
        self._lease = self._reader.lease(encode_entry(self.leased, root=True))

    def end_lease(self) -> None:
        """The process that reads ends."""
        if self._reader is not None:
            self._reader.abandon()
        self._reader = self._lease = None

    def read_leased(self, store: Store) -> None:
        """Read all of the leased version."""
        for ref in reach(store, self.leased, set()):
            bytes(store.get(ref.score))

    def copied(self, root: Path) -> "World":
        """A copy of the store, elsewhere, with a process that reads there."""
        shutil.copytree(self.root, root)
        copy = World(root, self.leased, self.numbers)
        copy.take_lease()
        return copy


def make_world(root: Path, *, reserve: int = 0) -> World:
    """Make a store: of six nights, each of which shares blocks with the one before.

    The first, second and fourth are forgotten long ago; the second is leased. The third is
    forgotten now. The fifth is held. Another version, of blocks of its own, is forgotten as well.
    """
    create(root, reserve=reserve)
    made = []
    nights = [range(3 * night, 3 * night + 9) for night in range(6)]
    with Store.open(root, "write") as store:
        alone = add(store, "alone", 1, range(100, 116))
        for night, numbers in enumerate(nights):
            made.append(add(store, f"night{night}", 10 + night, numbers))
            if night % 2:
                add(store, f"kept{night}", 20 + night, [200 + night, *numbers[:2]])
        hold(store, [("night4", 14)], now_ns=1)
        forget(store, alone, made[0], made[1], made[3])
        forget(store, made[2], at_ns=time.time_ns())
    age(root)
    everything = sorted({*range(100, 116), *(n for night in nights for n in night), 201, 203, 205})
    world = World(root, made[1].root, everything)
    world.take_lease()
    return world


def make_open_world(root: Path) -> World:
    """Make a store that has only open arenas, of three writers at a time.

    In one nothing lives, in one there are a forgotten version and one that stays, and in one is all
    the rest.
    """
    create(root, arena_size=400 << 10)
    with (
        Store.open(root, "write") as one,
        Store.open(root, "write") as two,
        Store.open(root, "write") as three,
    ):
        kept = add(one, "kept", 1, range(8))
        gone = add(two, "gone", 2, range(100, 110))
        add(two, "stays", 3, range(10, 14))
        dead = add(three, "dead", 4, range(120, 128))
        forget(one, gone, dead)
    age(root)
    world = World(root, kept.root, [*range(14), *range(100, 110), *range(120, 128)])
    world.take_lease()
    return world


def reclaimed(
    root: Path,
    *,
    limits: Limits = EVERYTHING,
    grace_ns: int = GRACE_NS,
    wait_s: float | None = 0,
    observer: ReclaimObserver | None = None,
    files: Files | None = None,
) -> Reclaimed:
    """Reclaim everything that can be."""
    return reclaim(
        root,
        limits=limits,
        grace_ns=grace_ns,
        wait_s=wait_s,
        observer=observer,
        files=files or Files(),
    )


def reclaim_and_die(root: Path, point: Point) -> None:
    """Reclaim, and die at `point`; for a child."""
    reclaimed(root, files=armed(point))


def arena_files(root: Path) -> set[str]:
    """The names of all arena files."""
    return {path.name for path in (root / "arenas").glob("*/*.arena")}


def rebuild(root: Path) -> None:
    """Rebuild the index."""
    with store_lock(root, alone=True):
        rebuild_index(root, read_header(root), Files())


def records_of(root: Path) -> frozenset[Record]:
    """All records of a store."""
    with Store.open(root) as store:
        return frozenset(store.records())


def assert_known_is_readable(store: Store, numbers: Iterable[int]) -> None:
    """What the store says it has can be read; what it lacks it takes."""
    for number in numbers:
        score, _ = store.put(block(number))
        assert store.has(score)
        assert bytes(store.get(score)) == block(number)


def assert_whole(root: Path) -> None:
    """A check finds no harm, and everything that can be read or brought back is whole."""
    harm = [finding for finding in audited(root).findings if not finding.harmless]
    assert harm == []
    with Store.open(root) as store:
        read_all(store)


def assert_nothing_dropped_is_left(root: Path) -> None:
    """No file of a dropped arena is there."""
    with Store.open(root) as store:
        arenas = arenas_of(store)
        there = {*arenas.all_ids(), *arenas.condemned_ids()}
        assert not there & store._index.drops().keys()
        assert arenas.condemned_ids() == []


def assert_one_catalog(root: Path) -> None:
    """A rebuild finds the records, and the counts, that the index has."""
    with Store.open(root) as store:
        before, counted = frozenset(store.records()), store._index.counters()
    rebuild(root)
    with Store.open(root) as store:
        assert frozenset(store.records()) == before
        assert store._index.counters() == counted


class At(ReclaimObserver):
    """Does something once when the plan stands: between the marking and all the rest."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def planned(self, plan: ReclaimPlan) -> None:
        self._action()


class Stopped(BaseException):
    """A reclaim was stopped, as if it had been killed."""


def stopped_at(root: Path, step: str) -> None:
    """Reclaim until before a step, a method of `ReclaimingStore`; then let it die."""

    def stop(*_: object, **__: object) -> None:
        raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(ReclaimingStore, step, stop)
        reclaimed(root)


def commit_and_die(store: Store, act: Callable[[], object]) -> None:
    """Do something that ends with a commit, and die when that is in the arenas alone."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Index, "add_blocks", die)
        patch.setattr(Index, "settle", die)
        act()
    store.abandon()
