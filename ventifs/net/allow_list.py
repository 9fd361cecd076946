"""Allow lists: which peer may reach the versions of which names.

Owns the grammar of rules, and what they give to a peer. With a list, a peer reaches only names that
a rule gives. Without a list, the transport decides (`TRUSTED`). Rules only give and never deny, so
their order does not matter. Knows peers, not sockets; names, not versions.

A rule is a peer and patterns of names, as in these lines of a file:

    # the web servers' network, and one database
    192.0.2.0/24     web*,db01
    2001:db8::7      web01
    cid:5            web01           # a guest by the CID its hypervisor gave it
    user:alice       *               # the peer of a Unix socket: user:, group:, uid: or gid:
    group:kvm        web??
    unix             *               # any peer of this transport: tcp, unix, vsock or stdio
    *                public          # any peer

Patterns are the shell's (`*`, `?`, `[a-c]`, `[!a-c]`) and match a whole name.
"""

import grp
import ipaddress
import pwd
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import lru_cache

from msgspec import Struct

from ventifs.errors import VentifsError
from ventifs.net.address import CID_ANY, Address, UnixAddress, parse_cid
from ventifs.net.peer import Peer

TRUSTED = frozenset({"unix", "stdio"})
"""Transports that need no list: only the socket's owner, or who started the server, gets there.

Over the others everybody in reach of the network, or every guest of the host, could read every
file of every version, so without a list they get what `nobody` may read. That is so of vsock too:
its CIDs cannot be forged, but without a list nothing says which guest is which version's.
"""

_RULES_MAX = 10_000  # a connection tries all: few enough to be quick; see docs/performance.md
_ID_MAX = 0xFFFFFFFE  # the id above stands for none
_EVERYBODY = "*"
_TRANSPORTS = frozenset({"tcp", "unix", "vsock", "stdio"})
_PATTERN = re.compile(r"[A-Za-z0-9._*?\[\]!-]+")
_FORM = "write PEER PATTERN[,PATTERN...], such as '192.0.2.0/24 web*,db01'"
_PEER_FORMS = "an IP address or network, cid:N, user:NAME, group:NAME, tcp, unix, vsock, stdio or *"

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_ip = lru_cache(64)(ipaddress.ip_address)  # many rules ask for the same one


class RuleError(VentifsError):
    """A rule of an allow list is invalid; the message says why and how to write it."""


class Exports(Struct, frozen=True):
    """The names that one peer may reach; called with a name, it returns whether it is one of them.

    Attributes:
        patterns: of the names that it may reach; without patterns it reaches nothing.
        as_nobody: whether permissions are checked for the user `nobody`, whatever user it claims
            to be.
    """

    patterns: tuple[str, ...]
    as_nobody: bool = False

    def __call__(self, name: str) -> bool:
        """Whether versions of this name can be reached."""
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)

    def __bool__(self) -> bool:
        """Whether the peer could reach any name; if not, a connection is of no use."""
        return bool(self.patterns)


class AllowRule(Struct, frozen=True):
    """Gives names to the peers that match every field that is set.

    Attributes:
        patterns: of the names that it gives.
        kind: the peer's transport.
        network: contains the peer's IP address.
        cid, uid: the peer's.
        gid: one of the peer's groups, primary or supplementary.
    """

    patterns: tuple[str, ...]
    kind: str | None = None
    network: _Network | None = None
    cid: int | None = None
    uid: int | None = None
    gid: int | None = None

    def fits(self, peer: Peer) -> bool:
        """Whether this rule applies to a peer."""
        return (
            self.kind in {None, peer.kind}
            and self.cid in {None, peer.cid}
            and self.uid in {None, peer.uid}
            and (self.gid is None or self.gid == peer.gid or self.gid in peer.groups)
            and (self.network is None or (peer.ip is not None and _ip(peer.ip) in self.network))
        )


class AllowList(Struct, frozen=True):
    """What each peer may reach.

    Attributes:
        rules: None when no list was given, which is not the same as a list without rules.
    """

    rules: tuple[AllowRule, ...] | None = None

    def exports(self, peer: Peer) -> Exports:
        """What a peer may reach."""
        if self.rules is None:
            return Exports((_EVERYBODY,), as_nobody=peer.kind not in TRUSTED)
        patterns = (pattern for rule in self.rules if rule.fits(peer) for pattern in rule.patterns)
        return Exports(tuple(dict.fromkeys(patterns)))

    def gives(self, name: str) -> bool:
        """Whether any peer at all may reach versions of this name."""
        return self.rules is None or any(Exports(rule.patterns)(name) for rule in self.rules)

    def warnings(self, addresses: Iterable[Address]) -> list[str]:
        """Warnings for a server that listens at these addresses, one line each."""
        if self.rules is not None:
            return [] if self.rules else ["the allow list has no rules: nobody reaches anything"]
        return [
            f"{address}: without an allow list, only what nobody may read is served here; "
            "--allow '192.0.2.0/24 web*' or --allow 'cid:5 web01' gives more"
            for address in addresses
            if not isinstance(address, UnixAddress)
        ]


def parse_rule(text: str) -> AllowRule:
    """Parse the line of a rule.

    Users and groups are looked up now, so that a rule means the same as long as the server runs.

    Raises:
        RuleError: naming the rule, what is wrong with it and how to write it.
    """
    words = text.split()
    if len(words) != 2:
        raise RuleError(f"rule {text!r}: has {len(words)} words, not 2; {_FORM}")
    who, names = words
    patterns = tuple(names.split(","))
    for pattern in patterns:
        if "@" in pattern:
            raise RuleError(f"rule {text!r}: gives names, with all their versions; leave out the @")
        if not _PATTERN.fullmatch(pattern):
            raise RuleError(f"rule {text!r}: {pattern!r} is no pattern of a name; {_FORM}")
    if who == _EVERYBODY:
        return AllowRule(patterns)
    if who in _TRANSPORTS:
        return AllowRule(patterns, kind=who)
    field, colon, value = who.partition(":")
    if colon and field in _IDENTITIES:
        return _IDENTITIES[field](text, value, patterns)
    return AllowRule(patterns, kind="tcp", network=_network(text, who))


def parse_rules(lines: Iterable[str], source: str) -> list[AllowRule]:
    """The rules of a file's lines; `#` begins a comment.

    Raises:
        RuleError: beginning with `source` and the number of the line.
    """
    rules: list[AllowRule] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        if len(rules) == _RULES_MAX:
            raise RuleError(f"{source}: has more than {_RULES_MAX} rules; use networks and groups")
        try:
            rules.append(parse_rule(text))
        except RuleError as error:
            raise RuleError(f"{source}:{number}: {error}") from None
    return rules


def _network(text: str, who: str) -> _Network:
    try:
        return ipaddress.ip_network(who.removeprefix("[").removesuffix("]"))
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(who, strict=False)
    except ValueError:
        raise RuleError(f"rule {text!r}: {who!r} is no peer; write {_PEER_FORMS}") from None
    raise RuleError(f"rule {text!r}: {who} is an address within a network; write {meant}")


def _cid(text: str, value: str, patterns: tuple[str, ...]) -> AllowRule:
    cid = parse_cid(value)
    if cid is None or cid == CID_ANY:
        raise RuleError(
            f"rule {text!r}: {value!r} is no guest's CID; write cid:5, or vsock for all"
        )
    return AllowRule(patterns, kind="vsock", cid=cid)


def _uid(text: str, value: str, patterns: tuple[str, ...]) -> AllowRule:
    uid = _id(text, value, "user", lambda name: pwd.getpwnam(name).pw_uid)
    return AllowRule(patterns, kind="unix", uid=uid)


def _gid(text: str, value: str, patterns: tuple[str, ...]) -> AllowRule:
    gid = _id(text, value, "group", lambda name: grp.getgrnam(name).gr_gid)
    return AllowRule(patterns, kind="unix", gid=gid)


_IDENTITIES: dict[str, Callable[[str, str, tuple[str, ...]], AllowRule]] = {
    "cid": _cid,
    "uid": _uid,
    "user": _uid,
    "gid": _gid,
    "group": _gid,
}


def _id(text: str, value: str, kind: str, look_up: Callable[[str], int]) -> int:
    if re.fullmatch(r"[0-9]{1,10}", value) and int(value) <= _ID_MAX:
        return int(value)
    try:
        return look_up(value)
    except (KeyError, ValueError):
        raise RuleError(f"rule {text!r}: this machine has no {kind} {value!r}") from None
