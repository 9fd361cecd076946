"""The history of a path: what comparing whole versions one by one says, at a look-up each."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from tests.support.stores import new_store
from ventifs.store import ZERO_SCORE, Score, Store
from ventifs.tree.archive.archive_run import archive
from ventifs.tree.archive.directory_source import DirectorySource
from ventifs.tree.objects.directory import NoSuchPath
from ventifs.tree.objects.records import Block, Empty, Inline, Tree, score_of_content
from ventifs.tree.versions.catalog import Version, versions
from ventifs.tree.versions.diff import diff
from ventifs.tree.versions.history import Step, history


def settle(top: Path) -> None:
    for path in [*top.rglob("*"), top]:
        os.utime(path, ns=(0, 10**18), follow_symlinks=False)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Seven versions, 0 to 6, of a file and a directory that come, change and go."""
    top = tmp_path / "top"
    (top / "etc" / "deep").mkdir(parents=True)
    (top / "etc" / "hosts").write_text("one")
    with Store.open(new_store(tmp_path / "store"), "write") as opened:

        def night() -> None:
            settle(top)
            archive(opened, DirectorySource(top), "n", time_ns=len(versions(opened)))

        night()
        night()  # 1: the same
        (top / "etc" / "hosts").write_text("two")
        night()
        (top / "etc" / "hosts").chmod(0o600)
        (top / "etc" / "deep" / "new").write_text("x" * 100)
        night()
        (top / "etc" / "hosts").unlink()
        night()
        (top / "etc" / "hosts").mkdir()
        night()
        (top / "etc" / "hosts").rmdir()
        (top / "etc" / "hosts").write_text("again")
        (top / "etc" / "deep").chmod(0o700)
        night()
        yield opened


def told(steps: Iterator[Step]) -> list[tuple[int, str, tuple[str, ...]]]:
    return [(step.version.time_ns, step.kind, step.what) for step in steps]


def of_name(store: Store) -> list[Version]:
    return versions(store, "n")


def test_each_kind_of_step_is_told_newest_first(store: Store) -> None:
    assert told(history(store, of_name(store), b"etc/hosts")) == [
        (6, "modified", ("type", "mode")),
        (5, "added", ()),
        (4, "removed", ()),
        (3, "metadata", ("mode",)),
        (2, "modified", ("content",)),
        (0, "added", ()),
    ]


def test_a_directory_changes_with_what_is_below_it(store: Store) -> None:
    assert told(history(store, of_name(store), b"etc/deep")) == [
        (6, "metadata", ("mode",)),
        (3, "modified", ("content",)),
        (0, "added", ()),
    ]
    assert [time for time, _, _ in told(history(store, of_name(store), b""))] == [6, 5, 4, 3, 2, 0]


def test_history_is_what_comparing_versions_says(store: Store) -> None:
    found = of_name(store)
    for path in (b"etc/hosts", b"etc/deep/new"):
        for older, newer in itertools.pairwise(found):
            changes = {c.path: c for c in diff(store, older.root, newer.root)}
            steps = {s.version.time_ns: s for s in history(store, found, path)}
            step, change = steps.get(newer.time_ns), changes.get(path)
            assert (step is None) == (change is None)
            if step is not None and change is not None:
                assert (step.kind, step.entry, step.what) == (change.kind, change.new, change.what)


def test_a_path_may_be_written_with_slashes(store: Store) -> None:
    for path in (b"/etc/hosts", b"etc//hosts/", b"./etc/./hosts"):
        assert len(told(history(store, of_name(store), path))) == 6


def test_nothing_below_a_directory_is_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[Score] = set()
    real = Store.get

    def get(self: Store, score: Score) -> memoryview:
        read.add(score)
        return real(self, score)

    monkeypatch.setattr(Store, "get", get)
    assert told(history(store, of_name(store), b"etc"))
    assert len(read) <= 7  # the roots alone


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            b"etc/host",
            "n: no version has /etc/host; in n@1970-01-01T00:00:00.000000006Z there is /etc/hosts",
        ),
        (b"etcc", "n: no version has /etcc; in n@1970-01-01T00:00:00.000000006Z there is /etc"),
        (
            b"etc/zzzzz/a",
            "n: no version has /etc/zzzzz/a; n@1970-01-01T00:00:00.000000006Z has /etc, "
            "but nothing of such a name in it",
        ),
        (
            b"etc/deep/new/x",
            "n: no version has /etc/deep/new/x; in "
            "n@1970-01-01T00:00:00.000000006Z, /etc/deep/new is no directory",
        ),
        (
            b"zz\n",
            r"n: no version has /zz\n; n@1970-01-01T00:00:00.000000006Z has /, but nothing of "
            "such a name in it",
        ),
    ],
)
def test_a_path_of_no_version_names_the_nearest(store: Store, path: bytes, message: str) -> None:
    with pytest.raises(NoSuchPath) as caught:
        list(history(store, of_name(store), path))
    assert str(caught.value) == message


def test_contents_have_the_score_of_their_bytes() -> None:
    assert score_of_content(Empty()) == ZERO_SCORE
    assert score_of_content(Inline(b"abc")) == blake3(b"abc").digest()
    assert (
        score_of_content(Block(b"s" * 32, 5)) == score_of_content(Tree(b"s" * 32, 9)) == b"s" * 32
    )
