"""ext2, ext3 and ext4 inside images, against this kernel's own view of them."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import odd_files
from tests.support.filesystems import (
    BytesDisk,
    FileDisk,
    Inside,
    agree,
    filled,
    made,
    mounted,
    window,
)
from tests.support.mutations import damaged, used_blocks
from ventifs.image.filesystems.ext.reader import Ext

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts images")

Fill = Callable[[Path], None]


def small_xattrs(top: Path) -> None:
    odd_files.xattrs(top, sizes=(3, 300), counts=(1, 5))


def large_xattrs(top: Path) -> None:
    odd_files.xattrs(top, sizes=(3, 3000, 20_000, 65_536))


READS_MAX = 2_500  # of a small file system, whatever is damaged in it
FOUR_K = ["-b", "4096"]
ONE_K = ["-b", "1024"]
SMALL: list[Fill] = [odd_files.names, odd_files.contents, odd_files.directories]
MANY: list[Fill] = [odd_files.everything, odd_files.preallocated]
KINDS: dict[str, tuple[str, list[str], list[Fill]]] = {
    "ext4": ("ext4", FOUR_K, MANY),
    "ext4 of 1 KiB": ("ext4", ONE_K, [*SMALL, small_xattrs, odd_files.preallocated]),
    "ext4 of 2 KiB, old checksums": (
        "ext4",
        ["-b", "2048", "-O", "^metadata_csum,^64bit,uninit_bg"],
        [*SMALL, small_xattrs, odd_files.preallocated],
    ),
    "inline data": (
        "ext4",
        [*FOUR_K, "-O", "inline_data", "-I", "1024"],
        [*SMALL, odd_files.attributes, odd_files.xattrs],
    ),
    "inline data and attributes with inodes": (
        "ext4",
        [*FOUR_K, "-O", "inline_data,ea_inode"],
        [*SMALL, odd_files.attributes, large_xattrs],
    ),
    "clusters": ("ext4", [*FOUR_K, "-O", "bigalloc", "-C", "65536"], MANY),
    "clusters of 1 KiB blocks": (
        "ext4",
        [*ONE_K, "-O", "bigalloc", "-C", "4096"],
        [odd_files.contents],
    ),
    "ext3": ("ext3", FOUR_K, [odd_files.everything]),
    "ext3 of 1 KiB": ("ext3", ONE_K, SMALL),
    "ext2, inodes of 128 bytes": ("ext2", [*FOUR_K, "-I", "128"], [*SMALL, small_xattrs]),
    "ext2 without types": ("ext2", [*ONE_K, "-O", "^filetype"], SMALL),
    "descriptors in groups": (
        "ext4",
        [*ONE_K, "-O", "meta_bg,^resize_inode,metadata_csum_seed"],
        [odd_files.contents],
    ),
    "groups by themselves": (
        "ext4",
        [*ONE_K, "-O", "^flex_bg,uninit_bg,^metadata_csum"],
        [odd_files.contents],
    ),
    "two copies of the superblock": (
        "ext4",
        [*FOUR_K, "-O", "sparse_super2,^resize_inode", "-N", "3000"],
        [odd_files.contents],
    ),
    "a superblock in each group": (
        "ext4",
        [*ONE_K, "-O", "^sparse_super,^resize_inode,large_dir"],
        [odd_files.contents],
    ),
}


def dumped(image: Path, field: str) -> int:
    lines = subprocess.run(
        ["dumpe2fs", "-h", image], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return int(next(line for line in lines if line.startswith(field + ":")).split()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_as_the_kernel_has_it(kind: str, tmp_path: Path) -> None:
    filesystem, options, fills = KINDS[kind]

    def fill(top: Path) -> None:
        for each in fills:
            each(top)

    image = filled(tmp_path / "image", filesystem, 300 << 20, options, fill)
    inside = agree(image, filesystem)
    assert inside.ended is not None
    assert inside.ended.notes == ()
    free = sum(end - start for start, end in inside.free)
    assert free == dumped(image, "Free blocks") * dumped(image, "Block size")
    assert all(a[1] < b[0] for a, b in zip(inside.free, inside.free[1:], strict=False))


def test_a_tree_made_without_the_kernel(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    odd_files.names(tree)
    odd_files.attributes(tree)
    (tree / "socket").unlink()  # mke2fs -d makes none
    image = made(tmp_path / "image", "ext4", 64 << 20, ["-d", str(tree)])
    agree(image, "ext4")


def test_a_file_in_no_free_range(tmp_path: Path) -> None:
    image = filled(tmp_path / "image", "ext4", 64 << 20, [], odd_files.preallocated)
    inside = agree(image, "ext4")
    for path in inside.nodes:
        for _, start, length in inside.inode(path).extents:
            assert not any(a < start + length and start < b for a, b in inside.free)


def test_a_journal_that_is_to_be_replayed(tmp_path: Path) -> None:
    made(tmp_path / "image", "ext4", 64 << 20, [])
    with mounted(tmp_path / "image", "ext4", writable=True) as top:
        (top / "file").write_text("content")
        subprocess.run(["sync", "-f", top], check=True)
        dirty = (tmp_path / "image").read_bytes()
    (tmp_path / "dirty").write_bytes(dirty)
    inside = agree(tmp_path / "dirty", "ext4")
    assert inside.free == []
    assert inside.ended is not None
    assert inside.ended.notes == (
        "its journal was not replayed: files are told as they are on the disk",
        "its free space is kept, for it is not clean",
    )


def test_what_is_not_ext() -> None:
    for data, problem in (
        (b"", "bytes 1024 to 2048 are not in a volume of 0 bytes"),
        (bytes(1 << 20), "no ext superblock"),
    ):
        inside = Inside(BytesDisk(data), "ext4")
        assert inside.ended is not None
        assert inside.ended.problem == problem
        assert inside.nodes == {}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small file system of many structures."""

    def fill(top: Path) -> None:
        odd_files.names(top)
        odd_files.xattrs(top, sizes=(3, 3000, 20_000, 65_536), counts=(1, 5))
        odd_files.preallocated(top)
        odd_files.directories(top, 300)
        for name in ("scattered", "scattered too"):
            with (top / name).open("wb") as file:
                for index in range(500):
                    os.pwrite(file.fileno(), b"%d" % index, index * 4096)

    path = tmp_path_factory.mktemp("small") / "image"
    options = ["-b", "1024", "-N", "2000", "-O", "ea_inode,inline_data,^has_journal"]
    return filled(path, "ext4", 12 << 20, options, fill).read_bytes()


@pytest.fixture(scope="module")
def small_blocks(small: bytes) -> list[int]:
    """Its blocks that are in use, but for the files' own."""
    inside = Inside(BytesDisk(small), "ext4")
    assert inside.problems == {}
    files: set[int] = set()
    for path in inside.nodes:
        for _, start, length in inside.inode(path).extents:
            files.update(range(start >> 10, (start + length) >> 10))
    return [number for number in used_blocks(small, 1024) if number not in files]


@pytest.mark.parametrize("base", range(0, 300, 50))
def test_damage_is_told_and_ends(small: bytes, small_blocks: list[int], base: int) -> None:
    for seed in range(base, base + 50):
        # Half of the damage is near the start: superblock, descriptors, inode tables.
        blocks = small_blocks if seed % 2 else small_blocks[: len(small_blocks) // 4]
        # Undamaged it takes 125 reads.
        Inside(BytesDisk(damaged(small, blocks, 1024, seed), READS_MAX), "ext4")


def test_an_extent_tree_that_holds_itself(small: bytes) -> None:
    image = bytearray(small)
    reader = Ext(window(BytesDisk(small)))
    inside = Inside(BytesDisk(small), "ext4")
    number = inside.nodes[b"scattered"].number
    table, at = reader.layout.inode(number)
    root = bytes(table[at + 40 : at + 100])
    child = int.from_bytes(root[16:20], "little")
    assert root[6] == 2  # its depth
    block = child * 1024
    image[block + 2] = 84
    for index in range(84):
        entry = block + 12 + 12 * index
        image[entry : entry + 12] = index.to_bytes(4, "little") + child.to_bytes(8, "little")
    broken = Inside(BytesDisk(image), "ext4")
    assert broken.problems == {b"scattered": "its extent tree is damaged"}
    assert broken.nodes[b"scattered"].inode is None


def test_a_truncated_volume_tells_what_is_left(small: bytes) -> None:
    inside = Inside(BytesDisk(small[: 6 << 20]), "ext4")
    assert inside.ended is not None
    assert any("but its volume 6291456" in note for note in inside.ended.notes)
    assert b"names" in inside.nodes


def test_an_encrypted_directory_is_not_told_wrong(small: bytes) -> None:
    image = bytearray(small)
    reader = Ext(window(BytesDisk(small)))
    number = Inside(BytesDisk(small), "ext4").nodes[b"names"].number
    table, at = reader.layout.inode(number)
    place = small.index(bytes(table[at : at + 128]))
    image[place + 33] |= 0x08  # EXT4_ENCRYPT_FL
    inside = Inside(BytesDisk(image), "ext4")
    assert inside.problems == {b"names": "encrypted: what is in it is not told"}
    assert b"names/two" not in inside.nodes
    assert inside.inode(b"one").links == 2


def test_a_disk_that_fails_costs_what_lies_there(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(small)
    disk = FileDisk(path)
    disk.size = 3 << 20
    inside = Inside(disk, "ext4")
    disk.close()
    assert inside.ended is not None
    assert inside.problems
