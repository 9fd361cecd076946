"""The stat cache counts while a version of its name has the root of the run that wrote it."""

import os
import shutil
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from tests.support.archiving import WAY, Done, Way, archive_by, archive_when_asked, wait_for_tick
from tests.support.dead_blocks import drop_dead, forget, nothing_is_missing, put_back
from tests.support.growing import is_archived
from tests.support.processes import Peer, kill_all
from tests.support.reading import names_read
from tests.support.stores import new_store
from ventifs.store import Store
from ventifs.store.files import Files
from ventifs.store.header import read_header
from ventifs.store.rebuild import rebuild_index
from ventifs.tree.archive import read_batches as reading
from ventifs.tree.archive import run_lock, statcache
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.scan import Options
from ventifs.tree.archive.statcache import PreviousCache
from ventifs.tree.archive.tally import Tally
from ventifs.tree.patterns import Patterns
from ventifs.tree.tar.tar_source import TarSource
from ventifs.tree.versions.catalog import Version, encode_version, version_key, versions

FILES = [b"f0", b"f1", b"f2", b"top"]
LONG_SETTLED = -(10**18)


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    made = Peer(archive_when_asked)
    yield made
    made.end()
    kill_all()


@pytest.fixture(name="source")
def _source(source: Path) -> Path:
    """A file each in `d`, `d/e` and `d/e/f`, too large to be inline, and one beside `d`."""
    for depth, path in enumerate(("d", "d/e", "d/e/f")):
        (source / path).mkdir(parents=True)
        (source / path / f"f{depth}").write_bytes(b"%d" % depth * 5000)
    (source / "top").write_bytes(b"top" * 5000)
    return source


def files_read(store: Path, source: Path, name: str = "t", way: Way = WAY) -> list[bytes]:
    """Archive, and check what is archived; return the names of the files that were read."""
    wait_for_tick(source.parent)
    with names_read() as names:
        archive_by(store, source, name, way)
    is_archived(store, name, source)
    nothing_is_missing(store)
    return sorted(names)


def of_name(store: Path, name: str = "t") -> list[Version]:
    with Store.open(store) as opened:
        return versions(opened, name)


def change_record(store: Path, version: Version, **fields: Any) -> None:
    """Put a version's record again with other fields."""
    made = msgspec.structs.replace(version, **fields)
    assert version.record is not None
    with Store.open(store, "write") as opened:
        put = version_key(made.name, made.time_ns), encode_version(made)
        opened.commit([put], [version.record])


# --- directories that are away for a run ------------------------------------------------------


@contextmanager
def moved_out(source: Path, path: str) -> Iterator[Options]:
    os.rename(source / path, source.parent / "away")
    yield Options()
    os.rename(source.parent / "away", source / path)


@contextmanager
def excluded(source: Path, path: str) -> Iterator[Options]:
    yield Options(exclude=Patterns([b"/" + os.fsencode(path)]))


@contextmanager
def behind_a_file(source: Path, path: str) -> Iterator[Options]:
    with moved_out(source, path) as options:
        (source / path).touch()
        yield options
        (source / path).unlink()


@contextmanager
def behind_another(source: Path, path: str) -> Iterator[Options]:
    with moved_out(source, path) as options:
        (source / path).mkdir()
        (source / path / "other").write_bytes(b"other" * 5000)
        yield options
        shutil.rmtree(source / path)


@pytest.mark.parametrize("away", [moved_out, excluded, behind_a_file, behind_another])
@pytest.mark.parametrize("path", ["d", "d/e", "d/e/f"])
@pytest.mark.parametrize("segment_max", [1, 4096])
def test_what_comes_back_after_its_blocks_have_gone_is_stored_again(
    store: Path, source: Path, away: Callable[..., Any], path: str, segment_max: int
) -> None:
    """The second run carries over the directory's records, though its version lacks the path."""
    way = Way(segment_max=segment_max)
    files_read(store, source, way=way)
    with away(source, path) as options:
        wait_for_tick(source.parent)
        archive_by(store, source, "t", way, options=options)
        forget(store, of_name(store)[0])
        assert drop_dead(store)
    assert set(FILES[path.count("/") : 3]) <= set(files_read(store, source, way=way))
    assert files_read(store, source, way=way) == []


@pytest.mark.parametrize(
    "way", [Way(jobs=2), Way(jobs=2, segment_max=1), Way(jobs=2, unit_names=1), Way(unit_names=1)]
)
def test_workers_do_not_rely_on_what_has_gone_either(
    peer: Peer, store: Path, source: Path, way: Way
) -> None:
    def run() -> None:
        wait_for_tick(source.parent)
        assert isinstance(peer.ask("archive", store, source, "t", way), Done)
        is_archived(store, "t", source)

    run()
    with moved_out(source, "d/e"):
        run()
        forget(store, of_name(store)[0])
        assert drop_dead(store)
    run()
    nothing_is_missing(store)


def test_names_of_a_linked_file_that_come_back(store: Path, source: Path) -> None:
    os.link(source / "d" / "f0", source / "d" / "e" / "link")
    files_read(store, source)
    (source / "d" / "f0").rename(source.parent / "f0")
    with moved_out(source, "d/e"):
        files_read(store, source)
        forget(store, of_name(store)[0])
        assert drop_dead(store)
    (source.parent / "f0").rename(source / "d" / "f0")
    files_read(store, source)


def test_a_directory_that_comes_back_elsewhere(store: Path, source: Path) -> None:
    """Its old records are those of another path; what its new path had is older still."""
    (source / "g").mkdir()
    files_read(store, source)
    with moved_out(source, "d"):
        files_read(store, source)
        forget(store, of_name(store)[0])
        assert drop_dead(store)
    os.rename(source / "d", source / "g" / "d")
    assert {b"f0", b"f1", b"f2"} <= set(files_read(store, source))


# --- versions that come and go ----------------------------------------------------------------


def test_an_unchanged_run_costs_nothing_after_blocks_have_gone(store: Path, source: Path) -> None:
    files_read(store, source)
    (source / "top").write_bytes(b"changed" * 5000)
    assert files_read(store, source) == [b"top"]
    forget(store, of_name(store)[0])
    assert drop_dead(store)
    assert files_read(store, source) == []


def test_notes_and_times_of_versions_are_no_part_of_it(store: Path, source: Path) -> None:
    files_read(store, source)
    change_record(store, of_name(store)[0], comment="before the upgrade", tags=("keep",), time_ns=9)
    assert files_read(store, source) == []


def test_a_version_that_is_put_back_counts_again(store: Path, source: Path) -> None:
    files_read(store, source)
    record = forget(store, of_name(store)[0])
    put_back(store, record)
    assert files_read(store, source) == []


def test_any_version_of_the_root_will_do(store: Path, source: Path) -> None:
    files_read(store, source)
    assert files_read(store, source) == []
    forget(store, of_name(store)[0])
    assert files_read(store, source) == []
    for version in of_name(store):
        forget(store, version)
    assert files_read(store, source) == FILES


def test_the_version_must_be_one_of_the_name(store: Path, source: Path) -> None:
    """A cache that is renamed alone counts for nothing; with its versions it goes on counting."""
    files_read(store, source)
    (store / "statcache" / "t").rename(store / "statcache" / "new")
    assert files_read(store, source, "new") == FILES
    change_record(store, of_name(store, "new")[0], name="newer")
    (store / "statcache" / "new").rename(store / "statcache" / "newer")
    assert files_read(store, source, "newer") == []


def test_a_forgotten_version_voids_it_at_once(store: Path, source: Path) -> None:
    """Before any block has gone: nothing says when they will."""
    files_read(store, source)
    (source / "top").unlink()
    files_read(store, source)
    forget(store, of_name(store)[1])
    assert files_read(store, source) == FILES[:3]


def test_metadata_of_the_root_alone_moves_it_to_another_root(store: Path, source: Path) -> None:
    files_read(store, source)
    source.chmod(0o700)
    assert files_read(store, source) == []
    forget(store, of_name(store)[0])
    assert files_read(store, source) == []
    assert sorted(os.listdir(store / "statcache")) == [".t.lock", "t"]


def test_a_stat_cache_that_cannot_follow_the_root_is_left_as_it_was(
    store: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files_read(store, source)
    before = (store / "statcache" / "t").read_bytes()
    monkeypatch.setattr(statcache, "create_file", lambda _: os.open("/dev/full", os.O_RDWR))
    source.chmod(0o700)
    for _ in range(2):
        assert files_read(store, source) == []
    assert (store / "statcache" / "t").read_bytes() == before
    assert sorted(os.listdir(store / "statcache")) == [".t.lock", "t"]


# --- when it is looked up ---------------------------------------------------------------------


def test_the_version_is_looked_up_under_the_lock(
    store: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is forgotten while a run waits for nothing but its lock is forgotten to the run."""
    files_read(store, source)
    with moved_out(source, "d"):
        files_read(store, source)
    [first, last] = of_name(store)
    locked = run_lock._locked

    def forget_and_lock(path: Path, name: str, wait_s: float) -> int:
        for version in (first, last):
            forget(store, version)
        assert drop_dead(store)
        return locked(path, name, wait_s)

    with monkeypatch.context() as patch:
        patch.setattr(run_lock, "_locked", forget_and_lock)
        patch.setattr(reading, "SETTLED_NS", LONG_SETTLED)
        wait_for_tick(source.parent)
        with names_read() as names, Store.open(store, "write") as opened:
            archive(opened, DirectorySource(source), "t")
    assert sorted(names) == FILES
    nothing_is_missing(store)


def test_a_version_forgotten_during_the_run_lends_it_its_blocks(store: Path, source: Path) -> None:
    files_read(store, source)
    [version] = of_name(store)
    (source / "top").write_bytes(b"changed" * 5000)
    wait_for_tick(source.parent)

    def forget_once(_: Tally, path: bytes) -> None:
        if version in of_name(store):
            forget(store, version)

    with names_read() as names, Store.open(store, "write") as opened:
        archive(opened, DirectorySource(source), "t", progress=forget_once)
    assert names == [b"top"]
    assert version not in of_name(store)
    drop_dead(store)
    nothing_is_missing(store)
    is_archived(store, "t", source)


def test_an_interrupted_run_leaves_it_bound_as_it_was(store: Path, source: Path) -> None:
    files_read(store, source)
    (source / "top").write_bytes(b"changed" * 5000)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for changes in (1, 2):
        with Store.open(store, "write") as opened, pytest.raises(KeyboardInterrupt):
            archive(opened, DirectorySource(source), "t", progress=interrupt)
        assert len(of_name(store)) == 1
        if changes == 1:
            drop_dead(store)  # also what the broken run stored
    assert files_read(store, source) == [b"top"]


def test_a_rehearsal_asks_the_same_and_leaves_nothing(store: Path, source: Path) -> None:
    files_read(store, source)
    before = (store / "statcache" / "t").read_bytes()
    for expected in ([], FILES):
        with names_read() as names, Store.open(store, "rehearse") as opened:
            archive(opened, DirectorySource(source), "t")
        assert sorted(names) == expected
        if not expected:
            forget(store, of_name(store)[0])
    assert (store / "statcache" / "t").read_bytes() == before


def test_other_kinds_of_sources_under_the_name_leave_it_alone(
    store: Path, source: Path, tmp_path: Path
) -> None:
    files_read(store, source)
    shutil.make_archive(str(tmp_path / "packed"), "tar", source)
    with Store.open(store, "write") as opened, (tmp_path / "packed.tar").open("rb") as file:
        archive(opened, TarSource(file, "packed.tar"), "t", time_ns=1)
    assert files_read(store, source) == []
    for version in of_name(store)[1:]:
        forget(store, version)
    drop_dead(store)
    assert [version.time_ns for version in of_name(store)] == [1]
    assert files_read(store, source) == FILES


# --- caches of other states of the store ------------------------------------------------------


def test_an_older_cache_that_is_put_back(store: Path, source: Path) -> None:
    """It counts as long as its version is there."""
    path = store / "statcache" / "t"
    files_read(store, source)
    older = path.read_bytes()
    (source / "top").write_bytes(b"changed" * 5000)
    assert files_read(store, source) == [b"top"]
    path.write_bytes(older)
    assert files_read(store, source) == [b"top"]
    path.write_bytes(older)
    forget(store, of_name(store)[0])
    drop_dead(store)
    assert files_read(store, source) == FILES


def test_a_newer_cache_in_an_older_store(store: Path, source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with moved_out(source, "d"):
        files_read(store, source)
        shutil.copytree(store, copy)
    files_read(store, source)
    shutil.copy(store / "statcache" / "t", copy / "statcache" / "t")
    assert files_read(copy, source) == FILES


def test_a_newer_cache_of_the_same_root(store: Path, source: Path, tmp_path: Path) -> None:
    """What later runs learned of the same tree is true of the older store's version, too."""
    files_read(store, source)
    shutil.copytree(store, tmp_path / "copy")
    os.utime(source / "top", ns=(0, (source / "top").stat().st_mtime_ns))  # its ctime alone
    assert files_read(store, source) == [b"top"]
    shutil.copy(store / "statcache" / "t", tmp_path / "copy" / "statcache" / "t")
    assert files_read(tmp_path / "copy", source) == []


def test_a_cache_of_another_store_or_epoch_counts_for_nothing(
    store: Path, source: Path, tmp_path: Path
) -> None:
    files_read(store, source)
    cache = (store / "statcache" / "t").read_bytes()
    other = new_store(tmp_path / "other")
    files_read(other, source)
    (other / "statcache" / "t").write_bytes(cache)
    assert files_read(other, source) == FILES
    for _ in range(2):
        rebuild_index(store, read_header(store), Files())
        (store / "statcache" / "t").write_bytes(cache)
        assert files_read(store, source) == FILES


def test_a_cache_of_an_older_program_is_read_as_none(store: Path, source: Path) -> None:
    files_read(store, source)
    path = store / "statcache" / "t"
    cache = path.read_bytes()
    assert cache[:8] == b"vfstat\0\x04"
    path.write_bytes(b"vfstat\0\x03" + cache[8:])
    assert files_read(store, source) == FILES


# --- records that do not lead down from the root ----------------------------------------------


class Parts:
    """A stat cache of directories with one segment each, taken apart."""

    def __init__(self, data: bytes, path: Path) -> None:
        path.write_bytes(data)
        fd = os.open(path, os.O_RDONLY)
        previous = PreviousCache(fd)
        self.footer = previous.footer
        self.records = {
            key: previous._record(offset) or b""
            for key, offset in zip(previous.hashes, previous.offsets, strict=True)
        }
        os.close(fd)

    def write(self, path: Path) -> None:
        """Write it as a run does that has seen all of it."""
        data, places = bytearray(statcache._MAGIC), {}
        for key, record in self.records.items():
            places[key] = len(data)
            data += framed(record)
        end = len(data)
        ordered = sorted(places.items())
        footer = msgspec.structs.replace(
            self.footer,
            whole_size=end,
            hashes=array("Q", [key for key, _ in ordered]).tobytes(),
            offsets=array("Q", [place for _, place in ordered]).tobytes(),
        )
        data += framed(statcache.encode(footer)) + end.to_bytes(8, "little")
        path.write_bytes(data)


def framed(record: bytes) -> bytes:
    check = blake3(record).digest(8)
    return len(record).to_bytes(8, "little") + check + record


@pytest.mark.parametrize("unit_names", [1, 2000])
@pytest.mark.parametrize("worn", [False, True])
@pytest.mark.parametrize("path", [b"", b"d", b"d/e", b"d/e/f"])
def test_a_record_that_is_not_the_one_above_it_lists_counts_for_nothing(
    store: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: bytes,
    worn: bool,
    unit_names: int,
) -> None:
    """All but one are the version's; that one is of the run before, and its blocks have gone."""
    cache, way = store / "statcache" / "t", Way(unit_names=unit_names)
    place, away = source / os.fsdecode(path), source.parent / "away"

    def settle() -> None:  # the times of directories give nothing away
        for directory in (source, place, place.parent):
            os.utime(directory, ns=(0, 0))

    settle()
    files_read(store, source)
    older = Parts(cache.read_bytes(), source.parent / "older")
    place.rename(away)
    place.mkdir()
    (place / "newer").write_bytes(b"newer" * 4000)
    settle()
    files_read(store, source)
    newer = Parts(cache.read_bytes(), source.parent / "newer")
    newer.write(cache)
    assert files_read(store, source, way=way) == []

    forget(store, of_name(store)[0])
    assert drop_dead(store)
    shutil.rmtree(place)
    away.rename(place)
    settle()
    key = statcache._path_hash(path)
    newer.records[key] = older.records[key]
    newer.write(cache)
    if worn:  # then all is walked, and nothing is compared ahead
        monkeypatch.setattr(PreviousCache, "worn", True)
    names = [os.fsencode(each.name) for each in place.rglob("*") if each.is_file()]
    assert sorted(names) == [name for name in files_read(store, source, way=way) if name in names]
