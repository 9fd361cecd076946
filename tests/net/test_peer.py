"""Peers as the kernel tells them, over the sockets that this machine has."""

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from ventifs.net.address import TcpAddress, UnixAddress
from ventifs.net.dial import connect
from ventifs.net.listen import listen, local_address
from ventifs.net.peer import STDIO, Peer, peer_of


def test_tcp() -> None:
    [listener] = listen(TcpAddress("127.0.0.1", 0))
    with listener, connect(local_address(listener), PATIENCE_S) as client:
        with listener.accept()[0] as accepted:
            port = client.getsockname()[1]
            assert peer_of(accepted) == Peer(kind="tcp", ip="127.0.0.1", port=port)
            assert str(peer_of(accepted)) == f"tcp 127.0.0.1:{port}"
        assert peer_of(client).port == listener.getsockname()[1]


def test_ipv4_is_itself_when_a_socket_takes_both() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no sockets of both IPv4 and IPv6")
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener,
        connect(TcpAddress("127.0.0.1", listener.getsockname()[1]), PATIENCE_S),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getpeername()[0] == "::ffff:127.0.0.1"
        assert peer_of(accepted).ip == "127.0.0.1"


def test_unix_credentials_are_ones_own(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "9p.sock"))
    [listener] = listen(address)
    with listener, connect(address, PATIENCE_S), listener.accept()[0] as accepted:
        peer = peer_of(accepted)
    assert (peer.kind, peer.pid, peer.uid) == ("unix", os.getpid(), os.geteuid())
    assert peer.gid == os.getegid()
    assert set(peer.groups) == set(os.getgroups())
    assert str(peer) == f"unix uid {os.geteuid()} pid {os.getpid()}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others")
@pytest.mark.parametrize("groups", [(), (7, 4_000_000_000), tuple(range(1000, 1256))])
def test_unix_credentials_of_another(groups: tuple[int, ...]) -> None:
    assert _seen_of(groups) == (4242, 4343, groups)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others")
def test_a_peer_in_too_many_groups_is_in_none() -> None:
    assert _seen_of(tuple(range(1000, 1257))) == (4242, 4343, ())


def _seen_of(groups: tuple[int, ...]) -> tuple[int | None, int | None, tuple[int, ...]]:
    """The credentials seen of a child that takes on others before it connects.

    An abstract name, since nobody but root may enter pytest's directories.
    """
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind("")
        listener.listen()
        child = os.fork()
        if child == 0:
            os.setgroups(groups)
            os.setresgid(4343, 4343, 4343)
            os.setresuid(4242, 4242, 4242)
            client = socket.socket(socket.AF_UNIX)
            client.connect(listener.getsockname())
            client.recv(1)
            os._exit(0)
        with listener.accept()[0] as accepted:
            peer = peer_of(accepted)
        assert os.waitpid(child, 0) == (child, 0)
    assert peer.pid == child
    return peer.uid, peer.gid, peer.groups


def test_words() -> None:
    assert str(STDIO) == "stdio"
    assert str(Peer(kind="vsock", cid=5, port=1024)) == "vsock cid 5 port 1024"
    assert str(Peer(kind="tcp", ip="2001:db8::1", port=7)) == "tcp [2001:db8::1]:7"
