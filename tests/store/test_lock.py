"""The store's locks: shared by those who write, alone for rebuilds, gone with their holders."""

import fcntl
import logging
import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S, wait_until
from ventifs.errors import Busy
from ventifs.store.files import Files
from ventifs.store.lock import (
    GATES,
    RECLAIM_LOCK,
    both_gates_alone,
    gate_alone,
    idle_gate,
    reclaimer_lives,
    reclaimer_lock,
    store_lock,
    take,
    turn,
    writers_gate,
)


def turned(root: Path) -> int:
    """Turn to the other gate; return the number of the old one."""
    idle = idle_gate(root)
    turn(root, idle, Files())
    return 1 - idle


def test_writers_share_the_lock(tmp_path: Path) -> None:
    with store_lock(tmp_path, alone=False), store_lock(tmp_path, alone=False):
        pass


@pytest.mark.parametrize(
    ("held", "wanted", "who"),
    [
        (False, True, "another ventifs is writing"),
        (True, False, "rebuild, repair or upgrade is running"),
        (True, True, "is in use"),
    ],
)
def test_a_lock_held_alone_is_held_alone(
    tmp_path: Path, held: bool, wanted: bool, who: str
) -> None:
    with store_lock(tmp_path, alone=held):
        with pytest.raises(Busy, match=who) as caught, store_lock(tmp_path, alone=wanted):
            pytest.fail("both hold it")
        assert str(caught.value).startswith(f"{tmp_path}: ")
        assert str(caught.value).endswith("; try again when that is done, or wait with --wait")


def test_a_lock_is_let_go_of_however_its_holder_leaves(tmp_path: Path) -> None:
    with pytest.raises(KeyError), store_lock(tmp_path, alone=True):
        raise KeyError
    with ExitStack() as stack:
        stack.enter_context(store_lock(tmp_path, alone=True))
    with store_lock(tmp_path, alone=True):
        pass


def test_a_child_that_lets_go_leaves_the_lock_to_its_parent(tmp_path: Path) -> None:
    lock = store_lock(tmp_path, alone=False)
    lock.__enter__()
    child = os.fork()
    if child == 0:
        try:
            lock.__exit__(None, None, None)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(Busy), store_lock(tmp_path, alone=True):
        pytest.fail("the parent still has it")
    lock.__exit__(None, None, None)
    with store_lock(tmp_path, alone=True):
        pass


# --- waiting ------------------------------------------------------------------------------------


def test_a_lock_in_use_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entered = threading.Event()

    def wait() -> None:
        with store_lock(tmp_path, alone=False, wait_s=PATIENCE_S):
            entered.set()

    with caplog.at_level(logging.WARNING):
        with store_lock(tmp_path, alone=True):
            waiter = threading.Thread(target=wait)
            waiter.start()
            wait_until(lambda: bool(caplog.messages))
            assert not entered.is_set()
        waiter.join(PATIENCE_S)
    assert entered.is_set()
    assert caplog.messages == [
        f"{tmp_path}: the store is in use: a rebuild, repair or upgrade is running; waiting for it"
    ]


@pytest.mark.parametrize(
    ("silent_s", "advice"), [(PATIENCE_S, "wait with --wait"), (0, "wait longer")]
)
def test_waiting_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_s: float, advice: str
) -> None:
    """The message does not advise what was done: a wait that was noticed had its limit."""
    monkeypatch.setattr("ventifs.store.lock._SILENT_S", silent_s)
    with (
        store_lock(tmp_path, alone=True),
        pytest.raises(Busy, match=f"try again when that is done, or {advice}$"),
        store_lock(tmp_path, alone=False, wait_s=0.1),
    ):
        pytest.fail("both hold it")


def test_what_is_locked_again_needs_no_waiting(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    take(fd, "file", "it is in use", alone=True, wait_s=0)
    take(fd, "file", "it is in use", alone=False, wait_s=0)
    os.close(fd)


# --- gates --------------------------------------------------------------------------------------


def test_writers_share_a_gate_and_use_the_other_once_it_turned(tmp_path: Path) -> None:
    with writers_gate(tmp_path) as first, writers_gate(tmp_path) as second:
        assert first == second == 0
        assert turned(tmp_path) == 0
        with writers_gate(tmp_path) as third:
            assert third == 1
            assert turned(tmp_path) == 1


def test_a_gate_that_turned_empties_though_others_come(tmp_path: Path) -> None:
    with ExitStack() as earlier, ExitStack() as later:
        earlier.enter_context(writers_gate(tmp_path))
        old = turned(tmp_path)
        later.enter_context(writers_gate(tmp_path))
        with pytest.raises(Busy), gate_alone(tmp_path, old, wait_s=0):
            pytest.fail("a writer of before is at work")
        earlier.close()
        with gate_alone(tmp_path, old, wait_s=0):
            later.enter_context(writers_gate(tmp_path, wait_s=0))  # goes on


def test_a_writer_left_at_the_idle_gate_is_found_there(tmp_path: Path) -> None:
    """A reclaim turned, was killed, and another one comes while the writer is still at work."""
    with ExitStack() as stack:
        stack.enter_context(writers_gate(tmp_path))
        assert idle_gate(tmp_path) == 1
        turned(tmp_path)
        assert idle_gate(tmp_path) == 0
        with pytest.raises(Busy), gate_alone(tmp_path, idle_gate(tmp_path), wait_s=0):
            pytest.fail("the writer of before the turn is at work")
    with gate_alone(tmp_path, idle_gate(tmp_path), wait_s=0):
        assert turned(tmp_path) == 1


def test_a_writer_waits_for_the_gate_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    numbers: list[int] = []

    def wait() -> None:
        with writers_gate(tmp_path, wait_s=None) as number:
            numbers.append(number)

    with writers_gate(tmp_path):
        pass
    with caplog.at_level(logging.WARNING):
        with gate_alone(tmp_path, 0):
            waiter = threading.Thread(target=wait)
            waiter.start()
            wait_until(lambda: bool(caplog.messages))
            turned(tmp_path)  # so that the gate it waits for is not the one it needs
        waiter.join(PATIENCE_S)
    assert numbers == [1]
    assert caplog.messages == [
        f"{tmp_path}: the store is in use: space is being reclaimed, which takes a moment; "
        "waiting for it"
    ]


def test_a_writer_need_not_wait_for_ever(tmp_path: Path) -> None:
    with writers_gate(tmp_path):
        pass
    with (
        gate_alone(tmp_path, 0),
        pytest.raises(Busy, match="reclaimed"),
        writers_gate(tmp_path, wait_s=0),
    ):
        pytest.fail("it is held alone")


@pytest.mark.parametrize("pointer", [b"", b"0\n", b"2\n", b"\xff" * 100])
def test_a_lost_pointer_is_the_first_gate(tmp_path: Path, pointer: bytes) -> None:
    with writers_gate(tmp_path):
        (tmp_path / GATES / "current").write_bytes(pointer)
    with writers_gate(tmp_path) as number:
        assert number == 0


@pytest.mark.parametrize("number", [0, 1])
def test_a_rebuild_holds_both_gates(tmp_path: Path, number: int) -> None:
    if number:
        turned(tmp_path)
    with (
        writers_gate(tmp_path),  # without `lock`, which would be in the way before
        pytest.raises(Busy),
        store_lock(tmp_path, alone=True),
    ):
        pytest.fail("a writer is at work")
    with (
        store_lock(tmp_path, alone=True),
        (tmp_path / GATES / str(number)).open() as file,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


@pytest.mark.parametrize("number", [0, 1])
def test_both_gates_are_had_at_once_or_not_at_all(tmp_path: Path, number: int) -> None:
    if number:
        turned(tmp_path)
    with (
        writers_gate(tmp_path, wait_s=0),
        pytest.raises(Busy, match="other archives, copies"),
        both_gates_alone(tmp_path),
    ):
        pytest.fail("a writer is at work")
    for gate in (0, 1):
        with gate_alone(tmp_path, gate, wait_s=0):
            pass
    with both_gates_alone(tmp_path):
        for gate in (0, 1):
            with pytest.raises(Busy), gate_alone(tmp_path, gate, wait_s=0):
                pytest.fail("it is held")
    with writers_gate(tmp_path, wait_s=0) as used:
        assert used == number


def test_a_writer_that_comes_while_both_gates_are_held_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entered = threading.Event()

    def wait() -> None:
        with writers_gate(tmp_path, wait_s=None):
            entered.set()

    with caplog.at_level(logging.WARNING):
        with both_gates_alone(tmp_path):
            waiter = threading.Thread(target=wait)
            waiter.start()
            wait_until(lambda: bool(caplog.messages))
            assert not entered.is_set()
        waiter.join(PATIENCE_S)
    assert entered.is_set()


# --- the reclaimer ------------------------------------------------------------------------------


def test_there_is_one_reclaimer_at_a_time(tmp_path: Path) -> None:
    assert not reclaimer_lives(tmp_path)
    assert not (tmp_path / RECLAIM_LOCK).exists()
    with reclaimer_lock(tmp_path):
        assert reclaimer_lives(tmp_path)
        with (
            pytest.raises(Busy, match="another reclaim is running; try again") as caught,
            reclaimer_lock(tmp_path),
        ):
            pytest.fail("both hold it")
        assert str(caught.value).startswith(f"{tmp_path}: ")
        assert reclaimer_lives(tmp_path)
    assert (tmp_path / RECLAIM_LOCK).exists()
    assert not reclaimer_lives(tmp_path)
    with reclaimer_lock(tmp_path):
        pass


def test_a_fifo_in_the_place_of_a_file_keeps_none_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / RECLAIM_LOCK)
    assert not reclaimer_lives(tmp_path)
    with reclaimer_lock(tmp_path):
        assert reclaimer_lives(tmp_path)
    (tmp_path / GATES).mkdir()
    os.mkfifo(tmp_path / GATES / "current")
    with writers_gate(tmp_path, wait_s=0) as gate:
        assert gate == 0


def test_a_look_whether_a_reclaimer_lives_keeps_none_away(tmp_path: Path) -> None:
    """The lock is there, shared, for the moment of a look: a reclaimer waits for its end."""
    with reclaimer_lock(tmp_path):
        pass
    looking = os.open(tmp_path / RECLAIM_LOCK, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert not reclaimer_lives(tmp_path)
    entered = threading.Event()

    def reclaim() -> None:
        with reclaimer_lock(tmp_path, wait_s=PATIENCE_S):
            entered.set()

    waiter = threading.Thread(target=reclaim)
    waiter.start()
    os.close(looking)
    waiter.join(PATIENCE_S)
    assert entered.is_set()


def test_a_child_of_the_reclaimer_does_not_end_its_lock(tmp_path: Path) -> None:
    with reclaimer_lock(tmp_path):
        child = os.fork()
        if child == 0:
            os._exit(0 if reclaimer_lives(tmp_path) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert reclaimer_lives(tmp_path)
