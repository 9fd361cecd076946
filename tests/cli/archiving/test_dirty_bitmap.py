"""`ventifs archive --dirty-bitmap`: QEMU writes to the image that was opened, and to no other file.

Runs in this process, since the tests change things between two steps of a run.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.commanding import run
from tests.support.images import MIB, opened, qemu_img, qemu_io
from ventifs.cli.program import ventifs
from ventifs.errors import VentifsError
from ventifs.image.confinement import confined, landlock
from ventifs.image.confinement.confined import Given
from ventifs.image.disk import Disk
from ventifs.image.formats import btrfs_changes as extents
from ventifs.image.formats import qcow2_bitmap as bitmap
from ventifs.image.formats.raw import RawDisk

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-img") is None or not landlock.version(), reason="needs qemu-img and Landlock"
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store, and two qcow2 images, of which only one is ever archived."""
    for name, pattern in (("vm.qcow2", 1), ("victim.qcow2", 2)):
        qemu_img("create", "-q", "-f", "qcow2", tmp_path / name, "1M")
        qemu_io(tmp_path / name, f"write -P {pattern} 0 1M")
    run(tmp_path, "init", "--store", "s")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _archive(*more: str) -> None:
    words = ["archive", "vm.qcow2", "--name", "vm", "--store", "s", "--jobs", "1", *more]
    with ventifs.make_context("ventifs", words) as context:
        ventifs.invoke(context)


def _names(image: Path) -> list[str]:
    with closing(opened(image)) as disk:
        return [each.name for each in bitmap.bitmaps(disk)]


def _swap(home: Path) -> None:
    """Have the image's path lead to another file, as a user who may write there can."""
    (home / "vm.qcow2").rename(home / "real.qcow2")
    (home / "vm.qcow2").symlink_to("victim.qcow2")


def test_a_swapped_path_leads_no_bitmap_elsewhere(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (home / "victim.qcow2").read_bytes()
    add = bitmap.add

    def swap_and_add(image: RawDisk, name: str) -> None:
        _swap(home)
        add(image, name)

    monkeypatch.setattr(bitmap, "add", swap_and_add)
    _archive("--dirty-bitmap")
    assert (home / "victim.qcow2").read_bytes() == before
    assert len(_names(home / "real.qcow2")) == 1
    assert run(home, "cat", "vm", "--store", "s").stdout == b"\1" * MIB


def test_a_path_swapped_after_the_bitmap_changes_nothing_that_is_read(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = bitmap.add

    def add_and_swap(image: RawDisk, name: str) -> None:
        add(image, name)
        _swap(home)

    monkeypatch.setattr(bitmap, "add", add_and_swap)
    _archive("--dirty-bitmap")
    assert run(home, "cat", "vm", "--store", "s").stdout == b"\1" * MIB


@pytest.mark.parametrize("fails", [False, True])
def test_a_swapped_path_has_no_bitmap_removed_elsewhere(
    home: Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    """The victim has bitmaps of both names: a copy of the image."""
    _archive("--dirty-bitmap", "--time", "2026-01-01")
    (old,) = _names(home / "vm.qcow2")
    remove = bitmap.remove

    def swap_and_remove(image: RawDisk, name: str) -> None:
        shutil.copy(home / "vm.qcow2", home / "victim.qcow2")
        _swap(home)
        remove(image, name)

    monkeypatch.setattr(bitmap, "remove", swap_and_remove)
    if fails:
        with pytest.raises(VentifsError, match="there is such a version already"):
            _archive("--dirty-bitmap", "--time", "2026-01-01")
    else:
        _archive("--dirty-bitmap")
    names = _names(home / "victim.qcow2")
    assert len(names) == 2
    assert _names(home / "real.qcow2") == [name for name in names if (name == old) == fails]


def test_the_last_bitmap_of_an_image_goes_with_the_next_run(home: Path) -> None:
    _archive("--dirty-bitmap")
    first = _names(home / "vm.qcow2")
    _archive("--dirty-bitmap")
    second = _names(home / "vm.qcow2")
    assert len(first) == len(second) == 1
    assert first != second


def test_nothing_is_removed_from_what_is_archived_as_raw(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header in a raw disk is the guest's, also after a run that took it for an image's own."""
    _archive("--dirty-bitmap")
    before = (home / "vm.qcow2").read_bytes()

    def mark(_: Disk) -> bytes:  # as on btrfs, where raw runs have marks
        return b"generation"

    monkeypatch.setattr(extents, "mark", mark)
    _archive("--format", "raw")
    assert (home / "vm.qcow2").read_bytes() == before
    assert run(home, "cat", "vm", "--store", "s").stdout == before


def test_qemu_is_asked_for_no_backing_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some versions of QEMU would look for it all the same, so the commands are looked at."""
    gone = home / "gone"
    (home / "vm.qcow2").unlink()
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", gone, "vm.qcow2", "1M")
    images: list[dict[str, Any]] = []
    start = confined.start

    def record(command: Sequence[str], given: Given, **limits: Any) -> "subprocess.Popen[bytes]":
        images.extend(
            json.loads(word.removeprefix("json:")) for word in command if word.startswith("json:")
        )
        return start(command, given, **limits)

    monkeypatch.setattr(confined, "start", record)
    with closing(RawDisk(os.fspath(home / "vm.qcow2"))) as image:
        bitmap.add(image, "b")
        bitmap.remove(image, "b")
        assert os.fsencode(gone) in image.read(0, 64 << 10)
    assert len(images) == 3
    assert all(image["backing"] is None for image in images)
