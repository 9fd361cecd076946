"""Raw images and block devices: every byte, every size, holes."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import KIB, MIB, bytes_by_spans, bytes_of, mixture
from ventifs.image.disk import ImageError, Span
from ventifs.image.formats.raw import RawDisk


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 100_003, MIB + 1])
def test_every_size_is_served_to_the_byte(tmp_path: Path, size: int) -> None:
    data = mixture(size)
    (tmp_path / "disk").write_bytes(data)
    disk = RawDisk(str(tmp_path / "disk"))
    assert (disk.size, disk.format, disk.notes) == (size, "raw", [])
    assert disk.label == str(tmp_path / "disk")
    assert bytes_of(disk, 1009) == bytes_by_spans(disk) == data
    disk.close()
    disk.close()


def test_holes_are_told(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(10 * MIB)
        file.seek(4 * MIB)
        file.write(b"x" * MIB)
    disk = RawDisk(str(tmp_path / "disk"))
    spans = [Span(0, 4 * MIB, False), Span(4 * MIB, 5 * MIB, True), Span(5 * MIB, 10 * MIB, False)]
    assert list(disk.spans(0, 10 * MIB)) == spans
    inside = list(disk.spans(4 * MIB + 5, 4 * MIB + 7))
    assert inside == [Span(4 * MIB + 5, 4 * MIB + 7, True)]
    assert list(disk.spans(5, 5)) == []
    disk.close()


def test_a_file_that_shrinks_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x" * 1000)
    disk = RawDisk(str(tmp_path / "disk"))
    os.truncate(tmp_path / "disk", 700)
    assert disk.read(600, 100) == b"x" * 100
    with pytest.raises(ImageError, match="ends at 700: it has become shorter"):
        disk.read(600, 400)
    disk.close()


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="pipe: neither a regular file nor a block device"):
        RawDisk(str(tmp_path / "pipe"))
    with pytest.raises(ImageError, match="neither a regular file nor a block device"):
        RawDisk(str(tmp_path))
    with pytest.raises(ImageError, match="neither a regular file nor a block device"):
        RawDisk("/dev/null")
    with pytest.raises(ImageError, match="gone: cannot be opened: no such file or directory"):
        RawDisk(str(tmp_path / "gone"))
    with pytest.raises(ImageError, match="cannot be opened"):
        RawDisk("a\0b")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[str, bytes]]:
    """A loop device, and its bytes."""
    data = mixture(2 * MIB + 512)
    (tmp_path / "backing").write_bytes(data)
    command = ["losetup", "--find", "--show", "--read-only", str(tmp_path / "backing")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no loop devices here: {done.stderr.strip()}")
    yield done.stdout.strip(), data
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


def test_a_block_device_has_its_own_size(device: tuple[str, bytes]) -> None:
    path, data = device
    disk = RawDisk(path)
    assert disk.size == len(data)
    assert bytes_of(disk, 64 * KIB) == data
    assert list(disk.spans(0, disk.size)) == [Span(0, disk.size, True)]
    disk.close()
