"""The store's locks: flocks of files, which end with their holders and so are never stale.

`lock` is shared by all that write; rebuild, repair and upgrade hold it alone. The **gates** are two
files more, for what must wait until every writer of a moment is done while others come and go:
flock is no queue, so shared locks that keep coming would starve an exclusive one. A pointer says
which gate writers use. `turn` moves it, and from then on the other gate can only empty.

A lock that is in use is waited for as long as its taker says. After a second a message says so.
"""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ventifs.errors import Busy
from ventifs.store.files import Files, readable_errors
from ventifs.store.permissions import make_directory, open_or_create

log = logging.getLogger("ventifs.store")

GATES = "gates"  # directory of a store
RECLAIM_LOCK = "reclaim.lock"
RECOVERY_LOCK = "recovery.lock"
_POINTER = "current"
_LOOK = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # also at a FIFO, which never waits
_STEP_S, _STEP_MAX_S = 0.001, 0.05  # between tries: flock knows no time limit
_SILENT_S = 1.0  # of waiting, before a message says so
_LOOK_S = 0.25  # to outlast the processes that only look whether a lock is held


def take(fd: int, what: str, in_use: str, *, alone: bool, wait_s: float | None) -> None:
    """Lock an open file.

    Args:
        fd: the file's descriptor; closing it, and every copy of it, ends the lock.
        what: the name that messages begin with.
        in_use: the reason to wait, for messages.
        alone: whether to hold it exclusively.
        wait_s: how long to wait; None for as long as it takes.

    Raises:
        Busy: it is held elsewhere in a conflicting mode.
    """
    began = time.monotonic()
    operation = (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB
    said, step_s = False, _STEP_S
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(fd, operation)
            return
        waited_s = time.monotonic() - began
        if wait_s is not None and waited_s >= wait_s:
            wait = "wait longer" if said else "wait with --wait"
            raise Busy(f"{what}: {in_use}; try again when that is done, or {wait}")
        if not said and waited_s >= _SILENT_S:
            log.warning("%s: %s; waiting for it", what, in_use)
            said = True
            if wait_s is None:
                operation &= ~fcntl.LOCK_NB
                continue
        time.sleep(step_s)
        step_s = min(2 * step_s, _STEP_MAX_S)


def let_go(fd: int, holder: int) -> None:
    """Close a locked file, and end its lock, unless this process is a child of the holder.

    Children that were forked meanwhile have the descriptor too: closing it would not end the lock.
    """
    if os.getpid() == holder:
        fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


@contextmanager
def _held(
    path: Path, what: str, in_use: str, *, alone: bool, wait_s: float | None
) -> Iterator[None]:
    holder = os.getpid()
    with readable_errors(path):
        fd = open_or_create(path)
    try:
        take(fd, what, in_use, alone=alone, wait_s=wait_s)
        yield
    finally:
        let_go(fd, holder)


@contextmanager
def store_lock(root: Path, *, alone: bool, wait_s: float | None = 0) -> Iterator[None]:
    """Hold the store's lock: shared, by writers, or `alone`, with both gates.

    A rebuild, a repair, an upgrade and the creation of a store want it alone.

    Raises:
        Busy: when the lock is held elsewhere in a conflicting mode.
        VentifsError: when the lock file cannot be opened.
    """
    who = "another ventifs is writing to it" if alone else "a rebuild, repair or upgrade is running"
    in_use = f"the store is in use: {who}"
    with ExitStack() as stack:
        stack.enter_context(_held(root / "lock", str(root), in_use, alone=alone, wait_s=wait_s))
        for gate in _gates(root) if alone else ():
            # A writer takes its gate after `lock`, so none can come or be made now.
            if gate.exists():
                stack.enter_context(_held(gate, str(root), in_use, alone=True, wait_s=wait_s))
        yield


def gates_there(root: Path) -> bool:
    """Whether a store has its gates."""
    return all(gate.exists() for gate in _gates(root))


def make_gates(root: Path, files: Files) -> None:
    """Make the locks of a store that has none, so that a full disk keeps no writer out."""
    files.make_directory(root / GATES)
    for path in (*_gates(root), root / RECOVERY_LOCK):
        os.close(open_or_create(path))


@contextmanager
def writers_gate(root: Path, *, wait_s: float | None = None) -> Iterator[int]:
    """Hold the gate that writers use now, shared; the caller holds the store's lock.

    Processes that work for a writer need none: what they find stored counts only when the writer
    commits it.

    Returns:
        The gate's number, 0 or 1.

    Raises:
        Busy: it is held alone for longer than `wait_s`.
        VentifsError: it cannot be opened.
    """
    with readable_errors(root / GATES):
        make_directory(root / GATES)
    in_use = "the store is in use: space is being reclaimed, which takes a moment"
    while True:
        number = _pointed_at(root)
        with _held(_gates(root)[number], str(root), in_use, alone=False, wait_s=wait_s):
            if _pointed_at(root) == number:  # else it turned before the gate was locked
                yield number
                return


def idle_gate(root: Path) -> int:
    """The number of the gate that writers which come now do not use; earlier ones still may."""
    return 1 - _pointed_at(root)


def turn(root: Path, number: int, files: Files) -> None:
    """Make writers that come from now on use the gate with a number, 0 or 1. Idempotent.

    Before this, the caller waits until nobody is left at that gate, so that afterwards those at it
    came after this. A process that turned and was killed may have left writers there.
    """
    with readable_errors(root / GATES):
        files.make_directory(root / GATES)
        files.write_whole(root / GATES / _POINTER, [b"%d\n" % number])


@contextmanager
def gate_alone(root: Path, number: int, *, wait_s: float | None = None) -> Iterator[None]:
    """Hold a gate alone: when this begins, every writer that used it is done.

    Raises:
        Busy: some are not, for longer than `wait_s`.
    """
    in_use = "other archives, copies or the like are writing to the store"
    with _held(_gates(root)[number], str(root), in_use, alone=True, wait_s=wait_s):
        yield


@contextmanager
def both_gates_alone(root: Path) -> Iterator[None]:
    """Hold both gates alone, if no writer is at work; writers that come meanwhile wait.

    Raises:
        Busy: a writer holds one of them, and this holds neither.
        VentifsError: one cannot be opened.
    """
    with readable_errors(root / GATES):
        make_directory(root / GATES)
    with ExitStack() as stack:
        for number in (0, 1):
            stack.enter_context(gate_alone(root, number, wait_s=0))
        yield


@contextmanager
def recovery_lock(root: Path) -> Iterator[None]:
    """Be the one process that indexes what a crash left; wait for another that does.

    What an arena holds that another process is just reading may drop arenas. So nothing counts as
    known before that is done.

    Raises:
        VentifsError: the lock file cannot be opened.
    """
    in_use = "another process indexes what a crash left"
    with _held(root / RECOVERY_LOCK, str(root), in_use, alone=True, wait_s=None):
        yield


# --- the reclaimer ------------------------------------------------------------------------------


@contextmanager
def reclaimer_lock(root: Path, *, wait_s: float = 0) -> Iterator[None]:
    """Be the one process that reclaims space; the caller holds the store's lock.

    Raises:
        Busy: another process reclaims, for longer than `wait_s`.
        VentifsError: the lock file cannot be opened.
    """
    in_use = "another reclaim is running"
    path, wait_s = root / RECLAIM_LOCK, max(wait_s, _LOOK_S)
    with _held(path, str(root), in_use, alone=True, wait_s=wait_s):
        yield


def reclaimer_lives(root: Path) -> bool:
    """Whether a process reclaims space, this one included.

    Raises:
        VentifsError: the lock file cannot be opened.
    """
    path = root / RECLAIM_LOCK
    with readable_errors(path):
        try:
            fd = os.open(path, _LOOK)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
    return False


def _gates(root: Path) -> tuple[Path, Path]:
    return root / GATES / "0", root / GATES / "1"


def _pointed_at(root: Path) -> int:
    """The number of the gate in use. Locks end with a machine, so a lost pointer may be either."""
    path = root / GATES / _POINTER
    with readable_errors(path), suppress(FileNotFoundError):
        fd = os.open(path, _LOOK)
        try:
            return int(os.read(fd, 2) == b"1\n")
        finally:
            os.close(fd)
    return 0
