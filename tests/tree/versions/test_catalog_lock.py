"""The catalog's lock: changes of records exclude each other, and none is lost."""

import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import pytest

import ventifs
from tests.support.patience import PATIENCE_S, wait_until
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.tree.objects.records import Directory, Empty, Entry
from ventifs.tree.versions.catalog import Version, encode_version, version_key, versions
from ventifs.tree.versions.catalog_lock import LOCK_NAME, catalog_lock
from ventifs.tree.versions.copy import copy
from ventifs.tree.versions.notes import tag

ROOT = Entry(b"", 0o40755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")
OTHER_ROOT = Entry(b"", 0o40700, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")


def put(store: Path, *times_ns: int, root: Entry = ROOT) -> None:
    with Store.open(store, "write") as opened:
        made = [Version("web", time_ns, root) for time_ns in times_ns]
        opened.commit([(version_key(v.name, v.time_ns), encode_version(v)) for v in made])


def is_locked(root: Path) -> bool:
    fd = os.open(root / LOCK_NAME, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def test_it_is_held_until_the_end_whatever_happens(store: Path) -> None:
    with Store.open(store, "write") as opened:
        with catalog_lock(opened):
            assert is_locked(store)
        assert not is_locked(store)
        with pytest.raises(KeyboardInterrupt), catalog_lock(opened):
            raise KeyboardInterrupt
        assert not is_locked(store)
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with catalog_lock(opened):
                pass
        assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_store_that_is_only_read_is_not_touched(store: Path) -> None:
    with (
        Store.open(store) as opened,
        pytest.raises(VentifsError, match="not open for writing"),
        catalog_lock(opened),
    ):
        raise AssertionError
    assert not (store / LOCK_NAME).exists()


def test_the_file_has_the_stores_access(store: Path) -> None:
    before = os.umask(0)
    try:
        with Store.open(store, "write") as opened, catalog_lock(opened):
            assert (store / LOCK_NAME).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_a_file_in_its_place_is_named(store: Path) -> None:
    (store / LOCK_NAME).symlink_to(store / "lock")
    with (
        Store.open(store, "write") as opened,
        pytest.raises(VentifsError, match=f"{LOCK_NAME}: "),
        catalog_lock(opened),
    ):
        raise AssertionError


def test_a_lock_of_a_file_that_was_removed_is_none(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed between opening and locking: then another program locks the next file."""
    flock, left = fcntl.flock, [(store / LOCK_NAME).unlink]

    def removing(fd: int, operation: int) -> None:
        while left:
            left.pop()()
        flock(fd, operation)

    with Store.open(store, "write") as opened:
        monkeypatch.setattr(fcntl, "flock", removing)
        with catalog_lock(opened):
            monkeypatch.undo()
            assert is_locked(store)


def test_a_change_waits_for_another(store: Path) -> None:
    put(store, 1)
    done = Event()

    def change() -> None:
        with ventifs.open(store, "write") as archive:
            archive.tag("web@latest", add="x")
        done.set()

    with Store.open(store, "write") as opened:
        with catalog_lock(opened):
            thread = Thread(target=change)
            thread.start()
            waiting(store)
            assert not done.is_set()
            assert versions(opened)[0].tags == ()
        thread.join(PATIENCE_S)
        assert done.is_set()
        assert versions(opened)[0].tags == ("x",)


def waiting(store: Path) -> None:
    """Return when something waits for the lock, as the kernel lists it."""
    inode = f":{(store / LOCK_NAME).stat().st_ino} "

    def is_waited_for() -> bool:
        lines = Path("/proc/locks").read_text().splitlines()
        return any("-> FLOCK" in line and inode in line for line in lines)

    wait_until(is_waited_for)


def test_no_change_of_several_at_once_is_lost(store: Path) -> None:
    put(store, 1, 2)

    def changes(number: int) -> None:
        with Store.open(store, "write") as opened:
            for each in range(6):
                tag(opened, [("web", 1), ("web", 2)], [f"{number}.{each}"], [])

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(changes, number) for number in range(4)]:
            done.result(PATIENCE_S)
    with Store.open(store) as opened:
        for version in versions(opened):
            assert len(version.tags) == len(set(version.tags)) == 24
        assert len(opened.records()) == 2


def meanwhile(monkeypatch: pytest.MonkeyPatch, module: str, action: Callable[[], object]) -> None:
    """Do something right before a module's next change takes the lock."""
    left = [action]

    def lock(store: Store) -> object:
        while left:
            left.pop()()
        return catalog_lock(store)

    monkeypatch.setattr(f"{module}.catalog_lock", lock)


def test_a_run_does_not_make_a_version_that_came_meanwhile(
    store: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy, or what is brought back, takes no lock of the name."""
    source.mkdir()
    meanwhile(monkeypatch, "ventifs.tree.archive.archive_run", lambda: put(store, 5))
    with ventifs.open(store, "write") as archive:
        with pytest.raises(VentifsError, match="there is such a version already"):
            archive.add(source, "web", time_ns=5)
        assert [version.time_ns for version in archive.versions()] == [5]
        archive.add(source, "web", time_ns=6)


@pytest.mark.parametrize("arrives", ["the same", "other tags", "another tree"])
def test_a_copy_does_not_make_a_version_that_came_meanwhile(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrives: str
) -> None:
    put(store, 5)
    Store.create(tmp_path / "other")

    def arrive() -> None:
        put(tmp_path / "other", 5, root=OTHER_ROOT if arrives == "another tree" else ROOT)
        if arrives == "other tags":
            with Store.open(tmp_path / "other", "write") as opened:
                tag(opened, [("web", 5)], ["another"], [])

    meanwhile(monkeypatch, "ventifs.tree.versions.copy", arrive)
    with Store.open(store) as opened, Store.open(tmp_path / "other", "write") as other:
        if arrives != "another tree":
            made, done = copy(opened, other, versions(opened)[0])
            assert (done.there, done.noted) == (True, arrives == "other tags")
            assert made.tags == ()
        else:
            with pytest.raises(VentifsError, match="has another version of that name and time"):
                copy(opened, other, versions(opened)[0])
        assert len(other.records()) == 1


def test_what_is_forgotten_is_decided_under_the_lock(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that forget one of two versions each would leave none; a hold counts at once."""
    put(store, 1, 2)

    def forget_the_other() -> None:
        with ventifs.open(store, "write") as archive:
            archive.forget("web@~1")

    meanwhile(monkeypatch, "ventifs.api.thinning", forget_the_other)
    with ventifs.open(store, "write") as archive:
        with pytest.raises(VentifsError, match="would forget its last version"):
            archive.forget("web@latest")
        put(store, 3)
        meanwhile(monkeypatch, "ventifs.api.thinning", lambda: archive.hold("web@~1"))
        with pytest.raises(VentifsError, match="it is held, and stays"):
            archive.forget("web@~1")
        assert len(archive.versions()) == 2
