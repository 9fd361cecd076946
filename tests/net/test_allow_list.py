"""Allow lists: every kind of rule, whom it fits, and that nothing is reached that none gives."""

import grp
import ipaddress
import os
import pwd
from fnmatch import fnmatchcase

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventifs.net.address import CID_ANY, TcpAddress, UnixAddress, VsockAddress
from ventifs.net.allow_list import AllowList, AllowRule, Exports, RuleError, parse_rule, parse_rules
from ventifs.net.peer import STDIO, Peer

TCP = Peer(kind="tcp", ip="192.0.2.7", port=50000)
TCP6 = Peer(kind="tcp", ip="2001:db8::7", port=50000)
VSOCK = Peer(kind="vsock", cid=5, port=1024)
UNIX = Peer(kind="unix", pid=4242, uid=1000, gid=1001, groups=(7, 8))
PEERS = {"tcp": TCP, "tcp6": TCP6, "vsock": VSOCK, "unix": UNIX, "stdio": STDIO}


def _list(*rules: str) -> AllowList:
    return AllowList(tuple(map(parse_rule, rules)))


@pytest.mark.parametrize(
    ("who", "fitting"),
    [
        ("*", {"tcp", "tcp6", "vsock", "unix", "stdio"}),
        ("tcp", {"tcp", "tcp6"}),
        ("vsock", {"vsock"}),
        ("unix", {"unix"}),
        ("stdio", {"stdio"}),
        ("192.0.2.7", {"tcp"}),
        ("192.0.2.0/24", {"tcp"}),
        ("0.0.0.0/0", {"tcp"}),
        ("192.0.2.6", set()),
        ("192.0.3.0/24", set()),
        ("2001:db8::/32", {"tcp6"}),
        ("2001:DB8:0::7", {"tcp6"}),
        ("[2001:db8::7]", {"tcp6"}),
        ("::/0", {"tcp6"}),
        ("cid:5", {"vsock"}),
        ("cid:6", set()),
        ("cid:host", set()),
        ("uid:1000", {"unix"}),
        ("user:1000", {"unix"}),
        ("uid:1001", set()),
        ("gid:1001", {"unix"}),
        ("gid:7", {"unix"}),
        ("group:8", {"unix"}),
        ("gid:1000", set()),
        ("gid:9", set()),
    ],
)
def test_whom_a_rule_fits(who: str, fitting: set[str]) -> None:
    allow = _list(f"{who} web*")
    for kind, peer in PEERS.items():
        exports = allow.exports(peer)
        assert bool(exports) == (kind in fitting)
        assert exports("web01") == (kind in fitting)
        assert not exports("db01")
        assert not exports.as_nobody


def test_users_and_groups_by_name() -> None:
    user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(os.getegid())
    assert parse_rule(f"user:{user.pw_name} *") == parse_rule(f"uid:{user.pw_uid} *")
    assert parse_rule(f"uid:{user.pw_name} *") == AllowRule(("*",), kind="unix", uid=user.pw_uid)
    assert parse_rule(f"group:{group.gr_name} *") == AllowRule(
        ("*",), kind="unix", gid=group.gr_gid
    )


def test_rules_add_up() -> None:
    allow = _list("unix web*", "uid:1000 db0[1-3],web*", "cid:5 mail", "tcp *")
    exports = allow.exports(UNIX)
    assert exports.patterns == ("web*", "db0[1-3]")
    names = ["web01", "web", "db01", "db03", "db04", "mail", "Web01", "xweb01", "db01x"]
    assert [name for name in names if exports(name)] == ["web01", "web", "db01", "db03"]


def test_what_no_rule_gives_is_out_of_reach() -> None:
    allow = _list("192.0.2.0/25 a", "2001:db8::/64 b", "cid:5 c", "uid:0 d")
    assert allow.exports(Peer(kind="tcp", ip="192.0.2.200", port=1)) == Exports(())
    assert allow.exports(UNIX) == Exports(())
    assert allow.exports(STDIO) == Exports(())
    assert not allow.exports(STDIO)


def test_without_a_list() -> None:
    allow = AllowList()
    for peer in UNIX, STDIO:
        assert allow.exports(peer) == Exports(("*",), as_nobody=False)
    for peer in TCP, TCP6, VSOCK:
        assert allow.exports(peer) == Exports(("*",), as_nobody=True)
    unix = UnixAddress("/run/9p")
    [tcp, vsock] = allow.warnings([TcpAddress("*"), unix, VsockAddress(CID_ANY)])
    assert tcp.startswith("tcp://*:564: without an allow list, only what nobody may read is served")
    assert vsock.startswith("vsock://any:564: ")
    assert allow.warnings([unix]) == []


def test_a_list_without_rules_gives_nothing() -> None:
    allow = AllowList(())
    assert not any(allow.exports(peer) for peer in PEERS.values())
    assert allow.warnings([]) == ["the allow list has no rules: nobody reaches anything"]
    assert _list("* *").warnings([TcpAddress("*")]) == []


def test_exports_go_to_other_processes() -> None:
    exports = AllowList().exports(TCP)
    assert msgspec.json.decode(msgspec.json.encode(exports), type=Exports) == exports


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("", "has 0 words, not 2; write PEER PATTERN"),
        ("web01", "has 1 words, not 2"),
        ("* web01 web02", "has 3 words, not 2"),
        ("* web01@latest", "gives names, with all their versions; leave out the @"),
        ("* web01,", "'' is no pattern of a name"),
        ("* web/*", "'web/*' is no pattern"),
        ("192.0.2.7/24 *", "192.0.2.7/24 is an address within a network; write 192.0.2.0/24"),
        ("192.0.2.0/33 *", "'192.0.2.0/33' is no peer; write an IP address or network, cid:N"),
        ("store.example *", "'store.example' is no peer"),
        ("TCP *", "'TCP' is no peer"),
        ("cid:any *", "'any' is no guest's CID; write cid:5, or vsock for all"),
        ("cid:-1 *", "'-1' is no guest's CID"),
        ("uid:4294967295 *", "this machine has no user '4294967295'"),
        ("uid:-1 *", "this machine has no user '-1'"),
        ("user: *", "this machine has no user ''"),
        ("user:no-such-user-here *", "this machine has no user 'no-such-user-here'"),
        ("user:a\0b *", "this machine has no user"),
        ("group:no-such-group-here *", "this machine has no group 'no-such-group-here'"),
    ],
)
def test_a_mistake_is_explained(rule: str, reason: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse_rule(rule)
    assert str(caught.value).startswith(f"rule {rule!r}: ")
    assert reason in str(caught.value)


def test_a_file() -> None:
    lines = ["# guests\n", "\n", "  cid:5\tweb01  # the first\n", "#*  *\n", "unix *"]
    assert parse_rules(lines, "allowed") == [parse_rule("cid:5 web01"), parse_rule("unix *")]
    with pytest.raises(RuleError, match=r"^allowed:2: rule '5 web01': '5' is no peer"):
        parse_rules(["# guests\n", "5 web01\n"], "allowed")
    with pytest.raises(RuleError, match="allowed: has more than 10000 rules"):
        parse_rules(["* *"] * 10_001, "allowed")


_WHO = st.sampled_from(
    [
        "*",
        "tcp",
        "unix",
        "vsock",
        "stdio",
        "192.0.2.7",
        "192.0.2.0/24",
        "2001:db8::/32",
        "cid:5",
        "cid:6",
        "uid:1000",
        "uid:1",
        "gid:7",
        "gid:1001",
        "gid:2",
    ]
)
_NAMES = st.text("ab", min_size=1, max_size=3)
_GLOBS = st.text("ab*?", min_size=1, max_size=3)


@given(st.lists(st.tuples(_WHO, _GLOBS), max_size=5), st.sampled_from(list(PEERS.values())), _NAMES)
def test_reach_is_what_some_rule_gives(rules: list[tuple[str, str]], peer: Peer, name: str) -> None:
    allow = _list(*(f"{who} {glob}" for who, glob in rules))
    expected = any(_means(who, peer) and fnmatchcase(name, glob) for who, glob in rules)
    assert allow.exports(peer)(name) == expected


def _means(who: str, peer: Peer) -> bool:
    """Written apart from the rules' own code."""
    if who in {"*", peer.kind}:
        return True
    if who.startswith(("192", "2001")):
        return peer.ip is not None and ipaddress.ip_address(peer.ip) in ipaddress.ip_network(who)
    known = {f"cid:{peer.cid}", f"uid:{peer.uid}", f"gid:{peer.gid}"}
    return who in known | {f"gid:{group}" for group in peer.groups}
