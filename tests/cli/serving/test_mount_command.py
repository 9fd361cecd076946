"""`ventifs mount`, as far as it goes without a guest: its lines, and its refusals."""

from pathlib import Path

import pytest

from tests.support.commanding import run


def test_the_line_for_fstab(tmp_path: Path) -> None:
    printed = run(
        tmp_path,
        "mount",
        "tcp!192.0.2.1!9pfs",
        "web01@2001-02-03",
        "mnt",
        "--print",
        "-o",
        "noexec",
        "-o",
        "x-systemd.automount",
    )
    assert printed.stdout.decode() == (
        f"192.0.2.1 {tmp_path}/mnt 9p ro,nosuid,nodev,noexec,trans=tcp,port=564,version=9p2000.L,"
        "msize=1048576,cache=loose,access=user,aname=web01@2001-02-03,_netdev,nofail,"
        "x-systemd.automount 0 0\n"
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("host web01 mnt", 1, "address 'host': names no transport; write tcp://HOST:PORT"),
        (
            "tcp://192.0.2.1 web01 mnt -o rw",
            1,
            "option rw: a version is never written; leave it out",
        ),
        (
            "vsock://host web01:/a /mnt --print --live exclusive -o rw",
            1,
            "run: ventifs mount --live exclusive -o rw vsock://host:564 web01:/a /mnt",
        ),
        (
            "tcp://192.0.2.1 web01@latest mnt --print --live shared",
            1,
            "'web01@latest' can be no live export",
        ),
        ("tcp://192.0.2.1 web01 mnt --live both", 2, "Invalid value for '--live'"),
        ("vsock://host web01 /mnt --print", 1, "run: ventifs mount vsock://host:564 web01 /mnt"),
        ("tcp://192.0.2.1 web01 mnt --timeout 0", 2, "Invalid value for '--timeout'"),
        ("tcp://192.0.2.1 web01", 2, "Missing argument 'DIR'"),
    ],
)
def test_refusals(tmp_path: Path, words: str, code: int, message: str) -> None:
    failed = run(tmp_path, "mount", *words.split(), expected=code)
    assert message in failed.stderr.decode()
    assert failed.stdout == b""
