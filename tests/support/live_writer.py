"""A client that changes a live export with many requests in flight, and knows what was answered.

Each lane has names of its own and one request in flight. So whatever becomes of the server, the
names of a lane are as they were after its last answer, or as the request in flight would have left
them.
"""

import random
import socket
from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tests.support.patience import PATIENCE_S
from tests.support.sessions import CODEC, frames
from ventifs.ninep.protocol import messages as m
from ventifs.ninep.protocol.messages import Message

LANES = 16
O_RDWR = 2
Files = dict[bytes, "File"]


@dataclass(frozen=True)
class File:
    """What a name stands for."""

    kind: str
    content: bytes = b""
    mode: int = 0o644


@dataclass
class Lane:
    """The names that begin with one number.

    Attributes:
        before: as of the last answer.
        after: as the request in flight leaves them, if it is done.
    """

    number: int
    before: Files = field(default_factory=dict)
    after: Files = field(default_factory=dict)

    def agrees(self, found: Files) -> bool:
        """Whether the names are as they were answered; a write in flight may be done in part."""
        if found in (self.before, self.after):
            return True
        if found.keys() != self.before.keys() or found.keys() != self.after.keys():
            return False
        return all(
            each.mode == self.before[name].mode
            and each.content.startswith(self.before[name].content)
            and self.after[name].content.startswith(each.content)
            for name, each in found.items()
        )


class LiveWriter:
    """The client, attached to an export.

    Attributes:
        answers: how many requests were answered so far.
    """

    def __init__(self, address: str, aname: bytes, seed: int, uid: int = 0) -> None:
        self.answers = 0
        self.lanes = [Lane(number) for number in range(LANES)]
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(address.removeprefix("unix://"))
        self._rest = b""
        self._rng = random.Random(seed)
        self._seed = seed
        assert isinstance(self._ask(m.Tversion(1 << 20, b"9P2000.L"), m.NOTAG), m.Rversion)
        reply = self._ask(m.Tattach(0, m.NOFID, b"", aname, uid), 1)
        assert isinstance(reply, m.Rattach), reply
        self._scripts = [self._script(lane) for lane in self.lanes]

    def begin(self) -> None:
        """Send the first request of each lane."""
        for lane, script in zip(self.lanes, self._scripts, strict=True):
            self._send(lane, next(script))

    def go_on(self, answers: int) -> None:
        """Go on until so many more requests were answered."""
        until = self.answers + answers
        while self.answers < until:
            tag, reply = self._reply()
            self._answered(tag, reply)
            self._send(self.lanes[tag], next(self._scripts[tag]))

    def drain(self) -> None:
        """Take the answers that the server had sent before it died."""
        try:
            while True:
                self._answered(*self._reply())
        except (ConnectionError, EOFError):
            self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def check(self, directory: Path) -> None:
        """See that a directory of the host has what was answered."""
        found: list[Files] = [{} for _ in self.lanes]
        for path in directory.iterdir():
            number, seed = map(int, path.name.split("-")[:2])
            if seed == self._seed:
                found[number][path.name.encode()] = _looked_at(path)
        for lane, files in zip(self.lanes, found, strict=True):
            assert lane.agrees(files), (lane, files)

    def _answered(self, tag: int, reply: Any) -> None:
        assert not isinstance(reply, m.Rlerror), reply
        lane = self.lanes[tag]
        if isinstance(reply, m.Rwrite):
            assert reply.count
        lane.before = lane.after
        self.answers += 1

    def _send(self, lane: Lane, request: tuple[Message, Files]) -> None:
        message, lane.after = request
        self._socket.sendall(frames((lane.number, message)))

    def _ask(self, message: Message, tag: int) -> Any:
        self._socket.sendall(frames((tag, message)))
        return self._reply()[1]

    def _reply(self) -> tuple[int, Any]:
        while len(self._rest) < 4 or len(self._rest) < int.from_bytes(self._rest[:4], "little"):
            more = self._socket.recv(1 << 16)
            if not more:
                raise EOFError
            self._rest += more
        size = int.from_bytes(self._rest[:4], "little")
        frame, self._rest = self._rest[:size], self._rest[size:]
        return CODEC.decode(frame)

    def _script(self, lane: Lane) -> Generator[tuple[Message, Files], None, None]:
        """Requests for ever, each with what it leaves of the lane's names."""
        rng, fid = self._rng, 100 + lane.number
        for number in count():
            name = b"%d-%d-%d" % (lane.number, self._seed, number)
            moved = name + b"-moved"
            had = {key: file for key, file in lane.before.items() if rng.random() < 0.99}
            for gone in lane.before.keys() - had.keys():
                left = {key: file for key, file in lane.before.items() if key != gone}
                flags = 0x200 if lane.before[gone].kind == "directory" else 0
                yield m.Tunlinkat(0, gone, flags), left
            match rng.randrange(4):
                case 0:
                    mode = rng.choice([0o700, 0o755])
                    yield m.Tmkdir(0, name, mode, 0), {**had, name: File("directory", b"", mode)}
                case 1:
                    target = rng.randbytes(8).hex().encode()
                    link = File("symlink", target, 0o777)
                    yield m.Tsymlink(0, name, target, 0), {**had, name: link}
                case _:
                    yield m.Twalk(0, fid, ()), had
                    file = File("file", b"", 0o600)
                    yield m.Tlcreate(fid, name, O_RDWR, 0o600, 0), {**had, name: file}
                    for _ in range(rng.randrange(4)):
                        data = rng.randbytes(rng.choice([10, 4096, 300_000]))
                        at, file = len(file.content), File("file", file.content + data, 0o600)
                        yield m.Twrite(fid, at, data), {**had, name: file}
                    file = File("file", file.content, 0o644)
                    yield m.Tsetattr(fid, 1, 0o644, 0, 0, 0, 0, 0, 0, 0), {**had, name: file}
                    yield m.Tclunk(fid), {**had, name: file}
                    yield m.Trenameat(0, name, 0, moved), {**had, moved: file}


def _looked_at(path: Path) -> File:
    mode = path.lstat().st_mode & 0o7777
    if path.is_symlink():
        return File("symlink", path.readlink().name.encode(), mode)
    if path.is_dir():
        return File("directory", b"", mode)
    return File("file", path.read_bytes(), mode)
