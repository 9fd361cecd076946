"""Whether somebody writes to an image: QEMU itself, a loop device, a mount, any program."""

import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.images import MIB, qemu_img
from tests.support.patience import PATIENCE_S
from ventifs.image.formats.in_use import in_use


@contextmanager
def _open_in_qemu(image: Path, *options: str) -> Iterator[int]:
    """An image that a QEMU tool has open; its process's id."""
    command = ["qemu-io", *options, str(image)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"length\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
        assert ready  # its answer: the image is open
        yield process.pid
        process.stdin.close()


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_an_image_that_qemu_writes_to_is_in_use(tmp_path: Path, kind: str) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-f", kind, image, "1M")
    assert in_use(image) == ""
    with _open_in_qemu(image, "-f", kind) as process:
        expected = f"a running guest has it open for writing: qemu-io, process {process}"
        assert in_use(image) == expected
        assert in_use(str(image)) == expected  # asking takes no lock
    assert in_use(image) == ""


def test_an_image_that_qemu_reads_is_not_in_use(tmp_path: Path) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", image, "1M")
    with _open_in_qemu(image, "-r"):
        assert in_use(image) == ""


def test_our_asking_does_not_keep_qemu_out(tmp_path: Path) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", image, "1M")
    with image.open("rb"):
        assert in_use(image) == ""
        qemu_img("bitmap", "--add", image, "name")


def test_a_file_that_any_program_writes_to_is_in_use(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x")
    with image.open("ab") as file, subprocess.Popen(["sleep", "infinity"], stdout=file) as sleeper:
        try:
            assert in_use(image) == f"it is open for writing: sleep, process {sleeper.pid}"
        finally:
            sleeper.kill()
    assert in_use(image) == ""


def test_what_is_not_there_is_not_in_use(tmp_path: Path) -> None:
    assert in_use(tmp_path / "gone") == ""
    assert in_use("a\0b") == ""


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A file system in a file, and the loop device over it."""
    image = tmp_path / "image"
    image.write_bytes(bytes(4 * MIB))
    subprocess.run(["mke2fs", "-q", "-F", str(image)], check=True)
    command = ["losetup", "--find", "--show", str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no loop devices here: {done.stderr.strip()}")
    yield image, done.stdout.strip()
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


def test_loop_devices_and_mounts_are_seen(device: tuple[Path, str], tmp_path: Path) -> None:
    image, path = device
    assert in_use(image) == f"it is attached to {path}"
    assert in_use(path) == ""
    (tmp_path / "there").mkdir()
    subprocess.run(["mount", path, str(tmp_path / "there")], check=True)
    try:
        assert in_use(path) == "it is mounted, or held by something that is"
    finally:
        subprocess.run(["umount", str(tmp_path / "there")], check=True)
    assert in_use(path) == ""
