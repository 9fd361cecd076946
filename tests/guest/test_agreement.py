"""A real root, mounted in a guest in each dialect: every fact of every path, as far as it goes.

Every byte is read too, in one of the dialects, whose reads are the same messages: each reads a part
of the files. By default that is an eighteenth of them, and of the ordinary files each of Plan 9's
dialects sees all names, but the facts of each fourth one alone.
"""

import stat
import sys

import pytest

from tests.support import looking
from tests.support.looking import ORDINARY, WHOLE, Look, is_in, is_looked_at, looks, parse
from tests.support.patience import LONG_PATIENCE_S
from tests.support.segment import HOST
from tests.support.serving import DIALECTS, Exported, differences, expected
from tests.support.sizes import LONG
from tests.support.uml import Uml

pytestmark = pytest.mark.slow
_LOOKING = f"{sys.executable} -I -S {looking.__file__}"
# Of the files, so many parts are read: together all of them, or a sixth of them.
_PARTS = len(DIALECTS) * (1 if LONG else 6)
PARTS = {dialect: (number, _PARTS) for number, dialect in enumerate(DIALECTS)}
ENTRIES = dict.fromkeys(DIALECTS, WHOLE) if LONG else {"9p2000": (0, 4), "9p2000.u": (1, 4)}


@pytest.fixture(scope="session")
def archived(exported: Exported) -> dict[bytes, Look]:
    """The first root, as it is."""
    return dict(looks(bytes(exported.roots[0])))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_mounted_root_is_the_archived_one(
    guest: Uml, exported: Exported, archived: dict[bytes, Look], dialect: str
) -> None:
    part, entries = PARTS[dialect], ENTRIES.get(dialect, WHOLE)
    words = f"--part {part[0]}/{part[1]} --entries {entries[0]}/{entries[1]}"
    words += "" if dialect == "9p2000.L" else " --no-xattrs"
    with guest.mounted("root", HOST, exported.options(0, dialect=dialect)):
        said = guest.succeed(f"{_LOOKING} root {words} >../looks", patience_s=LONG_PATIENCE_S)
    assert said == ""
    told = {
        path: expected(seen, dialect, contents=is_in(part, path))
        if stat.S_ISDIR(seen["mode"]) or is_looked_at(entries, path)
        else {}
        for path, seen in archived.items()
    }
    found = differences(told, parse((guest.directory / "looks").read_bytes()))
    assert not found, "\n".join(found)


def test_acls_show_where_the_client_asks_for_them(
    guest: Uml, exported: Exported, archived: dict[bytes, Look]
) -> None:
    options = exported.options(0, "/var/log", more="ro,access=client,posixacl")
    with guest.mounted("log", HOST, options):
        told = parse(guest.succeed(f"{_LOOKING} log").encode())
    below = {
        path.removeprefix(b"var/log").removeprefix(b"/"): seen["xattrs"]
        for path, seen in archived.items()
        if path == b"var/log" or path.startswith(b"var/log/")
    }
    assert {path: seen["xattrs"] for path, seen in told.items()} == below
    names = {name for xattrs in below.values() for name in xattrs}
    assert names >= {"system.posix_acl_access", "system.posix_acl_default"}


def test_the_root_has_what_is_hard_to_carry(archived: dict[bytes, Look]) -> None:
    """Or agreeing about it would say little. All of it is where every dialect looks."""
    assert sum(path.startswith(ORDINARY) for path in archived) > 20_000
    ordinary = [seen for path, seen in archived.items() if path.startswith(ORDINARY)]
    assert {seen["mode"] >> 12 for seen in ordinary} == {4, 8, 10}
    names = {name for seen in archived.values() for name in seen["xattrs"]}
    assert names >= {"security.capability", "trusted.of-a-link", "user.large", "security.selinux"}
    assert {seen["mode"] >> 12 for seen in archived.values()} == {1, 2, 4, 6, 8, 10, 12}
    assert any(seen["nlink"] == 3 for seen in archived.values())
    assert any(seen["mtime_ns"] < 0 for seen in archived.values())
    assert any(seen["uid"] > 10**6 and seen["gid"] > 2**31 for seen in archived.values())
    assert sum("md5" in seen for seen in archived.values()) > 30_000
