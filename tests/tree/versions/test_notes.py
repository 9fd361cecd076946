"""Tags and comments of versions that are there already."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support.stores import findings, new_store
from ventifs.errors import VentifsError
from ventifs.store import Store
from ventifs.store.journal import RECORD_VALUE_MAX
from ventifs.tree.archive.file_reader import Trouble
from ventifs.tree.objects.records import Directory, Empty, Entry
from ventifs.tree.versions.catalog import (
    COMMENT_MAX,
    TAGS_MAX,
    NoSuchVersion,
    Version,
    encode_version,
    version_key,
    versions,
)
from ventifs.tree.versions.holds import Hold, held, hold
from ventifs.tree.versions.notes import comment, tag
from ventifs.tree.versions.troubles import Troubles, fitted, troubles_of

ROOT = Entry(b"", 0o40755, 0, 0, 0, Directory(Empty(), 0, 0), Empty(), b"")
WEB = ("web", 1)


def put(store: Store, version: Version) -> None:
    store.commit([(version_key(version.name, version.time_ns), encode_version(version))])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(new_store(tmp_path / "store"), "write") as opened:
        put(opened, Version("web", 1, ROOT, "/srv", "first", ("a", "b"), 5, 1.5))
        put(opened, Version("web", 2, ROOT))
        yield opened


def test_tags_are_removed_then_added_at_the_end(store: Store) -> None:
    before = versions(store)[0]
    for add, remove, left in (
        (["c"], [], ("a", "b", "c")),
        (["a", "d", "d"], [], ("a", "b", "c", "d")),
        (["a"], ["a", "none"], ("b", "c", "d", "a")),
        ([], ["b", "c", "d", "a"], ()),
        (["x y"], [], ("x y",)),
    ):
        [made] = tag(store, [WEB], add, remove)
        assert made.tags == left
        [kept, other] = versions(store)
        assert kept == made
        assert replace(kept, tags=(), record=None) == replace(before, tags=(), record=None)
        assert other.tags == ()


def test_several_versions_change_together_and_in_the_given_order(store: Store) -> None:
    made = tag(store, [("web", 2), WEB, ("web", 2)], ["x"], ["a"])
    assert [(version.time_ns, version.tags) for version in made] == [(2, ("x",)), (1, ("b", "x"))]


def test_what_changes_nothing_commits_nothing(store: Store) -> None:
    before = store.records()
    assert tag(store, [WEB], ["a"], ["none"]) == [versions(store)[0]]
    assert comment(store, WEB, "first") == versions(store)[0]
    assert store.records() == before


def test_a_comment_is_replaced_and_a_hold_stays(store: Store) -> None:
    hold(store, [WEB], now_ns=0)
    before = versions(store)[0]
    made = comment(store, WEB, "second")
    assert versions(store)[0] == made
    assert made.comment == "second"
    assert made.record is not None
    assert before.record is not None
    assert made.record.id != before.record.id
    assert comment(store, WEB, "").comment == ""
    assert held(store) == {WEB: Hold()}


def test_what_is_refused_changes_nothing(store: Store) -> None:
    before = store.records()
    with pytest.raises(NoSuchVersion, match="there is no such version"):
        tag(store, [WEB, ("web", 3)], ["x"], [])
    with pytest.raises(VentifsError, match="is one line of text"):
        tag(store, [WEB], ["x\ny"], [])
    with pytest.raises(VentifsError, match=r"web@1970-.*: a version may have 64 tags, and this"):
        tag(store, [("web", 2), WEB], [f"{number}" for number in range(TAGS_MAX)], [])
    with pytest.raises(VentifsError, match="a comment may have"):
        comment(store, WEB, "x" * (COMMENT_MAX + 1))
    assert store.records() == before


def test_notes_beyond_todays_limits_stay_and_can_be_removed(store: Store) -> None:
    """As older programs may have written them."""
    many = tuple(f"{number}" for number in range(TAGS_MAX + 5))
    put(store, Version("old", 1, ROOT, comment="x" * (COMMENT_MAX + 5), tags=many))
    [made] = tag(store, [("old", 1)], ["new"], ["3"])
    assert made.tags == (*(each for each in many if each != "3"), "new")
    with pytest.raises(VentifsError, match="64 tags"):
        tag(store, [("old", 1)], ["newer"], [])
    assert comment(store, ("old", 1), "short").comment == "short"


@pytest.mark.parametrize("beyond", [0, 100])
def test_troubles_make_room_for_notes(store: Store, beyond: int) -> None:
    """A record that is nearly full of troubles; perhaps there are further ones in blocks."""
    longest = [Trouble(b"%03d" % number + b"x" * 1290, "r", True) for number in range(200)]
    found = Troubles(longest + [Trouble(b"z%d" % number, "r", False) for number in range(beyond)])
    listed = tuple((each.path, each.reason, each.missing) for each in longest)
    if beyond:
        from ventifs.tree.objects.content import ContentWriter

        full = replace(
            fitted(Version("full", 1, ROOT), found, ContentWriter(store)), comment="c" * 100
        )
    else:
        full = Version("full", 1, ROOT, troubles=listed, comment="c" * 100)
    assert beyond or len(encode_version(full)) > RECORD_VALUE_MAX - 3000
    put(store, full)
    made = comment(store, ("full", 1), "c" * COMMENT_MAX)
    assert made.comment == "c" * COMMENT_MAX
    assert list(troubles_of(store, made)) == list(found)
    store.commit()
    assert not findings(store.path)


def test_counted_troubles_cannot_make_room(store: Store) -> None:
    """An older program's record has further troubles that it only counts."""
    listed = tuple((b"%03d" % number + b"x" * 1290, "r", True) for number in range(200))
    put(store, Version("full", 1, ROOT, troubles=listed, troubles_more=7))
    before = store.records()
    with pytest.raises(VentifsError, match=r"full@1970-.*: its troubles leave no room for this"):
        comment(store, ("full", 1), "c" * COMMENT_MAX)
    assert store.records() == before
    assert comment(store, ("full", 1), "short").troubles == listed
