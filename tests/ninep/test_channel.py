"""Channels: partial writes, many slices, waking, and which descriptors can be one."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.sessions import PATIENCE_S
from ventifs.ninep.channel import READ_MAX, DescriptorChannel, socket_channel

ROOT = Path(__file__).parents[2]


def test_everything_arrives_however_little_the_kernel_takes() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        channel = socket_channel(theirs)
        # More slices than one call takes, some empty, some larger than the socket's room.
        sizes = [1, 0, 3000, 100_000, *[7] * 3000, 0, 50_000, 0]
        data = os.urandom(sum(sizes))
        pieces, at = [], 0
        for size in sizes:
            pieces.append(memoryview(data)[at : at + size])
            at += size
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        received = bytearray()

        async def receive() -> None:
            while len(received) < len(data):
                received.extend(await stream.receive_some(1500))

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await channel.write(pieces)
        assert received == data
        channel.close()
        await stream.aclose()

    trio.run(main)


def test_reading_brings_no_more_than_there_is_room_for() -> None:
    async def main() -> None:
        reads, writes = os.pipe()
        channel = DescriptorChannel(reads, os.dup(writes))
        os.write(writes, b"a" * 5000)
        assert await channel.read() == b"a" * 5000
        os.close(writes)
        with pytest.raises(BlockingIOError):
            os.readv(reads, [bytearray(READ_MAX)])
        channel.close()
        channel.close()  # once is enough

    trio.run(main)


@pytest.mark.parametrize("act", [DescriptorChannel.wake, DescriptorChannel.close])
def test_who_reads_can_be_woken(act: Callable[[DescriptorChannel], None]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        channel = socket_channel(theirs)
        channel.wake()  # nobody reads: nothing is remembered
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    assert await channel.read() is None

                nursery.start_soon(read)
                await wait_all_tasks_blocked()
                act(channel)
        channel.close()
        ours.close()

    trio.run(main)


def test_a_broken_connection_is_an_error() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        channel = socket_channel(theirs)
        ours.close()
        assert await channel.read() == b""
        with pytest.raises(BrokenPipeError):
            await channel.write([b"x"])
        channel.close()

    trio.run(main)


_STANDARD = """
import trio
from ventifs.ninep.channel import standard_channel
channel = standard_channel()
print("stray")
async def echo():
    while data := await channel.read():
        await channel.write([b"<", data, b">"])
trio.run(echo)
"""


def _standard(stdin: Any, stdout: Any, **more: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", _STANDARD], stdin=stdin, stdout=stdout,
                            stderr=subprocess.PIPE, cwd=ROOT, **more)  # fmt: skip


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


def test_terminals_are_refused() -> None:
    controller, terminal = os.openpty()
    with _standard(terminal, subprocess.PIPE) as child:
        errors = child.communicate(timeout=PATIENCE_S)[1]
    os.close(controller)
    os.close(terminal)
    assert b"VentifsError: standard input is a terminal" in errors
