"""What archived files report of the room that they take on a disk."""

import os
from pathlib import Path

from tests.support.driving import Driver
from tests.support.stores import new_store
from tests.support.trees import archived
from ventifs.store import Store
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.served_versions import Split

MIB = 1 << 20


def test_blocks_are_what_a_file_system_would_allocate(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "empty").touch()
    (source / "inline").write_bytes(b"x")
    (source / "page").write_bytes(os.urandom(4096))
    (source / "more").write_bytes(os.urandom(4097))
    (source / "big").write_bytes(os.urandom(3 * MIB))
    (source / "link").symlink_to("target")
    os.mkfifo(source / "pipe")
    for name, size in (("hole", MIB), ("longer", 10 << 30), ("ends", MIB + 5)):
        with (source / name).open("wb") as file:
            file.truncate(size)
    with (source / "mixed").open("wb") as file:
        file.write(os.urandom(MIB))
        file.truncate(4 * MIB)
    store = new_store(tmp_path / "store")
    archived(store, source, "n")
    split = Split.of(8 << 20)
    with Store.open(store, cache_bytes=split.clumps) as opened:
        drive, files = Driver(), ArchiveFilesystem(opened, split)
        root = drive.attach(files, b"n:/")
        taken = {name.decode(): drive(file.attributes).blocks for name, file in drive.entries(root)}
    assert taken == {
        "d": 8,
        "empty": 0,
        "inline": 8,
        "page": 8,
        "more": 16,
        "big": 3 * MIB // 512,
        "link": 0,
        "pipe": 0,
        "hole": 0,
        "longer": 0,
        "ends": 0,
        "mixed": 4 * MIB // 512,  # a bound: see room.py
    }
