"""`ventifs.reclaim`: what it takes, what it reports, and which records go with it."""

import math
from pathlib import Path
from typing import Any

import pytest

import ventifs
from tests.support.stores import findings
from ventifs.image.formats.advice import Following
from ventifs.image.formats.kept_choice import Kept, SourceType, changes, kept_of
from ventifs.store import Store

KEPT = Kept("raw", SourceType("file", b".img"), Following())
DAY_S = 86_400


class Interrupted(Exception):
    """Raised by an observer."""


class Observer(ventifs.ReclaimObserver):
    """Notes the plans, and raises once they stand if asked to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.plans: list[ventifs.ReclaimPlan] = []
        self.references = 0
        self._error = error

    def marking(self, references: int, blocks: int) -> None:
        assert blocks > 0
        self.references = references

    def planned(self, plan: ventifs.ReclaimPlan) -> None:
        self.plans.append(plan)
        if self._error is not None:
            raise self._error


def forget(store: Path, *wanted: str) -> None:
    with ventifs.open(store, "write") as archive:
        archive.forget(*wanted, force=True)


def test_what_was_forgotten_is_gone_and_the_rest_is_whole(store: Path) -> None:
    forget(store, "t@~1")
    observer = Observer()
    done = ventifs.reclaim(store, max_unused=0, observer=observer)
    assert observer.plans == [done.plan]
    assert observer.references >= done.plan.references > 0
    assert (done.plan.versions, done.plan.doomed, done.plan.kept) == (1, 1, 0)
    [gone] = done.forgotten
    assert gone.startswith("t@1970-01-01T00:00:00Z, forgotten ")
    assert (done.dry_run, done.left) == (False, [])
    with ventifs.open(store, "write") as archive:
        assert archive.forgotten() == []
        assert (archive["t"] / "etc/hostname").read_bytes() == b"web01.example\n"
        assert (archive["t"] / "etc/deep/file").read_bytes() == b"deep" * 20_000
        with pytest.raises(ventifs.NoSuchVersion, match="what was reclaimed, or forgotten by"):
            archive.undelete("t@latest")
    assert not findings(store)


def test_the_grace_is_counted_back_from_now(store: Path) -> None:
    forget(store, "t@~1")
    for grace_s in (DAY_S, 0.5 * DAY_S, 10**10):
        done = ventifs.reclaim(store, grace_s=grace_s)
        assert (done.plan.kept, done.plan.doomed, done.forgotten) == (1, 0, [])
    with ventifs.open(store, "write") as archive:
        [back] = archive.undelete("t@latest")
        assert (back / "etc/hostname").read_bytes() == b"web01\n"


def test_an_exception_of_the_observer_ends_it_before_anything_is_done(store: Path) -> None:
    forget(store, "t@~1")
    with pytest.raises(Interrupted):
        ventifs.reclaim(store, observer=Observer(Interrupted()))
    with ventifs.open(store, "write") as archive:
        assert len(archive.undelete("t@latest")) == 1
    assert not findings(store)


def test_a_dry_run_is_a_plan(store: Path) -> None:
    forget(store, "t@~1")
    done = ventifs.reclaim(store, dry_run=True)
    assert (done.dry_run, done.plan.doomed, len(done.forgotten)) == (True, 1, 1)
    assert (done.arenas, done.freed_bytes, done.copied_bytes) == (0, 0, 0)
    with ventifs.open(store) as archive:
        assert len(archive.forgotten()) == 1


@pytest.mark.parametrize("grace_s", [0, DAY_S])
def test_what_a_name_kept_goes_with_its_last_forgotten_version(store: Path, grace_s: float) -> None:
    with Store.open(store, "write") as opened:
        opened.commit(*changes(opened, "t", KEPT))
    forget(store, "t@latest", "t@~1")
    ventifs.reclaim(store, grace_s=grace_s)
    with ventifs.open(store, "write") as archive:
        records = archive.store.records()
        assert [record.key[:9] for record in records] == ([b"forgotten"] * 3 if grace_s else [])
        if grace_s:
            archive.undelete("t@latest")
            assert kept_of(archive.store, "t") == KEPT


@pytest.mark.parametrize(
    "options",
    [
        {"grace_s": -1},
        {"grace_s": math.nan},
        {"grace_s": math.inf},
        {"max_unused": -0.1},
        {"max_unused": 1.5},
        {"max_unused": math.nan},
        {"max_unused": -1},
        {"max_repack": -1},
        {"wait_s": -1},
        {"wait_s": math.nan},
    ],
)
def test_what_makes_no_sense_is_refused(store: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ventifs.reclaim(store, **options)
    with pytest.raises(ValueError, match="empty"):
        ventifs.reclaim("")


def test_any_amount_may_be_left_unused(store: Path) -> None:
    forget(store, "t@~1")
    done = ventifs.reclaim(store, max_unused=math.inf)
    assert (done.plan.doomed, done.plan.repacked_arenas, done.copied_bytes) == (1, 0, 0)
