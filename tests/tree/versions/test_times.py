"""Times as texts and back, spans of the calendar, and where the future begins."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventifs.errors import VentifsError
from ventifs.tree.versions.times import (
    SKEW_NS,
    CalendarSpan,
    in_future,
    latest_place,
    moment,
    parse_span,
    parse_time,
    past_count,
    time_text,
)

SECOND = 10**9
BERLIN = ZoneInfo("Europe/Berlin")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")


def ns(*when: int) -> int:
    moment = datetime(*when, tzinfo=UTC)  # type: ignore[misc,arg-type]
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) * SECOND


def test_a_zone_that_no_place_has_is_refused() -> None:
    with pytest.raises(VentifsError, match="is not a time"):
        parse_time("2026-11-23T06:00+99:99")


@pytest.mark.parametrize(
    ("text", "first", "end"),
    [
        ("2024", ns(2024, 1, 1), ns(2025, 1, 1)),
        ("2024-02", ns(2024, 2, 1), ns(2024, 3, 1)),
        ("2025-02", ns(2025, 2, 1), ns(2025, 3, 1)),
        ("2026-12", ns(2026, 12, 1), ns(2027, 1, 1)),
        ("2026-11", ns(2026, 11, 1), ns(2026, 12, 1)),
        ("2024-12-31", ns(2024, 12, 31), ns(2025, 1, 1)),
        ("2026-11-23T06", ns(2026, 11, 23, 6), ns(2026, 11, 23, 7)),
        ("2026-11-23T06:59", ns(2026, 11, 23, 6, 59), ns(2026, 11, 23, 7)),
        ("2026-11-23T06:00:09", ns(2026, 11, 23, 6, 0, 9), ns(2026, 11, 23, 6, 0, 10)),
        ("2026-11-23T06+05:30", ns(2026, 11, 23, 0, 30), ns(2026, 11, 23, 1, 30)),
        ("1970-01-01T00:00:00.000000001", 1, 2),
        ("1970-01-01T00:00:00.12", 120_000_000, 130_000_000),
    ],
)
def test_a_partial_time_is_all_that_begins_with_it(text: str, first: int, end: int) -> None:
    assert parse_time(text) == (first, end)


@given(st.integers(0, 2**63 - 1))
def test_a_time_comes_back_from_its_text(time_ns: int) -> None:
    text = time_text(time_ns)
    first, end = parse_time(text)
    assert first <= time_ns < end
    assert first == time_ns


def test_times_before_1970_have_a_text() -> None:
    assert time_text(-1) == "1969-12-31T23:59:59.999999999Z"
    assert time_text(0) == "1970-01-01T00:00:00Z"


# --- spans ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "span", "canonical"),
    [
        ("30d", CalendarSpan(days=30), "30d"),
        ("36h", CalendarSpan(hours=36), "36h"),
        ("2w", CalendarSpan(days=14), "14d"),
        ("1y5m7d2h", CalendarSpan(17, 7, 2), "1y5m7d2h"),
        ("2h7d5m1y", CalendarSpan(17, 7, 2), "1y5m7d2h"),
        ("1w1d", CalendarSpan(days=8), "8d"),
        ("12m", CalendarSpan(12), "1y"),
        ("0d", CalendarSpan(), "0h"),
        ("0y0h", CalendarSpan(), "0h"),
        ("999999y", CalendarSpan(12 * 999_999), "999999y"),
    ],
)
def test_a_span_is_read(text: str, span: CalendarSpan, canonical: str) -> None:
    assert parse_span(text) == span
    assert str(span) == canonical
    assert parse_span(canonical) == span
    assert bool(span) == (canonical != "0h")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "d",
        "30",
        "30D",
        "30 d",
        "1.5d",
        "-1d",
        "+1d",
        "1d2d",
        "1s",
        "1d\n",
        "1y5",
        "1234567d",
        "\N{ARABIC-INDIC DIGIT THREE}d",
        "P1D",
        "1M",
    ],
)
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(VentifsError, match="write it like 30d"):
        parse_span(text)


@pytest.mark.parametrize(
    ("span", "end", "begin", "zone"),
    [
        ("36h", "2026-03-29T12:00Z", "2026-03-28T00:00Z", BERLIN),
        # The clock is put forward, then back: a day of 23 hours, and one of 25.
        ("1d", "2026-03-29T12:00+02:00", "2026-03-28T12:00+01:00", BERLIN),
        ("1d", "2026-10-25T12:00+01:00", "2026-10-24T12:00+02:00", BERLIN),
        ("24h", "2026-10-25T12:00+01:00", "2026-10-24T13:00+02:00", BERLIN),
        ("1d", "2026-10-25T12:00+01:00", "2026-10-24T12:00+01:00", UTC),
        # To an hour that is there twice, or not at all: the earlier reading.
        ("1d", "2026-10-26T02:30+01:00", "2026-10-25T02:30+02:00", BERLIN),
        ("1d", "2026-03-30T02:30+02:00", "2026-03-29T01:30+01:00", BERLIN),
        # From an hour that is there twice.
        ("1h", "2026-10-25T02:30+01:00", "2026-10-25T02:30+02:00", BERLIN),
        ("1d1h", "2026-10-25T02:30+01:00", "2026-10-24T01:30+02:00", BERLIN),
        ("1d", "2026-04-06T01:45+10:30", "2026-04-05T01:45+11:00", LORD_HOWE),  # 30 minutes
        # To shorter months, over years.
        ("1m", "2026-03-31T00:00Z", "2026-02-28T00:00Z", UTC),
        ("1m", "2024-03-31T00:00Z", "2024-02-29T00:00Z", UTC),
        ("1y", "2024-02-29T00:00Z", "2023-02-28T00:00Z", UTC),
        ("4y", "2024-02-29T00:00Z", "2020-02-29T00:00Z", UTC),
        ("13m", "2026-01-15T10:00Z", "2024-12-15T10:00Z", UTC),
        ("1y1m1d1h", "2026-01-01T00:30Z", "2024-11-29T23:30Z", UTC),
        ("2w", "2026-01-01T00:00Z", "2025-12-18T00:00Z", UTC),
        # A month begins by the zone's clock, not by UTC's.
        ("1m", "2026-03-31T22:30Z", "2026-02-28T23:30Z", BERLIN),
        ("1m", "2026-03-31T22:30Z", "2026-02-28T22:30Z", UTC),
    ],
)
def test_a_span_back(span: str, end: str, begin: str, zone: ZoneInfo) -> None:
    first = parse_time(end)[0] + 123_456_789
    assert time_text(parse_span(span).before(first, zone)) == time_text(
        parse_time(begin)[0] + 123_456_789
    )


@given(
    st.integers(0, 2**64 - 1),
    st.builds(CalendarSpan, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)),
    st.sampled_from([UTC, BERLIN, LORD_HOWE]),
)
def test_what_is_before_everything_is_before(
    time_ns: int, span: CalendarSpan, zone: ZoneInfo
) -> None:
    assert span.before(time_ns, zone) <= time_ns


def test_the_longest_span_has_no_beginning() -> None:
    for text in ("999999y", "999999d", "999999m999999d"):
        assert parse_span(text).before(2**64 - 1, BERLIN) == -(2**63)
    assert parse_span("999999h").before(0, UTC) == -999_999 * 3600 * SECOND


# --- the future -------------------------------------------------------------------------------


def test_the_future_begins_a_minute_from_now() -> None:
    now = ns(2026, 11, 26)
    assert not in_future(now, now)
    assert not in_future(now + SKEW_NS, now)
    assert in_future(now + SKEW_NS + 1, now)
    assert SKEW_NS == 60 * SECOND
    assert in_future(2**64 - 1)  # by the machine's clock, whatever that says
    assert not in_future(0)


def test_where_the_latest_is() -> None:
    minutes = [SKEW_NS * number for number in (1, 2, 5, 5, 9)]
    assert [past_count(minutes, SKEW_NS * now) for now in (0, 1, 4, 9)] == [1, 2, 4, 5]
    assert [latest_place(minutes, SKEW_NS * now) for now in (0, 1, 4, 9)] == [0, 1, 3, 4]
    assert latest_place(minutes, -SKEW_NS) == 4  # of all: none lies in the past
    assert latest_place([], 0) == -1
    pairs = list(enumerate(minutes))
    assert latest_place(pairs, SKEW_NS * 4, key=lambda pair: pair[1]) == 3


def test_a_moment_has_its_zones_offset() -> None:
    time_ns = parse_time("2026-10-25T00:30Z")[0] + 5
    assert moment(time_ns, BERLIN).isoformat() == "2026-10-25T02:30:00+02:00"
    assert moment(time_ns + 3600 * SECOND, BERLIN).isoformat() == "2026-10-25T02:30:00+01:00"
    assert moment(time_ns).isoformat() == "2026-10-25T00:30:00+00:00"
