"""What blocks take: all of them together, what the store says it holds."""

from pathlib import Path

import pytest

from tests.support.stores import new_store, put_all, some_blocks
from ventifs.errors import NotStored
from ventifs.store import ZERO_SCORE, Score, Store


def test_sizes_of_all_blocks_are_the_stores(tmp_path: Path) -> None:
    with Store.open(new_store(tmp_path / "store"), "write") as store:
        blocks = some_blocks(200)
        scores = put_all(store, blocks)
        store.commit()
        sizes = store.sizes([*scores, *scores, ZERO_SCORE])
        assert sizes.raw_bytes == sum(map(len, blocks)) == store.stats().raw_bytes
        journal = store.stats().stored_bytes - sizes.stored_bytes
        assert 0 < journal < 1000  # the commit's own clumps are no block's
        halves = store.sizes(scores[::2]), store.sizes(scores[1::2])
        assert sum(half.raw_bytes for half in halves) == sizes.raw_bytes
        assert 0 <= sizes.stored_bytes - sum(half.stored_bytes for half in halves) <= 200
        assert store.sizes([]).stored_bytes == 0


def test_sizes_of_a_block_that_is_not_there(tmp_path: Path) -> None:
    with Store.open(new_store(tmp_path / "store")) as store, pytest.raises(NotStored):
        store.sizes([Score(b"x" * 32)])
