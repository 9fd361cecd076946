"""What the interface reads stays, as long as anything of it is in use."""

import io
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import ventifs
from tests.support.leasing import files
from ventifs.store.leases import leased
from ventifs.tree.objects.records import encode_entry
from ventifs.tree.versions.leasing import ForgottenMeanwhile


def root_of(version: ventifs.ArchivedVersion) -> bytes:
    return encode_entry(version.stored.root, root=True)


def forget(store: Path, text: str) -> None:
    with ventifs.open(store, "write") as archive:
        archive.forget(text, force=True)


def test_a_listing_takes_no_leases(store: Path, archive: ventifs.Archive) -> None:
    for version in archive.versions():
        assert version.disk_facts() is None
        assert list(version.troubles()) == []
        assert version.root.mode
        assert str(version / "etc")
    assert files(store) == []


def test_a_version_is_leased_from_its_first_read_until_it_is_dropped(
    store: Path, archive: ventifs.Archive
) -> None:
    version = archive["t"]
    assert leased(store) == []
    assert (version / "etc").is_dir()
    assert leased(store) == [root_of(version)]
    root = root_of(version)
    path = version / "etc/hostname"
    del version
    assert leased(store) == [root]
    del path
    assert leased(store) == []


MADE: dict[str, Callable[[ventifs.ArchivedVersion], Any]] = {
    "a path": lambda version: version / "etc/hostname",
    "a found path": lambda version: next(version.walk()),
    "a file": lambda version: version.open("etc/deep/file"),
    "a raw file": lambda version: version.open("etc/deep/file").detach(),
    "text": lambda version: io.TextIOWrapper(version.open("etc/hostname")),
    "walk": lambda version: version.walk(),
    "iterdir": lambda version: version.root.iterdir(),
    "scan": lambda version: version.root.scan(),
    "scan of all": lambda version: version.root.scan(recursive=True),
    "pieces": lambda version: (version / "sparse").pieces(),
    "a begun iterator": lambda version: (found := version.walk(), next(found)),
}


@pytest.mark.parametrize("what", MADE)
def test_what_is_made_from_a_version_keeps_it(
    store: Path, archive: ventifs.Archive, what: str
) -> None:
    root = root_of(archive["t"])
    version = archive["t"]
    assert version.root.is_dir()
    version.store  # noqa: B018, as the first read does
    made = MADE[what](version)
    del version
    assert leased(store) == [root]
    del made
    assert leased(store) == []


def test_a_closed_file_keeps_nothing(store: Path, archive: ventifs.Archive) -> None:
    file = archive["t"].open("etc/hostname")
    assert file.read() == b"web01.example\n"
    assert len(leased(store)) == 1
    file.close()
    assert leased(store) == []


def test_a_diff_keeps_both(store: Path, archive: ventifs.Archive) -> None:
    both = {root_of(archive["t"]), root_of(archive["t@~1"])}
    changes = archive["t@~1"].diff(archive["t"])
    assert set(leased(store)) == both
    assert len(list(islice(changes, 1))) == 1
    assert set(leased(store)) == both
    del changes
    assert leased(store) == []


def test_what_was_begun_goes_on_when_the_version_is_forgotten(
    store: Path, archive: ventifs.Archive
) -> None:
    version = archive["t"]
    file = version.open("etc/deep/file", buffer_size=100)
    assert file.read(4) == b"deep"
    forget(store, "t@latest")
    assert file.read() == b"deep" * 19_999
    assert version.root.is_dir()
    assert len(list(version.walk())) > 5
    assert next((version / "etc/hostname").history()).version == version
    assert leased(store) == [root_of(version)]
    assert "t@1970-01-02" not in archive


def test_what_was_not_begun_is_refused(store: Path, archive: ventifs.Archive) -> None:
    version = archive["t"]
    path = version / "etc/hostname"
    forget(store, "t@latest")
    with pytest.raises(ForgottenMeanwhile, match="it was forgotten meanwhile; 'ventifs versions'"):
        path.read_bytes()
    with pytest.raises(ventifs.NoSuchVersion):
        version.diff(archive["t"])
    with pytest.raises(ventifs.NoSuchVersion):
        archive["t"].diff(version)
    assert leased(store) == []


def test_closing_the_archive_ends_its_leases(store: Path) -> None:
    with ventifs.open(store) as archive:
        version = archive["t"]
        assert (version / "etc").is_dir()
        assert leased(store) == [root_of(version)]
    assert files(store) == []
    assert str(version)


def test_a_rehearsed_version_needs_none(store: Path, source: Path) -> None:
    with ventifs.open(store, "rehearse") as archive:
        added = archive.add(source, "new")
        assert list(added.version.troubles()) == []
        assert added.version.store is archive.store
    assert files(store) == []
