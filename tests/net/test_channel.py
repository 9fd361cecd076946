"""Channels: partial writes, many slices, and which descriptors can be one."""

import errno
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.sessions import PATIENCE_S
from ventifs.buffer import FileRange, Piece, joined
from ventifs.net.channel import DescriptorChannel, FileChannel, socket_channel
from ventifs.serving.session import READ_MAX

ROOT = Path(__file__).parents[2]


def test_everything_arrives_however_little_the_kernel_takes() -> None:
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    channel = socket_channel(theirs)
    # More slices than one call takes, some empty, some larger than the socket's room.
    sizes = [1, 0, 3000, 100_000, *[7] * 3000, 0, 50_000, 0]
    data = os.urandom(sum(sizes))
    rest: list[Piece] = []
    at = 0
    for size in sizes:
        rest.append(memoryview(data)[at : at + size])
        at += size
    received = bytearray()
    waits = 0
    while rest := channel.write(rest):
        waits += 1
        assert not select.select([], [channel.writes], [], 0)[1]  # all that could be, was written
        while not select.select([], [channel.writes], [], 0)[1]:
            received += ours.recv(1500)
    ours.setblocking(False)
    while len(received) < len(data):
        received += ours.recv(1 << 20)
    assert received == data
    assert waits > 10
    channel.close()
    ours.close()


@pytest.mark.parametrize("kind", ["socket", "pipe"])
def test_ranges_of_files_are_sent_in_order_with_what_is_beside_them(
    tmp_path: Path, kind: str
) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        fd = file.fileno()
        rest: list[Piece] = [FileRange(file, fd, 0, 100_000), b"a", bytes(5000), b""]
        rest += [FileRange(file, fd, 5, 300_001), FileRange(file, fd, 1, 1), b"bc"]
        rest += [memoryview(data)[7:], FileRange(file, fd, 4096, (1 << 20) - 4096)]
        wanted = joined(rest)
        assert wanted == b"".join(
            [
                data[:100_000],
                b"a",
                bytes(5000),
                data[5:300_006],
                data[1:2],
                b"bc",
                data[7:],
                data[4096:],
            ]
        )
        if kind == "socket":
            one, two = socket.socketpair()
            two.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
            ours, theirs = one.detach(), two.detach()
        else:
            ours, theirs = os.pipe()
        channel = FileChannel(theirs, theirs)
        received = bytearray()
        waits = 0
        while rest := channel.write(rest):
            waits += 1
            received += os.read(ours, 3001)
        channel.close()
        while more := os.read(ours, 1 << 20):
            received += more
        os.close(ours)
    assert received == wanted
    assert waits > 10


def test_what_a_file_has_lost_is_sent_as_zeros(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 50_000)
    with (tmp_path / "file").open("rb") as file:
        ours, theirs = socket.socketpair()
        channel = FileChannel(theirs.fileno(), theirs.fileno())
        theirs.detach()
        pieces: list[Piece] = [b"<", FileRange(file, file.fileno(), 10_000, 40_000), b">"]
        os.truncate(tmp_path / "file", 20_001)
        wanted = b"<" + b"x" * 10_001 + bytes(29_999) + b">"
        assert joined(pieces) == wanted
        assert channel.write(pieces) == []
        channel.close()
        assert b"".join(iter(lambda: ours.recv(1 << 20), b"")) == wanted
        ours.close()


def test_where_nothing_can_be_sent_from_a_file_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> int:
        raise OSError(errno.EINVAL, "as some devices do")

    monkeypatch.setattr(os, "sendfile", refuse)
    (tmp_path / "file").write_bytes(b"0123456789")
    with (tmp_path / "file").open("rb") as file:
        ours, theirs = socket.socketpair()
        channel = FileChannel(theirs.fileno(), theirs.fileno())
        theirs.detach()
        assert channel.write([b"<", FileRange(file, file.fileno(), 1, 8), b">"]) == []
        assert ours.recv(100) == b"<12345678>"
        channel.close()
        ours.close()


def test_reading_brings_no_more_than_there_is_room_for() -> None:
    reads, writes = os.pipe()
    channel = DescriptorChannel(reads, os.dup(writes))
    assert channel.read(READ_MAX) is None
    os.write(writes, b"a" * 5000)
    assert channel.read(READ_MAX) == b"a" * 5000
    os.close(writes)
    assert channel.read(READ_MAX) is None
    with pytest.raises(BlockingIOError):
        os.readv(reads, [bytearray(READ_MAX)])
    channel.close()
    channel.close()  # once is enough


def test_a_broken_connection_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    channel = socket_channel(theirs)
    ours.close()
    assert channel.read(READ_MAX) == b""
    with pytest.raises(BrokenPipeError):
        channel.write([b"x"])
    channel.close()


_STANDARD = """
import select
from ventifs.net.channel import standard_channel
channel = standard_channel()
print("stray")
while True:
    select.select([channel.reads], [], [])
    data = channel.read(65536)
    if not data:
        break
    assert not channel.write([b"<", data, b">"])
"""


def _standard(stdin: Any, stdout: Any, **more: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", _STANDARD],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        **more,
    )


def test_pipes_and_no_stray_line_between_replies() -> None:
    with _standard(subprocess.PIPE, subprocess.PIPE) as child:
        out, errors = child.communicate(b"hello", PATIENCE_S)
    assert (child.returncode, out, errors) == (0, b"<hello>", b"stray\n")


def test_one_socket_for_both() -> None:
    ours, theirs = socket.socketpair()
    with _standard(theirs, theirs) as child:
        theirs.close()
        ours.settimeout(PATIENCE_S)
        ours.sendall(b"hello")
        assert ours.recv(100) == b"<hello>"
        ours.close()
        assert child.communicate(timeout=PATIENCE_S)[1] == b"stray\n"
    assert child.returncode == 0


def test_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with (
        (tmp_path / "file").open("rb") as file,
        _standard(file, subprocess.PIPE) as child,
    ):
        errors = child.communicate(timeout=PATIENCE_S)[1]
    assert b"VentifsError: standard input is a file; --stdio needs a socket" in errors


def test_devices_that_cannot_be_waited_for_are_refused() -> None:
    with _standard(subprocess.DEVNULL, subprocess.PIPE) as child:
        errors = child.communicate(timeout=PATIENCE_S)[1]
    assert b"VentifsError: standard input has no end to wait for; --stdio needs" in errors


def test_terminals_are_refused() -> None:
    controller, terminal = os.openpty()
    with _standard(terminal, subprocess.PIPE) as child:
        errors = child.communicate(timeout=PATIENCE_S)[1]
    os.close(controller)
    os.close(terminal)
    assert b"VentifsError: standard input is a terminal" in errors
