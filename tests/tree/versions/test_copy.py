"""Versions go to another store whole, whatever the target has already, and nothing goes twice."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support.forging import commit_version, directory, file, tree_of
from tests.support.stores import findings, new_store
from tests.support.trees import archived, noise, odd_tree, plain_tree, remove
from tests.support.walker import same
from ventifs.errors import Corrupt, NotStored, VentifsError
from ventifs.store import Score, Store
from ventifs.tree.objects.content import ContentWriter
from ventifs.tree.objects.records import Chunk, Hole, Slice, Tree
from ventifs.tree.restore.restorer import Restorer
from ventifs.tree.versions.catalog import Version, versions
from ventifs.tree.versions.copy import CopiedBlocks, copy
from ventifs.tree.versions.reachable import reach
from ventifs.tree.versions.verify import Verifier


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A store with two versions of a tree with everything odd."""
    top = tmp_path / "top"
    (odd_tree if os.geteuid() == 0 else plain_tree)(top)
    new_store(tmp_path / "source")
    archived(tmp_path / "source", top, time_ns=1)
    (top / "size300000").write_bytes(noise(300_000, 9))
    archived(tmp_path / "source", top, time_ns=2)
    yield tmp_path / "source"
    remove(top)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return new_store(tmp_path / "target")


def copied(
    source: Path, target: Path, which: int = -1, name: str | None = None
) -> tuple[Version, CopiedBlocks, bool]:
    with Store.open(source) as ours, Store.open(target, "write") as theirs:
        made, done = copy(ours, theirs, versions(ours)[which], name=name)
        return made, done.blocks, done.there


def whole(root: Path) -> None:
    """No version of a store lacks anything."""
    with Store.open(root) as store:
        verifier = Verifier(store)
        assert [harm for version in versions(store) for harm in verifier.version(version)] == []
    assert findings(root) == []


def scores_of(root: Path, which: int = -1) -> list[Score]:
    with Store.open(root) as store:
        return [ref.score for ref in reach(store, versions(store)[which].root, set())]


def lose(root: Path, scores: list[Score]) -> None:
    with Store.open(root, "write") as store:
        for score in scores:
            store._index.drop_block(score)


def test_a_copy_is_the_version_in_everything(source: Path, target: Path, tmp_path: Path) -> None:
    made, done, there = copied(source, target)
    with Store.open(source) as store:
        original = versions(store)[-1]
    assert not there
    assert replace(made, record=None) == replace(original, record=None)
    assert done.new_blocks == len(set(scores_of(source)))
    whole(target)
    with Store.open(target) as store:
        Restorer(store).run(made.root, tmp_path / "back")
    same(tmp_path / "top", tmp_path / "back")
    remove(tmp_path / "back")


def test_a_second_version_sends_only_what_is_new(source: Path, target: Path) -> None:
    copied(source, target, 0)
    _, done, _ = copied(source, target, 1)
    new = set(scores_of(source, 1)) - set(scores_of(source, 0))
    assert (done.new_blocks, done.blocks) == (len(new), len(scores_of(source, 1)))
    whole(target)


def test_the_same_version_again_is_no_second_one(source: Path, target: Path) -> None:
    copied(source, target)
    made, done, there = copied(source, target)
    assert (there, done.new_blocks) == (True, 0)
    with Store.open(target) as store:
        assert versions(store) == [made]
    copied(source, target, name="other")
    with Store.open(target) as store:
        assert [version.name for version in versions(store)] == ["other", "t"]


def test_a_copy_again_makes_lost_blocks_good(source: Path, target: Path) -> None:
    copied(source, target)
    lost = scores_of(source)[::3]
    lose(target, lost)
    _, done, there = copied(source, target)
    assert (there, done.new_blocks) == (True, len(set(lost)))
    with Store.open(target) as store:
        verifier = Verifier(store)
        assert list(verifier.version(versions(store)[0])) == []


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_nodes_without_their_children_are_not_believed(
    source: Path, target: Path, part: float
) -> None:
    """A target that has the tops of trees, and nothing below them."""
    scores = scores_of(source)
    with Store.open(source) as ours, Store.open(target, "write") as theirs:
        for score in scores[int(len(scores) * part) :]:
            theirs.put(ours.get(score), node=True)
    copied(source, target)
    whole(target)


def test_an_interrupted_copy_goes_on_where_it_was(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ventifs.tree.versions.copy._BATCH", 8)
    monkeypatch.setattr("ventifs.tree.versions.copy._COMMIT_EVERY", 1)
    count = 0

    def stop(done: CopiedBlocks) -> None:
        nonlocal count
        count = done.new_blocks
        if count > 20:
            raise KeyboardInterrupt

    with ExitStack() as stack:
        ours = stack.enter_context(Store.open(source))
        stack.enter_context(pytest.raises(KeyboardInterrupt))
        theirs = stack.enter_context(Store.open(target, "write"))
        copy(ours, theirs, versions(ours)[-1], progress=stop)
    with Store.open(target) as store:
        assert versions(store) == []
        there = store.has_many(list(dict.fromkeys(scores_of(source))))
        assert there == sorted(there, reverse=True)  # children before their parents
        assert sum(there) == count
    _, done, _ = copied(source, target)
    assert done.new_blocks == len(set(scores_of(source))) - count
    whole(target)


def test_another_version_of_that_name_and_time_is_refused(
    source: Path, target: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    archived(target, tmp_path / "other", time_ns=2)
    with pytest.raises(VentifsError, match="another version of that name and time"):
        copied(source, target)
    with pytest.raises(VentifsError, match="cannot name versions"):
        copied(source, target, name="a/b")
    with Store.open(target) as store:
        assert len(versions(store)) == 1
        assert not any(store.has_many(scores_of(source)[-1:]))
    copied(source, target, name="renamed")


def test_slices_holes_and_long_attributes_are_copied(tmp_path: Path, target: Path) -> None:
    root = new_store(tmp_path / "source")
    with Store.open(root, "write") as store:
        writer = ContentWriter(store)
        inside, whole_block = writer.write_whole(noise(200_000)), writer.write_whole(noise(3000, 1))
        inner = tree_of(store, [Slice(inside, 5, 100_000), Slice(whole_block, 7, 1000)])
        image = tree_of(
            store,
            [Hole(1 << 20), Slice(inner, 1, 99_000), Chunk(store.put(noise(4096, 2))[0], 4096)],
        )
        attributes = writer.write_whole(noise(900, 3))
        commit_version(store, directory(store, b"", [file(b"image", image, attributes)]))
    expected = set(scores_of(root))
    made, done, _ = copied(root, target)
    assert done.new_blocks == len(expected)
    assert (made.comment, made.tags, made.troubles_more) == ("comment", ("tag",), 3)
    with Store.open(target) as store:
        assert all(store.has_many(list(expected)))
        assert isinstance(inside, Tree)
        assert store.has(Score(inside.score))


@pytest.mark.parametrize("part", [slice(0, -1), slice(-1, None)])
def test_a_damaged_source_makes_no_version(source: Path, target: Path, part: slice) -> None:
    """All but the root is lost, or the root alone."""
    lose(source, scores_of(source)[part])
    with pytest.raises((Corrupt, NotStored)):
        copied(source, target)
    with Store.open(target) as store:
        assert versions(store) == []
