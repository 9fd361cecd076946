"""Runs a parser in a forked child whose memory and processor time are limited.

The contents of a disk decide what its parser does: it may crash, loop or ask for all memory. This
ends only its own child. The events that the child has sent stay valid; its last batch is lost. A
child that reads a disk can be confined, so that it opens no more files. Events come over a pipe in
batches; a child that is ahead waits, so that neither side queues them. A child with children of its
own passes their batches on unchanged: always whole, and marked as not its own. This module does not
know what the events mean.
"""

import faulthandler
import gc
import os
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fcntl import F_SETPIPE_SZ, fcntl
from itertools import chain
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from ventifs.errors import VentifsError
from ventifs.image.confinement.confined import give_up_files
from ventifs.image.survey_events import Event
from ventifs.tree.process_pool import die_with

FRAME_BYTES_MAX = 64 << 20  # two million extents of one file; a larger event is an error
_BATCH_BYTES = 48 << 10
_BATCH_S = 0.05  # the next event after this time sends the batch
_PIPE_BYTES = 256 << 10
_PATIENCE_S = 10  # the time that a child has to end after it has closed its pipe
_HEADER = struct.Struct("<BI")  # kind, bytes that follow
_EVENTS, _PASSED, _FAILED, _DONE = range(4)
_ARRAY = struct.Struct(">BI")  # msgpack's array 32: its code, number of elements
_DECODER = msgspec.msgpack.Decoder(list[Event])

_ends: set[int] = set()  # this process's ends of pipes; children close them


class ProcessLimits(NamedTuple):
    """The resources that a child may use.

    Attributes:
        memory: bytes of address space, beyond what it was forked with.
        cpu_s: seconds of processor time in all.
        stall_s: seconds of processor time between two batches of events, so that an endless loop
            ends early.
    """

    memory: int
    cpu_s: int
    stall_s: int


class EventBatch(NamedTuple):
    """Some events, encoded.

    Attributes:
        body: a list of events, as msgpack; or garbage, if a parser has damaged its memory.
        passed_on: whether the child received it from a child of its own.
    """

    body: bytearray
    passed_on: bool = False


Telling = Iterator[Event | EventBatch | None]


class Apart:
    """An iterator over the events that a forked child sends, in order. A context manager.

    The child is forked at once and runs ahead until the pipe is full. It ends when the thread that
    made it ends.

    Attributes:
        problem: why the events end early, in one line. Empty until then, and if all events came.

    Concurrency: one thread. Make it before anything that does not survive a fork.
    """

    def __init__(
        self, tell: Callable[[], Telling], limits: ProcessLimits, *, confined: bool = False
    ) -> None:
        """Fork a child that calls `tell` and sends the events that it yields.

        None ends a batch: what came before it is sent at once. A confined child opens only Python's
        modules. Its only capability is to read files, and so it cannot limit children of its own.
        Where the kernel has no Landlock, it can open files, and `confined.note` says so; where
        Landlock fails, the child fails.
        """
        self.problem = ""
        self._limits = limits
        self._ended = False
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        self._fd, theirs = os.pipe2(os.O_CLOEXEC)
        with suppress(OSError):  # the size of a user's pipes may be limited
            fcntl(theirs, F_SETPIPE_SZ, _PIPE_BYTES)
        parent = os.getpid()
        # Blocked: in the child they would raise, up through the frames of the parent's callers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self._pid = os.fork()
            if self._pid == 0:
                code = 1
                try:
                    for fd in (self._fd, *_ends):
                        os.close(fd)
                    _ends.clear()
                    _ends.add(theirs)
                    die_with(parent)
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
                    code = _run(theirs, tell, limits, confined)
                finally:
                    os._exit(code)
        except OSError:
            os.close(self._fd)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(theirs)
        _ends.add(self._fd)
        self._batches = self._receive()
        self._events = chain.from_iterable(map(self.events_of, self._batches))

    def __iter__(self) -> Iterator[Event]:
        """The events that are still to come, decoded; every batch must be the child's own."""
        return self._events

    def batches(self) -> Iterator[EventBatch]:
        """The same events in batches, not decoded; use either this or the iterator."""
        return self._batches

    def events_of(self, batch: EventBatch) -> list[Event]:
        """The events of a batch of the child's own; garbage sets `problem` and ends the child."""
        try:
            return _DECODER.decode(batch.body)
        except msgspec.DecodeError:
            self.problem = self._how_it_ended()
            self.close()
            return []

    def _receive(self) -> Iterator[EventBatch]:
        while self._fd in _ends:
            kind, body = self._frame()
            if kind == _DONE:
                break
            if kind in (_EVENTS, _PASSED):
                yield EventBatch(body, kind == _PASSED)
                continue
            self.problem = (
                body.decode(errors="replace") if kind == _FAILED else self._how_it_ended()
            )
            break
        self.close()

    def _frame(self) -> tuple[int | None, bytearray]:
        """The next frame's kind and body; the kind is None at the end, or if it is garbage."""
        try:
            kind, length = _HEADER.unpack(self._exactly(_HEADER.size))
            if length <= FRAME_BYTES_MAX:
                return kind, self._exactly(length)
        except EOFError:
            pass
        return None, bytearray()

    def _exactly(self, length: int) -> bytearray:
        body = bytearray(length)
        view = memoryview(body)
        while view:
            count = os.readv(self._fd, [view])
            if not count:
                raise EOFError
            view = view[count:]
        return body

    def _how_it_ended(self) -> str:
        """How a child ended that did not report its end, in one line."""
        code = self._wait(_PATIENCE_S)
        if code is None or code >= 0:
            return "the parser ended early"
        if -code == signal.SIGXCPU:
            return "the parser took too much processor time and was stopped"
        return f"the parser crashed ({signal.strsignal(-code) or f'signal {-code}'})"

    def _wait(self, patience_s: float) -> int | None:
        """Wait for the child, and kill it if it has not ended after `patience_s`.

        Returns:
            Its exit code, or minus the signal that ended it; None if it was gone already.
        """
        self._ended = True
        # The child is gone already if this process was started with SIGCHLD ignored.
        with suppress(ProcessLookupError, ChildProcessError):
            handle = os.pidfd_open(self._pid)
            try:
                if not select.select([handle], [], [], patience_s)[0]:
                    os.kill(self._pid, signal.SIGKILL)
                return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            finally:
                os.close(handle)
        return None

    def close(self) -> None:
        """End the child, even if it is still running. Idempotent."""
        if not self._ended:
            self._wait(0)
        if self._fd in _ends:
            _ends.remove(self._fd)
            os.close(self._fd)

    def __enter__(self) -> Self:
        """The iterator itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


def _run(fd: int, tell: Callable[[], Telling], limits: ProcessLimits, confined: bool) -> int:
    """Runs in the child: sends all events, then the outcome; returns the exit code."""
    try:
        _silence()
        gc.freeze()  # the collector would touch, and so copy, the memory that came with the fork
        teller = _Teller(fd, limits)
        try:
            if confined:
                give_up_files()
            teller.tell(tell())
            teller.flush()
        except BrokenPipeError:
            raise
        except MemoryError:
            problem = f"the parser wants more than {limits.memory >> 20} MiB of memory"
        except VentifsError as error:
            problem = str(error)
        except Exception as error:
            problem = f"the parser failed ({type(error).__name__}: {error})"
        else:
            teller.end(_DONE, "")
            return 0
        teller.end(_FAILED, problem)
    except BrokenPipeError:  # the parent has closed its end
        pass
    return 1


def _silence() -> None:
    """Redirect the standard streams to /dev/null.

    C libraries write to the terminal, and so does the C library itself when its heap is damaged.
    """
    faulthandler.disable()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)


class _Teller:
    """The child's end of the pipe."""

    def __init__(self, fd: int, limits: ProcessLimits) -> None:
        self._fd = fd
        self._limits = limits
        self._encoder = msgspec.msgpack.Encoder()
        self._batch = bytearray()
        self._count = 0
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[0])
        _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + limits.memory)
        _limit(resource.RLIMIT_CORE, 0)
        self._allow_cpu()
        self._due = time.monotonic() + _BATCH_S

    def tell(self, events: Telling) -> None:
        """Send events in batches. This loop is performance critical: it runs for every file."""
        encode_into, batch, now = self._encoder.encode_into, self._batch, time.monotonic
        for event in events:
            if event is None:
                self.flush()
                continue
            if isinstance(event, EventBatch):
                self.flush()
                self._send(_PASSED, event.body)
                continue
            before = len(batch)  # at most _BATCH_BYTES
            try:
                encode_into(event, batch, -1)
                if len(batch) + _ARRAY.size > FRAME_BYTES_MAX:
                    raise VentifsError("a file is in too many pieces to be told")
            except Exception:
                del batch[before:]  # the events before it can still be sent
                raise
            self._count += 1
            if len(batch) > _BATCH_BYTES or now() >= self._due:
                self.flush()

    def flush(self) -> None:
        """Send the events that are waiting."""
        if self._count:
            self._send(_EVENTS, _ARRAY.pack(0xDD, self._count) + self._batch)
            self._batch.clear()
            self._count = 0
        self._due = time.monotonic() + _BATCH_S
        self._allow_cpu()

    def end(self, kind: int, text: str) -> None:
        """Send the events that are waiting, then the outcome."""
        self.flush()
        self._send(kind, " ".join(text.split()).encode(errors="replace"))

    def _send(self, kind: int, body: bytes | bytearray) -> None:
        view = memoryview(_HEADER.pack(kind, len(body)) + body)
        while view:
            view = view[os.write(self._fd, view) :]

    def _allow_cpu(self) -> None:
        """Allow `stall_s` more of processor time, up to `cpu_s` in all."""
        soft = min(int(time.process_time()) + self._limits.stall_s, self._limits.cpu_s)
        _limit(resource.RLIMIT_CPU, soft, self._limits.cpu_s + 1)


def _limit(what: int, soft: int, hard: int | None = None) -> None:
    """Set a limit, lowered to the hard limit that was set before."""
    most = resource.getrlimit(what)[1]
    hard = soft if hard is None else hard
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(what, (soft, hard))
