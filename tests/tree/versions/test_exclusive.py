"""What only one version holds: what a walk over all the others, without a shortcut, leaves."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forging import commit_version, directory, file
from tests.support.stores import new_store
from tests.support.trees import noise
from ventifs.store import Score, Store
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.records import Tree
from ventifs.tree.versions.catalog import Version, versions
from ventifs.tree.versions.exclusive import exclusive
from ventifs.tree.versions.reachable import RefKind, reach


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Four nights: a file changes, a directory moves, nothing changes."""
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    for number in range(300):
        (top / "a" / "b" / f"{number}").write_bytes(noise(100 + number, number))
    (top / "large").write_bytes(noise(500_000))
    with Store.open(new_store(tmp_path / "store"), "write") as opened:
        archive(opened, DirectorySource(top), "n", time_ns=0)
        (top / "large").write_bytes(noise(500_000)[:300_000] + noise(100_000, 1))
        archive(opened, DirectorySource(top), "n", time_ns=1)
        (top / "a" / "b").rename(top / "moved")
        archive(opened, DirectorySource(top), "n", time_ns=2)
        archive(opened, DirectorySource(top), "m", time_ns=3)
        yield opened


def all_of(store: Store, version: Version) -> set[Score]:
    return {ref.score for ref in reach(store, version.root, set())}


def only(store: Store, version: Version) -> set[Score]:
    others = [other for other in versions(store) if other.record != version.record]
    return exclusive(store, version, others)


def test_only_what_no_other_version_reaches_is_left(store: Store) -> None:
    found = versions(store)
    holders = Counter(score for version in found for score in all_of(store, version))
    for version in found:
        expected = {score for score in all_of(store, version) if holders[score] == 1}
        assert only(store, version) == expected
    m, first, second, third = found
    assert only(store, m) == only(store, third) == set()  # the same tree
    assert len(only(store, first)) > 10
    assert only(store, second)


def test_all_is_exclusive_where_there_is_no_other(store: Store) -> None:
    version = versions(store)[0]
    assert exclusive(store, version, []) == all_of(store, version)


def test_no_node_is_read_twice_however_many_versions_share_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, *others = versions(store)
    read: Counter[Score] = Counter()
    real = Store.get

    def get(self: Store, score: Score) -> memoryview:
        read[score] += 1
        return real(self, score)

    monkeypatch.setattr(Store, "get", get)
    exclusive(store, version, others * 5)
    assert max(read.values()) <= 2  # once for the version, once for all the others


def test_a_node_as_data_is_no_node(tmp_path: Path) -> None:
    """A file whose bytes are a directory's node: what the node refers to is not the file's."""
    with Store.open(new_store(tmp_path / "other"), "write") as store:
        content = ContentWriter(store).write_whole(noise(50_000))
        inner = directory(store, b"in", [file(b"f", content)])
        [node] = [ref.score for ref in reach(store, inner, set()) if ref.kind is RefKind.DIRECTORY]
        disguised = ContentWriter(store).write_whole(bytes(store.get(node)))
        tree = commit_version(store, directory(store, b"", [inner]), time_ns=1)
        commit_version(store, directory(store, b"", [file(b"g", disguised)]), time_ns=2)
        left = only(store, tree)
    assert node not in left
    assert isinstance(content, Tree)
    assert content.score in left
