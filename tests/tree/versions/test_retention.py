"""Which versions are kept: by an independent model, by restic and borg, and in odd corners."""

import json
from calendar import monthrange
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.borgs import BorgRepository, why_no_borg
from tools import vectors_retention
from ventifs.errors import VentifsError
from ventifs.tree.objects.records import Directory, Empty, Entry
from ventifs.tree.versions.catalog import Version
from ventifs.tree.versions.retention import Policy, retained
from ventifs.tree.versions.times import SKEW_NS, CalendarSpan, parse_span, parse_time
from ventifs.tree.versions.zones import named_zone

SECOND = 10**9
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATE = 2**64 - 1 - SKEW_NS  # a time after all: nothing lies in the future
ROOT = Entry(b"", 0o40755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")
TROUBLE = (b"etc/shadow", "permission denied", True)
BERLIN = ZoneInfo("Europe/Berlin")
PERIODS = ("hourly", "daily", "weekly", "monthly", "yearly")
ZONES: list[tzinfo] = [UTC, BERLIN, ZoneInfo("Australia/Lord_Howe"), named_zone("-09:30")]
RECORDED = json.loads(
    (Path(__file__).parents[2] / "vectors" / "tree" / "retention_restic.json").read_text()
)


def version(time_ns: int, *tags: str, whole: bool = True) -> Version:
    return Version("t", time_ns, ROOT, tags=tags, troubles=() if whole else (TROUBLE,))


def at(*texts: str) -> list[Version]:
    """Versions of these times; a `!` after one stands for a trouble."""
    return [
        version(parse_time(text.rstrip("!"))[0], whole=not text.endswith("!")) for text in texts
    ]


def kept_of(
    versions: list[Version], policy: Policy, zone: tzinfo = UTC, now_ns: int = LATE
) -> dict[str, list[str]]:
    """What is kept, by the versions' names."""
    kept = retained(versions, policy, zone=zone, now_ns=now_ns)
    return {version(time_ns).when: reasons for time_ns, reasons in kept.items()}


# --- an independent model ---------------------------------------------------------------------

COUNTS = st.integers(0, 4)
SPANS = st.one_of(
    st.just(CalendarSpan()),
    st.builds(CalendarSpan, st.integers(0, 14), st.integers(0, 40), st.integers(0, 50)),
)
POLICIES = st.builds(
    Policy, *[COUNTS] * 6, SPANS, st.sampled_from([(), ("a",), ("b", "a")])
).filter(bool)
SECONDS = st.one_of(
    st.integers(1_792_870_000, 1_792_900_000),  # around the clock's change in October 2026
    st.integers(1_742_000_000, 1_793_000_000),
    st.integers(0, 2**34),
)
VERSIONS = st.lists(
    st.builds(
        lambda second, tags, whole: version(second * SECOND, *tags, whole=whole),
        SECONDS,
        st.sampled_from([(), (), ("a",), ("b", "c")]),
        st.booleans(),
    ),
    max_size=30,
)
NOWS = st.one_of(st.just(LATE), SECONDS.map(lambda second: second * SECOND))


def period(rule: str, time_ns: int, zone: tzinfo) -> tuple[object, ...]:
    """What a rule counts, by numbers."""
    local = datetime.fromtimestamp(time_ns // SECOND, zone)
    days = (local.replace(tzinfo=None) - datetime(1970, 1, 1)).days
    match rule:
        case "hourly":
            return (days, local.hour, local.utcoffset())
        case "daily":
            return (days,)
        case "weekly":
            return ((days + 3) // 7,)  # 1970 began on a Thursday
        case "monthly":
            return (local.year, local.month)
    return (local.year,)


def cutoff(newest_ns: int, span: CalendarSpan, zone: tzinfo) -> float:
    """What is after this is within a span, by a walk over the calendar."""
    local = datetime.fromtimestamp(newest_ns // SECOND, zone)
    wall = local.replace(tzinfo=None, fold=0)
    try:
        wall = wall.replace(day=1)
        for _ in range(span.months):
            wall = (wall - timedelta(days=1)).replace(day=1)
        wall = wall.replace(day=min(local.day, monthrange(wall.year, wall.month)[1]))
        for _ in range(span.days):
            wall -= timedelta(days=1)
    except OverflowError:
        return float("-inf")
    readings = [local] if span == CalendarSpan(hours=span.hours) else []
    readings = readings or [wall.replace(tzinfo=zone, fold=fold) for fold in (0, 1)]
    second = min((each.astimezone(UTC) - EPOCH) // timedelta(seconds=1) for each in readings)
    return second * SECOND + newest_ns % SECOND - span.hours * 3600 * SECOND


def model(
    versions: list[Version], policy: Policy, zone: tzinfo, now_ns: int, held: set[int]
) -> dict[int, set[str]]:
    """The rules that keep each version, by looking at all others for each."""
    kept: dict[int, set[str]] = {}
    every = {each.time_ns for each in versions}
    counted = {time for time in every if time <= now_ns + SKEW_NS}
    whole = {each.time_ns for each in versions if not each.troubles} & counted
    for time in every:
        found = kept.setdefault(time, set())
        tags = {tag for each in versions if each.time_ns == time for tag in each.tags}
        found |= {"tag"} & {"tag" for tag in policy.tags if tag in tags}
        found |= {"held"} if time in held else set()
        if time not in counted:
            found.add("in")
            continue
        for group in (counted, whole):
            if time in group and len({each for each in group if each > time}) < policy.last:
                found.add("last")
        if policy.within and time > cutoff(max(counted), policy.within, zone):
            found.add("within")
        for rule in PERIODS:
            number = getattr(policy, rule)
            mates: dict[tuple[object, ...], set[int]] = {}
            for each in counted:
                mates.setdefault(period(rule, each, zone), set()).add(each)
            mine = mates[period(rule, time, zone)]
            later = sum(max(each) > max(mine) for each in mates.values())
            if time == max(mine & whole or mine) and later < number:
                found.add(rule)
            oldest = {min(counted), min(whole, default=time)}
            if time in oldest and (time in whole or time == min(counted)) and len(mates) < number:
                found.add(rule)
    return {time: found for time, found in kept.items() if found}


@given(VERSIONS, POLICIES, st.sampled_from(ZONES), NOWS, st.sets(st.integers(0, 29), max_size=3))
def test_what_is_kept_is_what_the_rules_say(
    versions: list[Version], policy: Policy, zone: tzinfo, now_ns: int, chosen: set[int]
) -> None:
    held = {versions[each].time_ns: "held" for each in chosen if each < len(versions)}
    kept = retained(versions, policy, zone=zone, now_ns=now_ns, held=held)
    rules = {time: {reason.split()[0] for reason in why} for time, why in kept.items()}
    assert rules == model(versions, policy, zone, now_ns, set(held))
    assert list(kept) == sorted(kept, reverse=True)


@given(VERSIONS, POLICIES, st.sampled_from(ZONES), NOWS)
def test_thinning_again_changes_nothing(
    versions: list[Version], policy: Policy, zone: tzinfo, now_ns: int
) -> None:
    kept = retained(versions, policy, zone=zone, now_ns=now_ns)
    left = [each for each in versions if each.time_ns in kept]
    assert retained(left, policy, zone=zone, now_ns=now_ns) == kept


@given(VERSIONS, st.lists(st.sampled_from([0, 10**6]), min_size=5, max_size=5), NOWS)
def test_versions_with_troubles_cost_no_whole_one(
    versions: list[Version], counts: list[int], now_ns: int
) -> None:
    """Rules that have no limit keep the whole versions that they would keep alone."""
    limits: dict[str, Any] = dict(zip(PERIODS, counts, strict=True))
    policy = Policy(last=3, **limits, tags=("a",))
    whole = [each for each in versions if each.whole]
    alone = retained(whole, policy, zone=BERLIN, now_ns=now_ns)
    assert alone.keys() <= retained(versions, policy, zone=BERLIN, now_ns=now_ns).keys()


# --- other programs ---------------------------------------------------------------------------


def a_year() -> tuple[list[Version], tzinfo]:
    """The 331 snapshots that restic was asked about."""
    snapshots = RECORDED["snapshots"]
    assert len(snapshots) == 331
    return [version(parse_time(time)[0], *tags) for time, tags in snapshots], ZoneInfo(
        RECORDED["zone"]
    )


def policy_of(options: str) -> Policy:
    """The policy of options that ventifs, restic and borg have in common."""
    words = options.split()
    given: dict[str, Any] = {}
    for option, value in zip(words[::2], words[1::2], strict=True):
        rule = option.removeprefix("--keep-")
        if rule == "tag":
            given["tags"] = (*given.get("tags", ()), value)
        else:
            given[rule] = parse_span(value) if rule == "within" else int(value)
    return Policy(**given)


@pytest.mark.parametrize("recorded", RECORDED["policies"], ids=lambda one: one["options"])
def test_a_year_as_restic_keeps_it(recorded: dict[str, Any]) -> None:
    """The differences: the oldest, which restic 0.14 does not keep, and the end of February."""
    versions, zone = a_year()
    kept = retained(versions, policy_of(recorded["options"]), zone=zone, now_ns=LATE)
    places = {each.time_ns: place for place, each in enumerate(versions)}
    mine: dict[str, set[int]] = {}
    oldest: set[str] = set()
    for time_ns, reasons in kept.items():
        for reason in reasons:
            rule, _, more = reason.partition(" ")
            if more == "oldest":
                assert places[time_ns] == 0
                oldest.add(rule)
            else:
                named = reason if rule in ("tag", "within") else rule
                mine.setdefault(named, set()).add(places[time_ns])
    theirs = {
        reason.removesuffix(" snapshot").replace("has tags [", "tag ").removesuffix("]"): set(of)
        for reason, of in recorded["reasons"].items()
    }
    if recorded["options"] == "--keep-within 4m":
        days = {versions[place].when[:10] for place in mine["within 4m"] - theirs["within 4m"]}
        assert days == {"2025-03-01", "2025-03-02"}
        mine["within 4m"] &= theirs["within 4m"]
    assert mine == theirs
    left = {rule for rule in recorded["left"] if 0 not in theirs[rule]}
    assert oldest == left


def test_the_record_is_of_the_year_and_the_policies_that_its_program_has() -> None:
    made = [[time.strftime("%Y-%m-%dT%H:%M"), tags] for time, tags in vectors_retention.snapshots()]
    assert [[time[:16], tags] for time, tags in RECORDED["snapshots"]] == made
    assert [each["options"] for each in RECORDED["policies"]] == vectors_retention.POLICIES


@pytest.fixture(scope="module")
def borg(tmp_path_factory: pytest.TempPathFactory) -> BorgRepository:
    """Of the same year."""
    if reason := why_no_borg():
        pytest.skip(reason)
    seconds = [each.time_ns // SECOND for each in a_year()[0]]
    return BorgRepository(tmp_path_factory.mktemp("borg"), seconds, RECORDED["zone"])


@pytest.mark.parametrize(
    "options",
    [f"--keep-{rule} {number}" for rule in ("last", *PERIODS) for number in (1, 13, 400)]
    + [
        "--keep-daily 7 --keep-weekly 5 --keep-monthly 12 --keep-yearly 10",
        "--keep-last 3 --keep-hourly 48 --keep-daily 30",
        "--keep-weekly 4 --keep-yearly 1",
    ],
)
def test_a_year_as_borg_keeps_it(borg: BorgRepository, options: str) -> None:
    """Alike with one rule; with several borg keeps more, since a finer rule's do not count."""
    versions, zone = a_year()
    kept = retained(versions, policy_of(options), zone=zone, now_ns=LATE)
    mine, theirs = {time_ns // SECOND for time_ns in kept}, borg.kept(options)
    if options.count("--keep") == 1:
        assert mine == theirs
    else:
        assert mine < theirs


# --- odd corners ------------------------------------------------------------------------------


def test_reasons_name_the_rule_and_the_period() -> None:
    first, second, third = at("2026-11-22T23:59:59", "2026-11-23T06", "2026-11-23T07")
    policy = Policy(1, 1, 2, 9, 1, 1, parse_span("2h"), ("x", "y"))
    tagged = version(second.time_ns, "y", "x")
    kept = retained([tagged, first, third], policy, zone=BERLIN, now_ns=LATE)
    assert kept == {
        third.time_ns: [
            "within 2h",
            "last 1",
            "hourly 2026-11-23T08+01:00",
            "daily 2026-11-23",
            "weekly 2026-W48",
            "monthly 2026-11",
            "yearly 2026",
        ],
        second.time_ns: ["within 2h", "tag x", "tag y"],
        first.time_ns: ["daily oldest", "weekly oldest"],
    }


def test_days_are_the_zones() -> None:
    versions = at("2026-11-22T22:30Z", "2026-11-22T23:30Z", "2026-11-23T22:30Z")
    assert kept_of(versions, Policy(daily=2)) == {
        "2026-11-23T22:30:00Z": ["daily 2026-11-23"],
        "2026-11-22T23:30:00Z": ["daily 2026-11-22"],
    }
    assert kept_of(versions, Policy(daily=2), BERLIN) == {
        "2026-11-23T22:30:00Z": ["daily 2026-11-23"],
        "2026-11-22T22:30:00Z": ["daily 2026-11-22"],
    }


def test_an_hour_that_is_there_twice_counts_twice() -> None:
    """Other than for restic and borg, where a clock that is put back costs an hour's version."""
    versions = at("2026-10-25T02:10+02:00", "2026-10-25T02:10+01:00", "2026-10-25T03:10+01:00")
    assert list(kept_of(versions, Policy(hourly=3), BERLIN).values()) == [
        ["hourly 2026-10-25T03+01:00"],
        ["hourly 2026-10-25T02+01:00"],
        ["hourly 2026-10-25T02+02:00"],
    ]


def test_a_week_may_belong_to_another_year_than_its_days() -> None:
    versions = at("2026-12-31", "2027-01-01", "2027-01-03", "2027-01-04")
    assert list(kept_of(versions, Policy(weekly=2)).values()) == [
        ["weekly 2027-W01"],
        ["weekly 2026-W53"],
    ]
    assert list(kept_of(versions, Policy(yearly=2))) == [
        "2027-01-04T00:00:00Z",
        "2026-12-31T00:00:00Z",
    ]


def test_periods_without_versions_do_not_count() -> None:
    versions = at("2020-02-29", "2023-07-01", "2026-01-01")
    assert list(kept_of(versions, Policy(daily=2))) == [
        "2026-01-01T00:00:00Z",
        "2023-07-01T00:00:00Z",
    ]


def test_the_oldest_stays_until_there_are_as_many_periods() -> None:
    versions = at("2026-11-01T01", "2026-11-01T02", "2026-11-02T01", "2026-11-02T02")
    assert kept_of(versions, Policy(daily=3)) == {
        "2026-11-02T02:00:00Z": ["daily 2026-11-02"],
        "2026-11-01T02:00:00Z": ["daily 2026-11-01"],
        "2026-11-01T01:00:00Z": ["daily oldest"],
    }
    assert "2026-11-01T01:00:00Z" not in kept_of(versions, Policy(daily=2))
    assert "2026-11-01T01:00:00Z" not in kept_of(versions, Policy(last=3))


def test_a_version_with_troubles_displaces_no_whole_one() -> None:
    versions = at("2026-11-01T01", "2026-11-01T02!", "2026-11-02T01!", "2026-11-02T02!")
    assert kept_of(versions, Policy(daily=2)) == {
        "2026-11-02T02:00:00Z": ["daily 2026-11-02"],  # all of that day have troubles
        "2026-11-01T01:00:00Z": ["daily 2026-11-01"],
    }
    assert kept_of(versions, Policy(yearly=1)) == {"2026-11-01T01:00:00Z": ["yearly 2026"]}
    only_counted = Version("t", versions[2].time_ns, ROOT, troubles_more=1)
    assert not only_counted.whole


def test_the_last_whole_versions_are_kept_beside_the_last() -> None:
    versions = at("2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04!", "2026-11-05!")
    assert kept_of(versions, Policy(last=2)) == {
        "2026-11-05T00:00:00Z": ["last 1"],
        "2026-11-04T00:00:00Z": ["last 2"],
        "2026-11-03T00:00:00Z": ["last 1 whole"],
        "2026-11-02T00:00:00Z": ["last 2 whole"],
    }
    assert len(kept_of(versions[3:], Policy(last=1))) == 1


def test_the_oldest_whole_one_stays_beside_the_oldest() -> None:
    versions = at("2026-11-01!", "2026-11-02", "2026-11-03", "2026-11-04")
    assert kept_of(versions, Policy(monthly=2)) == {
        "2026-11-04T00:00:00Z": ["monthly 2026-11"],
        "2026-11-02T00:00:00Z": ["monthly oldest whole"],
        "2026-11-01T00:00:00Z": ["monthly oldest"],
    }


def test_no_rule_counts_a_version_of_the_future() -> None:
    """A clock was wrong for an hour: neither `last` nor a day, and nothing goes back from it."""
    versions = at("2026-11-21", "2026-11-22", "2026-11-23", "2031-01-01", "2031-01-02")
    now_ns = parse_time("2026-11-23T12")[0]
    future = {
        "2031-01-02T00:00:00Z": ["in the future"],
        "2031-01-01T00:00:00Z": ["in the future"],
    }
    assert kept_of(versions, Policy(last=1), now_ns=now_ns) == {
        **future,
        "2026-11-23T00:00:00Z": ["last 1"],
    }
    assert kept_of(versions, Policy(yearly=1), now_ns=now_ns) == {
        **future,
        "2026-11-23T00:00:00Z": ["yearly 2026"],
    }
    assert kept_of(versions, Policy(within=parse_span("2d")), now_ns=now_ns) == {
        **future,
        "2026-11-23T00:00:00Z": ["within 2d"],
        "2026-11-22T00:00:00Z": ["within 2d"],
    }


def test_a_clock_at_1970_forgets_nothing() -> None:
    versions = at("2026-11-20", "2026-11-22!", "2026-11-23")
    kept = kept_of(versions, Policy(last=1), now_ns=5 * SECOND)
    assert list(kept.values()) == [["in the future"]] * 3


def test_what_is_held_is_kept_and_counts() -> None:
    versions = at("2026-11-01T01", "2026-11-01T02", "2026-11-02")
    held = {versions[1].time_ns: "held until 2030-01-01T00:00:00Z"}
    kept = retained(versions, Policy(daily=1), zone=UTC, now_ns=LATE, held=held)
    assert list(kept.values()) == [["daily 2026-11-02"], [*held.values()]]
    kept = retained(versions, Policy(daily=2), zone=UTC, now_ns=LATE, held=held)
    assert kept[versions[1].time_ns] == [*held.values(), "daily 2026-11-01"]
    assert versions[0].time_ns not in kept


def test_no_versions_are_no_trouble_but_no_rules_are() -> None:
    assert kept_of([], Policy(1, 1, 1, 1, 1, 1, parse_span("1d"), ("a",))) == {}
    for nothing in (Policy(), Policy(within=parse_span("0d"))):
        with pytest.raises(VentifsError, match="keep nothing"):
            kept_of(at("2026"), nothing)
