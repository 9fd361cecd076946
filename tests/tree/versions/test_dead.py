"""What no version needs: measured as by a look at every block, estimated from the records."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.stores import new_store
from tests.support.trees import archived, noise
from ventifs import Archive, ArchivedVersion
from ventifs.errors import Corrupt, NotStored
from ventifs.store import Score, Store
from ventifs.tree.versions.catalog import Version, versions
from ventifs.tree.versions.dead import MarkedSpace, Space, estimated, measured
from ventifs.tree.versions.forgotten import forgotten
from ventifs.tree.versions.reachable import reach_version


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three nights of a tree; a block that no version has."""
    top = tmp_path / "top"
    (top / "a").mkdir(parents=True)
    (top / "a" / "same").write_bytes(noise(20_000))
    root = new_store(tmp_path / "store")
    for night in range(3):
        (top / "changes").write_bytes(noise(3000, 1 + night) + b".")
        archived(root, top, "n", time_ns=night)
    return root


def forget(store: Store, doomed: list[Version]) -> None:
    Archive(store).forget(*(ArchivedVersion(store, each) for each in doomed), force=True)


def reached(store: Store, found: Iterable[Version]) -> set[Score]:
    return {ref.score for each in found for ref in reach_version(store, each, set())}


def expected(store: Store) -> tuple[set[Score], set[Score], set[Score]]:
    """The blocks that are live, forgotten and dead."""
    live = reached(store, versions(store))
    gone = reached(store, [each.version for each in forgotten(store)]) - live
    every = {score for score, _ in store._index.entries()}
    return live, gone, every - live - gone


def space(store: Store, scores: set[Score]) -> Space:
    sizes = store.sizes(scores)
    return Space(len(scores), sizes.raw_bytes, sizes.stored_bytes)


def agrees(store: Store) -> MarkedSpace:
    """What is measured, compared with what single looks find."""
    found = measured(store)
    assert [found.live, found.forgotten, found.dead] == [
        space(store, scores) for scores in expected(store)
    ]
    return found


def test_all_is_live_while_nothing_is_forgotten(root: Path) -> None:
    with Store.open(root) as store:
        found = agrees(store)
        figures = store.stats()
    nothing = Space(0, 0, 0)
    assert (found.forgotten, found.dead, found.versions) == (nothing, nothing, 3)
    assert (found.live.blocks, found.live.raw_bytes) == (figures.blocks, figures.raw_bytes)


def test_forgotten_versions_hold_only_what_no_other_needs(root: Path) -> None:
    with Store.open(root, "write") as store:
        first, second, _ = versions(store)
        forget(store, [first, second])
        found = agrees(store)
        # The file that changes, and the root, of each.
        assert (found.forgotten.blocks, found.dead.blocks) == (4, 0)
        assert (found.versions, found.forgotten_versions, found.unreadable) == (1, 2, [])
        store.commit(deletes=[forgotten(store)[0].version.record or pytest.fail("no record")])
        found = agrees(store)
        assert (found.forgotten.blocks, found.dead.blocks) == (2, 2)


def test_what_a_run_left_that_ended_early_is_dead(root: Path) -> None:
    with Store.open(root, "write") as store:
        store.put(noise(5000, 99))
        store.commit()
        found = agrees(store)
    assert (found.dead.blocks, found.dead.raw_bytes) == (1, 5000)


def test_a_damaged_version_leaves_no_figure(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(root) as store:
        damage(store, versions(store)[1], monkeypatch)
        with pytest.raises(Corrupt, match=r"^n@1970-01-01T00:00:00.000000001Z: .*'ventifs check'"):
            measured(store)


def test_a_damaged_forgotten_version_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(root, "write") as store:
        first, second, _ = versions(store)
        forget(store, [first, second])
        damage(store, first, monkeypatch)
        found = measured(store)
    [called] = found.unreadable
    assert called.startswith("n@1970-01-01T00:00:00Z")
    assert (found.forgotten.blocks, found.dead.blocks) == (2, 2)


def damage(store: Store, version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the version's own root directory unreadable through this store object."""
    *_, lost = reach_version(store, version, set())
    real = store.get

    def get(score: Score) -> memoryview:
        if score == lost.score:
            raise NotStored("lost")
        return real(score)

    monkeypatch.setattr(store, "get", get)


def test_a_version_that_comes_while_others_are_marked_is_live(root: Path) -> None:
    made = False
    top = root.parent / "top"

    def meanwhile(_: int) -> None:
        nonlocal made
        if not made:
            made = True
            (top / "changes").write_bytes(noise(3000, 77))
            archived(root, top, "n", time_ns=9)

    with Store.open(root) as store:
        found = measured(store, meanwhile)
        assert (found.versions, found.dead.blocks) == (4, 0)
        agrees(store)


def test_the_estimate_is_what_no_version_added(root: Path) -> None:
    with Store.open(root, "write") as store:
        found = estimated(store)
        assert (found.versions, found.forgotten, found.raw_bytes) == (3, 0, 0)
        assert found.added_bytes == store.stats().raw_bytes  # of files without zeros at their ends
        first, second, _ = versions(store)
        forget(store, [second])
        found = estimated(store)
        assert (found.versions, found.forgotten) == (2, 1)
        assert found.raw_bytes == found.forgotten_bytes == second.new_bytes
        exactly = measured(store)
        assert found.raw_bytes == exactly.forgotten.raw_bytes  # here nothing is shared
        part = found.stored_bytes / exactly.forgotten.stored_bytes
        assert 0.8 < part < 1.2
        # Too high where the ones that are left share: the first night brought what all have.
        forget(store, [first])
        assert estimated(store).raw_bytes > measured(store).forgotten.raw_bytes


def test_the_estimate_counts_what_runs_left(root: Path) -> None:
    with Store.open(root, "write") as store:
        store.put(noise(5000, 99))
        store.commit()
        assert estimated(store).raw_bytes == 5000


def test_an_empty_store_has_nothing_dead(tmp_path: Path) -> None:
    with Store.open(new_store(tmp_path / "empty")) as store:
        assert agrees(store).live == Space(0, 0, 0)
        assert (estimated(store).raw_bytes, estimated(store).stored_bytes) == (0, 0)
