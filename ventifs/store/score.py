"""Scores: the only names blocks have.

A score is the BLAKE3-256 of a block's zero-truncated bytes (trailing zeros are not stored, as in
Venti), kept as 32 plain bytes. The zero score names the block of nothing but zeros, which is not
stored.
"""

from typing import NewType

from blake3 import blake3

from ventifs.buffer import Buffer

Score = NewType("Score", bytes)
SCORE_SIZE = 32
ZERO_SCORE = Score(blake3(b"").digest())


def zero_truncated(block: Buffer) -> Buffer:
    """The block without its trailing zeros; no copy where there are none."""
    if not block or block[-1]:
        return block
    return bytes(block).rstrip(b"\0")


def score_of(block: Buffer) -> Score:
    """The score of a block, trailing zeros or not."""
    return Score(blake3(zero_truncated(block)).digest())


def parse_score(text: str) -> Score:
    """A score from its 64 hexadecimal digits.

    Raises:
        ValueError: for any other text.
    """
    score = bytes.fromhex(text) if len(text) == 2 * SCORE_SIZE and text.isalnum() else b""
    if len(score) != SCORE_SIZE:
        raise ValueError(f"{text!r} is not a score: 64 hexadecimal digits are wanted")
    return Score(score)
