"""Which arenas go: those in which nothing lives, then those that yield most for what they cost."""

from hypothesis import given
from hypothesis import strategies as st

from ventifs.store.reclaim.join import IN_USE, ArenaUse
from ventifs.store.reclaim.plan import Limits, batches, choose, fitting, yielded

MIB = 1 << 20


def use(name: str, live: int, dead: int, **more: object) -> ArenaUse:
    """An arena with MiB of live and dead blocks, and one more of everything else."""
    return ArenaUse(
        name.encode().ljust(16),
        sealed=True,
        length=(live + dead) * MIB,
        file_bytes=(live + dead + 1) * MIB,
        blocks=live + dead,
        live_blocks=live,
        live_bytes=live * MIB,
        dead_bytes=dead * MIB,
        **more,  # type: ignore[arg-type]
    )


def names(uses: list[ArenaUse]) -> str:
    return "".join(each.arena.decode().strip() for each in uses)


def test_dead_arenas_go_whatever_the_limits() -> None:
    choice = choose([use("a", 0, 9), use("b", 9, 1)], Limits(max_unused=1.0, max_repack=0))
    assert (names(choice.dead), names(choice.repacked)) == ("a", "")
    assert choice.unused_bytes == 1 * MIB
    assert choice.left_bytes == 11 * MIB


def test_arenas_go_by_dead_over_live_until_little_is_unused() -> None:
    uses = [use("a", 90, 10), use("b", 10, 90), use("c", 50, 50), use("d", 100, 0)]
    choice = choose(uses, Limits(max_unused=0.05))
    assert names(choice.repacked) == "bc"  # of 262 MiB that are left then, 10 are unused
    assert choice.unused_bytes == 10 * MIB
    assert choice.left_bytes == (101 + 101 + 10 + 50) * MIB
    assert names(choose(uses, Limits(max_unused=0)).repacked) == "bca"
    assert names(choose(uses, Limits(max_unused=60 * MIB)).repacked) == "b"
    assert names(choose(uses, Limits(max_unused=150 * MIB)).repacked) == ""


def test_no_more_is_copied_than_allowed() -> None:
    uses = [use("a", 30, 70), use("b", 40, 60), use("c", 9, 11)]
    assert names(choose(uses, Limits(0, max_repack=MIB * 69)).repacked) == "ac"
    assert names(choose(uses, Limits(0, max_repack=MIB * 70)).repacked) == "ab"
    assert names(choose(uses, Limits(0, max_repack=0)).repacked) == ""


def test_what_others_write_to_and_what_is_damaged_stays() -> None:
    uses = [use("a", 0, 5, problem=IN_USE), use("b", 1, 5, problem="damaged"), use("c", 5, 0)]
    choice = choose(uses, Limits(0))
    assert (choice.dead, choice.repacked) == ([], [])
    assert choice.unused_bytes == 10 * MIB
    assert [each.damaged for each in uses] == [False, True, False]


def test_one_batch_if_there_is_room() -> None:
    choice = choose([use("a", 0, 9), use("b", 5, 5), use("c", 6, 4)], Limits(0))
    assert [names(batch) for batch in batches(choice, lambda: 11 * MIB)] == ["abc"]


def test_dead_arenas_make_room_for_copies() -> None:
    choice = choose([use("a", 0, 9), use("b", 5, 5), use("c", 6, 4)], Limits(0))
    rooms = iter([3 * MIB, 5 * MIB, 9 * MIB])
    assert [names(batch) for batch in batches(choice, lambda: next(rooms))] == ["a", "b", "c"]


def test_what_never_fits_is_left_out() -> None:
    choice = choose([use("a", 5, 5), use("b", 60, 40)], Limits(0))
    assert [names(batch) for batch in batches(choice, lambda: 10 * MIB)] == ["a"]
    assert list(batches(choose([], Limits(0)), lambda: 0)) == []


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=12),
    st.one_of(st.floats(0, 1), st.integers(0, 100 * MIB)),
    st.one_of(st.none(), st.integers(0, 200 * MIB)),
)
def test_a_choice_keeps_its_limits(
    parts: list[tuple[int, int]], max_unused: float | int, max_repack: int | None
) -> None:
    uses = [use(chr(65 + at), live, dead) for at, (live, dead) in enumerate(parts)]
    limits = Limits(max_unused, max_repack)
    choice = choose(uses, limits)
    chosen = [*choice.dead, *choice.repacked]
    assert [each for each in uses if not each.live_blocks and each.dead_bytes] == choice.dead
    copied = sum(each.live_bytes for each in choice.repacked)
    assert copied <= (copied if max_repack is None else max_repack)
    total = sum(each.file_bytes for each in uses)
    assert choice.left_bytes == total - yielded(chosen)
    assert choice.unused_bytes == sum(each.dead_bytes for each in uses if each not in chosen)
    if max_repack is None and any(each.live_blocks and each not in chosen for each in uses):
        rest = [each for each in uses if each.live_blocks and each.dead_bytes]
        left = [each for each in rest if each not in chosen]
        assert not left or choice.unused_bytes <= limits.allowed(choice.left_bytes)


def test_a_plan_has_what_there_is_room_for() -> None:
    choice = choose([use("a", 0, 9), use("b", 5, 5), use("c", 16, 4), use("d", 60, 40)], Limits(0))
    assert fitting(choice, 1 << 40) == choice
    fits = fitting(choice, 0)  # 10 MiB when a has gone, and 6 more when b has
    assert (names(fits.dead), names(fits.repacked)) == ("a", "bc")
    assert fits.unused_bytes == 40 * MIB
    assert fits.left_bytes == choice.left_bytes + 41 * MIB
    assert names(fitting(choose(choice.repacked, Limits(0)), 4 * MIB).repacked) == ""
