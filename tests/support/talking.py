"""A client and a driver for sessions in tests: messages in, messages out, loads on demand."""

from collections.abc import Callable, Sequence
from typing import Any

from tests.support.clock import Clock
from ventifs.buffer import joined
from ventifs.ninep.protocol.codec import MessageCodec
from ventifs.ninep.protocol.messages import NOFID, NOTAG, Dialect, Message, Tattach, Tversion
from ventifs.ninep.session.fids import LeftFids
from ventifs.ninep.session.limits import SessionLimits
from ventifs.ninep.session.session import NinepSession
from ventifs.serving.session import Agreed
from ventifs.vfs.interface import Load, Wait
from ventifs.vfs.memory_budget import Share

Reply = tuple[int, Message]

MSIZE = 8192


def run(session: NinepSession, job: Load, *equal: Load) -> None:
    """Run a load, as a thread would, for all loads with an equal key."""
    try:
        value, failure = job.run(), None
    except Exception as error:
        value, failure = None, error
    for each in (job, *equal):
        session.finish(each, value, failure)


class Talk:
    """A conversation with a session.

    Attributes:
        jobs: the loads that the session has requested and that have not run.
        waits: the waits that the session has handed out.
        largest: the size of the largest reply, in bytes.
    """

    def __init__(
        self,
        filesystem: Any,
        dialect: Dialect = Dialect.LINUX,
        *,
        msize: int = MSIZE,
        limits: SessionLimits | None = None,
        attach: bool = True,
        clock: Clock | None = None,
        share: Share | None = None,
        leave: Callable[[LeftFids], None] = LeftFids.all,
        agreed: Agreed | None = None,
    ) -> None:
        self.session = NinepSession(
            filesystem,
            limits=limits,
            clock=clock or Clock(),
            share=share,
            leave=leave,
            agreed=agreed,
        )
        self.dialect = dialect
        self.codec = MessageCodec.of(dialect)
        self.jobs: list[Load] = []
        self.waits: list[Wait] = []
        self.largest = 0
        self._rest = b""
        if agreed is not None:
            return
        self.send((NOTAG, Tversion(msize, dialect.version)))
        if attach:
            self.send((0, Tattach(0, NOFID, b"me", b"", 1000)))
            self.work()

    def frames(self, *requests: Reply) -> bytes:
        return b"".join(self.codec.encode(message, tag) for tag, message in requests)

    def send(self, *requests: Reply) -> list[Reply]:
        """Send requests; return the replies that need no load."""
        self.session.receive(self.frames(*requests))
        return self.turns()

    def turns(self) -> list[Reply]:
        """Run turns until the session has nothing more to do; return the replies."""
        out = self._rest
        while True:
            out += joined(self.session.turn())
            self.jobs += self.session.loads()
            self.waits += self.session.waits()
            if not self.session.more:
                break
        replies = []
        at = 0
        while at < len(out):
            size = int.from_bytes(out[at : at + 4], "little")
            self.largest = max(self.largest, size)
            replies.append(self.codec.decode(out[at : at + size]))
            at += size
        return replies

    def work(self, count: int = 1_000_000) -> list[Reply]:
        """Run loads, oldest first and equal ones once, until none is left; return the replies."""
        replies: list[Reply] = []
        while self.jobs and count:
            count -= 1
            first = self.jobs.pop(0)
            equal = [job for job in self.jobs if job.key is not None and job.key == first.key]
            self.jobs = [job for job in self.jobs if job not in equal]
            run(self.session, first, *equal)
            replies += self.turns()
        return replies

    def give_up(self) -> list[Reply]:
        """End all waits in vain; return the replies."""
        waits, self.waits = self.waits, []
        for wait in waits:
            self.session.finish(wait, wait.otherwise)
        return self.turns()

    def ask(self, *messages: Message) -> Any:
        """Send requests one by one, run their loads, and return the reply to the last one."""
        reply: Message | None = None
        for message in messages:
            answers = self.send((1, message)) + self.work()
            assert [tag for tag, _ in answers] == [1], (message, answers)
            reply = answers[0][1]
        return reply

    def close(self) -> None:
        self.session.close()


def tags(replies: Sequence[Reply]) -> list[int]:
    """The tags of replies, in order."""
    return [tag for tag, _ in replies]
