"""What is said to be unchanged on btrfs is unchanged, whatever was done to the file."""

import hashlib
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import filesystems, processes
from tests.support.btrfs import (
    BLOCK,
    Changes,
    allocate,
    archive_images,
    clone,
    command,
    mounted_btrfs,
)
from tests.support.imaging import bytes_of, content_at
from ventifs.image.formats.btrfs_changes import mark, unchanged
from ventifs.image.formats.raw import RawDisk
from ventifs.image.survey_events import Range
from ventifs.store import Store
from ventifs.tree.versions.catalog import find_version

MIB = 1 << 20
SIZE = 8 * MIB
DATA = random.Random(1).randbytes(SIZE)


@pytest.fixture(scope="module")
def btrfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted_btrfs(tmp_path_factory.mktemp("extents")) as place:
        yield place


@pytest.fixture
def image(btrfs: Path) -> Path:
    """A raw image alone in a subvolume."""
    top = btrfs / f"subvolume-{len(list(btrfs.iterdir()))}"
    command("btrfs", "subvolume", "create", top)
    path = top / "vm.img"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def lone_image(tmp_path: Path) -> Iterator[Path]:
    """A raw image that has a file system to itself, for balancing takes its time."""
    with mounted_btrfs(tmp_path) as place:
        path = place / "vm.img"
        path.write_bytes(DATA)
        yield path


class Marked:
    """A file as it was when a mark was set."""

    def __init__(self, path: Path) -> None:
        disk = RawDisk(str(path))
        self.mark = mark(disk)
        disk.close()
        self.data = path.read_bytes()

    def same(self, path: Path) -> list[Range] | None:
        """What is told to be unchanged; checked against what is."""
        disk = RawDisk(str(path))
        ranges = unchanged(disk, self.mark)
        disk.close()
        data, end = path.read_bytes(), -1
        for start, stop in ranges or ():
            assert end < start < stop <= len(data)
            assert data[start:stop] == self.data[start:stop].ljust(stop - start, b"\0")
            end = stop
        return ranges


def write(path: Path, start: int, length: int) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), os.urandom(length), start)


def places(path: Path) -> set[bytes]:
    """Where the extents of a file lie on the device."""
    os.sync()
    done = subprocess.run(["filefrag", "-v", path], capture_output=True, check=True)
    return {line.split()[3] for line in done.stdout.splitlines() if b".." in line}


def total(ranges: list[Range] | None) -> int:
    return sum(stop - start for start, stop in ranges or ())


def test_what_was_not_written_is_unchanged_to_the_block(image: Path) -> None:
    was = Marked(image)
    assert was.same(image) == [(0, SIZE)]
    write(image, 5 * MIB + 1, BLOCK)
    write(image, 0, 1)
    write(image, SIZE - 1, 1)
    end = SIZE - BLOCK
    expected = [(BLOCK, 5 * MIB), (5 * MIB + 2 * BLOCK, end)]
    assert was.same(image) == expected  # though it is still in the page cache
    os.sync()
    assert was.same(image) == expected
    assert Marked(image).same(image) == [(0, SIZE)]


def test_a_mark_is_set_before_what_is_only_in_the_page_cache_then_is_written(image: Path) -> None:
    write(image, MIB, BLOCK)
    was = Marked(image)
    assert was.same(image) == [(0, SIZE)]


def test_holes_and_reserved_blocks_are_left_out(image: Path) -> None:
    allocate(image, 3, MIB, MIB)  # punched
    allocate(image, 0, MIB, 4 * BLOCK)
    was = Marked(image)
    assert was.same(image) == [(0, MIB), (2 * MIB, SIZE)]
    write(image, MIB, BLOCK)  # where it was reserved: that extent is old
    assert was.same(image) == [(0, MIB), (2 * MIB, SIZE)]
    assert Marked(image).same(image) == [(0, MIB + BLOCK), (2 * MIB, SIZE)]


def test_a_clone_of_old_data_is_changed(image: Path) -> None:
    """Its item has the number of a transaction from before the mark."""
    was = Marked(image)
    clone(image, image, 0, MIB, 4 * MIB)
    assert was.same(image) == [(0, 4 * MIB), (5 * MIB, SIZE)]


def test_data_that_is_brought_back_is_unchanged(image: Path) -> None:
    command("cp", "--reflink=always", image, image.with_name("copy"))
    was = Marked(image)
    write(image, MIB, 2 * MIB)
    clone(image.with_name("copy"), image, MIB, MIB, MIB)
    assert was.same(image) == [(0, 2 * MIB), (3 * MIB, SIZE)]


def test_snapshots_and_clones_are_compared_with_what_they_are_of(image: Path) -> None:
    was = Marked(image)
    write(image, MIB, BLOCK)
    snapshot, copy = image.parent / "snapshot", image.with_name("copy")
    command("btrfs", "subvolume", "snapshot", "-r", image.parent, snapshot)
    command("cp", "--reflink=always", image, copy)
    write(image, 2 * MIB, BLOCK)
    expected = [(0, MIB), (MIB + BLOCK, SIZE)]
    assert was.same(snapshot / image.name) == expected
    assert was.same(copy) == expected
    write(copy, 0, MIB)
    assert was.same(copy) == [(MIB + BLOCK, SIZE)]


def test_another_file_of_the_same_bytes_is_changed(image: Path) -> None:
    was = Marked(image)
    image.unlink()
    image.write_bytes(DATA)
    assert was.same(image) == []


def test_a_file_that_was_cut_off_and_came_back_longer(image: Path) -> None:
    was = Marked(image)
    os.truncate(image, 3 * MIB + 5)
    assert was.same(image) == [(0, 3 * MIB + 5)]  # the rest of the block is there still,
    os.truncate(image, 2 * SIZE)
    assert was.same(image) == [(0, 3 * MIB)]  # and is not to come back


def test_moved_data_is_changed(image: Path) -> None:
    was = Marked(image)
    command("btrfs", "balance", "start", "-d", image.parent)
    assert was.same(image) == []
    assert Marked(image).same(image) == [(0, SIZE)]


def test_other_data_at_the_same_place_of_the_device_is_changed(lone_image: Path) -> None:
    """All else is taken, so new data can only go where the old was."""
    fill = lone_image.with_name("fill")
    fill.touch()
    for unit in (64 * MIB, MIB, 16 * BLOCK):
        with suppress(OSError):
            while True:
                allocate(fill, 0, fill.stat().st_size, unit)
    where = places(lone_image)
    was = Marked(lone_image)
    for _ in range(3):
        os.truncate(lone_image, 0)
        os.sync()
        lone_image.write_bytes(os.urandom(SIZE))
        assert was.same(lone_image) == []
        assert places(lone_image) & where


def test_files_written_in_place_tell_nothing(image: Path) -> None:
    other = image.with_name("in-place")
    other.touch()
    command("chattr", "+C", other)
    other.write_bytes(DATA)
    was = Marked(other)
    assert was.mark == b""
    assert Marked(image).same(other) is None


def test_files_without_checksums_tell_nothing(tmp_path: Path) -> None:
    with mounted_btrfs(tmp_path, options="nodatasum") as place:
        path = place / "vm.img"
        path.write_bytes(DATA)
        assert Marked(path).mark == b""


def test_compressed_data(tmp_path: Path) -> None:
    with mounted_btrfs(tmp_path, options="compress-force=zstd") as place:
        path = place / "vm.img"
        path.write_bytes(b"text that compresses " * 400_000)
        size = path.stat().st_size
        was = Marked(path)
        assert was.same(path) == [(0, size)]
        write(path, MIB + 5, 1)
        assert was.same(path) == [(0, MIB), (MIB + BLOCK, size)]


def test_a_file_in_its_own_item_is_left_out(image: Path) -> None:
    for length in (1, 32, 100):  # the item of 32 bytes is as long as one of an extent
        image.with_name("small").write_bytes(b"x" * length)
        was = Marked(image.with_name("small"))
        assert was.mark
        assert was.same(image.with_name("small")) == []


def test_nobody_but_root_is_told(image: Path) -> None:
    """The file system's trees are for root; another one reads all."""
    was = Marked(image)
    disk = RawDisk(str(image))
    child = os.fork()
    if not child:
        try:
            os.setresuid(65534, 65534, 65534)
            os._exit(mark(disk) != b"" or unchanged(disk, was.mark) is not None)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    disk.close()


def test_other_file_systems_and_marks_tell_nothing(image: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "vm.img"
    elsewhere.write_bytes(DATA)
    assert Marked(elsewhere).mark == b""
    was = Marked(image)
    assert was.same(elsewhere) is None
    for damaged in (b"", b"ventifs-1", was.mark[:30], was.mark[:-1], b"x" * 16 + was.mark[16:]):
        disk = RawDisk(str(image))
        assert unchanged(disk, damaged) is None
        disk.close()


def test_a_mark_newer_than_the_file_system_tells_nothing(image: Path) -> None:
    was = Marked(image)
    disk = RawDisk(str(image))
    newer = was.mark[:16] + (1 << 40).to_bytes(8, "little") + was.mark[24:]
    assert unchanged(disk, newer) is None
    disk.close()


def test_an_image_of_very_many_pieces(image: Path) -> None:
    """More items than one search gives."""
    pieces = 13_000
    with image.open("r+b") as file:
        for number in range(pieces):
            os.pwrite(file.fileno(), DATA[:BLOCK], SIZE + (2 * number + 1) * BLOCK)
    was = Marked(image)
    assert total(was.same(image)) == SIZE + pieces * BLOCK
    write(image, SIZE + 7_001 * BLOCK, BLOCK)
    assert total(was.same(image)) == SIZE + (pieces - 1) * BLOCK


@pytest.mark.parametrize("seed", range(8))
def test_no_changed_byte_is_told_to_be_unchanged(lone_image: Path, seed: int) -> None:
    image = lone_image
    changes = Changes(image, seed)
    marks = [Marked(image)]
    told = 0
    for _ in range(12):
        for _ in range(1 + seed % 4):
            changes.change()
        for was in marks:
            ranges = was.same(image)
            assert ranges is not None, changes.done
            told += total(ranges)
        marks.append(Marked(image))
    assert told > SIZE, changes.done


def test_only_what_has_changed_is_read_again(btrfs: Path, tmp_path: Path) -> None:
    """An image with a file system inside, of which a hundredth is written."""
    size = 96 * MIB
    path = btrfs / "guest.img"
    chance = random.Random(3)

    def fill(top: Path) -> None:
        for number in range(60):
            (top / f"file{number}").write_bytes(chance.randbytes(chance.randrange(MIB)))

    filesystems.filled(path, "ext4", size, ["-q"], fill)
    peer = processes.Peer(archive_images)

    def archived(store: str) -> tuple[bytes, int]:
        if not (tmp_path / store).exists():
            Store.create(tmp_path / store)
        answer = peer.ask("archive", tmp_path / store, path)
        assert isinstance(answer, tuple), answer
        return answer

    first = archived("store")[1]
    assert first > 20 * MIB
    for _ in range(24):
        write(path, 48 * MIB + chance.randrange(40 * MIB), 40 * 1024)
    score, second = archived("store")
    assert second < first / 10
    assert score == archived("other")[0]
    peer.end()
    with Store.open(tmp_path / "store") as store:
        content = content_at(store, find_version(store, "vm7").root, b"disk.img")
        restored = hashlib.sha256(bytes_of(store, content)).digest()
    assert restored == hashlib.sha256(path.read_bytes()).digest()
