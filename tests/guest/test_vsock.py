"""vsock: a guest's kernel mounts over it, and so does this host's where it has vsock of its own."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from tests.support.segment import HOST, missing_programs
from tests.support.servers import PORT
from tests.support.serving import Exported, command
from tests.support.stores import new_store
from tests.support.trees import archived
from tests.support.uml import Uml

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).parents[2]
_PORT = 5640
_LOCAL = 1  # VMADDR_CID_LOCAL
_LOOPBACK_S = 5.0  # the kernel alone connects its own two ends; without loopback, never


def why_not_here() -> str:
    """Why this host cannot talk to itself over vsock; empty if it can."""
    if not hasattr(socket, "AF_VSOCK"):
        return "this Python has no vsock"
    try:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        client = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    except OSError as error:
        return f"this host has no vsock: {error.strerror}"
    with listener, client:
        try:
            listener.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
            listener.listen()
            client.settimeout(_LOOPBACK_S)
            client.connect((_LOCAL, listener.getsockname()[1]))
        except TimeoutError:
            return "vsock reaches only a hypervisor here: its loopback (vsock_loopback) is missing"
        except OSError as error:
            return f"this host has no vsock over loopback: {error.strerror}"
    return ""


def test_this_host_reads_over_vsock(tmp_path: Path) -> None:
    if why := why_not_here():
        pytest.skip(why)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "greeting").write_text("hello\n")
    store = new_store(tmp_path / "store")
    archived(store, tmp_path / "source", "web01")
    address = f"vsock://{_LOCAL}:{_PORT}"
    serve = command("serve", f"vsock://any:{_PORT}", "--store", store, "--allow", "vsock *")
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            assert "listening" in server.stderr.readline()
            read = command("9p", "cat", address, "web01/latest/greeting")
            done = subprocess.run(read, check=False, capture_output=True, timeout=PATIENCE_S)
            assert (done.stdout, done.returncode) == (b"hello\n", 0), done.stderr
        finally:
            server.kill()


# The server is on the host, whose vsock no guest of this kind reaches; socat takes it in by TCP.
_IN_GUEST = f"""
export PYTHONDONTWRITEBYTECODE=1
modprobe -d .modules vsock_loopback
socat VSOCK-LISTEN:{_PORT},fork TCP:{HOST}:{PORT} &
socat=$!
until socat -u OPEN:/dev/null VSOCK-CONNECT:{_LOCAL}:{_PORT} 2>/dev/null; do kill -0 $socat; done
mkdir web
here=$PWD
(cd {_ROOT} && {sys.executable} -m ventifs.cli.main mount vsock://local:{_PORT} "$1" $here/web)
! touch web/etc/new
grep $here/web /proc/mounts
diff -r --no-dereference "$2" web/etc
umount web
kill $socat
rmdir web
"""


def test_a_guest_mounts_over_vsock(guest: Uml, exported: Exported) -> None:
    """User-mode Linux has vsock over loopback."""
    if missing := missing_programs(["socat"]):
        pytest.skip(f"needs the Debian package socat (missing: {' '.join(missing)})")
    said = guest.succeed(f"set -- {exported.versions[0]} {exported.roots[0]}/etc\n{_IN_GUEST}")
    refusal, mount = said.splitlines()
    assert "Read-only file system" in refusal
    assert mount.startswith("vsock")
    assert " 9p " in mount
