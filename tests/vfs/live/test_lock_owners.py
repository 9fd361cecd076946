"""The ranges that an owner of locks has."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.locking import READ, WRITE
from ventifs.vfs.interface import UNLOCKED
from ventifs.vfs.live.lock_owners import LockedRanges

RANGES = st.tuples(st.integers(0, 12), st.integers(1, 12), st.sampled_from([READ, WRITE, UNLOCKED]))


@given(st.lists(RANGES, max_size=20))
def test_ranges_are_those_of_a_table_of_bytes(changes: list[tuple[int, int, int]]) -> None:
    table = [UNLOCKED] * 24
    ranges = LockedRanges([])
    for start, length, kind in changes:
        table[start : start + length] = [kind] * length
        ranges = ranges.change(start, start + length, kind)
        assert ranges.held == joined(table)


def joined(table: list[int]) -> list[tuple[int, int, int]]:
    """The ranges of a table of bytes."""
    found: list[tuple[int, int, int]] = []
    for at, kind in enumerate(table):
        if kind == UNLOCKED:
            continue
        if found and found[-1][1:] == (at, kind):
            found[-1] = (found[-1][0], at + 1, kind)
        else:
            found.append((at, at + 1, kind))
    return found
