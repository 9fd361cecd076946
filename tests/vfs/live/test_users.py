"""Which user of the host a user of a guest is, and which groups it has."""

import grp
import os
import pwd
from pathlib import Path

import pytest

from tests.support.clock import Clock
from tests.support.host_accounts import GROUP, PASSWD, look_up_in
from tests.support.privileges import ALICE, acts_as
from tests.support.processes import run
from tests.support.threads import in_thread
from ventifs.vfs.access.guard import Squash
from ventifs.vfs.interface import Cold, User
from ventifs.vfs.live.actor import ID_MAX, SERVER, Actor, ManyUsers, OneUser
from ventifs.vfs.live.users import KEPT_S, NOBODY, Account, HostAccounts, Users, look_up

ROOT = Actor(0, 0, (6,))
BOB = Actor(1001, 100)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as other users")


class Host:
    """A host whose accounts a test changes."""

    def __init__(self) -> None:
        self.accounts: dict[int | bytes, Account] = {
            0: ROOT,
            b"root": ROOT,
            1000: ALICE,
            b"alice": ALICE,
            1001: BOB,
            b"nobody": Actor(65534, 65534, (50,)),
            b"toor": Actor(0, 0),
        }
        self.asked: list[int | bytes] = []

    def look_up(self, who: int | bytes) -> Account:
        self.asked.append(who)
        return self.accounts.get(who, Actor(who, who) if isinstance(who, int) else None)


class _Switching(OneUser):
    """As an `Acting` of root, for tests of any user's."""

    switches = True


def users_of(host: Host, squash: Squash = Squash.NONE, clock: Clock | None = None) -> Users:
    acting = _Switching()
    accounts = HostAccounts(acting, clock=clock or Clock(), look_up=host.look_up)
    return Users(acting, accounts, squash=squash)


def found(users: Users, user: User) -> Actor:
    """The actor of a user, with all loads that it takes."""
    while True:
        try:
            return users.actor(user)
        except Cold as cold:
            cold.load.run()


@pytest.mark.parametrize(
    ("user", "none", "root"),
    [
        (User(b"", 1000), ALICE, ALICE),
        (User(b"root", 1000), ALICE, ALICE),  # a number counts, whatever the name
        (User(b"", 1001), BOB, BOB),
        (User(b"", 77), Actor(77, 77), Actor(77, 77)),
        (User(b"", 0), ROOT, NOBODY),
        (User(b"alice", 0), ROOT, NOBODY),
        (User(b"alice"), ALICE, ALICE),
        (User(b"root"), ROOT, NOBODY),
        (User(b"toor"), Actor(0, 0), NOBODY),  # another name of root
        (User(b"nobody"), NOBODY, NOBODY),  # without the groups that the host puts it in
        (User(b"", 65534), NOBODY, NOBODY),
        (User(b"stranger"), NOBODY, NOBODY),
        (User(b"1000"), NOBODY, NOBODY),
        (User(b""), NOBODY, NOBODY),
        (User(b"", ID_MAX), Actor(ID_MAX, ID_MAX), Actor(ID_MAX, ID_MAX)),
        (User(b"", ID_MAX + 1), NOBODY, NOBODY),  # -1 in 32 bits
        (User(b"", 2**32), NOBODY, NOBODY),
        (User(b"", -1), NOBODY, NOBODY),
    ],
)
def test_users_of_guests_are_users_of_the_host(user: User, none: Actor, root: Actor) -> None:
    host = Host()
    assert found(users_of(host), user) == none
    assert found(users_of(host, Squash.ROOT), user) == root
    host.asked.clear()
    assert users_of(host, Squash.ALL).actor(user) == NOBODY
    assert not host.asked


@pytest.mark.parametrize(
    "name", [b"a\0b", b"a b", b"a:b", b"a\nb", b"../x", b"a,b", b"x" * 257, b"\x7f", b"\x1b[31m"]
)
def test_names_that_no_account_has_are_not_looked_up(name: bytes) -> None:
    host = Host()
    host.accounts[name] = ROOT
    assert users_of(host).actor(User(name)) == NOBODY
    assert not host.asked


def test_accounts_are_kept_for_a_minute() -> None:
    host, clock = Host(), Clock()
    users = users_of(host, clock=clock)
    first = found(users, User(b"", 1000))
    clock.now_s += KEPT_S - 0.001
    host.accounts[1000] = Actor(1000, 1000)
    assert users.actor(User(b"", 1000)) is first
    assert host.asked == [1000]
    clock.now_s += 0.001
    assert found(users, User(b"", 1000)) == Actor(1000, 1000)
    assert host.asked == [1000, 1000]


def test_unknown_users_are_kept_for_a_minute_too() -> None:
    host, clock = Host(), Clock()
    users = users_of(host, clock=clock)
    for _ in range(3):
        assert found(users, User(b"carol")) == NOBODY
    assert host.asked == [b"carol"]
    host.accounts[b"carol"] = Actor(1002, 1002)
    clock.now_s += KEPT_S
    assert found(users, User(b"carol")) == Actor(1002, 1002)


def test_an_unchanged_account_is_the_same_object() -> None:
    """So that a thread that acts as it already need not compare its groups."""
    host, clock = Host(), Clock()
    users = users_of(host, clock=clock)
    first = found(users, User(b"", 1000))
    clock.now_s += KEPT_S
    host.accounts[1000] = Actor(1000, 1000, (4001, 4002))
    assert found(users, User(b"", 1000)) is first
    assert host.asked == [1000, 1000]


def test_a_guest_with_many_users_takes_bounded_memory() -> None:
    host = Host()
    users = users_of(host)
    for uid in range(5000, 8000):
        assert found(users, User(b"", uid)).uid == uid
    assert len(users._accounts._known) <= 1024
    asked = len(host.asked)
    found(users, User(b"", 7999))
    assert len(host.asked) == asked


def test_equal_look_ups_are_one_load() -> None:
    users, other = users_of(Host()), users_of(Host())
    keys = []
    for some, user in (
        (users, User(b"", 1000)),
        (users, User(b"x", 1000)),
        (users, User(b"1000")),
        (other, User(b"", 1000)),
    ):
        with pytest.raises(Cold) as raised:
            some.actor(user)
        keys.append(raised.value.load.key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_a_server_of_a_user_serves_everybody_as_itself() -> None:
    host = Host()
    acting = OneUser()
    accounts = HostAccounts(acting, look_up=host.look_up)
    for squash in Squash:
        actor = Users(acting, accounts, squash=squash).actor(User(b"", 1000))
        assert (actor.uid, actor.gid) == (os.geteuid(), os.getegid())
        assert {actor.gid, *actor.groups} == {os.getegid(), *os.getgroups()}
    assert not host.asked


@needs_root
def test_accounts_are_looked_up_as_the_server() -> None:
    """Whatever user the thread acted as before, or inherited."""
    seen: list[object] = []

    def spy(who: int | bytes) -> Account:
        seen.append(acts_as()[0])
        return Actor(1001, 1001)

    def work() -> None:
        acting = ManyUsers()
        users = Users(acting, HostAccounts(acting, look_up=spy))
        acting.become(ALICE)
        found(users, User(b"", 1001))

    in_thread(work)
    assert seen == [SERVER]


def test_look_up_agrees_with_the_hosts_own_tools() -> None:
    for account in pwd.getpwall()[:20]:
        first = pwd.getpwuid(account.pw_uid)
        groups = {group.gr_gid for group in grp.getgrall() if first.pw_name in group.gr_mem}
        expected = tuple(sorted(groups - {first.pw_gid}))
        assert look_up(account.pw_uid) == Actor(first.pw_uid, first.pw_gid, expected)
        by_name = look_up(os.fsencode(account.pw_name))
        assert by_name is not None
        assert (by_name.uid, by_name.gid) == (account.pw_uid, account.pw_gid)
    assert look_up(b"no-such-user-here") is None
    assert look_up(b"a\0b") is None


@needs_root
def test_groups_are_those_of_the_hosts_files(tmp_path: Path) -> None:
    asked: list[int | bytes] = [0, 1000, b"alicia", 1001, 27, 28, ID_MAX, b"stranger", 5]
    assert run(look_up_in, PASSWD, GROUP, str(tmp_path), asked) == 0
    expected = [
        Actor(0, 0),
        Actor(1000, 1000, (6, 50)),
        Actor(1000, 7),
        Actor(1001, 100, (6,)),
        Actor(27, 65534),  # no account, and not a member of the group that has its number
        Actor(28, 28),
        Actor(ID_MAX, ID_MAX),
        None,
        Actor(5, 5),
    ]
    assert (tmp_path / "found").read_text() == repr(expected)
