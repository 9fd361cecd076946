"""`ventifs mount` with a real kernel's 9P client, over TCP, a Unix socket and vsock.

The server is diod, since what is tested is the mount; so is vsock's, by way of socat. All of it
runs in the guest, whose kernel has vsock over loopback.
"""

import os
import shlex
import sys
from collections.abc import Iterator

import pytest

from tests.support import segment, uml
from tests.support.segment import Segment, missing_programs
from tests.support.uml import Uml

pytestmark = pytest.mark.slow

_PYTHON = (
    f"env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={shlex.quote(os.pathsep.join(sys.path))} "
    f"{shlex.quote(sys.executable)}"
)
_VENTIFS = f"{_PYTHON} -c 'from ventifs.cli.main import main; main()'"
_SERVERS = """
mount -t tmpfs run /run
mkdir /run/served /run/served/directory
echo hello >/run/served/file
modprobe -d .modules -a vsock_loopback
diod -n -f -e /run/served -l 127.0.0.1:564 -L /run/diod.log &
socat UNIX-LISTEN:/run/9p.sock,umask=0177,fork TCP:127.0.0.1:564 &
socat VSOCK-LISTEN:564,fork TCP:127.0.0.1:564 &
socat TCP-LISTEN:5641,reuseaddr,fork SYSTEM:true &
until socat -u OPEN:/dev/null TCP:127.0.0.1:564; do :; done
until socat -u OPEN:/dev/null TCP:127.0.0.1:5641; do :; done
until socat -u OPEN:/dev/null UNIX-CONNECT:/run/9p.sock; do :; done
until socat -u OPEN:/dev/null VSOCK-CONNECT:1:564; do :; done
"""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uml]:
    why = segment.why_not() or uml.why_not()
    missing = missing_programs(["diod", "socat"])
    if why or missing:
        pytest.skip(why or f"needs the Debian packages {' '.join(missing)}")
    with Segment() as network, Uml(network, tmp_path_factory.mktemp("guest")) as booted:
        booted.succeed(_SERVERS)
        yield booted


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1",
        "tcp://localhost:9pfs",
        "unix:///run/9p.sock",
        "vsock://local",
    ],
)
def test_a_mount_stays(guest: Uml, address: str) -> None:
    said = guest.succeed(
        f"mkdir here\n{_VENTIFS} mount {address} /run/served here\n"
        "cat here/file; ls here; grep here /proc/mounts; ! touch here/new\numount here; rmdir here"
    )
    lines = said.splitlines()
    assert lines[:3] == ["hello", "directory", "file"]
    source, _, kind, options, *_ = lines[3].split()
    assert source.startswith(address.split(":", maxsplit=1)[0])
    assert kind == "9p"
    assert {"ro", "nosuid", "nodev", "access=user", "trans=fd"} <= set(options.split(","))
    assert "Read-only file system" in lines[4]


def test_what_it_prints_for_fstab_mounts(guest: Uml) -> None:
    for address in "tcp://127.0.0.1", "unix:///run/9p.sock":
        assert guest.succeed(
            f"mkdir here\n{_VENTIFS} mount --print {address} /run/served here >/run/fstab\n"
            "mount -T /run/fstab $PWD/here\ncat here/file\numount here; rmdir here"
        ).splitlines() == ["hello"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("tcp://127.0.0.1 /run/other", "operation not permitted; the server refuses this machine"),
        ("tcp://127.0.0.1 /run/served -o cache=nonsense", "the kernel takes no such option"),
        ("tcp://127.0.0.1:5641 /run/served", "the server closed the connection"),
        ("tcp://127.0.0.1:5642 /run/served", "connection refused; nobody listens there"),
        ("vsock://local:5642 /run/served", "connection reset by peer; nobody listens there"),
    ],
)
def test_what_does_not_work_is_told(guest: Uml, words: str, reason: str) -> None:
    address, version, *options = words.split()
    done = guest.run(
        f"mkdir here\n{_VENTIFS} mount {address} {version} here {' '.join(options)}\n"
        "status=$?; rmdir here; exit $status"
    )
    assert done.status == 1, done.text
    assert reason in done.text
    assert [line for line in done.text.splitlines() if line.startswith("ventifs: ")] != []
    assert "Traceback" not in done.text


_VSOCK = """
from ventifs.net.address import CID_ANY, CID_LOCAL, VsockAddress
from ventifs.net.allow_list import AllowList, parse_rule
from ventifs.net.dial import connect
from ventifs.net.listen import listen, local_address
from ventifs.net.peer import peer_of
[listener] = listen(VsockAddress(CID_ANY, 5640))
assert str(local_address(listener)) == "vsock://any:5640"
client = connect(VsockAddress(CID_LOCAL, 5640), 10)
peer = peer_of(listener.accept()[0])
assert (peer.kind, peer.cid, peer.port) == ("vsock", CID_LOCAL, client.getsockname()[1]), peer
assert AllowList((parse_rule("cid:local web*"),)).exports(peer)("web01")
assert not AllowList((parse_rule("cid:5 web*"),)).exports(peer)("web01")
assert AllowList().exports(peer).as_nobody
print(peer)
"""


def test_a_vsock_peer_is_its_cid(guest: Uml) -> None:
    script = guest.directory / "vsock.py"
    script.write_text(_VSOCK)
    said = guest.succeed(f"{_PYTHON} {script}")
    assert said.startswith("vsock cid 1 port ")
