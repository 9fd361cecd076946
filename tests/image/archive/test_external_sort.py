"""Rows come in order, however many there are, and whatever came first."""

import errno
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventifs.errors import VentifsError
from ventifs.image.archive import external_sort as ordered
from ventifs.image.archive import spool
from ventifs.image.archive.external_sort import Ordered
from ventifs.image.archive.spool import Spool, frames

Row = tuple[int, bytes]
rows = st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=5)), max_size=60)


@pytest.fixture(params=[1 << 16, 7])
def most(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many rows are kept in memory."""
    monkeypatch.setattr(ordered, "ROWS_MAX", request.param)
    monkeypatch.setattr(ordered, "_FRAME_ROWS", 3)
    return int(request.param)


@given(told=rows, size=st.integers(1, 10))
def test_rows_come_in_order(told: list[Row], size: int) -> None:
    for most in (1 << 16, 7):
        with pytest.MonkeyPatch.context() as patch, Ordered[Row](Row) as found:
            patch.setattr(ordered, "ROWS_MAX", most)
            patch.setattr(ordered, "_FRAME_ROWS", 3)
            for start in range(0, len(told), size):
                found.add(told[start : start + size])
            assert list(found) == sorted(told)
            assert list(found) == sorted(told)  # as often as wanted
            found.add([(0, b"late")])
            assert list(found) == sorted([*told, (0, b"late")])


def test_long_rows_are_written_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered, "SIZE_MAX", 1000)
    with Ordered[Row](Row) as found:
        for number in range(5):
            found.add([(-number, b"x" * 400)], 400)
        assert len(found._runs) == 1
        assert list(found) == [(-number, b"x" * 400) for number in reversed(range(5))]


def test_rows_of_one_key_come_as_they_were_added(most: int) -> None:
    chance = random.Random(1)
    told = [(chance.randrange(3), b"%d" % number) for number in range(50)]
    with Ordered[Row](Row, lambda row: row[0]) as found:
        found.add(told)
        for row in told:
            found.add([row])
        assert list(found) == sorted(told + told, key=lambda row: row[0])


@given(st.lists(st.binary(max_size=3 << 10), max_size=20), st.integers(1, 5000))
def test_frames_come_back(told: list[bytes], read: int) -> None:
    with pytest.MonkeyPatch.context() as patch, Spool() as spooled:
        patch.setattr(spool, "_READ", read)
        sizes = [0]
        for frame in told:
            spooled.add(frame)
            sizes.append(spooled.size)
        fd = spooled.fileno()
        assert list(map(bytes, frames(fd))) == told
        middle = len(told) // 2
        assert list(map(bytes, frames(fd, sizes[middle]))) == told[middle:]
        assert list(map(bytes, frames(fd, 0, sizes[middle]))) == told[:middle]


def test_a_spool_that_became_shorter_is_told() -> None:
    with Spool() as spooled:
        spooled.add(b"frame")
        spooled.add(b"another")
        os.ftruncate(spooled.fileno(), spooled.size - 1)
        for end in (None, spooled.size):
            with pytest.raises(VentifsError, match="temporary file: it has become shorter"):
                list(frames(spooled.fileno(), 0, end))


def test_a_full_disk_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, size: int, offset: int) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Spool() as spooled:
        spooled.add(b"frame")
        monkeypatch.setattr(os, "pread", full)
        with pytest.raises(VentifsError, match=r"no space left on device; make room .* TMPDIR"):
            list(frames(spooled.fileno()))
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(VentifsError, match="temporary file: no such file"):
        Spool()
