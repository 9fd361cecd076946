"""Users and groups out of files that anybody may have written."""

from hypothesis import given
from hypothesis import strategies as st

from ventifs.ninep.accounts import Accounts

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


def test_groups_of_users() -> None:
    accounts = Accounts(PASSWD, GROUP)
    assert accounts.gids(1000) == {1000, 50, 4, 27, 77}
    assert accounts.gids(1001) == {100, 4}
    assert accounts.gids(0) == {0}
    assert accounts.gids(5) == frozenset()
    assert Accounts(b"", b"").gids(1000) == frozenset()


def test_what_is_not_said_properly_is_not_said() -> None:
    passwd = b"\n".join([
        b"", b":", b"::::::", b"x:x:1:", b"x:x::1:::", b"x:x:-1:5:::", b"x:x:1 :5:::",
        b"x:x:+2:5:::", b"y:x:2:99999999999:::", b"z:x:3:4294967295:::", b":x:4:5:::",
        b"n\0ul:x:6:7:::",
        b"\xff\xfe:x:8:9:::", "a:x:\u0661:5:::".encode(), b"#c:x:1", b"ok:x:10:11",
    ])  # fmt: skip
    group = b"\n".join([
        b"g:x", b"g:x:", b"g:x:5", b"g:x:x:ok", b"g:x:-3:ok", b"h:x:12:ok,,\xff\xfe",
        b"i:x:13:  ok ", b"j:x:14: ,:ok", b"k:x:4294967295:ok",
    ])  # fmt: skip
    accounts = Accounts(passwd, group)
    assert accounts.gids(10) == {11, 12, 13}
    assert accounts.gids(8) == {9, 12}
    assert accounts.gids(6) == {7}
    for uid in (1, 2, 3, 4, 5):
        assert accounts.gids(uid) == frozenset()


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(0, 20))
def test_any_bytes_are_understood_somehow(passwd: bytes, group: bytes, uid: int) -> None:
    accounts = Accounts(passwd.replace(b"\1", b":1"), group.replace(b"\1", b":1"))
    assert all(0 <= gid < 2**32 - 1 for gid in accounts.gids(uid))


def test_a_user_with_all_groups_there_are() -> None:
    group = b"".join(b"g%d:x:%d:u\n" % (gid, gid) for gid in range(20_000))
    assert len(Accounts(b"u:x:5:1:::\n", group).gids(5)) == 20_000
