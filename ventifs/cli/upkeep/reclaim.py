"""`ventifs reclaim`."""

import math
import os
import re
import time
from pathlib import Path
from typing import Any

import click
import msgspec

import ventifs
from ventifs import Reclaimed
from ventifs.cli import interruption
from ventifs.cli.formatting import Size, exact
from ventifs.cli.output import print_json
from ventifs.cli.store_option import json_option, store_option
from ventifs.cli.upkeep.reclaim_report import Asked, ReclaimReport
from ventifs.errors import VentifsError
from ventifs.tree.versions.times import CalendarSpan, parse_span
from ventifs.tree.versions.zones import zone_of

UNLIMITED = "unlimited"
_PARTLY = 3
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]+)?)\s*%")


class UnusedLimit(click.ParamType[float]):
    """How much may be left unused: `5%` is 0.05, a size is an int, `unlimited` is infinite."""

    name = "limit"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse; an int is a number of bytes, a float a share."""
        if not isinstance(value, str):
            return value
        text = value.strip().lower()
        if text == UNLIMITED:
            return math.inf
        if match := _PERCENT.fullmatch(text):
            percent = float(match[1])
            if percent > 100:
                self.fail(f"{value!r} is more than all; give at most 100%", param, ctx)
            return percent / 100
        if text.isdecimal() and int(text):
            self.fail(f"{value!r} has no unit; write it like {text}% or {text}GiB", param, ctx)
        try:
            return Size().convert(text, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is no limit; write it like 5%, 10GiB or {UNLIMITED}", param, ctx)


class Grace(click.ParamType[CalendarSpan]):
    """A length of time by the calendar; `0` is none."""

    name = "span"

    def convert(
        self, value: str | CalendarSpan, param: click.Parameter | None, ctx: click.Context | None
    ) -> CalendarSpan:
        """Parse."""
        if isinstance(value, CalendarSpan):
            return value
        try:
            return CalendarSpan() if value.strip() == "0" else parse_span(value)
        except VentifsError as error:
            self.fail(str(error), param, ctx)


@click.command(short_help="Free the space of what no version needs.")
@store_option
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Wait at most so long for running archives, and for every other lock.  [default: for "
    "archives as long as they take, for others only if it takes a moment]",
)
@json_option
@click.option(
    "--grace",
    type=Grace(),
    default="0",
    show_default=True,
    metavar="SPAN",
    help="Keep what was forgotten in this last time, such as 30d or 1y5m7d2h.",
)
@click.option(
    "--max-unused",
    type=UnusedLimit(),
    default="5%",
    show_default=True,
    metavar=f"SHARE|SIZE|{UNLIMITED}",
    help="How much unused space may be left, to copy less.",
)
@click.option(
    "--max-repack",
    type=Size(),
    metavar="SIZE",
    help="Copy at most so much; 0 copies nothing.  [default: no limit]",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
def reclaim(
    store: Path,
    *,
    wait_s: float | None,
    as_json: bool,
    grace: CalendarSpan,
    max_unused: float,
    max_repack: int | None,
    dry_run: bool,
) -> int:
    """Free the space of what no version needs, and of what was forgotten.

    What was forgotten goes for good: 'ventifs undelete' cannot bring it back. Only --grace keeps
    what was forgotten lately. Before it changes anything it says what will be freed and copied, and
    about how long that takes; --dry-run says only that, and lists what would go.

    Arenas, which are the files that hold blocks, are freed whole. Those in which nothing is needed
    are freed in any case. Of others the blocks that are needed are copied, until at most
    --max-unused of the store is unused; they need room on the disk meanwhile, which --max-repack
    limits.

    Archives, copies and servers go on meanwhile, and others may begin. At the end it waits for
    those that write to the store and began before. If any of them is at work when it begins, it
    leaves arenas that were written in the last 24 hours to the next reclaim. What is read or
    mounted stays until that ends. An interrupted reclaim loses nothing, and running it again goes
    on. There is one at a time. Where others need all processors, it takes a small share of them,
    and so up to ten times as long.

    Exits with 3 if arenas were left that are to be freed, because they are damaged or there is no
    room for copies; each is listed with the reason.
    """
    asked = Asked(grace, max_unused, max_repack, dry_run=dry_run)
    done = run_reclaim(store, asked, wait_s=wait_s, quiet=as_json)
    if as_json:
        print_json({**exact(os.fsencode(store), "store"), **reclaim_json(asked, done)})
    return exit_code(done)


def run_reclaim(
    store: Path,
    asked: Asked,
    *,
    wait_s: float | None,
    quiet: bool,
    after_signal: str = "run it again to go on",
) -> Reclaimed:
    """Reclaim, and print what is planned and done unless `quiet`; raises as `ventifs.reclaim`.

    `after_signal` is a clause for the message of a signal that interrupts it.
    """
    interruption.explain(after_signal)
    with ReclaimReport(asked, quiet=quiet, after_signal=after_signal) as report:
        done = ventifs.reclaim(
            store,
            grace_s=_grace_s(asked.grace),
            max_unused=asked.max_unused,
            max_repack=asked.max_repack,
            dry_run=asked.dry_run,
            wait_s=wait_s,
            observer=report,
        )
    if not quiet:
        report.end(done)
    return done


def exit_code(done: Reclaimed) -> int:
    """What a reclaim exits with: 3 if it has left something that is to be freed."""
    return _PARTLY if done.left else 0


def reclaim_json(asked: Asked, done: Reclaimed) -> dict[str, Any]:
    """What `--json` prints of a reclaim; docs/api.md has the fields."""
    return {
        "grace": str(asked.grace),
        "max_unused": None if asked.max_unused == math.inf else asked.max_unused,
        "max_repack": asked.max_repack,
        **msgspec.to_builtins(done),
    }


def _grace_s(grace: CalendarSpan) -> float:
    """A span that ends now, in seconds, by the calendar of the machine's time zone."""
    if not grace:
        return 0  # whatever the time zone, which may be unknown
    now_ns = time.time_ns()
    return (now_ns - grace.before(now_ns, zone_of(None))) / 10**9
