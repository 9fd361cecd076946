"""Locks of live files: their owners, their conflicts, how long they last, and their limits."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.locking import READ, WRITE, OpenFile, held_by_process, record
from ventifs.vfs.interface import (
    LOCK_BLOCK,
    LOCK_BLOCKED,
    LOCK_ERROR,
    LOCK_SUCCESS,
    UNLOCKED,
    Lock,
    Refused,
    Waiting,
)
from ventifs.vfs.live.lock_owners import OFFSET_MAX
from ventifs.vfs.live.locks import CLIENT_ID_MAX, SOON_MAX, WAITERS_MAX, ExportLocks

NOBODY = 65534
INODE = 17
OTHER_INODE = 18
HOST = os.uname().nodename.encode()


class Guest:
    """A session with one file open, and its locks."""

    def __init__(self, export: ExportLocks, path: Path, mode: int = os.O_RDWR) -> None:
        self.locks = export.session()
        self.path = path
        self.files: list[OpenFile] = []
        self.open(mode)

    def open(self, mode: int = os.O_RDWR) -> OpenFile:
        self.files.append(OpenFile(self.path, mode))
        self.locks.opened(INODE)
        return self.files[-1]

    def clunk(self) -> None:
        """Close the file that was opened last."""
        self.files.pop().close()
        self.locks.closed(INODE)

    def lock(
        self,
        kind: int,
        start: int = 0,
        length: int = 0,
        *,
        process: int = 1,
        client: bytes = b"guest",
        file: OpenFile | None = None,
        flags: int = 0,
    ) -> int:
        asked = Lock(kind, start, length, process, client)
        return self.locks.lock(INODE, file or self.files[-1], asked, flags)

    def wait(self, kind: int, start: int = 0, length: int = 0, *, process: int = 1) -> Waiting:
        """Ask for a lock that another holds, ready to wait."""
        with pytest.raises(Waiting) as waiting:
            self.lock(kind, start, length, process=process, flags=LOCK_BLOCK)
        return waiting.value

    def conflict(
        self, kind: int, start: int = 0, length: int = 0, *, process: int = 1
    ) -> tuple[int, int, int, int, bytes]:
        asked = Lock(kind, start, length, process, b"guest")
        found = self.locks.getlock(INODE, self.files[-1], asked)
        return found.kind, found.start, found.length, found.proc_id, found.client_id

    def end(self) -> None:
        self.locks.close()
        while self.files:
            self.clunk()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_bytes(b"content")
    return made


@pytest.fixture
def export() -> Iterator[ExportLocks]:
    """An export's locks; at the end none is left, nor a descriptor."""
    before = descriptors()
    made = ExportLocks(64)
    yield made
    assert (made.descriptors, made.ranges, made.owners, made.waiting) == (0, 0, {}, {})
    assert descriptors() == before


@pytest.fixture
def guest(export: ExportLocks, path: Path) -> Iterator[Guest]:
    made = Guest(export, path)
    yield made
    made.end()
    assert made.locks.waiting == 0


@pytest.fixture
def other(export: ExportLocks, path: Path) -> Iterator[Guest]:
    """Another session with the same file."""
    made = Guest(export, path)
    yield made
    made.end()


def descriptors() -> int:
    """How many descriptors of this process are of files below its temporary directory."""
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return sum(os.path.lexists(link) and "pytest" in os.readlink(link) for link in links)


def refused(errno_: int, call: Callable[[], object]) -> None:
    with pytest.raises(Refused) as refusal:
        call()
    assert refusal.value.errno == errno_


# Conflicts


@pytest.mark.parametrize(
    ("held", "wanted", "status"),
    [
        (READ, READ, LOCK_SUCCESS),
        (READ, WRITE, LOCK_BLOCKED),
        (WRITE, READ, LOCK_BLOCKED),
        (WRITE, WRITE, LOCK_BLOCKED),
    ],
)
def test_two_sessions_see_each_others_locks(
    guest: Guest, other: Guest, held: int, wanted: int, status: int
) -> None:
    assert guest.lock(held, 10, 10) == LOCK_SUCCESS
    assert other.lock(wanted, 19, 1) == status
    assert other.lock(wanted, 0, 10) == LOCK_SUCCESS
    assert other.lock(wanted, 20) == LOCK_SUCCESS


@pytest.mark.parametrize("another", [{"process": 2}, {"client": b"sibling"}])
def test_owners_of_one_session_conflict_by_process_and_by_client(
    guest: Guest, another: dict[str, int | bytes]
) -> None:
    assert guest.lock(WRITE) == LOCK_SUCCESS
    assert guest.lock(READ, **another) == LOCK_BLOCKED  # type: ignore[arg-type]
    assert guest.lock(READ) == LOCK_SUCCESS
    assert guest.lock(READ, **another) == LOCK_SUCCESS  # type: ignore[arg-type]


@pytest.mark.parametrize("command", [fcntl.F_SETLK, fcntl.F_OFD_SETLK])
def test_a_process_of_the_host_keeps_guests_out(guest: Guest, path: Path, command: int) -> None:
    with held_by_process(path, WRITE, 4, 4, command=command):
        assert guest.lock(READ) == LOCK_BLOCKED
        assert guest.lock(READ, 4, 1) == LOCK_BLOCKED
        assert guest.lock(WRITE, 8) == LOCK_SUCCESS
    assert guest.lock(WRITE) == LOCK_SUCCESS


@pytest.mark.parametrize("command", [fcntl.F_SETLK, fcntl.F_OFD_SETLK])
def test_guests_keep_a_process_of_the_host_out(guest: Guest, path: Path, command: int) -> None:
    guest.lock(WRITE, 4, 4)
    fd = os.open(path, os.O_RDWR)
    try:
        with pytest.raises(BlockingIOError):
            record(fd, command, WRITE, 0, 0)
        record(fd, command, WRITE, 8, 0)
        record(fd, command, UNLOCKED, 8, 0)
        guest.lock(UNLOCKED)
        record(fd, command, WRITE, 0, 0)
    finally:
        os.close(fd)


def test_a_lock_ends_with_the_process_of_the_host(guest: Guest, path: Path) -> None:
    with held_by_process(path, WRITE):
        waiting = guest.wait(WRITE)
        assert waiting.wait.attempt() is None
    assert waiting.wait.attempt() == LOCK_SUCCESS


# How long they last


def test_any_fid_of_the_file_gives_back_what_another_took(guest: Guest, other: Guest) -> None:
    first, second = guest.files[-1], guest.open()
    assert guest.lock(WRITE, file=first) == LOCK_SUCCESS
    assert guest.lock(UNLOCKED, file=second) == LOCK_SUCCESS
    assert other.lock(WRITE) == LOCK_SUCCESS


def test_closing_a_fid_of_several_leaves_the_locks(guest: Guest, other: Guest) -> None:
    guest.open()
    guest.lock(WRITE)
    guest.clunk()
    assert other.lock(WRITE) == LOCK_BLOCKED
    guest.clunk()
    assert other.lock(WRITE) == LOCK_SUCCESS


def test_the_end_of_a_session_gives_all_locks_back(guest: Guest, other: Guest) -> None:
    for process in range(3):
        guest.lock(READ, process=process)
    guest.locks.close()
    assert other.lock(WRITE) == LOCK_SUCCESS
    guest.locks.close()
    assert other.conflict(WRITE)[0] == UNLOCKED


def test_locks_of_another_inode_stay(export: ExportLocks, tmp_path: Path, guest: Guest) -> None:
    beside = tmp_path / "beside"
    beside.write_bytes(b"")
    file = OpenFile(beside)
    guest.locks.opened(OTHER_INODE)
    guest.locks.lock(OTHER_INODE, file, Lock(WRITE, 0, 0, 1, b"guest"), 0)
    guest.lock(WRITE)
    guest.clunk()
    assert export.descriptors == 1
    guest.locks.closed(OTHER_INODE)
    assert export.descriptors == 0
    file.close()


def test_an_owner_has_one_descriptor_as_long_as_it_has_a_lock(guest: Guest, other: Guest) -> None:
    before = descriptors()
    guest.lock(WRITE, 0, 10)
    guest.lock(READ, 20, 10)
    guest.lock(UNLOCKED, 5, 10)
    assert descriptors() == before + 1
    assert other.lock(WRITE, 0, 1) == LOCK_BLOCKED
    assert descriptors() == before + 1, "what was refused keeps nothing"
    guest.lock(UNLOCKED, 0, 10)
    assert descriptors() == before + 1
    guest.lock(UNLOCKED)
    assert descriptors() == before


def test_giving_back_what_was_never_taken_does_nothing(guest: Guest, other: Guest) -> None:
    guest.lock(WRITE)
    assert guest.lock(UNLOCKED, process=2) == LOCK_SUCCESS
    assert guest.files[-1].reopened == [os.O_RDWR]
    assert other.lock(READ) == LOCK_BLOCKED


# Waiting


def test_a_waiting_request_gets_its_lock_when_it_is_free(guest: Guest, other: Guest) -> None:
    guest.lock(WRITE)
    wait = other.wait(READ).wait
    assert (wait.seconds, wait.otherwise, wait.attempt()) == (1.0, LOCK_BLOCKED, None)
    assert other.locks.waiting == 1
    guest.lock(UNLOCKED)
    assert wait.attempt() == LOCK_SUCCESS
    assert other.locks.waiting == 0
    assert guest.lock(WRITE) == LOCK_BLOCKED


def test_a_request_that_is_cancelled_keeps_nothing(guest: Guest, other: Guest) -> None:
    guest.lock(WRITE)
    before = descriptors()
    wait = other.wait(WRITE).wait
    assert descriptors() == before + 1
    wait.cancel()
    assert (descriptors(), other.locks.waiting) == (before, 0)
    guest.lock(UNLOCKED)
    assert guest.lock(WRITE, process=2) == LOCK_SUCCESS


def test_a_request_that_is_cancelled_leaves_its_owners_other_locks(
    guest: Guest, other: Guest
) -> None:
    guest.lock(WRITE, 0, 1)
    other.lock(WRITE, 5, 1)
    first, second = other.wait(WRITE, 0, 1).wait, other.wait(READ, 0, 1).wait
    other.lock(UNLOCKED, 5, 1)
    first.cancel()
    guest.lock(UNLOCKED)
    assert second.attempt() == LOCK_SUCCESS
    assert guest.lock(WRITE, 0, 1) == LOCK_BLOCKED


def test_what_waits_beyond_the_limit_is_answered_at_once(guest: Guest, other: Guest) -> None:
    guest.lock(WRITE)
    waits = [other.wait(WRITE, process=process % 8).wait for process in range(WAITERS_MAX)]
    assert other.lock(WRITE, flags=LOCK_BLOCK) == LOCK_BLOCKED
    waits.pop().cancel()
    waits.append(other.wait(WRITE).wait)
    guest.lock(UNLOCKED)
    assert waits[0].attempt() == LOCK_SUCCESS
    assert [wait.attempt() for wait in waits[1:3]] == [None, None]
    assert waits[8].attempt() == LOCK_SUCCESS, "it is the same owner's"
    for wait in (*waits[1:8], *waits[9:]):
        wait.cancel()


def test_another_sessions_waiting_requests_do_not_count(
    export: ExportLocks, path: Path, guest: Guest, other: Guest
) -> None:
    guest.lock(WRITE)
    waits = [other.wait(WRITE).wait for _ in range(WAITERS_MAX)]
    third = Guest(export, path)
    waits.append(third.wait(WRITE).wait)
    for wait in waits:
        wait.cancel()
    third.end()


@pytest.mark.parametrize("how", ["unlock", "downgrade", "clunk", "end"])
def test_what_gives_a_lock_back_has_those_tried_that_wait_for_it(
    guest: Guest, other: Guest, how: str
) -> None:
    guest.lock(WRITE, 10, 10)
    guest.lock(WRITE, 20, 10, process=2)
    waits = [other.wait(READ, start, 5).wait for start in (6, 10, 15, 20, 25)]
    tried: list[int] = []
    for number, wait in enumerate(waits[:-1]):
        wait.soon = partial(tried.append, number)
    if how in ("unlock", "downgrade"):
        guest.lock(UNLOCKED if how == "unlock" else READ, 11, 6)
        assert tried == [1, 2]
    else:
        guest.clunk() if how == "clunk" else guest.locks.close()
        assert sorted(tried) == [0, 1, 2, 3]
    for wait in waits:
        wait.cancel()


def test_few_of_those_that_wait_are_tried_at_once(guest: Guest, other: Guest) -> None:
    guest.lock(WRITE)
    waits = [other.wait(READ).wait for _ in range(SOON_MAX + 5)]
    tried: list[int] = []
    for number, wait in enumerate(waits):
        wait.soon = partial(tried.append, number)
    waits[0].cancel()
    guest.lock(UNLOCKED)
    assert tried == list(range(1, SOON_MAX + 1))
    for wait in waits[1:]:
        wait.cancel()


def test_a_request_that_may_not_wait_is_answered_at_once(guest: Guest, other: Guest) -> None:
    guest.lock(WRITE)
    assert other.lock(WRITE) == LOCK_BLOCKED
    assert other.locks.waiting == 0


def test_a_waiting_request_of_a_session_that_ended_gets_no_lock(guest: Guest, other: Guest) -> None:
    guest.lock(WRITE)
    wait = other.wait(WRITE).wait
    other.locks.close()
    guest.lock(UNLOCKED)
    assert wait.attempt() == LOCK_ERROR
    assert other.locks.waiting == 0
    assert guest.lock(WRITE, process=2) == LOCK_SUCCESS


def test_an_attempt_that_fails_keeps_nothing(
    guest: Guest, other: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.lock(WRITE)
    wait = other.wait(WRITE).wait
    before = descriptors()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no locks"):
        patched.setattr("ventifs.vfs.live.lock_owners.fcntl.fcntl", fail)
        wait.attempt()
    assert (descriptors(), other.locks.waiting) == (before - 1, 0)


# Through fids that are open for reading alone, or for writing alone


def test_a_write_lock_needs_no_fid_for_writing(export: ExportLocks, path: Path) -> None:
    reader, other = Guest(export, path, os.O_RDONLY), Guest(export, path)
    assert reader.lock(WRITE) == LOCK_SUCCESS
    assert other.lock(READ) == LOCK_BLOCKED
    reader.end()
    other.end()


def test_a_read_lock_needs_no_fid_for_reading(export: ExportLocks, path: Path) -> None:
    writer, other = Guest(export, path, os.O_WRONLY), Guest(export, path)
    assert writer.lock(READ) == LOCK_SUCCESS
    assert other.lock(WRITE) == LOCK_BLOCKED
    assert writer.lock(WRITE) == LOCK_SUCCESS
    writer.end()
    other.end()


def test_a_read_lock_through_a_reading_fid_opens_nothing_for_writing(
    export: ExportLocks, tmp_path: Path
) -> None:
    program = Path(shutil.copy(shutil.which("true") or "", tmp_path / "true"))
    reader = Guest(export, program, os.O_RDONLY)
    assert reader.lock(READ) == LOCK_SUCCESS
    assert subprocess.run([program], check=False).returncode == 0
    reader.end()


def test_a_write_lock_that_the_host_cannot_open_for_is_an_error(
    export: ExportLocks, tmp_path: Path
) -> None:
    program = Path(shutil.copy(shutil.which("cat") or "", tmp_path / "cat"))
    reader = Guest(export, program, os.O_RDONLY)
    with subprocess.Popen([program], stdin=subprocess.PIPE):
        with pytest.raises(OSError) as error:
            reader.lock(WRITE, flags=LOCK_BLOCK)
        assert error.value.errno == errno.ETXTBSY
        assert export.descriptors == 0
        assert reader.lock(READ) == LOCK_SUCCESS
        with pytest.raises(OSError, match="busy"):
            reader.lock(WRITE)
        assert reader.conflict(WRITE, process=2)[0] == READ, "the read lock stays"
    reader.end()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make another user's file")
def test_a_file_that_the_server_may_only_read_has_read_locks(
    export: ExportLocks, path: Path
) -> None:
    path.chmod(0o444)
    for directory in (path.parent, *path.parent.parents[:3]):
        directory.chmod(directory.stat().st_mode | 0o055)
    os.seteuid(NOBODY)
    try:
        reader = Guest(export, path, os.O_RDONLY)
        assert reader.lock(READ) == LOCK_SUCCESS
        with pytest.raises(PermissionError):
            reader.lock(WRITE)
        reader.end()
    finally:
        os.seteuid(0)


def test_a_directory_has_read_locks(export: ExportLocks, tmp_path: Path) -> None:
    reader = Guest(export, tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    assert reader.lock(READ) == LOCK_SUCCESS
    with pytest.raises(IsADirectoryError):
        reader.lock(WRITE, process=2)
    reader.end()


def test_flock_converts_through_a_reading_fid(export: ExportLocks, path: Path) -> None:
    reader, other = Guest(export, path, os.O_RDONLY), Guest(export, path)
    assert reader.lock(READ) == LOCK_SUCCESS
    assert reader.lock(WRITE) == LOCK_SUCCESS
    assert other.lock(READ) == LOCK_BLOCKED
    assert reader.lock(READ) == LOCK_SUCCESS
    assert other.lock(READ) == LOCK_SUCCESS
    assert reader.lock(WRITE) == LOCK_BLOCKED
    assert reader.lock(READ) == LOCK_SUCCESS
    reader.lock(UNLOCKED)
    assert other.lock(WRITE) == LOCK_SUCCESS
    assert export.descriptors == 1
    reader.end()
    other.end()


def test_a_conversion_keeps_the_read_locks_that_it_does_not_replace(
    export: ExportLocks, path: Path
) -> None:
    reader, other = Guest(export, path, os.O_RDONLY), Guest(export, path)
    reader.lock(READ, 0, 10)
    reader.lock(READ, 20, 10)
    assert reader.lock(WRITE, 5, 5) == LOCK_SUCCESS
    assert [other.lock(WRITE, at, 1) for at in (0, 5, 20, 29)] == [LOCK_BLOCKED] * 4
    assert [other.lock(READ, at, 1) for at in (0, 5, 20)] == [0, LOCK_BLOCKED, 0]
    reader.end()
    other.end()


def test_a_lease_that_is_being_broken_counts_as_another_lock(
    export: ExportLocks, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    leased = os.open(path, os.O_RDONLY)
    reader = Guest(export, path, os.O_RDONLY)
    try:
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        assert reader.lock(WRITE) == LOCK_BLOCKED
        waiting = reader.wait(WRITE)
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        assert waiting.wait.attempt() == LOCK_SUCCESS
    finally:
        reader.end()
        os.close(leased)
        signal.signal(signal.SIGIO, before)


# Ranges


@pytest.mark.parametrize(
    ("start", "length", "number"),
    [
        (OFFSET_MAX + 1, 0, errno.EINVAL),
        (OFFSET_MAX + 1, 1, errno.EINVAL),
        ((1 << 64) - 1, (1 << 64) - 1, errno.EINVAL),
        (1, OFFSET_MAX + 1, errno.EOVERFLOW),
        (OFFSET_MAX, 2, errno.EOVERFLOW),
        (0, (1 << 64) - 1, errno.EOVERFLOW),
    ],
)
def test_ranges_that_no_file_has_are_refused(
    export: ExportLocks, guest: Guest, start: int, length: int, number: int
) -> None:
    for kind in (READ, WRITE, UNLOCKED):
        refused(number, lambda kind=kind: guest.lock(kind, start, length))  # type: ignore[misc]
        refused(number, lambda kind=kind: guest.conflict(kind, start, length))  # type: ignore[misc]
    assert export.descriptors == 0


@pytest.mark.parametrize(
    ("start", "length"),
    [(OFFSET_MAX, 1), (OFFSET_MAX, 0), (OFFSET_MAX - 5, 6), (0, OFFSET_MAX + 1)],
)
def test_the_last_byte_of_the_largest_file_can_be_locked(
    guest: Guest, other: Guest, start: int, length: int
) -> None:
    assert guest.lock(WRITE, start, length) == LOCK_SUCCESS
    assert other.lock(READ, OFFSET_MAX, 1) == LOCK_BLOCKED
    assert other.lock(READ, 5) == LOCK_BLOCKED
    assert other.conflict(READ) == (WRITE, start, 0, 1, b"guest")
    assert guest.lock(UNLOCKED, start, length) == LOCK_SUCCESS
    assert other.lock(WRITE) == LOCK_SUCCESS


def test_a_name_of_a_client_has_a_limit(guest: Guest) -> None:
    assert guest.lock(READ, client=b"n" * CLIENT_ID_MAX) == LOCK_SUCCESS
    refused(errno.EINVAL, lambda: guest.lock(READ, client=b"n" * (CLIENT_ID_MAX + 1)))


# Who is in the way


def test_the_lock_in_the_way_is_one_of_another_session(guest: Guest, other: Guest) -> None:
    guest.lock(READ, 10, 10, process=77, client=b"somewhere")
    assert other.conflict(WRITE) == (READ, 10, 10, 77, b"somewhere")
    assert other.conflict(READ) == (UNLOCKED, 0, 0, 1, b"guest")
    assert other.conflict(WRITE, 20, 5) == (UNLOCKED, 20, 5, 1, b"guest")


def test_the_lock_in_the_way_is_never_the_owners_own(guest: Guest) -> None:
    guest.lock(WRITE, 5, 5)
    assert guest.conflict(WRITE)[0] == UNLOCKED
    assert guest.conflict(WRITE, process=2) == (WRITE, 5, 5, 1, b"guest")


def test_a_lock_of_the_host_has_its_process(guest: Guest, path: Path) -> None:
    with held_by_process(path, WRITE, 3, 4) as process:
        assert guest.conflict(READ) == (WRITE, 3, 4, process, HOST)


def test_an_ofd_lock_of_the_host_has_no_process(guest: Guest, path: Path) -> None:
    guest.lock(WRITE, 50, 1)
    with held_by_process(path, READ, 3, 40, command=fcntl.F_OFD_SETLK):
        assert guest.conflict(WRITE, process=1) == (READ, 3, 40, 0, HOST)


def test_linux_does_not_say_what_it_asks_for(guest: Guest, other: Guest) -> None:
    assert other.conflict(UNLOCKED, 3, 5) == (UNLOCKED, 3, 5, 1, b"guest")
    guest.lock(READ, 0, 10, process=5)
    assert other.conflict(UNLOCKED) == (READ, 0, 10, 5, b"guest")
    guest.lock(WRITE, 20, 10, process=6)
    assert other.conflict(UNLOCKED) == (WRITE, 20, 10, 6, b"guest")


# Limits


def test_a_session_has_half_of_the_descriptors_at_most(path: Path) -> None:
    export = ExportLocks(4)
    first, second = Guest(export, path), Guest(export, path)
    for guest in (first, second):
        for process in range(2):
            assert guest.lock(READ, process=process) == LOCK_SUCCESS
        refused(errno.ENOLCK, lambda guest=guest: guest.lock(READ, process=2))  # type: ignore[misc]
        assert guest.lock(READ, 5, process=1) == LOCK_SUCCESS
    third = Guest(export, path)
    refused(errno.ENOLCK, lambda: third.lock(READ))
    first.lock(UNLOCKED)
    assert third.lock(READ) == LOCK_SUCCESS
    for guest in (first, second, third):
        guest.end()
    assert export.descriptors == 0


def test_what_waits_counts_as_a_descriptor(path: Path) -> None:
    export = ExportLocks(4)
    holder, waiter = Guest(export, path), Guest(export, path)
    holder.lock(WRITE)
    waits = [waiter.wait(WRITE, process=process).wait for process in range(2)]
    refused(errno.ENOLCK, lambda: waiter.lock(WRITE, process=3, flags=LOCK_BLOCK))
    for wait in waits:
        wait.cancel()
    waiter.wait(WRITE, process=3).wait.cancel()
    holder.end()
    waiter.end()


def test_a_session_has_half_of_the_ranges_at_most(path: Path) -> None:
    export = ExportLocks(16, ranges_max=8)
    first, second, third = (Guest(export, path) for _ in range(3))
    for guest in (first, second):
        for at in range(0, 8, 2):
            assert guest.lock(READ, at, 1) == LOCK_SUCCESS
        refused(errno.ENOLCK, lambda guest=guest: guest.lock(READ, 8, 1))  # type: ignore[misc]
    assert first.lock(READ, 0, 2) == LOCK_SUCCESS, "joined with its neighbour"
    assert export.ranges == 7
    assert third.lock(READ) == LOCK_SUCCESS
    assert first.lock(READ, 0, 8) == LOCK_SUCCESS
    for guest in (first, second, third):
        guest.end()
    assert export.ranges == 0


def test_giving_a_middle_back_needs_a_range_and_giving_all_back_none(path: Path) -> None:
    export = ExportLocks(16, ranges_max=2)
    guest = Guest(export, path)
    guest.lock(WRITE)
    refused(errno.ENOLCK, lambda: guest.lock(UNLOCKED, 5, 5))
    assert guest.lock(UNLOCKED, 5) == LOCK_SUCCESS
    assert guest.lock(UNLOCKED) == LOCK_SUCCESS
    guest.end()


# Everything at once, beside tables of bytes and a descriptor of the host

POINTS = [0, 1, 2, 3, 5, OFFSET_MAX - 2, OFFSET_MAX - 1, OFFSET_MAX, OFFSET_MAX + 1]


class LockMachine(RuleBasedStateMachine):
    """Two sessions and the host lock parts of one file, beside a table that says who has what."""

    @initialize()
    def begin(self) -> None:
        self.host = os.memfd_create("locked")
        self.path = Path(f"/proc/self/fd/{self.host}")
        self.export = ExportLocks(64)
        self.guests = [Guest(self.export, self.path) for _ in range(2)]
        # by owner, the kind of each piece between two of POINTS
        self.table: dict[tuple[int, int], list[int]] = {}

    def pieces(self, owner: tuple[int, int]) -> list[int]:
        return self.table.setdefault(owner, [UNLOCKED] * (len(POINTS) - 1))

    def free(self, owner: tuple[int, int], kind: int, pieces: range) -> bool:
        return all(
            held[piece] == UNLOCKED or held[piece] == kind == READ
            for other, held in self.table.items()
            if other != owner
            for piece in pieces
        )

    @rule(
        session=st.integers(0, 1),
        process=st.integers(1, 2),
        kind=st.sampled_from([READ, WRITE, UNLOCKED]),
        ends=st.lists(st.integers(0, len(POINTS) - 1), min_size=2, max_size=2, unique=True),
        waits=st.booleans(),
    )
    def lock(self, session: int, process: int, kind: int, ends: list[int], waits: bool) -> None:
        first, last = sorted(ends)
        start, length = POINTS[first], POINTS[last] - POINTS[first]
        owner, guest = (session, process), self.guests[session]
        free = kind == UNLOCKED or self.free(owner, kind, range(first, last))
        if waits and not free:
            guest.wait(kind, start, length, process=process).wait.cancel()
        else:
            status = guest.lock(kind, start, length, process=process)
            assert status == (LOCK_SUCCESS if free else LOCK_BLOCKED)
        if free:
            self.pieces(owner)[first:last] = [kind] * (last - first)

    @rule(session=st.integers(0, 1))
    def open(self, session: int) -> None:
        self.guests[session].open()

    @rule(session=st.integers(0, 1))
    def clunk(self, session: int) -> None:
        guest = self.guests[session]
        guest.clunk()
        if not guest.files:
            self.table = {owner: held for owner, held in self.table.items() if owner[0] != session}
            guest.open()

    @invariant()
    def the_host_sees_the_same(self) -> None:
        for piece, start in enumerate(POINTS[:-1]):
            kinds = {held[piece] for held in self.table.values()} - {UNLOCKED}
            length = POINTS[piece + 1] - start
            found = record(self.host, fcntl.F_OFD_GETLK, WRITE, start, length)[0]
            assert ({found} if found != UNLOCKED else set()) == kinds

    @invariant()
    def no_descriptor_is_too_many(self) -> None:
        holders = [held for held in self.table.values() if set(held) != {UNLOCKED}]
        assert self.export.descriptors == len(holders)

    def teardown(self) -> None:
        for guest in self.guests:
            guest.end()
        os.close(self.host)
        assert (self.export.descriptors, self.export.ranges) == (0, 0)


TestLockMachine = LockMachine.TestCase
