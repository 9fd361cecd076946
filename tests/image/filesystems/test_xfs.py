"""XFS inside images, against this kernel's own view of it."""

import os
import random
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
from ventifs.image.filesystems.xfs.reader import Xfs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts images")

Fill = Callable[[Path], None]
READS_MAX = 5_000  # of a small file system, whatever is damaged in it
SIZE = 320 << 20  # the least that mkfs.xfs makes is 300 MiB


def attributes(top: Path) -> None:
    odd_files.attributes(top, last=(511, 262143))


def xattrs(top: Path) -> None:
    sizes = (3, 300, 1500, 3000, 20_000, 65_536)
    odd_files.xattrs(top, sizes=sizes, counts=(1, 5, 30, 300, 3000))


def wide(top: Path) -> None:
    odd_files.directories(top, 20_000)


def scattered(top: Path, count: int = 12_000) -> None:
    """A file whose tree of extents is of several levels."""
    with (top / "scattered").open("wb") as file:
        for index in range(count):
            os.pwrite(file.fileno(), b"%d" % index, index * 8192)


def scattered_xattrs(top: Path) -> None:
    """Files whose attributes have a tree of extents."""
    for name in ("turn", "turn about"):
        (top / name).touch()
    for index in range(100):
        for name in ("turn", "turn about"):
            os.setxattr(top / name, f"user.n{index}", b"%03d" % index * 1000)


def shared(top: Path) -> None:
    """Files that share blocks."""
    (top / "source").write_bytes(random.Random(3).randbytes(300_000))
    subprocess.run(["cp", "--reflink=always", top / "source", top / "copy"], check=True)
    with (top / "copy").open("r+b") as file:
        file.seek(100_000)
        file.write(b"changed")


MANY: list[Fill] = [
    odd_files.names,
    attributes,
    odd_files.contents,
    odd_files.preallocated,
    xattrs,
]
USUAL: list[Fill] = [*MANY, odd_files.directories]
KINDS: dict[str, tuple[list[str], list[Fill]]] = {
    "as usual": ([], [*USUAL, scattered, shared]),
    "blocks of 1 KiB": (["-b", "size=1k"], [*MANY, wide, scattered, scattered_xattrs]),
    "directory blocks of 64 KiB": (["-n", "size=65536"], USUAL),
    "directory blocks of four": (["-b", "size=1k", "-n", "size=4096"], USUAL),
    "large inodes": (["-b", "size=2k", "-i", "size=1024"], USUAL),
    "large counts of extents": (["-i", "nrext64=1"], [*USUAL, scattered]),
    "old times": (
        ["-m", "bigtime=0,reflink=0,finobt=0", "-i", "sparse=0"],
        [odd_files.names, odd_files.contents, xattrs, odd_files.directories, scattered],
    ),
    "reverse maps": (["-m", "rmapbt=1"], [xattrs, odd_files.preallocated]),
}


def inspected(image: Path, *commands: str) -> list[int]:
    options = [word for command in commands for word in ("-c", command)]
    output = subprocess.run(
        ["xfs_db", "-r", *options, image], capture_output=True, text=True, check=True
    ).stdout
    return [int(line.split()[-1]) for line in output.splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_as_the_kernel_has_it(kind: str, tmp_path: Path) -> None:
    options, fills = KINDS[kind]

    def fill(top: Path) -> None:
        for each in fills:
            each(top)

    image = filled(tmp_path / "image", "xfs", SIZE, options, fill)
    inside = agree(image, "xfs")
    assert inside.ended is not None
    assert inside.ended.notes == ()
    groups, block_size, blocks = inspected(image, "sb 0", "p agcount blocksize fdblocks")
    kept = sum(inspected(image, f"agf {group}", "p flcount")[0] for group in range(groups))
    assert sum(end - start for start, end in inside.free) == (blocks - kept) * block_size
    assert all(a[1] <= b[0] for a, b in zip(inside.free, inside.free[1:], strict=False))


def test_all_forms_of_directories_and_forks_were_met(tmp_path: Path) -> None:
    def fill(top: Path) -> None:
        for each in (odd_files.names, xattrs, wide, scattered, scattered_xattrs):
            each(top)

    image = filled(tmp_path / "image", "xfs", SIZE, ["-b", "size=1k"], fill)
    disk = FileDisk(image)
    reader = Xfs(window(disk))
    forms, of_attributes = set(), set()
    for node in Inside(disk, "xfs").nodes.values():
        record = reader._record(node.number)
        forms.add((record.mode >> 12, record.form))
        if record.attribute_fork:
            of_attributes.add(record.attribute_form)
    disk.close()
    assert forms >= {(4, 1), (4, 2), (4, 3), (8, 2), (8, 3), (10, 1), (10, 2)}
    assert of_attributes == {1, 2, 3}


def test_a_log_that_is_to_be_replayed(tmp_path: Path) -> None:
    made(tmp_path / "image", "xfs", SIZE, [])
    clean = FileDisk(tmp_path / "image")
    assert Xfs(window(clean)).clean
    clean.close()
    with mounted(tmp_path / "image", "xfs", writable=True) as top:
        (top / "file").write_text("content")
        subprocess.run(["sync", "-f", top], check=True)
        (tmp_path / "dirty").write_bytes((tmp_path / "image").read_bytes())
    inside = agree(tmp_path / "dirty", "xfs")
    assert inside.free == []
    assert inside.ended is not None
    assert inside.ended.notes == (
        "its log was not replayed: files are told as they are on the disk",
        "its free space is kept, for it is not clean",
    )
    assert (
        agree(tmp_path / "image", "xfs").ended
        == Inside(BytesDisk((tmp_path / "image").read_bytes()), "xfs").ended
    )


def test_a_log_that_has_gone_round(tmp_path: Path) -> None:
    made(tmp_path / "image", "xfs", SIZE, ["--unsupported", "-l", "size=4m", "-m", "reflink=0"])
    with mounted(tmp_path / "image", "xfs", writable=True) as top:
        for turn in range(12):
            for index in range(3000):
                (top / f"{turn % 3}-{index}").touch()
                os.setxattr(top / f"{turn % 3}-{index}", "user.turn", b"%d" % turn)
            subprocess.run(["sync", "-f", top], check=True)
    inside = agree(tmp_path / "image", "xfs")
    assert inside.ended is not None
    assert inside.ended.notes == ()
    assert inside.free


@pytest.mark.parametrize("types", [0, 1])
def test_version_4(types: int, tmp_path: Path) -> None:
    """Which this kernel may not mount any more: what the prototype file says is there."""
    (tmp_path / "content").write_bytes(b"content" * 1000)
    lines = ["/boot", "0 0", "d--755 0 0", f"file ---644 3 4 {tmp_path}/content"]
    lines += ["link l--777 0 0 " + "t" * 700, "short l--777 0 0 short", "device b--600 0 0 8 17"]
    lines += ["inner d--750 5 6"]
    lines += [f"file{index:04} ---600 1 1 /dev/null" for index in range(2000)] + ["$", "$", ""]
    (tmp_path / "prototype").write_text("\n".join(lines))
    options = ["-m", "crc=0", "-n", f"ftype={types}", "-p", str(tmp_path / "prototype")]
    disk = FileDisk(made(tmp_path / "image", "xfs", SIZE, options))
    inside = Inside(disk, "xfs")
    assert inside.problems == {}
    assert inside.ended is not None
    assert (inside.ended.problem, inside.ended.notes) == ("", ())
    assert len(inside.nodes) == 2006
    assert inside.inode(b"inner/file1999").mode == 0o100600
    assert (inside.inode(b"inner").uid, inside.inode(b"inner").gid) == (5, 6)
    assert b"".join(data for _, data in inside.content(b"file")) == b"content" * 1000
    assert inside.inode(b"link").target == b"t" * 700
    assert inside.inode(b"short").target == b"short"
    assert inside.inode(b"device").rdev == (8, 17)
    assert inside.free
    disk.close()


def test_what_is_not_xfs() -> None:
    inside = Inside(BytesDisk(bytes(1 << 20)), "xfs")
    assert inside.ended is not None
    assert inside.ended.problem == "no XFS superblock"
    assert inside.nodes == {}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[int]]:
    """A file system of many structures, and those of its blocks that hold no file's bytes."""

    def fill(top: Path) -> None:
        odd_files.names(top)
        odd_files.xattrs(top, sizes=(3, 3000, 20_000), counts=(1, 30, 1000))
        odd_files.preallocated(top)
        odd_files.directories(top, 1500)
        scattered(top, 2000)

    path = tmp_path_factory.mktemp("small") / "image"
    options = ["--unsupported", "-b", "size=1k", "-d", "agcount=2"]
    data = filled(path, "xfs", 64 << 20, options, fill).read_bytes()
    disk = BytesDisk(data)
    inside = Inside(disk, "xfs")
    assert inside.problems == {}
    layout = Xfs(window(disk)).layout
    others = set(range(layout.log_start, layout.log_start + layout.log_blocks - 8))
    for path_inside in inside.nodes:
        for _, start, length in inside.inode(path_inside).extents:
            others.update(range(start >> 10, (start + length) >> 10))
    return data, [number for number in used_blocks(data, 1024) if number not in others]


@pytest.mark.parametrize("base", range(0, 200, 40))
def test_damage_is_told_and_ends(small: tuple[bytes, list[int]], base: int) -> None:
    data, blocks = small
    for seed in range(base, base + 40):
        # Half of the damage is near the start: superblock, groups' headers, trees, first inodes.
        chosen = blocks if seed % 2 else blocks[:200]
        # Undamaged it takes 935 reads.
        Inside(BytesDisk(damaged(data, chosen, 1024, seed), READS_MAX), "xfs")


def test_a_tree_of_extents_that_holds_itself(small: tuple[bytes, list[int]]) -> None:
    data, _ = small
    reader = Xfs(window(BytesDisk(data)))
    record = reader._record(Inside(BytesDisk(data), "xfs").nodes[b"scattered"].number)
    assert int.from_bytes(record.fork[:2], "big") == 2  # its levels
    room = (len(record.fork) - 4) // 16
    child = int.from_bytes(record.fork[4 + room * 8 : 12 + room * 8], "big")
    block = bytearray(reader.layout.block(reader.layout.place(child)))
    room = (1024 - 72) // 16
    block[6:8] = room.to_bytes(2, "big")
    for index in range(room):
        block[72 + 8 * (room + index) : 80 + 8 * (room + index)] = child.to_bytes(8, "big")
    image = bytearray(data)
    place = reader.layout.place(child) << 10
    image[place : place + 1024] = block
    broken = Inside(BytesDisk(image), "xfs")
    assert broken.problems == {b"scattered": "its tree of extents is damaged"}


def test_a_truncated_volume_tells_what_is_left(small: tuple[bytes, list[int]]) -> None:
    inside = Inside(BytesDisk(small[0][: 40 << 20]), "xfs")
    assert inside.ended is not None
    assert any("but its volume 41943040" in note for note in inside.ended.notes)
    assert b"names" in inside.nodes
