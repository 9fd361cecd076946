"""Decides which versions of a name to keep, from their times alone.

As in restic, a rule keeps the newest version of each of the N latest periods that have one, and a
version is kept if any rule keeps it. Borg keeps more: its rules do not count versions that a finer
rule keeps. Periods are UTC: days, ISO weeks, months, years.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from ventifs.errors import VentifsError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True, frozen=True)
class Policy:
    """How many versions to keep; 0 disables a rule. A version is kept if any rule keeps it.

    Attributes:
        last: keep so many of the latest versions.
        daily, weekly, monthly, yearly: keep the newest version of each of so many latest periods;
            periods without a version do not count.
    """

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0


def _week(day: date) -> str:
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02}"


# rule: function from a day to its period, as shown to users
_PERIODS: dict[str, Callable[[date], str]] = {
    "daily": lambda day: f"{day:%Y-%m-%d}",
    "weekly": _week,
    "monthly": lambda day: f"{day:%Y-%m}",
    "yearly": lambda day: f"{day:%Y}",
}


def retained(times_ns: Iterable[int], policy: Policy) -> dict[int, list[str]]:
    """The times to keep, the newest first, each with its reasons: `last 1`, `daily 2026-11-23`.

    Args:
        times_ns: of one name's versions, in any order.
        policy: with at least one rule.

    Raises:
        VentifsError: for a policy that would keep nothing.
    """
    if policy == Policy():
        raise VentifsError("this would keep nothing; say how many to keep")
    newest_first = sorted(set(times_ns), reverse=True)
    kept: dict[int, list[str]] = {}
    for number, time_ns in enumerate(newest_first[: policy.last], 1):
        kept.setdefault(time_ns, []).append(f"last {number}")
    for rule, period_of in _PERIODS.items():
        newest: dict[str, int] = {}  # newest time of each period, the latest period first
        for time_ns in newest_first:
            newest.setdefault(period_of(_day(time_ns)), time_ns)
        for period, time_ns in list(newest.items())[: getattr(policy, rule)]:
            kept.setdefault(time_ns, []).append(f"{rule} {period}")
    return dict(sorted(kept.items(), reverse=True))


def _day(time_ns: int) -> date:
    return (_EPOCH + timedelta(seconds=time_ns // 10**9)).date()
