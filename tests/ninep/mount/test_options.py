"""Which options a version is mounted with, and the lines that people paste."""

import shlex
from datetime import UTC, datetime

import pytest

from ventifs.net.address import parse_address
from ventifs.ninep.mount.options import (
    LiveMount,
    MountError,
    fstab_line,
    mount_line,
    mount_options,
    names_one_version,
    unit_line,
)

NOON_NS = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()) * 10**9
OURS = "trans=tcp,port=564,version=9p2000.L,msize=1048576"


@pytest.mark.parametrize(
    ("aname", "one"),
    [
        ("", False),
        ("/", False),
        ("web01", False),
        ("/web01", False),
        ("web01@latest", False),
        ("web01@latest:/etc", False),
        ("web01@~1", False),
        ("web01@2026-11-23", True),
        ("/web01@2026-11-23:/etc@x", True),
        ("web01@2026-11-24", False),
        ("web01@2026-11", False),
        ("web01@2025", True),
        ("web01@2026-11-24T11", True),
        ("web01@2026-11-24T12", False),
        ("web01@2026-11-24T11:59:59.123456789Z", True),
        ("web01@2026-11-24T12:00:00.000000001Z", False),
        ("score:0123456789abcdef", True),
        ("score:0123456789abcdef:/etc", True),
        ("web01@nonsense", False),
        ("web01@2026-13-01", False),
    ],
)
def test_only_what_stays_the_same_is_cached(aname: str, one: bool) -> None:
    assert names_one_version(aname, NOON_NS) == one
    assert mount_options(aname, NOON_NS).values["cache"] == ("loose" if one else "none")


def test_the_safe_choice_and_the_users() -> None:
    safe = mount_options("web01", NOON_NS)
    assert (safe.flags, safe.number) == (("ro", "nosuid", "nodev"), 1 | 2 | 4)
    assert safe.data({"trans": "fd", "rfdno": 7, "wfdno": 7}) == (
        "trans=fd,rfdno=7,wfdno=7,version=9p2000.L,msize=1048576,cache=none,access=user,aname=web01"
    )
    more = "suid,dev,noexec,cache=mmap,msize=4096,posixacl,,_netdev,x-systemd.automount,nofail"
    own = mount_options("web01", NOON_NS, more)
    assert (own.flags, own.number) == (("ro", "noexec"), 1 | 8)
    assert own.data({}) == (
        "version=9p2000.L,msize=4096,cache=mmap,access=user,posixacl,aname=web01"
    )
    assert own.fstab == ("_netdev", "x-systemd.automount", "nofail")


def test_a_comma_in_quotes_ends_no_option() -> None:
    label = 'context="system_u:object_r:tmp_t:s0:c127,c456"'
    assert (
        mount_options("web01", NOON_NS, f"noexec,{label},debug=1")
        .data({})
        .endswith(f"access=user,{label},debug=1,aname=web01")
    )


@pytest.mark.parametrize(
    ("aname", "more", "reason"),
    [
        ("web01", "rw", "option rw: a version is never written"),
        ("web01", "ro,trans=virtio", "option trans: follows from the address"),
        ("web01", "aname=db01", "option aname: follows from"),
        ("web01", "rfdno=0", "option rfdno: follows from"),
        ("web01@latest:/a,rw", "", "a comma cannot be mounted; mount a directory above it"),
        ("web01\nx", "", "cannot be mounted"),
        ("web01", 'x="open,', 'option x="open,: leave out the quote'),
        ("web01", 'context="open,', "leave out the quote"),
        ("web01", 'uname="a,b"', "leave out the quote"),  # the kernel would split it
    ],
)
def test_what_cannot_be(aname: str, more: str, reason: str) -> None:
    with pytest.raises(MountError, match=reason):
        mount_options(aname, NOON_NS, more)


@pytest.mark.parametrize(
    ("address", "line"),
    [
        (
            "tcp://192.0.2.1",
            f"mount -t 9p -o ro,nosuid,nodev,{OURS},cache=none,access=user,"
            "aname=web01@latest 192.0.2.1 /mnt",
        ),
        (
            "tcp://*",
            f"mount -t 9p -o ro,nosuid,nodev,{OURS},cache=none,access=user,"
            "aname=web01@latest HOST /mnt",
        ),
        (
            "unix:///run/a b",
            "mount -t 9p -o ro,nosuid,nodev,trans=unix,version=9p2000.L,msize=1048576,"
            "cache=none,access=user,aname=web01@latest '/run/a b' /mnt",
        ),
        ("vsock://any:5640", "ventifs mount vsock://host:5640 web01@latest /mnt"),
        ("vsock://5", "ventifs mount vsock://5:564 web01@latest /mnt"),
        ("tcp://store.example", "ventifs mount tcp://store.example:564 web01@latest /mnt"),
        ("tcp://[::1]", "ventifs mount 'tcp://[::1]:564' web01@latest /mnt"),
    ],
)
def test_lines_for_a_shell(address: str, line: str) -> None:
    assert mount_line(parse_address(address), "web01@latest", now_ns=NOON_NS) == line


def test_a_shell_gets_back_what_was_meant() -> None:
    words = shlex.split(
        mount_line(parse_address("unix:///run/a'b"), "a@~1:/x y", "/mnt/$x", now_ns=0)
    )
    assert words[:4] == ["mount", "-t", "9p", "-o"]
    assert words[4].endswith(",aname=a@~1:/x y")
    assert words[5:] == ["/run/a'b", "/mnt/$x"]


def test_lines_for_fstab() -> None:
    assert fstab_line(
        parse_address("tcp://192.0.2.1:5640"),
        "web01@2026-11-23",
        "/mnt/a b\\c",
        now_ns=NOON_NS,
        more="x-systemd.automount,nofail",
    ) == (
        r"192.0.2.1 /mnt/a\040b\134c 9p ro,nosuid,nodev,trans=tcp,port=5640,version=9p2000.L,"
        "msize=1048576,cache=loose,access=user,aname=web01@2026-11-23,_netdev,nofail,"
        "x-systemd.automount 0 0"
    )
    assert fstab_line(parse_address("unix:///run/9p"), "web01", "/mnt", now_ns=NOON_NS) == (
        "/run/9p /mnt 9p ro,nosuid,nodev,trans=unix,version=9p2000.L,msize=1048576,cache=none,"
        "access=user,aname=web01,nofail 0 0"
    )
    for address in "vsock://host", "tcp://store", "tcp://[::1]":
        assert fstab_line(parse_address(address), "web01", "/mnt", now_ns=NOON_NS) is None


@pytest.mark.parametrize(
    ("live", "flags", "cache"),
    [
        (LiveMount("shared"), "ro,nosuid,nodev", "none"),
        (LiveMount("shared", writable=True), "nosuid,nodev", "none"),
        (LiveMount("exclusive", writable=True), "nosuid,nodev", "mmap"),
    ],
)
def test_a_live_export_is_mounted_as_its_kind_needs(
    live: LiveMount, flags: str, cache: str
) -> None:
    options = f"version=9p2000.L,msize=1048576,cache={cache},access=user,locktimeout=1"
    tcp, vsock = parse_address("tcp://192.0.2.1"), parse_address("vsock://any")
    line = mount_line(tcp, "web:/a", now_ns=NOON_NS, live=live)
    assert line == (
        f"mount -t 9p -o {flags},trans=tcp,port=564,{options},aname=web:/a 192.0.2.1 /mnt"
    )
    assert fstab_line(tcp, "web", "/mnt", now_ns=NOON_NS, live=live) == (
        f"192.0.2.1 /mnt 9p {flags},trans=tcp,port=564,{options},aname=web,_netdev,nofail 0 0"
    )
    written = "-o rw " if live.writable else ""
    words = f"ventifs mount --live {live.sharing} {written}vsock://host:564 web /mnt"
    assert mount_line(vsock, "web", now_ns=NOON_NS, live=live) == words
    assert unit_line(vsock, "web", "/mnt", live) == words


def test_writing_is_chosen_for_live_exports_alone() -> None:
    live = LiveMount("shared")
    assert mount_options("web", NOON_NS, "rw", live).flags == ("nosuid", "nodev")
    assert mount_options("web", NOON_NS, "ro", LiveMount("shared", writable=True)).number == 7
    assert mount_options("web", NOON_NS, "cache=loose", live).values["cache"] == "loose"
    with pytest.raises(MountError, match="leave it out, or name the kind of a live export: --live"):
        mount_options("web", NOON_NS, "rw")


@pytest.mark.parametrize("aname", ["web@latest", "a/b", "", "score:01234567"])
def test_what_can_be_no_live_export_gets_no_line_in_fstab(aname: str) -> None:
    with pytest.raises(MountError, match=r"can be no live export .*; write NAME or NAME:/PATH"):
        fstab_line(
            parse_address("tcp://192.0.2.1"), aname, "/mnt", now_ns=1, live=LiveMount("shared")
        )
