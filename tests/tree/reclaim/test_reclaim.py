"""What a reclaim frees and what it leaves; and what happens beside it, one case at a time."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.support.damage import flip
from tests.support.disks import Disk, mounted, mounted_ext4
from tests.support.dropping import arenas_of
from tests.support.reclaims import (
    EVERYTHING,
    GRACE_NS,
    LONG_AGO_NS,
    At,
    World,
    add,
    arena_files,
    assert_known_is_readable,
    assert_nothing_dropped_is_left,
    assert_one_catalog,
    assert_whole,
    block,
    commit_and_die,
    create,
    forget,
    forgotten_names,
    make_open_world,
    make_world,
    names,
    read_all,
    read_whole,
    rebuild,
    reclaimed,
    records_of,
    stopped_at,
    undelete,
)
from ventifs.errors import Busy, Corrupt, NoSpace, NotStored
from ventifs.store import Score, Store, score_of
from ventifs.store.arena_journal import read_journal
from ventifs.store.check import check, repair
from ventifs.store.reclaim.condemned import ANNOUNCEMENT
from ventifs.store.reclaim.join import ArenaUses
from ventifs.store.reclaim.reclaiming_store import ReclaimingStore
from ventifs.store.spill import Spill
from ventifs.tree.reclaim.reclaim import reclaim
from ventifs.tree.reclaim.results import Limits, ReclaimObserver, ReclaimPlan
from ventifs.tree.versions.catalog import versions
from ventifs.tree.versions.catalog_lock import catalog_lock
from ventifs.tree.versions.forgotten import Forgotten, forgetting, forgotten
from ventifs.tree.versions.reachable import RefKind, reach_version

KEPT = ["kept1", "kept3", "kept5", "night4", "night5"]
ALONE = range(100, 116)  # blocks of a version that was forgotten, and of no other


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = make_world(tmp_path / "store")
    yield world
    world.end_lease()


def assert_as_meant(world: World, *more: str) -> None:
    """After a reclaim there is what should be, and nothing else."""
    with Store.open(world.root, "write") as store:
        assert names(store) == sorted([*KEPT, *more])
        assert forgotten_names(store) == ["night2"]
        read_all(store)
        world.read_leased(store)
        assert_known_is_readable(store, world.numbers)
    assert_whole(world.root)
    assert_nothing_dropped_is_left(world.root)
    assert_one_catalog(world.root)
    with Store.open(world.root) as store:
        read_all(store)
        world.read_leased(store)


def doomed(store: Store, name: str) -> Forgotten:
    return next(each for each in forgotten(store) if each.version.name == name)


def test_what_was_forgotten_before_the_grace_goes_and_the_rest_stays(world: World) -> None:
    before = arena_files(world.root)
    done = reclaimed(world.root)
    assert done.plan.dead_arenas > 1
    assert done.plan.repacked_arenas > 1
    assert done.arenas == done.plan.dead_arenas + done.plan.repacked_arenas
    assert len(before - arena_files(world.root)) == done.arenas
    assert done.left == done.in_use == []
    assert_as_meant(world)


def test_open_arenas_that_nobody_writes_to_are_sealed_and_go(tmp_path: Path) -> None:
    world = make_open_world(tmp_path / "store")
    opened = {path.name for path in (world.root / "arenas" / "open").iterdir()}
    assert opened == arena_files(world.root)
    done = reclaimed(world.root)
    assert (done.plan.dead_arenas, done.plan.repacked_arenas, done.left) == (1, 1, [])
    assert len(opened - arena_files(world.root)) == 2
    with Store.open(world.root, "write") as store:
        assert names(store) == ["kept", "stays"]
        read_all(store)
        assert_known_is_readable(store, world.numbers)
    assert_whole(world.root)
    assert_one_catalog(world.root)
    world.end_lease()


def test_an_open_arena_that_is_written_to_meanwhile_stays(tmp_path: Path) -> None:
    world = make_open_world(tmp_path / "store")

    def write() -> None:
        with Store.open(world.root, "write") as one, Store.open(world.root, "write") as two:
            add(one, "late1", 50, range(200, 203))
            add(two, "late2", 51, range(210, 213))

    done = reclaimed(world.root, observer=At(write))
    assert done.in_use
    assert done.arenas < 2
    with Store.open(world.root, "write") as store:
        assert names(store) == ["kept", "late1", "late2", "stays"]
        read_all(store)
    assert_whole(world.root)
    world.end_lease()


def test_what_was_leased_goes_when_its_reader_has_ended(world: World) -> None:
    reclaimed(world.root)
    with Store.open(world.root) as store:
        assert "night1" not in forgotten_names(store)
        world.read_leased(store)
    world.end_lease()
    assert reclaimed(world.root).freed_bytes > 0
    with Store.open(world.root) as store, pytest.raises(NotStored):
        world.read_leased(store)
    assert_whole(world.root)


def test_a_second_reclaim_finds_nothing_to_do(world: World) -> None:
    reclaimed(world.root)
    before = arena_files(world.root)
    done = reclaimed(world.root)
    assert (done.arenas, done.copied_bytes, done.plan.blocks) == (0, 0, done.plan.live_blocks)
    assert arena_files(world.root) == before


def test_an_observer_can_stop_it_before_anything_is_changed(world: World) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    before, files = records_of(world.root), arena_files(world.root)
    with pytest.raises(KeyboardInterrupt):
        reclaimed(world.root, observer=At(stop))
    assert (records_of(world.root), arena_files(world.root)) == (before, files)


class Pausing(ReclaimObserver):
    """Others can write in every pause, at once."""

    def __init__(self, root: Path) -> None:
        self.pauses: list[str] = []
        self.step = "marking"
        self._root = root

    def planned(self, plan: ReclaimPlan) -> None:
        self.step = "copying"

    def may_pause(self) -> None:
        self.pauses.append(self.step)
        with Store.open(self._root, "write") as store, catalog_lock(store):
            pass


def test_nobody_waits_for_it_when_it_may_pause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came meanwhile is marked when others wait, or soon will."""
    observer, scores_in = Pausing(world.root), ReclaimingStore.scores_in

    def meanwhile(*arguments: Any) -> Spill:
        observer.step = "flipping"
        with Store.open(world.root, "write") as store:
            add(store, "meanwhile", 77, range(300, 303))
        return scores_in(*arguments)

    monkeypatch.setattr(ReclaimingStore, "scores_in", meanwhile)
    reclaimed(world.root, observer=observer)
    assert set(observer.pauses) == {"marking", "copying"}
    with Store.open(world.root) as store:
        assert "meanwhile" in names(store)


def test_it_may_not_pause_where_it_keeps_others_out_from_the_beginning(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses, full = ArenaUses.add, [True]

    def add(*arguments: Any, **options: Any) -> None:
        if full:
            full.clear()
            raise NoSpace("no room for a list of blocks")
        uses(*arguments, **options)

    monkeypatch.setattr(ArenaUses, "add", add)
    observer = Pausing(world.root)
    reclaimed(world.root, observer=observer)
    assert full == []
    assert set(observer.pauses) == {"marking"}  # of the first try


def test_counts_of_what_was_put_stay_the_same(world: World) -> None:
    def counts() -> tuple[int, ...]:
        with Store.open(world.root) as store:
            found = store.stats()
        return found.put_blocks, found.put_bytes, found.known_blocks, found.known_bytes

    before = counts()
    reclaimed(world.root)
    assert counts() == before
    rebuild(world.root)
    assert counts() == before
    with Store.open(world.root) as store:
        read_all(store)


def test_a_record_whose_put_and_delete_both_go_does_not_come_back(tmp_path: Path) -> None:
    root = create(tmp_path / "store")  # each version fills more than half of an arena
    with Store.open(root, "write") as store:
        add(store, "before", 1, range(6))
        gone = add(store, "gone", 2, range(10, 16))
        dead = [add(store, "dead", 3, range(20, 26))]  # the record of the one before lies there
        forget(store, gone)
        dead += [add(store, "dead", 4, range(30, 36))]
        forget(store, *dead)
        add(store, "after", 5, range(40, 46))
    with Store.open(root) as store:
        journals = {each: read_journal(arenas_of(store).reader(each)) for each in all_arenas(store)}
    before = arena_files(root)
    reclaimed(root)
    dropped = {bytes.fromhex(name[:32]) for name in before - arena_files(root)}
    assert gone.record is not None
    [put] = [each for each, journal in journals.items() if gone.record.id in journal.puts]
    [deleted] = [each for each, journal in journals.items() if gone.record.id in journal.deletes]
    assert put != deleted
    assert {put, deleted} <= dropped
    for _ in range(2):
        with Store.open(root, "write") as store:
            assert (names(store), forgotten_names(store)) == (["after", "before"], [])
            read_all(store)
        rebuild(root)
    assert_whole(root)


def all_arenas(store: Store) -> list[bytes]:
    return arenas_of(store).all_ids()


# --- interrupted, and then something else -------------------------------------------------------

STEPS = ["seal", "copy", "writers_apart", "drop_arenas", "condemn", "empty", "remove_entries"]


@pytest.mark.parametrize("step", STEPS)
def test_a_rebuild_before_any_step_and_another_reclaim(world: World, step: str) -> None:
    stopped_at(world.root, step)
    rebuild(world.root)
    with Store.open(world.root, "write") as store:
        read_all(store)
        world.read_leased(store)
    reclaimed(world.root)
    assert_as_meant(world)


@pytest.mark.parametrize("step", STEPS)
def test_a_repair_before_any_step_and_another_reclaim(world: World, step: str) -> None:
    stopped_at(world.root, step)
    done = repair(world.root, check(world.root, read_data=True))
    assert (done.lost, done.rescued) == ([], 0)
    with Store.open(world.root, "write") as store:
        read_all(store)
        world.read_leased(store)
    reclaimed(world.root)
    assert_as_meant(world)


@pytest.mark.parametrize("step", STEPS)
def test_an_index_from_before_any_step_is_put_back_afterwards(world: World, step: str) -> None:
    stopped_at(world.root, step)
    index = (world.root / "index" / "data.mdb").read_bytes()
    reclaimed(world.root)
    put_back(world.root, index)
    assert_as_meant(world)
    reclaimed(world.root)
    assert_as_meant(world)


def put_back(root: Path, index: bytes) -> None:
    shutil.rmtree(root / "index")
    (root / "index").mkdir()
    (root / "index" / "data.mdb").write_bytes(index)


# --- writers beside it --------------------------------------------------------------------------


def test_a_writer_is_waited_for_by_a_second_reclaim_after_the_first_gave_up(world: World) -> None:
    """The first one has turned the gates already, so that the second turns them back."""
    with Store.open(world.root, "write") as writer:
        for number in ALONE:
            assert not writer.put(block(number))[1]
        for _ in range(2):
            with pytest.raises(Busy):
                reclaimed(world.root)
        add(writer, "late", 50, ALONE)
    with Store.open(world.root, "write") as store:
        read_all(store)
    reclaimed(world.root)
    assert_as_meant(world, "late")


def test_a_version_that_makes_dead_blocks_live_again_keeps_their_arenas(world: World) -> None:
    def archive() -> None:
        with Store.open(world.root, "write") as writer:
            add(writer, "late", 50, ALONE)

    done = reclaimed(world.root, observer=At(archive))
    assert done.in_use
    assert 0 < done.arenas < done.plan.dead_arenas + done.plan.repacked_arenas
    assert_as_meant(world, "late")


def test_a_writer_killed_after_its_commit_clump_has_committed(world: World) -> None:
    def archive() -> None:
        writer = Store.open(world.root, "write")
        commit_and_die(writer, lambda: add(writer, "late", 50, [*ALONE, 400]))

    assert reclaimed(world.root, observer=At(archive)).in_use
    assert_as_meant(world, "late")


def test_a_worker_outlives_its_parent_that_has_committed(world: World) -> None:
    workers = []

    def archive() -> None:
        writer = Store.open(world.root, "write")
        worker = Store.open(world.root, "worker")
        workers.append(worker)
        for number in [*ALONE, 400, 401]:
            worker.put(block(number))
        writer.adopt(worker.hand_over())
        commit_and_die(writer, lambda: add(writer, "late", 50, [*ALONE, 400, 401]))

    assert reclaimed(world.root, observer=At(archive)).in_use
    assert_as_meant_beside_worker(world)
    for worker in workers:
        worker.abandon()
    assert_as_meant(world, "late")


def assert_as_meant_beside_worker(world: World) -> None:
    with Store.open(world.root, "write") as store:
        assert "late" in names(store)
        read_all(store)


def test_an_undeleted_version_stays(world: World) -> None:
    def bring_back() -> None:
        with Store.open(world.root, "write") as store:
            undelete(store, doomed(store, "alone"))

    done = reclaimed(world.root, observer=At(bring_back))
    assert done.in_use
    assert_as_meant(world, "alone")


def test_a_version_that_is_forgotten_again_meanwhile_can_be_brought_back(world: World) -> None:
    def forget_again() -> None:
        with Store.open(world.root, "write") as store:
            undelete(store, doomed(store, "alone"))
            forget(store, *[each for each in versions(store) if each.name == "alone"])

    reclaimed(world.root, observer=At(forget_again))
    with Store.open(world.root, "write") as store:
        assert forgotten_names(store) == ["alone", "night2"]
        read_all(store)
        undelete(store, doomed(store, "alone"))
    assert_as_meant(world, "alone")


def at_turn(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something when the arenas are announced, and the writers before that are waited for."""
    from ventifs.store.lock import turn

    def turned(*where: Any) -> None:
        turn(*where)
        action()

    monkeypatch.setattr("ventifs.store.reclaim.reclaiming_store.turn", turned)


def test_arenas_to_which_the_index_leads_again_stay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that was at work indexes at last what it had read of arenas when it began."""
    slow = list[Store]()
    found = dict[bytes, list[tuple[Score, int, int]]]()

    def begin() -> None:
        slow.append(Store.open(world.root, "write"))
        for score, place in slow[0]._index.entries():
            assert place is not None
            found.setdefault(place.arena, []).append((score, place.offset, place.position))

    def end() -> None:
        for arena, entries in found.items():
            slow[0]._index.add_blocks(arena, entries)
        slow[0].close()

    at_turn(monkeypatch, end)
    done = reclaimed(world.root, observer=At(begin))
    assert len(done.in_use) == done.plan.repacked_arenas
    assert done.arenas == done.plan.dead_arenas
    assert_as_meant(world)


@pytest.mark.parametrize("when", ["before the flip", "after it"])
def test_a_writer_that_comes_meanwhile_stores_again_what_is_about_to_go(
    world: World, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = list[Store](), list[Store]()

    def begin() -> None:
        early.append(Store.open(world.root, "write"))

    def come() -> None:
        late.append(Store.open(world.root, "write"))
        assert late[0].has_many([score_of(block(number)) for number in ALONE]) == [False] * 16
        assert all(late[0].put(block(number))[1] for number in ALONE)
        if when == "before the flip":
            add(late[0], "late", 50, ALONE)
        early[0].close()

    at_turn(monkeypatch, come)
    done = reclaimed(world.root, observer=At(begin))
    assert done.left == done.in_use == []
    if when == "after it":
        add(late[0], "late", 50, ALONE)
    late[0].close()
    assert not (world.root / ANNOUNCEMENT).exists()
    assert_as_meant(world, "late")


def test_a_version_that_comes_back_just_before_the_catalog_is_locked_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last look that the catalog's lock is not held for, by a writer of the new gate."""
    early = list[Store]()
    recover_again, calls = ReclaimingStore.recover_again, list[int]()

    def before_the_lock(store: ReclaimingStore) -> None:
        recover_again(store)
        calls.append(1)
        if len(calls) == 2:
            with Store.open(world.root, "write") as late:
                undelete(late, doomed(late, "alone"))

    def end() -> None:
        early[0].close()

    at_turn(monkeypatch, end)
    monkeypatch.setattr(ReclaimingStore, "recover_again", before_the_lock)
    done = reclaimed(world.root, observer=At(lambda: early.append(Store.open(world.root, "write"))))
    assert len(calls) == 3
    assert done.in_use
    assert_as_meant(world, "alone")


def test_an_announcement_left_by_a_kill_counts_until_all_is_indexed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(world.root, "write"):
        monkeypatch.setattr("ventifs.store.reclaim.reclaiming_store.withdraw", lambda *_: None)
        with pytest.raises(Busy):
            reclaimed(world.root)
        monkeypatch.undo()
    assert (world.root / ANNOUNCEMENT).exists()
    with Store.open(world.root, "write") as writer:
        assert not (world.root / ANNOUNCEMENT).exists()
        assert writer.put(block(ALONE[0]))[1]
    with Store.open(world.root, "write") as writer:
        assert not any(writer.put(block(number))[1] for number in ALONE)
    reclaimed(world.root)
    assert_as_meant(world)


# --- damage -------------------------------------------------------------------------------------


def place_of(root: Path, score: Score) -> tuple[Path, int]:
    """The file that a block is in, and an offset in the compressed bytes of its clump."""
    with Store.open(root) as store:
        place = store._index.locate(score)
        assert place is not None
        arena = arenas_of(store).reader(place.arena)
        head = arena.read_head(place.offset)
        return arena.path, place.offset + head.size - 5


def test_the_arena_of_a_damaged_live_block_stays_and_others_go(
    world: World, tmp_path: Path
) -> None:
    copy = world.copied(tmp_path / "copy")
    reclaimed(copy.root)
    copy.end_lease()
    freed = arena_files(world.root) - arena_files(copy.root)
    places = [place_of(world.root, score_of(block(number))) for number in range(12, 24)]
    path, offset = next(place for place in places if place[0].name in freed)
    flip(path, offset)
    done = reclaimed(world.root)
    [left] = done.left
    assert path.name[:32] in left
    assert done.arenas > 1
    assert path.name in arena_files(world.root)
    assert_nothing_dropped_is_left(world.root)
    with Store.open(world.root) as store, pytest.raises(Corrupt):
        read_all(store)


def test_a_damaged_dead_block_goes_with_its_arena(world: World) -> None:
    path, offset = place_of(world.root, score_of(block(110)))
    flip(path, offset)
    assert reclaimed(world.root).left == []
    assert path.name not in arena_files(world.root)
    assert_as_meant(world)


def a_node(root: Path) -> Score:
    with Store.open(root) as store:
        [version] = [each for each in versions(store) if each.name == "kept3"]
        refs = reach_version(store, version, set())
        return next(ref.score for ref in refs if ref.kind is RefKind.DIRECTORY)


def test_a_damaged_node_that_a_version_needs_stops_it(world: World) -> None:
    flip(*place_of(world.root, a_node(world.root)))
    assert_stops(world, Corrupt)


@pytest.mark.parametrize("what", ["block", "node"])
def test_a_needed_block_that_the_index_lacks_stops_it(world: World, what: str) -> None:
    score = score_of(block(203)) if what == "block" else a_node(world.root)
    with Store.open(world.root, "write") as store:
        store._index.drop_block(score)
    assert score.hex() in assert_stops(world, NotStored)


def assert_stops(world: World, error: type[Exception]) -> str:
    """A reclaim fails and changes nothing; what it says, in one line."""
    before, files = records_of(world.root), arena_files(world.root)
    with pytest.raises(error) as caught:
        reclaimed(world.root)
    assert (records_of(world.root), arena_files(world.root)) == (before, files)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- no room ------------------------------------------------------------------------------------


@pytest.fixture(params=[mounted, mounted_ext4], ids=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with request.param(tmp_path / "disk") as disk:
        yield disk


def test_a_full_disk_gets_room_again_by_forgetting_and_reclaiming(disk: Disk) -> None:
    world = make_world(disk.path / "store", reserve=2 << 20)
    world.end_lease()
    disk.fill()
    with Store.open(world.root, "write", reserve=True) as store:
        [version] = [each for each in versions(store) if each.name == "night5"]
        _, (puts, deletes) = forgetting(store, [version], LONG_AGO_NS)
        store.commit(puts, deletes, from_reserve=True)
    disk.fill()
    before = room(disk)
    done = reclaimed(world.root, limits=Limits(max_unused=0, max_repack=0))
    assert done.plan.dead_arenas > 1
    assert (done.arenas, done.copied_bytes) == (done.plan.dead_arenas, 0)
    assert room(disk) > before
    with Store.open(world.root) as store:
        assert names(store) == [name for name in KEPT if name != "night5"]
        assert forgotten_names(store) == ["night2"]
        read_all(store)
    disk.fill()
    done = reclaimed(world.root)
    assert done.left
    assert (done.plan.repacked_arenas, done.copied_bytes) == (0, 0)
    for line in done.left:
        assert re.search(r": there is no room to copy the [0-9,]+ bytes .*; make room", line)
    disk.make_room()
    assert_whole(world.root)
    assert_nothing_dropped_is_left(world.root)
    assert reclaimed(world.root).arenas > 0
    assert_whole(world.root)


def room(disk: Disk) -> int:
    return os.statvfs(disk.path).f_bavail


@pytest.mark.parametrize("refusals", [1, 2, 4])
def test_without_room_for_scores_it_marks_in_passes_and_frees_the_same(
    world: World, refusals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_places = ArenaUses.add
    left = refusals

    def add_or_refuse(uses: ArenaUses, *args: Any, **options: Any) -> None:
        nonlocal left
        if left:
            left -= 1
            raise NoSpace("no room for temporary files")
        add_places(uses, *args, **options)

    monkeypatch.setattr(ArenaUses, "add", add_or_refuse)
    done = reclaimed(world.root)
    monkeypatch.undo()
    assert done.arenas == done.plan.dead_arenas + done.plan.repacked_arenas > 3
    assert_as_meant(world)


def test_batches_for_which_there_is_room_each_wait_for_the_writers_of_their_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch turns the gate; a writer that came with the one before is waited for."""
    writers = [Store.open(world.root, "write")]
    held = list[int]()

    def come() -> None:
        """One more comes, and all before it end."""
        writers.append(Store.open(world.root, "write"))
        held.append(len(writers))
        number = 500 + len(writers)
        for each in writers[:-1]:
            if not each.closed:
                add(each, f"by{number}", number, [number, *ALONE])
                each.close()

    at_turn(monkeypatch, come)
    monkeypatch.setattr(ReclaimingStore, "room", lambda _: 30_000)
    reclaimed(world.root)
    monkeypatch.undo()
    assert len(held) > 1
    writers[-1].close()
    reclaimed(world.root)
    assert_as_meant(world, *(f"by{500 + number}" for number in held))


def test_a_dry_run_says_what_a_reclaim_then_does_and_changes_nothing(world: World) -> None:
    before = {path: path.read_bytes() for path in world.root.rglob("*") if path.is_file()}
    plan = reclaim(world.root, grace_ns=GRACE_NS, limits=EVERYTHING, dry_run=True).plan
    after = {path: path.read_bytes() for path in world.root.rglob("*") if path.is_file()}
    assert {path.name for path, data in after.items() if before.get(path) != data} <= {"lock.mdb"}
    done = reclaimed(world.root)
    assert replace(done.plan, seconds=0.0) == replace(plan, seconds=0.0)


# --- readers beside it --------------------------------------------------------------------------


def test_readers_from_before_read_on_what_they_have_leased(world: World) -> None:
    """A server that knows where blocks were finds where they are now."""
    with Store.open(world.root, cache_bytes=1) as reader:
        kept = versions(reader)
        for version in kept:
            read_whole(reader, version)
        world.read_leased(reader)
        done = reclaimed(world.root)
        assert done.plan.repacked_arenas > 0
        for version in kept:
            read_whole(reader, version)
        world.read_leased(reader)


def test_what_is_forgotten_while_it_runs_can_still_be_brought_back(world: World) -> None:
    def forget_one() -> None:
        with Store.open(world.root, "write") as store:
            [version] = [each for each in versions(store) if each.name == "night5"]
            forget(store, version)

    reclaimed(world.root, grace_ns=0, observer=At(forget_one))
    with Store.open(world.root, "write") as store:
        assert forgotten_names(store) == ["night5"]
        read_all(store)
    assert reclaimed(world.root, grace_ns=0).freed_bytes > 0
    with Store.open(world.root) as store:
        assert forgotten_names(store) == []
    assert_whole(world.root)


def test_only_one_reclaims_at_a_time(world: World) -> None:
    def another() -> None:
        with pytest.raises(Busy, match="another reclaim"):
            reclaimed(world.root)

    reclaimed(world.root, observer=At(another))
    assert_as_meant(world)


def test_no_record_of_a_dropped_arena_needs_its_file(world: World) -> None:
    """Reclaimed again and again, with something forgotten each time, and rebuilt in between."""
    world.end_lease()
    for number in range(6):
        with Store.open(world.root, "write") as store:
            add(store, f"more{number}", 100 + number, range(600 + 5 * number, 610 + 5 * number))
            forget(store, versions(store)[number])
        reclaimed(world.root)
        if number % 2:
            rebuild(world.root)
        assert_whole(world.root)
        assert_nothing_dropped_is_left(world.root)
        assert_one_catalog(world.root)
