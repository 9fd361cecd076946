"""A thread that reads ahead gives what it reads, in order, and ends with its iterator."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from ventifs.errors import Corrupt
from ventifs.store.clump import ClumpKind
from ventifs.store.reclaim.copy import LiveBlocks, read_ahead

CLUMPS = [LiveBlocks(ClumpKind.DATA, [], None, size) for size in range(1, 2_000_000, 90_001)]


def test_the_same_clumps_in_order() -> None:
    assert list(read_ahead(iter(CLUMPS))) == CLUMPS
    assert list(read_ahead(iter([]))) == []


def test_damage_ends_it_and_what_came_long_before_is_there() -> None:
    def damaged() -> Iterator[LiveBlocks]:
        yield from CLUMPS
        raise Corrupt("bytes do not match their score")

    found = []
    with pytest.raises(Corrupt, match="do not match"):
        for clump in read_ahead(damaged()):
            found.append(clump)
    assert found == CLUMPS[: len(found)]
    assert len(found) > len(CLUMPS) / 2


def test_it_reads_no_further_when_nobody_wants_more() -> None:
    read = []

    def noted() -> Iterator[LiveBlocks]:
        for clump in CLUMPS:
            read.append(clump)
            yield clump

    before = threading.active_count()
    with closing(read_ahead(noted())) as clumps:
        next(clumps)
    assert threading.active_count() == before
    assert len(read) < len(CLUMPS)
