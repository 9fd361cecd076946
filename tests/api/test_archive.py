"""Archives and versions: finding, adding, forgetting, copying, comparing, restoring."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ventifs
from tests.api.conftest import DAY_NS
from tests.support.imaging import surveyed, volume_of
from tests.support.memorydisk import MemoryDisk
from tests.support.stores import findings
from tests.support.trees import noise
from ventifs.api.thinning import thin
from ventifs.image.archive.disk_source import DiskSource
from ventifs.store.reserve import reserve_space
from ventifs.store.writer import Writer
from ventifs.tree.archive.run_lock import RunLock
from ventifs.tree.versions.retention import Policy


def test_versions_are_found(archive: ventifs.Archive) -> None:
    first, second = archive.versions()
    assert [str(first), str(second)] == ["t@1970-01-01T00:00:00Z", "t@1970-01-02T00:00:00Z"]
    assert archive.names() == ["t"]
    assert archive.versions("t") == list(archive) == [first, second]
    assert archive.versions("none") == []
    for text in ("t", "t@latest", "t@~0", "t@1970", str(second), f"score:{second.score}"):
        assert archive[text] == archive.version(text) == second
        assert text in archive
    assert archive["t@~1"] == first
    assert hash(archive["t@~1"]) == hash(first)
    assert first != second
    assert archive.path("t@~1:/etc/hostname").read_bytes() == b"web01\n"
    assert archive.path("t@~1:/") == archive.path("t@~1") == first.root


def test_what_the_record_says(archive: ventifs.Archive) -> None:
    first, second = archive.versions("t")
    assert (first.comment, first.tags, second.comment, second.tags) == (
        "first",
        (),
        "",
        ("second",),
    )
    assert (second.name, second.time_ns) == ("t", DAY_NS)
    assert second.time == datetime(1970, 1, 2, tzinfo=UTC)
    assert second.source.endswith("/source")
    assert len(second.score) == 64
    assert list(second.troubles()) == []
    assert second.disk_facts() is None
    assert second.disk() is None
    assert repr(second) == "<ArchivedVersion t@1970-01-02T00:00:00Z>"


@pytest.mark.parametrize("text", ["none", "t@1999", "t@~2", "score:00000000"])
def test_versions_that_are_not_there(archive: ventifs.Archive, text: str) -> None:
    assert text not in archive
    for attempt in (archive.version, archive.path, archive.__getitem__):
        with pytest.raises(ventifs.NoSuchVersion):
            attempt(text)


@pytest.mark.parametrize("text", ["", "a b", "t:/etc", "t@never", "score:x"])
def test_texts_that_name_no_version(archive: ventifs.Archive, text: str) -> None:
    with pytest.raises(ventifs.VentifsError):
        archive.version(text)


def test_names_that_cannot_be(archive: ventifs.Archive) -> None:
    for name in ("", "a b", "t@latest", "\xe9"):
        with pytest.raises(ventifs.VentifsError, match="cannot name versions"):
            archive.versions(name)


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ventifs.VentifsError):
        ventifs.open(tmp_path / "none")
    with pytest.raises(ValueError, match="arena size"):
        ventifs.init(tmp_path / "none", arena_size=1)
    ventifs.init(os.fspath(tmp_path / "made"))
    with pytest.raises(ventifs.VentifsError, match="already"):
        ventifs.init(tmp_path / "made")
    with ventifs.open(os.fspath(tmp_path / "made")) as archive:
        assert archive.versions() == archive.names() == []


def test_readers_see_what_is_added(archive: ventifs.Archive, source: Path) -> None:
    assert "u" not in archive
    with ventifs.open(archive.store.path, "write") as writing:
        added = writing.add(source, "u")
        assert added.tally.new_bytes == 0
    assert archive["u"] == added.version
    assert archive["u"].score == archive["t"].score


def test_only_writers_change_anything(archive: ventifs.Archive, source: Path) -> None:
    (source / "more").write_bytes(b"more" * 1000)
    for attempt in (lambda: archive.add(source, "t"), lambda: archive.forget("t@~1")):
        with pytest.raises(ventifs.VentifsError, match=r"reading|writing"):
            attempt()
    with ventifs.open(archive.store.path, "rehearse") as rehearsal:
        added = rehearsal.add(source, "t")
    assert added.tally.new_bytes >= 4000
    assert added.version.stored.record is None
    assert len(archive.versions()) == 2


def test_what_is_left_out(store: Path, source: Path) -> None:
    (source / "keep.swp").touch()
    with ventifs.open(store, "write") as archive:
        version = archive.add(source, "some", exclude=["/etc", b"*.swp"]).version
        assert not (version / "etc").exists()
        assert not (version / "keep.swp").exists()
        version = archive.add(source, "some", exclude="/etc", tags="one").version
        assert (version / "keep.swp").exists()
        assert version.tags == ("one",)
        with pytest.raises(ventifs.VentifsError, match="pattern"):
            archive.add(source, "some", exclude=["[a"])


def test_tars_are_archived(store: Path, source: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(source / "etc", "etc")
    with ventifs.open(store, "write") as archive:
        by_path = archive.add(packed, "tar").version
        with packed.open("rb") as stream:
            by_stream = archive.add(stream, "tar").version
        from_memory = archive.add(io.BytesIO(packed.read_bytes()), "tar").version
        for version in (by_path, by_stream, from_memory):
            assert version.open("etc/hostname").read() == b"web01.example\n"
        assert by_path.source == by_stream.source == os.fspath(packed)
        assert from_memory.source == "a stream"


def test_disks_are_files_of_their_versions(store: Path, tmp_path: Path) -> None:
    whole = noise(100_000)
    source = DiskSource(MemoryDisk(100_000, {0: whole}), surveyed(volume_of(4096)))
    with ventifs.open(store, "write") as archive:
        version = archive.add(source, "vm").version
        disk, facts = version.disk(), version.disk_facts()
        assert disk is not None
        assert facts is not None
        assert (disk.path, disk.size, facts.size) == (b"disk.img", 100_000, 100_000)
        assert disk.read_bytes() == whole
        disk.restore(tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == whole


def test_sources_that_cannot_be(store: Path, source: Path) -> None:
    with ventifs.open(store, "write") as archive:
        with pytest.raises(ventifs.VentifsError, match="no such file or directory"):
            archive.add(source / "none", "t")
        with pytest.raises(ventifs.VentifsError, match="neither a directory nor called"):
            archive.add(source / "sparse", "t")
        with pytest.raises(ventifs.VentifsError, match="there is such a version already"):
            archive.add(source, "t", time_ns=DAY_NS)
        with RunLock(archive.store, "t"), pytest.raises(ventifs.Busy):
            archive.add(source, "t")
        assert len(archive.versions()) == 2


def test_forgetting(store: Path) -> None:
    with ventifs.open(store, "write") as archive:
        first, second = archive.versions()
        with pytest.raises(ventifs.VentifsError, match="names all its versions"):
            archive.forget("t")
        with pytest.raises(ventifs.VentifsError, match="its last version"):
            archive.forget(first, second)
        rehearsed = archive.forget("t@~1", dry_run=True)
        assert rehearsed == ([(second, [])], [first])
        assert archive.versions() == [first, second]
        assert archive.forget("t@~1", first) == rehearsed
        assert archive.versions() == [second]
        assert archive.forget(second, force=True).kept == []
        assert archive.names() == []
        assert archive.forget() == ([], [])
    assert not findings(store)


def test_only_what_forgets_uses_the_reserve(
    store: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full until the space of the reserve is given back."""
    commit = Writer.commit

    def full(writer: Writer, *arguments: Any) -> Any:
        if reserve_space(store):
            raise ventifs.NoSpace(f"{store}: no space")
        return commit(writer, *arguments)

    with ventifs.open(store, "write", reserve=True) as archive:
        _, second = archive.versions()
        space = reserve_space(store)
        with monkeypatch.context() as patch:
            patch.setattr(Writer, "commit", full)
            with pytest.raises(ventifs.NoSpace):
                archive.add(source, "t", time_ns=5 * DAY_NS)
            assert reserve_space(store) == space > 0
            archive.forget("t@~1")
            assert archive.versions() == [second]
            assert reserve_space(store) == space
            assert archive.thin(last=1).forgotten == []
            archive.forget("t@latest", force=True)
        assert archive.versions() == []
    assert not findings(store)


def test_an_archive_has_the_reserve_that_was_asked_for(tmp_path: Path) -> None:
    ventifs.init(tmp_path / "some", reserve=100_000)
    ventifs.init(tmp_path / "none", reserve=0)
    assert reserve_space(tmp_path / "some") >= 100_000
    assert reserve_space(tmp_path / "none") == 0
    with pytest.raises(ValueError, match="reserve -1 is not between 0 and 1 TiB"):
        ventifs.init(tmp_path / "less", reserve=-1)


def test_what_was_forgotten_is_not_forgotten_again(store: Path) -> None:
    with ventifs.open(store, "write") as archive:
        first, second = archive.versions()
        assert first in archive
        assert (first / "etc").is_dir()
        archive.forget(first)
        assert first not in archive
        assert second in archive
        with pytest.raises(ventifs.NoSuchVersion, match="any more"):
            archive.forget(first)
        assert [str(step.version) for step in (first / "etc/hostname").history()] == [str(first)]


def test_file_copies_of_a_store_are_stores_of_their_own(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "clone")
    with ventifs.open(store) as archive, ventifs.open(tmp_path / "clone", "write") as clone:
        for version in archive:
            assert version not in clone
            with pytest.raises(ValueError, match="in another archive"):
                clone.forget(version)
        assert archive.copy("t", clone).there


@pytest.mark.parametrize("rules", [{"last": -1}, {"daily": 1, "weekly": -2}])
def test_negative_numbers_keep_nothing_by_mistake(store: Path, rules: dict[str, int]) -> None:
    with ventifs.open(store, "write") as archive:
        with pytest.raises(ValueError, match="negative"):
            archive.thin("t", **rules)  # type: ignore[arg-type]
        with pytest.raises(ventifs.VentifsError, match="name"):
            archive.thin("t@~1", last=1)
        assert len(archive.versions()) == 2


@pytest.mark.parametrize("mode", ["w", "r", "rb", "worker", ""])
def test_modes_that_are_none(store: Path, mode: Any) -> None:
    with pytest.raises(ValueError, match="mode"):
        ventifs.open(store, mode)


def test_an_empty_path_is_not_the_working_directory(archive: ventifs.Archive, store: Path) -> None:
    for attempt in (
        lambda: ventifs.open(""),
        lambda: ventifs.init(""),
        lambda: archive["t"].restore("", overwrite=True),
    ):
        with pytest.raises(ValueError, match="empty path"):
            attempt()
    with ventifs.open(store, "write") as writing, pytest.raises(ValueError, match="empty path"):
        writing.add("", "t")


def test_an_archive_open_for_reading_is_not_changed_by_an_attempt(
    store: Path, source: Path
) -> None:
    before = sorted(path for path in store.rglob("*") if "lock.mdb" not in path.name)
    with ventifs.open(store) as archive, pytest.raises(ventifs.VentifsError, match="writing"):
        archive.add(source, "other")
    assert sorted(path for path in store.rglob("*") if "lock.mdb" not in path.name) == before


def test_thinning(store: Path) -> None:
    with ventifs.open(store, "write") as archive:
        first, second = archive.versions()
        with pytest.raises(ventifs.VentifsError, match="keep nothing"):
            archive.thin("t")
        with pytest.raises(ventifs.NoSuchVersion):
            archive.thin("none", last=1)
        reasons = ["last 1", "monthly 1970-01"]
        in_utc = partial(archive.thin, timezone="UTC")
        assert in_utc(last=1, monthly=1, dry_run=True) == ([(second, reasons)], [first])
        assert in_utc(monthly=3).kept == [
            (first, ["monthly oldest"]),
            (second, ["monthly 1970-01"]),
        ]
        assert in_utc("t", daily=2).forgotten == []
        assert in_utc("t", within="1d", tags="second", dry_run=True) == (
            [(second, ["within 1d", "tag second"])],
            [first],
        )
        hours = archive.thin(hourly=1, timezone=timezone(timedelta(hours=5)), dry_run=True)
        assert hours.kept == [(second, ["hourly 1970-01-02T05+05:00"])]
        assert archive.thin("t", last=1).forgotten == [first]
        assert archive.versions() == [second]


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"within": "soon"}, "not a length of time"),
        ({"last": 1, "timezone": "Nowhere"}, "no such time zone"),
        ({"within": "0d"}, "keep nothing"),
        ({"tags": "first"}, "t: no rule keeps any of its versions"),
    ],
)
def test_rules_that_make_no_sense_thin_nothing(
    store: Path, rules: dict[str, Any], reason: str
) -> None:
    with ventifs.open(store, "write") as archive:
        with pytest.raises(ventifs.VentifsError, match=reason):
            archive.thin(**rules)
        assert len(archive.versions()) == 2


def test_thinning_by_a_clock_at_1970_forgets_nothing(store: Path) -> None:
    with ventifs.open(store, "write") as archive:
        archive.add(io.BytesIO(bytes(1024)), "t", time_ns=40 * DAY_NS)
        thinned = partial(thin, archive.store, ["t"], Policy(last=1), zone=UTC, dry_run=False)
        assert [why for _, why in thinned(now_ns=DAY_NS // 2).kept] == [
            ["last 1"],
            ["in the future"],
            ["in the future"],
        ]
        assert len(thinned(now_ns=30 * DAY_NS).forgotten) == 1
        assert [why for _, why in thinned(now_ns=50 * DAY_NS).kept] == [["last 1"]]


def test_a_version_of_the_future_is_the_latest_only_if_all_are(store: Path) -> None:
    century_ns = 36_525 * DAY_NS
    with ventifs.open(store, "write") as archive:
        archive.add(io.BytesIO(bytes(1024)), "t", time_ns=5 * century_ns)
        archive.add(io.BytesIO(bytes(1024)), "late", time_ns=4 * century_ns)
        late = archive.add(io.BytesIO(bytes(1024)), "late", time_ns=5 * century_ns).version
        assert [each.in_future for each in archive.versions("t")] == [False, False, True]
        assert archive["t"] == archive["t@1970"] == archive.versions("t")[1]
        assert archive["t@~1"] == archive.versions("t")[0]
        assert archive["late"] == late
        assert next(archive["t"].root.history()).version == archive["t"]


def test_copying(archive: ventifs.Archive, tmp_path: Path) -> None:
    ventifs.init(tmp_path / "other")
    with ventifs.open(tmp_path / "other", "write") as other:
        copied = archive.copy("t@~1", other)
        assert (str(copied.version), copied.there) == ("t@1970-01-01T00:00:00Z", False)
        assert copied.blocks.new_blocks
        again = archive.copy(archive["t@~1"], other)
        assert (again.version, again.there, again.blocks.new_blocks) == (copied.version, True, 0)
        assert archive.copy("t", other, name="u").version.name == "u"
        assert other["u"].open("etc/hostname").read() == b"web01.example\n"
        assert other["u"] != archive["t"]
        for attempt in (
            lambda: other["u"].diff(archive["t"]),
            lambda: other.forget(archive["t@~1"]),
            lambda: archive.forget("t@~1", other["u"], dry_run=True),
        ):
            with pytest.raises(ValueError, match="in another archive"):
                attempt()
        with pytest.raises(ValueError, match="itself"):
            archive.copy("t", archive, name="u")
    with ventifs.open(archive.store.path, "rehearse") as rehearsing:
        new = rehearsing.add(tmp_path / "source", "new").version
        with (
            ventifs.open(tmp_path / "other", "write") as other,
            pytest.raises(ventifs.VentifsError, match="rehearsed"),
        ):
            rehearsing.copy(new, other)


def test_versions_of_one_store_are_the_same_by_any_way(
    archive: ventifs.Archive, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(archive.store.path)
    with ventifs.open(tmp_path / "link", "write") as writing:
        assert writing.versions() == archive.versions()
        assert list(writing["t"].diff(archive["t"])) == []
        writing.forget(archive["t@~1"])
    assert len(archive.versions()) == 1


def test_comparing(archive: ventifs.Archive) -> None:
    first, second = archive.versions()
    found = {change.path: change.kind for change in first.diff(second)}
    assert found.pop(b"etc/deep/new") == "added"
    assert found.pop(b"etc/hostname") == "modified"
    assert set(found.values()) <= {"metadata"}
    assert [change.path for change in (first / "etc/hostname").diff(second / "etc/hostname")] == [
        b""
    ]
    assert list(second.diff(second.root)) == []
    steps = [(step.kind, step.version.time_ns) for step in (second / "etc/hostname").history()]
    assert steps == [("modified", DAY_NS), ("added", 0)]
    assert [step.kind for step in (first / "etc/hostname").history()] == ["added"]
    with pytest.raises(ventifs.NoSuchPath):
        list((second / "none").history())


def test_restoring(version: ventifs.ArchivedVersion, source: Path, tmp_path: Path) -> None:
    paths: list[bytes] = []
    done = version.restore(tmp_path / "all", progress=lambda _, path: paths.append(path))
    assert (done.failed, done.left) == ([], [])
    assert done.entries == 1 + len(list(version.walk()))
    subprocess.run(
        ["diff", "-rx", "fifo", "--no-dereference", source, tmp_path / "all"], check=True
    )
    with pytest.raises(ventifs.VentifsError, match="not empty"):
        version.restore(tmp_path / "all")
    again = version.restore(os.fspath(tmp_path / "all"), overwrite=True, symlinks="replace")
    assert again.kept
    with pytest.raises(ValueError, match="elsewhere"):
        version.restore(tmp_path / "all", symlinks="elsewhere")  # type: ignore[arg-type]

    (version / "etc").restore(tmp_path / "some", include=["*name"], exclude=["deep"])
    assert os.listdir(tmp_path / "some") == ["hostname"]
    (version / "etc/hostname").restore(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"web01.example\n"
    with pytest.raises(ventifs.NoSuchPath):
        (version / "none").restore(tmp_path / "none")


def test_exporting(version: ventifs.ArchivedVersion) -> None:
    stream = io.BytesIO()
    done = (version / "etc").export(stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        assert len(tar.getmembers()) == done.entries == 6
        file = tar.extractfile("./hostname")
        assert file is not None
        assert file.read() == b"web01.example\n"


def test_an_exception_leaves_it_closed(store: Path) -> None:
    with pytest.raises(KeyError), ventifs.open(store, "write") as archive:
        raise KeyError
    assert archive.closed


def test_names_are_imported_when_they_are_used() -> None:
    program = (
        "import sys, ventifs\n"
        "assert not [name for name in sys.modules if name.startswith('ventifs.')]\n"
        "assert 'typing' not in sys.modules or 'typing' in before\n"
        "assert set(ventifs.__all__) <= set(dir(ventifs))\n"
        "assert not hasattr(ventifs, 'none')\n"
        "assert callable(ventifs.open) and 'ventifs.api' in sys.modules\n"
        "assert 'open' in vars(ventifs)\n"
        "assert 'ventifs.tree.restore' not in sys.modules\n"
        "from ventifs import *\n"
        "assert Archive is ventifs.Archive and issubclass(NoSuchPath, VentifsError)\n"
    )
    subprocess.run(
        [sys.executable, "-c", "import sys\nbefore = set(sys.modules)\n" + program], check=True
    )
