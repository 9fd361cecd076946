"""Mounting: what the kernel is handed, its answers in words, and mount(2) itself.

The kernel's 9p client is met by the tests in tests/guest; here a function stands in its place.
"""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from ventifs.net.address import UnixAddress
from ventifs.net.dial import TransportError
from ventifs.net.listen import listen
from ventifs.ninep.mount import mount as mounting
from ventifs.ninep.mount.options import MountError, mount_options

_OPTIONS = mount_options("web01@2000", 10**18)
Mount2 = Callable[[str, Path, str, int, str], None]


@pytest.fixture
def address(tmp_path: Path) -> UnixAddress:
    (tmp_path / "mnt").mkdir()
    return UnixAddress(str(tmp_path / "9p.sock"))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Mount2], None]:
    """Puts a function in mount(2)'s place, in a kernel that has 9p and for a user that is root."""

    def install(stand_in: Mount2) -> None:
        (tmp_path / "filesystems").write_text("nodev\ttmpfs\n\text4\nnodev\t9p\n")
        monkeypatch.setattr(mounting, "_FILESYSTEMS", tmp_path / "filesystems")
        monkeypatch.setattr(mounting, "mount2", stand_in)
        monkeypatch.setattr(os, "geteuid", lambda: 0)

    return install


def test_the_kernel_is_handed_a_connection(
    address: UnixAddress, tmp_path: Path, kernel: Callable[[Mount2], None]
) -> None:
    handed = []

    def stand_in(source: str, directory: Path, kind: str, flags: int, data: str) -> None:
        options = dict(option.partition("=")[::2] for option in data.split(","))
        assert options["rfdno"] == options["wfdno"]
        handed.append(socket.socket(fileno=os.dup(int(options.pop("rfdno")))))
        del options["wfdno"]
        assert (source, directory, kind, flags) == (str(address), tmp_path / "mnt", "9p", 7)
        assert options == {
            "trans": "fd",
            "version": "9p2000.L",
            "msize": "1048576",
            "cache": "loose",
            "access": "user",
            "aname": "web01@2000",
        }

    kernel(stand_in)
    [listener] = listen(address)
    with listener:
        mounting.mount(address, "web01@2000", tmp_path / "mnt", _OPTIONS, PATIENCE_S)
        with listener.accept()[0] as server, handed[0] as client:
            assert not os.get_blocking(client.fileno())
            client.sendall(b"Tversion")
            assert server.recv(100) == b"Tversion"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EPERM, "operation not permitted; the server refuses this machine, or"),
        (errno.ENODEV, "no such device; this kernel has no 9p"),
        (errno.EINVAL, "lacks the module 9pnet_fd; see dmesg"),
        (errno.ENOENT, "the server has no such name for this machine; mount / to see its names"),
        (errno.EACCES, "permission denied; the server does not give it"),
        (errno.ECONNRESET, "the server closed the connection"),
        (errno.EREMOTEIO, "the server does not speak 9P2000.L"),
        (errno.EBUSY, "another machine has this exclusive export; unmount it there first"),
    ],
)
def test_the_kernels_answers_in_words(
    address: UnixAddress, tmp_path: Path, kernel: Callable[[Mount2], None], number: int, words: str
) -> None:
    def stand_in(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    kernel(stand_in)
    [listener] = listen(address)
    with listener, pytest.raises(MountError) as caught:
        mounting.mount(address, "web01@2000", tmp_path / "mnt", _OPTIONS, PATIENCE_S)
    assert str(caught.value).startswith(f"{address}: cannot mount web01@2000: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_that_the_kernel_would_cut_off(
    address: UnixAddress, tmp_path: Path, kernel: Callable[[Mount2], None]
) -> None:
    lengths = []
    kernel(lambda *words: lengths.append(len(words[4])))
    [listener] = listen(address)
    with listener:
        for length in 3900, 4096:
            options = mount_options("web01:/" + "a" * length, 0)
            if length == 4096:
                with pytest.raises(MountError, match="the options are too long"):
                    mounting.mount(address, "", tmp_path / "mnt", options, PATIENCE_S)
            else:
                mounting.mount(address, "", tmp_path / "mnt", options, PATIENCE_S)
    assert len(lengths) == 1


def test_no_server(address: UnixAddress, tmp_path: Path, kernel: Callable[[Mount2], None]) -> None:
    kernel(lambda *_: pytest.fail("mounted"))
    with pytest.raises(TransportError, match="there is no such socket; start ventifs serve"):
        mounting.mount(address, "web01@2000", tmp_path / "mnt", _OPTIONS, PATIENCE_S)


def test_no_directory(
    address: UnixAddress, tmp_path: Path, kernel: Callable[[Mount2], None]
) -> None:
    kernel(lambda *_: pytest.fail("mounted"))
    with pytest.raises(MountError, match="none: is no directory; make it first"):
        mounting.mount(address, "web01@2000", tmp_path / "none", _OPTIONS, PATIENCE_S)


def test_not_root(address: UnixAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MountError, match="only root can mount; run it with sudo"):
        mounting.mount(address, "web01@2000", tmp_path / "mnt", _OPTIONS, PATIENCE_S)


def test_a_kernel_without_9p(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    modprobe = tmp_path / "modprobe"
    modprobe.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexit 1\n')
    modprobe.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    filesystems = tmp_path / "filesystems"
    filesystems.write_text("nodev\tsysfs\nnodev\tnot9p\n")
    monkeypatch.setattr(mounting, "_FILESYSTEMS", filesystems)
    with pytest.raises(MountError, match="has no 9p: install a kernel with the module 9p"):
        mounting.require_9p()
    assert log.read_text() == "-q 9p\n-q 9pnet_fd\n"

    modprobe.write_text(f'#!/bin/sh\nprintf "nodev\\t9p\\n" >> {filesystems}\n')
    mounting.require_9p()
    modprobe.unlink()
    mounting.require_9p()  # has nothing left to load


_MOUNT_TMPFS = """
import sys
from pathlib import Path
from ventifs.ninep.mount.mount import mount2
where = Path(sys.argv[1])
mount2("a source", where, "tmpfs", 1 | 2 | 4, "size=40k,mode=0751")
print([line for line in open("/proc/self/mounts") if str(where) in line][-1], end="")
print(oct(where.stat().st_mode & 0o777))
for kind, data in ("no-such-kind", ""), ("tmpfs", "size=nonsense"):
    try:
        mount2("a source", where, kind, 0, data)
    except OSError as error:
        print(error.errno)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_mount2_is_the_kernels(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", _MOUNT_TMPFS, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line, mode, *failures = done.stdout.splitlines()
    source, _, kind, options = line.split()[:4]
    assert (source, kind, mode) == (r"a\040source", "tmpfs", "0o751")
    assert {"ro", "nosuid", "nodev", "size=40k"} <= set(options.split(","))
    assert failures == [str(errno.ENODEV), str(errno.EINVAL)]
    assert not os.path.ismount(tmp_path)
