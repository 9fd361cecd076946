"""How Linux mounts a version: the options, and the lines people paste.

Owns the choice of options for the kernel's 9p client (Linux' Documentation/filesystems/9p.rst) and
their text. Pure: opens nothing, mounts nothing.
"""

import ipaddress
import re
import shlex
from collections.abc import Mapping

from msgspec import Struct

from ventifs.errors import VentifsError
from ventifs.ninep.address import (
    ANY_HOST,
    CID_ANY,
    CID_HOST,
    Address,
    TcpAddress,
    UnixAddress,
    VsockAddress,
)
from ventifs.tree.catalog import parse_time, split_path

MSIZE = 1_048_576
"""Bytes of the largest message asked for: the most that kernels take over sockets. Older ones, and
the server, bring it down to what they can."""

FLAGS = {  # mount(2)'s numbers, of mount(8)'s words
    "ro": 0x1, "nosuid": 0x2, "nodev": 0x4, "noexec": 0x8, "nosymfollow": 0x100,
    "noatime": 0x400, "nodiratime": 0x800, "relatime": 0x200000,
}  # fmt: skip
_UNSET = {"suid": "nosuid", "dev": "nodev", "exec": "noexec", "atime": "noatime"}
_FOR_FSTAB = {"_netdev", "nofail", "auto", "noauto", "defaults", "user", "nouser"}
_OPTION = re.compile(r'(?:[^,"]|"[^"]*"?)+')  # SELinux labels have commas, and then quotes
_OURS = {"aname", "trans", "rfdno", "wfdno", "port"}
_ESCAPES = {" ": r"\040", "\t": r"\011", "\n": r"\012", "\\": r"\134"}


class MountError(VentifsError):
    """A version cannot be mounted; the message says why and what to do."""


class MountOptions(Struct, frozen=True):
    """What a mount is asked for, beside its transport.

    Attributes:
        flags: keys of `FLAGS`.
        values: options of the file system, those that are only words with None.
        fstab: words that only fstab(5) and systemd know.
    """

    flags: tuple[str, ...]
    values: dict[str, str | None]
    fstab: tuple[str, ...] = ()

    def data(self, transport: Mapping[str, object]) -> str:
        """The file system's own options, as mount(2) takes them."""
        merged = {**transport, **self.values}
        return ",".join(key if value is None else f"{key}={value}" for key, value in merged.items())

    def text(self, transport: Mapping[str, object]) -> str:
        """All of them, as mount(8) and fstab(5) take them."""
        return ",".join([*self.flags, self.data(transport)])

    @property
    def number(self) -> int:
        """The flags as mount(2) takes them."""
        return sum(FLAGS[flag] for flag in self.flags)


def names_one_version(aname: str, now_ns: int) -> bool:
    """Whether an aname means the same version at all times from now on.

    That is so of scores, and of times that are over; `latest`, `~N`, names alone and the root show
    what is archived next, and so does the day it is.
    """
    version, _ = split_path(aname.removeprefix("/"))
    if version.startswith("score:"):
        return True
    when = version.partition("@")[2]
    try:
        return parse_time(when)[1] <= now_ns
    except VentifsError:
        return False


def mount_options(aname: str, now_ns: int, more: str = "") -> MountOptions:
    """The options to mount `aname` with, and `more` of mount(8)'s own, which have the last word.

    A version that is always the same is cached for good (`cache=loose`). Anything else is not
    cached, since the kernel then never asks again.

    Raises:
        MountError: an option would write, or is this module's own to choose.
    """
    if any(character in aname for character in ",\n\0"):
        raise MountError(f"{aname!r}: a comma cannot be mounted; mount a directory above it")
    flags = dict.fromkeys(["ro", "nosuid", "nodev"])
    values: dict[str, str | None] = {
        "version": "9p2000.L",
        "msize": str(MSIZE),
        "cache": "loose" if names_one_version(aname, now_ns) else "none",
        "access": "user",
    }
    fstab: list[str] = []
    for option in _OPTION.findall(more):
        key, equals, value = option.partition("=")
        if key == "rw":
            raise MountError("option rw: a version is never written; leave it out")
        if key in _OURS:
            raise MountError(f"option {key}: follows from the address and version; leave it out")
        if key in FLAGS:
            flags[key] = None
        elif key in _UNSET:
            flags.pop(_UNSET[key], None)
        elif key in _FOR_FSTAB or key.startswith("x-"):
            fstab.append(option)
        else:
            values[key] = value if equals else None
    return MountOptions(tuple(flags), values | {"aname": aname}, tuple(dict.fromkeys(fstab)))


def mount_line(address: Address, aname: str, directory: str = "/mnt", *, now_ns: int) -> str:
    """A command to paste into a guest's shell; for addresses of all hosts, with `HOST` in it."""
    options = mount_options(aname, now_ns)
    native = _native(address)
    if native is None:
        return shlex.join(["ventifs", "mount", str(_from_guest(address)), aname, directory])
    source, transport = native
    text = options.text(transport)
    return shlex.join(["mount", "-t", "9p", "-o", text, source, directory])


def fstab_line(
    address: Address, aname: str, directory: str, *, now_ns: int, more: str = ""
) -> str | None:
    """The line of /etc/fstab; None where the kernel cannot open the connection by itself."""
    options = mount_options(aname, now_ns, more)
    native = _native(address)
    if native is None:
        return None
    source, transport = native
    network = ["_netdev"] if isinstance(address, TcpAddress) else []
    words = dict.fromkeys([*network, "nofail", *options.fstab])
    text = ",".join([options.text(transport), *words])
    return " ".join([*map(_escaped, (source, directory)), "9p", _escaped(text), "0", "0"])


def _native(address: Address) -> tuple[str, dict[str, object]] | None:
    """What the kernel calls the server, and its own transport to it, if it has one.

    It resolves no names, has no vsock, and most kernels' takes only IPv4.
    """
    match address:
        case TcpAddress(host, port):
            if host == ANY_HOST:
                return "HOST", {"trans": "tcp", "port": port}
            try:
                ipaddress.IPv4Address(host)
            except ValueError:
                return None
            return host, {"trans": "tcp", "port": port}
        case UnixAddress(path):
            return path, {"trans": "unix"}
        case VsockAddress():
            return None


def _from_guest(address: Address) -> Address:
    """A server's address as its guests write it."""
    if isinstance(address, VsockAddress) and address.cid == CID_ANY:
        return VsockAddress(CID_HOST, address.port)
    return address


def _escaped(field: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in field)
