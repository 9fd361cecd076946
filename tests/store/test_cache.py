"""The cache of decoded clumps: bounded in bytes, what is used stays, any number of threads."""

from concurrent.futures import ThreadPoolExecutor

from tests.support.arenafiles import clump_bytes
from ventifs.store import Score, score_of
from ventifs.store.cache import ClumpCache
from ventifs.store.clump import DecodedClump, parse_head

SIZE = 10_000


def clump_of(*blocks: bytes) -> DecodedClump:
    return DecodedClump(parse_head(clump_bytes(bytes(16), 64, *blocks)), b"".join(blocks))


def numbered(number: int) -> tuple[Score, DecodedClump]:
    """A clump of one block of `SIZE` bytes, and the block's score."""
    block = (b"%d " % number).ljust(SIZE, b".")
    return score_of(block), clump_of(block)


def test_any_block_of_a_clump_is_found() -> None:
    cache = ClumpCache(1 << 20)
    cache.add(clump_of(b"one", b"two"))
    assert bytes(cache.get(score_of(b"one")) or b"") == b"one"
    assert bytes(cache.get(score_of(b"two")) or b"") == b"two"
    assert cache.get(score_of(b"three")) is None


def test_what_is_held_is_bounded_in_bytes() -> None:
    cost = numbered(0)[1].cost
    cache = ClumpCache(5 * cost)
    for number in range(50):
        score, clump = numbered(number)
        cache.add(clump)
        assert cache.bytes == min(number + 1, 5) * cost
        assert cache.get(score) is not None
    held = [number for number in range(50) if cache.get(numbered(number)[0]) is not None]
    assert len(held) == 5
    assert cost >= SIZE


def test_clumps_go_in_order_of_arrival() -> None:
    cache = ClumpCache(3 * numbered(0)[1].cost)
    for number in range(4):
        cache.add(numbered(number)[1])
    assert [cache.get(numbered(number)[0]) is None for number in range(4)] == [
        True,
        False,
        False,
        False,
    ]


def test_a_clump_that_is_used_outlives_those_that_are_not() -> None:
    cache = ClumpCache(3 * numbered(0)[1].cost)
    used, clump = numbered(0)
    cache.add(clump)
    for number in range(1, 20):
        cache.add(numbered(number)[1])
        assert cache.get(used) is not None
    for number in range(20, 27):  # unused from here on, it has its turn like any other
        cache.add(numbered(number)[1])
    assert cache.get(used) is None


def test_a_clump_larger_than_the_bound_stays_until_the_next_one_comes() -> None:
    cache = ClumpCache(100)
    (first, one), (second, two) = numbered(1), numbered(2)
    cache.add(one)
    assert cache.get(first) is not None
    cache.add(two)
    assert (cache.get(first), cache.bytes) == (None, two.cost)
    assert cache.get(second) is not None


def test_a_block_in_two_clumps_is_found_while_the_later_one_is_here() -> None:
    older, newer = clump_of(b"shared", b"a" * SIZE), clump_of(b"shared", b"b" * SIZE)
    cache = ClumpCache(older.cost + newer.cost)
    cache.add(older)
    cache.add(newer)
    cache.add(numbered(1)[1])  # the older one goes
    assert cache.get(score_of(b"a" * SIZE)) is None
    assert bytes(cache.get(score_of(b"shared")) or b"") == b"shared"


def test_a_view_outlives_its_clump() -> None:
    cache = ClumpCache(1)
    score, clump = numbered(1)
    cache.add(clump)
    view = cache.get(score)
    del clump
    cache.add(numbered(2)[1])
    assert cache.get(score) is None
    assert view is not None
    assert score_of(view) == score


def test_threads_see_right_blocks_and_leave_right_books() -> None:
    clumps = [numbered(number) for number in range(30)]
    raws = [bytes(clump.block(score)) for score, clump in clumps]
    heads = [parse_head(clump_bytes(bytes(16), 64, raw)) for raw in raws]
    cache = ClumpCache(10 * clumps[0][1].cost)

    def busy(thread: int) -> int:
        wrong = 0
        for turn in range(2000):
            number = (thread + turn * 7) % 30
            score, _ = clumps[number]
            view = cache.get(score)
            if view is None:
                cache.add(DecodedClump(heads[number], raws[number]))
            else:
                wrong += view != raws[number]
        return wrong

    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(busy, range(4)))
    for number in range(100, 140):  # everything the threads left has its turn and goes
        cache.add(numbered(number)[1])
    assert [number for number in range(100, 140) if cache.get(numbered(number)[0])] == [
        *range(130, 140)
    ]
    assert cache.bytes == 10 * clumps[0][1].cost
