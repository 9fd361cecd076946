"""`ventifs serve --client-memory`: a real server, and three peers that take all they can get."""

import errno
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes
from tests.support.manyfiles import wide_version
from tests.support.patience import wait_until
from tests.support.serve import PATIENCE_S, Serve, ventifs
from tests.support.sessions import CODEC
from ventifs.ninep.protocol.messages import (
    NOFID,
    NOTAG,
    Message,
    Rlerror,
    Tattach,
    Tclunk,
    Tlopen,
    Tread,
    Tversion,
    Twalk,
)
from ventifs.ninep.session.limits import FID_BYTES, MSIZE_FIRST, SessionLimits

MIB = 1 << 20
BUDGET = 48 * MIB
TOLERANCE = 24 * MIB  # the cache, which was empty, and what the allocator keeps
DIRECTORIES, FILES = 100, 1000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a version of 100,000 files, and one with a large file."""
    made = tmp_path_factory.mktemp("memory")
    ventifs(made, "init")
    (made / "tree").mkdir()
    (made / "tree" / "large").write_bytes(bytes(range(256)) * (8 * MIB // 256))
    ventifs(made, "archive", "tree", "--name", "large")
    store = made / "data" / "ventifs"
    assert processes.run(wide_version, store, DIRECTORIES, FILES, "wide") == 0
    return made


@pytest.fixture
def server(home: Path) -> Iterator[Serve]:
    with Serve(
        home,
        "tcp://127.0.0.1:0",
        "--allow",
        "127.0.0.0/8 *",
        "--cache",
        "16MiB",
        "--client-memory",
        "48MiB",
    ) as server:
        yield server


class Guest:
    """A client that blocks, at an address of its own."""

    def __init__(self, server: Serve, ip: str, export: bytes, msize: int = MSIZE_FIRST) -> None:
        self._socket = socket.socket()
        self._socket.settimeout(PATIENCE_S)
        self._socket.bind((ip, 0))
        self._socket.connect(("127.0.0.1", int(server.addresses[0].rpartition(":")[2])))
        try:
            self.ask(Tversion(msize, b"9P2000.L"), NOTAG)
            self.ask(Tattach(0, NOFID, b"", export, 0))
        except BaseException:
            self.close()
            raise

    def send(self, *messages: Message) -> None:
        frames = (CODEC.encode(each, tag) for tag, each in enumerate(messages))
        self._socket.sendall(b"".join(frames))

    def reply(self) -> Any:
        [size] = struct.unpack("<I", head := self._read(4))
        return CODEC.decode(head + self._read(size - 4))[1]

    def ask(self, message: Message, tag: int = 1) -> Any:
        self._socket.sendall(CODEC.encode(message, tag))
        return self.reply()

    def fill(self, begin: int = 1) -> int:
        """Walk to one file after the other until there is no memory; the fids made.

        Every tenth is opened.
        """
        number = begin
        for directory in range(DIRECTORIES):
            at = number
            if isinstance(self.ask(Twalk(0, at, (b"directory-%05d" % directory,))), Rlerror):
                return number - begin
            for group in range(0, FILES, 50):
                walks = [
                    Twalk(at, number + 1 + each, (b"some-name-%05d" % (group + each),))
                    for each in range(50)
                ]
                self.send(*walks)
                failed = [reply for _ in walks if isinstance(reply := self.reply(), Rlerror)]
                assert {reply.ecode for reply in failed} <= {errno.ENFILE}
                number += len(walks) - len(failed)
                if failed:
                    return number - begin
                self.ask(Tlopen(number, 0))
            number += 1
        raise AssertionError("memory never ends")

    def clunk(self, count: int) -> None:
        for start in range(1, count, 50):
            group = range(start, min(start + 50, count))
            self.send(*map(Tclunk, group))
            for _ in group:
                self.reply()

    def close(self) -> None:
        self._socket.close()

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._socket.recv(count - len(data))
            assert more, "the server hung up"
            data += more
        return data


def resident(server: Serve) -> int:
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) << 10


def process_of(home: Path) -> Any:
    [server] = json.loads(ventifs(home, "servers", "--json").stdout)
    return server["process"]


def test_three_peers_that_take_all_they_can_stay_within_the_memory(
    home: Path, server: Serve
) -> None:
    first = Guest(server, "127.0.0.1", b"wide@latest")
    greedy = [first, *(Guest(server, f"127.0.0.{n}", b"wide@latest") for n in (2, 3))]
    before = resident(server)
    # One does not read what it asked for.
    deaf = Guest(server, "127.0.0.1", b"large@latest", MIB)
    deaf.ask(Twalk(0, 1, (b"large",)))
    deaf.ask(Tlopen(1, 0))
    deaf.send(*[Tread(1, at * MIB, MIB) for at in range(8)] * 4)
    made = [guest.fill() for guest in greedy]
    assert made[0] * FID_BYTES < BUDGET // 2  # half, less what its sessions take
    assert made[1] * FID_BYTES > BUDGET // 2 - 4 * MIB
    assert made[2] < 100  # the first two have it all
    held = process_of(home)
    assert held["client_bytes_max"] == BUDGET
    assert BUDGET - MIB < held["client_bytes"] <= BUDGET
    assert resident(server) - before < BUDGET + TOLERANCE
    text = ventifs(home, "servers").stdout.decode()
    assert "clients hold 50" in text

    # Who has little goes on: other requests need no more memory, and clunks make room.
    assert not isinstance(greedy[2].ask(Twalk(0, 0, ())), Rlerror)
    greedy[0].clunk(made[0] - 1000)
    assert greedy[2].fill(200_000) * FID_BYTES > 8 * MIB
    # A session's end gives back all of it, a few at a time.
    greedy[1].close()
    deaf.close()
    wait_until(lambda: process_of(home)["client_bytes"] <= BUDGET // 2 + 4 * MIB)
    again = Guest(server, "127.0.0.2", b"wide@latest")
    assert again.fill() > 0.9 * made[1]
    assert resident(server) - before < BUDGET + TOLERANCE
    for guest in (*greedy, again):
        guest.close()
    assert server.stop() == 0


def test_a_peer_without_memory_gets_no_session_and_others_do(home: Path, server: Serve) -> None:
    one = SessionLimits().session_bytes(MSIZE_FIRST)
    guests = []
    for _ in range(BUDGET // 2 // one - 1):
        guests.append(Guest(server, "127.0.0.1", b"wide@latest"))
    with pytest.raises((AssertionError, ConnectionError)):
        for _ in range(2):
            guests.append(Guest(server, "127.0.0.1", b"wide@latest"))
    assert "ip 127.0.0.1 holds" in server.log
    assert "--client-memory gives more" in server.log
    assert json.loads(ventifs(home, "servers", "--json").stdout)[0]["refused"] == 1
    guests.append(Guest(server, "127.0.0.2", b"wide@latest"))
    guests.pop(0).close()
    for guest in guests:
        guest.close()


@pytest.mark.parametrize(
    "words",
    [
        ("--client-memory", "3MiB"),
        ("--client-memory", "15MiB", "--workers", "4", "--cache", "64MiB"),
    ],
)
def test_too_little_for_a_worker_is_refused(home: Path, words: tuple[str, ...]) -> None:
    said = ventifs(home, "serve", *words, expected=2).stderr.decode()
    assert "each worker needs 4MiB" in said


def test_workers_divide_it(home: Path) -> None:
    with Serve(
        home, f"unix://{home}/s", "--workers", "3", "--cache", "48MiB", "--client-memory", "30MiB"
    ) as server:
        assert process_of(home)["client_bytes_max"] == 30 * MIB
        server.stop()
