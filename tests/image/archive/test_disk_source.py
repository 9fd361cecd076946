"""Runs over image files: shared with directories, again and again, by any number of workers."""

import os
import random
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes
from tests.support.dead_blocks import drop_dead, forget, nothing_is_missing, put_back
from tests.support.imaging import (
    DIRECTORY,
    archive_file,
    archive_files,
    archive_until_killed,
    bytes_of,
    content_at,
    harms,
    regular,
    surveyed,
    volume_of,
)
from tests.support.memorydisk import FileDisk, MemoryDisk
from tests.support.patience import PATIENCE_S
from tests.support.stores import findings, new_store
from tests.support.trees import noise
from ventifs.errors import Busy, VentifsError
from ventifs.image.archive import disk_source
from ventifs.image.archive import image_stat as seen_module
from ventifs.image.archive.disk_source import DiskSource
from ventifs.image.disk import ImageError
from ventifs.image.survey import Survey
from ventifs.image.survey_events import Ended, Event, FoundName, Free, Range
from ventifs.image.volumes.window import Window
from ventifs.store import Store
from ventifs.store.files import Files
from ventifs.store.header import read_header
from ventifs.store.leases import leased
from ventifs.store.rebuild import rebuild_index
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.run_lock import RunLock
from ventifs.tree.objects.directory import resolve
from ventifs.tree.objects.records import Directory, encode_entry
from ventifs.tree.versions.catalog import Version, tree_score, version_records, versions

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return new_store(tmp_path / "store")


@pytest.fixture
def workers() -> Iterator[processes.Peer]:
    """A process that may fork."""
    peer = processes.Peer(archive_files)
    yield peer
    peer.end()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were made just now count as long settled."""
    monkeypatch.setattr(seen_module, "SETTLED_NS", -(10**18))


def filled(root: Path) -> Path:
    """A small tree with files of all sizes, sparse ones, and links."""
    root.mkdir()
    for size in (0, 1, 32, 33, 1000, 4095, 4096, 4097, 70_000, 300_000):
        (root / f"size{size}").write_bytes(noise(size, size))
    (root / "d").mkdir()
    (root / "d" / "zeros").write_bytes(bytes(100_000))
    (root / "d" / "text").write_bytes(b"some text\n" * 9000)
    with (root / "d" / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(700_000)
        file.write(b"end" * 1000)
        file.truncate(1 << 20)
    os.link(root / "size1000", root / "d" / "also1000")
    (root / "d" / "link").symlink_to("../size33")
    return root


def mke2fs(root: Path, image: Path, *options: str, kind: str = "ext4", size: str = "8M") -> Path:
    command = ["mke2fs", "-q", "-t", kind, "-d", str(root), *options, str(image), size]
    subprocess.run(command, check=True, capture_output=True)
    return image


def version_of(store: Store, name: str) -> Version:
    return versions(store, name)[-1]


def versions_of(store: Path, name: str = "vm") -> list[Version]:
    with Store.open(store) as opened:
        return versions(opened, name)


def version_of_time(store: Path, time_ns: int) -> Version:
    return next(version for version in versions_of(store) if version.time_ns == time_ns)


def holds(store: Path, name: str, data: bytes) -> None:
    """The last version is the disk, and sound."""
    with Store.open(store, "read") as opened:
        version = version_of(opened, name)
        assert bytes_of(opened, content_at(opened, version.root, b"disk.img")) == data
        assert harms(opened, version.root) == []


# --- image and directory ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ext4", ("-b", "4096")),
        ("ext4", ("-b", "1024")),
        ("ext2", ("-b", "1024")),
        ("ext4", ("-b", "4096", "-O", "inline_data")),
        ("ext3", ("-b", "2048")),
    ],
)
def test_an_image_and_its_directory_share_every_block(
    store: Path, tmp_path: Path, kind: str, options: tuple[str, ...]
) -> None:
    root = filled(tmp_path / "root")
    if "inline_data" in options:  # then mke2fs makes odd files of zeros, and of those that end so
        (root / "d" / "zeros").unlink()
        os.truncate(root / "d" / "sparse", 172 * 4096)
    image = mke2fs(root, tmp_path / "a.img", *options, kind=kind)
    archive_file(store, image, "vm")
    holds(store, "vm", image.read_bytes())
    with Store.open(store, "write") as opened:
        version, tally = archive(opened, DirectorySource(root), "dir")
        inside = version_of(opened, "vm").root
        for path in (b"d", b"d/sparse", b"d/also1000", b"size1000", b"size300000", b"size33"):
            ours, theirs = (
                resolve(opened, inside, b"files/1/" + path),
                resolve(opened, version.root, path),
            )
            if path == b"d":
                assert isinstance(ours.detail, Directory)
                assert isinstance(theirs.detail, Directory)
                assert (ours.detail.paths, ours.detail.bytes) == (
                    theirs.detail.paths,
                    theirs.detail.bytes,
                )
            else:
                assert (ours.detail, ours.link) == (theirs.detail, theirs.link)
        assert tally.new_bytes < 4096  # nodes of directories


@pytest.mark.parametrize("block", ["1024", "4096"])
def test_workers_make_the_same_version(
    store: Path, tmp_path: Path, workers: processes.Peer, block: str
) -> None:
    image = mke2fs(filled(tmp_path / "root"), tmp_path / "a.img", "-b", block)
    alone = archive_file(store, image, "vm")
    assert workers.ask("archive", new_store(tmp_path / "other"), image, "vm", 2) == alone
    holds(tmp_path / "other", "vm", image.read_bytes())
    assert findings(tmp_path / "other") == []


def test_workers_make_the_same_of_odd_events(
    store: Path, tmp_path: Path, workers: processes.Peer
) -> None:
    """Names that are told twice, files with others below them: whoever is faster."""
    data = noise(MIB, 7)
    names = (b"a", b"a\0b", b"c", b"c", b"a\0b", b"c\0d", b"a")
    for seed in range(6):
        chance = random.Random(seed)
        nodes: list[Event] = []
        for number, name in enumerate(names * 3):
            length = chance.choice([4096, 400_000])
            start = 4096 * chance.randrange(150)
            nodes.append(FoundName(name, 50 + number, regular(length - 5, (0, start, length))))
        chance.shuffle(nodes)
        events = volume_of(MIB, *nodes)
        stores = {jobs: new_store(tmp_path / f"{seed}-{jobs}") for jobs in (1, 2)}
        scores = {
            workers.ask("told", stores[jobs], {0: data}, MIB, events, jobs) for jobs in stores
        }
        assert len(scores) == 1


# --- again ------------------------------------------------------------------------------------


def rerun(store: Path, image: Path, name: str = "vm", **options: bool) -> tuple[bytes, int]:
    """Archive an image again; the score, and how many reads that took."""
    with ExitStack() as stack:
        disk = FileDisk(image)
        stack.callback(disk.close)
        source = DiskSource(disk, iter(()), drop_free=options.pop("drop_free", False))
        opened = stack.enter_context(Store.open(store, "write"))
        version, _ = archive(opened, source, name, **options)  # type: ignore[arg-type]
        assert source.reused == (not disk.reads)
    return tree_score(version.root), disk.reads


@pytest.mark.usefixtures("settled")
def test_an_unchanged_image_is_not_read(store: Path, tmp_path: Path) -> None:
    image = mke2fs(filled(tmp_path / "root"), tmp_path / "a.img")
    score, _, _ = archive_file(store, image, "vm")
    assert rerun(store, image) == (score, 0)
    assert rerun(store, image, read_all=True)[1] > 0
    assert rerun(store, image, drop_free=True)[1] > 0
    assert rerun(store, image, "other")[1] > 0


@pytest.mark.usefixtures("settled")
def test_a_changed_image_is_read(store: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(noise(100_000))
    rerun(store, image)
    assert rerun(store, image)[1] == 0
    with image.open("r+b") as file:
        file.write(b"changed")
    assert rerun(store, image)[1] > 0
    holds(store, "vm", image.read_bytes())


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("changed", [False, True])
def test_the_last_version_is_leased_while_it_is_read_and_until_the_commit(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    image = mke2fs(filled(tmp_path / "root"), tmp_path / "a.img")
    archive_file(store, image, "vm")
    if changed:
        with image.open("r+b") as file:
            file.write(b"changed")
    commit, load = Store.commit, Store._load
    seen: list[list[bytes]] = []

    def committing(self: Store, *arguments: Any, **more: Any) -> Any:
        seen.append(leased(store))
        return commit(self, *arguments, **more)

    def loading(self: Store, score: Any) -> memoryview:
        seen.append(leased(store))
        return load(self, score)

    monkeypatch.setattr(Store, "commit", committing)
    monkeypatch.setattr(Store, "_load", loading)
    assert (rerun(store, image)[1] > 0) is changed
    with Store.open(store) as opened:
        root = encode_entry(versions(opened)[0].root, root=True)
    assert seen.pop() == []  # when the store is closed
    assert seen
    assert all(each == [root] for each in seen)


@pytest.mark.usefixtures("settled")
def test_a_last_version_that_is_forgotten_meanwhile_is_not_relied_on(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(noise(100_000))
    rerun(store, image)
    version_of = seen_module.version_of

    def forgotten_then(seen: Any, opened: Store, earlier: Any) -> Version | None:
        found = version_of(seen, opened, earlier)
        assert found is not None
        assert found.record is not None
        opened.commit(deletes=[found.record])
        return found

    monkeypatch.setattr(disk_source, "version_of", forgotten_then)
    assert rerun(store, image)[1] > 0
    holds(store, "vm", image.read_bytes())


def test_an_image_that_changed_just_now_is_read_again(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen_module, "SETTLED_NS", 10**18)  # "just now" is in the last 31 years
    image = tmp_path / "a.img"
    image.write_bytes(noise(100_000))
    rerun(store, image)
    assert rerun(store, image)[1] > 0


@pytest.mark.usefixtures("settled")
def test_another_format_is_another_disk(store: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(noise(100_000))
    rerun(store, image)
    with Store.open(store, "write") as opened:
        disk = FileDisk(image)
        disk.format = "qcow2"
        source = DiskSource(disk, iter(()))
        archive(opened, source, "vm")
        disk.close()
    assert not source.reused


@pytest.mark.usefixtures("settled")
def test_what_is_gone_is_made_again(store: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(noise(100_000))
    rerun(store, image)
    with Store.open(store, "write") as opened:
        opened.commit(deletes=version_records(opened))
    assert rerun(store, image)[1] > 0
    assert rerun(store, image)[1] == 0
    rebuild_index(store, read_header(store), Files())
    assert rerun(store, image)[1] > 0
    holds(store, "vm", image.read_bytes())


@pytest.mark.usefixtures("settled")
def test_what_was_seen_is_bound_to_the_root(store: Path, tmp_path: Path) -> None:
    """Not to a version's record, notes or time; and blocks may go without a new epoch."""
    (tmp_path / "tree").mkdir()
    image = tmp_path / "a.img"
    image.write_bytes(noise(100_000))
    rerun(store, image)
    with Store.open(store, "write") as opened:
        [version] = versions(opened, "vm")
    put_back(store, forget(store, version))
    assert rerun(store, image)[1] == 0
    forget(store, version_of_time(store, version.time_ns))
    assert rerun(store, image)[1] == 0
    with Store.open(store, "write") as opened:
        archive(opened, DirectorySource(tmp_path / "tree"), "vm")
    assert rerun(store, image)[1] == 0
    for each in versions_of(store):
        if tree_score(each.root) == tree_score(version.root):
            forget(store, each)
    assert drop_dead(store)
    assert rerun(store, image)[1] > 0
    holds(store, "vm", image.read_bytes())
    nothing_is_missing(store)


@pytest.mark.usefixtures("settled")
def test_what_was_seen_is_only_a_hint(store: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(noise(100_000))
    rerun(store, image)
    [path] = (store / "statcache").glob(".vm~image")
    for content in (b"", b"\x90", b"garbage", path.read_bytes()[:-1]):
        path.write_bytes(content)
        assert rerun(store, image)[1] > 0


# --- dirty bitmaps ----------------------------------------------------------------------------


class Bitmapped:
    """A disk in memory with a bitmap, run after run."""

    def __init__(self, store: Path, data: bytes) -> None:
        self.store = store
        self.data = data
        self.dirty: list[Range] = []
        self.backing: list[os.stat_result] = []
        self.number = 0
        self.nodes: list[Event] = []
        self.drop_free = False
        self.superseded = b""

    def run(self, name: str = "vm") -> tuple[bytes, list[Range]]:
        """Archive it; the score, and where it was read."""
        self.number += 1
        places: list[Range] = []

        class Counted(MemoryDisk):
            def read(self, offset: int, length: int) -> bytes:
                if length:
                    places.append((offset, offset + length))
                return super().read(offset, length)

        disk = Counted(len(self.data), {0: self.data})
        disk.files += self.backing
        source = DiskSource(
            disk,
            surveyed(volume_of(len(self.data), *self.nodes)),
            drop_free=self.drop_free,
            unchanged=self.unchanged,
            mark=b"%d" % self.number,
        )
        # A file in memory has a ctime long ago, but its mtime tells of a change.
        times = {"st_atime_ns": 0, "st_mtime_ns": self.number, "st_ctime_ns": 0}
        disk.files[0] = os.stat_result((0o100644, 7, 0, 1, 0, 0, 0, 0, 0, 0), times)
        with Store.open(self.store, "write") as opened:
            version, _ = archive(opened, source, name)
            content = content_at(opened, version.root, b"disk.img")
            if not self.drop_free:
                assert bytes_of(opened, content) == self.data
            assert harms(opened, version.root) == []
        self.dirty = []
        self.superseded = source.superseded
        return tree_score(version.root), places

    def unchanged(self, mark: bytes) -> list[Range] | None:
        """What was not written since the last run began."""
        if mark != b"%d" % (self.number - 1):
            return None
        at, same = 0, []
        for start, end in [*united(self.dirty), (len(self.data), len(self.data))]:
            if start > at:
                same.append((at, start))
            at = max(at, end)
        return same

    def change(self, start: int, data: bytes, granularity: int = 4096) -> None:
        """Write as a guest does."""
        end = start + len(data)
        self.data = self.data[:start] + data + self.data[end:]
        self.dirty.append(
            (
                start // granularity * granularity,
                min(-(-end // granularity) * granularity, len(self.data)),
            )
        )


def test_only_what_a_bitmap_tells_is_read(store: Path, tmp_path: Path) -> None:
    vm = Bitmapped(store, noise(MIB))
    vm.nodes = [
        FoundName(b"a", 12, regular(300_000, (0, 4096, 303_104))),
        FoundName(b"b", 13, regular(100_000, (0, 500_736, 102_400))),
    ]
    vm.run()
    assert vm.run()[1] == []
    vm.change(950_000, b"changed")
    vm.change(510_000, b"changed too")
    score, places = vm.run()
    assert sum(end - start for start, end in places) < 300_000, places
    assert any(start <= 950_000 < end for start, end in places)
    full = Bitmapped(new_store(tmp_path / "other"), vm.data)
    full.nodes = vm.nodes
    assert full.run()[0] == score


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("block", [1024, 4096])
def test_a_run_by_bitmap_makes_the_same_as_a_full_one(
    store: Path, tmp_path: Path, seed: int, block: int
) -> None:
    chance = random.Random(seed)
    vm = Bitmapped(store, noise(100_000, seed) + bytes(100_000) + noise(62_245, seed + 1))
    for night in range(4):
        vm.nodes = []
        places = list(range(0, len(vm.data) - 14 * block, 14 * block))
        for number, place in enumerate(chance.sample(places, 3)):
            length = block * chance.choice([1, 3, 13])
            size = length - chance.randrange(block)
            vm.nodes.append(
                FoundName(b"%d" % number, 50 + number, regular(size, (0, place, length)))
            )
            if chance.random() < 0.7:  # as kernels do
                vm.change(place + size, bytes(length - size))
        for _ in range(chance.randrange(4)):
            place = chance.randrange(len(vm.data) - 9000)
            vm.change(place, chance.choice([bytes(9000), noise(500, night)]))
        score, _ = vm.run()
        full = Bitmapped(new_store(tmp_path / f"full{night}"), vm.data)
        full.nodes = vm.nodes
        assert full.run()[0] == score


def united(ranges: list[Range]) -> list[Range]:
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def status(inode: int) -> os.stat_result:
    times = {"st_atime_ns": 0, "st_mtime_ns": 0, "st_ctime_ns": 0}
    return os.stat_result((0o100644, inode, 0, 1, 0, 0, 0, 0, 0, 0), times)


def test_a_bitmap_tells_nothing_of_backing_files(store: Path) -> None:
    vm = Bitmapped(store, noise(100_000))
    vm.backing = [status(9)]
    vm.run()
    assert vm.run()[1] == []
    vm.backing = [status(10)]
    vm.data = noise(100_000, 5)  # it was exchanged
    assert vm.run()[1]
    vm.backing = []
    vm.data = noise(100_000, 6)
    assert vm.run()[1]


def test_a_disk_that_has_grown_is_read_at_its_end(store: Path) -> None:
    vm = Bitmapped(store, noise(100_000))
    vm.run()
    vm.data += b"more" * 1000
    assert vm.run()[1]
    vm.data = vm.data[:50_000]
    vm.run()


def test_a_bitmap_counts_only_in_the_epoch_of_its_version(store: Path) -> None:
    vm = Bitmapped(store, noise(100_000))
    vm.run()
    assert vm.run()[1] == []
    rebuild_index(store, read_header(store), Files())
    assert vm.run()[1]


def test_a_bitmap_counts_only_while_a_version_has_the_root(store: Path) -> None:
    """What it calls unchanged is not read, so it must be there."""
    vm = Bitmapped(store, noise(100_000))
    vm.run()
    vm.run()
    forget(store, versions_of(store)[0])
    assert vm.run()[1] == []
    for version in versions_of(store):
        forget(store, version)
    drop_dead(store)
    assert vm.run()[1]
    nothing_is_missing(store)


def test_the_last_mark_goes_also_when_its_version_has_gone(store: Path) -> None:
    """Otherwise its bitmap would stay in the image, and slow down every write of the guest."""
    vm = Bitmapped(store, noise(100_000))
    for forgotten in (False, True):
        vm.run()
        assert vm.superseded == (b"%d" % (vm.number - 1) if vm.number > 1 else b"")
        if forgotten:
            for version in versions_of(store):
                forget(store, version)
            rebuild_index(store, read_header(store), Files())
            vm.run()
            assert vm.superseded == b"%d" % (vm.number - 1)


def test_what_was_dropped_as_free_is_read_when_it_is_used(store: Path, tmp_path: Path) -> None:
    """It holds what it held, which the last version does not have."""
    vm = Bitmapped(store, noise(100_000))
    vm.drop_free = True
    vm.nodes = [Free(((8192, 90_112),))]
    vm.run()
    vm.nodes = [Free(((8192, 40_960),)), FoundName(b"a", 12, regular(5000, (0, 40_960, 8192)))]
    score, _ = vm.run()
    full = Bitmapped(new_store(tmp_path / "other"), vm.data)
    full.drop_free, full.nodes = True, vm.nodes
    assert full.run()[0] == score


# --- damage -----------------------------------------------------------------------------------


def test_a_disk_that_cannot_be_read_makes_no_version(store: Path) -> None:
    disk = MemoryDisk(100_000, {0: noise(100_000)})
    disk.broken = range(50_000, 50_001)
    with Store.open(store, "write") as opened, pytest.raises(ImageError, match="cannot be read"):
        archive(opened, DiskSource(disk, iter(())), "vm")
    with Store.open(store, "read") as opened:
        assert versions(opened, "vm") == []
    assert findings(store) == []


def test_ctrl_c_makes_no_version(store: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    disk = MemoryDisk(100_000, {0: noise(100_000)})
    with pytest.raises(KeyboardInterrupt), Store.open(store, "write") as opened:
        archive(opened, DiskSource(disk, iter(())), "vm", progress=interrupt)
    with Store.open(store, "write") as opened:
        assert versions(opened, "vm") == []
        archive(opened, DiskSource(disk, iter(())), "vm")
    holds(store, "vm", noise(100_000))


def test_a_disk_is_archived_under_the_lock_of_its_name(store: Path) -> None:
    def interrupt(*_: object) -> None:
        with pytest.raises(Busy, match="another archive run or rename is at work"):
            RunLock(opened, "vm")
        raise KeyboardInterrupt

    disk = MemoryDisk(100_000, {0: noise(100_000)})
    with Store.open(store, "write") as opened:
        with pytest.raises(KeyboardInterrupt):
            archive(opened, DiskSource(disk, iter(())), "vm", progress=interrupt)
        with RunLock(opened, "vm"):
            with pytest.raises(Busy, match="another archive run or rename is at work"):
                archive(opened, DiskSource(disk, iter(())), "vm")
            with Store.open(store, "rehearse") as rehearsing:
                archive(rehearsing, DiskSource(disk, iter(())), "vm")


def test_the_root_is_the_images_own(store: Path) -> None:
    with Store.open(store, "write") as opened:
        disk = MemoryDisk(100_000, {0: noise(100_000)})
        version, tally = archive(opened, DiskSource(disk, surveyed(volume_of(4096))), "vm")
        assert version.root.mode == 0o40755
        assert resolve(opened, version.root, b"disk.img").mode == 0o100644
        assert resolve(opened, version.root, b"files/1").mode == DIRECTORY.mode
        assert tally.bytes == 100_000
        with pytest.raises(VentifsError):
            archive(opened, DiskSource(disk, iter(())), "vm", time_ns=version.time_ns)


@pytest.mark.parametrize("victim", [os.getpid, os.getppid])
def test_a_survey_that_is_killed_costs_files_and_no_bytes(
    store: Path, tmp_path: Path, victim: Callable[[], int]
) -> None:
    image = mke2fs(filled(tmp_path / "root"), tmp_path / "a.img")

    def read_files(
        window: Window, filesystem: str, *, free: bool
    ) -> Iterator[FoundName | Free | Ended]:
        yield FoundName(b"", 2, DIRECTORY)
        yield FoundName(b"a", 12, regular(5000, (0, 8192, 8192)))
        os.kill(victim(), signal.SIGKILL)
        yield Ended()

    disk = FileDisk(image)
    with Survey(disk, free=False, read_files=read_files) as survey:
        source = DiskSource(disk, iter(survey))
        with Store.open(store, "write") as opened:
            archive(opened, source, "vm")
    disk.close()
    holds(store, "vm", image.read_bytes())
    notes = [*source.facts.notes]
    notes += [note for volume in source.facts.volumes for note in volume.notes]
    assert any("the parser" in note for note in notes), notes


def test_workers_are_gone_when_the_run_is_interrupted(
    store: Path, tmp_path: Path, workers: processes.Peer
) -> None:
    image = mke2fs(filled(tmp_path / "root"), tmp_path / "a.img")
    assert workers.ask("interrupted", store, image) == []
    with Store.open(store, "read") as opened:
        assert versions(opened) == []
    assert findings(store) == []
    archive_file(store, image, "vm")
    holds(store, "vm", image.read_bytes())


def test_nobody_outlives_an_archiver_that_is_killed(store: Path, tmp_path: Path) -> None:
    image = mke2fs(filled(tmp_path / "root"), tmp_path / "a.img")
    pids = tmp_path / "pids"
    assert processes.run(archive_until_killed, store, image, pids) == processes.KILLED
    for pid in map(int, pids.read_text().split()):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([handle], [], [], PATIENCE_S)[0], "a child is left behind"
        os.close(handle)
    with Store.open(store, "write") as opened:
        assert versions(opened) == []
    assert findings(store) == []
    archive_file(store, image, "vm")
    holds(store, "vm", image.read_bytes())
