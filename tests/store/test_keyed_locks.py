"""KeyedLocks, and what they are for: threads that miss blocks of one clump read it once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event

import pytest

from tests.support.patience import PATIENCE_S, wait_until
from tests.support.stores import new_store
from ventifs.store import Store
from ventifs.store.arena import Arena
from ventifs.store.clump import Head
from ventifs.store.keyed_locks import KeyedLocks


def test_one_has_a_key_and_others_wait_for_it() -> None:
    turns, inside, most = KeyedLocks(), 0, 0

    def work(number: int) -> int:
        nonlocal inside, most
        with turns.of("key"):
            inside += 1
            most = max(most, inside)
            assert len(turns) == 1
            inside -= 1
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(500))) == list(range(500))
    assert most == 1
    assert len(turns) == 0


def test_other_keys_do_not_wait() -> None:
    turns, both = KeyedLocks(), Barrier(2, timeout=PATIENCE_S)

    def work(key: str) -> None:
        with turns.of(key):
            both.wait()  # broken, if one waited for the other

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, ("one", "other")))


def test_an_error_ends_a_turn() -> None:
    turns = KeyedLocks()
    with pytest.raises(ZeroDivisionError), turns.of("key"):
        _ = 1 // 0
    assert len(turns) == 0
    with turns.of("key"):
        pass


def test_two_threads_that_miss_blocks_of_one_clump_read_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = new_store(tmp_path / "store")
    blocks = [b"%d." % number * 1000 for number in range(20)]
    with Store.open(path, "write") as store:
        scores = [store.put(block)[0] for block in blocks]
    reads: list[int] = []
    reading, waiting = Event(), Event()
    read_payload = Arena.read_payload

    def slow(self: Arena, offset: int, head: Head) -> bytes:
        reads.append(offset)
        reading.set()
        assert waiting.wait(PATIENCE_S)
        return read_payload(self, offset, head)

    monkeypatch.setattr(Arena, "read_payload", slow)
    with Store.open(path) as store, ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.get, scores[0])
        assert reading.wait(PATIENCE_S)
        second = pool.submit(store.get, scores[-1])
        wait_until(lambda: len(store._reader._turns._turns) >= 1 and _wanted(store))
        waiting.set()
        assert bytes(first.result(PATIENCE_S)) == blocks[0]
        assert bytes(second.result(PATIENCE_S)) == blocks[-1]
        assert len(reads) == 1


def _wanted(store: Store) -> bool:
    """Whether two threads are at the clump."""
    return any(len(users) == 2 for _, users in list(store._reader._turns._turns.values()))
