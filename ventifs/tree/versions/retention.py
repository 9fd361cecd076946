"""Decides which versions of a name to keep, from their records and the clock alone.

A version is kept if any rule keeps it. A rule of periods (hourly, daily, weekly, monthly, yearly)
keeps one version of each of the N latest periods that have one. Periods are those of one time zone:
an hour that a change of the clock repeats counts as two, weeks are ISO's. Always:

- A version with troubles never displaces a whole one. A rule of periods keeps the newest whole
  version of a period, and the newest of all only where none is whole; so the newest version of a
  name can go. `last` keeps the N newest versions, and also the N newest whole ones.
- The oldest version stays while a rule of periods has had fewer than N. If it has troubles, so does
  the oldest whole one.
- A version that lies in the future is kept, and no rule counts it; nor is it what `within` goes
  back from. A version that is held is kept, and counts like any other.

The differences from restic: restic does not look at troubles; it counts snapshots of the future;
its periods are those of the offset that each snapshot was made at, and a repeated hour is one; for
its `within` the month before the 31st of March begins on the 3rd of March, not on the 28th of
February; and its option may want several tags at once. Older versions of restic, such as Debian
12's 0.14, do not keep the oldest.

The differences from borg (1.2): borg keeps more where several rules are given, since its rules do
not count versions that a finer rule keeps; a repeated hour is one; its `within` goes back from the
clock's time, and its month has 31 days.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, tzinfo

import msgspec

from ventifs.errors import VentifsError
from ventifs.tree.versions.catalog import Version
from ventifs.tree.versions.times import IN_FUTURE, CalendarSpan, in_future, moment

NO_RULE = "no rule keeps it"


class Policy(msgspec.Struct, frozen=True):
    """What to keep; 0, an empty span and no tags disable a rule.

    Attributes:
        last: keep so many of the latest versions.
        hourly, daily, weekly, monthly, yearly: keep one version of each of so many latest periods;
            periods without a version do not count.
        within: keep what is newer than the newest version less this.
        tags: keep the versions that have any of these.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: CalendarSpan = CalendarSpan()
    tags: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Policy()


def _hour(local: datetime) -> str:
    return local.isoformat(timespec="hours")  # with the offset


def _week(local: datetime) -> str:
    year, week, _ = local.isocalendar()
    return f"{year}-W{week:02}"


# rule: function from a local time to its period, as shown to users
_PERIODS: dict[str, Callable[[datetime], str]] = {
    "hourly": _hour,
    "daily": lambda local: f"{local:%Y-%m-%d}",
    "weekly": _week,
    "monthly": lambda local: f"{local:%Y-%m}",
    "yearly": lambda local: f"{local:%Y}",
}


def retained(
    versions: Iterable[Version],
    policy: Policy,
    *,
    zone: tzinfo,
    now_ns: int,
    held: Mapping[int, str] | None = None,
) -> dict[int, list[str]]:
    """The times to keep, the newest first, each with its reasons: `last 1`, `daily 2026-11-23`.

    Args:
        versions: of one name, in any order.
        policy: with at least one rule.
        zone: whose calendar has the periods.
        now_ns: the clock's time.
        held: reasons to keep versions whatever the policy, by their times.

    Raises:
        VentifsError: for a policy that would keep nothing.
    """
    if not policy:
        raise VentifsError("this would keep nothing; say how many to keep")
    of_time: dict[int, list[Version]] = {}
    for version in versions:
        of_time.setdefault(version.time_ns, []).append(version)
    newest_first = sorted(of_time, reverse=True)
    counted = [time_ns for time_ns in newest_first if not in_future(time_ns, now_ns)]
    whole = [time for time in counted if any(version.whole for version in of_time[time])]
    kept: dict[int, list[str]] = {}
    for time_ns in newest_first:
        if held and time_ns in held:
            kept.setdefault(time_ns, []).append(held[time_ns])
        if in_future(time_ns, now_ns):
            kept.setdefault(time_ns, []).append(IN_FUTURE)
    for time_ns, reason in (
        *_within(counted, policy.within, zone),
        *_last(counted, whole, policy.last),
        *_of_periods(counted, whole, policy, zone),
    ):
        kept.setdefault(time_ns, []).append(reason)
    for time_ns in newest_first:
        tags = {tag for version in of_time[time_ns] for tag in version.tags}
        for tag in policy.tags:
            if tag in tags:
                kept.setdefault(time_ns, []).append(f"tag {tag}")
    return dict(sorted(kept.items(), reverse=True))


_Reasons = Iterable[tuple[int, str]]  # a time and why to keep it


def _within(counted: list[int], span: CalendarSpan, zone: tzinfo) -> _Reasons:
    if not (span and counted):
        return
    end_ns = span.before(counted[0], zone)
    yield from ((time_ns, f"within {span}") for time_ns in counted if time_ns > end_ns)


def _last(counted: list[int], whole: list[int], number: int) -> _Reasons:
    for place, time_ns in enumerate(counted[:number], 1):
        yield time_ns, f"last {place}"
    newest = set(counted[:number])
    for place, time_ns in enumerate(whole[:number], 1):
        if time_ns not in newest:
            yield time_ns, f"last {place} whole"


def _of_periods(counted: list[int], whole: list[int], policy: Policy, zone: tzinfo) -> _Reasons:
    local = {time_ns: moment(time_ns, zone) for time_ns in counted}
    is_whole = set(whole)
    for rule, period_of in _PERIODS.items():
        number: int = getattr(policy, rule)
        if not number:
            continue
        found: dict[str, int] = {}  # the version of each period, the latest period first
        for time_ns in counted:
            period = period_of(local[time_ns])
            if period not in found or (time_ns in is_whole and found[period] not in is_whole):
                found[period] = time_ns
        chosen = list(found.items())[:number]
        yield from ((time_ns, f"{rule} {period}") for period, time_ns in chosen)
        if len(found) < number and counted:
            oldest = {counted[-1]: f"{rule} oldest"}
            if whole:
                oldest.setdefault(whole[-1], f"{rule} oldest whole")
            yield from (each for each in oldest.items() if each[0] not in found.values())
