"""As whom things are done: users, their groups, and the group of what they make."""

import errno
import os
import stat
from collections.abc import Callable, Iterator

import pytest

from tests.support.live import USERS, Guest, Live, live_export, needs_root
from ventifs.vfs.interface import User
from ventifs.vfs.live.access import NO_GROUP

pytestmark = needs_root
NOBODY = 65534


@pytest.fixture
def live() -> Iterator[Live]:
    with live_export() as live:
        live.path.chmod(0o777)
        yield live


def owner(live: Live, name: str) -> tuple[int, int]:
    """The owner and group of a file, as the host sees it."""
    found = os.lstat(live.path / name)
    return found.st_uid, found.st_gid


MAKERS: dict[str, Callable[[Guest, str, int], object]] = {
    "create": lambda guest, path, gid: guest.create(path, gid=gid)[1].close(),
    "mkdir": lambda guest, path, gid: guest.mkdir(path, gid=gid),
    "mknod": lambda guest, path, gid: guest.run(
        guest._within(path)[0].mknod, guest._within(path)[1], stat.S_IFIFO | 0o600, 0, gid
    ),
    "symlink": lambda guest, path, gid: guest.run(
        guest._within(path)[0].symlink, guest._within(path)[1], b"target", gid
    ),
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("uid", "gid", "becomes"),
    [
        (1000, 1000, 1000),
        (1000, 4001, 4001),  # of her groups
        (1000, 4002, 4002),
        (1000, 1001, 1000),  # of none of them
        (1000, 0, 1000),
        (1000, NO_GROUP, 1000),
        (1002, 4001, 1002),
        (0, 0, 0),
        (0, 1234, 1234),  # root gives files to any group
        (0, NO_GROUP, 0),
    ],
)
def test_what_is_made_is_its_maker_s(
    live: Live, make: str, uid: int, gid: int, becomes: int
) -> None:
    guest = live.attach(uid)
    MAKERS[make](guest, "it", gid)
    assert owner(live, "it") == (uid, becomes)
    MAKERS[make](guest, "next", NO_GROUP)  # the other group was for one operation
    assert owner(live, "next") == (uid, USERS[uid].gid)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("uid", [0, 1000, 1001])
def test_a_set_gid_directory_gives_its_group(live: Live, make: str, uid: int) -> None:
    (live.path / "d").mkdir()
    os.chown(live.path / "d", 0, 4002)
    (live.path / "d").chmod(0o2777)
    guest = live.attach(uid)
    MAKERS[make](guest, "d/it", USERS[uid].gid)
    assert owner(live, "d/it") == (uid, 4002)
    if make == "mkdir":
        assert os.stat(live.path / "d/it").st_mode & stat.S_ISGID


def test_no_set_gid_file_of_a_group_that_its_maker_is_not_in(live: Live) -> None:
    """CVE-2018-13405, CVE-2022-0358: a directory's group must not be had by a program."""
    (live.path / "d").mkdir()
    os.chown(live.path / "d", 0, 7)
    (live.path / "d").chmod(0o2777)
    guest = live.attach(1000)
    guest.create("d/program", 0o2775)[1].close()
    found = os.stat(live.path / "d/program")
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (7, 0o775)
    file = guest.at("d/program")
    guest.set(file, mode=0o6775)
    assert stat.S_IMODE(os.stat(live.path / "d/program").st_mode) == 0o4775
    guest.create("mine", 0o2775, gid=0)[1].close()  # never root's group
    assert owner(live, "mine") == (1000, 1000)


def test_supplementary_groups_count(live: Live) -> None:
    (live.path / "shared").mkdir()
    os.chown(live.path / "shared", 0, 4002)
    (live.path / "shared").chmod(0o770)
    alice, bob, carol = live.attach(1000), live.attach(1001), live.attach(1002)
    alice.put("shared/file", b"1")
    alice.put("shared/given", b"1", 0o644)
    alice.mkdir("shared/other-group", gid=4001)
    assert bob.content("shared/file") == b"1"
    assert carol.refused(carol.at, "shared/file") == errno.EACCES
    assert carol.refused(carol.at("shared").open, os.O_RDONLY) == errno.EACCES
    # while files are made for another group, the user is still in its own one
    (live.path / "own").mkdir()
    os.chown(live.path / "own", 0, 1000)
    (live.path / "own").chmod(0o770)
    MAKERS["create"](alice, "own/it", 4001)
    assert owner(live, "own/it") == (1000, 4001)


def test_permissions_are_the_host_s(live: Live) -> None:
    (live.path / "private").mkdir(0o700)
    (live.path / "private/file").write_bytes(b"1")
    (live.path / "file").write_bytes(b"1")
    (live.path / "file").chmod(0o600)
    root, alice = live.attach(0), live.attach(1000)
    assert alice.refused(alice.at, "private/file") == errno.EACCES
    assert alice.refused(alice.at("private").open, os.O_RDONLY) == errno.EACCES
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        assert alice.refused(alice.at("file").open, flags) == errno.EACCES
    assert root.content("private/file") == b"1"
    held = root.at("private")
    assert root.run(held.walk, b"file").attributes().size == 1


def test_sticky_directories(live: Live) -> None:
    (live.path / "tmp").mkdir()
    (live.path / "tmp").chmod(0o1777)
    alice, bob = live.attach(1000), live.attach(1001)
    alice.put("tmp/hers", b"1", 0o666)
    assert bob.refused(bob.unlink, "tmp/hers") == errno.EPERM
    assert bob.refused(bob.rename, "tmp/hers", "tmp/his") == errno.EPERM
    bob.put("tmp/his")
    assert bob.refused(bob.rename, "tmp/his", "tmp/hers") == errno.EPERM
    alice.unlink("tmp/hers")


def test_users_of_one_session_do_not_mix(live: Live) -> None:
    session = live.directory.view("none").session()
    guests = {}
    for uid in USERS:
        guests[uid] = Guest(live, live.run(session.attach, User(b"", uid), b"export"))
    for turn in range(3):
        for uid, guest in guests.items():
            guest.put(f"{uid}-{turn}")
            assert owner(live, f"{uid}-{turn}") == (uid, USERS[uid].gid)
    live.all_in_threads()
    for uid, guest in guests.items():
        (live.path / f"d-{uid}").mkdir()
        os.chown(live.path / f"d-{uid}", uid, 0)
        (live.path / f"d-{uid}").chmod(0o700)
        (live.path / f"d-{uid}/x").touch()
        for other, theirs in guests.items():
            if other in (0, uid):
                assert theirs.at(f"d-{uid}/x")
            else:
                assert theirs.refused(theirs.at, f"d-{uid}/x") == errno.EACCES
        guest.__dict__.pop("nothing", None)
    for guest in guests.values():
        guest.__dict__.clear()


@pytest.mark.parametrize(
    ("squash", "uid", "becomes"),
    [
        ("none", 0, 0),
        ("none", 1000, 1000),
        ("root", 0, NOBODY),
        ("root", 1000, 1000),
        ("all", 0, NOBODY),
        ("all", 1000, NOBODY),
    ],
)
def test_squashed_users(live: Live, squash: str, uid: int, becomes: int) -> None:
    guest = live.attach(uid, squash=squash)  # type: ignore[arg-type]
    guest.put("file")
    assert owner(live, "file")[0] == becomes
    if becomes:
        assert guest.refused(guest.set, "file", uid=0) == errno.EPERM


@pytest.mark.parametrize("moved", [False, True])
def test_a_name_is_removed_without_becoming_the_server(
    live: Live, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    """Changing the user takes as long as all the rest; only a file that was moved is looked for."""
    alice = live.attach(1000)
    file = alice.put("file")
    if moved:
        (live.path / "file").rename(live.path / "elsewhere")
    changes: list[str] = []
    as_server = live.tree.acting.as_server

    def counted() -> None:
        changes.append("server")
        as_server()

    with monkeypatch.context() as patch:
        patch.setattr(live.tree.acting, "as_server", counted)
        file.remove()
        assert bool(changes) == moved
    as_server()
    assert os.listdir(live.path) == []
