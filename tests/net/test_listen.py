"""Sockets as people ask for them, on this machine's loopback and Unix sockets, and handed over."""

import fcntl
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.clock import Clock
from tests.support.patience import PATIENCE_S
from ventifs.net.address import (
    CID_ANY,
    Address,
    AddressError,
    TcpAddress,
    UnixAddress,
    VsockAddress,
    parse_address,
)
from ventifs.net.dial import TransportError, connect
from ventifs.net.listen import default_address, forsake, inherited, listen, local_address


@pytest.fixture
def kept() -> Iterator[ExitStack]:
    """Sockets that are entered here are closed at the end."""
    with ExitStack() as stack:
        yield stack


def _listen(kept: ExitStack, address: Address) -> list[socket.socket]:
    return [kept.enter_context(each) for each in listen(address)]


def test_tcp_takes_a_connection(kept: ExitStack) -> None:
    [listener] = _listen(kept, TcpAddress("127.0.0.1", 0))
    assert not listener.getblocking()
    assert not listener.get_inheritable()
    address = local_address(listener)
    assert address == TcpAddress("127.0.0.1", listener.getsockname()[1])
    client = kept.enter_context(connect(address, PATIENCE_S))
    accepted = kept.enter_context(listener.accept()[0])
    client.sendall(b"a")
    assert accepted.recv(2) == b"a"
    assert client.gettimeout() is None
    for end in client, accepted:
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_all_addresses_have_one_port(kept: ExitStack) -> None:
    listeners = _listen(kept, TcpAddress("*", 0))
    assert len({listener.getsockname()[1] for listener in listeners}) == 1
    assert {local_address(listener) for listener in listeners} == {
        TcpAddress("*", listeners[0].getsockname()[1])
    }
    families = [listener.family for listener in listeners]
    assert socket.AF_INET in families
    assert len(families) == len(set(families))
    for listener in listeners:
        if listener.family == socket.AF_INET6:
            assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def test_a_port_that_was_just_left_can_be_taken_again(kept: ExitStack) -> None:
    [first] = listen(TcpAddress("127.0.0.1", 0))
    address = local_address(first)
    client = kept.enter_context(connect(address, PATIENCE_S))
    with first.accept()[0]:
        first.close()  # the accepted end closes first, and its port waits for strays
    assert client.recv(1) == b""
    assert isinstance(address, TcpAddress)
    _listen(kept, address)


def test_a_taken_port_is_told(kept: ExitStack) -> None:
    [first] = _listen(kept, TcpAddress("127.0.0.1", 0))
    address = local_address(first)
    with pytest.raises(
        TransportError,
        match=r"^tcp://127.0.0.1:\d+: cannot listen: address "
        "already in use; another server listens there",
    ):
        listen(address)


def test_an_address_of_another_machine_is_told() -> None:
    with pytest.raises(TransportError, match=r"this machine has no such address; write \*"):
        listen(TcpAddress("192.0.2.1", 0))


def test_an_unknown_host_is_told() -> None:
    for attempt in listen, lambda address: connect(address, PATIENCE_S):
        with pytest.raises(TransportError, match="no address is known for the host"):
            attempt(TcpAddress("ventifs.invalid", 1))


def test_ipv6_loopback(kept: ExitStack) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    [listener] = _listen(kept, TcpAddress("::1", 0))
    kept.enter_context(connect(local_address(listener), PATIENCE_S))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_unix_socket_is_its_owners(tmp_path: Path, kept: ExitStack, umask: int) -> None:
    path = tmp_path / "9p.sock"
    before = os.umask(umask)
    try:
        [listener] = _listen(kept, UnixAddress(str(path)))
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert local_address(listener) == UnixAddress(str(path))
    kept.enter_context(connect(UnixAddress(str(path)), PATIENCE_S))


def test_the_mode_is_there_before_anybody_can_connect(
    tmp_path: Path, kept: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "9p.sock"
    seen = []
    real = socket.socket.listen

    def spy(self: socket.socket, backlog: int) -> None:
        seen.append(stat.S_IMODE(path.stat().st_mode))
        real(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", spy)
    _listen(kept, UnixAddress(str(path)))
    assert seen == [0o600]


def test_a_mode_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "made" / "9p.sock"
    [listener] = listen(UnixAddress(str(path)), mode=0o660)
    listener.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o022 == 0


def test_a_dead_servers_socket_is_replaced(tmp_path: Path, kept: ExitStack) -> None:
    address = UnixAddress(str(tmp_path / "9p.sock"))
    [dead] = listen(address)
    dead.close()
    with pytest.raises(TransportError, match="nobody listens there; start ventifs serve"):
        connect(address, PATIENCE_S)
    _listen(kept, address)
    kept.enter_context(connect(address, PATIENCE_S))


def test_a_living_servers_socket_is_left_alone(tmp_path: Path, kept: ExitStack) -> None:
    address = UnixAddress(str(tmp_path / "9p.sock"))
    [living] = _listen(kept, address)
    before = os.stat(address.path).st_ino
    with pytest.raises(TransportError, match="already in use; another server listens there"):
        listen(address)
    forsake(address)
    assert os.stat(address.path).st_ino == before
    for _ in range(2):  # each looked whether somebody answers
        kept.enter_context(living.accept()[0])
    kept.enter_context(connect(address, PATIENCE_S))


def test_a_living_server_whose_queue_is_full_is_alive(tmp_path: Path, kept: ExitStack) -> None:
    address = UnixAddress(str(tmp_path / "9p.sock"))
    living = kept.enter_context(socket.socket(socket.AF_UNIX))
    living.bind(address.path)
    living.listen(0)
    kept.enter_context(connect(address, PATIENCE_S))
    with pytest.raises(TransportError, match="already in use"):
        listen(address)


def test_nobody_looks_for_a_dead_server_while_another_replaces_it(
    tmp_path: Path,
) -> None:
    address = UnixAddress(str(tmp_path / "9p.sock"))
    [dead] = listen(address)
    dead.close()
    directory = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)  # as the other does, which stands here
    done, told = os.pipe()
    said = iter([b"", b"waits"])  # it looks at the clock at first, and when it has to wait

    def clock() -> float:
        os.write(told, next(said, b""))
        return 0.0

    child = os.fork()
    if child == 0:
        try:
            listen(address, clock=clock)
            os.write(told, b"listens")
        except TransportError:
            os.write(told, b"refused")
        os._exit(0)
    assert os.read(done, 10) == b"waits"
    os.unlink(address.path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(address.path)
        other.listen()
        fcntl.flock(directory, fcntl.LOCK_UN)
        assert os.read(done, 10) == b"refused"
    assert os.waitpid(child, 0) == (child, 0)
    os.close(done)
    os.close(told)
    os.close(directory)


def test_a_directory_that_was_made_anew_meanwhile_is_the_one_that_is_locked(
    tmp_path: Path, kept: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a service manager does between a server's open of it and its lock."""
    directory = tmp_path / "run"
    locked: list[int] = []
    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        if not locked:
            directory.rename(tmp_path / "away")
            directory.mkdir()
        real(fd, how)
        locked.append(os.fstat(fd).st_ino)

    monkeypatch.setattr(fcntl, "flock", flock)
    _listen(kept, UnixAddress(str(directory / "9p.sock")))
    assert locked == [(tmp_path / "away").stat().st_ino, directory.stat().st_ino]
    assert os.listdir(directory) == ["9p.sock"]


def test_who_locks_the_directory_does_not_hold_a_server_up_for_ever(tmp_path: Path) -> None:
    """Anybody can who may read it."""
    clock = Clock(step_s=60)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(TransportError, match="keeps its directory locked"):
            listen(UnixAddress(f"{tmp_path}/s"), clock=clock)
        forsake(UnixAddress(f"{tmp_path}/s"), clock=clock)
    finally:
        os.close(fd)


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "9p.sock"
    path.write_bytes(b"mine")
    with pytest.raises(TransportError, match="a file that is no socket stands there"):
        listen(UnixAddress(str(path)))
    forsake(UnixAddress(str(path)))
    assert path.read_bytes() == b"mine"


def test_a_link_is_not_followed(tmp_path: Path, kept: ExitStack) -> None:
    _listen(kept, UnixAddress(str(tmp_path / "real")))
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(TransportError, match="a file that is no socket stands there"):
        listen(UnixAddress(str(tmp_path / "link")))


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="no such file or directory; make the directory"):
        listen(UnixAddress(str(tmp_path / "a" / "b" / "9p.sock")))


def test_a_forsaken_socket_is_gone(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "9p.sock"))
    [listener] = listen(address)
    listener.close()
    forsake(address)
    assert not os.path.lexists(address.path)
    forsake(address)
    forsake(TcpAddress("127.0.0.1"))
    with pytest.raises(TransportError, match="there is no such socket; start ventifs serve"):
        connect(address, PATIENCE_S)


def test_vsock(kept: ExitStack) -> None:
    if not os.path.exists("/dev/vsock"):
        with pytest.raises(TransportError, match="vsock"):
            listen(VsockAddress(CID_ANY, 0x7654_3210))
        pytest.skip("this machine has no vsock")
    [listener] = _listen(kept, VsockAddress(CID_ANY, 0x7654_3210))
    assert local_address(listener) == VsockAddress(CID_ANY, 0x7654_3210)
    with pytest.raises(TransportError, match="another server listens there"):
        listen(VsockAddress(CID_ANY, 0x7654_3210))


def test_nobody_connects_to_everywhere() -> None:
    with pytest.raises(TransportError, match=r"\* is every host; name the server's"):
        connect(TcpAddress("*"), PATIENCE_S)
    with pytest.raises(TransportError, match="from a guest, use host"):
        connect(VsockAddress(CID_ANY), PATIENCE_S)


def test_a_refused_connection_is_told() -> None:
    [listener] = listen(TcpAddress("127.0.0.1", 0))
    address = local_address(listener)
    listener.close()
    with pytest.raises(TransportError, match="connection refused; nobody listens there"):
        connect(address, PATIENCE_S)


@pytest.mark.parametrize(
    ("environment", "uid", "path"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/1000"}, 1000, "/run/user/1000/ventifs/9p.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/0"}, 0, "/run/ventifs/9p.sock"),
        ({}, 0, "/run/ventifs/9p.sock"),
        ({"RUNTIME_DIRECTORY": "/run/a:/run/b"}, 1000, "/run/a/9p.sock"),
    ],
)
def test_the_address_when_none_is_named(environment: dict[str, str], uid: int, path: str) -> None:
    assert default_address(environment, uid) == UnixAddress(path)


@pytest.mark.parametrize(
    ("address", "kind", "remedy"),
    [
        ("unix:///srv/9p.sock", "_listen_unix", "choose a directory that you may write"),
        ("tcp://127.0.0.1:564", "_listen_tcp", "ports below 1024 are root's; choose another one"),
    ],
)
def test_what_is_not_permitted_has_a_remedy_for_the_address(
    address: str, kind: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(f"ventifs.net.listen.{kind}", deny)
    with pytest.raises(TransportError) as caught:
        listen(parse_address(address))
    assert str(caught.value) == f"{address}: cannot listen: permission denied; {remedy}"


def test_no_address_can_be_found() -> None:
    for environment in {}, {"XDG_RUNTIME_DIR": ""}, {"XDG_RUNTIME_DIR": "here"}:
        with pytest.raises(TransportError, match="XDG_RUNTIME_DIR names no directory"):
            default_address(environment, 1000)
    with pytest.raises(AddressError, match="longer than 107 bytes"):
        default_address({"XDG_RUNTIME_DIR": "/" + "a" * 100}, 1000)


_HANDED = """
import os, sys
from ventifs.errors import VentifsError
from ventifs.net.listen import inherited, local_address
os.environ["LISTEN_PID"] = os.environ.get("LISTEN_PID", str(os.getpid()))
try:
    for each in inherited(os.environ):
        print(local_address(each), each.getblocking(), each.get_inheritable())
        each.detach()
except VentifsError as error:
    print(error)
"""


def _hand_over(fds: list[int], **environment: str) -> list[str]:
    """What a process finds that gets these descriptors from 3 on, as systemd would pass them."""
    read, write = os.pipe()
    copies = [os.dup(fd) for fd in [*fds, write]]  # out of the way of 3, 4, ...
    spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
    actions = [(os.POSIX_SPAWN_DUP2, copies[-1], 60)]
    actions += [(os.POSIX_SPAWN_DUP2, fd, 40 + number) for number, fd in enumerate(copies[:-1])]
    actions += [(os.POSIX_SPAWN_DUP2, 40 + number, 3 + number) for number in range(len(fds))]
    actions.append((os.POSIX_SPAWN_DUP2, 60, 1))
    variables = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", _HANDED],
        variables | environment,
        file_actions=actions,
    )
    for fd in [*copies, *spare, write]:
        os.close(fd)
    with open(read) as output:
        lines = output.read().splitlines()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return lines


def test_sockets_handed_over(tmp_path: Path, kept: ExitStack) -> None:
    [tcp] = _listen(kept, TcpAddress("127.0.0.1", 0))
    [unix] = _listen(kept, UnixAddress(str(tmp_path / "9p.sock")))
    tcp.setblocking(True)
    assert _hand_over([tcp.fileno(), unix.fileno()], LISTEN_FDS="2") == [
        f"{local_address(tcp)} False False",
        f"{local_address(unix)} False False",
    ]


def test_what_was_handed_to_another_is_left_alone(kept: ExitStack) -> None:
    [tcp] = _listen(kept, TcpAddress("127.0.0.1", 0))
    assert _hand_over([tcp.fileno()], LISTEN_FDS="1", LISTEN_PID="1") == []
    assert inherited({}) == []
    assert inherited({"LISTEN_FDS": "1"}) == []


def test_what_is_no_listening_socket_is_refused(tmp_path: Path, kept: ExitStack) -> None:
    file = kept.enter_context((tmp_path / "file").open("w"))
    one, _ = (kept.enter_context(each) for each in socket.socketpair())
    datagrams = kept.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    datagrams.bind(str(tmp_path / "packets"))
    datagrams.listen()
    assert _hand_over([file.fileno()], LISTEN_FDS="1", LISTEN_FDNAMES="9p") == [
        "descriptor 3 (9p) is no socket; use a systemd socket unit"
    ]
    assert _hand_over([one.fileno()], LISTEN_FDS="1") == [
        "descriptor 3 does not listen; set ListenStream= and Accept=no in its unit"
    ]
    assert _hand_over([datagrams.fileno()], LISTEN_FDS="1") == [
        "descriptor 3 is no stream socket of TCP, Unix or vsock"
    ]


@pytest.mark.parametrize("count", ["", "0", "-1", "x", "65", "\u0661"])
def test_a_count_of_sockets_that_is_none(count: str) -> None:
    with pytest.raises(TransportError, match="LISTEN_FDS is"):
        inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


def test_systemds_own_tool_hands_over(tmp_path: Path, kept: ExitStack) -> None:
    tool = "/usr/bin/systemd-socket-activate"
    if not os.access(tool, os.X_OK):
        pytest.skip(f"there is no {tool}")
    path = tmp_path / "9p.sock"
    command = [
        tool,
        f"--listen={path}",
        "-E",
        f"PYTHONPATH={os.pathsep.join(sys.path)}",
        sys.executable,
        "-c",
        _HANDED,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert b"Listening on" in process.stderr.readline()
        kept.enter_context(connect(UnixAddress(str(path)), PATIENCE_S))
        assert process.stdout.read() == f"unix://{path} False False\n".encode()
