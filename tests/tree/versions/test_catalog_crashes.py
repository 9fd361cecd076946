"""Each command of the catalog is one commit: a death at any of its steps does all of it or nothing.

With the process alone, what it wrote stays; with the power, what was not made durable goes.
"""

from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest

from tests.support.dying import Death, DyingFiles
from tests.support.tiny import audited, tiny_store
from ventifs.api.archive import Archive
from ventifs.image.formats.advice import Following
from ventifs.image.formats.kept_choice import Kept, SourceType, changes
from ventifs.store import Store

KEPT = Kept("raw", SourceType("file", b".img"), Following())
ACTIONS: dict[str, Callable[[Archive], object]] = {
    "forget": lambda archive: archive.forget("web@~1"),
    "forget all": lambda archive: archive.forget("web@~1", "web@latest", force=True),
    "thin": lambda archive: archive.thin(last=1),
    "undelete": lambda archive: archive.undelete("old@latest"),
    "undelete all": lambda archive: archive.undelete("old", every=True),
    "hold": lambda archive: archive.hold("web@~1", "held@latest"),
    "release": lambda archive: archive.release("held@latest"),
    "rename": lambda archive: archive.rename("held", "new"),
    "tag": lambda archive: archive.tag("web@~1", "web@latest", "held@latest", add="x"),
    "comment": lambda archive: archive.comment("held@latest", "other"),
}

Catalog = list[tuple[bytes, bytes]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of `web`, a disk's name; two of `old`, forgotten; two of `held`."""
    home = tmp_path_factory.mktemp("made")
    (home / "tree").mkdir()
    (home / "tree" / "file").write_bytes(b"file" * 100)
    root = tiny_store(home / "store")
    with Archive(Store.open(root, "write")) as archive:
        for name in ("web", "old", "held"):
            for time_ns in (10**18, 15 * 10**17):
                archive.add(home / "tree", name, time_ns=time_ns)
        for name in ("web", "old"):
            archive.store.commit(*changes(archive.store, name, KEPT))
        archive.forget("old@~1", "old@latest", force=True)
        archive.hold("held@latest")
        archive.forget("held@~1")
    return root


def catalog(root: Path) -> Catalog:
    """All records, without the times of forgetting."""
    with Store.open(root) as store:
        return [
            (record.key[:-8] if record.key.startswith(b"forgotten") else record.key, record.value)
            for record in store.records()
        ]


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("name", ACTIONS)
def test_a_death_at_any_step_does_all_or_nothing(
    made: Path, tmp_path: Path, name: str, power: bool
) -> None:
    before = catalog(made)
    with Archive(Store.open(copytree(made, tmp_path / "whole"), "write")) as archive:
        ACTIONS[name](archive)
    after = catalog(tmp_path / "whole")
    assert after != before
    seen = []
    for at in range(1, 100):
        root = copytree(made, tmp_path / f"{at}")
        files = DyingFiles()
        store = Store.open(root, "write", files=files)
        files.at = files.count + at
        try:
            ACTIONS[name](Archive(store))
        except Death:
            store.abandon()
        else:
            store.abandon()
            break
        if power:
            files.lose_power(root)
        Store.open(root, "write").close()  # recovers
        found = catalog(root)
        assert found in (before, after)
        seen.append(found == after)
        assert [each for each in audited(root).findings if not each.harmless] == []
    assert seen == sorted(seen)
    assert set(seen) == {False, True}
