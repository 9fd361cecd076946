"""Copying many versions from Python: which, what is reported, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import ventifs
from ventifs import Archive, ArchivedVersion, Copied, NotCopied
from ventifs.tree.versions.catalog import version_key
from ventifs.tree.versions.copy import CopiedBlocks


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Archive]:
    ventifs.init(tmp_path / "other")
    with ventifs.open(tmp_path / "other", "write") as opened:
        yield opened


def test_all_versions_are_copied(archive: Archive, other: Archive) -> None:
    reported: list[Copied | NotCopied] = []
    seen: list[CopiedBlocks] = []
    done = archive.copy_all(
        other, report=reported.append, progress=lambda blocks, _: seen.append(blocks)
    )
    assert [each.version for each in done.copied] == other.versions()
    assert [str(each) for each in other] == [str(each) for each in archive]
    assert (reported, done.left) == (done.copied, [])
    assert done.blocks.new_blocks == sum(each.blocks.new_blocks for each in done.copied) > 0
    again = archive.copy_all(other)
    assert [each.there for each in again.copied] == [True, True]
    assert again.blocks == CopiedBlocks()


def test_versions_and_texts_choose_together(archive: Archive, other: Archive) -> None:
    assert len(archive.copy_all(other, archive["t@~1"]).copied) == 1
    assert len(archive.copy_all(other, archive["t@~1"], "t@latest").copied) == 2
    assert len(archive.copy_all(other, "t", "*").copied) == 2
    assert [each.version.name for each in archive.copy_all(other, "t", name="u").copied] == [
        "u"
    ] * 2


def test_a_dry_run_shows_what_would_be(archive: Archive, other: Archive) -> None:
    with ventifs.open(other.store.path) as reading:
        would = archive.copy_all(reading, name="u", dry_run=True)
        assert reading.versions() == []
    assert [str(each.version) for each in would.copied] == [
        str(each.version) for each in archive.copy_all(other, name="u").copied
    ]


def test_what_is_left_is_named(archive: Archive, other: Archive, source: Path) -> None:
    other.add(source / "etc", "t", time_ns=archive["t"].time_ns)
    reported: list[Copied | NotCopied] = []
    done = archive.copy_all(other, report=reported.append)
    assert len(done.copied) == 1
    [left] = done.left
    assert left in reported
    assert left.called == str(archive["t"])
    assert "has another version" in str(left.error)


def test_records_that_are_damaged_are_left(store: Path, other: Archive) -> None:
    with ventifs.open(store, "write") as writing:
        writing.store.commit([(version_key("bad", 1), b"nothing")])
    with ventifs.open(store) as archive:
        done = archive.copy_all(other)
        assert len(done.copied) == 2
        [left] = done.left
        assert "bad" in left.called
        assert isinstance(left.error, ventifs.Corrupt)


def test_what_makes_no_sense_is_refused(
    archive: Archive, other: Archive, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="this archive itself"):
        archive.copy_all(archive)
    added = other.add(source, "x").version
    with pytest.raises(ValueError, match="itself"):
        archive.copy_all(other, added)
    ventifs.init(tmp_path / "third")
    with (
        ventifs.open(tmp_path / "third", "write") as third,
        pytest.raises(ValueError, match="in another archive"),
    ):
        archive.copy_all(third, added)
    with pytest.raises(ventifs.NoSuchVersion):
        archive.copy_all(other, "t", "nothing")
    with ventifs.open(archive.store.path, "rehearse") as rehearsing:
        made: ArchivedVersion = rehearsing.add(source, "new").version
        with pytest.raises(ventifs.VentifsError, match="rehearsed"):
            rehearsing.copy_all(other, made)
    assert other.names() == ["x"]
    archive.close()
    with pytest.raises(ventifs.VentifsError, match="closed"):
        archive.copy_all(other)
