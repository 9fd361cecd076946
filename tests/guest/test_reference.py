"""The harness itself: a guest sees a directory as it is through a server of other people's.

So that what guests see of ours is told by the same means that see another's rightly, and nothing
can be written to what is served for comparison.
"""

import sys
from pathlib import Path

import pytest

from tests.support import looking, servers
from tests.support.looking import looks, parse
from tests.support.segment import HOST, Segment, missing_programs
from tests.support.serving import differences
from tests.support.trees import odd_tree
from tests.support.uml import GuestDied, Uml

pytestmark = pytest.mark.slow


def test_a_guest_sees_what_diod_serves(guest: Uml, network: Segment, tmp_path: Path) -> None:
    if missing := missing_programs(["diod"]):
        pytest.skip(f"needs the Debian package diod (missing: {' '.join(missing)})")
    tree = odd_tree(tmp_path / "tree")
    ours = dict(looks(bytes(tree)))
    options = f"trans=tcp,port=5640,version=9p2000.L,uname=root,msize=1048576,aname={tree}"
    with (
        servers.diod(network, tmp_path / "diod.log", tree, port=5640),
        guest.mounted("tree", HOST, options),
    ):
        looking_there = f"{sys.executable} -I -S {looking.__file__} tree"
        theirs = parse(guest.succeed(looking_there).encode())
        written = guest.run("echo new >tree/new")
    assert "Read-only file system" in written.text
    for seen in (*ours.values(), *theirs.values()):
        for name in seen["xattrs"]:
            if name.startswith("system."):
                seen["xattrs"][name] = "not asked for"
    assert differences(ours, theirs) == []


def test_a_guest_that_hangs_is_killed(guest: Uml) -> None:
    with pytest.raises(GuestDied, match=r"the guest hangs: no answer for 0\.2 s"):
        guest.run("sleep 60", patience_s=0.2)
    assert not guest.alive


def test_a_guest_that_ends_is_told_of(guest: Uml) -> None:
    with pytest.raises(GuestDied, match="the guest has ended"):
        guest.run("echo o >/proc/sysrq-trigger; sleep 60")
    assert not guest.alive


def test_a_script_tells_how_it_ends(guest: Uml) -> None:
    done = guest.run("echo this; echo that >&2; exit 7")
    assert (done.status, done.text) == (7, "this\nthat\n")
