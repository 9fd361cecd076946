"""A bounded memory of scores forgets, but never says that it has what it was not given."""

import random

from hypothesis import given
from hypothesis import strategies as st

from ventifs.store import Score, score_of
from ventifs.tree.versions.recent_scores import RecentScores

SCORES = [score_of(b"%d" % each) for each in range(64)]


@given(st.lists(st.sampled_from(SCORES)))
def test_what_it_has_was_added(added: list[Score]) -> None:
    recent = RecentScores(slots=16)
    for score in added:
        recent.add(score)
        assert score in recent
    assert {score for score in SCORES if score in recent} <= set(added)


def test_few_scores_are_all_kept() -> None:
    recent = RecentScores()
    some = [Score(random.Random(each).randbytes(32)) for each in range(500)]
    for score in some:
        recent.add(score)
    assert sum(score in recent for score in some) > 490
    assert not any(score in recent for score in SCORES)
