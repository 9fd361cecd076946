"""Operations that wait for something that is not a disk: locks that others hold."""

import errno
import stat as st

import pytest

from tests.ninep.session.test_session import refusal
from tests.support.memoryfs import MemoryFilesystem
from tests.support.talking import MSIZE, Talk, tags
from ventifs.ninep.protocol import messages as m
from ventifs.vfs.interface import LOCK_BLOCK, LOCK_BLOCKED, LOCK_SUCCESS, UNLOCKED, Wait

WRITE = 1


def lock(kind: int, owner: int, flags: int = LOCK_BLOCK) -> m.Tlock:
    """A lock of the whole of fid 2."""
    return m.Tlock(2, kind, flags, 0, 0, owner, b"guest")


def held() -> tuple[Talk, MemoryFilesystem, Wait]:
    """Fid 2 is open at a file that process 1 has locked; request 7, of process 2, waits."""
    fs = MemoryFilesystem()
    fs.add("f", st.S_IFREG | 0o644, b"hello")
    talk = Talk(fs)
    talk.ask(m.Twalk(0, 2, (b"f",)), m.Tlopen(2, 2), lock(WRITE, 1))
    assert talk.send((7, lock(WRITE, 2))) == []
    [wait] = talk.waits
    assert (talk.jobs, talk.session.in_flight, talk.session.waits()) == ([], 1, [])
    return talk, fs, wait


def test_a_lock_is_waited_for_and_then_held() -> None:
    talk, fs, wait = held()
    assert wait.attempt() is None
    assert talk.ask(m.Tread(2, 0, 9)).data == b"hello"  # others go on meanwhile
    assert talk.ask(lock(UNLOCKED, 1)) == m.Rlock(LOCK_SUCCESS)
    value = wait.attempt()
    assert value == LOCK_SUCCESS
    talk.session.finish(wait, value)
    assert talk.turns() == [(7, m.Rlock(LOCK_SUCCESS))]
    assert [each.proc_id for each in fs.root.children[b"f"].locks] == [2]
    assert (fs.cancelled, talk.session.in_flight, wait.over) == (0, 0, True)


def test_a_lock_that_was_waited_for_in_vain_is_blocked() -> None:
    talk, fs, wait = held()
    talk.session.finish(wait, wait.otherwise)
    assert talk.turns() == [(7, m.Rlock(LOCK_BLOCKED))]
    talk.session.finish(wait, LOCK_SUCCESS)  # a wait has one result
    assert talk.turns() == []
    assert fs.cancelled == 0


def test_an_attempt_that_fails_is_an_error() -> None:
    talk, _, wait = held()
    talk.session.finish(wait, error=OSError(errno.ENOLCK, "no locks"))
    [(tag, reply)] = talk.turns()
    assert (tag, refusal(reply)) == (7, errno.ENOLCK)


def test_a_flush_ends_a_wait_at_once() -> None:
    talk, fs, wait = held()
    assert talk.send((8, m.Tflush(7))) == [(8, m.Rflush())]
    assert (wait.over, fs.cancelled, talk.session.in_flight) == (True, 1, 0)
    talk.session.finish(wait, LOCK_SUCCESS)
    assert talk.turns() == []
    assert talk.ask(m.Tclunk(2)) == m.Rclunk()
    assert fs.opened == 0


def test_a_flush_of_a_lock_that_was_got_comes_after_its_reply() -> None:
    talk, fs, wait = held()
    talk.ask(lock(UNLOCKED, 1))
    talk.session.finish(wait, wait.attempt())
    assert tags(talk.send((8, m.Tflush(7)))) == [7, 8]
    assert fs.cancelled == 0


@pytest.mark.parametrize("end", ["version", "close"])
@pytest.mark.parametrize("when", ["handed out", "not yet"])
def test_a_new_version_and_the_end_cancel_waits(end: str, when: str) -> None:
    talk, fs, wait = held()
    waits = [wait]
    talk.session.receive(talk.frames((9, lock(WRITE, 3))))
    talk.session.turn()
    if when == "handed out":
        waits += talk.session.waits()
    if end == "close":
        talk.close()
    else:
        assert tags(talk.send((m.NOTAG, m.Tversion(MSIZE, b"9P2000.L")))) == [m.NOTAG]
    assert talk.session.waits() == []
    assert all(each.over for each in waits)
    assert (fs.cancelled, fs.opened) == (2, 0)
    for each in waits:
        talk.session.finish(each, LOCK_SUCCESS)
    assert not talk.session.more


def test_a_wait_keeps_its_file_open_when_its_fid_is_clunked() -> None:
    talk, fs, wait = held()
    assert talk.ask(m.Tclunk(2)) == m.Rclunk()
    assert (fs.opened, wait.attempt()) == (1, None)
    talk.session.finish(wait, wait.otherwise)
    assert talk.turns() == [(7, m.Rlock(LOCK_BLOCKED))]
    assert fs.opened == 0
