"""Where a 9P server listens: addresses as URLs or Plan 9 dial strings, and back to text.

Owns the three kinds of address, their one grammar and their limits. An address is always complete:
the port is filled in, the path is absolute, so that `parse_address(str(address)) == address`. It
never resolves a name, opens a socket or reads the environment.

    tcp://HOST:PORT     tcp!HOST!PORT, net!HOST!PORT   HOST a name, IPv4, [IPv6] or * for all
    unix:///PATH        unix!/PATH
    vsock://CID:PORT    vsock!CID!PORT                 CID a number, any (or *), host, local

A port is a number or the service's name, 9pfs (Plan 9's 9fs), and may be left out: it is 564.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import NoReturn

from msgspec import Struct

from ventifs.errors import VentifsError

PORT = 564  # 9pfs in IANA's list of services; kernels' 9p clients expect it
ANY_HOST = "*"
UNIX_PATH_MAX = 107  # bytes; what sockaddr_un holds beside its NUL
CID_HYPERVISOR, CID_LOCAL, CID_HOST, CID_ANY = 0, 1, 2, 0xFFFFFFFF  # the kernel's VMADDR_CID_*

_SERVICES = {"9pfs": PORT, "9fs": PORT}
_CIDS = {"any": CID_ANY, "host": CID_HOST, "local": CID_LOCAL}
_CID_NAMES = {cid: name for name, cid in _CIDS.items()}
_TCP_PORT_MAX = 0xFFFF
_VSOCK_PORT_MAX = 0xFFFFFFFE  # the value above is the kernel's 'any port'
_HOST_MAX = 253  # bytes of a DNS name
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_ZONE = re.compile(r"[A-Za-z0-9._-]{1,15}")  # an interface's name or number
_FORMS = "tcp://HOST:PORT, unix:///PATH or vsock://CID:PORT"


class AddressError(VentifsError):
    """A text is not a valid address; the message says what is wrong and how to write it."""


class TcpAddress(Struct, frozen=True):
    """A TCP port of a host.

    Attributes:
        host: a DNS name or an IP address, in lower case, without brackets; `*` is every address
            of this machine.
        port: 0 to 65535; 0 lets the kernel choose one when listening.
    """

    host: str
    port: int = PORT

    def __str__(self) -> str:
        """The URL."""
        return f"tcp://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class UnixAddress(Struct, frozen=True):
    """A Unix socket, by its absolute path of at most `UNIX_PATH_MAX` bytes."""

    path: str

    def __str__(self) -> str:
        """The URL; the path stands in it as it is, with nothing escaped."""
        return f"unix://{self.path}"


class VsockAddress(Struct, frozen=True):
    """A port of a virtual machine or its host.

    Attributes:
        cid: the context id, 0 to 2**32-1; when listening, `CID_ANY` is every CID of this machine.
        port: 0 to 2**32-2; only root may listen on those below 1024.
    """

    cid: int
    port: int = PORT

    def __str__(self) -> str:
        """The URL."""
        return f"vsock://{_CID_NAMES.get(self.cid, self.cid)}:{self.port}"


Address = TcpAddress | UnixAddress | VsockAddress


def parse_address(text: str) -> Address:
    """The address that a URL or a dial string names.

    Raises:
        AddressError: naming the text, what is wrong with it and how to write it.
    """
    if any(character < " " or character == "\x7f" for character in text):
        raise AddressError(f"address {text!r}: has control characters in it")
    transport, mark, rest = _split(text)
    return _PARSERS[transport](text, rest, mark == "!")


def parse_cid(text: str) -> int | None:
    """The context id of a number or a name (`any`, `host`, `local`); None if it is neither."""
    return _CIDS.get(text.lower(), _number(text, CID_ANY))


def _refuse(text: str, reason: str, remedy: str) -> NoReturn:
    raise AddressError(f"address {text!r}: {reason}; {remedy}")


def _split(text: str) -> tuple[str, str, str]:
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)(://|!)", text)
    if found is None and text.startswith("/"):
        _refuse(text, "names no transport", f"for a Unix socket write unix://{text}")
    if found is None:
        _refuse(text, "names no transport", f"write {_FORMS}")
    transport = found[1].lower()
    if transport == "net":
        transport = "tcp"
    if transport not in _PARSERS:
        _refuse(text, f"{found[1]} is no transport of ventifs", f"write {_FORMS}")
    return transport, found[2], text[found.end() :]


def _tcp(text: str, rest: str, dialled: bool) -> TcpAddress:
    host, port = _dialled(text, rest) if dialled else _host_and_port(text, rest)
    return TcpAddress(_host(text, host), _port(text, port, _TCP_PORT_MAX))


def _vsock(text: str, rest: str, dialled: bool) -> VsockAddress:
    name, port = _dialled(text, rest) if dialled else _host_and_port(text, rest)
    cid = CID_ANY if name == ANY_HOST else parse_cid(name)
    if cid is None:
        _refuse(text, f"{name!r} is no CID", "write a number such as vsock://5:564, any or host")
    return VsockAddress(cid, _port(text, port, _VSOCK_PORT_MAX))


def _unix(text: str, path: str, _: bool) -> UnixAddress:
    if not path.startswith("/"):
        _refuse(text, "its path is not absolute", f"write unix:///.../{path or 'SOCKET'}")
    if path.endswith("/"):
        _refuse(text, "names a directory", f"write {text.rstrip('/')}/SOCKET")
    if len(path.encode("utf-8", "surrogateescape")) > UNIX_PATH_MAX:
        _refuse(text, f"is longer than {UNIX_PATH_MAX} bytes", "choose a directory nearer the root")
    return UnixAddress(path)


_PARSERS: dict[str, Callable[[str, str, bool], Address]] = {
    "tcp": _tcp,
    "unix": _unix,
    "vsock": _vsock,
}


def _dialled(text: str, rest: str) -> tuple[str, str | None]:
    host, *ports = rest.split("!")
    if len(ports) > 1:
        _refuse(text, "has too many parts", "write TRANSPORT!HOST!PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host, ports[0] if ports else None


def _host_and_port(text: str, rest: str) -> tuple[str, str | None]:
    rest, slash, path = rest.partition("/")
    if slash and path:
        _refuse(text, "ends in a path", "name the version in an argument of its own")
    if rest.startswith("["):
        host, bracket, after = rest[1:].partition("]")
        if not bracket or (after and not after.startswith(":")) or ":" not in host:
            _refuse(text, "its brackets hold no IPv6 address", "write one as in tcp://[::1]:564")
        return host, after[1:] if after else None
    if rest.count(":") > 1:
        _refuse(text, "has several colons", "write an IPv6 address in brackets: tcp://[::1]:564")
    host, colon, port = rest.partition(":")
    return host, port if colon else None


def _host(text: str, host: str) -> str:
    if host in {"", ANY_HOST}:
        return ANY_HOST
    if ":" in host:
        return _ipv6(text, host)
    host = host.lower()
    labels = host.removesuffix(".").split(".")
    if labels[-1].isdigit():  # this can only mean IPv4; resolvers accept even 127.1
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            _refuse(text, f"{host!r} is no IPv4 address", "write four numbers as in 192.0.2.1")
    if len(host) > _HOST_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        _refuse(text, f"{host!r} is no host name", "write a name, an IP address, or * for all")
    return host


def _ipv6(text: str, host: str) -> str:
    digits, percent, zone = host.partition("%")
    try:
        address = ipaddress.IPv6Address(digits)
    except ValueError:
        _refuse(text, f"{host!r} is no IPv6 address", "write one as in tcp://[::1]:564")
    if percent and not _ZONE.fullmatch(zone):
        _refuse(text, f"{zone!r} is no network interface", "write one as in tcp://[fe80::1%eth0]")
    return f"{address}{percent}{zone}"


def _port(text: str, port: str | None, largest: int) -> int:
    if port is None:
        return PORT
    number = _SERVICES.get(port.lower(), _number(port, largest))
    if number is None:
        _refuse(text, f"{port!r} is no port", f"write a number up to {largest}, or 9pfs for {PORT}")
    return number


def _number(text: str, largest: int) -> int | None:
    """The number that ASCII digits stand for, at most `largest`; None for any other text.

    Python's own `int` also accepts signs, spaces, underscores and other scripts' digits.
    """
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > largest:
        return None
    return int(text)
