"""The reserve: made where there is room, given back for what frees, and never for anything else."""

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.disks import Disk, mounted, mounted_ext4
from tests.support.ledger import audited, made, put_recipes
from tests.support.modes import KINDS, wrong
from tests.support.recording import RecordingFiles, possible_disks
from tests.support.stores import findings, new_store
from ventifs.errors import NoSpace
from ventifs.store import Mode, Store, reserve
from ventifs.store.files import Files
from ventifs.store.header import read_header
from ventifs.store.index import Index
from ventifs.store.journal import Record
from ventifs.store.reserve import (
    RESERVE_MAX,
    RESERVE_NAME,
    default_size,
    has_room,
    replenish,
    reserve_length,
    reserve_space,
    resize,
    room_needed,
)

SIZE = 512 << 10
SMALL = [(100_000 + number, 60) for number in range(2_500)]  # an index of many pages


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    with ExitStack() as stack:
        how = mounted if request.param == "tmpfs" else mounted_ext4
        yield stack.enter_context(how(tmp_path / "disk"))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk") as disk:
        yield disk


def store_at(root: Path, size: int = SIZE) -> Path:
    Store.create(root, arena_size=4 << 20, reserve=size)
    return root


def noise(seed: int, size: int = 20_000) -> bytes:
    """A value that no page has room for yet."""
    return random.Random(seed).randbytes(size)


def records(root: Path) -> list[Record]:
    with Store.open(root) as store:
        return store.records()


# --- how large it is, and when it is made -------------------------------------------------------


def test_a_new_reserve_has_64_mib_and_at_most_a_hundredth_of_the_disk(
    tmp_path: Path, memory: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserve, "DEFAULT_MAX", 64 << 20)
    status = os.statvfs(tmp_path)
    assert default_size(tmp_path) == min(64 << 20, status.f_blocks * status.f_frsize // 100)
    assert default_size(memory.path) == (24 << 20) // 100
    Store.create(memory.path / "store")
    assert read_header(memory.path / "store").reserve == (24 << 20) // 100


def test_its_space_is_really_allocated(disk: Disk) -> None:
    free = os.statvfs(disk.path).f_bfree
    root = store_at(disk.path / "store", 4 << 20)
    status = (root / RESERVE_NAME).stat()
    assert (status.st_size, status.st_blocks * 512 >= 4 << 20) == (4 << 20, True)
    assert (free - os.statvfs(disk.path).f_bfree) * os.statvfs(disk.path).f_frsize >= 4 << 20
    with Store.open(root) as store:
        assert store.stats().reserve_bytes == reserve_space(root) >= 4 << 20
    assert findings(root) == []


def test_a_store_can_have_none(tmp_path: Path) -> None:
    root = store_at(tmp_path / "store", 0)
    Store.open(root, "write").close()
    assert not (root / RESERVE_NAME).exists()
    assert read_header(root).reserve == 0
    with Store.open(root) as store:
        assert store.stats().reserve_bytes == 0


@pytest.mark.parametrize("size", [-1, RESERVE_MAX + 1])
def test_a_size_out_of_range_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match="reserve"):
        store_at(tmp_path / "store", size)
    assert not (tmp_path / "store").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to any group")
@pytest.mark.parametrize("kind", KINDS)
def test_it_has_the_mode_of_the_stores_kind(tmp_path: Path, kind: str) -> None:
    Store.create(tmp_path / "store", access=KINDS[kind], reserve=SIZE)
    assert wrong(tmp_path / "store", kind) == {}
    assert (tmp_path / "store" / RESERVE_NAME).exists()


def lost(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, SIZE // 3)


def sparse(path: Path) -> None:
    os.truncate(path, 0)
    os.truncate(path, SIZE)


@pytest.mark.parametrize("harm", [lost, cut, sparse])
def test_the_next_writer_makes_it_whole_again_and_nobody_else(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    root = store_at(tmp_path / "store")
    harm(root / RESERVE_NAME)
    left = reserve_space(root)
    modes: list[Mode] = ["read", "worker", "rehearse"]
    for mode in modes:
        Store.open(root, mode).abandon()
    assert reserve_space(root) == left < SIZE
    assert findings(root) == []
    Store.open(root, "write").close()
    assert reserve_space(root) >= SIZE
    assert reserve_length(root) == SIZE


def test_it_is_made_only_where_much_stays_free(memory: Disk) -> None:
    assert [room_needed(size) for size in (0, 5, 1 << 30)] == [0, 20, (1 << 30) + (256 << 20)]
    memory.fill(leaving=room_needed(SIZE) // 4096 - 1)
    assert not has_room(memory.path, SIZE)
    assert not replenish(memory.path, SIZE, Files())
    assert not (memory.path / RESERVE_NAME).exists()
    memory.fill(leaving=room_needed(SIZE) // 4096)
    assert replenish(memory.path, SIZE, Files())
    # What is there counts: it is not made larger by as much as the disk would lack then.
    memory.fill(leaving=SIZE // 4096)
    assert not replenish(memory.path, 2 * SIZE, Files())
    assert reserve_space(memory.path) == SIZE


def test_a_creation_on_a_full_disk_does_without(memory: Disk) -> None:
    memory.fill(leaving=100)
    root = store_at(memory.path / "store")
    assert not (root / RESERVE_NAME).exists()
    assert read_header(root).reserve == SIZE
    memory.make_room()
    Store.open(root, "write").close()
    assert reserve_space(root) >= SIZE


@pytest.mark.parametrize("thing", ["directory", "link", "fifo"])
def test_something_else_of_that_name_is_left_alone(tmp_path: Path, thing: str) -> None:
    root = store_at(tmp_path / "store", 0)
    path, target = root / RESERVE_NAME, tmp_path / "target"
    target.write_bytes(b"precious")
    makers: dict[str, Callable[[], None]] = {
        "directory": path.mkdir,
        "link": lambda: path.symlink_to(target),
        "fifo": lambda: os.mkfifo(path),
    }
    makers[thing]()
    before = path.lstat()
    assert not replenish(root, SIZE, Files())
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert target.read_bytes() == b"precious"


def test_a_failed_allocation_leaves_what_was_there(memory: Disk) -> None:
    class Full(Files):
        def allocate(self, fd: int, length: int) -> None:
            super().allocate(fd, length // 2)
            raise OSError(28, "")

    memory.make_room()
    resize(memory.path, SIZE, Files())
    assert not replenish(memory.path, 4 * SIZE, Full())
    assert (reserve_space(memory.path), reserve_length(memory.path)) == (SIZE, SIZE)


def test_a_resized_reserve_is_smaller_larger_or_gone(tmp_path: Path) -> None:
    for size in (SIZE, SIZE // 2, 1000, 3 * SIZE):
        resize(tmp_path, size, Files())
        assert reserve_length(tmp_path) == size
        assert size <= reserve_space(tmp_path) < size + 64_000
    resize(tmp_path, 0, Files())
    resize(tmp_path, 0, Files())
    assert os.listdir(tmp_path) == []


def test_an_interrupted_creation_with_a_reserve_can_be_made_again(tmp_path: Path) -> None:
    root = store_at(tmp_path / "store")
    (root / "ventifs.store").unlink()
    store_at(root)
    assert reserve_space(root) >= SIZE


# --- a full disk --------------------------------------------------------------------------------


def filled(disk: Disk, size: int = SIZE) -> tuple[Path, list[Record]]:
    """A store with two records, on a disk that is full."""
    root = store_at(disk.path / "store", size)
    with Store.open(root, "write") as store:
        put_recipes(store, SMALL)
        added = store.commit([(b"one", b"1"), (b"two", noise(0))])
    disk.fill()
    with pytest.raises(OSError, match="No space"), (disk.path / "more").open("wb") as file:
        for _ in range(64):
            os.write(file.fileno(), bytes(4096))
            os.fsync(file.fileno())
    (disk.path / "more").unlink()
    disk.fill()
    return root, added


def test_only_a_commit_that_says_so_uses_the_reserve(disk: Disk) -> None:
    root, [one, two] = filled(disk)
    before = reserve_space(root)
    with Store.open(root, "write") as store:
        with pytest.raises(NoSpace, match=r"make room and run the command again$"):
            store.commit([(b"more", noise(1))])
        assert reserve_space(root) == before
        assert store.records() == [one, two]
        [moved] = store.commit([(b"forgotten", noise(1))], [one], from_reserve=True)
        assert store.records() == [moved, two]
    assert records(root) == [moved, two]
    assert SIZE // 2 < reserve_space(root) <= before
    disk.make_room()
    with Store.open(root, "write") as store:
        assert reserve_space(root) >= SIZE
        assert all(store.get(made(recipe)[0]) == made(recipe)[1] for recipe in SMALL)
    audited(root)


def test_a_reserve_helps_many_times_and_says_when_it_is_used_up(disk: Disk) -> None:
    root, kept = filled(disk)
    done = 0
    with Store.open(root, "write") as store, pytest.raises(NoSpace) as caught:
        for done in range(1000):
            key = b"%d" % done
            kept += store.commit([(key, noise(done))], from_reserve=True)
    assert done > 5
    assert re.search(r"\(a reserve of .* given back for it\)|no reserve left", str(caught.value))
    assert "make room and run the command again" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert records(root) == sorted(kept)
    assert findings(root) == []
    disk.make_room()
    with Store.open(root, "write") as store:
        kept += store.commit([(b"with room", b"")])
        assert store.records() == sorted(kept)
    assert reserve_space(root) >= SIZE


def test_without_a_reserve_the_error_says_what_to_do(disk: Disk) -> None:
    root, kept = filled(disk, 0)
    with Store.open(root, "write") as store:
        with pytest.raises(NoSpace) as caught:
            store.commit([(b"more", noise(1))], from_reserve=True)
        assert store.records() == kept
    text = str(caught.value)
    assert text.startswith(str(root))
    assert "no space left on device; nothing committed was lost: make room" in text
    assert text.endswith(
        "(the store has no reserve left; some MB are room enough, and then 'ventifs upgrade "
        "--reserve 64MiB' makes one for the next time)"
    )
    assert not (root / RESERVE_NAME).exists()


def test_a_reserve_that_is_anothers_is_named(memory: Disk) -> None:
    class Forbidden(Files):
        def truncate(self, fd: int, length: int) -> None:
            if os.readlink(f"/proc/self/fd/{fd}").endswith(RESERVE_NAME):
                raise PermissionError(1, "")
            super().truncate(fd, length)

    root, kept = filled(memory)
    with Store.open(root, "write", files=Forbidden()) as store:
        with pytest.raises(NoSpace, match=r"no space left.* reserve cannot be used: operation not"):
            store.commit([(b"more", noise(1))], from_reserve=True)
        assert store.records() == kept


def test_what_a_crash_left_is_indexed_from_the_reserve(disk: Disk) -> None:
    """The commit is durable, and the index never hears of it; then the disk fills up."""
    root = store_at(disk.path / "store", 4 << 20)
    store = Store.open(root, "write")
    put_recipes(store, SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Index, "add_blocks", lambda *_: None)
        patch.setattr(Index, "settle", lambda *_: None)
        [added] = store.commit([(b"key", b"")])
    store.abandon()
    disk.fill()
    with pytest.raises(NoSpace, match=r"make room and run the command again$"):
        Store.open(root, "write")
    assert records(root) == []
    with Store.open(root, "write", reserve=True) as store:
        assert store.records() == [added]
        assert store.commit(deletes=[added], from_reserve=True) == []
    assert records(root) == []
    assert reserve_space(root) > 1 << 20
    audited(root)


class Interrupted(Files):
    """Ctrl-C right before, or right after, one of the operations on the reserve."""

    def __init__(self, at: int) -> None:
        self.left = at

    def _step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def truncate(self, fd: int, length: int) -> None:
        self._step()
        super().truncate(fd, length)
        self._step()

    def allocate(self, fd: int, length: int) -> None:
        self._step()
        super().allocate(fd, length)
        self._step()


@pytest.mark.parametrize("at", range(1, 9))
def test_an_interrupted_commit_has_been_or_has_not(memory: Disk, at: int) -> None:
    root, before = filled(memory)
    store = Store.open(root, "write", files=Interrupted(at))
    try:
        store.commit([(b"forgotten", noise(1))], before[:1], from_reserve=True)
    except KeyboardInterrupt:
        store.abandon()
    else:
        store.close()
        assert at > 6, "there were more operations than that"
    memory.make_room()
    Store.open(root, "write").close()
    after = records(root)
    assert [record.key for record in after] in ([b"one", b"two"], [b"forgotten", b"two"])
    assert reserve_space(root) >= SIZE
    audited(root)


def test_a_power_cut_at_any_moment_of_such_a_commit_costs_nothing(
    memory: Disk, tmp_path: Path
) -> None:
    root, before = filled(memory)
    files = RecordingFiles(root)
    store = Store.open(root, "write", files=files)
    [moved] = store.commit([(b"forgotten", noise(1))], before[:1], from_reserve=True)
    store.abandon()
    files.note_index()
    after, seen = [moved, before[1]], []
    for cut_at in range(len(files.log) + 1):
        rng = random.Random(cut_at)
        for found in possible_disks(files.log, files.base, cut_at, rng, chances=2):
            found.write_to(tmp_path / "cut")
            with Store.open(tmp_path / "cut", "write") as store:
                seen.append(store.records())
                assert seen[-1] in (before, after)
            assert reserve_space(tmp_path / "cut") >= SIZE
            audited(tmp_path / "cut")
            shutil.rmtree(tmp_path / "cut")
    assert seen[0] == before
    assert seen[-1] == after
    assert len(files.log) > 6


def test_a_small_default_store_has_a_reserve_too(tmp_path: Path) -> None:
    root = new_store(tmp_path / "store")
    assert reserve_space(root) >= read_header(root).reserve == reserve.DEFAULT_MAX
