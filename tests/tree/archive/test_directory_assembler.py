"""Directories of several segments: grown, shrunk, changed anywhere, always as if read anew."""

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.archiving import Done, Way, archive_by, wait_for_tick
from tests.support.growing import is_archived
from tests.support.reading import names_read
from tests.support.stores import findings

SEGMENT = 8
WAY = Way(segment_max=SEGMENT, batch_leaves=5)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


_times = count(1)


class Large:
    """A directory that is archived again and again; checks each time that nothing is missed."""

    def __init__(self, store: Path, source: Path) -> None:
        self.store = store
        self.source = source

    def make(self, *names: str) -> None:
        for name in names:
            (self.source / name).write_bytes(name.encode() * 20)

    def numbered(self, *numbers: int) -> None:
        self.make(*(f"{number:04}" for number in numbers))

    def remove(self, *numbers: int) -> None:
        for number in numbers:
            (self.source / f"{number:04}").unlink()

    def archived(self, *, changed: set[str]) -> Done:
        """Archive; only files in `changed` may be read."""
        wait_for_tick(self.source.parent)
        with names_read() as names:
            done = archive_by(self.store, self.source, "t", WAY)
        whole = archive_by(self.store, self.source, "whole", Way(read_all=True))
        assert {os.fsdecode(name) for name in names} == changed
        assert len(names) == len(changed), "a file was read twice"
        assert done._replace(new_bytes=0) == whole._replace(new_bytes=0)
        is_archived(self.store, "t", self.source)
        wait_for_tick(self.source.parent)
        return done


@pytest.fixture
def large(store: Path, source: Path) -> Iterator[Large]:
    """Fifty files, archived."""
    made = Large(store, source)
    made.numbered(*range(0, 500, 10))
    made.archived(changed={f"{number:04}" for number in range(0, 500, 10)})
    yield made
    made.archived(changed=set())
    assert findings(store) == []


def test_one_that_did_not_change_is_not_read(large: Large) -> None:
    for _ in range(2):
        assert large.archived(changed=set()).new_bytes == 0


@pytest.mark.parametrize("at", [0, 5, 69, 70, 71, 255, 490, 495])
def test_a_file_more_or_less_anywhere(large: Large, at: int) -> None:
    fresh = at % 10 != 0
    if fresh:
        large.numbered(at)
        large.archived(changed={f"{at:04}"})
    large.remove(at)
    large.archived(changed=set())
    large.numbered(at)
    large.archived(changed={f"{at:04}"})


@pytest.mark.parametrize("at", [0, 70, 80, 250, 490])
def test_a_file_that_changed_anywhere_with_its_mtime_forged_back(large: Large, at: int) -> None:
    path = large.source / f"{at:04}"
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(0, before.st_mtime_ns))
    large.archived(changed={path.name})


@pytest.mark.parametrize(
    "numbers",
    [
        range(1, 10),
        range(71, 80),
        range(1, 100),
        range(501, 600),
        range(1, 500, 10),
    ],
    ids=["a segment first", "in the middle", "many", "at the end", "everywhere"],
)
def test_it_grows(large: Large, numbers: range) -> None:
    fresh = {f"{number:04}" for number in numbers if number % 10}
    large.make(*fresh)
    large.archived(changed=fresh)
    more = {f"{name}+" for name in fresh}
    large.make(*more)
    large.archived(changed=more)


@pytest.mark.parametrize(
    "numbers",
    [
        range(0, 80, 10),
        range(80, 160, 10),
        range(0, 500, 20),
        range(420, 500, 10),
        range(10, 490, 10),
        range(80, 500, 10),
    ],
    ids=["a segment first", "in the middle", "every other", "the last", "all", "most"],
)
def test_it_shrinks(large: Large, numbers: range) -> None:
    large.remove(*numbers)
    large.archived(changed=set())
    large.numbered(*numbers)
    large.archived(changed={f"{number:04}" for number in numbers})


def test_it_becomes_small_and_large_again(large: Large) -> None:
    large.remove(*range(30, 500, 10))
    large.archived(changed=set())
    large.archived(changed=set())
    large.make("a", "b")
    large.archived(changed={"a", "b"})
    large.numbered(*range(30, 500, 10))
    large.archived(changed={f"{number:04}" for number in range(30, 500, 10)})


def test_it_becomes_empty_and_large_again(large: Large) -> None:
    large.remove(*range(0, 500, 10))
    for _ in range(2):
        assert large.archived(changed=set()).entries == 1
    large.numbered(*range(0, 500, 10))
    large.archived(changed={f"{number:04}" for number in range(0, 500, 10)})


@pytest.mark.parametrize("size", [SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 1])
def test_sizes_about_a_segments(store: Path, source: Path, size: int) -> None:
    made = Large(store, source)
    made.numbered(*range(size))
    made.archived(changed={f"{number:04}" for number in range(size)})
    made.archived(changed=set())
    made.numbered(size)
    made.archived(changed={f"{size:04}"})
    made.remove(0, size)
    made.archived(changed=set())


def test_all_its_names_are_others(large: Large) -> None:
    large.remove(*range(0, 500, 10))
    large.numbered(*range(1, 500, 10))
    large.archived(changed={f"{number:04}" for number in range(1, 500, 10)})


def test_names_move_between_segments(large: Large) -> None:
    for number in range(0, 100, 10):
        (large.source / f"{number:04}").rename(large.source / f"{number + 301:04}")
    large.archived(changed={f"{number + 301:04}" for number in range(0, 100, 10)})


# --- hard links -------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["0001", "0005", "0255", "0499", "sub/x", "zub/x"])
@pytest.mark.parametrize("at", [0, 250])
def test_links_within_and_across_segments(large: Large, at: int, other: str) -> None:
    for name in ("sub", "zub"):
        (large.source / name).mkdir()
    path = large.source / f"{at:04}"
    os.link(path, large.source / other)
    first = min(path.name, other) if "/" not in other else path.name
    large.archived(changed={first})
    large.archived(changed=set())
    (large.source / other).rename(large.source / "!first")
    wait_for_tick(large.source.parent)
    large.archived(changed={"!first"})
    path.unlink()
    large.archived(changed={"!first"})


def test_every_file_has_a_name_in_every_segment(large: Large) -> None:
    for number in range(8):
        for more in range(1, 6):
            os.link(large.source / f"{number * 10:04}", large.source / f"{more}-{number}")
    large.archived(changed={f"{number * 10:04}" for number in range(8)})
    large.archived(changed=set())
    (large.source / "0000").chmod(0o600)
    large.archived(changed={"0000"})


# --- subdirectories ---------------------------------------------------------------------------


def _change_in_one(source: Path) -> str:
    (source / "d0150" / "new").write_bytes(b"new")
    return "new"


def _mode(source: Path) -> None:
    (source / "d0150").chmod(0o700)


def _xattr(source: Path) -> None:
    os.setxattr(source / "d0150", "user.x", b"1")


def _rename(source: Path) -> None:
    (source / "d0150").rename(source / "0155")


def _remove(source: Path) -> None:
    (source / "d0150").rmdir()


def _file_in_its_place(source: Path) -> str:
    (source / "d0150").rmdir()
    (source / "d0150").write_bytes(b"file")
    return "d0150"


def _directory_in_place(source: Path) -> None:
    (source / "0150").unlink()
    (source / "0150").mkdir()


@pytest.mark.parametrize(
    "change",
    [
        _change_in_one,
        _mode,
        _xattr,
        _rename,
        _remove,
        _file_in_its_place,
        _directory_in_place,
    ],
)
def test_subdirectories_in_segments_change(
    large: Large, change: Callable[[Path], str | None]
) -> None:
    for number in range(0, 500, 10):
        (large.source / f"d{number:04}").mkdir()
    large.archived(changed=set())
    read = change(large.source)
    large.archived(changed={read} if read else set())


def test_only_subdirectories_that_all_go(store: Path, source: Path) -> None:
    made = Large(store, source)
    for number in range(50):
        (source / f"{number:02}").mkdir()
    made.archived(changed=set())
    for number in range(10, 50):
        (source / f"{number:02}").rmdir()
    made.archived(changed=set())
    for number in range(10):
        (source / f"{number:02}").rmdir()
    made.archived(changed=set())
    made.make(*"abcdefghijklm")
    made.archived(changed=set("abcdefghijklm"))


def test_large_directories_in_large_directories(store: Path, source: Path) -> None:
    made = Large(store, source)
    names = set()
    for outer in range(20):
        (source / f"{outer:02}").mkdir()
        for inner in range(20):
            names.add(f"{outer:02}-{inner:02}")
            made.make(f"{outer:02}/{outer:02}-{inner:02}")
    made.archived(changed=names)
    (source / "07").rename(source / "99")
    made.archived(changed={name for name in names if name.startswith("07")})
    (source / "13" / "13-04").unlink()
    (source / "13" / "13-04x").mkdir()
    made.archived(changed=set())


# --- anything ---------------------------------------------------------------------------------


_names = st.integers(0, 60)
_change = st.tuples(st.sampled_from(["file", "directory", "link", "gone"]), _names, _names)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rounds=st.lists(st.lists(_change, min_size=1, max_size=40), min_size=2, max_size=4),
    segment_max=st.integers(1, 9),
)
def test_any_changes_of_a_large_directory(
    store: Path, tmp_path: Path, rounds: list[list[tuple[str, int, int]]], segment_max: int
) -> None:
    number = next(_times)
    source = tmp_path / f"any{number}"
    source.mkdir()
    for changes in rounds:
        for what, first, second in changes:
            _take(source, what, source / f"{first:02}", source / f"{second:02}")
        wait_for_tick(tmp_path)
        done = archive_by(store, source, f"n{number}", Way(segment_max=segment_max))
        whole = archive_by(store, source, f"w{number}", Way(read_all=True))
        assert done._replace(new_bytes=0) == whole._replace(new_bytes=0)
        with names_read() as names:
            again = archive_by(store, source, f"n{number}", Way(segment_max=segment_max))
        assert (again.score, names) == (done.score, [])
        wait_for_tick(tmp_path)


def _take(source: Path, what: str, first: Path, second: Path) -> None:
    if what == "gone":
        if first.is_dir():
            first.rmdir()
        first.unlink(missing_ok=True)
    elif what == "directory" and not first.exists():
        first.mkdir()
    elif what == "file" and not first.is_dir():
        first.write_bytes(first.name.encode())
    elif what == "link" and first.is_file() and not second.exists():
        os.link(first, second)
