"""Users over sessions: each request is done as the user of its fid, and as nobody else's."""

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio._core._thread_cache import ThreadCache

from tests.support.clock import Clock
from tests.support.live_talk import NAME, TOP, LiveTalk, served
from tests.support.privileges import ALICE, BOB, acts_as, open_directory
from tests.support.sessions import Caller, Serving
from tests.support.threads import in_thread
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.session.front_end import NinepFrontEnd
from ventifs.serving.connections import Server
from ventifs.vfs.live import files, syscalls
from ventifs.vfs.live.actor import Actor, OneUser
from ventifs.vfs.live.export import Squashing
from ventifs.vfs.live.filesystem import LiveDirectory
from ventifs.vfs.live.users import Account, HostAccounts

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as other users")

ROOT = Actor(0, 0)
USERS = {0: ROOT, 1000: ALICE, 1001: BOB}
CAPABILITY = b"\1\0\0\2" + b"\0\4\0\0" + bytes(12)


def look_up(who: int | bytes) -> Account:
    return USERS.get(who, Actor(who, who)) if isinstance(who, int) else None


def accounts() -> HostAccounts:
    return HostAccounts(OneUser(), look_up=look_up)


@pytest.fixture
def top() -> Iterator[Path]:
    with open_directory() as top:
        yield top


class Users(LiveTalk):
    """A session with an attach of each user; their fids begin at ten times their uids."""

    def __init__(self, live: LiveDirectory, squash: Squashing = "none") -> None:
        super().__init__(live)
        self.session.close()
        super(LiveTalk, self).__init__(live.view(squash).session(), attach=False)
        for uid in USERS:
            reply = self.ask(m.Tattach(10 * uid, m.NOFID, b"", NAME, uid))
            assert isinstance(reply, m.Rattach), reply

    def make(self, uid: int, name: bytes, mode: int = 0o600, gid: int = 0xFFFF_FFFF) -> Any:
        """Create a file as a user, as the fid after that of its attach."""
        self.ask(m.Twalk(10 * uid, 10 * uid + 1, ()))
        return self.ask(m.Tlcreate(10 * uid + 1, name, os.O_RDWR, mode, gid))


def ids(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def test_requests_of_many_users_are_each_done_as_their_own(top: Path) -> None:
    def work() -> None:
        before = os.umask(0)
        with served(top, accounts=accounts()) as live:
            talk = Users(live)
            for turn in range(20):
                batch: list[tuple[int, m.Message]] = []
                for tag, uid in enumerate([0, 1000, 1001, 1000, 0, 1001]):
                    name = b"%d-%d-%d" % (uid, turn, tag)
                    batch.append((tag, m.Tmkdir(10 * uid, name, 0o700, 0xFFFF_FFFF)))
                talk.send(*batch)
                talk.work()
            talk.close()
        os.umask(before)

    in_thread(work)
    made = list(top.iterdir())
    assert len(made) == 120
    for path in made:
        uid = int(path.name.split("-")[0])
        assert ids(path) == (uid, USERS[uid].gid, 0o700)


def test_threads_do_each_load_as_its_own_user(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look-up is done by a thread, as if the disk were slow, for three clients at once."""
    # Trio keeps threads for later tasks: those that acted as users are not to serve other tests.
    monkeypatch.setattr("trio._core._thread_cache.THREAD_CACHE", ThreadCache())
    threads: set[int] = set()

    def cold(directory: int, name: bytes, flags: int, cached: bool = True) -> int:
        if cached:
            raise BlockingIOError(errno.EAGAIN, "not in memory")
        threads.add(threading.get_ident())
        return syscalls.open_beneath(directory, name, flags, cached=False)

    monkeypatch.setattr(files, "open_beneath", cold)
    for uid in USERS:
        (top / f"of-{uid}").mkdir(mode=0o700)
        os.chown(top / f"of-{uid}", uid, uid)
        (top / f"of-{uid}" / "file").touch()

    async def client(serving: Serving, uid: int, found: list[tuple[int, int, str]]) -> None:
        caller: Caller = serving.connect()
        await caller.ask(m.Tversion(8192, b"9P2000.L"), m.NOTAG)
        assert isinstance(await caller.ask(m.Tattach(0, m.NOFID, b"", NAME, uid)), m.Rattach)
        for _ in range(40):
            for other in USERS:
                names = (b"of-%d" % other, b"file")
                reply = await caller.ask(m.Twalk(0, 1, names))
                found.append((uid, other, "yes" if len(getattr(reply, "wqids", ())) == 2 else "no"))
                await caller.ask(m.Tclunk(1))

    async def serve(live: LiveDirectory) -> list[tuple[int, int, str]]:
        found: list[tuple[int, int, str]] = []
        server = Server(NinepFrontEnd(), lambda peer, exports: live.view("none"))
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            serving = Serving(server)
            async with trio.open_nursery() as clients:
                for uid in USERS:
                    clients.start_soon(client, serving, uid, found)
            serving.close()
            nursery.cancel_scope.cancel()
        return found

    def work() -> list[tuple[int, int, str]]:
        with served(top, accounts=accounts(), clock=Clock(step_s=1.0)) as live:
            found = trio.run(serve, live)
        threads.discard(threading.get_ident())
        return found

    found = in_thread(work)
    assert threads, "threads have done nothing"
    assert len(found) == 3 * 3 * 40
    for uid, other, answer in found:
        assert answer == ("yes" if uid in (0, other) else "no"), (uid, other)


def test_attributes_that_are_roots_are_roots(top: Path) -> None:
    def set_xattr(talk: Users, uid: int, name: bytes, value: bytes) -> int:
        fid = 10 * uid + 2
        talk.ask(m.Twalk(10 * uid, fid, (b"file-%d" % uid,)))
        talk.ask(m.Txattrcreate(fid, name, len(value), 0), m.Twrite(fid, 0, value))
        reply = talk.ask(m.Tclunk(fid))
        return reply.ecode if isinstance(reply, m.Rlerror) else 0

    def work() -> dict[tuple[int, bytes], int]:
        with served(top, accounts=accounts()) as live:
            talk = Users(live)
            found = {}
            for uid in (0, 1000):
                talk.make(uid, b"file-%d" % uid)
                for name in (b"security.capability", b"trusted.x", b"user.x"):
                    value = CAPABILITY if name == b"security.capability" else b"x"
                    found[uid, name] = set_xattr(talk, uid, name, value)
            talk.close()
        return found

    assert in_thread(work) == {
        (0, b"security.capability"): 0,
        (0, b"trusted.x"): 0,
        (0, b"user.x"): 0,
        (1000, b"security.capability"): errno.EPERM,
        (1000, b"trusted.x"): errno.EPERM,
        (1000, b"user.x"): 0,
    }


def test_a_message_names_a_group_only_for_its_members(top: Path) -> None:
    groups = {1000: [1000, 4001, 4002, 0, 1001], 1001: [1001, 4001], 0: [0, 4001, 77]}

    def work() -> None:
        with served(top, accounts=accounts()) as live:
            talk = Users(live)
            for uid, gids in groups.items():
                for gid in gids:
                    talk.make(uid, b"%d-%d" % (uid, gid), 0o2755, gid)
                    talk.ask(m.Tclunk(10 * uid + 1))
            talk.close()

    in_thread(work)
    for path in top.iterdir():
        uid, asked = map(int, path.name.split("-"))
        gid = asked if USERS[uid].is_member(asked) else USERS[uid].gid
        assert ids(path)[:2] == (uid, gid), path.name


def test_groups_of_files_within_the_export_do_not_count(top: Path) -> None:
    """A guest writes its own /etc/group, and would be in any group of the host."""
    (top / "etc").mkdir()
    (top / "etc" / "passwd").write_text("eve:x:1001:4001::/:/bin/sh\nroot2:x:1001:0::/:/bin/sh\n")
    (top / "etc" / "group").write_text("shared:x:4001:eve,root2\nroot:x:0:eve\n")
    (top / "shared").write_bytes(b"of the group")
    os.chown(top / "shared", 0, 4001)
    (top / "shared").chmod(0o640)

    def work() -> list[int]:
        with served(top) as live:  # the host's own accounts
            talk = Users(live)
            errors = []
            for uid in (1000, 1001):
                talk.ask(m.Twalk(10 * uid, 10 * uid + 1, (b"shared",)))
                reply = talk.ask(m.Tlopen(10 * uid + 1, os.O_RDONLY))
                errors.append(getattr(reply, "ecode", 0))
            talk.close()
        return errors

    assert in_thread(work) == [errno.EACCES, errno.EACCES]


@pytest.mark.parametrize(
    ("squash", "owners"),
    [
        ("none", {0: 0, 1000: 1000, 1001: 1001}),
        ("root", {0: 65534, 1000: 1000, 1001: 1001}),
        ("all", {0: 65534, 1000: 65534, 1001: 65534}),
    ],
)
def test_squash(top: Path, squash: Squashing, owners: dict[int, int]) -> None:
    (top / "roots").write_bytes(b"secret")
    (top / "roots").chmod(0o600)

    def work() -> None:
        with served(top, accounts=accounts()) as live:
            talk = Users(live, squash)
            for uid, owner in owners.items():
                assert isinstance(talk.make(uid, b"%d" % uid), m.Rlcreate)
                talk.ask(m.Twalk(10 * uid, 10 * uid + 2, (b"roots",)))
                reply = talk.ask(m.Tlopen(10 * uid + 2, os.O_RDONLY))
                assert isinstance(reply, m.Rlopen if owner == 0 else m.Rlerror)
                device = m.Tmknod(10 * uid, b"device-%d" % uid, stat.S_IFCHR | 0o600, 1, 3, 0)
                made = talk.ask(device)
                assert isinstance(made, m.Rmknod if owner == 0 else m.Rlerror)
            talk.close()

    in_thread(work)
    for uid, owner in owners.items():
        assert (top / f"{uid}").stat().st_uid == owner
        assert (top / f"{uid}").stat().st_gid == (65534 if owner == 65534 else USERS[uid].gid)


def test_a_thread_that_served_users_can_be_the_server_again(top: Path) -> None:
    def work() -> tuple[Actor, int]:
        with served(top, accounts=accounts()) as live:
            talk = LiveTalk(live, 1000)
            talk.ask(m.Tmkdir(TOP, b"x", 0o700, 0))
            assert acts_as() == (ALICE, 0)
            talk.close()
            live.tree.acting.as_server()
            return acts_as()

    actor, effective = in_thread(work)
    assert actor == ROOT
    assert effective
