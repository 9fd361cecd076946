"""Acting as users: what the kernel then refuses, and that no thread acts as another's user."""

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import copy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.privileges import ALICE, BOB, acts_as, open_directory, refusal
from tests.support.threads import in_thread
from ventifs.vfs.live import syscalls
from ventifs.vfs.live.actor import GROUPS_MAX, ID_MAX, SERVER, Actor, ManyUsers, OneUser

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as other users")
CAPABILITY = b"\1\0\0\2" + b"\0\4\0\0" + bytes(12)  # a valid security.capability: CAP_NET_BIND
GUESTS_ROOT = Actor(0, 0, (4001,))
ALL = syscalls.capabilities()[1]


@pytest.fixture
def top() -> Iterator[Path]:
    with open_directory() as top:
        yield top


def acting_as(actor: Actor, work: Callable[[], object]) -> object:
    """Do something as a user, in a thread of its own."""

    def body() -> object:
        ManyUsers().become(actor)
        return work()

    return in_thread(body)


@pytest.mark.parametrize(
    ("uid", "gid", "groups"),
    [
        (-1, 0, ()),
        (0, -1, ()),
        (ID_MAX + 1, 0, ()),  # -1 in 32 bits, which would change nothing
        (0, ID_MAX + 1, ()),
        (0, 0, (1, ID_MAX + 1)),
        (2**32, 0, ()),
        (1, 1, tuple(range(GROUPS_MAX + 1))),
    ],
)
def test_ids_that_no_user_has_are_refused(uid: int, gid: int, groups: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no user has"):
        Actor(uid, gid, groups)


def test_members_of_groups() -> None:
    assert [gid for gid in range(5000) if ALICE.is_member(gid)] == [1000, 4001, 4002]
    assert SERVER.is_member(77)


@needs_root
def test_a_user_has_its_ids_and_groups_and_no_capabilities() -> None:
    many = Actor(ID_MAX, ID_MAX, tuple(range(1, GROUPS_MAX)))
    for actor in (ALICE, BOB, many):
        assert acting_as(actor, acts_as) == (actor, 0)
    for root in (SERVER, GUESTS_ROOT):
        assert acting_as(root, acts_as) == (root, ALL)


@needs_root
def test_a_user_sets_no_attributes_that_are_roots(top: Path) -> None:
    path = top / "own"

    def work() -> None:
        path.write_bytes(b"own")
        for name in ("security.capability", "trusted.x", "security.x"):
            value = CAPABILITY if name == "security.capability" else b"x"
            assert refusal(os.setxattr, path, name, value) == errno.EPERM
        assert refusal(lambda: os.getxattr(path, "trusted.y")) == errno.ENODATA
        os.setxattr(path, "user.x", b"x")

    acting_as(ALICE, work)
    os.setxattr(path, "trusted.y", b"y")
    acting_as(ALICE, work)
    acting_as(GUESTS_ROOT, lambda: os.setxattr(path, "security.capability", CAPABILITY))


@needs_root
def test_a_user_reaches_nothing_of_others(top: Path) -> None:
    secret, closed = top / "secret", top / "closed"
    secret.write_bytes(b"secret")
    secret.chmod(0o600)
    closed.mkdir(mode=0o700)
    (closed / "file").touch(0o666)
    (closed / "file").chmod(0o666)
    top.chmod(0o1777)
    fd = os.open(secret, os.O_PATH)
    mount = os.open(top, os.O_RDONLY)
    handle = syscalls.handle_of(fd)

    def work() -> None:
        for forbidden, number in (
            (lambda: os.open(secret, os.O_RDONLY), errno.EACCES),
            (lambda: os.open(secret, os.O_WRONLY), errno.EACCES),
            (lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDONLY), errno.EACCES),
            (lambda: os.truncate(secret, 0), errno.EACCES),
            (lambda: os.chmod(secret, 0o666), errno.EPERM),
            (lambda: os.chown(secret, 1000, 1000), errno.EPERM),
            (lambda: os.utime(secret, (0, 0)), errno.EPERM),
            (lambda: os.listdir(closed), errno.EACCES),
            (lambda: os.stat(closed / "file"), errno.EACCES),
            (lambda: os.mkdir(closed / "new"), errno.EACCES),
            (lambda: os.unlink(secret), errno.EPERM),  # the directory is sticky
            (lambda: os.rename(secret, top / "mine"), errno.EPERM),
            (lambda: syscalls.open_handle(mount, handle, os.O_RDONLY), errno.EPERM),
            (lambda: os.open("/etc/shadow", os.O_RDONLY), errno.EACCES),
        ):
            assert refusal(forbidden) == number

    acting_as(ALICE, work)
    os.close(fd)
    os.close(mount)
    assert secret.read_bytes() == b"secret"


@needs_root
def test_a_user_gives_files_to_none_but_its_groups(top: Path) -> None:
    path = top / "own"

    def work() -> None:
        path.touch()
        for uid, gid in ((0, -1), (1001, -1), (-1, 0), (-1, 1001), (-1, 4003)):
            assert refusal(os.chown, path, uid, gid) == errno.EPERM
        for gid in (4001, 4002, 1000):
            os.chown(path, -1, gid)
            assert path.stat().st_gid == gid

    acting_as(ALICE, work)
    assert (path.stat().st_uid, path.stat().st_gid) == (1000, 1000)


@needs_root
def test_a_user_makes_no_devices(top: Path) -> None:
    def work() -> None:
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            words = (top / "device", kind | 0o666, os.makedev(1, 3))
            assert refusal(os.mknod, *words) == errno.EPERM
        os.mkfifo(top / "fifo")
        os.mknod(top / "socket", stat.S_IFSOCK | 0o600)

    acting_as(ALICE, work)
    acting_as(SERVER, lambda: os.mknod(top / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3)))
    assert (top / "fifo").stat().st_uid == 1000


@needs_root
def test_a_user_makes_no_set_gid_file_of_a_group_that_it_is_not_in(top: Path) -> None:
    """After a change of the user id alone, a new file was of group 0, and could be set-gid."""
    foreign, shared = top / "foreign", top / "shared"
    foreign.touch()
    os.chown(foreign, 1000, 0)
    shared.mkdir()
    os.chown(shared, 0, 4001)
    shared.chmod(0o2777)

    def work() -> None:
        foreign.chmod(0o2755)
        os.close(os.open(top / "own", os.O_CREAT | os.O_WRONLY, 0o2755))
        (top / "own").chmod(0o2755)
        (shared / "file").touch()
        (shared / "below").mkdir()
        os.close(os.open(shared / "set", os.O_CREAT | os.O_WRONLY, 0o2775))

    acting_as(ALICE, work)
    assert foreign.stat().st_mode & 0o7777 == 0o755
    assert ((top / "own").stat().st_gid, (top / "own").stat().st_mode & 0o7777) == (1000, 0o2755)
    for name in ("file", "below", "set"):
        assert (shared / name).stat().st_gid == 4001  # the directory's, as CVE-2022-0358 has it
    assert (shared / "below").stat().st_mode & stat.S_ISGID
    acting_as(BOB, lambda: os.close(os.open(shared / "bobs", os.O_CREAT | os.O_WRONLY, 0o2775)))
    assert not (shared / "bobs").stat().st_mode & stat.S_ISGID


@needs_root
@pytest.mark.parametrize("change", ["write", "truncate", "chown"])
@pytest.mark.parametrize("root", [True, False])
def test_privileges_of_a_file_end_when_a_user_changes_it(
    top: Path, change: str, root: bool
) -> None:
    path = top / "program"
    path.write_bytes(b"program")
    os.chown(path, 1000, 1000)
    path.chmod(0o6777)
    os.setxattr(path, "security.capability", CAPABILITY)

    def work() -> None:
        match change:
            case "write":
                fd = os.open(path, os.O_WRONLY)
                os.pwrite(fd, b"other", 0)
                os.close(fd)
            case "truncate":
                os.truncate(path, 1)
            case "chown":
                os.chown(path, -1, 4001)

    acting_as(GUESTS_ROOT if root else ALICE, work)
    with suppress(OSError):
        assert not os.getxattr(path, "security.capability"), "it survived"
    if change == "chown" or not root:
        assert path.stat().st_mode & 0o7777 == 0o777
    else:
        assert path.stat().st_mode & 0o7777 == 0o6777


@needs_root
def test_supplementary_groups_give_access(top: Path) -> None:
    path = top / "for-the-group"
    path.write_bytes(b"shared")
    os.chown(path, 0, 4002)
    path.chmod(0o640)
    assert acting_as(ALICE, path.read_bytes) == b"shared"
    assert acting_as(BOB, lambda: refusal(path.read_bytes)) == errno.EACCES


@needs_root
def test_the_server_can_do_everything_again(top: Path) -> None:
    path = top / "of-alice"

    def work() -> None:
        acting = ManyUsers()
        acting.become(ALICE)
        path.touch(0o600)
        acting.become(BOB)
        assert refusal(path.read_bytes) == errno.EACCES
        acting.as_server()
        assert acts_as() == (SERVER, ALL)
        assert path.read_bytes() == b""
        os.chown(path, 7, 7)
        os.setxattr(path, "trusted.x", b"x")
        acting.become(BOB)
        assert refusal(path.read_bytes) == errno.EACCES

    in_thread(work)


@needs_root
def test_descriptors_of_a_user_are_opened_again_by_proc(top: Path) -> None:
    """The process is not dumpable then, so that its files in /proc belong to root."""
    (top / "closed").mkdir(mode=0o700)
    path = top / "closed" / "own"
    path.write_bytes(b"own")
    os.chown(path, 1000, 1000)
    path.chmod(0o600)
    fd = os.open(path, os.O_PATH)

    def work() -> None:
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) != 1  # PR_GET_DUMPABLE
        assert os.read(again, 9) == b"own"
        os.close(again)
        os.chmod(f"/proc/self/fd/{fd}", 0o640)
        os.setxattr(f"/proc/self/fd/{fd}", "user.x", b"x")
        os.truncate(f"/proc/self/fd/{fd}", 1)

    acting_as(ALICE, work)
    assert path.stat().st_mode & 0o7777 == 0o640
    assert path.read_bytes() == b"o"
    assert acting_as(BOB, lambda: refusal(os.open, f"/proc/self/fd/{fd}", 0)) == errno.EACCES
    os.close(fd)


@needs_root
def test_threads_act_apart(top: Path) -> None:
    acting = ManyUsers()
    actors = [ALICE, BOB, SERVER, GUESTS_ROOT, Actor(1002, 4001)]
    together = threading.Barrier(len(actors))
    wrong: list[object] = []

    def work(actor: Actor) -> None:
        for turn in range(50):
            now = actors[(actors.index(actor) + turn) % len(actors)]
            acting.become(now)
            together.wait()
            path = top / f"{actor.uid}-{actor.gid}-{len(actor.groups)}-{turn}"
            path.touch()
            found = path.stat()
            if acts_as()[0] != now or (found.st_uid, found.st_gid) != (now.uid, now.gid):
                wrong.append((now, acts_as(), found))

    threads = [threading.Thread(target=work, args=(actor,)) for actor in actors]
    before = acts_as()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(list(top.iterdir())) == 50 * len(actors)
    assert acts_as() == before


@needs_root
@pytest.mark.parametrize("first", [ALICE, BOB, SERVER, GUESTS_ROOT])
def test_a_thread_replaces_what_it_inherits_at_its_first_operation(first: Actor) -> None:
    """A thread that starts while another acts as Alice inherits her credentials."""
    acting = ManyUsers()

    def inner() -> None:
        assert acts_as() == (ALICE, 0)
        acting.become(first)
        assert acts_as() == (first, 0 if first.uid else ALL)

    def outer() -> None:
        acting.become(ALICE)
        in_thread(inner)
        assert acts_as() == (ALICE, 0)

    in_thread(outer)


@needs_root
@pytest.mark.parametrize("failing", ["set_capabilities", "set_groups", "set_fsgid", "set_fsuid"])
def test_a_switch_that_fails_is_done_again_in_full(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    def work() -> None:
        acting = ManyUsers()
        acting.become(ALICE)
        with monkeypatch.context() as patch:
            patch.setattr(syscalls, failing, fail)
            assert refusal(lambda: acting.become(BOB)) == errno.ENOMEM
            assert refusal(lambda: acting.become(ALICE)) == errno.ENOMEM
        acting.become(ALICE)
        assert acts_as() == (ALICE, 0)
        acting.become(BOB)
        assert acts_as() == (BOB, 0)

    in_thread(work)


_ids = st.sampled_from([0, 1, 1000, 1001, 2**31, ID_MAX])
_groups = st.lists(st.sampled_from([0, 7, 4001, 4002, ID_MAX]), unique=True).map(sorted).map(tuple)
_actors = st.builds(Actor, _ids, _ids, _groups)


@needs_root
@settings(max_examples=50)
@given(st.lists(_actors, max_size=12))
def test_after_any_switches_the_kernel_has_the_last_user(actors: list[Actor]) -> None:
    def work() -> None:
        acting = ManyUsers()
        for actor in actors:
            acting.become(actor)
            assert acts_as() == (actor, 0 if actor.uid else ALL)
            acting.become(Actor(actor.uid, actor.gid, actor.groups))
            assert acts_as()[0] == actor
        acting.as_server()
        assert acts_as() == (SERVER, ALL)

    in_thread(work)


@needs_root
def test_the_same_user_again_costs_no_system_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def count(name: str) -> None:
        real = getattr(syscalls, name)

        def counted(*words: object) -> None:
            calls.append(name)
            real(*words)

        monkeypatch.setattr(syscalls, name, counted)

    for name in ("set_capabilities", "set_groups", "set_fsgid", "set_fsuid"):
        count(name)

    def work() -> list[list[str]]:
        acting = ManyUsers()
        seen = []
        for actor in (ALICE, ALICE, copy(ALICE), BOB, BOB, SERVER, SERVER):
            calls.clear()
            acting.become(actor)
            seen.append(calls[:])
        return seen

    full = ["set_capabilities", "set_groups", "set_fsgid", "set_fsuid"]
    down, up = [*full, "set_capabilities"], ["set_capabilities", "set_fsgid", "set_fsuid"]
    assert in_thread(work) == [down, [], [], down, [], up, []]


def test_a_process_that_cannot_switch_stays_what_it_is() -> None:
    before = acts_as()
    acting = OneUser()
    acting.become(BOB)
    assert acts_as() == before
    acting.as_server()
    assert acts_as() == before
    assert not acting.switches
