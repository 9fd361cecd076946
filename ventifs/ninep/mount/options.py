r"""The options by which Linux mounts a version, and lines with them for users to paste.

Owns the choice of options for the kernel's 9p client (Linux' Documentation/filesystems/9p.rst) and
their text. Pure: opens nothing, mounts nothing.

An option reaches the kernel through up to four readers, each with its own special characters: a
shell or the fields of fstab(5), then libmount, then the kernel. Invariant: a printed line gives the
kernel exactly the intended options; if that is impossible, no line is printed. An option that is
lost on the way would expose more than intended: without `aname`, all names are mounted.

    the kernel    splits at every comma; only labels of SELinux may have commas, in quotes
    libmount      splits at commas outside of quotes, from 2.39 on not after a backslash; drops
                  everything after an unclosed quote
    fstab(5)      splits at blanks; all its readers know \040, \011, \012 and \134, and only those
    a shell       reads quoted words as they are
"""

import ipaddress
import os
import re
from collections.abc import Mapping

from msgspec import Struct

from ventifs.errors import VentifsError
from ventifs.net.address import (
    ANY_HOST,
    CID_ANY,
    CID_HOST,
    Address,
    TcpAddress,
    UnixAddress,
    VsockAddress,
)
from ventifs.text import one_line, printable, shell_word
from ventifs.tree.versions.catalog import TIME_NS_MAX, check_name, split_path
from ventifs.tree.versions.times import parse_time
from ventifs.vfs.archived.exports import Unknown, parse_aname
from ventifs.vfs.live.export import Sharing

MSIZE = 1_048_576
"""Bytes of the largest message asked for: the most that kernels take over sockets. Older ones, and
the server, bring it down to what they can."""

_LIVE_CACHES: dict[Sharing, str] = {"shared": "none", "exclusive": "mmap"}
_LOCK_S = 1  # from one try for a lock to the next; the server answers each within this time

FLAGS = {  # mount(8)'s words and mount(2)'s numbers
    "ro": 0x1,
    "nosuid": 0x2,
    "nodev": 0x4,
    "noexec": 0x8,
    "nosymfollow": 0x100,
    "noatime": 0x400,
    "nodiratime": 0x800,
    "relatime": 0x200000,
}
_UNSET = {"suid": "nosuid", "dev": "nodev", "exec": "noexec", "atime": "noatime"}
_FOR_FSTAB = {"_netdev", "nofail", "auto", "noauto", "defaults", "user", "nouser"}
_OPTION = re.compile(r'(?:[^,"]|"[^"]*"?)+')
_LABELS = {"context", "fscontext", "defcontext", "rootcontext"}  # SELinux', which may have quotes
_LATEST = re.compile(r"latest|~[0-9]{1,9}")
DATA_MAX = 4095  # bytes of options: a page less the NUL; the kernel cuts off the rest
_OURS = {"aname", "trans", "rfdno", "wfdno", "port"}
_ESCAPES = {" ": r"\040", "\t": r"\011", "\n": r"\012", "\\": r"\134"}


class MountError(VentifsError):
    """A version cannot be mounted; the message says why and what to do."""


class MountOptions(Struct, frozen=True):
    """The options of a mount, without those of its transport.

    Attributes:
        flags: keys of `FLAGS`.
        values: options of the file system; None for an option without a value.
        fstab: options that only fstab(5) and systemd know.
    """

    flags: tuple[str, ...]
    values: dict[str, str | None]
    fstab: tuple[str, ...] = ()

    def data(self, transport: Mapping[str, object]) -> str:
        """The file system's own options, as mount(2) takes them."""
        merged = {**transport, **self.values}
        return ",".join(key if value is None else f"{key}={value}" for key, value in merged.items())

    def text(self, transport: Mapping[str, object]) -> str:
        """The flags and the file system's options, as mount(8) and fstab(5) take them."""
        return ",".join([*self.flags, self.data(transport)])

    @property
    def number(self) -> int:
        """The flags as mount(2) takes them."""
        return sum(FLAGS[flag] for flag in self.flags)


def names_one_version(aname: str, now_ns: int) -> bool:
    """Whether new versions leave the meaning of an aname alone, so that a client may cache it.

    That is true of `score:DIGITS`, and of a time that has wholly passed by `now_ns`: later versions
    get later times. Only a run that began within that time, a chosen time (`archive --time`),
    `copy` or `forget` can still change it. It is false of `latest`, `~N`, the current day, names
    alone and the root.
    """
    version, _ = split_path(aname.removeprefix("/"))
    if version.startswith("score:"):
        return True
    when = version.partition("@")[2]
    try:
        return parse_time(when)[1] <= now_ns
    except VentifsError:
        return False


class LiveMount(Struct, frozen=True):
    """That what is mounted is a live export, and how.

    Attributes:
        sharing: of the export.
        writable: whether to mount it for writing.
    """

    sharing: Sharing
    writable: bool = False


def mount_options(
    aname: str, now_ns: int, more: str = "", live: LiveMount | None = None
) -> MountOptions:
    """The options to mount `aname` with; options of mount(8) in `more` take precedence.

    A version that never changes is cached for good (`cache=loose`). Anything else is not cached,
    since with `cache=loose` the kernel never asks the server again. A live export that nobody else
    has is cached for mapped files too (`cache=mmap`).

    Raises:
        MountError: `aname` has a comma, a newline or a NUL; or an option of `more` has a quote
            that it may not have, is `rw` for a version, or is chosen by this module alone.
    """
    if any(character in aname for character in ",\n\0"):
        raise _unfit(aname, "a comma cannot be mounted")
    flags = dict.fromkeys(["ro", "nosuid", "nodev"])
    if live is not None and live.writable:
        del flags["ro"]
    values: dict[str, str | None] = {
        "version": "9p2000.L",
        "msize": str(MSIZE),
        "cache": "loose" if names_one_version(aname, now_ns) else "none",
        "access": "user",
    }
    if live is not None:
        values |= {"cache": _LIVE_CACHES[live.sharing], "locktimeout": str(_LOCK_S)}
    fstab: list[str] = []
    for option in _OPTION.findall(more):
        key, equals, value = option.partition("=")
        if '"' in option and (key not in _LABELS or option.count('"') % 2):
            raise MountError(
                f"option {printable(option)}: leave out the quote; only labels have any"
            )
        if key == "rw":
            if live is None:
                raise MountError(
                    "option rw: a version is never written; leave it out, or name the kind of a "
                    "live export: --live shared"
                )
            flags.pop("ro", None)
            continue
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


def mount_line(
    address: Address,
    aname: str,
    directory: str = "/mnt",
    *,
    now_ns: int,
    live: LiveMount | None = None,
) -> str:
    """A command to paste into a guest's shell; an address of all hosts is written `HOST`.

    Raises:
        MountError: as `mount_options`; or mount(8) cannot pass the options on.
    """
    options = mount_options(aname, now_ns, live=live)
    native = _native(address)
    if native is None:
        words = _ventifs_words(address, aname, directory, live)
    else:
        source, transport = native
        _check_for_libmount(options, transport)
        words = ["mount", "-t", "9p", "-o", options.text(transport), source, directory]
    return " ".join(map(shell_word, words))


def fstab_line(
    address: Address,
    aname: str,
    directory: str,
    *,
    now_ns: int,
    more: str = "",
    live: LiveMount | None = None,
) -> str | None:
    """The line of /etc/fstab; None where the kernel cannot open the connection by itself.

    Raises:
        MountError: no version can have this name, or fstab cannot express the options.
    """
    check_aname(aname, live)
    options = mount_options(aname, now_ns, more, live)
    native = _native(address)
    if native is None:
        return None
    source, transport = native
    network = ["_netdev"] if isinstance(address, TcpAddress) else []
    words = dict.fromkeys([*network, "nofail", *options.fstab])
    text = ",".join([options.text(transport), *words])
    _check_for_libmount(options, transport)
    for field, remedy in (
        (source, "choose another socket"),
        (directory, "choose another directory"),
        (aname, "mount a directory above it"),
        (text, "leave the option out"),
    ):
        if one_line(field) != field:
            raise _unfit(field, "fstab has only what prints", remedy)
    return " ".join([*map(_escaped, (source, directory)), "9p", _escaped(text), "0", "0"])


def unit_line(address: Address, aname: str, directory: str, live: LiveMount | None = None) -> str:
    """The command of a systemd unit's `ExecStart=` that mounts by `ventifs mount`."""
    return " ".join(map(_unit_word, _ventifs_words(address, aname, directory, live)))


def _ventifs_words(
    address: Address, aname: str, directory: str, live: LiveMount | None
) -> list[str]:
    """The words of `ventifs mount`."""
    kind = [] if live is None else ["--live", live.sharing]
    written = ["-o", "rw"] if live is not None and live.writable else []
    return ["ventifs", "mount", *kind, *written, str(_from_guest(address)), aname, directory]


def check_aname(aname: str, live: LiveMount | None = None) -> None:
    """Check that `aname` can name a version, or a live export if it is to be one.

    Only the server knows whether that exists. A path that begins with `/` is a name of another kind
    of server, and passes.

    Raises:
        MountError: it cannot.
    """
    if aname.startswith("/"):
        return
    if live is not None:
        name, _ = split_path(aname)
        try:
            check_name(name)
        except VentifsError as error:
            raise MountError(
                f"'{printable(aname)}' can be no live export ({error}); write NAME or NAME:/PATH"
            ) from None
        return
    try:
        when = parse_aname(os.fsencode(aname)).when
        first = 0 if when is None or _LATEST.fullmatch(when) else parse_time(when)[0]
    except (Unknown, VentifsError) as error:
        raise MountError(
            f"'{printable(aname)}' can be no version ({error}); write NAME, NAME@latest, "
            "NAME@TIME, score:HEX or /, and a path in it behind ':'"
        ) from None
    if not 0 <= first <= TIME_NS_MAX:
        raise MountError(f"'{printable(aname)}': versions lie between 1970 and 2554")


def _check_for_libmount(options: MountOptions, transport: Mapping[str, object]) -> None:
    """Check that mount(8) passes the options on unchanged.

    Raises:
        MountError: naming the option.
    """
    own = [
        (key, key if value is None else f"{key}={value}") for key, value in options.values.items()
    ]
    for key, option in [*own, *((word, word) for word in options.fstab)]:
        remedy = "mount a directory above it" if key == "aname" else "leave the option out"
        if '"' in option and key not in _LABELS:
            raise _unfit(option, "mount(8) cannot pass on a quote", remedy)
        if option.endswith("\\"):
            raise _unfit(option, "mount(8) cannot pass on a backslash at the end", remedy)
    if len(os.fsencode(options.data(transport))) > DATA_MAX:
        raise _unfit(options.values["aname"] or "", "the options are too long")


def _unfit(text: str, reason: str, remedy: str = "mount a directory above it") -> MountError:
    return MountError(f"'{printable(text)}': {reason}; {remedy}")


def _native(address: Address) -> tuple[str, dict[str, object]] | None:
    """The server's address and the options of the kernel's own transport, if it has one.

    The kernel resolves no names and has no vsock, and most kernels take only IPv4 addresses.
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


def _unit_word(word: str) -> str:
    """A word as systemd reads it: escapes of C within quotes, `%` and `$` doubled."""
    if re.fullmatch(r"[A-Za-z0-9@:/._=,+~\[\]-]+", word):
        return word
    shown = one_line(word.replace("\\", r"\\").replace('"', r"\""))
    return '"' + shown.replace("%", "%%").replace("$", "$$") + '"'


def _escaped(field: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in field)
