"""What a peer makes a server hold: taken before it is there, and given back when it has gone."""

import errno
import stat
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.support.memoryfs import MemoryFilesystem
from tests.support.talking import Talk, run
from ventifs.buffer import Piece
from ventifs.ninep.protocol.messages import (
    NOFID,
    NOTAG,
    Dialect,
    Message,
    Rerror,
    Rlerror,
    Rversion,
    Tattach,
    Tclunk,
    Tlcreate,
    Tlopen,
    Topen,
    Tversion,
    Twalk,
    Txattrwalk,
)
from ventifs.ninep.session.fids import Fid, Fids, LeftFids
from ventifs.ninep.session.limits import FID_BYTES, MSIZE_FIRST, OPEN_BYTES, SessionLimits
from ventifs.ninep.session.session import NinepSession
from ventifs.serving.connection import thrifty
from ventifs.serving.deferred_close import PORTION, DeferredClose
from ventifs.serving.session import READ_MAX
from ventifs.vfs.interface import User
from ventifs.vfs.memory_budget import Budget, Share

LIMITS = SessionLimits(turn_s=60)
FIRST = LIMITS.session_bytes(MSIZE_FIRST)


# --- shares ---------------------------------------------------------------------------------------


def test_a_peer_gets_half_and_all_together_the_whole() -> None:
    budget = Budget(100)
    one, two, three = map(budget.share_of, ("one", "two", "three"))
    assert [one.take(51), one.take(50), one.take(1), one.take(0)] == [False, True, False, True]
    assert [two.take(40), three.take(11), three.take(10), two.take(1)] == [True, False, True, False]
    assert "one holds 50 bytes of memory, of 50" in one.shortage(1)
    assert "clients hold 100 bytes of memory, of 100" in two.shortage(1)
    one.give(50)
    assert two.take(10)
    assert not two.has(1)
    assert three.has(40)
    assert not three.has(41)
    assert budget.held == 60


def test_a_peer_that_holds_nothing_is_forgotten() -> None:
    budget = Budget(100)
    share = budget.share_of("one")
    assert share.take(7)
    assert budget.share_of("one") is share
    share.give(7)
    for number in range(10):
        assert not budget.share_of(f"refused {number}").take(51)
    assert budget.peers == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-60, 60)), max_size=60))
def test_sums_are_those_of_a_model(steps: list[tuple[int, int]]) -> None:
    budget, held = Budget(100), [0, 0, 0, 0]
    for who, size in steps:
        share = budget.share_of(str(who))
        if size >= 0:
            fits = held[who] + size <= 50 and sum(held) + size <= 100
            assert share.has(size) is fits
            assert share.take(size) is fits
            held[who] += size if fits else 0
        else:
            share.give(min(-size, held[who]))
            held[who] -= min(-size, held[who])
        assert (budget.held, budget.share_of(str(who)).held) == (sum(held), held[who])


# --- sessions -------------------------------------------------------------------------------------


def share_of(size: int) -> Share:
    """A share that has so much beside what a session takes."""
    share = Budget(2 * (FIRST + size)).share_of("peer")
    assert share.take(FIRST)
    return share


def tree() -> MemoryFilesystem:
    fs = MemoryFilesystem()
    fs.add("file", stat.S_IFREG | 0o644, b"x" * 100).xattrs[b"user.a"] = b"v" * 3000
    return fs


def talk(share: Share, dialect: Dialect = Dialect.LINUX, **more: Any) -> Talk:
    return Talk(tree(), dialect, limits=LIMITS, share=share, **more)


def asked(talking: Talk, message: Message) -> int:
    """0, or the errno of an error."""
    reply = talking.ask(message)
    return reply.ecode if isinstance(reply, Rlerror) else 0


def fill(talking: Talk, begin: int = 1) -> int:
    """Walk until there is no memory left; the fids made."""
    number = begin
    while not (refused := asked(talking, Twalk(0, number, (b"file",)))):
        number += 1
    assert refused == errno.ENFILE
    return number - begin


def test_fids_are_given_until_the_memory_is_used_up_and_given_back_with_clunks() -> None:
    share = share_of(1000 * FID_BYTES)
    one = talk(share)
    made = fill(one)
    assert 1000 - 64 < made <= 1000
    other = Talk(tree(), limits=LIMITS, share=share_of(0), attach=False)
    assert asked(other, Tattach(0, NOFID, b"", b"", 0)) == errno.ENFILE
    for number in range(1, made + 1):
        assert asked(one, Tclunk(number)) == 0
        assert share.held - FIRST <= (made + 1 - number + 2 * 64) * FID_BYTES
    assert fill(one) == made
    one.session.receive(one.frames((NOTAG, Tversion(MSIZE_FIRST, b"9P2000.L"))))
    one.turns()
    assert share.held == FIRST
    one.close()
    one.close()
    assert share.held == 0


def test_sessions_of_one_peer_share_what_it_has() -> None:
    budget = Budget(2 * (2 * FIRST + 300 * FID_BYTES))
    sessions = []
    for _ in range(2):
        assert budget.share_of("peer").take(FIRST)
        sessions.append(talk(budget.share_of("peer")))
    assert not budget.share_of("peer").take(FIRST)  # a third one
    made = [fill(each) for each in sessions]
    assert 300 - 2 * 64 <= sum(made) <= 300
    assert budget.share_of("stranger").take(FIRST)
    sessions[0].close()
    assert fill(sessions[1], made[1] + 1) >= 100
    for each in sessions:
        each.close()
    assert budget.held == FIRST


@pytest.mark.parametrize("dialect", list(Dialect))
def test_open_files_are_paid_for_until_they_are_closed(dialect: Dialect) -> None:
    share = share_of(64 * FID_BYTES + 3 * OPEN_BYTES)
    one = talk(share, dialect)
    opening: Callable[[int], Message] = (
        (lambda fid: Tlopen(fid, 0)) if dialect is Dialect.LINUX else (lambda fid: Topen(fid, 0))
    )
    for number in range(1, 6):
        one.ask(Twalk(0, number, (b"file",) if number > 1 else ()))
        reply = one.ask(opening(number))
        assert isinstance(reply, Rlerror | Rerror) is (number > 3)
    one.ask(Tclunk(1), Tclunk(2))
    assert share.held == FIRST + 64 * FID_BYTES + OPEN_BYTES
    assert not isinstance(one.ask(opening(4)), Rlerror | Rerror)
    one.close()
    assert share.held == 0


def test_attributes_that_fids_hold_are_paid_for() -> None:
    share = share_of(64 * FID_BYTES + 2 * (OPEN_BYTES + 3000))
    one = talk(share)
    one.ask(Twalk(0, 1, (b"file",)))
    told = [asked(one, Txattrwalk(1, number, b"user.a")) for number in range(2, 5)]
    assert told == [0, 0, errno.ENFILE]
    one.ask(Tclunk(2))
    assert asked(one, Txattrwalk(1, 5, b"user.a")) == 0
    one.close()
    assert share.held == 0


@pytest.mark.parametrize("call", ["open", "walk", "create"])
@pytest.mark.parametrize("weather", ["cold", "blocking"])
def test_what_was_in_flight_when_a_session_ended_is_given_back(call: str, weather: str) -> None:
    share = share_of(64 * FID_BYTES + OPEN_BYTES)
    fs = tree()
    one = Talk(fs, limits=LIMITS, share=share)
    one.ask(Twalk(0, 1, () if call == "create" else (b"file",)))
    fs.weather = lambda called: weather if called == call else ""
    requests = {
        "open": Tlopen(1, 0),
        "walk": Twalk(0, 2, (b"file",)),
        "create": Tlcreate(1, b"new", 2, 0o600, 0),
    }
    assert one.send((1, requests[call])) == []
    jobs = one.jobs[:]
    one.close()
    for job in jobs:
        run(one.session, job)
    assert one.turns() == []
    assert (share.held, fs.opened) == (0, 0)


def test_a_create_that_finds_no_memory_in_the_end_leaves_nothing_open() -> None:
    share = share_of(64 * FID_BYTES + OPEN_BYTES)
    fs = tree()
    one = Talk(fs, limits=LIMITS, share=share)
    one.ask(Twalk(0, 1, ()))
    fs.weather = lambda called: "blocking" if called == "create" else ""
    assert one.send((1, Tlcreate(1, b"new", 2, 0o600, 0))) == []
    assert share.take(1)  # another session of the peer's meanwhile
    assert one.work() == [(1, Rlerror(errno.ENFILE))]
    assert fs.opened == 0


@pytest.mark.parametrize(
    ("more", "msize"),
    [
        (0, MSIZE_FIRST),
        (LIMITS.session_bytes(65560) - FIRST, 65560),
        (LIMITS.session_bytes(1 << 20) - FIRST, 524312),
        (LIMITS.session_bytes(LIMITS.msize_max) - FIRST, LIMITS.msize_max),
    ],
)
def test_messages_are_as_large_as_memory_allows(more: int, msize: int) -> None:
    share = share_of(more)
    one = talk(share, msize=1 << 30, attach=False)
    for _ in range(2):  # each time anew
        [(_, reply)] = one.send((NOTAG, Tversion(1 << 30, b"9P2000.L")))
        assert reply == Rversion(msize, b"9P2000.L")
        assert share.held == LIMITS.session_bytes(msize)
    [(_, reply)] = one.send((NOTAG, Tversion(5000, b"9P2000.L")))
    assert reply == Rversion(5000, b"9P2000.L")
    assert share.held == FIRST
    one.close()
    assert share.held == 0


def test_a_session_holds_no_more_input_than_it_has_paid_for() -> None:
    for msize in (MSIZE_FIRST, 65560, 1 << 20):
        one = NinepSession(tree(), limits=LIMITS)
        one.receive(Talk.frames(talk(share_of(1 << 30)), (NOTAG, Tversion(msize, b"9P2000.L"))))
        one.turn()
        largest = 0
        while one.hungry:
            one.receive(
                bytes([0, 0, 0, 1]) + bytes(READ_MAX - 4) if not largest else bytes(READ_MAX)
            )
            largest = len(one._input)
        assert largest < max(msize, READ_MAX) + READ_MAX


# --- many fids go -------------------------------------------------------------------------------


def crowd(count: int, share: Share) -> Fids:
    fids = Fids(1 << 20, 0, share)
    file: Any = None
    for number in range(count):
        fids.check_new(number)
        fids.table[number] = Fid(file)
    return fids


def test_fids_that_go_together_give_back_their_memory_in_portions() -> None:
    share = Budget(1 << 40).share_of("")
    left: list[LeftFids] = []
    fids = crowd(10_000, share)
    fids._leave = left.append
    fids.clear()
    assert fids.table == {}
    [leaving] = left
    held = []
    while leaving.some(1000):
        held.append(share.held)
    assert held == sorted(held, reverse=True)
    assert len(held) == 9
    assert share.held == 0
    few = crowd(1000, share)
    few._leave = left.append
    few.clear()
    assert (len(left), share.held) == (1, 0)


def test_a_table_becomes_smaller_when_most_fids_have_gone() -> None:
    share = Budget(1 << 40).share_of("")
    fids = Fids(1 << 20, 0, share)
    file: Any = tree().attach(User(), b"")
    for number in range(100_000):
        fids.check_new(number)
        fids.table[number] = fids.made(file)
    table = fids.table
    for number in range(99_990):
        fids.forget(number, table[number])
    assert fids.table is table  # sessions know it
    assert list(table) == list(range(99_990, 100_000))
    assert sys.getsizeof(table) < 4 * 2**20 // 8
    fids.clear()
    assert share.held == 0


def test_others_have_their_say_between_portions() -> None:
    share = Budget(1 << 40).share_of("")
    remains = DeferredClose()
    seen: list[int] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remains.run)
            for _ in range(3):
                await wait_all_tasks_blocked()
                assert share.held == 0
                fids = crowd(10 * PORTION, share)
                fids._leave = remains.add
                seen.append(share.held)
                fids.clear()
                while share.held:
                    await trio.lowlevel.checkpoint()
                    assert seen[-1] - share.held <= (2 * PORTION + 64) * FID_BYTES
                    seen.append(share.held)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert len(seen) > 3 * 5


# --- replies that wait --------------------------------------------------------------------------


def test_replies_that_wait_keep_little_beside_themselves() -> None:
    clumps = [bytes([number]) * (1 << 20) for number in range(4)]
    few = [memoryview(clump)[:100] for clump in clumps]
    [copy] = thrifty([b"head", *few])
    assert copy == b"head" + b"".join(few)
    most: list[Piece] = [memoryview(clumps[0])[: 1 << 19], b"x", memoryview(clumps[0])[1 << 19 :]]
    assert thrifty(most) is most
    assert thrifty([]) == []
