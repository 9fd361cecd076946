"""Disk images of real guests, and a store with all of them, made once per test run.

All processes of a run share the store, and only read it.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.roots import guest_roots
from tests.support.segment import missing_programs
from tests.support.serving import command
from tests.support.sharing import shared

IMAGES = Path(__file__).parents[2] / "tools" / "images"
_MIB = 1 << 20
PARTS = {("G", "1"): (1 * _MIB, 64 * _MIB), ("L", "1"): (1 * _MIB, 64 * _MIB)}
ROOT_OF_G = 66 * _MIB
_PROGRAMS = ["mke2fs", "mkfs.xfs", "mkfs.vfat", "mcopy", "sfdisk", "lvm", "qemu-img", "losetup"]


def guest_images() -> Path:
    """The directory of the images, which are made once per machine."""
    if os.geteuid() != 0:
        pytest.skip("making images needs root")
    if missing := missing_programs(_PROGRAMS):
        pytest.skip(f"tools/images needs {' '.join(missing)}")
    guest_roots()
    done = subprocess.run([IMAGES], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


@contextmanager
def loop_mounted(image: Path, directory: Path, *, offset: int = 0) -> Iterator[Path]:
    """Mount the file system at an offset of an image, read-only; yields where."""
    directory.mkdir()
    options = f"loop,ro,offset={offset}" + (",nouuid" if image.name == "X.img" else "")
    done = subprocess.run(
        ["mount", "-o", options, image, directory], check=False, capture_output=True, text=True
    )
    if done.returncode:
        directory.rmdir()
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)
        directory.rmdir()


@dataclass(frozen=True)
class Stored:
    """A store with a version of every image, by the image's name, and of directories.

    Attributes:
        images: where the images are.
        store: the store.
        sums: the SHA-256 of each disk, by the image's file name.
        facts: the output of `archive --json` for each version, by name, in order.
    """

    images: Path
    store: Path
    sums: Mapping[str, str]
    facts: Mapping[str, Any]


def ventifs(store: Path, *words: str | Path) -> Any:
    """The JSON output of a command of this checkout, which must succeed."""
    done = subprocess.run(
        command(*words, "--json", "--store", store), stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def printed_sum(store: Path, target: str) -> str:
    """The SHA-256 of the output of `ventifs cat`."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_MIB))
    with subprocess.Popen(
        command("cat", target, "--store", store), stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        while length := process.stdout.readinto(buffer):  # type: ignore[attr-defined]
            digest.update(buffer[:length])
    assert process.returncode == 0
    return digest.hexdigest()


@contextmanager
def stored(base: Path) -> Iterator[Stored]:
    """Make or share the store, below the directory that all processes of a run have in common."""
    images = guest_images()
    with shared(base, "images", partial(_make, images)) as (directory, facts):
        lines = (images / "SHA256SUMS").read_text().splitlines()
        sums = {name: told for told, name in (line.split() for line in lines)}
        yield Stored(images, directory / "store", sums, json.loads(facts))


def _make(images: Path, directory: Path) -> str:
    """Archive everything under its own name; shared blocks count as new for the first."""
    store = directory / "store"
    subprocess.run(command("init", "--store", store), check=True, stdout=subprocess.DEVNULL)
    facts: dict[str, Any] = {}

    def archive(name: str, source: Path, *more: str | Path) -> None:
        facts[name] = ventifs(store, "archive", source, "--name", name, *more)

    archive("A", images / "A.img")
    archive("root1", guest_roots()[0])
    for name in ("A.qcow2", "A-zlib.qcow2", "A-zstd.qcow2"):
        archive(name, images / name)
    for name in ("A1", "B", "C", "D", "X", "G", "L"):
        archive(name, images / f"{name}.img")
    archive("A1.qcow2", images / "A1.qcow2", "--follow-backing", images)
    for name, offset in (("A", 0), ("X", 0), ("G", ROOT_OF_G)):
        with loop_mounted(images / f"{name}.img", directory / "mnt", offset=offset) as mounted:
            archive(f"{name}-mounted", mounted)
    return json.dumps(facts)
