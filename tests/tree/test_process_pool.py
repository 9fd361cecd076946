"""Workers answer, hand on their errors, and never outlive their parent."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes
from tests.support.patience import wait_until
from tests.support.pooling import lead, lead_in_trouble, lead_until_killed, limits
from tests.support.processes import Peer
from ventifs.tree.process_pool import DESCRIPTORS_MAX, InlinePool


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    processes.kill_all()


def told(peer: Peer, *question: object) -> Any:
    return peer.ask(*question)


def asked(requests: list[bytes], *directories: Path, count: int = 2) -> Any:
    """What a pool replies."""
    peer = Peer(lead, count)
    answer = told(peer, requests, [str(directory) for directory in directories])
    peer.end()
    return answer


def test_every_request_is_answered_whoever_is_free() -> None:
    answers = asked([b"say %d" % number for number in range(100)])
    assert sorted(answers) == sorted(b"say%d%d" % (n, len(str(n))) for n in range(100))


def test_one_process_answers_in_order() -> None:
    assert asked([b"say a", b"say bc", b"say def"], count=1) == [b"saya1", b"saybc2", b"saydef3"]


def test_requests_go_to_other_processes() -> None:
    pids = asked([b"pid"] * 20)
    assert len(set(pids)) == 2
    assert b"%d" % os.getpid() not in pids


def test_nothing_waits_behind_what_takes_long(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fifo = os.fsencode(tmp_path / "fifo")
    answers = asked([b"wait " + fifo, *[b"pid"] * 6, b"wake " + fifo])
    assert len(set(answers) - {b"awake"}) == 2  # the pid of one, and what it says to have woken
    assert answers.count(b"awake") == 1


def test_descriptors_arrive_in_order_and_are_closed_again(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name / f"in {name}").mkdir(parents=True)
    names = asked([b"names"] * 10, tmp_path / "a", tmp_path / "b")
    assert set(names) == {b"in a,in b"}
    peer = Peer(lead, 1)
    before = told(peer, [b"open"], [])
    for _ in range(50):
        told(peer, [b"names"], [str(tmp_path / "a")] * 3)
    assert told(peer, [b"open"], []) == before
    peer.end()


def test_the_largest_requests_neither_block_nor_leak(tmp_path: Path) -> None:
    peer = Peer(limits)
    *replies, one, two = told(peer, str(tmp_path))
    inode = b"%d" % tmp_path.stat().st_ino
    assert replies == [b",".join([inode] * DESCRIPTORS_MAX)] * 20
    assert max(int(one), int(two)) < 40
    peer.end()


@pytest.mark.parametrize(
    ("request_", "kind", "text", "facts"),
    [
        (
            b"corrupt",
            "Corrupt",
            f"block {b's'.hex() * 32}, arena a at 7, is bad",
            {"reason": "is bad", "score": b"s" * 32, "arena": "a", "offset": 7},
        ),
        (b"index", "IndexDamaged", "/there: index is bad", {}),
        (b"odd", "VentifsError", "1 and 2", {}),
        (b"bug", "KeyError", "'a bug'", {}),
    ],
)
def test_an_error_arrives_as_it_was(
    request_: bytes, kind: str, text: str, facts: dict[str, object]
) -> None:
    peer = Peer(lead, 2)
    name, said, found = told(peer, [b"pid", request_], [])
    assert name == kind
    assert said.startswith(text)
    assert found == facts
    peer.kill()


def test_a_killed_worker_is_an_error_that_says_so() -> None:
    peer = Peer(lead, 2)
    name, text, _ = told(peer, [b"say a", b"die", b"say b"], [])
    assert name == "VentifsError"
    assert "killed by signal 9" in text
    peer.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    child = processes.start(lead_until_killed, tmp_path / "pids")
    wait_until((tmp_path / "pids").exists)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 3
    assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert child.pid is not None
    os.kill(child.pid, number)
    assert processes.finished(child) != 0
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_ctrl_c_reaches_the_parent_alone(tmp_path: Path) -> None:
    """A terminal sends it to all: the workers leave it to their parent."""
    peer = Peer(lead, 2)
    for pid in told(peer, [b"pid"] * 4, []):
        os.kill(int(pid), signal.SIGINT)
    assert told(peer, [b"say a"], []) == [b"saya1"]
    peer.end()


@pytest.mark.parametrize("how", ["interrupted", "children are not waited for"])
def test_workers_come_and_go_whatever_becomes_of_signals(how: str) -> None:
    peer = Peer(lead_in_trouble)
    assert told(peer, how) == 2
    peer.end()


def test_inline_answers_at_once() -> None:
    replies: list[bytes] = []
    pool = InlinePool(lambda request, descriptors: request + b"%d" % len(descriptors))
    pool.submit(b"a", [1, 2], replies.append)
    assert replies == [b"a2"]
    pool.ask_all(b"b", replies.append)
    pool.drain()
    pool.kill()
    assert replies == [b"a2", b"b0"]
