"""The same input gives the same score: whoever reads, in whatever order, whatever was seen before.

What workers archive is archived in a child, which may fork.
"""

import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.archiving import (
    Done,
    Way,
    archive_by,
    archive_until,
    archive_when_asked,
    wait_for_tick,
)
from tests.support.growing import CHANGING, MAKING, Growing, Step, is_archived, steps
from tests.support.processes import Peer, kill_all, run
from tests.support.stores import findings, new_store
from tests.support.trees import copied, noise, odd_tree, plain_tree, remove, settle
from ventifs.store import Store
from ventifs.tree.versions.catalog import versions

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    made = Peer(archive_when_asked)
    yield made
    made.end()
    kill_all()


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    """A store for many versions of small trees, where confirming a write costs little."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield new_store(Path(directory) / "store")


def asked(peer: Peer, store: Path, source: Path, name: str, way: Way) -> Done:
    answer = peer.ask("archive", store, source, name, way)
    assert isinstance(answer, Done), answer
    return answer


WAYS = [
    Way(),
    Way(jobs=2),
    Way(jobs=3),
    Way(shuffle=1),
    Way(jobs=2, shuffle=2),
    Way(segment_max=3),
    Way(jobs=2, segment_max=3, shuffle=3, batch_leaves=1),
    Way(jobs=3, batch_leaves=2),
    Way(read_all=True),
    Way(jobs=2, read_all=True, segment_max=1),
]


def test_jobs_order_and_grouping_do_not_matter(
    peer: Peer, store: Path, source: Path, tmp_path: Path
) -> None:
    tree = odd_tree if os.geteuid() == 0 else plain_tree
    tree(source)
    expected = archive_by(store, source, "t")
    is_archived(store, "t", source)
    for number, way in enumerate(WAYS):
        other = new_store(tmp_path / f"store{number}")
        assert asked(peer, other, source, "t", way) == expected, way
        again = asked(peer, other, source, "t", way)
        assert again == expected._replace(new_bytes=0), way
        is_archived(other, "t", source)
        assert findings(other) == []


def test_contents_that_several_workers_meet_are_stored_once(
    peer: Peer, store: Path, source: Path, tmp_path: Path
) -> None:
    for number in range(40):
        (source / f"{number:02}").mkdir(parents=True)
        for name in range(10):
            (source / f"{number:02}" / f"{name}").write_bytes(b"%d" % name * 20_000)
    done = asked(peer, store, source, "t", Way(jobs=3, batch_leaves=5))
    alone = archive_by(new_store(tmp_path / "other"), source, "t")
    assert done._replace(new_bytes=0) == alone._replace(new_bytes=0)
    assert done.size == 400 * 20_000
    # Without a lock, some that are met in the same microsecond are stored twice.
    assert alone.new_bytes <= done.new_bytes <= alone.new_bytes + 5 * 20_000
    assert findings(store) == []


def test_the_order_of_making_and_the_file_system_do_not_matter(
    peer: Peer, store: Path, source: Path
) -> None:
    memory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        for number, root in enumerate([source, memory / "source"]):
            plain_tree(root, backwards=number == 1)
            settle(root)
        done = {
            asked(peer, store, root, name, Way(jobs=2, shuffle=number))._replace(new_bytes=0)
            for number, (root, name) in enumerate([(source, "disk"), (memory / "source", "memory")])
        }
        assert len(done) == 1
    finally:
        remove(memory)


@as_root
def test_a_copy_that_workers_read_has_the_same_score(
    peer: Peer, store: Path, source: Path, tmp_path: Path
) -> None:
    first = archive_by(store, odd_tree(source), "t")
    copy = copied(source, tmp_path / "copy")
    second = asked(peer, store, copy, "copy", Way(jobs=2, shuffle=4))
    assert second == first._replace(new_bytes=0)


# --- commits on the way -----------------------------------------------------------------------


def test_a_long_run_commits_blocks_as_it_goes(peer: Peer, store: Path, source: Path) -> None:
    """What workers gave to the parent is known by the index before any recovery."""
    source.mkdir()
    for number in range(1000):
        (source / f"{number:04}").write_bytes(noise(2000, number % 800))
    assert run(archive_until, store, source, 900, 64) == 0
    with Store.open(store) as opened:
        assert versions(opened) == []
        assert opened.stats().blocks >= 600
    assert findings(store) == []
    again = asked(peer, store, source, "t", Way(jobs=2))
    assert again.new_bytes < 300 * 2000
    is_archived(store, "t", source)
    assert findings(store) == []


_numbers = count()


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    making=steps(MAKING, max_size=25),
    rounds=st.lists(steps(CHANGING, max_size=6), min_size=1, max_size=3),
    segment_max=st.sampled_from([1, 2, 3, 4096]),
    batch_leaves=st.sampled_from([1, 3, 224]),
    unit_names=st.sampled_from([0, 2, 5, 2000]),
    changed_max=st.sampled_from([0, 1, 64]),
    shuffle=st.none() | st.integers(0, 3),
    late=st.none() | st.integers(0, 100),
)
def test_no_change_is_missed_and_nothing_else_makes_a_difference(
    peer: Peer,
    shared: Path,
    making: list[Step],
    rounds: list[list[Step]],
    segment_max: int,
    batch_leaves: int,
    unit_names: int,
    changed_max: int,
    shuffle: int | None,
    late: int | None,
) -> None:
    """A tree is made and archived, changed and archived again: by one, by two, reading all.

    With `late` some of its files were changed so late that the stat cache must not hold them.
    """
    way = Way(
        segment_max=segment_max,
        batch_leaves=batch_leaves,
        unit_names=unit_names,
        changed_max=changed_max,
        shuffle=shuffle,
    )
    number = next(_numbers)
    with tempfile.TemporaryDirectory() as directory:
        grown = Growing(Path(directory) / "source")
        source = Path(directory) / "source"
        for changes in [making, *rounds]:
            for step in changes:
                grown.take(step)
            wait_for_tick(Path(directory))
            if late is not None:
                way = way._replace(clock_ns=_a_ctime(source, late) + 2 * 10**9 + 1)
            alone = archive_by(shared, source, f"alone{number}", way)
            whole = archive_by(shared, source, f"whole{number}", Way(read_all=True))
            forked = asked(peer, shared, source, f"forked{number}", way._replace(jobs=2))
            assert alone.troubles == ()
            assert alone._replace(new_bytes=0) == whole._replace(new_bytes=0)
            assert alone._replace(new_bytes=0) == forked._replace(new_bytes=0)
            is_archived(shared, f"alone{number}", source)
            wait_for_tick(Path(directory))
        remove(source)


def _a_ctime(source: Path, number: int) -> int:
    times = sorted(path.lstat().st_ctime_ns for path in [source, *source.rglob("*")])
    return times[number % len(times)]
