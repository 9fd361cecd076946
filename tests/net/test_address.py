"""Addresses: every form that is taken, every mistake that is explained, and text both ways."""

import string
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventifs.net.address import (
    CID_ANY,
    CID_HOST,
    CID_LOCAL,
    UNIX_PATH_MAX,
    Address,
    AddressError,
    TcpAddress,
    UnixAddress,
    VsockAddress,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://192.0.2.1:5640", TcpAddress("192.0.2.1", 5640)),
        ("tcp://192.0.2.1", TcpAddress("192.0.2.1", 564)),
        ("tcp://192.0.2.1/", TcpAddress("192.0.2.1", 564)),
        ("tcp://store.example.:9pfs", TcpAddress("store.example.", 564)),
        ("TCP://Store.Example:0", TcpAddress("store.example", 0)),
        ("tcp://[2001:DB8:0::1]:5640", TcpAddress("2001:db8::1", 5640)),
        ("tcp://[::]", TcpAddress("::", 564)),
        ("tcp://[fe80::1%eth0]:1", TcpAddress("fe80::1%eth0", 1)),
        ("tcp://*:5640", TcpAddress("*", 5640)),
        ("tcp://:5640", TcpAddress("*", 5640)),
        ("tcp!*!9fs", TcpAddress("*", 564)),
        ("tcp!store!5640", TcpAddress("store", 5640)),
        ("tcp!store", TcpAddress("store", 564)),
        ("net!store!9pfs", TcpAddress("store", 564)),
        ("tcp!::1!5640", TcpAddress("::1", 5640)),
        ("tcp![::1]!5640", TcpAddress("::1", 5640)),
        ("unix:///run/ventifs/9p.sock", UnixAddress("/run/ventifs/9p.sock")),
        ("unix!/run/9p", UnixAddress("/run/9p")),
        ("unix!/run/a!b", UnixAddress("/run/a!b")),
        ("unix:///run/a b%20", UnixAddress("/run/a b%20")),
        ("vsock://5:5640", VsockAddress(5, 5640)),
        ("vsock://any", VsockAddress(CID_ANY, 564)),
        ("vsock://host:4294967294", VsockAddress(CID_HOST, 4294967294)),
        ("vsock://local:1", VsockAddress(CID_LOCAL, 1)),
        ("vsock!*!9pfs", VsockAddress(CID_ANY, 564)),
        ("vsock!4294967295", VsockAddress(CID_ANY, 564)),
    ],
)
def test_forms(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (TcpAddress("*"), "tcp://*:564"),
        (TcpAddress("::1", 0), "tcp://[::1]:0"),
        (TcpAddress("store", 5640), "tcp://store:5640"),
        (UnixAddress("/run/9p"), "unix:///run/9p"),
        (VsockAddress(CID_ANY), "vsock://any:564"),
        (VsockAddress(CID_HOST, 7), "vsock://host:7"),
        (VsockAddress(77, 7), "vsock://77:7"),
    ],
)
def test_text(address: Address, text: str) -> None:
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no transport; write tcp://HOST:PORT"),
        ("store:564", "names no transport"),
        ("/run/9p", "for a Unix socket write unix:///run/9p"),
        ("udp://store:564", "udp is no transport of ventifs"),
        ("il!store!9fs", "il is no transport"),
        ("tcp://store:564/web01", "name the version in an argument of its own"),
        ("tcp://::1:564", "in brackets: tcp://[::1]:564"),
        ("tcp://[::1", "its brackets hold no IPv6 address"),
        ("tcp://[::1]564", "its brackets hold no IPv6 address"),
        ("tcp://[store]:564", "its brackets hold no IPv6 address"),
        ("tcp://[::g]:564", "'::g' is no IPv6 address"),
        ("tcp://[fe80::1%]:564", "'' is no network interface"),
        ("tcp://[fe80::1%a b]:564", "'a b' is no network interface"),
        ("tcp://127.1:564", "'127.1' is no IPv4 address; write four numbers"),
        ("tcp://192.0.2.256", "is no IPv4 address"),
        ("tcp://564", "'564' is no IPv4 address"),
        ("tcp://a..b:1", "'a..b' is no host name"),
        ("tcp://-a:1", "'-a' is no host name"),
        ("tcp://root@store:1", "'root@store' is no host name"),
        (f"tcp://{'a.' * 127}a:1", "is no host name"),
        ("tcp://store:", "'' is no port; write a number up to 65535, or 9pfs for 564"),
        ("tcp://store:65536", "'65536' is no port"),
        ("tcp://store:-1", "'-1' is no port"),
        ("tcp://store:5_6", "'5_6' is no port"),
        ("tcp://store:\u0665", "is no port"),
        ("tcp://store:http", "'http' is no port"),
        ("tcp!store!564!1", "has too many parts; write TRANSPORT!HOST!PORT"),
        ("unix://", "its path is not absolute; write unix:///.../SOCKET"),
        ("unix://run/9p", "its path is not absolute; write unix:///.../run/9p"),
        ("unix!9p", "its path is not absolute"),
        ("unix:///run/", "names a directory; write unix:///run/SOCKET"),
        (f"unix:///{'a' * UNIX_PATH_MAX}", "is longer than 107 bytes"),
        ("unix:///" + "\u00e9" * 54, "is longer than 107 bytes"),
        ("unix:///a\0b", "has control characters"),
        ("unix:///a\nb", "has control characters"),
        ("vsock://:564", "'' is no CID; write a number"),
        ("vsock://guest:564", "'guest' is no CID"),
        ("vsock://4294967296:564", "'4294967296' is no CID"),
        ("vsock://5:4294967295", "'4294967295' is no port; write a number up to 4294967294"),
    ],
)
def test_a_mistake_is_explained(text: str, reason: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    message = str(caught.value)
    assert reason in message
    assert message.startswith(f"address {text!r}: ")
    assert "\n" not in message


def test_the_longest_path() -> None:
    path = "/" + "a" * (UNIX_PATH_MAX - 1)
    assert parse_address(f"unix://{path}") == UnixAddress(path)


_LABELS = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=20)
_HOSTS = st.one_of(
    st.just("*"),
    st.ip_addresses().map(str),
    st.lists(_LABELS, max_size=3).map(lambda labels: ".".join([*labels, "x"])),
)
_PATHS = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("/!:[]%\udcff"), max_size=24
).map(lambda text: f"/{text}x")
_ADDRESSES: st.SearchStrategy[Address] = st.one_of(
    st.builds(TcpAddress, _HOSTS, st.integers(0, 0xFFFF)),
    st.builds(UnixAddress, _PATHS),
    st.builds(VsockAddress, st.integers(0, CID_ANY), st.integers(0, CID_ANY - 1)),
)


@given(_ADDRESSES)
def test_text_and_back(address: Address) -> None:
    assert parse_address(str(address)) == address


@given(_ADDRESSES)
def test_dial_strings_name_the_same(address: Address) -> None:
    match address:
        case TcpAddress(host, port):
            dialled = f"tcp!{host}!{port}"
        case UnixAddress(path):
            dialled = f"unix!{path}"
        case VsockAddress(cid, port):
            dialled = f"vsock!{cid}!{port}"
    assert parse_address(dialled) == address


_PIECES = st.sampled_from([*"[]:!/%*.-0159a", "tcp", "vsock", "unix", "://", "::1", "564"])


@given(st.lists(_PIECES, max_size=12).map("".join) | st.text())
def test_anything_else_is_refused_by_its_own_error(text: str) -> None:
    with suppress(AddressError):
        address = parse_address(text)
        assert parse_address(str(address)) == address
