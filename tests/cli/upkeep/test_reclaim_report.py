"""What people read of a reclaim: the plan, what was done, and progress."""

import math

import pytest
from msgspec.structs import replace

from ventifs import Reclaimed, ReclaimPlan
from ventifs.cli.upkeep.reclaim import exit_code
from ventifs.cli.upkeep.reclaim_report import Asked, ReclaimReport, done_lines, plan_lines
from ventifs.tree.reclaim.reclaim import NEEDED
from ventifs.tree.versions.times import CalendarSpan, parse_span

PLAN = ReclaimPlan(
    versions=5,
    kept=0,
    doomed=3,
    leased=0,
    references=1000,
    blocks=900,
    live_blocks=400,
    arena_bytes=4_000_000_000,
    dead_arenas=14,
    dead_bytes=900_000_000,
    repacked_arenas=6,
    repacked_bytes=420_000_000,
    copied_bytes=120_000_000,
    freed_bytes=1_200_000_000,
    unused_bytes=58_800_000,
    skipped_arenas=0,
    seconds=4.1,
)
NOTHING = replace(
    PLAN,
    doomed=0,
    dead_arenas=0,
    dead_bytes=0,
    repacked_arenas=0,
    repacked_bytes=0,
    copied_bytes=0,
    freed_bytes=0,
)
DONE = Reclaimed(PLAN, False, ["a", "b", "c"], 20, 1_190_000_000, 119_000_000, [], [], 4.06)
DRY = Asked(dry_run=True)
GOES = "3 forgotten versions go for good: forgotten longer ago than the grace of 0"
NONE = "none is forgotten (the grace is 0)"
UNUSED = "1.5 % of the store (58.8 MB) is unused"


def asked(grace: str = "", limit: float = 0.05, repack: int | None = None) -> Asked:
    return Asked(parse_span(grace) if grace else CalendarSpan(), limit, repack)


@pytest.mark.parametrize(
    ("plan", "how", "lines"),
    [
        (
            PLAN,
            asked(),
            [
                GOES,
                "will free about 1.20 GB: 14 arenas that nothing needs (900 MB), 6 repacked "
                "(copies 120 MB); about 4 s",
            ],
        ),
        (
            replace(PLAN, doomed=1, kept=2, repacked_arenas=0, freed_bytes=900_000_000),
            Asked(parse_span("1y5m7d"), dry_run=True),
            [
                "1 forgotten version would go for good: forgotten longer ago than the grace of "
                "1y5m7d; 2 within it would stay",
                "would free 900 MB: 14 arenas that nothing needs (900 MB); about 4 s",
            ],
        ),
        (
            replace(PLAN, doomed=1, kept=1, dead_arenas=0, repacked_arenas=1, seconds=0.01),
            asked("30d"),
            [
                "1 forgotten version goes for good: forgotten longer ago than the grace of 30d; 1 "
                "within it stays",
                "will free about 1.20 GB: 1 arena repacked (copies 120 MB); about 1 s",
            ],
        ),
        (
            replace(PLAN, doomed=0, kept=2, leased=1, dead_arenas=1, repacked_arenas=0),
            asked("30d"),
            [
                "no forgotten version goes for good: 2 forgotten versions are within the grace of "
                "30d",
                "will free 1.20 GB: 1 arena that nothing needs (900 MB); about 4 s",
                "note: 1 version that is gone is still read or served; its space stays until that "
                "ends",
            ],
        ),
        (replace(NOTHING, doomed=3), asked(), [GOES, f"no space comes back: {UNUSED}, within "
         "--max-unused 5%"]),
        (NOTHING, asked(), [f"nothing to do: {UNUSED}, within --max-unused 5%; {NONE}"]),
        (
            replace(NOTHING, unused_bytes=0, kept=1),
            asked("2w"),
            ["nothing to do: all that is stored is needed; 1 forgotten version is within the grace "
             "of 14d"],
        ),
        (
            NOTHING,
            asked(limit=100_000_000),
            [f"nothing to do: {UNUSED}, within --max-unused 100 MB; {NONE}"],
        ),
        (
            NOTHING,
            asked(limit=math.inf),
            [f"nothing to do: {UNUSED}, within --max-unused unlimited; {NONE}"],
        ),
        (
            NOTHING,
            asked(limit=0, repack=0),
            [f"nothing to do: {UNUSED}, and --max-repack 0 B lets no more be copied; {NONE}"],
        ),
        (
            replace(NOTHING, skipped_arenas=2, leased=2),
            asked(limit=0.001),
            [
                f"nothing to do: {UNUSED}, in part in 2 arenas that others write to or have "
                "written lately, or that are damaged: run it when nothing is archived; 'ventifs "
                f"check' finds damage; {NONE}; 2 versions that are gone are still read or "
                "served; their space stays until that ends"
            ],
        ),
        (NOTHING, asked(limit=0.001), [f"nothing to do: {UNUSED}; {NONE}"]),
    ],
)  # fmt: skip
def test_a_plan(plan: ReclaimPlan, how: Asked, lines: list[str]) -> None:
    assert plan_lines(plan, how) == lines


@pytest.mark.parametrize(
    ("done", "lines"),
    [
        (DONE, ["freed 1.19 GB in 4.1 s; 2.1 % of the store is unused"]),
        (
            replace(DONE, forgotten=["a"], left=["arena 1f: damaged"], seconds=100),
            [
                "note: left: arena 1f: damaged",
                "note: 2 forgotten versions came back meanwhile, and stay",
                "freed 1.19 GB in 1:40 min",
            ],
        ),
        (
            replace(DONE, forgotten=["a", "b"], plan=replace(NOTHING, doomed=3)),
            [
                "note: 1 forgotten version came back meanwhile, and stays",
                "2 forgotten versions are gone for good, after 4.1 s",
            ],
        ),
        (replace(DONE, forgotten=[], plan=NOTHING), []),
        (
            replace(DONE, dry_run=True, forgotten=["a@2026, forgotten 2027"]),
            [
                "would go for good: a@2026, forgotten 2027",
                "a dry run: nothing was changed; 2.1 % of the store would be unused",
            ],
        ),
        (
            replace(DONE, dry_run=True, forgotten=[], plan=NOTHING),
            ["a dry run: nothing was changed"],
        ),
    ],
)
def test_what_was_done(done: Reclaimed, lines: list[str]) -> None:
    assert done_lines(done) == lines
    assert exit_code(done) == (3 if done.left else 0)


def test_what_is_needed_again_is_rightly_left() -> None:
    done = replace(DONE, in_use=[f"arena 1f: {NEEDED}"])
    assert exit_code(done) == 0
    assert done_lines(done)[0] == f"note: left: arena 1f: {NEEDED}"
    assert exit_code(replace(done, left=["arena 2f: damaged"])) == 3


def test_a_store_of_which_nothing_is_left() -> None:
    plan = replace(PLAN, arena_bytes=PLAN.freed_bytes, unused_bytes=0)
    assert done_lines(replace(DONE, plan=plan)) == ["freed 1.19 GB in 4.1 s"]


@pytest.mark.parametrize("quiet", [True, False])
def test_the_plan_is_printed_before_anything_is_done(
    capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    with ReclaimReport(asked(), quiet=quiet) as report:
        report.marking(10, 1000)
        assert capsys.readouterr() == ("", "")
        report.planned(PLAN)
        assert capsys.readouterr().out.startswith("" if quiet else f"{GOES}\nwill free about")
        for done in range(3):
            report.copying(done, 2)
        report.marking(20, 1000)  # what came since
        report.freed(1, 1)
    assert capsys.readouterr().out == ""
