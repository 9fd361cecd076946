"""The stat cache: what is unchanged is not read, and what changed is never missed."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support.damage import flip
from tests.support.reading import names_read
from tests.support.stores import findings
from tests.support.trees import noise
from ventifs.errors import NotStored
from ventifs.store import Store
from ventifs.store.arena import HEADER_SIZE
from ventifs.store.check import check, repair
from ventifs.store.header import read_header
from ventifs.tree.archive import file_reader as live
from ventifs.tree.archive import statcache
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.archive.directory_worker import directory_handlers
from ventifs.tree.archive.file_reader import FileReader
from ventifs.tree.archive.scan import Options
from ventifs.tree.archive.statcache import SETTLED_NS, PreviousCache, StatCache
from ventifs.tree.archive.worker import WorkerService
from ventifs.tree.objects.content import read as read_content
from ventifs.tree.objects.content import read_whole
from ventifs.tree.objects.directory import resolve
from ventifs.tree.objects.records import RegularFile
from ventifs.tree.process_pool import InlinePool
from ventifs.tree.versions.catalog import Version, tree_score

# What is read of `source`: the hard-linked file once, by its first name.
NAMES = [b"link", b"file1", b"file2", b"file3", b"file4", b"symlink"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Store.create(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small tree."""
    top = tmp_path / "source"
    (top / "below").mkdir(parents=True)
    for number in range(5):
        (top / "below" / f"file{number}").write_bytes(b"%d" % number * 100)
    os.link(top / "below" / "file0", top / "link")
    os.symlink("nowhere", top / "symlink")
    return top


def settled() -> int:
    """The time long after all that a test changes."""
    return time.time_ns() + 10 * SETTLED_NS


def just_after(*paths: Path) -> Callable[[], int]:
    """A clock that stands at the last moment at which what changed these files may go on."""
    changed_ns = min(path.lstat().st_ctime_ns for path in paths)
    return lambda: changed_ns + SETTLED_NS


def run(
    root: Path, source: Path, *, read_all: bool = False, clock: Callable[[], int] = settled
) -> Version:
    with Store.open(root, "write") as store:
        pool = InlinePool(
            WorkerService(lambda: store, partial(directory_handlers, Options(), clock=clock)).handle
        )
        return archive(store, DirectorySource(source, pool=pool), "name", read_all=read_all)[0]


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def regular(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(FileReader, "regular", regular)


def text(root: Path, version: Version, path: bytes) -> bytes:
    with Store.open(root) as store:
        detail = resolve(store, version.root, path).detail
        assert isinstance(detail, RegularFile)
        return read_whole(store, detail.content)


def test_an_unchanged_tree_is_archived_without_reading_a_file(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(root, source)
    forbid_reading(monkeypatch)
    again = run(root, source)
    assert tree_score(again.root) == tree_score(first.root)
    assert again.new_bytes == 0


def test_everything_is_read_when_asked(root: Path, source: Path) -> None:
    first = run(root, source)
    with pytest.MonkeyPatch.context() as patch:
        forbid_reading(patch)
        with pytest.raises(AssertionError, match="was read"):
            run(root, source, read_all=True)
    assert tree_score(run(root, source, read_all=True).root) == tree_score(first.root)


def forged(path: Path, change: Callable[[Path], object]) -> None:
    """Make a change and set the mtime back to what it was."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"replaced!!"[:10] * 10)
    os.rename(other, path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewritten, same size": lambda path: path.write_bytes(b"x" * 100),
    "grown": lambda path: path.write_bytes(b"longer" * 100),
    "replaced by another": replaced,
    "another mode": lambda path: path.chmod(0o600),
    "touched": lambda path: path.touch(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen_though_the_mtime_is_forged_back(
    root: Path, source: Path, what: str
) -> None:
    run(root, source)
    path = source / "below" / "file3"
    forged(path, CHANGES[what])
    version = run(root, source)
    assert text(root, version, b"below/file3") == path.read_bytes()
    with Store.open(root) as store:
        assert resolve(store, version.root, b"below/file3").mode == path.stat().st_mode
    assert tree_score(version.root) == tree_score(run(root, source, read_all=True).root)


def test_a_file_renamed_over_another_is_seen(root: Path, source: Path) -> None:
    run(root, source)
    os.rename(source / "below" / "file1", source / "below" / "file2")
    version = run(root, source)
    assert text(root, version, b"below/file2") == b"1" * 100
    assert tree_score(version.root) == tree_score(run(root, source, read_all=True).root)


def test_what_was_written_within_two_seconds_of_its_reading_is_not_trusted(
    root: Path, source: Path
) -> None:
    """Written again in the same tick, with the same size: nothing in its status would differ."""
    clock = just_after(*source.rglob("*"))
    for _ in range(2):
        with names_read() as names:
            run(root, source, clock=clock)
        assert sorted(names) == sorted(NAMES)
    for expected in (NAMES, []):
        with names_read() as names:
            run(root, source)
        assert sorted(names) == sorted(expected)


def test_what_was_written_longer_before_its_reading_is_trusted(root: Path, source: Path) -> None:
    last_ns = max(path.lstat().st_ctime_ns for path in source.rglob("*"))
    for expected in (NAMES, []):
        with names_read() as names:
            run(root, source, clock=lambda: last_ns + SETTLED_NS + 1)
        assert sorted(names) == sorted(expected)


def test_only_what_was_written_late_is_read_again(root: Path, source: Path) -> None:
    run(root, source)
    late = source / "below" / "file3"
    os.utime(late)
    for _ in range(2):
        with names_read() as names:
            run(root, source, clock=just_after(late))
        assert names == [b"file3"]
    for expected in ([b"file3"], []):
        with names_read() as names:
            run(root, source)
        assert names == expected


def test_a_linked_file_that_was_written_late_is_read_again_by_any_name(
    root: Path, source: Path
) -> None:
    run(root, source)
    late = source / "below" / "file0"
    os.utime(late)
    for _ in range(2):
        with names_read() as names:
            run(root, source, clock=just_after(late))
        assert len(names) == 1
    (source / "below" / "file0").rename(source / "moved")
    with names_read() as names:
        run(root, source)
    assert len(names) == 1


def test_after_a_rebuild_nothing_is_trusted(root: Path, source: Path) -> None:
    first = run(root, source)
    with names_read() as names:
        run(root, source)
    assert names == []
    (root / "index" / "data.mdb").unlink()
    with names_read() as names:
        again = run(root, source)
    assert sorted(names) == sorted(NAMES)
    assert tree_score(again.root) == tree_score(first.root)
    with names_read() as names:
        run(root, source)
    assert names == []


def test_after_a_repair_that_lost_blocks_nothing_is_trusted(root: Path, source: Path) -> None:
    (source / "below" / "lost").write_bytes(b"lost" * 10_000)
    run(root, source)
    for path in (root / "arenas").glob("*/*.arena"):
        flip(path, HEADER_SIZE + 100)
    repair(root, check(root, read_data=True))
    with names_read() as names:
        run(root, source)
    assert sorted(names) == sorted([*NAMES, b"lost"])
    assert findings(root) == []


def test_another_names_cache_is_not_asked(root: Path, source: Path) -> None:
    run(root, source)
    with Store.open(root, "write") as store, names_read() as names:
        archive(store, DirectorySource(source), "other")
    assert sorted(names) == sorted(NAMES)


def test_a_stat_cache_that_cannot_be_written_fails_no_run(root: Path, source: Path) -> None:
    (root / "statcache" / "name").mkdir(parents=True)
    for _ in range(2):
        assert run(root, source).troubles == ()


def test_a_stat_cache_on_a_full_disk_fails_no_run(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(root, source)
    monkeypatch.setattr(statcache, "_WINDOW", 16)
    monkeypatch.setattr(statcache, "create_file", lambda _: os.open("/dev/full", os.O_RDWR))
    for number in range(3):
        (source / f"new{number}").touch()
        run(root, source)
        assert sorted(os.listdir(root / "statcache")) == [".name.lock", "name"]
    for number in range(3):
        (source / f"new{number}").unlink()
    os.utime(source, ns=(0, first.root.mtime_ns))
    assert tree_score(run(root, source).root) == tree_score(first.root)


def test_a_stat_cache_that_cannot_be_read_hides_nothing(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(root, source)
    opened = StatCache._opened

    def unreadable(cache: StatCache, earlier: list[Version]) -> PreviousCache | None:
        previous = opened(cache, earlier)
        assert previous is not None
        fd = os.open(source, os.O_RDONLY)  # a directory: reading it is an error
        os.dup2(fd, previous.fd)
        os.close(fd)
        previous._start = previous._end = 0
        return previous

    monkeypatch.setattr(StatCache, "_opened", unreadable)
    with pytest.MonkeyPatch.context() as patch, names_read() as names:
        patch.setattr(PreviousCache, "worn", True)
        again = run(root, source)
    assert sorted(names) == sorted(NAMES)
    assert again.troubles == ()
    assert tree_score(again.root) == tree_score(first.root)


def test_no_damage_of_the_cache_changes_what_is_archived(root: Path, source: Path) -> None:
    first = run(root, source)
    path = root / "statcache" / "name"
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert tree_score(run(root, source).root) == tree_score(first.root)
    path.write_bytes(whole[: len(whole) // 2])
    assert tree_score(run(root, source).root) == tree_score(first.root)


def test_a_run_that_fails_leaves_the_cache_as_it_was(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(root, source)
    before = sorted((path.name, path.read_bytes()) for path in (root / "statcache").iterdir())
    (source / "new").write_bytes(b"new" * 100)
    forbid_reading(monkeypatch)
    with pytest.raises(AssertionError):
        run(root, source)
    after = sorted((path.name, path.read_bytes()) for path in (root / "statcache").iterdir())
    assert after == before
    assert read_header(root).writable


# --- new inodes -------------------------------------------------------------------------------

SIZES = [33, 5000, 70_000, 5 << 20]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("at", ["same", "first", "middle", "last"])
def test_a_new_file_of_the_old_size_is_archived_as_what_it_holds(
    root: Path, source: Path, size: int, at: str
) -> None:
    """The content that its name had is only compared with, never trusted."""
    path, data = source / "below" / "file", bytearray(noise(size, size))
    if size > 64 << 10:
        data[8192 : 8192 + (40 << 10)] = bytes(40 << 10)  # a hole
    path.write_bytes(data)
    first = run(root, source)
    if at != "same":
        data[{"first": 0, "middle": 20_000 % size, "last": size - 1}[at]] ^= 1
    path.unlink()
    path.write_bytes(data)
    version = run(root, source)
    whole = run(root, source, read_all=True)
    assert tree_score(version.root) == tree_score(whole.root)
    with Store.open(root) as store:
        was, now = (resolve(store, each.root, b"below/file") for each in (first, version))
        assert isinstance(was.detail, RegularFile)
        assert isinstance(now.detail, RegularFile)
        assert (was.detail == now.detail) is (at == "same")
        got = b"".join(
            bytes(piece) for piece in read_content(store, now.detail.content)
        )  # bytes(n) is n zeros
        assert got == data


def test_what_only_the_index_lost_is_stored_anew(root: Path, source: Path) -> None:
    """Nodes that cannot be read are no help, and no harm."""
    path = source / "below" / "file"
    path.write_bytes(noise(300_000))
    run(root, source)
    path.rename(source / "below" / "kept")
    path.write_bytes(noise(300_000))

    def lost(*_: object) -> object:
        raise NotStored("gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "holds", lost)
        version = run(root, source)
    assert version.new_bytes < 10_000  # directories
    assert tree_score(version.root) == tree_score(run(root, source, read_all=True).root)
