"""A small disk, laid out by hand from FORMAT.md, against what is written and what is read."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.imaging import surveyed
from tests.support.memorydisk import MemoryDisk
from tests.support.stores import new_store
from tests.support.vectors import VECTORS, load_vectors
from tools import vectors_image
from tools.vectors_tree import FORGOTTEN_NS, MTIME_NS
from ventifs.image.archive.archiver import ImageArchiver
from ventifs.image.disk import Span
from ventifs.image.disk_facts import disk_of, facts_of
from ventifs.image.formats.advice import Following
from ventifs.image.formats.kept_choice import (
    Kept,
    SourceType,
    bringing_back_kept,
    decode_kept,
    encode_kept,
    forgetting_kept,
    kept_key,
)
from ventifs.image.survey_events import Ended, Event, FoundName, Inode, Noted, Volume
from ventifs.store import Store
from ventifs.store.journal import Record
from ventifs.tree.objects.content import read
from ventifs.tree.objects.directory import resolve
from ventifs.tree.objects.records import RegularFile, decode_entry, encode
from ventifs.tree.versions.catalog import tree_score

STATUS = cast(Any, SimpleNamespace(st_mode=0o100640, st_uid=1000, st_gid=100, st_mtime_ns=MTIME_NS))
SMALL = load_vectors("image/images.json")["small"]
KEPT = load_vectors("image/images.json")["kept"]


def test_the_vectors_are_what_the_tool_makes() -> None:
    assert (VECTORS / "image" / "images.json").read_text() == vectors_image.text()


def told() -> Iterator[Event]:
    """What a survey would tell of the disk."""
    yield Noted("of the disk")
    yield Volume("1", False, (vectors_image.VOLUME,), "83", "", "ext4", "a1", "root")
    yield FoundName(b"", 2, Inode(0o40755, 1000, 100, MTIME_NS, 2))
    met = set()
    for name, (number, size, extents) in vectors_image.FILES.items():
        names = sum(other[0] == number for other in vectors_image.FILES.values())
        inode = Inode(
            0o100644,
            1000,
            100,
            MTIME_NS,
            names,
            size,
            extents=cast(Any, tuple(map(tuple, extents))),
        )
        yield FoundName(name, number, None if number in met else inode)
        met.add(number)
    yield Ended("", ("a note",))
    yield Volume("vg0-data", True, vectors_image.LOGICAL)
    yield Ended("nothing known")


class Sparse(MemoryDisk):
    """It tells its pages of zeros as holes, as an image file in 4 KiB pages would."""

    def spans(self, start: int, end: int) -> Iterator[Span]:
        at = start
        while at < end:
            stop = min(end, (at // 4096 + 1) * 4096)
            yield Span(at, stop, bool(self.read(at, stop - at).strip(b"\0")))
            at = stop


@pytest.mark.parametrize("kind", [MemoryDisk, Sparse])
def test_a_disk_is_archived_as_its_vector_says(tmp_path: Path, kind: type[MemoryDisk]) -> None:
    disk = kind(vectors_image.SIZE, vectors_image.PIECES)
    disk.status = STATUS
    with Store.open(new_store(tmp_path / "s"), "write") as store:
        archiver = ImageArchiver(store, disk)
        root = archiver.run(surveyed(told()))
        assert encode(root).hex() == SMALL["root"]
        assert tree_score(root).hex() == SMALL["score"]
        assert not archiver.troubles


def test_what_the_vector_says_is_read_back(tmp_path: Path) -> None:
    with Store.open(new_store(tmp_path / "s"), "write") as store:
        for score, data in SMALL["blocks"].items():
            assert store.put(bytes.fromhex(data))[0].hex() == score
        root = decode_entry(bytes.fromhex(SMALL["root"]), root=True)
        facts, entry = facts_of(store, root), disk_of(store, root)
        assert facts is not None
        assert [volume.name for volume in facts.volumes] == ["1", "vg0-data"]
        assert entry is not None
        whole = vectors_image.disk()
        start, end = vectors_image.VOLUME
        logical = b"".join(whole[low:high] for low, high in vectors_image.LOGICAL)
        for path, data in (
            (b"disk.img", whole),
            (b"partitions/1.img", whole[start:end]),
            (b"volumes/vg0-data.img", logical),
            (b"files/1/l", whole[12_800:15_800]),
            (b"files/1/c", whole[20_992:22_016] + whole[16_896:19_968]),
        ):
            found = resolve(store, root, path)
            assert isinstance(found.detail, RegularFile)
            assert b"".join(bytes(piece) for piece in read(store, found.detail.content)) == data


def test_holes_of_the_image_file_change_nothing(tmp_path: Path) -> None:
    """A volume that starts at sector 63, as MBR disks had it: its blocks and the file's differ."""
    pieces = {47_716: b"x" * 100_000, 3_000_001: b"y" * 10, 5_000_000: b"z" * 70_000}
    scores = set()
    with Store.open(new_store(tmp_path / "s"), "write") as store:
        for kind in (MemoryDisk, Sparse):
            disk = kind(8 << 20, pieces)
            disk.status = STATUS
            events: list[Event] = [Volume("1", False, ((63 * 512, 8 << 20),)), Ended()]
            scores.add(tree_score(ImageArchiver(store, disk).run(surveyed(events))))
    assert len(scores) == 1


def test_what_names_keep_is_as_its_vectors_say() -> None:
    expected = {
        "vm-1": Kept("raw", SourceType("file", b".img"), Following()),
        "a": Kept(
            "qcow2",
            SourceType("device", b""),
            Following((b"/srv/images", b"/\xff"), (b"/dev/vg/base",)),
        ),
    }
    for vector, (name, kept) in zip(KEPT, expected.items(), strict=True):
        assert (kept_key(name).hex(), encode_kept(kept).hex()) == (vector["key"], vector["value"])
        record = Record(bytes.fromhex(vector["key"]), bytes(16), bytes.fromhex(vector["value"]))
        assert decode_kept(record) == (name, kept)


def test_what_names_kept_is_as_its_vectors_say(tmp_path: Path) -> None:
    [vector] = load_vectors("image/images.json")["forgotten_kept"]
    kept = [Record(bytes.fromhex(KEPT[0]["key"]), bytes(16), bytes.fromhex(KEPT[0]["value"]))]
    put = (bytes.fromhex(vector["key"]), bytes.fromhex(vector["value"]))
    assert forgetting_kept(kept, "vm-1", FORGOTTEN_NS) == [put]
    with Store.open(new_store(tmp_path / "store"), "write") as store:
        [record] = store.commit([put])
        back = [(kept[0].key, kept[0].value)], [record]
        assert bringing_back_kept(store, "vm-1", FORGOTTEN_NS) == back
        assert bringing_back_kept(store, "vm-1", 0) == back
        assert bringing_back_kept(store, "vm-1", FORGOTTEN_NS + 1) == ([], [])
