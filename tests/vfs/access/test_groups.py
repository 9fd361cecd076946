"""Users and groups out of files that anybody may have written."""

import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventifs.vfs.access.groups import Accounts
from ventifs.vfs.access.permission import NOBODY_UID, READ, Credentials, permits

PASSWD = b"""root:x:0:0:root:/root:/bin/bash
anna:x:1000:1000:Anna,,,:/home/anna:/bin/bash
ben:x:1001:100::/home/ben:/bin/sh
anna2:x:1000:50:another name of hers:/:/bin/sh
"""
GROUP = b"""root:x:0:
users:x:100:
adm:x:4:anna,ben
sudo:x:27:anna
odd:x:77:anna2,nobody
anna:x:1000:
"""


def gids(accounts: Accounts, uid: int, among: Iterable[int] = range(1100)) -> set[int]:
    identity = accounts.identity_of(uid)
    assert identity.gids_known
    return {gid for gid in among if gid in identity.gids}


def test_groups_of_users() -> None:
    accounts = Accounts(PASSWD, GROUP)
    assert gids(accounts, 1000) == {1000, 50, 4, 27, 77}
    assert gids(accounts, 1001) == {100, 4}
    assert gids(accounts, 0) == {0}
    assert gids(accounts, 5) == set()
    assert gids(Accounts(b"", b""), 1000) == set()


def test_what_is_not_said_properly_is_not_said() -> None:
    passwd = b"\n".join(
        [
            b"",
            b":",
            b"::::::",
            b"x:x:1:",
            b"x:x::1:::",
            b"x:x:-1:5:::",
            b"x:x:1 :5:::",
            b"x:x:+2:5:::",
            b"y:x:2:99999999999:::",
            b"z:x:3:4294967295:::",
            b":x:4:5:::",
            b"n\0ul:x:6:7:::",
            b"\xff\xfe:x:8:9:::",
            "a:x:\u0661:5:::".encode(),
            b"#c:x:1",
            b"ok:x:10:11",
        ]
    )
    group = b"\n".join(
        [
            b"g:x",
            b"g:x:",
            b"g:x:5",
            b"g:x:x:ok",
            b"g:x:-3:ok",
            b"h:x:12:ok,,\xff\xfe",
            b"i:x:13:  ok ",
            b"j:x:14: ,:ok",
            b"k:x:4294967295:ok",
        ]
    )
    accounts = Accounts(passwd, group)
    assert gids(accounts, 10) == {11, 12, 13}
    assert gids(accounts, 8) == {9, 12}
    assert gids(accounts, 6) == {7}
    for uid in (1, 2, 3, 4, 5):
        assert gids(accounts, uid) == set()


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(0, 20))
def test_any_bytes_are_understood_somehow(passwd: bytes, group: bytes, uid: int) -> None:
    accounts = Accounts(passwd.replace(b"\1", b":1"), group.replace(b"\1", b":1"))
    assert isinstance(accounts.identity_of(uid), Credentials)


def test_a_user_with_all_groups_there_are() -> None:
    group = b"".join(b"g%d:x:%d:u\n" % (gid, gid) for gid in range(1, 40_000, 2))
    accounts = Accounts(b"u:x:5:0:::\n", group)
    assert gids(accounts, 5, range(40_010)) == {0, *range(1, 40_000, 2)}


def test_nobody_is_found_by_its_number_and_by_its_name() -> None:
    accounts = Accounts(PASSWD + b"guest:x:65534:9::/:\n", GROUP + b"g:x:8:guest\n")
    assert gids(accounts, NOBODY_UID, range(65_540)) == {77, 9, 8, 65_534}
    assert accounts.identity_of(NOBODY_UID).deny_only
    assert not accounts.identity_of(1000).deny_only


@pytest.mark.parametrize("uid", [5, NOBODY_UID])
@pytest.mark.parametrize("more", ["groups", "lines"])
def test_a_user_with_too_many_groups_may_be_in_any(uid: int, more: str) -> None:
    group = b"".join(b"::%d:u\n" % gid for gid in range(65_536 if more == "groups" else 3))
    passwd = b"".join(b"u::%d:%d\n" % (uid, gid) for gid in range(1 if more == "groups" else 65))
    who = Accounts(passwd, group).identity_of(uid)
    assert who.deny_only
    assert not who.gids_known
    assert not permits(who, READ, 0o604, 0, 1234, lambda: None)
    assert not permits(who, READ, 0o640, 0, 1, lambda: None)
    assert permits(who, READ, 0o644, 0, 1, lambda: None)


def hostile(count: int) -> tuple[bytes, bytes]:
    """Users of one name, which is in as many groups."""
    return (
        b"".join(b"a::%d:1\n" % uid for uid in range(count)),
        b"".join(b"::%d:a\n" % gid for gid in range(count)),
    )


def test_memory_grows_with_the_files_and_not_with_their_square() -> None:
    files = [
        hostile(20_000),
        (
            b"".join(b"%x::%d:1\n" % (uid, uid) for uid in range(20_000)),
            b"".join(b"::1%d:%x\n" % (uid, uid) for uid in range(20_000)),
        ),
    ]
    for passwd, group in files:
        tracemalloc.start()
        accounts = Accounts(passwd, group)
        users = [accounts.identity_of(uid) for uid in range(1000)]
        held, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(users) == 1000
        assert held < accounts.cost + len(users) * 1500
        assert most < 60 * len(passwd + group)
