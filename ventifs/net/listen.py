"""Sockets to listen on: made for an address, or handed over by systemd.

Owns how an address becomes listening sockets, and the life of a socket's file. Always: a listening
socket does not block and is closed on exec; at no moment can more users reach a Unix socket than
its mode allows; the socket file of a running server is never replaced. Works on plain sockets;
knows no event loop and no protocol, and reads no environment.
"""

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ventifs.net.address import (
    ANY_HOST,
    Address,
    TcpAddress,
    UnixAddress,
    VsockAddress,
    parse_address,
)
from ventifs.net.dial import TransportError, explained

UNIX_MODE = 0o600
BACKLOG = 1024  # connections that wait to be accepted; the kernel's somaxconn is its limit

_INHERITED_FIRST = 3  # systemd's SD_LISTEN_FDS_START
_INHERITED_MAX = 64
_MISSING_FAMILY = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}
Clock = Callable[[], float]

_LOCK_S, _LOCK_STEP_S = 5.0, 0.02  # a server holds the lock for about a probe at most
_PROBE_S = 2.0  # a living server's kernel completes a local connection at once

_REMEDIES = {
    errno.EADDRINUSE: "another server listens there; stop it, or choose another port",
    errno.EADDRNOTAVAIL: "this machine has no such address; write * (vsock: any) for all it has",
    errno.EACCES: "ports below 1024 are root's; choose another one",
    errno.ENOENT: "make the directory first",
    errno.EAFNOSUPPORT: "this kernel lacks the transport; for vsock load vhost_vsock on a host",
    errno.ENODEV: "this machine has no vsock device; on a host load vhost_vsock",
}
_UNIX_REMEDIES = {
    **_REMEDIES,
    errno.EADDRINUSE: "another server listens there; stop it, or choose another path",
    errno.EACCES: "choose a directory that you may write",
}


def listen(
    address: Address, *, mode: int = UNIX_MODE, clock: Clock = time.monotonic
) -> list[socket.socket]:
    """Non-blocking sockets that listen at an address: of TCP, one for each address of the host.

    Args:
        address: where; TCP port 0 is a port that the kernel chooses, the same on every address.
        mode: permission bits of a Unix socket. The last directory of its path is made if it is
            missing. A socket file that no process listens on is replaced.
        clock: returns seconds; limits the wait for a locked directory.

    Raises:
        TransportError: naming the address, the reason and what to do about it.
    """
    try:
        match address:
            case TcpAddress():
                return _listen_tcp(address)
            case UnixAddress():
                return [_listen_unix(address, mode, clock)]
            case VsockAddress():
                return [_listen_vsock(address)]
    except OSError as error:
        remedies = _UNIX_REMEDIES if isinstance(address, UnixAddress) else _REMEDIES
        raise explained(address, "cannot listen", error, remedies) from None


def forsake(address: Address, *, clock: Clock = time.monotonic) -> None:
    """Remove the socket file of an address whose listeners are closed.

    Keeps the file if another process listens on it by now. Not for inherited sockets: their files
    belong to the process that made them.
    """
    if isinstance(address, UnixAddress):
        with suppress(OSError, TransportError), _alone_in(address.path, clock):
            if _is_stale(address.path):
                os.unlink(address.path)


def inherited(environment: Mapping[str, str]) -> list[socket.socket]:
    """Listening sockets that systemd handed to this process; none if it did not.

    Reads `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` as sd_listen_fds(3) describes them. Call
    it once: each call makes socket objects that close the same descriptors when they are freed.

    Raises:
        TransportError: what was handed over is not a listening stream socket.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):  # they were meant for an ancestor
        return []
    text = environment.get("LISTEN_FDS", "")
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= _INHERITED_MAX:
        raise TransportError(
            f"LISTEN_FDS is {text!r}; unset LISTEN_PID, or start it by a systemd socket unit"
        )
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    sockets = []
    for number in range(int(text)):
        fd = _INHERITED_FIRST + number
        name = f"descriptor {fd}" + (f" ({names[number]})" if number < len(names) else "")
        sockets.append(_adopted(fd, name.removesuffix(" ()")))
    return sockets


def default_address(environment: Mapping[str, str], uid: int) -> UnixAddress:
    """The default address of a server: a Unix socket in a directory for runtime files.

    That directory is systemd's `$RUNTIME_DIRECTORY`, else `/run/ventifs` for root, else one in the
    user's `$XDG_RUNTIME_DIR`.

    Raises:
        TransportError: there is no such directory.
        AddressError: its path is too long for a socket.
    """
    given = environment.get("RUNTIME_DIRECTORY", "").split(":")[0]
    user = environment.get("XDG_RUNTIME_DIR", "")
    if given.startswith("/"):
        directory = Path(given)
    elif uid == 0:
        directory = Path("/run/ventifs")
    elif user.startswith("/"):
        directory = Path(user) / "ventifs"
    else:
        raise TransportError(
            "XDG_RUNTIME_DIR names no directory for your sockets; set it to one of yours"
        )
    address = parse_address(f"unix://{directory / '9p.sock'}")
    assert isinstance(address, UnixAddress)
    return address


def local_address(listener: socket.socket) -> Address:
    """Where a listening socket listens, with the port that the kernel chose."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return UnixAddress(os.fsdecode(name))
    if listener.family == socket.AF_VSOCK:
        return VsockAddress(*name)
    return TcpAddress(ANY_HOST if name[0] in {"0.0.0.0", "::"} else name[0], name[1])  # noqa: S104


def _listen_tcp(address: TcpAddress) -> list[socket.socket]:
    found = socket.getaddrinfo(
        None if address.host == ANY_HOST else address.host,
        address.port,
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, place in dict.fromkeys((family, place) for family, *_, place in found):
            port = place[1] or (sockets[0].getsockname()[1] if sockets else 0)
            try:
                sockets.append(_bound_tcp(family, (place[0], port, *place[2:])))
            except OSError as error:  # names often lead to ::1 where IPv6 is switched off
                if error.errno not in _MISSING_FAMILY:
                    raise
                missing = error
        if missing is not None and not sockets:
            raise missing
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return sockets


def _bound_tcp(family: int, place: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    with _closed_on_error(listener):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # IPv4 has a socket of its own
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)
        return _listening(listener)


def _listen_unix(address: UnixAddress, mode: int, clock: Clock) -> socket.socket:
    path = address.path
    with suppress(FileExistsError):
        os.mkdir(os.path.dirname(path), 0o755)  # the socket's own mode says who may connect
    with _alone_in(path, clock):
        if _is_stale(path):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _closed_on_error(listener):
            os.fchmod(listener.fileno(), mode)  # the file gets it from the socket, unix(7)
            listener.bind(path)
            os.chmod(path, mode)  # what the umask took
            return _listening(listener)


def _listen_vsock(address: VsockAddress) -> socket.socket:
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    with _closed_on_error(listener):
        listener.bind((address.cid, address.port))
        return _listening(listener)


def _listening(listener: socket.socket) -> socket.socket:
    if listener.family in {socket.AF_INET, socket.AF_INET6}:  # accepted sockets inherit these
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setblocking(False)
    listener.listen(BACKLOG)
    return listener


def _adopted(fd: int, name: str) -> socket.socket:
    try:
        listener = socket.socket(fileno=fd)
    except OSError:
        raise TransportError(f"{name} is no socket; use a systemd socket unit") from None
    os.set_inheritable(fd, False)
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise TransportError(f"{name} does not listen; set ListenStream= and Accept=no in its unit")
    if listener.type != socket.SOCK_STREAM or listener.family not in {
        socket.AF_UNIX,
        socket.AF_INET,
        socket.AF_INET6,
        socket.AF_VSOCK,
    }:
        raise TransportError(f"{name} is no stream socket of TCP, Unix or vsock")
    return _listening(listener)


@contextmanager
def _closed_on_error(opened: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        opened.close()
        raise


@contextmanager
def _alone_in(path: str, clock: Clock) -> Iterator[None]:
    """Lock the directory of a socket file, so that two servers never replace each other's file.

    Without the lock, both could find the same file stale.
    """
    directory = os.path.dirname(path)
    while True:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _locked(fd, path, clock)
            # A service manager may have recreated the directory between our open and our lock.
            if os.path.samestat(os.fstat(fd), os.stat(directory)):
                yield
                return
        finally:
            os.close(fd)


def _locked(fd: int, path: str, clock: Clock) -> None:
    """Lock a directory; wait at most `_LOCK_S`, since any process that may read it can lock it."""
    until = clock() + _LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if clock() >= until:
                raise TransportError(
                    f"{UnixAddress(path)}: another process keeps its directory locked; "
                    "see who in /proc/locks"
                ) from None
            time.sleep(_LOCK_STEP_S)


def _is_stale(path: str) -> bool:
    """Whether the path is a socket file that no process listens on."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise TransportError(f"{UnixAddress(path)}: a file that is no socket stands there")
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:  # its queue is full, or another user's: treat it as alive
            return False
    return False
