"""Patterns choose what is restored; a plan tells it beforehand."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stores import new_store
from tests.support.trees import archived, plain_tree, remove
from tests.support.walker import look_at
from ventifs.store import Store
from ventifs.tree.patterns import Patterns
from ventifs.tree.restore.dry_run import Plan
from ventifs.tree.restore.restorer import Restorer
from ventifs.tree.restore.selection import Selection


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    new_store(tmp_path / "store")
    yield tmp_path
    for name in ("source", "target"):
        remove(tmp_path / name)


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


@pytest.mark.parametrize(
    ("include", "exclude", "chosen"),
    [
        ([], [b"*.log"], {"a/b/c", "a/d", "var/keep"}),
        ([], [b"a"], {"var/keep", "var/x.log"}),
        ([], [b"/b"], {"a/b/c", "a/d", "a/x.log", "var/keep", "var/x.log"}),
        ([], [b"*.log", b"!x.log"], {"a/b/c", "a/d", "a/x.log", "var/keep", "var/x.log"}),
        ([b"*.log"], [], {"a/x.log", "var/x.log"}),
        ([b"*.log"], [b"/var"], {"a/x.log"}),
        ([b"b"], [], {"a/b/c"}),
        ([b"a/"], [b"*.log"], {"a/b/c", "a/d"}),
        ([b"a/b/c", b"keep"], [], {"a/b/c", "var/keep"}),
        ([b"nothing"], [], set()),
    ],
)
def test_only_what_is_chosen_and_the_way_to_it_comes_back(
    work: Path, include: list[bytes], exclude: list[bytes], chosen: set[str]
) -> None:
    source = make(work / "source", "a/b/c", "a/d", "a/x.log", "var/keep", "var/x.log")
    (source / "a").chmod(0o751)
    version, _ = archived(work / "store", source)
    selection = Selection(Patterns(include), Patterns(exclude))
    told: list[bytes] = []
    with Store.open(work / "store") as opened:
        plan = Plan(opened, version.root, selection, lambda path, _: told.append(path))
        done = Restorer(opened, selection=selection).run(version.root, work / "target")
    there = look_at(work / "target")
    files = {os.fsdecode(path) for path in there if (work / "target" / os.fsdecode(path)).is_file()}
    assert files == chosen
    ways = {parent for path in chosen for parent in Path(path).parents}
    if not exclude:
        assert {Path(os.fsdecode(path)) for path in there} - {Path(path) for path in chosen} == (
            ways or {Path()}
        )
    assert plan.entries == done.entries == len(told)
    assert plan.size == done.size
    assert sorted(told) == (sorted(there) if done.entries else [])
    if b"a" in there:
        assert (work / "target" / "a").stat().st_mode & 0o777 == 0o751


def test_a_plan_counts_what_is_restored(work: Path) -> None:
    version, _ = archived(work / "store", plain_tree(work / "source"))
    with Store.open(work / "store") as opened:
        plan = Plan(opened, version.root, Selection(), lambda *_: None)
        done = Restorer(opened).run(version.root, work / "target")
    assert (plan.entries, plan.size, plan.failed) == (done.entries, done.size, [])


def test_the_first_name_chosen_of_a_linked_file_holds_it(work: Path) -> None:
    version, _ = archived(work / "store", plain_tree(work / "source"))
    selection = Selection(exclude=Patterns([b"links/b"]))
    with Store.open(work / "store") as opened:
        Restorer(opened, selection=selection).run(version.root, work / "target")
    assert (work / "target/links/c").stat().st_nlink == 2
    assert (work / "target/links/in/a").samefile(work / "target/links/c")
