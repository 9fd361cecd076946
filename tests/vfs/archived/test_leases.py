"""Leases of served versions: taken when a client enters one, given back after the last fid."""

import errno
import gc
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support.driving import Driver
from tests.support.leasing import files as lease_files
from tests.support.stores import new_store
from tests.support.trees import archived, noise
from ventifs.store import Store
from ventifs.store.leases import leased
from ventifs.tree.objects.records import encode_entry
from ventifs.tree.versions.catalog import encode_version, find_version, version_key, versions
from ventifs.vfs.access.guard import GuardedFilesystem
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.served_versions import Split
from ventifs.vfs.errnos import errno_of
from ventifs.vfs.interface import Cold, File, Filesystem, Refused, User

SECOND = 10**9


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Served:
    """A store that is served, and what happens to it meanwhile."""

    def __init__(self, root: Path, store: Store, split: Split) -> None:
        self.root = root
        self.store = store
        self.clock = Clock()
        self.files = ArchiveFilesystem(store, split, scores=True, clock=self.clock)
        self.drive = Driver()

    def forget(self, *texts: str) -> None:
        with Store.open(self.root, "write") as store:
            records = [find_version(store, text).record for text in texts]
            store.commit(deletes=[record for record in records if record is not None])

    def later(self) -> None:
        """What the server does now and then, twice: each acts on what the last one looked up."""
        self.drive.loads.clear()  # they refer to what they brought
        for _ in range(2):
            self.clock.now += 30
            self.files.tend()
            for load in self.files.looks():
                load.run()
        self.files.tend()

    def root_of(self, text: str) -> bytes:
        return encode_entry(find_version(self.store, text).root, root=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with three versions of `web`, which differ."""
    store, source = new_store(tmp_path / "store"), tmp_path / "source"
    (source / "dir" / "deep").mkdir(parents=True)
    for number in range(3):
        (source / "dir" / "file").write_bytes(noise(200_000, number))
        (source / "dir" / "deep" / "file").write_bytes(b"%d" % number)
        archived(store, source, "web", time_ns=number * SECOND)
    return store


@contextmanager
def serving(root: Path, cache: int = 8 << 20) -> Iterator[Served]:
    split = Split.of(cache)
    with Store.open(root, cache_bytes=split.clumps) as store:
        yield Served(root, store, split)


@pytest.fixture
def served(root: Path) -> Iterator[Served]:
    with serving(root) as made:
        yield made


def refusal(drive: Driver, files: Filesystem, aname: bytes) -> int:
    with pytest.raises(Refused) as refused:
        drive.attach(files, aname)
    return errno_of(refused.value)


def test_what_is_only_listed_is_not_leased(served: Served) -> None:
    top = served.drive.attach(served.files, b"")
    for path in (b"web", b"score"):
        directory = served.drive.walk(top, path)
        for _, file in served.drive.entries(directory):
            served.drive(file.attributes)
            assert file.identity
    assert lease_files(served.root) == []


@pytest.mark.parametrize("way", ["attach", "walk", "path", "score", "latest"])
@pytest.mark.parametrize("guarded", [False, True])
def test_a_version_is_leased_when_a_client_enters_it(
    served: Served, way: str, guarded: bool
) -> None:
    files: Filesystem = GuardedFilesystem(served.files) if guarded else served.files
    drive, user = Driver(), User(b"root", 0)
    score = drive.names(drive.walk(drive.attach(files, b"", user), b"score"))[0]
    match way:
        case "attach":
            entered = drive.attach(files, b"web@1970-01-01T00:00:02Z", user)
        case "path":
            entered = drive.attach(files, b"web:/dir/deep", user)
        case "walk":
            entered = drive.walk(drive.attach(files, b"", user), b"web/1970-01-01T00:00:02Z")
        case "latest":
            entered = drive.walk(drive.attach(files, b"web", user), b"latest")
        case "score":
            entered = drive.walk(drive.attach(files, b"", user), b"score/" + score)
    [root] = leased(served.root)
    assert way == "score" or root == served.root_of("web")
    assert ("lease",) in {load.key[:1] for load in drive.loads if isinstance(load.key, tuple)}
    assert entered.identity.kind


def test_no_block_of_a_version_is_read_before_it_is_leased(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, seen = Store.get, []

    def watched(self: Store, score: object) -> memoryview:
        seen.append(leased(served.root))
        return get(self, score)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "get", watched)
    user = User(b"root", 0)
    for files in (served.files, GuardedFilesystem(served.files)):
        for aname in (b"web@~0:/dir", b"web@~1", b"web@~2"):
            top = served.drive.attach(files, aname, user)
            served.drive.names(top)
    assert seen
    assert all(seen)


def test_a_walk_into_a_version_that_is_leased_needs_no_load(served: Served) -> None:
    names = served.drive.walk(served.drive.attach(served.files, b""), b"web")
    first = served.drive(names.walk, b"latest")
    count = len(served.drive.loads)
    assert names.walk(b"latest") is first
    assert names.walk(b"1970-01-01T00:00:02Z").identity == first.identity
    assert len(served.drive.loads) == count


def test_clients_in_a_forgotten_version_go_on_and_new_ones_are_refused(served: Served) -> None:
    drive = served.drive
    session = served.files.session()
    file = drive.walk(drive.attach(session, b"web"), b"latest/dir/file")
    directory = drive.walk(drive.attach(served.files, b"web@latest"), b"dir")
    root = served.root_of("web")
    served.forget("web")
    served.later()
    assert leased(served.root) == [root]
    assert drive.content(file) == noise(200_000, 2)
    assert drive.names(directory) == [b"deep", b"file"]
    assert drive.content(drive.walk(directory, b"deep/file")) == b"2"
    assert refusal(drive, served.files, b"web@1970-01-01T00:00:02Z") == errno.ENOENT
    with pytest.raises(Refused):
        drive.walk(drive.attach(served.files, b"web"), b"1970-01-01T00:00:02Z")
    del file
    served.later()
    assert leased(served.root) == [root]
    del directory
    served.later()
    assert leased(served.root) == []


def test_a_version_that_was_forgotten_a_moment_ago_is_not_entered(served: Served) -> None:
    """The server has not looked at the catalog since."""
    names = served.drive.walk(served.drive.attach(served.files, b""), b"web")
    served.forget("web")
    entering: tuple[Callable[[], File], ...] = (
        lambda: served.drive.attach(served.files, b"web@latest"),
        lambda: served.drive.walk(names, b"latest"),
        lambda: served.drive.walk(names, b"1970-01-01T00:00:02Z"),
    )
    for enter in entering:
        with pytest.raises(Refused) as refused:
            enter()
        assert refused.value.errno == errno.ENOENT
    assert leased(served.root) == []
    assert served.drive.walk(names, b"1970-01-01T00:00:01Z")


def test_a_lease_that_nobody_needs_ends_soon_after_its_version_is_forgotten(
    served: Served,
) -> None:
    """What is cached of it does not count."""
    drive, user = served.drive, User(b"root", 0)
    kept = served.root_of("web@~1")
    for aname in (b"web@latest", b"web@latest:/dir", b"web@~1"):
        for files in (served.files, GuardedFilesystem(served.files)):
            for _, file in drive.entries(drive.attach(files, aname, user)):
                drive(file.attributes)
            drive.walk(drive.attach(files, aname, user), b"..")
    drive.content(drive.walk(drive.attach(served.files, b"web"), b"latest/dir/file"))
    del file
    served.later()
    assert len(leased(served.root)) == 2  # the catalog has them, so that costs nothing
    served.forget("web")
    gc.disable()
    try:
        served.later()
        assert leased(served.root) == [kept]
    finally:
        gc.enable()


def test_a_forgotten_version_that_is_renamed_is_entered_under_its_new_name(
    served: Served,
) -> None:
    drive = served.drive
    file = drive.walk(drive.attach(served.files, b"web"), b"latest/dir/file")
    with Store.open(served.root, "write") as store:
        version = find_version(store, "web")
        assert version.record is not None
        value = version.record.value
        store.commit([(version_key("new", version.time_ns), value)], [version.record])
    served.later()
    again = drive.walk(drive.attach(served.files, b"new"), b"latest/dir/file")
    assert drive.content(file) == drive.content(again) == noise(200_000, 2)
    del file, again
    served.later()
    assert drive.attach(served.files, b"new@latest").kind


def test_two_sessions_that_enter_at_once_share_a_lease(served: Served) -> None:
    drive = served.drive
    drive.attach(served.files, b"")
    drive(served.files.catalog.current)
    loads = []
    for _ in range(2):
        with pytest.raises(Cold) as cold:
            served.files.attach(User(), b"web@latest")
        loads.append(cold.value.load)
    assert loads[0].key == loads[1].key
    loads[0].run()  # the loader runs one for both
    roots = [served.files.attach(User(), b"web@latest") for _ in range(2)]
    assert roots[0] is roots[1]
    assert leased(served.root) == [served.root_of("web")]


@pytest.mark.slow
def test_five_thousand_versions_take_a_bounded_number_of_descriptors(root: Path) -> None:
    count = 5000
    with Store.open(root, "write") as store:
        entry = find_version(store, "web").root
        made = [
            replace(find_version(store, "web"), time_ns=(10 + number) * SECOND, name="many")
            for number in range(count)
        ]
        store.commit(
            [
                (
                    version_key("many", each.time_ns),
                    encode_version(replace(each, root=replace(entry, mtime_ns=each.time_ns))),
                )
                for each in made
            ]
        )
    with serving(root) as served:
        drive = served.drive
        names = drive.walk(drive.attach(served.files, b""), b"many")
        drive.content(drive.walk(names, b"latest/dir/file"))
        before = len(os.listdir("/proc/self/fd"))
        assert before + 100 < min(count, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        standing: list[File] = []
        for name in drive.names(names):
            standing.append(drive.walk(names, name + b"/dir/file"))
            drive.loads.clear()
        assert len(os.listdir("/proc/self/fd")) == before
        assert len(lease_files(root)) == 1
        assert len(leased(root)) == count
        with Store.open(root, "write") as store:
            store.commit(deletes=[each.record for each in versions(store, "many") if each.record])
        served.later()
        assert len(leased(root)) == count
        assert drive.content(standing[1234]) == noise(200_000, 2)
        standing.clear()
        served.later()
        assert leased(root) == []
        [lease_file] = lease_files(root)
        assert (root / "leases" / lease_file).stat().st_size == 8
