"""What a reclaim frees and what it leaves; and what happens beside it, one case at a time."""

from pathlib import Path

import pytest

from tests.support.reclaims import (
    World,
    add,
    arena_files,
    assert_known_is_readable,
    assert_nothing_dropped_is_left,
    assert_one_catalog,
    assert_whole,
    block,
    forgotten_names,
    make_world,
    names,
    read_all,
    reclaimed,
)
from ventifs.errors import Busy
from ventifs.store import Store

KEPT = ["kept1", "kept3", "kept5", "night4", "night5"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "store")


def test_what_was_forgotten_before_the_grace_goes_and_the_rest_stays(world: World) -> None:
    before = arena_files(world.root)
    done = reclaimed(world.root)
    print(done)
    assert done.plan.dead_arenas > 1
    assert done.plan.repacked_arenas > 1
    assert done.arenas == done.plan.dead_arenas + done.plan.repacked_arenas
    assert len(before - arena_files(world.root)) == done.arenas
    with Store.open(world.root, "write") as store:
        assert names(store) == KEPT
        assert forgotten_names(store) == ["night2"]
        world.read_leased(store)
        assert_known_is_readable(store, world.numbers)
    assert_whole(world.root)
    assert_nothing_dropped_is_left(world.root)
    assert_one_catalog(world.root)


# --- writers beside it --------------------------------------------------------------------------


def test_a_writer_is_waited_for_by_a_second_reclaim_after_the_first_gave_up(world: World) -> None:
    """The first one has turned the gates already, so that the second turns them back."""
    with Store.open(world.root, "write") as writer:
        for number in range(100, 116):
            assert not writer.put(block(number))[1]
        for _ in range(2):
            with pytest.raises(Busy):
                reclaimed(world.root)
        add(writer, "late", 50, range(100, 116))
    with Store.open(world.root, "write") as store:
        read_all(store)
    reclaimed(world.root)
    assert_whole(world.root)
