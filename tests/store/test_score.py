"""Scores: BLAKE3-256 of the zero-truncated block, against the official vectors of BLAKE3."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventifs.store import SCORE_SIZE, ZERO_SCORE, parse_score, score_of
from ventifs.store.score import zero_truncated

# From BLAKE3's test_vectors.json: input byte i is i % 251; the first 32 bytes of `hash`.
OFFICIAL = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1023: "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
}


@pytest.mark.parametrize("length", OFFICIAL)
def test_score_is_blake3_of_the_official_input(length: int) -> None:
    block = bytes(i % 251 for i in range(length))
    assert score_of(block).hex() == OFFICIAL[length]


def test_zero_score_is_blake3_of_nothing_whatever_the_number_of_zeros() -> None:
    assert ZERO_SCORE.hex() == OFFICIAL[0]
    assert {score_of(bytes(size)) for size in (0, 1, 31, 4096)} == {ZERO_SCORE}


@given(st.binary(max_size=300), st.integers(0, 300))
def test_trailing_zeros_do_not_count(block: bytes, zeros: int) -> None:
    assert score_of(block + bytes(zeros)) == score_of(block)
    assert bytes(zero_truncated(block + bytes(zeros))) == block.rstrip(b"\0")


def test_other_zeros_do_count() -> None:
    assert len({score_of(block) for block in (b"ab\0", b"\0ab\0", b"a\0b\0")}) == 3


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("block", [b"", b"block", b"block\0\0", b"\0"])
def test_any_buffer_has_the_score_of_its_bytes(kind: type, block: bytes) -> None:
    assert score_of(kind(block)) == score_of(block)
    assert len(score_of(kind(block))) == SCORE_SIZE


def test_a_block_without_trailing_zeros_is_not_copied() -> None:
    view = memoryview(b"block")
    assert zero_truncated(view) is view


@given(st.binary(min_size=32, max_size=32))
def test_a_score_is_parsed_from_its_hexadecimal_digits(score: bytes) -> None:
    assert parse_score(score.hex()) == score
    assert parse_score(score.hex().upper()) == score


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ab" * 31,
        "ab" * 33,
        "ab" * 31 + "a",
        "g" * 64,
        "ab " * 21 + "a",
        " " + "a" * 63,
        "0x" + "a" * 62,
        "\u0661" * 64,
        "ab" * 31 + "a\n",
    ],
)
def test_other_text_is_no_score(text: str) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        parse_score(text)
