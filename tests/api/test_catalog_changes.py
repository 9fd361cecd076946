"""Bringing back, holding, renaming, tagging and commenting versions."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import ventifs
from tests.support.stores import findings
from ventifs.image.formats.advice import Following
from ventifs.image.formats.kept_choice import Kept, SourceType, changes, kept_of
from ventifs.tree.archive.run_lock import RunLock
from ventifs.tree.versions.holds import Hold

KEPT = Kept("raw", SourceType("file", b".img"), Following())
OTHER = Kept("raw", SourceType("device", b""), Following())


def test_what_is_forgotten_is_listed_and_comes_back(store: Path) -> None:
    with ventifs.open(store, "write") as archive:
        first, second = archive.versions()
        assert archive.forgotten() == []
        before_ns = time.time_ns()
        archive.forget(first, second, force=True)
        one, other = archive.forgotten("t")
        assert (one.version, other.version) == (first, second)
        assert before_ns <= one.forgotten_ns == other.forgotten_ns <= time.time_ns()
        assert archive.forgotten("u") == []
        assert first not in archive
        [back] = archive.undelete("t@~1")
        assert back == first
        assert (back.comment, back.score) == ("first", first.score)
        assert (archive["t"] / "etc/hostname").read_bytes() == b"web01\n"
        assert archive.undelete("t@latest") == [second]
        assert [version.tags for version in archive] == [(), ("second",)]
        assert archive.forgotten() == []
        with pytest.raises(ventifs.NoSuchVersion, match="no version of this name is forgotten"):
            archive.undelete("t@latest")
    assert not findings(store)


def test_all_of_a_name_come_back_but_what_is_there_already(store: Path, source: Path) -> None:
    with ventifs.open(store, "write") as archive:
        first, second = archive.versions()
        archive.forget(first, second, force=True)
        again = archive.add(source, "t", time_ns=0).version
        assert archive.undelete("t", every=True) == [second]
        assert archive.undelete("t", every=True) == []
        [left] = archive.forgotten()
        assert left.version.score == first.score != again.score
        with pytest.raises(ventifs.VentifsError, match="there is a version of this name and time"):
            archive.undelete(str(first))


def test_a_time_of_forgetting_chooses(
    store: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = iter(range(20_000, 20_003))  # the second to the fourth of October 2024 follow the first
    with ventifs.open(store, "write") as archive:
        for day in days:
            with monkeypatch.context() as patch:
                patch.setattr(time, "time_ns", lambda day=day: day * 86_400 * 10**9)
                archive.forget("t@~1")
            archive.add(source, "t", time_ns=0, comment=f"{day}")
        assert [each.version.comment for each in archive.forgotten()] == ["first", "20000", "20001"]
        archive.forget("t@~1")
        with pytest.raises(ventifs.NoSuchVersion, match="among those forgotten at 1999-12"):
            archive.undelete("t@1970", forgotten="1999-12")
        [back] = archive.undelete("t@1970", forgotten="2024-10-05")
        assert back.comment == "20000"
        with pytest.raises(ventifs.VentifsError, match="there is a version"):
            archive.undelete("t@1970", forgotten="2024-10-04")


def test_versions_are_held_and_released(store: Path) -> None:
    with ventifs.open(store, "write") as archive:
        first, second = archive.versions()
        assert not first.held
        assert first.hold is None
        assert archive.hold(first, "t@latest") == [first, second]
        assert first.held
        assert archive["t"].hold == Hold()
        for dry_run in (True, False):
            with pytest.raises(ventifs.VentifsError, match=rf"^{first}: it is held, and stays; "):
                archive.forget(first, dry_run=dry_run)
        thinned = archive.thin(last=1)
        assert [reasons for _, reasons in thinned.kept] == [["held"], ["held", "last 1"]]
        assert archive.release(first) == [first]
        assert not first.held
        with pytest.raises(ventifs.VentifsError, match="this version is not held"):
            archive.release(first)
        assert archive.thin(last=1).forgotten == [first]


def test_a_hold_ends_by_itself(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 1_800_000_000 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    with ventifs.open(store, "write") as archive:
        [first] = archive.hold("t@~1", until_ns=now_ns + 1)
        assert first.held
        reasons = dict(archive.thin(last=1, dry_run=True).kept)[first]
        assert reasons == ["held until 2027-01-15T08:00:00.000000001Z"]
        with pytest.raises(ventifs.VentifsError, match="it is held until 2027-01-15"):
            archive.forget(first)
        with pytest.raises(ventifs.VentifsError, match="is past, so this would hold nothing"):
            archive.hold(first, until_ns=now_ns)
        now_ns += 1
        assert not first.held
        assert first.hold == Hold(now_ns)
        archive.forget(first)
        archive.undelete(str(first))
        assert first.hold is None


def test_tags_and_comments(store: Path) -> None:
    with ventifs.open(store, "write") as archive:
        first, second = archive.versions()
        made = archive.tag(first, "t@latest", add="x", remove=["second"])
        assert [version.tags for version in made] == [("x",), ("x",)]
        assert first.tags == ()  # what is in memory stays as it was
        assert archive.comment(second, "new") == second
        assert archive["t"].comment == "new"
        assert archive["t"].score == second.score


def test_a_renamed_name(store: Path, source: Path) -> None:
    with ventifs.open(store, "write") as archive:
        first, second = archive.versions()
        archive.hold(second)
        archive.forget(first)
        [renamed] = archive.rename("t", "new")
        assert (renamed.name, renamed.score, renamed.held) == ("new", second.score, True)
        assert second not in archive
        assert archive.names() == ["new"]
        assert archive.undelete("new@latest")[0].score == first.score
        archive.add(source, "t")
        with pytest.raises(ventifs.VentifsError, match="there are versions of this name"):
            archive.rename("new", "t")
        with (
            RunLock(archive.store, "u"),
            pytest.raises(ventifs.Busy, match=r"^u: another archive run"),
        ):
            archive.rename("new", "u")


CALLS: dict[str, Callable[[ventifs.Archive, str | ventifs.ArchivedVersion], object]] = {
    "forget": lambda archive, version: archive.forget(version),
    "hold": lambda archive, version: archive.hold(version),
    "release": lambda archive, version: archive.release(version),
    "tag": lambda archive, version: archive.tag(version, add="x"),
    "comment": lambda archive, version: archive.comment(version, "x"),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_makes_no_sense_is_refused(store: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(store, tmp_path / "clone")
    call = CALLS[name]
    with ventifs.open(store, "write") as archive, ventifs.open(tmp_path / "clone") as clone:
        before = archive.store.records()
        with pytest.raises(ventifs.VentifsError, match="t names all its versions; t@latest is"):
            call(archive, "t")
        with pytest.raises(ventifs.NoSuchVersion):
            call(archive, "t@~2")
        with pytest.raises(ValueError, match="is in another archive"):
            call(archive, clone["t"])
        with pytest.raises(ventifs.VentifsError, match="not open for writing"):
            call(clone, "t@~1")
        assert archive.store.records() == before
    attempts: tuple[Callable[[], object], ...] = (
        lambda: call(archive, "t@latest"),
        archive.forgotten,
        lambda: archive.undelete("t@latest"),
        lambda: archive.rename("t", "u"),
    )
    for attempt in attempts:
        with pytest.raises(ventifs.VentifsError, match="the archive is closed"):
            attempt()


def keep(archive: ventifs.Archive, kept: Kept) -> None:
    archive.store.commit(*changes(archive.store, "t", kept))


def test_what_a_name_keeps_comes_back_with_its_versions(store: Path, source: Path) -> None:
    with ventifs.open(store, "write") as archive:
        keep(archive, KEPT)
        first, second = map(str, archive.versions())
        archive.forget(first)
        assert kept_of(archive.store, "t") == KEPT
        archive.forget(second, force=True)
        assert archive.store.records(b"disk\0") == []
        archive.undelete(first)
        assert kept_of(archive.store, "t") == KEPT
        archive.undelete(second)
        assert [record.key.split(b"\0")[0] for record in archive.store.records()] == [
            b"disk",
            b"version",
            b"version",
        ]


def test_what_a_name_keeps_by_now_stays(store: Path, source: Path) -> None:
    with ventifs.open(store, "write") as archive:
        keep(archive, KEPT)
        first, second = map(str, archive.versions())
        archive.forget(first, second, force=True)
        archive.add(source, "t")
        archive.undelete(first)
        assert kept_of(archive.store, "t") is None
        keep(archive, OTHER)
        archive.forget(first, "t@latest", force=True)
        archive.undelete(first)
        assert kept_of(archive.store, "t") == OTHER
        archive.forget(first, force=True)
        archive.rename(archive.add(source, "u").version.name, "v")  # another name's
        archive.undelete(second)  # forgotten first, with what was kept first
        assert kept_of(archive.store, "t") == KEPT


def test_a_run_at_work_decides_what_its_name_keeps(store: Path) -> None:
    with ventifs.open(store, "write") as archive:
        keep(archive, KEPT)
        first, second = map(str, archive.versions())
        archive.forget(first, second, force=True)
        with RunLock(archive.store, "t"):
            archive.undelete(first)
        assert kept_of(archive.store, "t") is None


def test_what_went_meanwhile_is_said_before_what_is_the_last(store: Path) -> None:
    with ventifs.open(store, "write") as archive:
        first, second = archive.versions()
        archive.forget(second)
        with pytest.raises(ventifs.NoSuchVersion, match="there is no such version any more"):
            archive.forget(second, first)
        archive.forget(first, force=True)
        with pytest.raises(ventifs.NoSuchVersion, match="there is no such version any more"):
            archive.forget(first)
        archive.undelete("t", every=True)
        with pytest.raises(ventifs.VentifsError, match="a tag may not be empty"):
            archive.tag("t@latest", add="")


def test_a_score_of_several_versions_changes_none(store: Path, source: Path) -> None:
    with ventifs.open(store, "write") as archive:
        second = archive.versions()[-1]
        archive.add(source, "again")
        text = f"score:{second.score}"
        assert archive["again"].score == second.score
        assert archive[text].name == "again"
        with pytest.raises(ventifs.NoSuchVersion, match=r"this could be again@.*, t@.*; name one"):
            archive.hold(text)
