"""Pools of processes that answer the requests of this one.

A `Pool` takes requests (bytes, and descriptors of files) and calls back with the replies.
`InlinePool` answers at once in this process; `Workers` forks. Workers are forked before any store,
thread or progress display exists, and open their own. They end when their parent ends, for whatever
reason. A worker can send notes while it handles a request; they arrive before its reply. This
module does not know what the requests mean.
"""

import ctypes
import os
import pickle
import select
import signal
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Protocol, Self

from ventifs.errors import VentifsError

DESCRIPTORS_MAX = 200  # in one request; Linux's own limit is 253
REQUEST_MAX = 64 << 10  # bytes: two always fit in a socket, so sending never blocks
_IN_FLIGHT = 2  # requests a worker holds: the current one and the next
_SOCKET_BYTES = 512 << 10
_PATIENCE_S = 10  # until a worker that does not end by itself is killed
_HEADER = struct.Struct("<IB")  # length; a request's number of descriptors, or a reply's kind
_REPLY, _ERROR, _NOTE = 0, 1, 2
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Handle = Callable[[bytes, Sequence[int]], bytes]  # (request, its descriptors) -> reply
Send = Callable[[bytes], None]  # takes a note to the parent
Task = Callable[[Send], AbstractContextManager[Handle]]
Done = Callable[[bytes], None]


class Pool(Protocol):
    """An object that answers requests.

    Attributes:
        on_note: called with every note; a caller that expects notes sets it.
    """

    on_note: Done

    def submit(
        self, request: bytes, descriptors: Sequence[int], done: Done, *, alone: bool = False
    ) -> None:
        """Submit a request; this call or a later one calls `done` with the reply.

        Args:
            request: up to 64 KiB.
            descriptors: up to 200; they may be closed when this returns.
            done: must not submit requests itself.
            alone: the request takes long; no other waits behind it if another process has room.
        """

    def drain(self) -> None:
        """Wait for all replies."""

    def ask_all(self, request: bytes, done: Done) -> None:
        """Submit one request to each process, and wait for all replies."""

    def kill(self) -> None:
        """End the processes at once; the pool cannot be used afterwards."""


class InlinePool:
    """Answers in this process, before `submit` returns."""

    def __init__(self, handle: Handle) -> None:
        """Requests go to `handle`."""
        self.on_note: Done = _unexpected
        self._handle = handle

    def submit(
        self, request: bytes, descriptors: Sequence[int], done: Done, *, alone: bool = False
    ) -> None:
        """See `Pool`."""
        done(self._handle(request, descriptors))

    def drain(self) -> None:
        """See `Pool`."""

    def ask_all(self, request: bytes, done: Done) -> None:
        """See `Pool`."""
        done(self._handle(request, ()))

    def kill(self) -> None:
        """See `Pool`: there is no process to end."""


class _Worker:
    """The parent's end of one process."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.sock = sock
        self.waiting: deque[Done] = deque()
        self.alone = False  # no other request may wait behind its last one

    @property
    def load(self) -> int:
        """The number of unanswered requests that the worker holds.

        If its last request was submitted `alone`, and another worker had room then, it is the
        maximum, so that `submit` sends it no other until it has answered.
        """
        return _IN_FLIGHT if self.alone and self.waiting else len(self.waiting)


class Workers:
    """Forked processes, as a context manager that kills them when it is left by an error.

    Concurrency: one thread. Make it before anything that does not survive a fork.
    """

    def __init__(self, count: int, task: Task) -> None:
        """Fork `count` processes; each enters its task when its first request arrives."""
        self.on_note: Done = _unexpected
        self._workers: list[_Worker] = []
        self._poll = select.poll()
        self._by_fd: dict[int, _Worker] = {}
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        try:
            for _ in range(count):
                self._fork(task)
        except BaseException:
            self.kill()
            raise

    def _fork(self, task: Task) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        parent = os.getpid()
        # Blocked: in the child, a handler that raises would unwind into the caller's code.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    ours.close()
                    for worker in self._workers:  # or these ends stay open when the parent dies
                        worker.sock.close()
                    die_with(parent)
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
                    code = _serve(theirs, task)
                finally:
                    os._exit(code)
            theirs.close()
            worker = _Worker(pid, ours)
            self._workers.append(worker)
            self._by_fd[ours.fileno()] = worker
            self._poll.register(ours, select.POLLIN)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def submit(
        self, request: bytes, descriptors: Sequence[int], done: Done, *, alone: bool = False
    ) -> None:
        """See `Pool`.

        Raises:
            VentifsError: a worker died. An error that a worker raised is raised here, too.
        """
        self._dispatch(0)
        worker = min(self._workers, key=_load)
        while worker.load >= _IN_FLIGHT:
            self._dispatch(None)
            worker = min(self._workers, key=_load)
        self._send(worker, request, descriptors, done)
        others = sum(1 for each in self._workers if each is not worker and each.load < _IN_FLIGHT)
        worker.alone = alone and others > 0
        self._workers.remove(worker)
        self._workers.append(worker)  # of workers with equal load, the least recently used is next

    def _send(
        self, worker: _Worker, request: bytes, descriptors: Sequence[int], done: Done
    ) -> None:
        assert len(request) <= REQUEST_MAX
        try:
            _send(worker.sock, len(descriptors), request, descriptors)
        except OSError:
            raise self._died(worker) from None
        worker.waiting.append(done)

    def drain(self) -> None:
        """See `Pool`.

        Raises:
            VentifsError: as `submit`.
        """
        while any(worker.waiting for worker in self._workers):
            self._dispatch(None)

    def ask_all(self, request: bytes, done: Done) -> None:
        """See `Pool`.

        Raises:
            VentifsError: as `submit`.
        """
        self.drain()
        for worker in self._workers:
            self._send(worker, request, (), done)
        self.drain()

    def _dispatch(self, timeout_ms: int | None) -> None:
        """Take the replies that have arrived; wait up to `timeout_ms` for the first.

        With `None` it waits without limit.

        Raises:
            VentifsError: as `submit`.
        """
        for fd, _ in self._poll.poll(timeout_ms):
            worker = self._by_fd[fd]
            try:
                kind, reply, _ = _receive(worker.sock)
            except (EOFError, OSError):
                raise self._died(worker) from None
            if kind == _ERROR:
                raise pickle.loads(reply)  # noqa: S301, from our own child
            if kind == _NOTE:
                self.on_note(reply)
            else:
                worker.waiting.popleft()(reply)

    def _died(self, worker: _Worker) -> VentifsError:
        self._workers.remove(worker)
        worker.sock.close()
        with suppress(ChildProcessError):
            _, status = os.waitpid(worker.pid, 0)
            how = (
                f"killed by signal {os.WTERMSIG(status)}"
                if os.WIFSIGNALED(status)
                else f"exit code {os.waitstatus_to_exitcode(status)}"
            )
            return VentifsError(
                f"a worker process ended early ({how}); nothing committed was lost: "
                "run the command again, with --jobs 1 if memory is short"
            )
        return VentifsError("a worker process ended early; run the command again")

    def close(self) -> None:
        """Let the workers end, and wait for them."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.sock.close()
        for worker in workers:
            _reap(worker.pid)

    def kill(self) -> None:
        """End the workers at once; blocks that they have stored stay for the next run."""
        for worker in self._workers:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
        self.close()

    def __enter__(self) -> Self:
        """Return the pool itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the pool; after an error, kill the workers."""
        if error is None:
            self.close()
        else:
            self.kill()


def _load(worker: _Worker) -> int:
    return worker.load


def _unexpected(note: bytes) -> None:
    raise AssertionError(f"a note of {len(note)} bytes that nobody expects")


def _reap(pid: int) -> None:
    """Wait for a child, and kill one that does not end."""
    # The child is gone already if this process was started with SIGCHLD ignored.
    with suppress(ProcessLookupError, ChildProcessError):
        handle = os.pidfd_open(pid)
        try:
            if not select.select([handle], [], [], _PATIENCE_S)[0]:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        finally:
            os.close(handle)


def die_with(parent: int) -> None:
    """Make a forked child end when `parent` ends, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _serve(sock: socket.socket, task: Task) -> int:
    """Answer requests in a worker until the parent closes its end; return the exit code."""
    try:
        first = _receive(sock)
    except (EOFError, OSError):
        return 0  # the parent closed without a request
    try:
        with task(lambda note: _send(sock, _NOTE, note, ())) as handle:
            _, request, descriptors = first
            while True:
                try:
                    reply = handle(request, descriptors)
                finally:
                    for fd in descriptors:
                        os.close(fd)
                _send(sock, _REPLY, reply, ())
                try:
                    _, request, descriptors = _receive(sock)
                except EOFError:
                    return 0
    except BrokenPipeError:
        return 0  # the parent is gone
    except Exception as error:
        _send(sock, _ERROR, _pickled(error), ())
        return 1


def _pickled(error: Exception) -> bytes:
    try:
        data = pickle.dumps(error)
        pickle.loads(data)  # noqa: S301, our own
    except Exception:  # an error that cannot be pickled is sent as text
        if isinstance(error, VentifsError):
            return pickle.dumps(VentifsError(str(error)))
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return data


def _send(sock: socket.socket, kind: int, body: bytes, descriptors: Sequence[int]) -> None:
    header = _HEADER.pack(len(body), kind)
    if descriptors:
        socket.send_fds(sock, [header], list(descriptors))
        sock.sendall(body)
    else:
        sock.sendall(header + body)


def _receive(sock: socket.socket) -> tuple[int, bytes, list[int]]:
    """Receive a message: its kind or number of descriptors, its body, its descriptors.

    Raises:
        EOFError: the other end has closed.
    """
    header, descriptors, _, _ = socket.recv_fds(sock, _HEADER.size, DESCRIPTORS_MAX)
    if not header:
        raise EOFError
    length, kind = _HEADER.unpack(header)
    body = bytearray(length)
    view = memoryview(body)
    while view:
        count = sock.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return kind, bytes(body), list(descriptors)
