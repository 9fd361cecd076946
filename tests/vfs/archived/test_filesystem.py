"""Archived versions as a file system: what is listed, what an aname gives, and that it agrees."""

import errno
import gc
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.driving import Driver
from tests.support.manyfiles import archive_many
from tests.support.stores import new_store
from tests.support.trees import archived, odd_tree, plain_tree, remove
from tests.support.walker import look_at
from ventifs.store import Store, score_of
from ventifs.tree.objects.records import Directory, Tree, encode
from ventifs.tree.versions.catalog import find_version, versions
from ventifs.vfs.access.guard import GuardedFilesystem
from ventifs.vfs.archived.exports import OfferedSnapshot
from ventifs.vfs.archived.filesystem import ArchiveFilesystem
from ventifs.vfs.archived.served_versions import Split
from ventifs.vfs.errnos import errno_of
from ventifs.vfs.interface import (
    DIRECTORY,
    FILE,
    SYMLINK,
    Cold,
    File,
    Identity,
    Opened,
    Refused,
    User,
)

SECOND = 10**9
NOON = 1_790_000_000 * SECOND
WHENS = [b"2026-09-21T14:13:20Z", b"2026-09-21T14:13:20.5Z", b"2026-09-22T14:13:20Z"]
TIMES = [NOON, NOON + SECOND // 2, NOON + 86_400 * SECOND]


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def served(
    store: Path, *, scores: bool = False, cache: int = 8 << 20, clock: Clock | None = None
) -> Iterator[ArchiveFilesystem]:
    split = Split.of(cache)
    with Store.open(store, cache_bytes=split.clumps) as opened:
        yield ArchiveFilesystem(opened, split, scores=scores, clock=clock or Clock())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return new_store(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "source"
    remove(tmp_path / "source")


def small(root: Path, text: bytes = b"first\n") -> Path:
    """A root with what most tests need."""
    (root / "etc").mkdir(parents=True, exist_ok=True)
    (root / "etc" / "motd").write_bytes(text)
    (root / "usr" / "lib").mkdir(parents=True, exist_ok=True)
    (root / "usr" / "lib" / "big").write_bytes(os.urandom(300_000))
    if not (root / "lib").is_symlink():
        (root / "lib").symlink_to("usr/lib")
    return root


@pytest.fixture
def web(store: Path, source: Path) -> Path:
    """A store with three versions of web01 and one of db."""
    for number, time_ns in enumerate(TIMES):
        archived(store, small(source, b"%d\n" % number), "web01", time_ns=time_ns)
    archived(store, source, "db", time_ns=NOON)
    return store


def refusal(operation: Callable[[], object]) -> int:
    """The errno that an operation ends with."""
    with pytest.raises(Exception) as raised:
        Driver()(operation)
    assert not isinstance(raised.value, Cold)
    return errno_of(raised.value)


# --- agreement --------------------------------------------------------------------------------


def agree(drive: Driver, file: File, path: bytes) -> int:
    """Compare a served directory with the one it was archived from; how many files there are."""
    count = 1
    attributes, status = drive(file.attributes), os.lstat(path)
    assert (attributes.mode, attributes.uid, attributes.gid, attributes.mtime_ns) == (
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
    ), path
    assert attributes.atime_ns == attributes.ctime_ns == attributes.mtime_ns
    assert {name: drive(file.xattr, name) for name in drive(file.xattr_names)} == {
        os.fsencode(name): os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }
    if not stat.S_ISDIR(status.st_mode):
        assert attributes.nlink == status.st_nlink, path
        assert attributes.rdev == status.st_rdev
        if stat.S_ISREG(status.st_mode):
            assert (attributes.size, file.identity.kind) == (status.st_size, FILE)
            assert drive.content(file) == Path(os.fsdecode(path)).read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            assert file.readlink() == os.readlink(path)
            assert (attributes.size, file.identity.kind) == (status.st_size, SYMLINK)
        return count
    assert (attributes.nlink, attributes.size, file.identity.kind) == (1, 4096, DIRECTORY)
    listed = dict(drive.entries(file))
    assert list(listed) == sorted(os.listdir(path))
    for name, child in listed.items():
        walked = drive.walk(file, name)
        assert (walked.identity, walked.name) == (child.identity, name)
        assert stat.S_ISDIR(drive(walked.attributes).mode) is False or walked.walk(b"..") is file
        count += agree(drive, walked, path + b"/" + name)
    return count


@pytest.mark.parametrize("cache", [1, 64 << 20])
def test_a_version_agrees_with_what_was_archived(store: Path, source: Path, cache: int) -> None:
    (odd_tree if os.geteuid() == 0 else plain_tree)(source)
    archived(store, source, "web01")
    with served(store, cache=cache) as files:
        drive = Driver()
        count = agree(drive, drive.attach(files, b"web01@latest"), os.fsencode(source))
        assert count == len(look_at(source))


def test_the_loop_never_touches_the_index_or_a_file(
    web: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever reads the store, while no load runs, fails."""
    with served(web, scores=True) as files:
        reading = False
        for name in ("get", "records", "_load", "has_many"):
            whole = getattr(Store, name)

            def guarded(
                self: Store, *args: object, _whole: Callable[..., object] = whole
            ) -> object:
                assert reading, "the loop read the store"
                return _whole(self, *args)

            monkeypatch.setattr(Store, name, guarded)

        class Watched(Driver):
            def __call__(self, operation, *args, **kwargs):  # type: ignore[no-untyped-def]
                nonlocal reading
                while True:
                    try:
                        return operation(*args, **kwargs)
                    except Cold as cold:
                        reading = True
                        cold.load.run()
                        reading = False

        drive = Watched()
        root = drive.attach(files, b"")
        motd = drive.walk(root, b"web01/latest/etc/motd")
        assert drive.content(motd) == b"2\n"
        assert drive(motd.attributes).nlink == 1


# --- names and versions -----------------------------------------------------------------------


def test_the_root_lists_names_and_a_name_its_versions(web: Path) -> None:
    with served(web) as files:
        drive = Driver()
        root = drive.attach(files, b"")
        assert drive.names(root) == [b"db", b"web01"]
        name = drive.walk(root, b"web01")
        assert drive.names(name) == [*WHENS, b"latest"]
        assert [drive.content(drive.walk(name, when + b"/etc/motd")) for when in WHENS] == [
            b"0\n",
            b"1\n",
            b"2\n",
        ]
        latest = drive.walk(name, b"latest")
        assert latest.identity == drive.walk(name, WHENS[2]).identity
        assert drive(latest.attributes) == drive(drive.walk(name, WHENS[2]).attributes)
        assert (root.name, name.name, latest.name) == (b"/", b"web01", b"latest")
        assert latest.walk(b"..").name == b"web01"
        assert name.walk(b"..") is root
        assert root.walk(b"..") is root
        assert root.walk(b".") is root
        assert latest.walk(b".") is latest
        for listed, file in drive.entries(name):
            assert file.identity == drive.walk(name, listed).identity
        assert drive(name.attributes).mtime_ns == TIMES[2]
        assert stat.S_ISDIR(drive(root.attributes).mode)


@pytest.mark.parametrize("start", [0, 1, 2, 3, 4, 9])
def test_listings_go_on_from_any_ordinal(web: Path, start: int) -> None:
    with served(web) as files:
        drive = Driver()
        name = drive.attach(files, b"web01")
        assert [listed for listed, _ in drive.entries(name, start)] == [*WHENS, b"latest"][start:]
        usr = drive.attach(files, b"web01@latest")
        assert [listed for listed, _ in drive.entries(usr, start)] == [b"etc", b"lib", b"usr"][
            start:
        ]


@pytest.mark.parametrize(
    ("aname", "version", "inside"),
    [
        (b"web01@latest", 2, [b"etc", b"lib", b"usr"]),
        (b"/web01@latest", 2, [b"etc", b"lib", b"usr"]),
        (b"web01@~0", 2, [b"etc", b"lib", b"usr"]),
        (b"web01@~2", 0, [b"etc", b"lib", b"usr"]),
        (b"web01@2026-09-21", 1, [b"etc", b"lib", b"usr"]),
        (b"web01@2026-09", 2, [b"etc", b"lib", b"usr"]),
        (b"web01@2026-09-21T14:13:20Z", 0, [b"etc", b"lib", b"usr"]),
        (b"web01@2026-09-21T14:13:20", 1, [b"etc", b"lib", b"usr"]),
        (b"web01@2026-09-21T16:13:20.5+02:00", 1, [b"etc", b"lib", b"usr"]),
        (b"web01@latest:/usr", 2, [b"lib"]),
        (b"/web01@latest:/usr/", 2, [b"lib"]),
        (b"web01@latest:/usr/./lib//", 2, [b"big"]),
        (b"web01@latest:/", 2, [b"etc", b"lib", b"usr"]),
        (b"web01:/etc", 2, [b"motd"]),
    ],
)
def test_an_aname_picks_a_directory(
    web: Path, aname: bytes, version: int, inside: list[bytes]
) -> None:
    with served(web) as files:
        drive = Driver()
        root = drive.attach(files, aname)
        assert drive.names(root) == inside
        assert root.name == b"/"
        assert root.walk(b"..") is root
        by_time = drive.attach(files, b"web01@" + WHENS[version] + b":/etc")
        assert drive.content(drive.walk(by_time, b"motd")) == b"%d\n" % version
        path = aname.decode().partition(":/")[2].replace("/./", "/").replace("//", "/").strip("/")
        walked = drive.attach(files, b"web01@" + WHENS[version])
        if path:
            walked = drive.walk(walked, path.encode())
        assert root.identity == walked.identity
        below = drive.walk(root, inside[0])
        if below.identity.kind == DIRECTORY:
            assert drive.walk(below, b"../..") is root


def test_an_attach_to_a_deep_path_takes_one_load(store: Path, source: Path) -> None:
    deep = source.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    (deep / "file").touch()
    archived(store, source, "web01")
    with served(store, cache=1) as files:
        drive = Driver()
        assert drive.names(drive.attach(files, b"web01@latest:/a/b/c/d/e/f/g/h")) == [b"file"]
        assert len(drive.loads) == 4  # the catalog, the lease, the path, the listing


def test_nothing_leads_out_of_an_attach(web: Path) -> None:
    """Also not through files that somebody else's walk from the version's root made."""
    with served(web) as files:
        drive = Driver()
        whole = drive.attach(files, b"web01@latest")
        drive.walk(whole, b"usr/lib/big")
        usr = drive.attach(files, b"web01@latest:/usr")
        at = drive.walk(usr, b"lib")
        for _ in range(5):
            at = drive.walk(at, b"..")
        assert at is usr
        assert drive.names(at) == [b"lib"]


@pytest.mark.parametrize(
    ("aname", "number"),
    [
        (b"nosuch", errno.ENOENT),
        (b"web01@~3", errno.ENOENT),
        (b"web01@2025", errno.ENOENT),
        (b"web01@2026-09-23", errno.ENOENT),
        (b"web01@", errno.ENOENT),
        (b"web01@soon", errno.ENOENT),
        (b"web01@latest:/nosuch", errno.ENOENT),
        (b"web01@latest:/usr/../etc", errno.ENOENT),
        (b"web01@latest:/etc/motd", errno.ENOTDIR),
        (b"web01@latest:/etc/motd/x", errno.ENOTDIR),
        (b"web01@latest:/lib", errno.ELOOP),
        (b"web01@latest:/lib/big", errno.ELOOP),
        (b"web01/latest", errno.ENOENT),
        (b"../web01", errno.ENOENT),
        (b"//web01", errno.ENOENT),
        (b"score:0123456789abcdef", errno.ENOENT),
        (b"web01\0", errno.ENOENT),
        (b"\xff\xfe", errno.ENOENT),
        (b"web01@\xff", errno.ENOENT),
        (b":/usr", errno.ENOENT),
        (b"web01@latest@latest", errno.ENOENT),
        (b"a" * 60_000, errno.ENOENT),
        ("web01@\u0664\u0662\u0660\u0660".encode(), errno.ENOENT),
        (b"web01:/" + b"a/" * 2100, errno.ENAMETOOLONG),
        (b"web01:/" + b"a/" * 2000, errno.ENOENT),
        (b"web01@9999", errno.ENOENT),
        (b"web01@~" + b"9" * 5000, errno.ENOENT),
    ],
)
def test_what_is_not_there_is_refused(web: Path, aname: bytes, number: int) -> None:
    with served(web) as files:
        assert refusal(lambda: Driver().attach(files, aname)) == number


@pytest.mark.parametrize(
    "name",
    [
        b"nosuch",
        b"latest",
        b"score",
        b"\xff",
        b"web01@latest",
        b"WEB01",
        b"web01:",
        b"~0",
        b"x" * 255,
        b"2026",
    ],
)
def test_only_listed_names_are_walked(web: Path, name: bytes) -> None:
    with served(web) as files:
        drive = Driver()
        root = drive.attach(files, b"")
        with pytest.raises(Refused) as refused:
            drive.walk(root, name)
        assert refused.value.errno == errno.ENOENT
        if name != b"latest":
            with pytest.raises(Refused) as refused:
                drive.walk(root, b"web01/" + name)
            assert refused.value.errno == errno.ENOENT


def test_files_are_what_their_types_are(store: Path, source: Path) -> None:
    small(source)
    os.mkfifo(source / "fifo")
    archived(store, source, "web01")
    with served(store) as files:
        drive = Driver()
        root = drive.attach(files, b"web01@latest")
        motd, link, fifo = (drive.walk(root, path) for path in (b"etc/motd", b"lib", b"fifo"))
        assert refusal(lambda: drive.walk(motd, b"x")) == errno.ENOTDIR
        assert refusal(lambda: drive.walk(link, b"big")) == errno.ENOTDIR
        assert refusal(lambda: link.open(0)) == errno.ELOOP
        assert refusal(motd.readlink) == errno.EINVAL
        assert refusal(root.readlink) == errno.EINVAL
        assert refusal(lambda: motd.open(os.O_DIRECTORY)) == errno.ENOTDIR
        assert refusal(lambda: motd.xattr(b"security.capability")) == errno.ENODATA
        assert refusal(lambda: root.open(0).read(0, 10)) == errno.EISDIR
        assert refusal(lambda: list(motd.open(0).entries(0))) == errno.ENOTDIR
        assert drive.content(fifo) == b""
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC):
            assert refusal(lambda flags=flags: motd.open(flags)) == errno.EROFS  # type: ignore[misc]
            assert refusal(lambda flags=flags: root.open(flags)) == errno.EROFS  # type: ignore[misc]
        for directory in (root, drive.attach(files, b"")):
            assert refusal(lambda at=directory: at.mkdir(b"x", 0o755, 0)) == errno.EROFS  # type: ignore[misc]
            assert refusal(lambda at=directory: at.create(b"x", 0, 0, 0)) == errno.EROFS  # type: ignore[misc]
        opened = motd.open(os.O_DIRECT)
        assert drive.read(opened, 2, 100) == b"rst\n"
        assert drive.read(opened, 100, 100) == b""
        assert drive(root.statfs).namelen == 255


# --- qids -------------------------------------------------------------------------------------


def qids(drive: Driver, file: File, path: bytes = b"") -> Iterator[tuple[bytes, tuple[int, int]]]:
    yield path, file.identity[1:]
    if file.identity.kind == DIRECTORY:
        for name, child in drive.entries(file):
            yield from qids(
                drive,
                drive.walk(file, name) if child.identity.kind == DIRECTORY else child,
                path + b"/" + name,
            )


def test_qids_are_equal_for_the_same_file_of_the_same_version_only(
    store: Path, source: Path
) -> None:
    plain_tree(source)
    archived(store, source, "web01", time_ns=TIMES[0])
    archived(store, source, "web01", time_ns=TIMES[1])
    found = []
    for _ in range(2):  # the same after a restart
        with served(store) as files:
            drive = Driver()
            found.append(
                [dict(qids(drive, drive.attach(files, b"web01@" + when))) for when in WHENS[:2]]
            )
    assert found[0] == found[1]
    first, second = found[0]
    assert not set(first.values()) & set(second.values())
    linked = {first[path] for path in (b"/links/b", b"/links/c", b"/links/in/a")}
    assert len(linked) == 1
    assert len(set(first.values())) == len(first) - 2
    paths = [path for _, path in first.values()]
    assert all(version for version, _ in first.values())
    assert all(0 < path < 2**64 - 2 for path in paths)


# --- versions come and go ---------------------------------------------------------------------


def test_a_new_version_appears_and_nothing_below_an_old_one_changes(
    store: Path, source: Path
) -> None:
    clock = Clock()
    archived(store, small(source, b"old\n"), "web01", time_ns=TIMES[0])
    with served(store, clock=clock) as files:
        drive = Driver()
        root = drive.attach(files, b"")
        name = drive.walk(root, b"web01")
        latest = drive.walk(name, b"latest")
        etc = drive.walk(latest, b"etc")
        archived(store, small(source, b"new\n"), "web01", time_ns=TIMES[1])
        archived(store, source, "other", time_ns=TIMES[0])
        assert drive.names(name) == [WHENS[0], b"latest"]  # for a second at most
        clock.now += 1.5
        assert drive.names(name) == [*WHENS[:2], b"latest"]
        assert drive.names(root) == [b"other", b"web01"]
        assert drive.content(drive.walk(name, b"latest/etc/motd")) == b"new\n"
        assert drive.content(drive.walk(etc, b"motd")) == b"old\n"
        assert drive.content(drive.walk(latest, b"etc/motd")) == b"old\n"
        assert drive.content(drive.walk(drive.attach(files, b"web01:/etc"), b"motd")) == b"new\n"
        assert name.identity.number == drive.walk(root, b"web01").identity.number


def test_the_latest_is_another_when_the_future_becomes_past(store: Path, source: Path) -> None:
    for number in range(3):
        archived(store, small(source, b"%d\n" % number), "web01", time_ns=TIMES[number])
    now_ns = [TIMES[1]]
    split = Split(8 << 20, 8 << 20, 64, 8 << 20)
    with Store.open(store) as opened:
        files = ArchiveFilesystem(opened, split, clock=Clock(), now_ns=lambda: now_ns[0])
        drive = Driver()

        def contents(*anames: bytes) -> list[bytes]:
            return [drive.content(drive.walk(drive.attach(files, each), motd)) for each in anames]

        motd = b"etc/motd"
        root = drive.attach(files, b"")
        name = drive.walk(root, b"web01")
        latest = drive.walk(name, b"latest")
        before = name.identity
        ways = (b"web01@latest", b"web01:/", b"web01@~0", b"web01@~1")
        assert contents(*ways) == [b"1\n", b"1\n", b"1\n", b"0\n"]
        assert drive.content(drive.walk(root, b"web01/latest/etc/motd")) == b"1\n"
        assert drive.names(name) == [*WHENS[:3], b"latest"]  # it can be named
        assert drive.content(drive.walk(name, WHENS[2] + b"/etc/motd")) == b"2\n"
        assert name.attributes().mtime_ns == root.attributes().mtime_ns == TIMES[1]
        listed = {each: identity for _, each, identity, _ in name.open(os.O_RDONLY).entries(0)}
        assert listed[b"latest"] == latest.identity != listed[WHENS[2]]

        now_ns[0] = TIMES[2]
        assert contents(*ways) == [b"2\n", b"2\n", b"2\n", b"1\n"]
        assert drive.content(drive.walk(name, b"latest/etc/motd")) == b"2\n"
        assert drive.content(drive.walk(latest, motd)) == b"1\n"  # whoever is in there stays
        assert name.identity.number == before.number
        assert name.identity.version != before.version  # a client's cache must not go on
        assert name.attributes().mtime_ns == TIMES[2]
        listed = {each: identity for _, each, identity, _ in name.open(os.O_RDONLY).entries(0)}
        assert listed[b"latest"] != latest.identity

        now_ns[0] = 0  # all lie in the future
        assert contents(*ways) == [b"2\n", b"2\n", b"2\n", b"1\n"]


@pytest.mark.parametrize("guarded", [False, True])
def test_in_a_session_a_name_stands_for_what_it_stood_for_first(
    store: Path, source: Path, guarded: bool
) -> None:
    clock = Clock()
    archived(store, small(source, b"old\n"), "web01", time_ns=TIMES[0])
    with served(store, clock=clock) as files:
        drive = Driver()
        shared = GuardedFilesystem(files) if guarded else files
        session = shared.session()
        root = User(b"root", 0)
        motd = b"etc/motd"
        before = drive.attach(session, b"web01@latest", root)
        archived(store, small(source, b"new\n"), "web01", time_ns=TIMES[1])
        with Store.open(store, "write") as opened:
            record = versions(opened, "web01")[0].record
            assert record is not None
            opened.commit(deletes=[record])
        clock.now += 1.5
        again = drive.attach(session, b"web01@latest", root)
        assert again.identity == before.identity
        assert drive.content(drive.walk(again, motd)) == b"old\n"
        other = drive.attach(session.session(), b"web01@latest", root)
        assert drive.content(drive.walk(other, motd)) == b"new\n"


def test_looking_costs_one_load_a_second_and_little_when_nothing_changed(
    web: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with served(web, clock=clock) as files:
        drive = Driver()
        root = drive.attach(files, b"")
        assert len(drive.loads) == 1

        def refused(*_: object) -> None:
            raise AssertionError("the catalog was read again")

        monkeypatch.setattr(Store, "records", refused)
        for _ in range(20):
            clock.now += 0.3
            drive.names(root)
            drive.walk(root, b"web01/latest")
        assert 5 <= len(drive.loads) - 1 <= 7


def test_a_look_that_takes_longer_than_it_is_good_for_is_good_all_the_same(web: Path) -> None:
    """Or a slow machine would look again and again, and answer nothing."""
    clock = Clock()

    def slowly() -> bytes:
        clock.now += 5
        return generation

    with served(web, clock=clock) as files, pytest.MonkeyPatch.context() as patch:
        generation = files.catalog._store.generation
        patch.setattr(Store, "generation", property(lambda _: slowly()))
        drive = Driver()
        assert drive.names(drive.attach(files, b"")) == [b"db", b"web01"]
        assert len(drive.loads) <= 2


def test_a_forgotten_version_is_served_to_whoever_has_it_and_to_nobody_else(
    web: Path,
) -> None:
    clock = Clock()
    with served(web, clock=clock) as files, Store.open(web, "write") as writing:
        drive = Driver()
        mounted = drive.attach(files, b"web01@latest")
        root = drive.attach(files, b"")
        record = versions(writing, "web01")[-1].record
        assert record is not None
        writing.commit(deletes=[record])
        clock.now += 2
        assert drive.names(drive.walk(root, b"web01")) == [*WHENS[:2], b"latest"]
        assert refusal(lambda: drive.attach(files, b"web01@" + WHENS[2])) == errno.ENOENT
        assert drive.content(drive.walk(mounted, b"etc/motd")) == b"2\n"
        assert drive.content(drive.walk(drive.attach(files, b"web01@latest:/etc"), b"motd")) == (
            b"1\n"
        )
        for left in versions(writing):
            assert left.record is not None
            writing.commit(deletes=[left.record])
        clock.now += 2
        assert drive.names(root) == []
        assert drive.content(drive.walk(mounted, b"etc/motd")) == b"2\n"


def test_another_process_archives_much_meanwhile(store: Path, source: Path) -> None:
    """The index grows by thousands of pages under a reader that has it mapped."""
    clock = Clock()
    archived(store, small(source), "web01")
    with served(store, clock=clock) as files:
        drive = Driver()
        root = drive.attach(files, b"")
        assert drive.names(root) == [b"web01"]
        assert processes.run(archive_many, store, 20_000, 3) == 0
        clock.now += 2
        assert drive.names(root) == [b"many", b"web01"]
        assert len(drive.names(drive.walk(root, b"many"))) == 4
        latest = drive.walk(root, b"many/latest")
        names = drive.names(latest)
        assert len(names) == 20_000
        for name in names[::5000]:
            assert drive.content(drive.walk(latest, name)).startswith(b"version 2 of " + name)


def test_a_damaged_version_record_hides_no_other(
    web: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Store.open(web, "write") as writing:
        writing.commit([(b"version\0web01\0" + bytes(8), b"no version")])
    with served(web) as files:
        drive = Driver()
        assert len(drive.names(drive.attach(files, b"web01"))) == 4
        assert "cannot be served" in caplog.text


# --- views and scores -------------------------------------------------------------------------


def test_a_view_shows_what_is_allowed_and_nothing_else(web: Path) -> None:
    with served(web, scores=True) as files:
        drive = Driver()
        view = files.view(lambda name: name == "db")
        root = drive.attach(view, b"")
        assert drive.names(root) == [b"score", b"db"]
        assert drive(root.attributes).mtime_ns == NOON
        with pytest.raises(Refused) as refused:
            drive.walk(root, b"web01")
        absent = refusal(lambda: drive.walk(root, b"nosuch"))
        assert refused.value.errno == absent == errno.ENOENT
        for aname in (b"web01", b"web01@latest", b"web01:/etc", b"web01@latest:/nosuch"):
            assert refusal(lambda aname=aname: drive.attach(view, aname)) == errno.ENOENT  # type: ignore[misc]
        mine = drive.names(drive.walk(root, b"score"))
        assert len(mine) == 1
        everything = drive.names(drive.attach(files, b"score/" + mine[0]))
        assert everything == [b"etc", b"lib", b"usr"]
        hidden = set(drive.names(drive.walk(drive.attach(files, b""), b"score"))) - set(mine)
        assert hidden
        for score in hidden:
            assert refusal(lambda s=score: drive.attach(view, b"score:" + s)) == errno.ENOENT  # type: ignore[misc]
            assert refusal(lambda s=score: drive.walk(root, b"score/" + s)) == errno.ENOENT  # type: ignore[misc]


def test_a_view_that_is_not_used_keeps_no_snapshot(store: Path, source: Path) -> None:
    clock = Clock()
    small(source)

    def kept() -> int:
        gc.collect()
        return sum(isinstance(each, OfferedSnapshot) for each in gc.get_objects())

    with served(store, scores=True, clock=clock) as files:
        drive, views, before = Driver(), [], kept()
        for time_ns in TIMES:
            archived(store, source, "web01", time_ns=time_ns)
            clock.now += 1.5
            views.append(files.view(lambda name: True))
            root = drive.attach(views[-1], b"")
            assert drive.names(root) == [b"score", b"web01"]
            assert drive.names(drive.walk(root, b"score"))
        assert kept() - before <= 1


def test_open_directories_keep_no_snapshot(store: Path, source: Path) -> None:
    """They list what was there when reading began, from any ordinal, and share it."""
    clock = Clock()
    small(source)
    with served(store, scores=True, clock=clock) as files:
        gc.collect()
        before = sum(isinstance(each, OfferedSnapshot) for each in gc.get_objects())
        drive = Driver()
        held: list[Opened] = []
        listed: list[list[tuple[int, bytes, Identity, int]]] = []
        for number, time_ns in enumerate(TIMES):
            small(source, b"%d" % number)
            archived(store, source, "web01", time_ns=time_ns)
            archived(store, source, f"db{number}", time_ns=time_ns)
            clock.now += 1.5
            root = drive.attach(files, b"")
            for at in (root, drive.walk(root, b"web01"), drive.walk(root, b"score")):
                pair = at.open(0), drive(at.open, 0)
                held += pair
                listed += [drive(lambda one=one: list(one.entries(0))) for one in pair]  # type: ignore[misc]
                assert pair[0]._items is pair[1]._items  # type: ignore[attr-defined]
        gc.collect()
        assert sum(isinstance(each, OfferedSnapshot) for each in gc.get_objects()) - before <= 1
        for opened, entries in zip(held, listed, strict=True):
            for start in range(1, len(entries)):
                again = [(*each[:2], each[2].number) for each in opened.entries(start)]
                assert again == [(*each[:2], each[2].number) for each in entries[start:]]
        assert [cookie for cookie, *_ in listed[0]] == [1, 2, 3, 4, 5]
        assert len(listed[-1]) == 5


def test_a_session_is_held_to_a_version_whatever_the_path(web: Path, source: Path) -> None:
    clock = Clock()
    with served(web, clock=clock) as files:
        drive, session = Driver(), files.session()
        first = drive.attach(session, b"web01@latest")
        archived(web, small(source, b"newer"), "web01", time_ns=TIMES[-1] + SECOND)
        clock.now += 1.5
        motd = drive.walk(drive.attach(session, b"web01@latest:/etc"), b"motd")
        assert motd.identity == drive.walk(first, b"etc/motd").identity
        for number in range(50):
            drive.attach(session, b"web01:" + b"/" * number + b"/etc")
        assert len(session._bound) == 1


def test_a_score_gives_the_root_of_a_version(web: Path) -> None:
    with served(web, scores=True) as files, Store.open(web) as reading:
        drive = Driver()
        root = drive.attach(files, b"")
        scores = drive.names(drive.walk(root, b"score"))
        assert len(scores) == 3
        for score in scores:
            version = find_version(reading, f"score:{score.decode()}")
            walked = drive.walk(root, b"score/" + score)
            by_time = drive.attach(files, f"{version}".encode())
            for aname in (b"score:" + score, b"/score/" + score, b"score:" + score[:10].upper()):
                assert drive.attach(files, aname).identity == walked.identity == by_time.identity
            assert drive.walk(walked, b"..").name == b"score"
            assert drive.walk(walked, b"../..") is root
            etc = drive.attach(files, b"score:" + score + b":/etc")
            assert drive.names(etc) == [b"motd"]
        assert refusal(lambda: drive.walk(root, b"score/" + scores[0][:10])) == errno.ENOENT
        assert refusal(lambda: drive.attach(files, b"score:1234567")) == errno.ENOENT


def test_without_scores_there_are_none(web: Path) -> None:
    with served(web, scores=True) as files:
        score = Driver().names(Driver().walk(Driver().attach(files, b""), b"score"))[0]
    with served(web) as files:
        drive = Driver()
        root = drive.attach(files, b"")
        assert b"score" not in drive.names(root)
        for aname in (b"score:" + score, b"score/" + score, b"/score/" + score, b"score"):
            assert refusal(lambda aname=aname: drive.attach(files, aname)) == errno.ENOENT  # type: ignore[misc]
        assert refusal(lambda: drive.walk(root, b"score")) == errno.ENOENT


def test_an_export_named_score_is_reached_by_its_versions(store: Path, source: Path) -> None:
    archived(store, small(source), "score")
    with served(store, scores=True) as files:
        drive = Driver()
        assert drive.names(drive.attach(files, b"")) == [b"score"]
        assert drive.names(drive.attach(files, b"score@latest")) == [b"etc", b"lib", b"usr"]


def test_crafted_bytes_never_become_a_directory(store: Path, source: Path) -> None:
    """A file whose bytes are a directory's node, and a version record's root entry."""
    archived(store, small(source), "victim")
    with Store.open(store) as reading:
        root = versions(reading)[0].root
        assert isinstance(root.detail, Directory)
        assert isinstance(root.detail.content, Tree)
        node = bytes(reading.get(root.detail.content.score))  # type: ignore[arg-type]
    evil = source / "evil"
    evil.mkdir()
    (evil / "node").write_bytes(node)
    (evil / "root").write_bytes(encode(root) + b"\xc1")
    archived(store, evil, "evil")
    with served(store, scores=True) as files:
        drive = Driver()
        view = files.view(lambda name: name == "evil")
        for crafted in (root.detail.content.score, score_of(encode(root) + b"\xc1")):
            for aname in (b"score:%s", b"/score/%s"):
                named = aname % crafted.hex().encode()
                assert refusal(lambda aname=named: drive.attach(view, aname)) == errno.ENOENT  # type: ignore[misc]
        file = drive.walk(drive.attach(view, b"evil@latest"), b"node")
        assert file.identity.kind == FILE
        assert drive.content(file) == node
        assert refusal(lambda: drive.walk(file, b"etc")) == errno.ENOTDIR
        # Also once the same block is known as a node, and as a block.
        whole = drive.attach(files, b"victim@latest")
        assert drive.names(whole) == [b"etc", b"lib", b"usr"]
        assert drive.content(file) == node
        assert refusal(lambda: drive.walk(file, b"etc")) == errno.ENOTDIR
