"""Streams are cut where their bytes say, however they are read; zeros become holes."""

import itertools
import json
import random
from collections.abc import Iterable, Iterator

import pyfastcdc
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tests.support.vectors import VECTORS
from ventifs.errors import VentifsError
from ventifs.tree.objects.chunker import (
    CHUNK_AVERAGE,
    CHUNK_MAX,
    CHUNK_MIN,
    HOLE_ALIGN,
    HOLE_MIN,
    Chunker,
    new_cutter,
)

PAGE, KIB = 4096, 1024
STREAM = blake3(b"ventifs").digest(1 << 20)


def cut(pieces: Iterable[bytes | int], seed: int = 0) -> list[bytes | int]:
    found = Chunker(seed).chunks(pieces)
    return [chunk if isinstance(chunk, int) else bytes(chunk) for chunk in found]


def lengths(chunks: Iterable[bytes | int]) -> list[int]:
    """Lengths of chunks; of holes, negative."""
    return [-chunk if isinstance(chunk, int) else len(chunk) for chunk in chunks]


def in_pages(data: bytes, pages: Iterable[int]) -> Iterator[bytes]:
    """Pieces of so many pages each, until the data ends."""
    at = 0
    for count in pages:
        if at >= len(data):
            return
        yield data[at : at + count * PAGE]
        at += count * PAGE


def check(data: bytes, chunks: list[bytes | int]) -> None:
    """What always holds of a cut."""
    assert b"".join(map(bytes, chunks)) == data
    for chunk in chunks:
        if isinstance(chunk, int):
            assert chunk > 0
        else:
            assert 0 < len(chunk) <= CHUNK_MAX
            assert chunk.strip(b"\0")
    for one, other in itertools.pairwise(chunks):
        assert not (isinstance(one, int) and isinstance(other, int))


def test_the_cut_points_of_a_fixed_stream() -> None:
    golden = json.loads((VECTORS / "tree" / "chunker.json").read_text())
    assert blake3(STREAM).hexdigest() == golden["stream"]
    assert lengths(cut([STREAM])) == golden["lengths"]
    assert lengths(cut([STREAM], seed=12345)) == golden["lengths_seed_12345"]


def test_chunks_are_as_long_as_promised() -> None:
    sizes = lengths(cut([STREAM]))
    assert min(sizes[:-1]) >= CHUNK_MIN
    assert max(sizes) <= CHUNK_MAX
    assert CHUNK_AVERAGE / 2 < sum(sizes) / len(sizes) < CHUNK_AVERAGE * 2


def test_the_compiled_core_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert new_cutter().cut_buf(STREAM) is not None
    assert ".cy" in pyfastcdc.FastCDC.__module__
    slow = type("FastCDC", (), {"__module__": "pyfastcdc.py.fastcdc"})
    monkeypatch.setattr(pyfastcdc, "FastCDC", slow)
    with pytest.raises(VentifsError, match="reinstall"):
        new_cutter()


# --- independence of reads --------------------------------------------------------------------

runs = st.lists(st.tuples(st.booleans(), st.integers(1, 30 * PAGE)), max_size=8)


def made_of(parts: list[tuple[bool, int]]) -> bytes:
    return b"".join(
        bytes(length) if zero else random.Random(length).randbytes(length) for zero, length in parts
    )


@given(runs, st.lists(st.integers(1, 40), min_size=1))
def test_cuts_do_not_depend_on_the_sizes_of_reads(
    parts: list[tuple[bool, int]], pages: list[int]
) -> None:
    data = made_of(parts)
    whole = cut([data])
    check(data, whole)
    assert cut(in_pages(data, itertools.cycle(pages))) == whole
    assert cut(in_pages(data, itertools.repeat(1))) == whole


@pytest.mark.parametrize("pages", [1, 3, 16, 17, 32, 33, 256])
def test_the_fixed_stream_is_cut_alike_in_pieces_of_any_size(pages: int) -> None:
    data = STREAM + bytes(100 * KIB) + STREAM[: 300 * KIB + 7]
    assert cut(in_pages(data, itertools.repeat(pages))) == cut([data])


@given(runs, st.data())
def test_zeros_nobody_read_are_as_good_as_read_ones(
    parts: list[tuple[bool, int]], choice: st.DataObject
) -> None:
    data = made_of(parts)
    told: list[bytes | int] = []
    for page in in_pages(data, itertools.repeat(1)):
        skip = len(page) == PAGE and not page.strip(b"\0") and choice.draw(st.booleans())
        told.append(PAGE if skip else page)
    assert cut(told) == cut([data])


def test_an_insertion_moves_the_cuts_with_it() -> None:
    before, after = cut([STREAM]), cut([STREAM[:500_000] + b"new" + STREAM[500_000:]])
    assert len(set(before) - set(after)) <= 3
    assert len(set(after) - set(before)) <= 4


# --- holes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(False, 8), (True, 8)], [8, -8]),
        ([(True, 8), (False, 1)], [-8, 1]),
        ([(False, 1), (True, 9), (False, 1), (True, 8)], [1, -9, 1, -8]),
        ([(True, 7), (False, 1)], None),
        ([(False, 1), (True, 7), (False, 1)], None),
    ],
)
def test_long_runs_of_zero_pages_are_holes(
    parts: list[tuple[bool, int]], expected: list[int] | None
) -> None:
    data = b"".join(
        bytes(count * PAGE) if zero else STREAM[: count * PAGE] for zero, count in parts
    )
    chunks = cut([data])
    check(data, chunks)
    if expected is None:
        assert not any(isinstance(chunk, int) for chunk in chunks)
        return
    holes = [count * PAGE for count in expected if count < 0]
    assert [chunk for chunk in lengths(chunks) if chunk < 0] == holes
    assert sum(map(abs, lengths(chunks))) == len(data)


@pytest.mark.parametrize("before", [1, PAGE - 1, PAGE, PAGE + 1, 70_000])
@pytest.mark.parametrize("zeros", [HOLE_MIN, HOLE_MIN + PAGE - 1, 200_000])
def test_holes_begin_at_pages(before: int, zeros: int) -> None:
    data = b"\1" * before + bytes(zeros) + b"\2" * 100
    chunks = cut([data])
    check(data, chunks)
    at = 0
    for chunk in chunks:
        if isinstance(chunk, int):
            assert at % HOLE_ALIGN == 0
            assert chunk >= HOLE_MIN
        at += chunk if isinstance(chunk, int) else len(chunk)
    aligned = -(-before // PAGE) * PAGE
    inside = (before + zeros) // PAGE * PAGE - aligned
    assert any(isinstance(chunk, int) for chunk in chunks) == (inside >= HOLE_MIN)


@pytest.mark.parametrize("length", [1, 32, 4095, 4096, 32767, 32768, 65536, 65537, 1 << 20])
def test_nothing_but_zeros_is_one_hole(length: int) -> None:
    assert cut([bytes(length)]) == [length]
    assert cut(in_pages(bytes(length), itertools.repeat(1))) == [length]


def test_nothing_at_all_is_no_chunk() -> None:
    assert cut([]) == []


def test_a_tebibyte_of_one_hole() -> None:
    assert cut([STREAM[:PAGE], 1 << 40, PAGE, STREAM[:5]]) == [
        STREAM[:PAGE],
        (1 << 40) + PAGE,
        STREAM[:5],
    ]


def test_data_after_a_hole_is_cut_as_if_it_stood_alone() -> None:
    after = STREAM[100_000:400_000]
    chunks = cut([STREAM[: 64 * KIB] + bytes(64 * KIB) + after])
    assert chunks[chunks.index(64 * KIB) + 1 :] == cut([after])
