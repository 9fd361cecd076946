"""Which versions are kept: an independent model of the rules, and the calendar's odd corners."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventifs.errors import VentifsError
from ventifs.tree.versions.catalog import parse_time
from ventifs.tree.versions.retention import Policy, retained

SECOND = 10**9
RULES = ("last", "daily", "weekly", "monthly", "yearly")
COUNTS = st.integers(0, 4)
POLICIES = st.builds(Policy, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS).filter(
    lambda policy: policy != Policy()
)
TIMES = st.lists(
    st.one_of(
        st.integers(0, 2**64 - 1),
        st.integers(1_700_000_000, 1_710_000_000).map(lambda second: second * SECOND),
    ),
    max_size=30,
)


def at(*texts: str) -> list[int]:
    return [parse_time(text)[0] for text in texts]


def period(rule: str, time_ns: int) -> tuple[int, ...]:
    """What a rule counts, by numbers."""
    days = time_ns // (86_400 * SECOND)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days)
    match rule:
        case "daily":
            return (days,)
        case "weekly":
            return ((days + 3) // 7,)  # 1970 began on a Thursday
        case "monthly":
            return (moment.year, moment.month)
        case "yearly":
            return (moment.year,)
    return (time_ns,)


def model(times: list[int], policy: Policy) -> dict[int, set[str]]:
    """For each version and rule: kept if it is its period's newest, and few periods are later."""
    kept: dict[int, set[str]] = {}
    for rule in RULES:
        for time in times:
            mine = period(rule, time)
            later = {period(rule, other) for other in times if period(rule, other) > mine}
            newest = max(other for other in times if period(rule, other) == mine)
            if time == newest and len(later) < getattr(policy, rule):
                kept.setdefault(time, set()).add(rule)
    return kept


@given(TIMES, POLICIES)
def test_what_is_kept_is_what_the_rules_say(times: list[int], policy: Policy) -> None:
    kept = retained(times, policy)
    rules = {time: {reason.split()[0] for reason in why} for time, why in kept.items()}
    assert rules == model(times, policy)
    assert list(kept) == sorted(kept, reverse=True)
    assert not times or max(times) in kept


@given(TIMES, POLICIES)
def test_thinning_again_changes_nothing(times: list[int], policy: Policy) -> None:
    kept = retained(times, policy)
    assert retained(kept, policy) == kept


def test_reasons_name_the_rule_and_the_period() -> None:
    first, second, third = at("2026-11-22T23:59:59", "2026-11-23T06", "2026-11-23T07")
    policy = Policy(last=1, daily=2, weekly=9, monthly=1, yearly=1)
    assert retained([second, first, third], policy) == {
        third: ["last 1", "daily 2026-11-23", "weekly 2026-W48", "monthly 2026-11", "yearly 2026"],
        first: ["daily 2026-11-22", "weekly 2026-W47"],
    }


def test_a_week_may_belong_to_another_year_than_its_days() -> None:
    times = at("2026-12-31", "2027-01-01", "2027-01-03", "2027-01-04")
    kept = retained(times, Policy(weekly=2))
    assert list(kept.values()) == [["weekly 2027-W01"], ["weekly 2026-W53"]]
    assert set(retained(times, Policy(yearly=5))) == {times[0], times[3]}


def test_periods_without_versions_do_not_count() -> None:
    times = at("2020-02-29", "2023-07-01", "2026-01-01")
    assert set(retained(times, Policy(daily=2))) == set(times[1:])


def test_no_versions_are_no_trouble_but_no_rules_are() -> None:
    assert retained([], Policy(last=1)) == {}
    with pytest.raises(VentifsError, match="keep nothing"):
        retained(at("2026"), Policy())
