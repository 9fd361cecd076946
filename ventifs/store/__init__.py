"""The block store: immutable blocks named by their scores, and a catalog of committed records."""

from ventifs.store.clump import DecodedClump
from ventifs.store.score import SCORE_SIZE, ZERO_SCORE, Score, parse_score, score_of
from ventifs.store.stats import Sizes, Stats
from ventifs.store.store import Mode, Store
from ventifs.store.writer import WorkerBatch

__all__ = [
    "SCORE_SIZE",
    "ZERO_SCORE",
    "WorkerBatch",
    "DecodedClump",
    "Mode",
    "Score",
    "Sizes",
    "Stats",
    "Store",
    "parse_score",
    "score_of",
]
