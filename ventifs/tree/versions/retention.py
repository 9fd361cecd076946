"""Which versions of a name to keep, from their times alone.

As restic has it: a rule keeps the newest version of each of its N latest periods that have one;
what any rule keeps is kept. Borg keeps more: its rules do not count what a finer one keeps. Periods
are UTC: days, ISO weeks, months, years.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from ventifs.errors import VentifsError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True, frozen=True)
class Policy:
    """How many of what to keep; 0 is no rule.

    Attributes:
        last: versions, the latest.
        daily, weekly, monthly, yearly: periods that have a version.
    """

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0


def _week(day: date) -> str:
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02}"


# rule: the period a day is in, as it is shown
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
        policy: of one rule at least.

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
        newest: dict[str, int] = {}  # of each period, the latest period first
        for time_ns in newest_first:
            newest.setdefault(period_of(_day(time_ns)), time_ns)
        for period, time_ns in list(newest.items())[: getattr(policy, rule)]:
            kept.setdefault(time_ns, []).append(f"{rule} {period}")
    return dict(sorted(kept.items(), reverse=True))


def _day(time_ns: int) -> date:
    return (_EPOCH + timedelta(seconds=time_ns // 10**9)).date()
