"""Connections are counted by peer and in all, and forgotten when they are over."""

import pytest

from ventifs.net.admission import Admission, TooMany, identity
from ventifs.net.peer import STDIO, Peer


def _tcp(ip: str, port: int) -> Peer:
    return Peer(kind="tcp", ip=ip, port=port)


@pytest.mark.parametrize(
    ("peer", "who"),
    [
        (_tcp("192.0.2.7", 1), "ip 192.0.2.7"),
        (_tcp("2001:db8::1:2:3:4", 1), "ip 2001:db8::/64"),
        (Peer(kind="vsock", cid=5, port=1), "cid 5"),
        (Peer(kind="unix", pid=1, uid=1000, gid=1), "uid 1000"),
        (STDIO, "stdio"),
    ],
)
def test_who_a_peer_is(peer: Peer, who: str) -> None:
    assert identity(peer) == who


def test_a_peer_has_its_share_and_no_more() -> None:
    admission = Admission(most=10, of_a_peer=2)
    for port in 1, 2:
        admission.admit(_tcp("192.0.2.7", port))
    with pytest.raises(
        TooMany, match=r"^tcp 192.0.2.7:3: ip 192.0.2.7 has 2 connections, the most"
    ):
        admission.admit(_tcp("192.0.2.7", 3))
    admission.admit(_tcp("192.0.2.8", 3))
    assert admission.connections == 3
    admission.leave(_tcp("192.0.2.7", 1))
    admission.admit(_tcp("192.0.2.7", 3))


def test_the_server_has_its_most() -> None:
    admission = Admission(most=2, of_a_peer=2)
    for cid in 5, 6:
        admission.admit(Peer(kind="vsock", cid=cid, port=1))
    with pytest.raises(TooMany, match="the server has 2 connections, its most"):
        admission.admit(STDIO)
    admission.leave(Peer(kind="vsock", cid=5, port=1))
    admission.admit(STDIO)


def test_who_has_left_is_forgotten() -> None:
    admission = Admission()
    for number in range(1000):
        peer = _tcp(f"192.0.2.{number % 250}", number)
        admission.admit(peer)
        admission.leave(peer)
    assert admission.connections == 0
    assert vars(admission)["_counts"] == {}
