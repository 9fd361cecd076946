"""Places of files come in order, each byte once, and always the same."""

import random

from hypothesis import given
from hypothesis import strategies as st

from ventifs.image.archive.extent_map import Placement, places_of
from ventifs.tree.objects.records import Block, Content

rows = st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(1, 40), st.integers(0, 9))


def content(number: int) -> Content:
    return Block(bytes([number]) * 32, 100)


@given(st.lists(rows, max_size=20), st.randoms())
def test_overlaps_are_cut_off_in_any_order(
    told: list[tuple[int, int, int, int]], chance: random.Random
) -> None:
    found = []
    for _ in range(2):
        with Placement() as placed:
            for number, start, length, offset in told:
                placed.add(places_of(content(number), 100, [(offset, start, length)], 0))
            found.append(list(placed.placed()))
        chance.shuffle(told)
    assert found[0] == found[1]
    reached = 0
    for start, end, offset, data in found[0]:
        assert reached <= start < end
        number = next(n for n in range(4) if bytes([n]) * 32 in data)
        assert any(
            row[0] == number
            and row[1] <= start
            and end <= row[1] + row[2]
            and offset - row[3] == start - row[1]
            for row in told
        )
        reached = end
    covered = {at for start, end, _, _ in found[0] for at in range(start, end)}
    assert covered == {at for _, start, length, _ in told for at in range(start, start + length)}


def test_what_lies_past_the_end_is_not_the_files() -> None:
    with Placement() as placed:
        extents = [(0, 1000, 64), (64, 5000, 64), (128, 7000, 64)]
        placed.add(places_of(content(1), 100, extents, 28))
        assert [row[:3] for row in placed.placed()] == [
            (1000, 1064, 0),
            (5000, 5036, 64),
            (7036, 7064, 0),
        ]


def test_zeros_after_a_file_come_in_their_place_and_first_there() -> None:
    with Placement() as placed:
        placed.add(places_of(content(1), 100, [(0, 1000, 128)], 28))
        placed.add(places_of(content(2), 40, [(0, 1100, 64)], 24))  # crosses them
        placed.add(places_of(content(3), 64, [(0, 3000, 64)], 0))
        assert [(start, end, bool(data)) for start, end, _, data in placed.placed()] == [
            (1000, 1100, True),
            (1100, 1128, False),
            (1128, 1140, True),
            (1140, 1164, False),
            (3000, 3064, True),
        ]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=10))
def test_free_ranges_are_joined(ranges: list[tuple[int, int]]) -> None:
    ranges = [(min(pair), max(pair)) for pair in ranges]
    with Placement() as placed:
        placed.add_free(ranges)
        free = list(placed.free())
    assert all(free[i][1] < free[i + 1][0] for i in range(len(free) - 1))
    assert {at for start, end in free for at in range(start, end)} == {
        at for start, end in ranges for at in range(start, end)
    }
