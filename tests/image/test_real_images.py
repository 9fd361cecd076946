"""Images of real guests through the command line: what comes back, what is shared, what is seen."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guest_images import Stored, printed_sum, stored, ventifs
from tests.support.serving import command
from tests.support.sharing import base_of
from tests.support.sizes import LONG
from ventifs.store import Store
from ventifs.tree.objects.directory import entries, resolve
from ventifs.tree.objects.records import Directory, Entry, RegularFile
from ventifs.tree.versions.catalog import find_version

pytestmark = pytest.mark.slow
MIB = 1 << 20
RAW = ("A", "A1", "B", "C", "D", "X", "G", "L")
PRINTED = ("D", "L") if LONG else ("L",)  # out of order, in two segments
SAME_DISK = {"A.qcow2": "A", "A-zlib.qcow2": "A", "A-zstd.qcow2": "A", "A1.qcow2": "A1"}
ROOTS = {**dict.fromkeys(("A", "A1", "B", "C", "D", "X"), "1"), "G": "2", "L": "vm7-root"}
PE_START, PE = 67 * MIB, 4 * MIB  # of the LVM disk: where its first extent is, and its size
HALF = 320  # extents in each segment of its root


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    with stored(base_of(tmp_path_factory)) as made:
        yield made


@pytest.fixture(scope="module")
def store(images: Stored) -> Iterator[Store]:
    with Store.open(images.store) as opened:
        yield opened


def entry(store: Store, version: str, path: str = "") -> Entry:
    return resolve(store, find_version(store, version).root, path.encode())


def below(store: Store, version: str, path: str) -> dict[bytes, Entry]:
    """The entries of a directory of a version."""
    detail = entry(store, version, path).detail
    assert isinstance(detail, Directory), path
    return {one.name: one for one in entries(store, detail.content)}


@pytest.mark.parametrize("name", RAW)
def test_a_disk_comes_back_bit_for_bit(images: Stored, tmp_path: Path, name: str) -> None:
    """Restored to a file that is sparse; and printed, which is too slow to do it for each."""
    source, target = images.images / f"{name}.img", tmp_path / "restored.img"
    try:
        ventifs(images.store, "restore", f"{name}:/disk.img", target)
        with target.open("rb") as file:
            restored = hashlib.file_digest(file, "sha256").hexdigest()
        taken = target.stat().st_blocks
    finally:
        target.unlink(missing_ok=True)
    assert restored == images.sums[source.name]
    assert taken <= source.stat().st_blocks
    if name in PRINTED:
        assert printed_sum(images.store, f"{name}:/disk.img") == images.sums[source.name]


@pytest.mark.parametrize("name", SAME_DISK)
def test_what_a_guest_sees_in_qcow2_is_the_raw_disk(
    images: Stored, store: Store, name: str
) -> None:
    """The content is the very same, so that what is restored of one is what is of the other."""
    assert images.sums[name] == images.sums[f"{SAME_DISK[name]}.img"]
    assert content(store, name, "disk.img") == content(store, SAME_DISK[name], "disk.img")
    ours, theirs = below(store, name, "files"), below(store, SAME_DISK[name], "files")
    assert {key: one.detail for key, one in ours.items()} == {
        key: one.detail for key, one in theirs.items()
    }


def content(store: Store, version: str, path: str) -> object:
    detail = entry(store, version, path).detail
    assert isinstance(detail, RegularFile)
    return detail.content


@pytest.mark.parametrize("name", ["A", "X", "G"])
def test_files_are_what_an_archive_of_the_mounted_file_system_is(
    images: Stored, store: Store, name: str
) -> None:
    """In every entry, with every score; and nothing of it is new."""
    inside, mounted = (
        below(store, name, f"files/{ROOTS[name]}"),
        below(store, f"{name}-mounted", ""),
    )
    assert inside.keys() == mounted.keys()
    assert len(inside) > 15
    for key, one in inside.items():
        assert one == mounted[key], key
    root = entry(store, name, f"files/{ROOTS[name]}")
    other = entry(store, f"{name}-mounted")
    assert (root.detail, root.mode, root.uid, root.gid, root.mtime_ns, root.xattrs) == (
        other.detail,
        other.mode,
        other.uid,
        other.gid,
        other.mtime_ns,
        other.xattrs,
    )
    assert images.facts[f"{name}-mounted"]["new_bytes"] < 1000  # its version, and no more


def test_the_same_files_are_the_same_in_any_partition_and_volume(store: Store) -> None:
    """`mke2fs -d` has given all of them the same times, whole seconds."""
    first = below(store, "A", "files/1")
    for name in ("G", "L"):
        other = below(store, name, f"files/{ROOTS[name]}")
        assert other.keys() == first.keys()
        assert [key for key in first if other[key] != first[key]] in ([], [b"lost+found"])


@pytest.mark.parametrize("name", ["D", "X"])
def test_image_and_directory_differ_in_what_is_the_file_systems_own(
    images: Stored, name: str
) -> None:
    """What a kernel copied has every fact of the root that it was copied from."""
    done = subprocess.run(
        command("diff", "root1", f"{name}:/files/1", "--store", images.store),
        stdout=subprocess.PIPE,
        check=True,
    )
    lines = done.stdout.splitlines()
    if name == "D":
        assert len(lines) == 1
        assert lines[0].startswith(b"+")
        assert b"lost+found" in lines[0]
    else:  # XFS shows ACLs in an attribute of its own beside the usual one
        assert len(lines) == 2
        assert all(line.startswith(b"m") and b" var/log/" in line for line in lines)


def test_what_one_guest_costs_in_another_form(images: Stored) -> None:
    facts = images.facts
    assert facts["A"]["new_bytes"] > 300 << 20
    assert facts["root1"]["new_bytes"] < 0.005 * facts["root1"]["bytes"]
    for name in ("A.qcow2", "A-zlib.qcow2", "A-zstd.qcow2"):
        assert facts[name]["new_bytes"] < 0.01 * (images.images / name).stat().st_size, name
    assert facts["A1.qcow2"]["new_bytes"] < 1 << 20
    for name in ("B", "D", "X", "G", "L"):
        assert facts[name]["new_bytes"] < facts["A"]["new_bytes"] / 5, name
    assert facts["C"]["new_bytes"] < facts["A"]["new_bytes"] / 2


def test_a_night_costs_what_has_changed(images: Stored) -> None:
    """The blocks that differ are noise, so that nothing of them is compressed away."""
    changed = 0
    with (images.images / "A.img").open("rb") as old, (images.images / "A1.img").open("rb") as new:
        while ours := old.read(MIB):
            theirs = new.read(MIB)
            if ours != theirs:
                changed += sum(
                    ours[at : at + 4096] != theirs[at : at + 4096] for at in range(0, MIB, 4096)
                )
    assert 20 * MIB < changed * 4096 < 60 * MIB
    assert images.facts["A1"]["new_bytes"] < 2 * changed * 4096


def test_partitions_and_volumes_are_parts_of_the_disk(images: Stored, store: Store) -> None:
    def part(name: str, *ranges: tuple[int, int]) -> str:
        digest = hashlib.sha256()
        with (images.images / name).open("rb") as file:
            for offset, length in ranges:
                file.seek(offset)
                digest.update(file.read(length))
        return digest.hexdigest()

    assert below(store, "A", "partitions").keys() == {b"1.img"}
    assert below(store, "G", "partitions").keys() == {b"1.img", b"2.img"}
    assert below(store, "L", "partitions").keys() == {b"1.img", b"2.img"}
    assert below(store, "L", "volumes").keys() == {
        b"vm7-root.img",
        b"vm7-swap.img",
        b"vm7-data--a.img",
    }
    assert content(store, "A", "partitions/1.img") == content(store, "A", "disk.img")

    def extents(first: int, count: int) -> tuple[int, int]:
        return PE_START + first * PE, count * PE

    for target, name, *ranges in (
        ("G:/partitions/1.img", "G.img", (MIB, 64 * MIB)),
        ("L:/volumes/vm7-swap.img", "L.img", extents(HALF, 8)),
        ("L:/volumes/vm7-data--a.img", "L.img", extents(HALF + 8, 16)),
    ):
        assert printed_sum(images.store, target) == part(name, *ranges), target
    assert b"perl" in below(store, "L", "files/vm7-data--a")


def test_files_inside_come_out_alone(images: Stored, tmp_path: Path) -> None:
    root1 = Path(images.facts["root1"]["source"])
    for name, volume in ROOTS.items():
        root = root1.with_name("root2") if name == "C" else root1
        target = tmp_path / name
        ventifs(images.store, "restore", f"{name}:/files/{volume}/usr/bin/perl", target)
        assert target.read_bytes() == (root / "usr/bin/perl").read_bytes()


def test_the_store_is_sound(images: Stored) -> None:
    assert ventifs(images.store, "check")["findings"] == []
