"""A check of versions names the path that a lost block harms, and nothing else."""

import tracemalloc
from pathlib import Path

import pytest

from tests.support.forging import commit_version, directory, file
from ventifs.store import Score, Store
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.objects.directory import resolve
from ventifs.tree.objects.records import Block, Content, Directory, Inline, RegularFile, Tree
from ventifs.tree.versions.catalog import versions
from ventifs.tree.versions.verify import Verifier


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two versions: in the second, one of three files is another."""
    Store.create(tmp_path / "store")
    top = tmp_path / "top"
    (top / "below" / "deep").mkdir(parents=True)
    for name in ("one", "below/two", "below/deep/three"):
        (top / name).write_bytes(name.encode() * 20_000)
    for _ in range(2):
        with Store.open(tmp_path / "store", "write") as store:
            archive(store, DirectorySource(top), "name")
        (top / "one").write_bytes(b"other" * 20_000)
    return tmp_path / "store"


def lose(root: Path, content: Content) -> None:
    assert isinstance(content, Block | Tree)
    with Store.open(root, "write") as store:
        store._index.drop_block(Score(content.score))


def harms(root: Path) -> set[tuple[str, bytes]]:
    with Store.open(root) as store:
        verifier = Verifier(store)
        found = [harm for version in versions(store) for harm in verifier.version(version)]
    assert all(harm.reason for harm in found)
    return {(harm.version, harm.path) for harm in found}


def names(root: Path) -> list[str]:
    with Store.open(root) as store:
        return [str(version) for version in versions(store)]


def content_of(root: Path, path: bytes, back: int = 0) -> Content:
    with Store.open(root) as store:
        detail = resolve(store, versions(store)[-1 - back].root, path).detail
    assert isinstance(detail, RegularFile | Directory)
    return detail.content


def test_whole_versions_have_no_harm(root: Path) -> None:
    assert harms(root) == set()


def test_what_versions_share_is_looked_at_once(root: Path) -> None:
    with Store.open(root) as store:
        verifier = Verifier(store)
        first, second = versions(store)
        assert list(verifier.version(first)) == []
        before = verifier.paths
        assert before == 6  # the root, two directories, three files
        assert list(verifier.version(second)) == []
        assert verifier.paths - before == 3  # the root, `one`, and `below`, which is known


def test_a_lost_node_of_a_shared_directory_harms_it_in_both(root: Path) -> None:
    lose(root, content_of(root, b"below/deep"))
    assert harms(root) == {(name, b"below/deep") for name in names(root)}


def test_a_lost_block_harms_the_versions_that_hold_it(root: Path) -> None:
    lose(root, content_of(root, b"one", back=1))
    assert harms(root) == {(names(root)[0], b"one")}


def test_a_lost_block_of_a_file_in_both_harms_both(root: Path) -> None:
    lose(root, content_of(root, b"below/two"))
    assert harms(root) == {(name, b"below/two") for name in names(root)}


def test_a_directory_of_many_names_takes_no_more_memory_than_a_small_one(root: Path) -> None:
    with Store.open(root, "write") as opened:
        many = [file(b"f%05d" % number, Inline(b"%d" % number)) for number in range(20_000)]
        version = commit_version(opened, directory(opened, b"", many))
    with Store.open(root) as opened:
        tracemalloc.start()
        try:
            assert list(Verifier(opened).version(version)) == []
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 4 << 20
