"""Blocks that one worker takes on are left to it by the others; nothing else ever is."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import processes
from tests.support.archiving import claim_side_by_side
from tests.support.blocks import mixed_blocks
from tests.support.stores import findings, new_store, put_all
from ventifs.store import SCORE_SIZE, Score, Store, claims, score_of
from ventifs.store.claims import Claims


@pytest.fixture(autouse=True)
def _no_child_outlives_its_test() -> Iterator[None]:
    yield
    processes.kill_all()


def scores_of(seed: int, count: int) -> list[Score]:
    rng = random.Random(seed)
    return [Score(rng.randbytes(SCORE_SIZE)) for _ in range(count)]


def test_what_is_taken_stays_taken() -> None:
    table = Claims()
    scores = scores_of(1, 5000)
    assert [table.taken(score) for score in scores] == [False] * 5000
    assert [table.taken(score) for score in reversed(scores)] == [True] * 5000


# A score is a hash: that one is all zeros will not be seen.
_scores = st.binary(min_size=SCORE_SIZE, max_size=SCORE_SIZE).filter(any)
_alike = st.tuples(st.sampled_from([bytes(4), b"\xff" * 4, b"\x01\0\0\0"]), st.integers(1, 20)).map(
    lambda pair: pair[0] + pair[1].to_bytes(SCORE_SIZE - 4, "big")
)


@given(st.lists(_scores | _alike, max_size=60))
def test_nothing_is_taken_that_nobody_took(scores: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "_SLOTS", 32)  # so that it is soon full
        table, taken = Claims(), set[bytes]()
        for score in scores:
            assert not table.taken(Score(score)) or score in taken
            taken.add(score)


def test_a_full_table_takes_nothing_and_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_SLOTS", 64)
    table = Claims()
    scores = scores_of(2, 2000)
    for score in scores:
        assert not table.taken(score)
    kept = [score for score in scores if table.taken(score)]
    assert 40 <= len(kept) <= 64
    assert all(table.taken(score) for score in kept)


def test_of_scores_that_begin_alike_a_few_are_known() -> None:
    table = Claims()
    alike = [Score(b"same" + bytes([number]) * (SCORE_SIZE - 4)) for number in range(1, 100)]
    assert not any(table.taken(score) for score in alike)
    assert 1 <= sum(table.taken(score) for score in alike) < len(alike)


@pytest.mark.parametrize("seed", range(3))
def test_two_processes_at_once_leave_out_no_score(tmp_path: Path, seed: int) -> None:
    scores = [bytes(score) for score in scores_of(seed, 20_000)]
    assert processes.run(claim_side_by_side, tmp_path / "result", scores) == 0
    nobody, both = map(int, (tmp_path / "result").read_text().split())
    assert nobody == 0
    assert both < 200  # those that met


def test_two_workers_store_what_both_meet_once(tmp_path: Path) -> None:
    root, shared = new_store(tmp_path / "store"), Claims()
    blocks = mixed_blocks(200, size_max=5000)
    with Store.open(root, "write") as parent:
        with (
            Store.open(root, "worker", claims=shared) as one,
            Store.open(root, "worker", claims=shared) as other,
        ):
            put_all(one, blocks[:150])
            assert [other.put(block)[1] for block in blocks[:150]] == [False] * 150
            assert [other.put(block)[1] for block in blocks[150:]] == [True] * 50
            assert [one.put(block)[1] for block in blocks] == [False] * 200
            for worker in (other, one):
                parent.adopt(worker.hand_over())
        parent.commit()
        for block in blocks:
            assert bytes(parent.get(score_of(block))) == block
        assert parent.stats().blocks == 200
    assert findings(root) == []


def test_what_a_worker_took_on_and_did_not_store_is_missed_and_not_made_up(tmp_path: Path) -> None:
    """So whoever relies on it must not commit: a worker that dies fails the run."""
    root, shared = new_store(tmp_path / "store"), Claims()
    with Store.open(root, "write") as parent:
        one = Store.open(root, "worker", claims=shared)
        one.put(b"taken on")
        one.abandon()
        with Store.open(root, "worker", claims=shared) as other:
            assert not other.put(b"taken on")[1]
            other.put(b"stored")
            parent.adopt(other.hand_over())
        parent.commit()
        known = parent.has_many([score_of(b"taken on"), score_of(b"stored")])
        assert known == [False, True]
    with Store.open(root, "write", claims=Claims()) as later:
        assert later.put(b"taken on")[1]
    assert findings(root) == []
