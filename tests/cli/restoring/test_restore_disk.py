"""`ventifs restore` and `ventifs cat` of disks: raw, in other formats, onto devices."""

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commanding import SCRIPT, run
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.trees import noise

pytestmark = pytest.mark.skipif(shutil.which("mke2fs") is None, reason="needs mke2fs")
SIZE = 40 << 20  # more than what is made piece by piece


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vm.img`, an ext4 file system, in store `s` as `vm`; a directory in it as `dir`."""
    home = tmp_path_factory.mktemp("disk")
    tree = home / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n" * 40)
    (tree / "large").write_bytes(noise(3 << 20))
    make_image(home / "vm.img", tree)
    run(home, "init", "--store", "s")
    run(home, "archive", "vm.img", "--name", "vm", "--store", "s")
    run(home, "archive", "tree", "--name", "dir", "--store", "s")
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A directory for what a test makes; the store is `s` there."""
    (tmp_path / "s").symlink_to(made / "s")
    (tmp_path / "vm.img").symlink_to(made / "vm.img")
    return tmp_path


def make_image(image: Path, tree: Path) -> None:
    with image.open("wb") as file:
        file.truncate(SIZE)
    command = ["mke2fs", "-q", "-t", "ext4", "-d", os.fspath(tree), os.fspath(image)]
    subprocess.run(command, check=True, capture_output=True)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_version_of_a_disk_is_the_disk_where_a_file_is_wanted(home: Path, jobs: str) -> None:
    done = run(home, "restore", "vm", "back.img", "--store", "s", "--jobs", jobs)
    assert done.stdout == b"restored 1 entry, 41.9 MB to back.img\n"
    assert digest(home / "back.img") == digest(home / "vm.img")
    there, was = (home / "back.img").stat(), (home / "vm.img").stat()
    assert there.st_blocks * 512 < SIZE / 2
    assert (there.st_mode, there.st_mtime_ns) == (was.st_mode, was.st_mtime_ns)
    printed = run(home, "cat", "vm", "--store", "s").stdout
    assert hashlib.sha256(printed).hexdigest() == digest(home / "vm.img")
    assert not [name for name in os.listdir(home) if name.startswith(".ventifs")]


def test_the_directory_is_there_too(home: Path) -> None:
    run(home, "restore", "vm:/", "back", "--store", "s")
    assert digest(home / "back/disk.img") == digest(home / "vm.img")
    assert digest(home / "back/partitions/1.img") == digest(home / "vm.img")
    assert (home / "back/files/1/etc/passwd").stat().st_size == 1040
    failed = run(home, "cat", "vm:/", "--store", "s", expected=1)
    assert b"a directory; 'ventifs ls' lists it" in failed.stderr
    failed = run(home, "cat", "dir", "--store", "s", expected=1)
    assert b"dir: a directory" in failed.stderr


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("qcow2", "qcow2"),
        ("vmdk", "vmdk"),
        ("vhd", "vpc"),
        ("vhdx", "vhdx"),
    ],
)
def test_a_disk_comes_back_in_other_formats(home: Path, kind: str, name: str) -> None:
    run(home, "restore", "vm", "back", "--format", kind, "--store", "s")
    assert (home / "back").stat().st_mode == (home / "vm.img").stat().st_mode
    convert = ["qemu-img", "convert", "-f", name, "-O", "raw", "back", "raw"]
    subprocess.run(convert, check=True, cwd=home)
    assert digest(home / "raw") == digest(home / "vm.img")
    before = (home / "back").stat().st_ino
    failed = run(home, "restore", "vm", "back", "--format", kind, "--store", "s", expected=1)
    assert b"back: is there already" in failed.stderr
    assert (home / "back").stat().st_ino == before
    run(home, "restore", "vm", "back", "--format", kind, "--overwrite", "--store", "s")
    assert (home / "back").stat().st_ino != before
    assert not [each for each in os.listdir(home) if each.startswith(".ventifs")]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("restore vm vm.img", 1, "vm.img: is there already"),
        ("restore vm vm.img --format raw", 1, "vm.img: is there already"),
        ("restore dir back --format qcow2", 1, "dir: not a disk"),
        ("restore vm:/files back --format qcow2", 1, "vm:/files: not a disk"),
        ("restore vm:/files/1/etc/passwd back --format vmdk", 1, "not whole sectors of 512"),
        ("restore vm back --format floppy", 2, "--format"),
        ("restore vm back --include etc", 1, "vm:/ is the directory"),
    ],
)
def test_what_cannot_be_restored_is_told(home: Path, words: str, code: int, told: str) -> None:
    failed = run(home, *words.split(), "--store", "s", expected=code)
    assert told in failed.stderr.decode()
    assert not (home / "back").exists()


def test_a_missing_or_failing_qemu_img_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(home / "bin"))
    words = ("restore", "vm", "back", "--format", "qcow2", "--store", "s")
    assert (
        b"qemu-img, which makes qcow2 images, is not installed"
        in run(home, *words, expected=1).stderr
    )
    (home / "bin").mkdir()
    program = home / "bin" / "qemu-img"
    program.write_text("#!/bin/sh\necho 'qemu-img: no luck today' >&2\nexit 1\n")
    program.chmod(0o755)
    failed = run(home, *words, expected=1)
    assert b"qemu-img failed: no luck today" in failed.stderr
    assert sorted(os.listdir(home)) == ["bin", "s", "vm.img"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_conversion_leaves_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, signum: int
) -> None:
    (home / "bin").mkdir()
    program = home / "bin" / "qemu-img"
    # It can write in the staging directory, and start no other program.
    program.write_text('#!/bin/sh\nfor target; do :; done\n: > "$target"\nkill -STOP $$\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", os.fspath(home / "bin"))
    process = subprocess.Popen(
        [SCRIPT, "restore", "vm", "back", "--format", "qcow2", "--store", "s"],
        cwd=home,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: list(home.glob("*/back.qcow2")), unless=lambda: process.poll() is not None)
    process.send_signal(signum)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signum
    assert b"Traceback" not in told
    assert sorted(os.listdir(home)) == ["bin", "s", "vm.img"]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of a mebibyte more than the disk, full of noise."""
    backing = tmp_path / "backing"
    backing.write_bytes(noise(1 << 20) * ((SIZE >> 20) + 1))
    done = subprocess.run(
        ["losetup", "--find", "--show", os.fspath(backing)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no loop devices here")
    yield Path(done.stdout.decode().strip())
    subprocess.run(["losetup", "--detach", done.stdout.decode().strip()], check=True)


@pytest.mark.skipif(shutil.which("losetup") is None, reason="needs losetup")
def test_a_device_gets_the_whole_disk_and_no_more(home: Path, device: Path) -> None:
    before = device.read_bytes()
    failed = run(home, "restore", "vm", device, "--store", "s", expected=1)
    assert b"is a block device; --overwrite writes" in failed.stderr
    failed = run(
        home,
        "restore",
        "vm",
        device,
        "--format",
        "qcow2",
        "--overwrite",
        "--store",
        "s",
        expected=2,
    )
    assert b"--format is for image files" in failed.stderr
    assert device.read_bytes() == before
    done = run(home, "restore", "vm", device, "--overwrite", "--store", "s")
    assert b"has 1.05 MB more, which are as they were" in done.stderr
    after = device.read_bytes()
    assert after[:SIZE] == (home / "vm.img").read_bytes()
    assert after[SIZE:] == before[SIZE:]


@pytest.mark.skipif(shutil.which("losetup") is None, reason="needs losetup")
def test_a_device_that_is_too_small_is_left_alone(home: Path, device: Path) -> None:
    with (home / "backing").open("r+b") as file:
        file.truncate(SIZE - (1 << 20))
    subprocess.run(["losetup", "--set-capacity", os.fspath(device)], check=True)
    before = device.read_bytes()
    failed = run(home, "restore", "vm", device, "--overwrite", "--store", "s", expected=1)
    assert b"has 40,894,464 bytes, and the disk 41,943,040" in failed.stderr
    assert device.read_bytes() == before
