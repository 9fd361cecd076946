"""Archives beside a reclaim wait for its flip at most, and for nothing else: shown by locks alone.

While a reclaim waits for the writers that were there before, others get the other gate at once.
While it holds both gates, they wait, and are let in before any file is touched.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ventifs
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.tiny import audited, tiny_store
from tests.support.turnover import content, read_tree, write_tree
from ventifs.errors import Busy
from ventifs.store.files import Files
from ventifs.store.reclaim import reclaiming_store
from ventifs.store.reclaim.condemned import announced
from ventifs.tree.reclaim.reclaim import reclaim
from ventifs.tree.reclaim.results import Limits, Reclaimed

ALL = Limits(max_unused=0.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one version, and much that two forgotten ones have left."""
    root = tiny_store(tmp_path / "store", arena_size=128 << 10)
    for name in ("one", "two", "three"):
        write_tree(tmp_path / name, content(name))
        with ventifs.open(root, "write") as archive:
            archive.add(tmp_path / name, "n", comment=name)
    with ventifs.open(root, "write") as archive:
        archive.thin(last=1)
    return root


def archived(root: Path, source: str, name: str, wait_s: float | None) -> int:
    """Archive a tree; return the new bytes."""
    with ventifs.open(root, "write", wait_s=wait_s) as archive:
        return archive.add(root.parent / source, name, comment=source).tally.new_bytes


def sound(root: Path) -> list[str]:
    """Read all versions; return what they are."""
    assert [each for each in audited(root).findings if not each.harmless] == []
    with ventifs.open(root) as archive:
        for version in archive.versions():
            assert read_tree(version) == content(version.comment)
        return [f"{version.name} {version.comment}" for version in archive.versions()]


def test_writers_that_come_while_it_waits_for_others_wait_for_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they archive is what is about to go, so they store it again."""
    monkeypatch.setattr(reclaiming_store, "_YOUNG_NS", 0)
    with ThreadPoolExecutor(1) as pool:
        with ventifs.open(root, "write") as earlier:
            reclaiming = pool.submit(reclaim, root, limits=ALL)
            wait_until(lambda: announced(root) or reclaiming.done())
            assert archived(root, "one", "late0", 0) > 100_000
            assert archived(root, "one", "late1", 0) == 0
            assert not reclaiming.done()
            earlier.add(root.parent / "three", "early", comment="three")
        done = reclaiming.result(PATIENCE_S)
    assert done.arenas > 0
    assert announced(root) == frozenset()
    assert sound(root) == ["early three", "late0 one", "late1 one", "n three"]


class Watched(Files):
    """Files that call functions when arenas are announced, and before they are moved away."""

    def __init__(self, announcing: Callable[[], None], moving: Callable[[], None]) -> None:
        self._announcing, self._moving = announcing, moving

    def rename(self, source: Path, target: Path) -> None:
        if target.parent.name == "condemned":
            self._moving()
        super().rename(source, target)
        if target.name == "condemned":
            self._announcing()


def test_writers_that_come_in_the_flip_are_let_in_before_files_go(root: Path) -> None:
    moments: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        waiting = []

        def announcing() -> None:
            """Both gates are held."""
            with pytest.raises(Busy, match="which takes a moment"):
                archived(root, "one", "refused", 0)
            waiting.append(pool.submit(archived, root, "one", "late", None))
            moments.append("announced")

        def moving() -> None:
            assert waiting[0].result(PATIENCE_S) > 100_000
            moments.append("moved")

        done: Reclaimed = reclaim(root, limits=ALL, files=Watched(announcing, moving))
    assert done.arenas > 1
    assert moments == ["announced"] + ["moved"] * done.arenas
    assert sound(root) == ["late one", "n three"]
