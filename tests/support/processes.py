"""Child processes for tests, forked from a server that never opens a store or starts a thread.

So no LMDB environment crosses a fork, and a child starts fast (see docs/performance.md). The
functions that children run are in `tests/support`, where they can be imported by name.
"""

import multiprocessing
import os
import select
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess

from tests.support.patience import PATIENCE_S

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "tests.support.crashing",
        "tests.support.conversing",
        "tests.support.archiving",
        "tests.support.reclaims",
        "tests.support.turnover",
    ]
)

KILLED = -signal.SIGKILL


def start(target: Callable[..., object], *args: object) -> BaseProcess:
    """Start a child that runs `target(*args)`; an exception becomes exit code 1."""
    child = _context.Process(target=target, args=args)
    child.start()
    return child


def kill(child: BaseProcess) -> None:
    """Kill a child and wait until it is gone; fails if it had ended by itself."""
    child.kill()
    assert finished(child) == KILLED


def finished(child: BaseProcess) -> int:
    """Wait for a child's end; return its exit code."""
    child.join(PATIENCE_S)
    if child.exitcode is None:
        child.kill()
        raise AssertionError("a child process hangs")
    return child.exitcode


def run(target: Callable[..., object], *args: object) -> int:
    """Run a child to its end; return its exit code."""
    return finished(start(target, *args))


def kill_all() -> None:
    """Kill all children that a failed test left running."""
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


def kill_stranger(pid: int) -> None:
    """Kill a process that is not our child, and wait until it is gone."""
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        assert select.select([handle], [], [], PATIENCE_S)[0], "a process does not die"
    finally:
        os.close(handle)


class Peer:
    """A child that answers requests: `target(connection, *args)` runs in it."""

    def __init__(self, target: Callable[..., object], *args: object) -> None:
        """Start it."""
        self._connection, theirs = _context.Pipe()
        self.process = start(target, theirs, *args)
        theirs.close()

    def ask(self, *question: object) -> object:
        """Send a question and wait for the answer."""
        self.tell(*question)
        return self.heard()

    def tell(self, *question: object) -> None:
        """Send a question whose answer `heard` returns."""
        self._connection.send(question)

    def heard(self) -> object:
        """Wait for the answer to a question sent by `tell`."""
        assert self._connection.poll(PATIENCE_S), "a child process does not answer"
        try:
            answer: object = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise AssertionError(f"a child ended with {finished(self.process)}") from None
        return answer

    def end(self) -> None:
        """Let the child end by itself, with exit code 0."""
        self._connection.close()
        assert finished(self.process) == 0

    def kill(self) -> None:
        """Kill the child, whatever it is doing."""
        kill(self.process)
        self._connection.close()
