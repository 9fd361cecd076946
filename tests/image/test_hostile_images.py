"""Images whose metadata is damaged, or cut off, are archived bit for bit, and soon."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.support.commanding import run
from tests.support.filesystems import filled, made
from tests.support.imaging import archive_file, bytes_of, content_at, harms
from tests.support.stores import new_store
from tests.support.trees import noise
from ventifs.store import Store
from ventifs.tree.versions.catalog import versions

pytestmark = pytest.mark.slow
MIB = 1 << 20


def small_tree(root: Path) -> Path:
    """Much metadata, little data."""
    for name in ("a", "b", "c/d"):
        (root / name).mkdir(parents=True)
        for number in range(40):
            path = root / name / f"{number:03d}-with-a-long-name"
            path.write_bytes(noise(number * 300, number))
        (root / name / "link").symlink_to("x" * 100)
        (root / name / "also").hardlink_to(root / name / "007-with-a-long-name")
        with (root / name / "sparse").open("wb") as file:
            for at in range(0, 30 * 9000, 9000):
                file.seek(at)
                file.write(b"piece")
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    top = tmp_path_factory.mktemp("images")
    root = small_tree(top / "root")
    ext4 = top / "ext4.img"
    options = ["-q", "-t", "ext4", "-b", "1024", "-d", str(root)]
    subprocess.run(["mke2fs", *options, str(ext4), "3M"], check=True, capture_output=True)
    return {
        "ext4": ext4.read_bytes(),
        "gpt": in_partitions(top, ext4.read_bytes()),
        "xfs": xfs_of(root, top / "xfs.img"),
    }


def xfs_of(root: Path, image: Path) -> bytes:
    """A file system that the kernel has filled, or an empty one where it may not be mounted."""
    options = ["--unsupported", "-b", "size=1k", "-d", "agcount=2"]
    if os.geteuid() != 0:
        return made(image, "xfs", 64 * MIB, options).read_bytes()

    def fill(top: Path) -> None:
        subprocess.run(["cp", "-a", f"{root}/.", str(top)], check=True)

    return filled(image, "xfs", 64 * MIB, options, fill).read_bytes()


def in_partitions(top: Path, data: bytes) -> bytes:
    """A disk with a file system, between others, in a partition."""
    path = top / "gpt.img"
    path.write_bytes(bytes(MIB) + data + noise(MIB) + bytes(MIB))
    table = f"label: gpt\nstart=1MiB, size={len(data) >> 20}MiB\nsize=1MiB\n"
    subprocess.run(["sfdisk", "-q", str(path)], input=table.encode(), check=True)
    return path.read_bytes()


def damaged(data: bytes, seed: int) -> bytes:
    """Some bytes of it changed, near others that are not zeros; or its end cut off."""
    chance = random.Random(seed)
    values = [0, 1, 2**15, 2**31, 2**32 - 1, 2**63 - 1, chance.getrandbits(64)]
    if seed % 10 == 9:
        return data[: chance.randrange(len(data))]
    found = bytearray(data)
    meta = [at for at in range(0, len(data), 512) if data[at : at + 512].strip(b"\0")]
    for _ in range(chance.choice([1, 3, 30, 300])):
        at = chance.choice(meta) + chance.randrange(512)
        if chance.random() < 0.5:
            found[at] ^= 1 << chance.randrange(8)
        else:
            wide = chance.choice([2, 4, 8])
            value = chance.choice(values)
            found[at : at + wide] = (value % (1 << 8 * wide)).to_bytes(wide, "little")
    return bytes(found[: len(data)])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_store(tmp_path_factory.mktemp("hostile") / "store", arena_size=64 * MIB)


@pytest.mark.parametrize("kind", ["ext4", "gpt", "xfs"])
@pytest.mark.parametrize("group", range(4))
def test_damaged_images_are_archived_bit_for_bit(
    store: Path, images: dict[str, bytes], tmp_path: Path, kind: str, group: int
) -> None:
    image = tmp_path / "a.img"
    for seed in range(group * 10, group * 10 + 10):
        data = damaged(images[kind], seed)
        image.write_bytes(data)
        name = f"{kind}-{seed}"
        archive_file(store, image, name, drop_free=False)
        with Store.open(store, "read") as opened:
            version = versions(opened, name)[-1]
            content = content_at(opened, version.root, b"disk.img")
            assert bytes_of(opened, content) == data, seed
            assert harms(opened, version.root) == [], seed


@pytest.mark.parametrize("seed", [0, 3, 9, 12])
def test_the_command_archives_damaged_images(
    images: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    data = damaged(images["gpt"], seed)
    (tmp_path / "a.img").write_bytes(data)
    run(tmp_path, "archive", "a.img", "--name", "vm", "--jobs", "2")
    assert run(tmp_path, "cat", "vm:/disk.img").stdout == data
    run(tmp_path, "check")
