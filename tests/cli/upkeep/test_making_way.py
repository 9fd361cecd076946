"""A command pauses when others need the processors that it waits for, and at no other time."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clock import Clock
from ventifs.cli.upkeep.making_way import (
    LOOK_EVERY_S,
    PAUSE_MAX_S,
    SHARE,
    MakingWay,
    Usage,
    pause_for,
    usage,
)

BEGAN = Usage(now=100.0, own=5.0, waited=1.0, all=500.0)


def after(elapsed: float, *, own: float, waited: float, others: float) -> Usage:
    """A later moment; `own`, `waited` and `others` are processors, on average."""
    return Usage(
        BEGAN.now + elapsed,
        BEGAN.own + own * elapsed,
        BEGAN.waited + waited * elapsed,
        BEGAN.all + (own + others) * elapsed,
    )


def test_beside_a_server_and_its_reader_it_takes_its_share_and_no_more() -> None:
    pause = pause_for(BEGAN, after(0.03, own=0.66, waited=0.33, others=1.33), 2)
    assert 0.66 * 0.03 / pause == pytest.approx(2 * SHARE)


@pytest.mark.parametrize(
    ("own", "waited", "others"),
    [
        (1.0, 0.0, 0.0),  # alone
        (1.7, 0.05, 0.2),  # alone, with threads, and the kernel writes
        (1.0, 0.02, 1.0),  # beside one other process, on two processors
        (0.95, 0.6, 0.05),  # its own threads on one processor
        (0.2, 0.0, 3.0),  # it waits for a disk, and processors are free
    ],
)
def test_at_full_speed_where_nobody_is_in_the_way(own: float, waited: float, others: float) -> None:
    assert pause_for(BEGAN, after(0.05, own=own, waited=waited, others=others), 2) == 0


def test_a_pause_is_short_whatever_was_used() -> None:
    assert pause_for(BEGAN, after(60, own=0.5, waited=0.5, others=1.5), 2) == PAUSE_MAX_S


def test_a_look_that_shows_no_time_is_no_reason() -> None:
    assert pause_for(BEGAN, BEGAN, 2) == 0


def test_it_looks_now_and_then_and_sleeps_as_long_as_is_due() -> None:
    busy = after(0.05, own=0.5, waited=0.5, others=1.5)
    looks: Iterator[Usage] = iter([BEGAN, busy, busy])
    slept: list[float] = []
    clock = Clock()
    make_way = MakingWay(lambda: next(looks), slept.append, clock)
    make_way()
    assert slept == []
    clock.now_s += LOOK_EVERY_S
    make_way()
    make_way()
    assert slept == [pause_for(BEGAN, busy, len(os.sched_getaffinity(0)))]
    assert slept[0] > 0


def test_it_never_sleeps_where_the_kernel_tells_nothing() -> None:
    clock = Clock()
    slept: list[float] = []
    make_way = MakingWay(lambda: None, slept.append, clock)
    clock.now_s += 1
    make_way()
    assert slept == []


@pytest.mark.skipif(
    not Path("/proc/thread-self/schedstat").exists(), reason="the kernel tells nothing of waits"
)
def test_this_kernel_tells() -> None:
    first, second = usage(), usage()
    assert first is not None
    assert second is not None
    assert second.now >= first.now
    assert second.own >= first.own
    assert second.waited >= first.waited
    assert second.all >= first.all > first.own
